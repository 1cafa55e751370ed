//! A function as a process of its own under the Lambda Runtime API.

use comms_testkit::fault_proxy::{FaultProxy, ProxyFault};
use comms_tests::{Process, World, communication, record};
use serde_json::json;

#[tokio::test]
async fn process_whose_credentials_have_expired_answers_and_ends() {
    let world = World::saved().await;
    world.post(&communication()).await.expect(202);
    let proxy = FaultProxy::start(world.aws.endpoint()).await.unwrap();
    let endpoint = proxy.endpoint();
    let mut worker =
        Process::start_with(&world, "worker", &[("AWS_ENDPOINT_URL", endpoint.as_str())]).await;
    proxy.spoil(|call| (call.service != "sqs").then_some(ProxyFault::ExpiredToken));
    let event = json!({"Records": [record("message", &communication().to_string())]});
    let answer = worker.invoke(&event.to_string()).await;
    assert_eq!(answer["batchItemFailures"][0]["itemIdentifier"], "message");
    // Lambda starts a new one for the next invocation.
    let ended = tokio::task::spawn_blocking(move || {
        let ended = worker.child.wait();
        (ended, worker.said())
    });
    let (ended, said) = ended.await.unwrap();
    assert!(!ended.unwrap().success());
    assert!(said.contains("credentials have expired"), "{said}");
}
