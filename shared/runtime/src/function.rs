//! The declaration of a Lambda function. Each function's package has one; `comms-functions` lists them for the local
//! stack, the build and the tests.

use std::{fmt, time::Duration};

use futures_util::future::LocalBoxFuture;

use crate::http::routes::Route;

/// A queue whose messages invoke a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceQueue {
    /// Communications of normal priority.
    Normal,
    /// Communications of high and critical priority.
    Urgent,
}

impl SourceQueue {
    /// The logical id of the queue in the SAM template.
    pub fn logical_id(self) -> &'static str {
        match self {
            Self::Normal => "Queue",
            Self::Urgent => "UrgentQueue",
        }
    }
}

/// What invokes a function.
#[derive(Debug, Clone, Copy)]
pub enum Trigger {
    /// API Gateway, for these routes.
    Http(fn() -> Vec<Route>),
    /// An SQS event source mapping for each of these queues.
    Sqs(&'static [SourceQueue]),
}

/// A Lambda function.
#[derive(Debug)]
pub struct Function {
    /// The name of its program, and of its directory below `functions/`.
    pub name: &'static str,
    /// What invokes it.
    pub trigger: Trigger,
    /// The time limit of an invocation (`Timeout` of the SAM template). API Gateway waits for 30 s, so an HTTP function
    /// ends before it does.
    pub timeout_seconds: u64,
    /// Serves invocations under the Lambda Runtime API until the environment ends.
    pub run: fn() -> LocalBoxFuture<'static, Result<(), lambda_runtime::Error>>,
}

impl Function {
    /// The name of its Cargo package.
    pub fn package(&self) -> String {
        format!("comms-{}", self.name)
    }

    /// Its logical id in the SAM template: `ConfigTestFunction` for `config-test`.
    pub fn logical_id(&self) -> String {
        let words = self.name.split('-').map(|word| {
            let mut letters = word.chars();
            let first = letters.next().map(|letter| letter.to_ascii_uppercase());
            first.into_iter().chain(letters).collect::<String>()
        });
        words.collect::<String>() + "Function"
    }

    /// The time limit of an invocation.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }

    /// Its routes; none if it is not invoked by HTTP.
    pub fn routes(&self) -> Vec<Route> {
        match self.trigger {
            Trigger::Http(routes) => routes(),
            Trigger::Sqs(_) => Vec::new(),
        }
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Function {}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_named_alike_in_cargo_and_in_the_template() {
        let function = Function {
            name: "config-test",
            trigger: Trigger::Sqs(&[SourceQueue::Urgent]),
            timeout_seconds: 30,
            run: || Box::pin(async { Ok(()) }),
        };
        assert_eq!(function.package(), "comms-config-test");
        assert_eq!(function.logical_id(), "ConfigTestFunction");
        assert_eq!(function.routes(), []);
    }
}
