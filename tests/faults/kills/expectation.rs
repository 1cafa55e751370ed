//! What came of it, from outside.

use std::{collections::BTreeMap, fmt};

use serde_json::Value;

use super::{plan::Point, scenario::Seen};

/// A delivery that was accepted.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) delivery: String,
    /// Where to; none where the recipient has no address on the channel.
    pub(super) address: Option<String>,
    /// Whether the clinic wants no second copy at any price.
    pub(super) holds: bool,
}

/// The figures of runs, and what was not as it has to be.
#[derive(Debug, Default)]
pub(super) struct Expectation {
    runs: u64,
    kills: BTreeMap<Point, u64>,
    faults: u64,
    messages: u64,
    handed_out: u64,
    processes: u64,
    attempts: usize,
    statuses: BTreeMap<String, u64>,
    dead_letters: u64,
    flagged: u64,
    unflagged: u64,
    held_twice: u64,
    lost: u64,
    wrong: Vec<String>,
}

impl Expectation {
    /// Counts a run.
    pub(super) fn run(
        &mut self,
        seed: u64,
        observed: &Seen,
        messages: u64,
        handed_out: u64,
        processes: u64,
    ) {
        self.runs += 1;
        self.faults += observed.faults;
        self.messages += messages;
        self.handed_out += handed_out;
        self.processes += processes;
        for point in &observed.killed_at {
            *self.kills.entry(*point).or_default() += 1;
        }
        if observed.killed_at.is_empty() {
            self.wrong(seed, "nobody was killed");
        }
    }

    /// Notes what should not be.
    pub(super) fn wrong(&mut self, seed: u64, what: impl fmt::Display) {
        self.wrong.push(format!("seed {seed}: {what}"));
    }

    /// Judges a delivery by what is said of it (`null`: nothing) and how many copies the providers took.
    pub(super) fn delivery(
        &mut self,
        seed: u64,
        expected: &Expected,
        said: &Value,
        observed: &Seen,
    ) {
        let address = expected.address.as_deref();
        let copies = address.and_then(|address| observed.taken.get(address));
        let copies = copies.copied().unwrap_or_default();
        let status = said["status"].as_str().unwrap_or("unknown to the ledger");
        let has_reason = said["reason"]["code"].is_string();
        let is_flagged = said["possibleDuplicate"] == true;
        self.attempts += said["attempts"].as_array().map_or(0, Vec::len);
        *self.statuses.entry(status.to_owned()).or_default() += 1;
        let what =
            |of: &str| format!("{of}: {copies} copies of {expected:?}, of which is said {said}");
        match (status, has_reason) {
            ("sent", _) if copies == 0 => self.wrong(seed, what("sent to nobody")),
            ("sent", _) | ("unknown", true) => {}
            ("failed" | "expired", true) if copies == 0 => {}
            ("failed" | "expired", true) => self.wrong(seed, what("sent and denied")),
            _ => {
                self.lost += 1;
                self.wrong(seed, what("lost"));
            }
        }
        if copies > 1 {
            if is_flagged {
                self.flagged += 1;
            } else {
                self.unflagged += 1;
                self.wrong(seed, what("a second copy that nobody is told of"));
            }
            if expected.holds {
                self.held_twice += 1;
                self.wrong(seed, what("a second copy at a clinic that holds"));
            }
        }
    }

    /// Counts a message that rightly moved to the dead-letter queue.
    pub(super) fn dead_letter(&mut self) {
        self.dead_letters += 1;
    }

    /// Adds the figures of other runs.
    pub(super) fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.faults += other.faults;
        self.messages += other.messages;
        self.handed_out += other.handed_out;
        self.processes += other.processes;
        self.attempts += other.attempts;
        self.dead_letters += other.dead_letters;
        self.flagged += other.flagged;
        self.unflagged += other.unflagged;
        self.held_twice += other.held_twice;
        self.lost += other.lost;
        self.wrong.extend(other.wrong);
        for (point, kills) in other.kills {
            *self.kills.entry(point).or_default() += kills;
        }
        for (status, deliveries) in other.statuses {
            *self.statuses.entry(status).or_default() += deliveries;
        }
    }

    /// Kills at this point.
    pub(super) fn kills_at(&self, point: Point) -> u64 {
        self.kills.get(&point).copied().unwrap_or_default()
    }

    /// That everything is as it has to be.
    pub(super) fn check(&self) {
        let wrong = &self.wrong;
        assert!(
            wrong.is_empty(),
            "{} wrong:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
        assert_eq!((self.unflagged, self.held_twice, self.lost), (0, 0, 0));
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kills: u64 = self.kills.values().sum();
        let deliveries: u64 = self.statuses.values().sum();
        write!(
            f,
            "{} runs, {kills} kills {:?}, {} processes, {} faults of AWS; {} messages handed out {} times, {} dead letters; \
             {deliveries} deliveries {:?}, {} attempts; duplicates: {} flagged, {} unflagged, {} held; {} lost",
            self.runs,
            self.kills,
            self.processes,
            self.faults,
            self.messages,
            self.handed_out,
            self.dead_letters,
            self.statuses,
            self.attempts,
            self.flagged,
            self.unflagged,
            self.held_twice,
            self.lost
        )
    }
}
