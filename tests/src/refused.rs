//! A worker whose clinic's mail server refuses the login.

use std::{sync::Arc, time::Duration};

use comms_testkit::{clock::ManualClock, smtp::SmtpServer};
use serde_json::Value;

use crate::{
    documents::{email, entry},
    world::{CLINIC, FROM, USER, World},
};

/// What Lambda gives an invocation.
const TIME: Duration = Duration::from_secs(30);

/// The password in the settings, which the server does not have.
pub const WRONG_PASSWORD: &str = "planted-wrong-password";

/// A worker in a world whose settings have a password that the server refuses.
pub struct Refused {
    pub world: World,
    pub worker: comms_worker::Deps,
    pub clock: Arc<ManualClock>,
}

impl Refused {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// The same with other settings beside the wrong password.
    pub async fn with(change: impl FnOnce(&mut Value)) -> Self {
        let world = World::new().await;
        let wrong = entry(world.smtp.port(), USER, WRONG_PASSWORD);
        let mut document = email(&wrong, FROM);
        change(&mut document);
        world.put_settings(CLINIC, document).await.expect(201);
        let clock = Arc::new(ManualClock::new());
        let worker = world.worker_with_clock(clock.clone());
        Self {
            world,
            worker,
            clock,
        }
    }

    pub async fn post(&self, communication: &Value) -> String {
        let answer = self.world.post(communication).await;
        answer.expect(202).request_id()
    }

    /// Saves settings with the right password.
    pub async fn correct_password(&self) {
        let correct = email(&self.world.entry(), FROM);
        let saved = self.world.put_settings(CLINIC, correct).await;
        saved.expect(200);
    }

    /// Lets the worker look at the message, and returns how many came back.
    pub async fn work(&self) -> usize {
        self.world
            .run_worker_with(&self.worker, TIME)
            .await
            .failed
            .len()
    }

    pub async fn delivery(&self, id: &str) -> Value {
        self.world.status(id).await.expect(200).body["deliveries"][0].clone()
    }
}

/// Refused logins.
pub fn logins(server: &SmtpServer) -> usize {
    let said = server.transcript();
    said.iter()
        .filter(|line| line.starts_with("S: 535"))
        .count()
}
