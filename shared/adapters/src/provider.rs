//! The trait that every adapter implements.

use std::{
    fmt::Debug,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use comms_core::{ErrorKind, ProviderCode, ProviderError, ProviderKind, Receipt};
use serde::Serialize;

use crate::{deadline::Deadline, message::Message, smtp::ConnectionLimit};

/// A provider with the credentials of one entry of one tenant's settings.
///
/// Implementations print nothing of their credentials, and never panic on what a provider answers.
#[async_trait]
pub trait Provider: Debug + Send + Sync {
    /// Which provider this is.
    fn kind(&self) -> ProviderKind;

    /// What it can carry, and how much of it.
    fn capabilities(&self) -> &'static Capabilities;

    /// Sends `message` once. `Ok` means that the provider took it over; an error says by its
    /// disposition whether it may have.
    async fn send(&self, message: &Message, deadline: Deadline) -> Result<Receipt, ProviderError>;

    /// What all processes share of the provider's connections, where each is limited to one login.
    fn connection_limit(&self) -> Option<&Arc<ConnectionLimit>> {
        None
    }

    /// How many messages the provider says that it takes in a second, where it can be asked.
    async fn messages_per_second(&self, _deadline: Deadline) -> Option<NonZeroU32> {
        None
    }

    /// Checks everything that can be checked without sending, stage by stage, up to the first that
    /// fails.
    async fn verify(&self, deadline: Deadline) -> Vec<StageReport>;
}

/// What a provider's adapter can carry. What goes beyond it ends as an error before anything is sent.
#[allow(
    clippy::struct_excessive_bools,
    reason = "a table's row: every column is yes or no by itself"
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Text as HTML beside plain text.
    pub html: bool,
    /// Files.
    pub attachments: bool,
    /// Receivers of one message, `cc` and `bcc` included.
    pub receivers: usize,
    /// An address for answers.
    pub reply_to: bool,
    /// Local parts beyond ASCII (RFC 6531): always, or where the server offers it.
    pub internationalised_addresses: bool,
    /// Templates that the provider holds.
    pub templates: bool,
    /// Files that the provider fetches.
    pub media: bool,
    /// Characters of a message's text, where there is a limit of its own.
    pub text_chars: Option<usize>,
    /// Bytes of a message as it is sent; `None` where the server says.
    pub message_bytes: Option<usize>,
}

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
pub(crate) struct Report {
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
