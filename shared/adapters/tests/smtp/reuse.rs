//! Connections that carry more than one message.

use super::*;

#[tokio::test]
async fn a_connection_is_used_again_without_another_word() {
    let world = World::plain(|server| server).await;
    for number in 1..=3 {
        world
            .provider
            .send(&message(number), Deadline::after(Duration::from_secs(20)))
            .await
            .unwrap();
    }
    assert_eq!(
        (world.server.messages().len(), world.server.connections()),
        (3, 1)
    );
    assert!(
        !world
            .server
            .transcript()
            .iter()
            .any(|line| line.contains("NOOP"))
    );
}

#[tokio::test]
async fn a_connection_whose_conversation_was_cut_short_is_never_used_again() {
    let world = World::plain(|server| server.on(Stage::Body, Action::Hang)).await;
    let (cut, _) = world.send_to_a_server_that_hangs(Stage::Body).await;
    assert_eq!(cut.unwrap_err().disposition, Disposition::Ambiguous);
    // Were the connection used again, the reply to the first body would pass for the second's.
    world.send().await.unwrap();
    assert_eq!(world.server.connections(), 2);
    assert_eq!(world.server.messages().len(), 1);
}

#[tokio::test]
async fn a_send_that_is_dropped_midway_does_not_leave_its_connection_behind() {
    let world = World::plain(|server| server.on(Stage::Rcpt, Action::Hang)).await;
    let message = message(1);
    let mut send = world
        .provider
        .send(&message, Deadline::after(Duration::from_secs(20)));
    tokio::select! {
        _ = &mut send => panic!("the server hangs"),
        () = world.server.wait_for_stage(Stage::Rcpt, 1) => {}
    }
    drop(send);
    world.send().await.unwrap();
    assert_eq!(world.server.connections(), 2);
}

#[tokio::test]
async fn a_refused_recipient_does_not_cost_the_connection() {
    let world =
        World::plain(|server| server.on(Stage::Rcpt, Action::reply("550 5.1.1 unknown"))).await;
    assert_eq!(verdict(&world.send().await).0, Disposition::Final);
    world.send().await.unwrap();
    assert_eq!(world.server.connections(), 1);
}

#[tokio::test]
async fn connections_that_the_server_closed_while_idle_cost_no_message() {
    let world = World::plain(|server| server).await;
    world.send().await.unwrap();
    world.server.close_idle_connections().await;
    world.send().await.unwrap();
    assert_eq!(
        (world.server.messages().len(), world.server.connections()),
        (2, 2)
    );
}

#[tokio::test]
async fn a_connection_that_closes_at_the_next_message_costs_no_message() {
    for action in [
        Action::Close,
        Action::reply_then_close("421 4.7.0 too many messages"),
    ] {
        let world = World::plain(|server| server).await;
        world.send().await.unwrap();
        world.server.on(Stage::Mail, action);
        world.send().await.unwrap();
        assert_eq!(
            (world.server.messages().len(), world.server.connections()),
            (2, 2)
        );
    }
}

#[tokio::test]
async fn a_connection_that_was_idle_for_long_is_not_used() {
    let world = World::plain(|server| server).await;
    world.send().await.unwrap();
    world.clock.advance(Duration::from_mins(5));
    world.send().await.unwrap();
    assert_eq!(world.server.connections(), 2);
}

#[tokio::test]
async fn there_are_never_more_connections_than_allowed() {
    let options = Options {
        max_connections: 2,
        ..Options::default()
    };
    let world = World::new(options, |server| server.max_connections(2)).await;
    let messages: Vec<_> = (1..=40).map(message).collect();
    let sends = messages.iter().map(|message| {
        world
            .provider
            .send(message, Deadline::after(Duration::from_secs(20)))
    });
    let results = futures_util::future::join_all(sends).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(
        (world.server.messages().len(), world.server.connections()),
        (40, 2)
    );
}

#[tokio::test]
async fn when_no_connection_comes_free_the_message_is_not_sent_and_the_provider_not_blamed() {
    let options = Options {
        max_connections: 1,
        ..Options::default()
    };
    let world = World::new(options, |server| server.on(Stage::Body, Action::Hang)).await;
    let (first, second) = (message(1), message(2));
    let blocked = world
        .provider
        .send(&first, Deadline::after(Duration::from_secs(20)));
    let waiting = async {
        world.server.wait_for_stage(Stage::Body, 1).await;
        world
            .provider
            .send(&second, Deadline::after(Duration::from_millis(100)))
            .await
    };
    tokio::select! {
        _ = blocked => panic!("the server hangs"),
        result = waiting => {
            let error = result.unwrap_err();
            assert_eq!((error.disposition, error.kind, error.unhealthy),
                       (Disposition::Transient, ErrorKind::Timeout, false));
        }
    }
}
