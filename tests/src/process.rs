//! A function as a process of its own under the Lambda Runtime API, as Lambda starts it.
//!
//! The process is the running test program, started again with one test: each program that starts one has in its root
//!
//! ```ignore
//! #[tokio::test]
//! async fn function_process() {
//!     comms_tests::process::serve().await;
//! }
//! ```

use std::{
    fs::File,
    io::{Read, Seek},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use comms_testkit::runtime_api::RuntimeApi;
use serde_json::Value;
use tempfile::tempfile;

use crate::world::World;

/// The test that is a function's process when it is started with a Runtime API to serve.
const PROCESS: &str = "function_process";

/// What Lambda gives a function to find its Runtime API by, and its name.
const RUNTIME_API: &str = "AWS_LAMBDA_RUNTIME_API";

const FUNCTION_NAME: &str = "AWS_LAMBDA_FUNCTION_NAME";

/// A directory with the functions' programs, to have those tested instead of what is linked here.
const PROGRAMS: &str = "FUNCTIONS_DIR";

/// Far more than an invocation takes.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The `main` of the function that the environment names, where there is a Runtime API to serve; without one, nothing.
pub async fn serve() {
    if std::env::var_os(RUNTIME_API).is_none() {
        return;
    }
    let name = std::env::var(FUNCTION_NAME).unwrap();
    let function = comms_functions::named(&name).unwrap();
    let ended = (function.run)().await;
    ended.unwrap();
}

/// A function's process; killed with the test.
pub struct Process {
    function: &'static str,
    api: RuntimeApi,
    pub child: Child,
    output: File,
}

impl Process {
    /// Starts a function of this world.
    pub async fn start(world: &World, function: &'static str) -> Self {
        Self::start_with(world, function, &[]).await
    }

    /// The same with more variables.
    pub async fn start_with(
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
    pub async fn invoke(&self, event: &str) -> Value {
        let payload = Bytes::from(event.to_owned());
        let answer = self.api.invoke(self.function, payload, TIMEOUT).await;
        let answer = answer.unwrap_or_else(|error| panic!("{error}\n{}", self.said()));
        serde_json::from_slice(&answer).unwrap()
    }

    /// What it wrote to its standard output and error.
    pub fn said(&self) -> String {
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
