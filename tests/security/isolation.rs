//! Two hundred clinics at one mail server and one API, told apart by their credentials alone, with everything that an
//! account may answer: no message goes out through another clinic's account or under another clinic's name, and what
//! is recorded of it is what the accounts saw.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use comms_testkit::{clock::ManualClock, smtp::SmtpServerBuilder};
use comms_tests::{
    Mail, World,
    accounts::{Account, Behavior, Chain, Kind, Random, Seen, desk, seen_in},
    communication,
};
use futures_util::{StreamExt, future::join_all, stream};
use serde_json::{Value, json};

const CLINICS: u64 = 200;
/// What everything below is drawn from. Another number is another platform.
const SEED: u64 = 20_261_127;
/// Requests to the functions at once.
const AT_ONCE: usize = 16;

/// A tenant's chains by channel.
type Chains = BTreeMap<&'static str, Chain>;

/// Everybody who sends.
struct Platform {
    tenants: BTreeMap<String, Chains>,
}

impl Platform {
    fn draw(random: &mut Random) -> Self {
        let mut number = 0;
        let mut account = |random: &mut Random, kinds: &[Kind], owner: &str| {
            number += 1;
            let kind = kinds[usize::try_from(random.below(2)).unwrap()];
            Account::new(number, kind, owner, Behavior::draw(random))
        };
        let mut tenants = BTreeMap::new();
        for clinic in 0..CLINICS {
            let id = format!("clinic-{clinic:03}");
            let mut chains = Chains::new();
            for (channel, kinds, most) in [
                ("email", [Kind::Smtp, Kind::Sendgrid], 3),
                ("whatsapp", [Kind::Meta, Kind::Twilio], 2),
            ] {
                // Some have none for a channel, and some have none at all.
                if random.in_a_hundred(15) {
                    continue;
                }
                let accounts = (0..=random.below(most)).map(|_| account(random, &kinds, &id));
                let accounts = accounts.collect();
                let chain = Chain {
                    accounts,
                    use_global: random.in_a_hundred(70),
                    hold: random.in_a_hundred(30),
                };
                chains.insert(channel, chain);
            }
            tenants.insert(id, chains);
        }
        let global = [("email", Kind::Smtp), ("whatsapp", Kind::Twilio)].map(|(channel, kind)| {
            number += 1;
            let chain = Chain {
                accounts: vec![Account::new(number, kind, "_global", Behavior::Takes)],
                use_global: false,
                hold: false,
            };
            (channel, chain)
        });
        tenants.insert("_global".to_owned(), global.into());
        Self { tenants }
    }

    fn accounts(&self) -> impl Iterator<Item = &Account> {
        let chains = self.tenants.values().flat_map(BTreeMap::values);
        chains.flat_map(|chain| &chain.accounts)
    }

    fn chain(&self, tenant: &str, channel: &str) -> Option<&Chain> {
        self.tenants[tenant].get(channel)
    }

    /// The account that an attempt was made with.
    fn account(&self, clinic: &str, channel: &str, position: &str) -> &Account {
        let (tenant, index) = match position {
            "primary" => (clinic, 0),
            "fallback[0]" => (clinic, 1),
            "fallback[1]" => (clinic, 2),
            "global" => ("_global", 0),
            other => panic!("nobody is at {other}"),
        };
        &self.chain(tenant, channel).unwrap().accounts[index]
    }

    fn at_the_mail_server(&self, mut server: SmtpServerBuilder) -> SmtpServerBuilder {
        for account in self.accounts().filter(|account| account.kind == Kind::Smtp) {
            server = server.credentials(account.user(), account.secret());
            if let Some((stage, action)) = account.behavior.at_the_mail_server() {
                server = server.always_for(account.user(), stage, action);
            }
        }
        server.keep_messages(100_000)
    }
}

/// One message of one clinic to one patient on one channel.
#[derive(Debug, Clone)]
struct Sending {
    clinic: String,
    channel: &'static str,
    to: String,
}

/// What one clinic sends: its requests, each with the deliveries that it asks for.
fn requests_of(clinic: u64) -> [(Value, Vec<Sending>); 2] {
    let id = format!("clinic-{clinic:03}");
    let email = |n| format!("patient-{n}.of.{id}@example.com");
    let number = format!("+1555{clinic:03}0100");
    let sending = |channel, to| Sending {
        clinic: id.clone(),
        channel,
        to,
    };
    let request = |strategy, channels: &[&str], recipient| {
        let mut body = communication();
        body["strategy"] = json!(strategy);
        body["channels"] = json!(channels);
        body["recipients"] = json!([recipient]);
        body["body"] = json!(says(&id));
        body["metadata"]["clinicId"] = json!(id);
        body
    };
    let both = json!({"email": email(1), "phoneNumber": number});
    [
        (
            request("queued", &["email", "whatsapp"], both),
            vec![sending("email", email(1)), sending("whatsapp", number)],
        ),
        (
            request("immediate", &["email"], json!({"email": email(2)})),
            vec![sending("email", email(2))],
        ),
    ]
}

/// What a message says of whose it is.
fn says(clinic: &str) -> String {
    format!("This message is of {clinic}.")
}

/// The same address as far as a provider goes: Meta has no plus sign.
fn same_address(one: &str, other: &str) -> bool {
    one.trim_start_matches('+') == other.trim_start_matches('+')
}

/// Everything that was sent, and what the accounts saw of it.
struct Outcome {
    seed: u64,
    platform: Platform,
    seen: Vec<Seen>,
    /// Each with the delivery that is recorded of it.
    recorded: Vec<(Sending, Value)>,
}

/// Several batches at once, and once more after what had to wait has waited. What no provider can take then either
/// stays queued.
async fn work_off(world: &World) {
    let clock = Arc::new(ManualClock::new());
    let worker = world.worker_with_clock(clock.clone());
    let work = async || loop {
        let batch = world
            .run_worker_with(&worker, Duration::from_secs(30))
            .await;
        if batch.failed.len() == batch.records.len() {
            return;
        }
    };
    for _ in 0..2 {
        join_all((0..4).map(|_| work())).await;
        clock.advance(Duration::from_mins(20));
    }
}

async fn send_everything(seed: u64) -> Outcome {
    let platform = Platform::draw(&mut Random(seed));
    let world = World::with(|server, _| platform.at_the_mail_server(server)).await;
    let api = world.api().await;
    let accounts = platform.accounts();
    let by_key: HashMap<_, _> = accounts
        .map(|account| (account.key(), account.clone()))
        .collect();
    let by_api = Arc::new(Mutex::new(Vec::new()));
    let (keys, asked) = (by_key.clone(), by_api.clone());
    api.answer_with(move |request| {
        let message = seen_in(request, &keys)?;
        asked.lock().unwrap().push(message);
        Some(keys[request.header("authorization")?].reply())
    });

    let with_settings = platform
        .tenants
        .iter()
        .filter(|(_, chains)| !chains.is_empty());
    let saves = with_settings.map(|(tenant, chains)| {
        let channels = chains.iter().map(|(channel, chain)| {
            let document = chain.document(tenant, world.smtp.port(), &api.url());
            ((*channel).to_owned(), document)
        });
        let document = channels.collect::<serde_json::Map<_, _>>().into();
        let world = &world;
        async move {
            if tenant != "_global" {
                world.verify_reply_to(tenant, &desk(tenant)).await;
            }
            world.put_settings(tenant, document).await.expect(201)
        }
    });
    stream::iter(saves)
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;

    let requests = (0..CLINICS).flat_map(requests_of);
    let posts = requests.map(|(body, sendings)| {
        let world = &world;
        async move {
            let answer = world.post(&body).await;
            assert!(matches!(answer.status, 200 | 202 | 207), "{}", answer.text);
            (sendings, answer.request_id())
        }
    });
    let sent: Vec<_> = stream::iter(posts)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    work_off(&world).await;

    let statuses = sent.into_iter().map(|(sendings, id)| {
        let world = &world;
        async move {
            let status = world.status(&id).await.expect(200);
            let deliveries = status.body["deliveries"].as_array().unwrap().clone();
            let recorded = sendings.into_iter().map(|sending| {
                let mut of = deliveries.iter();
                let delivery = of.find(|delivery| delivery["channel"] == sending.channel);
                (sending, delivery.unwrap().clone())
            });
            stream::iter(recorded.collect::<Vec<_>>())
        }
    });
    let recorded = stream::iter(statuses)
        .buffer_unordered(AT_ONCE)
        .flatten()
        .collect()
        .await;
    assert_eq!(api.unexpected(), Vec::<String>::new(), "seed {seed}");
    let mut messages = by_api.lock().unwrap().clone();
    messages.extend(world.smtp.messages().iter().map(|message| {
        let mail = Mail::of(message);
        assert_eq!(message.mail_from, mail.from, "seed {seed}");
        assert_eq!(
            message.rcpt_to,
            std::slice::from_ref(&mail.to),
            "seed {seed}"
        );
        Seen {
            account: by_key[message.authenticated_as.as_ref().unwrap()].number,
            from: mail.from,
            reply_to: mail.reply_to,
            to: mail.to,
            text: message.text(),
            taken: true,
        }
    }));
    Outcome {
        seed,
        platform,
        seen: messages,
        recorded,
    }
}

impl Outcome {
    /// Which of the messages this is, by whom it is to. Every patient is at one clinic.
    fn sending(&self, seen: &Seen) -> &Sending {
        let mut sendings = self.recorded.iter().map(|(sending, _)| sending);
        sendings
            .find(|sending| same_address(&seen.to, &sending.to))
            .unwrap_or_else(|| panic!("seed {}: {seen:?} is to nobody", self.seed))
    }

    fn check_who_sent_what(&self) {
        for seen in &self.seen {
            let label = format!("seed {}: {seen:?}", self.seed);
            let sending = self.sending(seen);
            let mut accounts = self.platform.accounts();
            let account = accounts
                .find(|account| account.number == seen.account)
                .unwrap();
            assert!(seen.text.contains(&says(&sending.clinic)), "{label}");
            assert_eq!(seen.from, account.sender, "{label}");
            let chain = self.platform.chain(&sending.clinic, sending.channel);
            if account.owner == "_global" {
                assert!(
                    chain.is_none_or(|chain| chain.use_global),
                    "{label}: opted out"
                );
                let clinic =
                    (sending.channel == "email" && chain.is_some()).then(|| desk(&sending.clinic));
                assert_eq!(seen.reply_to, clinic, "{label}");
            } else {
                assert_eq!(
                    account.owner, sending.clinic,
                    "{label}: another clinic's account"
                );
                assert_eq!(seen.reply_to, None, "{label}");
            }
        }
    }

    fn check_what_is_recorded(&self) {
        for (sending, delivery) in &self.recorded {
            let label = format!("seed {}: {sending:?} {delivery}", self.seed);
            let attempts = delivery["attempts"].as_array().unwrap().iter();
            let attempts: Vec<_> = attempts
                .map(|attempt| {
                    let position = attempt["position"].as_str().unwrap();
                    let account = self
                        .platform
                        .account(&sending.clinic, sending.channel, position);
                    let disposition = attempt["disposition"].as_str();
                    let recorded =
                        disposition.unwrap_or_else(|| attempt["outcome"].as_str().unwrap());
                    // A login that was mixed up would have failed, and a sender that was refused.
                    assert_eq!(recorded, account.behavior.recorded(), "{label}");
                    account
                })
                .collect();
            let of = |behavior: &dyn Fn(Behavior) -> bool| {
                attempts
                    .iter()
                    .filter(|account| behavior(account.behavior))
                    .count()
            };
            let copies = of(&Behavior::takes);
            let unknown = of(&|behavior| behavior.recorded() == "ambiguous");
            let mut by_attempts: Vec<_> = attempts
                .iter()
                .filter(|account| account.behavior.takes())
                .map(|account| account.number)
                .collect();
            by_attempts.sort_unstable();
            let mut by_accounts: Vec<_> = self
                .seen
                .iter()
                .filter(|seen| seen.taken && same_address(&seen.to, &sending.to))
                .map(|seen| seen.account)
                .collect();
            by_accounts.sort_unstable();
            assert_eq!(by_attempts, by_accounts, "{label}");

            let status = delivery["status"].as_str().unwrap();
            let flagged = delivery["possibleDuplicate"] == true;
            match status {
                "sent" => assert_eq!(of(&|behavior| behavior == Behavior::Takes), 1, "{label}"),
                "unknown" => assert!(
                    unknown > 0 && of(&|behavior| behavior == Behavior::Takes) == 0,
                    "{label}"
                ),
                "failed" | "queued" => assert_eq!((copies, unknown), (0, 0), "{label}"),
                _ => panic!("{label}"),
            }
            assert!(copies <= 1 || flagged, "{label}");
            let chain = self.platform.chain(&sending.clinic, sending.channel);
            if chain.is_some_and(|chain| chain.hold) {
                assert!(copies <= 1, "{label}");
            }
            if chain.is_some_and(|chain| !chain.use_global) {
                assert!(
                    attempts
                        .iter()
                        .all(|account| account.owner == sending.clinic),
                    "{label}"
                );
            }
        }
    }

    /// That there was something to see.
    fn check_what_happened(&self) {
        let mut statuses: BTreeMap<&str, u32> = BTreeMap::new();
        for (_, delivery) in &self.recorded {
            *statuses
                .entry(delivery["status"].as_str().unwrap())
                .or_default() += 1;
        }
        assert_eq!(self.recorded.len(), 600);
        for status in ["sent", "failed", "unknown"] {
            assert!(statuses[status] > 30, "seed {}: {statuses:?}", self.seed);
        }
        let flagged = |(_, delivery): &&(Sending, Value)| delivery["possibleDuplicate"] == true;
        assert!(self.recorded.iter().filter(flagged).count() > 10);
        let global = self.platform.tenants["_global"].values();
        for account in global.flat_map(|chain| &chain.accounts) {
            let sent = self
                .seen
                .iter()
                .filter(|seen| seen.account == account.number);
            assert!(sent.count() > 30);
        }
    }
}

// The servers that everybody shares are what this waits for.
#[tokio::test(flavor = "multi_thread")]
async fn no_message_goes_through_another_clinics_account() {
    let outcome = send_everything(SEED).await;
    outcome.check_who_sent_what();
    outcome.check_what_is_recorded();
    outcome.check_what_happened();
}
