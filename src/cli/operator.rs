//! Pure itself. The operator's commands, which ask a server over HTTP: their names and what runs each.

use clap::Subcommand;

use super::client::CliFailure;
use super::{alerts, audit, contents, events, hosts, jobs, log, restore, run, snapshots, status};

#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Say whether everything has succeeded in time: exit code 0, or 1 where something has not
    Status(status::StatusArguments),
    /// List the hosts
    Hosts(hosts::HostsArguments),
    /// Show one host: versions, schedules, repository, alerts
    Host(hosts::HostArguments),
    /// List a host's jobs, newest first
    Jobs(jobs::JobsArguments),
    /// Print a job's log, or follow it
    Log(log::LogArguments),
    /// Run a schedule or a kind of job on a host now
    Run(run::RunArguments),
    /// Cancel a job
    Cancel(jobs::CancelArguments),
    /// End a job whose agent is out of contact, without knowing what became of it
    Abandon(jobs::AbandonArguments),
    /// List a host's snapshots
    Snapshots(snapshots::SnapshotsArguments),
    /// List what a folder of a snapshot holds
    Ls(contents::LsArguments),
    /// Find a file in a host's snapshots
    Find(contents::FindArguments),
    /// Show what changed from one snapshot to another
    Diff(contents::DiffArguments),
    /// Count what is in a host's snapshots
    Stats(contents::StatsArguments),
    /// Restore files of a snapshot onto their host
    Restore(restore::RestoreArguments),
    /// List the open alerts, acknowledge one, or see and test where they are told
    Alerts(alerts::AlertsArguments),
    /// Print all hosts' events, or follow them
    Events(events::EventsArguments),
    /// List who changed what, newest first
    Audit(audit::AuditArguments),
}

/// Runs a command; the exit code.
pub async fn run(command: &OperatorCommand) -> Result<u8, CliFailure> {
    match command {
        OperatorCommand::Status(arguments) => status::run(arguments).await,
        OperatorCommand::Hosts(arguments) => hosts::list(arguments).await,
        OperatorCommand::Host(arguments) => hosts::show(arguments).await,
        OperatorCommand::Jobs(arguments) => jobs::list(arguments).await,
        OperatorCommand::Log(arguments) => log::run(arguments).await,
        OperatorCommand::Run(arguments) => run::run(arguments).await,
        OperatorCommand::Cancel(arguments) => jobs::cancel(arguments).await,
        OperatorCommand::Abandon(arguments) => jobs::abandon(arguments).await,
        OperatorCommand::Snapshots(arguments) => snapshots::run(arguments).await,
        OperatorCommand::Ls(arguments) => contents::ls(arguments).await,
        OperatorCommand::Find(arguments) => contents::find(arguments).await,
        OperatorCommand::Diff(arguments) => contents::diff(arguments).await,
        OperatorCommand::Stats(arguments) => contents::stats(arguments).await,
        OperatorCommand::Restore(arguments) => restore::run(arguments).await,
        OperatorCommand::Alerts(arguments) => alerts::run(arguments).await,
        OperatorCommand::Events(arguments) => events::run(arguments).await,
        OperatorCommand::Audit(arguments) => audit::run(arguments).await,
    }
}
