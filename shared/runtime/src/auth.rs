//! Who may do what. API Gateway has verified the token; its claims decide. A claim that is missing or malformed grants
//! nothing.

mod role;

use std::collections::BTreeSet;

use comms_core::{ClinicId, Tenant, metric::METRICS};
use lambda_http::{Request, RequestExt, request::RequestContext};
use serde_json::{Map, Value};
use tracing::{info, warn};

use self::role::{Role, roles};
pub use crate::action::Action;
use crate::{audit::Trail, bearer, http::HttpProblem};

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

/// The caller of a request, as the token describes it.
#[derive(Debug, Clone)]
pub struct Principal {
    /// The token's subject.
    pub subject: String,
    clinic: Option<ClinicId>,
    roles: BTreeSet<Role>,
    trail: Trail,
}

impl Principal {
    /// The caller of a request, and the tenant with this id, for which the caller may do `action`. Whether that is
    /// allowed is noted on the request's trail.
    ///
    /// # Errors
    /// As [`Principal::of`], 404 for an id that no clinic can have, and 403 if the caller may not do `action` for it.
    pub fn authorized(
        request: &Request,
        names: &ClaimNames,
        id: &str,
        action: Action,
    ) -> Result<(Self, Tenant), HttpProblem> {
        let principal = Self::of(request, names)?;
        let tenant = Tenant::parse(id)
            .map_err(|_| HttpProblem::not_found("There is no clinic with such an id."))?;
        principal.authorize(action, &tenant)?;
        Ok((principal, tenant))
    }

    /// The caller of a request.
    ///
    /// # Errors
    /// 403 without verified claims, or without the token that they were read from.
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

    /// The caller that a token's payload describes. A claim of the wrong type grants nothing.
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

    /// Notes the caller on the request's trail, and from then on every authorization.
    fn on(self, trail: Trail) -> Self {
        trail.note_caller(&self.subject, self.clinic.as_ref().map(ClinicId::as_str));
        Self { trail, ..self }
    }

    /// Checks whether the caller may do `action` for `tenant`. The result is noted on the request's trail, from which
    /// refusals are logged.
    ///
    /// # Errors
    /// 403 if the caller may not.
    pub fn authorize(&self, action: Action, tenant: &Tenant) -> Result<(), HttpProblem> {
        let is_allowed = self.allows(action, tenant);
        self.trail.note_action(action, Some(tenant), is_allowed);
        if is_allowed {
            Ok(())
        } else {
            Err(HttpProblem::forbidden())
        }
    }

    fn allows(&self, action: Action, tenant: &Tenant) -> bool {
        let is_own_clinic = match tenant {
            Tenant::Clinic(clinic) => self.clinic.as_ref() == Some(clinic),
            Tenant::Global => false,
        };
        let mut roles = self.roles.iter();
        roles.any(|role| role.allows(action, is_own_clinic))
    }

    /// Whether the caller is one of the platform's people or backends rather than a clinic's user.
    pub fn is_of_platform(&self) -> bool {
        self.roles.iter().any(|role| match role {
            Role::SuperAdmin | Role::Service => true,
            Role::ClinicAdmin | Role::ClinicManager => false,
        })
    }

    /// Whether the caller may do `action` for exactly one clinic.
    pub fn acts_for_own_clinic_only(&self, action: Action) -> bool {
        let is_allowed = |tenant: &Tenant| self.allows(action, tenant);
        let own = self.clinic.clone().map(Tenant::Clinic);
        own.as_ref().is_some_and(is_allowed) && !is_allowed(&Tenant::Global)
    }

    /// The tenants for which the caller may do `action`: authorizes a request before the owner of its subject is known.
    /// The result is noted on the request's trail.
    ///
    /// # Errors
    /// 403 if the caller may do it for no tenant.
    pub fn scope(&self, action: Action) -> Result<Scope<'_>, HttpProblem> {
        let is_allowed = |tenant: &Tenant| self.allows(action, tenant);
        let own = self.clinic.clone().map(Tenant::Clinic);
        // The global account belongs to no clinic: a caller who may act for it may act for all tenants.
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

#[cfg(test)]
mod callers;
#[cfg(test)]
mod tests;
