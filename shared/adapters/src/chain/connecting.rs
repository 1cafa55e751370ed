//! Entries whose login has a limited number of connections, which all processes share.

use std::{future::Future, time::Duration};

use comms_core::{AfterRetries, Receipt};
use tokio::time::Instant;

use super::{
    ChainEnd, ChainEntry,
    course::{Course, Heading},
    renewal::{Renew, Renewal},
    run::{EntryAttempts, Failed, Run},
};
use crate::rate_limiter::{MAX_WAIT_DURATION, RateLimiter};

/// A wait for a connection after which somebody may have saved settings that count.
const LONG_WAIT: Duration = Duration::from_secs(1);

/// How a run goes on that asked for a connection.
pub(super) enum Connected {
    /// The entry is tried.
    Yes,
    /// The next one is.
    No,
    Over(ChainEnd),
}

impl Course {
    /// Asks for a connection to `entry`, if its login has a limited number of them. After a long wait the entry is tried
    /// only if the settings still are the last ones.
    pub(super) async fn connect(
        &mut self,
        entry: &ChainEntry,
        run: &Run,
        renew: &Renew<'_>,
        limiter: &dyn RateLimiter,
    ) -> Connected {
        let Some(limit) = entry.provider.connection_limit() else {
            return Connected::Yes;
        };
        let asked = Instant::now();
        if let Err(after) = limiter.connect(limit).await {
            let end = self.without_connection(after, run, limiter);
            return end.map_or(Connected::No, Connected::Over);
        }
        if asked.elapsed() < LONG_WAIT {
            return Connected::Yes;
        }
        let renewal = self.before_retry(entry, renew).await;
        match self.adopt(renewal, None, run) {
            Heading::Same => Connected::Yes,
            Heading::Changed => Connected::No,
            Heading::Over(end) => Connected::Over(end),
        }
    }

    /// Notes that an entry had no connection for the message before `after`. The end, where the message waits for one;
    /// otherwise the next entry has its turn. What was tried does not wait: nobody before this entry is tried again so soon.
    pub(super) fn without_connection(
        &mut self,
        after: Duration,
        run: &Run,
        limiter: &dyn RateLimiter,
    ) -> Option<ChainEnd> {
        self.no_connection = Some(after);
        let waits = run.attempts.is_empty() && limiter.waits_for_connection();
        waits.then_some(ChainEnd::NoConnection { after })
    }
}

impl Run {
    /// Tries an entry. Where the server refuses a connection for their number, it is tried once more if `limiter` reserves
    /// one; otherwise there was no attempt, and the error is the time that the message waits.
    pub(super) async fn connected<R: Future<Output = Renewal>>(
        &mut self,
        attempts: EntryAttempts<'_>,
        renew: impl Fn() -> R,
        limiter: &dyn RateLimiter,
    ) -> Result<Result<Receipt, Failed>, Duration> {
        let sent = self.entry(attempts, &renew).await;
        let limit = attempts.entry.provider.connection_limit();
        let (Some(limit), true) = (limit, lacks_connection(&sent)) else {
            return Ok(sent);
        };
        self.attempts.pop();
        limiter.connect_again(limit).await?;
        // It may have waited for long, and somebody may have saved meanwhile.
        if let Err(failed) = sent
            && let renewal @ (Renewal::Newer(_) | Renewal::Unreadable) = renew().await
        {
            return Ok(Err(Failed {
                interrupted_by: Some(renewal),
                ..failed
            }));
        }
        let sent = self.entry(attempts, &renew).await;
        if lacks_connection(&sent) {
            self.attempts.pop();
            return Err(MAX_WAIT_DURATION);
        }
        Ok(sent)
    }
}

fn lacks_connection(sent: &Result<Receipt, Failed>) -> bool {
    sent.as_ref()
        .is_err_and(|failed| failed.error.after_retries == AfterRetries::WhenConnectionFree)
}
