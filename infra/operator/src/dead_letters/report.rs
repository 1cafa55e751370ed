//! The report of dead letters: counts, ids, reasons, ages. It has nothing of their content.

use std::{collections::BTreeMap, fmt, time::Duration};

use comms_core::{DeadLetterReason, HashKey, IdempotencyKey, RequestId, Tenant};
use serde::{Serialize, Serializer, ser::SerializeStruct};

use super::{age, queue::Received};

/// Letters of one group whose wrong fields are named, at most.
const MAX_FIELDS: usize = 5;

/// What became of a walk over the dead letters.
#[derive(Debug, Default)]
pub struct Report {
    /// Messages that SQS counted before, without those in flight.
    pub counted: Option<u64>,
    /// Messages in flight when the walk began, which cannot be received.
    pub at_work_elsewhere: u64,
    /// Messages that were looked at.
    pub seen: u64,
    /// Those of them that were asked for.
    pub letters: Vec<FoundLetter>,
    /// Messages that could not be made visible again and are so by themselves after five minutes.
    pub hidden: u64,
    /// Whether there was an end to how many are looked at.
    pub limited: bool,
    /// Whether the walk was stopped before its end.
    pub stopped: bool,
}

/// A dead letter that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundLetter {
    /// SQS's id of it.
    pub message_id: String,
    /// SQS's id of the message that it was.
    pub source_message_id: String,
    /// The communication that was accepted by HTTP and of which it claims to be a part: GET says `queued` of it.
    pub accepted_as: Option<RequestId>,
    /// The key of its body, where it has one. It is never shown: a sender may have made it of a patient's data.
    pub(crate) key: Option<IdempotencyKey>,
    /// Whose it is, where that is known.
    pub tenant: Option<Tenant>,
    /// Why it is one.
    pub reason: DeadLetterReason,
    /// The fields that are wrong.
    pub fields: Vec<String>,
    /// The name of the queue that it came from, where that is known.
    pub source_queue: Option<String>,
    /// How old it is.
    pub age: Duration,
    /// Bytes of its body.
    pub size: u64,
    /// How often it was received on the dead-letter queue, this time included.
    pub receives: u32,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is where it was.
    Left,
    /// It is on its queue again.
    PutBack,
    /// It had been put back and is a dead letter again already. It is left.
    DeadAgain,
    /// It is gone.
    Deleted,
    /// Nothing, and why.
    Failed(String),
}

impl Outcome {
    /// Whether it is no longer on the dead-letter queue.
    pub(super) const fn is_gone(&self) -> bool {
        match self {
            Self::PutBack | Self::Deleted => true,
            Self::Left | Self::DeadAgain | Self::Failed(_) => false,
        }
    }

    const fn as_str(&self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::PutBack => "putBack",
            Self::DeadAgain => "deadAgain",
            Self::Deleted => "deleted",
            Self::Failed(_) => "failed",
        }
    }
}

impl FoundLetter {
    pub(super) fn new(found: &Received, outcome: Outcome) -> Self {
        Self {
            message_id: found.message_id.clone(),
            source_message_id: found.source_message_id().to_owned(),
            accepted_as: found.accepted_as(),
            key: found.key(),
            tenant: found.letter.tenant.clone(),
            reason: found.letter.reason,
            fields: found.letter.fields.clone(),
            source_queue: found.letter.source_queue.clone(),
            age: found.age,
            size: found.size(),
            receives: found.receives,
            outcome,
        }
    }

    fn clinic(&self) -> &str {
        self.tenant.as_ref().map_or("(not known)", Tenant::as_str)
    }

    /// The communication that it is, as far as it says: that which was accepted by HTTP, else the one that its clinic and its
    /// key name, or SQS's id in place of a key.
    pub(crate) fn request_id(&self, hash: &HashKey) -> Option<RequestId> {
        let key = || {
            let own = self.key.clone();
            own.or_else(|| IdempotencyKey::parse(&self.source_message_id).ok())
        };
        let derived = || Some(RequestId::derive(hash, self.tenant.as_ref()?, &key()?));
        self.accepted_as.clone().or_else(derived)
    }
}

/// Letters of one clinic with one reason and about one age.
struct Group<'a> {
    clinic: &'a str,
    reason: DeadLetterReason,
    age: &'static str,
    letters: Vec<&'a FoundLetter>,
}

impl<'a> Group<'a> {
    fn oldest(&self) -> Duration {
        let ages = self.letters.iter().map(|letter| letter.age);
        ages.max().unwrap_or_default()
    }

    fn bytes(&self) -> u64 {
        self.letters.iter().map(|letter| letter.size).sum()
    }

    /// Texts of the letters, each once.
    fn texts(&self, of: impl Fn(&'a FoundLetter) -> Vec<&'a str>) -> Vec<&'a str> {
        let mut texts: Vec<_> = self.letters.iter().flat_map(|letter| of(letter)).collect();
        texts.sort_unstable();
        texts.dedup();
        texts
    }

    fn queues(&self) -> Vec<&'a str> {
        self.texts(|letter| letter.source_queue.as_deref().into_iter().collect())
    }

    fn fields(&self) -> Vec<&'a str> {
        self.texts(|letter| letter.fields.iter().map(String::as_str).collect())
    }
}

impl Report {
    /// Whether every dead letter that SQS counted was seen, and every one that was asked for is gone.
    pub fn is_complete(&self) -> bool {
        let all_gone = self.letters.iter().all(|letter| letter.outcome.is_gone());
        all_gone && !self.misses_some() && self.hidden == 0 && !self.stopped
    }

    fn misses_some(&self) -> bool {
        let all_seen = self.counted.is_some_and(|counted| counted <= self.seen);
        !all_seen || self.limited || self.at_work_elsewhere > 0
    }

    fn groups(&self) -> Vec<Group<'_>> {
        let mut groups = BTreeMap::new();
        for letter in &self.letters {
            let (number, age) = age::class(letter.age);
            let group = groups
                .entry((letter.clinic(), letter.reason.as_str(), number))
                .or_insert_with(|| Group {
                    clinic: letter.clinic(),
                    reason: letter.reason,
                    age,
                    letters: Vec::new(),
                });
            group.letters.push(letter);
        }
        groups.into_values().collect()
    }

    /// What cannot be promised, for people.
    fn write_reservations(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(counted) = self.counted else {
            return Ok(());
        };
        write!(f, "{} seen; SQS had counted about {counted}", self.seen)?;
        if self.at_work_elsewhere > 0 {
            write!(
                f,
                " and {} more that somebody had received and that cannot be seen meanwhile",
                self.at_work_elsewhere
            )?;
        }
        if self.misses_some() {
            f.write_str(
                "\nNOT ALL WERE SEEN, or more have come: SQS promises neither to show all nor to count exactly. Run it again",
            )?;
            if self.limited {
                f.write_str(", with a higher --limit")?;
            }
        }
        if self.stopped {
            f.write_str("\nstopped before the end")?;
        }
        if self.hidden > 0 {
            write!(
                f,
                "\n{} could not be made visible again and are so by themselves after five minutes",
                self.hidden
            )?;
        }
        Ok(())
    }
}

/// The table of groups, then the results of the letters.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = [
            "clinic", "reason", "age", "messages", "oldest", "bytes", "from", "fields",
        ];
        let mut rows = vec![header.map(str::to_owned)];
        for group in self.groups() {
            let mut fields = group.fields();
            let more = fields.len().saturating_sub(MAX_FIELDS);
            fields.truncate(MAX_FIELDS);
            let fields = match (fields.join(" "), more) {
                (fields, 0) => fields,
                (fields, more) => format!("{fields} and {more} more"),
            };
            rows.push([
                group.clinic.to_owned(),
                group.reason.as_str().to_owned(),
                group.age.to_owned(),
                group.letters.len().to_string(),
                age::text(group.oldest()),
                group.bytes().to_string(),
                group.queues().join(" "),
                fields,
            ]);
        }
        if rows.len() > 1 {
            write_table(f, &rows)?;
        }
        for (what, outcome) in [
            ("put back on their queues", Outcome::PutBack),
            ("deleted", Outcome::Deleted),
            (
                "left: put back already in this run, and here again or twice",
                Outcome::DeadAgain,
            ),
        ] {
            let number = self
                .letters
                .iter()
                .filter(|letter| letter.outcome == outcome)
                .count();
            if number > 0 {
                writeln!(f, "{number:>8} {what}")?;
            }
        }
        for letter in &self.letters {
            if let Outcome::Failed(why) = &letter.outcome {
                writeln!(f, "  failed {}: {why}", letter.message_id)?;
            }
        }
        self.write_reservations(f)
    }
}

/// The letters one by one, as a table.
pub(super) struct EachLetter<'a>(pub(super) &'a Report);

impl fmt::Display for EachLetter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = [
            "message",
            "clinic",
            "reason",
            "age",
            "bytes",
            "receives",
            "from",
            "was",
            "accepted as",
        ];
        let mut rows = vec![header.map(str::to_owned)];
        for letter in &self.0.letters {
            let was = (letter.source_message_id != letter.message_id)
                .then(|| letter.source_message_id.clone());
            let accepted_as = letter.accepted_as.as_ref();
            rows.push([
                letter.message_id.clone(),
                letter.clinic().to_owned(),
                letter.reason.as_str().to_owned(),
                age::text(letter.age),
                letter.size.to_string(),
                letter.receives.to_string(),
                letter.source_queue.clone().unwrap_or_default(),
                was.unwrap_or_default(),
                accepted_as.map(ToString::to_string).unwrap_or_default(),
            ]);
        }
        write_table(f, &rows)
    }
}

fn write_table<const N: usize>(f: &mut fmt::Formatter<'_>, rows: &[[String; N]]) -> fmt::Result {
    let widths: Vec<usize> = (0..N)
        .map(|column| {
            rows.iter()
                .map(|row| row[column].len())
                .max()
                .unwrap_or_default()
        })
        .collect();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        writeln!(f, "{}", line.join("  ").trim_end())?;
    }
    Ok(())
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut report = serializer.serialize_struct("Report", 8)?;
        report.serialize_field("counted", &self.counted)?;
        report.serialize_field("atWorkElsewhere", &self.at_work_elsewhere)?;
        report.serialize_field("seen", &self.seen)?;
        report.serialize_field("limited", &self.limited)?;
        report.serialize_field("stopped", &self.stopped)?;
        report.serialize_field("hidden", &self.hidden)?;
        report.serialize_field("groups", &self.groups())?;
        report.serialize_field("letters", &self.letters)?;
        report.end()
    }
}

impl Serialize for Group<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tenant = self
            .letters
            .first()
            .and_then(|letter| letter.tenant.as_ref());
        let mut group = serializer.serialize_struct("Group", 8)?;
        group.serialize_field("clinicId", &tenant.map(Tenant::as_str))?;
        group.serialize_field("reason", &self.reason)?;
        group.serialize_field("age", self.age)?;
        group.serialize_field("messages", &self.letters.len())?;
        group.serialize_field("oldestSeconds", &self.oldest().as_secs())?;
        group.serialize_field("bytes", &self.bytes())?;
        group.serialize_field("sourceQueues", &self.queues())?;
        group.serialize_field("fields", &self.fields())?;
        group.end()
    }
}

impl Serialize for FoundLetter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let why = match &self.outcome {
            Outcome::Failed(why) => Some(why),
            Outcome::Left | Outcome::PutBack | Outcome::DeadAgain | Outcome::Deleted => None,
        };
        let mut letter = serializer.serialize_struct("Letter", 12)?;
        letter.serialize_field("messageId", &self.message_id)?;
        letter.serialize_field("sourceMessageId", &self.source_message_id)?;
        letter.serialize_field("acceptedAs", &self.accepted_as)?;
        letter.serialize_field("clinicId", &self.tenant.as_ref().map(Tenant::as_str))?;
        letter.serialize_field("reason", &self.reason)?;
        letter.serialize_field("fields", &self.fields)?;
        letter.serialize_field("sourceQueue", &self.source_queue)?;
        letter.serialize_field("ageSeconds", &self.age.as_secs())?;
        letter.serialize_field("bytes", &self.size)?;
        letter.serialize_field("receives", &self.receives)?;
        letter.serialize_field("outcome", self.outcome.as_str())?;
        letter.serialize_field("error", &why)?;
        letter.end()
    }
}
