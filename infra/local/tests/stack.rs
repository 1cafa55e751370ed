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
    let sent = stack.line("  sent to ").unwrap();
    assert!(sent.contains("a***@p***.example by smtp"), "{sent}");
    let inbox = stack.url(" Inbox ").unwrap();
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

    let arguments = [
        "--inbox",
        FREE,
        "--smtp",
        &smtp,
        "--data",
        data,
        "--no-demo",
    ];
    let mut stack = Stack::start(home.path(), &arguments).unwrap();
    let api = stack.url(" API ").unwrap();
    let inbox = stack.url(" Inbox ").unwrap();
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
