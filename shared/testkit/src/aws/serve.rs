//! The HTTP endpoint in front of the services: whom a call is for, what is recorded of it, and what fails.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header::AUTHORIZATION};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use winterbaume_core::{MockRequest, MockService};

use super::{
    MAX_BODY, MAX_CALLS, Record, Services,
    access::{Access, form},
    batch::some_entries,
    calls::{AssumedRole, AwsCall, SesMessage},
    fault::{
        Fault, HangUp, Moment, PassingCall, Watcher, error_answer, fault_answer, sts_error, xml,
    },
    setup::service_uri,
    tables,
};

pub(super) async fn serve(listener: TcpListener, services: Arc<Services>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(serve_connection(stream, Arc::clone(&services)));
            } else {
                // Out of file descriptors, most likely: accepting again at once would spin.
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve_connection(stream: TcpStream, services: Arc<Services>) {
    // Small answers must not wait for the other side's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let services = Arc::clone(&services);
        async move { services.answer(request).await }
    });
    // An error here is a client that went away, or a scripted Fault::Drop.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl Services {
    pub(super) fn record(&self) -> MutexGuard<'_, Record> {
        // The record is valid after every statement, so a panic elsewhere does not spoil it.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn watcher(&self) -> MutexGuard<'_, Option<Watcher>> {
        self.watcher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, HangUp> {
        let (parts, body) = request.into_parts();
        let checked = self.guard.check(&parts.method, &parts.uri, &parts.headers);
        if let Err(refusal) = checked {
            let kind = "RequestRefusedException";
            return Ok(error_answer(refusal.status, kind, &refusal.message));
        }
        let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
            return Ok(error_answer(
                StatusCode::PAYLOAD_TOO_LARGE,
                "RequestEntityTooLarge",
                "the body cannot be read or is too large",
            ));
        };
        let body = body.to_bytes();
        let Some((service, region)) = credential_scope(&parts.headers) else {
            return Ok(error_answer(
                StatusCode::FORBIDDEN,
                "MissingAuthenticationTokenException",
                "Missing Authentication Token",
            ));
        };
        let path = parts.uri.path();
        let call = AwsCall {
            operation: operation(&service, &parts.headers, &parts.method, path, &body),
            service,
        };
        let caller = access_key_id(&parts.headers).unwrap_or_default();
        let accesses = super::access::Call {
            access_key_id: &caller,
            region: &region,
            service: &call.service,
            operation: &call.operation,
            path,
            body: &body,
        }
        .accesses();
        let mut fault = self.arrived(&call, accesses);
        let watcher = self.watcher().clone();
        let mut passing = watcher.map(|watcher| {
            let passing = PassingCall {
                call: call.clone(),
                access_key_id: caller,
                request: Arc::new(serde_json::from_slice(&body).unwrap_or_default()),
                moment: Moment::Arrived,
            };
            (watcher, passing)
        });
        if let Some((watcher, passing)) = passing.as_ref().filter(|_| fault.is_none()) {
            fault = watcher(passing.clone()).await;
        }
        let service = &call.service;
        let mut answer = match fault {
            None | Some(Fault::LoseAnswer) => self.serve(&call, &region, parts, body).await,
            Some(Fault::SomeEntries) => match some_entries(&body) {
                Some(divided) => {
                    let answer = self.serve(&call, &region, parts, divided.passed_on()).await;
                    divided.add_failed(answer).await
                }
                None => fault_answer(service, Fault::ServerError)?,
            },
            Some(
                fault @ (Fault::Throttle | Fault::ServerError | Fault::AccessDenied | Fault::Drop),
            ) => fault_answer(service, fault)?,
        };
        if let Some((watcher, passing)) = &mut passing {
            passing.moment = Moment::Answered(answer.status());
            if let Some(fault) = watcher(passing.clone()).await {
                answer = fault_answer(service, fault)?;
            }
        }
        if fault == Some(Fault::LoseAnswer) {
            return Err(HangUp);
        }
        Ok(answer)
    }

    /// What the service itself makes of a call.
    pub(super) async fn serve(
        &self,
        call: &AwsCall,
        region: &str,
        parts: http::request::Parts,
        body: Bytes,
    ) -> Response<Full<Bytes>> {
        let AwsCall { service, operation } = call;
        let emulated: &dyn MockService = match service.as_str() {
            "dynamodb" => return tables::answer(&self.tables, operation, &body),
            "kms" => &self.kms,
            "sqs" => &self.sqs,
            "ses" => &self.ses,
            "sts" => return self.answer_sts(region, &body),
            other => {
                return error_answer(
                    StatusCode::NOT_IMPLEMENTED,
                    "UnknownOperationException",
                    &format!("there is no {other} here"),
                );
            }
        };
        let path_and_query = parts.uri.path_and_query().map_or("/", |p| p.as_str());
        let mut answer = emulated
            .handle(MockRequest {
                method: parts.method.to_string(),
                uri: service_uri(service, region, path_and_query),
                headers: parts.headers.clone(),
                body: body.clone(),
            })
            .await;
        if service == "sqs" && answer.status == 200 {
            let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(body) = messages.pass(operation, &body, &answer.body) {
                answer.body = body;
            }
        }
        if service == "ses" && operation == "SendEmail" && answer.status == 200 {
            self.keep_message(region, &parts.headers, &body, &answer.body);
        }
        let mut response = Response::new(Full::new(answer.body));
        *response.status_mut() =
            StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        *response.headers_mut() = answer.headers;
        response
    }

    /// Records a call, and uses up a script for it if there is one.
    fn arrived(&self, call: &AwsCall, accesses: Vec<Access>) -> Option<Fault> {
        let mut record = self.record();
        record.accesses.extend(accesses);
        if record.calls.len() >= MAX_CALLS {
            record.calls.pop_front();
        }
        record.calls.push_back(call.clone());
        let script = record.faults.iter_mut().find(|script| {
            script.remaining > 0
                && script.service == call.service
                && (script.operation == call.operation || script.operation == "*")
        })?;
        script.remaining -= 1;
        Some(script.fault)
    }

    fn keep_message(&self, region: &str, headers: &HeaderMap, request: &[u8], answer: &[u8]) {
        let (Ok(request), Ok(answer)) = (
            serde_json::from_slice(request),
            serde_json::from_slice::<Value>(answer),
        ) else {
            return;
        };
        let token = headers.get("x-amz-security-token");
        let message = SesMessage {
            region: region.to_owned(),
            access_key_id: access_key_id(headers).unwrap_or_default(),
            session_token: token
                .and_then(|token| token.to_str().ok())
                .map(str::to_owned),
            message_id: answer["MessageId"].as_str().unwrap_or_default().to_owned(),
            request,
        };
        let mut record = self.record();
        if record.ses_messages.len() >= MAX_CALLS {
            record.ses_messages.pop_front();
        }
        record.ses_messages.push_back(message);
    }

    /// `AssumeRole` (STS API reference, version 2011-06-15), in the query protocol. The role's trust policy is not
    /// part of this: script a [`Fault::AccessDenied`] for a role that may not be assumed.
    fn answer_sts(&self, region: &str, body: &[u8]) -> Response<Full<Bytes>> {
        let mut form: HashMap<String, String> = form(body);
        let action = form.remove("Action").unwrap_or_default();
        if action != "AssumeRole" || form.remove("Version").as_deref() != Some("2011-06-15") {
            return sts_error(
                StatusCode::BAD_REQUEST,
                "InvalidAction",
                "Could not find this operation for this version",
            );
        }
        let role_arn = form.remove("RoleArn").unwrap_or_default();
        let session_name = form.remove("RoleSessionName").unwrap_or_default();
        let external_id = form.remove("ExternalId");
        let of = |text: &str, lengths: std::ops::RangeInclusive<usize>, more: &str| {
            lengths.contains(&text.len())
                && text
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        let role = role_arn.strip_prefix("arn:aws:iam::");
        let role_ok =
            role.and_then(|rest| rest.split_once(":role/"))
                .is_some_and(|(account, name)| {
                    account.len() == 12
                        && account.bytes().all(|b| b.is_ascii_digit())
                        && of(name, 1..=512, "_+=,.@-/")
                });
        let external_ok = external_id
            .as_deref()
            .is_none_or(|id| of(id, 2..=1224, "_+=,.@:/-"));
        if !role_ok || !of(&session_name, 2..=64, "_+=,.@-") || !external_ok {
            return sts_error(
                StatusCode::BAD_REQUEST,
                "ValidationError",
                "RoleArn, RoleSessionName or ExternalId is missing or malformed",
            );
        }
        let unique = uuid::Uuid::new_v4().simple().to_string().to_uppercase();
        let access_key_id = format!("ASIA{}", &unique[..16]);
        let (_, role_name) = role_arn.split_at(role_arn.find("role/").unwrap_or_default() + 5);
        let account = role_arn.split(':').nth(4).unwrap_or_default();
        let until = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
        let answer = format!(
            "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>\
             <AssumedRoleUser><AssumedRoleId>AROALOCAL:{session_name}</AssumedRoleId>\
             <Arn>arn:aws:sts::{account}:assumed-role/{role_name}/{session_name}</Arn></AssumedRoleUser>\
             <Credentials><AccessKeyId>{access_key_id}</AccessKeyId><SecretAccessKey>local-{unique}</SecretAccessKey>\
             <SessionToken>token-of-{access_key_id}</SessionToken><Expiration>{until:.0}</Expiration></Credentials>\
             </AssumeRoleResult><ResponseMetadata><RequestId>{}</RequestId></ResponseMetadata></AssumeRoleResponse>",
            uuid::Uuid::new_v4(),
        );
        let assumed = AssumedRole {
            region: region.to_owned(),
            role_arn,
            external_id,
            session_name,
            access_key_id,
        };
        let mut record = self.record();
        if record.assumed_roles.len() >= MAX_CALLS {
            record.assumed_roles.pop_front();
        }
        record.assumed_roles.push_back(assumed);
        xml(StatusCode::OK, answer)
    }
}

/// Service and region from `Credential=KEY/DATE/REGION/SERVICE/aws4_request`.
pub(super) fn credential_scope(headers: &HeaderMap) -> Option<(String, String)> {
    let authorization = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (_, credential) = authorization.split_once("Credential=")?;
    let credential = credential.split([',', ' ']).next()?;
    let mut fields = credential.rsplit('/');
    if fields.next()? != "aws4_request" {
        return None;
    }
    let service = fields.next()?.to_owned();
    let region = fields.next()?.to_owned();
    Some((service, region))
}

/// The access key's id from `Credential=KEY/DATE/REGION/SERVICE/aws4_request`.
pub(super) fn access_key_id(headers: &HeaderMap) -> Option<String> {
    let authorization = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (_, credential) = authorization.split_once("Credential=")?;
    credential.split('/').next().map(str::to_owned)
}

/// The operation's name: from the target header, for SES from the path, for STS from the form.
pub(super) fn operation(
    service: &str,
    headers: &HeaderMap,
    method: &Method,
    path: &str,
    body: &[u8],
) -> String {
    if service == "sts" {
        return form(body).remove("Action").unwrap_or_default();
    }
    if let Some(target) = headers.get("x-amz-target").and_then(|v| v.to_str().ok()) {
        return target.rsplit('.').next().unwrap_or(target).to_owned();
    }
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let name = match (method.as_str(), segments.as_slice()) {
        ("POST", ["v2", "email", "outbound-emails"]) => "SendEmail",
        ("GET", ["v2", "email", "account"]) => "GetAccount",
        ("GET", ["v2", "email", "identities", _]) => "GetEmailIdentity",
        ("POST", ["v2", "email", "identities"]) => "CreateEmailIdentity",
        ("GET", ["v2", "email", "configuration-sets", _]) => "GetConfigurationSet",
        ("GET", ["v2", "email", "suppression", "addresses", _]) => "GetSuppressedDestination",
        ("POST", ["v2", "email", "tenants", "get"]) => "GetTenant",
        _ => return format!("{method} {path}"),
    };
    name.to_owned()
}
