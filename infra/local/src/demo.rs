//! The first minutes with clinic-comms: a clinic with settings, one message from the API to the inbox, and what to
//! try next.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::StatusCode;
use http::header::{IF_NONE_MATCH, USER_AGENT};
use jiff::{SignedDuration, Timestamp};
use reqwest::{Client, Response};
use serde_json::{Value, json};

use crate::AnyError;
use crate::console::{Event, Mark, say, spin, warn};
use crate::deliveries::{Deliveries, Ended};
use crate::inbox;
use crate::request_lines::OWN_USER_AGENT;
use crate::token::{Claims, DeveloperKey};

/// The demo's clinic.
pub(crate) const CLINIC: &str = "clinic-123";

/// How long the demo waits for its message.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(20);

/// How often it looks.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A request may start a function first.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the stack's parts are.
pub(crate) struct Demo {
    /// The API, such as `http://127.0.0.1:3000`.
    pub(crate) api: String,
    /// The pages.
    pub(crate) pages: String,
    /// The inbox's SMTP side.
    pub(crate) smtp: SocketAddr,
    /// Its password.
    pub(crate) password: String,
    /// The authority of its certificate.
    pub(crate) ca_pem: String,
    /// Signs the demo's tokens.
    pub(crate) key: DeveloperKey,
    /// Knows what became of the message.
    pub(crate) deliveries: Deliveries,
}

impl Demo {
    /// Saves the demo clinic and sends its message through the queue. The console's own lines tell what happens. A failure
    /// ends the demo, not the stack.
    pub(crate) async fn run(self) {
        say(format_args!(
            "\nDemo: {CLINIC} gets its settings, and a message goes through the queue"
        ));
        let sent = {
            let _spinner = spin("waiting for the demo's message");
            self.send().await
        };
        match sent {
            Ok(()) => say(format_args!(
                "           read it at {}/inbox#latest",
                self.pages
            )),
            Err(error) => warn(format_args!("The demo failed: {error}\nThe stack goes on.")),
        }
        self.explain();
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

    async fn send(&self) -> Result<(), AnyError> {
        let token = self.token()?;
        // Plain HTTP to this machine, whatever proxy the environment names.
        let client = Client::builder()
            .no_proxy()
            .timeout(REQUEST_TIMEOUT)
            .build()?;
        let saved = client
            .put(format!("{}/api/v1/clinics/{CLINIC}", self.api))
            .bearer_auth(&token)
            .header(USER_AGENT, OWN_USER_AGENT)
            // What a developer has changed and keeps in --data stays.
            .header(IF_NONE_MATCH, "*")
            .json(&self.settings())
            .send()
            .await?;
        let text = if saved.status() == StatusCode::PRECONDITION_FAILED {
            "has settings, and keeps them"
        } else {
            expect(saved).await?;
            "settings saved: e-mail goes to the local inbox"
        };
        say(Event {
            at: Timestamp::now(),
            mark: Mark::Done,
            subject: format!("{CLINIC:<12}"),
            text: text.to_owned(),
        });

        let begin = Instant::now();
        let accepted = client
            .post(format!("{}/api/v1/communications", self.api))
            .bearer_auth(&token)
            .header("idempotency-key", uuid::Uuid::new_v4().to_string())
            .json(&communication())
            .send()
            .await?;
        let accepted = expect(accepted).await?;
        let request = accepted["requestId"].as_str();
        let request = request.ok_or("the answer has no requestId")?;
        loop {
            match self.deliveries.ended(request) {
                Some(Ended::Sent) => return Ok(()),
                Some(Ended::NotSent) => return Err("the message was not sent".into()),
                None if begin.elapsed() > OUTCOME_TIMEOUT => {
                    let seconds = OUTCOME_TIMEOUT.as_secs();
                    return Err(format!("no outcome after {seconds} s").into());
                }
                None => tokio::time::sleep(POLL_INTERVAL).await,
            }
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

    fn explain(&self) {
        let (api, pages) = (&self.api, &self.pages);
        say(format_args!(
            r#"
Try it
  All pages:  {pages}
  Send a message yourself:
    TOKEN=$(cargo run -q -- token --clinic {CLINIC} --role CLINIC_ADMIN)
    curl {api}/api/v1/communications -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d '{{
      "strategy": "immediate", "channels": ["email"], "title": "See you tomorrow", "body": "At 10:00.",
      "recipients": [{{"email": "patient@example.com"}}], "metadata": {{"clinicId": "{CLINIC}"}}}}'
Ctrl-C stops everything."#
        ));
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
