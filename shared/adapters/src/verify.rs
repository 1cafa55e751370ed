//! A check of an entry that sends nothing: its stages, and how each of them went.

use std::time::{Duration, Instant};

use comms_core::{BaseUrl, ErrorKind, ProviderCode, ProviderError};
use serde::Serialize;

/// The stages of a check, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyStage {
    /// The host's name is resolved.
    Resolve,
    /// Its addresses and port may be connected to.
    Egress,
    /// A TCP connection is made.
    Connect,
    /// TLS is set up and the certificate verified.
    Tls,
    /// The credentials are accepted.
    Authenticate,
    /// The sender may send.
    Sender,
    /// The quota is not used up.
    Quota,
    /// A test message is sent.
    Send,
}

/// How one stage went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageReport {
    /// The stage.
    pub stage: VerifyStage,
    /// How it ended.
    pub outcome: StageOutcome,
    /// How long it took.
    pub duration: Duration,
}

/// How a stage ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StageOutcome {
    /// It worked.
    Passed,
    /// It did not.
    Failed {
        /// What happened.
        kind: ErrorKind,
        /// The provider's code.
        code: Option<ProviderCode>,
        /// What happened and what to do. A fixed text.
        detail: &'static str,
    },
}

impl From<&ProviderError> for StageOutcome {
    fn from(error: &ProviderError) -> Self {
        Self::Failed {
            kind: error.kind,
            code: error.code.clone(),
            detail: error.detail,
        }
    }
}

/// A check in progress: what its stages came to, and how long each took.
#[derive(Debug)]
pub struct Report {
    stages: Vec<StageReport>,
    since: Instant,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            stages: Vec::new(),
            since: Instant::now(),
        }
    }

    /// Notes how a stage went that began when the one before ended; gives what it gave.
    pub(crate) fn stage<T>(
        &mut self,
        stage: VerifyStage,
        result: Result<T, ProviderError>,
    ) -> Option<T> {
        let duration = self.since.elapsed();
        self.since = Instant::now();
        let (outcome, value) = match result {
            Ok(value) => (StageOutcome::Passed, Some(value)),
            Err(error) => (StageOutcome::from(&error), None),
        };
        self.stages.push(StageReport {
            stage,
            outcome,
            duration,
        });
        value
    }

    /// The stages so far.
    pub(crate) fn end(self) -> Vec<StageReport> {
        self.stages
    }
}

/// Who decides which host an entry connects to, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The settings: a mail server.
    MailServer,
    /// The settings: the API of a provider.
    Api,
    /// AWS.
    Aws,
}

/// The stages that a check of an entry has, and whom it talks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyPlan {
    /// Whom it talks to.
    pub peer: Peer,
    /// The stages in their order.
    pub stages: Vec<VerifyStage>,
}

impl VerifyPlan {
    /// The plan of a provider with an API over HTTP: at `url`, or at the usual place, which is https. `more` comes after
    /// the login.
    pub(crate) fn of_api(url: Option<&BaseUrl>, more: &[VerifyStage]) -> Self {
        use VerifyStage::{Authenticate, Connect, Egress, Resolve, Tls};
        let mut stages = vec![Resolve, Egress, Connect];
        // In clear only where the operator allows it.
        stages.extend(url.is_none_or(BaseUrl::is_https).then_some(Tls));
        stages.push(Authenticate);
        stages.extend(more);
        Self {
            peer: Peer::Api,
            stages,
        }
    }
}
