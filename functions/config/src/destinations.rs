//! Refuses settings whose hosts, ports or URLs can never be connected to.

use comms_adapters::egress::EgressAllow;
use comms_core::{Channel, Position, Problems};
use comms_settings::{CommunicationSettings, document::POINTER};

/// Adds a problem for each entry whose host, port or URL shows by its text that it cannot be reached.
pub(crate) fn check(
    allow: &EgressAllow,
    settings: &CommunicationSettings,
    problems: &mut Problems,
) {
    for channel in Channel::ALL {
        let entries = settings.channel(channel).into_iter();
        for (position, entry) in entries.flat_map(comms_settings::ChannelSettings::entries) {
            if let Some((field, detail)) = entry.config.egress_refusal(allow) {
                let credentials = credentials_pointer(channel, position);
                problems.add(format!("{credentials}/{field}"), detail);
            }
        }
    }
}

/// The JSON pointer of an entry's credentials in a request body.
pub(crate) fn credentials_pointer(channel: Channel, position: Position) -> String {
    let place = match position {
        Position::Primary | Position::Global => "primary".to_owned(),
        Position::Fallback(n) | Position::GlobalFallback(n) => format!("fallback/{n}"),
    };
    format!("{POINTER}/{channel}/{place}/credentials")
}
