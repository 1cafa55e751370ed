//! Templates at the provider, and their parameters.

use serde::Serialize;
use serde_json::Value;

use super::{
    MAX_LANGUAGE, MAX_TEMPLATE_COMPONENT_BYTES, MAX_TEMPLATE_COMPONENTS, MAX_TEMPLATE_ID,
    MAX_TEMPLATE_PARAM, MAX_TEMPLATE_PARAMS, word::is_word,
};
use crate::json::{Object, read};

/// A template that the provider holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    /// Its name or id at the provider.
    pub id: String,
    /// Its language, such as `en_US`.
    pub language: Option<String>,
    /// What goes into it.
    pub values: TemplateValues,
}

/// What goes into a template.
#[derive(Clone, PartialEq, Eq)]
pub enum TemplateValues {
    /// Texts, which every provider can place.
    Params(TemplateParams),
    /// Components in the form of Meta's Cloud API, which only that can place.
    Components(Vec<Value>),
}

/// The texts that go into a template, in the order of its placeholders.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
pub struct TemplateParams {
    /// Into its header.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub header: Vec<String>,
    /// Into its body.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub body: Vec<String>,
    /// Into the URLs of its buttons, the first button first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub buttons: Vec<String>,
}

impl TemplateParams {
    /// All of them, header first, buttons last.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let texts = self.header.iter().chain(&self.body).chain(&self.buttons);
        texts.map(String::as_str)
    }
}

/// Reads `templateId` and what belongs to it: `language`, and `templateParams` or
/// `templateComponents`.
pub fn read_template(object: &mut Object<'_>) -> Option<Template> {
    let id_given = !object.is_missing("templateId");
    let id = object.optional("templateId", read::text(1, MAX_TEMPLATE_ID));
    let language = object.optional("language", read::parsed(parse_language));
    let params = object.optional("templateParams", read_template_params);
    let components = object.optional("templateComponents", read_template_components);
    if !id_given {
        let given = [
            ("templateParams", params.is_some()),
            ("templateComponents", components.is_some()),
            ("language", language.is_some()),
        ];
        for (name, _) in given.into_iter().filter(|(_, given)| *given) {
            object.problem(name, "needs a templateId");
        }
    }
    if components.is_some() && params.is_some() {
        object.problem(
            "templateParams",
            "says the same as templateComponents; send one of them",
        );
    }
    Some(Template {
        id: id?,
        language,
        values: match components {
            Some(components) => TemplateValues::Components(components),
            None => TemplateValues::Params(params.unwrap_or_default()),
        },
    })
}

/// Meta's own form is checked by Meta: here only that it is an array of objects with a type each, and
/// not more than belongs into a message.
fn read_template_components(value: Value) -> Result<Vec<Value>, String> {
    let wrong = || {
        format!(
            "must be an array of 1 to {MAX_TEMPLATE_COMPONENTS} objects with a type each, at most {MAX_TEMPLATE_COMPONENT_BYTES} bytes together"
        )
    };
    let Value::Array(components) = value else {
        return Err(wrong());
    };
    let size = serde_json::to_string(&components).map_or(usize::MAX, |text| text.len());
    let fits = (1..=MAX_TEMPLATE_COMPONENTS).contains(&components.len())
        && size <= MAX_TEMPLATE_COMPONENT_BYTES
        && components
            .iter()
            .all(|component| component.get("type").is_some_and(Value::is_string));
    if fits { Ok(components) } else { Err(wrong()) }
}

fn parse_language(text: &str) -> Result<String, String> {
    if is_word(text, 2, MAX_LANGUAGE) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "must be a language code such as en_US, of 2 to {MAX_LANGUAGE} letters, digits, '-' or '_'"
        ))
    }
}

/// An array is the body's; an object says for each part of the template.
fn read_template_params(value: Value) -> Result<TemplateParams, String> {
    let wrong = || {
        format!(
            "must be an array of strings of at most {MAX_TEMPLATE_PARAM} characters, or an object of such arrays named header, body and buttons; at most {MAX_TEMPLATE_PARAMS} strings together"
        )
    };
    let texts = |value: Value| match value {
        Value::Array(items) => items
            .into_iter()
            .map(|item| read::text(0, MAX_TEMPLATE_PARAM)(item).map_err(|_| wrong()))
            .collect(),
        Value::Null => Ok(Vec::new()),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => Err(wrong()),
    };
    let params = match value {
        Value::Object(mut parts) => {
            let mut part = |name: &str| texts(parts.shift_remove(name).unwrap_or_default());
            let params = TemplateParams {
                header: part("header")?,
                body: part("body")?,
                buttons: part("buttons")?,
            };
            if !parts.is_empty() {
                return Err(wrong());
            }
            params
        }
        body @ (Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)) => TemplateParams {
            body: texts(body)?,
            ..TemplateParams::default()
        },
    };
    if params.iter().count() > MAX_TEMPLATE_PARAMS {
        return Err(wrong());
    }
    Ok(params)
}
