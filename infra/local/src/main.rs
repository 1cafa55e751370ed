//! The local stack: every part of clinic-comms on one machine, in one command.
//!
//! `cargo run` starts AWS's services (emulated), the functions as real Lambda processes, an HTTP gateway, the
//! queues' pollers, a mail inbox and a page of the deliveries, saves a demo clinic and sends its first message. Nothing
//! else has to be installed, and nothing leaves the machine: every listener is on loopback. Only what a function in a
//! container has to reach, the AWS endpoint and the inbox's SMTP side, may be put on a private address such as that of
//! Docker's bridge.
//!
//! ```text
//! cargo run                                            start everything
//! cargo run -- --cold                                  the same, with a new process for every invocation
//! cargo run -- token --clinic clinic-123 --role CLINIC_ADMIN    print a developer token
//! ```

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program talks to its user there"
)]

mod api_client;
mod api_reference;
mod console;
mod cors;
mod dead_letters;
mod deliveries;
mod demo;
mod event_source;
mod function_logs;
mod gateway;
mod home;
mod inbox;
mod poller;
mod processes;
mod request_lines;
mod sealed;
mod stack;
mod token;
mod web;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use comms_functions::Function;
use comms_testkit::host_guard::{AllowedHost, PageOrigin};
use jiff::SignedDuration;

use crate::function_logs::Logs;
use crate::token::{Claims, DeveloperKey};

/// Everything of clinic-comms on this machine: AWS, the functions, the API, the queue and a mail inbox.
#[derive(Debug, Parser)]
#[command(
    name = "clinic-comms-local",
    version,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    stack: StackArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints a developer token for the API, and nothing else.
    Token(TokenArgs),
    /// Serves one function under the Lambda Runtime API (the stack starts itself with this).
    #[command(hide = true)]
    Function {
        /// Which one.
        #[arg(value_parser = function)]
        name: &'static Function,
    },
}

/// What the stack listens on and keeps.
#[derive(Debug, Clone, Args)]
pub(crate) struct StackArgs {
    /// The HTTP API.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:3000", value_parser = loopback)]
    http: SocketAddr,
    /// The AWS endpoint (DynamoDB, KMS, SQS, SES); for containers a private address such as 172.17.0.1:4566.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4566", value_parser = loopback_or_private)]
    aws: SocketAddr,
    /// The inbox's SMTP side; for containers a private address such as 172.17.0.1:2525.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:2525", value_parser = loopback_or_private)]
    smtp: SocketAddr,
    /// The web pages: what is where, the inbox, and what became of every message.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8025", value_parser = loopback)]
    inbox: SocketAddr,
    /// Keeps tables and keys in this directory (default: in memory).
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A further host name by which the listeners may be asked; may be given several times. With a port it is also the
    /// origin of a page that may change things.
    #[arg(long = "allow-host", value_name = "NAME[:PORT]")]
    allow_hosts: Vec<AllowedHost>,
    /// An origin whose pages may call the API from a browser, such as <http://localhost:5173>; may be given several times.
    #[arg(long = "cors-origin", value_name = "ORIGIN")]
    cors_origins: Vec<PageOrigin>,
    /// Refuses communications that name no clinic with settings (`RequireClinic` of the template).
    #[arg(long)]
    require_clinic: bool,
    /// Neither saves the demo clinic nor sends its message.
    #[arg(long)]
    no_demo: bool,
    /// Starts a new process for every invocation, to see cold starts.
    #[arg(long)]
    cold: bool,
    /// The functions' own log lines: `json` prints them in place of the short ones, a directory gets them beside.
    #[arg(long, value_name = "json|DIR")]
    logs: Option<Logs>,
}

#[derive(Debug, Args)]
struct TokenArgs {
    /// The clinic whose member the bearer is. A platform service or super admin has none.
    #[arg(long)]
    clinic: Option<String>,
    /// A role; may be given several times.
    #[arg(
        long = "role",
        required = true,
        value_parser = ["SUPER_ADMIN", "CLINIC_ADMIN", "CLINIC_MANAGER", "SERVICE"]
    )]
    roles: Vec<String>,
    /// Who the bearer is.
    #[arg(long, default_value = "developer@localhost")]
    subject: String,
    /// How long the token is good, such as `12h` or `90s`; `-1h` makes one that has expired.
    #[arg(long, default_value = "12h", allow_hyphen_values = true)]
    expires_in: SignedDuration,
}

/// An address of this machine only: developer keys and plain HTTP must not be offered to a network.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address = address(text)?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err(format!(
            "{} is not a loopback address; the stack has developer keys and no TLS, so it stays on this machine",
            address.ip()
        ))
    }
}

/// An address of this machine, or a private one (RFC 1918): on Linux a container reaches the machine that it runs on
/// only by the address of its bridge. Never all interfaces, of which any may be a public one.
fn loopback_or_private(text: &str) -> Result<SocketAddr, String> {
    let address = address(text)?;
    let private = match address.ip() {
        IpAddr::V4(ip) => ip.is_private(),
        IpAddr::V6(_) => false,
    };
    if address.ip().is_loopback() || private {
        Ok(address)
    } else {
        Err(format!(
            "{} is neither a loopback address nor a private one such as that of Docker's bridge (172.17.0.1); \
             nothing here is protected well enough for a public network",
            address.ip()
        ))
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let numeric = text
        .strip_prefix("localhost:")
        .map(|port| format!("127.0.0.1:{port}"));
    numeric
        .as_deref()
        .unwrap_or(text)
        .parse()
        .map_err(|_| "not an address such as 127.0.0.1:3000".to_owned())
}

fn function(name: &str) -> Result<&'static Function, String> {
    comms_functions::named(name).ok_or_else(|| format!("there is no function {name}"))
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Some(Command::Token(args)) => print_token(args),
        Some(Command::Function { name }) => serve_function(name),
        None => stack::run(cli.stack),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::warn(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Any failure, for `main` to print.
pub(crate) type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn print_token(args: TokenArgs) -> Result<(), AnyError> {
    let token = DeveloperKey::of_user()?.token(&Claims {
        clinic: args.clinic,
        roles: args.roles,
        subject: args.subject,
        expires_in: args.expires_in,
    })?;
    console::say(token);
    Ok(())
}

fn serve_function(function: &Function) -> Result<(), AnyError> {
    // As in Lambda: one thread is enough for one invocation at a time, and costs a third of the CPU.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on((function.run)())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn only_loopback_addresses_are_taken() {
        assert!(loopback("127.0.0.1:3000").is_ok());
        assert!(loopback("[::1]:3000").is_ok());
        assert_eq!(loopback("localhost:8025"), loopback("127.0.0.1:8025"));
        for refused in ["0.0.0.0:3000", "192.168.1.2:3000", "[::]:3000"] {
            assert!(
                loopback(refused).unwrap_err().contains("not a loopback"),
                "{refused}"
            );
        }
        assert!(loopback("3000").is_err());
    }

    #[test]
    fn what_containers_need_may_be_on_a_private_address_and_no_other() {
        for taken in [
            "127.0.0.1:4566",
            "localhost:4566",
            "[::1]:4566",
            "172.17.0.1:4566",
            "192.168.1.2:4566",
            "10.0.0.1:4566",
        ] {
            assert!(loopback_or_private(taken).is_ok(), "{taken}");
        }
        for refused in [
            "0.0.0.0:4566",
            "[::]:4566",
            "172.32.0.1:4566",
            "100.64.0.1:4566",
            "169.254.0.1:4566",
            "8.8.8.8:4566",
            "[fd00::1]:4566",
            "[::ffff:172.17.0.1]:4566",
        ] {
            assert!(
                loopback_or_private(refused)
                    .unwrap_err()
                    .contains("neither a loopback address nor a private one"),
                "{refused}"
            );
        }
        assert!(loopback_or_private("172.17.0.1").is_err());
    }
}
