//! Which phone number at Meta.

use std::{fmt, num::NonZeroU32};

use comms_core::{BaseUrl, Secret, account::GraphId};
use jiff::SignedDuration;

use crate::pacing::Rate;

impl MetaSettings {
    /// Meta's Graph at the version that this adapter is written for. It is served until 2027-10-08
    /// (Graph API, changelog).
    pub const GRAPH_URL: &str = "https://graph.facebook.com/v23.0";
}

/// Messages that one phone number may send in a second, unless Meta has raised that (Cloud API, "Throughput").
pub(crate) const MESSAGES_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(79);

/// Messages from one phone number to one recipient: 45 at once, for which one in six seconds is borrowed
/// (Cloud API, "Pair rate limits").
pub(crate) const PAIR_RATE: Rate = Rate {
    burst: 45,
    interval: SignedDuration::from_secs(6),
};

/// What is needed to send from one phone number.
#[derive(Clone)]
pub struct MetaSettings {
    /// A system user's access token with `whatsapp_business_messaging`.
    pub access_token: Secret,
    /// The phone number's id.
    pub phone_number_id: GraphId,
    /// Where the Graph is, version included.
    pub api_url: BaseUrl,
}

impl fmt::Debug for MetaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetaSettings(…)")
    }
}
