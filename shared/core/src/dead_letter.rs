//! Dead letters: invalid messages, which the worker sends to the dead-letter queue with a description in message attributes,
//! and messages that SQS moves there after too many receives.
//!
//! The description shows nothing of the content. This module has the names of the attributes, the reasons, and their reader
//! ([`DeadLetter`]).

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;

use crate::{ClinicId, Problems, Tenant, request::Submission};

/// The attribute with the [`DeadLetterReason`].
pub const REASON: &str = "reason";
/// The attribute with the fields that are wrong: JSON pointers made of known names, separated by spaces.
pub const FIELDS: &str = "fields";
/// The attribute with the clinic's id, where it is known.
pub const CLINIC_ID: &str = "clinicId";
/// The attribute with the name of the queue that it came from.
pub const SOURCE_QUEUE: &str = "sourceQueue";
/// The attribute with SQS's id of the message that it was. It stays with a message that is put back on its queue, where
/// it stands for the id that the message has lost: a communication without a key of its own is known by that id.
///
/// Whoever may send to a queue may set it, and gains nothing by it: it is a key like `idempotencyKey` in the body, which
/// the same sender chooses freely too, and like that one it counts for the clinic that the body names alone. A message
/// with the attribute of another one is the same communication (nothing is sent) or a conflict (a dead letter).
///
/// What is no id of SQS's ([`is_message_id`]) is not looked at: a sender may have written anything there.
pub const SOURCE_MESSAGE_ID: &str = "sourceMessageId";
/// The attribute with the time (RFC 3339) at which it moved to the dead-letter queue.
pub const DEAD_AT: &str = "deadAt";

/// The attribute with the names of the sender's attributes for which the dead letter has no room, separated by spaces.
pub const DROPPED: &str = "droppedAttributes";

/// Attributes that a message may have (Amazon SQS, message quotas).
pub const MAX_ATTRIBUTES: usize = 10;

/// What the worker says of a dead letter and a message that is put back does not keep.
pub const OF_DEAD_LETTERS_ALONE: [&str; 6] =
    [REASON, FIELDS, CLINIC_ID, SOURCE_QUEUE, DEAD_AT, DROPPED];

/// Characters of a JSON pointer that is shown, at most.
const MAX_POINTER: usize = 100;

/// Why a message is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterReason {
    /// It is not a communication.
    NotACommunication,
    /// Its key stands for another communication.
    KeyConflict,
    /// It has neither a key nor an id.
    NoKey,
    /// Handling it panicked or ended its process, again and again.
    Panicked,
    /// SQS moved it after the maximum number of receives.
    ReceivesExhausted,
    /// It says a reason that is not known here.
    Unknown,
}

impl DeadLetterReason {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::NotACommunication,
        Self::KeyConflict,
        Self::NoKey,
        Self::Panicked,
        Self::ReceivesExhausted,
        Self::Unknown,
    ];

    /// The name in attributes, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotACommunication => "not_a_communication",
            Self::KeyConflict => "key_conflict",
            Self::NoKey => "no_key",
            Self::Panicked => "panicked",
            Self::ReceivesExhausted => "receives_exhausted",
            Self::Unknown => "unknown",
        }
    }

    /// The reason with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

/// What is known of a dead letter. Nothing of its content is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Why it is one.
    pub reason: DeadLetterReason,
    /// Its tenant, if known.
    pub tenant: Option<Tenant>,
    /// The fields that are wrong, as JSON pointers made of known names.
    pub fields: Vec<String>,
    /// The name of the queue that it came from, where that is known.
    pub source_queue: Option<String>,
    /// The names of its sender's attributes that it no longer has.
    pub dropped: Vec<String>,
    /// Whether SQS moved it. Its attributes are its sender's then, whatever their names.
    pub moved_by_sqs: bool,
}

impl DeadLetter {
    /// What is known of a message on the dead-letter queue. `moved_from` is SQS's `DeadLetterQueueSourceArn`, which
    /// messages have that it moved itself, and `attribute` a message attribute's text.
    pub fn read<'a>(
        moved_from: Option<&'a str>,
        attribute: impl Fn(&str) -> Option<&'a str>,
        body: &[u8],
    ) -> Self {
        let said = moved_from.is_none().then(|| attribute(REASON)).flatten();
        let (reason, fields) = match said {
            Some(name) => {
                let reason = DeadLetterReason::parse(name).unwrap_or(DeadLetterReason::Unknown);
                let fields = attribute(FIELDS).unwrap_or_default().split(' ');
                (
                    reason,
                    fields
                        .filter(|text| is_pointer(text))
                        .map(str::to_owned)
                        .collect(),
                )
            }
            None => match Submission::parse(body) {
                Ok(_) => (DeadLetterReason::ReceivesExhausted, Vec::new()),
                Err(problems) => (DeadLetterReason::NotACommunication, known(&problems)),
            },
        };
        let clinic = said
            .and_then(|_| attribute(CLINIC_ID))
            .and_then(|id| ClinicId::parse(id).ok())
            .map(Tenant::Clinic);
        let source = match moved_from {
            Some(arn) => arn.rsplit(':').next(),
            None => attribute(SOURCE_QUEUE),
        };
        Self {
            reason,
            tenant: clinic.or_else(|| tenant_of(body)),
            fields,
            source_queue: source.filter(|name| is_queue_name(name)).map(str::to_owned),
            dropped: said
                .and_then(|_| attribute(DROPPED))
                .into_iter()
                .flat_map(|names| names.split(' '))
                .filter(|name| is_attribute_name(name))
                .map(str::to_owned)
                .collect(),
            moved_by_sqs: moved_from.is_some(),
        }
    }
}

/// Whether a text may be SQS's id of a message: 1 to 100 letters, digits and `-` (SQS developer guide, "Queue and message
/// identifiers": 100 characters at most; in practice a UUID).
pub fn is_message_id(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    (1..=100).contains(&text.len()) && text.bytes().all(plain)
}

fn known(problems: &Problems) -> Vec<String> {
    let pointers = problems.known_pointers().into_iter();
    pointers
        .filter(|text| !text.is_empty())
        .map(Cow::into_owned)
        .collect()
}

/// Whose a message is that need not be a communication.
fn tenant_of(body: &[u8]) -> Option<Tenant> {
    let body: Value = serde_json::from_slice(body).ok()?;
    match body
        .as_object()?
        .get("metadata")
        .map(|all| all.get("clinicId"))
    {
        None | Some(None) => Some(Tenant::Global),
        Some(Some(id)) => ClinicId::parse(id.as_str()?).ok().map(Tenant::Clinic),
    }
}

/// Whether a text has the form of a JSON pointer to a field of ours.
fn is_pointer(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/_-~".contains(&b);
    text.starts_with('/') && text.len() <= MAX_POINTER && text.bytes().all(plain)
}

/// Whether a text may be the name of a message attribute (Amazon SQS developer guide, "Message attribute components").
fn is_attribute_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    (1..=256).contains(&text.len()) && text.bytes().all(plain)
}

/// Whether a text may be a queue's name (Amazon SQS, quotas of standard queues).
fn is_queue_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=80).contains(&text.len()) && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ARN: &str = "arn:aws:sqs:eu-central-1:123456789012:stack-UrgentQueue-1";

    fn communication() -> Value {
        json!({
            "title": "Hello", "body": "Content.", "channels": ["email"],
            "recipients": [{"email": "patient@example.com"}], "metadata": {"clinicId": "clinic-1"}})
    }

    fn read(
        moved_from: Option<&'static str>,
        attributes: &[(&str, &'static str)],
        body: &Value,
    ) -> DeadLetter {
        let attribute = |name: &str| {
            let (_, value) = attributes.iter().find(|(known, _)| *known == name)?;
            Some(*value)
        };
        DeadLetter::read(moved_from, attribute, body.to_string().as_bytes())
    }

    fn clinic(id: &str) -> Tenant {
        Tenant::parse(id).unwrap()
    }

    #[test]
    fn every_reason_is_known_by_its_name_alone() {
        for reason in DeadLetterReason::ALL {
            assert_eq!(DeadLetterReason::parse(reason.as_str()), Some(reason));
            assert_eq!(json!(reason), reason.as_str());
        }
        assert_eq!(DeadLetterReason::parse("Panicked"), None);
    }

    #[test]
    fn what_the_worker_said_of_a_letter_is_read_from_its_attributes() {
        let attributes = [
            (REASON, "not_a_communication"),
            (FIELDS, "/title /recipients/0/email"),
            (SOURCE_QUEUE, "stack-Queue-1"),
        ];
        let letter = read(
            None,
            &attributes,
            &json!({"metadata": {"clinicId": "clinic-1"}, "nme": 1}),
        );
        assert_eq!(letter.reason, DeadLetterReason::NotACommunication);
        assert_eq!(letter.fields, ["/title", "/recipients/0/email"]);
        assert_eq!(letter.tenant, Some(clinic("clinic-1")));
        assert_eq!(letter.source_queue.as_deref(), Some("stack-Queue-1"));
        let with_clinic = [(REASON, "key_conflict"), (CLINIC_ID, "clinic-2")];
        let letter = read(None, &with_clinic, &communication());
        assert_eq!(letter.tenant, Some(clinic("clinic-2")));
    }

    #[test]
    fn what_sqs_moved_was_received_too_often_whatever_its_sender_wrote_beside_it() {
        let own = [
            (REASON, "panicked"),
            (CLINIC_ID, "clinic-9"),
            (FIELDS, "/a"),
            (SOURCE_QUEUE, "x"),
        ];
        let letter = read(Some(ARN), &own, &communication());
        assert_eq!(
            letter,
            DeadLetter {
                reason: DeadLetterReason::ReceivesExhausted,
                tenant: Some(clinic("clinic-1")),
                fields: Vec::new(),
                source_queue: Some("stack-UrgentQueue-1".to_owned()),
                dropped: Vec::new(),
                moved_by_sqs: true,
            }
        );
    }

    #[test]
    fn what_says_nothing_and_is_no_communication_is_told_by_its_known_fields() {
        let body = json!({
            "titel": "Result: positive", "channels": ["email"], "recipients": [{"email": 7}],
            "metadata": {"clinicId": "clinic-1"}});
        let letter = read(Some(ARN), &[], &body);
        assert_eq!(letter.reason, DeadLetterReason::NotACommunication);
        assert_eq!(letter.tenant, Some(clinic("clinic-1")));
        assert!(
            letter.fields.contains(&"/recipients/0/email".to_owned()),
            "{letter:?}"
        );
        assert!(!format!("{letter:?}").contains("titel"));
        let text = DeadLetter::read(None, |_| None, b"Dear patient");
        assert_eq!(text.reason, DeadLetterReason::NotACommunication);
        assert_eq!((text.tenant, text.fields), (None, Vec::new()));
    }

    #[test]
    fn nothing_is_shown_that_is_not_what_it_should_be() {
        let attributes = [
            (REASON, "Dear patient"),
            (FIELDS, "/ok patient@example.com /Jörg"),
            (CLINIC_ID, "patient@example.com"),
            (SOURCE_QUEUE, "Dear patient"),
        ];
        let letter = read(
            None,
            &attributes,
            &json!({"metadata": {"clinicId": "p@example.com"}}),
        );
        assert_eq!(
            letter,
            DeadLetter {
                reason: DeadLetterReason::Unknown,
                tenant: None,
                fields: vec!["/ok".to_owned()],
                source_queue: None,
                dropped: Vec::new(),
                moved_by_sqs: false,
            }
        );
    }

    #[test]
    fn an_id_of_a_message_is_told_from_what_somebody_wrote_in_its_place() {
        assert!(is_message_id("5fea7756-0ea4-451a-a703-a558b933e274"));
        let long = "a".repeat(101);
        for other in ["", "patient@example.com", "Dear patient", &long] {
            assert!(!is_message_id(other), "{other}");
        }
    }

    #[test]
    fn a_communication_of_no_clinic_is_the_platforms() {
        let mut body = communication();
        body["metadata"] = json!({});
        assert_eq!(read(Some(ARN), &[], &body).tenant, Some(Tenant::Global));
    }
}
