//! The test of one entry: its stages, and a message.

use std::time::{Duration, Instant};

use comms_adapters::{Deadline, EntrySpec, StageOutcome, StageReport, VerifyStage};
use comms_core::{EntryId, ErrorKind, Tenant};
use comms_delivery::health::PassedTest;
use serde_json::{Value, json};
use tokio::time::Instant as TokioInstant;
use tracing::info;

use crate::{Deps, message::TestMessage, report::Stages};

/// A test that reached nobody is answered after a whole number of these steps. A port that refuses does so at once, and a
/// silent one takes three seconds (the time limit of a connection); the caller cannot tell them apart.
pub const HOLD_STEP: Duration = Duration::from_secs(5);
/// The part of the request's time that is kept for the answer.
const RESPONSE_MARGIN: Duration = Duration::from_secs(1);

/// Verifies an entry, and sends a test message where one is given and every stage passed. Returns the row of the answer,
/// and the test if it passed.
pub(crate) async fn test_entry(
    deps: &Deps,
    tenant: &Tenant,
    spec: EntrySpec,
    enabled: bool,
    message: Option<&TestMessage>,
    deadline: Deadline,
) -> (Value, Option<PassedTest>) {
    let started = TokioInstant::now();
    let (id, position, provider) = (spec.id, spec.position, spec.config.kind());
    let stages = Stages::of(&*spec.config, message.is_some());
    let row = match deps.factory.provider(&*spec.config, spec.sender) {
        Ok(adapter) => {
            let reports = adapter.verify(deadline).await;
            log_failures(tenant, &id, &reports);
            let verified = reports
                .iter()
                .all(|report| report.outcome == StageOutcome::Passed);
            let mut row = stages.row(reports);
            if let Some(message) = message.filter(|_| verified) {
                let started = Instant::now();
                let sent = adapter.send(&message.for_one_entry(), deadline).await;
                row.sent(sent.map(drop), started.elapsed());
            }
            row
        }
        Err(_) => stages.row(vec![unusable_roots()]),
    };
    if row.conceals {
        hold(started, deps.hold_step, deadline).await;
    }
    let json = json!({
        "entry": id, "position": position, "provider": provider, "enabled": enabled,
        "ok": row.is_ok(), "stages": row.to_json(),
    });
    let passed = row.is_ok().then_some(PassedTest {
        entry: id,
        was_message_sent: message.is_some(),
    });
    (json, passed)
}

/// Logs the failed stages for the operators: the answer conceals some of it.
fn log_failures(tenant: &Tenant, entry: &EntryId, reports: &[StageReport]) {
    for report in reports {
        if let StageOutcome::Failed { kind, code, .. } = &report.outcome {
            info!(
                clinic_id = %tenant,
                %entry,
                stage = ?report.stage,
                kind = kind.as_str(),
                code = code.as_ref().map(tracing::field::display),
                duration_ms = u64::try_from(report.duration.as_millis()).unwrap_or(u64::MAX),
                "a stage failed"
            );
        }
    }
}

/// Waits until a whole number of `step`s has passed since `started`, or until shortly before the deadline. The duration of
/// a test would otherwise show what the row conceals.
async fn hold(started: TokioInstant, step: Duration, deadline: Deadline) {
    let over = started
        .elapsed()
        .as_nanos()
        .checked_rem(step.as_nanos())
        .and_then(|over| u64::try_from(over).ok());
    if let Some(over) = over {
        let wait = step.saturating_sub(Duration::from_nanos(over));
        tokio::time::sleep(wait.min(deadline.less(RESPONSE_MARGIN).remaining())).await;
    }
}

fn unusable_roots() -> StageReport {
    StageReport {
        stage: VerifyStage::Tls,
        outcome: StageOutcome::Failed {
            kind: ErrorKind::Unauthenticated,
            code: None,
            detail: "caPem holds no certificate that can be a trust root.",
        },
        duration: Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When an entry for which nobody was found after `millis` is answered, in milliseconds.
    async fn answered_after(millis: u64, deadline: Duration) -> u128 {
        let deadline = Deadline::after(deadline);
        let started = TokioInstant::now();
        tokio::time::advance(Duration::from_millis(millis)).await;
        hold(started, HOLD_STEP, deadline).await;
        started.elapsed().as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_and_a_silent_port_are_answered_after_the_same_time() {
        let time = Duration::from_secs(28);
        for millis in [1, 60, 3_000, 4_999] {
            assert_eq!(answered_after(millis, time).await, 5_000, "{millis}");
        }
        assert_eq!(answered_after(8_001, time).await, 10_000);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_made_to_wait_beyond_the_requests_time() {
        let time = Duration::from_secs(4);
        assert_eq!(answered_after(1_000, time).await, 3_000);
        assert_eq!(answered_after(3_500, time).await, 3_500);
    }
}
