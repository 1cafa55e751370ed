//! What a request says.

use super::*;

fn url() -> Url {
    Url::parse("https://api.example/x").unwrap()
}

fn header(request: &HttpRequest, name: &HeaderName) -> String {
    request.request.headers()[name].to_str().unwrap().to_owned()
}

fn sent_body(request: &HttpRequest) -> &[u8] {
    request.request.body().unwrap().as_bytes().unwrap()
}

#[test]
fn a_request_says_what_its_body_is() {
    let json = HttpRequest::post_json(url(), &json!({"name": "Müller"})).unwrap();
    assert_eq!(json.request.method(), Method::POST);
    assert_eq!(header(&json, &CONTENT_TYPE), "application/json");
    assert_eq!(sent_body(&json), "{\"name\":\"Müller\"}".as_bytes());
    assert_eq!(json.body_len(), 18);
    let form = HttpRequest::post_form(url(), &[("To", "whatsapp:+1555"), ("Body", "a & b=ü")]);
    assert_eq!(
        header(&form, &CONTENT_TYPE),
        "application/x-www-form-urlencoded"
    );
    assert_eq!(
        sent_body(&form),
        *b"To=whatsapp%3A%2B1555&Body=a+%26+b%3D%C3%BC"
    );
    let question = HttpRequest::get(url());
    assert_eq!(
        (question.request.method().clone(), question.body_len()),
        (Method::GET, 0)
    );
    assert!(!question.request.headers().contains_key(CONTENT_TYPE));
}

#[test]
fn credentials_go_into_a_header_that_is_not_printed() {
    let secret = |text: &str| Secret::new(text.to_owned());
    let bearer = HttpRequest::get(url()).bearer(&secret("planted")).unwrap();
    assert_eq!(header(&bearer, &AUTHORIZATION), "Bearer planted");
    // RFC 7617 section 2.
    let basic = HttpRequest::get(url())
        .basic("Aladdin", &secret("open sesame"))
        .unwrap();
    assert_eq!(
        header(&basic, &AUTHORIZATION),
        "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    );
    for request in [bearer, basic] {
        assert!(request.request.headers()[AUTHORIZATION].is_sensitive());
        assert_eq!(format!("{request:?}"), "HttpRequest(…)");
    }
    let error = HttpRequest::get(url())
        .bearer(&secret("planted\r\nx: y"))
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthenticated);
    assert!(!error.to_string().contains("planted"));
    let answer = answer(200, &[("x-token", "planted")], "planted");
    assert_eq!(format!("{answer:?}"), "HttpResponse(200, …)");
}
