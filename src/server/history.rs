//! Edge. Jobs and events out of a host's files, newest first, for what memory no longer holds. Does not fold anything
//! itself: it replays a job's lines through the same `apply` that made the state.

use std::collections::HashMap;
use std::path::Path;

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::host_state::HostState;
use crate::file_error::FileError;
use crate::id::{JobId, ScheduleId};
use crate::job::{Job, JobStatus};
use crate::journal::Fold;
use crate::journal::line::Line;
use crate::journal::read::{self, Next};
use crate::protocol::job_options::JobKind;

/// Which jobs are wanted.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    pub kind: Option<JobKind>,
    pub status: Option<JobStatus>,
    pub schedule: Option<ScheduleId>,
    /// Only jobs whose line is before this one.
    pub before: Option<u64>,
}

impl JobFilter {
    fn takes(&self, job: &Job) -> bool {
        self.kind.is_none_or(|kind| job.kind == kind)
            && self.status.is_none_or(|status| job.status == status)
            && self.schedule.as_ref().is_none_or(|id| job.schedule_id.as_ref() == Some(id))
            && self.before.is_none_or(|before| job.queued_seq < before)
    }
}

#[derive(Deserialize)]
struct JobIdOnly {
    job_id: JobId,
}

/// The job that a line is about.
fn job_of(line: &Line) -> Option<JobId> {
    let about_a_job = line.kind.starts_with("job.") || line.kind == "command.result";
    about_a_job.then(|| serde_json::from_str::<JobIdOnly>(line.payload.get()).ok()).flatten().map(|only| only.job_id)
}

/// A job as its lines tell it, oldest first.
fn replay(lines: &[Line], id: JobId) -> Option<Job> {
    let mut state = HostState::default();
    for line in lines {
        state.apply(line);
    }
    state.job(id).cloned()
}

/// Visits jobs newest first (by when they were queued) until `visit` says stop.
fn jobs_newest_first(journal: &Path, up_to_seq: u64, mut visit: impl FnMut(Job) -> Next) -> Result<(), FileError> {
    let mut lines_of: HashMap<JobId, Vec<Line>> = HashMap::new();
    read::newest_first(journal, up_to_seq, |line| {
        let Some(id) = job_of(&line) else { return Next::Continue };
        let is_first = line.kind == "job.queued" && line.stream.is_none();
        let lines = lines_of.entry(id).or_default();
        lines.push(line);
        if !is_first {
            return Next::Continue;
        }
        let mut lines = lines_of.remove(&id).unwrap_or_default();
        lines.reverse();
        replay(&lines, id).map_or(Next::Continue, &mut visit)
    })
}

/// A page of jobs, newest first, and whether there may be more.
pub fn jobs(journal: &Path, up_to_seq: u64, filter: &JobFilter, limit: usize) -> Result<(Vec<Job>, bool), FileError> {
    let mut page = Vec::new();
    let mut more = false;
    jobs_newest_first(journal, up_to_seq, |job| {
        if filter.takes(&job) {
            if page.len() == limit {
                more = true;
                return Next::Stop;
            }
            page.push(job);
        }
        Next::Continue
    })?;
    Ok((page, more))
}

/// One job, however old.
pub fn job(journal: &Path, up_to_seq: u64, id: JobId) -> Result<Option<Job>, FileError> {
    let mut found = None;
    jobs_newest_first(journal, up_to_seq, |job| {
        if job.id != id {
            return Next::Continue;
        }
        found = Some(job);
        Next::Stop
    })?;
    Ok(found)
}

/// The first `limit` lines received after an instant and before another, oldest first.
pub fn lines_between(
    journal: &Path,
    up_to_seq: u64,
    after: Option<DateTime<Utc>>,
    before: DateTime<Utc>,
    limit: usize,
) -> Result<Vec<Line>, FileError> {
    let mut lines = Vec::new();
    read::oldest_first(journal, after, |line| {
        if line.received_at >= before || line.seq > up_to_seq {
            return Next::Stop;
        }
        lines.push(line);
        if lines.len() == limit { Next::Stop } else { Next::Continue }
    })?;
    Ok(lines)
}
