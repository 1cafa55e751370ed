//! `RequireClinic`: the platform's account does not stand in for a communication without a clinic, nor for a clinic without
//! providers; also in a process that has remembered other settings.

use comms_delivery::RequireClinic;
use comms_runtime::{Environment, http::HttpFunction as _};
use comms_tests::{CLINIC, FROM, World, communication, email, immediate, service};
use serde_json::{Value, json};

use crate::callers::{find, without_clinic};

/// The send function and the worker where a clinic is required.
pub(crate) fn require_clinic(world: &mut World) {
    let environment = |function: &str| {
        let mut variables = world.variables(function);
        variables.push(("REQUIRE_CLINIC".to_owned(), "true".to_owned()));
        move |name: &str| {
            let (_, value) = variables.iter().find(|(known, _)| known == name)?;
            Some(value.clone())
        }
    };
    let (send, worker) = (environment("send"), environment("worker"));
    world.send = comms_send::Deps::from_environment(&Environment::from_lookup(send)).unwrap();
    world.worker = comms_worker::Deps::from_environment(&Environment::from_lookup(worker)).unwrap();
}

#[tokio::test]
async fn required_clinic_is_asked_for_at_acceptance() {
    let mut world = World::saved().await;
    let global = world.save_global().await;
    require_clinic(&mut world);
    for refused in [without_clinic(immediate()), without_clinic(communication())] {
        let refused = world.post(&refused).await.expect(422);
        assert_eq!(refused.pointers(), ["/metadata/clinicId"]);
    }
    for mut unsaved in [immediate(), communication()] {
        unsaved["metadata"]["clinicId"] = json!("clinic-without-settings");
        let refused = world.post(&unsaved).await.expect(422);
        assert_eq!(refused.pointers(), ["/metadata/clinicId"]);
    }
    world.post(&immediate()).await.expect(200);
    let mut named = immediate();
    named["metadata"]["clinicId"] = json!("_global");
    world.post(&named).await.expect(200);
    assert_eq!(global.messages().len(), 1);
}

#[tokio::test]
async fn required_clinic_is_asked_for_on_the_queue() {
    let mut world = World::saved().await;
    let global = world.save_global().await;
    require_clinic(&mut world);
    world
        .enqueue(&without_clinic(communication()).to_string())
        .await;
    world.run_worker().await;
    assert_eq!(world.dead_letters().await.len(), 1);
    let mut unsaved = communication();
    unsaved["metadata"]["clinicId"] = json!("clinic-without-settings");
    unsaved["idempotencyKey"] = json!("key-1");
    world.enqueue(&unsaved.to_string()).await;
    world.run_worker().await;
    let query = "clinicId=clinic-without-settings&idempotencyKey=key-1";
    let found = find(&world, query, &service()).await.expect(200);
    assert_eq!(found.body["deliveries"][0]["reason"]["code"], "NO_PROVIDER");
    assert!(global.messages().is_empty());
}

/// Requires a clinic in the running processes, with all that they have remembered.
fn switch_on(world: &mut World) {
    for pipeline in [&mut world.send.pipeline, &mut world.worker.pipeline] {
        pipeline.set_require_clinic(RequireClinic::Yes);
    }
}

/// Of a clinic that has no settings, with a priority that needs no urgent quota.
fn of_unsaved(mut communication: Value) -> Value {
    communication["metadata"]["clinicId"] = json!("clinic-without-settings");
    communication["priority"] = json!("normal");
    communication
}

#[tokio::test]
async fn warm_process_stops_standing_in_when_a_clinic_is_required() {
    let mut world = World::saved().await;
    let global = world.save_global().await;
    for warm in [immediate(), communication()] {
        world.post(&of_unsaved(warm.clone())).await;
        world.post(&without_clinic(warm)).await;
    }
    // Of what was accepted before and is delivered after, what names no clinic is sent.
    let sent = world.post(&of_unsaved(communication())).await.expect(202);
    while !world.run_worker().await.records.is_empty() {}
    let queued = world.post(&of_unsaved(communication())).await.expect(202);
    world
        .post(&without_clinic(communication()))
        .await
        .expect(202);
    let before = global.messages().len();
    assert_eq!(
        world.status(&sent.request_id()).await.body["deliveries"][0]["via"],
        "global"
    );

    switch_on(&mut world);
    for refused in [
        of_unsaved(immediate()),
        of_unsaved(communication()),
        without_clinic(immediate()),
        without_clinic(communication()),
    ] {
        let refused = world.post(&refused).await.expect(422);
        assert_eq!(refused.pointers(), ["/metadata/clinicId"]);
    }
    while !world.run_worker().await.records.is_empty() {}
    let delivery = &world.status(&queued.request_id()).await.body["deliveries"][0];
    assert_eq!(delivery["reason"]["code"], "NO_PROVIDER", "{delivery}");
    assert!(world.dead_letters().await.is_empty());
    assert_eq!(global.messages().len(), before + 1);
    world.post(&immediate()).await.expect(200);
}

#[tokio::test]
async fn required_clinic_goes_by_the_last_settings_of_a_warm_process() {
    let mut world = World::saved().await;
    let global = world.save_global().await;
    require_clinic(&mut world);
    let disabled = |enabled: bool| json!({"email": {"primary": {"enabled": enabled}}});
    for _ in 0..2 {
        // Warm, and by settings that are younger than what is believed without asking.
        world.post(&immediate()).await.expect(200);
        world.post(&communication()).await.expect(202);
        world.run_worker().await;
        let patched = world.patch_settings(CLINIC, disabled(false)).await;
        patched.expect(200);
        for refused in [immediate(), communication()] {
            let refused = world.post(&refused).await.expect(422);
            assert_eq!(refused.pointers(), ["/metadata/clinicId"]);
        }
        let patched = world.patch_settings(CLINIC, disabled(true)).await;
        patched.expect(200);
    }
    world.post(&immediate()).await.expect(200);
    world.delete_settings(CLINIC, &[]).await.expect(204);
    world.post(&immediate()).await.expect(422);
    let document = email(&world.entry(), FROM);
    world.put_settings(CLINIC, document).await.expect(201);
    world.post(&immediate()).await.expect(200);
    assert!(global.messages().is_empty());
}
