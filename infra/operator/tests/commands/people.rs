//! `export`, `erase` and `audit` as an operator starts them.

use std::{
    io::Write as _,
    process::{Output, Stdio},
    time::Duration,
};

use comms_core::{
    AddressMask, Clock as _, DeliveryStatus, IdempotencyKey, RequestId, SubjectHash, SystemClock,
    Tenant, request::Submission,
};
use comms_delivery::{
    Ledger,
    ledger::{Origin, Outcome, Owner, RequestDetails, RequestRecord, Via},
};
use comms_settings::HashKeys;
use serde_json::{Value, json};

use crate::{
    program::{program, text},
    table::Table,
};

const ADDRESS: &str = "planted.patient@example.com";

/// A sent communication of `clinic-a` to [`ADDRESS`], by `user-1`.
async fn sent(table: &Table) -> RequestId {
    let keys = HashKeys::new(table.store(&table.old));
    let key = keys.get().await.unwrap();
    let body = json!({"title": "t", "body": "b", "channels": ["email"],
        "recipients": [{"email": ADDRESS}], "metadata": {"clinicId": "clinic-a"}});
    let request = Submission::parse(body.to_string().as_bytes())
        .unwrap()
        .request;
    let tenant = Tenant::parse("clinic-a").unwrap();
    let id = RequestId::derive(key, &tenant, &IdempotencyKey::parse("key-1").unwrap());
    let planned = request.deliveries(key, &id, AddressMask::Short);
    let record = RequestRecord {
        id: id.clone(),
        tenant,
        payload_hash: request.payload_hash(key).unwrap(),
        details: RequestDetails::default(),
    };
    let origin = Origin {
        via: Via::Api,
        by: SubjectHash::of(key, "user-1"),
    };
    let (sdk, resources) = (table.aws.sdk_config(), table.aws.resources());
    let ledger = Ledger::new(&sdk, &resources.deliveries_table);
    let now = SystemClock.now();
    let accepted = ledger.accept(&record, &planned, &origin, None, now).await;
    accepted.unwrap();
    let owner = Owner {
        token: "owner".to_owned(),
        lease_until: now + Duration::from_secs(30),
    };
    let claimed = ledger.claim(&record, &planned[0], "hash", &owner, now);
    claimed.await.unwrap();
    let outcome = Outcome::new(DeliveryStatus::Sent);
    let finished = ledger.finish(&id, &planned[0].id, &owner, &outcome, now);
    finished.await.unwrap();
    id
}

async fn run(table: &Table, arguments: &[&str], input: &'static str) -> Output {
    let resources = table.aws.resources();
    let mut command = program();
    command
        .envs(table.aws.env())
        .arg(arguments[0])
        .args(["--settings-table", &resources.settings_table])
        .args(["--deliveries-table", &resources.deliveries_table])
        .args(&arguments[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        child.wait_with_output().unwrap()
    });
    let output = output.await.unwrap();
    for said in [&output.stdout, &output.stderr] {
        assert!(!text(said).contains("planted"), "{}", text(said));
    }
    output
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipients_data_is_exported_and_erased_without_the_address() {
    let table = Table::with(&["clinic-a"]).await;
    let id = sent(&table).await;
    let export = ["export", "--recipient", "-"];
    let exported = run(&table, &export, ADDRESS).await;
    assert_eq!(exported.status.code(), Some(0));
    let line: Value = serde_json::from_slice(&exported.stdout).unwrap();
    assert_eq!(line["requestId"], id.as_str());
    assert_eq!(line["recipient"], "p***@e***.com");

    for (arguments, code, says) in [
        (
            &["erase", "--recipient", "-", "--dry-run"][..],
            1,
            "1 deliveries would be erased",
        ),
        (&["erase", "--recipient", "-"], 0, "1 deliveries erased"),
        (&["erase", "--recipient", "-"], 0, "1 were erased before"),
    ] {
        let erased = run(&table, arguments, ADDRESS).await;
        let printed = text(&erased.stdout);
        assert_eq!(erased.status.code(), Some(code), "{printed}");
        assert!(printed.contains(says), "{printed}");
        assert!(printed.contains("not erased by this command"), "{printed}");
    }
    let exported = run(&table, &export, ADDRESS).await;
    let line: Value = serde_json::from_slice(&exported.stdout).unwrap();
    assert_eq!(line["recipient"], "(erased)");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn an_exported_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;

    let table = Table::with(&["clinic-a"]).await;
    sent(&table).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("export.jsonl");
    // Also where others could read the file before.
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let export = [
        "export",
        "--recipient",
        "-",
        "--output",
        path.to_str().unwrap(),
    ];
    let exported = run(&table, &export, ADDRESS).await;
    assert_eq!(exported.status.code(), Some(0));
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_nobody_reads_ends_quietly() {
    let table = Table::with(&["clinic-a"]).await;
    let resources = table.aws.resources();
    let mut command = program();
    command
        .envs(table.aws.env())
        .args(["audit", "--clinic", "clinic-a"])
        .args(["--settings-table", &resources.settings_table])
        .args(["--deliveries-table", &resources.deliveries_table])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let ended = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        child.wait_with_output().unwrap()
    });
    let ended = ended.await.unwrap();
    assert_eq!(
        (ended.status.code(), text(&ended.stderr)),
        (Some(0), String::new())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_none_is_refused_and_not_repeated() {
    let table = Table::with(&["clinic-a"]).await;
    let refused = run(&table, &["erase", "--recipient", "-"], "planted patient@").await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("must be an e-mail address"));
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_names_deeds_and_says_where_reads_are() {
    let table = Table::with(&["clinic-a"]).await;
    let id = sent(&table).await;
    let audit = run(&table, &["audit", "--clinic", "clinic-a"], "").await;
    let printed = text(&audit.stdout);
    assert_eq!(audit.status.code(), Some(0), "{}", text(&audit.stderr));
    for says in [
        "settings_saved",
        id.as_str(),
        "accepted by api",
        "give exported lines",
    ] {
        assert!(printed.contains(says), "{printed}");
    }
    let read = "{\"target\":\"comms_audit\",\"timestamp\":\"2026-12-01T00:00:00Z\",\
                \"clinicId\":\"clinic-a\",\"action\":\"view_settings\",\"outcome\":\"done\"}\nSTART\n";
    let arguments = ["audit", "--clinic", "clinic-a", "--log", "-", "--json"];
    let audit = run(&table, &arguments, read).await;
    let report: Value = serde_json::from_slice(&audit.stdout).unwrap();
    let deeds = report["deeds"].as_array().unwrap();
    let read = deeds.iter().filter(|deed| deed["source"] == "log");
    assert_eq!(read.count(), 1);
    assert_eq!(report["otherLines"], 1);

    let nobody = run(&table, &["audit"], "").await;
    assert_eq!(nobody.status.code(), Some(2));
}
