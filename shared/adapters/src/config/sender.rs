//! Who an entry sends as.

use std::fmt;

use comms_core::EmailAddress;

/// The sender that an entry has of its own: through one provider a clinic may send under another
/// address than through the others.
#[derive(Clone, Default)]
pub struct OwnSender {
    /// The address.
    pub email: Option<EmailAddress>,
    /// The name.
    pub name: Option<String>,
}

impl fmt::Debug for OwnSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnSender(…)")
    }
}
