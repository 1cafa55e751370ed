//! The API as a process and a caller see it.

use super::*;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

const TIMEOUT: Duration = Duration::from_secs(20);

/// A function's process, as far as the API can see.
struct Process {
    base: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Process {
    fn new(api: &RuntimeApi, function: &str, name: &str) -> Self {
        let env: HashMap<_, _> = api.env_of_process(function, name).into_iter().collect();
        assert_eq!(env["AWS_LAMBDA_FUNCTION_NAME"], function);
        Self {
            base: format!("{}/2018-06-01/runtime", env["AWS_LAMBDA_RUNTIME_API"]),
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    async fn next(&self) -> (HeaderMap, Bytes) {
        let request = Request::get(format!("{}/invocation/next", self.base))
            .body(Full::default())
            .unwrap();
        let (parts, body) = self.client.request(request).await.unwrap().into_parts();
        (parts.headers, body.collect().await.unwrap().to_bytes())
    }

    async fn post(&self, path: &str, body: impl Into<Bytes>) -> StatusCode {
        let request = Request::post(format!("{}/{path}", self.base))
            .body(Full::new(body.into()))
            .unwrap();
        self.client.request(request).await.unwrap().status()
    }
}

fn id(headers: &HeaderMap) -> String {
    headers["lambda-runtime-aws-request-id"]
        .to_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn invocation_has_its_headers_and_its_answer_returns() {
    let api = RuntimeApi::start().await;
    let process = Process::new(&api, "send", "p1");
    let serve = async {
        let (headers, payload) = process.next().await;
        assert_eq!(payload, "{\"a\":1}");
        let deadline: u128 = headers["lambda-runtime-deadline-ms"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_millis();
        assert!(deadline > now && deadline <= now + TIMEOUT.as_millis());
        assert_eq!(
            headers["lambda-runtime-invoked-function-arn"],
            "arn:aws:lambda:us-east-1:123456789012:function:send"
        );
        assert!(
            headers["lambda-runtime-trace-id"]
                .to_str()
                .unwrap()
                .starts_with("Root=1-")
        );
        let path = format!("invocation/{}/response", id(&headers));
        assert_eq!(process.post(&path, "\"ok\"").await, StatusCode::ACCEPTED);
        assert_eq!(
            process.post(&path, "\"again\"").await,
            StatusCode::BAD_REQUEST
        );
    };
    let (answer, ()) = tokio::join!(
        api.invoke("send", Bytes::from_static(b"{\"a\":1}"), TIMEOUT),
        serve
    );
    assert_eq!(answer.unwrap(), "\"ok\"");
}

#[tokio::test]
async fn an_error_report_becomes_the_callers_error() {
    let api = RuntimeApi::start().await;
    let process = Process::new(&api, "send", "p1");
    let serve = async {
        let (headers, _) = process.next().await;
        let report = r#"{"errorType":"Boom","errorMessage":"it broke"}"#;
        process
            .post(&format!("invocation/{}/error", id(&headers)), report)
            .await;
    };
    let (answer, ()) = tokio::join!(api.invoke("send", Bytes::new(), TIMEOUT), serve);
    assert_eq!(
        answer.unwrap_err(),
        InvocationError::Function {
            error_type: "Boom".to_owned(),
            message: "it broke".to_owned()
        }
    );
}

#[tokio::test]
async fn two_processes_share_the_invocations_of_one_function() {
    let api = RuntimeApi::start().await;
    let (one, two) = (
        Process::new(&api, "send", "p1"),
        Process::new(&api, "send", "p2"),
    );
    let serve = async {
        let ((first, _), (second, _)) = tokio::join!(one.next(), two.next());
        assert_ne!(id(&first), id(&second));
        let path = |headers: &HeaderMap| format!("invocation/{}/response", id(headers));
        two.post(&path(&second), "2").await;
        one.post(&path(&first), "1").await;
    };
    let invoke = || api.invoke("send", Bytes::new(), TIMEOUT);
    let (a, b, ()) = tokio::join!(invoke(), invoke(), serve);
    let mut answers = [a.unwrap(), b.unwrap()];
    answers.sort();
    assert_eq!(answers, ["1", "2"]);
}

#[tokio::test]
async fn the_caller_learns_at_once_that_the_process_died() {
    let api = RuntimeApi::start().await;
    let process = Process::new(&api, "worker", "p7");
    let die = async {
        process.next().await;
        api.process_exited("worker", "p7", "signal: 9");
    };
    let (answer, ()) = tokio::join!(api.invoke("worker", Bytes::new(), TIMEOUT), die);
    assert_eq!(
        answer.unwrap_err(),
        InvocationError::Exited {
            process: "p7".to_owned(),
            reason: "signal: 9".to_owned()
        }
    );
}

#[tokio::test]
async fn a_process_that_never_polls_fails_what_waits_for_it() {
    let api = RuntimeApi::start().await;
    let die = async {
        tokio::task::yield_now().await;
        api.process_exited("send", "p1", "exit status: 1");
    };
    let (answer, ()) = tokio::join!(api.invoke("send", Bytes::new(), TIMEOUT), die);
    assert!(matches!(
        answer.unwrap_err(),
        InvocationError::InitFailed { .. }
    ));
}

#[tokio::test]
async fn an_init_error_is_told_to_the_caller() {
    let api = RuntimeApi::start().await;
    let process = Process::new(&api, "send", "p1");
    let serve = process.post(
        "init/error",
        r#"{"errorType":"Config","errorMessage":"SETTINGS_TABLE is not set"}"#,
    );
    let (answer, _) = tokio::join!(api.invoke("send", Bytes::new(), TIMEOUT), serve);
    assert_eq!(
        answer.unwrap_err(),
        InvocationError::InitFailed {
            error_type: "Config".to_owned(),
            message: "SETTINGS_TABLE is not set".to_owned()
        }
    );
}

#[tokio::test]
async fn one_invocation_at_a_time_leaves_the_second_to_another_process() {
    let api = RuntimeApi::start().await;
    api.hand_out_one_each();
    let (one, two) = (
        Process::new(&api, "send", "p1"),
        Process::new(&api, "send", "p2"),
    );
    let serve = async {
        let (first, _) = one.next().await;
        one.post(&format!("invocation/{}/response", id(&first)), "1")
            .await;
        let again = tokio::time::timeout(Duration::from_millis(100), one.next());
        assert!(again.await.is_err());
        let (second, _) = two.next().await;
        two.post(&format!("invocation/{}/response", id(&second)), "2")
            .await;
    };
    let invoke = || api.invoke_and_name("send", Bytes::new(), TIMEOUT);
    let (a, b, ()) = tokio::join!(invoke(), invoke(), serve);
    assert_eq!(a.0.as_deref(), Some("p1"));
    assert_eq!(b.0.as_deref(), Some("p2"));
}

#[tokio::test(start_paused = true)]
async fn unclaimed_invocation_times_out_and_is_forgotten() {
    let api = RuntimeApi::start().await;
    let answer = api.invoke("send", Bytes::new(), TIMEOUT).await;
    assert_eq!(
        answer.unwrap_err(),
        InvocationError::TimedOut { process: None }
    );
    assert_eq!(api.pending("send"), 0);
}

#[tokio::test]
async fn a_time_out_names_the_process_that_hangs() {
    let api = RuntimeApi::start().await;
    let process = Process::new(&api, "send", "p3");
    let (answer, _) = tokio::join!(
        api.invoke("send", Bytes::new(), Duration::from_millis(200)),
        process.next()
    );
    assert_eq!(
        answer.unwrap_err(),
        InvocationError::TimedOut {
            process: Some("p3".to_owned())
        }
    );
}

#[tokio::test]
async fn payloads_and_answers_are_limited_to_six_megabytes() {
    let api = RuntimeApi::start().await;
    let answer = api
        .invoke("send", vec![0; MAX_PAYLOAD + 1].into(), TIMEOUT)
        .await;
    assert!(matches!(
        answer.unwrap_err(),
        InvocationError::TooLarge { .. }
    ));
    let process = Process::new(&api, "send", "p1");
    let serve = async {
        let (headers, _) = process.next().await;
        let path = format!("invocation/{}/response", id(&headers));
        process.post(&path, vec![b' '; MAX_PAYLOAD + 1]).await
    };
    let (answer, status) = tokio::join!(api.invoke("send", Bytes::new(), TIMEOUT), serve);
    assert_eq!(answer.unwrap_err(), InvocationError::ResponseTooLarge);
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
}
