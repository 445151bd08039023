//! Edge. The agent's program: arguments and exit codes, no logic.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests set their files and times up by hand"))]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use restic_manager::shell_help::{self, CompletionsArguments, ManArguments};

mod agent_update;
mod attempts;
mod backoff;
mod commands;
mod copy_environment;
mod core;
mod diagnose;
mod enroll;
mod hook_reference;
mod hook_run;
mod host_path;
mod identity;
mod json_file;
mod latest_snapshot;
mod ledger;
mod log_spool;
mod make_room;
mod named_snapshots;
mod own_secrets;
mod policy;
mod poll;
mod poll_wait;
mod query_run;
mod read_secrets;
mod real_path;
mod received;
mod repository_stats;
mod repository_url;
mod restic_args;
mod restic_environment;
mod restic_json;
mod restic_probe;
mod restic_run;
mod restic_version;
mod retry;
mod room;
mod rotation;
mod run;
mod runner;
mod scheduler;
mod sender;
mod service;
#[cfg(windows)]
mod service_windows;
mod settings;
mod snapshots;
mod spool;
mod status;
mod supervise;
mod surroundings;
mod unlock;
mod verify;
mod verify_sample;
mod watchdog;

/// The restic-manager agent: backs this host up as its schedules say
#[derive(Parser)]
#[command(name = "restic-manager-agent", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make this host's credential and enroll it with a one-time token
    Enroll(Box<enroll::EnrollArguments>),
    /// Run the agent
    Run(Directory),
    /// What the agent knows: enrollment, versions applied, next fires, spool, last error
    Status(status::StatusArguments),
    /// Try each hop on the way to the server and say which one fails and what to change
    Diagnose(diagnose::DiagnoseArguments),
    /// Install, remove or be the Windows service; on Linux, say how systemd starts the agent
    #[command(subcommand)]
    Service(service::ServiceCommand),
    /// Print what makes a shell complete commands, options and their values
    Completions(CompletionsArguments),
    /// Write manual pages: one of the program and one of each command
    Man(ManArguments),
    /// Send CTRL_BREAK to a program that the agent started
    #[cfg(windows)]
    #[command(hide = true, name = restic_manager::process::SEND_BREAK)]
    SendBreak { pid: u32 },
}

/// Where the agent keeps its files.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Directory {
    /// The agent's own directory
    #[arg(long, default_value = default_directory())]
    pub(crate) dir: PathBuf,
    /// agent.toml, beside which hooks.d is; default: in the agent's own directory, or where packages have it
    /// (/etc/restic-manager-agent, if that is there and --dir is the default)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Where packages have what root says to an agent that is not root.
const ROOTS_DIRECTORY: &str = "/etc/restic-manager-agent";

impl Directory {
    /// agent.toml.
    pub(crate) fn settings_file(&self) -> PathBuf {
        if self.is_packaged() {
            return Path::new(ROOTS_DIRECTORY).join("agent.toml");
        }
        self.config.clone().unwrap_or_else(|| self.dir.join("agent.toml"))
    }

    /// Everything is where packages have it.
    pub(crate) fn is_packaged(&self) -> bool {
        let is_default = self.config.is_none() && self.dir == Path::new(default_directory());
        cfg!(unix) && is_default && Path::new(ROOTS_DIRECTORY).is_dir()
    }

    /// Whose programs named hooks are: they are root's as agent.toml is.
    pub(crate) fn hooks_dir(&self) -> PathBuf {
        self.settings_file().with_file_name("hooks.d")
    }

    /// With everything in one directory.
    #[cfg(test)]
    pub(crate) fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), config: None }
    }

    /// For people to repeat it.
    pub(crate) fn as_arguments(&self) -> String {
        let config = self.config.as_ref().map(|file| format!(" --config {}", file.display()));
        format!("--dir {}{}", self.dir.display(), config.unwrap_or_default())
    }
}

const fn default_directory() -> &'static str {
    if cfg!(windows) { r"C:\ProgramData\restic-manager-agent" } else { "/var/lib/restic-manager-agent" }
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Enroll(arguments) => enroll::run(&arguments),
        Command::Run(directory) => run::run(&directory),
        Command::Status(arguments) => status::run(&arguments),
        Command::Diagnose(arguments) => diagnose::run(&arguments),
        Command::Service(command) => service::run(&command),
        // Whoever reads may have gone away, as head does.
        Command::Completions(arguments) => {
            let _ = shell_help::completions(&arguments, Arguments::command(), &mut std::io::stdout());
            Ok(())
        }
        Command::Man(arguments) => {
            shell_help::man(&arguments, Arguments::command()).map_err(Failure::from).map(|pages| {
                eprintln!("{pages} pages are in {}", arguments.directory.display());
            })
        }
        #[cfg(windows)]
        Command::SendBreak { pid } => {
            restic_manager::process::send_break(pid).map_err(|error| Failure::from(format!("CTRL_BREAK: {error}")))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, text }) => {
            eprintln!("restic-manager-agent: {text}");
            ExitCode::from(code)
        }
    }
}

/// Prints, unless whoever read the output has gone away, as `head` does.
pub(crate) fn print_to_whoever_reads(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Why a command failed, with its exit code (cli.md "Exit codes").
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) text: String,
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self { code: 1, text }
    }
}
