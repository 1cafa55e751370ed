//! The operator's commands.

use std::process::ExitCode;

fn main() -> ExitCode {
    comms_operator::main()
}
