//! The bodies that most tests begin with: communications, and settings of one e-mail provider.

use comms_testkit::builders;
pub use comms_testkit::builders::{email_settings as email, smtp_entry as entry};
use serde_json::{Value, json};

use crate::world::CLINIC;

/// A queued communication of [`CLINIC`] to one patient by e-mail.
pub fn communication() -> Value {
    builders::communication(CLINIC)
}

/// The same, sent while the caller waits.
pub fn immediate() -> Value {
    let mut communication = communication();
    communication["strategy"] = json!("immediate");
    communication
}
