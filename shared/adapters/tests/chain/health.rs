//! Entries that are down, and what is said about them.

use super::*;

/// A chain whose health has a clock that the test moves.
fn watched(providers: &[&Arc<Scripted>], clock: &Arc<ManualClock>) -> Arc<Chain> {
    let mut chain = Chain::clone(&chain(providers, AmbiguityPolicy::Failover, 1));
    for entry in &mut chain.entries {
        entry.health = Health::new(clock.clone());
    }
    Arc::new(chain)
}

#[tokio::test(start_paused = true)]
async fn who_is_down_goes_last_and_comes_back_by_one_probe_that_is_not_retried() {
    let clock = Arc::new(ManualClock::new());
    let failures = vec![error(Disposition::Transient); 10];
    let primary = Scripted::new("primary", &failures);
    let fallback = Scripted::new("fallback-1", &[]);
    let chain = watched(&[&primary, &fallback], &clock);
    for sent in 1..=5 {
        send(&chain).await;
        assert_eq!((primary.calls(), fallback.calls()), (2 * sent, sent));
    }
    assert_eq!(chain.entries[0].health.state(), HealthState::Down);
    send(&chain).await;
    assert_eq!((primary.calls(), fallback.calls()), (10, 6), "not asked");

    clock.advance(Duration::from_secs(30));
    primary
        .answers
        .lock()
        .unwrap()
        .push_back(error(Disposition::Transient));
    send(&chain).await;
    assert_eq!((primary.calls(), fallback.calls()), (11, 7), "one probe");
    send(&chain).await;
    assert_eq!((primary.calls(), fallback.calls()), (11, 8), "not again");

    clock.advance(Duration::from_mins(1));
    send(&chain).await;
    assert_eq!((primary.calls(), fallback.calls()), (12, 8), "it works");
    send(&chain).await;
    assert_eq!((primary.calls(), fallback.calls()), (13, 8), "in its place");
}

/// What is logged while `work` is done, metrics among it.
async fn logged(work: impl Future<Output = ()>) -> String {
    let lines = Captured::default();
    let subscriber = tracing_subscriber::fmt()
        .without_time()
        .with_ansi(false)
        .with_writer(lines.clone())
        .finish();
    let guard = listen(subscriber);
    work.await;
    drop(guard);
    lines.text()
}

#[tokio::test(start_paused = true)]
async fn that_a_clinic_runs_on_its_fallback_is_said_for_every_message() {
    let clock = Arc::new(ManualClock::new());
    let suspended = ProviderError::new(
        Disposition::ProviderDown,
        ErrorKind::AccountSuspended,
        "scripted",
    );
    let primary = Scripted::new("primary", &[suspended]);
    let fallback = Scripted::new("fallback-1", &[]);
    let chain = watched(&[&primary, &fallback], &clock);
    // The first tries the primary, the others know that it is down: told of all the same.
    let log = logged(async {
        for _ in 0..3 {
            send(&chain).await;
        }
    })
    .await;
    let count = |text: &str| log.matches(text).count();
    assert_eq!(count("sent by a fallback"), 3, "{log}");
    assert_eq!(
        count("comms_metrics: sent_by_fallback=1 channel=\"email\" provider=smtp"),
        3
    );
    assert_eq!(count("out_health=\"down\""), 3);
    assert_eq!(count("provider health changed"), 1);
    assert_eq!(count("comms_metrics: provider_down=1"), 1);

    clock.advance(Duration::from_mins(5));
    let log = logged(async { drop(send(&chain).await) }).await;
    assert!(!log.contains("sent by a fallback"), "{log}");
}

#[tokio::test(start_paused = true)]
async fn who_is_down_is_tried_all_the_same_when_all_others_fail() {
    let clock = Arc::new(ManualClock::new());
    let refused = ProviderError::new(
        Disposition::ProviderDown,
        ErrorKind::AccountSuspended,
        "scripted",
    );
    let primary = Scripted::new("primary", std::slice::from_ref(&refused));
    let fallback = Scripted::new("fallback-1", &[refused.clone(), refused]);
    let chain = watched(&[&primary, &fallback], &clock);
    assert_eq!(send(&chain).await.end, ChainEnd::AllFailed);
    // Both are down, after one answer each; the first works again.
    let report = send(&chain).await;
    assert!(matches!(report.end, ChainEnd::Sent { .. }));
    assert_eq!((primary.calls(), fallback.calls()), (2, 1));
    assert_eq!(chain.entries[0].health.state(), HealthState::Healthy);
    // And is in its place, the other one is not.
    send(&chain).await;
    assert_eq!((primary.calls(), fallback.calls()), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_the_provider_refuses_for_itself_does_not_take_the_provider_down() {
    let clock = Arc::new(ManualClock::new());
    let refused = ProviderError::new(Disposition::Final, ErrorKind::InvalidRecipient, "scripted");
    let primary = Scripted::new("primary", &vec![refused; 20]);
    let chain = watched(&[&primary], &clock);
    for _ in 0..20 {
        assert_eq!(send(&chain).await.end, ChainEnd::Rejected);
    }
    assert_eq!(chain.entries[0].health.state(), HealthState::Healthy);
}
