//! Runs an HTTP function: its declaration, the Lambda runtime around it, and the answer to one request.

use std::sync::Arc;

use comms_core::HashKey;
use lambda_http::{Body, Request, RequestExt as _, Response, request::RequestContext, service_fn};
use lambda_runtime::layers::TracingLayer;
use tracing::{Instrument as _, Span};

use super::routes::{Endpoint, dispatch, routes};
use crate::{
    audit::{AuditSubjects, Exchange},
    environment::Environment,
    function::{Function, Trigger},
    lifetime::EndWithCredentials,
    telemetry::{self, TraceHeader},
};

/// A function that API Gateway invokes. The implementing type holds the parts that the handlers use.
pub trait HttpFunction: Send + Sync + Sized + 'static {
    /// The routes that the function answers, with their handlers.
    const ROUTES: &'static [Endpoint<Self>];

    /// Reads the environment and puts the parts together. Connects to nothing.
    ///
    /// # Errors
    /// Names every variable that is missing or malformed.
    fn from_environment(environment: &Environment<'_>) -> Result<Self, lambda_http::Error>;

    /// How logs name callers.
    fn audit_subjects(&self) -> AuditSubjects;

    /// The key of the callers' hashes in logs; `None` if there is none, or it cannot be read now.
    fn log_key(&self) -> impl Future<Output = Option<&HashKey>> + Send;
}

impl Function {
    /// The declaration of an HTTP function. See [`Function::timeout_seconds`] for the time limit.
    pub const fn http<F: HttpFunction>(name: &'static str, timeout_seconds: u64) -> Self {
        Self {
            name,
            trigger: Trigger::Http(|| routes(F::ROUTES)),
            timeout_seconds,
            run: || Box::pin(serve::<F>()),
        }
    }
}

/// Runs a function under the Lambda runtime until the environment ends.
async fn serve<F: HttpFunction>() -> Result<(), lambda_http::Error> {
    let environment = Environment::of_process();
    telemetry::init(&environment);
    let function = Arc::new(F::from_environment(&environment)?);
    telemetry::ready();
    lambda_http::runtime_concurrent(service_fn(move |request: Request| {
        let function = function.clone();
        async move {
            let span = invocation(&request);
            // On the heap: it is large, and nested deeply.
            let answer = Box::pin(handle(&*function, request)).instrument(span);
            Ok::<_, lambda_http::Error>(answer.await)
        }
    }))
    .layer(TracingLayer::new())
    .layer(EndWithCredentials)
    .run_concurrent()
    .await
}

/// Answers one request, and logs the answer and the caller.
pub async fn handle<F: HttpFunction>(function: &F, mut request: Request) -> Response<Body> {
    let exchange = Exchange::begin(&mut request, function.audit_subjects());
    let work = Box::pin(dispatch(F::ROUTES, function, &request));
    exchange.answer(work, function.log_key()).await
}

/// The span of a request's invocation.
pub fn invocation(request: &Request) -> Span {
    let none = lambda_runtime::Context::default();
    let context = request.lambda_context_ref().unwrap_or(&none);
    telemetry::invocation(context, trace(request).as_ref())
}

/// The trace of a request: the invocation's, or, if Lambda traces nothing, the caller's `traceparent`.
pub fn trace(request: &Request) -> Option<TraceHeader> {
    let of_lambda = request.lambda_context_ref().and_then(telemetry::trace_of);
    of_lambda.or_else(|| {
        let header = request.headers().get("traceparent")?;
        TraceHeader::from_traceparent(header.to_str().ok()?)
    })
}

/// The caller's IP address, as API Gateway reports it.
pub fn source_address(request: &Request) -> Option<String> {
    match request.request_context_ref() {
        Some(RequestContext::ApiGatewayV2(context)) => context.http.source_ip.clone(),
        _ => None,
    }
}
