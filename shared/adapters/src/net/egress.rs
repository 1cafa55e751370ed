//! Where a connection to a clinic-supplied host may go.
//!
//! A name is resolved once, every address is checked, and the connection is made to a checked
//! address: nobody resolves the name again in between. Addresses that are not on the public internet
//! are refused unless the operator allows them (`EGRESS_ALLOW`); a clinic cannot.

mod by_text;
mod lookups;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use async_trait::async_trait;
use comms_core::{Host, public_address::is_public};
use ipnet::IpNet;
use thiserror::Error;

use self::lookups::Lookups;

/// Ports for SMTP submission: 465 (RFC 8314), 587 (RFC 6409), and 2525, which providers offer where
/// the other two are blocked.
pub const SMTP_PORTS: [u16; 3] = [465, 587, 2525];
/// The port that a clinic-supplied URL may have.
pub const HTTPS_PORTS: [u16; 1] = [443];

/// Why a host may not be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EgressError {
    /// The port is none that the protocol uses.
    #[error("the port is not one that may be connected to")]
    Port,
    /// No address of the host is on the public internet.
    #[error("the host's address is not one that may be connected to")]
    Address,
    /// The name does not resolve.
    #[error("the host's name does not resolve")]
    Unresolved,
}

/// What an operator allows beyond the public internet: `EGRESS_ALLOW`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EgressAllow(Vec<(IpNet, Option<u16>)>);

/// The part of `EGRESS_ALLOW`, counted from 1, that is not `CIDR`, `CIDR:port`, or `[IPv6 CIDR]:port`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("part {0} is neither CIDR nor CIDR:port, such as 10.1.0.0/16:587 or [fd00::/8]:465")]
pub struct EgressAllowError(usize);

impl FromStr for EgressAllow {
    type Err = EgressAllowError;

    /// Reads a comma-separated list; nothing at all allows nothing.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(',')
            .map(str::trim)
            .enumerate()
            .filter(|(_, part)| !part.is_empty())
            .map(|(index, part)| {
                let wrong = || EgressAllowError(index + 1);
                if let Ok(net) = part.parse::<IpNet>() {
                    return Ok((net, None));
                }
                let (net, port) = part.rsplit_once(':').ok_or_else(wrong)?;
                let net = net
                    .strip_prefix('[')
                    .and_then(|inner| inner.strip_suffix(']'))
                    .unwrap_or(net);
                let net = net.parse::<IpNet>().map_err(|_| wrong())?;
                let port = port
                    .parse::<u16>()
                    .ok()
                    .filter(|port| *port > 0)
                    .ok_or_else(wrong)?;
                Ok((net, Some(port)))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl EgressAllow {
    fn allows(&self, address: IpAddr, port: u16) -> bool {
        self.0
            .iter()
            .any(|(net, only)| net.contains(&address) && only.is_none_or(|only| only == port))
    }
}

/// Turns names into addresses.
#[async_trait]
pub trait Resolver: Send + Sync {
    /// The addresses of `name`, in the order in which they should be tried.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        // Port 0 because the system's interface wants one.
        Ok(tokio::net::lookup_host((name, 0))
            .await?
            .map(|address| address.ip())
            .collect())
    }
}

/// Says where a connection may go.
#[derive(Clone)]
pub struct EgressGuard {
    allow: EgressAllow,
    lookups: Lookups,
}

impl EgressGuard {
    /// Allows the public internet and `allow`.
    pub fn new(allow: EgressAllow, resolver: Arc<dyn Resolver>) -> Self {
        Self {
            allow,
            lookups: Lookups::new(resolver),
        }
    }

    /// The addresses of `host`, the first sixteen of them: one lookup, or none for an address.
    pub async fn resolve(&self, host: &Host) -> Result<Vec<IpAddr>, EgressError> {
        let addresses = match host {
            Host::Ip(address) => vec![*address],
            Host::Name(name) => self.lookups.addresses(name).await?,
        };
        if addresses.is_empty() {
            Err(EgressError::Unresolved)
        } else {
            Ok(addresses)
        }
    }

    /// Those of `addresses` that may be connected to on `port`. `ports` are the ones that the
    /// protocol uses.
    pub fn check(
        &self,
        addresses: &[IpAddr],
        port: u16,
        ports: &[u16],
    ) -> Result<Vec<SocketAddr>, EgressError> {
        let mut refused = EgressError::Address;
        let mut checked = Vec::with_capacity(addresses.len());
        for address in addresses {
            // `::ffff:a.b.c.d` is a.b.c.d, and is connected to as such.
            let address = address.to_canonical();
            if self.allow.allows(address, port) {
                checked.push(SocketAddr::new(address, port));
            } else if is_public(address) {
                if ports.contains(&port) {
                    checked.push(SocketAddr::new(address, port));
                } else {
                    refused = EgressError::Port;
                }
            }
        }
        if checked.is_empty() {
            Err(refused)
        } else {
            Ok(checked)
        }
    }
}

impl std::fmt::Debug for EgressGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EgressGuard")
            .field("allow", &self.allow)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
