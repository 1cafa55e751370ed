//! A passed test of saved settings takes back `down` of what it has shown to work. The processes that send hear of it
//! within [`MAX_AGE`](super::MAX_AGE).

use comms_aws::TableError;
use comms_core::{Channel, EntryId, ErrorKind, HashKey, HealthRecord, HealthState, Tenant};
use jiff::SignedDuration;

use super::{Replaces, SharedHealth, mac, name};

/// An entry that passed every stage of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedTest {
    /// The entry.
    pub entry: EntryId,
    /// Whether a message was accepted. Without one, only the connection and the login were tried.
    pub was_message_sent: bool,
}

impl PassedTest {
    /// Whether this disproves what took the entry down. A login that works says nothing of an account that is suspended,
    /// whose sender is refused, or whose quota is used up: there only an accepted message does.
    fn disproves(&self, last_error: Option<ErrorKind>) -> bool {
        if self.was_message_sent {
            return true;
        }
        match last_error {
            Some(ErrorKind::Unauthenticated | ErrorKind::Unavailable | ErrorKind::Timeout) => true,
            Some(
                ErrorKind::InvalidRecipient
                | ErrorKind::InvalidMessage
                | ErrorKind::TemplateInvalid
                | ErrorKind::PolicyRefused
                | ErrorKind::SenderNotAllowed
                | ErrorKind::AccountSuspended
                | ErrorKind::QuotaExceeded
                | ErrorKind::RateLimited
                | ErrorKind::Unexpected,
            )
            | None => false,
        }
    }
}

impl SharedHealth {
    /// Records of those entries that are down as healthy what `passed` disproves, for the `version` that was tested. One
    /// read, and one write for each such entry; a newer change that somebody else records stays.
    pub async fn record_passed_tests(
        &self,
        key: &HashKey,
        tenant: &Tenant,
        version: u64,
        channel: Channel,
        passed: &[PassedTest],
    ) -> Result<(), TableError> {
        let records = self.read(key, tenant, version).await?;
        for test in passed {
            let name = name(channel, &test.entry);
            let down = records.get(&name).filter(|record| {
                record.state == HealthState::Down && test.disproves(record.last_error)
            });
            let Some(down) = down else { continue };
            // Two changes within one tick of the clock still have an order.
            let next = down.since.saturating_add(SignedDuration::from_micros(1));
            let record = HealthRecord {
                state: HealthState::Healthy,
                since: self.clock.now().max(next.unwrap_or(down.since)),
                last_error: down.last_error,
            };
            let mac = mac(key, tenant, version, &name, &record);
            self.write(tenant, version, &name, &record, mac, Replaces::Older)
                .await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_that_works_does_not_hide_a_suspended_account() {
        let test = |was_message_sent| PassedTest {
            entry: EntryId::primary(),
            was_message_sent,
        };
        for kind in ErrorKind::ALL {
            assert!(test(true).disproves(Some(kind)));
            let of_connection = matches!(
                kind,
                ErrorKind::Unauthenticated | ErrorKind::Unavailable | ErrorKind::Timeout
            );
            assert_eq!(test(false).disproves(Some(kind)), of_connection, "{kind:?}");
        }
        assert!(!test(false).disproves(None));
    }
}
