//! Which mail server, as which user, and from whom.

use std::fmt;

use comms_core::{
    BaseUrl, Channel, Host, ProviderKind, Secret,
    json::{Object, read},
};
use serde_json::{Value, json};

use super::submission_port;
use crate::{
    config::{
        OwnSender, ProviderConfig, ReadConfig,
        read::{MAX_SECRET, Reading, Rules, StoredSecret, read_secret, read_sender, sender_json},
    },
    net::egress::{EgressAllow, EgressError, SMTP_PORTS},
    verify::{Peer, VerifyPlan, VerifyStage},
};

/// SMTP connections of one provider entry and process.
pub const MAX_CONNECTIONS: u32 = 50;
/// SMTP connections where the settings say nothing.
const DEFAULT_CONNECTIONS: u8 = 5;
/// Characters of the user of a mail server: as many as an address may have with its longest parts.
const MAX_USER: usize = 320;
/// Characters of a clinic's own trust roots in PEM.
const MAX_CA_PEM: usize = 32_768;
/// Bytes of a built provider, rounded up from what 400 of them added to the resident memory of a process: 1.2 kB.
const PROVIDER_BYTES: usize = 2_000;
/// The same of trust roots of its own: they make a TLS configuration of its own, which holds all the public ones
/// besides (24 kB).
const OWN_ROOTS_BYTES: usize = 30_000;

/// One mail server as one user.
#[derive(Clone)]
pub struct SmtpConfig {
    /// The server.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// When TLS begins.
    pub security: Security,
    /// The user to log in as.
    pub user: String,
    /// The user's password.
    pub password: Secret,
    /// Trust roots of the clinic's own, in PEM, beside the public ones.
    pub ca_pem: Option<String>,
    /// Connections of this entry and process, at most.
    pub max_connections: u8,
    /// What EHLO says; the sender's domain where nothing is set (RFC 5321 section 4.1.4 wants a name,
    /// and a Lambda has none of its own).
    pub ehlo_name: Option<Host>,
    /// As whom.
    pub from: OwnSender,
}

/// When TLS begins on an SMTP connection. There is no third way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// From the start (RFC 8314 section 3.3).
    ImplicitTls,
    /// By STARTTLS (RFC 3207), without which nothing is sent.
    StartTls,
}

impl fmt::Debug for SmtpConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SmtpConfig(…)")
    }
}

impl ReadConfig for SmtpConfig {
    const KIND: ProviderKind = ProviderKind::new("smtp");
    const CHANNELS: &[Channel] = &[Channel::Email];
    const JSON_BYTES: usize = MAX_CA_PEM + MAX_USER + MAX_SECRET + 2_048;

    fn read(object: &mut Object<'_>, reading: Reading<'_>, stored: Option<&Self>) -> Option<Self> {
        let host = object.required("host", read::parsed(Host::parse));
        let port = object
            .required("port", read::number(1, 65_535))
            .and_then(|port| u16::try_from(port).ok());
        let secure = object.required("secure", read::flag);
        let security = secure.map(|tls| {
            if tls {
                Security::ImplicitTls
            } else {
                Security::StartTls
            }
        });
        let user = object.required("user", read_user);
        if let (Some(port), Some(secure), Rules::Current) = (port, secure, reading.rules)
            && let Some((field, advice)) = submission_port::conflict(host.as_ref(), port, secure)
        {
            object.problem(field, advice);
        }
        let ca_pem = object.optional("caPem", read_ca_pem);
        let max_connections = object.optional("maxConnections", read::number(1, MAX_CONNECTIONS));
        let ehlo_name = object.optional("ehloName", read::parsed(Host::parse));
        let from = read_sender(object, reading.rules);
        let stored = stored.map(|stored| StoredSecret {
            secret: &stored.password,
            same_place: Some(&stored.host) == host.as_ref()
                && Some(stored.port) == port
                && Some(stored.user.as_str()) == user.as_deref()
                // With a trust root of one's own any server can pass for the clinic's.
                && stored.ca_pem == ca_pem,
        });
        let password = read_secret(object, "password", stored, "host, port, user or caPem");
        Some(Self {
            host: host?,
            port: port?,
            security: security?,
            user: user?,
            password: password?,
            ca_pem,
            max_connections: max_connections
                .and_then(|n| u8::try_from(n).ok())
                .unwrap_or(DEFAULT_CONNECTIONS),
            ehlo_name,
            from,
        })
    }
}

fn read_user(value: Value) -> Result<String, String> {
    let user = read::text(1, MAX_USER)(value)?;
    if user.chars().any(char::is_control) {
        return Err("must not have control characters".to_owned());
    }
    Ok(user)
}

fn read_ca_pem(value: Value) -> Result<String, String> {
    let pem = read::text(1, MAX_CA_PEM)(value)?;
    if pem.contains("-----BEGIN CERTIFICATE-----") {
        Ok(pem)
    } else {
        Err("must be one or more certificates in PEM form".to_owned())
    }
}

impl ProviderConfig for SmtpConfig {
    fn kind(&self) -> ProviderKind {
        Self::KIND
    }

    fn fields(&self, secret: &dyn Fn(&Secret) -> Value) -> Value {
        let mut json = json!({
            "host": self.host.to_string(),
            "port": self.port,
            "secure": self.security == Security::ImplicitTls,
            "user": self.user,
            "password": secret(&self.password),
            "caPem": self.ca_pem,
            "maxConnections": self.max_connections,
            "ehloName": self.ehlo_name.as_ref().map(ToString::to_string),
        });
        sender_json(&mut json, &self.from);
        json
    }

    fn own_sender(&self) -> Option<&OwnSender> {
        Some(&self.from)
    }

    fn account_key(&self) -> String {
        format!(
            "{}\n{}\n{}\n{}",
            Self::KIND,
            self.host,
            self.port,
            self.user
        )
    }

    fn api_url(&self) -> Option<&BaseUrl> {
        None
    }

    fn verify_plan(&self) -> VerifyPlan {
        use VerifyStage::{Authenticate, Connect, Egress, Resolve, Tls};
        VerifyPlan {
            peer: Peer::MailServer,
            stages: vec![Resolve, Egress, Connect, Tls, Authenticate],
        }
    }

    fn settings_bytes(&self) -> usize {
        self.ca_pem.as_ref().map_or(0, String::len)
    }

    fn provider_bytes(&self) -> usize {
        match &self.ca_pem {
            Some(pem) => PROVIDER_BYTES + OWN_ROOTS_BYTES + pem.len(),
            None => PROVIDER_BYTES,
        }
    }

    fn egress_refusal(&self, allow: &EgressAllow) -> Option<(&'static str, &'static str)> {
        Some(
            match allow.refusal_by_text(&self.host, self.port, &SMTP_PORTS)? {
                EgressError::Port => (
                    "port",
                    "must be 587, 465 or 2525: this deployment connects to mail servers at no other port",
                ),
                EgressError::Address | EgressError::Unresolved => (
                    "host",
                    "must be a host on the public internet: this deployment does not connect to this address",
                ),
            },
        )
    }

    fn trust_roots(&self) -> Option<(&'static str, &str)> {
        Some(("caPem", self.ca_pem.as_deref()?))
    }
}
