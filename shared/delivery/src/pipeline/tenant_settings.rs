//! The settings that a tenant's messages go by: its own and the platform's, and whether they still are the last ones.

use std::sync::Arc;

use comms_core::{Channel, Country, IdempotencyKey, RequestId, Tenant};
use comms_settings::{
    Ceilings, CommunicationSettings, Moment, Snapshot, StoreError, StoredSettings,
};
use futures_util::future::try_join;

use super::{Pipeline, PipelineError};
use crate::{
    policy::{self, ChannelPolicy},
    require_clinic::RequireClinic,
};

/// How the country of an accepted request is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountryLookup {
    /// By a read of its item.
    Read,
    /// By a conditional write that changes nothing: the worker may not read requests.
    Write,
}

/// A clinic's own settings, and the platform's.
#[derive(Debug, Clone)]
pub(super) struct TenantSettings {
    /// `None` for the platform itself.
    own: Option<Snapshot>,
    pub(super) platform: Snapshot,
    require_clinic: RequireClinic,
}

impl TenantSettings {
    pub(super) fn own(&self) -> Option<&Arc<StoredSettings>> {
        self.own.as_ref()?.settings.as_ref()
    }

    pub(super) const fn platform(&self) -> Option<&Arc<StoredSettings>> {
        self.platform.settings.as_ref()
    }

    fn documents(&self) -> [Option<&CommunicationSettings>; 2] {
        [self.own(), self.platform()].map(|stored| stored.map(|stored| &stored.settings))
    }

    /// The ceilings that hold for the tenant.
    pub(super) fn ceilings(&self, tenant: &Tenant) -> Ceilings {
        let [own, platform] = self.documents();
        policy::ceilings(tenant, own, platform)
    }

    pub(super) fn policy(&self, tenant: &Tenant, channel: Channel) -> ChannelPolicy {
        let [own, platform] = self.documents();
        ChannelPolicy::new(tenant, channel, own, platform)
            .requiring_clinic(tenant, self.require_clinic)
    }

    /// Whether `other` is of the same versions.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let is_same_own = match (&self.own, &other.own) {
            (Some(own), Some(other)) => own.is_same(other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        is_same_own && self.platform.is_same(&other.platform)
    }
}

impl Pipeline {
    /// The country in which the tenant's phone numbers without a country code are, by its last settings as of `asked`.
    pub async fn default_country(
        &self,
        tenant: &Tenant,
        asked: Moment,
    ) -> Result<Option<Country>, StoreError> {
        let own = self.settings.confirmed(tenant, asked).await?.settings;
        Ok(own.and_then(|stored| stored.settings.default_country))
    }

    /// The country by which the request under `key` was first read; `None` where there is no such request, or it had no
    /// number without a country code. Its repetition is read by the same country, whatever the clinic has set since.
    pub async fn first_country(
        &self,
        tenant: &Tenant,
        key: &IdempotencyKey,
        by: CountryLookup,
    ) -> Result<Option<Country>, PipelineError> {
        let id = RequestId::derive(self.hash_keys.get().await?, tenant, key);
        let country = match by {
            CountryLookup::Read => self.ledger.country_by_read(&id).await,
            CountryLookup::Write => self.ledger.country_by_write(&id).await,
        };
        Ok(country?)
    }

    /// What is remembered of a tenant's settings, however old.
    pub(super) async fn remembered_settings(
        &self,
        tenant: &Tenant,
    ) -> Result<TenantSettings, StoreError> {
        let own = match tenant {
            Tenant::Clinic(_) => Some(self.settings.remembered(tenant).await?),
            Tenant::Global => None,
        };
        let platform = self.settings.remembered(&Tenant::Global).await?;
        Ok(TenantSettings {
            own,
            platform,
            require_clinic: self.require_clinic,
        })
    }

    /// The tenant's settings of less than a minute ago, for what may be refused but does not fail.
    pub(super) async fn recent_settings(
        &self,
        tenant: &Tenant,
    ) -> Result<TenantSettings, StoreError> {
        let own = match tenant {
            Tenant::Clinic(_) => Some(self.settings.recent(tenant).await?),
            Tenant::Global => None,
        };
        let platform = self.settings.recent(&Tenant::Global).await?;
        Ok(TenantSettings {
            own,
            platform,
            require_clinic: self.require_clinic,
        })
    }

    /// The last settings of the tenant as of `asked`, of which `known` is remembered. The platform's own version is read
    /// where `needs_platform`, or where it is not known to have been the last one a minute ago; else when a message
    /// reaches the platform's account.
    pub(super) async fn confirmed_settings(
        &self,
        tenant: &Tenant,
        known: &TenantSettings,
        needs_platform: bool,
        asked: Moment,
    ) -> Result<TenantSettings, StoreError> {
        let own = async {
            Ok(match tenant {
                Tenant::Clinic(_) => Some(self.settings.confirmed(tenant, asked).await?),
                Tenant::Global => None,
            })
        };
        let platform = async {
            if needs_platform || !self.settings.is_recent(&known.platform) {
                self.settings.confirmed(&Tenant::Global, asked).await
            } else {
                Ok(known.platform.clone())
            }
        };
        let (own, platform) = try_join(own, platform).await?;
        Ok(TenantSettings {
            own,
            platform,
            require_clinic: self.require_clinic,
        })
    }

    /// The last settings of the tenant as of now, by strongly consistent reads: before something fails because of them.
    pub(super) async fn newest_settings(
        &self,
        tenant: &Tenant,
    ) -> Result<TenantSettings, StoreError> {
        let asked = self.settings.moment();
        let own = async {
            Ok(match tenant {
                Tenant::Clinic(_) => Some(self.settings.newest(tenant, asked).await?),
                Tenant::Global => None,
            })
        };
        let (own, platform) = try_join(own, self.settings.newest(&Tenant::Global, asked)).await?;
        Ok(TenantSettings {
            own,
            platform,
            require_clinic: self.require_clinic,
        })
    }

    /// `known` with the last version of the tenant's own settings, and where `is_global` of the platform's as well, by
    /// strongly consistent reads.
    pub(super) async fn newest_of(
        &self,
        tenant: &Tenant,
        known: &TenantSettings,
        is_global: bool,
    ) -> Result<TenantSettings, StoreError> {
        if is_global {
            return self.newest_settings(tenant).await;
        }
        let mut newest = known.clone();
        if newest.own.is_some() {
            let asked = self.settings.moment();
            newest.own = Some(self.settings.newest(tenant, asked).await?);
        }
        Ok(newest)
    }
}
