//! A process whose credentials are over ends itself, once its invocation is answered.
//!
//! Lambda gives credentials as variables of the process, which cannot change in it (AWS Lambda developer guide, "Defined
//! runtime environment variables"). With `ExpiredToken` for every request it would fail each invocation until Lambda
//! gives it up, which may be hours. The next invocation gets a new process, and that new credentials.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use comms_core::process_credentials;
use lambda_runtime::{Error, LambdaInvocation, Service, tower::Layer};
use tracing::error;

/// The process cannot go on: AWS says that its credentials are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the process ends: AWS says that its credentials have expired; the next process has new ones"
)]
pub struct CredentialsExpired;

/// Ends the Lambda runtime after the answer of the first invocation in which credentials turned out to be over.
#[derive(Debug, Clone, Copy)]
pub struct EndWithCredentials;

impl<S> Layer<S> for EndWithCredentials {
    type Service = EndingService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        EndingService(inner)
    }
}

/// What [`EndWithCredentials`] makes of the runtime's service.
#[derive(Debug, Clone)]
pub struct EndingService<S>(S);

impl<S> Service<LambdaInvocation> for EndingService<S>
where
    S: Service<LambdaInvocation, Response = (), Error = Error>,
    S::Future: Send + 'static,
{
    type Response = ();
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, invocation: LambdaInvocation) -> Self::Future {
        let answered = self.0.call(invocation);
        Box::pin(async move {
            answered.await?;
            if process_credentials::are_expired() {
                error!("the process ends: its credentials have expired");
                return Err(CredentialsExpired.into());
            }
            Ok(())
        })
    }
}
