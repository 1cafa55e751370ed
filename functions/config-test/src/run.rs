//! A test of settings: which entries it tries, what it counts under the limits, and its answer.

use comms_adapters::{Deadline, EntrySpec};
use comms_core::{Channel, Problems, Tenant};
use comms_runtime::{
    HttpProblem,
    auth::{Action, Principal},
    http::{json_body, json_response, routes::HandlerResult, time_left},
};
use comms_settings::{
    ChannelSettings, CommunicationSettings,
    document::{MAX_DOCUMENT_BYTES, POINTER},
};
use futures_util::future::join_all;
use lambda_http::{Request, http::StatusCode};
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::{
    Deps,
    entry::test_entry,
    health,
    message::TestMessage,
    problems::{limit_problem, store_problem},
    request::read_request,
};

/// Tests the entries that the request names, all at once, and answers with a row for each.
pub(crate) async fn test(
    deps: &Deps,
    request: &Request,
    id: &str,
    channel: Channel,
) -> HandlerResult {
    let (principal, tenant) =
        Principal::authorized(request, &deps.claims, id, Action::TestSettings)?;
    let deadline = Deadline::after(time_left(request));
    let test = read_request(json_body(request, MAX_DOCUMENT_BYTES)?, channel)?;
    let (settings, version) = settings_to_test(deps, &tenant, test.candidate).await?;
    let settings = match channel {
        Channel::Email => settings.email,
        Channel::Whatsapp => settings.whatsapp,
    };
    let settings = settings.ok_or_else(|| {
        HttpProblem::not_found("There are no settings for this channel to be tested.")
    })?;
    let mut entries = entries(settings);
    entries.retain(|(spec, _)| test.only.matches(spec));
    if entries.is_empty() {
        return Err(HttpProblem::not_found(
            "No entry of this channel is the one that provider and entry say; leave them out to test all.",
        ));
    }
    let message = test.to.map(|to| TestMessage::new(to, test.template));
    // The request is valid: only entries that are connected to count under the limits.
    let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    let messages = if message.is_some() { count } else { 0 };
    deps.limits
        .take(&tenant, &principal.subject, count, messages)
        .await
        .map_err(|error| limit_problem(&error, &tenant))?;
    // All at once: an entry that hangs leaves the others their time.
    let tests = entries.into_iter().map(|(spec, enabled)| {
        test_entry(deps, &tenant, spec, enabled, message.as_ref(), deadline)
    });
    let (reports, passed): (Vec<_>, Vec<_>) = join_all(tests).await.into_iter().unzip();
    if let Some(version) = version {
        let passed = passed.into_iter().flatten().collect();
        health::record(deps, &tenant, version, channel, passed, deadline).await;
    }
    let ok = reports.iter().all(|report| report["ok"] == true);
    info!(clinic_id = %tenant, %channel, entries = reports.len(), messages, ok, "settings tested");
    Ok(json_response(
        StatusCode::OK,
        &json!({"ok": ok, "results": reports}),
    ))
}

/// The candidate, or the saved settings where none is given. A candidate may leave out a secret that
/// is saved, under the same rules as when it is saved. Of saved settings, their version.
async fn settings_to_test(
    deps: &Deps,
    tenant: &Tenant,
    candidate: Option<Value>,
) -> Result<(CommunicationSettings, Option<u64>), HttpProblem> {
    let stored = match deps.store.load(tenant).await {
        Ok(stored) => stored.map(|stored| (stored.settings, stored.version.number)),
        // Saved settings that cannot be read do not prevent the test of their replacement. A secret that the candidate
        // leaves out is missing then.
        Err(error) if candidate.is_some() && !error.is_worth_a_retry() => {
            warn!(clinic_id = %tenant, %error, "the saved settings cannot be used");
            None
        }
        Err(error) => return Err(store_problem(&error)),
    };
    let Some(candidate) = candidate else {
        let (settings, version) =
            stored.ok_or_else(|| HttpProblem::not_found("This clinic has no settings."))?;
        return Ok((settings, Some(version)));
    };
    let stored = stored.map(|(settings, _)| settings);
    let mut problems = Problems::default();
    let settings =
        CommunicationSettings::read(candidate, POINTER, tenant, stored.as_ref(), &mut problems);
    if let Some(settings) = &settings {
        deps.own_account
            .check_roles(settings, POINTER, &mut problems);
    }
    let settings = problems
        .or(settings)
        .map_err(|problems| HttpProblem::invalid(&problems))?;
    Ok((settings, None))
}

/// Every entry in its order, and whether it is enabled.
fn entries(mut settings: ChannelSettings) -> Vec<(EntrySpec, bool)> {
    let disabled: Vec<_> = settings
        .entries()
        .filter(|(_, entry)| !entry.enabled)
        .map(|(_, entry)| entry.id.clone())
        .collect();
    // A chain is made of the enabled ones only.
    settings.primary.enabled = true;
    for entry in &mut settings.fallback {
        entry.enabled = true;
    }
    let entries = settings.chain_spec().entries.into_iter();
    entries
        .map(|spec| {
            let enabled = !disabled.contains(&spec.id);
            (spec, enabled)
        })
        .collect()
}
