//! Edge. Follows one job to its end: its log as it is written, its progress, and what becomes of it. Waits in the server's own
//! streams, goes on after the server or the way to it was gone, and tells each line once. Does not print: `follow_view` does.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::api::{DEADLINE, Query, path, read};
use super::failure::{CliFailure, is_passing};
use super::job::Job;
use crate::http_client::{ClientError, HttpClient};

/// How long a silent log is listened to before the job itself is looked at: what it waits for is in no log.
const SILENCE_QUEUED: Duration = Duration::from_secs(15);
const SILENCE_RUNNING: Duration = Duration::from_secs(60);
/// How long a server is waited for that was there before.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// Between two looks where a stream ends at once.
const LEAST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What a follower sees, in order.
pub(super) enum Told<'a> {
    /// The job as it is now.
    Job(&'a Job),
    /// A line of its log: an envelope of protocol.md.
    Line(&'a Value),
    /// The server does not answer, and why.
    Lost(&'a str),
    /// It does again.
    Back,
}

/// A job that has ended, and the server's own words for it.
pub(super) struct Ended {
    pub(super) job: Job,
    pub(super) value: Value,
}

/// Follows from the log's beginning. `is_there`: the server has answered before, so that it is waited for.
pub(super) async fn follow(
    client: &HttpClient,
    id: &str,
    is_there: bool,
    tell: &mut impl FnMut(Told<'_>) -> Result<(), CliFailure>,
) -> Result<Ended, CliFailure> {
    let mut id = id.to_owned();
    let mut reach = Reach { is_there, lost_since: None };
    let mut after = 0;
    loop {
        let value = reach.get(client, &path(&["jobs", &id]), tell).await?;
        let job: Job = read(&value)?;
        // A beginning of it may soon be another's too.
        id.clone_from(&job.id);
        tell(Told::Job(&job))?;
        let (began, before) = (Instant::now(), after);
        let is_whole = read_log(client, &mut after, &job, tell).await?;
        if is_whole && job.is_final() {
            return Ok(Ended { job, value });
        }
        if after == before {
            tokio::time::sleep_until(began + LEAST_PAUSE).await;
        }
    }
}

/// Tells what comes of the log; whether it came to its end, or the server's.
async fn read_log(
    client: &HttpClient,
    after: &mut u64,
    job: &Job,
    tell: &mut impl FnMut(Told<'_>) -> Result<(), CliFailure>,
) -> Result<bool, CliFailure> {
    let silence = if job.status == "queued" { SILENCE_QUEUED } else { SILENCE_RUNNING };
    let query = Query::default().with("after", Some(*after)).flag("follow", true);
    let log = format!("{}{}", path(&["jobs", &job.id, "log"]), query.text());
    let passing = |error: ClientError| if is_passing(&error) { Ok(false) } else { Err(CliFailure::of(&error)) };
    let mut lines = match client.stream_lines(&log, &[], DEADLINE, silence).await {
        Ok(lines) => lines,
        Err(error) => return passing(error),
    };
    while let Some(line) = lines.next_line().await {
        let line = match line {
            Ok(line) => line,
            Err(error) => return passing(error),
        };
        // The last line of a stream that was cut may be half a line: it comes again, whole.
        let Ok(line) = serde_json::from_str::<Value>(&line) else { return Ok(false) };
        let seq = line["seq"].as_u64().unwrap_or(0);
        if seq > *after {
            *after = seq;
            tell(Told::Line(&line))?;
        }
    }
    Ok(true)
}

/// Whether the server is there at the moment.
struct Reach {
    is_there: bool,
    lost_since: Option<Instant>,
}

impl Reach {
    /// GET, again and again while the server that was there is not.
    async fn get(
        &mut self,
        client: &HttpClient,
        path: &str,
        tell: &mut impl FnMut(Told<'_>) -> Result<(), CliFailure>,
    ) -> Result<Value, CliFailure> {
        let mut pause = Duration::from_millis(250);
        loop {
            let error = match client.get_json(path, DEADLINE).await {
                Ok(value) => {
                    self.is_there = true;
                    if self.lost_since.take().is_some() {
                        tell(Told::Back)?;
                    }
                    return Ok(value);
                }
                Err(error) => error,
            };
            let is_new = self.lost_since.is_none();
            let since = *self.lost_since.get_or_insert_with(Instant::now);
            if !self.is_there || !is_passing(&error) || since.elapsed() > PATIENCE {
                return Err(CliFailure::of(&error));
            }
            if is_new {
                tell(Told::Lost(&error.headline()))?;
            }
            tokio::time::sleep(error.retry_after().unwrap_or(pause).min(LONGEST_PAUSE)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// The future's value; `None`: the person at the terminal pressed Ctrl-C first.
pub(super) async fn unless_interrupted<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => None,
        value = future => Some(value),
    }
}
