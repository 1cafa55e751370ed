//! Amazon Simple Email Service, API v2 (2019-09-27): `SendEmail`, and `GetAccount` and `GetEmailIdentity` to check.
//!
//! Idempotency: none, so the SDK's own retries are off; the tag `delivery_id` carries the delivery's id into
//! SES's events.
//!
//! Documentation: <https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html>

mod connector;
mod credentials;

use std::{error::Error as StdError, fmt, future::Future, num::NonZeroU32, time::Duration};

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_sesv2::{
    Client,
    config::{
        Builder, IdentityCache, Region, SharedHttpClient, http::HttpResponse, retry::RetryConfig,
        timeout::TimeoutConfig,
    },
    error::{ProvideErrorMetadata, SdkError},
    operation::{
        get_account::GetAccountOutput, send_email::builders::SendEmailFluentBuilder as SendEmail,
    },
    primitives::Blob,
    types::{
        Body, Content as Text, Destination, EmailContent, Message as SimpleMessage, MessageHeader,
        MessageTag, RawMessage,
    },
};
use comms_core::{
    Disposition, EmailAddress, ErrorKind, Mailbox, ProviderCode, ProviderError, ProviderKind,
    Receipt, Secret,
    account::{AwsAccessKeyId, AwsRegion, ExternalId, RoleArn, SesName},
    request::{Content, Target},
};
use tracing::{instrument::WithSubscriber, subscriber::NoSubscriber};

use self::{
    connector::{Begun, Lent},
    credentials::{AssumedRole, NoCredentials, SealedKey},
};

use crate::{
    deadline::{Deadline, Elapsed},
    http::{causes, provider_id},
    message::{Message, invalid, not_carried, text_body},
    mime::{self, Feedback, mailbox},
    provider::{Capabilities, Provider, Report, StageReport, VerifyStage},
    tls::HandshakeFailure,
};

const CAPABILITIES: Capabilities = Capabilities {
    html: true,
    attachments: true,
    receivers: MOST_RECEIVERS,
    reply_to: true,
    internationalised_addresses: false,
    templates: false,
    media: false,
    text_chars: None,
    message_bytes: Some(MOST_BYTES),
};

/// Receivers of one message (SES, "Service quotas", "Message quotas").
const MOST_RECEIVERS: usize = 50;
/// Bytes of a message after base64 (SES, "Service quotas": 40 MB).
const MOST_BYTES: usize = 40_000_000;
/// Bytes of an address with its name. Not documented; SES answers "Address length is more than 320 bytes long"
/// (<https://github.com/zulip/zulip/issues/17558>).
const MOST_MAILBOX_BYTES: usize = 320;
/// The longest that one request takes with its answer, and with the credentials where they have to be fetched.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// The longest that a wish to be left alone is taken for: a day.
const MOST_RETRY_AFTER: Duration = Duration::from_hours(24);
/// Messages in a second where SES has not said how many the account may send: what an account has when it
/// leaves the sandbox (SES, "Service quotas", "Sending quotas").
pub(crate) const UNKNOWN_MESSAGES_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(13);
/// The charset of everything that is sent.
const CHARSET: &str = "UTF-8";

/// What is needed to send through SES.
#[derive(Clone)]
pub struct SesSettings {
    /// The region whose SES is used.
    pub region: AwsRegion,
    /// Whose SES it is.
    pub account: SesAccount,
    /// Who the mail is from: a verified identity, or an address of one.
    pub sender: Mailbox,
    /// The configuration set that the mail goes through.
    pub configuration_set: Option<SesName>,
}

/// Whose SES is used.
#[derive(Clone)]
pub enum SesAccount {
    /// The clinic's own account, by an access key.
    Keys {
        /// The key's id.
        access_key_id: AwsAccessKeyId,
        /// The key.
        secret_access_key: Secret,
    },
    /// The clinic's own account, by a role that this account may assume.
    Role {
        /// The role.
        role_arn: RoleArn,
        /// What the role's trust policy asks for (`sts:ExternalId`).
        external_id: ExternalId,
    },
    /// The platform's account, as one of its SES tenants.
    Platform {
        /// The tenant.
        tenant_name: SesName,
    },
}

/// SES as one account and sender.
pub struct SesProvider {
    client: Client,
    sender: Mailbox,
    configuration_set: Option<SesName>,
    tenant: Option<SesName>,
}

impl SesProvider {
    /// Makes the provider; nothing is connected to yet. Its connections are those of `sdk`'s HTTP client.
    pub fn new(settings: SesSettings, sdk: &SdkConfig) -> Self {
        let region = Region::new(settings.region.as_str().to_owned());
        // The connect timeout stays what all AWS clients have (the SDK's 3.1 s where nothing is set): the HTTP
        // client keeps one set of connections for each, and a TLS configuration with it.
        let timeouts = sdk
            .timeout_config()
            .map_or_else(TimeoutConfig::builder, TimeoutConfig::to_builder)
            .disable_operation_timeout()
            .disable_operation_attempt_timeout()
            .build();
        let lent = sdk
            .http_client()
            .map(|client| SharedHttpClient::new(Lent::new(client)));
        let config = Builder::from(sdk)
            .region(region.clone())
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        let mut config = match &lent {
            Some(client) => config.http_client(client.clone()),
            None => config,
        };
        let mut tenant = None;
        match settings.account {
            SesAccount::Keys {
                access_key_id,
                secret_access_key,
            } => {
                // What is not remembered lies nowhere in clear between two messages.
                config = config
                    .identity_cache(IdentityCache::no_cache())
                    .credentials_provider(SealedKey::new(access_key_id, secret_access_key));
            }
            SesAccount::Role {
                role_arn,
                external_id,
            } => {
                let mut sdk = sdk.to_builder().region(region);
                sdk.set_http_client(lent);
                // What STS gives is good for an hour, and is remembered until shortly before it ends. STS is
                // given up on before the cache does it.
                let cache = IdentityCache::lazy().load_timeout(REQUEST_TIME).build();
                config = config
                    .identity_cache(cache)
                    .credentials_provider(AssumedRole::new(role_arn, external_id, sdk.build()));
            }
            SesAccount::Platform { tenant_name } => tenant = Some(tenant_name),
        }
        Self {
            client: Client::from_conf(config.build()),
            sender: settings.sender,
            configuration_set: settings.configuration_set,
            tenant,
        }
    }

    async fn account(&self, deadline: Deadline) -> Result<GetAccountOutput, Failure> {
        ask(deadline, self.client.get_account().send()).await
    }

    /// Whether SES lets the sender send: as an address, or by its domain or one above it (SES, "Verified
    /// identities": the subdomains of a verified domain need no verification of their own).
    async fn check_sender(&self, deadline: Deadline) -> Result<(), ProviderError> {
        let mut known = false;
        for identity in identities(&self.sender.address) {
            let question = self.client.get_email_identity().email_identity(identity);
            match ask(deadline, question.send()).await {
                Ok(identity) if identity.verified_for_sending_status() => return Ok(()),
                Ok(_) => known = true,
                Err(Failure::Answered(answer)) if answer.is("NotFoundException") => {}
                Err(Failure::Answered(answer)) if answer.is("AccessDeniedException") => {
                    return Err(ProviderError::new(
                        Disposition::ProviderDown,
                        ErrorKind::Unauthenticated,
                        "The credentials may not look up the sender; allow ses:GetEmailIdentity to have it checked.",
                    )
                    .with_code(answer.code));
                }
                Err(failure) => return Err(classify(failure)),
            }
        }
        Err(ProviderError::new(
            Disposition::ProviderDown,
            ErrorKind::SenderNotAllowed,
            if known {
                "The sender is not verified yet in this region; finish its verification at SES."
            } else {
                "Neither the sender's address nor its domain is an identity of this account in this region; verify \
                 one of them at SES, or check the region."
            },
        ))
    }
}

impl fmt::Debug for SesProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SesProvider(…)")
    }
}

impl fmt::Debug for SesAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SesAccount(…)")
    }
}

impl fmt::Debug for SesSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SesSettings(…)")
    }
}

#[async_trait]
impl Provider for SesProvider {
    fn kind(&self) -> ProviderKind {
        ProviderKind::AwsSes
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    async fn send(&self, message: &Message, deadline: Deadline) -> Result<Receipt, ProviderError> {
        let begun = Begun::default();
        let mark = begun.clone();
        let request = self.request(message)?.customize();
        let exchange = request.mutate_request(move |request| request.add_extension(mark.clone()));
        let failure = match deadline
            .bound(REQUEST_TIME, unlogged(exchange.send()))
            .await
        {
            Ok(Ok(accepted)) => match accepted.message_id().and_then(provider_id) {
                Some(id) => return Ok(Receipt::new(id)),
                None => Failure::Answered(Answer::without_id()),
            },
            Ok(Err(error)) => {
                let failure = Failure::of(&error, begun.get());
                if names_only_others(error.message().unwrap_or_default(), &self.sender.address) {
                    failure.in_sandbox()
                } else {
                    failure
                }
            }
            Err(Elapsed) => Failure::out_of_time(begun.get()),
        };
        Err(classify(failure))
    }

    /// `MaxSendRate` (SES API v2, `SendQuota`): receivers in a second, of which a message without copies has
    /// one.
    async fn messages_per_second(&self, deadline: Deadline) -> Option<NonZeroU32> {
        let account = self.account(deadline).await.ok()?;
        whole_rate(account.send_quota()?.max_send_rate())
    }

    async fn verify(&self, deadline: Deadline) -> Vec<StageReport> {
        let mut report = Report::new();
        let account = match self.account(deadline).await {
            Ok(account) => Some(account),
            // The signature was accepted, and that is all that this stage is about.
            Err(Failure::Answered(answer)) if answer.is("AccessDeniedException") => None,
            Err(failure) => {
                let stage = failure.stage();
                report.stage::<()>(stage, Err(classify(failure)));
                return report.end();
            }
        };
        let state = account.as_ref().map_or(Ok(()), check_state);
        if report.stage(VerifyStage::Authenticate, state).is_none() {
            return report.end();
        }
        // The platform's account has every tenant's senders in it. Which of them are verified there is
        // nothing that one clinic may ask about another's, and its quota is nobody's own.
        if self.tenant.is_some() {
            return report.end();
        }
        let sender = self.check_sender(deadline).await;
        if report.stage(VerifyStage::Sender, sender).is_some() {
            report.stage(VerifyStage::Quota, check_quota(account.as_ref()));
        }
        report.end()
    }
}

/// Work of the SDK's without its log: at its finest level it writes down requests and answers, which have
/// addresses, contents and, from STS, credentials in them.
fn unlogged<F: Future>(work: F) -> impl Future<Output = F::Output> {
    work.with_subscriber(NoSubscriber::default())
}

/// Asks SES something. A question sends no message, so that it never matters how far it got.
async fn ask<T, E>(
    deadline: Deadline,
    question: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> Result<T, Failure>
where
    E: StdError + ProvideErrorMetadata + 'static,
{
    let failure = match deadline.bound(REQUEST_TIME, unlogged(question)).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => Failure::of(&error, false),
        Err(Elapsed) => Failure::Unanswered,
    };
    // What came back for a success, or from a server that fails, is no answer to a question.
    let answers =
        !matches!(&failure, Failure::Answered(answer) if !(300..500).contains(&answer.status));
    Err(if answers {
        failure
    } else {
        Failure::Unanswered
    })
}

/// Domains that are asked for: the sender's own and some above it.
const MOST_DOMAINS: usize = 4;

/// What may be verified so that `sender` may send: the address, its domain, and the domains above that.
fn identities(sender: &EmailAddress) -> impl Iterator<Item = &str> {
    let domains = std::iter::successors(Some(sender.domain()), |domain| {
        domain.split_once('.').map(|(_, above)| above)
    });
    let domains = domains.filter(|domain| domain.contains('.'));
    // Further up there is nothing that a clinic could have verified.
    std::iter::once(sender.as_str()).chain(domains.take(MOST_DOMAINS))
}

/// Whether the identities that a refusal names as not verified are others than the sender's: those of recipients, which
/// have to be verified while the account is in the sandbox (SES developer guide, "Moving out of the sandbox").
fn names_only_others(text: &str, sender: &EmailAddress) -> bool {
    let text = text.to_ascii_lowercase();
    let Some((_, rest)) = text.split_once("failed the check in region ") else {
        return false;
    };
    let Some((_, named)) = rest.split_once(": ") else {
        return false;
    };
    let sender = EmailAddress::parse(&sender.as_str().to_ascii_lowercase());
    sender.is_ok_and(|sender| {
        named
            .split(',')
            .map(|named| named.trim().trim_end_matches('.'))
            .all(|named| {
                !named.contains(sender.as_str()) && identities(&sender).all(|own| own != named)
            })
    })
}

/// The rate as a whole number: rounded down, at least one; `None` for what is no rate.
fn whole_rate(rate: f64) -> Option<NonZeroU32> {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is between one and a million"
    )]
    let whole = rate.clamp(1.0, 1e6) as u32;
    NonZeroU32::new(whole).filter(|_| rate > 0.0)
}

/// Whether the account sends at all. An account on probation does (SES, `GetAccount`, `EnforcementStatus`).
fn check_state(account: &GetAccountOutput) -> Result<(), ProviderError> {
    let suspended = |detail| {
        let kind = ErrorKind::AccountSuspended;
        Err(ProviderError::new(Disposition::ProviderDown, kind, detail))
    };
    if account.enforcement_status() == Some("SHUTDOWN") {
        return suspended(
            "SES has shut the account down in this region; answer AWS's case about it.",
        );
    }
    if !account.sending_enabled() {
        return suspended(
            "Sending is paused for the account in this region; enable it again at SES.",
        );
    }
    Ok(())
}

/// Whether the account has something left of its quota. One in the sandbox fails: the admin's own verified
/// address would be reached, and no patient's (SES, "Request production access").
fn check_quota(account: Option<&GetAccountOutput>) -> Result<(), ProviderError> {
    let error = |kind, detail| Err(ProviderError::new(Disposition::ProviderDown, kind, detail));
    let Some(account) = account else {
        return error(
            ErrorKind::Unauthenticated,
            "The credentials are accepted, but may not read the account's state; allow ses:GetAccount to have it \
             checked.",
        );
    };
    if !account.production_access_enabled() {
        return error(
            ErrorKind::QuotaExceeded,
            "The account is in the SES sandbox in this region, from where only verified addresses are reached; \
             request production access.",
        );
    }
    let used_up = account.send_quota().is_some_and(|quota| {
        // -1 is no limit (SES, `SendQuota`).
        quota.max24_hour_send() >= 0.0 && quota.sent_last24_hours() >= quota.max24_hour_send()
    });
    if used_up {
        return error(
            ErrorKind::QuotaExceeded,
            "The account has sent all that it may in 24 hours; request a higher quota at SES.",
        );
    }
    Ok(())
}

impl SesProvider {
    /// The request for `message`, or why SES can not carry it.
    fn request(&self, message: &Message) -> Result<SendEmail, ProviderError> {
        let recipient = message.mailbox()?;
        let content = &*message.content;
        if 1 + content.cc.len() + content.bcc.len() > MOST_RECEIVERS {
            return Err(invalid(
                "SES takes at most 50 receivers for one message, copies included.",
            ));
        }
        if self.sender.address.needs_smtputf8() {
            return Err(not_carried(
                ErrorKind::SenderNotAllowed,
                "SES sends only from addresses with ASCII before the @; choose another sender.",
            ));
        }
        let copies = content.cc.iter().chain(&content.bcc);
        let mut addresses = copies.chain([&recipient.address]).chain(&message.reply_to);
        if addresses.any(EmailAddress::needs_smtputf8) {
            return Err(not_carried(
                ErrorKind::InvalidRecipient,
                "SES takes only addresses with ASCII before the @; another provider may take this one.",
            ));
        }
        let (sender, recipient) = (
            with_fitting_name(&self.sender),
            with_fitting_name(recipient),
        );
        // A subject that looks like an encoded word must not come to a writer of headers that lets it pass: SES would write
        // the one of a simple message.
        let looks_encoded = content
            .title
            .as_deref()
            .is_some_and(|title| title.contains("=?"));
        let raw = looks_encoded || !content.attachments.is_empty();
        let email = if raw {
            let target = Target::Email(recipient.clone());
            let message = Message {
                target,
                ..message.clone()
            };
            raw_content(&message, &sender)?
        } else {
            simple_content(content)?
        };
        let destination = Destination::builder()
            .to_addresses(mailbox(&recipient))
            .set_cc_addresses(addresses_of(&content.cc))
            .set_bcc_addresses(addresses_of(&content.bcc))
            .build();
        let delivery = MessageTag::builder()
            .name("delivery_id")
            .value(message.delivery.as_str())
            .build()
            .map_err(|_| local_failure())?;
        // A raw message says in its own header where answers go.
        let reply_to = message.reply_to.as_ref().filter(|_| !raw);
        Ok(self
            .client
            .send_email()
            .from_email_address(mailbox(&sender))
            .destination(destination)
            .set_reply_to_addresses(reply_to.map(|address| vec![address.as_str().to_owned()]))
            .content(email)
            .email_tags(delivery)
            .set_configuration_set_name(self.configuration_set.as_ref().map(ToString::to_string))
            .set_tenant_name(self.tenant.as_ref().map(ToString::to_string)))
    }
}

/// Subject and bodies, which SES puts into MIME form.
fn simple_content(content: &Content) -> Result<EmailContent, ProviderError> {
    let subject = content.title.as_deref().unwrap_or_default();
    let body = text_body(content);
    let bodies = [body.as_deref(), content.html.as_deref()];
    if subject.is_empty() {
        return Err(invalid("An e-mail needs a subject (title)."));
    }
    if bodies.iter().all(Option::is_none) {
        return Err(invalid("An e-mail needs a body."));
    }
    let bytes = subject.len() + bodies.into_iter().flatten().map(str::len).sum::<usize>();
    check_size(bytes)?;
    let text = |text: &str| {
        Text::builder()
            .data(text)
            .charset(CHARSET)
            .build()
            .map_err(|_| local_failure())
    };
    let body = Body::builder()
        .set_text(body.as_deref().map(text).transpose()?)
        .set_html(content.html.as_deref().map(text).transpose()?)
        .build();
    let (name, value) = mime::AUTO_SUBMITTED;
    let automatic = MessageHeader::builder().name(name).value(value).build();
    let message = SimpleMessage::builder()
        .subject(text(subject)?)
        .body(body)
        .headers(automatic.map_err(|_| local_failure())?)
        .build();
    Ok(EmailContent::builder().simple(message).build())
}

/// The message in MIME form. Receivers of blind copies are not in it.
fn raw_content(message: &Message, sender: &Mailbox) -> Result<EmailContent, ProviderError> {
    if message
        .content
        .title
        .as_deref()
        .unwrap_or_default()
        .is_empty()
    {
        return Err(invalid("An e-mail needs a subject (title)."));
    }
    let files = message.content.attachments.iter();
    check_size(files.map(|file| file.content.len()).sum())?;
    // SES writes Feedback-ID itself.
    let mail = mime::build(message, sender, Feedback::ByProvider)?;
    check_size(mail.bytes.len())?;
    let raw = RawMessage::builder()
        .data(Blob::new(mail.bytes))
        .build()
        .map_err(|_| local_failure())?;
    Ok(EmailContent::builder().raw(raw).build())
}

fn check_size(bytes: usize) -> Result<(), ProviderError> {
    if bytes.div_ceil(3) * 4 > MOST_BYTES {
        return Err(invalid(
            "SES takes at most 40 MB for one message after base64, which is 30 MB before.",
        ));
    }
    Ok(())
}

fn addresses_of(copies: &[EmailAddress]) -> Option<Vec<String>> {
    let addresses: Vec<_> = copies.iter().map(|copy| copy.as_str().to_owned()).collect();
    (!addresses.is_empty()).then_some(addresses)
}

/// The mailbox as it is, or without its name where SES would not take it for its length: better a message
/// without a name than none.
fn with_fitting_name(whole: &Mailbox) -> Mailbox {
    let mut fitting = whole.clone();
    if mailbox(&fitting).len() > MOST_MAILBOX_BYTES {
        fitting.name = None;
    }
    fitting
}

/// Why SES did not take a request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Failure {
    /// No connection.
    NotConnected,
    /// No TLS.
    Handshake(HandshakeFailure),
    /// The time was up before the request was begun.
    NoConnectionInTime,
    /// The time was up when the request had been begun.
    NoAnswerInTime,
    /// The connection ended when the request had been begun, or what came back is not HTTP.
    Interrupted,
    /// A question, which sends nothing, got no answer, or none of use.
    Unanswered,
    /// The credentials' secret could not be opened.
    Sealed,
    /// STS did not give credentials for the role.
    NoRole(Box<Failure>),
    /// Our side could not do its part.
    Local,
    /// SES answered.
    Answered(Answer),
}

/// What is kept of an answer that is an error, or no answer that this API has. Not its text, which has
/// addresses in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    status: u16,
    code: Option<ProviderCode>,
    saying: Saying,
    retry_after: Option<Duration>,
}

/// What of an error only its text tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Saying {
    /// "Daily message quota exceeded" (SES, "Errors related to the sending quotas").
    DailyQuota,
    /// "Email address is not verified. The following identities failed the check in region …".
    NotVerified,
    /// The same, and the sender is not among those identities: the account is in the sandbox.
    RecipientNotVerified,
    /// Something else.
    Else,
}

impl Answer {
    fn read(raw: &HttpResponse, code: Option<&str>, text: Option<&str>) -> Self {
        // An answer that is not JSON has its code in the header alone, if it has one.
        let header = raw.headers().get("x-amzn-errortype");
        let header = header.and_then(|kind| kind.split(':').next());
        let text = text.unwrap_or_default().to_ascii_lowercase();
        let saying = if text.contains("daily") && text.contains("quota") {
            Saying::DailyQuota
        } else if text.contains("not verified") {
            Saying::NotVerified
        } else {
            Saying::Else
        };
        let seconds = raw.headers().get("retry-after").map(str::trim);
        let seconds = seconds.and_then(|seconds| seconds.parse().ok());
        Self {
            status: raw.status().as_u16(),
            code: code.or(header).and_then(ProviderCode::parse),
            saying,
            retry_after: seconds.map(|wait| Duration::from_secs(wait).min(MOST_RETRY_AFTER)),
        }
    }

    /// A success that does not say which message it is about.
    const fn without_id() -> Self {
        Self {
            status: 200,
            code: None,
            saying: Saying::Else,
            retry_after: None,
        }
    }

    fn is(&self, code: &str) -> bool {
        self.code.as_ref().is_some_and(|own| own.as_str() == code)
    }
}

impl Failure {
    fn of<E>(error: &SdkError<E, HttpResponse>, begun: bool) -> Self
    where
        E: StdError + ProvideErrorMetadata + 'static,
    {
        if let Some(raw) = error.raw_response() {
            return Self::Answered(Answer::read(raw, error.code(), error.message()));
        }
        let timed_out = matches!(error, SdkError::TimeoutError(_))
            || matches!(error, SdkError::DispatchFailure(failure) if failure.is_timeout());
        if begun {
            return if timed_out {
                Self::NoAnswerInTime
            } else {
                Self::Interrupted
            };
        }
        let mut of_connection = false;
        for cause in causes(error) {
            if let Some(NoCredentials(failure)) = cause.downcast_ref() {
                return failure.clone();
            }
            if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
                return Self::Handshake(tls.into());
            }
            of_connection |= cause.is::<std::io::Error>();
        }
        if let SdkError::DispatchFailure(failure) = error {
            // The SDK takes what is "other" and yet of a kind for the end of a connection.
            of_connection |= failure.is_io() || failure.as_other().is_some();
        }
        match (timed_out, of_connection) {
            (true, _) => Self::NoConnectionInTime,
            (false, true) => Self::NotConnected,
            (false, false) => Self::Local,
        }
    }

    /// The same where the refusal names recipients as not verified, and not the sender.
    fn in_sandbox(mut self) -> Self {
        if let Self::Answered(answer) = &mut self
            && answer.saying == Saying::NotVerified
        {
            answer.saying = Saying::RecipientNotVerified;
        }
        self
    }

    const fn out_of_time(begun: bool) -> Self {
        if begun {
            Self::NoAnswerInTime
        } else {
            Self::NoConnectionInTime
        }
    }

    /// Where in a check it belongs. Name, address and port are the SDK's affair, and not told apart.
    const fn stage(&self) -> VerifyStage {
        match self {
            Self::NotConnected | Self::NoConnectionInTime => VerifyStage::Connect,
            Self::Handshake(_) => VerifyStage::Tls,
            Self::NoAnswerInTime
            | Self::Interrupted
            | Self::Unanswered
            | Self::Sealed
            | Self::NoRole(_)
            | Self::Local
            | Self::Answered(_) => VerifyStage::Authenticate,
        }
    }
}

/// What a failure means, and what to do about it.
fn classify(failure: Failure) -> ProviderError {
    use Disposition::{Ambiguous, ProviderDown, Transient};
    use ErrorKind::{Timeout, Unauthenticated, Unavailable};
    let error = ProviderError::new;
    match failure {
        Failure::Answered(answer) => classify_answer(answer),
        Failure::NoRole(failure) => classify_role(*failure),
        Failure::NotConnected => error(
            Transient,
            Unavailable,
            "SES could not be connected to; nothing was sent. Check the region if this lasts.",
        ),
        Failure::Handshake(HandshakeFailure::Certificate(_)) => error(
            ProviderDown,
            Unauthenticated,
            "What answered for SES does not prove that it is; nothing was sent. The platform team has to look.",
        ),
        Failure::Handshake(HandshakeFailure::Refused | HandshakeFailure::Closed) => error(
            Transient,
            Unavailable,
            "TLS with SES could not be set up; nothing was sent.",
        ),
        Failure::NoConnectionInTime => error(
            Transient,
            Timeout,
            "SES could not be connected to in time; nothing was sent.",
        ),
        Failure::NoAnswerInTime => error(
            Ambiguous,
            Timeout,
            "SES did not answer in time; it may have taken the message.",
        ),
        Failure::Interrupted => error(
            Ambiguous,
            Unavailable,
            "The connection ended before SES's answer was complete; it may have taken the message.",
        ),
        Failure::Unanswered => error(Transient, Unavailable, "SES did not answer; try again."),
        Failure::Sealed | Failure::Local => local_failure(),
    }
}

/// What an answer means: by its code, and by its status where the code is not known. The codes are those of
/// `SendEmail`, of `ThrottlingException`, which is not modelled for it, and of "Common errors" in the API
/// reference.
#[allow(clippy::too_many_lines, reason = "one table")]
fn classify_answer(answer: Answer) -> ProviderError {
    use Disposition::{Ambiguous, Final, ProviderDown, Transient};
    use ErrorKind::{
        AccountSuspended, InvalidMessage, QuotaExceeded, RateLimited, SenderNotAllowed,
        Unauthenticated, Unavailable, Unexpected,
    };
    let error = ProviderError::new;
    let Answer {
        status,
        code,
        saying,
        retry_after,
    } = answer;
    let known = code.as_ref().map(ProviderCode::as_str).unwrap_or_default();
    let classified = match (known, saying, status) {
        (_, _, 200..=299) => error(
            Ambiguous,
            Unexpected,
            "SES's answer can not be read; it may have taken the message.",
        ),
        // 413 whatever else it says: it comes from what stands in front of SES as well.
        ("RequestEntityTooLargeException" | "RequestEntityTooLarge", _, _) | (_, _, 413) => error(
            Final,
            InvalidMessage,
            "SES refused the message for its size.",
        ),
        (
            "TooManyRequestsException" | "ThrottlingException" | "Throttling",
            Saying::DailyQuota,
            _,
        ) => error(
            ProviderDown,
            QuotaExceeded,
            "The account has sent all that it may in 24 hours; request a higher quota at SES.",
        ),
        ("TooManyRequestsException" | "ThrottlingException" | "Throttling", _, _) => error(
            Transient,
            RateLimited,
            "SES was asked for more messages a second than the account may send.",
        )
        .health_unchanged(),
        ("LimitExceededException", _, _) => error(
            ProviderDown,
            QuotaExceeded,
            "A limit of the SES account is reached; look at its quotas.",
        ),
        ("AccountSuspendedException", _, _) => error(
            ProviderDown,
            AccountSuspended,
            "SES has suspended the account for good; ask AWS.",
        ),
        ("SendingPausedException", _, _) => error(
            ProviderDown,
            AccountSuspended,
            "Sending is paused for the account, the configuration set or the tenant; enable it again at SES.",
        ),
        ("MailFromDomainNotVerifiedException", _, _) => error(
            ProviderDown,
            SenderNotAllowed,
            "The MAIL FROM domain is not verified; set its MX record as SES says.",
        ),
        // A limit of the sender's own account, which verified recipients do not meet.
        ("MessageRejected", Saying::RecipientNotVerified, _) => error(
            ProviderDown,
            SenderNotAllowed,
            "The account is in the SES sandbox, and the recipient is not verified; request production access.",
        )
        .health_unchanged(),
        ("MessageRejected", Saying::NotVerified, _) => error(
            ProviderDown,
            SenderNotAllowed,
            "The sender is not verified in this region, or the account is in the sandbox and the recipient is not; \
             verify the sender, or request production access.",
        ),
        ("MessageRejected", _, _) => error(
            Final,
            InvalidMessage,
            "SES refused the message for its content.",
        ),
        (
            "BadRequestException"
            | "ValidationException"
            | "ValidationError"
            | "SerializationException",
            _,
            _,
        ) => error(
            Final,
            InvalidMessage,
            "SES refused the message for its form; check addresses and content.",
        ),
        ("NotFoundException", _, _) => error(
            ProviderDown,
            SenderNotAllowed,
            "The configuration set or the tenant does not exist in this region; check configurationSet, tenantName \
             and region.",
        ),
        ("AccessDeniedException" | "AccessDenied" | "NotAuthorized", _, _) => error(
            ProviderDown,
            Unauthenticated,
            "The credentials may not do this; allow ses:SendEmail and ses:SendRawEmail for the sender.",
        ),
        (
            "SignatureDoesNotMatch"
            | "InvalidSignatureException"
            | "IncompleteSignature"
            | "IncompleteSignatureException"
            | "InvalidClientTokenId"
            | "UnrecognizedClientException"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException"
            | "ExpiredToken"
            | "ExpiredTokenException"
            | "RequestExpired"
            | "OptInRequired",
            _,
            _,
        )
        | (_, _, 401 | 403) => error(
            ProviderDown,
            Unauthenticated,
            "SES refused the credentials; save new ones, or check that the region is enabled for the account.",
        ),
        ("UnknownOperationException", _, _) => error(
            ProviderDown,
            Unavailable,
            "What answered does not know SES's API; check the region.",
        ),
        ("RequestTimeoutException", _, _) | (_, _, 408) => {
            error(Transient, Unavailable, "SES did not get the whole request.")
        }
        ("RequestAbortedException", _, _) => error(
            Ambiguous,
            Unavailable,
            "SES gave the request up before it answered; it may have taken the message.",
        ),
        (_, _, 429) => error(
            Transient,
            RateLimited,
            "SES was asked for too much at once.",
        )
        .health_unchanged(),
        (_, _, 500..=599) => error(
            Ambiguous,
            Unavailable,
            "SES failed while it had the message; it may have taken it.",
        ),
        ("", _, 300..=399 | 404 | 405) => {
            error(ProviderDown, Unexpected, "What answered is not SES.")
        }
        // What stands in front of SES may refuse one request so, and let the next one through.
        ("", _, 400..=499) => error(ProviderDown, Unexpected, "What answered is not SES.")
            .health_unchanged(),
        // A refusal, so the next provider cannot make a second copy; and whose fault it is nobody knows.
        (_, _, 300..=499) => error(
            ProviderDown,
            Unexpected,
            "SES refused the message with a code that is not known here; look it up in its documentation.",
        )
        .health_unchanged(),
        _ => error(
            Ambiguous,
            Unexpected,
            "What answered is no answer of SES; it may have taken the message.",
        ),
    };
    let code = code.or_else(|| ProviderCode::parse(&status.to_string()));
    let classified = classified.with_code(code);
    match retry_after {
        Some(wait) if classified.disposition == Transient => classified.with_retry_after(wait),
        _ => classified,
    }
}

/// What it means that STS did not give credentials for the role. Nothing has been sent (STS API reference,
/// `AssumeRole`, and "Common errors").
fn classify_role(failure: Failure) -> ProviderError {
    use Disposition::{ProviderDown, Transient};
    use ErrorKind::{Timeout, Unauthenticated, Unavailable, Unexpected};
    let error = ProviderError::new;
    let answer = match failure {
        Failure::Answered(answer) => answer,
        Failure::Handshake(HandshakeFailure::Certificate(_)) => {
            return error(
                ProviderDown,
                Unauthenticated,
                "What answered for STS does not prove that it is; the platform team has to look.",
            );
        }
        Failure::NoConnectionInTime | Failure::NoAnswerInTime => {
            return error(
                Transient,
                Timeout,
                "STS did not give credentials for the role in time; nothing was sent.",
            );
        }
        Failure::NotConnected
        | Failure::Handshake(HandshakeFailure::Refused | HandshakeFailure::Closed)
        | Failure::Interrupted
        | Failure::Unanswered => {
            return error(
                Transient,
                Unavailable,
                "STS, which gives credentials for the role, could not be reached; nothing was sent.",
            );
        }
        Failure::Sealed | Failure::NoRole(_) | Failure::Local => return local_failure(),
    };
    let known = answer.code.as_ref().map(ProviderCode::as_str);
    let classified = match (known.unwrap_or_default(), answer.status) {
        ("AccessDenied" | "AccessDeniedException", _) => error(
            ProviderDown,
            Unauthenticated,
            "The role may not be assumed: its trust policy must name the platform's account and this externalId.",
        ),
        ("RegionDisabledException", _) => error(
            ProviderDown,
            Unauthenticated,
            "The role's account has not activated STS in this region; activate it, or use another region.",
        ),
        ("ValidationError", _) => error(
            ProviderDown,
            Unauthenticated,
            "STS takes roleArn or externalId for malformed; check them.",
        ),
        ("Throttling" | "ThrottlingException" | "RequestTimeoutException", _)
        | (_, 429 | 500..=599) => error(
            Transient,
            Unavailable,
            "STS can not give credentials for the role now; nothing was sent.",
        ),
        (_, 200..=299) => error(
            Transient,
            Unexpected,
            "STS's answer can not be read; nothing was sent.",
        ),
        _ => error(
            ProviderDown,
            Unauthenticated,
            "STS refused the platform's own credentials in this region; the platform team has to look.",
        ),
    };
    classified.with_code(answer.code)
}

const fn local_failure() -> ProviderError {
    ProviderError::new(
        Disposition::ProviderDown,
        ErrorKind::Unavailable,
        "The entry's settings could not be used on this side; nothing was sent.",
    )
    .health_unchanged()
}

#[cfg(test)]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
