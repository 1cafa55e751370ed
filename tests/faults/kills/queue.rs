//! The queues as Lambda's event source mapping sees them, in the series's own time.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use jiff::Timestamp;
use serde_json::{Value, json};

/// The queues' visibility timeout: how long SQS waits with a message of which it heard nothing.
const VISIBILITY: Duration = Duration::from_mins(3);
/// Messages of one invocation.
const BATCH: usize = 10;

struct Waiting {
    record: Value,
    receives: u32,
    visible_at: Timestamp,
}

/// What is on the queues.
#[derive(Default)]
pub(super) struct Queues {
    waiting: Vec<Waiting>,
    known: HashSet<String>,
}

fn text<'a>(record: &'a Value, name: &str) -> &'a str {
    record[name].as_str().unwrap()
}

impl Queues {
    /// Takes in a record that was received from the local AWS, if it is not known yet.
    pub(super) fn put(&mut self, record: Value, now: Timestamp) {
        if self.known.insert(text(&record, "messageId").to_owned()) {
            self.waiting.push(Waiting {
                record,
                receives: 0,
                visible_at: now,
            });
        }
    }

    /// Brings a record again that was taken in before, whatever became of it.
    pub(super) fn bring_again(&mut self, record: Value, now: Timestamp) {
        self.waiting.push(Waiting {
            record,
            receives: 1,
            visible_at: now,
        });
    }

    /// When there is something to hand out next; `None` when everything is done.
    pub(super) fn next_time(&self) -> Option<Timestamp> {
        self.waiting.iter().map(|waiting| waiting.visible_at).min()
    }

    /// A batch of what is visible on one of the queues. It is invisible from now on.
    pub(super) fn receive(&mut self, now: Timestamp) -> Vec<Value> {
        let mut visible: Vec<_> = self
            .waiting
            .iter_mut()
            .filter(|waiting| waiting.visible_at <= now)
            .collect();
        let Some(first) = visible.first() else {
            return Vec::new();
        };
        let queue = text(&first.record, "eventSourceARN").to_owned();
        visible.retain(|waiting| text(&waiting.record, "eventSourceARN") == queue);
        let mut batch = Vec::new();
        for waiting in visible.into_iter().take(BATCH) {
            waiting.receives += 1;
            waiting.visible_at = now + VISIBILITY;
            let mut record = waiting.record.clone();
            record["attributes"]["ApproximateReceiveCount"] = json!(waiting.receives.to_string());
            batch.push(record);
        }
        batch
    }

    /// What was handed out is not heard of for the queues' own time, or for as long as was asked meanwhile.
    pub(super) fn change_visibility(
        &mut self,
        batch: &[Value],
        asked: &HashMap<String, Duration>,
        now: Timestamp,
    ) {
        for waiting in self.of(batch) {
            if let Some(wait) = asked.get(text(&waiting.record, "receiptHandle")) {
                waiting.visible_at = now + *wait;
            }
        }
    }

    /// Deletes a message, or (SQS delivers at least once) brings it once more.
    pub(super) fn done(&mut self, id: &str, once_more: Option<Timestamp>) {
        match once_more {
            None => self
                .waiting
                .retain(|waiting| text(&waiting.record, "messageId") != id),
            Some(time) => {
                let mut all = self.waiting.iter_mut();
                let found = all.find(|waiting| text(&waiting.record, "messageId") == id);
                if let Some(waiting) = found {
                    waiting.visible_at = time;
                }
            }
        }
    }

    fn of(&mut self, batch: &[Value]) -> impl Iterator<Item = &mut Waiting> {
        let ids: Vec<_> = batch
            .iter()
            .map(|record| text(record, "messageId"))
            .collect();
        self.waiting
            .iter_mut()
            .filter(move |waiting| ids.contains(&text(&waiting.record, "messageId")))
    }
}
