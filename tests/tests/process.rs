//! A function as a process of its own under the Lambda Runtime API, as Lambda starts it.

use std::{
    fs::File,
    io::{Read, Seek},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use comms_testkit::{
    fault_proxy::{FaultProxy, ProxyFault},
    runtime_api::RuntimeApi,
};
use serde_json::{Value, json};
use tempfile::tempfile;

use crate::world::{World, communication, record};

/// The test that is a function's process when it is started with a Runtime API to serve.
const PROCESS: &str = "process::the_process_of_a_function";
/// What Lambda gives a function to find its Runtime API by, and its name.
const RUNTIME_API: &str = "AWS_LAMBDA_RUNTIME_API";
const FUNCTION_NAME: &str = "AWS_LAMBDA_FUNCTION_NAME";
/// A directory with the functions' programs, to have those tested instead of what is linked here.
const PROGRAMS: &str = "FUNCTIONS_DIR";
/// Far more than an invocation takes.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A function's `main`, in a process of its own: [`Process::start`] starts this program again with nothing but this
/// test. Among the other tests it has nothing to serve.
#[tokio::test]
async fn the_process_of_a_function() {
    if std::env::var_os(RUNTIME_API).is_none() {
        return;
    }
    let name = std::env::var(FUNCTION_NAME).unwrap();
    let function = comms_functions::named(&name).unwrap();
    let ended = (function.run)().await;
    ended.unwrap();
}

/// A function's process; killed with the test.
pub(crate) struct Process {
    function: &'static str,
    api: RuntimeApi,
    pub(crate) child: Child,
    output: File,
}

impl Process {
    /// Starts a function of this world.
    pub(crate) async fn start(world: &World, function: &'static str) -> Self {
        Self::start_with(world, function, &[]).await
    }

    /// The same with more variables.
    pub(crate) async fn start_with(
        world: &World,
        function: &'static str,
        variables: &[(&str, &str)],
    ) -> Self {
        let api = RuntimeApi::start().await;
        let output = tempfile().unwrap();
        let mut command = if let Some(programs) = std::env::var_os(PROGRAMS) {
            Command::new(Path::new(&programs).join(function))
        } else {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args([PROCESS, "--exact", "--nocapture", "--test-threads=1"]);
            command
        };
        let child = command
            .envs(world.variables(function))
            .envs(api.env(function))
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output.try_clone().unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{function} does not start: {error}"));
        Self {
            function,
            api,
            child,
            output,
        }
    }

    /// Invokes it and gives its answer.
    pub(crate) async fn invoke(&self, event: &str) -> Value {
        let payload = Bytes::from(event.to_owned());
        let answer = self.api.invoke(self.function, payload, TIMEOUT).await;
        let answer = answer.unwrap_or_else(|error| panic!("{error}\n{}", self.said()));
        serde_json::from_slice(&answer).unwrap()
    }

    /// What it wrote to its standard output and error.
    pub(crate) fn said(&self) -> String {
        let mut said = String::new();
        let mut output = &self.output;
        output.rewind().unwrap();
        output.read_to_string(&mut said).unwrap();
        said
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already. Neither minds being stopped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn process_whose_credentials_have_expired_answers_and_ends() {
    let world = World::saved().await;
    world.post(&communication()).await.expect(202);
    let proxy = FaultProxy::start(world.aws.endpoint()).await.unwrap();
    let endpoint = proxy.endpoint();
    let mut worker =
        Process::start_with(&world, "worker", &[("AWS_ENDPOINT_URL", endpoint.as_str())]).await;
    proxy.spoil(|call| (call.service != "sqs").then_some(ProxyFault::ExpiredToken));
    let event = json!({"Records": [record("message", &communication().to_string())]});
    let answer = worker.invoke(&event.to_string()).await;
    assert_eq!(answer["batchItemFailures"][0]["itemIdentifier"], "message");
    // Lambda starts a new one for the next invocation.
    let ended = tokio::task::spawn_blocking(move || {
        let ended = worker.child.wait();
        (ended, worker.said())
    });
    let (ended, said) = ended.await.unwrap();
    assert!(!ended.unwrap().success());
    assert!(said.contains("credentials have expired"), "{said}");
}
