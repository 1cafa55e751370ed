//! Proxies that the environment names.

use super::*;

/// Where the child of the next test finds the APIs that it is to send through, and their authority.
const CHILD_APIS: &str = "EGRESS_TEST_APIS";
const CHILD_ROOTS: &str = "EGRESS_TEST_ROOTS";
const PROXIES: [&str; 6] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
];

/// Runs itself again in an environment that names a proxy.
#[tokio::test]
async fn a_proxy_that_the_environment_names_is_not_used() {
    if let Ok(apis) = env::var(CHILD_APIS) {
        return send_in_an_environment_with_a_proxy(&apis).await;
    }
    let servers = Servers::start().await;
    let plain = HttpServer::builder().start().await.unwrap();
    let accepted = Reply::new(202).header("x-message-id", "id");
    plain.on("POST", "/v3/mail/send", accepted);
    let proxy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let proxy_url = format!("http://{}", proxy.local_addr().unwrap());

    let mut child = Command::new(env::current_exe().unwrap());
    child
        .args([
            "--exact",
            "proxy::a_proxy_that_the_environment_names_is_not_used",
        ])
        .env(
            CHILD_APIS,
            format!("{} http://{API}:{}", servers.api_url(), plain.port()),
        )
        .env(CHILD_ROOTS, &servers.roots)
        .env_remove("NO_PROXY")
        .env_remove("no_proxy");
    for name in PROXIES {
        child.env(name, &proxy_url);
    }
    let mut child = tokio::task::spawn_blocking(move || child.output().unwrap());
    let asked = async {
        let mut asked = Vec::new();
        loop {
            let (mut socket, _) = proxy.accept().await.unwrap();
            let mut line = String::new();
            BufReader::new(&mut socket)
                .read_line(&mut line)
                .await
                .unwrap();
            let last = line.starts_with(CONTROL);
            asked.push(line);
            let answer = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n";
            socket.write_all(answer).await.unwrap();
            if last {
                return asked;
            }
        }
    };
    let said = |child: &std::process::Output| String::from_utf8_lossy(&child.stdout).into_owned();
    let asked = tokio::select! {
        biased;
        asked = asked => asked,
        child = &mut child => panic!("{}", said(&child.unwrap())),
    };
    let child = child.await.unwrap();
    assert!(child.status.success(), "{}", said(&child));
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(servers.api.requests().len(), 1);
    assert_eq!(plain.requests().len(), 1);
}

/// What a client that does use the proxy asks it for.
const CONTROL: &str = "GET http://control.example/ ";

async fn send_in_an_environment_with_a_proxy(apis: &str) {
    let egress = Egress {
        roots: env::var(CHILD_ROOTS).ok(),
        ..Egress::new("127.0.0.0/8", Names::answering(&[]))
    };
    for api in apis.split(' ') {
        send(&egress.sendgrid_at(api)).await.unwrap();
    }
    // A client as it comes does use it: the environment is one that would have been obeyed.
    let tls = rustls::ClientConfig::clone(&TestCa::new().client_config());
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls);
    let answer = client
        .build()
        .unwrap()
        .get("http://control.example/")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 502);
}
