//! The functions' processes: this very program, started again as each function under the Runtime API.
//!
//! As in Lambda, a process serves one invocation at a time, a second one starts when all are busy, and one that ends
//! is replaced by the next invocation that needs it. A process that does not answer in time is killed, as Lambda
//! does, and with `--cold` every process is killed after its first invocation.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use comms_functions::Function;
use comms_testkit::runtime_api::{InvocationError, RuntimeApi};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Notify;

use crate::console::{say, warn};
use crate::event_source::max_processes;
use crate::function_logs::FunctionLogs;

/// Starts the functions' processes and invokes them. Clones share them; they end with the last clone.
#[derive(Clone)]
pub(crate) struct Processes {
    inner: Arc<Inner>,
}

struct Inner {
    api: RuntimeApi,
    program: PathBuf,
    environment: Vec<(OsString, OsString)>,
    cold: bool,
    logs: Arc<FunctionLogs>,
    pools: HashMap<&'static str, Mutex<Pool>>,
}

#[derive(Default)]
struct Pool {
    /// Invocations that have a process or wait for one.
    in_flight: usize,
    /// Processes that have not ended, with the signal that ends them.
    live: HashMap<String, Arc<Notify>>,
    /// The number of the latest process.
    number: u64,
}

impl Processes {
    /// Prepares to start `program function NAME` with nothing of AWS in its environment but `environment`.
    pub(crate) fn new(
        api: RuntimeApi,
        program: PathBuf,
        environment: Vec<(OsString, OsString)>,
        cold: bool,
        logs: FunctionLogs,
    ) -> Self {
        if cold {
            api.hand_out_one_each();
        }
        let pools = comms_functions::ALL
            .map(|function| (function.name, Mutex::default()))
            .into();
        Self {
            inner: Arc::new(Inner {
                api,
                program,
                environment,
                cold,
                logs: Arc::new(logs),
                pools,
            }),
        }
    }

    /// Invokes a function within its time-out, in a process that is started when none is free.
    pub(crate) async fn invoke(
        &self,
        function: &'static Function,
        payload: Bytes,
    ) -> Result<Bytes, InvocationError> {
        let _in_flight = self.admit(function)?;
        let (process, answer) = self
            .inner
            .api
            .invoke_and_name(function.name, payload, function.timeout())
            .await;
        let timed_out = matches!(answer, Err(InvocationError::TimedOut { .. }));
        if let Some(process) = process
            && (timed_out || self.inner.cold)
        {
            self.kill(function, &process);
        }
        answer
    }

    /// Counts an invocation in, and starts a process when there are more invocations than processes.
    fn admit(&self, function: &'static Function) -> Result<InFlight<'_>, InvocationError> {
        let mut pool = self.inner.pool(function);
        if pool.in_flight >= pool.live.len() && pool.live.len() < max_processes(function) {
            let started = self.start(function, &mut pool);
            if pool.live.is_empty() {
                started?;
            }
        }
        pool.in_flight += 1;
        Ok(InFlight {
            processes: self,
            function,
        })
    }

    fn start(&self, function: &'static Function, pool: &mut Pool) -> Result<(), InvocationError> {
        pool.number += 1;
        let name = format!("{function}-{}", pool.number);
        let mut command = Command::new(&self.inner.program);
        command
            .args(["function", function.name])
            .arg0("clinic-comms-local");
        // The developer's own AWS profile, keys and endpoints must not reach code that believes it is in Lambda.
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("AWS_") {
                command.env_remove(variable);
            }
        }
        command
            .envs(self.inner.environment.iter().map(|(k, v)| (k, v)))
            .envs(self.inner.api.env_of_process(function.name, &name))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Its own group: a Ctrl-C in the terminal is for the stack, which ends its processes itself.
            .process_group(0)
            .kill_on_drop(true);
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                warn(format_args!("[{function}] cannot be started: {error}"));
                return Err(InvocationError::InitFailed {
                    error_type: "Runtime.InvalidEntrypoint".to_owned(),
                    message: error.to_string(),
                });
            }
        };
        let kill = Arc::new(Notify::new());
        pool.live.insert(name.clone(), Arc::clone(&kill));
        // The task must not keep the stack alive, or its processes would outlive it.
        let inner = Arc::downgrade(&self.inner);
        let logs = Arc::clone(&self.inner.logs);
        tokio::spawn(async move {
            let (status, killed) = watch(child, function, &kill, &logs).await;
            let Some(inner) = inner.upgrade() else {
                return;
            };
            let ended = Self { inner };
            ended.ended(function, &name, &status, killed);
        });
        Ok(())
    }

    fn kill(&self, function: &'static Function, process: &str) {
        if let Some(kill) = self.inner.pool(function).live.remove(process) {
            kill.notify_one();
        }
    }

    /// Handles the end of a process: its invocation fails, and waiting invocations get a new process.
    fn ended(&self, function: &'static Function, name: &str, status: &str, killed: bool) {
        let mut pool = self.inner.pool(function);
        pool.live.remove(name);
        if !killed {
            warn(format_args!(
                "[{function}] {name} ended by itself ({status}); the next invocation starts another"
            ));
        }
        self.inner.api.process_exited(function.name, name, status);
        if self.inner.api.pending(function.name) > 0 && pool.in_flight > pool.live.len() {
            // When that fails too, the waiting invocations run into their time-out; the reason has been printed.
            let _ = self.start(function, &mut pool);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for function in comms_functions::ALL {
            for kill in self.pool(function).live.values() {
                kill.notify_one();
            }
        }
    }
}

impl Inner {
    fn pool(&self, function: &'static Function) -> MutexGuard<'_, Pool> {
        // Every function has its pool from the beginning; each statement leaves a pool whole.
        self.pools[function.name]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts an invocation out again, however it ends.
struct InFlight<'a> {
    processes: &'a Processes,
    function: &'static Function,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.processes.inner.pool(self.function).in_flight -= 1;
    }
}

/// Passes a process's output on until it ends, by itself or by `kill`, and says how it ended and whether by `kill`.
async fn watch(
    mut child: Child,
    function: &'static Function,
    kill: &Notify,
    logs: &Arc<FunctionLogs>,
) -> (String, bool) {
    let stdout = child.stdout.take();
    let stdout = stdout.map(|pipe| tokio::spawn(relay(pipe, function, Arc::clone(logs))));
    let stderr = child.stderr.take();
    let stderr = stderr.map(|pipe| tokio::spawn(relay(pipe, function, Arc::clone(logs))));
    let mut killed = false;
    let status = tokio::select! {
        status = child.wait() => status,
        () = kill.notified() => {
            killed = true;
            // An error means that it has ended in the meantime.
            let _ = child.start_kill();
            child.wait().await
        }
    };
    // The last words come before the news of the end.
    for relay in [stdout, stderr].into_iter().flatten() {
        let _ = relay.await;
    }
    (describe(status), killed)
}

fn describe(status: std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => format!("unknown end: {error}"),
    }
}

/// Passes a process's lines on.
async fn relay(pipe: impl AsyncRead + Unpin, function: &'static Function, logs: Arc<FunctionLogs>) {
    let mut lines = BufReader::new(pipe).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        logs.take(function, &line);
    }
}

/// The program to start as a function: this one.
pub(crate) fn this_program() -> std::io::Result<PathBuf> {
    // By this name the running program is found even after a build has replaced its file.
    let running = PathBuf::from("/proc/self/exe");
    if running.exists() {
        return Ok(running);
    }
    std::env::current_exe()
}

/// Says once what the processes are, for the start-up lines.
pub(crate) fn announce(cold: bool) {
    if cold {
        say("           every invocation starts a new process (--cold)");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn send() -> &'static Function {
        comms_functions::named("send").unwrap()
    }

    /// A program that runs `script`, with `function NAME` as its arguments.
    fn program(script: &str) -> tempfile::TempPath {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "#!/bin/sh\n{script}").unwrap();
        let path = file.into_temp_path();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    #[tokio::test]
    async fn a_program_that_ends_before_it_serves_fails_the_invocation_at_once() {
        let script = program("exit 3");
        let api = RuntimeApi::start().await;
        let processes = Processes::new(
            api,
            script.to_path_buf(),
            Vec::new(),
            false,
            FunctionLogs::default(),
        );
        let error = processes.invoke(send(), Bytes::new()).await.unwrap_err();
        assert!(
            matches!(&error, InvocationError::InitFailed { message, .. } if message == "exit status: 3"),
            "{error}"
        );
        assert!(processes.inner.pool(send()).live.is_empty());
        assert_eq!(processes.inner.pool(send()).in_flight, 0);
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_fails_the_invocation_at_once() {
        let api = RuntimeApi::start().await;
        let processes = Processes::new(
            api,
            "/nowhere/at/all".into(),
            Vec::new(),
            false,
            FunctionLogs::default(),
        );
        let error = processes.invoke(send(), Bytes::new()).await.unwrap_err();
        assert!(
            matches!(error, InvocationError::InitFailed { .. }),
            "{error}"
        );
    }

    #[tokio::test]
    async fn processes_end_with_the_stack() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = program(&format!("echo $$ > {}; exec sleep 60", file.display()));
        let api = RuntimeApi::start().await;
        let processes = Processes::new(
            api,
            script.to_path_buf(),
            Vec::new(),
            false,
            FunctionLogs::default(),
        );
        let invocation = processes.invoke(send(), Bytes::new());
        let waiting = async {
            while std::fs::read_to_string(&file)
                .unwrap_or_default()
                .is_empty()
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = invocation => panic!("nothing answers"),
            () = waiting => {}
        }
        assert_eq!(processes.inner.pool(send()).live.len(), 1);
        let pid = std::fs::read_to_string(&file).unwrap();
        let process = std::path::Path::new("/proc").join(pid.trim());
        assert!(process.exists());
        drop(processes);
        while process.exists() {
            tokio::task::yield_now().await;
        }
    }
}
