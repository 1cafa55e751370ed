//! The whole stack as `cargo run` starts it: from the API through the queue to the inbox, in real processes.

mod running;

use std::process::Command;

use running::{FREE, Stack, token};
use serde_json::{Value, json};

/// Ends it as a terminal or a supervisor does, and says with which code it ended.
fn terminate(stack: &mut Stack) -> std::io::Result<Option<i32>> {
    Command::new("kill")
        .arg(stack.child.id().to_string())
        .status()?;
    Ok(stack.child.wait()?.code())
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

    let mut stack = Stack::start(
        home.path(),
        &["--inbox", FREE, "--smtp", &smtp, "--data", data],
    )
    .unwrap();
    let sent = stack.line(" sent by ").unwrap();
    assert!(
        sent.contains("a***@p***.example") && sent.contains("sent by smtp"),
        "{sent}"
    );
    let inbox = stack.url(" Pages ").unwrap();
    let received = messages(&inbox).await;
    assert_eq!(received[0]["subject"], "Your appointment is confirmed");
    assert_eq!(
        received[0]["envelope"]["to"],
        json!(["alex.doe@patients.example"])
    );
    let pid = stack.child.id();
    assert!(children(pid) >= 3, "config, send and worker have processes");
    assert_eq!(terminate(&mut stack).unwrap(), Some(0));
    assert_eq!(children(pid), 0);

    let arguments = ["--inbox", FREE, "--smtp", &smtp, "--data", data];
    let mut stack = Stack::start(home.path(), &arguments).unwrap();
    stack.line("has settings, and keeps them").unwrap();
    stack.line(" sent by smtp").unwrap();
    let api = stack.url(" API ").unwrap();
    let inbox = stack.url(" Pages ").unwrap();
    let answer = client
        .post(format!("{api}/communications"))
        .bearer_auth(
            token(
                home.path(),
                &["--clinic", "clinic-123", "--role", "CLINIC_ADMIN"],
            )
            .unwrap(),
        )
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

/// The ports of loopback on which this process listens.
#[allow(
    clippy::unwrap_used,
    reason = "a process that cannot be looked at fails the test"
)]
fn listening(process: u32) -> Vec<u16> {
    let sockets: Vec<String> = std::fs::read_dir(format!("/proc/{process}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|file| std::fs::read_link(file.path()).ok())
        .filter_map(|file| {
            let socket = file.to_str()?.strip_prefix("socket:[")?;
            Some(socket.strip_suffix(']')?.to_owned())
        })
        .collect();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let ports = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // Local address, state (0A listens) and inode (proc_net_tcp).
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let is_own = *state == "0A" && sockets.iter().any(|socket| socket == inode);
        let port = local.rsplit_once(':').filter(|_| is_own)?.1;
        u16::from_str_radix(port, 16).ok()
    });
    ports.collect()
}

/// A page whose name resolves to this machine (DNS rebinding), and one that needs no such name because an answer allows
/// every origin.
#[tokio::test]
async fn no_listener_answers_a_page_of_another_site() {
    let home = tempfile::tempdir().unwrap();
    let arguments = ["--inbox", FREE, "--smtp", FREE, "--no-demo"];
    let mut stack = Stack::start(home.path(), &arguments).unwrap();
    stack.line(" Queues ").unwrap();
    let smtp = stack.url(" SMTP ").unwrap();
    let smtp = smtp.rsplit_once(':').unwrap().1.parse();
    let ports = listening(stack.child.id());
    let web: Vec<u16> = ports.into_iter().filter(|port| Ok(*port) != smtp).collect();
    assert_eq!(web.len(), 4, "API, AWS, pages and Runtime API: {web:?}");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let target = "DynamoDB_20120810.ListTables";
    let key = "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0";
    let mut answers = Vec::new();
    for port in web {
        let url = format!("http://127.0.0.1:{port}/");
        let post = || {
            let post = client
                .post(&url)
                .header("content-type", "application/x-amz-json-1.0");
            post.header("x-amz-target", target)
                .header("x-amz-date", "20260101T000000Z")
                .header("authorization", key)
                .body("{}")
        };
        let rebinding = post().header("host", format!("attacker.example:{port}"));
        let cross_site = post().header("origin", "https://attacker.example");
        for (request, expected) in [(rebinding, 421), (cross_site, 403)] {
            let answer = request.send().await.unwrap();
            let allowed = answer.headers().get("access-control-allow-origin").cloned();
            let status = answer.status().as_u16();
            let line = format!(
                "{port}: {status} {allowed:?} {:?}",
                answer.text().await.unwrap()
            );
            if status != expected || allowed.is_some() {
                answers.push(line);
            }
        }
    }
    assert!(answers.is_empty(), "{answers:#?}");
}
