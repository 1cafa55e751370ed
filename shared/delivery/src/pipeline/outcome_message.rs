//! Outcomes as a queue message carries them, so that they survive the process that could not record them.
//!
//! Such a message has a body of its own: ids, codes and times, no content and no address. The attribute [`OUTCOMES_MAC`]
//! says that it is one, and proves that a function of this deployment wrote it. Whoever receives it writes the outcomes by
//! the conditional write that failed before, and sends nothing.

use comms_core::{
    Attempt, Channel, Delivery, DeliveryId, DeliveryStatus, FailureReason, GlobalCause, HashKey,
    ProviderKind, RequestId, SentVia, SkippedEntry, Tenant, Waited, Waiting,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::unrecorded::LateOutcome;
use crate::ledger::{Outcome, Owner, RequestDetails, RequestRecord};

/// The message attribute with the MAC over the body, as 32 hexadecimal characters. Only messages with outcomes have it.
pub const OUTCOMES_MAC: &str = "outcomesMac";

/// Bytes of outcomes in one message, unless a single one is larger. Ten such messages are one request to SQS.
const MAX_OUTCOMES_BYTES: usize = 65_536;

/// Outcomes of one request for the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutcomeMessage {
    /// The body.
    pub body: String,
    /// [`OUTCOMES_MAC`].
    pub mac: String,
}

/// The body of a message.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    outcomes_of: String,
    tenant: String,
    payload_hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    category: Option<String>,
    outcomes: Vec<Value>,
}

/// An outcome in a message.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    delivery: String,
    channel: String,
    owner: String,
    lease_until: Timestamp,
    at: Timestamp,
    status: String,
    provider: Option<String>,
    message_id: Option<String>,
    reason: Option<String>,
    possible_duplicate: bool,
    attempts: Vec<Value>,
    not_before: Option<Timestamp>,
    waiting: Option<Value>,
    waited: Option<Value>,
    via: Option<String>,
    skipped: Option<Vec<Value>>,
    is_untouched: bool,
    by_fallback: bool,
}

/// What `via` says of a clinic's own account; else it is the reason for the platform's.
const OF_CLINIC: &str = "clinic";

fn via_text(via: SentVia) -> &'static str {
    via.because().map_or(OF_CLINIC, GlobalCause::as_str)
}

fn parse_via(text: &str) -> Option<SentVia> {
    if text == OF_CLINIC {
        return Some(SentVia::Clinic);
    }
    GlobalCause::parse(text).map(SentVia::Global)
}

/// `None` for a text that `parse` does not know.
#[allow(clippy::option_option, reason = "unreadable, absent, and there")]
fn parsed<T, R>(field: Option<T>, parse: impl Fn(&T) -> Option<R>) -> Option<Option<R>> {
    field.map_or(Some(None), |field| parse(&field).map(Some))
}

impl Entry {
    fn of(late: &LateOutcome) -> Option<Self> {
        let outcome = &late.outcome;
        let attempts = Attempt::to_stored(&outcome.attempts).ok()?;
        let (provider, message_id) = outcome.receipt.clone().unzip();
        Some(Self {
            delivery: late.delivery.id.as_str().to_owned(),
            channel: late.delivery.channel.as_str().to_owned(),
            owner: late.owner.token.clone(),
            lease_until: late.owner.lease_until,
            at: late.at,
            status: outcome.status.as_str().to_owned(),
            provider: provider.map(|provider| provider.as_str().to_owned()),
            message_id,
            reason: outcome.reason.map(|reason| reason.as_str().to_owned()),
            possible_duplicate: outcome.possible_duplicate,
            attempts: serde_json::from_str(&attempts).ok()?,
            not_before: outcome.not_before,
            waiting: outcome.waiting.as_ref().map(|waiting| json!(waiting)),
            waited: outcome.waited.as_ref().map(|waited| json!(waited)),
            via: outcome.via.map(|via| via_text(via).to_owned()),
            skipped: outcome.skipped.as_ref().map(|skipped| {
                let entries = skipped.iter().map(|entry| json!(entry));
                entries.collect()
            }),
            is_untouched: outcome.is_untouched,
            by_fallback: late.by_fallback,
        })
    }

    fn into_outcome(self, request: &RequestRecord) -> Option<LateOutcome> {
        let attempts = self.attempts.iter().map(Attempt::from_json);
        let provider = parsed(self.provider, |text| ProviderKind::parse(text))?;
        let outcome = Outcome {
            status: DeliveryStatus::parse(&self.status)?,
            receipt: provider.zip(self.message_id),
            reason: parsed(self.reason, |text| FailureReason::parse(text))?,
            possible_duplicate: self.possible_duplicate,
            attempts: attempts.collect::<Option<_>>()?,
            not_before: self.not_before,
            waiting: parsed(self.waiting, Waiting::from_json)?,
            waited: parsed(self.waited, Waited::from_json)?,
            via: parsed(self.via, |text| parse_via(text))?,
            skipped: parsed(self.skipped, |entries| {
                entries.iter().map(SkippedEntry::from_json).collect()
            })?,
            is_untouched: self.is_untouched,
        };
        let (provider, message_id) = outcome.receipt.clone().unzip();
        Some(LateOutcome {
            request: request.clone(),
            owner: Owner {
                token: self.owner,
                lease_until: self.lease_until,
            },
            delivery: Delivery {
                status: outcome.status,
                provider,
                message_id,
                reason: outcome.reason,
                waited: outcome.waited.clone(),
                possible_duplicate: outcome.possible_duplicate,
                attempts: outcome.attempts.clone(),
                via: outcome.via,
                ended_at: Some(self.at),
                is_recorded: false,
                // Nobody reads the address of a delivery of which the outcome alone is written.
                ..Delivery::queued(
                    DeliveryId::parse(&self.delivery).ok()?,
                    Channel::parse(&self.channel)?,
                    String::new(),
                )
            },
            outcome,
            by_fallback: self.by_fallback,
            at: self.at,
            is_on_queue: true,
        })
    }
}

/// The MAC of a message's body.
fn mac(key: &HashKey, body: &[u8]) -> comms_core::hash::Digest {
    key.digest("queue-outcomes", &[body])
}

/// Outcomes of one request as messages.
pub(super) fn messages(key: &HashKey, late: &[LateOutcome]) -> Vec<OutcomeMessage> {
    let Some(first) = late.first() else {
        return Vec::new();
    };
    let entries = late.iter().filter_map(|late| {
        let entry = serde_json::to_value(Entry::of(late)?).ok()?;
        let bytes = entry.to_string().len();
        Some((entry, bytes))
    });
    let mut groups: Vec<(Vec<Value>, usize)> = Vec::new();
    for (entry, bytes) in entries {
        match groups.last_mut() {
            Some((group, of_group)) if *of_group + bytes <= MAX_OUTCOMES_BYTES => {
                group.push(entry);
                *of_group += bytes;
            }
            Some(_) | None => groups.push((vec![entry], bytes)),
        }
    }
    let bodies = groups.into_iter().filter_map(|(outcomes, _)| {
        let RequestRecord {
            id,
            tenant,
            payload_hash,
            details,
        } = &first.request;
        let document = Document {
            outcomes_of: id.as_str().to_owned(),
            tenant: tenant.as_str().to_owned(),
            payload_hash: payload_hash.clone(),
            category: details.category.clone(),
            outcomes,
        };
        serde_json::to_string(&document).ok()
    });
    let with_mac = bodies.map(|body| OutcomeMessage {
        mac: mac(key, body.as_bytes()).hex128(),
        body,
    });
    with_mac.collect()
}

/// What a message says.
#[derive(Debug)]
pub(super) enum Read {
    /// All of its outcomes.
    Outcomes(Vec<LateOutcome>),
    /// Those of its outcomes that this release can read. Another release of this deployment wrote the message.
    Partly(Vec<LateOutcome>),
    /// No function of this deployment wrote it.
    NotAuthentic,
}

/// Reads a message.
pub(super) fn read(key: &HashKey, body: &[u8], given: &str) -> Read {
    if !mac(key, body).is_hex128(given) {
        return Read::NotAuthentic;
    }
    let Some(outcomes) = outcomes(body) else {
        return Read::Partly(Vec::new());
    };
    let count = outcomes.len();
    let readable: Vec<_> = outcomes.into_iter().flatten().collect();
    if readable.len() == count {
        Read::Outcomes(readable)
    } else {
        Read::Partly(readable)
    }
}

/// The outcomes of a body, `None` for each that cannot be read.
fn outcomes(body: &[u8]) -> Option<Vec<Option<LateOutcome>>> {
    let document: Document = serde_json::from_slice(body).ok()?;
    let request = RequestRecord {
        id: RequestId::parse(&document.outcomes_of).ok()?,
        tenant: Tenant::parse(&document.tenant).ok()?,
        payload_hash: document.payload_hash,
        details: RequestDetails {
            category: document.category,
            ..RequestDetails::default()
        },
    };
    let entries = document.outcomes.into_iter().map(|entry| {
        let entry: Entry = serde_json::from_value(entry).ok()?;
        entry.into_outcome(&request)
    });
    Some(entries.collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use comms_core::{AttemptOutcome, EntryId, IdempotencyKey, Position, WaitReason};

    use super::*;

    fn late(number: usize, attempts: usize) -> LateOutcome {
        let key = HashKey::from_bytes(&[1; 32]);
        let tenant = Tenant::parse("clinic-123").unwrap();
        let id = RequestId::derive(&key, &tenant, &IdempotencyKey::parse("one").unwrap());
        let at = Timestamp::from_millisecond(1_795_000_000_123).unwrap();
        let attempt = Attempt {
            provider: ProviderKind::new("smtp"),
            entry: EntryId::primary(),
            position: Position::Primary,
            outcome: AttemptOutcome::Accepted {
                refused_copies: Vec::new(),
            },
            at: Some(at),
            duration: Duration::from_millis(40),
            possible_duplicate: false,
            reply_to_dropped: false,
        };
        let outcome = Outcome {
            receipt: Some((ProviderKind::new("smtp"), "queued as 17".to_owned())),
            possible_duplicate: true,
            attempts: vec![attempt; attempts],
            not_before: Some(at),
            waiting: Some(Waiting::after(None, WaitReason::Quota, at)),
            via: Some(SentVia::Global(GlobalCause::OwnFailed)),
            skipped: Some(Vec::new()),
            ..Outcome::new(DeliveryStatus::Sent)
        };
        let delivery = DeliveryId::derive(&key, &id, "email", &number.to_string());
        LateOutcome {
            delivery: Delivery {
                status: outcome.status,
                provider: Some(ProviderKind::new("smtp")),
                message_id: Some("queued as 17".to_owned()),
                possible_duplicate: true,
                attempts: outcome.attempts.clone(),
                via: outcome.via,
                ended_at: Some(at),
                is_recorded: false,
                ..Delivery::queued(delivery, Channel::Email, String::new())
            },
            request: RequestRecord {
                id,
                tenant,
                payload_hash: "hash".to_owned(),
                details: RequestDetails {
                    category: Some("appointment".to_owned()),
                    ..RequestDetails::default()
                },
            },
            owner: Owner {
                token: format!("owner-{number}"),
                lease_until: at,
            },
            outcome,
            by_fallback: true,
            at,
            is_on_queue: true,
        }
    }

    #[test]
    fn outcomes_read_back_from_their_messages() {
        let key = HashKey::from_bytes(&[1; 32]);
        let all: Vec<_> = (0..50).map(|number| late(number, 20)).collect();
        let messages = messages(&key, &all);
        assert!(messages.len() > 1);
        let mut read_back = Vec::new();
        for message in &messages {
            assert!(message.body.len() < MAX_OUTCOMES_BYTES + 1_024);
            let Read::Outcomes(outcomes) = read(&key, message.body.as_bytes(), &message.mac) else {
                panic!("outcomes that cannot be read");
            };
            read_back.extend(outcomes);
        }
        assert_eq!(read_back, all);
    }

    #[test]
    fn message_of_another_body_or_key_is_refused() {
        let key = HashKey::from_bytes(&[1; 32]);
        let OutcomeMessage { body, mac } = messages(&key, &[late(0, 1)]).remove(0);
        let other = body.replace("owner-0", "owner-1");
        assert!(matches!(
            read(&key, other.as_bytes(), &mac),
            Read::NotAuthentic
        ));
        let other_key = HashKey::from_bytes(&[2; 32]);
        assert!(matches!(
            read(&other_key, body.as_bytes(), &mac),
            Read::NotAuthentic
        ));
    }

    #[test]
    fn what_another_release_wrote_is_read_as_far_as_it_is_known() {
        let key = HashKey::from_bytes(&[1; 32]);
        let both = [late(0, 1), late(1, 1)];
        let OutcomeMessage { body, .. } = messages(&key, &both).remove(0);
        let mut document: Value = serde_json::from_str(&body).unwrap();
        document["outcomes"][0]["status"] = json!("postponed");
        let body = document.to_string();
        let read = read(&key, body.as_bytes(), &mac(&key, body.as_bytes()).hex128());
        assert!(matches!(read, Read::Partly(known) if known == both[1..]));
    }
}
