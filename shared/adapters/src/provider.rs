//! The trait that every adapter implements.

use std::{fmt::Debug, time::Duration};

use async_trait::async_trait;
use comms_core::{ErrorKind, ProviderCode, ProviderError, ProviderKind, Receipt};
use serde::Serialize;

use crate::{deadline::Deadline, message::Message};

/// A provider with the credentials of one entry of one tenant's settings.
///
/// Implementations print nothing of their credentials, and never panic on what a provider answers.
#[async_trait]
pub trait Provider: Debug + Send + Sync {
    /// Which provider this is.
    fn kind(&self) -> ProviderKind;

    /// Sends `message` once. `Ok` means that the provider took it over; an error says by its
    /// disposition whether it may have.
    async fn send(&self, message: &Message, deadline: Deadline) -> Result<Receipt, ProviderError>;

    /// Checks everything that can be checked without sending, stage by stage, up to the first that
    /// fails.
    async fn verify(&self, deadline: Deadline) -> Vec<StageReport>;
}

/// The stages of a check, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
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
