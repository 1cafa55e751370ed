//! What the operator can do for a recipient: export what the ledger has, and erase it.

use std::time::Duration;

use comms_core::SystemClock;
use comms_delivery::{
    Ledger,
    ledger::records::{AddressedPerson, Erasure},
};
use comms_operator::{
    recipient::{Plan, Report, Work, run},
    stop::Stop,
};
use comms_tests::{World, communication, immediate};
use serde_json::{Value, json};

use crate::attribution::hash_key;

const PATIENT: &str = "patient@example.com";

async fn plan(world: &World, address: &str) -> Plan {
    let (sdk, resources) = (world.aws.sdk_config(), world.aws.resources());
    Plan {
        ledger: Ledger::new(&sdk, &resources.deliveries_table),
        person: AddressedPerson::parse(address, hash_key(world).await).unwrap(),
        rate: 1_000,
        clock: Box::new(SystemClock),
    }
}

async fn export(world: &World, address: &str) -> Vec<Value> {
    let plan = plan(world, address).await;
    let (mut lines, mut report) = (Vec::new(), Report::default());
    let work = Work::Export(&mut lines);
    let never = Stop::default();
    run(&plan, work, &mut report, &never, &mut |_, _| {})
        .await
        .unwrap();
    assert!(!format!("{report} {report:?}").contains("patient"));
    let text = String::from_utf8(lines).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

async fn erase(world: &World, address: &str, is_dry_run: bool) -> (Erasure, bool) {
    let plan = plan(world, address).await;
    let mut report = Report {
        is_dry_run,
        ..Report::default()
    };
    let work = Work::Erase { is_dry_run };
    let never = Stop::default();
    run(&plan, work, &mut report, &never, &mut |_, _| {})
        .await
        .unwrap();
    (report.erasure.unwrap_or_default(), report.is_complete())
}

fn to(address: &str, mut communication: Value) -> Value {
    communication["recipients"] = json!([{"email": address}, {"email": "neighbor@n.example"}]);
    communication
}

/// A sent request and one that is on the queue, each to the patient and another.
async fn two_requests(world: &World) -> (String, String) {
    let sent = world.post(&to(PATIENT, immediate())).await.expect(200);
    let queued = world.post(&to(PATIENT, communication())).await.expect(202);
    (sent.request_id(), queued.request_id())
}

#[tokio::test]
async fn an_export_has_the_deliveries_of_one_recipient() {
    let world = World::saved().await;
    let (sent, queued) = two_requests(&world).await;
    for spelling in [PATIENT, " patient@EXAMPLE.com\n", "PATIENT@example.com"] {
        let mut lines = export(&world, spelling).await;
        lines.sort_by_key(|line| line["status"].to_string());
        assert_eq!(lines.len(), 2, "{spelling}");
        for (line, (id, status)) in lines.iter().zip([(&queued, "queued"), (&sent, "sent")]) {
            assert_eq!(line["requestId"], id.as_str());
            assert_eq!(line["status"], status);
            assert_eq!(line["recipient"], "p***@e***.com");
            assert!(line["acceptedAt"].is_string(), "{line}");
        }
    }
    assert!(export(&world, "nobody@example.com").await.is_empty());
    assert!(export(&world, "+15550100").await.is_empty());
}

#[tokio::test]
async fn erasure_leaves_nothing_personal_of_what_has_ended() {
    let world = World::saved().await;
    let (sent, _) = two_requests(&world).await;
    let before = world.aws.dump_tables().await;
    let counts = |erased, already_erased, in_flight| Erasure {
        erased,
        already_erased,
        in_flight,
        changed_meanwhile: 0,
    };
    assert_eq!(erase(&world, PATIENT, true).await, (counts(1, 0, 1), false));
    assert!(!world.aws.dump_tables().await.contains("erased"));

    // What is on the queue is left, and sent.
    assert_eq!(
        erase(&world, PATIENT, false).await,
        (counts(1, 0, 1), false)
    );
    assert!(world.run_worker().await.failed.is_empty());
    assert_eq!(erase(&world, PATIENT, false).await, (counts(1, 1, 0), true));
    assert_eq!(erase(&world, PATIENT, false).await, (counts(0, 2, 0), true));

    let answer = world.status(&sent).await.expect(200);
    let [patient, neighbor] = answer.body["deliveries"].as_array().unwrap().as_slice() else {
        panic!("{}", answer.text);
    };
    assert_eq!(patient["recipient"], "(erased)");
    assert_eq!(patient["status"], "sent");
    assert!(patient["messageId"].is_null(), "{patient}");
    assert_eq!(neighbor["recipient"], "n***@***.example");
    assert!(neighbor["messageId"].is_string(), "{neighbor}");
    let tables = world.aws.dump_tables().await;
    assert!(before.contains("p***@e***.com"));
    assert!(!tables.contains("p***@e***.com"), "{tables}");
    let hash = hash_key(&world)
        .await
        .digest("address", &[PATIENT.as_bytes()]);
    assert!(before.contains(&hash.hex128()));
    assert!(!tables.contains(&hash.hex128()), "{tables}");
}

#[tokio::test]
async fn erased_message_is_not_sent_again() {
    let world = World::saved().await;
    let one = json!([{"email": PATIENT}]);
    let mut communication = communication();
    communication["recipients"] = one;
    world.post(&communication).await.expect(202);
    let (_, _, records) = world.take_batch().await;
    assert!(world.work_on(&records).await.is_empty());
    erase(&world, PATIENT, false).await;
    // SQS delivers the message a second time.
    let time = Duration::from_secs(30);
    let failed = comms_tests::handle_records(&world.worker, &records, time).await;
    assert!(failed.is_empty());
    assert_eq!(world.smtp.messages().len(), 1);
}

#[tokio::test]
async fn an_interrupted_erasure_is_continued_by_the_next() {
    let world = World::saved().await;
    for _ in 0..3 {
        world.post(&to(PATIENT, immediate())).await.expect(200);
    }
    let plan = plan(&world, PATIENT).await;
    let (mut report, stop) = (Report::default(), Stop::default());
    stop.request();
    let work = Work::Erase { is_dry_run: false };
    run(&plan, work, &mut report, &stop, &mut |_, _| {})
        .await
        .unwrap();
    assert!(report.is_interrupted && !report.is_complete());
    let (erasure, is_complete) = erase(&world, PATIENT, false).await;
    assert_eq!((erasure.erased, is_complete), (3, true));
}
