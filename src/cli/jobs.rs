//! Edge. `restic-manager jobs`, and what ends one: `restic-manager cancel` and `restic-manager abandon`.

use clap::Args;
use serde_json::Value;

use super::api::{DEADLINE, Pages, Query, path, read};
use super::client::{CliFailure, ServerArguments};
use super::hosts::{Away, away_of};
use super::job::Job;
use super::output::{Output, OutputArguments, remark};
use super::table::{Cell, Table, cell, cut, styled, whole, whole_or_none};
use super::words::Times;
use crate::clock;
use crate::http_client::HttpClient;

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
    /// Questions too, such as ls and find, which are left out unless --kind names theirs
    #[arg(short, long)]
    all: bool,
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
    /// The job's id, or eight and more of its first characters
    job: String,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Debug, Args)]
pub struct AbandonArguments {
    /// The job's id, or eight and more of its first characters
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
        .with("schedule", arguments.schedule.as_ref())
        .flag("no_questions", !arguments.all && arguments.kind.is_none());
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
    let (value, job) = post(&client, &arguments.job, "cancel").await?;
    // What can be said beside it, and no reason to fail.
    let away = if job.is_final() { None } else { away_of(&client, &job.host).await.ok().flatten() };
    if output.json {
        output.json(&value)?;
    } else {
        let what = match job.is_final() {
            false => "will be cancelled".to_owned(),
            true if job.status == "cancelled" => job.status_words().to_owned(),
            true => format!("had ended before: {}", job.status_words()),
        };
        output.line(&format!("job {}, {}: {what}", job.id, job.name()))?;
    }
    output.flush()?;
    if let Some(remark_of) = remark_on(&job, away, output.times) {
        remark(&remark_of);
    }
    Ok(0)
}

/// What becomes of a job that is to be cancelled, and what else can be done. `away`: its host's agent is, and was seen last then.
fn remark_on(job: &Job, away: Option<Away>, times: Times) -> Option<String> {
    if job.is_final() {
        return None;
    }
    let Job { id, host, .. } = job;
    Some(match away {
        None => format!("restic may take a minute to end; `restic-manager log {id} -f` waits for it"),
        Some(Away { last_seen }) => {
            let since =
                last_seen.map_or_else(|| "was never seen".to_owned(), |at| format!("seen last {}", times.show(at)));
            format!(
                "host {host} is offline ({since}): the job ends when its agent is back; if that will not be, `restic-manager abandon {id}` ends it here"
            )
        }
    })
}

/// `restic-manager abandon`.
pub(super) async fn abandon(arguments: &AbandonArguments) -> Result<u8, CliFailure> {
    let client = arguments.server.reach()?.client;
    let mut output = Output::new(arguments.output);
    let (value, job) = post(&client, &arguments.job, "abandon").await?;
    if output.json {
        output.json(&value)?;
    } else {
        job.outcome().iter().try_for_each(|line| output.line(line))?;
    }
    output.flush()?;
    Ok(0)
}

/// Does this to a job; the job as it is then.
async fn post(client: &HttpClient, job: &str, deed: &str) -> Result<(Value, Job), CliFailure> {
    let answer = client.post_json(&path(&["jobs", job, deed]), &serde_json::json!({}), DEADLINE).await;
    let value: Value = answer.map_err(|error| CliFailure::of(&error))?;
    let job = read(&value)?;
    Ok((value, job))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_job_of_a_host_that_is_away_ends_when_it_is_back_or_is_abandoned() {
        let job = |status: &str| -> Job {
            read(&json!({"id": "j", "host": "web-1", "kind": "backup", "status": status})).expect("a job")
        };
        let last_seen = "2026-01-01T00:00:00Z".parse().ok();
        let times = Times::From("2026-01-01T03:00:00Z".parse().expect("an instant"));
        let told = remark_on(&job("running"), Some(Away { last_seen }), times).expect("a remark");
        assert!(told.starts_with("host web-1 is offline (seen last 3 h ago): the job ends when"), "{told}");
        assert!(told.contains("`restic-manager abandon j`"), "{told}");
        let told = remark_on(&job("running"), None, times).expect("a remark");
        assert!(told.starts_with("restic may take a minute") && !told.contains("abandon"), "{told}");
        assert_eq!(remark_on(&job("cancelled"), Some(Away { last_seen }), times), None);
    }
}
