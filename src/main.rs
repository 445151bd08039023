//! Edge. The server's and operator's program: arguments and exit codes, no logic.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use restic_manager::cli::{check, serve};

/// A self-hosted control plane for restic backups
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server
    Serve(serve::ServeArguments),
    /// Validate a fleet's configuration offline
    Check(check::CheckArguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Serve(arguments) => serve::run(&arguments).map(|()| 0),
        Command::Check(arguments) => check_fleet(&arguments),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("restic-manager: {error}");
            ExitCode::FAILURE
        }
    }
}

fn check_fleet(arguments: &check::CheckArguments) -> Result<u8, String> {
    let color = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let now = restic_manager::clock::now();
    let result = check::run(arguments, now, color, &mut out).and_then(|code| out.flush().map(|()| code));
    match result {
        // Whoever read the output went away, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(1),
        result => result.map_err(|error| format!("cannot print: {error}")),
    }
}
