//! What a request to AWS is for.

use comms_testkit::fault_proxy::ProxiedCall;
use serde_json::Value;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Claim,
    Outcome,
    /// Outcomes, and the queue on which they would go.
    OutcomeAndQueue,
    /// That a message is begun which was received before, and that it ended.
    Start,
    Settings,
    Health,
    Usage,
    Queue,
    Kms,
}

impl Target {
    pub(super) fn is_of(self, call: &ProxiedCall) -> bool {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let key = |name: &str| text(&call.request["Key"][name]["S"]);
        let update = text(&call.request["UpdateExpression"]);
        let is_delivery = key("sk").starts_with("delivery#");
        match self {
            Self::Claim => is_delivery && update.starts_with("SET #status = :sending"),
            Self::Outcome => is_delivery && update.starts_with("SET #status = :status"),
            Self::OutcomeAndQueue => Self::Outcome.is_of(call) || Self::Queue.is_of(call),
            Self::Start => key("pk").starts_with("started#"),
            Self::Settings => {
                call.service == "dynamodb" && text(&call.request["TableName"]).contains("settings")
            }
            Self::Health => key("pk").starts_with("health#"),
            Self::Usage => key("pk").starts_with("usage#"),
            Self::Queue => call.service == "sqs",
            Self::Kms => call.service == "kms",
        }
    }
}

/// Whether a request claims a delivery by WhatsApp.
pub(super) fn is_claim_of_whatsapp(call: &ProxiedCall) -> bool {
    let channel = &call.request["ExpressionAttributeValues"][":channel"]["S"];
    Target::Claim.is_of(call) && channel == "whatsapp"
}
