//! What a server did to the connections of this process, for the other processes: a limit that was found, or raised.

use std::sync::Arc;

use aws_sdk_dynamodb::types::AttributeValue;
use comms_adapters::{Deadline, smtp::ConnectionLimit};
use comms_aws::TableError;
use comms_core::HashKey;
use jiff::SignedDuration;
use tracing::{info, warn};

use super::{
    Connections, REQUEST_TIMEOUT, partition_key,
    record::{self, LimitRecord, LimitState},
};
use crate::permits::Permits;

/// How long nobody takes the permit of a refused connection: until the new limit is written. Longer would keep those from
/// connecting for whom a connection is closed meanwhile.
const GIVEN_UP_DURATION: SignedDuration = SignedDuration::from_millis(400);
/// A permit that ends later is one that is used: it lasts [`EXPIRY_MARGIN`] longer than its invocation.
const STAYS_BEYOND: SignedDuration = SignedDuration::from_secs(3);

impl Connections {
    /// Publishes what the server did to the connections of this process.
    pub async fn publish(&self, key: &HashKey, limit: &Arc<ConnectionLimit>, deadline: Deadline) {
        self.publish_seen(key, limit, deadline, true).await;
    }

    /// The same. A refused connection gives up its permit, if it had one: a message without a permit costs no other
    /// message its own.
    pub(super) async fn publish_seen(
        &self,
        key: &HashKey,
        limit: &Arc<ConnectionLimit>,
        deadline: Deadline,
        had_permit: bool,
    ) {
        let seen = limit.take_seen();
        let id = limit.id();
        let is_raiser = {
            let mut logins = self.logins();
            let Some(login) = logins.get_mut(&id) else {
                return;
            };
            let is_raiser = login.is_raiser && seen.opened > 0 && seen.refused == 0;
            if seen.refused > 0 || is_raiser {
                login.is_raiser = false;
            }
            is_raiser
        };
        let publish = Box::pin(async {
            if seen.refused > 0 {
                let given_up = if had_permit { seen.refused } else { 0 };
                self.lower(key, id, given_up).await
            } else if is_raiser {
                self.raise(key, id).await
            } else {
                Ok(())
            }
        });
        match deadline.bound(REQUEST_TIMEOUT, publish).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "a login's connections were not told to others"),
            Err(_) => warn!("a login's connections were not told to others in time"),
        }
    }

    /// Gives up the permits of refused connections, and records how many others there are.
    async fn lower(&self, key: &HashKey, id: u64, given_up: u32) -> Result<(), TableError> {
        let now = self.clock.now();
        let (account, known, stored, is_forged, given_up) = {
            let mut logins = self.logins();
            let Some(login) = logins.get_mut(&id) else {
                return Ok(());
            };
            let given_up = login.give_up(given_up, now);
            (
                login.account.clone(),
                login.record_at(now),
                login.stored(),
                login.is_forged,
                given_up,
            )
        };
        let partition_key = partition_key(&account);
        // Those who were refused at the same time leave as well. Nobody takes their places before it is known how many
        // remain: a permit that was given up is told from the others by its early end.
        let after = |time: SignedDuration| now.saturating_add(time).unwrap_or(now);
        let (expires, stays) = (after(GIVEN_UP_DURATION), after(STAYS_BEYOND));
        let mut others = None;
        for slot in &given_up {
            self.count_write();
            if let Some(before) = self.permits.expire(slot, expires).await? {
                others = Some(Permits::count_beyond(&before, stays).saturating_sub(1));
            }
        }
        let others = match others {
            Some(others) => others,
            None => Permits::count_beyond(&self.permits.read(&partition_key).await?, stays),
        };
        let others = u32::try_from(others).unwrap_or(u32::MAX);
        let Some(record) = LimitRecord::lowered(known, others, now) else {
            return Ok(());
        };
        let (condition, values) = match record.state {
            _ if is_forged => ("attribute_exists(pk)", Vec::new()),
            LimitState::Reached => record::lower_than(&record),
            LimitState::Growing | LimitState::Unlimited => record::unchanged(stored.as_ref()),
        };
        info!(
            connections = record.connections,
            "a mail server refused a connection for their number"
        );
        self.write(key, id, &account, record, condition, values)
            .await
    }

    /// Records that the server took all connections of the present limit.
    async fn raise(&self, key: &HashKey, id: u64) -> Result<(), TableError> {
        let now = self.clock.now();
        let Some((account, known, stored, is_forged)) = self.logins().get(&id).map(|login| {
            let known = login.record_at(now);
            (
                login.account.clone(),
                known,
                login.stored(),
                login.is_forged,
            )
        }) else {
            return Ok(());
        };
        let Some(record) = LimitRecord::raised(known, now) else {
            return Ok(());
        };
        let (condition, values) = if is_forged {
            ("attribute_exists(pk)", Vec::new())
        } else {
            record::unchanged(stored.as_ref())
        };
        self.write(key, id, &account, record, condition, values)
            .await
    }

    async fn write(
        &self,
        key: &HashKey,
        id: u64,
        account: &str,
        record: LimitRecord,
        condition: &str,
        values: Vec<(&'static str, AttributeValue)>,
    ) -> Result<(), TableError> {
        let now = self.clock.now();
        self.count_write();
        let attributes = record.attributes(account, key, now);
        let partition_key = partition_key(account);
        let written = self
            .permits
            .set(&partition_key, attributes, condition, values);
        if written.await?
            && let Some(login) = self.logins().get_mut(&id)
        {
            login.observe(Ok(Some(record)), login.live, now);
        }
        Ok(())
    }
}
