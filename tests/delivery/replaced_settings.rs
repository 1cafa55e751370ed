//! A save that is answered while a delivery is under way counts for every attempt that begins after it.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
    mpsc::{Sender, channel},
};

use comms_testkit::smtp::{Action, SmtpServer, Stage};
use comms_tests::{CLINIC, FROM, World, communication, email, entry};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const STRATEGIES: [&str; 2] = ["immediate", "queued"];

/// A server that has been asked something and does not answer yet.
struct Held {
    reached: UnboundedReceiver<()>,
    release: Sender<()>,
}

/// Holds the server's first answer at `stage` back; then it is `action`.
fn hold(server: &SmtpServer, stage: Stage, action: Action) -> Held {
    let (reach, reached) = unbounded_channel();
    let (release, released) = channel();
    let (released, is_over) = (Mutex::new(released), AtomicBool::new(false));
    server.act_with(move |at| {
        if at.stage != stage || is_over.swap(true, Ordering::SeqCst) {
            return None;
        }
        reach.send(()).unwrap();
        tokio::task::block_in_place(|| released.lock().unwrap().recv().unwrap());
        Some(action.clone())
    });
    Held { reached, release }
}

/// Sends a communication, makes `change` while the first attempt waits for its server, and returns the delivery.
async fn sent_during(
    world: &World,
    strategy: &str,
    mut held: Held,
    change: impl Future<Output = ()>,
) -> Value {
    let mut communication = communication();
    communication["priority"] = json!("normal");
    communication["strategy"] = json!(strategy);
    let change = async {
        held.reached.recv().await.unwrap();
        change.await;
        held.release.send(()).unwrap();
    };
    if strategy == "immediate" {
        let (answer, ()) = tokio::join!(world.post(&communication), change);
        return answer.body["deliveries"][0].clone();
    }
    let id = world.post(&communication).await.expect(202).request_id();
    tokio::join!(world.run_worker(), change);
    world.status(&id).await.expect(200).body["deliveries"][0].clone()
}

/// A document with one entry that is tried again once.
fn retried(primary: &Value, from: &str) -> Value {
    let mut document = email(primary, from);
    document["email"]["fallbackStrategy"]["retryAttempts"] = json!(1);
    document
}

async fn other_server(world: &World, user: &str) -> (SmtpServer, Value) {
    let server = world.server(user, "other-password-19c7").start().await;
    let entry = entry(server.port(), user, "other-password-19c7");
    (server, entry)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_goes_by_what_was_saved_since_the_first_attempt() {
    for strategy in STRATEGIES {
        for change in ["replaced", "deleted", "disabled"] {
            let world = World::new().await;
            let document = retried(&world.entry(), FROM);
            world.put_settings(CLINIC, document).await.expect(201);
            let global = world.save_global().await;
            let (other, other_entry) = other_server(&world, "other-user").await;
            let held = hold(&world.smtp, Stage::Rcpt, Action::reply("421 4.3.2 later"));
            let save = async {
                match change {
                    "replaced" => {
                        let document = email(&other_entry, FROM);
                        world.put_settings(CLINIC, document).await.expect(200);
                    }
                    "deleted" => {
                        world.delete_settings(CLINIC, &[]).await.expect(204);
                    }
                    _ => {
                        let patch = json!({"email": {"primary": {"enabled": false}}});
                        world.patch_settings(CLINIC, patch).await.expect(200);
                    }
                }
            };
            let delivery = sent_during(&world, strategy, held, save).await;
            assert_eq!(delivery["status"], "sent", "{strategy} {change} {delivery}");
            let arrived = [&world.smtp, &other, &global].map(|server| server.messages().len());
            let expected = if change == "replaced" {
                [0, 1, 0]
            } else {
                [0, 0, 1]
            };
            assert_eq!(arrived, expected, "{strategy} {change}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_after_a_lost_answer_avoids_a_removed_entry() {
    for strategy in STRATEGIES {
        let world = World::new().await;
        let (removed, removed_entry) = other_server(&world, "removed-user").await;
        let mut document = email(&world.entry(), FROM);
        document["email"]["fallback"] = json!([removed_entry]);
        world.put_settings(CLINIC, document).await.expect(201);
        let held = hold(&world.smtp, Stage::Body, Action::AcceptThenClose);
        let save = async {
            let document = email(&world.entry(), FROM);
            world.put_settings(CLINIC, document).await.expect(200);
        };
        let delivery = sent_during(&world, strategy, held, save).await;
        // Nobody is left who may get a copy: the lost answer stays what is known.
        assert_eq!(delivery["status"], "unknown", "{strategy} {delivery}");
        let arrived = (world.smtp.messages().len(), removed.messages().len());
        assert_eq!(arrived, (1, 0), "{strategy}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_platform_account_that_was_replaced_meanwhile_is_not_tried_again() {
    for strategy in STRATEGIES {
        let world = World::new().await;
        let global = world.save_global().await;
        let (other, other_entry) = other_server(&world, "other-user").await;
        let patch = json!({"email": {"fallbackStrategy": {"retryAttempts": 1}}});
        world.patch_settings("_global", patch).await.expect(200);
        let held = hold(&global, Stage::Rcpt, Action::reply("421 4.3.2 later"));
        let save = async {
            let document = email(&other_entry, "platform@global.example");
            world.put_settings("_global", document).await.expect(200);
        };
        let delivery = sent_during(&world, strategy, held, save).await;
        assert_eq!(delivery["status"], "sent", "{strategy} {delivery}");
        let arrived = (global.messages().len(), other.messages().len());
        assert_eq!(arrived, (0, 1), "{strategy}");
    }
}
