//! The page behind the link that verifies a reply address. GET shows it and changes nothing, since mail scanners follow
//! links; POST confirms. Whoever has the link reads the address's mail: no token of the platform is asked for.

use comms_runtime::{HttpProblem, http::routes::HandlerResult};
use comms_settings::reply_to::ReplyToAddress;
use lambda_http::{
    Body, Response,
    http::{HeaderValue, StatusCode, header},
};
use tracing::info;

use crate::{Deps, answers::store_problem};

/// Nothing but the form of the page itself.
const POLICY: &str =
    "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

pub(crate) async fn show(deps: &Deps, token: &str) -> HandlerResult {
    let (address, _) = read(deps, token).await?;
    Ok(page(&format!(
        "<p>The clinic <strong>{}</strong> wants replies to its messages to come to this address.</p>\
         <form method=\"post\"><button type=\"submit\">Confirm</button></form>\
         <p>If you do not know the clinic, close this page. Nothing happens then.</p>",
        address.tenant(),
    )))
}

pub(crate) async fn confirm(deps: &Deps, token: &str) -> HandlerResult {
    let (address, key) = read(deps, token).await?;
    let confirmed = deps.store.confirm_reply_to(key, &address, deps.clock.now());
    confirmed.await.map_err(store_problem)?;
    info!(clinic_id = %address.tenant(), "reply address confirmed");
    Ok(page(
        "<p>The address is confirmed. You can close this page.</p>",
    ))
}

/// The address of a link. One answer for every link that is not good, whatever is wrong with it.
async fn read<'d>(
    deps: &'d Deps,
    token: &str,
) -> Result<(ReplyToAddress, &'d comms_core::HashKey), HttpProblem> {
    // Without a key there was no link.
    let key = deps.hash_keys.find().await.map_err(store_problem)?;
    let address = key.and_then(|key| {
        let address = ReplyToAddress::of_token(key, token, deps.clock.now())?;
        Some((address, key))
    });
    address.ok_or_else(|| {
        HttpProblem::not_found(
            "This link is not valid, or no longer. Ask the clinic for a new one.",
        )
    })
}

fn page(content: &str) -> Response<Body> {
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Reply address</title></head>\
         <body><main><h1>Reply address</h1>{content}</main></body></html>"
    );
    let mut response = Response::new(Body::Text(html));
    *response.status_mut() = StatusCode::OK;
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        // The address of the page is the token.
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}
