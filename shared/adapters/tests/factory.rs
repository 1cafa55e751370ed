//! What the factory builds, once, and how long it remembers it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use aws_config::SdkConfig;
use comms_adapters::{
    Chain, ChainSpec, EgressGuard, EntrySpec, OwnSender, ProviderConfig, ProviderFactory,
    chain::AmbiguityPolicy,
    egress::{EgressAllow, SystemResolver},
    factory::MAX_BYTES,
    sendgrid::SendgridConfig,
    smtp::{Security, SmtpConfig},
    tls::TlsConfigs,
};
use comms_core::{
    BaseUrl, Channel, EmailAddress, EntryId, Host, Mailbox, Position, ProviderKind, Secret,
    SystemClock, Tenant,
};
use comms_testkit::tls::TestCa;

fn factory(capacity: usize) -> ProviderFactory {
    ProviderFactory::new(
        TlsConfigs::new(None).unwrap(),
        EgressGuard::new(EgressAllow::default(), Arc::new(SystemResolver)),
        SdkConfig::builder().build(),
        Arc::new(SystemClock),
        capacity,
    )
}

fn sender() -> Mailbox {
    Mailbox {
        address: EmailAddress::parse("desk@clinic.example").unwrap(),
        name: None,
    }
}

fn smtp(ca_pem: Option<String>) -> Arc<dyn ProviderConfig> {
    Arc::new(SmtpConfig {
        host: Host::parse("smtp.clinic.example").unwrap(),
        port: 587,
        security: Security::StartTls,
        user: "user".into(),
        password: Secret::new("password".to_owned()),
        ca_pem,
        max_connections: 5,
        from: OwnSender::default(),
        ehlo_name: None,
    })
}

fn sendgrid() -> Arc<dyn ProviderConfig> {
    Arc::new(SendgridConfig {
        api_key: Secret::new("key".to_owned()),
        from: OwnSender::default(),
        api_url: Some(BaseUrl::parse(SendgridConfig::GLOBAL_URL).unwrap()),
        sandbox: false,
    })
}

fn spec(entries: Vec<Arc<dyn ProviderConfig>>) -> ChainSpec {
    let entries = entries.into_iter().enumerate().map(|(index, config)| {
        let position = match u8::try_from(index).unwrap() {
            0 => Position::Primary,
            index => Position::Fallback(index - 1),
        };
        EntrySpec {
            id: EntryId::fallback(index),
            position,
            config,
            sender: Some(sender()),
            retries: 0,
            max_per_second: None,
        }
    });
    ChainSpec {
        entries: entries.collect(),
        on_ambiguous: AmbiguityPolicy::Failover,
        reply_to: None,
    }
}

fn tenant(number: usize) -> Tenant {
    Tenant::parse(&format!("clinic-{number}")).unwrap()
}

fn get(factory: &ProviderFactory, number: usize, version: u64) -> Arc<Chain> {
    let spec = || spec(vec![smtp(None)]);
    factory.own_chain(&tenant(number), Channel::Email, version, spec)
}

/// Whether the chain of this version is remembered.
fn is_known(factory: &ProviderFactory, number: usize, version: u64) -> bool {
    let mut was_built = false;
    factory.own_chain(&tenant(number), Channel::Email, version, || {
        was_built = true;
        spec(Vec::new())
    });
    !was_built
}

#[test]
fn a_thousand_who_ask_at_once_get_one_chain_built_once() {
    let factory = factory(10);
    let builds = AtomicUsize::new(0);
    let start = Barrier::new(20);
    let chains: Vec<Arc<Chain>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..20)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    let ask = || {
                        factory.own_chain(&tenant(1), Channel::Email, 1, || {
                            builds.fetch_add(1, Ordering::Relaxed);
                            spec(vec![smtp(None), sendgrid()])
                        })
                    };
                    (0..50).map(|_| ask()).collect::<Vec<_>>()
                })
            })
            .collect();
        let ended = threads.into_iter().map(|thread| thread.join().unwrap());
        ended.flatten().collect()
    });
    assert_eq!((chains.len(), builds.into_inner()), (1000, 1));
    assert!(chains.iter().all(|chain| Arc::ptr_eq(chain, &chains[0])));
}

#[test]
fn two_fallbacks_of_the_same_provider_are_two_providers() {
    let factory = factory(10);
    let chain = factory.own_chain(&tenant(1), Channel::Email, 1, || {
        spec(vec![smtp(None), sendgrid(), sendgrid()])
    });
    let kinds = chain.entries.iter().map(|entry| entry.provider.kind());
    assert_eq!(
        kinds.collect::<Vec<_>>(),
        [
            ProviderKind::new("smtp"),
            ProviderKind::new("sendgrid"),
            ProviderKind::new("sendgrid")
        ]
    );
    let [_, first, second] = &chain.entries[..] else {
        panic!("three entries");
    };
    assert!(!Arc::ptr_eq(&first.provider, &second.provider));
    assert!(!Arc::ptr_eq(&first.health, &second.health));
}

#[test]
fn a_newer_version_takes_the_place_of_an_older_one_and_never_the_other_way_round() {
    let factory = factory(10);
    let old = get(&factory, 1, 1);
    let provider = Arc::downgrade(&old.entries[0].provider);
    let new = get(&factory, 1, 2);
    assert!(!Arc::ptr_eq(&old, &new));
    assert!(provider.upgrade().is_some(), "still at work");
    drop(old);
    assert!(provider.upgrade().is_none(), "nobody remembers it");

    // Somebody who has read the settings before the change.
    get(&factory, 1, 1);
    assert!(Arc::ptr_eq(&get(&factory, 1, 2), &new));
}

#[test]
fn the_one_that_was_used_longest_ago_goes_first() {
    let factory = factory(2);
    get(&factory, 1, 1);
    get(&factory, 2, 1);
    get(&factory, 1, 1);
    get(&factory, 3, 1);
    assert!(is_known(&factory, 1, 1));
    assert!(is_known(&factory, 3, 1));
    assert!(!is_known(&factory, 2, 1));
}

#[test]
fn what_is_remembered_has_a_bound_in_bytes_too() {
    let factory = factory(10_000);
    let pem = TestCa::new().pem();
    let large = |number| {
        let spec = || spec(vec![smtp(Some(pem.clone()))]);
        factory.own_chain(&tenant(number), Channel::Email, 1, spec);
    };
    let most = MAX_BYTES / 30_000;
    for number in 0..=most {
        large(number);
    }
    assert!(!is_known(&factory, 0, 1));
    assert!(is_known(&factory, most, 1));
}
