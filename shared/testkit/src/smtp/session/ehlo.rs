//! EHLO and HELO: what the server offers.

use super::{
    super::{Stage, TlsMode},
    End, Session, is_success,
    wire::Stream,
};
use std::fmt::Write as _;

impl Session {
    pub(super) async fn hello(&mut self, name: &str, extended: bool) -> Result<(), End> {
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

    pub(super) fn hidden(&self, keyword: &str) -> bool {
        let name = keyword.split(' ').next().unwrap_or_default();
        self.shared
            .config
            .hidden_extensions
            .iter()
            .any(|hidden| hidden.eq_ignore_ascii_case(name))
    }

    pub(super) fn offers(&self, keyword: &str) -> bool {
        self.shared.config.extensions.iter().any(|offered| {
            let name = offered.split(' ').next().unwrap_or_default();
            name.eq_ignore_ascii_case(keyword) && !self.hidden(offered)
        })
    }

    pub(super) fn offers_start_tls(&self) -> bool {
        self.shared.config.tls == TlsMode::StartTls && !self.encrypted() && !self.hidden("STARTTLS")
    }

    fn offers_auth(&self) -> bool {
        let config = &self.shared.config;
        !config.auth_mechanisms.is_empty()
            && !self.hidden("AUTH")
            && (self.encrypted() || config.auth_without_tls)
            && self.authenticated_as.is_none()
    }

    pub(super) fn encrypted(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }
}
