//! A password that is changed at the provider and in the settings while everything is warm.

use std::{sync::Arc, time::Duration};

use comms_testkit::{
    clock::ManualClock,
    http::Reply,
    smtp::{Event, SmtpServer, Stage},
};
use comms_tests::{
    CLINIC, FROM, PASSWORD, USER, World, communication, email, entry, handle_records, immediate,
    record,
};
use serde_json::{Value, json};

const NEW_PASSWORD: &str = "planted-password-next-81d0";
const GLOBAL_USER: &str = "global-user";
const TIME: Duration = Duration::from_secs(30);

/// A communication to a patient of this number.
fn to_patient(n: usize) -> Value {
    let mut body = communication();
    body["recipients"] = json!([{"email": format!("patient-{n}@example.com")}]);
    body
}

/// A record of the queue with it.
fn message(n: usize) -> Value {
    record(&format!("message-{n}"), &to_patient(n).to_string())
}

/// Kind of failure, empty for none, of each attempt.
fn kinds(delivery: &Value) -> Vec<&str> {
    let attempts = delivery["attempts"].as_array().unwrap().iter();
    attempts
        .map(|attempt| attempt["kind"].as_str().unwrap_or_default())
        .collect()
}

/// How many logins were refused.
fn refusals(server: &SmtpServer) -> usize {
    let said = server.transcript();
    said.iter()
        .filter(|line| line.starts_with("S: 535"))
        .count()
}

/// Reads from DynamoDB and decryptions. Of each version that is used, what other processes have seen of its providers'
/// health is read once, beside the settings.
fn reads(world: &World) -> (usize, usize) {
    (
        world.aws.count("dynamodb", "GetItem"),
        world.aws.count("kms", "Decrypt"),
    )
}

/// Gives the clinic's user another password, in the settings and then at the server. Logins that there are stay.
async fn rotate(world: &World) {
    let entry = entry(world.smtp.port(), USER, NEW_PASSWORD);
    world
        .put_settings(CLINIC, email(&entry, FROM))
        .await
        .expect(200);
    world.aws.clear_calls();
    world.smtp.set_password(USER, NEW_PASSWORD);
}

#[tokio::test]
async fn next_send_uses_the_new_password_and_decrypts_it_once() {
    let world = World::saved().await;
    world.post(&immediate()).await.expect(200);
    rotate(&world).await;
    world.smtp.close_idle_connections().await;

    let answer = world.post(&immediate()).await.expect(200);
    let delivery = &answer.body["deliveries"][0];
    assert_eq!(delivery["status"], "sent");
    assert_eq!(kinds(delivery), [""]);
    // The version, and what it says: settings, counter and health; and what is known of the new login's connections.
    assert_eq!((refusals(&world.smtp), reads(&world)), (0, (1 + 3 + 1, 1)));
    assert_eq!(world.smtp.messages().len(), 2);

    // And those after it know.
    let answer = world.post(&immediate()).await.expect(200);
    assert_eq!(kinds(&answer.body["deliveries"][0]), [""]);
    assert_eq!(
        (refusals(&world.smtp), reads(&world)),
        (0, (1 + 3 + 1 + 1, 1))
    );
}

#[tokio::test]
async fn refused_login_with_current_settings_costs_no_decryption() {
    let world = World::saved().await;
    world.post(&immediate()).await.expect(200);
    world.aws.clear_calls();
    world.smtp.set_password(USER, NEW_PASSWORD);
    world.smtp.close_idle_connections().await;
    let answer = world.post(&immediate()).await.expect(207);
    assert_eq!(kinds(&answer.body["deliveries"][0]), ["unauthenticated"]);
    // Beside the permit, after the refusal, and before the delivery fails, here of the platform as well.
    assert_eq!((refusals(&world.smtp), reads(&world)), (1, (1 + 1 + 2, 0)));
}

#[tokio::test]
async fn the_global_accounts_password_is_rotated_like_a_clinics() {
    let world = World::new().await;
    let global = world.save_global().await;
    world.post(&immediate()).await.expect(200);
    let entry = entry(global.port(), GLOBAL_USER, NEW_PASSWORD);
    let document = email(&entry, "platform@global.example");
    world.put_settings("_global", document).await.expect(200);
    global.set_password(GLOBAL_USER, NEW_PASSWORD);
    global.close_idle_connections().await;
    world.aws.clear_calls();

    let answer = world.post(&immediate()).await.expect(200);
    let delivery = &answer.body["deliveries"][0];
    assert_eq!(kinds(delivery), [""]);
    assert_eq!(delivery["attempts"][0]["position"], "global");
    assert_eq!(refusals(&global), 0);
    // Both versions, what the platform's says, and what is known of its login's connections.
    assert_eq!(reads(&world), (2 + 3 + 1, 1));
    assert_eq!(global.messages().len(), 2);
}

#[tokio::test]
async fn open_connection_of_an_earlier_version_is_not_reused() {
    let world = World::saved().await;
    let send = async |n| assert!(world.work_on(&[message(n)]).await.is_empty());
    send(1).await;
    rotate(&world).await;

    send(2).await;
    assert_eq!(world.smtp.connections(), 2);
    // The version, and what it says: settings, counter and health; and what is known of the new login's connections.
    assert_eq!((refusals(&world.smtp), reads(&world)), (0, (1 + 3 + 1, 1)));
    let messages = world.smtp.messages();
    let connections: Vec<_> = messages.iter().map(|message| message.connection).collect();
    assert_eq!(connections, [1, 2]);
    // Nobody needs the first any more.
    let closed = |event: &Event| matches!(event, Event::Closed { connection: 1 });
    world.smtp.wait_for_event(closed).await;
}

#[tokio::test]
async fn delivery_in_flight_at_a_rotation_keeps_its_connection() {
    let world = World::saved().await;
    let clock = Arc::new(ManualClock::new());
    let worker = world.worker_with_clock(clock.clone());
    let records = [message(1)];
    let mut in_flight = Box::pin(handle_records(&worker, &records, TIME));
    tokio::select! {
        failed = &mut in_flight => panic!("{failed:?}"),
        () = world.smtp.wait_for_stage(Stage::Mail, 1) => {}
    }
    rotate(&world).await;
    clock.advance(Duration::from_mins(1));
    assert!(
        handle_records(&worker, &[message(2)], TIME)
            .await
            .is_empty()
    );
    assert!(in_flight.await.is_empty());
    let messages = world.smtp.messages();
    let mut sent: Vec<_> = messages
        .iter()
        .map(|message| (message.rcpt_to[0].as_str(), message.connection))
        .collect();
    sent.sort_unstable();
    assert_eq!(
        sent,
        [("patient-1@example.com", 1), ("patient-2@example.com", 2)]
    );
    assert_eq!(refusals(&world.smtp), 0);
}

#[tokio::test]
async fn burst_during_a_rotation_is_sent_once_each() {
    const BURST: usize = 50;
    // The server changes connections often, and so asks for the password often.
    let world = World::with(|server, _| server.max_messages_per_session(2)).await;
    world.save_clinic().await;
    let records: Vec<_> = (0..BURST).map(message).collect();
    let burst = world.work_on(&records);
    let rotation = async {
        world.smtp.wait_for_messages(10).await;
        rotate(&world).await;
    };
    let (failed, ()) = tokio::join!(burst, rotation);
    assert_eq!(failed, Vec::<String>::new());
    let messages = world.smtp.messages();
    let mut sent: Vec<_> = messages
        .iter()
        .map(|message| message.rcpt_to[0].clone())
        .collect();
    sent.sort();
    let mut expected: Vec<_> = (0..BURST)
        .map(|n| format!("patient-{n}@example.com"))
        .collect();
    expected.sort();
    assert_eq!(sent, expected);
    assert_eq!(reads(&world).1, 1, "once for all");
    let refusals = refusals(&world.smtp);
    assert!(
        refusals <= 10,
        "{refusals}: one for each delivery that was under way, at most"
    );
}

#[tokio::test]
async fn many_deliveries_on_two_channels_open_a_version_once() {
    let world = World::new().await;
    let api = world.api().await;
    let account = format!("AC{:032x}", 1);
    let accepted = json!({"sid": format!("SM{:032x}", 1), "status": "queued"});
    let path = format!("/2010-04-01/Accounts/{account}/Messages.json");
    api.always("POST", &path, Reply::json(201, accepted));
    let mut settings = email(&entry(world.smtp.port(), USER, PASSWORD), FROM);
    settings["whatsapp"] = json!({"primary": {"provider": "twilio", "credentials": {
        "accountSid": account, "authToken": "planted-token", "fromNumber": "whatsapp:+14155238886",
        "apiUrl": api.url()}}});
    world.put_settings(CLINIC, settings).await.expect(201);
    // What is opened once for everybody is open.
    let mut nobody = communication();
    nobody["metadata"]["clinicId"] = json!("clinic-without-settings");
    world
        .work_on(&[record("nobody", &nobody.to_string())])
        .await;
    world.aws.clear_calls();

    let records: Vec<_> = (0..10)
        .map(|n| {
            let mut body = to_patient(n);
            body["channels"] = json!(["email", "whatsapp"]);
            body["recipients"][0]["phoneNumber"] = json!(format!("+1555010{n}"));
            record(&format!("message-{n}"), &body.to_string())
        })
        .collect();
    assert_eq!(world.work_on(&records).await, Vec::<String>::new());
    assert_eq!(
        (world.smtp.messages().len(), api.requests().len()),
        (10, 10)
    );
    let (gets, decryptions) = reads(&world);
    assert_eq!(decryptions, 1);
    // Settings, counter, health, slow deliveries; and a version for messages that began while those were read.
    assert!((4..=4 + 20).contains(&gets), "{gets}");
}
