//! Who may do what. API Gateway has verified the token; here its claims decide, and where a claim is
//! missing or is not as it should be, the answer is no.

use std::collections::BTreeSet;

use comms_core::{ClinicId, Tenant, metric::METRICS};
use lambda_http::{Request, RequestExt, request::RequestContext};
use serde_json::{Map, Value};
use tracing::{info, warn};

pub use crate::action::Action;
use crate::{audit::Trail, bearer, http::HttpProblem};

/// What a caller may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The platform's own people: everything, everywhere.
    SuperAdmin,
    /// Runs a clinic.
    ClinicAdmin,
    /// Works in a clinic.
    ClinicManager,
    /// A backend of the platform.
    Service,
}

impl Role {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "SUPER_ADMIN" => Some(Self::SuperAdmin),
            "CLINIC_ADMIN" => Some(Self::ClinicAdmin),
            "CLINIC_MANAGER" => Some(Self::ClinicManager),
            "SERVICE" => Some(Self::Service),
            _ => None,
        }
    }
}

/// The names of the claims: `JWT_CLINIC_CLAIM`, `JWT_ROLES_CLAIM`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimNames {
    /// The claim with the caller's clinic.
    pub clinic: String,
    /// The claim with the caller's roles.
    pub roles: String,
}

impl ClaimNames {
    /// The names that the environment gives, or `clinic_id` and `roles`.
    pub fn from_environment(environment: &crate::Environment<'_>) -> Self {
        let name = |variable, default: &str| {
            environment
                .optional(variable)
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| default.to_owned())
        };
        Self {
            clinic: name("JWT_CLINIC_CLAIM", "clinic_id"),
            roles: name("JWT_ROLES_CLAIM", "roles"),
        }
    }
}

/// A caller, as the token says.
#[derive(Debug, Clone)]
pub struct Principal {
    /// The token's subject.
    pub subject: String,
    clinic: Option<ClinicId>,
    roles: BTreeSet<Role>,
    trail: Trail,
}

impl Principal {
    /// The caller of a request. Without verified claims, or without the token that they are of, there is none, and the
    /// answer is 403.
    pub fn of(request: &Request, names: &ClaimNames) -> Result<Self, HttpProblem> {
        let verified = match request.request_context_ref() {
            Some(RequestContext::ApiGatewayV2(context)) => context
                .authorizer
                .as_ref()
                .and_then(|authorizer| authorizer.jwt.as_ref())
                .map(|jwt| &jwt.claims),
            // Another kind of event has no place for claims that API Gateway has verified.
            _ => None,
        };
        let Some(verified) = verified else {
            warn!("a request came without verified claims");
            info!(target: METRICS, callers_refused = 1_u64);
            return Err(HttpProblem::forbidden());
        };
        match bearer::payload(request.headers(), verified) {
            Ok(payload) => Ok(Self::from_payload(&payload, names).on(Trail::of(request))),
            Err(error) => {
                warn!(%error, "a token was refused that the authorizer accepted");
                info!(target: METRICS, callers_refused = 1_u64);
                Err(HttpProblem::forbidden())
            }
        }
    }

    /// The caller that a token's payload describes. A claim of another type than it should have grants nothing.
    pub(crate) fn from_payload(payload: &Map<String, Value>, names: &ClaimNames) -> Self {
        let text = |name: &str| payload.get(name).and_then(Value::as_str);
        let subject = text("sub").unwrap_or_default();
        Self {
            subject: subject
                .chars()
                .filter(|c| !c.is_control())
                .take(128)
                .collect(),
            clinic: text(&names.clinic).and_then(|text| ClinicId::parse(text).ok()),
            roles: roles(payload.get(&names.roles)),
            trail: Trail::default(),
        }
    }

    /// Notes the caller on the request's trail, and whatever it is authorized for from now on.
    fn on(self, trail: Trail) -> Self {
        trail.note_caller(&self.subject, self.clinic.as_ref().map(ClinicId::as_str));
        Self { trail, ..self }
    }

    /// Whether the caller may do `action` for `tenant`. That is noted on the request's trail, from which refusals are
    /// logged.
    pub fn authorize(&self, action: Action, tenant: &Tenant) -> Result<(), HttpProblem> {
        let mut roles = self.roles.iter();
        let is_allowed = roles.any(|role| self.role_allows(*role, action, tenant));
        self.trail.note_action(action, Some(tenant), is_allowed);
        if is_allowed {
            Ok(())
        } else {
            Err(HttpProblem::forbidden())
        }
    }

    /// Whether the caller is one of the platform's people or backends, and not one of a clinic's users.
    pub fn is_of_platform(&self) -> bool {
        self.roles.iter().any(|role| match role {
            Role::SuperAdmin | Role::Service => true,
            Role::ClinicAdmin | Role::ClinicManager => false,
        })
    }

    /// Whether the caller may do `action` for one clinic and for nobody else.
    pub fn acts_for_own_clinic_only(&self, action: Action) -> bool {
        let is_allowed = |tenant: &Tenant| {
            let mut roles = self.roles.iter();
            roles.any(|role| self.role_allows(*role, action, tenant))
        };
        let own = self.clinic.clone().map(Tenant::Clinic);
        own.as_ref().is_some_and(is_allowed) && !is_allowed(&Tenant::Global)
    }

    /// The tenants for which the caller may do `action`: for what is authorized before it is known whose it is. A
    /// caller who may do it for none is refused. That is noted on the request's trail.
    pub fn scope(&self, action: Action) -> Result<Scope<'_>, HttpProblem> {
        let is_allowed = |tenant: &Tenant| {
            let mut roles = self.roles.iter();
            roles.any(|role| self.role_allows(*role, action, tenant))
        };
        let own = self.clinic.clone().map(Tenant::Clinic);
        // The global account belongs to no clinic: only who acts for all tenants acts for it.
        let tenants = if is_allowed(&Tenant::Global) {
            Some(Tenants::All)
        } else {
            own.clone().filter(is_allowed).map(Tenants::One)
        };
        let tenant = own.as_ref().filter(|_| tenants != Some(Tenants::All));
        self.trail.note_action(action, tenant, tenants.is_some());
        Ok(Scope {
            principal: self,
            action,
            tenants: tenants.ok_or_else(HttpProblem::forbidden)?,
        })
    }

    fn role_allows(&self, role: Role, action: Action, tenant: &Tenant) -> bool {
        use Action::{
            DeleteSettings, ManageCeilings, ManageSettings, PurgeSettings, Send, TestSettings,
            ViewCommunication, ViewSettings, ViewStatistics,
        };
        let own_clinic = match tenant {
            Tenant::Clinic(clinic) => self.clinic.as_ref() == Some(clinic),
            Tenant::Global => false,
        };
        match role {
            Role::SuperAdmin => true,
            Role::ClinicAdmin => match action {
                Send | ViewCommunication | ViewSettings | ManageSettings | DeleteSettings
                | TestSettings | ViewStatistics => own_clinic,
                ManageCeilings | PurgeSettings => false,
            },
            Role::ClinicManager => match action {
                ViewCommunication | ViewSettings | ViewStatistics => own_clinic,
                Send | ManageSettings | ManageCeilings | DeleteSettings | PurgeSettings
                | TestSettings => false,
            },
            // The platform's backends send for every clinic, and without one.
            Role::Service => match action {
                Send | ViewCommunication => true,
                ViewSettings | ManageSettings | ManageCeilings | DeleteSettings | PurgeSettings
                | TestSettings | ViewStatistics => false,
            },
        }
    }
}

/// The tenants for which a caller may do one thing.
#[derive(Debug)]
pub struct Scope<'p> {
    principal: &'p Principal,
    action: Action,
    tenants: Tenants,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Tenants {
    All,
    One(Tenant),
}

impl Scope<'_> {
    /// True if `tenant` is one of them. That is noted on the request's trail, from which refusals are logged.
    pub fn includes(&self, tenant: &Tenant) -> bool {
        let is_included = match &self.tenants {
            Tenants::All => true,
            Tenants::One(own) => own == tenant,
        };
        let trail = &self.principal.trail;
        trail.note_action(self.action, Some(tenant), is_included);
        is_included
    }
}

/// The roles of a claim that is one string or an array of strings. Only a whole string is a role.
fn roles(claim: Option<&Value>) -> BTreeSet<Role> {
    match claim {
        Some(Value::String(role)) => Role::parse(role).into_iter().collect(),
        Some(Value::Array(roles)) if roles.iter().all(Value::is_string) => {
            let roles = roles.iter().filter_map(Value::as_str);
            roles.filter_map(Role::parse).collect()
        }
        Some(
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) | Value::Array(_),
        )
        | None => BTreeSet::new(),
    }
}

#[cfg(test)]
mod callers;
#[cfg(test)]
mod tests {
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

    const ACTIONS: [Action; 9] = [
        Action::Send,
        Action::ViewCommunication,
        Action::ViewSettings,
        Action::ManageSettings,
        Action::ManageCeilings,
        Action::DeleteSettings,
        Action::TestSettings,
        Action::ViewStatistics,
        Action::PurgeSettings,
    ];

    /// The design's matrix: role, then what it may do for its own clinic, for another, for the global
    /// account. Letters in the order of `ACTIONS`.
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
                let got: String = ACTIONS
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
            for action in ACTIONS {
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
        for roles in [
            json!(["Front SUPER_ADMIN"]),
            json!(["staff,SUPER_ADMIN"]),
            json!(["\"SUPER_ADMIN\""]),
            json!("[x SUPER_ADMIN y]"),
            json!("SERVICE,SUPER_ADMIN"),
            json!("SERVICE SUPER_ADMIN"),
            json!("[SUPER_ADMIN]"),
            json!("[\"SUPER_ADMIN\"]"),
            json!("SUPER_ADMIN "),
            json!("NOT_SUPER_ADMIN"),
            json!(["SUPER_ADMIN\u{0}"]),
        ] {
            let caller = principal(&json!("clinic-a"), &roles);
            for action in ACTIONS {
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
                for action in ACTIONS {
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
}
