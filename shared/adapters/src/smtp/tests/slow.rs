//! Servers that take their time: from the queue they are waited for, while a caller waits they are given up.

use std::time::Duration;

use comms_core::Secret;
use tokio::time::Instant;

use super::{
    super::{auth, connection::greeting, deliver::first_reply_time},
    *,
};
use crate::{chain::AmbiguityPolicy, layers::deadline::AttemptBudget};

const MECHANISMS: Mechanisms = Mechanisms::ALL;

/// Says each of `replies` its delay after it has heard a line (or, the first, at once where `greets`).
async fn slow_server(server: DuplexStream, replies: &[&str], delays: &[Duration]) {
    let (reader, mut writer) = tokio::io::split(server);
    let mut lines = tokio::io::BufReader::new(reader).lines();
    let mut in_message = false;
    for (reply, delay) in replies.iter().zip(delays) {
        while let Ok(Some(line)) = lines.next_line().await {
            if !in_message || line == "." {
                break;
            }
        }
        tokio::time::sleep(*delay).await;
        in_message = reply.starts_with("354");
        let _ = writer.write_all(format!("{reply}\r\n").as_bytes()).await;
    }
    // Stays open and silent.
    while let Ok(Some(_)) = lines.next_line().await {}
}

async fn sent(
    pipelining: bool,
    delay: u64,
    deadline: Deadline,
) -> (Result<Vec<RefusedCopy>, Failure>, Duration) {
    sent_with(pipelining, &[Duration::from_secs(delay); 6], deadline).await
}

/// The same with a time of its own for each of the six replies.
async fn sent_with(
    pipelining: bool,
    delays: &[Duration; 6],
    deadline: Deadline,
) -> (Result<Vec<RefusedCopy>, Failure>, Duration) {
    let (stream, server) = tokio::io::duplex(65_536);
    let capabilities = ServerCapabilities {
        pipelining,
        ..PIPELINING
    };
    let message = message(&["a@example.com", "b@example.com"], &[]);
    let sender = sender();
    let mut draft = Draft::new(&message, &sender, Feedback::Named).unwrap();
    let submission = draft.for_server(&capabilities).unwrap();
    let mut wire = Wire::new(stream, 0);
    let start = Start {
        first_reply: first_reply_time(None, deadline),
        after_refusal: false,
    };
    let replies = [
        "250 sender",
        "250 recipient",
        "250 copy",
        "250 copy",
        "354 go",
        "250 accepted",
    ];
    let since = Instant::now();
    let client = async {
        let result = send_transaction(&mut wire, &capabilities, &submission, start, deadline).await;
        drop(wire);
        (result, since.elapsed())
    };
    let server = slow_server(server, &replies, delays);
    let (result, ()) = tokio::join!(client, server);
    result
}

/// The worker's deadline less what the pipeline keeps of it.
fn from_queue() -> Deadline {
    Deadline::after(Duration::from_millis(26_500)).queued()
}

#[tokio::test(start_paused = true)]
async fn four_seconds_for_each_recipient_succeed_from_the_queue() {
    for pipelining in [true, false] {
        let (result, time) = sent(pipelining, 4, from_queue()).await;
        assert_eq!(result, Ok(Vec::new()), "{pipelining}");
        assert_eq!(time, Duration::from_secs(24), "{pipelining}");
    }
}

/// What is left of it where one other provider follows.
fn before_another() -> Deadline {
    let budget = AttemptBudget {
        deadline: from_queue(),
        others: 1,
        on_ambiguous: AmbiguityPolicy::Failover,
    };
    budget.share()
}

/// Where another provider follows, a server that hangs is given up in time for it; one that is slow over each recipient is
/// not one that hangs.
#[tokio::test(start_paused = true)]
async fn three_seconds_for_each_recipient_succeed_before_another_provider() {
    for pipelining in [true, false] {
        let (result, time) = sent(pipelining, 3, before_another()).await;
        assert_eq!(result, Ok(Vec::new()), "{pipelining}");
        assert_eq!(time, Duration::from_secs(18), "{pipelining}");
        let (result, time) = sent(pipelining, 9, before_another()).await;
        let error = classify(result.unwrap_err());
        assert_eq!(error.disposition, Disposition::Transient, "{pipelining}");
        assert_eq!(time, COMMAND_TIMEOUT, "{pipelining}");
    }
}

/// The next message would meet the same: such a server has to be marked as down, so that the other provider is asked first.
#[tokio::test(start_paused = true)]
async fn a_server_too_slow_for_its_share_is_to_blame_for_it() {
    for pipelining in [true, false] {
        for delay in [4, 6] {
            let (result, time) = sent(pipelining, delay, before_another()).await;
            let error = classify(result.unwrap_err());
            assert_eq!(
                (error.disposition, error.kind, error.unhealthy),
                (Disposition::Transient, ErrorKind::Timeout, true),
                "{pipelining} {delay}"
            );
            assert!(!error.detail.contains("connections"), "{}", error.detail);
            assert!(time <= Duration::from_millis(20_500), "{time:?}");
        }
    }
}

/// With DATA's reply at hand and the message not begun, it is the replies before that took the time.
#[tokio::test(start_paused = true)]
async fn a_message_not_begun_says_that_the_server_is_too_slow() {
    for pipelining in [true, false] {
        let deadline = Deadline::after(Duration::from_millis(22_500)).queued();
        let (result, _) = sent(pipelining, 4, deadline).await;
        let failure = result.unwrap_err();
        assert_eq!(failure, Failure::new(Stage::Data, Cause::TooSlow));
    }
}

/// Many commands of one second each: the server answers all of them well.
#[tokio::test(start_paused = true)]
async fn time_that_went_by_elsewhere_is_no_fault_of_the_server() {
    for pipelining in [true, false] {
        let deadline = Deadline::after(Duration::from_secs(6)).queued();
        let (result, _) = sent(pipelining, 1, deadline).await;
        let error = classify(result.unwrap_err());
        assert_eq!(
            (error.disposition, error.unhealthy),
            (Disposition::Transient, false),
            "{pipelining}"
        );
    }
}

/// A server that asks another one about the recipient takes that long once, and is quick with the message.
#[tokio::test(start_paused = true)]
async fn one_command_far_slower_than_the_others_does_not_cost_the_message() {
    for pipelining in [true, false] {
        let delays = [0, 14, 0, 0, 0, 0].map(Duration::from_secs);
        let (result, time) = sent_with(pipelining, &delays, from_queue()).await;
        assert_eq!(result, Ok(Vec::new()), "{pipelining}");
        assert_eq!(time, Duration::from_secs(14), "{pipelining}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_immediate_send_gives_up_on_a_slow_envelope() {
    for pipelining in [true, false] {
        let deadline = Deadline::after(Duration::from_millis(26_500));
        let (result, time) = sent(pipelining, 4, deadline).await;
        let error = classify(result.unwrap_err());
        assert_eq!(
            (error.disposition, error.kind),
            (Disposition::Transient, ErrorKind::Timeout)
        );
        assert_eq!(time, Duration::from_secs(12));
    }
}

/// What the deadline would cut off behind the message may have been accepted: such a message is not begun.
#[tokio::test(start_paused = true)]
async fn a_message_that_a_slow_server_would_not_answer_in_time_is_not_begun() {
    for pipelining in [true, false] {
        let deadline = Deadline::after(Duration::from_secs(28)).queued();
        let (result, time) = sent(pipelining, 5, deadline).await;
        let error = classify(result.unwrap_err());
        assert_eq!(error.disposition, Disposition::Transient);
        assert!(time <= Duration::from_secs(25), "{time:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_is_waited_for_until_the_deadline_whoever_waits() {
    for is_queued in [true, false] {
        let deadline = Deadline::after(Duration::from_secs(20));
        let deadline = if is_queued {
            deadline.queued()
        } else {
            deadline
        };
        let (stream, server) = tokio::io::duplex(4_096);
        let mut wire = Wire::new(stream, 0);
        let password = Secret::new("password".to_owned());
        let client = async {
            let result = auth::log_in(&mut wire, MECHANISMS, "user", &password, deadline).await;
            drop(wire);
            result
        };
        let delays = [Duration::from_secs(18)];
        let server = slow_server(server, &["235 2.7.0 ok"], &delays);
        let (result, ()) = tokio::join!(client, server);
        assert_eq!(result, Ok(()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_greeting_is_waited_for_longer_from_the_queue() {
    for is_queued in [true, false] {
        let deadline = Deadline::after(Duration::from_millis(26_500));
        let deadline = if is_queued {
            deadline.queued()
        } else {
            deadline
        };
        let (stream, mut server) = tokio::io::duplex(4_096);
        let mut wire = Wire::new(stream, 1);
        let saying = async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            let _ = server.write_all(b"220 mail.example\r\n").await;
        };
        let (greeted, ()) = tokio::join!(greeting(&mut wire, deadline), saying);
        assert_eq!(greeted.is_ok(), is_queued);
    }
}
