//! Readers for [`Object::required`](super::Object::required) and [`Object::optional`](super::Object::optional).

use std::fmt::Display;

use serde_json::Value;

use crate::visible::has_visible;

/// A string.
pub fn string(value: Value) -> Result<String, String> {
    if let Value::String(text) = value {
        Ok(text)
    } else {
        Err("must be a string".to_owned())
    }
}

/// A string of `least` to `most` characters, at least one of them visible.
pub fn visible_text(least: usize, most: usize) -> impl Fn(Value) -> Result<String, String> {
    move |value| {
        let text = text(least, most)(value)?;
        if has_visible(&text) {
            Ok(text)
        } else {
            Err("must have a visible character".to_owned())
        }
    }
}

/// A string of `least` to `most` characters.
pub fn text(least: usize, most: usize) -> impl Fn(Value) -> Result<String, String> {
    move |value| {
        let text = string(value)?;
        let length = text.chars().count();
        if (least..=most).contains(&length) {
            Ok(text)
        } else {
            Err(format!("must be {least} to {most} characters long"))
        }
    }
}

/// A string that `parse` accepts.
pub fn parsed<T, E: Display>(
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> impl FnOnce(Value) -> Result<T, String> {
    move |value| parse(&string(value)?).map_err(|error| error.to_string())
}

/// One of `names`.
pub fn one_of<T: Copy>(names: &[(&'static str, T)]) -> impl FnOnce(Value) -> Result<T, String> {
    move |value| {
        let found = value
            .as_str()
            .and_then(|text| names.iter().find(|(name, _)| *name == text))
            .map(|(_, meaning)| *meaning);
        found.ok_or_else(|| {
            let names: Vec<_> = names.iter().map(|(name, _)| *name).collect();
            format!("must be one of: {}", names.join(", "))
        })
    }
}

/// `true` or `false`, as themselves or as strings.
#[allow(clippy::needless_pass_by_value, reason = "a reader takes the value")]
pub fn flag(value: Value) -> Result<bool, String> {
    let flag = match value.as_str() {
        Some("true") => Some(true),
        Some("false") => Some(false),
        Some(_) | None => value.as_bool(),
    };
    flag.ok_or_else(|| "must be true or false".to_owned())
}

/// A whole number of `least` to `most`, as itself or as a string.
pub fn number(least: u32, most: u32) -> impl FnOnce(Value) -> Result<u32, String> {
    move |value| {
        let number = match value.as_str() {
            Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
            Some(_) => None,
            None => value.as_u64().and_then(|number| u32::try_from(number).ok()),
        };
        number
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| format!("must be a whole number from {least} to {most}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_may_come_as_strings_or_as_their_own_types() {
        assert_eq!(number(1, 65_535)(json!("587")), Ok(587));
        assert_eq!(number(1, 65_535)(json!(587)), Ok(587));
        assert_eq!(flag(json!("false")), Ok(false));
        for wrong in [
            json!(""),
            json!("+5"),
            json!(0),
            json!(70_000),
            json!(1.5),
            json!(-1),
            json!("99999999999999999999"),
            json!(true),
        ] {
            assert!(number(1, 65_535)(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
