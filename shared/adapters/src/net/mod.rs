//! The network below the providers: name lookups and egress rules, TCP, TLS, HTTP/1.1, byte budgets, and the ceiling of
//! open sockets.

pub mod egress;
pub mod http;
pub(crate) mod metered;
pub mod sockets;
pub(crate) mod tcp;
pub mod tls;
