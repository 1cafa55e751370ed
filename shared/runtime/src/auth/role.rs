//! Roles: how a claim names them, and what each allows.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::action::Action;

/// The role of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
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

    /// Whether a caller of this role may do `action`. `is_own_clinic` says that it is for the caller's own clinic.
    pub(super) fn allows(self, action: Action, is_own_clinic: bool) -> bool {
        use Action::{
            DeleteSettings, ManageCeilings, ManageSettings, PurgeSettings, Send, TestSettings,
            ViewCommunication, ViewSettings, ViewStatistics,
        };
        match self {
            Self::SuperAdmin => true,
            Self::ClinicAdmin => match action {
                Send | ViewCommunication | ViewSettings | ManageSettings | DeleteSettings
                | TestSettings | ViewStatistics => is_own_clinic,
                ManageCeilings | PurgeSettings => false,
            },
            Self::ClinicManager => match action {
                ViewCommunication | ViewSettings | ViewStatistics => is_own_clinic,
                Send | ManageSettings | ManageCeilings | DeleteSettings | PurgeSettings
                | TestSettings => false,
            },
            // The platform's backends send for every clinic, and without one.
            Self::Service => match action {
                Send | ViewCommunication => true,
                ViewSettings | ManageSettings | ManageCeilings | DeleteSettings | PurgeSettings
                | TestSettings | ViewStatistics => false,
            },
        }
    }
}

/// The roles of a claim that is one string or an array of strings. Only a whole string is a role.
pub(super) fn roles(claim: Option<&Value>) -> BTreeSet<Role> {
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
