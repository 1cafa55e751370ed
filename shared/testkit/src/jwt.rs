//! Tokens as callers present them, and their claims as API Gateway hands them to a function.

use std::collections::HashMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// A token with these claims. Its signature is none: whoever reads it relies on somebody else to have verified one.
pub fn token(claims: &Value) -> String {
    token_of_text(&claims.to_string())
}

/// A token whose payload is any text.
pub fn token_of_text(payload: &str) -> String {
    let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","kid":"test","typ":"JWT"}"#);
    let payload = URL_SAFE_NO_PAD.encode(payload);
    let signature = URL_SAFE_NO_PAD.encode("not a signature");
    format!("{head}.{payload}.{signature}")
}

/// The claims of a verified token as API Gateway renders them: each as text. What is no object has none.
pub fn rendered_claims(claims: &Value) -> HashMap<String, String> {
    let claims = claims.as_object().into_iter().flatten();
    claims
        .map(|(name, value)| (name.clone(), rendered(value)))
        .collect()
}

/// A claim's value as API Gateway renders it: text as it is, an array as `[A B]`.
fn rendered(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(rendered).collect();
            format!("[{}]", values.join(" "))
        }
        Value::Object(members) => {
            let members: Vec<String> = members
                .iter()
                .map(|(name, value)| format!("{name}:{}", rendered(value)))
                .collect();
            format!("map[{}]", members.join(" "))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// Values of a roles claim that hold no role. API Gateway renders each as text in which `SUPER_ADMIN` stands between
/// blanks, commas or quotation marks.
pub fn roles_with_super_admin_as_a_word() -> [Value; 5] {
    [
        json!(["Front SUPER_ADMIN"]),
        json!(["staff,SUPER_ADMIN"]),
        json!(["\"SUPER_ADMIN\""]),
        json!("[x SUPER_ADMIN y]"),
        json!("SERVICE,SUPER_ADMIN"),
    ]
}
