//! TCP connections to checked addresses.

use std::{net::SocketAddr, time::Duration};

use tokio::net::TcpStream;

use crate::{
    deadline::{Deadline, Elapsed},
    metered::{MAX_HANDSHAKE_BYTES, Metered},
};

/// The longest that is waited for a TCP connection to one address.
const CONNECT_TIME: Duration = Duration::from_secs(3);
/// Addresses of one host that are tried.
const MOST_ADDRESSES: usize = 3;

/// Why no connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectFailure {
    /// The address refused it, or can not be reached.
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
    for address in addresses.iter().take(MOST_ADDRESSES) {
        match deadline
            .bound(CONNECT_TIME, TcpStream::connect(address))
            .await
        {
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
