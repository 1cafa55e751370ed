//! How the time is shared between the entries.

use super::*;

/// Never answers; ends when its time does.
#[derive(Debug)]
struct Hanging;

#[async_trait]
impl Provider for Hanging {
    fn kind(&self) -> ProviderKind {
        ProviderKind::new("smtp")
    }

    fn capabilities(&self) -> &'static Capabilities {
        Scripted::default_capabilities()
    }

    async fn send(&self, _: &Message, deadline: Deadline) -> Result<Receipt, ProviderError> {
        tokio::time::sleep(deadline.remaining()).await;
        let timeout = ErrorKind::Timeout;
        Err(ProviderError::new(
            Disposition::Transient,
            timeout,
            "scripted",
        ))
    }

    async fn verify(&self, _: Deadline) -> Vec<StageReport> {
        Vec::new()
    }
}

/// Second by second: with 24 s, 12 for the primary, 6 for the next, 3 for the one after it, and the
/// rest for the last.
#[tokio::test(start_paused = true)]
async fn who_hangs_leaves_those_after_it_as_much_time_as_it_had() {
    let last = Scripted::new("global", &[]);
    let mut chain = Chain::clone(&chain(&[&last; 4], AmbiguityPolicy::Failover, 2));
    for entry in &mut chain.entries[..3] {
        entry.provider = Arc::new(Hanging);
    }
    let chain = Arc::new(chain);
    let report = send_within(&chain, Duration::from_secs(24)).await;
    let seconds: Vec<_> = report
        .attempts
        .iter()
        .map(|attempt| attempt.duration.as_secs())
        .collect();
    assert_eq!(seconds, [12, 6, 3, 0]);
    assert!(matches!(report.end, ChainEnd::Sent { .. }));

    // Where a doubt would end everything, the first leaves no more than a provider needs that works.
    let mut holding = Chain::clone(&chain);
    holding.on_ambiguous = AmbiguityPolicy::Hold;
    let report = send_within(&Arc::new(holding), Duration::from_secs(24)).await;
    let seconds: Vec<_> = report
        .attempts
        .iter()
        .map(|attempt| attempt.duration.as_secs())
        .collect();
    assert_eq!(seconds, [18, 3, 3]);

    // Alone, it has all the time there is.
    let mut alone = Chain::empty();
    alone.entries.push(entry(&last, Position::Primary, 2));
    alone.entries[0].provider = Arc::new(Hanging);
    let report = send_within(&Arc::new(alone), Duration::from_secs(24)).await;
    assert_eq!(report.attempts[0].duration.as_secs(), 24);
}

/// From the queue nobody waits for the outcome: those that follow have what is enough for providers that work.
#[tokio::test(start_paused = true)]
async fn a_slow_provider_has_all_but_six_seconds_from_the_queue() {
    let last = Scripted::new("global", &[]);
    for (others, expected) in [(1, 18), (2, 12), (3, 12)] {
        let all = vec![&last; others + 1];
        let mut chain = Chain::clone(&chain(&all, AmbiguityPolicy::Failover, 2));
        chain.entries[0].provider = Arc::new(Hanging);
        let deadline = Deadline::after(Duration::from_secs(24)).queued();
        let report = send_by(&Arc::new(chain), deadline, &Unlimited).await;
        assert_eq!(report.attempts[0].duration.as_secs(), expected, "{others}");
        assert!(matches!(report.end, ChainEnd::Sent { .. }), "{others}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_hangs_is_not_tried_again_while_another_is_left() {
    let timeout = ProviderError::new(Disposition::Transient, ErrorKind::Timeout, "scripted");
    let hung = Scripted::new("primary", &vec![timeout; 9]);
    let fallback = Scripted::new("fallback-1", &[]);
    send(&chain(&[&hung, &fallback], AmbiguityPolicy::Failover, 2)).await;
    assert_eq!((hung.calls(), fallback.calls()), (1, 1));
    // Alone, it is what there is.
    send(&chain(&[&hung], AmbiguityPolicy::Failover, 2)).await;
    assert_eq!(hung.calls(), 1 + 3);
}

#[tokio::test(start_paused = true)]
async fn an_empty_chain_and_one_that_runs_out_of_time_say_so() {
    assert_eq!(
        send(&Arc::new(Chain::empty())).await.end,
        ChainEnd::NoProvider
    );
    let slow = Arc::new(Scripted {
        name: "primary",
        answers: Mutex::new([error(Disposition::ProviderDown)].into()),
        takes: Duration::from_secs(9),
        ..Scripted::default()
    });
    let next = Scripted::new("fallback-1", &[]);
    let chain = chain(&[&slow, &next], AmbiguityPolicy::Failover, 0);
    let report = send_within(&chain, Duration::from_millis(9_500)).await;
    assert_eq!((report.end, next.calls()), (ChainEnd::OutOfTime, 0));
}
