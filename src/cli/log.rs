//! Edge. `restic-manager log`: what a job has said so far, or until its end.

use clap::Args;
use serde_json::Value;

use super::api::{DEADLINE, path};
use super::client::{CliFailure, ServerArguments};
use super::follow_view::{self, Printed};
use super::log_line::{LogLine, log_line};
use super::output::{Output, OutputArguments};

#[derive(Debug, Args)]
pub struct LogArguments {
    /// The job's id, or eight and more of its first characters
    job: String,
    /// Follow it to the job's end; the exit code is then the job's: 0 done, 3 done with warnings, 1 failed or cancelled
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

pub(super) async fn run(arguments: &LogArguments) -> Result<u8, CliFailure> {
    let client = arguments.server.reach()?.client;
    let mut output = Output::new(arguments.output);
    if arguments.follow {
        return follow_view::show(&client, &arguments.job, false, Printed::Log, &mut output).await;
    }
    let log = path(&["jobs", &arguments.job, "log"]);
    let lines = client.stream_lines(&log, &[], DEADLINE, DEADLINE).await;
    let mut lines = lines.map_err(|error| CliFailure::of(&error))?;
    while let Some(line) = lines.next_line().await {
        let line = line.map_err(|error| CliFailure::of(&error))?;
        let Ok(line) = serde_json::from_str::<Value>(&line) else {
            return Err("the log ended within a line: ask again".to_owned().into());
        };
        if output.json {
            output.json(&line)?;
        } else if let Some(LogLine::Text(text) | LogLine::Counted { text, .. }) = log_line(&line) {
            output.line(&text)?;
        }
    }
    output.flush()?;
    Ok(0)
}
