//! A local stack as a process, for the tests that use one.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// A port that is free.
pub(crate) const FREE: &str = "127.0.0.1:0";

/// Far more than it takes (about a second); a hang must not hang the test run.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running stack, whose API and AWS are on free ports; killed with the test.
pub(crate) struct Stack {
    /// The process.
    pub(crate) child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    /// Where its standard error goes: of interest only when something fails.
    errors: PathBuf,
}

impl Stack {
    pub(crate) fn start(home: &Path, arguments: &[&str]) -> std::io::Result<Self> {
        let errors = home.join("stderr");
        let mut child = Command::new(env!("CARGO_BIN_EXE_clinic-comms-local"))
            .args(["--http", FREE, "--aws", FREE])
            .args(arguments)
            .env("XDG_CACHE_HOME", home)
            .env_remove("EGRESS_ALLOW")
            .env_remove("EXTRA_CA_FILE")
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&errors)?)
            .spawn()?;
        let (sender, lines) = channel();
        let stdout = child.stdout.take();
        thread::spawn(move || {
            for line in stdout
                .into_iter()
                .flat_map(|out| BufReader::new(out).lines())
            {
                match line.map(|line| sender.send(line)) {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) | Err(_) => return,
                }
            }
        });
        Ok(Self {
            child,
            lines,
            seen: Vec::new(),
            errors,
        })
    }

    /// The first line with `part`, among those that came and those to come.
    pub(crate) fn line(&mut self, part: &str) -> Result<String, String> {
        let begin = Instant::now();
        loop {
            if let Some(line) = self.seen.iter().find(|line| line.contains(part)) {
                return Ok(line.clone());
            }
            let rest = PATIENCE.saturating_sub(begin.elapsed());
            let Ok(line) = self.lines.recv_timeout(rest) else {
                let errors = std::fs::read_to_string(&self.errors).unwrap_or_default();
                return Err(format!("no {part:?} in {:#?}\n{errors}", self.seen));
            };
            self.seen.push(line);
        }
    }

    /// The first URL of the line with `part`.
    pub(crate) fn url(&mut self, part: &str) -> Result<String, String> {
        let line = self.line(part)?;
        let url = line.split_whitespace().find(|word| word.contains("://"));
        url.map(str::to_owned).ok_or(line)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A developer token.
pub(crate) fn token(home: &Path, arguments: &[&str]) -> std::io::Result<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_clinic-comms-local"))
        .arg("token")
        .args(arguments)
        .env("XDG_CACHE_HOME", home)
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
