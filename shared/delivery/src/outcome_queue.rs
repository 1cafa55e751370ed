//! Outcomes that could not be recorded, on their way to the worker.

use comms_aws::{
    QueueClient, QueueError,
    queue::{OutgoingMessage, text_attribute},
};

use crate::pipeline::{OUTCOMES_MAC, OutcomeMessage};

/// Sends outcomes of the tenant `group` to the urgent queue at `url`, where no campaign is in front of them.
pub async fn send_outcomes(
    client: &QueueClient,
    url: &str,
    messages: &[OutcomeMessage],
    group: &str,
) -> Result<(), QueueError> {
    for OutcomeMessage { body, mac } in messages {
        let message = OutgoingMessage::new(body)
            .with_group(Some(group))
            .with_attribute(OUTCOMES_MAC, text_attribute(mac)?);
        client.send(url, message).await?;
    }
    Ok(())
}
