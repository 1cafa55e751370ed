//! A communication as backend teams post it or put it on the queue: one content, some recipients,
//! some channels.

mod expiry;
mod metadata;
mod national;

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::{
    address::{AddressMask, EmailAddress, Mailbox},
    attachment::{parse_filename, read_attachments},
    channel::Channel,
    country::Country,
    hash::HashKey,
    id::{DeliveryId, IdempotencyKey, RequestId, Tenant},
    json::{self, Object, Problems, read},
    phone::PhoneNumber,
    public_url::PublicUrl,
    visible::{has_visible, is_turned},
};

pub use metadata::{MAX_METADATA, MAX_METADATA_NAME, MAX_METADATA_VALUE, RequestedTenant};
pub use national::tenant_of_national_numbers;

pub use crate::attachment::Attachment;

use expiry::parse_expiry;
use metadata::read_metadata;

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

    /// Reads what [`Priority::as_str`] gives.
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

/// Somebody to reach.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Recipient {
    /// The name shown beside the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For the e-mail channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<EmailAddress>,
    /// For the WhatsApp channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phone_number: Option<PhoneNumber>,
}

impl Recipient {
    /// An address, whichever there is; nobody is without one.
    fn any_address(&self) -> &str {
        let email = self.email.as_ref().map(EmailAddress::as_str);
        let phone = self.phone_number.as_ref().map(PhoneNumber::as_str);
        email.or(phone).unwrap_or_default()
    }
}

/// A template that the provider holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    /// Its name or id at the provider.
    pub id: String,
    /// Its language, such as `en_US`.
    pub language: Option<String>,
    /// What goes into it.
    pub values: TemplateValues,
}

/// What goes into a template.
#[derive(Clone, PartialEq, Eq)]
pub enum TemplateValues {
    /// Texts, which every provider can place.
    Params(TemplateParams),
    /// Components in the form of Meta's Cloud API, which only that can place.
    Components(Vec<Value>),
}

/// The texts that go into a template, in the order of its placeholders.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
pub struct TemplateParams {
    /// Into its header.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub header: Vec<String>,
    /// Into its body.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub body: Vec<String>,
    /// Into the URLs of its buttons, the first button first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub buttons: Vec<String>,
}

impl TemplateParams {
    /// All of them, header first, buttons last.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let texts = self.header.iter().chain(&self.body).chain(&self.buttons);
        texts.map(String::as_str)
    }
}

/// A file that the provider fetches and shows, for WhatsApp.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Media {
    /// How it is shown.
    #[serde(rename = "type")]
    pub kind: MediaKind,
    /// Where the provider fetches it.
    pub url: PublicUrl,
    /// The name under which the recipient sees a document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
}

/// How a medium is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaKind {
    /// A picture.
    Image,
    /// A film.
    Video,
    /// A file, such as a PDF.
    Document,
}

impl MediaKind {
    /// The name in requests, and at Meta.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Video => "video",
            Self::Document => "document",
        }
    }
}

/// What is to be said.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// What it is about, as the request has it.
    pub category: Option<String>,
    /// The subject of an e-mail.
    pub title: Option<String>,
    /// The text.
    pub body: Option<String>,
    /// The same as HTML, for e-mail.
    pub html: Option<String>,
    /// The template, for WhatsApp.
    pub template: Option<Template>,
    /// Files, for e-mail.
    pub attachments: Vec<Attachment>,
    /// Who else gets the e-mail, for all to see.
    pub cc: Vec<EmailAddress>,
    /// Who else gets the e-mail, unseen.
    pub bcc: Vec<EmailAddress>,
    /// A file, for WhatsApp. With a template it goes into the header.
    pub media: Option<Media>,
}

impl Content {
    /// The envelope recipients of one delivery on `channel`. Each e-mail delivery repeats the copies.
    pub fn envelope_recipients(&self, channel: Channel) -> u32 {
        let copies = match channel {
            Channel::Email => self.cc.len() + self.bcc.len(),
            Channel::Whatsapp => 0,
        };
        u32::try_from(copies + 1).unwrap_or(u32::MAX)
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
    /// What is said.
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

/// Where a delivery goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A mailbox.
    Email(Mailbox),
    /// A WhatsApp number.
    Whatsapp(PhoneNumber),
}

impl Target {
    /// The address in full.
    pub fn address(&self) -> &str {
        match self {
            Self::Email(mailbox) => mailbox.address.as_str(),
            Self::Whatsapp(phone) => phone.as_str(),
        }
    }

    /// The channel that reaches it.
    pub const fn channel(&self) -> Channel {
        match self {
            Self::Email(_) => Channel::Email,
            Self::Whatsapp(_) => Channel::Whatsapp,
        }
    }

    /// The address as it may be stored and shown.
    pub fn masked(&self, mask: AddressMask) -> String {
        match self {
            Self::Email(mailbox) => mailbox.address.masked(mask),
            Self::Whatsapp(phone) => phone.masked(mask),
        }
    }
}

/// One delivery to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedDelivery {
    /// The id.
    pub id: DeliveryId,
    /// The channel.
    pub channel: Channel,
    /// Where to; `None` where the recipient has no address on the channel.
    pub target: Option<Target>,
    recipient: String,
}

impl PlannedDelivery {
    /// A delivery to `target`, which is shown as `mask` says.
    pub fn new(
        id: DeliveryId,
        channel: Channel,
        target: Option<Target>,
        mask: AddressMask,
    ) -> Self {
        let recipient = target
            .as_ref()
            .map_or_else(|| "(no address)".to_owned(), |target| target.masked(mask));
        Self {
            id,
            channel,
            target,
            recipient,
        }
    }

    /// The recipient as the ledger and answers show it: the masked address, or that there is none.
    pub fn masked(&self) -> &str {
        &self.recipient
    }
}

fn read_submission(mut object: Object<'_>, country: Option<Country>) -> Option<Submission> {
    let idempotency_key = object.optional("idempotencyKey", read::parsed(IdempotencyKey::parse));
    let category = object.optional("category", read::parsed(parse_category));
    let priority = object.optional(
        "priority",
        read::one_of(&[
            ("low", Priority::Low),
            ("normal", Priority::Normal),
            ("high", Priority::High),
            ("critical", Priority::Critical),
        ]),
    );
    let strategy = object.optional(
        "strategy",
        read::one_of(&[
            ("queued", Strategy::Queued),
            ("immediate", Strategy::Immediate),
        ]),
    );
    let channels = read_channels(&mut object);
    let recipients = read_recipients(&mut object, country);
    let content = Content {
        category: category.clone(),
        ..read_content(
            &mut object,
            channels.as_deref().unwrap_or_default(),
            &recipients,
        )
    };
    let reply_to = object.optional("replyTo", read::parsed(EmailAddress::parse_new));
    let expires_at = object.optional("expiresAt", read::parsed(parse_expiry));
    let (requested, references) = object
        .object("metadata", |metadata| Some(read_metadata(metadata)))
        .unwrap_or_default();
    metadata::refuse_misplaced_clinic(&mut object);
    object.finish();
    Some(Submission {
        request: CommunicationRequest {
            category,
            priority: priority.unwrap_or(Priority::Normal),
            strategy: strategy.unwrap_or(Strategy::Queued),
            content,
            recipients,
            channels: channels?,
            reply_to,
            expires_at,
            requested: requested.unwrap_or(RequestedTenant::Unnamed),
            references,
        },
        idempotency_key,
    })
}

/// Whether `text` is `least` to `most` ASCII letters, digits, `-` and `_`.
fn is_word(text: &str, least: usize, most: usize) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    (least..=most).contains(&text.len()) && text.bytes().all(plain)
}

fn parse_category(text: &str) -> Result<String, String> {
    if is_word(text, 1, MAX_CATEGORY) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "must be 1 to {MAX_CATEGORY} letters, digits, '-' or '_'"
        ))
    }
}

fn read_channels(object: &mut Object<'_>) -> Option<Vec<Channel>> {
    let items = match object.take("channels") {
        Some(Value::Array(items)) => items,
        Some(_) => {
            object.problem("channels", "must be an array of channel names");
            return None;
        }
        None => {
            object.problem("channels", "is required");
            return None;
        }
    };
    if items.is_empty() {
        object.problem("channels", "must name at least one channel");
    }
    let (mut channels, mut is_right) = (Vec::new(), !items.is_empty());
    for (index, item) in items.into_iter().take(Channel::ALL.len() + 1).enumerate() {
        let channel = item.as_str().and_then(Channel::parse);
        let wrong = match channel {
            None => "must be one of: email, whatsapp",
            Some(channel) if channels.contains(&channel) => {
                "is named already; name each channel once"
            }
            Some(channel) => {
                channels.push(channel);
                continue;
            }
        };
        object.problem_at("channels", index, wrong);
        is_right = false;
    }
    is_right.then_some(channels)
}

fn read_recipients(object: &mut Object<'_>, country: Option<Country>) -> Vec<Recipient> {
    let has_some = object.array_length("recipients") > 0;
    let mut emails = std::collections::HashSet::new();
    let mut phones = std::collections::HashSet::new();
    let recipients = object.objects("recipients", MAX_RECIPIENTS, |_, mut item| {
        let unreachable = item.is_missing("email") && item.is_missing("phoneNumber");
        let name = item.optional("name", read::parsed(parse_recipient_name));
        let email = item.optional("email", read::parsed(EmailAddress::parse_new));
        let phone_number = item.optional(
            "phoneNumber",
            read::parsed(|text| PhoneNumber::parse_in(country, text)),
        );
        if unreachable {
            item.problem_here("must have an email or a phoneNumber");
        } else if email
            .as_ref()
            .is_some_and(|email| !emails.insert(mailbox_key(email)))
        {
            item.problem(
                "email",
                "is the address of an earlier recipient; name each address once",
            );
        } else if phone_number
            .as_ref()
            .is_some_and(|phone| !phones.insert(phone.clone()))
        {
            item.problem(
                "phoneNumber",
                "is the number of an earlier recipient; name each number once",
            );
        }
        item.finish();
        Some(Recipient {
            name: name.filter(|name| !name.is_empty()),
            email,
            phone_number,
        })
    });
    if recipients.is_empty() && !has_some {
        object.missing(
            "recipients",
            format!("must name 1 to {MAX_RECIPIENTS} recipients"),
        );
    }
    recipients
}

fn read_content(
    object: &mut Object<'_>,
    channels: &[Channel],
    recipients: &[Recipient],
) -> Content {
    let title = object.optional("title", read::parsed(parse_title));
    let body = object.optional("body", read::visible_text(1, MAX_BODY));
    let html = object.optional("html", read::visible_text(1, MAX_HTML));
    let media = object.object("media", read_media);
    let template = read_template(object);
    let attachments = read_attachments(object, html.is_some());
    let (cc, bcc) = read_copies(object, channels, recipients);

    if channels.contains(&Channel::Email) {
        if title.is_none() {
            object.missing("title", "is required for the email channel");
        }
        if body.is_none() && html.is_none() {
            object.missing(
                "body",
                "is required for the email channel, unless there is html",
            );
        }
    }
    if channels.contains(&Channel::Whatsapp)
        && body.is_none()
        && template.is_none()
        && media.is_none()
    {
        object.missing(
            "body",
            "is required for the whatsapp channel, unless there is a templateId or media",
        );
    }
    if media.is_some() {
        let in_the_way = match template.as_ref().map(|template| &template.values) {
            Some(TemplateValues::Components(_)) => {
                Some("belongs into the header of templateComponents")
            }
            Some(TemplateValues::Params(params)) if !params.header.is_empty() => {
                Some("takes the place of templateParams.header; send one of them")
            }
            Some(TemplateValues::Params(_)) | None => None,
        };
        if !channels.contains(&Channel::Whatsapp) {
            object.problem(
                "media",
                "needs the whatsapp channel; an e-mail has attachments",
            );
        } else if let Some(detail) = in_the_way {
            object.problem("media", detail);
        }
    }
    Content {
        category: None,
        title,
        body,
        html,
        template,
        attachments,
        cc,
        bcc,
        media,
    }
}

/// Reads `templateId` and what belongs to it: `language`, and `templateParams` or
/// `templateComponents`.
pub fn read_template(object: &mut Object<'_>) -> Option<Template> {
    let id_given = !object.is_missing("templateId");
    let id = object.optional("templateId", read::text(1, MAX_TEMPLATE_ID));
    let language = object.optional("language", read::parsed(parse_language));
    let params = object.optional("templateParams", read_template_params);
    let components = object.optional("templateComponents", read_template_components);
    if !id_given {
        let given = [
            ("templateParams", params.is_some()),
            ("templateComponents", components.is_some()),
            ("language", language.is_some()),
        ];
        for (name, _) in given.into_iter().filter(|(_, given)| *given) {
            object.problem(name, "needs a templateId");
        }
    }
    if components.is_some() && params.is_some() {
        object.problem(
            "templateParams",
            "says the same as templateComponents; send one of them",
        );
    }
    Some(Template {
        id: id?,
        language,
        values: match components {
            Some(components) => TemplateValues::Components(components),
            None => TemplateValues::Params(params.unwrap_or_default()),
        },
    })
}

/// Copies go with a delivery, and every recipient is a delivery: with several recipients each copy
/// would go out several times.
fn read_copies(
    object: &mut Object<'_>,
    channels: &[Channel],
    recipients: &[Recipient],
) -> (Vec<EmailAddress>, Vec<EmailAddress>) {
    let mut seen: Vec<_> = recipients
        .iter()
        .filter_map(|recipient| recipient.email.as_ref().map(mailbox_key))
        .collect();
    let recipients_with_mail = seen.len();
    let mut read_field = |name: &'static str| {
        let addresses = read_addresses(object, name);
        if addresses.is_empty() {
            return Vec::new();
        }
        if !channels.contains(&Channel::Email) {
            object.problem(name, "needs the email channel");
        } else if recipients_with_mail > 1 {
            object.problem(name, "needs a request with one recipient: each recipient gets a message of their own, and each would have these copies");
        } else if recipients_with_mail == 0 {
            object.problem(name, "needs a recipient with an email");
        }
        for (index, address) in &addresses {
            let key = mailbox_key(address);
            if seen.contains(&key) {
                let detail = "is an address that gets the message already";
                object.problem_at(name, *index, detail);
                continue;
            }
            seen.push(key);
        }
        addresses.into_iter().map(|(_, address)| address).collect()
    };
    let (cc, bcc) = (read_field("cc"), read_field("bcc"));
    if cc.len() + bcc.len() > MAX_COPIES {
        object.missing(
            if cc.is_empty() { "bcc" } else { "cc" },
            format!("must name at most {MAX_COPIES} addresses together with cc and bcc"),
        );
    }
    (cc, bcc)
}

/// By what an address is known again: RFC 5321 section 2.4 lets a server tell `Ann@` from `ann@`, and none
/// does.
fn mailbox_key(address: &EmailAddress) -> String {
    address.as_str().to_lowercase()
}

/// The addresses in an array, each with its index there.
fn read_addresses(object: &mut Object<'_>, name: &'static str) -> Vec<(usize, EmailAddress)> {
    let items = match object.take(name) {
        None => return Vec::new(),
        Some(Value::Array(items)) if items.len() <= MAX_COPIES => items,
        Some(_) => {
            let detail = format!("must be an array of at most {MAX_COPIES} e-mail addresses");
            object.problem(name, detail);
            return Vec::new();
        }
    };
    let mut addresses = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        match read::parsed(EmailAddress::parse_new)(item) {
            Ok(address) => addresses.push((index, address)),
            Err(detail) => object.problem_at(name, index, detail),
        }
    }
    addresses
}

/// Meta's own form is checked by Meta: here only that it is an array of objects with a type each, and
/// not more than belongs into a message.
fn read_template_components(value: Value) -> Result<Vec<Value>, String> {
    let wrong = || {
        format!(
            "must be an array of 1 to {MAX_TEMPLATE_COMPONENTS} objects with a type each, at most {MAX_TEMPLATE_COMPONENT_BYTES} bytes together"
        )
    };
    let Value::Array(components) = value else {
        return Err(wrong());
    };
    let size = serde_json::to_string(&components).map_or(usize::MAX, |text| text.len());
    let fits = (1..=MAX_TEMPLATE_COMPONENTS).contains(&components.len())
        && size <= MAX_TEMPLATE_COMPONENT_BYTES
        && components
            .iter()
            .all(|component| component.get("type").is_some_and(Value::is_string));
    if fits { Ok(components) } else { Err(wrong()) }
}

fn read_media(mut object: Object<'_>) -> Option<Media> {
    let kind = object.required(
        "type",
        read::one_of(&[
            ("image", MediaKind::Image),
            ("video", MediaKind::Video),
            ("document", MediaKind::Document),
        ]),
    );
    let url = object.required("url", read::parsed(PublicUrl::parse));
    let filename = object.optional("filename", read::parsed(parse_filename));
    if filename.is_some() && kind.is_some_and(|kind| kind != MediaKind::Document) {
        object.problem("filename", "is for a document only");
    }
    object.finish();
    Some(Media {
        kind: kind?,
        url: url?,
        filename,
    })
}

fn parse_title(text: &str) -> Result<String, String> {
    let length = text.chars().count();
    if !(1..=MAX_TITLE).contains(&length) {
        Err(format!("must be 1 to {MAX_TITLE} characters long"))
    } else if text.chars().any(char::is_control) {
        Err("must be one line without control characters".to_owned())
    } else if is_turned(text) {
        Err(
            "must be one line that nothing turns: without U+2028, U+2029, U+202D and U+202E"
                .to_owned(),
        )
    } else if !has_visible(text) {
        Err("must have a visible character".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

fn parse_recipient_name(text: &str) -> Result<String, String> {
    if is_turned(text) {
        return Err(
            "must be one line that nothing turns: without U+2028, U+2029, U+202D and U+202E"
                .to_owned(),
        );
    }
    Mailbox::parse_name(text).map_err(|error| error.to_string())
}

fn parse_language(text: &str) -> Result<String, String> {
    if is_word(text, 2, MAX_LANGUAGE) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "must be a language code such as en_US, of 2 to {MAX_LANGUAGE} letters, digits, '-' or '_'"
        ))
    }
}

/// An array is the body's; an object says for each part of the template.
fn read_template_params(value: Value) -> Result<TemplateParams, String> {
    let wrong = || {
        format!(
            "must be an array of strings of at most {MAX_TEMPLATE_PARAM} characters, or an object of such arrays named header, body and buttons; at most {MAX_TEMPLATE_PARAMS} strings together"
        )
    };
    let texts = |value: Value| match value {
        Value::Array(items) => items
            .into_iter()
            .map(|item| read::text(0, MAX_TEMPLATE_PARAM)(item).map_err(|_| wrong()))
            .collect(),
        Value::Null => Ok(Vec::new()),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => Err(wrong()),
    };
    let params = match value {
        Value::Object(mut parts) => {
            let mut part = |name: &str| texts(parts.shift_remove(name).unwrap_or_default());
            let params = TemplateParams {
                header: part("header")?,
                body: part("body")?,
                buttons: part("buttons")?,
            };
            if !parts.is_empty() {
                return Err(wrong());
            }
            params
        }
        body @ (Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)) => TemplateParams {
            body: texts(body)?,
            ..TemplateParams::default()
        },
    };
    if params.iter().count() > MAX_TEMPLATE_PARAMS {
        return Err(wrong());
    }
    Ok(params)
}

// By hand, because the API's JSON is flat where the type is not.
impl Serialize for CommunicationRequest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Metadata<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            clinic_id: Option<&'a str>,
            #[serde(flatten)]
            references: &'a BTreeMap<String, String>,
        }
        // As short as it can be said, which is also how most callers say it.
        #[derive(Serialize)]
        #[serde(untagged)]
        enum Params<'a> {
            OfBody(&'a [String]),
            OfParts(&'a TemplateParams),
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            category: Option<&'a String>,
            priority: Priority,
            strategy: Strategy,
            #[serde(skip_serializing_if = "Option::is_none")]
            title: Option<&'a String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            body: Option<&'a String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            html: Option<&'a String>,
            recipients: &'a [Recipient],
            channels: &'a [Channel],
            #[serde(skip_serializing_if = "Option::is_none")]
            template_id: Option<&'a String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            language: Option<&'a String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            template_params: Option<Params<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            template_components: Option<&'a [Value]>,
            #[serde(skip_serializing_if = "Option::is_none")]
            media: Option<&'a Media>,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            cc: &'a [EmailAddress],
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            bcc: &'a [EmailAddress],
            #[serde(skip_serializing_if = "Option::is_none")]
            reply_to: Option<&'a EmailAddress>,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            attachments: &'a [Attachment],
            #[serde(skip_serializing_if = "Option::is_none")]
            expires_at: Option<&'a Timestamp>,
            metadata: Metadata<'a>,
        }
        let template = self.content.template.as_ref();
        let (template_params, template_components) = match template.map(|template| &template.values)
        {
            None => (None, None),
            Some(TemplateValues::Components(components)) => (None, Some(components.as_slice())),
            Some(TemplateValues::Params(params)) => {
                let of_body = params.header.is_empty() && params.buttons.is_empty();
                let params = if of_body {
                    Params::OfBody(&params.body)
                } else {
                    Params::OfParts(params)
                };
                (Some(params), None)
            }
        };
        Wire {
            category: self.category.as_ref(),
            priority: self.priority,
            strategy: self.strategy,
            title: self.content.title.as_ref(),
            body: self.content.body.as_ref(),
            html: self.content.html.as_ref(),
            recipients: &self.recipients,
            channels: &self.channels,
            template_id: template.map(|template| &template.id),
            language: template.and_then(|template| template.language.as_ref()),
            template_params,
            template_components,
            media: self.content.media.as_ref(),
            cc: &self.content.cc,
            bcc: &self.content.bcc,
            reply_to: self.reply_to.as_ref(),
            attachments: &self.content.attachments,
            expires_at: self.expires_at.as_ref(),
            metadata: Metadata {
                clinic_id: self.requested.as_json(),
                references: &self.references,
            },
        }
        .serialize(serializer)
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
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn example() -> Value {
        json!({
            "category": "appointment", "priority": "high", "strategy": "queued",
            "title": "Appointment confirmed", "body": "See you on Monday at 10:00.", "html": "<p>See you</p>",
            "recipients": [{"email": "patient@example.com", "name": "A. Patient", "phoneNumber": "+15550100"}],
            "channels": ["email", "whatsapp"],
            "templateId": "appointment_confirmed", "language": "en_US", "templateParams": ["Monday", "10:00"],
            "replyTo": "desk@clinic.example",
            "attachments": [{"filename": "a.ics", "contentType": "text/calendar", "content": "QkVHSU4="}],
            "expiresAt": "2026-12-01T10:00:00Z",
            "metadata": {"clinicId": "clinic-123", "appointmentId": "appt-456"}
        })
    }

    fn parse(value: &Value) -> Result<Submission, Problems> {
        Submission::parse(value.to_string().as_bytes())
    }

    fn pointers(value: &Value) -> Vec<String> {
        parse(value)
            .unwrap_err()
            .as_slice()
            .iter()
            .map(|p| p.pointer.clone())
            .collect()
    }

    #[test]
    fn the_documented_example_is_read_whole_and_written_back_the_same() {
        let submission = parse(&example()).unwrap();
        let request = &submission.request;
        assert_eq!(request.requested.clinic().unwrap().as_str(), "clinic-123");
        assert_eq!(request.content.attachments[0].content.as_ref(), b"BEGIN");
        let written: Value = serde_json::from_str(&submission.to_json().unwrap()).unwrap();
        assert_eq!(written, example());
    }

    #[test]
    fn every_wrong_field_is_named_at_once() {
        let mut value = example();
        value["priority"] = json!("urgent");
        value["colour"] = json!("red");
        value["recipients"][0]["email"] = json!("nobody");
        value["recipients"][0]["fax"] = json!("1");
        value["channels"] = json!(["email", "sms"]);
        value["expiresAt"] = json!("tomorrow");
        value["attachments"][0]["content"] = json!("!!");
        value["metadata"]["clinicId"] = json!("a b");
        let mut found = pointers(&value);
        found.sort();
        assert_eq!(
            found,
            [
                "/attachments/0/content",
                "/channels/1",
                "/colour",
                "/expiresAt",
                "/metadata/clinicId",
                "/priority",
                "/recipients/0/email",
                "/recipients/0/fax"
            ]
        );
    }

    #[test]
    fn problems_do_not_repeat_what_was_sent() {
        let mut value = example();
        value["recipients"][0]["email"] = json!("planted patient");
        value["title"] = json!("planted\ntitle");
        value["expiresAt"] = json!("planted");
        assert!(!parse(&value).unwrap_err().to_string().contains("planted"));
    }

    #[test]
    fn a_channel_needs_its_content() {
        let mut value = example();
        value["channels"] = json!(["email"]);
        value
            .as_object_mut()
            .unwrap()
            .retain(|name, _| !matches!(name.as_str(), "title" | "body" | "html"));
        assert_eq!(pointers(&value), ["/title", "/body"]);
        value["channels"] = json!(["whatsapp"]);
        assert!(parse(&value).is_ok(), "a template is enough for whatsapp");
    }

    #[test]
    fn header_injection_is_refused_at_the_border() {
        for title in ["a\r\nBcc: x@example.com", "a\nb", "a\0b", ""] {
            let mut value = example();
            value["title"] = json!(title);
            assert_eq!(pointers(&value), ["/title"], "{title:?}");
        }
        for (name, text) in [
            ("filename", "../a"),
            ("filename", "a\r\nb"),
            ("contentType", "text/html; charset=x"),
            ("contentType", "text"),
        ] {
            let mut value = example();
            value["attachments"][0][name] = json!(text);
            assert_eq!(pointers(&value), [format!("/attachments/0/{name}")]);
        }
    }

    #[test]
    fn an_address_named_twice_is_refused_rather_than_dropped() {
        let mut value = example();
        value["recipients"] = json!([{"email": "a@example.com"}, {"email": "a@EXAMPLE.com"}]);
        assert_eq!(pointers(&value), ["/recipients/1/email"]);
        value["recipients"] = json!([{"email": "Ann@example.com"}, {"email": "ann@example.com"}]);
        assert_eq!(
            pointers(&value),
            ["/recipients/1/email"],
            "no server tells them apart"
        );
    }

    #[test]
    fn limits_are_named() {
        let mut value = example();
        value["recipients"] = (0..=MAX_RECIPIENTS)
            .map(|n| json!({"email": format!("a{n}@example.com")}))
            .collect();
        let problems = parse(&value).unwrap_err();
        let limit = MAX_RECIPIENTS.to_string();
        assert!(problems.to_string().contains(&limit), "{problems}");
        let mut value = example();
        value["recipients"] = json!([]);
        assert_eq!(pointers(&value), ["/recipients"]);
    }

    #[test]
    fn copies_go_with_one_message_only() {
        let copied = || {
            let mut value = example();
            value["cc"] = json!(["family@example.com"]);
            value["bcc"] = json!(["archive@clinic.example"]);
            value
        };
        let request = parse(&copied()).unwrap().request;
        assert_eq!(request.content.cc[0].as_str(), "family@example.com");
        assert_eq!(request.content.bcc.len(), 1);
        let written: Value =
            serde_json::from_str(&parse(&copied()).unwrap().to_json().unwrap()).unwrap();
        assert_eq!(written["bcc"], json!(["archive@clinic.example"]));

        let mut two = copied();
        two["recipients"] = json!([{"email": "a@example.com"}, {"email": "b@example.com"}]);
        assert_eq!(pointers(&two), ["/cc", "/bcc"]);
        let mut no_mail = copied();
        no_mail["channels"] = json!(["whatsapp"]);
        assert_eq!(pointers(&no_mail), ["/cc", "/bcc"]);
        let mut twice = copied();
        twice["bcc"] = json!(["Patient@EXAMPLE.com"]);
        assert_eq!(pointers(&twice), ["/bcc/0"]);
        let many = |count: usize| -> Value {
            (0..count)
                .map(|n| json!(format!("c{n}@example.com")))
                .collect()
        };
        let mut most = copied();
        most["cc"] = many(MAX_COPIES - 1);
        assert!(parse(&most).is_ok());
        most["cc"] = many(MAX_COPIES);
        assert_eq!(pointers(&most), ["/cc"]);
        most["cc"] = json!(["nobody"]);
        assert_eq!(pointers(&most), ["/cc/0"]);
    }

    #[test]
    fn a_template_takes_texts_by_part_or_components_whole() {
        let mut value = example();
        value["templateParams"] = json!({"header": ["A"], "body": ["B", "C"], "buttons": ["D"]});
        let submission = parse(&value).unwrap();
        let Some(TemplateValues::Params(params)) = submission
            .request
            .content
            .template
            .as_ref()
            .map(|template| &template.values)
        else {
            panic!("no parameters");
        };
        assert_eq!(params.iter().collect::<Vec<_>>(), ["A", "B", "C", "D"]);
        let written: Value = serde_json::from_str(&submission.to_json().unwrap()).unwrap();
        assert_eq!(written["templateParams"], value["templateParams"]);

        let components = json!([{"type": "body", "parameters": [{"type": "text", "text": "x"}]}]);
        value["templateComponents"] = components.clone();
        assert_eq!(pointers(&value), ["/templateParams"]);
        value
            .as_object_mut()
            .unwrap()
            .shift_remove("templateParams");
        let written = parse(&value).unwrap().to_json().unwrap();
        let written: Value = serde_json::from_str(&written).unwrap();
        assert_eq!(written["templateComponents"], components);
        for wrong in [
            json!([]),
            json!([{}]),
            json!({"type": "body"}),
            json!(["body"]),
        ] {
            value["templateComponents"] = wrong;
            assert_eq!(pointers(&value), ["/templateComponents"]);
        }
        value["templateComponents"] =
            json!([{"type": "body", "text": "x".repeat(MAX_TEMPLATE_COMPONENT_BYTES)}]);
        assert_eq!(pointers(&value), ["/templateComponents"]);
        for wrong in [
            json!("x"),
            json!({"body": "x"}),
            json!({"footer": []}),
            json!([1]),
        ] {
            let mut value = example();
            value["templateParams"] = wrong;
            assert_eq!(pointers(&value), ["/templateParams"]);
        }
    }

    #[test]
    fn media_are_fetched_over_https_and_for_whatsapp_only() {
        let mut value = example();
        let media = json!({"type": "document", "url": "https://files.clinic.example/a.pdf?t=1", "filename": "a.pdf"});
        value["media"] = media.clone();
        let written: Value =
            serde_json::from_str(&parse(&value).unwrap().to_json().unwrap()).unwrap();
        assert_eq!(written["media"], media);
        value["channels"] = json!(["email"]);
        assert_eq!(pointers(&value), ["/media"]);
        value["channels"] = json!(["whatsapp"]);
        for (name, wrong) in [
            ("url", json!("http://files.clinic.example/a.pdf")),
            ("url", json!("https://user:pw@files.clinic.example/")),
            ("url", json!("files")),
            ("type", json!("audio")),
            ("filename", json!("../a")),
        ] {
            value["media"] = media.clone();
            value["media"][name] = wrong;
            assert_eq!(pointers(&value), [format!("/media/{name}")]);
        }
        value["media"] = json!({"type": "image", "url": "https://a.example/b", "filename": "b"});
        assert_eq!(pointers(&value), ["/media/filename"]);
        let mut both = example();
        both["media"] = media;
        both["templateParams"] = json!({"header": ["A"]});
        assert_eq!(pointers(&both), ["/media"]);
    }

    #[test]
    fn a_recipient_without_an_address_on_a_channel_is_a_delivery_all_the_same() {
        let mut value = example();
        value["recipients"] = json!([{"email": "a@example.com"}, {"phoneNumber": "+15550100"}]);
        let hash = HashKey::from_bytes(&[0; 32]);
        let request = parse(&value).unwrap().request;
        let id = RequestId::derive(
            &hash,
            &request.tenant(),
            &IdempotencyKey::parse("k").unwrap(),
        );
        let planned = request.deliveries(&hash, &id, AddressMask::Short);
        assert_eq!(planned.len(), 4);
        assert_eq!(
            planned
                .iter()
                .filter(|delivery| delivery.target.is_none())
                .count(),
            2
        );
        let ids: std::collections::HashSet<_> =
            planned.iter().map(|delivery| &delivery.id).collect();
        assert_eq!(ids.len(), 4);
    }

    #[test]
    fn the_payload_hash_changes_with_the_content_and_not_with_the_key() {
        let hash = HashKey::from_bytes(&[0; 32]);
        let one = parse(&example()).unwrap();
        let mut keyed = example();
        keyed["idempotencyKey"] = json!("k");
        let mut other = example();
        other["body"] = json!("Another text.");
        let digest = |value: &Submission| value.request.payload_hash(&hash).unwrap();
        assert_eq!(digest(&one), digest(&parse(&keyed).unwrap()));
        assert_ne!(digest(&one), digest(&parse(&other).unwrap()));
    }

    #[test]
    fn a_mediums_url_may_be_as_long_in_the_spelling_that_goes_on_the_queue() {
        let with_letters = |letters: usize| {
            let mut value = example();
            value["media"] = json!({"type": "image", "url": format!("https://a.example/{}", "ä".repeat(letters))});
            value
        };
        // Six characters each.
        let most = (PublicUrl::MAX - 18) / 6;
        let submission = parse(&with_letters(most)).unwrap();
        let again = Submission::parse(submission.to_json().unwrap().as_bytes());
        assert_eq!(again, Ok(submission));
        assert_eq!(pointers(&with_letters(most + 1)), ["/media/url"]);
    }

    #[test]
    fn fractions_and_every_character_survive_the_queue() {
        let mut value = example();
        value["channels"] = json!(["whatsapp"]);
        value["body"] = json!("a\u{fffe}b\u{ffff}c\u{10ffff}d\u{1}e");
        value
            .as_object_mut()
            .unwrap()
            .shift_remove("templateParams");
        // Read without care, each of them is another number (serde_json, `float_roundtrip`).
        value["templateComponents"] = json!([{"type": "location", "parameters": [
            31.245_270_191_439_438, 121.487_919_511_619_45, 0.000_000_000_000_000_022_204_460_492_503_136, 1e300]}]);
        let submission = parse(&value).unwrap();
        let text = submission.to_json().unwrap();
        assert!(!text.contains(['\u{fffe}', '\u{ffff}']), "SQS refuses it");
        let again = Submission::parse(text.as_bytes()).unwrap();
        assert_eq!(again, submission);
        let hash = HashKey::from_bytes(&[0; 32]);
        assert_eq!(
            again.request.payload_hash(&hash).unwrap(),
            submission.request.payload_hash(&hash).unwrap()
        );
        let written: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(written["templateComponents"], value["templateComponents"]);
    }

    #[test]
    fn debug_shows_nothing_of_the_content() {
        let text = format!("{:?}", parse(&example()).unwrap());
        for planted in ["patient", "Monday", "confirmed", "555"] {
            assert!(!text.contains(planted), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_survives_the_queue(
            title in "[^\\p{C}]{1,40}", body in ".{1,80}", name in "[^\\p{C}]{0,20}",
            reference in ".{0,20}", count in 1_usize..4,
        ) {
            let recipients: Vec<_> = (0..count).map(|n| json!({"email": format!("r{n}@example.com"), "name": name})).collect();
            let value = json!({"title": title, "body": body, "channels": ["email"], "recipients": recipients, "metadata": {"ref": reference}});
            if let Ok(submission) = parse(&value) {
                let again = Submission::parse(submission.to_json().unwrap().as_bytes()).unwrap();
                prop_assert_eq!(again, submission);
            }
        }

        #[test]
        fn parsing_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Submission::parse(&bytes);
        }
    }
}
