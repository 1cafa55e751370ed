//! Idle connections that a server ended, and how many messages one carries.

use super::*;

/// Every way in which a server ends a connection that is idle, or at the next message before it has the
/// whole of it.
#[tokio::test]
async fn a_kept_connection_that_the_server_ended_costs_no_message_and_makes_no_second_copy() {
    let good_bye = || Action::reply_then_close("421 4.4.2 idle for too long");
    for action in [Action::Close, Action::Reset, good_bye()] {
        let process = Process::new(10);
        let clinic = process.clinic(2, |server| server).await;
        clinic.send().await.unwrap();
        clinic.server.end_idle_connections(action.clone()).await;
        clinic.send().await.unwrap();
        let now = process.statistics();
        assert_eq!(
            (clinic.sent(), clinic.server.connections()),
            (2, 2),
            "{action:?}"
        );
        // It was seen before anything was said.
        assert_eq!((now.stale_retried, now.retired.server_closed), (0, 1));
    }
    for stage in [Stage::Mail, Stage::Rcpt, Stage::Data] {
        for action in [Action::Close, Action::Reset, good_bye()] {
            for pipelining in [true, false] {
                let process = Process::new(10);
                let script = |server: SmtpServerBuilder| {
                    if pipelining {
                        server
                    } else {
                        server.without_extension("PIPELINING")
                    }
                };
                let clinic = process.clinic(2, script).await;
                clinic.send().await.unwrap();
                clinic.server.on(stage, action.clone());
                clinic.send().await.unwrap();
                let now = process.statistics();
                assert_eq!(
                    (clinic.sent(), clinic.server.connections()),
                    (2, 2),
                    "{stage:?} {action:?}"
                );
                assert_eq!((now.stale_retried, now.retired.server_closed), (1, 1));
                process.assert_nothing_is_lost();
            }
        }
    }
}

#[tokio::test]
async fn an_end_on_a_new_connection_is_the_servers_word_and_not_tried_again() {
    let process = Process::new(10);
    let clinic = process
        .clinic(2, |server| server.on(Stage::Mail, Action::Close))
        .await;
    let error = clinic.send().await.unwrap_err();
    assert_eq!(
        (error.disposition, error.kind),
        (Disposition::Transient, ErrorKind::Unavailable)
    );
    assert_eq!(clinic.server.connections(), 1);
    process.assert_nothing_is_lost();
}

/// Sends while the server does not answer MAIL on a connection that was kept, and says how long that
/// took. The clock stands still until then, and runs again when the client has come back.
async fn send_to_a_peer_that_is_gone(
    clinic: &Clinic,
    deadline: Duration,
) -> (Result<Receipt, ProviderError>, Duration) {
    let mails =
        |event: &&Event| matches!(event, Event::Reached { stage, .. } if *stage == Stage::Mail);
    let before = clinic.server.events().iter().filter(mails).count();
    let connections = clinic.server.connections();
    clinic.server.on(Stage::Mail, Action::Hang);
    let first = message(1);
    let sending = async {
        let result = clinic
            .provider
            .send(&first, Deadline::after(deadline))
            .await;
        (result, Instant::now())
    };
    let pausing = async {
        clinic.server.wait_for_stage(Stage::Mail, before + 1).await;
        tokio::time::pause();
        let hung = Instant::now();
        let next = connections + 1;
        let back = |event: &Event| *event == Event::Connected { connection: next };
        tokio::select! {
            _ = clinic.server.wait_for_event(back) => {}
            // Where it does not come back, the clock is needed for that.
            () = tokio::time::sleep(TIME) => {}
        }
        tokio::time::resume();
        hung
    };
    let ((result, end), hung) = tokio::join!(sending, pausing);
    (result, end.saturating_duration_since(hung))
}

#[tokio::test]
async fn a_peer_that_is_gone_without_a_word_costs_no_message_and_seconds_once() {
    let process = Process::new(10);
    let clinic = process.clinic(3, |server| server).await;
    all_sent(&clinic.send_at_once(3).await);
    assert_eq!(process.statistics().idle, 3);
    // As after a freeze: nothing was heard of the connections for a while.
    process.clock.advance(Duration::from_mins(1));
    let (result, time) = send_to_a_peer_that_is_gone(&clinic, Duration::from_secs(20)).await;
    result.unwrap();
    assert_eq!((clinic.sent(), clinic.server.connections()), (4, 4));
    assert!(time < Duration::from_secs(6), "{time:?}");
    let now = process.statistics();
    // The two others would have cost as much each.
    assert_eq!(
        (now.stale_retried, now.idle, now.retired.server_closed),
        (1, 1, 3)
    );
    process.assert_nothing_is_lost();
}

#[tokio::test]
async fn a_server_that_was_heard_just_now_has_the_full_time_for_its_reply() {
    let process = Process::new(10);
    let clinic = process.clinic(1, |server| server).await;
    clinic.send().await.unwrap();
    let (result, time) = send_to_a_peer_that_is_gone(&clinic, Duration::from_secs(20)).await;
    result.unwrap();
    assert_eq!((clinic.sent(), clinic.server.connections()), (2, 2));
    // Eight seconds, less what went by before the clock was stopped.
    assert!(time > Duration::from_secs(6), "{time:?}");
}

#[tokio::test]
async fn a_peer_that_is_gone_is_not_replaced_when_there_is_no_time_for_a_message_any_more() {
    let process = Process::new(10);
    let clinic = process.clinic(1, |server| server).await;
    clinic.send().await.unwrap();
    let (result, _) = send_to_a_peer_that_is_gone(&clinic, Duration::from_secs(10)).await;
    let error = result.unwrap_err();
    assert_eq!(
        (error.disposition, error.kind),
        (Disposition::Transient, ErrorKind::Timeout)
    );
    assert_eq!((clinic.sent(), clinic.server.connections()), (1, 1));
    process.assert_nothing_is_lost();
}

#[tokio::test]
async fn a_limit_of_messages_per_connection_is_met_once_and_then_kept_until_it_is_forgotten() {
    let process = Process::new(10);
    let limited = |server: SmtpServerBuilder| server.max_messages_per_session(3);
    let clinic = process.clinic(1, limited).await;
    for _ in 0..12 {
        clinic.send().await.unwrap();
    }
    assert_eq!((clinic.sent(), clinic.said("421")), (12, 1));
    assert_eq!(clinic.server.connections(), 4);
    let now = process.statistics();
    assert_eq!(
        (now.retired.server_closed, now.retired.learned),
        (1, 3),
        "{now:?}"
    );

    process.clock.advance(Duration::from_mins(10));
    for _ in 0..6 {
        clinic.send().await.unwrap();
    }
    assert_eq!((clinic.sent(), clinic.said("421")), (18, 2));
}

#[tokio::test]
async fn a_limit_of_messages_that_the_server_announces_is_never_met() {
    let process = Process::new(10);
    let limited = |server: SmtpServerBuilder| {
        server
            .extensions(&["PIPELINING", "LIMITS RCPTMAX=50 MAILMAX=2"])
            .max_messages_per_session(2)
    };
    let clinic = process.clinic(1, limited).await;
    for _ in 0..6 {
        clinic.send().await.unwrap();
    }
    assert_eq!((clinic.sent(), clinic.said("421")), (6, 0));
    assert_eq!(clinic.server.connections(), 3);
    assert_eq!(process.statistics().retired.messages, 3);
}
