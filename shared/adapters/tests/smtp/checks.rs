//! Places that may not be connected to, and the check of an entry.

use super::*;

#[tokio::test]
async fn addresses_and_ports_that_are_not_allowed_are_not_connected_to() {
    for options in [
        Options {
            allow: "",
            ..Options::default()
        },
        Options {
            allow: "",
            host: "rebinding.example",
            names: &["rebinding.example"],
            ..Options::default()
        },
        Options {
            allow: "127.0.0.0/8:1",
            ..Options::default()
        },
    ] {
        let world = World::new(options, |server| server).await;
        assert_eq!(
            verdict(&world.send().await),
            (Disposition::ProviderDown, ErrorKind::Unavailable)
        );
        assert_eq!(world.server.connections(), 0);
    }
    let world = World::new(
        Options {
            host: "unknown.example",
            names: &["x"],
            ..Options::default()
        },
        |server| server,
    )
    .await;
    assert_eq!(
        verdict(&world.send().await),
        (Disposition::Transient, ErrorKind::Unavailable)
    );
}

#[tokio::test]
async fn a_check_goes_through_every_stage_and_sends_nothing() {
    use VerifyStage::{Authenticate, Connect, Egress, Resolve, Tls};

    let world = World::plain(|server| server).await;
    let report = world
        .provider
        .verify(Deadline::after(Duration::from_secs(20)))
        .await;
    let stages: Vec<_> = report.iter().map(|stage| stage.stage).collect();
    assert_eq!(stages, [Resolve, Egress, Connect, Tls, Authenticate]);
    assert!(
        report
            .iter()
            .all(|stage| stage.outcome == StageOutcome::Passed),
        "{report:?}"
    );
    assert!(world.server.messages().is_empty());
    assert!(
        world
            .server
            .transcript()
            .iter()
            .any(|line| line.contains("QUIT"))
    );
}

#[tokio::test]
async fn a_check_stops_at_the_stage_that_fails() {
    use ErrorKind::{Unauthenticated, Unavailable};

    let failed = async |options: Options| {
        let world = World::new(options, |server| server).await;
        let report = world
            .provider
            .verify(Deadline::after(Duration::from_secs(20)))
            .await;
        let last = report.last().unwrap().clone();
        assert!(
            report[..report.len() - 1]
                .iter()
                .all(|stage| stage.outcome == StageOutcome::Passed)
        );
        let StageOutcome::Failed { kind, detail, .. } = last.outcome else {
            panic!("{report:?}")
        };
        assert!(detail.ends_with('.'));
        (last.stage, kind)
    };
    let unknown = Options {
        host: "unknown.example",
        ..Options::default()
    };
    assert_eq!(failed(unknown).await, (VerifyStage::Resolve, Unavailable));
    assert_eq!(
        failed(Options {
            allow: "",
            ..Options::default()
        })
        .await,
        (VerifyStage::Egress, Unavailable)
    );
    assert_eq!(
        failed(Options {
            expired: true,
            ..Options::default()
        })
        .await,
        (VerifyStage::Tls, Unauthenticated)
    );
    assert_eq!(
        failed(Options {
            password: "wrong",
            ..Options::default()
        })
        .await,
        (VerifyStage::Authenticate, Unauthenticated)
    );
}
