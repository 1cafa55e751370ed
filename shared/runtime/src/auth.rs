//! Who may do what. API Gateway has verified the token; here its claims decide, and where a claim is
//! missing or is not as it should be, the answer is no.

use std::collections::{BTreeSet, HashMap};

use comms_core::{ClinicId, Tenant, metric::METRICS};
use lambda_http::{Request, RequestExt, request::RequestContext};
use tracing::{info, warn};

use crate::{audit::Trail, http::HttpProblem};

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

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send a communication.
    Send,
    /// See what became of a communication.
    ViewCommunication,
    /// See settings, versions, health.
    ViewSettings,
    /// Change settings.
    ManageSettings,
    /// Change what the platform allows a clinic.
    ManageCeilings,
    /// Delete settings.
    DeleteSettings,
    /// Test settings.
    TestSettings,
    /// See statistics.
    ViewStatistics,
}

impl Action {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::ViewCommunication => "view_communication",
            Self::ViewSettings => "view_settings",
            Self::ManageSettings => "manage_settings",
            Self::ManageCeilings => "manage_ceilings",
            Self::DeleteSettings => "delete_settings",
            Self::TestSettings => "test_settings",
            Self::ViewStatistics => "view_statistics",
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
    /// The caller of a request. Without verified claims there is none, and the answer is 403.
    pub fn of(request: &Request, names: &ClaimNames) -> Result<Self, HttpProblem> {
        let context = request.request_context_ref();
        let claims = match context {
            Some(RequestContext::ApiGatewayV2(context)) => context
                .authorizer
                .as_ref()
                .and_then(|authorizer| authorizer.jwt.as_ref())
                .map(|jwt| &jwt.claims),
            // Another kind of event has no place for claims that API Gateway has verified.
            _ => None,
        };
        claims
            .map(|claims| Self::from_claims(claims, names).on(Trail::of(request)))
            .ok_or_else(|| {
                warn!("a request came without verified claims");
                info!(target: METRICS, callers_refused = 1_u64);
                HttpProblem::forbidden()
            })
    }

    /// The caller that `claims` describe. What can not be read grants nothing.
    pub fn from_claims(claims: &HashMap<String, String>, names: &ClaimNames) -> Self {
        let clinic = claims
            .get(&names.clinic)
            .and_then(|text| ClinicId::parse(text).ok());
        let roles = claims
            .get(&names.roles)
            .map(|text| parse_roles(text))
            .unwrap_or_default();
        let subject = claims
            .get("sub")
            .map(|subject| {
                subject
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(128)
                    .collect()
            })
            .unwrap_or_default();
        Self {
            subject,
            clinic,
            roles,
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

    fn role_allows(&self, role: Role, action: Action, tenant: &Tenant) -> bool {
        use Action::{
            DeleteSettings, ManageCeilings, ManageSettings, Send, TestSettings, ViewCommunication,
            ViewSettings, ViewStatistics,
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
                ManageCeilings => false,
            },
            Role::ClinicManager => match action {
                ViewCommunication | ViewSettings | ViewStatistics => own_clinic,
                Send | ManageSettings | ManageCeilings | DeleteSettings | TestSettings => false,
            },
            // The platform's backends send for every clinic, and without one.
            Role::Service => match action {
                Send | ViewCommunication => true,
                ViewSettings | ManageSettings | ManageCeilings | DeleteSettings | TestSettings
                | ViewStatistics => false,
            },
        }
    }
}

/// Roles as API Gateway gives them: an array as `[A B]` or as JSON text, a string claim as it is.
fn parse_roles(text: &str) -> BTreeSet<Role> {
    match text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(list) => list
            .split([' ', ','])
            .filter_map(|word| Role::parse(word.trim_matches('"')))
            .collect(),
        None => Role::parse(text).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> ClaimNames {
        ClaimNames {
            clinic: "clinic_id".into(),
            roles: "roles".into(),
        }
    }

    fn principal(clinic: Option<&str>, roles: Option<&str>) -> Principal {
        let mut claims = HashMap::from([("sub".to_owned(), "subject".to_owned())]);
        claims.extend(clinic.map(|clinic| ("clinic_id".to_owned(), clinic.to_owned())));
        claims.extend(roles.map(|roles| ("roles".to_owned(), roles.to_owned())));
        Principal::from_claims(&claims, &names())
    }

    const ACTIONS: [Action; 8] = [
        Action::Send,
        Action::ViewCommunication,
        Action::ViewSettings,
        Action::ManageSettings,
        Action::ManageCeilings,
        Action::DeleteSettings,
        Action::TestSettings,
        Action::ViewStatistics,
    ];

    /// The design's matrix: role, then what it may do for its own clinic, for another, for the global
    /// account. Letters in the order of `ACTIONS`.
    #[test]
    fn every_role_may_do_what_the_matrix_says_and_nothing_else() {
        for (role, own, other, global) in [
            ("SUPER_ADMIN", "yyyyyyyy", "yyyyyyyy", "yyyyyyyy"),
            ("CLINIC_ADMIN", "yyyy-yyy", "--------", "--------"),
            ("CLINIC_MANAGER", "-yy----y", "--------", "--------"),
            ("SERVICE", "yy------", "yy------", "yy------"),
        ] {
            let caller = principal(Some("clinic-a"), Some(role));
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
        for (clinic_claim, roles) in [
            (None, None),
            (Some("clinic-a"), None),
            (None, Some("CLINIC_ADMIN")),
            (Some(""), Some("CLINIC_ADMIN")),
            (Some("clinic-a "), Some("CLINIC_ADMIN")),
            (Some("clinic-a,clinic-b"), Some("CLINIC_ADMIN")),
            (Some("[clinic-a]"), Some("CLINIC_ADMIN")),
            (Some("_global"), Some("CLINIC_ADMIN")),
            (Some("clinic-a"), Some("")),
            (Some("clinic-a"), Some("clinic_admin")),
            (Some("clinic-a"), Some("CLINIC_ADMINS")),
            (Some("clinic-a"), Some("NOT_SUPER_ADMIN")),
            (Some("clinic-a"), Some("NOT SUPER_ADMIN")),
            (Some("clinic-a"), Some("{\"SUPER_ADMIN\":true}")),
        ] {
            let caller = principal(clinic_claim, roles);
            for action in ACTIONS {
                assert!(
                    caller.authorize(action, &clinic).is_err(),
                    "{clinic_claim:?} {roles:?} {action:?}"
                );
                assert!(caller.authorize(action, &Tenant::Global).is_err());
            }
        }
    }

    #[test]
    fn roles_are_read_in_every_form_that_api_gateway_gives_them() {
        let clinic = Tenant::parse("clinic-a").unwrap();
        for roles in [
            "SERVICE",
            "[SERVICE]",
            "[OTHER SERVICE]",
            "[\"OTHER\", \"SERVICE\"]",
        ] {
            assert!(
                principal(None, Some(roles))
                    .authorize(Action::Send, &clinic)
                    .is_ok(),
                "{roles}"
            );
        }
    }
}
