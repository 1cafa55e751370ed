//! The Lambda Runtime API, as the Lambda service offers it to a function's process.
//!
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>: a process asks for the `next` invocation, which
//! waits until there is one, and posts its `response` or its `error`; a process that cannot start posts an
//! `init/error`. One port serves many functions and many processes of each, told apart by a path prefix:
//! `AWS_LAMBDA_RUNTIME_API=http://127.0.0.1:PORT/FUNCTION/PROCESS` (the scheme is needed with a prefix).
//!
//! Nothing here starts a process: who does tells [`RuntimeApi::process_exited`] when one ends, so that the caller of
//! the invocation it had taken learns so at once rather than by time-out.

mod error;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use crate::host_guard::{CrossOrigin, HostGuard};

pub use self::error::InvocationError;

/// The largest payload of a synchronous invocation and of its answer, in bytes (6 MB).
pub const MAX_PAYLOAD: usize = 6 * 1024 * 1024;

type InvocationResult = Result<Bytes, InvocationError>;

/// The Lambda Runtime API on a loopback port. Clones share it; it closes when the last one is dropped.
#[derive(Debug, Clone)]
pub struct RuntimeApi {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    address: SocketAddr,
    functions: Functions,
    server: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// What is known of every function, by name. An entry appears with the first invocation or poll.
#[derive(Debug, Clone, Default)]
struct Functions {
    by_name: Arc<Mutex<HashMap<String, Arc<Function>>>>,
    one_each: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Function {
    state: Mutex<FunctionState>,
    /// One permit for each invocation that was queued.
    queued: Notify,
    /// Tells that a process asked for an invocation.
    asked: Notify,
}

#[derive(Debug, Default)]
struct FunctionState {
    pending: VecDeque<Invocation>,
    taken: HashMap<String, Taken>,
    /// Processes that have asked for an invocation.
    polled: HashSet<String>,
    /// Processes that have had one.
    served: HashSet<String>,
}

#[derive(Debug)]
struct Invocation {
    id: String,
    payload: Bytes,
    timeout: Duration,
    /// Tells the caller who took it.
    on_taken: oneshot::Sender<String>,
    answer: oneshot::Sender<InvocationResult>,
}

#[derive(Debug)]
struct Taken {
    process: String,
    answer: oneshot::Sender<InvocationResult>,
}

impl Functions {
    fn get(&self, name: &str) -> Arc<Function> {
        let mut functions = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(functions.entry(name.to_owned()).or_default())
    }
}

impl Function {
    fn state(&self) -> MutexGuard<'_, FunctionState> {
        // Every statement leaves the state whole, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for an invocation and marks it as taken by `process`.
    async fn take(&self, process: &str, one_each: bool) -> (String, Bytes, Duration) {
        if one_each && self.state().served.contains(process) {
            return std::future::pending().await;
        }
        loop {
            // Registered before the look at the queue: an invocation queued in between is not missed.
            let queued = self.queued.notified();
            {
                let mut state = self.state();
                state.polled.insert(process.to_owned());
                self.asked.notify_waiters();
                while let Some(invocation) = state.pending.pop_front() {
                    if invocation.on_taken.send(process.to_owned()).is_err() {
                        // Its caller has given up.
                        continue;
                    }
                    let taken = Taken {
                        process: process.to_owned(),
                        answer: invocation.answer,
                    };
                    state.taken.insert(invocation.id.clone(), taken);
                    state.served.insert(process.to_owned());
                    return (invocation.id, invocation.payload, invocation.timeout);
                }
            }
            queued.await;
        }
    }

    /// Hands an answer to the caller. `false` when the invocation is unknown or over.
    fn answer(&self, id: &str, answer: InvocationResult) -> bool {
        let taken = self.state().taken.remove(id);
        taken.is_some_and(|taken| taken.answer.send(answer).is_ok())
    }

    fn fail_pending(&self, error: &InvocationError) {
        for invocation in std::mem::take(&mut self.state().pending) {
            let _ = invocation.answer.send(Err(error.clone()));
        }
    }
}

impl RuntimeApi {
    /// Starts on a free loopback port.
    ///
    /// # Panics
    /// When no loopback port can be had.
    #[allow(clippy::panic, reason = "for tests; start_on is for others")]
    pub async fn start() -> Self {
        let started = match TcpListener::bind(("127.0.0.1", 0)).await {
            Ok(listener) => Self::start_on(listener),
            Err(error) => Err(error),
        };
        match started {
            Ok(api) => api,
            Err(error) => panic!("the Runtime API does not start: {error}"),
        }
    }

    /// Starts on `listener`. Must be called within a tokio runtime.
    pub fn start_on(listener: TcpListener) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let functions = Functions::default();
        let routes = Router::new()
            .route("/runtime/invocation/next", get(next))
            .route("/runtime/invocation/{id}/response", post(response))
            .route("/runtime/invocation/{id}/error", post(error))
            .route("/runtime/init/error", post(init_error));
        let app = Router::new()
            .nest("/{function}/{process}/2018-06-01", routes)
            .with_state(functions.clone());
        // Only the functions' processes, which are given this address, have business here.
        let app = HostGuard::new(address, CrossOrigin::Nothing, &[]).protect(app);
        let server = tokio::spawn(async move {
            // It ends with its task; accept errors are retried inside.
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self {
            inner: Arc::new(Inner {
                address,
                functions,
                server,
            }),
        })
    }

    /// The environment with which a process serves `function`, for a function that has one process at a time.
    pub fn env(&self, function: &str) -> Vec<(String, String)> {
        self.env_of_process(function, "only")
    }

    /// The environment with which the process named `process` serves `function`. The name is the caller's: any text
    /// of letters, digits, `-` and `_` that no other process of the function has.
    pub fn env_of_process(&self, function: &str, process: &str) -> Vec<(String, String)> {
        [
            (
                "AWS_LAMBDA_RUNTIME_API",
                format!("http://{}/{function}/{process}", self.inner.address),
            ),
            ("AWS_LAMBDA_FUNCTION_NAME", function.to_owned()),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256".to_owned()),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
            (
                "AWS_LAMBDA_LOG_GROUP_NAME",
                format!("/aws/lambda/{function}"),
            ),
            ("AWS_LAMBDA_LOG_STREAM_NAME", process.to_owned()),
            ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned()),
            ("_HANDLER", "bootstrap".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// Invokes `function` and waits for its answer. `timeout` is the function's own: it counts from when a process
    /// takes the invocation, which is when its deadline is set; the wait for a process may take as long again.
    pub async fn invoke(
        &self,
        function: &str,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, InvocationError> {
        self.invoke_and_name(function, payload, timeout).await.1
    }

    /// Like [`invoke`](Self::invoke), and names the process that took the invocation, if one did.
    pub async fn invoke_and_name(
        &self,
        function: &str,
        payload: Bytes,
        timeout: Duration,
    ) -> (Option<String>, Result<Bytes, InvocationError>) {
        if payload.len() > MAX_PAYLOAD {
            let bytes = payload.len();
            return (None, Err(InvocationError::TooLarge { bytes }));
        }
        let function = self.inner.functions.get(function);
        let id = uuid::Uuid::new_v4().to_string();
        let (on_taken, taken) = oneshot::channel();
        let (answer, answered) = oneshot::channel();
        function.state().pending.push_back(Invocation {
            id: id.clone(),
            payload,
            timeout,
            on_taken,
            answer,
        });
        function.queued.notify_one();
        // When the caller goes away, so does the invocation; a process that has it already will be told so.
        let _forget = Forget {
            function: &function,
            id: &id,
        };

        let process = match tokio::time::timeout(timeout, taken).await {
            Ok(Ok(process)) => process,
            // Dropped without having been taken: no process could start, and the answer says why.
            Ok(Err(_)) => {
                return (None, answered.await.unwrap_or(Err(InvocationError::Closed)));
            }
            Err(_) => return (None, Err(InvocationError::TimedOut { process: None })),
        };
        let answer = match tokio::time::timeout(timeout, answered).await {
            Ok(answer) => answer.unwrap_or(Err(InvocationError::Closed)),
            Err(_) => Err(InvocationError::TimedOut {
                process: Some(process.clone()),
            }),
        };
        (Some(process), answer)
    }

    /// Waits until a process of `function` has asked for an invocation: it has started.
    pub async fn asked(&self, function: &str) {
        let function = self.inner.functions.get(function);
        loop {
            // Registered before the look at who has asked.
            let asked = function.asked.notified();
            if !function.state().polled.is_empty() {
                return;
            }
            asked.await;
        }
    }

    /// From now on no process of any function gets a second invocation: its next `next` waits until the process is
    /// ended. So every invocation meets a process that has just started, as after a cold start.
    pub fn hand_out_one_each(&self) {
        self.inner.functions.one_each.store(true, Ordering::Relaxed);
    }

    /// Says that a process has ended, and how (such as `exit status: 1` or `signal: 9`). The invocation it had taken
    /// fails; if it never asked for one, it could not start, and every waiting invocation fails with that.
    pub fn process_exited(&self, function: &str, process: &str, reason: &str) {
        let function = self.inner.functions.get(function);
        let (taken, started) = {
            let mut state = function.state();
            let taken: Vec<Taken> = state
                .taken
                .extract_if(|_, taken| taken.process == process)
                .map(|(_, taken)| taken)
                .collect();
            state.served.remove(process);
            (taken, state.polled.remove(process))
        };
        for taken in taken {
            let _ = taken.answer.send(Err(InvocationError::Exited {
                process: taken.process,
                reason: reason.to_owned(),
            }));
        }
        if !started {
            function.fail_pending(&InvocationError::InitFailed {
                error_type: "Runtime.ExitError".to_owned(),
                message: reason.to_owned(),
            });
        }
    }

    /// How many invocations of `function` wait for a process.
    pub fn pending(&self, function: &str) -> usize {
        self.inner.functions.get(function).state().pending.len()
    }
}

/// Removes an invocation nobody waits for any more.
struct Forget<'a> {
    function: &'a Function,
    id: &'a str,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut state = self.function.state();
        state.taken.remove(self.id);
        state.pending.retain(|invocation| invocation.id != self.id);
    }
}

async fn next(
    State(functions): State<Functions>,
    Path((name, process)): Path<(String, String)>,
) -> Response {
    let one_each = functions.one_each.load(Ordering::Relaxed);
    let (id, payload, timeout) = functions.get(&name).take(&process, one_each).await;
    let deadline = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        + timeout;
    let headers = [
        ("content-type", "application/json".to_owned()),
        ("lambda-runtime-aws-request-id", id),
        (
            "lambda-runtime-deadline-ms",
            deadline.as_millis().to_string(),
        ),
        (
            "lambda-runtime-invoked-function-arn",
            format!("arn:aws:lambda:us-east-1:123456789012:function:{name}"),
        ),
        (
            "lambda-runtime-trace-id",
            trace_id(deadline.saturating_sub(timeout)),
        ),
    ];
    (headers, payload).into_response()
}

/// An X-Ray trace header of a request that is not sampled.
fn trace_id(now: Duration) -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    let (parent, root) = random.split_at(8);
    format!(
        "Root=1-{:08x}-{root};Parent={parent}{parent};Sampled=0",
        now.as_secs()
    )
}

async fn response(
    State(functions): State<Functions>,
    Path((name, _, id)): Path<(String, String, String)>,
    body: Body,
) -> Response {
    let function = functions.get(&name);
    match Limited::new(body, MAX_PAYLOAD).collect().await {
        Ok(body) => accepted(function.answer(&id, Ok(body.to_bytes()))),
        Err(error) if error.is::<LengthLimitError>() => {
            function.answer(&id, Err(InvocationError::ResponseTooLarge));
            refused(
                StatusCode::PAYLOAD_TOO_LARGE,
                "RequestEntityTooLarge",
                "Exceeded maximum allowed payload size (6291556 bytes).",
            )
        }
        // The process hung up halfway; process_exited will say so.
        Err(_) => refused(
            StatusCode::BAD_REQUEST,
            "InvalidRequest",
            "incomplete response",
        ),
    }
}

async fn error(
    State(functions): State<Functions>,
    Path((name, _, id)): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (error_type, message) = diagnostic(&headers, &body);
    let answer = Err(InvocationError::Function {
        error_type,
        message,
    });
    accepted(functions.get(&name).answer(&id, answer))
}

async fn init_error(
    State(functions): State<Functions>,
    Path((name, _)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (error_type, message) = diagnostic(&headers, &body);
    functions
        .get(&name)
        .fail_pending(&InvocationError::InitFailed {
            error_type,
            message,
        });
    accepted(true)
}

/// Kind and text of an error report: `{"errorType", "errorMessage"}`, the kind else from the header.
fn diagnostic(headers: &HeaderMap, body: &[u8]) -> (String, String) {
    let report: Value = serde_json::from_slice(body).unwrap_or_default();
    let error_type = report["errorType"]
        .as_str()
        .or_else(|| {
            headers
                .get("lambda-runtime-function-error-type")
                .and_then(|v| v.to_str().ok())
        })
        .unwrap_or("Unhandled")
        .to_owned();
    let message = report["errorMessage"].as_str().map_or_else(
        || String::from_utf8_lossy(body).into_owned(),
        ToOwned::to_owned,
    );
    (error_type, message)
}

fn accepted(known: bool) -> Response {
    if known {
        (StatusCode::ACCEPTED, axum::Json(json!({"status": "OK"}))).into_response()
    } else {
        refused(
            StatusCode::BAD_REQUEST,
            "InvalidRequestID",
            "Invalid request ID",
        )
    }
}

fn refused(status: StatusCode, error_type: &str, message: &str) -> Response {
    let body = json!({"errorType": error_type, "errorMessage": message});
    (status, axum::Json(body)).into_response()
}
