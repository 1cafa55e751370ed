//! The HTTP client that all AWS clients of the process share, lent to one more.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use aws_smithy_runtime_api::client::{
    connector_metadata::ConnectorMetadata,
    http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
        SharedHttpConnector,
    },
    orchestrator::HttpRequest,
    runtime_components::RuntimeComponents,
};
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Limited;

use crate::net::http::MAX_ANSWER;

/// Whether a request's body was asked for. Until then nothing that SES could act on has been sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Begun(Arc<AtomicBool>);

impl Begun {
    /// Whether it was.
    pub(super) fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A shared HTTP client. It does not pass on the question whether its configuration is valid: to answer it,
/// the SDK's own client parses its trust roots and makes a TLS configuration that it throws away, for every
/// service client anew.
#[derive(Debug)]
pub(super) struct SharedClient(SharedHttpClient);

impl SharedClient {
    pub(super) fn new(client: SharedHttpClient) -> Self {
        Self(client)
    }
}

impl HttpClient for SharedClient {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Watched(self.0.http_connector(settings, components)))
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.0.connector_metadata()
    }
}

/// A connector that notes when a request's body is asked for, where the request has a [`Begun`], and that
/// lets no answer be longer than [`MAX_ANSWER`]: the SDK reads whatever comes.
#[derive(Debug)]
struct Watched(SharedHttpConnector);

impl HttpConnector for Watched {
    fn call(&self, mut request: HttpRequest) -> HttpConnectorFuture {
        if let Some(begun) = request.extension::<Begun>().cloned() {
            let body = request.take_body();
            *request.body_mut() = SdkBody::from_body_1_x(Tracked { body, begun });
        }
        let answering = self.0.call(request);
        HttpConnectorFuture::new(async move {
            let mut answer = answering.await?;
            let body = std::mem::replace(answer.body_mut(), SdkBody::taken());
            *answer.body_mut() = SdkBody::from_body_1_x(Limited::new(body, MAX_ANSWER));
            Ok(answer)
        })
    }
}

/// A body that notes when it is first asked for.
struct Tracked {
    body: SdkBody,
    begun: Begun,
}

impl Body for Tracked {
    type Data = Bytes;
    type Error = aws_smithy_types::body::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.begun.0.store(true, Ordering::Release);
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        Body::is_end_stream(&self.body)
    }

    fn size_hint(&self) -> SizeHint {
        Body::size_hint(&self.body)
    }
}
