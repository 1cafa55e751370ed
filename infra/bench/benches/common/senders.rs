//! Comparing senders: one thread, an adapter with messages in flight, and samples of rate and CPU time.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use comms_adapters::{Deadline, EgressGuard, Provider, egress::SystemResolver};
use comms_core::request::Content;
use tokio::{runtime::Runtime, task::JoinSet};

use crate::message::message;

/// A runtime with one thread, as in Lambda.
pub(crate) fn one_thread() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// A guard that allows connections to loopback.
pub(crate) fn loopback_guard() -> EgressGuard {
    EgressGuard::new("127.0.0.0/8".parse().unwrap(), Arc::new(SystemResolver))
}

/// Sends `messages` by an adapter, `in_flight` at a time.
pub(crate) async fn send_all(
    provider: impl Provider + 'static,
    content: &Arc<Content>,
    in_flight: usize,
    messages: usize,
) {
    let (provider, next) = (Arc::new(provider), Arc::new(AtomicUsize::new(0)));
    let mut senders = JoinSet::new();
    for _ in 0..in_flight {
        let (provider, next, content) = (provider.clone(), next.clone(), content.clone());
        senders.spawn(async move {
            loop {
                let number = next.fetch_add(1, Relaxed);
                if number >= messages {
                    return;
                }
                let deadline = Deadline::after(Duration::from_secs(30));
                let message = message(number, &content);
                provider.send(&message, deadline).await.unwrap();
            }
        });
    }
    senders.join_all().await;
}

/// One measurement of a sender.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    /// Messages a second.
    pub(crate) per_second: f64,
    /// CPU time of a message, in microseconds.
    pub(crate) cpu: f64,
}

impl Sample {
    /// `seconds` and `cpu` (in seconds) are those of all messages.
    pub(crate) fn new(messages: usize, seconds: f64, cpu: f64) -> Self {
        let messages = f64::from(u32::try_from(messages).unwrap());
        Self {
            per_second: messages / seconds,
            cpu: cpu * 1e6 / messages,
        }
    }
}

/// The median of a value of the samples; `None` without samples.
pub(crate) fn median(samples: &[Sample], value: impl Fn(&Sample) -> f64) -> Option<f64> {
    let mut values: Vec<_> = samples.iter().map(value).collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// The load average of the last minute.
pub(crate) fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap();
    load.split(' ').next().unwrap().to_owned()
}
