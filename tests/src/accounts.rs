//! Accounts at scripted providers, drawn from a seed: what each answers, and what it saw.

use std::{collections::HashMap, hash::BuildHasher};

use base64::{Engine, prelude::BASE64_STANDARD};
use comms_testkit::{
    http::{ReceivedRequest, Reply},
    smtp::{Action, Stage},
};
use serde_json::{Value, json};

use crate::documents::entry;

/// `SplitMix64` (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    pub fn in_a_hundred(&mut self, chances: u64) -> bool {
        self.below(100) < chances
    }
}

/// What an account does with every message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behavior {
    Takes,
    RefusesTheLogin,
    PutsOff,
    RefusesTheSender,
    RefusesTheRecipient,
    /// Nobody can tell whether it took the message: it did.
    TakesAndHangsUp,
    /// Nobody can tell whether it took the message: it did not.
    HangsUp,
}

impl Behavior {
    pub fn draw(random: &mut Random) -> Self {
        match random.below(10) {
            0..4 => Self::Takes,
            4 => Self::RefusesTheLogin,
            5 => Self::PutsOff,
            6 => Self::RefusesTheSender,
            7 => Self::RefusesTheRecipient,
            8 => Self::TakesAndHangsUp,
            _ => Self::HangsUp,
        }
    }

    /// What an attempt with it is recorded as.
    pub fn recorded(self) -> &'static str {
        match self {
            Self::Takes => "accepted",
            Self::RefusesTheLogin | Self::RefusesTheSender => "provider_down",
            Self::PutsOff => "transient",
            Self::RefusesTheRecipient => "final",
            Self::TakesAndHangsUp | Self::HangsUp => "ambiguous",
        }
    }

    pub fn takes(self) -> bool {
        matches!(self, Self::Takes | Self::TakesAndHangsUp)
    }

    pub fn at_the_mail_server(self) -> Option<(Stage, Action)> {
        match self {
            Self::Takes => None,
            Self::RefusesTheLogin => Some((Stage::Auth, Action::reply("535 5.7.8 no"))),
            Self::PutsOff => Some((Stage::Mail, Action::reply("451 4.3.0 later"))),
            Self::RefusesTheSender => Some((Stage::Mail, Action::reply("550 5.7.1 not you"))),
            Self::RefusesTheRecipient => Some((Stage::Rcpt, Action::reply("550 5.1.1 nobody"))),
            Self::TakesAndHangsUp => Some((Stage::Body, Action::AcceptThenClose)),
            Self::HangsUp => Some((Stage::Body, Action::Close)),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Smtp,
    Sendgrid,
    Meta,
    Twilio,
}

/// An account at a provider.
#[derive(Debug, Clone)]
pub struct Account {
    /// Every account's is another one.
    pub number: u64,
    pub kind: Kind,
    /// The clinic that it is of, or `_global`.
    pub owner: String,
    /// Whom its messages are from.
    pub sender: String,
    pub behavior: Behavior,
}

impl Account {
    pub fn new(number: u64, kind: Kind, owner: &str, behavior: Behavior) -> Self {
        let sender = match kind {
            Kind::Smtp => desk(owner),
            Kind::Sendgrid => format!("hello-{number}@{}", domain(owner)),
            Kind::Meta => format!("{}", 1_000_000 + number),
            Kind::Twilio => format!("whatsapp:+1415523{number:04}"),
        };
        Self {
            number,
            kind,
            owner: owner.to_owned(),
            sender,
            behavior,
        }
    }

    pub fn user(&self) -> String {
        format!("user-{}", self.number)
    }

    pub fn secret(&self) -> String {
        format!("planted-secret-{}", self.number)
    }

    fn account_sid(&self) -> String {
        format!("AC{:032x}", self.number)
    }

    /// What it is known by: the user at the mail server, the credentials of an HTTP request.
    pub fn key(&self) -> String {
        match self.kind {
            Kind::Smtp => self.user(),
            Kind::Sendgrid | Kind::Meta => format!("Bearer {}", self.secret()),
            Kind::Twilio => {
                let pair = format!("{}:{}", self.account_sid(), self.secret());
                format!("Basic {}", BASE64_STANDARD.encode(pair))
            }
        }
    }

    /// The entry of a settings document.
    fn entry(&self, smtp_port: u16, api: &str) -> Value {
        let credentials = match self.kind {
            Kind::Smtp => return entry(smtp_port, &self.user(), &self.secret()),
            Kind::Sendgrid => {
                json!({"apiKey": self.secret(), "fromEmail": self.sender, "apiUrl": api})
            }
            Kind::Meta => json!({"apiKey": self.secret(), "phoneNumberId": self.sender,
                "apiUrl": format!("{api}/v23.0")}),
            Kind::Twilio => json!({"accountSid": self.account_sid(), "authToken": self.secret(),
                "fromNumber": self.sender, "apiUrl": api}),
        };
        let provider = match self.kind {
            Kind::Smtp => "smtp",
            Kind::Sendgrid => "sendgrid",
            Kind::Meta => "meta_business",
            Kind::Twilio => "twilio",
        };
        json!({"provider": provider, "enabled": true, "credentials": credentials})
    }

    /// What the API answers for it.
    pub fn reply(&self) -> Reply {
        let (sendgrid, meta, twilio) = match self.behavior {
            Behavior::Takes => return self.acceptance(),
            Behavior::TakesAndHangsUp | Behavior::HangsUp => return Reply::close(),
            Behavior::RefusesTheLogin => ((401, Value::Null), (401, 190), (401, 20_003)),
            Behavior::PutsOff => ((429, Value::Null), (429, 130_429), (429, 20_429)),
            Behavior::RefusesTheSender => ((403, json!("from")), (400, 131_042), (400, 63_007)),
            Behavior::RefusesTheRecipient => (
                (400, json!("personalizations.0.to.0.email")),
                (400, 131_026),
                (400, 21_211),
            ),
        };
        match self.kind {
            Kind::Smtp | Kind::Sendgrid => Reply::json(
                sendgrid.0,
                json!({"errors": [{"message": "planted", "field": sendgrid.1, "help": null}]}),
            ),
            Kind::Meta => Reply::json(
                meta.0,
                json!({"error": {"message": "planted", "type": "OAuthException", "code": meta.1}}),
            ),
            Kind::Twilio => Reply::json(
                twilio.0,
                json!({"code": twilio.1, "message": "planted", "status": twilio.0}),
            ),
        }
    }

    fn acceptance(&self) -> Reply {
        match self.kind {
            Kind::Smtp | Kind::Sendgrid => Reply::new(202).header("x-message-id", "sendgrid-id"),
            Kind::Meta => Reply::json(200, json!({"messages": [{"id": "wamid.meta"}]})),
            Kind::Twilio => Reply::json(
                201,
                json!({"sid": format!("SM{:032x}", self.number), "status": "queued"}),
            ),
        }
    }
}

fn domain(owner: &str) -> String {
    format!("{}.example", owner.trim_start_matches('_'))
}

/// The clinic's own address.
pub fn desk(owner: &str) -> String {
    format!("desk@{}", domain(owner))
}

/// A channel's chain.
#[derive(Debug, Clone)]
pub struct Chain {
    pub accounts: Vec<Account>,
    pub use_global: bool,
    pub hold: bool,
}

impl Chain {
    pub fn document(&self, owner: &str, smtp_port: u16, api: &str) -> Value {
        let entries: Vec<_> = self
            .accounts
            .iter()
            .map(|account| account.entry(smtp_port, api))
            .collect();
        let mut channel = json!({"primary": entries[0], "fallback": entries[1..],
            "fallbackStrategy": {"useGlobal": self.use_global, "retryAttempts": 0},
            "onAmbiguous": if self.hold { "hold" } else { "failover" }});
        if matches!(self.accounts[0].kind, Kind::Smtp | Kind::Sendgrid) {
            channel["defaultFrom"] = json!(desk(owner));
        }
        channel
    }
}

/// A message as an account saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub account: u64,
    pub from: String,
    pub reply_to: Option<String>,
    pub to: String,
    pub text: String,
    pub taken: bool,
}

/// What an HTTP request says, and by whose credentials.
pub fn seen_in<S: BuildHasher>(
    request: &ReceivedRequest,
    accounts: &HashMap<String, Account, S>,
) -> Option<Seen> {
    let account = accounts.get(request.header("authorization")?)?;
    let json = request.json();
    let text = |pointer: &str| json.pointer(pointer).and_then(Value::as_str);
    let (from, reply_to, to, body) = match account.kind {
        Kind::Smtp => return None,
        Kind::Sendgrid => (
            text("/from/email")?,
            text("/reply_to/email"),
            text("/personalizations/0/to/0/email")?,
            text("/content/0/value")?,
        ),
        Kind::Meta => {
            let path = request.path.strip_prefix("/v23.0/")?;
            let number = path.strip_suffix("/messages")?;
            (number, None, text("/to")?, text("/text/body")?)
        }
        Kind::Twilio => {
            let path = format!(
                "/2010-04-01/Accounts/{}/Messages.json",
                account.account_sid()
            );
            let form: HashMap<_, _> = request.form().into_iter().collect();
            return (request.path == path).then(|| Seen {
                account: account.number,
                from: form["From"].clone(),
                reply_to: None,
                to: form["To"].trim_start_matches("whatsapp:").to_owned(),
                text: form["Body"].clone(),
                taken: account.behavior.takes(),
            });
        }
    };
    Some(Seen {
        account: account.number,
        from: from.to_owned(),
        reply_to: reply_to.map(ToOwned::to_owned),
        to: to.to_owned(),
        text: body.to_owned(),
        taken: account.behavior.takes(),
    })
}
