//! Data keys of KMS: whose they are, and under which KMS key.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use comms_settings::envelope::{EnvelopeError, Kms, Purpose};
use comms_testkit::aws::{Fault, LocalAws};

fn kms(aws: &LocalAws) -> Kms {
    let client = aws_sdk_kms::Client::new(&aws.sdk_config());
    Kms::new(client, &aws.resources().kms_key_id)
}

fn is_wrong_key<T>(result: &Result<T, EnvelopeError>) -> bool {
    matches!(result, Err(EnvelopeError::WrongDataKey { .. }))
}

#[tokio::test]
async fn a_data_key_opens_for_its_tenant_and_purpose_alone() {
    let aws = LocalAws::start().await;
    let kms = kms(&aws);
    let (key, encrypted) = kms.generate("clinic-a", Purpose::Settings).await.unwrap();
    let opened = kms
        .decrypt(&encrypted, "clinic-a", Purpose::Settings)
        .await
        .unwrap();
    assert_eq!(opened.bytes(), key.bytes());
    for (tenant, purpose) in [
        ("clinic-b", Purpose::Settings),
        ("clinic-a", Purpose::HashKey),
    ] {
        let opened = kms.decrypt(&encrypted, tenant, purpose).await;
        assert!(is_wrong_key(&opened), "{tenant} {purpose:?}");
        let again = kms.reencrypt(&encrypted, tenant, purpose).await;
        assert!(is_wrong_key(&again), "{tenant} {purpose:?}");
    }
}

#[tokio::test]
async fn a_data_key_encrypted_again_is_the_same_key() {
    let aws = LocalAws::start().await;
    let kms = kms(&aws);
    let (key, encrypted) = kms.generate("clinic-a", Purpose::Settings).await.unwrap();
    let again = kms
        .reencrypt(&encrypted, "clinic-a", Purpose::Settings)
        .await
        .unwrap();
    assert_ne!(again.ciphertext, encrypted.ciphertext);
    let opened = kms
        .decrypt(&again, "clinic-a", Purpose::Settings)
        .await
        .unwrap();
    assert_eq!(opened.bytes(), key.bytes());
}

/// The code is what an operator searches AWS's documentation for.
#[tokio::test]
async fn a_refusal_of_kms_is_named_with_operation_and_code() {
    let aws = LocalAws::start().await;
    let kms = kms(&aws);
    let (_, encrypted) = kms.generate("clinic-a", Purpose::Settings).await.unwrap();
    let refused = |operation| EnvelopeError::Kms {
        operation,
        code: "AccessDeniedException".to_owned(),
    };
    aws.fail_next("kms", "GenerateDataKey", 1, Fault::AccessDenied);
    let generated = kms.generate("clinic-a", Purpose::Settings).await;
    assert_eq!(generated.err(), Some(refused("GenerateDataKey")));
    aws.fail_next("kms", "Decrypt", 1, Fault::AccessDenied);
    let opened = kms.decrypt(&encrypted, "clinic-a", Purpose::Settings).await;
    assert_eq!(opened.err(), Some(refused("Decrypt")));
    aws.fail_next("kms", "ReEncrypt", 1, Fault::AccessDenied);
    let again = kms
        .reencrypt(&encrypted, "clinic-a", Purpose::Settings)
        .await;
    assert_eq!(again.err(), Some(refused("ReEncrypt")));
}
