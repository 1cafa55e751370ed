//! Outcomes that could not be recorded, on their way to the worker.

use comms_delivery::{Accepted, OUTCOMES_MAC, OutcomeMessage};
use comms_settings::error_code;
use futures_util::FutureExt as _;

use super::{Queue, QueueError, text};

impl Queue {
    /// Puts outcomes on the urgent queue, where no campaign is in front of them.
    pub async fn send_outcomes(
        &self,
        messages: &[OutcomeMessage],
        accepted: &Accepted,
    ) -> Result<(), QueueError> {
        for OutcomeMessage { body, mac } in messages {
            let mac = text(mac).map_err(|_| QueueError::Unreadable)?;
            let sent = self
                .client
                .send_message()
                .queue_url(&self.urgent_url)
                .message_body(body)
                .message_group_id(accepted.group())
                .message_attributes(OUTCOMES_MAC, mac)
                .send()
                .boxed()
                .await;
            sent.map_err(|error| QueueError::Sqs {
                queued: 0,
                left: Vec::new(),
                code: error_code(&error),
            })?;
        }
        Ok(())
    }
}
