//! The report of a test: one row per entry with a cell per stage.
//!
//! If a connection ends before the peer has shown that it is a server of the expected kind, the row says that there is no
//! such server and conceals the reason: `infra/docs/adr/0007-what-a-test-tells.md`.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use comms_adapters::{
    ProviderConfig, StageOutcome, StageReport, VerifyStage,
    verify::{Peer, VerifyPlan},
};
use comms_core::{Disposition, ErrorKind, ProviderCode, ProviderError};
use serde_json::{Value, json};

const MAY_HAVE_ARRIVED: &str =
    "The test message may have arrived all the same: look for it before the next test.";
const NOT_REACHED: &str = "Not reached, because of the stage that failed.";

/// The stage and the text that replace a failure before the peer has shown its kind. The real stage would reveal as much as
/// the reason.
const fn instead(peer: Peer, report: &StageReport) -> Option<(VerifyStage, &'static str)> {
    let StageOutcome::Failed { kind, code, .. } = &report.outcome else {
        return None;
    };
    match (peer, report.stage) {
        (Peer::MailServer, VerifyStage::Resolve | VerifyStage::Egress) => Some((
            VerifyStage::Resolve,
            "The host does not resolve to an address on the public internet, or the port is none of 465, 587 and 2525; \
             check both.",
        )),
        (Peer::Api, VerifyStage::Resolve | VerifyStage::Egress) => Some((
            VerifyStage::Resolve,
            "The host of the API does not resolve to an address on the public internet, or its port is not 443; \
             check apiUrl where it is set, else try again later.",
        )),
        // A certificate that does not verify, a mail server without STARTTLS, one that says by a reply why
        // it does not talk: it is there for everybody to see, and its owner has to act.
        (Peer::MailServer | Peer::Api, VerifyStage::Tls)
            if matches!(kind, ErrorKind::Unauthenticated) || code.is_some() =>
        {
            None
        }
        (Peer::MailServer, VerifyStage::Connect | VerifyStage::Tls) => Some((
            VerifyStage::Connect,
            "No mail server could be reached over TLS; check the host, that port and secure belong together \
             (465 true; 587 and 2525 false), and that the server takes connections from the internet.",
        )),
        (Peer::Api, VerifyStage::Connect | VerifyStage::Tls) => Some((
            VerifyStage::Connect,
            "The API could not be reached over TLS; check apiUrl where it is set, else try again later.",
        )),
        (
            Peer::MailServer | Peer::Api,
            VerifyStage::Authenticate
            | VerifyStage::Sender
            | VerifyStage::Quota
            | VerifyStage::Send,
        )
        | (Peer::Aws, _) => None,
    }
}

/// The stages that an entry has.
#[derive(Debug, Clone)]
pub(crate) struct Stages {
    peer: Peer,
    stages: Vec<VerifyStage>,
}

impl Stages {
    /// The stages of an entry with this configuration; `sends` where a message is sent at the end.
    pub(crate) fn of(config: &dyn ProviderConfig, sends: bool) -> Self {
        let VerifyPlan { peer, mut stages } = config.verify_plan();
        stages.extend(sends.then_some(VerifyStage::Send));
        Self { peer, stages }
    }

    /// The row of an entry of which `reports` says all that was done.
    pub(crate) fn row(self, reports: Vec<StageReport>) -> Row {
        let mut row = Row::default();
        for report in reports {
            let Some((stage, detail)) = instead(self.peer, &report) else {
                row.cells.insert(report.stage, report.into());
                continue;
            };
            row.conceals = true;
            row.cells.retain(|before, _| *before < stage);
            row.cells.insert(stage, Cell::nobody_there(detail));
        }
        for stage in self.stages {
            row.cells.entry(stage).or_insert(Cell::SKIPPED);
        }
        row
    }
}

/// How the stages of one entry went.
#[derive(Default)]
pub(crate) struct Row {
    cells: BTreeMap<VerifyStage, Cell>,
    /// Whether the row conceals the reason why the peer was not reached.
    pub(crate) conceals: bool,
}

impl Row {
    /// Whether every stage passed.
    pub(crate) fn is_ok(&self) -> bool {
        self.cells.values().all(|cell| match cell.outcome {
            Outcome::Passed => true,
            Outcome::Failed { .. } | Outcome::Skipped => false,
        })
    }

    /// Adds the result of the test message.
    pub(crate) fn sent(&mut self, result: Result<(), ProviderError>, duration: Duration) {
        let outcome = match result {
            Ok(()) => Outcome::Passed,
            Err(error) => Outcome::Failed {
                kind: error.kind,
                detail: match error.disposition {
                    Disposition::Ambiguous => format!("{} {MAY_HAVE_ARRIVED}", error.detail).into(),
                    Disposition::Transient | Disposition::ProviderDown | Disposition::Final => {
                        error.detail.into()
                    }
                },
                code: error.code,
            },
        };
        let duration = Some(duration);
        self.cells
            .insert(VerifyStage::Send, Cell { outcome, duration });
    }

    /// The stages as they are answered.
    pub(crate) fn to_json(&self) -> Value {
        let cells = self.cells.iter();
        cells.map(|(stage, cell)| cell.to_json(*stage)).collect()
    }
}

struct Cell {
    outcome: Outcome,
    /// `None` if nothing was done, or if the value would reveal what the row conceals.
    duration: Option<Duration>,
}

enum Outcome {
    Passed,
    Failed {
        kind: ErrorKind,
        code: Option<ProviderCode>,
        detail: Cow<'static, str>,
    },
    Skipped,
}

impl From<StageReport> for Cell {
    fn from(report: StageReport) -> Self {
        let outcome = match report.outcome {
            StageOutcome::Passed => Outcome::Passed,
            StageOutcome::Failed { kind, code, detail } => Outcome::Failed {
                kind,
                code,
                detail: detail.into(),
            },
        };
        Self {
            outcome,
            duration: Some(report.duration),
        }
    }
}

impl Cell {
    const SKIPPED: Self = Self {
        outcome: Outcome::Skipped,
        duration: None,
    };

    const fn nobody_there(detail: &'static str) -> Self {
        Self {
            outcome: Outcome::Failed {
                kind: ErrorKind::Unavailable,
                code: None,
                detail: Cow::Borrowed(detail),
            },
            duration: None,
        }
    }

    fn to_json(&self, stage: VerifyStage) -> Value {
        let mut json = json!({"stage": stage});
        json["outcome"] = match self.outcome {
            Outcome::Passed => json!("passed"),
            Outcome::Failed { .. } => json!("failed"),
            Outcome::Skipped => json!("skipped"),
        };
        if let Some(duration) = self.duration {
            json["durationMs"] = json!(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        }
        match &self.outcome {
            Outcome::Passed => {}
            Outcome::Failed { kind, code, detail } => {
                json["kind"] = json!(kind);
                if let Some(code) = code {
                    json["code"] = json!(code);
                }
                json["detail"] = json!(detail);
            }
            Outcome::Skipped => json["detail"] = json!(NOT_REACHED),
        }
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stages(peer: Peer) -> Stages {
        use VerifyStage::{Authenticate, Connect, Egress, Resolve, Send, Tls};
        let stages = vec![Resolve, Egress, Connect, Tls, Authenticate, Send];
        Stages { peer, stages }
    }

    fn failed(
        stage: VerifyStage,
        kind: ErrorKind,
        code: Option<&str>,
        millis: u64,
    ) -> Vec<StageReport> {
        use VerifyStage::{Connect, Egress, Resolve, Tls};
        let passed = [Resolve, Egress, Connect, Tls].into_iter();
        let mut reports: Vec<_> = passed
            .filter(|before| *before < stage)
            .map(|stage| StageReport {
                stage,
                outcome: StageOutcome::Passed,
                duration: Duration::from_millis(7),
            })
            .collect();
        reports.push(StageReport {
            stage,
            outcome: StageOutcome::Failed {
                kind,
                code: code.and_then(ProviderCode::parse),
                detail: "the adapter's own words",
            },
            duration: Duration::from_millis(millis),
        });
        reports
    }

    /// Every failure before the peer has shown its kind has the same text, whatever its reason and duration.
    #[test]
    fn closed_silent_and_foreign_ports_cannot_be_told_apart() {
        use ErrorKind::{Timeout, Unavailable, Unexpected};
        use VerifyStage::{Connect, Egress, Resolve, Tls};
        for peer in [Peer::MailServer, Peer::Api] {
            let row = |stage, kind, millis| {
                let row = stages(peer).row(failed(stage, kind, None, millis));
                assert!(row.conceals && !row.is_ok());
                row.to_json()
            };
            let closed = row(Connect, Unavailable, 1);
            assert_eq!(closed, row(Connect, Timeout, 3_000), "silent");
            assert_eq!(closed, row(Tls, Timeout, 8_000), "silent when connected");
            assert_eq!(closed, row(Tls, Unavailable, 20), "no TLS");
            assert_eq!(closed, row(Tls, Unexpected, 20), "no SMTP");
            assert_eq!(closed[2]["stage"], "connect");
            assert_eq!(closed[2]["durationMs"], Value::Null);

            let unknown = row(Resolve, Unavailable, 30);
            assert_eq!(
                unknown,
                row(Resolve, Timeout, 4_000),
                "a resolver that hangs"
            );
            assert_eq!(unknown, row(Egress, Unavailable, 0), "a private address");
            assert_eq!(unknown[0]["stage"], "resolve");
            assert_eq!(unknown[1]["outcome"], "skipped");
        }
    }

    #[test]
    fn a_server_that_has_shown_itself_is_told_about_in_its_adapters_words() {
        use VerifyStage::{Authenticate, Connect, Egress, Resolve, Tls};
        for (peer, stage, kind, code) in [
            (Peer::MailServer, Tls, ErrorKind::Unauthenticated, None),
            (Peer::Api, Tls, ErrorKind::Unauthenticated, None),
            (
                Peer::MailServer,
                Tls,
                ErrorKind::Unavailable,
                Some("554 5.7.1"),
            ),
            (Peer::MailServer, Authenticate, ErrorKind::Timeout, None),
            (Peer::Api, Authenticate, ErrorKind::Unavailable, None),
            (Peer::Aws, Connect, ErrorKind::Unavailable, None),
            (Peer::Aws, Tls, ErrorKind::Timeout, None),
        ] {
            let row = stages(peer).row(failed(stage, kind, code, 20));
            assert!(!row.conceals, "{peer:?} {stage:?}");
            let told = Cell::from(
                failed(stage, kind, code, 20).remove(
                    [Resolve, Egress, Connect, Tls]
                        .iter()
                        .filter(|before| **before < stage)
                        .count(),
                ),
            );
            assert_eq!(
                row.cells[&stage].to_json(stage),
                told.to_json(stage),
                "{peer:?} {stage:?}"
            );
            assert_eq!(
                row.cells[&VerifyStage::Send].to_json(stage)["outcome"],
                "skipped"
            );
        }
    }

    #[test]
    fn a_message_of_unknown_fate_is_said_to_have_perhaps_arrived() {
        for disposition in Disposition::ALL {
            let mut row = Row::default();
            let error = ProviderError::new(disposition, ErrorKind::Timeout, "No answer.");
            row.sent(Err(error), Duration::ZERO);
            assert_eq!(
                row.to_json()[0]["detail"] != "No answer.",
                disposition == Disposition::Ambiguous
            );
            assert!(!row.is_ok());
        }
    }
}
