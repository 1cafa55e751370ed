//! Processes that wait for the next permit with their messages.

use aws_sdk_dynamodb::types::AttributeValue;
use comms_adapters::Deadline;
use comms_core::AfterRetries;
use comms_delivery::connections::{Asking, ConnectionUse};
use futures_util::future::{join, join_all};

use crate::world::{Process, World, queued, seconds};

/// A queued message of an invocation that has time to wait.
fn with_time() -> Asking {
    Asking {
        deadline: Deadline::after(seconds(28)),
        ..queued()
    }
}

/// Sends nothing, and lets others have the permit.
async fn used_and_released(process: &Process) -> bool {
    let used = process.ask(with_time()).await;
    let has_permit = used.is_ok();
    drop(used);
    process.end_invocation().await;
    has_permit
}

/// Waits until so many processes are in front.
async fn in_front(world: &World, process: &Process, count: usize) {
    let account = process.limit().account(&process.key).unwrap();
    let client = aws_sdk_dynamodb::Client::new(&world.aws.sdk_config());
    let key = AttributeValue::S(format!("connections-next#{account}"));
    loop {
        let item = client
            .get_item()
            .table_name(&world.aws.resources().deliveries_table)
            .key("pk", key.clone())
            .key("sk", AttributeValue::S("permits".to_owned()))
            .consistent_read(true)
            .send()
            .await
            .unwrap()
            .item
            .unwrap_or_default();
        if item.keys().filter(|name| name.starts_with("slot")).count() == count {
            return;
        }
    }
}

#[tokio::test]
async fn refused_process_waits_for_the_next_permit() {
    let world = World::new().await;
    let server = world.server(1).await;
    let [one, two] = world.at::<2>(&server);
    let used = one.begin().await.unwrap();
    one.send().await.unwrap();
    let refused = two.begin().await.unwrap();
    let error = two.send().await.unwrap_err();
    assert_eq!(error.after_retries, AfterRetries::WhenConnectionFree);
    drop(refused);
    world.clock.advance(seconds(1));
    let ends = async {
        in_front(&world, &two, 1).await;
        drop(used);
        one.end_invocation().await;
        world.clock.advance(seconds(1));
    };
    let (begun, ()) = join(two.ask(with_time()), ends).await;
    drop(begun.unwrap());
    two.send().await.unwrap();
}

#[tokio::test]
async fn urgent_message_waits_where_others_wait_already() {
    let world = World::new().await;
    let processes = world.published::<7>();
    let mut used: Vec<Option<ConnectionUse<'_>>> = Vec::new();
    for process in &processes[..3] {
        used.push(process.begin().await.unwrap());
    }
    let urgent = Asking {
        is_urgent: true,
        ..with_time()
    };
    let others = join_all(processes[3..6].iter().map(used_and_released));
    let last = async {
        in_front(&world, &processes[3], 3).await;
        let asked = processes[6].ask(urgent);
        let ends = async {
            drop(used);
            for process in &processes[..3] {
                process.end_invocation().await;
            }
        };
        let (begun, ()) = join(asked, ends).await;
        begun.is_ok()
    };
    let (others, last) = join(others, last).await;
    assert!(last && others.into_iter().all(|begun| begun));
}
