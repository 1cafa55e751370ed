//! Fuzz targets of claims, and of metrics: see [`comms_testkit::fuzz`].

use std::collections::HashMap;

use comms_core::{ClinicId, Tenant};

use crate::auth::{Action, ClaimNames, Principal};

comms_testkit::fuzz_targets! {
    claims = crate::fuzz::claims, 20_000 + 300 * length;
    metric_lines = crate::telemetry::metrics::fuzz::lines, 20_000 + 300 * length;
}

/// Who has no role of the platform's may do nothing for another clinic, and whose claims have no role at all nothing
/// anywhere.
fn claims(input: &[u8]) {
    let claims: HashMap<String, String> = serde_json::from_slice(input).unwrap_or_default();
    let names = ClaimNames {
        clinic: "clinic_id".to_owned(),
        roles: "roles".to_owned(),
    };
    let principal = Principal::from_claims(&claims, &names);
    assert!(
        principal.subject.chars().count() <= 128 && !principal.subject.contains(char::is_control)
    );
    let roles = claims.get("roles").map(String::as_str).unwrap_or_default();
    let has = |role: &str| {
        let words = roles.split(|c: char| !c.is_ascii_uppercase() && c != '_');
        words.into_iter().any(|word| word == role)
    };
    let own = claims
        .get("clinic_id")
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
