//! A proxy on loopback between a program and the AWS endpoint, which spoils the answers that a test chooses.
//!
//! No emulator throttles, cuts an answer or hands out the page of a load balancer by itself. Here each request is shown
//! to the test, which names a fault or none; what is not spoiled passes as it is. Connections are the program's own, so
//! that a reset is one.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Bytes of a request or an answer that pass.
const MAX_BODY: usize = 16 * 1024 * 1024;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyFault {
    /// The service's own word for too many requests: `ProvisionedThroughputExceededException` (DynamoDB),
    /// `ThrottlingException` (KMS), `RequestThrottled` (SQS).
    Throttle,
    /// `ThrottlingException`, which any service may say.
    Throttling,
    /// A limit of the account: `RequestLimitExceeded`, of KMS `LimitExceededException`.
    Limit,
    /// 500 with the service's internal error.
    ServerError,
    /// 503 `ServiceUnavailable`.
    Unavailable,
    /// The connection is reset before the request has its effect.
    ResetBefore,
    /// The request has its effect, and the connection is reset in place of the answer.
    ResetAfter,
    /// The request has its effect, and there is no answer.
    Hang,
    /// The request has its effect, and the connection ends in the middle of the answer's body.
    CutAnswer,
    /// 200 with a page of something in between. The request has no effect.
    Html,
    /// 400 `ExpiredTokenException`: the credentials were right once.
    ExpiredToken,
}

impl ProxyFault {
    /// Every fault.
    pub const ALL: [Self; 11] = [
        Self::Throttle,
        Self::Throttling,
        Self::Limit,
        Self::ServerError,
        Self::Unavailable,
        Self::ResetBefore,
        Self::ResetAfter,
        Self::Hang,
        Self::CutAnswer,
        Self::Html,
        Self::ExpiredToken,
    ];

    /// Whether the request has its effect although the program does not learn of it.
    const fn has_effect(self) -> bool {
        match self {
            Self::ResetAfter | Self::Hang | Self::CutAnswer => true,
            Self::Throttle
            | Self::Throttling
            | Self::Limit
            | Self::ServerError
            | Self::Unavailable
            | Self::ResetBefore
            | Self::Html
            | Self::ExpiredToken => false,
        }
    }

    /// Status and code of a fault that is an error answer of `service`.
    fn error(self, service: &str) -> Option<(StatusCode, &'static str)> {
        let throttle = match service {
            "dynamodb" => "ProvisionedThroughputExceededException",
            "sqs" => "RequestThrottled",
            _ => "ThrottlingException",
        };
        let limit = match service {
            "kms" => "LimitExceededException",
            _ => "RequestLimitExceeded",
        };
        let internal = match service {
            "dynamodb" => "InternalServerError",
            "kms" => "KMSInternalException",
            _ => "InternalFailure",
        };
        match self {
            Self::Throttle => Some((StatusCode::BAD_REQUEST, throttle)),
            Self::Throttling => Some((StatusCode::BAD_REQUEST, "ThrottlingException")),
            Self::Limit => Some((StatusCode::BAD_REQUEST, limit)),
            Self::ServerError => Some((StatusCode::INTERNAL_SERVER_ERROR, internal)),
            Self::Unavailable => Some((StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable")),
            Self::ExpiredToken => Some((StatusCode::BAD_REQUEST, "ExpiredTokenException")),
            Self::ResetBefore | Self::ResetAfter | Self::Hang | Self::CutAnswer | Self::Html => {
                None
            }
        }
    }
}

/// A request on its way. Its `Debug` does not show what it says.
#[derive(Clone)]
pub struct ProxiedCall {
    /// The service in the credential scope: `dynamodb`, `kms`, `sqs`.
    pub service: String,
    /// The operation in `x-amz-target`, an empty text where there is none.
    pub operation: String,
    /// The body as JSON, [`Value::Null`] where it is none.
    pub request: Value,
}

impl fmt::Debug for ProxiedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.operation)
    }
}

impl ProxiedCall {
    fn of(headers: &HeaderMap, body: &[u8]) -> Self {
        let text = |name: &str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default()
        };
        // `Credential=AKIA…/20261201/eu-central-1/dynamodb/aws4_request`
        let scope = text("authorization").split("Credential=").nth(1);
        let service = scope.and_then(|scope| scope.split('/').nth(3));
        let operation = text("x-amz-target").rsplit('.').next().unwrap_or_default();
        Self {
            service: service.unwrap_or_default().to_owned(),
            operation: operation.to_owned(),
            request: serde_json::from_slice(body).unwrap_or_default(),
        }
    }
}

type Choose = Arc<dyn Fn(&ProxiedCall) -> Option<ProxyFault> + Send + Sync>;
type Body = BoxBody<Bytes, io::Error>;

/// The proxy. It ends when it is dropped.
pub struct FaultProxy {
    address: SocketAddr,
    inner: Arc<Inner>,
    task: JoinHandle<()>,
}

struct Inner {
    upstream: String,
    client: Client<HttpConnector, Full<Bytes>>,
    choose: Mutex<Option<Choose>>,
    spoiled: AtomicUsize,
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultProxy({})", self.address)
    }
}

impl FaultProxy {
    /// Starts on a free loopback port in front of `upstream`, a URL without a slash at the end.
    pub async fn start(upstream: String) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let inner = Arc::new(Inner {
            upstream,
            client: Client::builder(TokioExecutor::new()).build_http(),
            choose: Mutex::default(),
            spoiled: AtomicUsize::default(),
        });
        let serving = inner.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, serving.clone()));
            }
        });
        Ok(Self {
            address,
            inner,
            task,
        })
    }

    /// The URL for `AWS_ENDPOINT_URL`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Spoils from now on what `choose` has a fault for.
    pub fn spoil(
        &self,
        choose: impl Fn(&ProxiedCall) -> Option<ProxyFault> + Send + Sync + 'static,
    ) {
        *self
            .inner
            .choose
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(choose));
    }

    /// Spoils nothing any more.
    pub fn heal(&self) {
        *self
            .inner
            .choose
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How many requests were spoiled.
    pub fn spoiled(&self) -> usize {
        self.inner.spoiled.load(Ordering::Relaxed)
    }
}

async fn serve(stream: TcpStream, inner: Arc<Inner>) {
    let _ = stream.set_nodelay(true);
    // The connection's own socket once more, by which it is reset.
    let socket = stream
        .into_std()
        .and_then(|stream| Ok((stream.try_clone()?, TcpStream::from_std(stream)?)));
    let Ok((control, stream)) = socket else {
        return;
    };
    let control = Arc::new(Mutex::new(Some(control)));
    let service = service_fn(move |request| {
        let (inner, control) = (inner.clone(), control.clone());
        async move {
            let answer = inner.answer(request).await;
            if answer.is_err()
                && let Some(control) = control
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take()
            {
                let _ = socket2::SockRef::from(&control).set_linger(Some(Duration::ZERO));
            }
            answer
        }
    });
    // An error here is a reset, or a client that went away.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// The connection is to be reset.
#[derive(Debug, thiserror::Error)]
#[error("reset")]
struct Reset;

impl Inner {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Reset> {
        let (parts, body) = request.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await;
        let body = body.map_err(|_| Reset)?.to_bytes();
        let call = ProxiedCall::of(&parts.headers, &body);
        let choose = self
            .choose
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(fault) = choose.and_then(|choose| choose(&call)) else {
            return self.pass(parts, body).await.map(whole);
        };
        self.spoiled.fetch_add(1, Ordering::Relaxed);
        let answer = if fault.has_effect() {
            Some(self.pass(parts, body).await?)
        } else {
            None
        };
        match fault {
            ProxyFault::ResetBefore | ProxyFault::ResetAfter => Err(Reset),
            ProxyFault::Hang => std::future::pending().await,
            ProxyFault::CutAnswer => answer.and_then(cut).ok_or(Reset),
            ProxyFault::Html => Ok(page()),
            ProxyFault::Throttle
            | ProxyFault::Throttling
            | ProxyFault::Limit
            | ProxyFault::ServerError
            | ProxyFault::Unavailable
            | ProxyFault::ExpiredToken => {
                let (status, code) = fault.error(&call.service).ok_or(Reset)?;
                Ok(error(&call.service, status, code))
            }
        }
    }

    /// What the endpoint itself answers.
    async fn pass(
        &self,
        mut parts: http::request::Parts,
        body: Bytes,
    ) -> Result<Response<Bytes>, Reset> {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = Uri::try_from(format!("{}{path}", self.upstream)).map_err(|_| Reset)?;
        // The client names the endpoint by itself.
        parts.headers.remove(header::HOST);
        let request = Request::from_parts(parts, Full::new(body));
        let answer = self.client.request(request).await.map_err(|_| Reset)?;
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await;
        let body = body.map_err(|_| Reset)?.to_bytes();
        Ok(Response::from_parts(parts, body))
    }
}

fn whole(answer: Response<Bytes>) -> Response<Body> {
    answer.map(|body| Full::new(body).map_err(|never| match never {}).boxed())
}

/// The answer with half of its body, and then nothing; `None` where it has none.
fn cut(answer: Response<Bytes>) -> Option<Response<Body>> {
    let (mut parts, body) = answer.into_parts();
    if body.is_empty() {
        return None;
    }
    let half = body.slice(..body.len() / 2);
    parts
        .headers
        .insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    let ended = io::Error::new(io::ErrorKind::ConnectionReset, "cut");
    let frames = futures_util::stream::iter([Ok(Frame::data(half)), Err(ended)]);
    Some(Response::from_parts(
        parts,
        BodyExt::boxed(StreamBody::new(frames)),
    ))
}

fn page() -> Response<Body> {
    let page = "<html><body><h1>503 Service Temporarily Unavailable</h1></body></html>";
    let mut answer = whole(Response::new(Bytes::from(page)));
    let html = HeaderValue::from_static("text/html");
    answer.headers_mut().insert(header::CONTENT_TYPE, html);
    answer
}

fn error(service: &str, status: StatusCode, code: &'static str) -> Response<Body> {
    let body = json!({"__type": code, "message": "planted"}).to_string();
    let mut answer = whole(Response::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    let json = HeaderValue::from_static("application/x-amz-json-1.0");
    headers.insert(header::CONTENT_TYPE, json);
    // SQS names the code of its old query protocol too, and the SDK prefers that one.
    if service == "sqs"
        && let Ok(value) = HeaderValue::try_from(format!("{code};Receiver"))
    {
        headers.insert("x-amzn-query-error", value);
    }
    answer
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::error::ProvideErrorMetadata as _;

    use super::*;
    use crate::aws::LocalAws;

    /// What the SDK, without retries, makes of each fault of a write, and whether the write had its effect.
    #[tokio::test]
    async fn each_fault_is_seen_as_what_it_is() {
        let aws = LocalAws::start().await;
        let proxy = FaultProxy::start(aws.endpoint()).await.unwrap();
        let config = aws_sdk_dynamodb::config::Builder::from(&aws.sdk_config())
            .endpoint_url(proxy.endpoint())
            .retry_config(aws_sdk_dynamodb::config::retry::RetryConfig::disabled())
            .timeout_config(
                aws_sdk_dynamodb::config::timeout::TimeoutConfig::builder()
                    .operation_timeout(Duration::from_millis(500))
                    .build(),
            );
        let client = aws_sdk_dynamodb::Client::from_conf(config.build());
        let table = aws.resources().deliveries_table.clone();
        let put = async |pk: &str| {
            let text = |text: &str| aws_sdk_dynamodb::types::AttributeValue::S(text.to_owned());
            let put = client.put_item().table_name(&table);
            let put = put.item("pk", text(pk)).item("sk", text("x")).send().await;
            put.map(drop)
                .map_err(|error| error.code().map(str::to_owned))
        };
        put("passes").await.unwrap();
        for fault in ProxyFault::ALL {
            let pk = format!("{fault:?}");
            proxy.spoil(move |call| (call.operation == "PutItem").then_some(fault));
            let code = put(&pk).await.unwrap_err();
            let expected = fault.error("dynamodb").map(|(_, code)| code.to_owned());
            assert_eq!(code, expected, "{fault:?}");
            let is_there = aws.item(&table, &pk, "x").await.unwrap().is_some();
            assert_eq!(is_there, fault.has_effect(), "{fault:?}");
        }
        assert_eq!(proxy.spoiled(), ProxyFault::ALL.len());
        proxy.heal();
        put("healed").await.unwrap();
    }
}
