//! The link by which an address for replies is verified.

use comms_testkit::smtp::SmtpServer;
use mail_parser::MessageParser;
use serde_json::json;

use crate::{
    api_response::ApiResponse,
    events::{claims, http_event},
    world::{CLINIC, World},
};

/// Asks for a link to an address, as the admin of `clinic`.
pub async fn ask_for_link(world: &World, clinic: &str, address: &str) -> ApiResponse {
    let path = format!("/api/v1/clinics/{clinic}/communication/reply-to");
    let body = json!({"address": address}).to_string();
    let admin = claims("CLINIC_ADMIN", Some(clinic));
    let event = http_event("POST", &path, Some(&body), &admin, &[]);
    world.ask_config_test(&event).await
}

/// The path of the link that is mailed to an address of the clinic, through the platform's account.
pub async fn link_to(world: &World, global: &SmtpServer, address: &str) -> String {
    ask_for_link(world, CLINIC, address).await.expect(202);
    let message = global.messages().pop().unwrap();
    assert_eq!(message.rcpt_to, [address]);
    let parsed = MessageParser::default().parse(&message.data).unwrap();
    let text = parsed.body_text(0).unwrap().into_owned();
    let (_, link) = text.split_once("https://api.clinic-comms.example").unwrap();
    link.split_whitespace().next().unwrap().to_owned()
}
