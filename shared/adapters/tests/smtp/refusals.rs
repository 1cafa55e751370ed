//! A refused message never costs the next one, whoever is refused, at which stage, and by which code.

use comms_adapters::Message;

use super::*;

/// Every kind of refusal: 4yz and 5yz that RFC 5321 section 4.3.2 and common servers give.
const REFUSALS: [&str; 16] = [
    "421 4.3.2 closing",
    "450 4.2.0 greylisted",
    "451 4.3.0 later",
    "452 4.3.1 storage",
    "454 4.7.0 later",
    "455 4.5.1 parameters",
    "500 5.5.2 what",
    "501 5.5.4 syntax",
    "503 5.5.1 order",
    "530 5.7.0 login",
    "550 5.1.1 unknown",
    "551 5.1.6 moved",
    "552 5.3.4 large",
    "553 5.7.1 sender",
    "554 5.6.0 form",
    "571 5.7.1 policy",
];

async fn refused_at_each_stage_by_each_code(
    with_copy: bool,
    script: impl FnOnce(SmtpServerBuilder) -> SmtpServerBuilder,
) {
    let world = World::plain(|server| script(server.keeps_refused_transactions())).await;
    let numbered = |number: usize| Message {
        delivery: DeliveryId::parse(&format!("{number:032x}")).unwrap(),
        ..if with_copy {
            message_with(&["family@example.com"], &[])
        } else {
            message(1)
        }
    };
    let mut number = 0;
    for stage in [Stage::Mail, Stage::Rcpt, Stage::Data, Stage::Body] {
        for refusal in REFUSALS {
            number += 1;
            world.server.clear_script();
            world.server.clear_messages();
            let action = if refusal.starts_with("421") {
                Action::reply_then_close(refusal)
            } else {
                Action::reply(refusal)
            };
            world.server.on(stage, action.clone());
            if stage == Stage::Mail {
                // A kept connection that says 421 or 503 here is replaced; so is the message's own refused.
                world.server.on(stage, action);
            }
            let _ = world.send_message(&numbered(number)).await;
            world.server.clear_script();
            let already = world.server.messages().len();
            number += 1;
            let next = numbered(number);
            let sent = world.send_message(&next).await;
            assert!(sent.is_ok(), "{stage:?} {refusal}: {sent:?}");
            let arrived = world.server.messages();
            let id = format!("{number:032x}");
            let copies = arrived.iter().filter(|mail| mail.text().contains(&id));
            assert_eq!(copies.count(), 1, "{stage:?} {refusal}");
            assert_eq!(arrived.len(), already + 1, "{stage:?} {refusal}");
        }
    }
}

#[tokio::test]
async fn the_next_message_arrives_once_after_any_refusal() {
    refused_at_each_stage_by_each_code(false, |server| server).await;
}

#[tokio::test]
async fn the_next_message_arrives_once_after_a_refusal_of_one_with_copies() {
    refused_at_each_stage_by_each_code(true, |server| server).await;
}

#[tokio::test]
async fn the_next_message_arrives_once_without_pipelining() {
    refused_at_each_stage_by_each_code(false, |server| server.without_extension("PIPELINING"))
        .await;
    refused_at_each_stage_by_each_code(true, |server| server.without_extension("PIPELINING")).await;
}

#[tokio::test]
async fn the_next_message_arrives_once_where_nobody_is_asked_for_a_message() {
    refused_at_each_stage_by_each_code(false, SmtpServerBuilder::data_without_recipients).await;
}

#[tokio::test]
async fn nested_mail_is_no_refusal_of_the_next_message() {
    let world = World::plain(|server| {
        server
            .keeps_refused_transactions()
            .on(Stage::Body, Action::reply("452 4.3.1 storage"))
    })
    .await;
    let refused = world.send().await.unwrap_err();
    assert_eq!(refused.disposition, Disposition::Transient);
    world.send().await.unwrap();
    let transcript = world.server.transcript_of(1);
    let from = transcript.iter().position(|line| line.contains("452"));
    let after: Vec<_> = transcript[from.unwrap()..].iter().skip(1).take(3).collect();
    assert_eq!(after[..2], ["C: RSET", "S: 250 2.0.0 ok"]);
    assert!(after[2].starts_with("C: MAIL FROM:<appointments@"));
    assert_eq!(world.server.connections(), 1);
}

/// Whatever left the server in another state than we think, a new connection has none.
#[tokio::test]
async fn out_of_order_on_a_kept_connection_is_staleness() {
    for stage in [Stage::Mail, Stage::Rcpt, Stage::Data] {
        let world = World::plain(|server| server).await;
        world.send().await.unwrap();
        world
            .server
            .on(stage, Action::reply("503 5.5.1 Error: nested MAIL command"));
        world.send().await.unwrap();
        let counts = (world.server.messages().len(), world.server.connections());
        assert_eq!(counts, (2, 2), "{stage:?}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_reset_costs_a_connection_and_no_message() {
    for action in [
        Action::reply("500 5.5.1 what"),
        Action::Close,
        Action::reply_then_close("421 4.3.2 closing"),
    ] {
        for pipelining in [true, false] {
            let world = World::plain(|server| {
                let server = server
                    .on(Stage::Body, Action::reply("554 5.7.1 spam"))
                    .on(Stage::Rset, action.clone());
                if pipelining {
                    server
                } else {
                    server.without_extension("PIPELINING")
                }
            })
            .await;
            world.send().await.unwrap_err();
            world.send().await.unwrap();
            let counts = (world.server.messages().len(), world.server.connections());
            assert_eq!(counts, (1, 2), "{action:?}");
        }
    }
}
