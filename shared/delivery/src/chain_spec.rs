//! What the settings say, as the provider factory wants it: each entry with its own credentials and
//! its own tenant's sender.

use comms_adapters::{
    ChainSpec, EntrySpec, ProviderSettings,
    chain::AmbiguityPolicy,
    meta::MetaSettings,
    sendgrid::SendgridSettings,
    ses::{SesAccount, SesSettings},
    smtp::{Security, SmtpSettings},
    twilio::{TwilioLogin, TwilioSender, TwilioSettings},
};
use comms_core::{BaseUrl, Mailbox};
use comms_settings::{
    ChannelSettings, Credentials, MetaCredentials, OnAmbiguous, ProviderEntry, SendgridCredentials,
    SesAccountCredentials, SesCredentials, SmtpCredentials, SmtpSecurity, TwilioCredentials,
    TwilioLoginCredentials, TwilioSenderSetting,
};

/// The chain of a channel's enabled entries, in their order.
pub fn chain_spec(settings: &ChannelSettings) -> ChainSpec {
    let entries = settings
        .entries()
        .filter(|(_, entry)| entry.enabled)
        .filter_map(|(position, entry)| {
            Some(EntrySpec {
                id: entry.id.clone(),
                position,
                settings: provider_settings(entry, settings.sender(entry))?,
                retries: settings.retry_attempts,
                max_per_second: entry.max_per_second,
            })
        })
        .collect();
    ChainSpec {
        entries,
        on_ambiguous: match settings.on_ambiguous {
            OnAmbiguous::Failover => AmbiguityPolicy::Failover,
            OnAmbiguous::Hold => AmbiguityPolicy::Hold,
        },
        reply_to: settings.reply_to(),
    }
}

/// `None` for an e-mail entry without a sender: settings with such a one are refused when they are
/// read.
fn provider_settings(entry: &ProviderEntry, sender: Option<Mailbox>) -> Option<ProviderSettings> {
    Some(match &entry.credentials {
        Credentials::Smtp(smtp) => ProviderSettings::Smtp(smtp_settings(smtp, sender?)),
        Credentials::AwsSes(ses) => ProviderSettings::AwsSes(ses_settings(ses, sender?)),
        Credentials::Sendgrid(sendgrid) => {
            ProviderSettings::Sendgrid(sendgrid_settings(sendgrid, sender?)?)
        }
        Credentials::MetaBusiness(meta) => ProviderSettings::MetaBusiness(meta_settings(meta)?),
        Credentials::Twilio(twilio) => ProviderSettings::Twilio(twilio_settings(twilio)?),
    })
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
        ehlo_name: credentials.ehlo_name.clone(),
    }
}

fn ses_settings(credentials: &SesCredentials, sender: Mailbox) -> SesSettings {
    SesSettings {
        region: credentials.region.clone(),
        account: match credentials.account.clone() {
            SesAccountCredentials::Keys {
                access_key_id,
                secret_access_key,
            } => SesAccount::Keys {
                access_key_id,
                secret_access_key,
            },
            SesAccountCredentials::Role {
                role_arn,
                external_id,
            } => SesAccount::Role {
                role_arn,
                external_id,
            },
            SesAccountCredentials::Platform { tenant_name } => SesAccount::Platform { tenant_name },
        },
        sender,
        configuration_set: credentials.configuration_set.clone(),
    }
}

fn sendgrid_settings(
    credentials: &SendgridCredentials,
    sender: Mailbox,
) -> Option<SendgridSettings> {
    Some(SendgridSettings {
        api_key: credentials.api_key.clone(),
        sender,
        api_url: api_url(credentials.api_url.as_ref(), SendgridSettings::GLOBAL_URL)?,
        sandbox: credentials.sandbox,
    })
}

fn meta_settings(credentials: &MetaCredentials) -> Option<MetaSettings> {
    Some(MetaSettings {
        access_token: credentials.api_key.clone(),
        phone_number_id: credentials.phone_number_id.clone(),
        api_url: api_url(credentials.api_url.as_ref(), MetaSettings::GRAPH_URL)?,
    })
}

fn twilio_settings(credentials: &TwilioCredentials) -> Option<TwilioSettings> {
    Some(TwilioSettings {
        account_sid: credentials.account_sid.clone(),
        login: match credentials.login.clone() {
            TwilioLoginCredentials::AuthToken(token) => TwilioLogin::AuthToken(token),
            TwilioLoginCredentials::ApiKey { sid, secret } => TwilioLogin::ApiKey { sid, secret },
        },
        sender: match credentials.sender.clone() {
            TwilioSenderSetting::Number(number) => TwilioSender::Number(number),
            TwilioSenderSetting::Service(service) => TwilioSender::Service(service),
            TwilioSenderSetting::NumberOfService(number, service) => {
                TwilioSender::NumberOfService(number, service)
            }
        },
        api_url: api_url(credentials.api_url.as_ref(), TwilioSettings::GLOBAL_URL)?,
        status_callback: credentials.status_callback.clone(),
        templates: credentials.templates.clone(),
    })
}

/// Where the clinic says that the API is, else where it usually is. The usual places are constants,
/// and each is one: a test reads them.
fn api_url(set: Option<&BaseUrl>, usual: &str) -> Option<BaseUrl> {
    set.cloned().or_else(|| BaseUrl::parse(usual).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_places_of_the_apis_are_urls() {
        for usual in [
            SendgridSettings::GLOBAL_URL,
            MetaSettings::GRAPH_URL,
            TwilioSettings::GLOBAL_URL,
        ] {
            let url = api_url(None, usual).unwrap();
            assert!(url.is_https(), "{usual}");
            let set = BaseUrl::parse("https://api.example.com").unwrap();
            assert_eq!(api_url(Some(&set), usual), Some(set));
        }
    }
}
