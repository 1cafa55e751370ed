//! Tests of who a request's caller is, and of what its roles amount to.

use comms_testkit::{
    jwt,
    logs::{Captured, listen},
};
use futures_util::FutureExt as _;
use lambda_http::{Body, Response};
use serde_json::json;

use super::*;
use crate::{
    Environment,
    audit::{AuditSubjects, Exchange},
};

fn names(environment: &'static [(&str, &str)]) -> ClaimNames {
    let value = |name: &str| {
        let found = environment.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    ClaimNames::from_environment(&Environment::from_lookup(value))
}

fn principal(clinic: Option<&str>, roles: &[&str]) -> Principal {
    let payload = json!({"sub": "subject", "clinic_id": clinic, "roles": roles});
    Principal::from_payload(payload.as_object().unwrap(), &names(&[]))
}

/// A request with the token of these claims, which API Gateway has verified.
fn request(claims: &Value) -> Request {
    let event = json!({
        "version": "2.0", "routeKey": "GET /", "rawPath": "/", "rawQueryString": "", "isBase64Encoded": false,
        "headers": {"authorization": format!("Bearer {}", jwt::token(claims))},
        "requestContext": {
            "accountId": "123456789012", "apiId": "api123", "domainName": "api.clinic-comms.example",
            "domainPrefix": "api", "requestId": "JKJaXmPLvHcESHA=", "routeKey": "route", "stage": "$default",
            "time": "01/Dec/2026:09:00:00 +0000", "timeEpoch": 1_796_115_600_000_u64,
            "http": {"method": "GET", "path": "/", "protocol": "HTTP/1.1", "sourceIp": "203.0.113.10",
                     "userAgent": "test"},
            "authorizer": {"jwt": {"claims": jwt::rendered_claims(claims), "scopes": null}},
        },
    });
    lambda_http::request::from_str(&event.to_string()).unwrap()
}

#[test]
fn claim_names_are_those_of_the_environment_unless_they_are_empty() {
    let given = names(&[
        ("JWT_CLINIC_CLAIM", "custom:clinic"),
        ("JWT_ROLES_CLAIM", "cognito:groups"),
    ]);
    assert_eq!(
        (given.clinic.as_str(), given.roles.as_str()),
        ("custom:clinic", "cognito:groups")
    );
    let default = ClaimNames {
        clinic: "clinic_id".to_owned(),
        roles: "roles".to_owned(),
    };
    assert_eq!(names(&[]), default);
    let empty = names(&[("JWT_CLINIC_CLAIM", ""), ("JWT_ROLES_CLAIM", "")]);
    assert_eq!(empty, default);
}

/// Without the caller on the trail a refusal would be logged as nobody's, or not at all.
#[test]
fn a_callers_refusal_is_in_the_audit_line_of_its_request() {
    let claims = json!({"sub": "user-1", "clinic_id": "clinic-a", "roles": ["CLINIC_MANAGER"]});
    let mut request = request(&claims);
    let exchange = Exchange::begin(&mut request, AuditSubjects::Plain);
    let captured = Captured::default();
    let subscriber = tracing_subscriber::fmt().with_writer(captured.clone());
    let _listening = listen(subscriber.with_ansi(false).finish());

    let work = async {
        let caller = Principal::of(&request, &names(&[]));
        let result = caller.and_then(|caller| {
            let other = Tenant::parse("clinic-b").unwrap();
            caller.authorize(Action::ViewSettings, &other)
        });
        ("/", result.map(|()| Response::new(Body::Empty)))
    };
    let answered = exchange.answer(work, async { None }).now_or_never();

    assert_eq!(answered.unwrap().status(), 403);
    let log = captured.text();
    let audit = log
        .lines()
        .find(|line| line.contains("outcome=\"refused\""));
    let audit = audit.unwrap_or_else(|| panic!("no audit line in {log}"));
    for part in ["subject=\"user-1\"", "clinic_id=clinic-b"] {
        assert!(audit.contains(part), "{part} is not in {audit}");
    }
}

#[test]
fn a_caller_of_the_platform_has_a_role_of_the_platform() {
    for (roles, expected) in [
        (&["SUPER_ADMIN"][..], true),
        (&["SERVICE"], true),
        (&["CLINIC_ADMIN", "SERVICE"], true),
        (&["CLINIC_ADMIN", "CLINIC_MANAGER"], false),
        (&["unknown"], false),
        (&[], false),
    ] {
        let caller = principal(Some("clinic-a"), roles);
        assert_eq!(caller.is_of_platform(), expected, "{roles:?}");
    }
}

/// A request that names no clinic is then taken for the caller's own.
#[test]
fn only_a_clinics_own_user_acts_for_it_alone() {
    for (clinic, role, action, expected) in [
        (Some("clinic-a"), "CLINIC_ADMIN", Action::Send, true),
        (
            Some("clinic-a"),
            "CLINIC_MANAGER",
            Action::ViewSettings,
            true,
        ),
        (Some("clinic-a"), "CLINIC_MANAGER", Action::Send, false),
        (None, "CLINIC_ADMIN", Action::Send, false),
        // Backends and the platform's people act for every clinic, whichever theirs is.
        (Some("clinic-a"), "SERVICE", Action::Send, false),
        (None, "SERVICE", Action::Send, false),
        (Some("clinic-a"), "SUPER_ADMIN", Action::Send, false),
    ] {
        let caller = principal(clinic, &[role]);
        let own_only = caller.acts_for_own_clinic_only(action);
        assert_eq!(own_only, expected, "{clinic:?} {role} {action:?}");
    }
}

/// What a refused caller asked for names the clinic that its token is for, and none where it acts for all.
#[test]
fn a_scope_is_audited_with_the_callers_own_clinic_alone() {
    let tenant_of = |roles: &[&str]| {
        let mut request = lambda_http::http::Request::new(Body::Empty);
        let _exchange = Exchange::begin(&mut request, AuditSubjects::Plain);
        let trail = Trail::of(&request);
        let caller = principal(Some("clinic-a"), roles).on(trail.clone());
        let _ = caller.scope(Action::ViewCommunication);
        trail.tenant()
    };
    let own = Tenant::parse("clinic-a").ok();
    assert_eq!(tenant_of(&["CLINIC_ADMIN"]), own);
    assert_eq!(tenant_of(&[]), own);
    assert_eq!(tenant_of(&["SERVICE"]), None);
    assert_eq!(tenant_of(&["SUPER_ADMIN"]), None);
}
