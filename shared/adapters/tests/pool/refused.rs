//! Servers that allow fewer connections.

use super::*;

#[tokio::test]
async fn a_server_that_allows_fewer_connections_than_the_settings_costs_no_message() {
    let process = Process::new(100);
    let limited = |server: SmtpServerBuilder| server.max_connections(2);
    let clinic = process.clinic(5, limited).await;
    all_sent(&clinic.send_at_once(10).await);
    assert_eq!((clinic.sent(), clinic.said("421")), (10, 3));
    // From now on it is known.
    all_sent(&clinic.send_at_once(20).await);
    let now = process.statistics();
    assert_eq!((clinic.sent(), clinic.said("421")), (30, 3));
    assert_eq!((now.opened, now.open, now.one_too_many), (2, 2, 3));
    process.assert_nothing_is_lost();

    process.clock.advance(Duration::from_mins(10));
    all_sent(&clinic.send_at_once(10).await);
    assert_eq!((clinic.sent(), clinic.said("421")), (40, 6));
    process.assert_nothing_is_lost();
}

#[tokio::test]
async fn idle_connections_stay_at_a_server_without_a_limit_until_it_refuses_one() {
    let process = Process::new(100);
    let clinic = process
        .clinic(5, |server| server.max_connections(100))
        .await;
    let limit = clinic.provider.connection_limit().unwrap().clone();
    limit.grant(Granted::Unlimited, true);
    all_sent(&clinic.send_at_once(4).await);
    process.sockets.close_at_invocation_end(TIME).await;
    let kept = process.statistics().idle;
    assert!(kept > 0, "{kept}");
    limit.grant(Granted::Connections(5), true);
    process.sockets.close_at_invocation_end(TIME).await;
    assert_eq!(process.statistics().idle, 0);
    process.assert_nothing_is_lost();
}

#[tokio::test]
async fn idle_connections_end_with_the_invocation_and_say_goodbye() {
    let process = Process::new(100);
    let limited = |server: SmtpServerBuilder| server.max_connections(2);
    let clinic = process.clinic(2, limited).await;
    all_sent(&clinic.send_at_once(4).await);
    assert_eq!(clinic.server.open_connections(), 2);
    process.sockets.close_at_invocation_end(TIME).await;
    for connection in [1, 2] {
        let is_closed = |event: &Event| *event == Event::Closed { connection };
        clinic.server.wait_for_event(is_closed).await;
    }
    assert_eq!(clinic.said("221"), 2);
    let now = process.statistics();
    assert_eq!((now.open, now.idle, now.retired.invocation_end), (0, 0, 2));
    // Another client of the mailbox has its turn while this process is idle.
    let other = process.another_process(&clinic.server);
    assert!(other.send(&message(9), Deadline::after(TIME)).await.is_ok());
    process.assert_nothing_is_lost();
}

#[tokio::test]
async fn a_login_or_a_sender_that_is_refused_beside_another_connection_waits_for_that_one() {
    for (stage, reply) in [
        (Stage::Greeting, "421 4.7.0 Too many connections"),
        (Stage::Ehlo, "421 4.3.2 Too many connections"),
        (Stage::Auth, "454 4.7.0 Too many login attempts"),
        (
            Stage::Mail,
            "432 4.3.2 Concurrent connections limit exceeded",
        ),
    ] {
        let process = Process::new(100);
        let refusing = |server: SmtpServerBuilder| server.on(stage, Action::reply(reply));
        let clinic = process.clinic(2, refusing).await;
        all_sent(&clinic.send_at_once(6).await);
        let now = process.statistics();
        assert_eq!(clinic.sent(), 6, "{reply}");
        assert_eq!((now.open, now.one_too_many), (1, 1), "{reply}");
        process.assert_nothing_is_lost();
    }
}

#[tokio::test]
async fn a_refusal_that_is_not_for_the_number_of_connections_is_an_error_at_once() {
    let process = Process::new(100);
    let refusal = "432 4.7.12 A password transition is needed";
    let refusing = |server: SmtpServerBuilder| server.on(Stage::Auth, Action::reply(refusal));
    let clinic = process.clinic(2, refusing).await;
    let results = clinic.send_at_once(2).await;
    let errors: Vec<_> = results.iter().filter_map(|r| r.as_ref().err()).collect();
    assert_eq!(errors.len(), 1, "{results:?}");
    assert_eq!(errors[0].kind, ErrorKind::Unauthenticated);
    assert_eq!(process.statistics().one_too_many, 0);
}

#[tokio::test]
async fn a_server_that_refuses_every_connection_is_asked_a_few_times_and_then_each_message_fails() {
    let process = Process::new(100);
    let refusing =
        |server: SmtpServerBuilder| server.always(Stage::Greeting, Action::reply("421 4.3.2 no"));
    let clinic = process.clinic(5, refusing).await;
    // No other process has a connection of the login.
    let limit = clinic.provider.connection_limit().unwrap();
    limit.grant(Granted::Connections(5), false);
    let results = clinic.send_at_once(5).await;
    for result in results {
        assert_eq!(result.unwrap_err().disposition, Disposition::Transient);
    }
    // Each asks once, and three times more at most.
    assert!(clinic.server.connections() <= 20);
    process.assert_nothing_is_lost();

    // When it takes connections again, it has as many as before.
    clinic.server.clear_script();
    limit.grant(Granted::Connections(5), false);
    assert!(clinic.send_at_once(5).await.iter().all(Result::is_ok));
    assert_eq!(clinic.server.open_connections(), 5);
}

#[tokio::test]
async fn a_message_that_waits_for_the_other_connection_does_not_wait_beyond_its_time() {
    let process = Process::new(100);
    let hanging =
        |server: SmtpServerBuilder| server.max_connections(1).on(Stage::Body, Action::Hang);
    let clinic = process.clinic(2, hanging).await;
    let (first, second) = (message(1), message(2));
    let blocked = clinic.provider.send(&first, Deadline::after(TIME));
    let refused = async {
        clinic.server.wait_for_stage(Stage::Body, 1).await;
        let deadline = Deadline::after(Duration::from_secs(3));
        clinic.provider.send(&second, deadline).await.unwrap_err()
    };
    tokio::select! {
        _ = blocked => panic!("the server hangs"),
        error = refused => assert_eq!(
            (error.disposition, error.kind, error.unhealthy),
            (Disposition::Transient, ErrorKind::Timeout, false)
        ),
    }
    let now = process.statistics();
    assert_eq!((now.one_too_many, now.timed_out), (1, 1));
    process.assert_nothing_is_lost();
}
