//! Amazon Simple Email Service, API v2 (2019-09-27): `SendEmail`, and `GetAccount` and `GetEmailIdentity` to check.
//!
//! Idempotency: none, so the SDK's own retries are off; the tag `delivery_id` carries the delivery's id into
//! SES's events.
//!
//! Documentation: <https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html>

mod checks;
mod config;
mod connector;
mod credentials;
mod failure;
mod reply;
mod request;

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
    operation::get_account::GetAccountOutput,
};
use comms_core::{Disposition, ErrorKind, Mailbox, ProviderError, ProviderKind, Receipt};
use tracing::{instrument::WithSubscriber, subscriber::NoSubscriber};

pub use self::config::{SesAccount, SesConfig};
use self::{
    checks::{check_quota, check_state, identities, names_only_others, whole_rate},
    connector::{Begun, SharedClient},
    credentials::{AssumedRole, SealedKey},
    failure::{ErrorReply, SesFailure},
    reply::classify,
    request::{MAX_BYTES, MAX_RECEIVERS, Sender, send_email},
};
use crate::{
    adapter::{Adapter, BuildError, Parts},
    config::ReadConfig,
    deadline::{Deadline, Elapsed},
    message::Message,
    net::http::provider_id,
    provider::{Capabilities, Provider},
    verify::{Report, StageReport, VerifyStage},
};

const CAPABILITIES: Capabilities = Capabilities {
    recipients: MAX_RECEIVERS,
    message_bytes: Some(MAX_BYTES),
    ..Capabilities::EMAIL_API
};

/// The longest that one request takes with its answer, and with the credentials where they have to be fetched.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// SES as one account and sender.
pub struct SesProvider {
    client: Client,
    from: Sender,
}

impl SesProvider {
    /// Makes the provider; nothing is connected to yet. Its connections are those of `sdk`'s HTTP client.
    pub fn new(config: SesConfig, sender: Mailbox, sdk: &SdkConfig) -> Self {
        let region = Region::new(config.region.as_str().to_owned());
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
            .map(|client| SharedHttpClient::new(SharedClient::new(client)));
        let builder = Builder::from(sdk)
            .region(region.clone())
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        let mut builder = match &lent {
            Some(client) => builder.http_client(client.clone()),
            None => builder,
        };
        let mut tenant = None;
        match config.account {
            SesAccount::Keys {
                access_key_id,
                secret_access_key,
            } => {
                // What is not remembered lies nowhere in clear between two messages.
                builder = builder
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
                let cache = IdentityCache::lazy().load_timeout(REQUEST_TIMEOUT).build();
                builder = builder
                    .identity_cache(cache)
                    .credentials_provider(AssumedRole::new(role_arn, external_id, sdk.build()));
            }
            SesAccount::Platform { tenant_name } => tenant = Some(tenant_name),
        }
        Self {
            client: Client::from_conf(builder.build()),
            from: Sender {
                mailbox: sender,
                configuration_set: config.configuration_set,
                tenant,
            },
        }
    }

    async fn account(&self, deadline: Deadline) -> Result<GetAccountOutput, SesFailure> {
        ask(deadline, self.client.get_account().send()).await
    }

    /// Whether SES lets the sender send: as an address, or by its domain or one above it (SES, "Verified
    /// identities": the subdomains of a verified domain need no verification of their own).
    async fn check_sender(&self, deadline: Deadline) -> Result<(), ProviderError> {
        let mut known = false;
        for identity in identities(&self.from.mailbox.address) {
            let question = self.client.get_email_identity().email_identity(identity);
            match ask(deadline, question.send()).await {
                Ok(identity) if identity.verified_for_sending_status() => return Ok(()),
                Ok(_) => known = true,
                Err(SesFailure::Answered(answer)) if answer.is("NotFoundException") => {}
                Err(SesFailure::Answered(answer)) if answer.is("AccessDeniedException") => {
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

impl Adapter for SesProvider {
    type Config = SesConfig;
    const CAPABILITIES: Capabilities = CAPABILITIES;

    fn build(
        config: &SesConfig,
        sender: Option<Mailbox>,
        parts: &Parts,
    ) -> Result<Self, BuildError> {
        let sender = sender.ok_or(BuildError::NoSender)?;
        Ok(Self::new(config.clone(), sender, &parts.sdk))
    }
}

#[async_trait]
impl Provider for SesProvider {
    fn kind(&self) -> ProviderKind {
        SesConfig::KIND
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    async fn send(&self, message: &Message, deadline: Deadline) -> Result<Receipt, ProviderError> {
        let begun = Begun::default();
        let mark = begun.clone();
        let request = send_email(&self.client, &self.from, message)?.customize();
        let exchange = request.mutate_request(move |request| request.add_extension(mark.clone()));
        let failure = match deadline
            .bound(REQUEST_TIMEOUT, unlogged(exchange.send()))
            .await
        {
            Ok(Ok(accepted)) => match accepted.message_id().and_then(provider_id) {
                Some(id) => return Ok(Receipt::new(id)),
                None => SesFailure::Answered(ErrorReply::without_id()),
            },
            Ok(Err(error)) => {
                let failure = SesFailure::of(&error, begun.get());
                if names_only_others(
                    error.message().unwrap_or_default(),
                    &self.from.mailbox.address,
                ) {
                    failure.in_sandbox()
                } else {
                    failure
                }
            }
            Err(Elapsed) => SesFailure::out_of_time(begun.get()),
        };
        Err(classify(failure))
    }

    /// `MaxSendRate` (SES API v2, `SendQuota`): recipients in a second, of which a message without copies has
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
            Err(SesFailure::Answered(answer)) if answer.is("AccessDeniedException") => None,
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
        if self.from.tenant.is_some() {
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
) -> Result<T, SesFailure>
where
    E: StdError + ProvideErrorMetadata + 'static,
{
    let failure = match deadline.bound(REQUEST_TIMEOUT, unlogged(question)).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => SesFailure::of(&error, false),
        Err(Elapsed) => SesFailure::Unanswered,
    };
    // What came back for a success, or from a server that fails, is no answer to a question.
    let answers =
        !matches!(&failure, SesFailure::Answered(answer) if !(300..500).contains(&answer.status));
    Err(if answers {
        failure
    } else {
        SesFailure::Unanswered
    })
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

#[cfg(test)]
mod tests;
