//! Entries whose login has a limited number of connections, which all processes share.

use std::{future::Future, time::Duration};

use comms_core::{AfterRetries, Receipt};

use super::{
    ChainEnd, ChainEntry, Failed, Left, ReplyTo, Run,
    renewal::{Course, Renewal},
};
use crate::{
    message::Message,
    pacing::{LONGEST_WAIT, Pacing},
};

impl Course {
    /// Notes that an entry had no connection for the message before `after`. The end, where the message waits for one;
    /// otherwise the next entry has its turn. What was tried does not wait: nobody before this entry is tried again so soon.
    pub(super) fn without_connection(
        &mut self,
        after: Duration,
        run: &Run,
        pacing: &dyn Pacing,
    ) -> Option<ChainEnd> {
        self.no_connection = Some(after);
        let waits = run.attempts.is_empty() && pacing.waits_for_connection();
        waits.then_some(ChainEnd::NoConnection { after })
    }
}

impl Run {
    /// Tries an entry. Where the server refuses a connection for their number, it is tried once more if `pacing` reserves
    /// one; otherwise the message waits for so long, and there was no attempt.
    pub(super) async fn connected<R: Future<Output = Renewal>>(
        &mut self,
        entry: &ChainEntry,
        message: &Message,
        reply: ReplyTo<'_>,
        left: Left,
        renew: impl Fn() -> R,
        pacing: &dyn Pacing,
    ) -> Result<Result<Receipt, Failed>, Duration> {
        let sent = self.entry(entry, message, reply, left, &renew).await;
        let Some(limit) = entry
            .provider
            .connection_limit()
            .filter(|_| lacks_connection(&sent))
        else {
            return Ok(sent);
        };
        self.attempts.pop();
        pacing.connect_again(limit).await?;
        let sent = self.entry(entry, message, reply, left, &renew).await;
        if lacks_connection(&sent) {
            self.attempts.pop();
            return Err(LONGEST_WAIT);
        }
        Ok(sent)
    }
}

fn lacks_connection(sent: &Result<Receipt, Failed>) -> bool {
    sent.as_ref()
        .is_err_and(|failed| failed.error.after_retries == AfterRetries::WhenConnectionFree)
}
