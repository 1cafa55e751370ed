//! A settings table with clinics in it, and a second key.

use std::{collections::HashMap, sync::Arc};

use aws_sdk_dynamodb::types::AttributeValue;
use comms_core::{Channel, Problems, Tenant};
use comms_operator::{
    plan::TablePlan,
    reseal::{Report, run},
};
use comms_settings::{Author, CommunicationSettings, HashKeys, SettingsStore, StoredSettings};
use comms_testkit::{aws::LocalAws, clock::ManualClock};
use serde_json::json;

/// What no output may have in it.
pub(crate) const PLANTED: &str = "planted-";

/// A settings table, the key under which everything is saved, and the one under which it is to be.
pub(crate) struct Table {
    pub(crate) aws: LocalAws,
    pub(crate) old: String,
    pub(crate) new: String,
    clock: Arc<ManualClock>,
}

impl Table {
    pub(crate) async fn new() -> Self {
        let aws = LocalAws::start().await;
        let created = aws_sdk_kms::Client::new(&aws.sdk_config())
            .create_key()
            .send()
            .await
            .unwrap();
        Self {
            old: aws.resources().kms_key_id.clone(),
            new: created.key_metadata.unwrap().arn.unwrap(),
            clock: Arc::new(ManualClock::new()),
            aws,
        }
    }

    /// A table with these clinics, two versions each, and the key of the hashes: three items a clinic, and one.
    pub(crate) async fn with(clinics: &[&str]) -> Self {
        let table = Self::new().await;
        for clinic in clinics {
            table.save(&table.old, clinic, "one").await;
            table.save(&table.old, clinic, "two").await;
        }
        table.hash_key(&table.old).await;
        table
    }

    pub(crate) fn store(&self, key: &str) -> SettingsStore {
        SettingsStore::new(
            &self.aws.sdk_config(),
            &self.aws.resources().settings_table,
            key,
        )
    }

    /// Everything, as fast as it goes.
    pub(crate) fn plan(&self) -> TablePlan {
        TablePlan {
            store: self.store(&self.new),
            tenants: Vec::new(),
            rate: 1_000,
            is_dry_run: false,
        }
    }

    /// Carries out a plan to its end.
    pub(crate) async fn run(&self, plan: &TablePlan) -> Report {
        let mut report = Report::default();
        run(plan, &self.new, &mut report, &mut |_, _| {})
            .await
            .unwrap();
        report
    }

    /// Saves the clinic's next version, as a function whose key is `key` does.
    pub(crate) async fn save(&self, key: &str, clinic: &str, password: &str) {
        let store = self.store(key);
        let previous = store.load(&tenant(clinic)).await.unwrap();
        let author = Author {
            subject: "admin-1".into(),
            source_address: None,
        };
        store
            .save(
                &tenant(clinic),
                &settings(clinic, password),
                previous.as_ref(),
                &author,
                &*self.clock,
            )
            .await
            .unwrap();
    }

    /// The clinic's settings, as a function whose key is `key` reads them.
    pub(crate) async fn load(&self, key: &str, clinic: &str) -> StoredSettings {
        let loaded = self.store(key).load(&tenant(clinic)).await;
        loaded.unwrap().unwrap()
    }

    /// What a new process makes of the key of the hashes.
    pub(crate) async fn hash_key(&self, key: &str) -> String {
        let keys = HashKeys::new(self.store(key));
        let key = keys.get().await.unwrap();
        key.digest("test", &[b"patient"]).hex128()
    }

    /// Every item, as it is stored.
    pub(crate) async fn items(&self) -> Vec<HashMap<String, AttributeValue>> {
        aws_sdk_dynamodb::Client::new(&self.aws.sdk_config())
            .scan()
            .table_name(&self.aws.resources().settings_table)
            .send()
            .await
            .unwrap()
            .items
            .unwrap()
    }

    /// Writes an item past the store.
    pub(crate) async fn put(&self, item: HashMap<String, AttributeValue>) {
        aws_sdk_dynamodb::Client::new(&self.aws.sdk_config())
            .put_item()
            .table_name(&self.aws.resources().settings_table)
            .set_item(Some(item))
            .send()
            .await
            .unwrap();
    }

    /// From now on KMS opens nothing under the old key.
    pub(crate) async fn disable_old_key(&self) {
        aws_sdk_kms::Client::new(&self.aws.sdk_config())
            .disable_key()
            .key_id(&self.old)
            .send()
            .await
            .unwrap();
    }

    /// How many items are under the old key, and how many under the new one.
    pub(crate) async fn under(&self) -> (usize, usize) {
        let items = self.items().await;
        let under = |key: &str| {
            let key = AttributeValue::S(key.to_owned());
            items
                .iter()
                .filter(|item| item.get("keyArn") == Some(&key))
                .count()
        };
        (under(&self.old), under(&self.new))
    }
}

pub(crate) fn tenant(id: &str) -> Tenant {
    Tenant::parse(id).unwrap()
}

fn settings(clinic: &str, password: &str) -> CommunicationSettings {
    let document = json!({"email": {
        "primary": {"provider": "smtp", "credentials": {
            "host": "smtp.clinic.example", "port": "587", "secure": "false", "user": format!("{PLANTED}user"),
            "password": format!("{PLANTED}{clinic}-{password}")}},
        "fallback": [{"provider": "ses", "credentials": {
            "region": "eu-central-1", "accessKeyId": "AKIAPLANTEDPLANTED00",
            "secretAccessKey": format!("{PLANTED}{password}-key-0123456789")}}],
        "defaultFrom": "desk@clinic.example"
    }});
    let mut problems = Problems::default();
    let settings = CommunicationSettings::read(document, "", &tenant(clinic), None, &mut problems);
    problems.or(settings).unwrap()
}

/// The password of the clinic's mail server.
pub(crate) fn password(stored: &StoredSettings) -> String {
    let channel = stored.settings.channel(Channel::Email).unwrap();
    let smtp: &comms_adapters::smtp::SmtpConfig = channel.primary.config.get().unwrap();
    smtp.password.expose().unwrap().to_string()
}

/// An item with these attributes of type S.
pub(crate) fn item<const N: usize>(texts: [(&str, &str); N]) -> HashMap<String, AttributeValue> {
    texts
        .map(|(name, text)| (name.to_owned(), AttributeValue::S(text.to_owned())))
        .into()
}
