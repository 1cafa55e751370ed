//! A server's settings.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{net::TcpListener, sync::watch};

use super::{
    ServerState, Shared, SmtpServer, accept,
    script::{Action, OnMessage, Script, TlsMode},
    stage::Stage,
};

/// A server's settings and script; [`SmtpServer::builder`] makes one.
pub struct SmtpServerBuilder {
    pub(super) listener: Option<TcpListener>,
    pub(super) config: Config,
    pub(super) accounts: HashMap<String, String>,
    pub(super) script: Script,
}

/// What does not change while the server runs.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a habit of its own, which a server has or has not"
)]
pub(super) struct Config {
    pub(super) host_name: String,
    pub(super) tls: TlsMode,
    pub(super) certificate: Option<Arc<ServerConfig>>,
    pub(super) require_tls: bool,
    pub(super) auth_mechanisms: Vec<String>,
    pub(super) auth_without_tls: bool,
    pub(super) extensions: Vec<String>,
    pub(super) hidden_extensions: Vec<String>,
    pub(super) max_message_size: usize,
    pub(super) max_text_line: usize,
    pub(super) max_recipients: usize,
    pub(super) data_without_recipients: bool,
    pub(super) keeps_refused_transactions: bool,
    pub(super) replies_together: bool,
    pub(super) max_connections: usize,
    pub(super) max_connections_per_login: usize,
    pub(super) reply_delay: Duration,
    pub(super) max_messages_per_session: Option<usize>,
    pub(super) idle_timeout: Duration,
    pub(super) kept_messages: usize,
    pub(super) on_message: Option<OnMessage>,
}

impl SmtpServerBuilder {
    /// Offers TLS with this certificate. Without it the server speaks in clear only.
    #[must_use]
    pub fn tls(mut self, mode: TlsMode, config: Arc<ServerConfig>) -> Self {
        self.config.tls = mode;
        self.config.certificate = Some(config);
        self
    }

    /// Refuses MAIL (`530 5.7.0`) until the connection is encrypted.
    #[must_use]
    pub fn require_tls(mut self) -> Self {
        self.config.require_tls = true;
        self
    }

    /// Demands a login before MAIL, by AUTH PLAIN or LOGIN, over TLS only, and takes this one. Called again, it
    /// adds another user, or gives the same one another password.
    #[must_use]
    pub fn credentials(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.accounts.insert(user.into(), password.into());
        if self.config.auth_mechanisms.is_empty() {
            self.config.auth_mechanisms = vec!["PLAIN".to_owned(), "LOGIN".to_owned()];
        }
        self
    }

    /// The mechanisms that EHLO offers. Without [`Self::credentials`] AUTH is optional and any password is right.
    #[must_use]
    pub fn auth_mechanisms(mut self, mechanisms: &[&str]) -> Self {
        self.config.auth_mechanisms = mechanisms
            .iter()
            .map(|name| name.to_ascii_uppercase())
            .collect();
        self
    }

    /// Offers and accepts AUTH on a connection that is not encrypted.
    #[must_use]
    pub fn auth_without_tls(mut self) -> Self {
        self.config.auth_without_tls = true;
        self
    }

    /// Queues an action for the next time this stage is reached on any connection. Actions of one stage are used
    /// once each, in order; then the stage is ordinary again (or as [`Self::always`] says).
    #[must_use]
    pub fn on(mut self, stage: Stage, action: Action) -> Self {
        self.script.once.entry(stage).or_default().push_back(action);
        self
    }

    /// Sets the action for every time this stage is reached and no queued action is left.
    #[must_use]
    pub fn always(mut self, stage: Stage, action: Action) -> Self {
        self.script.always.insert(stage, action);
        self
    }

    /// Sets the action for every RCPT TO of this address, before any other action of [`Stage::Rcpt`].
    #[must_use]
    pub fn on_rcpt(mut self, address: impl AsRef<str>, action: Action) -> Self {
        self.script
            .recipients
            .insert(address.as_ref().to_ascii_lowercase(), action);
        self
    }

    /// Sets the action for every time that this user reaches this stage, from [`Stage::Auth`] on, before any
    /// action of the stage itself.
    #[must_use]
    pub fn always_for(mut self, user: impl Into<String>, stage: Stage, action: Action) -> Self {
        self.script.users.insert((user.into(), stage), action);
        self
    }

    /// Offers exactly these extensions, as EHLO shows them. STARTTLS and AUTH come from [`Self::tls`] and
    /// [`Self::credentials`]; SIZE without a number is completed with the server's limit.
    #[must_use]
    pub fn extensions(mut self, keywords: &[&str]) -> Self {
        self.config.extensions = keywords.iter().map(ToString::to_string).collect();
        self
    }

    /// Neither offers nor accepts this extension; `STARTTLS` and `AUTH` can be hidden as well.
    #[must_use]
    pub fn without_extension(mut self, keyword: &str) -> Self {
        self.config
            .hidden_extensions
            .push(keyword.to_ascii_uppercase());
        self
    }

    /// After this many accepted messages the next MAIL is answered `421 4.7.0` and the connection closed.
    #[must_use]
    pub fn max_messages_per_session(mut self, messages: usize) -> Self {
        self.config.max_messages_per_session = Some(messages);
        self
    }

    /// More connections than this at the same time are greeted `421 4.7.0` and closed (default 1,000).
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.config.max_connections = connections;
        self
    }

    /// More connections of one login than this at the same time are answered `421 4.7.0` at AUTH and closed, as
    /// Dovecot's `mail_max_userip_connections` does (default 1,000).
    #[must_use]
    pub fn max_connections_per_login(mut self, connections: usize) -> Self {
        self.config.max_connections_per_login = connections;
        self
    }

    /// The reply to the last of the commands that came together is late by this (default none): the round trip to a
    /// server that is far away.
    #[must_use]
    pub fn reply_delay(mut self, delay: Duration) -> Self {
        self.config.reply_delay = delay;
        self
    }

    /// The largest message in bytes (default 25 MiB); what is longer is answered `552 5.3.4`.
    #[must_use]
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.config.max_message_size = bytes;
        self
    }

    /// The longest line of a message in bytes with its CRLF (default 1,000, RFC 5321); a longer one is `554 5.6.0`.
    #[must_use]
    pub fn max_text_line(mut self, bytes: usize) -> Self {
        self.config.max_text_line = bytes;
        self
    }

    /// The most recipients of one message (default 100); further ones are answered `452 4.5.3`.
    #[must_use]
    pub fn max_recipients(mut self, recipients: usize) -> Self {
        self.config.max_recipients = recipients;
        self
    }

    /// Asks for the message although no recipient was taken, and refuses it at its end (`554 5.5.1`), as RFC 2920
    /// section 3.1 has it for servers that were given DATA in one group with RCPT.
    #[must_use]
    pub fn data_without_recipients(mut self) -> Self {
        self.config.data_without_recipients = true;
        self
    }

    /// Leaves the transaction open after a message that was refused at its end, as Postfix does for some refusals:
    /// only RSET, EHLO or a new connection ends it, and MAIL is answered by `503 5.5.1`.
    #[must_use]
    pub fn keeps_refused_transactions(mut self) -> Self {
        self.config.keeps_refused_transactions = true;
        self
    }

    /// Answers commands that came together in one write, as RFC 2920 section 3.2 wants it. Without it each reply is a
    /// segment (and a TLS record) of its own, which is harder on a client.
    #[must_use]
    pub fn replies_together(mut self) -> Self {
        self.config.replies_together = true;
        self
    }

    /// How long a connection may say nothing before `421 4.4.2` ends it (default 5 minutes).
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.config.idle_timeout = timeout;
        self
    }

    /// How many messages [`SmtpServer::messages`] holds (default 1,000); the oldest go first.
    #[must_use]
    pub fn keep_messages(mut self, messages: usize) -> Self {
        self.config.kept_messages = messages;
        self
    }

    /// Called with every accepted message, before its `250` is sent.
    #[must_use]
    pub fn on_message(mut self, callback: OnMessage) -> Self {
        self.config.on_message = Some(callback);
        self
    }

    /// The name in the greeting and in EHLO's reply (default `localhost`).
    #[must_use]
    pub fn host_name(mut self, name: impl Into<String>) -> Self {
        self.config.host_name = name.into();
        self
    }

    /// The socket to listen on (default: a free port of 127.0.0.1).
    #[must_use]
    pub fn listener(mut self, listener: TcpListener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Starts the server on the current tokio runtime. It runs until the [`SmtpServer`] is dropped.
    ///
    /// # Panics
    /// When no port can be bound on loopback.
    pub async fn start(self) -> SmtpServer {
        let listener = match self.listener {
            Some(listener) => listener,
            None => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .await
                .expect("loopback has a free port"),
        };
        let addr = listener
            .local_addr()
            .expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            config: self.config,
            state: Mutex::new(ServerState {
                accounts: self.accounts,
                script: self.script,
                ..ServerState::default()
            }),
            changed: watch::Sender::new(()),
        });
        let acceptor = tokio::spawn(accept(listener, Arc::clone(&shared)));
        SmtpServer {
            shared,
            addr,
            acceptor,
        }
    }
}
