//! Newer settings while a message is on its way.

use super::*;

#[tokio::test(start_paused = true)]
async fn after_a_refused_login_the_same_entry_is_tried_again_with_newer_settings() {
    let refused = ProviderError::new(
        Disposition::ProviderDown,
        ErrorKind::Unauthenticated,
        "scripted",
    );
    let old = Scripted::new("primary", &vec![refused.clone(); 3]);
    let fallback = Scripted::new("fallback-1", &[]);
    let rotated = Scripted::new("primary", &[]);
    let newer = chain(&[&rotated, &fallback], AmbiguityPolicy::Failover, 0);
    let running = chain(&[&old, &fallback], AmbiguityPolicy::Failover, 0);
    let deadline = Deadline::after(Duration::from_mins(1));
    let renew = |_| -> Renewed<'_> {
        let newer = newer.clone();
        Box::pin(async move { Renewal::Newer(newer) })
    };
    let report = running.send(&message(), deadline, &renew, &Unlimited).await;
    assert!(matches!(report.end, ChainEnd::Sent { .. }));
    assert_eq!((old.calls(), rotated.calls(), fallback.calls()), (1, 1, 0));

    // Newer settings that are refused too are followed by the next entry.
    let still_wrong = Scripted::new("primary", &vec![refused.clone(); 3]);
    let newer = chain(&[&still_wrong, &fallback], AmbiguityPolicy::Failover, 0);
    let report = chain(&[&still_wrong, &fallback], AmbiguityPolicy::Failover, 0)
        .send(&message(), deadline, &once(&newer), &Unlimited)
        .await;
    assert!(matches!(report.end, ChainEnd::Sent { .. }));
    assert_eq!((still_wrong.calls(), fallback.calls()), (2, 1));

    // Settings that are newer each time do not keep a message without end, and none goes by those before.
    let always_refused = Scripted::new("primary", &vec![refused; 99]);
    let newer = chain(&[&always_refused, &fallback], AmbiguityPolicy::Failover, 0);
    let renew = |_| -> Renewed<'_> {
        let newer = newer.clone();
        Box::pin(async move { Renewal::Newer(newer) })
    };
    let report = newer.send(&message(), deadline, &renew, &Unlimited).await;
    assert_eq!(report.end, ChainEnd::SettingsUnreadable);
    assert_eq!((always_refused.calls(), fallback.calls()), (9, 1));
}

/// Newer settings for the first who asks.
fn once(newer: &Arc<Chain>) -> impl Fn(RenewAt) -> Renewed<'static> + Send + Sync + use<> {
    let newer = Mutex::new(Some(newer.clone()));
    move |_| {
        let newer = newer.lock().unwrap().take();
        Box::pin(async move { newer.map_or(Renewal::Unchanged, Renewal::Newer) })
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_after_a_failure_goes_by_newer_settings_whatever_the_error() {
    let refused_login = ProviderError::new(
        Disposition::Transient,
        ErrorKind::Unauthenticated,
        "scripted",
    );
    for (answer, retries) in [
        (error(Disposition::ProviderDown), 0),
        (error(Disposition::Transient), 0),
        (error(Disposition::Transient), 2),
        (refused_login, 2),
        (error(Disposition::Ambiguous), 0),
    ] {
        let is_doubtful = answer.disposition == Disposition::Ambiguous;
        let label = format!("{answer:?} {retries}");
        let old = Scripted::new("primary", &[answer]);
        let (removed, kept) = (
            Scripted::new("fallback-1", &[]),
            Scripted::new("fallback-2", &[]),
        );
        let corrected = Scripted::new("primary", &[]);
        let newer = chain(&[&corrected], AmbiguityPolicy::Failover, 0);
        let mut newer = Chain::clone(&newer);
        newer.entries.push(entry(&kept, Position::Fallback(0), 0));
        let newer = Arc::new(newer);
        let running = chain(&[&old, &removed], AmbiguityPolicy::Failover, retries);
        let deadline = Deadline::after(Duration::from_mins(1));
        let report = running
            .send(&message(), deadline, &once(&newer), &Unlimited)
            .await;
        assert!(matches!(report.end, ChainEnd::Sent { .. }), "{label}");
        assert_eq!((old.calls(), removed.calls()), (1, 0), "{label}");
        // Where a message may be already, it does not go to the same entry again.
        let calls = (corrected.calls(), kept.calls());
        let expected = if is_doubtful { (0, 1) } else { (1, 0) };
        assert_eq!(calls, expected, "{label}");
    }
}

#[tokio::test(start_paused = true)]
async fn newer_settings_are_asked_for_before_each_attempt_but_the_first() {
    let asked = Mutex::new(Vec::new());
    let renew = |at| -> Renewed<'_> {
        asked.lock().unwrap().push(at);
        Box::pin(async { Renewal::Unchanged })
    };
    let deadline = Deadline::after(Duration::from_mins(1));
    let works = Scripted::new("primary", &[]);
    let alone = chain(&[&works], AmbiguityPolicy::Failover, 2);
    alone.send(&message(), deadline, &renew, &Unlimited).await;
    assert_eq!(*asked.lock().unwrap(), []);

    let failures = vec![error(Disposition::Transient); 2];
    let (own, global) = (
        Scripted::new("primary", &failures),
        Scripted::new("global", &failures),
    );
    let own = chain(&[&own], AmbiguityPolicy::Failover, 1);
    let chain = own.then_global(&chain(&[&global], AmbiguityPolicy::Failover, 1));
    let chain = Arc::new(chain);
    chain.send(&message(), deadline, &renew, &Unlimited).await;
    let next = |is_global| RenewAt::NextAttempt { is_global };
    let expected = [
        next(false),
        next(false),
        RenewAt::PlatformReached,
        next(true),
    ];
    assert_eq!(*asked.lock().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_by_settings_that_are_replaced_and_cannot_be_read() {
    let deadline = Deadline::after(Duration::from_mins(1));
    let renew = |_| -> Renewed<'_> { Box::pin(async { Renewal::Unreadable }) };
    let (down, fallback) = (
        Scripted::new("primary", &[error(Disposition::ProviderDown)]),
        Scripted::new("fallback-1", &[]),
    );
    let running = chain(&[&down, &fallback], AmbiguityPolicy::Failover, 0);
    let report = running.send(&message(), deadline, &renew, &Unlimited).await;
    assert_eq!(report.end, ChainEnd::SettingsUnreadable);
    assert_eq!((report.attempts.len(), fallback.calls()), (1, 0));

    let global = Scripted::new("global", &[]);
    let running = Arc::new(chain(&[&global], AmbiguityPolicy::Failover, 0).as_global());
    let report = running.send(&message(), deadline, &renew, &Unlimited).await;
    assert_eq!(report.end, ChainEnd::SettingsUnreadable);
    assert_eq!(global.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_platforms_settings_are_asked_for_once_before_its_first_attempt() {
    let (down, old, new) = (
        Scripted::new("primary", &[error(Disposition::Transient)]),
        Scripted::new("global", &[]),
        Scripted::new("global", &[]),
    );
    let own = chain(&[&down], AmbiguityPolicy::Failover, 0);
    let with = |global| Arc::new(own.then_global(&chain(&[global], AmbiguityPolicy::Failover, 0)));
    let newer = with(&new);
    let asked = Mutex::new(Vec::new());
    let renew = |at| -> Renewed<'_> {
        asked.lock().unwrap().push(at);
        let newer = newer.clone();
        Box::pin(async move {
            match at {
                RenewAt::PlatformReached => Renewal::Newer(newer),
                RenewAt::NextAttempt { .. } | RenewAt::Refused { .. } => Renewal::Unchanged,
            }
        })
    };
    let deadline = Deadline::after(Duration::from_mins(1));
    let report = with(&old)
        .send(&message(), deadline, &renew, &Unlimited)
        .await;
    assert!(matches!(report.end, ChainEnd::Sent { .. }));
    assert_eq!((down.calls(), old.calls(), new.calls()), (1, 0, 1));
    assert_eq!(
        *asked.lock().unwrap(),
        [
            RenewAt::NextAttempt { is_global: false },
            RenewAt::PlatformReached,
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn newer_settings_that_hold_end_what_may_have_been_sent() {
    let (doubtful, down, spare) = (
        Scripted::new("primary", &[error(Disposition::Ambiguous)]),
        Scripted::new("fallback-1", &[error(Disposition::ProviderDown)]),
        Scripted::new("fallback-2", &[]),
    );
    let newer = chain(&[&spare], AmbiguityPolicy::Hold, 0);
    let renew = |_| -> Renewed<'_> {
        let newer = newer.clone();
        Box::pin(async move { Renewal::Newer(newer) })
    };
    let running = chain(&[&doubtful, &down], AmbiguityPolicy::Failover, 0);
    let deadline = Deadline::after(Duration::from_mins(1));
    let report = running.send(&message(), deadline, &renew, &Unlimited).await;
    assert_eq!((report.end, spare.calls()), (ChainEnd::Held, 0));
}
