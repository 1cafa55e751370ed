//! The ceiling of sockets, and who waits at it.

use super::*;

#[tokio::test]
async fn no_more_sockets_are_open_than_the_ceiling_allows_whoever_sends() {
    let process = Process::new(3);
    let peak = Arc::new(Mutex::new(0));
    let watched = |server: SmtpServerBuilder| {
        let (peak, sockets) = (peak.clone(), process.sockets.clone());
        server.on_message(Arc::new(move |_| {
            let now = sockets.statistics();
            let mut peak = peak.lock().unwrap();
            *peak = now.held.max(now.open).max(*peak);
        }))
    };
    let one = process.clinic(5, watched).await;
    let other = process.clinic(5, watched).await;
    let (of_one, of_other) = tokio::join!(one.send_at_once(10), other.send_at_once(10));
    all_sent(&of_one);
    all_sent(&of_other);
    assert_eq!((one.sent(), other.sent()), (10, 10));
    assert_eq!(*peak.lock().unwrap(), 3);
    process.assert_nothing_is_lost();
}

#[tokio::test]
async fn at_the_ceiling_the_connection_that_was_idle_for_the_longest_makes_room() {
    let process = Process::new(2);
    let first = process.clinic(5, |server| server).await;
    let second = process.clinic(5, |server| server).await;
    let third = process.clinic(5, |server| server).await;
    first.send().await.unwrap();
    second.send().await.unwrap();
    first.send().await.unwrap();
    third.send().await.unwrap();
    second.until_closed(1).await;
    let said: Vec<_> = second.server.transcript_of(1);
    assert!(said.contains(&"C: QUIT".to_owned()), "{said:?}");
    first.send().await.unwrap();
    assert_eq!(
        (first.server.connections(), process.statistics().retired),
        (
            1,
            Retirements {
                ceiling: 1,
                ..Retirements::default()
            }
        )
    );
}

#[tokio::test]
async fn a_clinic_with_much_to_send_does_not_keep_another_waiting_for_more_than_its_connections() {
    let process = Process::new(2);
    let order = Arc::new(Mutex::new(Vec::new()));
    let noted = |name: &'static str| {
        let order = order.clone();
        move |server: SmtpServerBuilder| {
            server.on_message(Arc::new(move |_| order.lock().unwrap().push(name)))
        }
    };
    let busy = process.clinic(5, noted("busy")).await;
    let quiet = process.clinic(5, noted("quiet")).await;
    // In this order, so that the fifty are there before the one.
    let (many, one) = tokio::join!(busy.send_at_once(50), quiet.send());
    all_sent(&many);
    one.unwrap();
    let order = order.lock().unwrap();
    let before = order.iter().position(|name| *name == "quiet").unwrap();
    // Two connections are in use, three more are waited for, and one ends while the one is made.
    assert!(before <= 6, "{before} messages went before");
    process.assert_nothing_is_lost();
}

#[tokio::test]
async fn at_the_ceiling_a_connection_goes_to_the_next_message_of_its_own_where_nobody_else_waits() {
    let process = Process::new(1);
    let clinic = process.clinic(5, |server| server).await;
    all_sent(&clinic.send_at_once(10).await);
    assert_eq!((clinic.sent(), clinic.server.connections()), (10, 1));
}

#[tokio::test]
async fn a_request_over_http_takes_its_place_under_the_ceiling_and_gives_it_back() {
    let process = Process::new(1);
    let clinic = process.clinic(5, |server| server).await;
    clinic.send().await.unwrap();
    let config = process.ca.server_config(&["localhost"]);
    let api = HttpServer::builder().tls(config).start().await.unwrap();
    let path = "/v3/mail/send";
    api.on("POST", path, Reply::new(202).header("x-message-id", "id"));
    api.on("POST", path, Reply::hang());
    let settings = SendgridConfig {
        api_key: Secret::new("planted-key".to_owned()),
        from: OwnSender::default(),
        api_url: Some(BaseUrl::parse(&api.url()).unwrap()),
        sandbox: false,
    };
    let http = HttpClients::new(
        process.tls(),
        guard(),
        process.sockets.clone(),
        process.clock.clone(),
    );
    let sendgrid =
        SendgridProvider::new(settings, mailbox("appointments@clinic.example"), http).unwrap();
    let first = message(1);
    sendgrid.send(&first, Deadline::after(TIME)).await.unwrap();
    clinic.until_closed(1).await;
    assert_eq!(process.statistics().held, 0);

    // While a request is under way, nobody else has a place.
    let hanging = sendgrid.send(&first, Deadline::after(TIME));
    let refused = async {
        api.wait_for_requests(2).await;
        assert_eq!(process.statistics().held, 1);
        let deadline = Deadline::after(Duration::from_millis(2_100));
        clinic.provider.send(&first, deadline).await.unwrap_err()
    };
    tokio::select! {
        _ = hanging => panic!("the API hangs"),
        error = refused => assert_eq!(
            (error.disposition, error.kind, error.unhealthy),
            (Disposition::Transient, ErrorKind::Timeout, false)
        ),
    }
    assert_eq!(process.statistics().timed_out, 1);
    process.assert_nothing_is_lost();
}

#[tokio::test]
async fn a_provider_that_is_dropped_takes_its_connections_along_and_their_places_are_free() {
    let process = Process::new(2);
    let old = process.clinic(2, |server| server).await;
    let new = process.clinic(2, |server| server).await;
    all_sent(&old.send_at_once(2).await);
    assert_eq!(process.statistics().idle, 2);
    let Clinic { server, provider } = old;
    drop(provider);
    let now = process.statistics();
    assert_eq!((now.held, now.open, now.retired.dropped), (0, 0, 2));
    for connection in 1..=2 {
        let closed = |event: &Event| *event == Event::Closed { connection };
        server.wait_for_event(closed).await;
    }
    all_sent(&new.send_at_once(4).await);
    assert_eq!(process.statistics().retired.ceiling, 0);
}
