//! Servers that hang, and the deadline.

use super::*;

#[tokio::test]
async fn a_server_that_hangs_costs_no_more_than_a_stage_or_the_deadline() {
    for pipelining in [true, false] {
        for stage in [
            Stage::Greeting,
            Stage::Ehlo,
            Stage::StartTls,
            Stage::Tls,
            Stage::EhloAfterTls,
            Stage::Auth,
            Stage::Mail,
            Stage::Rcpt,
            Stage::Data,
            Stage::Body,
        ] {
            let world = World::plain(|server| {
                let server = server.on(stage, Action::Hang);
                if pipelining {
                    server
                } else {
                    server.without_extension("PIPELINING")
                }
            })
            .await;
            let (result, time) = world.send_to_a_server_that_hangs(stage).await;
            // A command has 8 seconds; the login and the message what is left of the deadline.
            let (disposition, most) = if stage == Stage::Body {
                (Disposition::Ambiguous, 20)
            } else if stage == Stage::Auth {
                (Disposition::Transient, 20)
            } else {
                (Disposition::Transient, 9)
            };
            assert_eq!(
                verdict(&result),
                (disposition, ErrorKind::Timeout),
                "{stage:?}"
            );
            assert!(time <= Duration::from_secs(most), "{stage:?}: {time:?}");
        }
    }
}

#[tokio::test]
async fn a_resolver_that_hangs_costs_no_more_than_its_stage() {
    let options = Options {
        host: "hangs.example",
        names: &["hangs.example"],
        ..Options::default()
    };
    let world = World::new(options, |server| server).await;
    tokio::time::pause();
    let started = Instant::now();
    let result = world.send().await;
    assert_eq!(
        verdict(&result),
        (Disposition::Transient, ErrorKind::Timeout)
    );
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_message_that_the_deadline_would_cut_off_is_not_begun_and_the_server_not_blamed() {
    let world = World::plain(|server| server).await;
    let error = world
        .send_within(Duration::from_millis(1_900))
        .await
        .unwrap_err();
    assert_eq!(
        (error.disposition, error.kind, error.unhealthy),
        (Disposition::Transient, ErrorKind::Timeout, false)
    );
    assert_eq!(world.server.connections(), 0);
}
