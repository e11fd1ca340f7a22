//! The thin binary: hands its arguments on and turns the answer into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(bb::cli::main())
}
