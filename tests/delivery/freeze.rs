//! The worker as a process of its own, frozen between two messages for longer than its mail server keeps a
//! connection that says nothing: as Lambda freezes an environment between two invocations.

use std::{path::PathBuf, process::Command, time::Duration};

use comms_testkit::smtp::{Action, Event};
use comms_tests::{World, communication, process::Process, record};
use serde_json::json;

/// A worker under the Runtime API; killed with the test.
struct Worker(Process);

impl Worker {
    async fn start(world: &World) -> Self {
        Self(Process::start(world, "worker").await)
    }

    /// Gives it a batch of one message that was accepted, and expects it to be sent at the first attempt.
    async fn deliver(&mut self, world: &World, key: &str) {
        let mut communication = communication();
        communication["idempotencyKey"] = json!(key);
        let accepted = world.post(&communication).await.expect(202);
        let event = json!({"Records": [record(key, &communication.to_string())]});
        let answer = self.0.invoke(&event.to_string()).await;
        assert_eq!(
            answer,
            json!({"batchItemFailures": []}),
            "{}",
            self.0.said()
        );
        let status = world.status(&accepted.request_id()).await.expect(200);
        let delivery = &status.body["deliveries"][0];
        assert_eq!(delivery["status"], "sent");
        let outcomes: Vec<_> = delivery["attempts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|attempt| attempt["outcome"].as_str().unwrap())
            .collect();
        assert_eq!(outcomes, ["accepted"], "{}", self.0.said());
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
            .args(["-s", signal, &self.0.child.id().to_string()])
            .status();
        assert!(status.unwrap().success());
    }

    async fn until_state(&self, is_it: impl Fn(&str) -> bool) {
        let stat = PathBuf::from(format!("/proc/{}/stat", self.0.child.id()));
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
