//! One connection's conversation: reads commands, keeps the protocol's state, lets the script have its say.

use std::fmt::Write as _;
use std::io;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::BytesMut;
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Action, CloseRequest, Event, Reached, ReceivedMessage, Shared, Stage, TlsMode};

/// RFC 5321 allows 512 bytes; SIZE, BODY, SMTPUTF8 and AUTH parameters add to that.
const COMMAND_LIMIT: usize = 2_048;
/// RFC 4954, section 4.
const AUTH_LINE_LIMIT: usize = 12_288;
/// So many commands that are no commands end a connection: the peer is not speaking SMTP.
const MAX_BAD_COMMANDS: usize = 20;
/// How long a closed connection is read from, so that the last reply is not lost to a reset.
const LINGER: Duration = Duration::from_secs(1);

/// The transport of the moment.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// Between the two, and after a failed handshake.
    Gone,
}

impl Stream {
    async fn read_into(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read_buf(buffer).await,
            Self::Tls(tls) => tls.read_buf(buffer).await,
            Self::Gone => Ok(0),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.write_all(bytes).await,
            Self::Tls(tls) => {
                tls.write_all(bytes).await?;
                tls.flush().await
            }
            Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Ends our direction in good order, with TLS's own goodbye.
    async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.shutdown().await,
            Self::Tls(tls) => tls.shutdown().await,
            Self::Gone => Ok(()),
        }
    }

    fn tcp(&mut self) -> Option<&mut TcpStream> {
        match self {
            Self::Plain(tcp) => Some(tcp),
            Self::Tls(tls) => Some(tls.get_mut().0),
            Self::Gone => None,
        }
    }
}

/// Why a conversation is over.
enum End {
    /// In good order: QUIT, 421, an idle connection that was closed.
    Close,
    /// Cut: FIN, but nothing from TLS.
    Cut,
    /// RST.
    Reset,
    /// The client is gone, or TLS is broken.
    Gone,
}

/// A line from the client.
enum Line {
    Text(String),
    TooLong,
    /// It ended in LF alone, or held bytes that no command has.
    Malformed,
}

/// An open mail transaction.
#[derive(Clone)]
struct Transaction {
    mail_from: String,
    mail_params: Vec<String>,
    smtputf8: bool,
    rcpt_to: Vec<String>,
}

/// A MAIL FROM or RCPT TO command, taken apart.
struct PathCommand {
    address: String,
    params: Vec<String>,
}

pub(super) struct Session {
    shared: Arc<Shared>,
    connection: u64,
    close_requests: mpsc::UnboundedReceiver<CloseRequest>,
    /// Who asked for the close that is going on.
    closer: Option<oneshot::Sender<()>>,
    stream: Stream,
    input: BytesMut,
    /// Replies that wait for those behind them, or for the client's next word.
    held: Vec<u8>,
    upgraded: bool,
    greeted: bool,
    extended: bool,
    /// Who asked to be logged in last, whatever became of it.
    user: Option<String>,
    authenticated_as: Option<String>,
    transaction: Option<Transaction>,
    accepted: usize,
    bad_commands: usize,
}

impl Session {
    pub(super) fn new(
        shared: Arc<Shared>,
        connection: u64,
        close_requests: mpsc::UnboundedReceiver<CloseRequest>,
        socket: TcpStream,
    ) -> Self {
        Self {
            shared,
            connection,
            close_requests,
            closer: None,
            stream: Stream::Plain(socket),
            input: BytesMut::new(),
            held: Vec::new(),
            upgraded: false,
            greeted: false,
            extended: false,
            user: None,
            authenticated_as: None,
            transaction: None,
            accepted: 0,
            bad_commands: 0,
        }
    }

    /// Has the conversation, to its end.
    pub(super) async fn run(mut self, one_too_many: bool) {
        let end = match self.converse(one_too_many).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        self.end(end).await;
    }

    async fn converse(&mut self, one_too_many: bool) -> Result<std::convert::Infallible, End> {
        match self.script(Stage::Connect) {
            None => {}
            Some(action) => {
                self.perform(action, None).await?;
            }
        }
        match self.shared.config.tls {
            TlsMode::Implicit => self.handshake().await?,
            TlsMode::None | TlsMode::StartTls => {}
        }
        if one_too_many {
            self.send("421 4.7.0 too many connections").await?;
            return Err(End::Close);
        }
        let greeting = format!("220 {} ESMTP ready", self.shared.config.host_name);
        let welcome = is_success(self.answer(Stage::Greeting, &greeting).await?);
        loop {
            let line = self.read_line(COMMAND_LIMIT, true).await?;
            self.shared.set_idle(self.connection, false);
            let line = match line {
                Line::Text(line) => line,
                Line::TooLong => {
                    self.bad_command("500 5.5.2 line too long").await?;
                    continue;
                }
                Line::Malformed => {
                    self.bad_command("500 5.5.2 a command is text that ends in CRLF")
                        .await?;
                    continue;
                }
            };
            self.note_command(&line);
            let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
            let verb = verb.to_ascii_uppercase();
            // RFC 5321, section 3.1: after a 554 greeting only QUIT is of use.
            if !welcome && verb != "QUIT" {
                self.send("503 5.5.1 no service here").await?;
                continue;
            }
            self.command(&verb, rest).await?;
            if !self.input.is_empty() && !self.offers("PIPELINING") {
                self.input.clear();
                self.bad_command(
                    "503 5.5.1 commands came ahead of replies, but PIPELINING was not offered",
                )
                .await?;
            }
        }
    }

    async fn command(&mut self, verb: &str, rest: &str) -> Result<(), End> {
        match verb {
            "EHLO" => self.hello(rest, true).await,
            "HELO" => self.hello(rest, false).await,
            "STARTTLS" => self.start_tls(rest).await,
            "AUTH" => self.auth(rest).await,
            "MAIL" => self.mail(rest).await,
            "RCPT" => self.rcpt(rest).await,
            "DATA" => self.data(rest).await,
            "RSET" => {
                self.transaction = None;
                self.answer(Stage::Rset, "250 2.0.0 ok").await.map(drop)
            }
            "NOOP" => self.answer(Stage::Noop, "250 2.0.0 ok").await.map(drop),
            "VRFY" => self
                .send("252 2.1.5 send a message and see")
                .await
                .map(drop),
            "HELP" => self.send("214 2.0.0 see RFC 5321").await.map(drop),
            "EXPN" | "TURN" | "ETRN" => self.send("502 5.5.1 not implemented").await.map(drop),
            "QUIT" => {
                self.answer(Stage::Quit, "221 2.0.0 bye").await?;
                Err(End::Close)
            }
            _ => self.bad_command("500 5.5.1 unknown command").await,
        }
    }

    async fn hello(&mut self, name: &str, extended: bool) -> Result<(), End> {
        if name.trim().is_empty() {
            return self.bad_command("501 5.5.4 who is there?").await;
        }
        self.transaction = None;
        let config = &self.shared.config;
        let mut lines = vec![format!("{} at your service", config.host_name)];
        if extended {
            lines.extend(self.extensions());
        }
        let mut reply = String::new();
        for (index, line) in lines.iter().enumerate() {
            let separator = if index + 1 == lines.len() { ' ' } else { '-' };
            let _ = writeln!(reply, "250{separator}{line}");
        }
        let stage = if self.upgraded {
            Stage::EhloAfterTls
        } else {
            Stage::Ehlo
        };
        if is_success(self.answer(stage, reply.trim_end()).await?) {
            self.greeted = true;
            self.extended = extended;
        }
        Ok(())
    }

    /// What EHLO offers at this moment.
    fn extensions(&self) -> Vec<String> {
        let config = &self.shared.config;
        let mut offered = config
            .extensions
            .iter()
            .filter(|keyword| !self.hidden(keyword))
            .map(|keyword| {
                if keyword.eq_ignore_ascii_case("SIZE") {
                    format!("SIZE {}", config.max_message_size)
                } else {
                    keyword.clone()
                }
            })
            .collect::<Vec<_>>();
        if self.offers_start_tls() {
            offered.push("STARTTLS".to_owned());
        }
        if self.offers_auth() {
            offered.push(format!("AUTH {}", config.auth_mechanisms.join(" ")));
        }
        offered
    }

    fn hidden(&self, keyword: &str) -> bool {
        let name = keyword.split(' ').next().unwrap_or_default();
        self.shared
            .config
            .hidden_extensions
            .iter()
            .any(|hidden| hidden.eq_ignore_ascii_case(name))
    }

    fn offers(&self, keyword: &str) -> bool {
        self.shared.config.extensions.iter().any(|offered| {
            let name = offered.split(' ').next().unwrap_or_default();
            name.eq_ignore_ascii_case(keyword) && !self.hidden(offered)
        })
    }

    fn offers_start_tls(&self) -> bool {
        self.shared.config.tls == TlsMode::StartTls && !self.encrypted() && !self.hidden("STARTTLS")
    }

    fn offers_auth(&self) -> bool {
        let config = &self.shared.config;
        !config.auth_mechanisms.is_empty()
            && !self.hidden("AUTH")
            && (self.encrypted() || config.auth_without_tls)
            && self.authenticated_as.is_none()
    }

    fn encrypted(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    async fn start_tls(&mut self, rest: &str) -> Result<(), End> {
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

    async fn handshake(&mut self) -> Result<(), End> {
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

    async fn auth(&mut self, rest: &str) -> Result<(), End> {
        let config = &self.shared.config;
        if !self.greeted {
            return self.out_of_order("503 5.5.1 say EHLO first").await;
        }
        if self.authenticated_as.is_some() || self.transaction.is_some() {
            return self.out_of_order("503 5.5.1 not now").await;
        }
        if config.auth_mechanisms.is_empty() || self.hidden("AUTH") {
            return self.out_of_order("502 5.5.1 AUTH is not offered").await;
        }
        if !self.encrypted() && !config.auth_without_tls {
            let refusal = "538 5.7.11 encryption required for requested authentication mechanism";
            return self.out_of_order(refusal).await;
        }
        let (mechanism, initial) = match rest.split_once(' ') {
            Some((mechanism, initial)) => {
                (mechanism.to_ascii_uppercase(), Some(initial.to_owned()))
            }
            None => (rest.to_ascii_uppercase(), None),
        };
        if !config.auth_mechanisms.contains(&mechanism) {
            return self
                .out_of_order("504 5.5.4 unknown authentication mechanism")
                .await;
        }
        let presented = match mechanism.as_str() {
            "PLAIN" => self.auth_plain(initial).await?,
            "LOGIN" => self.auth_login(initial).await?,
            _ => {
                return self
                    .out_of_order("504 5.5.4 that mechanism is offered, but not known")
                    .await;
            }
        };
        let Some((user, password)) = presented else {
            return Ok(());
        };
        self.user = Some(user.clone());
        let is_login = self.shared.is_login(&user, &password);
        if is_login && !self.shared.log_in(self.connection, &user) {
            self.send("421 4.7.0 too many connections of this login")
                .await?;
            return Err(End::Close);
        }
        let outcome = if is_login {
            "235 2.7.0 authenticated"
        } else {
            "535 5.7.8 authentication credentials invalid"
        };
        if is_success(self.answer(Stage::Auth, outcome).await?) {
            self.authenticated_as = Some(user);
        }
        Ok(())
    }

    /// RFC 4616. `None`: the exchange was answered already.
    async fn auth_plain(
        &mut self,
        initial: Option<String>,
    ) -> Result<Option<(String, String)>, End> {
        let response = match initial {
            Some(response) => response,
            None => match self.challenge("334 ").await? {
                Some(response) => response,
                None => return Ok(None),
            },
        };
        let Some(decoded) = self.decode(&response).await? else {
            return Ok(None);
        };
        let fields = decoded.split('\0').collect::<Vec<_>>();
        let [authorize_as, user, password] = fields.as_slice() else {
            self.out_of_order("501 5.5.2 PLAIN has three fields")
                .await?;
            return Ok(None);
        };
        if !authorize_as.is_empty() && authorize_as != user {
            self.out_of_order("535 5.7.8 nobody may act for somebody else")
                .await?;
            return Ok(None);
        }
        Ok(Some(((*user).to_owned(), (*password).to_owned())))
    }

    /// The mechanism that no RFC describes and every server has.
    async fn auth_login(
        &mut self,
        initial: Option<String>,
    ) -> Result<Option<(String, String)>, End> {
        let user = match initial {
            Some(response) => response,
            None => match self.challenge("334 VXNlcm5hbWU6").await? {
                Some(response) => response,
                None => return Ok(None),
            },
        };
        let Some(user) = self.decode(&user).await? else {
            return Ok(None);
        };
        let Some(password) = self.challenge("334 UGFzc3dvcmQ6").await? else {
            return Ok(None);
        };
        let Some(password) = self.decode(&password).await? else {
            return Ok(None);
        };
        Ok(Some((user, password)))
    }

    /// Sends a challenge and reads the answer. `None`: the exchange was ended and answered.
    async fn challenge(&mut self, challenge: &str) -> Result<Option<String>, End> {
        self.send(challenge).await?;
        let line = self.read_line(AUTH_LINE_LIMIT, false).await?;
        self.shared.note(self.connection, "C: ***".to_owned());
        match line {
            Line::Text(line) if line == "*" => {
                self.send("501 5.7.0 authentication cancelled").await?;
                Ok(None)
            }
            Line::Text(line) => Ok(Some(line)),
            Line::TooLong => {
                self.send("500 5.5.6 authentication exchange line is too long")
                    .await?;
                Ok(None)
            }
            Line::Malformed => {
                self.send("501 5.5.2 not base64").await?;
                Ok(None)
            }
        }
    }

    /// Decodes a response of an AUTH exchange. `None`: it was not base64, and the client was told.
    async fn decode(&mut self, response: &str) -> Result<Option<String>, End> {
        // RFC 4954: "=" is an initial response of no bytes.
        let encoded = if response == "=" { "" } else { response };
        let decoded = BASE64
            .decode(encoded)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        if decoded.is_none() {
            self.send("501 5.5.2 not base64").await?;
        }
        Ok(decoded)
    }

    async fn mail(&mut self, rest: &str) -> Result<(), End> {
        let config = &self.shared.config;
        if !self.greeted {
            return self.out_of_order("503 5.5.1 say EHLO first").await;
        }
        if config.require_tls && !self.encrypted() {
            return self
                .out_of_order("530 5.7.0 must issue a STARTTLS command first")
                .await;
        }
        if self.shared.wants_login() && self.authenticated_as.is_none() {
            return self.out_of_order("530 5.7.0 authentication required").await;
        }
        if self.transaction.is_some() {
            return self
                .out_of_order("503 5.5.1 a transaction is open already")
                .await;
        }
        if config
            .max_messages_per_session
            .is_some_and(|limit| self.accepted >= limit)
        {
            self.send("421 4.7.0 enough messages on one connection")
                .await?;
            return Err(End::Close);
        }
        let Some(command) = path_command(rest, "FROM:") else {
            return self
                .bad_command("501 5.5.4 syntax: MAIL FROM:<address>")
                .await;
        };
        if let Some(refusal) = self.refused_mail_parameter(&command.params) {
            return self.out_of_order(&refusal).await;
        }
        let smtputf8 = command
            .params
            .iter()
            .any(|param| param.eq_ignore_ascii_case("SMTPUTF8"));
        if let Some(refusal) = refused_address(&command.address, smtputf8, true) {
            return self.out_of_order(refusal).await;
        }
        if is_success(self.answer(Stage::Mail, "250 2.1.0 ok").await?) {
            self.shared.set_idle(self.connection, false);
            self.transaction = Some(Transaction {
                mail_from: command.address,
                mail_params: command.params,
                smtputf8,
                rcpt_to: Vec::new(),
            });
        }
        Ok(())
    }

    fn refused_mail_parameter(&self, params: &[String]) -> Option<String> {
        if !self.extended && !params.is_empty() {
            return Some("555 5.5.4 parameters need EHLO".to_owned());
        }
        params.iter().find_map(|param| {
            let (name, value) = param.split_once('=').unwrap_or((param, ""));
            let known = match name.to_ascii_uppercase().as_str() {
                "SIZE" if self.offers("SIZE") => match value.parse::<usize>() {
                    Ok(size) if size > self.shared.config.max_message_size => {
                        return Some("552 5.3.4 message too big".to_owned());
                    }
                    Ok(_) => true,
                    Err(_) => return Some("501 5.5.4 SIZE is a number".to_owned()),
                },
                "BODY" => {
                    self.offers("8BITMIME")
                        && matches!(value.to_ascii_uppercase().as_str(), "7BIT" | "8BITMIME")
                }
                "SMTPUTF8" => self.offers("SMTPUTF8") && value.is_empty(),
                "AUTH" => !self.shared.config.auth_mechanisms.is_empty(),
                "RET" | "ENVID" => self.offers("DSN"),
                _ => false,
            };
            (!known).then(|| format!("555 5.5.4 {name} is not offered"))
        })
    }

    async fn rcpt(&mut self, rest: &str) -> Result<(), End> {
        let Some(transaction) = &self.transaction else {
            return self.out_of_order("503 5.5.1 need MAIL first").await;
        };
        let (smtputf8, recipients) = (transaction.smtputf8, transaction.rcpt_to.len());
        let Some(command) = path_command(rest, "TO:") else {
            return self
                .bad_command("501 5.5.4 syntax: RCPT TO:<address>")
                .await;
        };
        if let Some(unknown) = command.params.iter().find(|param| {
            let name = param
                .split('=')
                .next()
                .unwrap_or_default()
                .to_ascii_uppercase();
            !(self.offers("DSN") && matches!(name.as_str(), "NOTIFY" | "ORCPT"))
        }) {
            let refusal = format!("555 5.5.4 {unknown} is not offered");
            return self.out_of_order(&refusal).await;
        }
        if let Some(refusal) = refused_address(&command.address, smtputf8, false) {
            return self.out_of_order(refusal).await;
        }
        if recipients >= self.shared.config.max_recipients {
            return self.out_of_order("452 4.5.3 too many recipients").await;
        }
        let action = self.script_of(Stage::Rcpt, Some(&command.address), None);
        let code = match action {
            Some(action) => self.perform(action, Some("250 2.1.5 ok")).await?,
            None => self.send("250 2.1.5 ok").await?,
        };
        if let (true, Some(transaction)) = (is_success(code), &mut self.transaction) {
            transaction.rcpt_to.push(command.address);
        }
        Ok(())
    }

    async fn data(&mut self, rest: &str) -> Result<(), End> {
        if !rest.is_empty() {
            return self.bad_command("501 5.5.4 DATA takes no parameters").await;
        }
        match &self.transaction {
            None => return self.out_of_order("503 5.5.1 need MAIL first").await,
            Some(transaction)
                if transaction.rcpt_to.is_empty()
                    && !self.shared.config.data_without_recipients =>
            {
                return self.out_of_order("554 5.5.1 no valid recipients").await;
            }
            Some(_) => {}
        }
        let code = self
            .answer(Stage::Data, "354 end with a line that holds a dot alone")
            .await?;
        if code / 100 != 3 {
            return Ok(());
        }
        let body = self.read_body().await?;
        self.shared
            .note(self.connection, format!("C: <{} bytes>", body.received));
        let Some(transaction) = self.transaction.take() else {
            return Err(End::Gone);
        };
        let left_open = self
            .shared
            .config
            .keeps_refused_transactions
            .then(|| transaction.clone());
        let accepted = self.accepted;
        self.judge(transaction, body).await?;
        if self.accepted == accepted {
            self.transaction = left_open;
        }
        Ok(())
    }

    /// Takes a whole message, or refuses it.
    async fn judge(&mut self, transaction: Transaction, body: Body) -> Result<(), End> {
        if transaction.rcpt_to.is_empty() {
            return self.out_of_order("554 5.5.1 no valid recipients").await;
        }
        if body.received > self.shared.config.max_message_size {
            return self.out_of_order("552 5.3.4 message too big").await;
        }
        if body.line_too_long {
            return self
                .out_of_order("554 5.6.0 a line of the message is too long")
                .await;
        }
        let message = ReceivedMessage {
            mail_from: transaction.mail_from,
            rcpt_to: transaction.rcpt_to,
            mail_params: transaction.mail_params,
            data: body.data,
            authenticated_as: self.authenticated_as.clone(),
            over_tls: self.encrypted(),
            connection: self.connection,
        };
        self.finish_message(message).await
    }

    async fn finish_message(&mut self, message: ReceivedMessage) -> Result<(), End> {
        let reply = format!(
            "250 2.0.0 accepted as {}.{}",
            self.connection,
            self.accepted + 1
        );
        let action = self.script_of(Stage::Body, None, Some(&message));
        let accepted = match &action {
            None | Some(Action::AcceptThenClose | Action::Inject(_) | Action::Trickle) => true,
            Some(Action::Reply(text) | Action::ReplyThenClose(text)) => is_success(code_of(text)),
            Some(Action::Close | Action::Reset | Action::Hang) => false,
        };
        if accepted {
            self.accepted += 1;
            self.shared.accept_message(message);
        }
        match action {
            Some(action) => self.perform(action, Some(&reply)).await?,
            None => self.send(&reply).await?,
        };
        Ok(())
    }

    /// Reads up to the final dot. A message over the limit is read to its end, but not kept.
    async fn read_body(&mut self) -> Result<Body, End> {
        let mut body = Body::default();
        let limit = self.shared.config.max_message_size;
        let line_limit = self.shared.config.max_text_line;
        let mut searched = 0;
        // Length of a line whose beginning is no longer in the buffer.
        let mut carried = 0;
        loop {
            // Only CRLF ends a line here: whoever takes a bare LF for one lets mail be smuggled in.
            let found = self.input[searched..]
                .windows(2)
                .position(|pair| pair == b"\r\n")
                .map(|at| searched + at + 2);
            if let Some(end) = found {
                let line = self.input.split_to(end);
                searched = 0;
                if carried == 0 && line.as_ref() == b".\r\n" {
                    return Ok(body);
                }
                body.push(&line, carried == 0, limit);
                body.line_too_long |= carried + line.len() > line_limit;
                carried = 0;
                continue;
            }
            // A line that never ends must not be held in memory; its last byte may be the CR of its end.
            if self.input.len() > line_limit.max(COMMAND_LIMIT) {
                let piece = self.input.split_to(self.input.len() - 1);
                body.push(&piece, carried == 0, limit);
                carried += piece.len();
            }
            searched = self.input.len().saturating_sub(1);
            self.fill(false).await?;
        }
    }

    async fn read_line(&mut self, limit: usize, between_commands: bool) -> Result<Line, End> {
        let mut too_long = false;
        let mut searched = 0;
        loop {
            if let Some(end) = self.input[searched..]
                .iter()
                .position(|byte| *byte == b'\n')
            {
                let mut line = self.input.split_to(searched + end + 1);
                if too_long || line.len() > limit {
                    return Ok(Line::TooLong);
                }
                if !line.ends_with(b"\r\n") {
                    return Ok(Line::Malformed);
                }
                line.truncate(line.len() - 2);
                if line.iter().any(u8::is_ascii_control) {
                    return Ok(Line::Malformed);
                }
                return Ok(match String::from_utf8(line.to_vec()) {
                    Ok(text) => Line::Text(text),
                    Err(_) => Line::Malformed,
                });
            }
            if self.input.len() > limit {
                too_long = true;
                self.input.clear();
            }
            searched = self.input.len();
            self.fill(between_commands).await?;
        }
    }

    /// Waits for bytes from the client; between commands also for a request to close.
    async fn fill(&mut self, between_commands: bool) -> Result<(), End> {
        self.write_held().await?;
        let idle = between_commands && self.input.is_empty() && self.transaction.is_none();
        self.shared.set_idle(self.connection, idle);
        let deadline = self.shared.config.idle_timeout;
        let read = loop {
            tokio::select! {
                biased;
                Some(request) = self.close_requests.recv() => {
                    if idle {
                        self.closer = Some(request.done);
                        if let Some(action) = request.action {
                            self.perform(action, None).await?;
                        }
                        return Err(End::Close);
                    }
                    // Busy after all: dropping the request tells so.
                }
                read = timeout(deadline, self.stream.read_into(&mut self.input)) => break read,
            }
        };
        match read {
            Ok(Ok(0) | Err(_)) => Err(End::Gone),
            Ok(Ok(_)) => Ok(()),
            Err(_) => {
                self.send("421 4.4.2 nothing heard for too long").await?;
                Err(End::Close)
            }
        }
    }

    fn reached(&self, stage: Stage) {
        self.shared.record(Event::Reached {
            connection: self.connection,
            stage,
        });
    }

    fn script(&self, stage: Stage) -> Option<Action> {
        self.script_of(stage, None, None)
    }

    fn script_of(
        &self,
        stage: Stage,
        recipient: Option<&str>,
        message: Option<&ReceivedMessage>,
    ) -> Option<Action> {
        self.reached(stage);
        self.shared.next_action(Reached {
            connection: self.connection,
            stage,
            user: self.user.as_deref(),
            recipient,
            message,
        })
    }

    /// Answers a stage: as the script says, otherwise with `reply`. Returns the code that was sent.
    async fn answer(&mut self, stage: Stage, reply: &str) -> Result<u16, End> {
        match self.script(stage) {
            Some(action) => self.perform(action, Some(reply)).await,
            None => self.send(reply).await,
        }
    }

    /// Does what the script says; `reply` is what would have been sent, where there is such a thing.
    async fn perform(&mut self, action: Action, reply: Option<&str>) -> Result<u16, End> {
        match action {
            Action::Reply(text) => self.send_verbatim(&text).await,
            Action::ReplyThenClose(text) => {
                self.send_verbatim(&text).await?;
                Err(End::Close)
            }
            Action::Close | Action::AcceptThenClose => Err(End::Cut),
            Action::Reset => Err(End::Reset),
            Action::Hang => self.hang().await,
            Action::Inject(extra) => {
                let text = reply.unwrap_or_default().to_owned();
                let mut bytes = self.wire(&text);
                self.note_reply(&bytes);
                bytes.extend_from_slice(&extra);
                self.write(&bytes).await?;
                Ok(code_of(&text))
            }
            Action::Trickle => {
                let text = reply.unwrap_or_default().to_owned();
                let bytes = self.wire(&text);
                self.note_reply(&bytes);
                for byte in &bytes {
                    self.write(&[*byte]).await?;
                    // Gives the client the time to see a reply that is not whole yet.
                    tokio::task::yield_now().await;
                }
                Ok(code_of(&text))
            }
        }
    }

    /// Says nothing until the client gives up.
    async fn hang(&mut self) -> Result<u16, End> {
        self.write_held().await?;
        self.shared.set_idle(self.connection, false);
        let mut ignored = BytesMut::with_capacity(4_096);
        loop {
            ignored.clear();
            match self.stream.read_into(&mut ignored).await {
                Ok(0) | Err(_) => return Err(End::Gone),
                Ok(_) => {}
            }
        }
    }

    async fn bad_command(&mut self, reply: &str) -> Result<(), End> {
        self.bad_commands += 1;
        if self.bad_commands > MAX_BAD_COMMANDS {
            self.send("421 4.7.0 too many errors").await?;
            return Err(End::Close);
        }
        self.send(reply).await.map(drop)
    }

    /// Refuses a command that is well-formed but not for this moment or this server.
    async fn out_of_order(&mut self, reply: &str) -> Result<(), End> {
        self.send(reply).await.map(drop)
    }

    /// Sends a reply of the server's own and returns its code.
    async fn send(&mut self, reply: &str) -> Result<u16, End> {
        let bytes = self.wire(reply);
        self.send_bytes(&bytes).await?;
        Ok(code_of(reply))
    }

    /// Sends a reply of the script's and returns its code.
    async fn send_verbatim(&mut self, reply: &str) -> Result<u16, End> {
        let bytes = with_crlf(reply.lines());
        self.send_bytes(&bytes).await?;
        Ok(code_of(reply))
    }

    async fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), End> {
        // Before the write: whoever has read this reply may rely on the connection being idle.
        let idle = self.transaction.is_none() && self.input.is_empty();
        self.shared.set_idle(self.connection, idle);
        self.note_reply(bytes);
        if self.shared.config.replies_together && !self.input.is_empty() {
            self.held.extend_from_slice(bytes);
            return Ok(());
        }
        let delay = self.shared.config.reply_delay;
        // Commands that came together are one round trip.
        if !delay.is_zero() && self.input.is_empty() {
            tokio::time::sleep(delay).await;
        }
        self.write(bytes).await
    }

    async fn write_held(&mut self) -> Result<(), End> {
        if self.held.is_empty() {
            return Ok(());
        }
        self.write(&[]).await
    }

    /// Writes what was held and these bytes.
    async fn write(&mut self, bytes: &[u8]) -> Result<(), End> {
        let mut held = mem::take(&mut self.held);
        held.extend_from_slice(bytes);
        let bytes = held.as_slice();
        match timeout(self.shared.config.idle_timeout, self.stream.write(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(End::Gone),
        }
    }

    /// A reply as it goes on the wire: enhanced status codes only where they were offered.
    fn wire(&self, reply: &str) -> Vec<u8> {
        if self.offers("ENHANCEDSTATUSCODES") {
            return with_crlf(reply.lines());
        }
        let plain = reply.lines().map(|line| {
            let mut words = line.splitn(3, ' ');
            match (words.next(), words.next(), words.next()) {
                (Some(code), Some(status), Some(text)) if status.split('.').count() == 3 => {
                    format!("{code} {text}")
                }
                _ => line.to_owned(),
            }
        });
        with_crlf(plain)
    }

    fn note_reply(&self, bytes: &[u8]) {
        for line in String::from_utf8_lossy(bytes).lines() {
            self.shared.note(self.connection, format!("S: {line}"));
        }
    }

    fn note_command(&self, line: &str) {
        let mut words = line.splitn(3, ' ');
        let shown = match (words.next(), words.next(), words.next()) {
            (Some(verb), Some(mechanism), Some(_)) if verb.eq_ignore_ascii_case("AUTH") => {
                format!("C: {verb} {mechanism} ***")
            }
            _ => format!("C: {line}"),
        };
        self.shared.note(self.connection, shown);
    }

    async fn end(mut self, end: End) {
        match end {
            // Who closes has said what it had to say; a reset takes it along.
            End::Close | End::Cut => {
                let _ = self.write_held().await;
            }
            End::Reset | End::Gone => {}
        }
        match end {
            End::Close => {
                let _ = timeout(LINGER, self.stream.shutdown()).await;
            }
            End::Cut => {
                if let Some(tcp) = self.stream.tcp() {
                    let _ = tcp.shutdown().await;
                }
            }
            End::Reset => {
                if let Some(tcp) = self.stream.tcp() {
                    let _ = tcp.set_zero_linger();
                }
                drop(self.stream);
                self.shared.closed(self.connection);
                if let Some(closer) = self.closer {
                    let _ = closer.send(());
                }
                return;
            }
            End::Gone => {
                self.shared.closed(self.connection);
                return;
            }
        }
        self.shared.closed(self.connection);
        if let Some(closer) = self.closer.take() {
            let _ = closer.send(());
        }
        // Closing a socket that still has unread bytes resets it, and a reset takes the last reply along: read on
        // until the client has closed as well, but not for long.
        let drained = async {
            let mut ignored = [0; 4_096];
            if let Some(tcp) = self.stream.tcp() {
                while matches!(tcp.read(&mut ignored).await, Ok(read) if read > 0) {}
            }
        };
        let _ = timeout(LINGER, drained).await;
    }
}

/// A message's text while it comes in.
#[derive(Default)]
struct Body {
    data: Vec<u8>,
    /// How long it is, kept or not.
    received: usize,
    line_too_long: bool,
}

impl Body {
    /// Adds a line or a piece of one; a leading dot of a line was stuffed (RFC 5321, section 4.5.2).
    fn push(&mut self, piece: &[u8], at_line_start: bool, limit: usize) {
        let piece = match piece {
            [b'.', rest @ ..] if at_line_start => rest,
            whole => whole,
        };
        self.received += piece.len();
        if self.received > limit {
            self.data = Vec::new();
        } else {
            self.data.extend_from_slice(piece);
        }
    }
}

fn with_crlf(lines: impl Iterator<Item = impl AsRef<str>>) -> Vec<u8> {
    let mut wire = Vec::new();
    for line in lines {
        wire.extend_from_slice(line.as_ref().as_bytes());
        wire.extend_from_slice(b"\r\n");
    }
    wire
}

/// Whether a code says that the command was carried out (RFC 5321, section 4.2.1).
const fn is_success(code: u16) -> bool {
    code / 100 == 2
}

/// The code of a reply's last line; 0 when it has none.
fn code_of(reply: &str) -> u16 {
    reply
        .lines()
        .last()
        .and_then(|line| line.get(..3))
        .and_then(|code| code.parse().ok())
        .unwrap_or(0)
}

/// Takes `FROM:<address> PARAM PARAM=value` apart. The keyword is given in capitals, with its colon.
fn path_command(rest: &str, keyword: &str) -> Option<PathCommand> {
    let start = rest.get(..keyword.len())?;
    if !start.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let path = rest[keyword.len()..].strip_prefix('<')?;
    let end = closing_bracket(path)?;
    let (address, after) = (&path[..end], &path[end + 1..]);
    if !after.is_empty() && !after.starts_with(' ') {
        return None;
    }
    Some(PathCommand {
        address: address.to_owned(),
        params: after
            .split(' ')
            .filter(|param| !param.is_empty())
            .map(str::to_owned)
            .collect(),
    })
}

/// Where the path ends; a `>` inside of a quoted local part does not end it.
fn closing_bracket(path: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, character) in path.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '>' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// The refusal of an address that no server would take.
fn refused_address(address: &str, smtputf8: bool, may_be_null: bool) -> Option<&'static str> {
    if address.is_empty() {
        return (!may_be_null).then_some("501 5.1.3 an address is missing");
    }
    if !address.is_ascii() && !smtputf8 {
        return Some("553 5.6.7 the address needs SMTPUTF8");
    }
    let well_formed = address.eq_ignore_ascii_case("postmaster")
        || address.rsplit_once('@').is_some_and(|(local, domain)| {
            !local.is_empty() && !domain.is_empty() && !domain.contains([' ', '<', '>'])
        });
    (!well_formed).then_some("553 5.1.3 that is not an address")
}
