//! `metadata`: which clinic a communication is for, and the caller's own references.

use std::collections::BTreeMap;

use crate::{
    id::{ClinicId, IdError, Tenant},
    json::{Object, read},
};

/// Fields of `metadata` beside `clinicId`.
pub const MAX_METADATA: usize = 20;
/// Bytes of the name of a field of `metadata`.
pub const MAX_METADATA_NAME: usize = 64;
/// Characters of the value of a field of `metadata`.
pub const MAX_METADATA_VALUE: usize = 256;

/// Whose account a communication asks for, as `metadata.clinicId` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestedTenant {
    /// This clinic's.
    Clinic(ClinicId),
    /// The platform's: `"clinicId": "_global"`.
    Global,
    /// Nobody's: there is no `clinicId`. The platform's account sends, where it may.
    Unnamed,
}

impl RequestedTenant {
    fn parse(text: &str) -> Result<Self, IdError> {
        Ok(match Tenant::parse(text)? {
            Tenant::Clinic(clinic) => Self::Clinic(clinic),
            Tenant::Global => Self::Global,
        })
    }

    /// The clinic, where one is named.
    pub const fn clinic(&self) -> Option<&ClinicId> {
        match self {
            Self::Clinic(clinic) => Some(clinic),
            Self::Global | Self::Unnamed => None,
        }
    }

    /// Whose settings, chain and quota it takes.
    pub fn tenant(&self) -> Tenant {
        self.clinic()
            .cloned()
            .map_or(Tenant::Global, Tenant::Clinic)
    }

    /// What stands in `clinicId`.
    pub(super) fn as_json(&self) -> Option<&str> {
        match self {
            Self::Clinic(clinic) => Some(clinic.as_str()),
            Self::Global => Some(Tenant::GLOBAL),
            Self::Unnamed => None,
        }
    }
}

/// Refuses a clinic outside of `metadata`: without it, the platform's account would send.
pub(super) fn refuse_misplaced_clinic(communication: &mut Object<'_>) {
    let detail = "belongs in metadata: name the clinic in metadata.clinicId";
    communication.misplaced(&["clinicId", "clinic", "tenantId", "tenant"], detail);
}

pub(super) fn read_metadata(
    mut object: Object<'_>,
) -> (Option<RequestedTenant>, BTreeMap<String, String>) {
    // Of a caller whose variable was not set: the platform's account would send.
    if object.is_null("clinicId") {
        let detail = "must not be null: name the clinic, or leave clinicId out to send from the platform's account";
        object.problem("clinicId", detail);
    }
    let requested = object.optional("clinicId", read::parsed(RequestedTenant::parse));
    let references = object.rest(
        MAX_METADATA,
        |name| name.len() <= MAX_METADATA_NAME,
        read::text(0, MAX_METADATA_VALUE),
        &format!(
            "must be a string of at most {MAX_METADATA_VALUE} characters under a name of at most {MAX_METADATA_NAME} bytes"
        ),
    );
    (requested, references)
}
