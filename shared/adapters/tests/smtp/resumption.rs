//! A further connection of one process to one server resumes its TLS session: no certificate is sent and verified again.

use super::*;

/// Of each connection, whether it resumed a session.
fn handshakes(server: &SmtpServer) -> Vec<bool> {
    let events = server.events().into_iter();
    let secured = events.filter_map(|event| {
        let Event::Secured { is_resumed, .. } = event else {
            return None;
        };
        Some(is_resumed)
    });
    secured.collect()
}

/// A server whose certificate is for every name under `clinic.example`, and the trust in it.
struct Servers {
    server: SmtpServer,
    tls: TlsConfigs,
}

impl Servers {
    async fn start() -> Self {
        let ca = TestCa::new();
        let builder = SmtpServer::builder()
            .tls(TlsMode::StartTls, ca.server_config(&["*.clinic.example"]))
            .credentials("clinic-user", PASSWORD);
        Self {
            server: builder.start().await,
            tls: TlsConfigs::new(Some(&ca.pem())).unwrap(),
        }
    }

    /// A clinic that knows it by this name.
    fn clinic(&self, host: &str) -> SmtpProvider {
        let settings = SmtpConfig {
            host: Host::parse(host).unwrap(),
            port: self.server.port(),
            security: Security::StartTls,
            user: "clinic-user".into(),
            password: Secret::new(PASSWORD.to_owned()),
            ca_pem: None,
            max_connections: 1,
            from: OwnSender::default(),
            ehlo_name: None,
        };
        let guard = EgressGuard::new("127.0.0.0/8".parse().unwrap(), Arc::new(Loopback));
        let clock = Arc::new(ManualClock::new());
        SmtpProvider::new(
            settings,
            Mailbox {
                address: EmailAddress::parse("appointments@clinic.example").unwrap(),
                name: None,
            },
            &self.tls,
            guard,
            Sockets::default(),
            clock,
        )
        .unwrap()
    }
}

async fn send_over_a_new_connection(server: &SmtpServer, provider: &SmtpProvider) {
    server.close_idle_connections().await;
    let deadline = Deadline::after(Duration::from_secs(20));
    provider.send(&message(1), deadline).await.unwrap();
}

#[tokio::test]
async fn second_connection_resumes_the_session_of_the_first() {
    for tls in [TlsMode::StartTls, TlsMode::Implicit] {
        for shows_given in [false, true] {
            let options = Options {
                tls,
                shows_given,
                ..Options::default()
            };
            let world = World::new(options, |server| server).await;
            for _ in 0..3 {
                send_over_a_new_connection(&world.server, &world.provider).await;
            }
            assert_eq!(
                handshakes(&world.server),
                [false, true, true],
                "{tls:?} {shows_given}"
            );
        }
    }
}

#[tokio::test]
async fn clinics_of_one_server_share_its_sessions() {
    let servers = Servers::start().await;
    for _ in 0..2 {
        let clinic = servers.clinic("mail.clinic.example");
        send_over_a_new_connection(&servers.server, &clinic).await;
    }
    assert_eq!(handshakes(&servers.server), [false, true]);
}

#[tokio::test]
async fn sessions_of_sixty_servers_are_remembered() {
    let servers = Servers::start().await;
    let clinics: Vec<_> = (0..60)
        .map(|number| servers.clinic(&format!("mail-{number}.clinic.example")))
        .collect();
    for is_resumed in [false, true] {
        for clinic in &clinics {
            send_over_a_new_connection(&servers.server, clinic).await;
            assert_eq!(handshakes(&servers.server).last(), Some(&is_resumed));
        }
    }
}
