//! Edge. `restic-manager-agent service`: the Windows service's commands; elsewhere it says how systemd starts the agent.
//! Does not talk to the service manager itself: `service_windows` does.

use clap::Subcommand;

use crate::{Directory, Failure};

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// Register the agent as a service that starts with the system and is restarted when it fails, and start it
    Install(Directory),
    /// Stop the service and remove it; the agent's directory stays
    Uninstall,
    /// What an installer calls: registers the service, and starts it if the host is enrolled
    #[command(hide = true)]
    Configure(Directory),
    /// What the service manager starts; not for people
    #[command(hide = true)]
    Run(Directory),
}

#[cfg(windows)]
pub(crate) fn run(command: &ServiceCommand) -> Result<(), Failure> {
    use crate::service_windows;
    match command {
        ServiceCommand::Install(directory) => service_windows::install(directory),
        ServiceCommand::Uninstall => service_windows::uninstall(),
        ServiceCommand::Configure(directory) => service_windows::configure(directory),
        ServiceCommand::Run(directory) => service_windows::run(directory),
    }
}

#[cfg(not(windows))]
pub(crate) fn run(command: &ServiceCommand) -> Result<(), Failure> {
    match command {
        ServiceCommand::Install(directory) => {
            let us = std::env::current_exe().map_err(|error| format!("cannot find this program's file: {error}"))?;
            println!("{}", systemd_line(&us.display().to_string(), &directory.dir.display().to_string()));
            Ok(())
        }
        ServiceCommand::Uninstall => {
            println!("systemctl stop restic-manager-agent");
            Ok(())
        }
        ServiceCommand::Configure(_) | ServiceCommand::Run(_) => Err(Failure {
            code: 2,
            text: "this command is for Windows; here it is: restic-manager-agent run".to_owned(),
        }),
    }
}

/// Nothing is installed on Linux: the line is for whoever sets the host up.
#[cfg(not(windows))]
fn systemd_line(program: &str, dir: &str) -> String {
    format!("systemd-run --unit=restic-manager-agent -p Restart=always -p RestartSec=5 '{program}' run --dir '{dir}'")
}

#[cfg(all(test, not(windows)))]
mod tests {
    use super::*;

    #[test]
    fn the_systemd_line_starts_this_program_with_this_directory() {
        let line = systemd_line("/usr/bin/agent", "/var/lib/a b");
        assert!(
            line.starts_with("systemd-run ") && line.ends_with("'/usr/bin/agent' run --dir '/var/lib/a b'"),
            "{line}"
        );
    }
}
