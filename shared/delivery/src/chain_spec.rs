//! What the settings say, as the provider factory wants it: each entry with its own credentials and
//! its own tenant's sender.

use comms_adapters::{
    ChainSpec, EntrySpec, ProviderSettings,
    chain::AmbiguityPolicy,
    smtp::{Security, SmtpSettings},
};
use comms_core::{Mailbox, Position};
use comms_settings::{
    ChannelSettings, Credentials, OnAmbiguous, ProviderEntry, SmtpCredentials, SmtpSecurity,
};

/// The chain of a channel's enabled entries, in their order.
pub fn chain_spec(settings: &ChannelSettings) -> ChainSpec {
    let sender = settings.sender();
    let entries = settings
        .entries()
        .filter(|(_, entry)| entry.enabled)
        // Settings with an smtp entry and no sender are refused when they are read.
        .filter_map(|(position, entry)| {
            Some(entry_spec(
                position,
                entry,
                sender.clone()?,
                settings.retry_attempts,
            ))
        })
        .collect();
    ChainSpec {
        entries,
        on_ambiguous: match settings.on_ambiguous {
            OnAmbiguous::Failover => AmbiguityPolicy::Failover,
            OnAmbiguous::Hold => AmbiguityPolicy::Hold,
        },
        reply_to: settings.default_from.clone(),
    }
}

fn entry_spec(
    position: Position,
    entry: &ProviderEntry,
    sender: Mailbox,
    retries: u8,
) -> EntrySpec {
    let settings = match &entry.credentials {
        Credentials::Smtp(smtp) => ProviderSettings::Smtp(smtp_settings(smtp, sender)),
    };
    EntrySpec {
        id: entry.id.clone(),
        position,
        settings,
        retries,
    }
}

fn smtp_settings(credentials: &SmtpCredentials, sender: Mailbox) -> SmtpSettings {
    SmtpSettings {
        host: credentials.host.clone(),
        port: credentials.port,
        security: match credentials.security {
            SmtpSecurity::ImplicitTls => Security::ImplicitTls,
            SmtpSecurity::StartTls => Security::StartTls,
        },
        user: credentials.user.clone(),
        password: credentials.password.clone(),
        ca_pem: credentials.ca_pem.clone(),
        max_connections: credentials.max_connections,
        sender,
        ehlo_name: None,
    }
}
