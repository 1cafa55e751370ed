//! The routes of an HTTP function: one table, by which the function dispatches, which the local gateway serves, and
//! with which the tests compare the SAM template and the `OpenAPI` document.

use lambda_http::{
    Body, BoxFuture, Request, Response,
    http::{HeaderValue, Method, StatusCode, header},
};

use super::{HttpProblem, head::check_head};

/// The name in logs of a request that has no route.
const UNKNOWN: &str = "unknown";

/// Whether API Gateway verifies a token before it invokes the function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authorizer {
    /// The JWT authorizer: a request without a valid token is answered 401 by the gateway.
    Jwt,
    /// None: anybody may call.
    None,
}

/// A method and a path of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, with `{name}` for a variable segment, as in API Gateway's route keys.
    pub path: &'static str,
    /// What stands before the function.
    pub authorizer: Authorizer,
}

/// A request with the variables of its path.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    /// The request.
    pub request: &'a Request,
    variables: Vec<(&'static str, &'a str)>,
}

impl<'a> Call<'a> {
    /// A variable segment as it was sent, percent-encoding included; empty if the route has no such variable.
    pub fn variable(&self, name: &str) -> &'a str {
        let mut variables = self.variables.iter();
        variables
            .find(|(known, _)| *known == name)
            .map_or("", |(_, value)| value)
    }
}

/// A handler's response, or the problem that it is answered with.
pub type HandlerResult = Result<Response<Body>, HttpProblem>;

/// Answers the requests of one route.
pub type Handler<D> = for<'a> fn(&'a D, Call<'a>) -> BoxFuture<'a, HandlerResult>;

/// A route and its handler.
#[derive(Debug)]
pub struct Endpoint<D> {
    route: Route,
    handler: Handler<D>,
}

impl<D> Endpoint<D> {
    /// A route that reads.
    pub const fn get(path: &'static str, handler: Handler<D>) -> Self {
        Self::new(Method::GET, path, handler)
    }

    /// A route that creates, or acts.
    pub const fn post(path: &'static str, handler: Handler<D>) -> Self {
        Self::new(Method::POST, path, handler)
    }

    /// A route that replaces.
    pub const fn put(path: &'static str, handler: Handler<D>) -> Self {
        Self::new(Method::PUT, path, handler)
    }

    /// A route that changes a part.
    pub const fn patch(path: &'static str, handler: Handler<D>) -> Self {
        Self::new(Method::PATCH, path, handler)
    }

    /// A route that deletes.
    pub const fn delete(path: &'static str, handler: Handler<D>) -> Self {
        Self::new(Method::DELETE, path, handler)
    }

    const fn new(method: Method, path: &'static str, handler: Handler<D>) -> Self {
        Self {
            route: Route {
                method,
                path,
                authorizer: Authorizer::Jwt,
            },
            handler,
        }
    }

    /// Opens the route to callers without a token.
    #[must_use]
    pub const fn without_authorizer(mut self) -> Self {
        self.route.authorizer = Authorizer::None;
        self
    }
}

/// The routes of a table, without their handlers.
pub fn routes<D>(endpoints: &[Endpoint<D>]) -> Vec<Route> {
    endpoints
        .iter()
        .map(|endpoint| endpoint.route.clone())
        .collect()
}

/// Answers a request by the handler of its route, which is returned for the logs. Refuses a head that is too large
/// (414, 431), an unknown path (404), and a method that the path does not have (405).
pub async fn dispatch<D>(
    endpoints: &[Endpoint<D>],
    deps: &D,
    request: &Request,
) -> (&'static str, HandlerResult) {
    if let Err(problem) = check_head(request) {
        return (UNKNOWN, Err(problem));
    }
    let segments = path_segments(request.uri().path());
    let mut other_methods = Vec::new();
    for Endpoint { route, handler } in endpoints {
        let Some(variables) = match_path(route.path, &segments) else {
            continue;
        };
        if route.method == *request.method() {
            let call = Call { request, variables };
            return (route.path, handler(deps, call).await);
        }
        other_methods.push(route);
    }
    match other_methods.as_slice() {
        [] => (
            UNKNOWN,
            Err(HttpProblem::not_found("There is no such route.")),
        ),
        [route, ..] => (route.path, Err(method_not_allowed(&other_methods))),
    }
}

/// The parts of a path, without the empty ones.
fn path_segments(path: &str) -> Vec<&str> {
    path.split('/')
        .filter(|segment| !segment.is_empty())
        .collect()
}

/// The variables of a path that has this template.
fn match_path<'a>(
    template: &'static str,
    segments: &[&'a str],
) -> Option<Vec<(&'static str, &'a str)>> {
    let template = path_segments(template);
    if template.len() != segments.len() {
        return None;
    }
    let mut variables = Vec::new();
    for (expected, segment) in template.into_iter().zip(segments) {
        let name = expected
            .strip_prefix('{')
            .and_then(|name| name.strip_suffix('}'));
        match name {
            Some(name) => variables.push((name, *segment)),
            None if expected == *segment => {}
            None => return None,
        }
    }
    Some(variables)
}

/// 405 with the allowed methods (RFC 9110 section 15.5.6).
fn method_not_allowed(routes: &[&Route]) -> HttpProblem {
    let methods: Vec<_> = routes.iter().map(|route| route.method.as_str()).collect();
    let allowed = methods.join(", ");
    let problem = HttpProblem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "Not possible",
        format!("This route has the methods {allowed}."),
    );
    match HeaderValue::try_from(allowed) {
        Ok(allowed) => problem.with_header(header::ALLOW, allowed),
        Err(_) => problem,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    /// Answers with a name and the variables `a` and `b`.
    fn answer<'a>(name: &'a &'static str, call: &Call<'a>) -> BoxFuture<'a, HandlerResult> {
        let text = format!("{name} {}/{}", call.variable("a"), call.variable("b"));
        async { Ok(Response::new(Body::from(text))) }.boxed()
    }

    const TABLE: &[Endpoint<&str>] = &[
        Endpoint::get("/things/{a}", |name, call| answer(name, &call)),
        Endpoint::delete("/things/{a}", |name, call| answer(name, &call)),
        Endpoint::post("/things/{a}/parts/{b}", |name, call| answer(name, &call))
            .without_authorizer(),
    ];

    fn ask(method: Method, path: &str) -> (&'static str, Result<String, HttpProblem>) {
        let mut request = Request::new(Body::Empty);
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap();
        let (route, result) = dispatch(TABLE, &"it", &request).now_or_never().unwrap();
        let text = result
            .map(|response| String::from_utf8(response.into_body().as_ref().to_vec()).unwrap());
        (route, text)
    }

    #[test]
    fn a_request_goes_to_the_handler_of_its_method_and_path_with_its_variables() {
        let things = ask(Method::GET, "/things/7");
        assert_eq!(things, ("/things/{a}", Ok("it 7/".to_owned())));
        let parts = ask(Method::POST, "/things/7%2F8/parts/x");
        assert_eq!(
            parts,
            ("/things/{a}/parts/{b}", Ok("it 7%2F8/x".to_owned()))
        );
    }

    #[test]
    fn a_path_without_a_route_is_404_and_another_method_is_405_with_allow() {
        for path in ["/", "/things", "/things/7/parts", "/things/7/parts/x/y"] {
            let (route, result) = ask(Method::GET, path);
            assert_eq!(
                (route, result.unwrap_err().status()),
                (UNKNOWN, StatusCode::NOT_FOUND)
            );
        }
        let (route, result) = ask(Method::PUT, "/things/7");
        assert_eq!(route, "/things/{a}");
        let response = Response::<Body>::from(result.unwrap_err());
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()[header::ALLOW], "GET, DELETE");
    }

    #[test]
    fn the_routes_of_a_table_say_which_have_no_authorizer() {
        let authorizers: Vec<_> = routes(TABLE).iter().map(|route| route.authorizer).collect();
        assert_eq!(
            authorizers,
            [Authorizer::Jwt, Authorizer::Jwt, Authorizer::None]
        );
    }
}
