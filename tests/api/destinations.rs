//! Settings that name what no connection can ever be made to are not saved.

use comms_runtime::{Environment, http::HttpFunction as _};
use comms_tests::{CLINIC, FROM, World, email};
use serde_json::{Value, json};

/// A world whose config function allows `egress` beyond the public internet.
async fn world_with(egress: &str) -> World {
    let mut world = World::new().await;
    world.config.egress_allow = egress.parse().unwrap();
    world
}

fn smtp(host: &str, port: u16) -> Value {
    let entry = json!({"provider": "smtp", "credentials": {"host": host, "port": port,
        "secure": port == 465, "user": "u", "password": "planted-password"}});
    email(&entry, FROM)
}

fn sendgrid(url: &str) -> Value {
    let entry =
        json!({"provider": "sendgrid", "credentials": {"apiKey": "planted-key", "apiUrl": url}});
    email(&entry, FROM)
}

fn whatsapp(provider: &str, url: &str) -> Value {
    let credentials = match provider {
        "twilio" => {
            json!({"accountSid": format!("AC{}", "0".repeat(32)), "authToken": "planted-token",
            "fromNumber": "+15550100", "apiUrl": url})
        }
        _ => {
            json!({"apiKey": "planted-token", "phoneNumberId": "123456789", "apiUrl": format!("{url}/v23.0")})
        }
    };
    json!({"whatsapp": {"primary": {"provider": provider, "credentials": credentials}}})
}

async fn refused_at(world: &World, document: Value, field: &str) {
    let refused = world.put_settings(CLINIC, document.clone()).await;
    let refused = refused.expect(422);
    let pointers = refused.pointers();
    assert!(
        pointers.len() == 1 && pointers[0].ends_with(field),
        "{document}: {pointers:?}"
    );
}

#[tokio::test]
async fn private_hosts_and_foreign_ports_are_refused_when_they_are_saved() {
    let world = world_with("").await;
    for host in [
        "localhost",
        "LOCALHOST",
        "mail.localhost",
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "[::1]",
        "::1",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "fd00::1",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "127.0.0.1.",
        "１２７.０.０.１",
        "127。0。0。1",
    ] {
        refused_at(&world, smtp(host, 587), "/email/primary/credentials/host").await;
    }
    for port in [1, 22, 25, 80, 443, 1025, 11211] {
        refused_at(
            &world,
            smtp("smtp.example.com", port),
            "/email/primary/credentials/port",
        )
        .await;
    }
    let mut fallback = smtp("smtp.example.com", 587);
    let other = smtp("10.0.0.1", 587);
    fallback["email"]["fallback"] = json!([other["email"]["primary"]]);
    refused_at(&world, fallback, "/email/fallback/0/credentials/host").await;
    for port in [465, 587, 2525] {
        let saved = world
            .put_settings(CLINIC, smtp("smtp.example.com", port))
            .await;
        assert!([200, 201].contains(&saved.status), "{}", saved.text);
    }
}

#[tokio::test]
async fn urls_in_clear_at_other_ports_and_private_ones_are_refused_when_they_are_saved() {
    let world = world_with("").await;
    for url in [
        "http://api.example.com",
        "http://api.example.com:443",
        "https://api.example.com:8443",
        "https://localhost",
        "https://api.localhost",
        "https://127.0.0.1",
        "https://127.1",
        "https://2130706433",
        "https://0x7f000001",
        "https://0177.0.0.1",
        "https://[::ffff:7f00:1]",
        "https://10.0.0.1",
        "https://[fd00::1]",
    ] {
        refused_at(&world, sendgrid(url), "/email/primary/credentials/apiUrl").await;
        for provider in ["twilio", "meta_business"] {
            refused_at(
                &world,
                whatsapp(provider, url),
                "/whatsapp/primary/credentials/apiUrl",
            )
            .await;
        }
    }
    world
        .put_settings(CLINIC, sendgrid("https://api.example.com"))
        .await
        .expect(201);
}

#[tokio::test]
async fn destination_that_the_operator_allows_is_saved() {
    let world = world_with("127.0.0.0/8, 10.0.0.0/8:2500").await;
    for document in [
        smtp("127.0.0.1", 1025),
        smtp("localhost", 1025),
        smtp("10.1.2.3", 2500),
        smtp("relay.example.com", 2500),
        sendgrid("http://127.0.0.1:8080"),
        sendgrid("http://localhost:8080"),
    ] {
        let saved = world.put_settings(CLINIC, document).await;
        assert!([200, 201].contains(&saved.status), "{}", saved.text);
    }
    refused_at(
        &world,
        smtp("10.1.2.3", 587),
        "/email/primary/credentials/host",
    )
    .await;
}

#[tokio::test]
async fn patch_and_restore_go_by_the_same_rule() {
    let mut world = world_with("10.0.0.0/8").await;
    world
        .put_settings(CLINIC, smtp("10.1.2.3", 587))
        .await
        .expect(201);
    world
        .put_settings(CLINIC, smtp("smtp.example.com", 587))
        .await
        .expect(200);
    world.config.egress_allow = "".parse().unwrap();
    let patch =
        json!({"email": {"primary": {"credentials": {"host": "10.1.2.3", "password": "planted"}}}});
    let refused = world.patch_settings(CLINIC, patch).await.expect(422);
    assert!(refused.pointers()[0].ends_with("/credentials/host"));
    let refused = world.restore(CLINIC, "1", &[]).await.expect(422);
    assert!(refused.pointers()[0].ends_with("/credentials/host"));
}

/// The environment says what is allowed, as it does for the functions that connect.
#[tokio::test]
async fn config_function_reads_what_is_allowed_from_its_environment() {
    let world = World::new().await;
    let variables = world.variables("config");
    let environment = Environment::from_lookup(|name| {
        let (_, value) = variables.iter().find(|(known, _)| known == name)?;
        Some(value.clone())
    });
    let deps = comms_config::Deps::from_environment(&environment).unwrap();
    assert_eq!(deps.egress_allow, "127.0.0.0/8".parse().unwrap());
}
