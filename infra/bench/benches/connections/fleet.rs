//! The queue, and worker processes that take from it: as an event source mapping does, in batches of up to ten.

use std::{
    collections::HashSet,
    io::{self, Write as _},
    ops::Range,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use aws_sdk_sqs::{
    Client,
    types::{
        DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName,
        SendMessageBatchRequestEntry,
    },
};
use bytes::Bytes;
use comms_testkit::{aws::LocalAws, runtime_api::RuntimeApi, smtp::SmtpServer, tls::TestCa};
use futures_util::future::{join, join_all};
use serde_json::{Value, json};

use crate::{
    clinic::smtp,
    clinics::{record, save_clinics},
};

const BATCH: usize = 10;
const WINDOW: Duration = Duration::from_millis(200);
const INVOCATION: Duration = Duration::from_secs(30);
/// A campaign that is not over by then is given up.
const CAMPAIGN: Duration = Duration::from_mins(3);

pub(crate) struct Fleet {
    aws: LocalAws,
    workers: Vec<Worker>,
    _roots: tempfile::NamedTempFile,
}

/// What became of a campaign.
pub(crate) struct Done {
    pub(crate) sent: usize,
    pub(crate) time: Duration,
    pub(crate) invocations: usize,
    pub(crate) most_receives: usize,
    pub(crate) writes_per_message: f64,
}

struct Worker {
    api: RuntimeApi,
    process: Child,
}

impl Worker {
    fn signal(&self, signal: &str) {
        let process = self.process.id().to_string();
        let status = Command::new("kill").args(["-s", signal, &process]).status();
        assert!(status.unwrap().success());
    }

    async fn invoke(&self, event: &Value) -> Value {
        self.signal("CONT");
        let payload = Bytes::from(event.to_string());
        let answer = self.api.invoke("worker", payload, INVOCATION).await;
        self.signal("STOP");
        serde_json::from_slice(&answer.unwrap()).unwrap()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Fleet {
    pub(crate) async fn start(programs: &Path, processes: usize, ca: &TestCa, port: u16) -> Self {
        let aws = LocalAws::start().await;
        save_clinics(&aws, 1, &smtp(port)).await;
        let mut roots = tempfile::NamedTempFile::new().unwrap();
        roots.write_all(ca.pem().as_bytes()).unwrap();
        let mut workers = Vec::new();
        for _ in 0..processes {
            let api = RuntimeApi::start().await;
            let mut process = Command::new(programs.join("worker"))
                .env_clear()
                .envs(aws.env())
                .envs(api.env("worker"))
                .env("EGRESS_ALLOW", "127.0.0.0/8")
                .env("EXTRA_CA_FILE", roots.path())
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = process.stdout.take().unwrap();
            let is_shown = std::env::var_os("SHOW_LOG").is_some();
            std::thread::spawn(move || {
                if is_shown {
                    io::copy(&mut lines, &mut io::stderr())
                } else {
                    io::copy(&mut lines, &mut io::sink())
                }
            });
            api.asked("worker").await;
            let worker = Worker { api, process };
            worker.signal("STOP");
            workers.push(worker);
        }
        Self {
            aws,
            workers,
            _roots: roots,
        }
    }

    /// Puts messages on the queue and has them worked off, until the server has all.
    pub(crate) async fn campaign(&self, server: &SmtpServer, messages: Range<usize>) -> Done {
        let sqs = Client::new(&self.aws.sdk_config());
        let url = &self.aws.resources().queue_url;
        for first in messages.clone().step_by(BATCH) {
            let entries = (first..messages.end.min(first + BATCH)).map(|number| {
                let record = record(number, 1);
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                SendMessageBatchRequestEntry::builder()
                    .id(number.to_string())
                    .message_body(text(&record["body"]))
                    .message_group_id(text(&record["attributes"]["MessageGroupId"]))
                    .build()
                    .unwrap()
            });
            let batch = sqs.send_message_batch().queue_url(url);
            let sent = batch.set_entries(Some(entries.collect())).send().await;
            assert!(sent.unwrap().failed.is_empty());
        }
        let (messages, accepted_before) = (messages.len(), server.accepted());
        let accepted = || usize::try_from(server.accepted() - accepted_before).unwrap();
        let before =
            self.aws.count("dynamodb", "UpdateItem") + self.aws.count("dynamodb", "PutItem");
        let (is_over, invocations, receives) = (
            AtomicBool::new(false),
            AtomicUsize::new(0),
            AtomicUsize::new(0),
        );
        let started = Instant::now();
        let work = join_all(self.workers.iter().map(|worker| async {
            while !is_over.load(Relaxed) {
                let batch = receive(&sqs, url).await;
                if batch.is_empty() {
                    continue;
                }
                invocations.fetch_add(1, Relaxed);
                let (event, most) = event(url, &batch);
                receives.fetch_max(most, Relaxed);
                let answer = worker.invoke(&event).await;
                delete(&sqs, url, &batch, &answer).await;
            }
        }));
        let until_sent = async {
            while accepted() < messages && started.elapsed() < CAMPAIGN {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let time = started.elapsed();
            is_over.store(true, Relaxed);
            (time, accepted())
        };
        let ((time, sent), _) = join(until_sent, work).await;
        let after =
            self.aws.count("dynamodb", "UpdateItem") + self.aws.count("dynamodb", "PutItem");
        let count = |count: usize| f64::from(u32::try_from(count).unwrap());
        Done {
            sent,
            time,
            invocations: invocations.into_inner(),
            most_receives: receives.into_inner(),
            writes_per_message: count(after - before) / count(messages),
        }
    }
}

async fn receive(sqs: &Client, url: &str) -> Vec<Message> {
    let mut batch = receive_up_to(sqs, url, BATCH, 1).await;
    if !batch.is_empty() && batch.len() < BATCH {
        tokio::time::sleep(WINDOW).await;
        batch.extend(receive_up_to(sqs, url, BATCH - batch.len(), 0).await);
    }
    batch
}

async fn receive_up_to(sqs: &Client, url: &str, messages: usize, wait: i32) -> Vec<Message> {
    let received = sqs
        .receive_message()
        .queue_url(url)
        .max_number_of_messages(i32::try_from(messages).unwrap())
        .wait_time_seconds(wait)
        .message_system_attribute_names(MessageSystemAttributeName::All)
        .message_attribute_names("All")
        .send()
        .await;
    received.unwrap().messages.unwrap_or_default()
}

/// The event of a batch, and the highest receive count in it.
fn event(url: &str, batch: &[Message]) -> (Value, usize) {
    let queue = url.rsplit('/').next().unwrap();
    let mut most = 0;
    let records: Vec<_> = batch
        .iter()
        .map(|message| {
            let attributes: serde_json::Map<_, _> = message
                .attributes()
                .into_iter()
                .flatten()
                .map(|(name, value)| (name.as_str().to_owned(), json!(value)))
                .collect();
            let count = attributes["ApproximateReceiveCount"].as_str().unwrap();
            most = most.max(count.parse().unwrap());
            json!({
                "messageId": message.message_id(), "receiptHandle": message.receipt_handle(),
                "body": message.body(), "md5OfBody": message.md5_of_body(), "attributes": attributes,
                "messageAttributes": {}, "eventSource": "aws:sqs", "awsRegion": "us-east-1",
                "eventSourceARN": format!("arn:aws:sqs:us-east-1:123456789012:{queue}")})
        })
        .collect();
    (json!({"Records": records}), most)
}

async fn delete(sqs: &Client, url: &str, batch: &[Message], answer: &Value) {
    let failed: HashSet<_> = answer["batchItemFailures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|failure| failure["itemIdentifier"].as_str().unwrap())
        .collect();
    let entries: Vec<_> = batch
        .iter()
        .enumerate()
        .filter(|(_, message)| !failed.contains(message.message_id().unwrap()))
        .map(|(number, message)| {
            DeleteMessageBatchRequestEntry::builder()
                .id(number.to_string())
                .set_receipt_handle(message.receipt_handle.clone())
                .build()
                .unwrap()
        })
        .collect();
    if !entries.is_empty() {
        let deleted = sqs.delete_message_batch().queue_url(url);
        deleted.set_entries(Some(entries)).send().await.unwrap();
    }
}
