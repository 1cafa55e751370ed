//! The parameters of a query: each is one that the route has, is there once, and is percent-encoded as it should be.

use lambda_http::{Request, RequestExt as _, http::StatusCode};

use super::HttpProblem;

/// The values of the parameters `names` in this order; `None` for one that is not there. `allowed` says for people what the
/// query may have.
///
/// # Errors
/// 400 for a parameter that is not in `names`, for one that is there twice (which of the two counts would be a guess), and
/// for a query that cannot be decoded (RFC 3986 section 2.1).
pub fn parameters<const N: usize>(
    request: &Request,
    names: [&'static str; N],
    allowed: &str,
) -> Result<[Option<String>; N], HttpProblem> {
    let raw = request.uri().query().unwrap_or_default();
    if !is_percent_encoded(raw) {
        let detail = format!("A % has two hexadecimal digits after it. {allowed}");
        return Err(malformed(detail));
    }
    let mut values = [const { None }; N];
    for (name, value) in request.query_string_parameters().iter() {
        let mut known = names.iter().zip(&mut values);
        let Some((name, found)) = known.find(|(known, _)| **known == name) else {
            return Err(malformed(allowed));
        };
        if found.replace(value.to_owned()).is_some() {
            let detail = format!("The parameter {name} is there more than once. {allowed}");
            return Err(malformed(detail));
        }
    }
    Ok(values)
}

/// 400: the query cannot be read.
pub fn malformed(detail: impl Into<String>) -> HttpProblem {
    HttpProblem::new(
        StatusCode::BAD_REQUEST,
        "malformed_query",
        "The query cannot be read",
        detail,
    )
}

fn is_percent_encoded(text: &str) -> bool {
    text.split('%').skip(1).all(|after| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

#[cfg(test)]
mod tests {
    use aws_lambda_events::query_map::QueryMap;
    use lambda_http::{Body, http};

    use super::*;

    fn read(query: &str) -> Result<[Option<String>; 2], HttpProblem> {
        let uri = format!("https://api.example/a?{query}");
        let request = http::Request::get(uri).body(Body::Empty).unwrap();
        let request = request.with_query_string_parameters(query.parse::<QueryMap>().unwrap());
        parameters(&request, ["a", "b"], "It may have a and b.")
    }

    fn detail(query: &str) -> String {
        let problem = read(query).unwrap_err();
        problem.detail().to_owned()
    }

    #[test]
    fn each_parameter_is_known_and_there_once() {
        assert_eq!(read("b=1").unwrap(), [None, Some("1".to_owned())]);
        let twice = "The parameter a is there more than once. It may have a and b.";
        assert_eq!(detail("a=1&b=2&a=1"), twice);
        assert_eq!(detail("c=1"), "It may have a and b.");
        for broken in ["a=%zz", "a=%4", "a=%", "%zz=1"] {
            assert!(detail(broken).starts_with("A %"), "{broken}");
        }
    }
}
