//! The program as a developer starts it: what it prints, what it refuses, how it ends.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

fn program(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clinic-comms-local"));
    command
        .env("XDG_CACHE_HOME", home)
        .env_remove("JWT_CLINIC_CLAIM")
        .env_remove("JWT_ROLES_CLAIM");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn token(home: &Path, arguments: &[&str]) -> std::io::Result<Output> {
    program(home).arg("token").args(arguments).output()
}

#[test]
fn a_token_is_the_only_thing_on_standard_output() {
    let home = tempfile::tempdir().unwrap();
    let output = token(
        home.path(),
        &[
            "--clinic",
            "clinic-123",
            "--role",
            "CLINIC_ADMIN",
            "--role",
            "SERVICE",
        ],
    )
    .unwrap();
    assert!(output.status.success());
    let printed = text(&output.stdout);
    let token = printed.strip_suffix('\n').unwrap();
    assert_eq!(token.split('.').count(), 3, "{printed}");
    assert!(!token.contains(char::is_whitespace));
    assert!(output.stderr.is_empty());
}

#[test]
fn a_role_that_does_not_exist_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let output = token(home.path(), &["--role", "CLINIC_ADMIM"]).unwrap();
    assert!(!output.status.success());
    assert!(output.stdout.is_empty());
    assert!(text(&output.stderr).contains("CLINIC_ADMIN"));
}

#[test]
fn a_taken_port_is_named_with_the_flag_that_chooses_another() {
    let home = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let free = "127.0.0.1:0";
    let output = program(home.path())
        .args(["--no-demo", "--http", free, "--aws", free, "--inbox", free])
        .args(["--smtp", &address])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(
        error.contains(&format!("--smtp {address} is taken")),
        "{error}"
    );
    assert!(error.contains("choose another with --smtp"), "{error}");
}

#[test]
fn an_address_that_others_can_reach_is_refused() {
    let home = tempfile::tempdir().unwrap();
    for (flag, address, because) in [
        ("--http", "0.0.0.0:3000", "not a loopback address"),
        ("--http", "172.17.0.1:3000", "not a loopback address"),
        ("--inbox", "172.17.0.1:8025", "not a loopback address"),
        ("--aws", "0.0.0.0:4566", "neither a loopback address"),
        ("--smtp", "203.0.113.1:2525", "neither a loopback address"),
    ] {
        let output = program(home.path()).args([flag, address]).output().unwrap();
        assert!(!output.status.success(), "{flag} {address}");
        let error = text(&output.stderr);
        assert!(error.contains(because), "{flag} {address}: {error}");
    }
}
