//! The functions, as the local stack knows them.

use std::fmt;
use std::time::Duration;

use crate::AnyError;
use crate::poller::Lane;

/// One of the Lambda functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub(crate) enum Function {
    /// HTTP: accepts communications.
    Send,
    /// HTTP: says what became of communications.
    Status,
    /// SQS: delivers what was queued.
    Worker,
    /// HTTP: clinics' settings.
    Config,
    /// HTTP: tests of settings.
    ConfigTest,
}

impl Function {
    /// Every function.
    pub(crate) const ALL: [Self; 5] = [
        Self::Send,
        Self::Status,
        Self::Worker,
        Self::Config,
        Self::ConfigTest,
    ];

    /// Its name, as of its package.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Status => "status",
            Self::Worker => "worker",
            Self::Config => "config",
            Self::ConfigTest => "config-test",
        }
    }

    /// How long one invocation may take. API Gateway gives up after 30 s, so the HTTP functions end before it does.
    pub(crate) fn timeout(self) -> Duration {
        match self {
            Self::Send | Self::Status | Self::Config | Self::ConfigTest => Duration::from_secs(29),
            Self::Worker => Duration::from_secs(30),
        }
    }

    /// How many processes it may have. The worker has one for every batch that may be at work, or batches of the one
    /// queue would hold up those of the other; else enough to see concurrency, and little enough for a laptop.
    pub(crate) fn max_processes(self) -> usize {
        match self {
            Self::Send | Self::Status | Self::Config | Self::ConfigTest => 10,
            Self::Worker => Lane::NORMAL.batches + Lane::URGENT.batches,
        }
    }

    /// Serves invocations until the Runtime API ends: the production handler, in this process.
    pub(crate) async fn run(self) -> Result<(), AnyError> {
        match self {
            Self::Send => comms_send::run().await,
            Self::Status => comms_status::run().await,
            Self::Worker => comms_worker::run().await,
            Self::Config => comms_config::run().await,
            Self::ConfigTest => comms_config_test::run().await,
        }
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
