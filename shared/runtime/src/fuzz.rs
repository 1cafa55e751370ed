//! Fuzz targets of claims, and of metrics: see [`comms_testkit::fuzz`].

#![allow(
    clippy::unwrap_used,
    reason = "what is not as it should be is the target's failure"
)]

use std::collections::{BTreeSet, HashMap};

use comms_core::{ClinicId, Tenant};
use comms_testkit::jwt;
use lambda_http::http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use serde_json::Value;

use crate::{
    auth::{Action, ClaimNames, Principal},
    bearer,
};

comms_testkit::fuzz_targets! {
    /// A token's claims.
    claims = crate::fuzz::read_claims, 100_000 + 800 * length;
    /// Metrics in log lines.
    metric_lines = crate::telemetry::metrics::fuzz::lines, 20_000 + 300 * length;
}

/// A token's payload, and the same bytes as the header itself. A caller has the roles that are whole strings of the
/// payload, as `serde_json` reads it, and no others; a header is read only where the authorizer's claims are the
/// token's.
fn read_claims(input: &[u8]) {
    let headers = |value: &[u8]| {
        let value = HeaderValue::from_bytes(value).ok()?;
        Some(HeaderMap::from_iter([(AUTHORIZATION, value)]))
    };
    if let Some(headers) = headers(input) {
        let nobody = HashMap::from([("sub".to_owned(), "nobody".to_owned())]);
        let read = bearer::payload(&headers, &nobody);
        assert!(read.is_err() || read.is_ok_and(|read| read["sub"] == "nobody"));
    }
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let Some(headers) = headers(jwt::token_of_text(text).as_bytes()) else {
        return;
    };
    let theirs: Value = serde_json::from_str(text).unwrap_or_default();
    let Ok(payload) = bearer::payload(&headers, &jwt::rendered_claims(&theirs)) else {
        return;
    };
    assert_eq!(Some(&payload), theirs.as_object());
    check(&payload);
}

fn check(payload: &serde_json::Map<String, Value>) {
    let names = ClaimNames {
        clinic: "clinic_id".to_owned(),
        roles: "roles".to_owned(),
    };
    let principal = Principal::from_payload(payload, &names);
    assert!(
        principal.subject.chars().count() <= 128 && !principal.subject.contains(char::is_control)
    );
    let roles: BTreeSet<&str> = match payload.get("roles") {
        Some(Value::String(role)) => [role.as_str()].into(),
        Some(Value::Array(roles)) => roles.iter().filter_map(Value::as_str).collect(),
        _ => BTreeSet::new(),
    };
    let has = |role: &str| roles.contains(role);
    let own = payload
        .get("clinic_id")
        .and_then(Value::as_str)
        .and_then(|id| ClinicId::parse(id).ok());
    let other = Tenant::parse("another-clinic").unwrap();
    let is_other = own.as_ref().map(ClinicId::as_str) != Some("another-clinic");
    for action in [
        Action::Send,
        Action::ViewCommunication,
        Action::ViewSettings,
        Action::ManageSettings,
        Action::ManageCeilings,
        Action::DeleteSettings,
        Action::TestSettings,
        Action::ViewStatistics,
    ] {
        let of_platform = has("SUPER_ADMIN")
            || (has("SERVICE") && matches!(action, Action::Send | Action::ViewCommunication));
        if is_other {
            assert!(of_platform || principal.authorize(action, &other).is_err());
        }
        if let Some(own) = own.clone() {
            let may = principal.authorize(action, &Tenant::Clinic(own)).is_ok();
            assert!(!may || of_platform || has("CLINIC_ADMIN") || has("CLINIC_MANAGER"));
        }
        assert!(of_platform || principal.authorize(action, &Tenant::Global).is_err());
    }
}
