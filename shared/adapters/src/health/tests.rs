use std::sync::atomic::{AtomicI64, Ordering};

use comms_core::{Disposition, ErrorKind, ProviderCode, ProviderError};
use proptest::prelude::*;

use super::*;

/// Seconds since some time.
struct Seconds(AtomicI64);

impl Seconds {
    fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(1_767_225_600)))
    }

    fn advance(&self, by: SignedDuration) {
        self.0.fetch_add(by.as_secs(), Ordering::Relaxed);
    }
}

impl Clock for Seconds {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.0.load(Ordering::Relaxed)).unwrap()
    }
}

const FAILURE: Sample = Sample::Failure {
    kind: ErrorKind::Unavailable,
    is_conclusive: false,
};
const REFUSED: Sample = Sample::Failure {
    kind: ErrorKind::Unauthenticated,
    is_conclusive: true,
};

fn new() -> (Arc<Seconds>, Arc<Health>) {
    let clock = Seconds::new();
    let health = Health::new(clock.clone());
    (clock, health)
}

fn record(health: &Health, samples: &[(Sample, usize)]) {
    for (sample, times) in samples {
        for _ in 0..*times {
            health.record(*sample);
        }
    }
}

#[test]
fn the_rate_decides_once_enough_is_known() {
    use HealthState::{Degraded, Down, Healthy};
    for (succeeded, failed, state) in [
        (0, 4, Healthy),
        (0, 5, Down),
        (4, 1, Degraded),
        (3, 2, Down),
        (16, 4, Degraded),
        (79, 21, Down),
        (19, 1, Degraded),
        (20, 1, Healthy),
        (96, 4, Healthy),
    ] {
        let (_, health) = new();
        record(&health, &[(Sample::Success, succeeded), (FAILURE, failed)]);
        assert_eq!(health.state(), state, "{succeeded} and {failed}");
    }
}

#[test]
fn what_is_older_than_the_window_does_not_count() {
    let (clock, health) = new();
    record(&health, &[(FAILURE, 4)]);
    clock.advance(WINDOW);
    record(&health, &[(FAILURE, 4)]);
    assert_eq!(health.state(), HealthState::Healthy);
    record(&health, &[(FAILURE, 1)]);
    assert_eq!(health.state(), HealthState::Down);
}

#[test]
fn a_degraded_entry_is_healthy_again_when_the_window_has_passed_and_it_works() {
    let (clock, health) = new();
    record(&health, &[(Sample::Success, 4), (FAILURE, 1)]);
    clock.advance(WINDOW / 2);
    record(&health, &[(Sample::Success, 1)]);
    assert_eq!(health.state(), HealthState::Degraded);
    clock.advance(WINDOW);
    let change = health.record(Sample::Success).unwrap();
    assert_eq!(
        (change.from, change.to),
        (HealthState::Degraded, HealthState::Healthy)
    );
}

#[test]
fn one_refused_login_or_suspension_is_enough() {
    let error = |kind| ProviderError::new(Disposition::ProviderDown, kind, "test");
    for kind in ErrorKind::ALL {
        let (_, health) = new();
        if let Some(sample) = Sample::of_error(&error(kind)) {
            health.record(sample);
        }
        let conclusive = matches!(
            kind,
            ErrorKind::Unauthenticated | ErrorKind::AccountSuspended
        );
        assert_eq!(health.state() == HealthState::Down, conclusive, "{kind:?}");
    }
}

#[test]
fn what_leaves_health_unchanged_is_no_sample_and_a_refused_recipient_shows_that_the_provider_works()
{
    let error = |disposition| ProviderError::new(disposition, ErrorKind::InvalidRecipient, "test");
    let down = error(Disposition::ProviderDown);
    assert!(Sample::of_error(&down).is_some());
    assert_eq!(Sample::of_error(&down.health_unchanged()), None);
    let refused = error(Disposition::Final);
    assert_eq!(Sample::of_error(&refused), None, "perhaps never asked");
    let refused = refused.with_code(ProviderCode::parse("550 5.1.1"));
    assert_eq!(Sample::of_error(&refused), Some(Sample::Success));
}

#[test]
fn down_goes_last_until_a_probe_one_at_a_time_finds_it_working() {
    let (clock, health) = new();
    record(&health, &[(FAILURE, 5)]);
    assert!(matches!(health.candidate(), Candidate::Last));
    clock.advance(COOL_DOWN);
    let probe = health.candidate();
    assert!(matches!(probe, Candidate::Probe(_)));
    assert!(
        matches!(health.candidate(), Candidate::Last),
        "one at a time"
    );
    drop(probe);
    let probe = health.candidate();
    assert!(matches!(probe, Candidate::Probe(_)), "given back");

    // It fails: twice as long.
    health.record(FAILURE);
    drop(probe);
    clock.advance(COOL_DOWN);
    assert!(matches!(health.candidate(), Candidate::Last));
    clock.advance(COOL_DOWN);
    let probe = health.candidate();
    assert!(matches!(probe, Candidate::Probe(_)));

    // It works: what was before is forgotten.
    let change = health.record(Sample::Success).unwrap();
    drop(probe);
    assert_eq!(change.to, HealthState::Healthy);
    record(&health, &[(FAILURE, 1)]);
    assert!(matches!(health.candidate(), Candidate::InPlace));
}

#[test]
fn the_cool_down_has_an_end_and_a_refused_login_begins_with_the_longest() {
    let (clock, health) = new();
    health.record(REFUSED);
    clock.advance(MAX_COOL_DOWN_DURATION - SignedDuration::from_secs(1));
    assert!(matches!(health.candidate(), Candidate::Refused));
    clock.advance(SignedDuration::from_secs(1));
    for _ in 0..20 {
        assert!(matches!(health.candidate(), Candidate::Probe(_)));
        health.record(FAILURE);
        clock.advance(MAX_COOL_DOWN_DURATION);
    }
    // A clock that went back by a day holds nothing off.
    health.record(FAILURE);
    clock.advance(SignedDuration::from_hours(-24));
    assert!(matches!(health.candidate(), Candidate::Probe(_)));
}

#[test]
fn probe_of_a_refused_login_needs_a_permit_and_another_process_may_have_it() {
    let (clock, health) = new();
    record(&health, &[(FAILURE, 5)]);
    clock.advance(COOL_DOWN);
    let Candidate::Probe(probe) = health.candidate() else {
        panic!("no probe")
    };
    assert!(!probe.needs_permit());
    // What it finds is that the login is refused.
    health.record(REFUSED);
    assert!(probe.needs_permit());
    drop(probe);
    assert!(matches!(health.candidate(), Candidate::Refused));

    clock.advance(MAX_COOL_DOWN_DURATION);
    let Candidate::Probe(probe) = health.candidate() else {
        panic!("no probe")
    };
    let minute = SignedDuration::from_mins(1);
    probe.postpone(clock.now() + minute);
    assert!(matches!(health.candidate(), Candidate::Refused));
    clock.advance(minute);
    assert!(matches!(health.candidate(), Candidate::Probe(_)));
}

#[test]
fn a_change_is_told_once_and_again_where_telling_failed() {
    let (_, health) = new();
    assert!(health.unshared().is_none());
    record(&health, &[(FAILURE, 5), (FAILURE, 3)]);
    let change = health.unshared().unwrap();
    assert_eq!(change.record().state, HealthState::Down);
    assert!(health.unshared().is_none(), "one tells it");
    drop(change);
    health.unshared().unwrap().done();
    assert!(health.unshared().is_none());
    health.record(Sample::Success);
    assert_eq!(
        health.unshared().unwrap().record().state,
        HealthState::Healthy
    );
}

#[test]
fn what_others_saw_later_is_taken_over_and_told_to_nobody() {
    let (clock, here) = new();
    let there = Health::new(clock.clone());
    there.record(REFUSED);
    let down = *there.unshared().unwrap().record();
    here.adopt(&down);
    assert!(matches!(here.candidate(), Candidate::Refused));
    assert!(here.unshared().is_none());

    // The cool-down counts from the change: a process that has just started need not wait it out.
    clock.advance(MAX_COOL_DOWN_DURATION);
    let started = Health::new(clock.clone());
    started.adopt(&down);
    assert!(matches!(started.candidate(), Candidate::Probe(_)));

    there.record(Sample::Success);
    let healthy = *there.unshared().unwrap().record();
    here.adopt(&healthy);
    assert!(matches!(here.candidate(), Candidate::InPlace));
    here.adopt(&down);
    assert_eq!(here.state(), HealthState::Healthy, "older news is no news");
}

proptest! {
    /// Whatever happens in whatever order: somebody who is down has a way back, and states follow
    /// from what was recorded.
    #[test]
    fn there_is_always_a_way_back(events in proptest::collection::vec(0_u8..6, 0..200)) {
        let (clock, health) = new();
        for event in events {
            match event {
                0 => { health.record(Sample::Success); }
                1 => { health.record(FAILURE); }
                2 => { health.record(REFUSED); }
                3 => clock.advance(SignedDuration::from_secs(17)),
                4 => drop(health.candidate()),
                _ => drop(health.unshared()),
            }
            let in_place = matches!(health.candidate(), Candidate::InPlace);
            prop_assert_eq!(in_place, health.state() != HealthState::Down);
        }
        clock.advance(MAX_COOL_DOWN_DURATION);
        prop_assert!(!matches!(health.candidate(), Candidate::Last | Candidate::Refused));
        health.record(Sample::Success);
        prop_assert!(health.state() != HealthState::Down);
    }
}

#[test]
fn the_first_probe_comes_when_the_cool_down_is_over() {
    let since = Timestamp::UNIX_EPOCH;
    let record = |state, last_error| HealthRecord {
        state,
        since,
        last_error,
    };
    for (error, rest) in [
        (None, COOL_DOWN),
        (Some(ErrorKind::Unavailable), COOL_DOWN),
        (Some(ErrorKind::Unauthenticated), MAX_COOL_DOWN_DURATION),
        (Some(ErrorKind::AccountSuspended), MAX_COOL_DOWN_DURATION),
    ] {
        let down = record(HealthState::Down, error);
        assert_eq!(first_probe(&down), since.checked_add(rest).ok());
    }
    for state in [HealthState::Healthy, HealthState::Degraded] {
        assert_eq!(first_probe(&record(state, None)), None);
    }
}
