//! The parts of a pipeline, and how a process puts them together.

use std::{
    num::{NonZeroUsize, ParseIntError},
    str::FromStr,
    sync::Arc,
};

use aws_config::SdkConfig;
use comms_adapters::{
    EgressGuard, ProviderFactory,
    egress::{EgressAllow, SystemResolver},
    tls::{TlsConfigs, TlsError},
};
use comms_core::{AddressMask, Clock, SystemClock, variables::Variables};
use comms_settings::{HashKeys, SettingsCache, SettingsStore};

use super::{Pipeline, requeue::Deferred, unrecorded::Unrecorded};
use crate::{
    health::SharedHealth,
    ledger::Ledger,
    quota::Quotas,
    rate_limit::SharedRateLimiter,
    reply_to::ReplyTos,
    require_clinic::RequireClinic,
    shares::{ShareLimits, Shares},
    slots::Slots,
    usage::Usage,
};

/// Deliveries that a process works on at once, for each invocation that it may have at once.
const SLOTS: usize = 32;

/// The maximum over all invocations. Their memory is measured (`infra/docs/PERFORMANCE.md`).
const MAX_SLOTS: usize = 1_024;

/// Quarters of the slots that one tenant may use.
const SHARE: usize = 3;

/// Tenants whose settings and providers a process caches. A chain of SMTP providers without open connections is a few KB;
/// [`comms_settings::cache::MAX_BYTES`] limits the settings.
const REMEMBERED_TENANTS: usize = 2_000;

/// What a pipeline is made of.
pub struct Parts {
    /// The settings that the process remembers.
    pub settings: Arc<SettingsCache>,
    /// The keys of the hashes.
    pub hash_keys: HashKeys,
    /// Makes providers of settings, and keeps them.
    pub factory: ProviderFactory,
    /// The providers' health, shared by all processes.
    pub health: SharedHealth,
    /// The quotas of clinics and platform.
    pub quotas: Quotas,
    /// The rate limits of provider accounts.
    pub rate_limiter: SharedRateLimiter,
    /// The counts per clinic and day.
    pub usage: Usage,
    /// The share of workers and connections that one clinic may use.
    pub shares: Shares,
    /// The deliveries table.
    pub ledger: Ledger,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// The configuration of a process's pipeline.
#[derive(Debug, Clone)]
pub struct PipelineConfig {
    /// The settings table.
    pub settings_table: String,
    /// The deliveries table.
    pub deliveries_table: String,
    /// The KMS key of the settings.
    pub kms_key_id: String,
    /// Whether settings are read that have no seal ([`SettingsStore::accepting_unsealed`]).
    pub accept_unsealed_settings: bool,
    /// Addresses outside the public internet that connections may reach.
    pub egress_allow: EgressAllow,
    /// How much of an address the ledger and answers show.
    pub address_mask: AddressMask,
    /// Whether a communication has to name a clinic that has providers.
    pub require_clinic: RequireClinic,
    /// How many invocations the process may have at once.
    pub concurrency: Concurrency,
    /// The share of common resources that one clinic may use.
    pub shares: ShareLimits,
    /// Trust roots beside the public ones.
    pub tls: TlsConfigs,
}

impl PipelineConfig {
    /// Reads the configuration. The caller checks the variables for errors.
    ///
    /// # Errors
    /// Trust roots that cannot be used.
    pub fn from_variables(
        variables: &impl Variables,
        shares: ShareLimits,
    ) -> Result<Self, TlsError> {
        Ok(Self {
            settings_table: variables.required("SETTINGS_TABLE"),
            deliveries_table: variables.required("DELIVERIES_TABLE"),
            kms_key_id: variables.required("KMS_KEY_ID"),
            address_mask: variables.parsed("ADDRESS_MASK"),
            require_clinic: variables.parsed("REQUIRE_CLINIC"),
            accept_unsealed_settings: variables.parsed("ACCEPT_UNSEALED_SETTINGS"),
            egress_allow: variables.parsed("EGRESS_ALLOW"),
            concurrency: variables.parsed("AWS_LAMBDA_MAX_CONCURRENCY"),
            shares,
            tls: TlsConfigs::new(variables.file("EXTRA_CA_FILE").as_deref())?,
        })
    }
}

/// The invocations that a process may have at once: 1, or `AWS_LAMBDA_MAX_CONCURRENCY` on a Lambda managed instance (AWS
/// Lambda Developer Guide, "Lambda Managed Instances").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concurrency(NonZeroUsize);

impl Default for Concurrency {
    fn default() -> Self {
        Self(NonZeroUsize::MIN)
    }
}

impl FromStr for Concurrency {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl Concurrency {
    fn slots(self) -> Slots {
        let slots = SLOTS.saturating_mul(self.0.get()).min(MAX_SLOTS);
        Slots::new(slots, slots * SHARE / 4)
    }
}

impl Pipeline {
    /// The pipeline of a process. Nothing is connected to or read yet.
    pub fn assemble(sdk: &SdkConfig, config: PipelineConfig) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let slots = config.concurrency.slots();
        let store = SettingsStore::new(sdk, config.settings_table, config.kms_key_id)
            .accepting_unsealed(config.accept_unsealed_settings);
        let egress = EgressGuard::new(config.egress_allow, Arc::new(SystemResolver));
        let pipeline = Self::new(Parts {
            settings: Arc::new(SettingsCache::new(
                store.clone(),
                clock.clone(),
                REMEMBERED_TENANTS,
            )),
            hash_keys: HashKeys::new(store),
            // A tenant has two channels, and each a chain.
            factory: ProviderFactory::new(
                config.tls,
                egress,
                sdk.clone(),
                clock.clone(),
                2 * REMEMBERED_TENANTS,
            ),
            health: SharedHealth::new(sdk, config.deliveries_table.clone(), clock.clone()),
            quotas: Quotas::new(sdk, config.deliveries_table.clone(), clock.clone()),
            rate_limiter: SharedRateLimiter::new(
                sdk,
                config.deliveries_table.clone(),
                clock.clone(),
            ),
            usage: Usage::new(sdk, config.deliveries_table.clone()),
            shares: Shares::new(sdk, &config.deliveries_table, clock.clone(), config.shares),
            ledger: Ledger::new(sdk, config.deliveries_table),
            clock,
        });
        Self {
            slots,
            mask: config.address_mask,
            require_clinic: config.require_clinic,
            ..pipeline
        }
    }

    /// Sets whether a clinic is required. Cached settings stay.
    pub const fn set_require_clinic(&mut self, require_clinic: RequireClinic) {
        self.require_clinic = require_clinic;
    }

    /// A pipeline of these parts, for one invocation at a time.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            settings,
            hash_keys,
            factory,
            health,
            quotas,
            rate_limiter,
            usage,
            shares,
            ledger,
            clock,
        } = parts;
        Self {
            reply_tos: ReplyTos::new(settings.store().clone(), clock.clone()),
            settings,
            hash_keys,
            factory,
            ledger,
            health,
            quotas,
            rate_limiter,
            usage,
            shares,
            deferred: Deferred::default(),
            unrecorded: Unrecorded::default(),
            slots: Concurrency::default().slots(),
            mask: AddressMask::default(),
            require_clinic: RequireClinic::default(),
            clock,
        }
    }
}
