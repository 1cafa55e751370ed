//! Traces go with a message, and a process says once that it was cold.

use comms_tests::{
    World, communication, http_event, logs::start_listening, process::Process, record, service,
};
use serde_json::{Value, json};

use super::outcomes::outcome;

const TRACE: &str = "5759e988bd862e3fe1be46a994272793";

const TRACE_ID: &str = "1-5759e988-bd862e3fe1be46a994272793";

#[tokio::test]
async fn every_line_of_a_message_has_the_trace_of_its_request() {
    let world = World::saved().await;
    let listening = start_listening();
    let parent = format!("00-{TRACE}-53995c3f42cd8ad8-01");
    let headers = [("traceparent", parent.as_str())];
    let queued = world.post_as(&communication(), service(), &headers).await;
    queued.expect(202);
    let accepted = listening.said("queued");
    assert_eq!(accepted[0]["traceId"], TRACE_ID);
    drop(listening);

    let listening = start_listening();
    let batch = world.run_worker().await;
    let header = &batch.records[0]["attributes"]["AWSTraceHeader"];
    assert_eq!(
        *header,
        format!("Root={TRACE_ID};Parent=53995c3f42cd8ad8;Sampled=1")
    );
    let mut of_message = listening.lines();
    of_message.retain(|line| !line["sqsMessageId"].is_null());
    assert!(of_message.len() >= 2, "{of_message:#?}");
    for line in of_message {
        assert_eq!(line["traceId"], TRACE_ID, "{line}");
    }
    let recorded = listening.said("delivery recorded");
    assert_eq!(recorded[0]["traceId"], TRACE_ID);
    assert_eq!(outcome(&listening)["traceId"], TRACE_ID);
}

#[tokio::test]
async fn messages_of_a_batch_and_dead_letters_keep_their_traces() {
    let world = World::saved().await;
    let roots = [
        "1-00000001-000000000000000000000001",
        "1-00000002-000000000000000000000002",
    ];
    let records: Vec<_> = roots
        .iter()
        .enumerate()
        .map(|(number, root)| {
            let body = if number == 0 {
                communication().to_string()
            } else {
                "{".to_owned()
            };
            let mut record = record(&format!("message-{number}"), &body);
            record["attributes"]["AWSTraceHeader"] = json!(format!("Root={root}"));
            record
        })
        .collect();
    let listening = start_listening();
    world.work_on(&records).await;
    assert_eq!(listening.said("delivery recorded")[0]["traceId"], roots[0]);
    assert_eq!(
        listening.said("a message is a dead letter")[0]["traceId"],
        roots[1]
    );
    let letters = world.dead_letters().await;
    assert_eq!(letters[0]["trace"], format!("Root={}", roots[1]));
    // The batch is nobody's.
    assert!(listening.said("batch handled")[0]["traceId"].is_null());
}

#[tokio::test]
async fn a_process_says_once_that_it_was_cold() {
    let world = World::new().await;
    let process = Process::start(&world, "status").await;
    let event = http_event("GET", "/api/v1/health", None, &Value::Null, &[]);
    for _ in 0..2 {
        assert_eq!(process.invoke(&event).await["statusCode"], 200);
    }
    let said = process.said();
    let lines: Vec<Value> = said
        .lines()
        // The harness has written the beginning of the first line.
        .filter_map(|line| serde_json::from_str(&line[line.find('{')?..]).ok())
        .collect();
    let count = |is: &dyn Fn(&Value) -> bool| lines.iter().filter(|line| is(line)).count();
    assert_eq!(count(&|line| line["message"] == "cold start"), 1, "{said}");
    assert_eq!(count(&|line| line["ColdStarts"] == 1), 1, "{said}");
    let cold: Vec<_> = lines
        .iter()
        .filter(|line| line["message"] == "answered")
        .map(|line| (line["coldStart"].clone(), line["traceId"].is_string()))
        .collect();
    assert_eq!(cold, [(json!(true), true), (json!(false), true)], "{said}");
}
