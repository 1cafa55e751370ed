//! A name system that knows what a test tells it.

use std::{io, net::IpAddr, sync::Arc};

use async_trait::async_trait;
use comms_adapters::{EgressGuard, ProviderFactory, egress::Resolver, tls::TlsConfigs};
use comms_core::SystemClock;

use crate::world::World;

/// Names with their addresses; no other name is found.
struct FixedNames(Vec<(&'static str, IpAddr)>);

#[async_trait]
impl Resolver for FixedNames {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        let (_, address) = found.ok_or(io::ErrorKind::NotFound)?;
        Ok(vec![*address])
    }
}

impl World {
    /// Lets tests of settings find these names alone.
    pub fn resolve_only(&mut self, names: &[(&'static str, &str)]) {
        let parsed = names
            .iter()
            .map(|(name, address)| (*name, address.parse().unwrap()));
        let resolver = Arc::new(FixedNames(parsed.collect()));
        let egress = EgressGuard::new("127.0.0.0/8".parse().unwrap(), resolver);
        let tls = TlsConfigs::new(Some(&self.ca.pem())).unwrap();
        let (sdk, clock) = (self.sdk_of("config-test"), Arc::new(SystemClock));
        self.config_test.factory = ProviderFactory::new(tls, egress, sdk, clock, 1);
    }
}
