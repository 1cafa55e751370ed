//! What happens in a run, drawn from its seed.

use std::time::Duration;

use comms_testkit::aws::Fault;
use comms_tests::{
    accounts::{Account, Behavior, Chain, Kind, Random},
    communication,
};
use serde_json::{Value, json};

/// Where a worker can be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Point {
    /// It reads settings or has their key opened.
    Reading,
    /// It has recorded what a producer put on the queue, and does not know yet.
    Recording,
    /// Its claim has arrived and is not written.
    Claiming,
    /// Its claim is written, and it does not know yet.
    Claimed,
    /// A provider has the message and has not decided.
    Offered,
    /// A provider has taken the message, and has not said so.
    Taken,
    /// An outcome has arrived and is not written.
    Ending,
    /// An outcome is written, and Lambda has no answer.
    Ended,
    /// SQS was asked to let messages wait, and Lambda has no answer.
    LettingWait,
    /// A message lies in the dead-letter queue, and is still on its own.
    SettingAside,
}

impl Point {
    pub(super) const ALL: [Self; 10] = [
        Self::Reading,
        Self::Recording,
        Self::Claiming,
        Self::Claimed,
        Self::Offered,
        Self::Taken,
        Self::Ending,
        Self::Ended,
        Self::LettingWait,
        Self::SettingAside,
    ];
}

/// A kill: where, and at the how manieth such event from when it is due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kill {
    pub(super) at: Point,
    pub(super) nth: u64,
}

/// How a call of AWS fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InjectedFailure {
    /// In place of its effect, or of some of it.
    Before(Fault),
    /// After its effect, in place of the answer.
    After(Fault),
    /// It does not fail: its answer lets so many turns of everything else pass.
    Late(u32),
}

/// Calls of one operation that fail: `times` of them after `skip`.
#[derive(Debug, Clone, Copy)]
pub(super) struct AwsFault {
    pub(super) service: &'static str,
    pub(super) operation: &'static str,
    pub(super) skip: u64,
    pub(super) times: u64,
    pub(super) failure: InjectedFailure,
}

/// By which way a communication comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// As a POST, made again until it is answered that it is accepted.
    Http {
        /// What fails of it, how often.
        fault: Option<(&'static str, &'static str, usize, Fault)>,
        /// Whether its sender makes it once more although it was accepted.
        twice: bool,
    },
    /// On the queue, with a key of its own or without.
    Queue,
}

/// A communication.
#[derive(Debug, Clone)]
pub(super) struct Sending {
    /// Without `expiresAt`.
    pub(super) body: Value,
    pub(super) way: Way,
    /// How long it is good for.
    pub(super) lasts: Option<Duration>,
    /// Whether the clinic wants no second copy at any price.
    pub(super) holds: bool,
}

/// What two processes do with one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Company {
    /// One process has it.
    Alone,
    /// Two have it at once.
    Twins,
    /// The first stands still at this point until its lease is over and the second has done its work.
    Overtaken(Point),
}

/// A run.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) sendings: Vec<Sending>,
    /// Messages that are no communications, by what they say.
    pub(super) poison: Vec<String>,
    /// Whether the key of the first communication is reused with another text.
    pub(super) conflict: bool,
    pub(super) kills: Vec<Kill>,
    pub(super) faults: Vec<AwsFault>,
    /// Whether every account puts every message off at first.
    pub(super) all_put_off: bool,
}

/// Batches in which something may go wrong; from then on everything works, so that every run comes to an end.
const TROUBLED: u32 = 12;
/// How often an account may give trouble to one delivery.
const TROUBLES: u32 = 3;

impl Plan {
    pub(super) fn draw(seed: u64) -> Self {
        let mut random = Random(seed);
        // In turns, so that every point comes often.
        let points = u64::try_from(Point::ALL.len()).unwrap();
        let first = Point::ALL[usize::try_from(seed % points).unwrap()];
        let mut kills = vec![Kill { at: first, nth: 1 }];
        while kills.len() < 4 && random.in_a_hundred(40) {
            kills.push(Kill {
                at: pick(&mut random, &Point::ALL),
                nth: 1 + random.below(3),
            });
        }
        let faults = (0..random.below(4)).map(|_| fault(&mut random)).collect();
        let mut sendings: Vec<_> = (0..2 + random.below(3))
            .map(|number| sending(&mut random, seed, number))
            .collect();
        // One that gets as far as every point.
        sendings[0].body["metadata"]["clinicId"] = json!("clinic-failover");
        sendings[0].holds = false;
        sendings[0].lasts = None;
        sendings[0].body["strategy"] = json!("queued");
        if first == Point::Recording {
            sendings[0].way = Way::Queue;
        }
        let poison = (0..random.below(2) + u64::from(first == Point::SettingAside))
            .map(|number| {
                let mut body = communication();
                body["poison"] = json!(format!("poison-{seed}-{number}"));
                if random.below(2) == 0 {
                    format!("{{\"category\": \"poison-{seed}-{number}\"")
                } else {
                    body.to_string()
                }
            })
            .collect();
        Self {
            seed,
            sendings,
            poison,
            conflict: random.in_a_hundred(15),
            kills,
            faults,
            all_put_off: first == Point::LettingWait,
        }
    }

    /// What an account does with the `nth` try of a delivery, from 0.
    pub(super) fn behavior(&self, account: u64, address: &str, nth: u32) -> Behavior {
        let of_address = |salt| {
            let bytes = address.bytes().map(u64::from);
            Random(bytes.fold(self.seed ^ salt, |hash, byte| {
                Random(hash ^ byte).below(u64::MAX)
            }))
        };
        let mut always = of_address(0);
        if self.all_put_off && nth == 0 {
            return Behavior::PutsOff;
        }
        // The first sending's never give trouble: a run has one delivery at least that gets everywhere.
        if nth >= TROUBLES || is_first(address) || always.in_a_hundred(40) {
            return Behavior::Takes;
        }
        if always.in_a_hundred(8) {
            return Behavior::RefusesTheRecipient;
        }
        match of_address(1 + account * 64 + u64::from(nth)).below(10) {
            0..4 => Behavior::Takes,
            4..6 => Behavior::PutsOff,
            6 => Behavior::RefusesTheSender,
            7 => Behavior::TakesAndHangsUp,
            8 => Behavior::HangsUp,
            _ => Behavior::RefusesTheLogin,
        }
    }

    /// Whether a mail account refuses its `nth` login, from 0.
    pub(super) fn refuses_login(&self, account: u64, nth: u32) -> bool {
        nth < TROUBLES && Random(self.seed ^ (account << 32) ^ u64::from(nth)).in_a_hundred(10)
    }

    /// Who has the batch that is handed out as the `nth`, from 0.
    pub(super) fn company(&self, nth: u32) -> Company {
        // The first is for the first kill.
        if nth == 0 || nth >= TROUBLED {
            return Company::Alone;
        }
        let mut random = Random(self.seed ^ (u64::from(nth) << 40));
        match random.below(10) {
            0 => Company::Twins,
            1 => {
                let points = [Point::Claimed, Point::Claiming, Point::Ending];
                Company::Overtaken(pick(&mut random, &points))
            }
            _ => Company::Alone,
        }
    }

    /// Whether anything may go wrong with the `nth` batch.
    pub(super) fn is_troubled(nth: u32) -> bool {
        nth < TROUBLED
    }

    /// Whether SQS brings a message again that was done with the `nth` batch.
    pub(super) fn comes_again(&self, nth: u32, message: usize) -> bool {
        let salt = u64::from(nth) * 16 + u64::try_from(message).unwrap();
        Self::is_troubled(nth) && Random(self.seed ^ (salt << 20)).in_a_hundred(8)
    }
}

fn pick<T: Copy>(random: &mut Random, all: &[T]) -> T {
    let index = random.below(u64::try_from(all.len()).unwrap());
    all[usize::try_from(index).unwrap()]
}

fn fault(random: &mut Random) -> AwsFault {
    let (service, operation) = pick(
        random,
        &[
            ("dynamodb", "GetItem"),
            ("kms", "Decrypt"),
            ("dynamodb", "PutItem"),
            ("dynamodb", "UpdateItem"),
            ("dynamodb", "UpdateItem"),
            ("dynamodb", "UpdateItem"),
            ("sqs", "ChangeMessageVisibilityBatch"),
            ("sqs", "SendMessage"),
        ],
    );
    let failure = pick(
        random,
        &[
            InjectedFailure::Before(Fault::Throttle),
            InjectedFailure::Before(Fault::ServerError),
            InjectedFailure::Before(Fault::AccessDenied),
            InjectedFailure::Before(Fault::Drop),
            InjectedFailure::Before(Fault::LoseAnswer),
            InjectedFailure::Before(Fault::SomeEntries),
            InjectedFailure::After(Fault::ServerError),
            InjectedFailure::Late(200),
        ],
    );
    AwsFault {
        service,
        operation,
        skip: random.below(5),
        // The SDK makes three tries of most; thirty are an outage.
        times: pick(random, &[1, 1, 2, 3, 3, 6, 30]),
        failure,
    }
}

/// The clinics with whether they want no second copy at any price.
const CLINICS: [(&str, bool); 5] = [
    ("clinic-failover", false),
    ("clinic-hold", true),
    ("clinic-single", false),
    ("clinic-hold-global", true),
    ("clinic-without-settings", false),
];

/// The settings of everybody who has some.
pub(super) fn settings(whatsapp: bool) -> Vec<(&'static str, Vec<(&'static str, Chain)>)> {
    let mut number = 0;
    let mut chain = |owner, kinds: &[Kind], use_global, hold| {
        let accounts = kinds.iter().map(|kind| {
            number += 1;
            Account::new(number, *kind, owner, Behavior::Takes)
        });
        Chain {
            accounts: accounts.collect(),
            use_global,
            hold,
        }
    };
    let mut both = |owner, email: &[Kind], chat: &[Kind], use_global, hold| {
        let mut channels = vec![("email", chain(owner, email, use_global, hold))];
        if whatsapp {
            channels.push(("whatsapp", chain(owner, chat, use_global, hold)));
        }
        (owner, channels)
    };
    let (mail, chat) = ([Kind::Smtp, Kind::Sendgrid], [Kind::Meta, Kind::Twilio]);
    vec![
        both("clinic-failover", &mail, &chat, false, false),
        both("clinic-hold", &mail, &chat, false, true),
        both("clinic-single", &mail[..1], &chat[1..], false, false),
        both("clinic-hold-global", &mail[1..], &chat[..1], true, true),
        both("_global", &mail[..1], &chat[1..], false, false),
    ]
}

/// Whether there are phone numbers in a run, in its messages or its settings. The first one that a process reads makes
/// it compile the patterns of all countries, which takes a second in a debug build, and most processes here do not live
/// that long.
pub(super) fn has_whatsapp(seed: u64) -> bool {
    (seed / 10).is_multiple_of(20)
}

/// The first sending's addresses are told by their numbers.
const FIRST: u64 = 0;

fn is_first(address: &str) -> bool {
    address.starts_with("first-") || address.trim_start_matches('+').starts_with("15550")
}

fn sending(random: &mut Random, seed: u64, number: u64) -> Sending {
    let (clinic, holds) = pick(random, &CLINICS);
    let is_large = random.in_a_hundred(6);
    let has_whatsapp = has_whatsapp(seed);
    let channels: &[&str] = match random.below(3) {
        _ if !has_whatsapp => &["email"],
        0 => &["email"],
        1 => &["whatsapp"],
        _ => &["email", "whatsapp"],
    };
    // A large one is several messages on the queue.
    let recipients = if is_large { 12 } else { 1 + random.below(3) };
    let recipients: Vec<_> = (0..recipients)
        .map(|recipient| {
            let (name, digit) = match number {
                FIRST => ("first", 0),
                _ => ("patient", 1),
            };
            let mut addresses =
                json!({"email": format!("{name}-{number}-{recipient}.of-{seed}@example.com")});
            // Some have no number, and what was to go there fails.
            if has_whatsapp && (number == FIRST || !random.in_a_hundred(10)) {
                let serial = (seed % 1_000) * 100 + number * 20 + recipient;
                addresses["phoneNumber"] = json!(format!("+1555{digit}{serial:06}"));
            }
            addresses
        })
        .collect();
    let mut body = communication();
    body["channels"] = json!(channels);
    body["recipients"] = json!(recipients);
    body["priority"] = json!(pick(random, &["normal", "high"]));
    body["strategy"] = json!(if random.in_a_hundred(10) {
        "immediate"
    } else {
        "queued"
    });
    body["metadata"]["clinicId"] = json!(clinic);
    let fault = random.in_a_hundred(30).then(|| {
        let (service, operation) = pick(
            random,
            &[("dynamodb", "PutItem"), ("sqs", "SendMessageBatch")],
        );
        let fault = pick(
            random,
            &[
                Fault::Throttle,
                Fault::ServerError,
                Fault::Drop,
                Fault::LoseAnswer,
                Fault::SomeEntries,
            ],
        );
        (service, operation, pick(random, &[1, 2, 3]), fault)
    });
    let way = match random.below(10) {
        0..3 => Way::Queue,
        _ => Way::Http {
            fault,
            twice: random.in_a_hundred(15),
        },
    };
    // A producer that has no key is known by SQS's id of its message.
    if way != Way::Queue || random.in_a_hundred(50) {
        body["idempotencyKey"] = json!(format!("key-{seed}-{number}"));
    }
    let lasts = match random.below(8) {
        0 => Some(Duration::from_secs(100)),
        1 => Some(Duration::from_hours(1)),
        _ => None,
    };
    Sending {
        body,
        way,
        lasts,
        holds,
    }
}
