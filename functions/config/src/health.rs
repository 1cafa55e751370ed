//! How well a clinic's providers work.

use comms_core::{Channel, HealthRecord, HealthState, Position};
use comms_delivery::health::{Records, name};
use comms_runtime::{
    HttpProblem,
    auth::Action,
    http::{json_response, routes::HandlerResult},
};
use comms_settings::{Present, ProviderEntry, StoredSettings};
use lambda_http::{Request, http::StatusCode};
use serde_json::{Value, json};
use tracing::warn;

use crate::{
    Access, Deps,
    answers::{no_settings, store_problem, unreadable},
};

/// The health of each entry of the clinic's own settings, as the sends of the present version have
/// shown it. Nothing is asked of a provider.
pub(crate) async fn get(deps: &Deps, request: &Request, id: &str) -> HandlerResult {
    let access = Access::to(deps, request, id, Action::ViewSettings)?;
    let tenant = &access.tenant;
    let present = deps.store.load_present(tenant).await;
    let stored = match present.map_err(store_problem)? {
        Present::Nothing | Present::Deleted(_) => return Err(no_settings()),
        Present::Unreadable { error, .. } => {
            return Err(unreadable(StatusCode::INTERNAL_SERVER_ERROR, &error));
        }
        Present::Settings(stored) => stored,
    };
    let version = stored.version.number;
    let records = match deps.hash_keys.find().await.map_err(store_problem)? {
        Some(key) => {
            let records = deps.health.read(key, tenant, version).await;
            records.map_err(|error| {
                warn!(%error, "the providers' health cannot be read");
                HttpProblem::unavailable()
            })?
        }
        // Without a key no record is authentic.
        None => Records::new(),
    };
    let body = json!({
        "clinicId": tenant, "version": version, "providers": providers(&stored, &records),
    });
    Ok(json_response(StatusCode::OK, &body))
}

fn providers(stored: &StoredSettings, records: &Records) -> Vec<Value> {
    let mut providers = Vec::new();
    for channel in Channel::ALL {
        let Some(settings) = stored.settings.channel(channel) else {
            continue;
        };
        for (position, entry) in settings.entries() {
            let record = records.get(&name(channel, &entry.id));
            providers.push(provider(channel, position, entry, record));
        }
    }
    providers
}

/// What an entry is of which no send has shown anything yet.
const UNTRIED: &str = "untried";

fn provider(
    channel: Channel,
    position: Position,
    entry: &ProviderEntry,
    record: Option<&HealthRecord>,
) -> Value {
    let state = record.map_or(UNTRIED, |record| record.state.as_str());
    let mut json = json!({
        "channel": channel, "entry": entry.id, "position": position,
        "provider": entry.config.kind(), "enabled": entry.enabled, "health": state,
    });
    if let Some(record) = record {
        json["since"] = json!(record.since);
        // What failed before it was well again says nothing of it now.
        let is_well = record.state == HealthState::Healthy;
        if let Some(kind) = record.last_error.filter(|_| !is_well) {
            json["lastError"] = json!({"kind": kind, "detail": kind.detail()});
        }
    }
    json
}
