//! Layers around a [`Provider`](crate::Provider) while a chain tries one of its entries. Each has one concern.
//!
//! From the outside in: [`Retry`](retry::Retry) tries again after a transient failure, [`Bounded`](deadline::Bounded) keeps
//! the attempts within the entry's share of the time, and [`Observe`](observe::Observe) records and logs every attempt.
//! They are made on the stack for each entry, and call each other without dynamic dispatch: an attempt allocates what the
//! adapter does, and no more.

pub(crate) mod deadline;
pub(crate) mod observe;
pub mod retry;

use std::future::Future;

use comms_core::{ProviderError, Receipt};

use crate::{deadline::Deadline, message::Message};

/// Something that makes one attempt: a layer, or what it stands around.
pub(crate) trait SendOnce: Send {
    /// Sends `message` once. The provider gives up at `deadline`.
    fn send_once(
        &mut self,
        message: &Message,
        deadline: Deadline,
    ) -> impl Future<Output = Result<Receipt, ProviderError>> + Send;
}
