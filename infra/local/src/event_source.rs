//! The event source mappings of the queues, with the numbers of the deployed template.

use std::time::Duration;

use comms_functions::{Function, SourceQueue, Trigger};

/// Processes of an HTTP function: enough to see concurrency, and few enough for a laptop.
const MAX_HTTP_PROCESSES: usize = 10;

/// How a function takes from one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventSource {
    /// What the queue is called on the console.
    pub(crate) name: &'static str,
    /// Batches of the queue that are at work at the same time, as the template's parameters have it.
    pub(crate) batches: usize,
    /// How long a batch that is not full waits for more messages.
    pub(crate) window: Duration,
}

impl EventSource {
    /// The mapping of a queue: `WorkerConcurrency` and `UrgentWorkerConcurrency` of the template.
    pub(crate) const fn of(queue: SourceQueue) -> Self {
        match queue {
            SourceQueue::Normal => Self {
                name: "queue",
                batches: 20,
                window: Duration::from_millis(200),
            },
            // No batch of it waits.
            SourceQueue::Urgent => Self {
                name: "urgent queue",
                batches: 10,
                window: Duration::ZERO,
            },
        }
    }
}

/// The processes that a function may have. One that is invoked for queues has one for every batch that may be at work,
/// or batches of one queue would hold up those of the other.
pub(crate) fn max_processes(function: &Function) -> usize {
    match function.trigger {
        Trigger::Http(_) => MAX_HTTP_PROCESSES,
        Trigger::Sqs(queues) => queues
            .iter()
            .map(|queue| EventSource::of(*queue).batches)
            .sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_batches_are_at_work_as_the_template_allows_by_default() {
        let template = include_str!("../../../template.yaml");
        let default = |parameter: &str| {
            let (_, of_parameter) = template.split_once(&format!("\n  {parameter}:\n")).unwrap();
            let (_, value) = of_parameter.split_once("    Default: ").unwrap();
            value.lines().next().unwrap().parse::<usize>().unwrap()
        };
        assert_eq!(
            EventSource::of(SourceQueue::Normal).batches,
            default("WorkerConcurrency")
        );
        assert_eq!(
            EventSource::of(SourceQueue::Urgent).batches,
            default("UrgentWorkerConcurrency")
        );
    }
}
