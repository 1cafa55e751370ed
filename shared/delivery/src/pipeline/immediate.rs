//! Immediate requests: whether one may be sent now, and with which quota.

use std::{num::NonZeroU32, time::Duration};

use comms_adapters::Deadline;
use comms_core::{DeliveryStatus, IdempotencyKey, request::CommunicationRequest};
use futures_util::future::join;
use thiserror::Error;

use super::{DeliveryResult, Pipeline, QuotaError};
use crate::{
    in_flight::{Dispatch, HANGS_AFTER, InFlightPermit, RequestEnd},
    quota::Paid,
};

/// What is done with an immediate request.
#[derive(Debug)]
pub enum Immediate {
    /// It is sent now, with this quota.
    Now {
        /// The quota of all its deliveries.
        quota: Paid,
        /// Counts it as in flight; `None` for the repeat of a request that has ended.
        permit: Option<InFlightPermit>,
    },
    /// It goes to the queue: the clinic's providers do not answer.
    Queue,
}

/// Why an immediate request is refused, before anything is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ImmediateError {
    /// There is no quota for it, or a store cannot be reached.
    #[error(transparent)]
    Quota(#[from] QuotaError),
    /// The clinic has as many in flight as it may.
    #[error("the clinic has {limit} immediate requests in flight")]
    TooManyInFlight {
        /// How many it may have.
        limit: NonZeroU32,
        /// When to ask again.
        after: Duration,
    },
}

impl InFlightPermit {
    /// Says how the request ended, by what became of its deliveries in the time that it `took`.
    pub fn end_with(self, results: &[DeliveryResult], took: Duration) {
        let mut statuses = results.iter().filter_map(|result| match result {
            DeliveryResult::Recorded(delivery) => Some(delivery.status),
            DeliveryResult::HandBack(..) => None,
        });
        if statuses
            .clone()
            .any(|status| status == DeliveryStatus::Sent)
        {
            self.end(RequestEnd::Answered);
        } else if took >= HANGS_AFTER {
            self.end(RequestEnd::Hung);
        } else if statuses.next().is_some() {
            self.end(RequestEnd::Answered);
        }
        // Else no provider was asked, which says nothing of any.
    }
}

impl Pipeline {
    /// Takes a permit and the quota for a communication that is to be sent at once, both at the same time. The repeat
    /// of a request that has ended needs neither.
    pub async fn admit_immediate(
        &self,
        request: &CommunicationRequest,
        key: &IdempotencyKey,
        deadline: Deadline,
    ) -> Result<Immediate, ImmediateError> {
        let dispatch = Box::pin(self.dispatch(request, deadline));
        let (dispatch, quota) = join(dispatch, self.take_quota(request, key)).await;
        let refused = match dispatch? {
            Dispatch::Now(permit) => {
                return Ok(Immediate::Now {
                    quota: quota?,
                    permit: Some(permit),
                });
            }
            Dispatch::Queue => Ok(Immediate::Queue),
            Dispatch::TooMany { limit, after } => {
                Err(ImmediateError::TooManyInFlight { limit, after })
            }
        };
        if self.has_ended(request, key).await? {
            return Ok(Immediate::Now {
                quota: Paid::default(),
                permit: None,
            });
        }
        refused
    }

    async fn dispatch(
        &self,
        request: &CommunicationRequest,
        deadline: Deadline,
    ) -> Result<Dispatch, QuotaError> {
        let tenant = request.tenant();
        let ceiling = self.ceilings(&tenant).await?.immediate_in_flight;
        let limit = ceiling.unwrap_or(self.shares.limits.immediate_in_flight);
        let in_flight = &self.shares.in_flight;
        Ok(in_flight
            .dispatch(&tenant, &request.channels, limit, deadline)
            .await?)
    }

    /// Releases the permits of immediate requests that have been answered; [`Pipeline::settle`] does it as well.
    pub async fn release_in_flight(&self, deadline: Deadline) {
        self.shares.in_flight.release(deadline).await;
    }
}
