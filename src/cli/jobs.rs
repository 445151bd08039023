//! Edge. `restic-manager jobs` and `restic-manager cancel`.

use clap::Args;
use serde_json::Value;

use super::api::{DEADLINE, Pages, Query, path, read};
use super::client::{CliFailure, ServerArguments};
use super::job::Job;
use super::output::{Output, OutputArguments, remark};
use super::table::{Cell, Table, cell, cut, styled, whole, whole_or_none};
use super::words::Times;
use crate::clock;

#[derive(Debug, Args)]
pub struct JobsArguments {
    /// The host
    host: String,
    /// Only jobs of this kind, such as backup
    #[arg(long)]
    kind: Option<String>,
    /// Only queued, running, succeeded, failed or cancelled ones
    #[arg(long)]
    status: Option<String>,
    /// Only those of this schedule
    #[arg(long, value_name = "ID")]
    schedule: Option<String>,
    /// At most so many, the newest first; 0: all
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Debug, Args)]
pub struct CancelArguments {
    /// The job's id
    job: String,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

/// `restic-manager jobs`.
pub(super) async fn list(arguments: &JobsArguments) -> Result<u8, CliFailure> {
    let client = arguments.server.reach()?.client;
    let mut output = Output::new(arguments.output);
    let query = Query::default()
        .with("kind", arguments.kind.as_ref())
        .with("status", arguments.status.as_ref())
        .with("schedule", arguments.schedule.as_ref());
    let most = Some(arguments.limit).filter(|limit| *limit > 0);
    let columns = [
        whole("JOB"),
        whole("KIND"),
        whole("STATUS"),
        whole_or_none("QUEUED", 2),
        whole_or_none("TOOK", 3),
        cut("BY", 4),
        cut("RESULT", 1),
    ];
    let times = output.times;
    let mut pages = Pages::new(&client, path(&["hosts", &arguments.host, "jobs"]), query, ("jobs", "before"), most);
    pages.show(&mut output, Table::new(&columns), "no such jobs", |job: &Job| row(job, times)).await?;
    Ok(0)
}

fn row(job: &Job, times: Times) -> Vec<Cell> {
    let by = match (&job.schedule_id, job.actor.kind.as_str()) {
        (Some(schedule), "schedule") => schedule.clone(),
        (Some(schedule), _) => format!("{}: {schedule}", job.actor.name),
        (None, _) => job.actor.name.clone(),
    };
    vec![
        cell(&job.id),
        cell(&job.kind),
        styled(job.status_words(), job.style()),
        cell(times.show_if(job.queued_at)),
        cell(job.took(clock::now()).unwrap_or_default()),
        cell(by),
        cell(job.detail()),
    ]
}

/// `restic-manager cancel`.
pub(super) async fn cancel(arguments: &CancelArguments) -> Result<u8, CliFailure> {
    let client = arguments.server.reach()?.client;
    let mut output = Output::new(arguments.output);
    let cancel = path(&["jobs", &arguments.job, "cancel"]);
    let answer = client.post_json(&cancel, &serde_json::json!({}), DEADLINE).await;
    let value: Value = answer.map_err(|error| CliFailure::of(&error))?;
    let job: Job = read(&value)?;
    if output.json {
        output.json(&value)?;
    } else if job.is_final() {
        output.line(&format!("job {}, {}: {}", job.id, job.name(), job.status_words()))?;
    } else {
        output.line(&format!("job {}, {}: will be cancelled", job.id, job.name()))?;
        remark(&format!("restic may take a minute to end; `restic-manager log {} -f` waits for it", job.id));
    }
    output.flush()?;
    Ok(0)
}
