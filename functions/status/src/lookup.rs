//! Which communication is meant: by its id, or by the clinic and the idempotency key of which the id is derived.

use comms_core::{IdempotencyKey, RequestId, Tenant};
use comms_runtime::{HttpProblem, auth::Scope};
use lambda_http::{Request, RequestExt as _, http::StatusCode};
use tracing::warn;

use crate::{Deps, unknown_communication};

/// A key and whose it is.
struct KeyOfTenant {
    tenant: Tenant,
    key: IdempotencyKey,
}

impl KeyOfTenant {
    /// `clinicId`, without which it is a communication of the platform's account, and `idempotencyKey`, each once.
    fn of(request: &Request) -> Option<Self> {
        let (mut tenant, mut key) = (None, None);
        for (name, value) in request.query_string_parameters().iter() {
            match name {
                "clinicId" if tenant.is_none() => tenant = Some(Tenant::parse(value).ok()?),
                "idempotencyKey" if key.is_none() => key = Some(IdempotencyKey::parse(value).ok()?),
                _ => return None,
            }
        }
        Some(Self {
            tenant: tenant.unwrap_or(Tenant::Global),
            key: key?,
        })
    }
}

/// The id of the communication that the query names. One of a tenant outside of `scope` does not exist.
pub(crate) async fn id_of_key(
    deps: &Deps,
    request: &Request,
    scope: &Scope<'_>,
) -> Result<RequestId, HttpProblem> {
    let KeyOfTenant { tenant, key } = KeyOfTenant::of(request).ok_or_else(malformed_query)?;
    if !scope.includes(&tenant) {
        return Err(unknown_communication());
    }
    let hash = deps.hash_keys.find().await.map_err(|error| {
        warn!(%error, "the key of the ids cannot be read");
        HttpProblem::unavailable()
    })?;
    // Without the key of the hashes nothing was ever accepted.
    let hash = hash.ok_or_else(unknown_communication)?;
    Ok(RequestId::derive(hash, &tenant, &key))
}

fn malformed_query() -> HttpProblem {
    HttpProblem::new(
        StatusCode::BAD_REQUEST,
        "malformed_query",
        "The query cannot be read",
        "It must have idempotencyKey, the key under which the communication was sent (or the id of its SQS message, where a \
         producer gave it none), may have clinicId, and nothing else; each once, percent-encoded.",
    )
}
