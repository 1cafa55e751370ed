//! A worker as a process of its own: this test program, started again with a test that is its `main`.

use std::{
    io::Read,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use aws_sdk_sqs::config::{retry::RetryConfig, timeout::TimeoutConfig};
use aws_types::SdkConfig;
use bytes::Bytes;
use comms_core::Clock;
use comms_runtime::{Environment, aws, sqs::SqsEvent, telemetry};
use comms_testkit::{
    aws::Resources,
    runtime_api::{InvocationError, RuntimeApi},
};
use comms_tests::worker_with;
use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::{Value, json};

use super::clock::ToldClock;

/// The test below.
const PROCESS: &str = "kills::process::the_workers_process";
/// Where the process finds by how much its clock is fast.
const CLOCK: &str = "FAULTS_CLOCK";
/// What an invocation may take. Nothing here waits for that to be over, so it is far more than is needed, but less than
/// SQS waits with bringing a message again.
const TIMEOUT: Duration = Duration::from_mins(1);

/// The worker's `main`, but for the clock and for how long its AWS clients wait. Among the other tests it has nothing
/// to do.
#[tokio::test]
async fn the_workers_process() {
    let Some(clock) = std::env::var_os(CLOCK) else {
        return;
    };
    let environment = Environment::of_process();
    telemetry::init(&environment);
    let sdk = impatient(&aws::sdk_config(&environment).unwrap());
    let roots = environment.file("EXTRA_CA_FILE").unwrap();
    let required = |name| environment.required(name);
    let resources = Resources {
        settings_table: required("SETTINGS_TABLE"),
        deliveries_table: required("DELIVERIES_TABLE"),
        kms_key_id: required("KMS_KEY_ID"),
        queue_url: required("QUEUE_URL"),
        urgent_queue_url: required("URGENT_QUEUE_URL"),
        dlq_url: required("DEAD_LETTER_QUEUE_URL"),
    };
    environment.finish().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(ToldClock(clock.into()));
    let deps = Arc::new(worker_with(&sdk, &resources, &roots, clock));
    let worker = service_fn(move |event: LambdaEvent<SqsEvent>| {
        let deps = deps.clone();
        async move { Ok::<_, lambda_runtime::Error>(comms_worker::handle(&deps, event).await) }
    });
    lambda_runtime::run(worker).await.unwrap();
}

/// The same retries with next to no waits between them, and so much time for each that a call which a run holds back is
/// not given up.
pub(super) fn impatient(sdk: &SdkConfig) -> SdkConfig {
    let retries = RetryConfig::standard().with_initial_backoff(Duration::from_millis(2));
    let timeouts = TimeoutConfig::builder()
        .operation_attempt_timeout(TIMEOUT)
        .operation_timeout(TIMEOUT)
        .build();
    sdk.clone()
        .into_builder()
        .retry_config(retries)
        .timeout_config(timeouts)
        .build()
}

/// A worker process; killed with the last who has it.
pub(super) struct Process {
    /// The id of its access key, by which its calls of AWS are known.
    pub(super) key: String,
    function: String,
    runtime: RuntimeApi,
    child: Mutex<Child>,
    was_killed: AtomicBool,
    /// Reads what it says until it has ended.
    listener: Mutex<Option<JoinHandle<String>>>,
}

/// How an invocation ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// With the ids in `batchItemFailures`.
    Answered(Vec<String>),
    /// With the process.
    Killed,
}

impl Process {
    /// Starts one with these variables. `number` is its own among those of `runtime`.
    pub(super) fn start(
        runtime: &RuntimeApi,
        number: u64,
        clock: &std::path::Path,
        variables: Vec<(String, String)>,
    ) -> Self {
        let (function, key) = (
            format!("worker-{number}"),
            format!("AKIAWORKER{number:010}"),
        );
        let (mut reader, writer) = std::io::pipe().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args([PROCESS, "--exact", "--nocapture", "--test-threads=1"])
            .envs(variables)
            .envs(runtime.env(&function))
            .env("AWS_ACCESS_KEY_ID", &key)
            .env(CLOCK, clock)
            .stdin(Stdio::null())
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .spawn()
            .unwrap();
        let (api, name) = (runtime.clone(), function.clone());
        let listener = std::thread::spawn(move || {
            let mut said = Vec::new();
            let _ = reader.read_to_end(&mut said);
            // Whoever waits for its answer is told at once that there will be none.
            api.process_exited(&name, "only", "it has ended");
            String::from_utf8_lossy(&said).into_owned()
        });
        Self {
            key,
            function,
            runtime: runtime.clone(),
            child: Mutex::new(child),
            was_killed: AtomicBool::new(false),
            listener: Mutex::new(Some(listener)),
        }
    }

    /// Sends it SIGKILL, and returns when it is gone.
    pub(super) fn kill(&self) {
        self.was_killed.store(true, Ordering::Relaxed);
        let mut child = self.child.lock().unwrap();
        // It may have ended already, and does not mind.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Invokes it with these records. `Err` says what should not have happened.
    pub(super) async fn invoke(&self, records: &[Value]) -> Result<Ending, String> {
        let payload = Bytes::from(json!({"Records": records}).to_string());
        let answer = self.runtime.invoke(&self.function, payload, TIMEOUT).await;
        match answer {
            Ok(answer) => {
                let answer: Value = serde_json::from_slice(&answer).unwrap();
                let failures = answer["batchItemFailures"].as_array().unwrap().iter();
                let ids = failures.map(|item| item["itemIdentifier"].as_str().unwrap().to_owned());
                Ok(Ending::Answered(ids.collect()))
            }
            Err(InvocationError::Exited { .. } | InvocationError::InitFailed { .. })
                if self.was_killed.load(Ordering::Relaxed) =>
            {
                Ok(Ending::Killed)
            }
            Err(error) => Err(format!("{error}\n{}", self.said())),
        }
    }

    /// Ends it, and returns what it said.
    pub(super) fn said(&self) -> String {
        self.kill();
        let listener = self.listener.lock().unwrap().take();
        listener.map_or_else(String::new, |listener| listener.join().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
