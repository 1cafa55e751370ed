//! The worker as a process of its own, frozen between two messages for longer than its mail server keeps a
//! connection that says nothing: as Lambda freezes an environment between two invocations.

use std::{
    fs::File,
    io::{Read, Seek, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use comms_testkit::{
    runtime_api::RuntimeApi,
    smtp::{Action, Event},
};
use serde_json::{Value, json};
use tempfile::{NamedTempFile, tempfile};

use crate::world::{World, communication, record};

/// The test that is the worker's process when it is started with a Runtime API to serve.
const PROCESS: &str = "freeze::the_workers_process";
/// What Lambda gives a function to find its Runtime API by.
const RUNTIME_API: &str = "AWS_LAMBDA_RUNTIME_API";
/// Far more than an invocation takes.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The worker's `main`, in a process of its own: the tests below start this program again with nothing but
/// this test. Among the other tests it has nothing to serve.
#[tokio::test]
async fn the_workers_process() {
    if std::env::var_os(RUNTIME_API).is_some() {
        comms_worker::run().await.unwrap();
    }
}

/// A worker under the Runtime API; killed with the test.
struct Worker {
    api: RuntimeApi,
    child: Child,
    output: File,
    _roots: NamedTempFile,
}

impl Worker {
    async fn start(world: &World) -> Self {
        let api = RuntimeApi::start().await;
        let mut roots = NamedTempFile::new().unwrap();
        roots.write_all(world.ca.pem().as_bytes()).unwrap();
        let output = tempfile().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args([PROCESS, "--exact", "--nocapture", "--test-threads=1"])
            .envs(world.aws.env())
            .envs(api.env("worker"))
            .env("EGRESS_ALLOW", "127.0.0.0/8")
            .env("EXTRA_CA_FILE", roots.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output.try_clone().unwrap())
            .spawn()
            .unwrap();
        Self {
            api,
            child,
            output,
            _roots: roots,
        }
    }

    /// Gives it a batch of one message that was accepted, and expects it to be sent at the first attempt.
    async fn deliver(&mut self, world: &World, key: &str) {
        let mut communication = communication();
        communication["idempotencyKey"] = json!(key);
        let accepted = world.post(&communication).await.expect(202);
        let event = json!({"Records": [record(key, &communication.to_string())]});
        let payload = Bytes::from(event.to_string());
        let answer = self.api.invoke("worker", payload, TIMEOUT).await;
        let answer = answer.unwrap_or_else(|error| panic!("{error}\n{}", self.said()));
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer, json!({"batchItemFailures": []}), "{}", self.said());
        let status = world.status(&accepted.request_id()).await.expect(200);
        let delivery = &status.body["deliveries"][0];
        assert_eq!(delivery["status"], "sent");
        let outcomes: Vec<_> = delivery["attempts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|attempt| attempt["outcome"].as_str().unwrap())
            .collect();
        assert_eq!(outcomes, ["accepted"], "{}", self.said());
    }

    fn said(&mut self) -> String {
        let mut said = String::new();
        self.output.rewind().unwrap();
        self.output.read_to_string(&mut said).unwrap();
        said
    }

    /// Stops it where it stands.
    async fn freeze(&self) {
        self.signal("STOP");
        self.until_state(|state| state == "T").await;
    }

    async fn thaw(&self) {
        self.signal("CONT");
        self.until_state(|state| state != "T").await;
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args(["-s", signal, &self.child.id().to_string()])
            .status();
        assert!(status.unwrap().success());
    }

    async fn until_state(&self, is_it: impl Fn(&str) -> bool) {
        let stat = PathBuf::from(format!("/proc/{}/stat", self.child.id()));
        loop {
            let stat = std::fs::read_to_string(&stat).unwrap();
            // The state is the first field after the name, which stands in parentheses.
            let (_, fields) = stat.rsplit_once(") ").unwrap();
            let state = fields.split(' ').next().unwrap();
            assert!(!matches!(state, "Z" | "X"), "the worker has ended");
            if is_it(state) {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended already. Neither minds being stopped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two messages with a freeze between them, in which the server does away with the connection.
async fn deliver_across_a_freeze(world: &World, end: impl AsyncFnOnce(&World)) {
    let mut worker = Worker::start(world).await;
    worker.deliver(world, "before-the-freeze").await;
    assert_eq!(world.smtp.connections(), 1);
    worker.freeze().await;
    end(world).await;
    let is_closed = |event: &Event| *event == Event::Closed { connection: 1 };
    world.smtp.wait_for_event(is_closed).await;
    worker.thaw().await;
    worker.deliver(world, "after-the-freeze").await;

    let connections: Vec<_> = world
        .smtp
        .messages()
        .iter()
        .map(|message| message.connection)
        .collect();
    assert_eq!(connections, [1, 2], "each once, the second over a new one");
}

#[tokio::test]
async fn a_connection_that_the_server_closed_during_a_freeze_costs_no_message() {
    let world = World::saved().await;
    deliver_across_a_freeze(&world, async |world: &World| {
        world.smtp.close_idle_connections().await;
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_was_reset_during_a_freeze_costs_no_message() {
    let world = World::saved().await;
    deliver_across_a_freeze(&world, async |world: &World| {
        world.smtp.end_idle_connections(Action::Reset).await;
    })
    .await;
}

#[tokio::test]
async fn a_freeze_longer_than_the_servers_idle_timeout_costs_no_message() {
    let world = World::with(|server, _| server.idle_timeout(Duration::from_secs(3))).await;
    world.save_clinic().await;
    deliver_across_a_freeze(&world, async |_: &World| {}).await;
}
