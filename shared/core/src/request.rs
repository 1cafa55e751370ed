//! A communication as backend teams post it or put it on the queue: one content, some recipients,
//! some channels.

mod content;
mod expiry;
mod media;
mod metadata;
mod national;
mod planned;
mod reading;
mod recipients;
mod template;
mod word;
mod writing;

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    address::{AddressMask, EmailAddress, Mailbox},
    channel::Channel,
    country::Country,
    hash::HashKey,
    id::{DeliveryId, IdempotencyKey, RequestId, Tenant},
    json::{self, Object, Problems},
};

pub use content::Content;
pub use media::{Media, MediaKind};
pub use metadata::{MAX_METADATA, MAX_METADATA_NAME, MAX_METADATA_VALUE, RequestedTenant};
pub use national::NationalNumbers;
pub use planned::{PlannedDelivery, Target};
pub use recipients::Recipient;
pub use template::{Template, TemplateParams, TemplateValues, read_template};

pub use crate::attachment::Attachment;

use reading::read_submission;

/// Bytes of a communication as JSON. Lambda takes 6 MB per synchronous invocation (AWS Lambda quotas:
/// 6,291,456 bytes), in which the body stands as a JSON string beside headers and claims.
pub const MAX_BYTES: usize = 6_000_000;
/// Recipients of one request.
pub const MAX_RECIPIENTS: usize = 500;
/// Characters of a category.
pub const MAX_CATEGORY: usize = 64;
/// Characters of a title, which is the subject of an e-mail.
pub const MAX_TITLE: usize = 500;
/// Characters of the text body.
pub const MAX_BODY: usize = 100_000;
/// Characters of the HTML body.
pub const MAX_HTML: usize = 500_000;
/// Characters of the name or id of a template.
pub const MAX_TEMPLATE_ID: usize = 512;
/// Characters of the language of a template.
pub const MAX_LANGUAGE: usize = 16;
/// Parameters of a template.
pub const MAX_TEMPLATE_PARAMS: usize = 64;
/// Characters of a parameter of a template.
pub const MAX_TEMPLATE_PARAM: usize = 1_024;
/// Components of a template.
pub const MAX_TEMPLATE_COMPONENTS: usize = 16;
/// Bytes of all components of a template, as JSON.
pub const MAX_TEMPLATE_COMPONENT_BYTES: usize = 32_768;
/// Receivers of copies, `cc` and `bcc` together. With the recipient they make the 50 that SES takes
/// (SES v2, `Destination`).
pub const MAX_COPIES: usize = 49;
/// How urgent a communication is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// May wait.
    Low,
    /// Reminders, confirmations.
    Normal,
    /// Should be seen today.
    High,
    /// One-time codes, urgent calls.
    Critical,
}

impl Priority {
    /// Every priority.
    pub const ALL: [Self; 4] = [Self::Low, Self::Normal, Self::High, Self::Critical];

    /// The name in requests, ledger and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// The priority with this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|priority| priority.as_str() == text)
    }
}

/// When a communication is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// By the worker, from the queue.
    Queued,
    /// While the caller waits.
    Immediate,
}

impl Strategy {
    /// The name in requests and in the ledger.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Immediate => "immediate",
        }
    }

    /// Reads what [`Strategy::as_str`] gives.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Queued, Self::Immediate]
            .into_iter()
            .find(|strategy| strategy.as_str() == text)
    }
}

/// A communication, checked.
#[derive(Clone, PartialEq, Eq)]
pub struct CommunicationRequest {
    /// What it is about, such as `appointment`; for statistics.
    pub category: Option<String>,
    /// How urgent it is.
    pub priority: Priority,
    /// When it is sent.
    pub strategy: Strategy,
    /// The content.
    pub content: Content,
    /// Who is to be reached.
    pub recipients: Vec<Recipient>,
    /// By which ways, each once.
    pub channels: Vec<Channel>,
    /// Where answers go, if not to the sender.
    pub reply_to: Option<EmailAddress>,
    /// After this it is not sent any more.
    pub expires_at: Option<Timestamp>,
    /// Whose account it asks for.
    pub requested: RequestedTenant,
    /// The caller's own references, such as `appointmentId`.
    pub references: BTreeMap<String, String>,
    /// The country by which numbers without a country code were read; `None` where there were none. It is no part of the
    /// communication, whose numbers have their codes.
    pub read_in: Option<Country>,
}

/// A communication as it came in: checked, with the key that its sender gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// The communication.
    pub request: CommunicationRequest,
    /// The sender's name for it.
    pub idempotency_key: Option<IdempotencyKey>,
}

impl Submission {
    /// Reads a communication from JSON text. All problems are reported together.
    pub fn parse(text: &[u8]) -> Result<Self, Problems> {
        Self::parse_in(None, text)
    }

    /// The same, with numbers that have no country code read as of `country`.
    pub fn parse_in(country: Option<Country>, text: &[u8]) -> Result<Self, Problems> {
        if text.len() > MAX_BYTES {
            let detail = format!("must have at most {MAX_BYTES} bytes");
            return Err(Problems::one("", detail));
        }
        let mut problems = Problems::default();
        let submission = Object::new(json::parse(text)?, "", &mut problems)
            .and_then(|object| read_submission(object, country));
        problems.or(submission)
    }

    /// The same as JSON text.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            idempotency_key: Option<&'a IdempotencyKey>,
            #[serde(flatten)]
            request: &'a CommunicationRequest,
        }
        let json = serde_json::to_string(&Wire {
            idempotency_key: self.idempotency_key.as_ref(),
            request: &self.request,
        })?;
        // JSON may have them as they are, and SQS refuses a message that has (`SendMessage`, allowed
        // characters: up to U+FFFD, and from U+10000 on).
        Ok(json
            .replace('\u{fffe}', "\\ufffe")
            .replace('\u{ffff}', "\\uffff"))
    }

    /// The same for these recipients, which are all of its own or some of them: as it goes on the queue.
    pub fn to_json_for(&self, recipients: &[Recipient]) -> Result<String, serde_json::Error> {
        if self.request.recipients.len() == recipients.len() {
            return self.to_json();
        }
        self.for_recipients(recipients.to_vec()).to_json()
    }

    /// The same for these recipients.
    #[must_use]
    pub fn for_recipients(&self, recipients: Vec<Recipient>) -> Self {
        Self {
            request: CommunicationRequest {
                recipients,
                ..self.request.clone()
            },
            idempotency_key: self.idempotency_key.clone(),
        }
    }
}

impl CommunicationRequest {
    /// Whose chain sends it.
    pub fn tenant(&self) -> Tenant {
        self.requested.tenant()
    }

    /// A keyed hash of everything in the request, to tell a repetition from another request under
    /// the same key.
    pub fn payload_hash(&self, hash: &HashKey) -> Result<String, serde_json::Error> {
        let json = match self.requested {
            RequestedTenant::Clinic(_) | RequestedTenant::Unnamed => serde_json::to_vec(self)?,
            // It is the same communication as without a `clinicId`.
            RequestedTenant::Global => serde_json::to_vec(&Self {
                requested: RequestedTenant::Unnamed,
                ..self.clone()
            })?,
        };
        Ok(hash.digest("payload", &[&json]).hex128())
    }

    /// The deliveries of this request: every recipient on every channel, shown as `mask` says.
    pub fn deliveries(
        &self,
        hash: &HashKey,
        id: &RequestId,
        mask: AddressMask,
    ) -> Vec<PlannedDelivery> {
        let mut planned = Vec::with_capacity(self.recipients.len() * self.channels.len());
        for recipient in &self.recipients {
            for channel in &self.channels {
                let target = match channel {
                    Channel::Email => recipient.email.clone().map(|address| {
                        Target::Email(Mailbox {
                            address,
                            name: recipient.name.clone(),
                        })
                    }),
                    Channel::Whatsapp => recipient.phone_number.clone().map(Target::Whatsapp),
                };
                let address = match &target {
                    Some(target) => target.address().to_owned(),
                    // The address on the other channel, which no other recipient has: the same whatever part
                    // of the request it is read from. No address begins with '#'.
                    None => format!("#{}", recipient.any_address()),
                };
                let id = DeliveryId::derive(hash, id, channel.as_str(), &address);
                planned.push(PlannedDelivery::new(id, *channel, target, mask));
            }
        }
        planned
    }
}

macro_rules! debug_shows_no_content {
    ($($type:ident),*) => {$(
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($type), "(…)"))
            }
        }
    )*};
}
debug_shows_no_content!(
    Recipient,
    Attachment,
    Template,
    TemplateValues,
    TemplateParams,
    Media,
    Content,
    CommunicationRequest
);

#[cfg(test)]
mod tests;
