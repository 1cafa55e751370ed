//! Re-sealing, against DynamoDB and KMS over the wire.

use std::{collections::HashMap, pin::pin};

use aws_sdk_dynamodb::types::AttributeValue;
use comms_core::SystemClock;
use comms_operator::reseal::{Report, count, run};
use comms_settings::{Past, Resealed, Sealing, StoreError, envelope::EnvelopeError};
use comms_testkit::aws::Fault;
use tokio::sync::Notify;

use crate::table::{PLANTED, Table, item, password, tenant};

#[tokio::test]
async fn with_the_old_key_disabled_everything_opens_that_was_re_sealed() {
    let table = Table::with(&["clinic-a", "clinic-b", "_global"]).await;
    let hash = table.hash_key(&table.old).await;
    let report = table.run(&table.plan()).await;
    assert_eq!((report.resealed, report.failed.len()), (10, 0));
    assert!(report.is_complete(&table.new), "{report}");
    assert_eq!(table.under().await, (0, 10));

    table.disable_old_key().await;
    for clinic in ["clinic-a", "clinic-b", "_global"] {
        let stored = table.load(&table.new, clinic).await;
        assert_eq!(password(&stored), format!("{PLANTED}{clinic}-two"));
        assert_eq!(stored.version.number, 2);
    }
    assert_eq!(table.hash_key(&table.new).await, hash);
    // The history opens too.
    let store = table.store(&table.new);
    let first = store
        .load_version(&tenant("clinic-a"), 1, &SystemClock)
        .await;
    let Ok(Past::Settings {
        settings: first, ..
    }) = first
    else {
        panic!("{first:?}")
    };
    assert_eq!(password(&first), format!("{PLANTED}clinic-a-one"));
}

#[tokio::test]
async fn re_sealing_changes_the_data_key_of_an_item_and_nothing_else() {
    let table = Table::with(&["clinic-a"]).await;
    let by_name = |items: Vec<HashMap<String, AttributeValue>>| {
        let named = items
            .into_iter()
            .map(|item| (format!("{:?} {:?}", item["pk"], item["sk"]), item));
        named.collect::<HashMap<_, _>>()
    };
    let before = by_name(table.items().await);
    table.run(&table.plan()).await;
    for (name, after) in by_name(table.items().await) {
        // The counter has no data key: it is authenticated by the hash key.
        if !before[&name].contains_key("dataKey") {
            assert_eq!(before[&name], after, "{name}");
            continue;
        }
        let changed: Vec<_> = ["dataKey", "keyArn"]
            .into_iter()
            .filter(|attribute| before[&name][*attribute] != after[*attribute])
            .collect();
        assert_eq!(changed, ["dataKey", "keyArn"], "{name}");
        let rest = |mut item: HashMap<String, AttributeValue>| {
            item.remove("dataKey");
            item.remove("keyArn");
            item
        };
        assert_eq!(rest(before[&name].clone()), rest(after), "{name}");
    }
}

#[tokio::test]
async fn no_data_key_and_no_credential_is_opened_for_it() {
    let table = Table::with(&["clinic-a"]).await;
    table.aws.clear_calls();
    table.run(&table.plan()).await;
    let kms: Vec<_> = table
        .aws
        .calls()
        .into_iter()
        .filter(|call| call.service == "kms")
        .map(|call| call.operation)
        .collect();
    assert_eq!(kms, ["ReEncrypt"; 4]);
}

#[tokio::test]
async fn old_and_new_are_read_side_by_side_while_it_goes_on() {
    let table = Table::with(&["clinic-a", "clinic-b"]).await;
    let hash = table.hash_key(&table.old).await;
    let mut plan = table.plan();
    plan.tenants = vec![tenant("clinic-a")];
    let report = table.run(&plan).await;
    assert_eq!(table.under().await, (4, 3));
    assert!(report.is_complete(&table.new), "{report}");
    // A function reads both, whichever of the keys it seals with.
    for key in [&table.old, &table.new] {
        for clinic in ["clinic-a", "clinic-b"] {
            let stored = table.load(key, clinic).await;
            assert_eq!(password(&stored), format!("{PLANTED}{clinic}-two"));
        }
        assert_eq!(table.hash_key(key).await, hash);
    }
    table.save(&table.new, "clinic-b", "three").await;
    let stored = table.load(&table.old, "clinic-b").await;
    assert_eq!(password(&stored), format!("{PLANTED}clinic-b-three"));
}

#[tokio::test]
async fn a_run_that_is_stopped_in_the_middle_is_gone_on_with_by_the_next() {
    let table = Table::with(&["clinic-a", "clinic-b", "clinic-c"]).await;
    let (plan, mut report, fourth) = (table.plan(), Report::default(), Notify::new());
    let mut on_item = |done, _| {
        if done == 4 {
            fourth.notify_one();
        }
    };
    tokio::select! {
        biased;
        () = fourth.notified() => {}
        ended = run(&plan, &table.new, &mut report, &mut on_item) => panic!("it came to its end: {ended:?}"),
    }
    assert_eq!(report.resealed, 4, "what was done is in the report");
    assert!(!report.is_complete(&table.new));
    let (old, new) = table.under().await;
    // The one that was under way may be done or not.
    assert!((4..=5).contains(&new) && old == 10 - new, "{old} {new}");

    table.aws.clear_calls();
    let report = table.run(&plan).await;
    assert_eq!(report.resealed, u64::try_from(old).unwrap());
    assert_eq!(
        table.aws.count("kms", "ReEncrypt"),
        old,
        "what was done is not done again"
    );
    assert!(report.is_complete(&table.new), "{report}");
    assert_eq!(table.under().await, (0, 10));
}

#[tokio::test]
async fn a_second_run_has_nothing_to_do_and_asks_kms_for_nothing() {
    let table = Table::with(&["clinic-a"]).await;
    table.run(&table.plan()).await;
    table.aws.clear_calls();
    let report = table.run(&table.plan()).await;
    assert_eq!((report.resealed, report.after.is_none()), (0, true));
    assert!(report.is_complete(&table.new));
    assert_eq!(table.aws.count("kms", "ReEncrypt"), 0);
    assert_eq!(table.aws.count("dynamodb", "UpdateItem"), 0);
}

#[tokio::test]
async fn a_save_that_comes_in_between_wins() {
    let table = Table::with(&["clinic-a"]).await;
    let store = table.store(&table.new);
    let page = store
        .sealed_items(Some(&tenant("clinic-a")), None)
        .await
        .unwrap();
    let found = page.items.iter().find(|item| item.name == "settings");
    let found = found.unwrap();
    let Sealing::Under(data_key) = &found.sealing else {
        panic!("{found:?}");
    };
    table.save(&table.old, "clinic-a", "three").await;
    assert_eq!(
        store.reseal(found, data_key).await,
        Ok(Resealed::ChangedMeanwhile)
    );
    let stored = table.load(&table.old, "clinic-a").await;
    assert_eq!(password(&stored), format!("{PLANTED}clinic-a-three"));

    // Nor does an item come back that is gone.
    let mut gone = found.clone();
    gone.name = "version#0000000099".into();
    assert_eq!(
        store.reseal(&gone, data_key).await,
        Ok(Resealed::ChangedMeanwhile)
    );
    let items = table.items().await;
    assert!(
        !items
            .iter()
            .any(|item| item["sk"] == AttributeValue::S(gone.name.clone()))
    );
}

#[tokio::test]
async fn what_a_function_with_the_old_key_saves_during_a_run_is_counted_as_left() {
    let table = Table::with(&["clinic-a", "clinic-b"]).await;
    let (plan, mut report, first) = (table.plan(), Report::default(), Notify::new());
    let mut on_item = |done, _| {
        if done == 1 {
            first.notify_one();
        }
    };
    {
        let mut run = pin!(run(&plan, &table.new, &mut report, &mut on_item));
        tokio::select! {
            biased;
            () = first.notified() => {}
            ended = &mut run => panic!("it came to its end: {ended:?}"),
        }
        // The walk stands still meanwhile, past the page on which the new clinic would have been.
        table.save(&table.old, "clinic-c", "one").await;
        run.await.unwrap();
    }
    assert_eq!(report.resealed, 7);
    assert_eq!(report.after.as_ref().unwrap().elsewhere(&table.new), 2);
    assert!(!report.is_complete(&table.new));
    let again = table.run(&plan).await;
    assert!(again.is_complete(&table.new));
    let stored = table.load(&table.new, "clinic-c").await;
    assert_eq!(password(&stored), format!("{PLANTED}clinic-c-one"));
}

#[tokio::test]
async fn another_clinics_data_key_is_not_re_sealed_for_this_one() {
    let table = Table::with(&["clinic-a"]).await;
    for mut moved in table.items().await {
        if moved["sk"] == AttributeValue::S("settings".into()) {
            moved.insert("pk".into(), AttributeValue::S("clinic-b".into()));
            table.put(moved).await;
        }
    }
    let report = table.run(&table.plan()).await;
    assert_eq!((report.resealed, report.failed.len()), (4, 1));
    assert_eq!(report.failed[0].clinic_id, "clinic-b");
    assert!(
        report.failed[0]
            .error
            .contains("InvalidCiphertextException")
    );
    assert!(!report.is_complete(&table.new));
}

#[tokio::test]
async fn one_item_that_fails_does_not_stop_the_rest_and_is_named_with_its_code() {
    let table = Table::with(&["clinic-a"]).await;
    table
        .aws
        .fail_next("kms", "ReEncrypt", 1, Fault::AccessDenied);
    table
        .aws
        .fail_next("dynamodb", "UpdateItem", 1, Fault::AccessDenied);
    let report = table.run(&table.plan()).await;
    let errors: Vec<_> = report
        .failed
        .iter()
        .map(|item| item.error.as_str())
        .collect();
    assert_eq!(
        errors,
        [
            "KMS ReEncrypt failed (AccessDeniedException)",
            "DynamoDB UpdateItem failed (AccessDeniedException)"
        ]
    );
    assert_eq!((report.resealed, table.under().await), (2, (2, 2)));
    assert!(!report.is_complete(&table.new));
    assert!(table.run(&table.plan()).await.is_complete(&table.new));
}

#[tokio::test]
async fn what_is_not_sealed_is_counted_and_what_cannot_be_read_is_named() {
    let table = Table::with(&["clinic-a"]).await;
    table
        .put(item([("pk", "clinic-b"), ("sk", "settings")]))
        .await;
    table
        .put(item([
            ("pk", "clinic-c"),
            ("sk", "settings"),
            ("keyArn", "arn"),
        ]))
        .await;
    let report = table.run(&table.plan()).await;
    assert_eq!(report.resealed, 4);
    let after = report.after.as_ref().unwrap();
    // That of clinic-b, and the counter of clinic-a.
    assert_eq!(after.without_seal, 2);
    assert_eq!(after.unreadable.len(), 1);
    assert_eq!(after.unreadable[0].clinic_id, "clinic-c");
    assert!(after.unreadable[0].error.contains("dataKey"));
    assert!(!report.is_complete(&table.new));
}

#[tokio::test]
async fn a_table_of_many_pages_is_walked_to_its_end() {
    let table = Table::with(&["clinic-a", "clinic-z"]).await;
    let filler = "x".repeat(300_000);
    for n in 0..8 {
        table
            .put(item([
                ("pk", format!("clinic-{n}").as_str()),
                ("sk", "settings"),
                ("document", &filler),
            ]))
            .await;
    }
    table.aws.clear_calls();
    let report = table.run(&table.plan()).await;
    assert!(
        table.aws.count("dynamodb", "Scan") > 3,
        "one page is enough for it"
    );
    assert_eq!(report.resealed, 7);
    // The eight, and two counters.
    assert_eq!(report.after.unwrap().without_seal, 10);
    assert_eq!(table.under().await.0, 0);
}

#[tokio::test]
async fn a_dry_run_and_a_count_change_nothing_and_ask_kms_for_nothing() {
    let table = Table::with(&["clinic-a"]).await;
    table.aws.clear_calls();
    let mut plan = table.plan();
    plan.is_dry_run = true;
    let report = table.run(&plan).await;
    assert_eq!(report.before.as_ref().unwrap().elsewhere(&table.new), 4);
    assert!(!report.is_complete(&table.new));
    let count = count(&plan.store, &[]).await.unwrap();
    assert_eq!(count.items_by_key, [(table.old.clone(), 4)].into());
    assert!(count.is_all_under(&table.old) && !count.is_all_under(&table.new));
    assert!(
        table
            .aws
            .calls()
            .iter()
            .all(|call| call.operation == "Scan")
    );
}

#[tokio::test]
async fn a_report_has_ids_and_codes_in_it_and_nothing_of_the_settings() {
    let table = Table::with(&["clinic-a"]).await;
    table
        .aws
        .fail_next("kms", "ReEncrypt", 1, Fault::AccessDenied);
    let report = table.run(&table.plan()).await;
    let (text, json) = (report.to_string(), format!("{report:?}"));
    for output in [&text, &json] {
        assert!(
            !output.contains(PLANTED) && !output.contains("desk@"),
            "{output}"
        );
        assert!(
            output.contains("clinic-a") || output.contains("_hash-key"),
            "{output}"
        );
    }
    assert!(text.contains("3 items re-sealed"), "{text}");
    assert!(text.contains("1 items failed:"), "{text}");
}

#[tokio::test]
async fn with_the_old_key_disabled_too_early_nothing_is_lost() {
    let table = Table::with(&["clinic-a"]).await;
    table.disable_old_key().await;
    let report = table.run(&table.plan()).await;
    assert_eq!((report.resealed, report.failed.len()), (0, 4));
    assert!(
        report
            .failed
            .iter()
            .all(|item| item.error.contains("DisabledException"))
    );
    assert_eq!(table.under().await, (4, 0));
    let error = table.store(&table.old).load(&tenant("clinic-a")).await;
    assert!(matches!(
        error.unwrap_err(),
        StoreError::Envelope(EnvelopeError::Kms { .. })
    ));
}
