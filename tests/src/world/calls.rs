//! Requests of the HTTP API, each given to its function's handler.

use std::{sync::PoisonError, time::Duration};

use comms_runtime::http::invocation;
use serde_json::{Value, json};
use tracing::Instrument;

use super::{CLINIC, World};
use crate::{
    api_response::ApiResponse,
    events::{claims, http_event, request, service, super_admin},
    invoke::post_to,
};

fn clinic_path(tenant: &str) -> String {
    format!("/api/v1/clinics/{tenant}")
}

impl World {
    /// PUTs the `communicationSettings` of a tenant as the platform's own people.
    pub async fn put_settings(&self, tenant: &str, document: Value) -> ApiResponse {
        self.put_settings_if(tenant, document, &[]).await
    }

    /// The same with headers.
    pub async fn put_settings_if(
        &self,
        tenant: &str,
        document: Value,
        headers: &[(&str, &str)],
    ) -> ApiResponse {
        let body = json!({"settings": {"communicationSettings": document}}).to_string();
        self.config(
            "PUT",
            &clinic_path(tenant),
            Some(&body),
            super_admin(),
            headers,
        )
        .await
    }

    /// Patches the `communicationSettings` of a tenant as the platform's own people.
    pub async fn patch_settings(&self, tenant: &str, patch: Value) -> ApiResponse {
        self.patch_settings_if(tenant, patch, &[]).await
    }

    /// The same with headers.
    pub async fn patch_settings_if(
        &self,
        tenant: &str,
        patch: Value,
        headers: &[(&str, &str)],
    ) -> ApiResponse {
        let body = json!({"settings": {"communicationSettings": patch}}).to_string();
        let clinic = clinic_path(tenant);
        self.config("PATCH", &clinic, Some(&body), super_admin(), headers)
            .await
    }

    /// DELETEs the settings of a tenant as the platform's own people.
    pub async fn delete_settings(&self, tenant: &str, headers: &[(&str, &str)]) -> ApiResponse {
        self.config("DELETE", &clinic_path(tenant), None, super_admin(), headers)
            .await
    }

    /// Brings a version of a tenant's settings back, as the platform's own people.
    pub async fn restore(
        &self,
        tenant: &str,
        version: &str,
        headers: &[(&str, &str)],
    ) -> ApiResponse {
        let path = format!(
            "{}/communication/versions/{version}/restore",
            clinic_path(tenant)
        );
        self.config("POST", &path, None, super_admin(), headers)
            .await
    }

    /// GETs the versions of a tenant's settings; `query` begins with `?` or is empty.
    pub async fn versions(&self, tenant: &str, query: &str) -> ApiResponse {
        let path = format!("{}/communication/versions{query}", clinic_path(tenant));
        self.config("GET", &path, None, super_admin(), &[]).await
    }

    /// GETs the settings of a tenant.
    pub async fn get_settings(&self, tenant: &str) -> ApiResponse {
        self.config("GET", &clinic_path(tenant), None, super_admin(), &[])
            .await
    }

    /// Asks the config function.
    pub async fn config(
        &self,
        method: &str,
        path: &str,
        body: Option<&str>,
        claims: Value,
        headers: &[(&str, &str)],
    ) -> ApiResponse {
        let event = http_event(method, path, body, &claims, headers);
        self.ask_config(&event).await
    }

    /// Asks the config function as the clinic's own admin, with these settings as the body.
    pub async fn as_admin(
        &self,
        method: &str,
        path: &str,
        document: Option<&Value>,
    ) -> ApiResponse {
        let admin = claims("CLINIC_ADMIN", Some(CLINIC));
        let body = document
            .map(|document| json!({"settings": {"communicationSettings": document}}).to_string());
        self.config(method, path, body.as_deref(), admin, &[]).await
    }

    /// POSTs to `test-email` of a clinic as the platform's own people.
    pub async fn test_email(&self, tenant: &str, body: &Value) -> ApiResponse {
        self.test_settings(tenant, "test-email", body).await
    }

    /// POSTs to `test-email` or `test-whatsapp` of a clinic as the platform's own people.
    pub async fn test_settings(&self, tenant: &str, test: &str, body: &Value) -> ApiResponse {
        let path = format!("{}/communication/{test}", clinic_path(tenant));
        let body = body.to_string();
        let event = http_event("POST", &path, Some(&body), &super_admin(), &[]);
        self.ask_config_test(&event).await
    }

    /// POSTs a communication as a backend of the platform.
    pub async fn post(&self, communication: &Value) -> ApiResponse {
        self.post_as(communication, service(), &[]).await
    }

    /// The same with an idempotency key.
    pub async fn post_with_key(&self, communication: &Value, key: &str) -> ApiResponse {
        self.post_as(communication, service(), &[("idempotency-key", key)])
            .await
    }

    /// The same with claims and headers.
    pub async fn post_as(
        &self,
        communication: &Value,
        claims: Value,
        headers: &[(&str, &str)],
    ) -> ApiResponse {
        self.post_text(&communication.to_string(), claims, headers)
            .await
    }

    /// The same with any text.
    pub async fn post_text(
        &self,
        body: &str,
        claims: Value,
        headers: &[(&str, &str)],
    ) -> ApiResponse {
        let path = "/api/v1/communications";
        let event = http_event("POST", path, Some(body), &claims, headers);
        self.ask_send(&event).await
    }

    /// POSTs a communication to an invocation that may last `time`.
    pub async fn post_within(&self, communication: &Value, time: Duration) -> ApiResponse {
        self.remember(post_to(&self.send, communication, &[], time).await)
    }

    /// GETs a communication.
    pub async fn status(&self, id: &str) -> ApiResponse {
        let path = format!("/api/v1/communications/{id}");
        let event = http_event("GET", &path, None, &service(), &[]);
        self.ask_status(&event).await
    }

    /// Gives an event to the send function.
    pub async fn ask_send(&self, event: &str) -> ApiResponse {
        let request = request(event);
        let span = invocation(&request);
        let answer = Box::pin(comms_send::handle(&self.send, request).instrument(span)).await;
        self.remember(ApiResponse::of(answer))
    }

    /// Gives an event to the status function.
    pub async fn ask_status(&self, event: &str) -> ApiResponse {
        let request = request(event);
        let span = invocation(&request);
        let answer = Box::pin(comms_status::handle(&self.status, request).instrument(span)).await;
        self.remember(ApiResponse::of(answer))
    }

    /// Gives an event to the config function.
    pub async fn ask_config(&self, event: &str) -> ApiResponse {
        let request = request(event);
        let span = invocation(&request);
        let answer = Box::pin(comms_config::handle(&self.config, request).instrument(span)).await;
        self.remember(ApiResponse::of(answer))
    }

    /// Gives an event to the config-test function.
    pub async fn ask_config_test(&self, event: &str) -> ApiResponse {
        let request = request(event);
        let span = invocation(&request);
        let tested = comms_config_test::handle(&self.config_test, request).instrument(span);
        let answer = Box::pin(tested).await;
        self.remember(ApiResponse::of(answer))
    }

    fn remember(&self, answer: ApiResponse) -> ApiResponse {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.push(answer.text.clone());
        answer
    }

    /// Every answer that was given, as text.
    pub fn answers(&self) -> String {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.join("\n")
    }
}
