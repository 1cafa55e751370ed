//! TCP connections to checked addresses.

use std::{net::SocketAddr, time::Duration};

use tokio::net::TcpStream;

use crate::{
    deadline::{Deadline, Elapsed},
    net::metered::{MAX_HANDSHAKE_BYTES, Metered},
};

/// The longest that is waited for a TCP connection to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The same while another address can still be tried.
const SHORT_CONNECT_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Addresses of one host that are tried.
const MAX_ADDRESSES: usize = 3;

/// Why no connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectFailure {
    /// The address refused it, or cannot be reached.
    Refused,
    /// The time was up.
    TimedOut,
}

/// Connects to the first of the checked `addresses` that answers. The connection may read a TLS handshake, until it is
/// allowed something else.
pub(crate) async fn connect(
    addresses: &[SocketAddr],
    deadline: Deadline,
) -> Result<Metered, ConnectFailure> {
    let mut failure = ConnectFailure::Refused;
    let tried = in_turn(addresses);
    let last = tried.len().saturating_sub(1);
    for (number, address) in tried.into_iter().enumerate() {
        let limit = if number < last {
            SHORT_CONNECT_TIMEOUT
        } else {
            CONNECT_TIMEOUT
        };
        match deadline.bound(limit, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => {
                // Without it every message waits 40 ms: Nagle's algorithm holds the last bytes back
                // until the peer's delayed acknowledgement.
                socket
                    .set_nodelay(true)
                    .map_err(|_| ConnectFailure::Refused)?;
                return Ok(Metered::new(socket, MAX_HANDSHAKE_BYTES));
            }
            Ok(Err(_)) => failure = ConnectFailure::Refused,
            Err(Elapsed) => failure = ConnectFailure::TimedOut,
        }
    }
    Err(failure)
}

/// The addresses that are tried: the families in turn, beginning with that of the first, so that a network without a
/// route for one of them costs one attempt (RFC 8305 section 4).
fn in_turn(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let family = |wanted: bool| {
        addresses
            .iter()
            .filter(move |address| address.is_ipv6() == wanted)
    };
    let (mut own, mut other) = (family(first), family(!first));
    let mut tried = Vec::with_capacity(MAX_ADDRESSES);
    while tried.len() < MAX_ADDRESSES {
        let next = if tried.len() % 2 == 0 {
            own.next().or_else(|| other.next())
        } else {
            other.next().or_else(|| own.next())
        };
        let Some(next) = next else { break };
        tried.push(*next);
    }
    tried
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_tried_in_turn() {
        let parse = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let (a, b, c) = ("[2606:4700::1]:443", "[2606:4700::2]:443", "1.1.1.1:443");
        assert_eq!(in_turn(&parse(&[a, b, c])), parse(&[a, c, b]));
        assert_eq!(
            in_turn(&parse(&[c, "1.0.0.1:443", a, b])),
            parse(&[c, a, "1.0.0.1:443"])
        );
        assert_eq!(in_turn(&parse(&[a, b])), parse(&[a, b]));
        assert!(in_turn(&[]).is_empty());
    }
}
