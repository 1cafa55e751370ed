//! The first minutes with clinic-comms: a clinic with settings, one message from the API to the inbox, and what to
//! try next.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use reqwest::{Client, Response};
use serde_json::{Value, json};

use crate::AnyError;
use crate::console::{ms, say, warn};
use crate::inbox;
use crate::token::{Claims, DeveloperKey};

const CLINIC: &str = "clinic-123";

/// How long the demo waits for its message.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often it asks.
const POLL: Duration = Duration::from_millis(100);

/// A request may start a function first.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the stack's parts are.
pub(crate) struct Demo {
    /// The API, such as `http://127.0.0.1:3000`.
    pub(crate) api: String,
    /// The inbox's page.
    pub(crate) inbox: String,
    /// The inbox's SMTP side.
    pub(crate) smtp: SocketAddr,
    /// Its password.
    pub(crate) password: String,
    /// The authority of its certificate.
    pub(crate) ca_pem: String,
    /// Signs the demo's tokens.
    pub(crate) key: DeveloperKey,
}

impl Demo {
    /// Saves the demo clinic, sends its message, and says what became of it. A failure is told and ends the demo, not
    /// the stack.
    pub(crate) async fn run(self) {
        say("\nDemo");
        let token = match self.token() {
            Ok(token) => token,
            Err(error) => {
                warn(format_args!("  no token: {error}"));
                return;
            }
        };
        if let Err(error) = self.send(&token).await {
            warn(format_args!(
                "  the demo failed: {error}\n  The stack goes on."
            ));
        }
        self.explain(&token);
    }

    fn token(&self) -> Result<String, AnyError> {
        let claims = Claims {
            clinic: Some(CLINIC.to_owned()),
            roles: vec!["CLINIC_ADMIN".to_owned()],
            subject: "demo@localhost".to_owned(),
            expires_in: SignedDuration::from_hours(12),
        };
        Ok(self.key.token(&claims)?)
    }

    async fn send(&self, token: &str) -> Result<(), AnyError> {
        // Plain HTTP to this machine, whatever proxy the environment names.
        let client = Client::builder()
            .no_proxy()
            .timeout(REQUEST_TIMEOUT)
            .build()?;

        let begin = Instant::now();
        let saved = client
            .put(format!("{}/api/v1/clinics/{CLINIC}", self.api))
            .bearer_auth(token)
            .json(&self.settings())
            .send()
            .await?;
        expect(saved).await?;
        say(format_args!(
            "  settings of {CLINIC} saved in {}, function start included",
            ms(begin)
        ));

        let begin = Instant::now();
        let accepted = client
            .post(format!("{}/api/v1/communications", self.api))
            .bearer_auth(token)
            .header("idempotency-key", uuid::Uuid::new_v4().to_string())
            .json(&communication())
            .send()
            .await?;
        let accepted = expect(accepted).await?;
        let request = accepted["requestId"]
            .as_str()
            .ok_or("the answer has no requestId")?;
        say(format_args!(
            "  message accepted in {}: {request}",
            ms(begin)
        ));

        let status = format!("{}/api/v1/communications/{request}", self.api);
        loop {
            let answer = client.get(&status).bearer_auth(token).send().await?;
            let answer = expect(answer).await?;
            let deliveries = answer["deliveries"]
                .as_array()
                .map_or(&[][..], Vec::as_slice);
            let over = !deliveries.is_empty() && deliveries.iter().all(is_over);
            if over {
                for delivery in deliveries {
                    tell(delivery, &ms(begin));
                }
                if deliveries
                    .iter()
                    .any(|delivery| delivery["status"] == "sent")
                {
                    say(format_args!("  read it at {}/#latest", self.inbox));
                }
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                return Err(format!(
                    "still not delivered after {} s: {answer}",
                    PATIENCE.as_secs()
                )
                .into());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn settings(&self) -> Value {
        json!({"settings": {"communicationSettings": {"email": {
            "primary": {
                "provider": "smtp",
                "enabled": true,
                "credentials": {
                    "host": self.smtp.ip().to_string(),
                    "port": self.smtp.port().to_string(),
                    "secure": "false",
                    "user": inbox::USER,
                    "password": self.password,
                    // The stack's own functions trust it anyway; one in a container does by this.
                    "caPem": self.ca_pem,
                },
            },
            "defaultFrom": "appointments@clinic.example",
            "defaultFromName": "Demo Clinic",
        }}}})
    }

    fn explain(&self, token: &str) {
        let api = &self.api;
        say(format_args!(
            r#"
Try it
  Inbox      {inbox}
  Deliveries {inbox}/deliveries
  Settings, as the clinic's admin sees them (as it is, good for 12 hours):
    curl -s {api}/api/v1/clinics/{CLINIC} -H 'Authorization: Bearer {token}'
  Send a message now and see what became of it (with a new token):
    TOKEN=$(cargo run -q -- token --clinic {CLINIC} --role CLINIC_ADMIN)
    curl -s {api}/api/v1/communications -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d '{{
      "category": "reminder", "strategy": "immediate", "channels": ["email"],
      "title": "See you tomorrow", "body": "Your appointment is tomorrow at 10:00.",
      "recipients": [{{"email": "patient@example.com"}}], "metadata": {{"clinicId": "{CLINIC}"}}}}'
  Test the clinic's settings:
    curl -s {api}/api/v1/clinics/{CLINIC}/communication/test-email -H "Authorization: Bearer $TOKEN" \
      -H 'Content-Type: application/json' -d '{{"testEmail": "you@example.com"}}'

Ctrl-C stops everything."#,
            inbox = self.inbox
        ));
    }
}

/// A delivery that will not change any more.
fn is_over(delivery: &Value) -> bool {
    !matches!(
        delivery["status"].as_str(),
        Some("queued" | "sending") | None
    )
}

fn tell(delivery: &Value, elapsed: &str) {
    let text = |name: &str| delivery[name].as_str();
    let status = text("status").unwrap_or("unknown");
    let recipient = text("recipient").unwrap_or("nobody");
    match (text("provider"), text("messageId")) {
        (Some(provider), Some(id)) => say(format_args!(
            "  {status} to {recipient} by {provider} after {elapsed}, message id {id}"
        )),
        _ => say(format_args!(
            "  {status} to {recipient} after {elapsed}: {}",
            text("reason").unwrap_or("no provider took it")
        )),
    }
    for (number, attempt) in delivery["attempts"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let part = |name: &str| match &attempt[name] {
            Value::String(text) => format!(" {text}"),
            Value::Null => String::new(),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                format!(" {}", attempt[name])
            }
        };
        say(format_args!(
            "    attempt {}:{}{}{}{}{}, {} ms",
            number + 1,
            part("provider"),
            part("outcome"),
            part("disposition"),
            part("kind"),
            part("code"),
            attempt["durationMs"]
        ));
        if let Some(detail) = attempt["detail"].as_str() {
            say(format_args!("      {detail}"));
        }
    }
}

/// The JSON of an answer, if it is a success.
async fn expect(response: Response) -> Result<Value, AnyError> {
    let path = response.url().path().to_owned();
    let status = response.status();
    let body = response.text().await?;
    if !status.is_success() {
        return Err(format!("{path} answered {status}: {body}").into());
    }
    serde_json::from_str(&body).map_err(|error| format!("{path}: {error}: {body}").into())
}

/// What the demo clinic sends.
fn communication() -> Value {
    json!({
        "category": "appointment",
        "priority": "high",
        "strategy": "queued",
        "title": "Your appointment is confirmed",
        "body": "Hello Alex,\n\nyour appointment with Dr. Rivera is confirmed.\n\n\
                 Monday, 10:00 to 10:30\nDemo Clinic, 12 Garden Street\n\n\
                 Please come ten minutes early and bring your insurance card.\n\
                 If you cannot come, answer this message.\n\nDemo Clinic",
        "html": include_str!("demo.html"),
        "recipients": [{"name": "Alex Doe", "email": "alex.doe@patients.example"}],
        "channels": ["email"],
        "replyTo": "desk@clinic.example",
        "metadata": {"clinicId": CLINIC, "appointmentId": "appt-456"},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_over_when_it_is_neither_queued_nor_being_sent() {
        for status in ["queued", "sending"] {
            assert!(!is_over(&json!({"status": status})));
        }
        for status in ["sent", "failed", "unknown", "expired"] {
            assert!(is_over(&json!({"status": status})));
        }
        assert!(!is_over(&json!({})));
    }
}
