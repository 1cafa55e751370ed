//! A chain of three and the global account over the wire: each position failing with each disposition, under both
//! policies. Who saw the message, as whom, how often, and what the caller is told.

use comms_testkit::{
    http::{HttpServer, Reply},
    smtp::{Action, SmtpServer, Stage},
};
use comms_tests::{FROM, Mail, World, email, immediate};
use serde_json::{Value, json};

const DISPOSITIONS: [&str; 4] = ["transient", "provider_down", "ambiguous", "final"];
const POSITIONS: [&str; 4] = ["primary", "fallback[0]", "fallback[1]", "global"];
const SENDERS: [&str; 4] = [
    FROM,
    "first@clinic.example",
    "second@clinic.example",
    "platform@global.example",
];

/// The four accounts: a mail server, twice the same API with keys of their own, and the platform's mail server.
struct Accounts {
    world: World,
    apis: [HttpServer; 2],
    global: SmtpServer,
}

impl Accounts {
    async fn new() -> Self {
        let world = World::new().await;
        let apis = [world.api().await, world.api().await];
        let global = world.save_global().await;
        Self {
            world,
            apis,
            global,
        }
    }

    /// Settings of a clinic of its own: what happened to another one's accounts is forgotten.
    async fn save(&self, clinic: &str, policy: &str) {
        let entry = |api: &HttpServer, key: &str, from: &str| {
            json!({"provider": "sendgrid", "credentials": {
                "apiKey": key, "fromEmail": from, "apiUrl": api.url()}})
        };
        let mut document = email(&self.world.entry(), FROM);
        document["email"]["fallback"] = json!([
            entry(&self.apis[0], "planted-key-1", SENDERS[1]),
            entry(&self.apis[1], "planted-key-2", SENDERS[2]),
        ]);
        document["email"]["onAmbiguous"] = json!(policy);
        document["email"]["fallbackStrategy"]["retryAttempts"] = json!(1);
        self.world.put_settings(clinic, document).await.expect(201);
        self.world.verify_reply_to(clinic, FROM).await;
    }

    /// Makes an account fail, as often as it may be asked.
    fn fail(&self, position: usize, disposition: &str) {
        for _ in 0..2 {
            match position {
                0 => fail_smtp(&self.world.smtp, disposition),
                3 => fail_smtp(&self.global, disposition),
                api => self.apis[api - 1].on("POST", "/v3/mail/send", api_failure(disposition)),
            }
        }
    }

    fn accept(&self, position: usize) {
        if let 1 | 2 = position {
            let accepted = Reply::new(202).header("x-message-id", "planted");
            self.apis[position - 1].on("POST", "/v3/mail/send", accepted);
        }
    }

    /// How often each was asked to take a message, and as whom.
    fn seen(&self) -> [Vec<String>; 4] {
        let by_smtp = |server: &SmtpServer| {
            let lines = server.transcript();
            let mail = lines.iter().filter_map(|line| {
                let (_, rest) = line.split_once("MAIL FROM:<")?;
                Some(rest.split_once('>')?.0.to_owned())
            });
            mail.collect()
        };
        let by_api = |api: &HttpServer, key: &str| {
            let requests = api.requests();
            let senders = requests.iter().map(|request| {
                let bearer = format!("Bearer {key}");
                assert_eq!(request.header("authorization"), Some(bearer.as_str()));
                request.json()["from"]["email"].as_str().unwrap().to_owned()
            });
            senders.collect()
        };
        [
            by_smtp(&self.world.smtp),
            by_api(&self.apis[0], "planted-key-1"),
            by_api(&self.apis[1], "planted-key-2"),
            by_smtp(&self.global),
        ]
    }

    fn forget(&self) {
        for server in [&self.world.smtp, &self.global] {
            server.clear_script();
            server.clear_messages();
        }
        for api in &self.apis {
            api.clear_script();
            api.clear_requests();
        }
    }
}

fn fail_smtp(server: &SmtpServer, disposition: &str) {
    let (stage, action) = match disposition {
        "transient" => (Stage::Mail, Action::reply("451 4.3.0 planted")),
        "provider_down" => (Stage::Mail, Action::reply("550 5.7.1 planted")),
        "ambiguous" => (Stage::Body, Action::Close),
        _ => (Stage::Rcpt, Action::reply("550 5.1.1 planted")),
    };
    server.on(stage, action);
}

fn api_failure(disposition: &str) -> Reply {
    let error = |field: &str, message: &str| json!({"errors": [{"message": message, "field": field, "help": null}]});
    match disposition {
        "transient" => Reply::json(429, error("", "too many requests")),
        "provider_down" => Reply::json(
            403,
            error(
                "from",
                "The from address does not match a verified Sender Identity.",
            ),
        ),
        "ambiguous" => Reply::close(),
        _ => Reply::json(
            400,
            error(
                "personalizations.0.to.0.email",
                "Does not contain a valid address.",
            ),
        ),
    }
}

/// What the caller is to be told, and who is to be asked how often.
struct Expected {
    status: u16,
    delivery: &'static str,
    reason: Option<&'static str>,
    asked: [usize; 4],
    sent_at: Option<usize>,
}

fn expected(failing: usize, disposition: &str, policy: &str) -> Expected {
    let mut asked = [0; 4];
    asked[..failing].fill(1);
    // The clinic's settings say once more, the platform's say not.
    asked[failing] = if disposition == "transient" && failing < 3 {
        2
    } else {
        1
    };
    let goes_on = match disposition {
        "ambiguous" => policy == "failover",
        other => other != "final",
    };
    if goes_on && failing < 3 {
        asked[failing + 1] = 1;
        return Expected {
            status: 200,
            delivery: "sent",
            reason: None,
            asked,
            sent_at: Some(failing + 1),
        };
    }
    let (delivery, reason) = match disposition {
        "final" => ("failed", "REJECTED"),
        "ambiguous" => ("unknown", "OUTCOME_UNKNOWN"),
        _ => ("failed", "ALL_PROVIDERS_FAILED"),
    };
    Expected {
        status: 207,
        delivery,
        reason: Some(reason),
        asked,
        sent_at: None,
    }
}

#[tokio::test]
async fn each_position_and_disposition_ends_as_designed() {
    let accounts = Accounts::new().await;
    let mut cases = 0;
    for policy in ["failover", "hold"] {
        for (failing, position) in POSITIONS.into_iter().enumerate() {
            for disposition in DISPOSITIONS {
                let label = format!("{policy}, {position} {disposition}");
                let clinic = format!("clinic-{policy}-{failing}-{disposition}").replace('_', "-");
                accounts.save(&clinic, policy).await;
                accounts.forget();
                let before = accounts.seen();
                for position in 0..failing {
                    accounts.fail(position, "provider_down");
                }
                accounts.fail(failing, disposition);
                if failing < 3 {
                    accounts.accept(failing + 1);
                }
                let expected = expected(failing, disposition, policy);
                let mut communication = immediate();
                communication["metadata"]["clinicId"] = json!(clinic);

                let answer = accounts.world.post(&communication).await;

                assert_eq!(answer.status, expected.status, "{label}: {}", answer.text);
                assert_eq!(answer.body["status"], expected.delivery, "{label}");
                let delivery = &answer.body["deliveries"][0];
                assert_eq!(delivery["status"], expected.delivery, "{label}");
                let reason = delivery["reason"]["code"].as_str();
                assert_eq!(reason, expected.reason, "{label}");
                let seen = accounts.seen();
                let new: [&[String]; 4] = std::array::from_fn(|at| &seen[at][before[at].len()..]);
                assert_eq!(new.map(<[_]>::len), expected.asked, "{label}");
                for (senders, own) in new.iter().zip(SENDERS) {
                    assert!(
                        senders.iter().all(|sender| sender == own),
                        "{label}: {senders:?}"
                    );
                }
                check_attempts(delivery, failing, disposition, &expected, &label);
                check_mail(&accounts, &expected, &label);
                assert!(!answer.text.contains("planted-key"), "{label}");
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 32);
}

fn check_attempts(
    delivery: &Value,
    failing: usize,
    disposition: &str,
    expected: &Expected,
    label: &str,
) {
    let attempts = delivery["attempts"].as_array().unwrap();
    let mut wanted = Vec::new();
    for (position, times) in expected.asked.into_iter().enumerate() {
        let ended = match position {
            _ if Some(position) == expected.sent_at => "accepted",
            _ if position == failing => disposition,
            _ => "provider_down",
        };
        let doubled = disposition == "ambiguous" && position > failing;
        wanted.extend(vec![(POSITIONS[position], ended, doubled); times]);
    }
    let seen: Vec<_> = attempts
        .iter()
        .map(|attempt| {
            let text = |name: &str| attempt[name].as_str();
            assert!(attempt["durationMs"].is_u64(), "{label}");
            (
                text("position").unwrap(),
                text("disposition").unwrap_or("accepted"),
                attempt["possibleDuplicate"] == true,
            )
        })
        .collect();
    assert_eq!(seen, wanted, "{label}");
    let doubled = disposition == "ambiguous" && expected.sent_at.is_some();
    assert_eq!(delivery["possibleDuplicate"] == true, doubled, "{label}");
}

/// Through the global account it is the platform that writes, and the clinic that is answered.
fn check_mail(accounts: &Accounts, expected: &Expected, label: &str) {
    if expected.sent_at == Some(3) {
        let messages = accounts.global.messages();
        assert_eq!(messages.len(), 1, "{label}");
        let mail = Mail::of(&messages[0]);
        assert_eq!(
            (mail.from.as_str(), mail.reply_to.as_deref()),
            (SENDERS[3], Some(FROM))
        );
    } else {
        assert!(accounts.global.messages().is_empty(), "{label}");
    }
}
