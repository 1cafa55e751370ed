//! AUTH PLAIN and AUTH LOGIN (RFC 4954, RFC 4616). Every buffer of ours that holds the password is wiped.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use comms_core::Secret;
use tokio::io::{AsyncRead, AsyncWrite};
use zeroize::Zeroizing;

use super::{
    failure::{Cause, Failure, Stage},
    reply::Reply,
    server_capabilities::{Mechanism, Mechanisms},
    text_hint::TextHint,
    timeouts::within,
    wire::Wire,
};
use crate::deadline::Deadline;

/// Bytes of a command line with its CRLF (RFC 5321 section 4.5.3.1.4). An initial response that makes
/// AUTH longer is sent after a challenge instead (RFC 4954 section 4).
const COMMAND_LINE: usize = 512;
/// Bytes of a line of an AUTH exchange (RFC 4954 section 4).
const AUTH_LINE: usize = 12_288;

/// Logs in by the first of the mechanisms that the server takes. Where it does not take one that it offers, the next is
/// tried (RFC 4954 sections 4 and 6); where it refuses the login, nothing else is, since that would count as one more
/// wrong password. A server that says no more, or 421, after it has refused one has refused the login by that.
pub(super) async fn log_in<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    mechanisms: Mechanisms,
    user: &str,
    password: &Secret,
    deadline: Deadline,
) -> Result<(), Failure> {
    let mut refused = None;
    for mechanism in mechanisms.in_order() {
        let Err(failure) = log_in_by(wire, mechanism, user, password, deadline).await else {
            return Ok(());
        };
        match failure.cause {
            Cause::Reply(reply) if is_not_taken(reply) => refused = Some(failure),
            Cause::Reply(reply) if reply.code != 421 => return Err(failure),
            Cause::Reply(_)
            | Cause::Closed
            | Cause::TimedOut
            | Cause::TooSlow
            | Cause::Certificate(_)
            | Cause::TlsHandshake
            | Cause::Malformed
            | Cause::NotOffered
            | Cause::TooLarge
            | Cause::Egress(_)
            | Cause::Local => return Err(refused.unwrap_or(failure)),
        }
    }
    Err(refused.unwrap_or(Failure::new(Stage::Auth, Cause::NotOffered)))
}

/// Whether a reply refuses the mechanism, or its initial response, and not the login. Google says by 534 that it wants an
/// app password, or by 534 5.7.14 a login on its pages; 5.7.30 and 5.7.139 are Exchange Online's for all passwords.
fn is_not_taken(reply: Reply) -> bool {
    matches!(reply.code, 501 | 504 | 534)
        && !matches!(reply.enhanced, Some((5, 7, 8 | 14 | 30 | 139)))
        && reply.text_hint != Some(TextHint::AppPassword)
}

/// Logs in. Success is a 2yz, which here is 235.
async fn log_in_by<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    mechanism: Mechanism,
    user: &str,
    password: &Secret,
    deadline: Deadline,
) -> Result<(), Failure> {
    let unusable = Failure::new(Stage::Auth, Cause::Local);
    let password = password.expose().map_err(|_| unusable)?;
    // NUL is what separates the fields of PLAIN: in a field it would make another field of the rest.
    let is_usable = |text: &str| !text.is_empty() && !text.contains('\0');
    if !is_usable(user) || !is_usable(&password) {
        return Err(unusable);
    }
    let mut exchange = match mechanism {
        Mechanism::Plain => plain(user, &password),
        Mechanism::Login => login(user, &password),
    };
    let too_long = |line: &Zeroizing<Vec<u8>>| line.len() > AUTH_LINE + b"\r\n".len();
    if exchange.responses.iter().any(too_long) {
        return Err(unusable);
    }
    let mut reply = send_line(wire, &exchange.command, deadline).await?;
    for response in exchange.responses.drain(..) {
        // 334, or any 3yz, asks for the next response. Some servers ask even for what came with the command.
        if !reply.asks_for_more() {
            break;
        }
        reply = send_line(wire, &response, deadline).await?;
    }
    if reply.is_success() {
        Ok(())
    } else {
        Err(Failure::new(Stage::Auth, Cause::Reply(reply)))
    }
}

/// What is said, line by line, CRLF included.
struct Exchange {
    command: Zeroizing<Vec<u8>>,
    /// One for every challenge.
    responses: Vec<Zeroizing<Vec<u8>>>,
}

fn plain(user: &str, password: &str) -> Exchange {
    // No authorization identity: act as the user who logs in.
    let message = [b"\0", user.as_bytes(), b"\0", password.as_bytes()];
    let command = line(b"AUTH PLAIN ", &message);
    Exchange {
        command: if command.len() <= COMMAND_LINE {
            command
        } else {
            line(b"AUTH PLAIN", &[])
        },
        responses: vec![line(b"", &message)],
    }
}

fn login(user: &str, password: &str) -> Exchange {
    Exchange {
        command: line(b"AUTH LOGIN", &[]),
        // The challenges are `Username:` and `Password:` in many spellings, always in this order.
        responses: vec![
            line(b"", &[user.as_bytes()]),
            line(b"", &[password.as_bytes()]),
        ],
    }
}

/// `start`, the `parts` together in base64, and CRLF. Nothing is moved while it is put together, since
/// what is left behind would not be wiped.
fn line(start: &[u8], parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    let mut clear = Zeroizing::new(Vec::with_capacity(length));
    for part in parts {
        clear.extend_from_slice(part);
    }
    let encoded_length = length.div_ceil(3) * 4;
    let mut line = Zeroizing::new(Vec::with_capacity(start.len() + encoded_length + 2));
    line.extend_from_slice(start);
    line.resize(start.len() + encoded_length, 0);
    // Straight into its place: encoding into a text would leave a piece of it on the stack. It fits.
    let encoded = BASE64_STANDARD.encode_slice(clear.as_slice(), &mut line[start.len()..]);
    line.truncate(start.len() + encoded.unwrap_or_default());
    line.extend_from_slice(b"\r\n");
    line
}

async fn send_line<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    line: &[u8],
    deadline: Deadline,
) -> Result<Reply, Failure> {
    // No limit but the deadline: servers answer a login late that was wrong before (Dovecot's and Postfix's penalty), or
    // that a directory has to confirm.
    within(Stage::Auth, Duration::MAX, deadline, wire.command(line)).await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

    use super::*;

    fn text(line: &[u8]) -> &str {
        std::str::from_utf8(line).unwrap()
    }

    #[test]
    fn plain_goes_with_the_command_and_again_if_it_is_asked_for() {
        // The example of RFC 4616 section 4, less its authorization identity.
        let exchange = plain("tim", "tanstaaftanstaaf");
        assert_eq!(
            text(&exchange.command),
            "AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm\r\n"
        );
        assert_eq!(exchange.responses.len(), 1);
        assert_eq!(
            text(&exchange.responses[0]),
            "AHRpbQB0YW5zdGFhZnRhbnN0YWFm\r\n"
        );
    }

    #[test]
    fn a_long_password_does_not_make_the_command_longer_than_a_command_may_be() {
        // 4 * ceil((1 + 4 + 1 + 368) / 3) = 500 bytes: 513 with the command and CRLF.
        assert_eq!(plain("user", &"x".repeat(366)).command.len(), 11 + 496 + 2);
        let exchange = plain("user", &"x".repeat(368));
        assert_eq!(text(&exchange.command), "AUTH PLAIN\r\n");
        assert_eq!(exchange.responses[0].len(), 502);
    }

    #[test]
    fn login_gives_user_and_password_one_by_one() {
        let exchange = login("user", "password");
        assert_eq!(text(&exchange.command), "AUTH LOGIN\r\n");
        let said: Vec<_> = exchange.responses.iter().map(|line| text(line)).collect();
        assert_eq!(said, ["dXNlcg==\r\n", "cGFzc3dvcmQ=\r\n"]);
    }

    #[tokio::test]
    async fn a_login_that_would_say_something_else_is_not_begun() {
        let long = "x".repeat(9_300);
        for (user, password) in [
            ("", "password"),
            ("user", ""),
            ("admin\0user", "password"),
            ("user", "pass\0word"),
            ("user", long.as_str()),
        ] {
            for mechanism in [Mechanism::Plain, Mechanism::Login] {
                let (stream, mut other) = tokio::io::duplex(65_536);
                let mut wire = Wire::new(stream, 0);
                let deadline = Deadline::after(Duration::from_secs(5));
                let secret = Secret::new(password.to_owned());
                let result = log_in_by(&mut wire, mechanism, user, &secret, deadline).await;
                assert_eq!(result, Err(Failure::new(Stage::Auth, Cause::Local)));
                drop(wire);
                let mut said = Vec::new();
                other.read_to_end(&mut said).await.unwrap();
                assert_eq!(text(&said), "");
            }
        }
    }

    /// Logs in at a server that gives these replies, one to each line; what was said to it, too.
    async fn told(mechanism: Mechanism, replies: &[&str]) -> (Result<(), Failure>, Vec<String>) {
        let (stream, server) = tokio::io::duplex(4_096);
        let mut wire = Wire::new(stream, 0);
        let deadline = Deadline::after(Duration::from_secs(5));
        let secret = Secret::new("password".to_owned());
        let client = async {
            let result = log_in_by(&mut wire, mechanism, "user", &secret, deadline).await;
            drop(wire);
            result
        };
        let server = async {
            let mut server = BufReader::new(server);
            let mut said = Vec::new();
            loop {
                let mut line = String::new();
                if server.read_line(&mut line).await.unwrap() == 0 {
                    return said;
                }
                server
                    .write_all(replies[said.len()].as_bytes())
                    .await
                    .unwrap();
                said.push(line.trim_end().to_owned());
            }
        };
        tokio::join!(client, server)
    }

    #[tokio::test]
    async fn a_server_that_asks_for_what_it_was_given_is_given_it_once_more() {
        let replies = ["334 \r\n", "235 2.7.0 ok\r\n"];
        let (result, said) = told(Mechanism::Plain, &replies).await;
        assert_eq!(result, Ok(()));
        assert_eq!(
            said,
            ["AUTH PLAIN AHVzZXIAcGFzc3dvcmQ=", "AHVzZXIAcGFzc3dvcmQ="]
        );
    }

    #[tokio::test]
    async fn a_server_that_asks_without_end_is_not_answered_without_end() {
        for (mechanism, lines) in [(Mechanism::Plain, 2), (Mechanism::Login, 3)] {
            let (result, said) = told(mechanism, &["334 more\r\n"; 3]).await;
            let asked = Cause::Reply(Reply::new(334, ""));
            assert_eq!(result, Err(Failure::new(Stage::Auth, asked)));
            assert_eq!(said.len(), lines);
        }
    }

    #[tokio::test]
    async fn a_password_is_not_given_to_a_server_that_refused_the_user() {
        let replies = ["334 VXNlcm5hbWU6\r\n", "535 5.7.8 no\r\n"];
        let (result, said) = told(Mechanism::Login, &replies).await;
        let refused = Cause::Reply(Reply::new(535, "5.7.8 no"));
        assert_eq!(result, Err(Failure::new(Stage::Auth, refused)));
        assert_eq!(said, ["AUTH LOGIN", "dXNlcg=="]);
    }
}
