//! Servers that take few recipients in one transaction: the other copies get further ones, and nobody gets two.

use std::sync::atomic::{AtomicU32, Ordering};

use comms_testkit::smtp::Reached;

use super::*;

const ROOM: u32 = 3;

/// A server that takes [`ROOM`] recipients in a transaction, and the ends of messages in this order, where not ordinary.
async fn cramped(pipelining: bool, ends: &'static [(u32, &'static str)]) -> World {
    let world = World::plain(|server| {
        if pipelining {
            server
        } else {
            server.without_extension("PIPELINING")
        }
    })
    .await;
    let (taken, ended) = (AtomicU32::new(0), AtomicU32::new(0));
    world.server.act_with(move |reached: Reached<'_>| {
        if reached.stage == Stage::Mail {
            taken.store(0, Ordering::Relaxed);
        }
        if reached.stage == Stage::Rcpt {
            if reached.recipient == Some("gone@example.com") {
                return Some(Action::reply("550 5.1.1 unknown"));
            }
            let is_full = taken.fetch_add(1, Ordering::Relaxed) >= ROOM;
            return is_full.then(|| Action::reply("452 4.5.3 too many recipients"));
        }
        if reached.stage == Stage::Body {
            let number = ended.fetch_add(1, Ordering::Relaxed);
            let (_, text) = ends.iter().find(|(of, _)| *of == number)?;
            return Some(match *text {
                "" => Action::AcceptThenClose,
                text => Action::reply(text),
            });
        }
        None
    });
    world
}

/// Everybody who got a copy, sorted.
fn recipients(world: &World) -> Vec<String> {
    let messages = world.server.messages().into_iter();
    let mut recipients: Vec<_> = messages.flat_map(|message| message.rcpt_to).collect();
    recipients.sort_unstable();
    recipients
}

/// To the patient and copies `a` to `h`, of which one is unknown to the server.
fn to_nine() -> Message {
    message_with(
        &["a@example.com", "b@example.com", "c@example.com"],
        &[
            "d@example.com",
            "gone@example.com",
            "f@example.com",
            "g@example.com",
            "h@example.com",
        ],
    )
}

const UNKNOWN_TO_THE_SERVER: (CopyField, u8, Option<&str>) = (CopyField::Bcc, 1, Some("550 5.1.1"));

#[tokio::test]
async fn copies_without_room_get_further_transactions_and_nobody_two_copies() {
    for pipelining in [true, false] {
        let world = cramped(pipelining, &[]).await;
        let receipt = world.send_message(&to_nine()).await.unwrap();
        assert_eq!(refused_copies(&receipt), [UNKNOWN_TO_THE_SERVER]);
        let copies = ["a", "b", "c", "d", "f", "g", "h", "patient"];
        let expected = copies.map(|name| format!("{name}@example.com"));
        assert_eq!(recipients(&world), expected);
        let messages = world.server.messages();
        assert_eq!(messages.len(), 3);
        assert!(messages.iter().all(|one| one.data == messages[0].data));
        world.send().await.unwrap();
        assert_eq!(world.server.connections(), 1);
    }
}

#[tokio::test]
async fn further_transaction_without_an_answer_leaves_its_copies_unknown() {
    for pipelining in [true, false] {
        let world = cramped(pipelining, &[(1, "")]).await;
        let receipt = world.send_message(&to_nine()).await.unwrap();
        let unknown: Vec<_> = receipt
            .refused_copies
            .iter()
            .filter(|copy| copy.is_unknown)
            .map(|copy| (copy.field, copy.index, copy.code.clone()))
            .collect();
        let expected = [(CopyField::Cc, 2), (CopyField::Bcc, 0)];
        for (field, index) in expected {
            assert!(unknown.contains(&(field, index, None)), "{unknown:?}");
        }
        // Nothing more is tried behind a doubt.
        assert_eq!(world.server.messages().len(), 2);
        world.send().await.unwrap();
        assert_eq!(world.server.messages().len(), 3);
    }
}

#[tokio::test]
async fn refused_further_transaction_refuses_its_copies_and_costs_no_other_message() {
    for pipelining in [true, false] {
        for refusal in ["554 5.6.0 no", "451 4.3.0 later"] {
            let ends: &'static [(u32, &str)] = match refusal {
                "554 5.6.0 no" => &[(1, "554 5.6.0 no")],
                _ => &[(1, "451 4.3.0 later")],
            };
            let world = cramped(pipelining, ends).await;
            let receipt = world.send_message(&to_nine()).await.unwrap();
            assert!(receipt.refused_copies.iter().all(|copy| !copy.is_unknown));
            assert_eq!(receipt.refused_copies.len(), 6, "{refusal}");
            assert_eq!(world.server.messages().len(), 1);
            world.send().await.unwrap();
            assert_eq!(world.server.messages().len(), 2);
            assert_eq!(world.server.connections(), 1);
        }
    }
}

#[tokio::test]
async fn server_without_any_room_left_is_asked_once_more_and_not_again() {
    let world = World::plain(|server| server).await;
    world.server.act_with(|reached: Reached<'_>| {
        let is_copy = reached
            .recipient
            .is_some_and(|to| to != "patient@example.com");
        is_copy.then(|| Action::reply("452 4.5.3 too many recipients"))
    });
    let receipt = world.send_message(&to_nine()).await.unwrap();
    assert_eq!(receipt.refused_copies.len(), 8);
    assert_eq!(world.said("MAIL").len(), 2);
    world.send().await.unwrap();
    assert_eq!(world.server.connections(), 1);
}
