//! Mails the link that verifies an address for replies, through the platform's account.

use std::{sync::Arc, time::Duration};

use comms_adapters::{Deadline, Message};
use comms_core::{
    Channel, Clock as _, DeliveryId, Disposition, EmailAddress, Mailbox, Problems, SystemClock,
    Tenant,
    json::{Object, read},
    request::{Content, Target},
};
use comms_delivery::Quota;
use comms_runtime::{
    HttpProblem,
    auth::{Action, Principal},
    http::{json_body, json_response, routes::HandlerResult, time_left},
};
use comms_settings::{Ceilings, RateLimit, document::MAX_DOCUMENT_BYTES, reply_to::ReplyToAddress};
use lambda_http::{Request, RequestExt, http::StatusCode, request::RequestContext};
use serde_json::{Value, json};
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    Deps,
    problems::{limit_problem, store_problem},
};

pub(crate) async fn send_link(deps: &Deps, request: &Request, id: &str) -> HandlerResult {
    let (principal, tenant) =
        Principal::authorized(request, &deps.claims, id, Action::TestSettings)?;
    let deadline = Deadline::after(time_left(request));
    let address = read_address(json_body(request, MAX_DOCUMENT_BYTES)?)?;
    let platform = deps.store.load(&Tenant::Global).await;
    let platform = platform.map_err(|error| store_problem(&error))?;
    let own = deps
        .store
        .load(&tenant)
        .await
        .map_err(|error| store_problem(&error))?;
    let ceilings = |stored: Option<&comms_settings::StoredSettings>| {
        stored.map_or_else(Ceilings::default, |stored| stored.settings.ceilings)
    };
    let ceilings = ceilings(own.as_ref()).or(ceilings(platform.as_ref()));
    let limit = platform
        .as_ref()
        .and_then(|stored| stored.settings.email.as_ref()?.rate_limit);
    let entries = platform
        .filter(|_| tenant != Tenant::Global && ceilings.use_global != Some(false))
        .and_then(|stored| stored.settings.email)
        .map(|email| email.chain_spec().entries)
        .filter(|entries| !entries.is_empty())
        .ok_or_else(|| {
            HttpProblem::not_found(
                "The platform's account does not send for this clinic, so that there is nothing to verify.",
            )
        })?;
    // Whoever saved the platform's settings made it.
    let key = deps
        .hash_keys
        .find()
        .await
        .map_err(|error| store_problem(&error))?
        .ok_or_else(HttpProblem::unavailable)?;
    deps.limits
        .take_link(&tenant, &principal.subject, &address, key)
        .await
        .map_err(|error| limit_problem(&error, &tenant))?;
    take_quota(deps, limit.as_ref()).await?;
    let token = ReplyToAddress::new(key, &tenant, &address).token(key, SystemClock.now());
    let link = format!("{}/api/v1/reply-to/{token}", origin(request));
    let message = message(address, &tenant, &link);
    for spec in entries {
        let Ok(provider) = deps.factory.provider(&*spec.config, spec.sender) else {
            warn!(clinic_id = %tenant, entry = %spec.id, "the platform's trust roots are unusable");
            continue;
        };
        match provider.send(&message, deadline).await {
            Ok(_) => {
                info!(clinic_id = %tenant, "a link to verify a reply address was sent");
                return Ok(json_response(StatusCode::ACCEPTED, &json!({"sent": true})));
            }
            Err(error) => {
                warn!(
                    clinic_id = %tenant, entry = %spec.id, kind = error.kind.as_str(),
                    "a link to verify a reply address was not sent"
                );
                match error.disposition {
                    Disposition::Transient | Disposition::ProviderDown => {}
                    // The next entry would send a second mail, or be refused for the same reason.
                    Disposition::Ambiguous | Disposition::Final => break,
                }
            }
        }
    }
    Err(HttpProblem::unavailable()
        .with_detail("No provider of the platform's account took the message, as far as is known; try again later."))
}

/// A link is a mail of the platform's account: it counts under the limit of `_global`, as everything that goes out by it.
async fn take_quota(deps: &Deps, limit: Option<&RateLimit>) -> Result<(), HttpProblem> {
    let Some(limit) = limit else {
        return Ok(());
    };
    let taken = deps
        .quotas
        .take(&Tenant::Global, Channel::Email.into(), limit, 1)
        .await;
    let until = match taken {
        Ok(Quota::Granted(_)) => return Ok(()),
        Ok(Quota::Exhausted(exhausted)) => exhausted.until,
        // No limit is less than one.
        Ok(Quota::TooMany { .. }) => return Err(HttpProblem::unavailable()),
        Err(error) => {
            warn!(%error, "the quota of the platform's account cannot be taken");
            return Err(HttpProblem::unavailable());
        }
    };
    let after = until.duration_since(SystemClock.now());
    Err(HttpProblem::rate_limited(
        "Nothing was sent: the limit of the platform's account is used up. Wait as long as Retry-After says.",
        Duration::try_from(after).unwrap_or_default(),
    ))
}

fn read_address(body: Value) -> Result<EmailAddress, HttpProblem> {
    let mut problems = Problems::default();
    let address = Object::new(body, "", &mut problems).and_then(|mut object| {
        let address = object.required("address", read::parsed(EmailAddress::parse_new));
        object.finish();
        address
    });
    problems
        .or(address)
        .map_err(|problems| HttpProblem::invalid(&problems))
}

/// The API's own origin, as API Gateway names it; a client's Host header has no part in it.
fn origin(request: &Request) -> String {
    let context = request.request_context_ref();
    let host = match context {
        Some(RequestContext::ApiGatewayV2(context)) => context.domain_name.as_deref(),
        _ => None,
    };
    let host = host.unwrap_or("localhost");
    let is_local = ["localhost", "127.0.0.1", "[::1]"]
        .iter()
        .any(|name| host.split(':').next() == Some(name) || host.starts_with("[::1]"));
    format!("{}://{host}", if is_local { "http" } else { "https" })
}

/// Fixed texts, with nothing of the caller's but the address: of no use for saying something to somebody.
fn message(address: EmailAddress, tenant: &Tenant, link: &str) -> Message {
    Message {
        delivery: DeliveryId::of_uuid(Uuid::new_v4()),
        target: Target::Email(Mailbox {
            address,
            name: None,
        }),
        content: Arc::new(Content {
            title: Some("Confirm this address for replies".to_owned()),
            body: Some(format!(
                "The clinic {tenant} wants replies to its messages to come to this address.\n\n\
                 Open this link within 48 hours to confirm:\n{link}\n\n\
                 If you do not know the clinic, ignore this message. Nothing happens then.\n"
            )),
            ..Content::default()
        }),
        reply_to: None,
    }
}
