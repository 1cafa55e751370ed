//! Rate limits of accounts.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_turn_that_comes_soon_is_waited_for_and_one_turn_is_for_all_retries() {
    let primary = Scripted::new("primary", &vec![error(Disposition::Transient); 2]);
    let chain = paced(&[&primary], AmbiguityPolicy::Failover, 2);
    let limiter = ScriptedLimiter::new([Admission::After(MAX_WAIT_DURATION)]);
    let started = tokio::time::Instant::now();
    let report = send_paced(&chain, Duration::from_mins(1), &limiter).await;
    assert!(matches!(report.end, ChainEnd::Sent { .. }));
    assert!(started.elapsed() >= MAX_WAIT_DURATION);
    assert_eq!((limiter.asked().len(), primary.calls()), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn what_is_paced_goes_back_and_to_no_other_provider_and_nobody_is_blamed() {
    let long = MAX_WAIT_DURATION + Duration::from_millis(1);
    for admission in [
        Admission::After(long),
        Admission::NotBefore(long),
        Admission::NotBefore(Duration::from_millis(1)),
    ] {
        let (primary, fallback) = (
            Scripted::new("primary", &[]),
            Scripted::new("fallback-1", &[]),
        );
        let chain = paced(&[&primary, &fallback], AmbiguityPolicy::Failover, 0);
        let limiter = ScriptedLimiter::new([admission]);
        let started = tokio::time::Instant::now();
        let report = send_paced(&chain, Duration::from_mins(1), &limiter).await;
        let (Admission::After(after) | Admission::NotBefore(after)) = admission;
        assert_eq!(report.end, ChainEnd::Paced { after });
        assert_eq!(report.attempts, []);
        assert_eq!((primary.calls(), fallback.calls()), (0, 0), "{admission:?}");
        assert_eq!(limiter.asked(), ["primary"]);
        assert!(started.elapsed().is_zero(), "nobody waits in vain");
        let states: Vec<_> = chain
            .entries
            .iter()
            .map(|entry| entry.health.state())
            .collect();
        assert_eq!(states, [HealthState::Healthy; 2]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_leaves_no_time_for_the_attempt_is_not_waited_for() {
    let (primary, fallback) = (
        Scripted::new("primary", &[]),
        Scripted::new("fallback-1", &[]),
    );
    let after = Duration::from_millis(1_500);
    // Of eight seconds the first of two has four, of which an attempt needs three.
    let chain = paced(&[&primary, &fallback], AmbiguityPolicy::Failover, 0);
    let limiter = ScriptedLimiter::new([Admission::After(after)]);
    let report = send_paced(&chain, Duration::from_secs(8), &limiter).await;
    assert_eq!(report.end, ChainEnd::Paced { after });
    let alone = paced(&[&primary], AmbiguityPolicy::Failover, 0);
    let limiter = ScriptedLimiter::new([Admission::After(after)]);
    let report = send_paced(&alone, Duration::from_secs(8), &limiter).await;
    assert!(matches!(report.end, ChainEnd::Sent { .. }));
}

#[tokio::test(start_paused = true)]
async fn attempts_that_were_made_before_a_paced_entry_are_reported_with_it() {
    let primary = Scripted::new("primary", &[error(Disposition::Ambiguous)]);
    let fallback = Scripted::new("fallback-1", &[]);
    let chain = paced(&[&primary, &fallback], AmbiguityPolicy::Failover, 0);
    let after = Duration::from_secs(30);
    let limiter = ScriptedLimiter::new([Admission::NOW, Admission::NotBefore(after)]);
    let report = send_paced(&chain, Duration::from_mins(1), &limiter).await;
    assert_eq!(report.end, ChainEnd::Paced { after });
    assert_eq!((report.attempts.len(), report.unknown_outcomes), (1, 1));
    assert_eq!(limiter.asked(), ["primary", "fallback-1"]);
    assert_eq!(fallback.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_entry_without_a_limit_asks_nobody() {
    let primary = Scripted::new("primary", &[]);
    let limiter = ScriptedLimiter::default();
    let chain = chain(&[&primary], AmbiguityPolicy::Failover, 0);
    send_paced(&chain, Duration::from_mins(1), &limiter).await;
    assert_eq!((limiter.asked().len(), primary.calls()), (0, 1));
}
