//! Edge. The server's and operator's program: arguments and exit codes, no logic.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use restic_manager::cli::client::CliFailure;
use restic_manager::cli::operator::{self, OperatorCommand};
use restic_manager::cli::{check, demo, enroll, monitoring, plan, schema, serve};
use restic_manager::printable::printable_lines;
use restic_manager::shell_help;

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
    /// Run server, agent, a backup and a restore in a scratch directory
    Demo(demo::DemoArguments),
    /// Make a one-time token that enrolls a host
    Enroll(enroll::EnrollArguments),
    /// Make an operator's token
    #[command(subcommand)]
    Token(Token),
    /// Validate a fleet's configuration offline
    Check(check::CheckArguments),
    /// Show what a configuration would change, host by host
    Plan(plan::PlanArguments),
    /// Print the JSON Schema of a kind of file, for editors
    Schema(schema::SchemaArguments),
    /// Print alert rules for Prometheus, or a dashboard for Grafana
    #[command(subcommand)]
    Monitoring(monitoring::Monitoring),
    #[command(flatten)]
    Operator(OperatorCommand),
    /// Print a shell's completions
    Completions(shell_help::CompletionsArguments),
    /// Write the manual pages of all commands into a directory
    Man(shell_help::ManArguments),
}

#[derive(Subcommand)]
enum Token {
    /// Print a new token once, and the lines for server.toml
    New(enroll::TokenArguments),
}

/// Runs on the main thread: programs that are started die with the thread that started them.
fn on_one_thread<T, E: From<String>>(work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| format!("cannot start: {error}"))?.block_on(work)
}

fn main() -> ExitCode {
    let result: Result<u8, CliFailure> = match Arguments::parse().command {
        Command::Serve(arguments) => serve::run(&arguments).map(|()| 0).map_err(CliFailure::from),
        Command::Demo(arguments) => on_one_thread(demo::run(&arguments)).map(|()| 0).map_err(CliFailure::from),
        Command::Enroll(arguments) => on_one_thread(enroll::enroll(&arguments)).map(|()| 0),
        Command::Token(Token::New(arguments)) => enroll::new(&arguments).map(|()| 0).map_err(CliFailure::from),
        Command::Check(arguments) => {
            print(|color, out| check::run(&arguments, restic_manager::clock::now(), color, out))
        }
        Command::Plan(arguments) => on_one_thread(plan::read(&arguments))
            .and_then(|sides| print(|color, out| plan::run(&arguments, &sides, color, out))),
        Command::Schema(arguments) => print(|_, out| schema::run(&arguments, out)),
        Command::Monitoring(which) => print(|_, out| monitoring::run(which, out)),
        Command::Operator(command) => on_one_thread(operator::run(&command)),
        Command::Completions(arguments) => {
            print(|_, out| shell_help::completions(&arguments, Arguments::command(), out))
        }
        Command::Man(arguments) => {
            shell_help::man(&arguments, Arguments::command()).map_err(CliFailure::from).map(|pages| {
                eprintln!("{pages} pages are in {}", arguments.directory.display());
                0
            })
        }
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(CliFailure { code, text }) => {
            if !text.is_empty() {
                eprintln!("restic-manager: {}", printable_lines(&text));
            }
            ExitCode::from(code)
        }
    }
}

/// Has something printed to stdout, in color on a terminal.
fn print(
    what: impl FnOnce(bool, &mut io::BufWriter<io::StdoutLock<'static>>) -> io::Result<u8>,
) -> Result<u8, CliFailure> {
    let color = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let result = what(color, &mut out).and_then(|code| out.flush().map(|()| code));
    match result {
        // Whoever read the output went away, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(1),
        result => result.map_err(|error| CliFailure::from(format!("cannot print: {error}"))),
    }
}
