//! What to do next about a delivery, by its status, its reason, and what providers said.

use comms_core::{
    Attempt, AttemptOutcome, Channel, Delivery, DeliveryStatus, ErrorKind, FailureReason, Tenant,
    WaitReason,
};
use jiff::Timestamp;

use super::codes;
use crate::moments::moment;

/// Whose delivery it is, and where a new one may come from.
pub(super) struct About<'a> {
    pub(super) tenant: &'a Tenant,
    pub(super) delivery: &'a Delivery,
    /// When a delivery that a worker has is taken over by another one, if it does not end before.
    pub(super) taken_over_at: Option<Timestamp>,
}

/// The steps, the most useful first. Empty where there is nothing to do.
pub(super) fn next_steps(about: &About<'_>) -> Vec<String> {
    let delivery = about.delivery;
    match delivery.status {
        DeliveryStatus::Sent => sent(about),
        DeliveryStatus::Failed | DeliveryStatus::Unknown | DeliveryStatus::Expired => {
            let reason = delivery.reason.unwrap_or(match delivery.status {
                DeliveryStatus::Expired => FailureReason::Expired,
                DeliveryStatus::Failed
                | DeliveryStatus::Unknown
                | DeliveryStatus::Queued
                | DeliveryStatus::Sending
                | DeliveryStatus::Sent => FailureReason::OutcomeUnknown,
            });
            by_reason(about, reason)
        }
        DeliveryStatus::Queued => queued(about),
        DeliveryStatus::Sending => vec![about.taken_over_at.map_or_else(
            || "Wait: a worker is at it. Ask again in a minute.".to_owned(),
            |at| {
                format!(
                    "Wait: a worker is at it. If it does not end, another one takes it over after {}.",
                    moment(at)
                )
            },
        )],
    }
}

/// A new communication is needed: an ended one is never sent again.
const SEND_AGAIN: &str = "Then have its sender send it again under a new idempotency key: what has ended is not sent again by itself.";

fn sent(about: &About<'_>) -> Vec<String> {
    let delivery = about.delivery;
    let mut steps = Vec::new();
    if delivery.possible_duplicate {
        steps.push(
            "The recipient may have got it twice: a provider did not answer an earlier attempt. With `onAmbiguous: hold` \
             the clinic gets an unknown outcome instead of a second copy."
                .to_owned(),
        );
    }
    let last = delivery.attempts.last();
    if last.is_some_and(|last| last.reply_to_dropped) {
        steps.push(
            "It went without its Reply-To: have the address verified (POST …/communication/reply-to).".to_owned(),
        );
    }
    let provider = delivery.provider;
    let provider = provider.map_or("the provider", |kind| match kind.as_str() {
        "smtp" => "the mail server",
        _ => "the provider",
    });
    steps.push(match delivery.channel {
        Channel::Email => format!(
            "If it did not arrive: {provider} has accepted it, so ask there what became of it, and have the recipient look \
             into the spam folder. A later bounce goes to the sender's mailbox."
        ),
        Channel::Whatsapp => format!(
            "If it did not arrive: {provider} has accepted it, so ask there what became of it (its console, by time and number)."
        ),
    });
    steps
}

fn by_reason(about: &About<'_>, reason: FailureReason) -> Vec<String> {
    let again = SEND_AGAIN.to_owned();
    match reason {
        FailureReason::NoAddress => vec![
            format!(
                "Have the sender give the recipient an address for {}, or leave that channel out.",
                about.delivery.channel
            ),
            again,
        ],
        FailureReason::NoProvider => vec![
            format!(
                "`comms-operator clinic {}` shows the entries: save a provider for {}, or enable one.",
                about.tenant, about.delivery.channel
            ),
            again,
        ],
        FailureReason::Rejected | FailureReason::AllProvidersFailed => {
            let mut steps = by_attempts(about);
            if steps.is_empty() {
                steps.push(format!(
                    "Nobody was tried: `comms-operator clinic {}` shows which entries are down, and why.",
                    about.tenant
                ));
            }
            steps.push(again);
            steps
        }
        FailureReason::OutcomeUnknown => vec![
            "Ask the recipient, or the provider by the time of the last attempt, whether it arrived.".to_owned(),
            "Only if it did not: have its sender send it again under a new idempotency key.".to_owned(),
        ],
        FailureReason::Expired => {
            let mut steps = by_attempts(about);
            steps.push(
                "If it still matters, have its sender send it again under a new idempotency key, with a later expiresAt."
                    .to_owned(),
            );
            steps
        }
        FailureReason::QuotaExceeded => vec![
            format!(
                "`comms-operator clinic {}` shows the limits and what is used of them: raise rateLimit or the ceiling, or have \
                 the sender send less at once.",
                about.tenant
            ),
            again,
        ],
    }
}

fn queued(about: &About<'_>) -> Vec<String> {
    let Some(waiting) = &about.delivery.waiting else {
        let mut steps = by_attempts(about);
        steps.push(if about.delivery.attempts.is_empty() {
            "Wait if it was accepted within the last minutes. Else look at the queue: `aws sqs get-queue-attributes` \
             (\"The queue grows\" in RUNBOOK.md), and at the dead letters (--dead-letter-queue)."
                .to_owned()
        } else {
            "It is tried again by itself; nothing is to be sent anew.".to_owned()
        });
        return steps;
    };
    match &waiting.reason {
        WaitReason::Provider {
            kind,
            entry,
            position,
            until,
        } => {
            let is_global = position.is_some_and(comms_core::Position::is_global);
            let mut steps = by_attempts(about);
            let name = format!("/{entry}: ");
            if !steps.iter().any(|step| step.contains(&name)) {
                steps.push(by_kind(*kind, entry.as_str(), about.tenant, is_global));
            }
            steps.push(format!(
                "Nothing is to be sent anew: it goes out by itself within minutes of that, and fails at {} otherwise.",
                moment(*until)
            ));
            steps
        }
        WaitReason::Quota => vec![format!(
            "It goes out by itself when the window ends. `comms-operator clinic {}` shows the limits: raise rateLimit or the \
             ceiling to send sooner.",
            about.tenant
        )],
        WaitReason::Pacing => vec![
            "It goes out by itself: the provider's account takes no more at the moment. A higher rateLimit of the entry helps \
             only where the provider allows it."
                .to_owned(),
        ],
    }
}

/// What the last failed attempt of each entry asks for, each thing once.
fn by_attempts(about: &About<'_>) -> Vec<String> {
    let mut last: Vec<&Attempt> = Vec::new();
    for attempt in &about.delivery.attempts {
        last.retain(|known| {
            (known.entry.as_str(), known.position) != (attempt.entry.as_str(), attempt.position)
        });
        last.push(attempt);
    }
    let mut steps = Vec::new();
    for attempt in last {
        let AttemptOutcome::Failed { kind, code, .. } = &attempt.outcome else {
            continue;
        };
        let name = format!("{}/{}", attempt.provider, attempt.entry);
        let mut step = by_kind(*kind, &name, about.tenant, attempt.position.is_global());
        if let Some(code) = code {
            let meaning = codes::meaning(attempt.provider, code);
            step.extend(meaning.map(|meaning| format!(" Code {code}: {meaning}")));
        }
        if !steps.contains(&step) {
            steps.push(step);
        }
    }
    steps
}

fn by_kind(kind: ErrorKind, entry: &str, tenant: &Tenant, is_global: bool) -> String {
    let owner = if is_global || *tenant == Tenant::Global {
        "the platform (settings of _global)".to_owned()
    } else {
        format!("the admin of {tenant}")
    };
    let test = if entry.starts_with("meta") || entry.starts_with("twilio") {
        "test-whatsapp"
    } else {
        "test-email"
    };
    match kind {
        ErrorKind::InvalidRecipient => {
            format!(
                "{entry}: the recipient's address is not one; have the clinic correct it with the patient."
            )
        }
        ErrorKind::InvalidMessage => {
            format!(
                "{entry}: the provider rejects the message's form or size; its sender has to change it."
            )
        }
        ErrorKind::TemplateInvalid => {
            format!(
                "{entry}: the template is missing, paused, or has other parameters; {owner} looks into the provider's console."
            )
        }
        ErrorKind::PolicyRefused => {
            format!(
                "{entry}: the provider's policy refuses it (opt-out, spam, reply window); another channel may take it."
            )
        }
        ErrorKind::Unauthenticated => format!(
            "{entry}: {owner} saves the new password or key, and tests it: POST …/communication/{test} with \
             {{\"verifyOnly\": true}}."
        ),
        ErrorKind::SenderNotAllowed => {
            format!(
                "{entry}: the account may not send as this sender; {owner} has the sender verified, or changes it."
            )
        }
        ErrorKind::AccountSuspended => {
            format!(
                "{entry}: the provider has suspended the account or wants money; {owner} asks the provider."
            )
        }
        ErrorKind::QuotaExceeded => {
            format!(
                "{entry}: the account's quota at the provider is used up; {owner} raises it there, or adds a fallback."
            )
        }
        ErrorKind::RateLimited => {
            format!(
                "{entry}: too many messages at once; set rateLimit of the entry to what the provider allows."
            )
        }
        ErrorKind::Unavailable | ErrorKind::Timeout => {
            let provider = entry.split('/').next().unwrap_or(entry);
            format!(
                "{entry}: the provider was not there or did not answer; `comms-operator provider {provider}` says whether others \
                 have that too. With a fallback of another provider messages would go on."
            )
        }
        ErrorKind::Unexpected => {
            format!(
                "{entry}: the provider's answer is not known here; look it up by its code in the provider's documentation."
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use comms_core::{DeliveryId, Disposition, EntryId, Position, ProviderKind, Waiting};

    use super::*;

    fn delivery(status: DeliveryStatus) -> Delivery {
        let id = DeliveryId::parse(&"ab".repeat(16)).unwrap();
        Delivery {
            status,
            ..Delivery::queued(id, Channel::Email, "p***@example.com".to_owned())
        }
    }

    fn failed_attempt(kind: ErrorKind, position: Position) -> Attempt {
        Attempt {
            provider: ProviderKind::new("smtp"),
            entry: EntryId::primary(),
            position,
            outcome: AttemptOutcome::Failed {
                disposition: Disposition::ProviderDown,
                kind,
                code: None,
            },
            at: None,
            duration: std::time::Duration::ZERO,
            possible_duplicate: false,
            reply_to_dropped: false,
        }
    }

    fn steps(delivery: &Delivery) -> Vec<String> {
        let tenant = Tenant::parse("clinic-1").unwrap();
        next_steps(&About {
            tenant: &tenant,
            delivery,
            taken_over_at: None,
        })
    }

    #[test]
    fn every_reason_has_a_step_and_none_invites_a_second_copy() {
        for reason in FailureReason::ALL {
            let mut delivery = delivery(DeliveryStatus::Failed);
            delivery.reason = Some(reason);
            let steps = steps(&delivery);
            let last = steps.last().unwrap();
            assert!(
                last.contains("under a new idempotency key"),
                "{reason:?}: {last}"
            );
            let asks_first = steps[0].starts_with("Ask the recipient");
            assert_eq!(asks_first, reason == FailureReason::OutcomeUnknown);
        }
    }

    #[test]
    fn every_kind_of_failure_names_its_entry_and_the_platforms_its_owner() {
        for kind in ErrorKind::ALL {
            let mut delivery = delivery(DeliveryStatus::Failed);
            delivery.reason = Some(FailureReason::AllProvidersFailed);
            delivery.attempts = vec![
                failed_attempt(kind, Position::Primary),
                failed_attempt(kind, Position::Primary),
            ];
            let own = steps(&delivery);
            assert!(own[0].starts_with("smtp/primary: "), "{own:?}");
            assert_eq!(own.len(), 2, "the same twice is said once: {own:?}");
            if kind.is_mendable() {
                assert!(own[0].contains("the admin of clinic-1"), "{own:?}");
                delivery.attempts = vec![failed_attempt(kind, Position::Global)];
                assert!(steps(&delivery)[0].contains("the platform"), "{kind:?}");
            }
        }
    }

    #[test]
    fn what_waits_is_not_to_be_sent_anew() {
        let mut delivery = delivery(DeliveryStatus::Queued);
        for (reason, says) in [
            (WaitReason::Quota, "goes out by itself when the window ends"),
            (WaitReason::Pacing, "goes out by itself"),
            (
                WaitReason::Provider {
                    kind: ErrorKind::AccountSuspended,
                    entry: EntryId::fallback(1),
                    position: Some(Position::Fallback(0)),
                    until: Timestamp::UNIX_EPOCH,
                },
                "Nothing is to be sent anew",
            ),
        ] {
            delivery.waiting = Some(Waiting {
                reason,
                since: Timestamp::UNIX_EPOCH,
            });
            let steps = steps(&delivery).join(" ");
            assert!(steps.contains(says), "{steps}");
        }
    }
}
