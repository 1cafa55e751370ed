//! Who may do what, over every route: the design's matrix, row by row.

use comms_testkit::{http::HttpServer, jwt};
use comms_tests::{CLINIC, FROM, World, claims, communication, email, http_event, super_admin};
use serde_json::{Value, json};

const OTHER: &str = "clinic-456";

/// A route, and the function behind it.
#[derive(Debug, Clone, Copy)]
enum Route {
    PostCommunication,
    GetCommunication,
    FindCommunication,
    GetSettings,
    ListVersions,
    GetHealth,
    GetStats,
    PutSettings,
    PatchSettings,
    RestoreVersion,
    TestEmail,
    TestWhatsapp,
    DeleteSettings,
}

/// What a matrix is written in: one letter for each, in this order. The last one takes away what the others need.
const ROUTES: [Route; 13] = [
    Route::PostCommunication,
    Route::GetCommunication,
    Route::FindCommunication,
    Route::GetSettings,
    Route::ListVersions,
    Route::GetHealth,
    Route::GetStats,
    Route::PutSettings,
    Route::PatchSettings,
    Route::RestoreVersion,
    Route::TestEmail,
    Route::TestWhatsapp,
    Route::DeleteSettings,
];

/// The key of the communications that are looked at.
const KEY: &str = "key-of-the-matrix";

/// Ids of communications by tenant.
struct Ids([(&'static str, String); 3]);

impl Ids {
    async fn new(world: &World) -> Self {
        let mut ids = [CLINIC, OTHER, "_global"].map(|tenant| (tenant, String::new()));
        for (tenant, id) in &mut ids {
            *id = world
                .post_with_key(&communication_of(tenant), KEY)
                .await
                .expect(202)
                .request_id();
        }
        Self(ids)
    }

    fn of(&self, wanted: &str) -> &str {
        &self
            .0
            .iter()
            .find(|(tenant, _)| *tenant == wanted)
            .unwrap()
            .1
    }
}

fn communication_of(tenant: &str) -> Value {
    let mut communication = communication();
    communication["metadata"] = json!({"clinicId": tenant});
    communication
}

/// Settings for both channels.
fn document(world: &World, graph: &HttpServer) -> Value {
    let mut document = email(&world.entry(), FROM);
    document["whatsapp"] = json!({"primary": {"provider": "meta_business", "credentials": {
        "apiKey": "planted-token", "phoneNumberId": "123456789",
        "apiUrl": format!("{}/v23.0", graph.url())}}});
    document
}

async fn ask(
    world: &World,
    route: Route,
    tenant: &str,
    document: &Value,
    ids: &Ids,
    claims: &Value,
) -> u16 {
    let clinic = format!("/api/v1/clinics/{tenant}");
    let event = |method, path: &str, body: Option<Value>| {
        http_event(
            method,
            path,
            body.map(|body| body.to_string()).as_deref(),
            claims,
            &[],
        )
    };
    let answer = match route {
        Route::PostCommunication => {
            let body = communication_of(tenant);
            world
                .ask_send(&event("POST", "/api/v1/communications", Some(body)))
                .await
        }
        Route::GetCommunication => {
            let path = format!("/api/v1/communications/{}", ids.of(tenant));
            world.ask_status(&event("GET", &path, None)).await
        }
        Route::FindCommunication => {
            let path = format!("/api/v1/communications?clinicId={tenant}&idempotencyKey={KEY}");
            world.ask_status(&event("GET", &path, None)).await
        }
        Route::GetSettings => world.ask_config(&event("GET", &clinic, None)).await,
        Route::ListVersions => {
            let path = format!("{clinic}/communication/versions");
            world.ask_config(&event("GET", &path, None)).await
        }
        Route::GetHealth => {
            let path = format!("{clinic}/communication/health");
            world.ask_config(&event("GET", &path, None)).await
        }
        Route::GetStats => {
            let path = format!("{clinic}/communication/stats");
            world.ask_config(&event("GET", &path, None)).await
        }
        Route::PutSettings => {
            let body = json!({"settings": {"communicationSettings": document}});
            world.ask_config(&event("PUT", &clinic, Some(body))).await
        }
        Route::PatchSettings => {
            let patch = json!({"email": {"defaultFromName": "Patched"}});
            let body = json!({"settings": {"communicationSettings": patch}});
            world.ask_config(&event("PATCH", &clinic, Some(body))).await
        }
        Route::RestoreVersion => {
            let path = format!("{clinic}/communication/versions/1/restore");
            world.ask_config(&event("POST", &path, None)).await
        }
        Route::DeleteSettings => world.ask_config(&event("DELETE", &clinic, None)).await,
        Route::TestEmail => {
            let path = format!("{clinic}/communication/test-email");
            let body = Some(json!({"verifyOnly": true}));
            world.ask_config_test(&event("POST", &path, body)).await
        }
        Route::TestWhatsapp => {
            let path = format!("{clinic}/communication/test-whatsapp");
            let body = Some(json!({"verifyOnly": true}));
            world.ask_config_test(&event("POST", &path, body)).await
        }
    };
    answer.status
}

#[tokio::test]
async fn every_route_allows_what_the_matrix_says_and_refuses_untouched() {
    const EVERYTHING: &str = "yyyyyyyyyyyyy";
    const NOTHING: &str = "-------------";
    let world = World::new().await;
    let graph = world.api().await;
    let document = document(&world, &graph);
    for tenant in [CLINIC, OTHER, "_global"] {
        let saved = world.put_settings(tenant, document.clone()).await;
        saved.expect(201);
    }
    let ids = Ids::new(&world).await;
    // Rows: roles, then for each tenant (own, other, global) the routes in the order of ROUTES.
    let own = Some(CLINIC);
    let manager = "-yyyyyy------";
    let service = "yyy----------";
    let matrix = [
        (claims("SUPER_ADMIN", None), [EVERYTHING; 3]),
        (claims("SUPER_ADMIN", own), [EVERYTHING; 3]),
        (claims("CLINIC_ADMIN", own), [EVERYTHING, NOTHING, NOTHING]),
        (claims("CLINIC_MANAGER", own), [manager, NOTHING, NOTHING]),
        (claims("SERVICE", None), [service; 3]),
        (claims("SERVICE", own), [service; 3]),
        (
            claims("CLINIC_MANAGER SERVICE", own),
            ["yyyyyyy------", service, service],
        ),
        (claims("CLINIC_ADMIN", None), [NOTHING; 3]),
        (claims("CLINIC_ADMIN", Some("_global")), [NOTHING; 3]),
        (claims("CLINIC_ADMIN", Some("")), [NOTHING; 3]),
        (
            claims("CLINIC_ADMIN", Some("clinic-123,clinic-456")),
            [NOTHING; 3],
        ),
        (claims("CLINIC_ADMIN", Some("[clinic-123]")), [NOTHING; 3]),
        (claims("PATIENT", own), [NOTHING; 3]),
        (claims("clinic_admin", own), [NOTHING; 3]),
        (claims("CLINIC_ADMINS", own), [NOTHING; 3]),
        (claims("", own), [NOTHING; 3]),
        (json!({}), [NOTHING; 3]),
        // No authorizer has seen this one.
        (Value::Null, [NOTHING; 3]),
    ];
    for (claims, allowed) in matrix {
        let views_communications = allowed.iter().any(|routes| routes[1..].starts_with('y'));
        for (tenant, allowed) in [CLINIC, OTHER, "_global"].into_iter().zip(allowed) {
            assert_eq!(allowed.len(), ROUTES.len());
            for (route, allowed) in ROUTES.into_iter().zip(allowed.chars()) {
                world.aws.clear_calls();
                let status = ask(&world, route, tenant, &document, &ids, &claims).await;
                let place = format!("{route:?} of {tenant} with {claims}: {status}");
                if allowed == 'y' {
                    assert!((200..300).contains(&status), "{place}");
                    if matches!(route, Route::DeleteSettings) {
                        let saved = world.put_settings(tenant, document.clone()).await;
                        saved.expect(201);
                    }
                    continue;
                }
                let calls: Vec<_> = world.aws.calls().iter().map(ToString::to_string).collect();
                if matches!(route, Route::GetCommunication) && views_communications {
                    // Whose communication it is only the ledger knows: it is answered as if there were none.
                    assert_eq!(status, 404, "{place}");
                    assert_eq!(calls, ["dynamodb:Query"], "{place}");
                } else if matches!(route, Route::FindCommunication) && views_communications {
                    assert_eq!(status, 404, "{place}");
                    assert!(calls.is_empty(), "{place}: {calls:?}");
                } else {
                    assert_eq!(status, 403, "{place}");
                    assert!(calls.is_empty(), "{place}: {calls:?}");
                }
            }
        }
    }
    assert!(world.smtp.messages().is_empty());
}

#[tokio::test]
async fn claims_come_from_the_jwt_authorizer_alone() {
    let world = World::saved().await;
    let path = format!("/api/v1/clinics/{CLINIC}");
    let claims = claims("SUPER_ADMIN", Some(CLINIC));
    let text = claims.to_string();
    let headers = [
        ("roles", "SUPER_ADMIN"),
        ("clinic_id", CLINIC),
        ("x-claims", text.as_str()),
        (
            "authorization",
            "Bearer eyJhbGciOiJub25lIn0.eyJyb2xlcyI6IlNVUEVSX0FETUlOIn0.",
        ),
    ];
    let spoofed = http_event("GET", &path, None, &Value::Null, &headers);
    world.ask_config(&spoofed).await.expect(403);
    let mut event: Value =
        serde_json::from_str(&http_event("GET", &path, None, &Value::Null, &[])).unwrap();
    event["requestContext"]["authorizer"] = json!({"lambda": claims});
    world.ask_config(&event.to_string()).await.expect(403);
    event["requestContext"]["authorizer"] = json!({"jwt": {"claims": null, "scopes": null}});
    // An event that cannot be read is no answer at all; one that can must be refused.
    if lambda_http::request::from_str(&event.to_string()).is_ok() {
        world.ask_config(&event.to_string()).await.expect(403);
    }
}

/// Neither the answer nor the requests to AWS say whether another clinic has a communication of an id.
#[tokio::test]
async fn another_clinics_communication_is_answered_as_an_unknown_id() {
    let world = World::saved().await;
    let existing = world.post(&communication()).await.expect(202).request_id();
    // From here on the function knows the key by which its logs name callers.
    world.status(&existing).await.expect(200);
    let unknown = "0".repeat(32);
    let ask = async |id: &str, role: &str| {
        world.aws.clear_calls();
        let path = format!("/api/v1/communications/{id}");
        let stranger = claims(role, Some(OTHER));
        let event = http_event("GET", &path, None, &stranger, &[]);
        let answer = world.ask_status(&event).await;
        let calls: Vec<_> = world.aws.calls().iter().map(ToString::to_string).collect();
        (answer, calls)
    };
    for (role, status, calls) in [
        ("CLINIC_ADMIN", 404, &["dynamodb:Query"][..]),
        ("CLINIC_MANAGER", 404, &["dynamodb:Query"]),
        ("PATIENT", 403, &[]),
    ] {
        let (existing, unknown) = (ask(&existing, role).await, ask(&unknown, role).await);
        assert_eq!(existing, unknown, "{role}");
        assert_eq!(existing.0.status, status, "{role}");
        assert_eq!(existing.1, calls, "{role}");
    }
}

/// What API Gateway makes of each of these is text in which `SUPER_ADMIN` is a word.
#[tokio::test]
async fn a_role_inside_another_string_opens_no_route() {
    let world = World::saved().await;
    for roles in jwt::roles_with_super_admin_as_a_word() {
        let mut claims = claims("", Some(OTHER));
        claims["roles"] = roles;
        let path = format!("/api/v1/clinics/{CLINIC}");
        let event = http_event("GET", &path, None, &claims, &[]);
        world.ask_config(&event).await.expect(403);
        let body = communication().to_string();
        let event = http_event("POST", "/api/v1/communications", Some(&body), &claims, &[]);
        world.ask_send(&event).await.expect(403);
        let path = format!("{path}/communication/test-email");
        let event = http_event("POST", &path, Some("{}"), &claims, &[]);
        world.ask_config_test(&event).await.expect(403);
    }
}

/// Whose token is in the header, the authorizer's claims must be.
#[tokio::test]
async fn a_token_that_the_authorizer_did_not_verify_opens_no_route() {
    let world = World::saved().await;
    let path = format!("/api/v1/clinics/{CLINIC}");
    let verified = claims("CLINIC_ADMIN", Some(OTHER));
    let mut forged = claims("SUPER_ADMIN", None);
    forged["sub"] = json!("user-2");
    let forged = format!("Bearer {}", jwt::token(&forged));
    let both = format!("Bearer {},{forged}", jwt::token(&verified));
    for header in [forged.as_str(), both.as_str(), "Bearer x", "Basic YTpi", ""] {
        let event = http_event("GET", &path, None, &verified, &[("authorization", header)]);
        world.ask_config(&event).await.expect(403);
    }
    let mut event: Value =
        serde_json::from_str(&http_event("GET", &path, None, &super_admin(), &[])).unwrap();
    world.ask_config(&event.to_string()).await.expect(200);
    event["headers"] = json!({"host": "api.clinic-comms.example"});
    world.ask_config(&event.to_string()).await.expect(403);
}

#[tokio::test]
async fn health_needs_no_token_and_asks_nobody() {
    let world = World::new().await;
    let event = http_event("GET", "/api/v1/health", None, &Value::Null, &[]);
    let answer = world.ask_status(&event).await.expect(200);
    assert_eq!(answer.body["status"], "ok");
    assert!(world.aws.calls().is_empty());
}

#[tokio::test]
async fn routes_that_do_not_exist_are_not_found_by_anybody() {
    let world = World::new().await;
    for path in [
        "/",
        "/api/v1",
        "/api/v1/communications/a/b",
        "/api/v1/clinics/a/b",
        "/api/v2/health",
    ] {
        let event = http_event("GET", path, None, &claims("SUPER_ADMIN", None), &[]);
        world.ask_send(&event).await.expect(404);
        world.ask_status(&event).await.expect(404);
        world.ask_config(&event).await.expect(404);
        world.ask_config_test(&event).await.expect(404);
    }
    assert!(world.aws.calls().is_empty());
}
