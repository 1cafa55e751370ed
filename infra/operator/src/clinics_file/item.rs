//! One item: its text, its clinic and its settings.

use comms_core::{
    Problems, Tenant,
    json::{self, Problem},
};
use comms_settings::document::MAX_DOCUMENT_BYTES;
use serde::Serialize;
use serde_json::{Map, Value};

/// Bytes of an item: as many as the API takes. That is more than can be stored, since an exported item contains more than
/// its settings.
pub const MAX_ITEM: usize = MAX_DOCUMENT_BYTES;

/// A clinic of the file.
#[derive(Clone)]
pub struct ClinicItem {
    /// The line on which it begins, from 1.
    pub line: u64,
    /// The clinic.
    pub tenant: Tenant,
    /// Its `communicationSettings`, not validated.
    pub document: Value,
}

/// Without the document, which has secrets in it.
impl std::fmt::Debug for ClinicItem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClinicItem({}, …)", self.tenant)
    }
}

/// An item that cannot be read, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedItem {
    /// The line on which it begins, from 1.
    pub line: u64,
    /// The clinic, if its id could be read.
    pub clinic_id: Option<String>,
    /// The problems, each with its JSON pointer and without a value.
    pub problems: Vec<Problem>,
}

impl RefusedItem {
    pub(crate) fn new(line: u64, tenant: Option<&Tenant>, problems: &Problems) -> Self {
        Self {
            line,
            clinic_id: tenant.map(ToString::to_string),
            problems: problems.as_slice().to_vec(),
        }
    }
}

/// The text of an item.
pub(super) struct RawItem {
    /// The line on which it begins, from 1.
    pub(super) line: u64,
    /// The clinic's id that is the name of the member around it.
    pub(super) clinic: Option<String>,
    pub(super) text: Vec<u8>,
    /// Whether the text was cut at [`MAX_ITEM`] bytes.
    is_too_long: bool,
}

impl RawItem {
    pub(super) fn at(line: u64) -> Self {
        Self {
            line,
            clinic: None,
            text: Vec::new(),
            is_too_long: false,
        }
    }

    pub(super) fn push(&mut self, byte: u8) {
        if self.text.len() < MAX_ITEM {
            self.text.push(byte);
        } else {
            self.is_too_long = true;
        }
    }
}

/// Reads the clinic's id and its settings.
pub(super) fn read_item(raw: RawItem) -> Result<ClinicItem, RefusedItem> {
    let line = raw.line;
    let refused = |tenant: Option<&Tenant>, problems: &Problems| {
        Err(RefusedItem::new(line, tenant, problems))
    };
    if raw.is_too_long {
        let detail = format!("must not be longer than {MAX_ITEM} bytes");
        return refused(None, &Problems::one("", detail));
    }
    let mut fields = match json::parse(&raw.text) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => return refused(None, &Problems::one("", "must be an object")),
        Err(problems) => return refused(None, &problems),
    };
    let mut problems = Problems::default();
    let tenant = read_tenant(raw.clinic, &mut fields, &mut problems);
    let document = read_document(&mut fields, &mut problems);
    match (tenant, document) {
        (Some(tenant), Some(document)) if problems.is_empty() => Ok(ClinicItem {
            line,
            tenant,
            document,
        }),
        (tenant, _) => refused(tenant.as_ref(), &problems),
    }
}

/// The clinic of an item. A malformed id is not repeated: it may be a value that got into the wrong place.
fn read_tenant(
    member: Option<String>,
    fields: &mut Map<String, Value>,
    problems: &mut Problems,
) -> Option<Tenant> {
    let mut field = |name: &'static str| {
        let value = fields.remove(name).filter(|value| !value.is_null())?;
        let id = match &value {
            Value::String(id) => Some(id.clone()),
            Value::Object(id) => id.get("$oid").and_then(Value::as_str).map(str::to_owned),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
        };
        Some((name, id))
    };
    let (clinic_id, object_id) = (field("clinicId"), field("_id"));
    let (pointer, id) = match (member, clinic_id, object_id) {
        (Some(name), Some((at, id)), _) if id.as_ref() != Some(&name) => {
            problems.add(
                format!("/{at}"),
                "must be the id under which the item stands",
            );
            return None;
        }
        (Some(name), _, _) => (String::new(), Some(name)),
        (None, Some((at, id)), _) | (None, None, Some((at, id))) => (format!("/{at}"), id),
        (None, None, None) => {
            problems.add("/clinicId", "is required");
            return None;
        }
    };
    let tenant = id.as_deref().map(Tenant::parse);
    match tenant {
        Some(Ok(tenant)) => Some(tenant),
        Some(Err(error)) => {
            problems.add(pointer, format!("the clinic's id {error}"));
            None
        }
        None => {
            problems.add(pointer, "must be the clinic's id, as a string");
            None
        }
    }
}

fn read_document(fields: &mut Map<String, Value>, problems: &mut Problems) -> Option<Value> {
    const NAME: &str = "communicationSettings";
    let present = |value: &Value| !value.is_null();
    let inner = fields
        .get_mut("settings")
        .and_then(Value::as_object_mut)
        .and_then(|settings| settings.remove(NAME))
        .filter(present);
    let outer = fields.remove(NAME).filter(present);
    match (inner, outer) {
        (Some(document), None) | (None, Some(document)) => Some(document),
        (None, None) => {
            problems.add(format!("/settings/{NAME}"), "is required");
            None
        }
        (Some(_), Some(_)) => {
            problems.add(
                format!("/{NAME}"),
                "stands in settings too; which of the two is meant?",
            );
            None
        }
    }
}
