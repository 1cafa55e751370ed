//! A stack without the demo, and what it takes to use it.

use std::path::Path;

use reqwest::Client;
use serde_json::{Value, json};

use super::{
    driver::Result,
    running::{FREE, Stack, token},
};

/// A stack without the demo, and what it takes to use it.
pub(super) struct World {
    pub(super) stack: Stack,
    pub(super) client: Client,
    pub(super) api: String,
    pub(super) aws: String,
    pub(super) pages: String,
    pub(super) token: String,
    /// The inbox as the settings of a provider, with the right password.
    pub(super) inbox: Value,
}

impl World {
    pub(super) fn start(home: &Path, inbox: &str) -> Result<Self> {
        let arguments = ["--no-demo", "--smtp", FREE, "--inbox", inbox];
        let mut stack = Stack::start(home, &arguments)?;
        let pages = stack.url(" Pages ")?;
        let smtp = stack.url(" SMTP ")?;
        let port = smtp.rsplit_once(':').ok_or("no port")?.1.to_owned();
        let login = stack.line(" password ")?;
        let login: Vec<&str> = login.split_whitespace().collect();
        let ["user", user, "password", password] = login[..] else {
            return Err("no login".into());
        };
        Ok(Self {
            client: Client::builder().no_proxy().build()?,
            api: stack.url(" API ")?,
            aws: stack.url(" AWS ")?,
            pages,
            token: token(home, &["--role", "SUPER_ADMIN"])?,
            inbox: json!({"host": "127.0.0.1", "port": port, "secure": false, "user": user, "password": password}),
            stack,
        })
    }

    /// Saves SMTP servers as a clinic's chain.
    pub(super) async fn save(&self, clinic: &str, chain: &[&Value]) -> Result<()> {
        let entry =
            |server: &&Value| json!({"provider": "smtp", "enabled": true, "credentials": server});
        let mut chain = chain.iter().map(entry);
        let email = json!({
            "primary": chain.next(), "fallback": chain.collect::<Vec<_>>(),
            "defaultFrom": "desk@clinic.example", "defaultFromName": "Clinic",
        });
        let answer = self
            .client
            .put(format!("{}/clinics/{clinic}", self.api))
            .bearer_auth(&self.token)
            .json(&json!({"settings": {"communicationSettings": {"email": email}}}))
            .send()
            .await?;
        expect_success(answer).await
    }

    /// Posts a message.
    pub(super) async fn send(
        &self,
        clinic: &str,
        strategy: &str,
        title: &str,
        to: &str,
    ) -> Result<()> {
        let answer = self
            .client
            .post(format!("{}/communications", self.api))
            .bearer_auth(&self.token)
            .json(&json!({
                "strategy": strategy, "title": title, "body": "See you on Monday.", "channels": ["email"],
                "recipients": [{"email": to}], "metadata": {"clinicId": clinic},
            }))
            .send()
            .await?;
        expect_success(answer).await
    }

    /// Writes an item into the deliveries table, past everything that would have refused it.
    pub(super) async fn write(&self, item: Value) -> Result<()> {
        let scope = "Credential=local/20260101/us-east-1/dynamodb/aws4_request";
        let answer = self
            .client
            .post(&self.aws)
            .header("content-type", "application/x-amz-json-1.0")
            .header("x-amz-target", "DynamoDB_20120810.PutItem")
            .header("x-amz-date", "20260101T000000Z")
            .header(
                "authorization",
                format!("AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"),
            )
            .body(json!({"TableName": "clinic-comms-deliveries", "Item": item}).to_string())
            .send()
            .await?;
        expect_success(answer).await
    }
}

async fn expect_success(answer: reqwest::Response) -> Result<()> {
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    Err(format!("{status}: {}", answer.text().await?).into())
}
