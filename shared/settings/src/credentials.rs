//! The credentials of a provider entry: what each provider's have in them, how they are read, and how
//! they are written with something else in place of the secrets.
//!
//! A secret that is not sent again is taken from the stored entry, provided that it still goes to the
//! same place: whoever may change settings but does not know a secret must not be able to have it
//! sent to a server, or used with an account, of their own.

use std::collections::BTreeMap;

use comms_core::{
    BaseUrl, EmailAddress, Host, Mailbox, PhoneNumber, ProviderKind, PublicUrl, Secret, Tenant,
    account::{
        AwsAccessKeyId, AwsRegion, ContentSid, ExternalId, GraphId, MessagingServiceSid, RoleArn,
        SesName, TwilioAccountSid, TwilioApiKeySid,
    },
    json::{Object, read},
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    document::{Reading, Rules},
    submission_port,
};

/// SMTP connections of one provider entry and process.
pub const MAX_CONNECTIONS: u32 = 50;
/// Content templates of one Twilio entry.
pub const MAX_TEMPLATES: usize = 100;
/// Characters of the user of a mail server: as many as an address may have with its longest parts.
const MAX_USER: usize = 320;
/// Characters of a secret.
const MAX_SECRET: usize = 1_024;
/// Characters of a clinic's own trust roots in PEM.
const MAX_CA_PEM: usize = 32_768;
/// Characters of the name of a template.
const MAX_TEMPLATE_NAME: usize = 128;
/// More than the credentials of any provider, as JSON without escapes.
pub(crate) const MAX_CREDENTIAL_BYTES: usize =
    MAX_CA_PEM + PublicUrl::MAX + 4 * MAX_SECRET + MAX_TEMPLATES * (MAX_TEMPLATE_NAME + 64);
/// The oldest version of Meta's Graph that has not ended (Graph API changelog: v20.0 ended in
/// September 2026).
const OLDEST_GRAPH_VERSION: u16 = 21;

/// The credentials of one provider entry.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// A mail server.
    Smtp(SmtpCredentials),
    /// Amazon SES.
    AwsSes(SesCredentials),
    /// SendGrid.
    Sendgrid(SendgridCredentials),
    /// Meta's Cloud API.
    MetaBusiness(MetaCredentials),
    /// Twilio.
    Twilio(TwilioCredentials),
}

/// Where a mail server is, and how to log in.
#[derive(Clone)]
pub struct SmtpCredentials {
    /// The server.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// When TLS begins.
    pub security: SmtpSecurity,
    /// The user to log in as.
    pub user: String,
    /// The user's password.
    pub password: Secret,
    /// Trust roots of the clinic's own, in PEM, beside the public ones.
    pub ca_pem: Option<String>,
    /// Connections of this entry, at most.
    pub max_connections: u8,
    /// What EHLO says, if not the sender's domain.
    pub ehlo_name: Option<Host>,
    /// As whom.
    pub from: OwnSender,
}

/// When TLS begins on an SMTP connection. There is no third way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpSecurity {
    /// From the start (RFC 8314 section 3.3).
    ImplicitTls,
    /// By STARTTLS (RFC 3207), without which nothing is sent.
    StartTls,
}

/// The sender that an entry has of its own: through one provider a clinic may send under another
/// address than through the others.
#[derive(Clone, Default)]
pub struct OwnSender {
    /// The address.
    pub email: Option<EmailAddress>,
    /// The name.
    pub name: Option<String>,
}

/// Whose SES, where, and as whom.
#[derive(Clone)]
pub struct SesCredentials {
    /// The region.
    pub region: AwsRegion,
    /// Whose account.
    pub account: SesAccountCredentials,
    /// As whom.
    pub from: OwnSender,
    /// The configuration set.
    pub configuration_set: Option<SesName>,
}

/// Whose SES. What stands here is bound to the clinic: see [`ExternalId`]'s and the tenant's rules in
/// the reader.
#[derive(Clone)]
pub enum SesAccountCredentials {
    /// The clinic's, by an access key.
    Keys {
        /// The key's id.
        access_key_id: AwsAccessKeyId,
        /// The key.
        secret_access_key: Secret,
    },
    /// The clinic's, by a role.
    Role {
        /// The role.
        role_arn: RoleArn,
        /// The clinic's id, or something that begins with it.
        external_id: ExternalId,
    },
    /// The platform's, as one of its tenants.
    Platform {
        /// The tenant: the clinic's id.
        tenant_name: SesName,
    },
}

/// A SendGrid account.
#[derive(Clone)]
pub struct SendgridCredentials {
    /// Its key.
    pub api_key: Secret,
    /// As whom.
    pub from: OwnSender,
    /// Where its API is, if not at the usual place.
    pub api_url: Option<BaseUrl>,
    /// Whether messages are checked and not sent.
    pub sandbox: bool,
}

/// A phone number at Meta.
#[derive(Clone)]
pub struct MetaCredentials {
    /// The access token.
    pub api_key: Secret,
    /// The number.
    pub phone_number_id: GraphId,
    /// The account that it belongs to.
    pub business_account_id: Option<GraphId>,
    /// Where the Graph is, version included, if not at the usual place.
    pub api_url: Option<BaseUrl>,
}

/// A Twilio account.
#[derive(Clone)]
pub struct TwilioCredentials {
    /// The account.
    pub account_sid: TwilioAccountSid,
    /// How to log in.
    pub login: TwilioLoginCredentials,
    /// As whom.
    pub sender: TwilioSenderSetting,
    /// Where its API is, if not at the usual place.
    pub api_url: Option<BaseUrl>,
    /// Where Twilio reports what becomes of messages.
    pub status_callback: Option<String>,
    /// Content templates by the names under which requests ask for them.
    pub templates: BTreeMap<String, ContentSid>,
}

/// How to log in to Twilio.
#[derive(Clone)]
pub enum TwilioLoginCredentials {
    /// As the account.
    AuthToken(Secret),
    /// By an API key.
    ApiKey {
        /// The key.
        sid: TwilioApiKeySid,
        /// Its secret.
        secret: Secret,
    },
}

/// As whom Twilio sends: by at least one of the two.
#[derive(Clone)]
pub enum TwilioSenderSetting {
    /// A number.
    Number(PhoneNumber),
    /// A messaging service.
    Service(MessagingServiceSid),
    /// A number of a messaging service.
    NumberOfService(PhoneNumber, MessagingServiceSid),
}

macro_rules! debug_shows_nothing {
    ($($type:ident),*) => {$(
        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($type), "(…)"))
            }
        }
    )*};
}
debug_shows_nothing!(
    SmtpCredentials,
    OwnSender,
    SesCredentials,
    SesAccountCredentials,
    SendgridCredentials,
    MetaCredentials,
    TwilioCredentials,
    TwilioLoginCredentials,
    TwilioSenderSetting
);

impl Credentials {
    /// The provider they are for.
    pub const fn provider(&self) -> ProviderKind {
        match self {
            Self::Smtp(_) => ProviderKind::Smtp,
            Self::AwsSes(_) => ProviderKind::AwsSes,
            Self::Sendgrid(_) => ProviderKind::Sendgrid,
            Self::MetaBusiness(_) => ProviderKind::MetaBusiness,
            Self::Twilio(_) => ProviderKind::Twilio,
        }
    }

    /// The address and the name of the sender that the entry has of its own.
    pub fn own_sender(&self) -> (Option<&EmailAddress>, Option<&str>) {
        match self {
            Self::Smtp(SmtpCredentials { from, .. })
            | Self::AwsSes(SesCredentials { from, .. })
            | Self::Sendgrid(SendgridCredentials { from, .. }) => {
                (from.email.as_ref(), from.name.as_deref())
            }
            Self::MetaBusiness(_) | Self::Twilio(_) => (None, None),
        }
    }

    /// Reads the credentials of an entry of `provider`; secrets that are not sent again are taken from
    /// `stored`.
    pub(crate) fn read(
        mut object: Object<'_>,
        provider: ProviderKind,
        reading: Reading<'_>,
        stored: Option<&Self>,
    ) -> Option<Self> {
        // What is stored of another provider has no secret of this one's.
        let stored = stored.filter(|stored| stored.provider() == provider);
        let credentials = match provider {
            ProviderKind::Smtp => read_smtp(&mut object, reading.rules, stored).map(Self::Smtp),
            ProviderKind::AwsSes => read_ses(&mut object, reading, stored).map(Self::AwsSes),
            ProviderKind::Sendgrid => {
                read_sendgrid(&mut object, reading.rules, stored).map(Self::Sendgrid)
            }
            ProviderKind::MetaBusiness => {
                read_meta(&mut object, reading.rules, stored).map(Self::MetaBusiness)
            }
            ProviderKind::Twilio => {
                read_twilio(&mut object, reading.rules, stored).map(Self::Twilio)
            }
        };
        object.finish();
        credentials
    }

    /// The credentials as JSON, with what `secret` makes of each secret in its place.
    pub(crate) fn to_json(&self, secret: &dyn Fn(&Secret) -> Value) -> Value {
        let mut json = match self {
            Self::Smtp(smtp) => {
                let mut json = json!({
                    "host": smtp.host.to_string(),
                    "port": smtp.port,
                    "secure": smtp.security == SmtpSecurity::ImplicitTls,
                    "user": smtp.user,
                    "password": secret(&smtp.password),
                    "caPem": smtp.ca_pem,
                    "maxConnections": smtp.max_connections,
                    "ehloName": smtp.ehlo_name.as_ref().map(ToString::to_string),
                });
                sender_json(&mut json, &smtp.from);
                json
            }
            Self::AwsSes(ses) => {
                let mut json = json!({
                    "region": ses.region,
                    "configurationSet": ses.configuration_set,
                });
                sender_json(&mut json, &ses.from);
                match &ses.account {
                    SesAccountCredentials::Keys {
                        access_key_id,
                        secret_access_key,
                    } => {
                        json["accessKeyId"] = json!(access_key_id);
                        json["secretAccessKey"] = secret(secret_access_key);
                    }
                    SesAccountCredentials::Role {
                        role_arn,
                        external_id,
                    } => {
                        json["roleArn"] = json!(role_arn);
                        json["externalId"] = json!(external_id);
                    }
                    SesAccountCredentials::Platform { tenant_name } => {
                        json["tenantName"] = json!(tenant_name);
                    }
                }
                json
            }
            Self::Sendgrid(sendgrid) => {
                let mut json = json!({
                    "apiKey": secret(&sendgrid.api_key),
                    "apiUrl": url_json(sendgrid.api_url.as_ref()),
                    "sandbox": sendgrid.sandbox,
                });
                sender_json(&mut json, &sendgrid.from);
                json
            }
            Self::MetaBusiness(meta) => json!({
                "apiKey": secret(&meta.api_key),
                "phoneNumberId": meta.phone_number_id,
                "businessAccountId": meta.business_account_id,
                "apiUrl": url_json(meta.api_url.as_ref()),
            }),
            Self::Twilio(twilio) => {
                let (number, service) = match &twilio.sender {
                    TwilioSenderSetting::Number(number) => (Some(number), None),
                    TwilioSenderSetting::Service(service) => (None, Some(service)),
                    TwilioSenderSetting::NumberOfService(number, service) => {
                        (Some(number), Some(service))
                    }
                };
                let mut json = json!({
                    "accountSid": twilio.account_sid,
                    "fromNumber": number.map(PhoneNumber::as_str),
                    "messagingServiceSid": service,
                    "apiUrl": url_json(twilio.api_url.as_ref()),
                    "statusCallback": twilio.status_callback,
                });
                if !twilio.templates.is_empty() {
                    json["templates"] = json!(twilio.templates);
                }
                match &twilio.login {
                    TwilioLoginCredentials::AuthToken(token) => json["authToken"] = secret(token),
                    TwilioLoginCredentials::ApiKey { sid, secret: key } => {
                        json["apiKeySid"] = json!(sid);
                        json["apiKeySecret"] = secret(key);
                    }
                }
                json
            }
        };
        if let Some(fields) = json.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
        json
    }
}

fn sender_json(json: &mut Value, from: &OwnSender) {
    json["fromEmail"] = json!(from.email);
    json["fromName"] = json!(from.name);
}

fn url_json(url: Option<&BaseUrl>) -> Value {
    json!(url.map(ToString::to_string))
}

fn read_smtp(
    object: &mut Object<'_>,
    rules: Rules,
    stored: Option<&Credentials>,
) -> Option<SmtpCredentials> {
    let stored = stored.and_then(|stored| match stored {
        Credentials::Smtp(smtp) => Some(smtp),
        Credentials::AwsSes(_)
        | Credentials::Sendgrid(_)
        | Credentials::MetaBusiness(_)
        | Credentials::Twilio(_) => None,
    });
    let host = object.required("host", read::parsed(Host::parse));
    let port = object
        .required("port", read::number(1, 65_535))
        .and_then(|port| u16::try_from(port).ok());
    let secure = object.required("secure", read::flag);
    let security = secure.map(|tls| {
        if tls {
            SmtpSecurity::ImplicitTls
        } else {
            SmtpSecurity::StartTls
        }
    });
    let user = object.required("user", |value| {
        let user = read::text(1, MAX_USER)(value)?;
        if user.chars().any(char::is_control) {
            return Err("must not have control characters".to_owned());
        }
        Ok(user)
    });
    if let (Some(port), Some(secure), Rules::Current) = (port, secure, rules)
        && let Some((field, advice)) = submission_port::conflict(host.as_ref(), port, secure)
    {
        object.problem(field, advice);
    }
    let ca_pem = object.optional("caPem", |value| {
        let pem = read::text(1, MAX_CA_PEM)(value)?;
        if pem.contains("-----BEGIN CERTIFICATE-----") {
            Ok(pem)
        } else {
            Err("must be one or more certificates in PEM form".to_owned())
        }
    });
    let max_connections = object.optional("maxConnections", read::number(1, MAX_CONNECTIONS));
    let ehlo_name = object.optional("ehloName", read::parsed(Host::parse));
    let from = read_sender(object, rules);
    let kept = stored.map(|stored| Kept {
        secret: &stored.password,
        same_place: Some(&stored.host) == host.as_ref()
            && Some(stored.port) == port
            && Some(stored.user.as_str()) == user.as_deref()
            // With a trust root of one's own any server can pass for the clinic's.
            && stored.ca_pem == ca_pem,
    });
    let password = read_secret(object, "password", kept, "host, port, user or caPem");
    Some(SmtpCredentials {
        host: host?,
        port: port?,
        security: security?,
        user: user?,
        password: password?,
        ca_pem,
        max_connections: max_connections
            .and_then(|n| u8::try_from(n).ok())
            .unwrap_or(5),
        ehlo_name,
        from,
    })
}

fn read_ses(
    object: &mut Object<'_>,
    reading: Reading<'_>,
    stored: Option<&Credentials>,
) -> Option<SesCredentials> {
    let stored = stored.and_then(|stored| match stored {
        Credentials::AwsSes(ses) => Some(ses),
        Credentials::Smtp(_)
        | Credentials::Sendgrid(_)
        | Credentials::MetaBusiness(_)
        | Credentials::Twilio(_) => None,
    });
    let region = object.required("region", read::parsed(AwsRegion::parse));
    let from = read_sender(object, reading.rules);
    require_ascii(object, &from, "SES");
    let configuration_set = object.optional("configurationSet", read::parsed(SesName::parse));
    let account = read_ses_account(object, reading.tenant, stored);
    Some(SesCredentials {
        region: region?,
        account: account?,
        from,
        configuration_set,
    })
}

/// The fields that say whose SES it is, of which an entry has those of one way only.
const SES_ACCOUNT_FIELDS: [&str; 5] = [
    "accessKeyId",
    "secretAccessKey",
    "roleArn",
    "externalId",
    "tenantName",
];

fn read_ses_account(
    object: &mut Object<'_>,
    tenant: &Tenant,
    stored: Option<&SesCredentials>,
) -> Option<SesAccountCredentials> {
    drop_unset(object, &SES_ACCOUNT_FIELDS);
    let by_keys = !object.is_missing("accessKeyId") || !object.is_missing("secretAccessKey");
    let by_role = !object.is_missing("roleArn") || !object.is_missing("externalId");
    let by_tenant = !object.is_missing("tenantName");
    match (by_keys, by_role, by_tenant) {
        (true, false, false) => {
            let id = object.required("accessKeyId", read::parsed(AwsAccessKeyId::parse));
            let kept = stored.and_then(|stored| match &stored.account {
                SesAccountCredentials::Keys {
                    access_key_id,
                    secret_access_key,
                } => Some(Kept {
                    secret: secret_access_key,
                    same_place: id.as_ref() == Some(access_key_id),
                }),
                SesAccountCredentials::Role { .. } | SesAccountCredentials::Platform { .. } => None,
            });
            let secret = read_secret(object, "secretAccessKey", kept, "accessKeyId");
            Some(SesAccountCredentials::Keys {
                access_key_id: id?,
                secret_access_key: secret?,
            })
        }
        (false, true, false) => {
            let role_arn = object.required("roleArn", read::parsed(RoleArn::parse));
            let external_id = object.required("externalId", |value| {
                let id = read::parsed(ExternalId::parse)(value)?;
                // The role's trust policy knows clinics by this id alone. Were it free, one clinic
                // could have this account assume another clinic's role.
                let rest = id.as_str().strip_prefix(tenant.as_str());
                if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':')) {
                    Ok(id)
                } else {
                    Err(format!(
                        "must be {tenant} or begin with {tenant}: (with the colon), so that no other clinic can use the role; put it into the role's trust policy as sts:ExternalId"
                    ))
                }
            });
            Some(SesAccountCredentials::Role {
                role_arn: role_arn?,
                external_id: external_id?,
            })
        }
        (false, false, true) => {
            let tenant_name = object.required("tenantName", |value| {
                let name = read::parsed(SesName::parse)(value)?;
                // In the platform's account the tenant is what keeps clinics apart.
                match tenant {
                    Tenant::Clinic(clinic) if clinic.as_str() != name.as_str() => {
                        Err(format!("must be {clinic}, this clinic's own SES tenant"))
                    }
                    Tenant::Clinic(_) | Tenant::Global => Ok(name),
                }
            });
            Some(SesAccountCredentials::Platform {
                tenant_name: tenant_name?,
            })
        }
        (_, _, _) => {
            for name in SES_ACCOUNT_FIELDS {
                object.take(name);
            }
            object.problem_here(
                "must have exactly one of: accessKeyId with secretAccessKey; roleArn with externalId; tenantName",
            );
            None
        }
    }
}

fn read_sendgrid(
    object: &mut Object<'_>,
    rules: Rules,
    stored: Option<&Credentials>,
) -> Option<SendgridCredentials> {
    let stored = stored.and_then(|stored| match stored {
        Credentials::Sendgrid(sendgrid) => Some(sendgrid),
        Credentials::Smtp(_)
        | Credentials::AwsSes(_)
        | Credentials::MetaBusiness(_)
        | Credentials::Twilio(_) => None,
    });
    let api_url = object.optional("apiUrl", read_host_url);
    let from = read_sender(object, rules);
    if rules == Rules::Current {
        require_ascii(object, &from, "SendGrid");
    }
    let sandbox = object.optional("sandbox", read::flag);
    let kept = stored.map(|stored| Kept {
        secret: &stored.api_key,
        same_place: stored.api_url == api_url,
    });
    let api_key = read_secret(object, "apiKey", kept, "apiUrl");
    Some(SendgridCredentials {
        api_key: api_key?,
        from,
        api_url,
        sandbox: sandbox.unwrap_or(false),
    })
}

fn read_meta(
    object: &mut Object<'_>,
    rules: Rules,
    stored: Option<&Credentials>,
) -> Option<MetaCredentials> {
    let stored = stored.and_then(|stored| match stored {
        Credentials::MetaBusiness(meta) => Some(meta),
        Credentials::Smtp(_)
        | Credentials::AwsSes(_)
        | Credentials::Sendgrid(_)
        | Credentials::Twilio(_) => None,
    });
    let phone_number_id = object.required("phoneNumberId", read::parsed(GraphId::parse));
    let business_account_id = object.optional("businessAccountId", read::parsed(GraphId::parse));
    let api_url = object.optional("apiUrl", read::parsed(BaseUrl::parse));
    if let (Some(url), Rules::Current) = (&api_url, rules)
        && !is_current_graph(url)
    {
        object.problem("apiUrl", format!(
            "must end in a version of the Graph that has not ended, v{OLDEST_GRAPH_VERSION}.0 or later, such as https://graph.facebook.com/v23.0"
        ));
    }
    drop_unset(object, &["apiKey", "accessToken"]);
    if !object.is_missing("accessToken") && !object.is_missing("apiKey") {
        object.take("accessToken");
        object.problem(
            "accessToken",
            "is another name of apiKey, which stands beside it; send one of the two",
        );
    }
    // Platforms that moved over know the token by another name.
    let name = if object.is_missing("apiKey") && !object.is_missing("accessToken") {
        "accessToken"
    } else {
        "apiKey"
    };
    let kept = stored.map(|stored| Kept {
        secret: &stored.api_key,
        // Another version of the Graph is served by the same host.
        same_place: origin(stored.api_url.as_ref()) == origin(api_url.as_ref())
            && Some(&stored.phone_number_id) == phone_number_id.as_ref()
            && stored.business_account_id == business_account_id,
    });
    let api_key = read_secret(
        object,
        name,
        kept,
        "the host of apiUrl, phoneNumberId or businessAccountId",
    );
    Some(MetaCredentials {
        api_key: api_key?,
        phone_number_id: phone_number_id?,
        business_account_id,
        api_url,
    })
}

/// A URL without a path: what follows it is the adapter's affair.
fn read_host_url(value: Value) -> Result<BaseUrl, String> {
    let url = read::parsed(BaseUrl::parse)(value)?;
    if url.path_segments().next().is_none() {
        Ok(url)
    } else {
        Err("must be a URL without a path, such as https://api.example.com".to_owned())
    }
}

/// Scheme, host and port of a URL.
fn origin(url: Option<&BaseUrl>) -> Option<(bool, &Host, u16)> {
    url.map(|url| (url.is_https(), url.host(), url.port()))
}

/// Whether the URL's path is one version of the Graph that is still served.
fn is_current_graph(url: &BaseUrl) -> bool {
    let mut path = url.path_segments();
    let version = path
        .next()
        .and_then(|segment| segment.strip_prefix('v')?.strip_suffix(".0"))
        .filter(|number| !number.starts_with(['+', '0']))
        .and_then(|number| number.parse::<u16>().ok());
    version.is_some_and(|version| version >= OLDEST_GRAPH_VERSION) && path.next().is_none()
}

fn read_twilio(
    object: &mut Object<'_>,
    rules: Rules,
    stored: Option<&Credentials>,
) -> Option<TwilioCredentials> {
    let stored = stored.and_then(|stored| match stored {
        Credentials::Twilio(twilio) => Some(twilio),
        Credentials::Smtp(_)
        | Credentials::AwsSes(_)
        | Credentials::Sendgrid(_)
        | Credentials::MetaBusiness(_) => None,
    });
    let account_sid = object.required("accountSid", read::parsed(TwilioAccountSid::parse));
    let api_url = object.optional("apiUrl", read_host_url);
    let number = object.optional("fromNumber", |value| {
        let text = read::string(value)?;
        // As Twilio's own console shows it.
        let number = text.strip_prefix("whatsapp:").unwrap_or(&text);
        PhoneNumber::parse(number).map_err(|error| error.to_string())
    });
    let no_sender = object.is_missing("messagingServiceSid");
    let service = object.optional(
        "messagingServiceSid",
        read::parsed(MessagingServiceSid::parse),
    );
    if number.is_none() && no_sender {
        object.missing(
            "fromNumber",
            "is required, unless there is a messagingServiceSid",
        );
    }
    let status_callback = object.optional("statusCallback", |value| match rules {
        Rules::Current => read::parsed(PublicUrl::parse)(value).map(|url| url.as_str().to_owned()),
        // Saved before hosts and ports were checked. Twilio calls it, this service does not.
        Rules::Readable => read::text(1, PublicUrl::MAX)(value),
    });
    let templates = object.object("templates", |templates| {
        Some(templates.rest(
            MAX_TEMPLATES,
            |name| (1..=MAX_TEMPLATE_NAME).contains(&name.len()),
            |value| read::parsed(ContentSid::parse)(value),
            &format!(
                "must be a content SID (HX and 32 hexadecimal digits) under a name of 1 to {MAX_TEMPLATE_NAME} bytes"
            ),
        ))
    });

    let same_account = stored.is_some_and(|stored| {
        Some(&stored.account_sid) == account_sid.as_ref() && stored.api_url == api_url
    });
    let login = read_twilio_login(object, stored, same_account);
    let sender = match (number, service) {
        (Some(number), Some(service)) => {
            Some(TwilioSenderSetting::NumberOfService(number, service))
        }
        (Some(number), None) => Some(TwilioSenderSetting::Number(number)),
        (None, Some(service)) => Some(TwilioSenderSetting::Service(service)),
        (None, None) => None,
    };
    Some(TwilioCredentials {
        account_sid: account_sid?,
        login: login?,
        sender: sender?,
        api_url,
        status_callback,
        templates: templates.unwrap_or_default(),
    })
}

fn read_twilio_login(
    object: &mut Object<'_>,
    stored: Option<&TwilioCredentials>,
    same_account: bool,
) -> Option<TwilioLoginCredentials> {
    drop_unset(object, &["authToken", "apiKeySid", "apiKeySecret"]);
    let by_key = !object.is_missing("apiKeySid") || !object.is_missing("apiKeySecret");
    if by_key && !object.is_missing("authToken") {
        object.take("authToken");
        object.problem(
            "authToken",
            "stands beside an API key; send either authToken, or apiKeySid with apiKeySecret",
        );
    }
    if by_key {
        let sid = object.required("apiKeySid", read::parsed(TwilioApiKeySid::parse));
        let kept = stored.and_then(|stored| match &stored.login {
            TwilioLoginCredentials::ApiKey {
                sid: stored,
                secret,
            } => Some(Kept {
                secret,
                same_place: same_account && sid.as_ref() == Some(stored),
            }),
            TwilioLoginCredentials::AuthToken(_) => None,
        });
        let changed = "accountSid, apiKeySid or apiUrl";
        let secret = read_secret(object, "apiKeySecret", kept, changed);
        return Some(TwilioLoginCredentials::ApiKey {
            sid: sid?,
            secret: secret?,
        });
    }
    let kept = stored.and_then(|stored| match &stored.login {
        TwilioLoginCredentials::AuthToken(secret) => Some(Kept {
            secret,
            same_place: same_account,
        }),
        TwilioLoginCredentials::ApiKey { .. } => None,
    });
    read_secret(object, "authToken", kept, "accountSid or apiUrl")
        .map(TwilioLoginCredentials::AuthToken)
}

/// Takes out those of `names` that are `null`. Where there are several ways to say something, those
/// that are not used are not looked at, and would be taken for unknown fields.
fn drop_unset(object: &mut Object<'_>, names: &[&'static str]) {
    for name in names {
        if object.is_missing(name) {
            object.take(name);
        }
    }
}

fn require_ascii(object: &mut Object<'_>, from: &OwnSender, provider: &str) {
    let needs = from
        .email
        .as_ref()
        .is_some_and(EmailAddress::needs_smtputf8);
    if needs {
        object.problem(
            "fromEmail",
            format!("must have ASCII characters only before the '@': {provider} takes no others"),
        );
    }
}

/// Reads the address of a sender.
pub(crate) fn parse_sender(
    rules: Rules,
) -> fn(&str) -> Result<EmailAddress, comms_core::address::AddressError> {
    match rules {
        Rules::Current => EmailAddress::parse_new,
        Rules::Readable => EmailAddress::parse,
    }
}

fn read_sender(object: &mut Object<'_>, rules: Rules) -> OwnSender {
    OwnSender {
        email: object.optional("fromEmail", read::parsed(parse_sender(rules))),
        name: object
            .optional("fromName", read::parsed(Mailbox::parse_name))
            .filter(|name| !name.is_empty()),
    }
}

/// A secret that is stored.
struct Kept<'s> {
    secret: &'s Secret,
    /// Whether it would still go to the same place, as the same user.
    same_place: bool,
}

/// Reads a secret: a new one, or the stored one where it is absent or its marker stands there.
/// `place` names the fields that decide where it goes.
fn read_secret(
    object: &mut Object<'_>,
    name: &'static str,
    kept: Option<Kept<'_>>,
    place: &str,
) -> Option<Secret> {
    match object.take(name) {
        Some(Value::String(text)) => {
            let text = Zeroizing::new(text);
            if (1..=MAX_SECRET).contains(&text.chars().count())
                && !text.contains(['\0', '\r', '\n'])
            {
                Some(Secret::new(text))
            } else {
                object.problem(
                    name,
                    format!("must be 1 to {MAX_SECRET} characters without line breaks"),
                );
                None
            }
        }
        Some(marker) if marker.get("configured") != Some(&Value::Bool(true)) => {
            object.problem(
                name,
                "must be a string, or the marker that GET shows in its place",
            );
            None
        }
        marker => match kept {
            Some(kept) if kept.same_place => Some(kept.secret.clone()),
            Some(_) => {
                object.problem(
                    name,
                    format!("must be sent again, because {place} has changed"),
                );
                None
            }
            None if marker.is_some() => {
                object.problem(name, "must be sent: none is stored for this entry");
                None
            }
            None => {
                object.problem(name, "is required");
                None
            }
        },
    }
}

#[cfg(test)]
mod tests;
