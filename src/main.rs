//! Edge. The server's and operator's program: arguments and exit codes, no logic.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use restic_manager::cli::check;

/// A self-hosted control plane for restic backups
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Validate a fleet's configuration offline
    Check(check::CheckArguments),
}

fn main() -> ExitCode {
    let Command::Check(arguments) = Arguments::parse().command;
    let color = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let result =
        check::run(&arguments, chrono::Utc::now(), color, &mut out).and_then(|code| out.flush().map(|()| code));
    match result {
        Ok(code) => ExitCode::from(code),
        // Whoever read the output went away, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("restic-manager: cannot print: {error}");
            ExitCode::FAILURE
        }
    }
}
