//! Edge. `restic-manager restore`: files of a snapshot back onto their host, beside what is there or over it.

use clap::{Args, ValueEnum};
use serde_json::json;

use super::api::path;
use super::client::{CliFailure, ServerArguments};
use super::output::{Output, OutputArguments};
use super::run::begin;

#[derive(Debug, Args)]
pub struct RestoreArguments {
    /// The host
    host: String,
    /// The snapshot: an id, or latest
    snapshot: String,
    /// What to restore: whole paths as `ls` shows them, letter for letter [default: everything]
    #[arg(value_name = "PATH")]
    paths: Vec<String>,
    /// Into this directory of the host, which must not be there yet [default: a new one below the agent's first restore root]
    #[arg(long, value_name = "DIR", conflicts_with = "in_place")]
    target: Option<String>,
    /// To where the files come from, over what is there
    #[arg(long, requires = "confirm")]
    in_place: bool,
    /// The host's name once more, which --in-place needs
    #[arg(long, value_name = "HOST", requires = "in_place")]
    confirm: Option<String>,
    /// In place: what to do with files that are there (restic 0.17 or later) [default: always]
    #[arg(long, requires = "in_place")]
    overwrite: Option<OverwriteWord>,
    /// With latest: the newest snapshot of this schedule
    #[arg(long, value_name = "ID")]
    schedule: Option<String>,
    /// What fits this, in place of PATH
    #[arg(long, value_name = "PATTERN", conflicts_with = "paths")]
    include: Vec<String>,
    /// Leave this out; not together with PATH or --include
    #[arg(long, value_name = "PATTERN", conflicts_with_all = ["paths", "include"])]
    exclude: Vec<String>,
    /// How long it may wait for a host that is away, such as 2h [default: it is refused]
    #[arg(long, value_name = "SPAN")]
    queue_for: Option<String>,
    /// Follow it to its end; the exit code is then the job's: 0 done, 3 done with warnings, 1 failed or cancelled
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OverwriteWord {
    Always,
    IfChanged,
    IfNewer,
    Never,
}

pub(super) async fn run(arguments: &RestoreArguments) -> Result<u8, CliFailure> {
    let RestoreArguments { host, snapshot, paths, target, confirm, schedule, include, exclude, .. } = arguments;
    if confirm.as_ref().is_some_and(|confirm| confirm != host) {
        return Err(CliFailure::usage(format!(
            "--confirm is not the host's name: to write over what is there, repeat {host}"
        )));
    }
    let mut body = json!({"snapshot": snapshot, "paths": paths, "include": include, "exclude": exclude});
    if let Some(span) = &arguments.queue_for {
        body["queue_for"] = json!(span);
    }
    if let Some(schedule) = schedule {
        body["schedule"] = json!(schedule);
    }
    if let Some(target) = target {
        body["target"] = json!(target);
    }
    if let (true, Some(confirm)) = (arguments.in_place, confirm) {
        body["in_place"] = json!(true);
        body["confirm"] = json!(confirm);
    }
    if let Some(word) = arguments.overwrite.and_then(|word| word.to_possible_value()) {
        body["overwrite"] = json!(word.get_name());
    }
    let client = arguments.server.reach()?.client;
    let mut output = Output::new(arguments.output);
    begin(&client, &path(&["hosts", host, "restore"]), &body, arguments.follow, &mut output).await
}
