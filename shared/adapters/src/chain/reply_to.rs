//! The Reply-To that an entry sends with.

use std::borrow::Cow;

use comms_core::EmailAddress;
use tracing::warn;

use super::{Chain, ChainEntry};
use crate::{message::Message, rate_limiter::RateLimiter};

/// Where replies to a message go that an entry sends.
#[derive(Clone, Copy)]
pub(super) struct ReplyTo<'m> {
    pub(super) address: Option<&'m EmailAddress>,
    /// Whether there was an address that may not be named.
    pub(super) is_dropped: bool,
}

impl<'m> ReplyTo<'m> {
    /// The message's own address, or the clinic's when the platform's account sends; of these only one that `limiter` lets
    /// that account name.
    pub(super) async fn of(
        chain: &'m Chain,
        entry: &ChainEntry,
        message: &'m Message,
        limiter: &dyn RateLimiter,
    ) -> ReplyTo<'m> {
        let own = message.reply_to.as_ref();
        if !entry.position.is_global() {
            return ReplyTo {
                address: own,
                is_dropped: false,
            };
        }
        let wanted = own.or(chain.clinic_reply_to.as_ref());
        let is_dropped = match wanted {
            Some(address) => !limiter.may_reply_to(address).await,
            None => false,
        };
        if is_dropped {
            warn!(
                delivery_id = %message.delivery,
                "sent without Reply-To: the address was not verified for the platform's account"
            );
        }
        ReplyTo {
            address: wanted.filter(|_| !is_dropped),
            is_dropped,
        }
    }

    /// The message with this Reply-To, copied only where it has another.
    pub(super) fn apply(self, message: &Message) -> Cow<'_, Message> {
        if self.address == message.reply_to.as_ref() {
            Cow::Borrowed(message)
        } else {
            Cow::Owned(Message {
                reply_to: self.address.cloned(),
                ..message.clone()
            })
        }
    }
}
