//! How many requests an AWS endpoint has from this process at once, and how long its responses may be.
//!
//! Each takes a connection of its own (DynamoDB, SQS and KMS speak HTTP/1.1), with some tens of KB of buffers. Where a
//! process has a hundred invocations, a thousand of them would take all its memory, and of its 1,024 file descriptors
//! (AWS Lambda Developer Guide, "Lambda quotas") leave none to providers. What is too many waits, which is part of the
//! attempt's time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        connector_metadata::ConnectorMetadata,
        http::{
            HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings,
            SharedHttpClient, SharedHttpConnector,
        },
        orchestrator::HttpRequest,
        runtime_components::{RuntimeComponents, RuntimeComponentsBuilder},
    },
};
use aws_smithy_types::{body::SdkBody, config_bag::ConfigBag};
use http_body_util::Limited;
use tokio::sync::Semaphore;

/// Requests that one endpoint has at once. Answers come within some milliseconds: this many carry thousands a second, more
/// than one process can make.
const REQUESTS: usize = 64;

/// Bytes of a response's body. The largest are a page of DynamoDB (1 MB before base64) and a batch of SQS (1 MB before
/// escapes).
const MAX_RESPONSE_BYTES: usize = 16 * 1024 * 1024;

/// A client that keeps to it.
#[derive(Debug)]
pub(super) struct BoundedClient {
    inner: SharedHttpClient,
    endpoints: Arc<Endpoints>,
}

impl BoundedClient {
    pub(super) fn new(inner: SharedHttpClient) -> Self {
        Self {
            inner,
            endpoints: Arc::default(),
        }
    }
}

impl HttpClient for BoundedClient {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(BoundedConnector {
            inner: self.inner.http_connector(settings, components),
            endpoints: self.endpoints.clone(),
        })
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.inner.validate_base_client_config(components, config)
    }

    fn validate_final_config(
        &self,
        components: &RuntimeComponents,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.inner.validate_final_config(components, config)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.inner.connector_metadata()
    }
}

/// The endpoints, by host and port: one that hangs keeps requests from no other. There are a few, one for each
/// service and region.
#[derive(Debug, Default)]
struct Endpoints(Mutex<HashMap<String, Arc<Semaphore>>>);

impl Endpoints {
    fn of(&self, uri: &str) -> Arc<Semaphore> {
        let authority = uri.split('/').nth(2).unwrap_or_default();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(endpoint) = known.get(authority) {
            return endpoint.clone();
        }
        let endpoint = Arc::new(Semaphore::new(REQUESTS));
        known.insert(authority.to_owned(), endpoint.clone());
        endpoint
    }
}

#[derive(Debug)]
struct BoundedConnector {
    inner: SharedHttpConnector,
    endpoints: Arc<Endpoints>,
}

impl HttpConnector for BoundedConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let endpoint = self.endpoints.of(request.uri());
        let inner = self.inner.clone();
        HttpConnectorFuture::new(async move {
            // It fails only for a closed semaphore, and this one is never closed.
            let _request = endpoint.acquire().await.ok();
            let mut response = inner.call(request).await?;
            let body = std::mem::replace(response.body_mut(), SdkBody::taken());
            *response.body_mut() = SdkBody::from_body_1_x(Limited::new(body, MAX_RESPONSE_BYTES));
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use aws_smithy_runtime_api::client::{orchestrator::HttpResponse, result::ConnectorError};
    use futures_util::FutureExt as _;
    use http_body_util::BodyExt as _;

    use super::*;

    /// Counts its requests, and answers when the test allows it.
    #[derive(Debug)]
    struct Scripted {
        asked: AtomicUsize,
        answers: Semaphore,
    }

    #[derive(Debug, Clone)]
    struct Connector(Arc<Scripted>);

    impl HttpConnector for Connector {
        fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
            let scripted = self.0.clone();
            HttpConnectorFuture::new(async move {
                scripted.asked.fetch_add(1, Ordering::Relaxed);
                scripted.answers.acquire().await.unwrap().forget();
                let status = 200_u16.try_into().unwrap();
                Ok::<_, ConnectorError>(HttpResponse::new(status, SdkBody::empty()))
            })
        }
    }

    #[test]
    fn an_endpoint_has_so_many_requests_at_once_and_another_its_own() {
        let scripted = Arc::new(Scripted {
            asked: AtomicUsize::new(0),
            answers: Semaphore::new(0),
        });
        let bounded = BoundedConnector {
            inner: SharedHttpConnector::new(Connector(scripted.clone())),
            endpoints: Arc::default(),
        };
        let ask = |uri: &str| {
            let mut request = HttpRequest::empty();
            request.set_uri(uri).unwrap();
            let mut answer = bounded.call(request);
            assert!((&mut answer).now_or_never().is_none());
            answer
        };
        let asked = || scripted.asked.load(Ordering::Relaxed);

        let here = "https://dynamodb.eu-central-1.amazonaws.com/";
        let mut waiting: Vec<_> = (0..REQUESTS + 3).map(|_| ask(here)).collect();
        assert_eq!(asked(), REQUESTS);

        // The first one has its answer, and the next may go.
        scripted.answers.add_permits(1);
        assert!((&mut waiting[0]).now_or_never().unwrap().is_ok());
        assert!((&mut waiting[REQUESTS]).now_or_never().is_none());
        assert_eq!(asked(), REQUESTS + 1);
        // One that nobody waits for any more leaves its place as well.
        drop(waiting.swap_remove(1));
        assert!((&mut waiting[REQUESTS + 1]).now_or_never().is_none());
        assert_eq!(asked(), REQUESTS + 2);

        let _waiting = ask("https://kms.eu-central-1.amazonaws.com/");
        assert_eq!(asked(), REQUESTS + 3);
    }

    /// Answers with a body of so many bytes.
    #[derive(Debug)]
    struct Long(usize);

    impl HttpConnector for Long {
        fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
            let status = 200_u16.try_into().unwrap();
            let body = SdkBody::from(vec![b' '; self.0]);
            HttpConnectorFuture::ready(Ok(HttpResponse::new(status, body)))
        }
    }

    #[test]
    fn a_response_is_read_up_to_its_limit() {
        for (bytes, fits) in [(MAX_RESPONSE_BYTES, true), (MAX_RESPONSE_BYTES + 1, false)] {
            let bounded = BoundedConnector {
                inner: SharedHttpConnector::new(Long(bytes)),
                endpoints: Arc::default(),
            };
            let mut request = HttpRequest::empty();
            request
                .set_uri("https://kms.eu-central-1.amazonaws.com/")
                .unwrap();
            let response = bounded.call(request).now_or_never().unwrap().unwrap();
            let read = response.into_body().collect().now_or_never().unwrap();
            assert_eq!(read.is_ok(), fits, "{bytes}");
        }
    }
}
