//! A message: MAIL, RCPT, DATA and its end.

use super::{
    super::{Action, ReceivedMessage, Stage},
    COMMAND_LIMIT, End, Session, Transaction, code_of, is_success,
};

/// A MAIL FROM or RCPT TO command, taken apart.
struct PathCommand {
    address: String,
    params: Vec<String>,
}

impl Session {
    pub(super) async fn mail(&mut self, rest: &str) -> Result<(), End> {
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

    pub(super) async fn rcpt(&mut self, rest: &str) -> Result<(), End> {
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

    pub(super) async fn data(&mut self, rest: &str) -> Result<(), End> {
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
    pub(super) fn push(&mut self, piece: &[u8], at_line_start: bool, limit: usize) {
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
