//! A stack with deliveries in its ledger that came to different ends, and the program on it.

use std::{process::Output, time::Duration};

use comms_core::{
    AddressMask, Attempt, AttemptOutcome, Clock as _, DeliveryStatus, Disposition, EntryId,
    ErrorKind, FailureReason, HashKey, IdempotencyKey, Position, ProviderCode, ProviderKind,
    RequestId, SkippedEntry, SubjectHash, SystemClock, WaitReason, Waiting,
    request::{PlannedDelivery, Submission},
};
use comms_delivery::{
    Ledger,
    ledger::{Origin, Outcome, Owner, RequestDetails, RequestRecord, Via},
};
use comms_settings::HashKeys;
use jiff::Timestamp;
use serde_json::json;

use crate::{
    program::{program, text},
    table::{Table, tenant},
};

/// Recipients, whom no output may name.
pub(crate) const RECIPIENT: &str = "planted.patient@example.com";

/// A stack with a clinic, `clinic-a`.
pub(crate) struct Stories {
    pub(crate) table: Table,
    pub(crate) ledger: Ledger,
    pub(crate) hash: HashKey,
}

/// An accepted request that nothing has happened to.
pub(crate) struct Story {
    pub(crate) record: RequestRecord,
    pub(crate) planned: Vec<PlannedDelivery>,
    pub(crate) accepted: Timestamp,
}

impl Story {
    pub(crate) fn id(&self) -> &RequestId {
        &self.record.id
    }

    pub(crate) fn delivery_id(&self) -> String {
        self.planned[0].id.to_string()
    }
}

impl Stories {
    pub(crate) async fn new() -> Self {
        let table = Table::with(&["clinic-a"]).await;
        let keys = HashKeys::new(table.store(&table.old));
        let hash = keys.get().await.unwrap().clone();
        let (sdk, resources) = (table.aws.sdk_config(), table.aws.resources());
        let ledger = Ledger::new(&sdk, &resources.deliveries_table);
        Self {
            table,
            ledger,
            hash,
        }
    }

    /// A request of `clinic-a` under `key`, accepted by `via` two minutes ago.
    pub(crate) async fn accepted(&self, key: &str, via: Via) -> Story {
        let body = json!({"title": "planted-title", "body": "planted-body", "channels": ["email"],
            "category": "reminder", "priority": "high",
            "recipients": [{"email": RECIPIENT}], "metadata": {"clinicId": "clinic-a"}});
        let submission = Submission::parse(body.to_string().as_bytes()).unwrap();
        let clinic = tenant("clinic-a");
        let id = RequestId::derive(&self.hash, &clinic, &IdempotencyKey::parse(key).unwrap());
        let planned = submission
            .request
            .deliveries(&self.hash, &id, AddressMask::Short);
        let record = RequestRecord {
            id,
            tenant: clinic,
            payload_hash: submission.request.payload_hash(&self.hash).unwrap(),
            details: RequestDetails::of(&submission.request),
        };
        let origin = Origin {
            via,
            by: SubjectHash::of(&self.hash, "user-1"),
        };
        let accepted = SystemClock.now() - Duration::from_mins(2);
        let done = self
            .ledger
            .accept(&record, &planned, &origin, None, accepted);
        done.await.unwrap();
        Story {
            record,
            planned,
            accepted,
        }
    }

    /// A worker claims the story's delivery, and records this.
    pub(crate) async fn ended(&self, story: &Story, outcome: &Outcome) {
        let owner = self.claimed(story).await;
        let at = story.accepted + Duration::from_secs(10);
        let delivery = &story.planned[0].id;
        let finished = self
            .ledger
            .finish(story.id(), delivery, &owner, outcome, at);
        finished.await.unwrap();
    }

    /// A worker claims the story's delivery three seconds after it was accepted.
    pub(crate) async fn claimed(&self, story: &Story) -> Owner {
        let at = story.accepted + Duration::from_secs(3);
        let owner = Owner {
            token: "owner".to_owned(),
            lease_until: SystemClock.now() + Duration::from_secs(30),
        };
        let planned = &story.planned[0];
        let claimed = self
            .ledger
            .claim(&story.record, planned, "hash", &owner, at);
        claimed.await.unwrap();
        owner
    }

    /// The story's delivery waits for quota, unclaimed.
    pub(crate) async fn waits_for_quota(&self, story: &Story) {
        let since = story.accepted + Duration::from_secs(3);
        let waiting = Waiting {
            reason: WaitReason::Quota,
            since,
        };
        let planned = &story.planned[0];
        let noted = self
            .ledger
            .note_waiting(&story.record, planned, "hash", &waiting, since);
        noted.await.unwrap();
    }

    /// The program, on this stack's tables, with nothing of a patient or a secret in what it prints.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, &[]).await
    }

    /// The same with these variables.
    pub(crate) async fn run_with(
        &self,
        arguments: &[&str],
        variables: &[(&'static str, &str)],
    ) -> Output {
        let resources = self.table.aws.resources();
        let mut command = program();
        command
            .envs(self.table.aws.env())
            .envs(variables.iter().copied())
            .arg(arguments[0])
            .args(["--settings-table", &resources.settings_table])
            .args(["--deliveries-table", &resources.deliveries_table])
            .args(&arguments[1..]);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = output.await.unwrap();
        for said in [&output.stdout, &output.stderr] {
            let said = text(said);
            for secret in ["planted", "example.com", "clinic.example", "AKIA"] {
                assert!(!said.contains(secret), "{said}");
            }
        }
        output
    }
}

/// What is recorded of a delivery that went well.
pub(crate) fn sent(story: &Story) -> Outcome {
    let accepted = AttemptOutcome::Accepted {
        refused_copies: Vec::new(),
    };
    Outcome {
        status: DeliveryStatus::Sent,
        receipt: Some((ProviderKind::new("smtp"), "<1@server>".to_owned())),
        attempts: vec![attempt(story, 4, "smtp", Position::Primary, accepted)],
        ..nothing(DeliveryStatus::Sent)
    }
}

/// What is recorded of a delivery whose two providers failed, of which a third was down.
pub(crate) fn failed(story: &Story) -> Outcome {
    let refused = |kind, code| AttemptOutcome::Failed {
        disposition: Disposition::ProviderDown,
        kind,
        code: ProviderCode::parse(code),
    };
    let login = refused(ErrorKind::Unauthenticated, "535 5.7.139");
    let suspended = refused(ErrorKind::AccountSuspended, "AccountSuspendedException");
    Outcome {
        reason: Some(FailureReason::AllProvidersFailed),
        attempts: vec![
            attempt(story, 4, "smtp", Position::Primary, login),
            attempt(story, 9, "aws_ses", Position::Fallback(0), suspended),
        ],
        skipped: Some(vec![SkippedEntry {
            provider: ProviderKind::new("sendgrid"),
            entry: EntryId::fallback(2),
            position: Position::Fallback(1),
            since: story.accepted - Duration::from_hours(1),
            last_error: Some(ErrorKind::Unauthenticated),
        }]),
        ..nothing(DeliveryStatus::Failed)
    }
}

/// What is recorded of a delivery that waits for somebody to mend its provider's login.
pub(crate) fn waits_for_people(story: &Story) -> Outcome {
    let login = AttemptOutcome::Failed {
        disposition: Disposition::ProviderDown,
        kind: ErrorKind::Unauthenticated,
        code: ProviderCode::parse("535 5.7.8"),
    };
    Outcome {
        attempts: vec![attempt(story, 4, "smtp", Position::Primary, login)],
        not_before: Some(SystemClock.now() + Duration::from_mins(30)),
        waiting: Some(Waiting {
            reason: WaitReason::Provider {
                kind: ErrorKind::Unauthenticated,
                entry: EntryId::primary(),
                position: Some(Position::Primary),
                until: story.accepted + Duration::from_hours(24),
            },
            since: story.accepted + Duration::from_secs(4),
        }),
        ..nothing(DeliveryStatus::Queued)
    }
}

fn nothing(status: DeliveryStatus) -> Outcome {
    Outcome {
        status,
        receipt: None,
        reason: None,
        possible_duplicate: false,
        attempts: Vec::new(),
        not_before: None,
        waiting: None,
        waited: None,
        via: None,
        skipped: None,
        is_untouched: false,
    }
}

fn attempt(
    story: &Story,
    second: u64,
    provider: &'static str,
    position: Position,
    outcome: AttemptOutcome,
) -> Attempt {
    Attempt {
        provider: ProviderKind::new(provider),
        entry: match position {
            Position::Primary | Position::Global => EntryId::primary(),
            Position::Fallback(n) | Position::GlobalFallback(n) => {
                EntryId::fallback(usize::from(n) + 1)
            }
        },
        position,
        outcome,
        at: Some(story.accepted + Duration::from_secs(second)),
        duration: Duration::from_millis(210),
        possible_duplicate: false,
        reply_to_dropped: false,
    }
}
