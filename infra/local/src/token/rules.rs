//! The rules by which API Gateway's JWT authorizer accepts a token whose signature is right.
//!
//! <https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-jwt-authorizer.html>, "Validate claims". The
//! algorithm is checked with the signature: API Gateway accepts RSA alone, the local stack its own HS256 alone.

use jiff::Timestamp;
use jsonwebtoken::Header;
use serde_json::Value;

use super::{AUDIENCE, ISSUER, KEY_ID};

/// Says which rule refuses the token, if one does.
pub(super) fn check(header: &Header, claims: &Value, now: Timestamp) -> Result<(), String> {
    let refuse = |rule: &str| Err(rule.to_owned());
    if header.kid.as_deref() != Some(KEY_ID) {
        return refuse("kid is not the key's");
    }
    if claims["iss"] != ISSUER {
        return refuse("iss is not the issuer");
    }
    // client_id counts only where there is no aud.
    let audience = claims.get("aud").unwrap_or(&claims["client_id"]);
    let is_for_us = match audience {
        Value::Array(audiences) => audiences.iter().any(|audience| audience == AUDIENCE),
        Value::String(audience) => audience == AUDIENCE,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    };
    if !is_for_us {
        return refuse("neither aud nor, without aud, client_id is the audience");
    }
    if time(&claims["exp"]).is_none_or(|end| end <= now) {
        return refuse("the token has expired");
    }
    for (name, rule) in [
        ("nbf", "nbf is not in the past"),
        ("iat", "iat is not in the past"),
    ] {
        let claim = claims.get(name);
        if claim.is_some_and(|claim| time(claim).is_none_or(|begin| begin > now)) {
            return refuse(rule);
        }
    }
    Ok(())
}

/// A `NumericDate` (RFC 7519 section 2), of which parts of a second are dropped.
fn time(claim: &Value) -> Option<Timestamp> {
    let seconds = claim.as_i64().or_else(|| {
        let seconds = claim.as_f64()?.trunc();
        format!("{seconds}").parse().ok()
    })?;
    Timestamp::from_second(seconds).ok()
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, EncodingKey};
    use serde_json::{Map, json};

    use super::super::{ALGORITHM, DeveloperKey};
    use super::*;

    /// How a row's token is signed.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Signature {
        /// By the issuer's key and algorithm.
        Issuer,
        /// By the issuer's key and another algorithm than its own.
        OtherAlgorithm,
        /// By another key.
        Stranger,
        /// Not at all (`alg` is `none`).
        None,
    }

    /// A token, by what is different from a good one; `null` removes a member.
    struct Row {
        name: &'static str,
        signature: Signature,
        header: Value,
        claims: Value,
        is_accepted: bool,
    }

    fn row(name: &'static str, claims: Value, is_accepted: bool) -> Row {
        Row {
            name,
            signature: Signature::Issuer,
            header: json!({}),
            claims,
            is_accepted,
        }
    }

    /// Every token that is tried against both rules.
    fn table(now: i64) -> Vec<Row> {
        let signed = |name, signature| Row {
            signature,
            ..row(name, json!({}), false)
        };
        let with_header = |name, header| Row {
            header,
            ..row(name, json!({}), false)
        };
        vec![
            row("a good token", json!({}), true),
            signed("another algorithm", Signature::OtherAlgorithm),
            signed("another key", Signature::Stranger),
            signed("no signature", Signature::None),
            with_header("no kid", json!({"kid": null})),
            with_header("another kid", json!({"kid": "other"})),
            row("no iss", json!({"iss": null}), false),
            row(
                "another iss",
                json!({"iss": "https://other.example"}),
                false,
            ),
            row(
                "iss with a slash more",
                json!({"iss": format!("{ISSUER}/")}),
                false,
            ),
            row("several iss", json!({"iss": [ISSUER]}), false),
            row("no aud and no client_id", json!({"aud": null}), false),
            row("another aud", json!({"aud": "other"}), false),
            row(
                "one aud of several",
                json!({"aud": ["other", AUDIENCE]}),
                true,
            ),
            row("no aud of several", json!({"aud": ["other"]}), false),
            row("no aud at all", json!({"aud": []}), false),
            row(
                "client_id without aud",
                json!({"aud": null, "client_id": AUDIENCE}),
                true,
            ),
            row(
                "another client_id",
                json!({"aud": null, "client_id": "other"}),
                false,
            ),
            row(
                "aud before client_id",
                json!({"aud": "other", "client_id": AUDIENCE}),
                false,
            ),
            row(
                "aud beside another client_id",
                json!({"client_id": "other"}),
                true,
            ),
            row("no exp", json!({"exp": null}), false),
            row("exp in the past", json!({"exp": now - 60}), false),
            row("exp as text", json!({"exp": (now + 60).to_string()}), false),
            row("exp with a fraction", json!({"exp": 4_102_444_800.5}), true),
            row("nbf in the past", json!({"nbf": now - 60}), true),
            row("nbf in the future", json!({"nbf": now + 3_600}), false),
            row("no iat", json!({"iat": null}), true),
            row("iat in the future", json!({"iat": now + 3_600}), false),
            row("no sub", json!({"sub": null}), true),
            row("other claims", json!({"roles": [1], "clinic_id": {}}), true),
        ]
    }

    fn changed(mut base: Value, changes: &Value) -> Value {
        let base = base.as_object_mut().unwrap();
        for (name, value) in changes.as_object().unwrap() {
            if value.is_null() {
                base.remove(name);
            } else {
                base.insert(name.clone(), value.clone());
            }
        }
        Value::Object(std::mem::take(base))
    }

    /// API Gateway's documented rules, restated one by one and without the code above.
    fn api_gateway_accepts(row: &Row, header: &Value, claims: &Value, now: i64) -> bool {
        let claims: &Map<String, Value> = claims.as_object().unwrap();
        let is_audience = |claim: &Value| {
            claim == AUDIENCE
                || claim
                    .as_array()
                    .is_some_and(|all| all.contains(&json!(AUDIENCE)))
        };
        // Seconds of this century, which a float holds exactly.
        let now: f64 = format!("{now}").parse().unwrap();
        let rules = [
            // "Check the token's algorithm and signature"
            row.signature == Signature::Issuer,
            // "kid: must match the key in the jwks_uri that signed the token"
            header.get("kid") == Some(&json!(KEY_ID)),
            // "iss: must match the issuer that is configured for the authorizer"
            claims.get("iss") == Some(&json!(ISSUER)),
            // "aud or client_id: API Gateway validates client_id only if aud is not present"
            match (claims.get("aud"), claims.get("client_id")) {
                (Some(aud), _) => is_audience(aud),
                (None, Some(client_id)) => is_audience(client_id),
                (None, None) => false,
            },
            // "exp: must be after the current time in UTC"
            claims.get("exp").and_then(Value::as_f64) > Some(now),
            // "nbf: must be before the current time in UTC"
            claims.get("nbf").is_none_or(|nbf| nbf.as_f64() < Some(now)),
            // "iat: must be before the current time in UTC"
            claims.get("iat").is_none_or(|iat| iat.as_f64() < Some(now)),
        ];
        rules.into_iter().all(|is_kept| is_kept)
    }

    fn sign(row: &Row, header: &Value, claims: &Value, key: &DeveloperKey) -> String {
        let mut header: Header = serde_json::from_value(header.clone()).unwrap();
        let secret = match row.signature {
            Signature::Issuer | Signature::OtherAlgorithm | Signature::None => key.0,
            Signature::Stranger => [7; 32],
        };
        if row.signature == Signature::OtherAlgorithm {
            header.alg = Algorithm::HS384;
        }
        let secret = EncodingKey::from_secret(&secret);
        let token = jsonwebtoken::encode(&header, claims, &secret).unwrap();
        if row.signature == Signature::None {
            let payload = token.split('.').nth(1).unwrap();
            // {"alg":"none","kid":"developer"}
            return format!("eyJhbGciOiJub25lIiwia2lkIjoiZGV2ZWxvcGVyIn0.{payload}.");
        }
        token
    }

    #[test]
    fn tokens_are_accepted_and_refused_as_by_api_gateway() {
        let directory = tempfile::tempdir().unwrap();
        let key = DeveloperKey::in_directory(directory.path()).unwrap();
        let now = Timestamp::now().as_second();
        let good = json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "dev", "iat": now - 60, "exp": now + 3_600});
        let header = json!({"alg": ALGORITHM, "typ": "JWT", "kid": KEY_ID});
        for row in table(now) {
            let (header, claims) = (
                changed(header.clone(), &row.header),
                changed(good.clone(), &row.claims),
            );
            let here = key.verify(&sign(&row, &header, &claims, &key));
            assert_eq!(here.is_ok(), row.is_accepted, "{}: {here:?}", row.name);
            let there = api_gateway_accepts(&row, &header, &claims, now);
            assert_eq!(there, row.is_accepted, "{} by API Gateway", row.name);
        }
    }
}
