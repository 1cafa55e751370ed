//! The platform's ceilings in a clinic's document: the platform's administrators set them, everybody else keeps them.

use comms_core::{Problems, Tenant};
use comms_runtime::{HttpProblem, auth::Action};
use comms_settings::{
    Ceilings, CommunicationSettings, Present, ceilings::CEILINGS, document::POINTER,
};
use serde_json::Value;
use tracing::warn;

use crate::{Access, Deps};

/// The ceilings that a change asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Nothing: the stored ones stay.
    Stored,
    /// They are as the document has them.
    Document,
    /// The stored ones stay. If they cannot be read, those of the restored version apply.
    Version,
}

impl Wanted {
    /// What a document says that replaces the stored one. Without the member they stay, since a document that was
    /// written without knowing of them must not lift them; `{}` removes them.
    pub(crate) fn of_document(document: &Value) -> Self {
        match document.get(CEILINGS) {
            None | Some(Value::Null) => Self::Stored,
            Some(_) => Self::Document,
        }
    }
}

/// Refuses a change of settings that cannot be read, by a caller who may not set ceilings: the present ceilings are unknown.
pub(crate) fn check_readable(present: &Present, access: &Access) -> Result<(), HttpProblem> {
    match present {
        Present::Unreadable { .. } => access
            .principal
            .authorize(Action::ManageCeilings, &access.tenant),
        Present::Nothing | Present::Deleted(_) | Present::Settings(_) => Ok(()),
    }
}

/// Settles the ceilings of settings that are to be saved. 403 where the caller may not change them, and would.
pub(crate) fn settle(
    settings: &mut CommunicationSettings,
    wanted: Wanted,
    present: &Present,
    access: &Access,
) -> Result<(), HttpProblem> {
    let stored = present.ceilings();
    match wanted {
        Wanted::Stored => match present {
            // The present ceilings are unknown: the caller must set them again, so that they are not lifted in silence.
            Present::Unreadable { .. } => {
                return Err(HttpProblem::invalid(&Problems::one(
                    format!("{POINTER}/{CEILINGS}"),
                    "is required where the stored settings cannot be read: the clinic's ceilings, or {} for none",
                )));
            }
            Present::Nothing | Present::Deleted(_) | Present::Settings(_) => {
                settings.ceilings = stored;
            }
        },
        // The version's seal holds; of settings that cannot be read nothing does.
        Wanted::Version => match present {
            Present::Unreadable { .. } => {}
            Present::Nothing | Present::Deleted(_) | Present::Settings(_) => {
                settings.ceilings = stored;
            }
        },
        Wanted::Document if settings.ceilings == stored => {}
        Wanted::Document => {
            let allowed = access
                .principal
                .authorize(Action::ManageCeilings, &access.tenant);
            allowed.map_err(|problem| {
                problem.with_errors(&Problems::one(
                    format!("{POINTER}/{CEILINGS}"),
                    "is set by the platform; leave it out, or send it as GET shows it",
                ))
            })?;
        }
    }
    Ok(())
}

/// The ceilings that hold for a clinic, as GET shows them beside its settings; `None` where there are none, or
/// that is not known now.
pub(crate) async fn effective(deps: &Deps, tenant: &Tenant, own: Ceilings) -> Option<Value> {
    match tenant {
        Tenant::Global => return None,
        Tenant::Clinic(_) => {}
    }
    match deps.store.load(&Tenant::Global).await {
        Ok(platform) => {
            let defaults = platform.map(|stored| stored.settings.ceilings);
            let effective = own.or(defaults.unwrap_or_default());
            (!effective.is_empty()).then(|| effective.to_json())
        }
        Err(error) => {
            warn!(%error, "the platform's default ceilings cannot be read");
            None
        }
    }
}
