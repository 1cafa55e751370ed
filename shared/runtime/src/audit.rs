//! Who did what: one audit line for each request with a caller, and the caller in every line of the request.
//!
//! Handlers carry nothing for it. [`Exchange::begin`] gives the request a [`Trail`];
//! [`Principal`](crate::auth::Principal) notes the caller and the action on it; [`Exchange::answer`] writes the
//! line. The subject is written as a keyed hash, unless the platform allows it plain (`AUDIT_SUBJECTS`).

use std::{
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use comms_core::{HashKey, RequestId, SubjectHash, Tenant, audit::AUDIT, metric::METRICS};
use futures_util::future::join;
use lambda_http::{
    Body, Request, Response,
    http::{Method, StatusCode},
};
use tracing::{Span, info, warn};

use crate::{action::Action, http::HttpProblem};

/// How subjects are written to logs: `AUDIT_SUBJECTS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuditSubjects {
    /// As keyed hashes.
    #[default]
    Hashed,
    /// As the token has them. They may be names or addresses.
    Plain,
}

impl FromStr for AuditSubjects {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" | "hashed" => Ok(Self::Hashed),
            "plain" => Ok(Self::Plain),
            _ => Err("must be hashed or plain"),
        }
    }
}

/// The caller and the action of a request, as far as they are known. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Trail(Arc<Mutex<Noted>>);

#[derive(Debug, Clone, Default)]
struct Noted {
    subject: Option<String>,
    clinic: Option<String>,
    action: Option<Action>,
    tenant: Option<Tenant>,
    is_refused: bool,
    request_id: Option<RequestId>,
}

impl Trail {
    /// The trail of a request; an unread one if the request has none.
    pub fn of(request: &Request) -> Self {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// Notes the communication that the request is about.
    pub fn note_request_id(&self, id: &RequestId) {
        self.note(|noted| noted.request_id = Some(id.clone()));
    }

    pub(crate) fn note_caller(&self, subject: &str, clinic: Option<&str>) {
        self.note(|noted| {
            noted.subject = Some(subject.to_owned());
            noted.clinic = clinic.map(str::to_owned);
        });
    }

    pub(crate) fn note_action(&self, action: Action, tenant: Option<&Tenant>, is_allowed: bool) {
        self.note(|noted| {
            noted.action = Some(action);
            noted.tenant = tenant.cloned();
            noted.is_refused = !is_allowed;
        });
    }

    fn note(&self, change: impl FnOnce(&mut Noted)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The tenant that the last action was for.
    #[cfg(test)]
    pub(crate) fn tenant(&self) -> Option<Tenant> {
        self.noted().tenant
    }

    fn noted(&self) -> Noted {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// One HTTP request and its answer, for the logs.
#[derive(Debug)]
pub(crate) struct Exchange {
    method: Method,
    started: Instant,
    trail: Trail,
    subjects: AuditSubjects,
}

impl Exchange {
    /// Begins with a request, and gives it a trail.
    pub(crate) fn begin(request: &mut Request, subjects: AuditSubjects) -> Self {
        let trail = Trail::default();
        request.extensions_mut().insert(trail.clone());
        Self {
            method: request.method().clone(),
            started: Instant::now(),
            trail,
            subjects,
        }
    }

    /// Runs `work`, which returns the route and its result, and turns the result into the answer. Logs the answer and, if
    /// there is a caller, the audit line.
    ///
    /// `hash_key` is awaited in parallel with the work, as soon as the caller is known, so that reading it takes no extra
    /// time. A request without a caller does not read it.
    pub(crate) async fn answer<'k>(
        self,
        work: impl Future<Output = (&'static str, Result<Response<Body>, HttpProblem>)>,
        hash_key: impl Future<Output = Option<&'k HashKey>>,
    ) -> Response<Body> {
        let span = Span::current();
        let attributed = async {
            // The work is polled first, and notes the caller before it waits for anything.
            let subject = self.trail.noted().subject.filter(|text| !text.is_empty())?;
            let shown = match self.subjects {
                AuditSubjects::Plain => subject,
                AuditSubjects::Hashed => SubjectHash::of(hash_key.await?, &subject)?.to_string(),
            };
            span.record("subject", &shown);
            Some(shown)
        };
        let ((route, result), subject) = join(work, attributed).await;
        self.write_audit(subject.as_deref(), &result);
        self.respond(route, result)
    }

    /// Turns a handler's result into the answer, and logs the answer.
    fn respond(
        &self,
        route: &'static str,
        result: Result<Response<Body>, HttpProblem>,
    ) -> Response<Body> {
        let code = result.as_ref().err().map(HttpProblem::code);
        let response = result.unwrap_or_else(Into::into);
        info!(
            method = %self.method,
            route,
            status = response.status().as_u16(),
            problem = code,
            duration_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "answered"
        );
        response
    }

    fn write_audit(&self, subject: Option<&str>, result: &Result<Response<Body>, HttpProblem>) {
        let noted = self.trail.noted();
        if noted.subject.is_none() {
            return;
        }
        // Refused before the action was known, such as a body that is not JSON.
        let action = noted.action.map_or("malformed", Action::as_str);
        let is_forbidden =
            matches!(result, Err(problem) if problem.status() == StatusCode::FORBIDDEN);
        let is_refused = noted.is_refused || is_forbidden;
        let clinic_id = noted.tenant.as_ref().map(tracing::field::display);
        if is_refused {
            let callers_clinic = noted.clinic.as_deref();
            warn!(subject, callers_clinic, clinic_id, action, "refused");
            info!(target: METRICS, callers_refused = 1_u64);
        }
        let (outcome, status) = match result {
            Ok(response) => ("done", response.status()),
            Err(problem) if is_refused => ("refused", problem.status()),
            Err(problem) => ("failed", problem.status()),
        };
        info!(
            target: AUDIT,
            action,
            clinic_id,
            request_id = noted.request_id.as_ref().map(tracing::field::display),
            subject,
            outcome,
            status = status.as_u16(),
            "audit"
        );
    }
}
