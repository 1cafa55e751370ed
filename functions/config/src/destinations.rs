//! Where settings send to: what no connection can ever be made to is not saved.

use comms_adapters::egress::{EgressAllow, EgressError, HTTPS_PORTS, SMTP_PORTS};
use comms_core::{BaseUrl, Channel, Position, Problems};
use comms_settings::{CommunicationSettings, Credentials, document::POINTER};

/// Adds a problem for each entry whose host, port or URL shows by its text that it cannot be reached.
pub(crate) fn check(
    allow: &EgressAllow,
    settings: &CommunicationSettings,
    problems: &mut Problems,
) {
    for channel in Channel::ALL {
        let entries = settings.channel(channel).into_iter();
        for (position, entry) in entries.flat_map(comms_settings::ChannelSettings::entries) {
            if let Some((field, detail)) = refusal(allow, &entry.credentials) {
                let credentials = credentials_pointer(channel, position);
                problems.add(format!("{credentials}/{field}"), detail);
            }
        }
    }
}

/// Where the credentials of an entry stand in a request's body.
pub(crate) fn credentials_pointer(channel: Channel, position: Position) -> String {
    let place = match position {
        Position::Primary | Position::Global => "primary".to_owned(),
        Position::Fallback(n) | Position::GlobalFallback(n) => format!("fallback/{n}"),
    };
    format!("{POINTER}/{channel}/{place}/credentials")
}

/// The field that is refused, and what would be right.
fn refusal(allow: &EgressAllow, credentials: &Credentials) -> Option<(&'static str, &'static str)> {
    let url = match credentials {
        Credentials::Smtp(smtp) => {
            return match allow.refusal_by_text(&smtp.host, smtp.port, &SMTP_PORTS)? {
                EgressError::Port => Some((
                    "port",
                    "must be 587, 465 or 2525: this deployment connects to mail servers at no other port",
                )),
                EgressError::Address | EgressError::Unresolved => Some((
                    "host",
                    "must be a host on the public internet: this deployment does not connect to this address",
                )),
            };
        }
        // AWS's own endpoints.
        Credentials::AwsSes(_) => None,
        Credentials::Sendgrid(sendgrid) => sendgrid.api_url.as_ref(),
        Credentials::MetaBusiness(meta) => meta.api_url.as_ref(),
        Credentials::Twilio(twilio) => twilio.api_url.as_ref(),
    };
    url_refusal(allow, url?).map(|detail| ("apiUrl", detail))
}

fn url_refusal(allow: &EgressAllow, url: &BaseUrl) -> Option<&'static str> {
    // In clear only where the operator allows it.
    let ports: &[u16] = if url.is_https() { &HTTPS_PORTS } else { &[] };
    Some(
        match allow.refusal_by_text(url.host(), url.port(), ports)? {
            EgressError::Address | EgressError::Unresolved => {
                "must be at a host on the public internet: this deployment does not connect to this address"
            }
            EgressError::Port if url.is_https() => {
                "must be at port 443: this deployment connects to no other port"
            }
            EgressError::Port => "must be an https URL: nothing is sent in clear",
        },
    )
}
