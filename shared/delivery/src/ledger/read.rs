//! A request with its deliveries.

use std::collections::HashMap;

use comms_aws::{TableError, item::find_text};
use comms_core::{Delivery, DeliveryStatus, FailureReason, RequestId, SentVia, Tenant};
use jiff::Timestamp;

use super::{
    Ledger, RecordedRequest, RequestDetails,
    attributes::REQUEST,
    details,
    items::{delivery, given_up_at, is_given_up, planned_deliveries},
};

impl Ledger {
    /// Reads a request with all its deliveries. A delivery without an item is queued. The outcome is unknown if the lease
    /// ended so long ago that no worker will take the delivery over.
    pub async fn read(
        &self,
        id: &RequestId,
        now: Timestamp,
    ) -> Result<Option<RecordedRequest>, TableError> {
        let mut tenant = None;
        let (mut request, mut accepted_at, mut replays) = (RequestDetails::default(), None, 0);
        let mut planned = Vec::new();
        let mut recorded = HashMap::new();
        for item in self.items_of(id).await? {
            let clinic = find_text(&item, "clinicId").ok_or(TableError::Corrupt("clinicId"))?;
            tenant = Some(Tenant::parse(clinic).map_err(|_| TableError::Corrupt("clinicId"))?);
            if find_text(&item, "sk").map(String::as_str) == Some(REQUEST) {
                planned = planned_deliveries(&item)?;
                request = RequestDetails::of_item(&item)?;
                accepted_at = details::timestamp(&item, "acceptedAt")?;
                replays = details::replays(&item)?;
            } else {
                let mut delivery = delivery(&item)?;
                if delivery.status == DeliveryStatus::Sending && is_given_up(&item, now)? {
                    delivery.status = DeliveryStatus::Unknown;
                    delivery.reason = Some(FailureReason::OutcomeUnknown);
                    delivery.ended_at = Some(given_up_at(&item)?);
                }
                recorded.insert(delivery.id.clone(), delivery);
            }
        }
        let Some(tenant) = tenant else {
            return Ok(None);
        };
        // In the order of the request. A request from the queue has none.
        let mut deliveries: Vec<_> = planned
            .into_iter()
            .map(|queued| recorded.remove(&queued.id).unwrap_or(queued))
            .collect();
        let mut rest: Vec<_> = recorded.into_values().collect();
        rest.sort_by(|a, b| a.id.cmp(&b.id));
        deliveries.extend(rest);
        if let Some(cause) = request.cause_of_global(&tenant) {
            for delivery in &mut deliveries {
                let may = Delivery::may_be_of_global(delivery.status, &delivery.attempts);
                delivery.via = may.then_some(SentVia::Global(cause));
            }
        }
        Ok(Some(RecordedRequest {
            tenant,
            details: request,
            accepted_at,
            replays,
            deliveries,
        }))
    }
}
