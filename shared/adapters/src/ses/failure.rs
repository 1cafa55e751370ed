//! Why SES did not take a request.

use std::{error::Error as StdError, time::Duration};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sesv2::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use comms_core::ProviderCode;

use crate::{
    net::{http::causes, tls::HandshakeFailure},
    verify::VerifyStage,
};

/// The longest that a wish to be left alone is taken for: a day.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(24);

/// There are no credentials, and why.
#[derive(Debug, thiserror::Error)]
#[error("no credentials")]
pub(super) struct NoCredentials(pub(super) SesFailure);

impl From<NoCredentials> for CredentialsError {
    fn from(error: NoCredentials) -> Self {
        Self::provider_error(error)
    }
}

/// Why SES did not take a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SesFailure {
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
    NoRole(Box<SesFailure>),
    /// Our side could not do its part.
    Local,
    /// SES answered.
    Answered(ErrorReply),
}

/// What is kept of an answer that is an error, or no answer that this API has. Not its text, which has
/// addresses in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ErrorReply {
    pub(super) status: u16,
    pub(super) code: Option<ProviderCode>,
    pub(super) text_hint: TextHint,
    pub(super) retry_after: Option<Duration>,
}

/// What of an error only its text tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextHint {
    /// "Daily message quota exceeded" (SES, "Errors related to the sending quotas").
    DailyQuota,
    /// "Email address is not verified. The following identities failed the check in region …".
    NotVerified,
    /// The same, and the sender is not among those identities: the account is in the sandbox.
    RecipientNotVerified,
    /// Something else.
    Else,
}

impl ErrorReply {
    pub(super) fn read(raw: &HttpResponse, code: Option<&str>, text: Option<&str>) -> Self {
        // An answer that is not JSON has its code in the header alone, if it has one.
        let header = raw.headers().get("x-amzn-errortype");
        let header = header.and_then(|kind| kind.split(':').next());
        let text = text.unwrap_or_default().to_ascii_lowercase();
        let text_hint = if text.contains("daily") && text.contains("quota") {
            TextHint::DailyQuota
        } else if text.contains("not verified") {
            TextHint::NotVerified
        } else {
            TextHint::Else
        };
        let seconds = raw.headers().get("retry-after").map(str::trim);
        let seconds = seconds.and_then(|seconds| seconds.parse().ok());
        Self {
            status: raw.status().as_u16(),
            code: code.or(header).and_then(ProviderCode::parse),
            text_hint,
            retry_after: seconds.map(|wait| Duration::from_secs(wait).min(MAX_RETRY_AFTER)),
        }
    }

    /// A success that does not say which message it is about.
    pub(super) const fn without_id() -> Self {
        Self {
            status: 200,
            code: None,
            text_hint: TextHint::Else,
            retry_after: None,
        }
    }

    pub(super) fn is(&self, code: &str) -> bool {
        self.code.as_ref().is_some_and(|own| own.as_str() == code)
    }
}

impl SesFailure {
    pub(super) fn of<E>(error: &SdkError<E, HttpResponse>, begun: bool) -> Self
    where
        E: StdError + ProvideErrorMetadata + 'static,
    {
        if let Some(raw) = error.raw_response() {
            return Self::Answered(ErrorReply::read(raw, error.code(), error.message()));
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
    pub(super) fn in_sandbox(mut self) -> Self {
        if let Self::Answered(answer) = &mut self
            && answer.text_hint == TextHint::NotVerified
        {
            answer.text_hint = TextHint::RecipientNotVerified;
        }
        self
    }

    pub(super) const fn out_of_time(begun: bool) -> Self {
        if begun {
            Self::NoAnswerInTime
        } else {
            Self::NoConnectionInTime
        }
    }

    /// Where in a check it belongs. Name, address and port are the SDK's affair, and not told apart.
    pub(super) const fn stage(&self) -> VerifyStage {
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
