//! The work of the functions for every message or batch, without waits.

use std::{
    future::ready,
    hint::black_box,
    io,
    num::NonZeroU32,
    pin::Pin,
    sync::{Arc, LazyLock},
    time::Duration,
};

use async_trait::async_trait;
use comms_adapters::{
    Capabilities, Chain, Deadline, Health, Message, Provider, StageReport,
    chain::{AmbiguityPolicy, ChainEntry, Renewal},
    mime::{self, Feedback},
    rate_limiter::Unlimited,
    retry::RetryPolicy,
};
use comms_core::{
    AddressMask, Channel, ClinicId, DeliveryId, EmailAddress, EntryId, HashKey, Mailbox,
    PhoneNumber, Position, Problems, ProviderError, ProviderKind, Receipt, RequestId, Secret,
    SystemClock, Tenant,
    metric::METRICS,
    request::{Content, Submission, Target},
};
use comms_delivery::{Quota, Quotas, TableError};
use comms_runtime::telemetry::{self, TelemetryConfig};
use comms_settings::{
    Author, CommunicationSettings, Period, RateLimit, SettingsCache, SettingsStore,
    envelope::{EntryContext, Kms, Purpose},
};
use comms_testkit::{aws::LocalAws, clock::ManualClock};
use futures_util::FutureExt as _;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tracing_subscriber::layer::SubscriberExt as _;

/// Something that is done once each time this is called.
pub(crate) type Case = Box<dyn FnMut()>;

/// The case of this name, ready to be done: what it needs has been made, and AWS asked.
pub(crate) fn case(name: &str) -> Case {
    match name {
        "submission" => submission_read(1),
        "submission_500" => submission_read(500),
        "phone_number" => phone_number_read(),
        "deliveries" => deliveries_planned(),
        "settings" => settings_read(),
        "settings_remembered" => settings_remembered(),
        "credentials" => credentials_opened(),
        "secret" => secret_exposed(),
        "quota" => quota_from_a_lease(),
        "chain" => chain_with_one_provider(),
        "mail" => mail_built(),
        "log_line" => log_line(),
        "metrics_line" => metrics_line(),
        other => panic!("there is no case {other}"),
    }
}

/// Where AWS runs, and what asks it.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
});

fn tenant() -> Tenant {
    Tenant::Clinic(ClinicId::parse("clinic-123").unwrap())
}

/// Reading what a backend posted, or the queue has.
fn submission_read(recipients: usize) -> Case {
    let text = submission(recipients);
    Box::new(move || {
        black_box(Submission::parse(black_box(&text)).unwrap());
    })
}

fn submission(recipients: usize) -> Vec<u8> {
    let recipients: Vec<_> = (0..recipients)
        .map(|n| json!({"email": format!("patient-{n}@example.com"), "name": "Patient"}))
        .collect();
    let submission = json!({
        "category": "appointment", "priority": "high", "title": "Appointment confirmed",
        "body": "See you on Monday at 10:00.", "html": "<p>See you on Monday at 10:00.</p>",
        "recipients": recipients, "channels": ["email"], "replyTo": "desk@clinic.example",
        "metadata": {"clinicId": "clinic-123", "appointmentId": "appt-456"}});
    submission.to_string().into_bytes()
}

/// A number as E.164 has it.
fn phone_number_read() -> Case {
    Box::new(|| {
        black_box(PhoneNumber::parse(black_box("+4930901820")).unwrap());
    })
}

/// A recipient's delivery: its id, which is a keyed hash of the address, and the mask that is shown.
fn deliveries_planned() -> Case {
    let hash = HashKey::from_bytes(&[7; HashKey::LENGTH]);
    let submission = Submission::parse(&submission(1)).unwrap();
    let id = RequestId::parse("0123456789abcdef0123456789abcdef").unwrap();
    Box::new(move || {
        let deliveries = submission
            .request
            .deliveries(black_box(&hash), &id, AddressMask::Short);
        black_box(deliveries[0].masked());
    })
}

fn credentials() -> Value {
    json!({"host": "smtp.example.com", "port": 587, "secure": false, "user": "appointments@clinic.example",
        "password": "an-app-password-of-a-mail-account"})
}

fn document() -> Value {
    json!({
        "email": {
            "primary": {"provider": "smtp", "enabled": true, "credentials": credentials()},
            "fallback": [{"provider": "sendgrid", "enabled": true, "credentials": {
                "apiKey": "SG.0123456789abcdef012345.0123456789abcdef0123456789abcdef0123456",
                "fromEmail": "hello@clinic.example", "fromName": "Clinic"}}],
            "defaultFrom": "appointments@clinic.example", "defaultFromName": "Clinic",
            "fallbackStrategy": {"useGlobal": true, "retryAttempts": 2}, "onAmbiguous": "failover"},
        "whatsapp": {"primary": {"provider": "meta_business", "enabled": true, "credentials": {
            "apiUrl": "https://graph.facebook.com/v23.0", "apiKey": "EAA0123456789abcdef0123456789abcdef",
            "phoneNumberId": "123456789", "businessAccountId": "987654321"}}}})
}

fn settings() -> CommunicationSettings {
    let mut problems = Problems::default();
    let read = CommunicationSettings::read(document(), "", &tenant(), None, &mut problems);
    problems.or(read).unwrap()
}

/// Reading the document of a clinic with two providers of e-mail and one of `WhatsApp`.
fn settings_read() -> Case {
    Box::new(|| {
        black_box(settings());
    })
}

/// A clinic's settings that are remembered.
fn settings_remembered() -> Case {
    let tenant = tenant();
    let clock = Arc::new(ManualClock::new());
    let (aws, cache) = RUNTIME.block_on(async {
        let aws = LocalAws::start().await;
        let resources = aws.resources();
        let (table, key) = (&resources.settings_table, &resources.kms_key_id);
        let store = SettingsStore::new(&aws.sdk_config(), table, key);
        let author = Author {
            subject: "bench".into(),
            source_address: None,
        };
        let saved = settings();
        let saved = store.save(&tenant, &saved, None, &author, &*clock);
        saved.await.unwrap();
        let cache = SettingsCache::new(store, clock.clone(), 10);
        cache.get(&tenant).await.unwrap();
        (aws, cache)
    });
    Box::new(move || {
        let _aws = &aws;
        // At once: nobody is asked.
        let found = cache.remembered(black_box(&tenant)).now_or_never().unwrap();
        black_box(found.unwrap());
    })
}

/// Opening an entry's credentials with a data key that KMS has opened before.
fn credentials_opened() -> Case {
    let key = RUNTIME.block_on(async {
        let aws = LocalAws::start().await;
        let client = aws_sdk_kms::Client::new(&aws.sdk_config());
        let kms = Kms::new(client, &aws.resources().kms_key_id);
        let (key, _) = kms.generate("clinic-123", Purpose::Settings).await.unwrap();
        key
    });
    let (tenant, entry) = (tenant(), EntryId::primary());
    let clear = credentials().to_string();
    let sealed = key.seal(&place(&tenant, &entry), clear.as_bytes()).unwrap();
    Box::new(move || {
        let opened = key.open(&place(&tenant, &entry), black_box(&sealed));
        black_box(opened.unwrap());
    })
}

fn place<'a>(tenant: &'a Tenant, entry: &'a EntryId) -> EntryContext<'a> {
    EntryContext {
        content: Some(&[7; 32]),
        tenant,
        channel: Channel::Email,
        entry,
        provider: ProviderKind::new("smtp"),
        version: 1,
    }
}

/// A provider's key in clear, from the memory in which it is sealed.
fn secret_exposed() -> Case {
    let secret =
        Secret::new("SG.0123456789abcdef012345.0123456789abcdef0123456789abcdef0123456".to_owned());
    Box::new(move || {
        black_box(black_box(&secret).expose().unwrap());
    })
}

/// One message's quota from the lease that the process holds.
fn quota_from_a_lease() -> Case {
    let tenant = tenant();
    let limits = RateLimit::new([(Period::Day, NonZeroU32::new(100_000).unwrap())]).unwrap();
    let (aws, quotas) = RUNTIME.block_on(async {
        let aws = LocalAws::start().await;
        let table = &aws.resources().deliveries_table;
        let quotas = Quotas::new(&aws.sdk_config(), table, Arc::new(ManualClock::new()));
        take_and_put_back(
            quotas
                .take(&tenant, Channel::Email.into(), &limits, 1)
                .await,
        );
        (aws, quotas)
    });
    Box::new(move || {
        let _aws = &aws;
        let taken = quotas.take(&tenant, Channel::Email.into(), &limits, 1);
        // At once: the lease is enough.
        take_and_put_back(taken.now_or_never().unwrap());
    })
}

/// For the next one: else the lease would end.
fn take_and_put_back(taken: Result<Quota, TableError>) {
    match taken.unwrap() {
        Quota::Granted(grant) => grant.return_unused(1),
        refused @ (Quota::Exhausted(_) | Quota::TooMany { .. }) => panic!("{refused:?}"),
    }
}

/// Putting a message into MIME form, as SMTP gets it.
fn mail_built() -> Case {
    let mailbox = |address: &str, name: &str| Mailbox {
        address: EmailAddress::parse(address).unwrap(),
        name: Some(name.to_owned()),
    };
    let copies = (0..3).map(|n| EmailAddress::parse(&format!("family{n}@example.com")).unwrap());
    let message = Message {
        delivery: DeliveryId::parse("0123456789abcdef0123456789abcdef").unwrap(),
        target: Target::Email(mailbox("patient@example.com", "José Ñúñez")),
        content: Arc::new(Content {
            title: Some("Termin bestätigt für Montag, 14. Dezember".to_owned()),
            body: Some("See you on Monday at 10:00.".to_owned()),
            cc: copies.collect(),
            ..Content::default()
        }),
        reply_to: None,
    };
    let sender = mailbox("appointments@clinic.example", "Clinic, Front Desk");
    Box::new(move || {
        black_box(
            mime::build(black_box(&message), &sender, Feedback::Named)
                .unwrap()
                .bytes,
        );
    })
}

/// A chain whose first provider takes the message at once.
fn chain_with_one_provider() -> Case {
    let chain = Arc::new(Chain {
        entries: vec![ChainEntry {
            id: EntryId::primary(),
            position: Position::Primary,
            provider: Arc::new(Accepting),
            retry: RetryPolicy { retries: 2 },
            health: Health::new(Arc::new(SystemClock)),
            rate_limit: None,
        }],
        on_ambiguous: AmbiguityPolicy::Failover,
        clinic_reply_to: None,
    });
    let message = Message {
        delivery: DeliveryId::parse("0123456789abcdef0123456789abcdef").unwrap(),
        target: Target::Email(Mailbox {
            address: EmailAddress::parse("patient@example.com").unwrap(),
            name: None,
        }),
        content: Arc::new(Content::default()),
        reply_to: None,
    };
    let runtime = RUNTIME.handle();
    Box::new(move || {
        let _within = runtime.enter();
        let deadline = Deadline::after(Duration::from_secs(30));
        let renew =
            |_| -> Pin<Box<dyn Future<Output = _> + Send>> { Box::pin(ready(Renewal::Unchanged)) };
        let sent = chain.send(&message, deadline, &renew, &Unlimited);
        black_box(sent.now_or_never().unwrap());
    })
}

/// Takes every message.
#[derive(Debug)]
struct Accepting;

#[async_trait]
impl Provider for Accepting {
    fn kind(&self) -> ProviderKind {
        ProviderKind::new("sendgrid")
    }

    fn capabilities(&self) -> &'static Capabilities {
        &Capabilities {
            html: true,
            message_bytes: Some(10_000_000),
            text_chars: None,
            attachments: true,
            recipients: 100,
            reply_to: true,
            internationalised_addresses: true,
            templates: false,
            media: false,
        }
    }

    async fn send(&self, _: &Message, _: Deadline) -> Result<Receipt, ProviderError> {
        Ok(Receipt::new("14c5d75ce93.dfd.64b469".to_owned()))
    }

    async fn verify(&self, _: Deadline) -> Vec<StageReport> {
        Vec::new()
    }
}

/// Writes to nowhere what `line` says, within the spans that a delivery's lines are written in.
fn written(line: fn()) -> Case {
    let layer = telemetry::layer(TelemetryConfig::default(), io::sink);
    let subscriber = tracing_subscriber::registry().with(layer);
    let dispatch = tracing::Dispatch::new(subscriber);
    let message = tracing::dispatcher::with_default(&dispatch, || {
        tracing::info_span!(
            target: "comms_worker", "message", request_id = "0123456789abcdef0123456789abcdef",
            clinic_id = "clinic-123"
        )
    });
    Box::new(move || tracing::dispatcher::with_default(&dispatch, || message.in_scope(line)))
}

/// The line of a delivery's attempt.
fn log_line() -> Case {
    written(|| {
        tracing::info!(
            target: "comms_adapters::chain",
            provider = %ProviderKind::new("sendgrid"), position = %Position::Primary, duration_ms = 52_u64,
            refused_copies = 0_usize, "attempt accepted"
        );
    })
}

/// The line of a delivery's metrics.
fn metrics_line() -> Case {
    written(|| {
        tracing::info!(
            target: METRICS,
            sent = 1_u64, latency_ms = 52_u64, time_to_outcome_ms = 180_u64, channel = "email",
            provider = "sendgrid", attempts = 1_usize
        );
    })
}
