//! The program as an operator starts it: what it prints, what it refuses, how it ends.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Output, Stdio},
};

use comms_testkit::http::{HttpServer, Reply};
use serde_json::{Value, json};

use crate::{
    dead_letters::{Queues, communication, poison},
    table::{PLANTED, Table},
};

/// The program with nothing of this machine's environment but where its parts are.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_comms-operator"));
    command.env_clear();
    command
}

fn on_table(table: &Table, arguments: &[&str]) -> Command {
    let mut command = program();
    command
        .envs(table.aws.env())
        .arg(arguments[0])
        .args(["--table", &table.aws.resources().settings_table])
        .args(&arguments[1..]);
    command
}

async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn on_queues(queues: &Queues, arguments: &[&str]) -> Command {
    let resources = queues.aws.resources();
    let mut command = program();
    command
        .envs(queues.aws.env())
        .args(["dead-letters", arguments[0]])
        .args(["--dead-letter-queue", &resources.dlq_url])
        .args(&arguments[1..]);
    if arguments[0] == "redrive" {
        command.args(["--queue", &resources.queue_url]);
        command.args(["--urgent-queue", &resources.urgent_queue_url]);
    }
    command
}

/// Starts the program and gives it back when it has said `times` times how far it is.
async fn started(mut command: Command, times: usize) -> Child {
    tokio::task::spawn_blocking(move || {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.as_mut().unwrap()).lines();
        for _ in 0..times {
            let line = lines.next().unwrap().unwrap();
            let says = ["re-sealing: ", "putting back: "];
            assert!(says.iter().any(|says| line.starts_with(says)), "{line}");
        }
        child
    })
    .await
    .unwrap()
}

/// Presses Ctrl-C and says with which code the program ended, and what it printed.
async fn interrupted(mut child: Child) -> (Option<i32>, String) {
    let interrupt = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(interrupt.unwrap().success());
    tokio::task::spawn_blocking(move || {
        let mut stdout = String::new();
        child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut stdout)
            .unwrap();
        (child.wait().unwrap().code(), stdout)
    })
    .await
    .unwrap()
}

const THREE: [&str; 3] = ["clinic-a", "clinic-b", "clinic-c"];

#[tokio::test(flavor = "multi_thread")]
async fn status_says_when_the_old_key_can_go() {
    let table = Table::with(&["clinic-a"]).await;
    let (old, new) = (table.old.clone(), table.new.clone());
    let before = run(on_table(&table, &["status", "--key", &new])).await;
    assert_eq!(before.status.code(), Some(1));
    assert_eq!(
        text(&before.stdout),
        format!(
            "       4 items under {old}\n       1 items with nothing sealed\n       0 items of settings without a seal \
             over the whole\n"
        )
    );

    let resealed = run(on_table(&table, &["reseal", "--key", &new])).await;
    let printed = text(&resealed.stdout);
    assert_eq!(resealed.status.code(), Some(0), "{printed}");
    assert!(printed.contains("4 items re-sealed"), "{printed}");
    assert!(text(&resealed.stderr).contains("re-sealing: 4 of 4 items"));

    let after = run(on_table(&table, &["status", "--json", "--key", &new])).await;
    assert_eq!(after.status.code(), Some(0));
    let counted: Value = serde_json::from_slice(&after.stdout).unwrap();
    assert_eq!(counted["itemsByKey"], json!({new: 4}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_killed_is_gone_on_with_by_the_next() {
    let table = Table::with(&THREE).await;
    let arguments = ["reseal", "--key", &table.new, "--rate", "10"];
    let mut child = started(on_table(&table, &arguments), 3).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let (left, done) = table.under().await;
    assert!(done >= 3 && left > 0 && left + done == 10, "{left} {done}");

    table.aws.clear_calls();
    let again = run(on_table(&table, &["reseal", "--key", &table.new])).await;
    assert_eq!(again.status.code(), Some(0), "{}", text(&again.stderr));
    assert_eq!(table.aws.count("kms", "ReEncrypt"), left);
    assert_eq!(table.under().await, (0, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_a_run_with_a_report_of_what_was_done() {
    let table = Table::with(&THREE).await;
    let arguments = ["reseal", "--key", &table.new, "--rate", "10", "--json"];
    let child = started(on_table(&table, &arguments), 3).await;
    let (code, stdout) = interrupted(child).await;
    assert_eq!(code, Some(130));
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let resealed = report["resealed"].as_u64().unwrap();
    let (left, done) = table.under().await;
    assert!(left > 0, "it was stopped");
    // The one that was under way may have been written without the answer having come.
    assert!((resealed..=resealed + 1).contains(&u64::try_from(done).unwrap()));
    assert!(report["after"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_is_printed_by_any_command() {
    let table = Table::with(&["clinic-a"]).await;
    for arguments in [
        &["status"][..],
        &["reseal", "--dry-run", "--key", &table.new],
        &["reseal", "--json", "--key", &table.new],
        &["reseal", "--clinic", "clinic-a", "--key", &table.old],
    ] {
        let output = run(on_table(&table, arguments)).await;
        let printed = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert!(!printed.is_empty());
        for secret in [PLANTED, "desk@clinic.example", "local-only-not-a-secret"] {
            assert!(!printed.contains(secret), "{printed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_be_run_says_what_is_missing() {
    let key = "arn:aws:kms:us-east-1:123456789012:key/1";
    for (arguments, says) in [
        (
            &["reseal", "--table", "t", "--key", "alias/k"][..],
            "describe-key",
        ),
        (&["reseal", "--table", "t"], "--key"),
        (
            &["reseal", "--table", "t", "--key", key, "--rate", "0"],
            "--rate",
        ),
        (
            &["reseal", "--table", "t", "--key", key],
            "AWS_REGION, AWS_ACCESS_KEY_ID",
        ),
        (
            &["status", "--table", "t", "--clinic", "a/b"],
            "letters, digits",
        ),
        (
            &[
                "dead-letters",
                "list",
                "--dead-letter-queue",
                "q",
                "--older-than",
                "3w",
            ],
            "12h",
        ),
        (
            &[
                "dead-letters",
                "list",
                "--dead-letter-queue",
                "q",
                "--reason",
                "r",
            ],
            "receives_exhausted",
        ),
        (
            &[
                "dead-letters",
                "redrive",
                "--dead-letter-queue",
                "q",
                "--queue",
                "q",
            ],
            "--urgent-queue",
        ),
        (&["import", "file.json"], "--api"),
        (
            &["import", "file.json", "--api", "https://api.example.com"],
            "COMMS_TOKEN",
        ),
        (&["import", "nowhere.json", "--dry-run"], "nowhere.json"),
    ] {
        let mut command = program();
        command.args(arguments);
        let output = run(command).await;
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_checked_without_a_token_and_imported_with_one_from_a_file_or_the_environment() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (file, token, report) = (path("clinics.jsonl"), path("token"), path("report.json"));
    let entry = |clinic: &str| {
        json!({"clinicId": clinic, "communicationSettings": {"whatsapp": {"primary": {
            "provider": "meta_business",
            "credentials": {"accessToken": "planted-access-token", "phoneNumberId": "1234567"}}}}})
    };
    let lines = format!(
        "{}\nplanted-line\n{}\n",
        entry("clinic-1"),
        entry("clinic-2")
    );
    std::fs::write(&file, lines).unwrap();
    std::fs::write(&token, "planted-token\n").unwrap();

    let mut check = program();
    check.args(["import", &file, "--dry-run"]);
    let output = run(check).await;
    assert_eq!(output.status.code(), Some(1));
    let printed = text(&output.stdout);
    assert!(
        printed.contains("2 valid") && printed.contains("line 2"),
        "{printed}"
    );

    let server = HttpServer::builder().start().await.unwrap();
    let saved = || Reply::json(201, json!({})).header("etag", "\"1\"");
    for clinic in ["clinic-1", "clinic-2"] {
        let path = format!("/api/v1/clinics/{clinic}");
        server.on("PUT", &path, saved());
        server.on("PUT", &path, Reply::json(412, json!({})));
    }
    let mut by_file = program();
    by_file.args([
        "import",
        &file,
        "--api",
        &server.url(),
        "--token-file",
        &token,
    ]);
    by_file.args(["--report", &report, "--rate", "1000"]);
    let first = run(by_file).await;
    let mut by_variable = program();
    by_variable.env("COMMS_TOKEN", "planted-token");
    by_variable.args([
        "import",
        &file,
        "--api",
        &server.url(),
        "--json",
        "--rate",
        "1000",
    ]);
    let second = run(by_variable).await;

    assert_eq!(server.requests().len(), 4);
    assert!(
        server
            .requests()
            .iter()
            .all(|request| request.header("authorization") == Some("Bearer planted-token"))
    );
    let written: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    assert_eq!(written["imported"], json!(["clinic-1", "clinic-2"]));
    assert_eq!(written["refused"][0]["line"], 2);
    let second_report: Value = serde_json::from_slice(&second.stdout).unwrap();
    assert_eq!(
        second_report["alreadyThere"],
        json!(["clinic-1", "clinic-2"])
    );
    for output in [&first, &second] {
        let printed = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert!(!printed.contains("planted"), "{printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_leaves_every_dead_letter_that_was_not_put_back_where_it_can_be_received() {
    let queues = Queues::new().await;
    for n in 0..30 {
        let body = communication("clinic-a");
        let source = format!("source-{n}");
        queues.dead_letter(&body, "panicked", &source).await;
    }
    let arguments = ["redrive", "--rate", "10", "--json"];
    let child = started(on_queues(&queues, &arguments), 1).await;
    let (code, stdout) = interrupted(child).await;
    assert_eq!(code, Some(130));
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["stopped"], true);
    let letters = report["letters"].as_array().unwrap().iter();
    let back = letters.filter(|letter| letter["outcome"] == "putBack");
    let back = u64::try_from(back.count()).unwrap();
    assert!((3..30).contains(&back), "it was stopped in between: {back}");
    assert_eq!(queues.dead().await, (30 - back, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_yes_nothing_is_deleted_and_a_dry_run_puts_nothing_back() {
    let queues = Queues::new().await;
    let body = poison("clinic-a");
    queues
        .dead_letter(&body, "not_a_communication", "source-1")
        .await;
    for arguments in [
        &["redrive", "--dry-run"][..],
        &["delete"],
        &["list", "--each"],
    ] {
        let output = run(on_queues(&queues, arguments)).await;
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let printed = text(&output.stdout);
        assert!(
            printed.contains("clinic-a  not_a_communication"),
            "{printed}"
        );
        assert_eq!(queues.dead().await, (1, 0), "{arguments:?}");
        let all = format!("{printed}{}", text(&output.stderr));
        assert!(!all.contains("planted"), "{all}");
        assert_eq!(all.contains("--yes deletes"), arguments[0] == "delete");
        assert_eq!(printed.contains("source-1"), arguments.contains(&"--each"));
    }
    let other = ["delete", "--yes", "--reason", "panicked"];
    let output = run(on_queues(&queues, &other)).await;
    assert_eq!(output.status.code(), Some(0), "nothing of that is left");
    assert_eq!(queues.dead().await, (1, 0));
    let output = run(on_queues(&queues, &["delete", "--yes"])).await;
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(queues.dead().await, (0, 0));
}
