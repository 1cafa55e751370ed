//! What a channel's settings say, as the provider factory wants it: each entry with its own configuration and
//! its own tenant's sender.

use comms_adapters::{ChainSpec, EntrySpec};

use crate::document::ChannelSettings;

impl ChannelSettings {
    /// The chain of the channel's enabled entries, in their order.
    pub fn chain_spec(&self) -> ChainSpec {
        let enabled = self.entries().filter(|(_, entry)| entry.enabled);
        let entries = enabled.map(|(position, entry)| EntrySpec {
            id: entry.id.clone(),
            position,
            config: entry.config.clone(),
            sender: self.sender(entry),
            retries: self.retry_attempts,
            max_per_second: entry.max_per_second,
        });
        ChainSpec {
            entries: entries.collect(),
            on_ambiguous: self.on_ambiguous,
            reply_to: self.reply_to(),
        }
    }
}
