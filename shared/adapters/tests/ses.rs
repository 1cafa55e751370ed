//! The SES adapter over the wire: the real SDK, a real connection, and the local AWS behind it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use aws_config::SdkConfig;
use aws_sdk_sesv2::config::{Region, retry::RetryConfig};
use base64::{Engine, prelude::BASE64_STANDARD};
use comms_adapters::{
    Chain, ChainSpec, Deadline, EgressGuard, EntrySpec, Message, OwnSender, Provider,
    ProviderFactory, StageOutcome, VerifyStage,
    chain::AmbiguityPolicy,
    egress::{EgressAllow, SystemResolver},
    rate::Rate,
    ses::{SesAccount, SesConfig, SesProvider},
    tls::TlsConfigs,
};
use comms_core::{
    Channel, DeliveryId, Disposition, EmailAddress, EntryId, ErrorKind, Mailbox, Position,
    ProviderError, Receipt, Secret, Tenant,
    account::{AwsAccessKeyId, AwsRegion, ExternalId, RoleArn, SesName},
    media_type::MediaType,
    request::{Attachment, Content, Target},
};
use comms_testkit::{
    aws::{Fault, LocalAws},
    clock::ManualClock,
};
use mail_parser::MessageParser;
use serde_json::json;

const ROLE: &str = "arn:aws:iam::210987654321:role/clinic-ses/mail";

fn keys() -> SesAccount {
    SesAccount::Keys {
        access_key_id: AwsAccessKeyId::parse("AKIACLINIC0000000000").unwrap(),
        secret_access_key: Secret::new("planted-secret".to_owned()),
    }
}

fn role() -> SesAccount {
    SesAccount::Role {
        role_arn: RoleArn::parse(ROLE).unwrap(),
        external_id: ExternalId::parse("clinic-123").unwrap(),
    }
}

fn platform() -> SesAccount {
    SesAccount::Platform {
        tenant_name: SesName::parse("clinic-123").unwrap(),
    }
}

/// The local AWS's configuration, its retries without waiting.
fn sdk(aws: &LocalAws) -> SdkConfig {
    let retries = RetryConfig::standard().with_initial_backoff(Duration::ZERO);
    aws.sdk_config()
        .into_builder()
        .retry_config(retries)
        .build()
}

fn provider(aws: &LocalAws, account: SesAccount) -> SesProvider {
    SesProvider::new(settings(account), sender(), &sdk(aws))
}

fn sender() -> Mailbox {
    Mailbox {
        address: EmailAddress::parse("appointments@mail.clinic.example").unwrap(),
        name: Some("Clinic".to_owned()),
    }
}

fn settings(account: SesAccount) -> SesConfig {
    SesConfig {
        region: AwsRegion::parse("eu-central-1").unwrap(),
        account,
        from: OwnSender::default(),
        configuration_set: None,
    }
}

/// The owner of the account, who sets it up.
fn owner(aws: &LocalAws) -> aws_sdk_sesv2::Client {
    let region = Region::from_static("eu-central-1");
    aws_sdk_sesv2::Client::new(&sdk(aws).into_builder().region(region).build())
}

fn message(attachments: Vec<Attachment>) -> Message {
    Message {
        delivery: DeliveryId::parse(&"ab".repeat(16)).unwrap(),
        target: Target::Email(Mailbox {
            address: EmailAddress::parse("patient@example.com").unwrap(),
            name: None,
        }),
        content: Arc::new(Content {
            title: Some("Termin bestätigt".to_owned()),
            body: Some("See you on Monday.".to_owned()),
            bcc: vec![EmailAddress::parse("archive@clinic.example").unwrap()],
            attachments,
            ..Content::default()
        }),
        reply_to: None,
    }
}

async fn send(provider: &SesProvider, message: &Message) -> Result<Receipt, ProviderError> {
    let deadline = Deadline::after(Duration::from_secs(20));
    provider.send(message, deadline).await
}

#[tokio::test]
async fn a_message_arrives_as_it_was_sent_and_the_receipt_names_it() {
    let aws = LocalAws::start().await;
    let receipt = send(&provider(&aws, keys()), &message(Vec::new()))
        .await
        .unwrap();
    let messages = aws.ses_messages();
    assert_eq!(messages.len(), 1);
    let got = &messages[0];
    assert_eq!(got.message_id, receipt.message_id);
    assert_eq!(got.region, "eu-central-1");
    assert_eq!(got.access_key_id, "AKIACLINIC0000000000");
    assert_eq!(got.session_token, None);
    let simple = &got.request["Content"]["Simple"];
    assert_eq!(simple["Subject"]["Data"], "Termin bestätigt");
    assert_eq!(simple["Body"]["Text"]["Data"], "See you on Monday.");
    let expected =
        json!({"ToAddresses": ["patient@example.com"], "BccAddresses": ["archive@clinic.example"]});
    assert_eq!(got.request["Destination"], expected);
    assert_eq!(got.request["EmailTags"][0]["Value"], "ab".repeat(16));
}

#[tokio::test]
async fn a_file_of_some_megabytes_arrives_whole() {
    let aws = LocalAws::start().await;
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let attachment = Attachment {
        filename: "scan.bin".to_owned(),
        content_type: MediaType::parse("application/octet-stream").unwrap(),
        content_id: None,
        content: content.clone().into(),
    };
    send(&provider(&aws, keys()), &message(vec![attachment]))
        .await
        .unwrap();
    let messages = aws.ses_messages();
    let data = messages[0].request["Content"]["Raw"]["Data"].as_str();
    let raw = BASE64_STANDARD.decode(data.unwrap()).unwrap();
    let mail = MessageParser::default().parse(&raw).unwrap();
    assert_eq!(mail.subject(), Some("Termin bestätigt"));
    assert!(mail.bcc().is_none());
    assert_eq!(mail.attachment(0).unwrap().contents(), content);
}

#[tokio::test]
async fn a_tenant_of_the_platform_is_sent_for_in_the_platforms_name() {
    let aws = LocalAws::start().await;
    send(&provider(&aws, platform()), &message(Vec::new()))
        .await
        .unwrap();
    let got = &aws.ses_messages()[0];
    assert_eq!(got.request["TenantName"], "clinic-123");
    let environment = aws.env();
    let key = environment
        .iter()
        .find(|(name, _)| name == "AWS_ACCESS_KEY_ID");
    assert_eq!(got.access_key_id, key.unwrap().1);
}

#[tokio::test]
async fn a_role_is_assumed_with_its_external_id_once_for_many_messages() {
    let aws = LocalAws::start().await;
    let provider = provider(&aws, role());
    assert!(aws.calls().is_empty(), "nothing happens before it is used");
    send(&provider, &message(Vec::new())).await.unwrap();
    send(&provider, &message(Vec::new())).await.unwrap();
    let roles = aws.assumed_roles();
    assert_eq!(roles.len(), 1);
    assert_eq!(roles[0].role_arn, ROLE);
    assert_eq!(roles[0].external_id.as_deref(), Some("clinic-123"));
    assert_eq!(roles[0].session_name, "clinic-comms");
    assert_eq!(roles[0].region, "eu-central-1");
    for got in aws.ses_messages() {
        assert_eq!(got.access_key_id, roles[0].access_key_id);
        assert!(got.session_token.is_some());
    }
    assert_eq!(aws.ses_messages().len(), 2);
}

#[tokio::test]
async fn a_role_that_may_not_be_assumed_sends_nothing_and_says_why() {
    let aws = LocalAws::start().await;
    aws.fail_next("sts", "AssumeRole", 1, Fault::AccessDenied);
    let provider = provider(&aws, role());
    let error = send(&provider, &message(Vec::new())).await.unwrap_err();
    assert_eq!(error.disposition, Disposition::ProviderDown);
    assert_eq!(error.kind, ErrorKind::Unauthenticated);
    assert!(error.detail.contains("externalId"), "{error}");
    assert_eq!(error.code.unwrap().as_str(), "AccessDenied");
    assert_eq!(aws.count("ses", "SendEmail"), 0);
    // A refusal is not remembered.
    send(&provider, &message(Vec::new())).await.unwrap();
}

#[tokio::test]
async fn an_sts_that_fails_is_no_reason_to_give_the_provider_up() {
    for fault in [Fault::ServerError, Fault::Throttle, Fault::Drop] {
        let aws = LocalAws::start().await;
        aws.fail_next("sts", "*", 3, fault);
        let error = send(&provider(&aws, role()), &message(Vec::new()))
            .await
            .unwrap_err();
        assert_eq!(error.disposition, Disposition::Transient, "{error}");
        assert_eq!(aws.count("ses", "SendEmail"), 0);
    }
}

#[tokio::test]
async fn what_ses_fails_at_is_classified_and_never_sent_twice() {
    use Disposition::{Ambiguous, ProviderDown, Transient};
    for (fault, disposition, kind) in [
        (Fault::Throttle, Transient, ErrorKind::RateLimited),
        (Fault::ServerError, Ambiguous, ErrorKind::Unavailable),
        (
            Fault::AccessDenied,
            ProviderDown,
            ErrorKind::Unauthenticated,
        ),
        (Fault::Drop, Ambiguous, ErrorKind::Unavailable),
    ] {
        let aws = LocalAws::start().await;
        aws.fail_next("ses", "SendEmail", 1, fault);
        let error = send(&provider(&aws, keys()), &message(Vec::new()))
            .await
            .unwrap_err();
        assert_eq!(
            (error.disposition, error.kind),
            (disposition, kind),
            "{error}"
        );
        assert_eq!(aws.count("ses", "SendEmail"), 1);
        assert!(aws.ses_messages().is_empty());
    }
}

#[tokio::test]
async fn where_nobody_listens_nothing_is_sent() {
    let aws = LocalAws::start().await;
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let sdk = sdk(&aws).into_builder().endpoint_url(endpoint).build();
    let settings = SesConfig {
        region: AwsRegion::parse("eu-central-1").unwrap(),
        account: keys(),
        from: OwnSender::default(),
        configuration_set: None,
    };
    let provider = SesProvider::new(
        settings,
        Mailbox {
            address: EmailAddress::parse("appointments@clinic.example").unwrap(),
            name: None,
        },
        &sdk,
    );
    let error = send(&provider, &message(Vec::new())).await.unwrap_err();
    assert_eq!(error.disposition, Disposition::Transient, "{error}");
    let report = provider
        .verify(Deadline::after(Duration::from_secs(20)))
        .await;
    assert_eq!(report.len(), 1);
    assert_eq!(report[0].stage, VerifyStage::Connect);
}

#[tokio::test]
async fn a_check_fails_until_the_senders_domain_is_verified() {
    let aws = LocalAws::start().await;
    let provider = provider(&aws, role());
    let check = async || {
        let deadline = Deadline::after(Duration::from_secs(20));
        let report = provider.verify(deadline).await;
        let passed = |report: &comms_adapters::StageReport| report.outcome == StageOutcome::Passed;
        let stages: Vec<_> = report.iter().map(|report| report.stage).collect();
        (stages, report.iter().all(passed))
    };
    let (stages, passed) = check().await;
    assert_eq!(stages, [VerifyStage::Authenticate, VerifyStage::Sender]);
    assert!(!passed);
    owner(&aws)
        .create_email_identity()
        .email_identity("clinic.example")
        .send()
        .await
        .unwrap();
    let (stages, passed) = check().await;
    assert_eq!(stages.len(), 3);
    assert!(passed);
    owner(&aws)
        .put_account_sending_attributes()
        .sending_enabled(false)
        .send()
        .await
        .unwrap();
    let (stages, passed) = check().await;
    assert_eq!(stages, [VerifyStage::Authenticate]);
    assert!(!passed);
    assert!(aws.ses_messages().is_empty());
}

#[tokio::test]
async fn the_account_says_how_fast_it_may_be_used_where_it_may_be_asked() {
    let aws = LocalAws::start().await;
    let deadline = Deadline::after(Duration::from_secs(20));
    let provider = provider(&aws, role());
    let rate = provider.messages_per_second(deadline).await;
    let quota = owner(&aws).get_account().send().await.unwrap().send_quota;
    let said = quota.unwrap().max_send_rate();
    assert_eq!(rate.map(|rate| f64::from(rate.get())), Some(said));
    aws.fail_next("ses", "GetAccount", 1, Fault::AccessDenied);
    assert_eq!(provider.messages_per_second(deadline).await, None);
}

#[tokio::test]
async fn an_entry_is_paced_by_what_its_account_says_once_it_was_used_and_asked() {
    let aws = LocalAws::start().await;
    let factory = ProviderFactory::new(
        TlsConfigs::new(None).unwrap(),
        EgressGuard::new(EgressAllow::default(), Arc::new(SystemResolver)),
        sdk(&aws),
        Arc::new(ManualClock::new()),
        10,
    );
    let chain = |tenant: &str, max_per_second| {
        let spec = || ChainSpec {
            entries: vec![EntrySpec {
                id: EntryId::primary(),
                position: Position::Primary,
                config: Arc::new(settings(platform())),
                sender: Some(sender()),
                retries: 0,
                max_per_second,
            }],
            on_ambiguous: AmbiguityPolicy::Failover,
            reply_to: None,
        };
        let tenant = Tenant::parse(tenant).unwrap();
        factory.own_chain(&tenant, Channel::Email, 1, spec)
    };
    let rate_limit = |chain: &Chain| chain.entries[0].rate_limit.clone().unwrap();
    let rate = |messages| Rate::per_second(NonZeroU32::new(messages).unwrap());
    let deadline = Deadline::after(Duration::from_secs(20));
    let asked = || aws.count("ses", "GetAccount");

    let (one, other) = (chain("clinic-1", None), chain("clinic-2", None));
    one.learn_rates(deadline).await;
    assert_eq!(asked(), 0, "nobody has used it");
    assert_eq!(rate_limit(&one).rate(), rate(14));
    one.learn_rates(deadline).await;
    other.learn_rates(deadline).await;
    assert_eq!(asked(), 1, "one account");
    let quota = owner(&aws).get_account().send().await.unwrap().send_quota;
    let said = quota.unwrap().max_send_rate();
    let known = Rate::per_second(NonZeroU32::new(format!("{said}").parse().unwrap()).unwrap());
    assert_eq!(
        (rate_limit(&one).rate(), rate_limit(&other).rate()),
        (known, known)
    );

    // What the clinic has set needs no asking.
    let set = chain("clinic-3", NonZeroU32::new(200));
    assert_eq!(rate_limit(&set).rate(), rate(200));
    let before = asked();
    set.learn_rates(deadline).await;
    assert_eq!(asked(), before);
}
