//! The functions' parts with a clock and a configuration of the SDK that a test chooses.

use std::sync::Arc;

use aws_types::SdkConfig;
use comms_adapters::{EgressGuard, ProviderFactory, egress::SystemResolver, tls::TlsConfigs};
use comms_core::Clock;
use comms_delivery::{
    Ledger, Parts, Pipeline, Quotas, ShareLimits, SharedHealth, SharedRateLimiter, Shares, Usage,
};
use comms_settings::{HashKeys, SettingsCache, SettingsStore};
use comms_testkit::aws::Resources;

/// A worker at these resources, with this trust root and this clock.
pub fn worker_with(
    sdk: &SdkConfig,
    resources: &Resources,
    ca: &str,
    clock: Arc<dyn Clock>,
) -> comms_worker::Deps {
    comms_worker::Deps {
        pipeline: pipeline_with(sdk, resources, ca, clock),
        queues: comms_worker::Queues::new(
            sdk,
            [&resources.queue_url, &resources.urgent_queue_url],
            &resources.dlq_url,
        ),
    }
}

/// A pipeline at these resources, with this trust root and this clock.
pub fn pipeline_with(
    sdk: &SdkConfig,
    resources: &Resources,
    ca: &str,
    clock: Arc<dyn Clock>,
) -> Pipeline {
    let store = SettingsStore::new(sdk, &resources.settings_table, &resources.kms_key_id);
    let egress = EgressGuard::new("127.0.0.0/8".parse().unwrap(), Arc::new(SystemResolver));
    let tls = TlsConfigs::new(Some(ca)).unwrap();
    Pipeline::new(Parts {
        settings: Arc::new(SettingsCache::new(store.clone(), clock.clone(), 500)),
        hash_keys: HashKeys::new(store),
        factory: ProviderFactory::new(tls, egress, sdk.clone(), clock.clone(), 1_000),
        health: SharedHealth::new(sdk, &resources.deliveries_table, clock.clone()),
        quotas: Quotas::new(sdk, &resources.deliveries_table, clock.clone()),
        rate_limiter: SharedRateLimiter::new(sdk, &resources.deliveries_table, clock.clone()),
        usage: Usage::new(sdk, &resources.deliveries_table),
        shares: Shares::new(
            sdk,
            &resources.deliveries_table,
            clock.clone(),
            ShareLimits::default(),
        ),
        ledger: Ledger::new(sdk, &resources.deliveries_table),
        clock,
    })
}
