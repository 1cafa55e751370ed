//! How the ledger names an address.

use comms_core::{
    HashKey,
    request::{PlannedDelivery, Target},
};

/// The keyed hash of the address that a delivery goes to.
pub(super) fn address_hash(hash: &HashKey, planned: &PlannedDelivery) -> String {
    let address = planned.target.as_ref().map_or("", Target::address);
    hash.digest("address", &[address.as_bytes()]).hex128()
}
