//! The whole stack as `cargo run` starts it: from the API through the queue to the inbox, in real processes.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Far more than it takes (about a second); a hang must not hang the test run.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running stack; killed with the test.
struct Stack {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    /// Where its standard error goes: of interest only when something fails.
    errors: PathBuf,
}

impl Stack {
    fn start(home: &Path, arguments: &[&str]) -> std::io::Result<Self> {
        let errors = home.join("stderr");
        let mut child = Command::new(env!("CARGO_BIN_EXE_clinic-comms-local"))
            .args(["--http", "127.0.0.1:0", "--aws", "127.0.0.1:0"])
            .args(["--inbox", "127.0.0.1:0"])
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
    fn line(&mut self, part: &str) -> Result<String, String> {
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
    fn url(&mut self, part: &str) -> Result<String, String> {
        let line = self.line(part)?;
        line.split_whitespace()
            .find(|word| word.starts_with("http://"))
            .map(str::to_owned)
            .ok_or(line)
    }

    /// Ends it as a terminal or a supervisor does, and says with which code it ended.
    fn terminate(&mut self) -> std::io::Result<Option<i32>> {
        Command::new("kill")
            .arg(self.child.id().to_string())
            .status()?;
        Ok(self.child.wait()?.code())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn token(home: &Path) -> std::io::Result<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_clinic-comms-local"))
        .args(["token", "--clinic", "clinic-123", "--role", "CLINIC_ADMIN"])
        .env("XDG_CACHE_HOME", home)
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Function processes of the stack with this process id.
fn children(of: u32) -> usize {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return 0;
    };
    processes
        .flatten()
        .filter_map(|process| std::fs::read_to_string(process.path().join("stat")).ok())
        .filter(|stat| {
            // The parent is the second field after the name, which stands in parentheses.
            stat.rsplit_once(") ")
                .and_then(|(_, rest)| rest.split(' ').nth(1))
                .is_some_and(|parent| parent == of.to_string())
        })
        .count()
}

#[tokio::test]
async fn the_demo_message_arrives_and_settings_saved_on_disk_work_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let data = data.to_str().unwrap();
    // The saved settings name the inbox's SMTP port, so it has to be the same after the restart.
    let smtp = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().to_string()
    };
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let messages = async |inbox: &str| -> Value {
        let list = client.get(format!("{inbox}/api/messages")).send().await;
        let list = list.unwrap().bytes().await.unwrap();
        serde_json::from_slice(&list).unwrap()
    };

    let mut stack = Stack::start(home.path(), &["--smtp", &smtp, "--data", data]).unwrap();
    let sent = stack.line("  sent to ").unwrap();
    assert!(sent.contains("a***@patients.example by smtp"), "{sent}");
    let inbox = stack.url(" Inbox ").unwrap();
    let received = messages(&inbox).await;
    assert_eq!(received[0]["subject"], "Your appointment is confirmed");
    assert_eq!(
        received[0]["envelope"]["to"],
        json!(["alex.doe@patients.example"])
    );
    let pid = stack.child.id();
    assert!(children(pid) >= 3, "config, send and worker have processes");
    assert_eq!(stack.terminate().unwrap(), Some(0));
    assert_eq!(children(pid), 0);

    let arguments = ["--smtp", &smtp, "--data", data, "--no-demo"];
    let mut stack = Stack::start(home.path(), &arguments).unwrap();
    let api = stack.url(" API ").unwrap();
    let inbox = stack.url(" Inbox ").unwrap();
    let answer = client
        .post(format!("{api}/communications"))
        .bearer_auth(token(home.path()).unwrap())
        .json(&json!({
            "category": "reminder",
            "strategy": "immediate",
            "channels": ["email"],
            "title": "After the restart",
            "body": "Still readable.",
            "recipients": [{"email": "patient@example.com"}],
            "metadata": {"clinicId": "clinic-123"},
        }))
        .send()
        .await
        .unwrap();
    let status = answer.status();
    let answer = answer.text().await.unwrap();
    assert_eq!(status, 200, "{answer}");
    assert_eq!(messages(&inbox).await[0]["subject"], "After the restart");
}
