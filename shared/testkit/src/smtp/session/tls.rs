//! STARTTLS and the handshake.

use std::mem;

use rustls::HandshakeKind;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::{
    super::{Event, Stage},
    End, Session, is_success,
    wire::Stream,
};

impl Session {
    pub(super) async fn start_tls(&mut self, rest: &str) -> Result<(), End> {
        if self.encrypted() {
            return self.out_of_order("503 5.5.1 TLS is on already").await;
        }
        if !self.offers_start_tls() {
            return self.out_of_order("502 5.5.1 STARTTLS is not offered").await;
        }
        if !self.greeted {
            return self.out_of_order("503 5.5.1 say EHLO first").await;
        }
        if !rest.is_empty() {
            return self
                .bad_command("501 5.5.4 STARTTLS takes no parameters")
                .await;
        }
        if !is_success(self.answer(Stage::StartTls, "220 2.0.0 go ahead").await?) {
            return Ok(());
        }
        self.shared.set_idle(self.connection, false);
        // RFC 3207, section 5: what came in clear behind the command must not be taken for what comes encrypted.
        self.input.clear();
        self.handshake().await?;
        self.upgraded = true;
        // RFC 3207, section 4.2: everything learnt before is forgotten.
        self.greeted = false;
        self.extended = false;
        self.user = None;
        self.authenticated_as = None;
        self.transaction = None;
        Ok(())
    }

    pub(super) async fn handshake(&mut self) -> Result<(), End> {
        if let Some(action) = self.script(Stage::Tls) {
            // A reply in clear where TLS is due: there is nothing to go on with afterwards.
            self.perform(action, None).await?;
            return Err(End::Cut);
        }
        let Some(config) = self.shared.config.certificate.clone() else {
            return Err(End::Cut);
        };
        self.write_held().await?;
        let Stream::Plain(tcp) = mem::replace(&mut self.stream, Stream::Gone) else {
            return Err(End::Gone);
        };
        let accepting = TlsAcceptor::from(config).accept(tcp).into_fallible();
        match timeout(self.shared.config.idle_timeout, accepting).await {
            Ok(Ok(tls)) => {
                let kind = tls.get_ref().1.handshake_kind();
                self.stream = Stream::Tls(Box::new(tls));
                self.shared.record(Event::Secured {
                    connection: self.connection,
                    is_resumed: kind == Some(HandshakeKind::Resumed),
                });
                Ok(())
            }
            Ok(Err((_, tcp))) => {
                self.stream = Stream::Plain(tcp);
                self.shared.record(Event::HandshakeFailed {
                    connection: self.connection,
                });
                Err(End::Cut)
            }
            Err(_) => {
                self.shared.record(Event::HandshakeFailed {
                    connection: self.connection,
                });
                Err(End::Gone)
            }
        }
    }
}
