//! Which claims allow what.

use comms_testkit::jwt;
use serde_json::json;

use super::*;

fn names() -> ClaimNames {
    ClaimNames {
        clinic: "clinic_id".into(),
        roles: "roles".into(),
    }
}

/// The caller of a token with these claims beside its subject.
fn principal(clinic: &Value, roles: &Value) -> Principal {
    let payload = json!({"sub": "subject", "clinic_id": clinic, "roles": roles});
    Principal::from_payload(payload.as_object().unwrap(), &names())
}

/// The design's matrix: role, then what it may do for its own clinic, for another, for the global
/// account. Letters in the order of `Action::ALL`.
#[test]
fn every_role_may_do_what_the_matrix_says_and_nothing_else() {
    for (role, own, other, global) in [
        ("SUPER_ADMIN", "yyyyyyyyy", "yyyyyyyyy", "yyyyyyyyy"),
        ("CLINIC_ADMIN", "yyyy-yyy-", "---------", "---------"),
        ("CLINIC_MANAGER", "-yy----y-", "---------", "---------"),
        ("SERVICE", "yy-------", "yy-------", "yy-------"),
    ] {
        let caller = principal(&json!("clinic-a"), &json!([role]));
        for (tenant, allowed) in [("clinic-a", own), ("clinic-b", other), ("_global", global)] {
            let tenant = Tenant::parse(tenant).unwrap();
            let got: String = Action::ALL
                .iter()
                .map(|action| {
                    if caller.authorize(*action, &tenant).is_ok() {
                        'y'
                    } else {
                        '-'
                    }
                })
                .collect();
            assert_eq!(got, allowed, "{role} for {tenant}");
        }
    }
}

#[test]
fn missing_or_garbled_claims_allow_nothing() {
    let clinic = Tenant::parse("clinic-a").unwrap();
    let (own, admin) = (json!("clinic-a"), json!(["CLINIC_ADMIN"]));
    for (clinic_claim, roles) in [
        (json!(null), json!(null)),
        (own.clone(), json!(null)),
        (json!(null), admin.clone()),
        (json!(""), admin.clone()),
        (json!("clinic-a "), admin.clone()),
        (json!("clinic-a,clinic-b"), admin.clone()),
        (json!("[clinic-a]"), admin.clone()),
        (json!(["clinic-a"]), admin.clone()),
        (json!({"id": "clinic-a"}), admin.clone()),
        (json!("_global"), admin),
        (own.clone(), json!("")),
        (own.clone(), json!([])),
        (own.clone(), json!(true)),
        (own.clone(), json!("clinic_admin")),
        (own.clone(), json!("CLINIC_ADMINS")),
        (own.clone(), json!("CLINIC_ADMIN CLINIC_MANAGER")),
        (own.clone(), json!({"SUPER_ADMIN": true})),
        (own.clone(), json!(["CLINIC_ADMIN", 1])),
        (own, json!([["CLINIC_ADMIN"]])),
    ] {
        let caller = principal(&clinic_claim, &roles);
        for action in Action::ALL {
            let place = format!("{clinic_claim} {roles} {action:?}");
            assert!(caller.authorize(action, &clinic).is_err(), "{place}");
            assert!(
                caller.authorize(action, &Tenant::Global).is_err(),
                "{place}"
            );
            assert!(caller.scope(action).is_err(), "{place}");
        }
    }
}

/// Claims that API Gateway renders as text in which `SUPER_ADMIN` stands between blanks, commas or quotation marks.
#[test]
fn a_role_inside_another_string_is_no_role() {
    let other = Tenant::parse("clinic-b").unwrap();
    let others = [
        json!("SERVICE SUPER_ADMIN"),
        json!("[SUPER_ADMIN]"),
        json!("[\"SUPER_ADMIN\"]"),
        json!("SUPER_ADMIN "),
        json!("NOT_SUPER_ADMIN"),
        json!(["SUPER_ADMIN\u{0}"]),
    ];
    for roles in jwt::roles_with_super_admin_as_a_word()
        .into_iter()
        .chain(others)
    {
        let caller = principal(&json!("clinic-a"), &roles);
        for action in Action::ALL {
            assert!(
                caller.authorize(action, &other).is_err(),
                "{roles} {action:?}"
            );
        }
    }
}

#[test]
fn a_role_is_one_string_or_an_element_of_an_array_of_strings() {
    let clinic = Tenant::parse("clinic-a").unwrap();
    for roles in [
        json!("SERVICE"),
        json!(["SERVICE"]),
        json!(["Front desk", "SERVICE", ""]),
    ] {
        let caller = principal(&json!(null), &roles);
        assert!(caller.authorize(Action::Send, &clinic).is_ok(), "{roles}");
    }
}

#[test]
fn claims_may_have_the_names_that_issuers_give_them() {
    let clinic = Tenant::parse("clinic-a").unwrap();
    for name in ["https://clinic.example/roles", "cognito:groups"] {
        let names = ClaimNames {
            roles: name.to_owned(),
            ..names()
        };
        let caller = |claims: Value| {
            Principal::from_payload(claims.as_object().unwrap(), &names)
                .authorize(Action::Send, &clinic)
        };
        assert!(caller(json!({name: ["SERVICE"]})).is_ok(), "{name}");
        assert!(caller(json!({"roles": ["SERVICE"]})).is_err(), "{name}");
        assert!(caller(json!({"https:": {"roles": ["SERVICE"]}})).is_err());
    }
}

#[test]
fn a_scope_has_the_tenants_that_the_matrix_allows() {
    let tenants = ["clinic-a", "clinic-b", "_global"].map(|id| Tenant::parse(id).unwrap());
    for role in [
        "SUPER_ADMIN",
        "CLINIC_ADMIN",
        "CLINIC_MANAGER",
        "SERVICE",
        "x",
    ] {
        for clinic in [json!("clinic-a"), json!(null)] {
            let caller = principal(&clinic, &json!([role]));
            for action in Action::ALL {
                for tenant in &tenants {
                    let scope = caller.scope(action);
                    let is_included = scope.is_ok_and(|scope| scope.includes(tenant));
                    let is_allowed = caller.authorize(action, tenant).is_ok();
                    assert_eq!(is_included, is_allowed, "{role} {clinic} {tenant}");
                }
            }
        }
    }
}
