//! Which communication is meant: by its id, or by the clinic and the idempotency key of which the id is derived.

use comms_core::{IdempotencyKey, RequestId, Tenant, structured_field};
use comms_runtime::{HttpProblem, auth::Scope, http::query};
use lambda_http::{Request, http::StatusCode};
use tracing::warn;

use crate::{Deps, unknown_communication};

const ALLOWED: &str = "It must have idempotencyKey, the key under which the communication was sent (or the id of its SQS message, \
     where a producer gave it none), may have clinicId, and nothing else; each once, percent-encoded.";

/// A key and whose it is.
struct KeyOfTenant {
    /// `None` where the query names nobody.
    tenant: Option<Tenant>,
    key: IdempotencyKey,
}

impl KeyOfTenant {
    /// `clinicId` and `idempotencyKey`, each once.
    fn of(request: &Request) -> Result<Self, HttpProblem> {
        let names = ["clinicId", "idempotencyKey"];
        let [clinic, key] = query::parameters(request, names, ALLOWED)?;
        let malformed = || query::malformed(ALLOWED);
        let tenant = clinic.map(|clinic| Tenant::parse(&clinic)).transpose();
        let key = key.map(|key| IdempotencyKey::parse(&key)).transpose();
        Ok(Self {
            tenant: tenant.map_err(|_| malformed())?,
            key: key.ok().flatten().ok_or_else(malformed)?,
        })
    }
}

/// The key that an `Idempotency-Key` header with this text has, where that is another one: `"abc"` is the key `abc`.
fn key_of_header(key: &IdempotencyKey) -> Option<IdempotencyKey> {
    let string = structured_field::parse_string(key.as_str())?;
    IdempotencyKey::parse(&string).ok()
}

/// The ids that the communication of the query may have, the likeliest first. One of a tenant outside of `scope` does not
/// exist. Without `clinicId` it is a communication of the platform's account, and a user of one clinic has to name it: none
/// of a clinic's is found without.
pub(crate) async fn ids_of_key(
    deps: &Deps,
    request: &Request,
    scope: &Scope<'_>,
) -> Result<Vec<RequestId>, HttpProblem> {
    let KeyOfTenant { tenant, key } = KeyOfTenant::of(request)?;
    let is_named = tenant.is_some();
    let tenant = tenant.unwrap_or(Tenant::Global);
    if !scope.includes(&tenant) {
        return Err(if is_named {
            unknown_communication()
        } else {
            clinic_required()
        });
    }
    let hash = deps.hash_keys.find().await.map_err(|error| {
        warn!(%error, "the key of the ids cannot be read");
        HttpProblem::unavailable()
    })?;
    // Without the key of the hashes nothing was ever accepted.
    let hash = hash.ok_or_else(unknown_communication)?;
    let of_header = key_of_header(&key);
    let keys = [Some(key), of_header].into_iter().flatten();
    Ok(keys
        .map(|key| RequestId::derive(hash, &tenant, &key))
        .collect())
}

fn clinic_required() -> HttpProblem {
    HttpProblem::new(
        StatusCode::BAD_REQUEST,
        "malformed_query",
        "The query names no clinic",
        "It must have clinicId: the token allows reading the communications of one clinic only; name it.",
    )
}
