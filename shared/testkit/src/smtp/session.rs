//! One connection's conversation: reads commands, keeps the protocol's state, lets the script have its say.

mod auth;
mod ehlo;
mod tls;
mod transaction;
mod wire;

use std::sync::Arc;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use super::{Action, CloseRequest, Event, Reached, ReceivedMessage, Shared, Stage, TlsMode};

use self::wire::Stream;

/// RFC 5321 allows 512 bytes; SIZE, BODY, SMTPUTF8 and AUTH parameters add to that.
const COMMAND_LIMIT: usize = 2_048;
/// So many commands that are no commands end a connection: the peer is not speaking SMTP.
const MAX_BAD_COMMANDS: usize = 20;
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
enum ReadLine {
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
                ReadLine::Text(line) => line,
                ReadLine::TooLong => {
                    self.bad_command("500 5.5.2 line too long").await?;
                    continue;
                }
                ReadLine::Malformed => {
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
