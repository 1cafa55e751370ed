//! AUTH PLAIN and AUTH LOGIN (RFC 4954).

use super::{super::Stage, End, ReadLine, Session, is_success};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

/// RFC 4954, section 4.
const AUTH_LINE_LIMIT: usize = 12_288;

impl Session {
    pub(super) async fn auth(&mut self, rest: &str) -> Result<(), End> {
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
            ReadLine::Text(line) if line == "*" => {
                self.send("501 5.7.0 authentication cancelled").await?;
                Ok(None)
            }
            ReadLine::Text(line) => Ok(Some(line)),
            ReadLine::TooLong => {
                self.send("500 5.5.6 authentication exchange line is too long")
                    .await?;
                Ok(None)
            }
            ReadLine::Malformed => {
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
}
