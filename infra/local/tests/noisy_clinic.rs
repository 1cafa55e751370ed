//! One clinic's silent mail server against everybody else: real processes behind the local stack's gateway.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed; its output is the attack's figures"
)]

mod running;

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::{Client, RequestBuilder, Response};
use running::{FREE, Stack, token};
use serde_json::{Value, json};

/// `ImmediateSendsInFlight` of the template.
const IN_FLIGHT: usize = 5;
/// Immediate requests of the noisy clinic.
const REQUESTS: usize = 20;
/// A neighbor's request is answered within this. The machine may be busy with other tests; without the limit it takes
/// 23 s or ends with 503.
const MAX_NEIGHBOR_LATENCY: Duration = Duration::from_secs(8);
const NOISY: &str = "noisy-clinic";
/// The clinic of the stack's demo, whose mail goes to the inbox.
const NEIGHBOR: &str = "clinic-123";

/// A mail server that accepts connections and never says a word.
struct SilentServer {
    address: SocketAddr,
    accepted: mpsc::Receiver<()>,
    open: Arc<Mutex<usize>>,
}

impl SilentServer {
    fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (sender, accepted) = mpsc::channel();
        let open = Arc::<Mutex<usize>>::default();
        let most = open.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                *most.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                let _ = sender.send(());
                // Until the client closes it.
                thread::spawn(move || {
                    let mut stream = stream;
                    let _ = stream.read(&mut [0; 64]);
                });
            }
        });
        Ok(Self {
            address,
            accepted,
            open,
        })
    }

    /// Waits until `count` connections were made.
    fn wait_for(&self, count: usize) {
        for _ in 0..count {
            self.accepted.recv_timeout(Duration::from_mins(1)).unwrap();
        }
    }

    fn connections(&self) -> usize {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn communication(clinic: &str, strategy: &str, priority: &str) -> Value {
    json!({
        "category": "reminder", "priority": priority, "strategy": strategy, "channels": ["email"],
        "title": "Your appointment", "body": "See you on Monday.",
        "recipients": [{"email": "patient@example.com"}], "metadata": {"clinicId": clinic},
    })
}

/// The answer of a request, with the time that it took.
async fn timed(request: RequestBuilder) -> (Response, Duration) {
    let begin = Instant::now();
    let answer = request.send().await.unwrap();
    (answer, begin.elapsed())
}

#[tokio::test]
async fn silent_server_of_one_clinic_delays_nobody_else() {
    let home = tempfile::tempdir().unwrap();
    let mut stack = Stack::start(home.path(), &["--inbox", FREE, "--smtp", FREE]).unwrap();
    stack.line(" sent by ").unwrap();
    let api = stack.url(" API ").unwrap();
    let token = |arguments: &[&str]| token(home.path(), arguments).unwrap();
    let service = token(&["--role", "SERVICE"]);
    let admin = token(&["--role", "SUPER_ADMIN"]);
    let noisy = token(&["--role", "CLINIC_ADMIN", "--clinic", NOISY]);
    let client = Client::builder().no_proxy().build().unwrap();
    let post = |token: &str, body: &Value| {
        let request = client.post(format!("{api}/communications"));
        request.bearer_auth(token).json(body)
    };
    let server = SilentServer::start().unwrap();
    let credentials = json!({
        "host": "127.0.0.1", "port": server.address.port().to_string(), "secure": "false",
        "user": "user", "password": "password",
    });
    let settings = json!({"settings": {"communicationSettings": {"email": {
        "primary": {"provider": "smtp", "enabled": true, "credentials": credentials},
        "fallback": [], "defaultFrom": "a@noisy.example", "defaultFromName": "Noisy",
        "fallbackStrategy": {"useGlobal": false, "retryAttempts": 0},
    }}}});
    let saved = client
        .put(format!("{api}/clinics/{NOISY}"))
        .bearer_auth(&admin)
        .json(&settings)
        .send()
        .await
        .unwrap();
    assert_eq!(saved.status(), 201, "{}", saved.text().await.unwrap());
    let known = post(&service, &communication(NEIGHBOR, "immediate", "normal"));
    let known: Value = known.send().await.unwrap().json().await.unwrap();
    let known = known["requestId"].as_str().unwrap().to_owned();

    let attack = communication(NOISY, "immediate", "normal");
    let attack = tokio::spawn(join_all(
        (0..REQUESTS).map(|_| timed(post(&noisy, &attack))),
    ));
    let server = tokio::task::spawn_blocking(move || {
        server.wait_for(IN_FLIGHT);
        server
    });
    let server = server.await.unwrap();
    let get = client.get(format!("{api}/communications/{known}"));
    let neighbors = [
        (
            "immediate",
            200,
            post(&service, &communication(NEIGHBOR, "immediate", "normal")),
        ),
        (
            "critical",
            200,
            post(&service, &communication(NEIGHBOR, "immediate", "critical")),
        ),
        (
            "queued",
            202,
            post(&service, &communication(NEIGHBOR, "queued", "high")),
        ),
        ("GET", 200, get.bearer_auth(&service)),
        ("health", 200, client.get(format!("{api}/health"))),
    ];
    let asked = join_all(neighbors.map(|(name, expected, request)| async move {
        let (answer, time) = timed(request).await;
        println!("neighbor {name}: {} after {time:?}", answer.status());
        (name, expected, answer.status(), time)
    }));
    let asked = asked.await;
    let attack = attack.await.unwrap();
    let mut refused = 0;
    for (answer, time) in attack {
        let (status, retry) = (
            answer.status(),
            answer.headers().get("retry-after").cloned(),
        );
        let body: Value = answer.json().await.unwrap_or_default();
        println!(
            "noisy: {status} {} Retry-After {retry:?} after {time:?}",
            body["code"]
        );
        if status == 429 {
            assert_eq!(body["code"], "too_many_in_flight", "{body}");
            assert!(retry.is_some());
            refused += 1;
        }
    }
    println!("connections to the silent server: {}", server.connections());
    for (name, expected, status, time) in asked {
        assert_eq!(status, expected, "{name}");
        assert!(time < MAX_NEIGHBOR_LATENCY, "{name}: {time:?}");
    }
    assert_eq!(refused, REQUESTS - IN_FLIGHT);
    assert_eq!(server.connections(), IN_FLIGHT);
}
