//! Edge. Jobs and events out of a host's files for what memory no longer holds: lists newest first, one job from where it was
//! made. Lines of other things are passed over by their bytes. What a line makes of a job is `job_fold`'s, as for the state.

use std::collections::HashMap;
use std::path::Path;

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use serde::Deserialize;

use super::fact::Fact;
use super::job_fold::{apply_to_job, changed_job, queued_job};
use super::job_index::JobIndex;
use crate::file_error::FileError;
use crate::id::{JobId, ScheduleId};
use crate::job::{Job, JobStatus};
use crate::journal::line::{self, Line, Peek};
use crate::journal::read::{self, Next, Start};
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

/// How the payloads of most of these lines begin.
const JOB_ID_FIRST: &[u8] = b"{\"job_id\":\"";

/// The job that a line is about, by its bytes where they are as we write them.
fn job_of(peek: &Peek<'_>) -> Option<JobId> {
    if !peek.kind.starts_with("job.") && peek.kind != "command.result" {
        return None;
    }
    let first = peek.payload.strip_prefix(JOB_ID_FIRST).and_then(|rest| std::str::from_utf8(rest.get(..36)?).ok());
    first.and_then(|text| text.parse().ok()).or_else(|| {
        let only = serde_json::from_slice::<JobIdOnly>(peek.payload).ok();
        only.map(|only| only.job_id)
    })
}

/// Whether the line makes the job.
fn makes_job(peek: &Peek<'_>) -> bool {
    peek.kind == "job.queued" && !peek.is_agents
}

/// Takes one more line of a job in, oldest first.
fn fold(job: Option<Job>, id: JobId, text: &[u8]) -> Option<Job> {
    let line = line::decode(text)?;
    let fact = Fact::from_line(&line);
    match (&fact, job) {
        (Some(Fact::JobQueued(queued)), _) if queued.job_id == id => Some(queued_job(queued, &line)),
        (Some(fact), Some(mut job)) => {
            if changed_job(fact) == Some(id) {
                apply_to_job(&mut job, fact, &line);
            }
            Some(job)
        }
        (_, job) => job,
    }
}

/// Visits jobs newest first (by when they were queued) until `visit` says stop.
fn jobs_newest_first(journal: &Path, up_to_seq: u64, mut visit: impl FnMut(Job) -> Next) -> Result<(), FileError> {
    let mut lines_of: HashMap<JobId, Vec<Box<[u8]>>> = HashMap::new();
    read::newest_first_texts(journal, up_to_seq, |text| {
        // Types that need escapes are no job's.
        let Some(peek) = line::peek(text) else { return Next::Continue };
        let Some(id) = job_of(&peek) else { return Next::Continue };
        if !makes_job(&peek) {
            lines_of.entry(id).or_default().push(text.into());
            return Next::Continue;
        }
        let later = lines_of.remove(&id).unwrap_or_default();
        let first = fold(None, id, text);
        let job = later.iter().rev().fold(first, |job, text| fold(job, id, text));
        job.map_or(Next::Continue, &mut visit)
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

/// One job, however old: from where the index says, else by reading the host's history backwards.
pub fn job(journal: &Path, up_to_seq: u64, id: JobId) -> Result<Option<Job>, FileError> {
    job_while(journal, up_to_seq, id, || true)
}

/// The same, giving up with `None` when `may_go_on` says no.
pub fn job_while(
    journal: &Path,
    up_to_seq: u64,
    id: JobId,
    may_go_on: impl Fn() -> bool,
) -> Result<Option<Job>, FileError> {
    if let Some(host) = journal.parent().and_then(Path::file_name).and_then(|name| name.to_str())
        && let Some(index) = JobIndex::beside(journal)
    {
        for hint in index.find(id).iter().filter(|hint| hint.host == host) {
            if let Some(job) = job_at(journal, up_to_seq, id, hint.seq)? {
                return Ok(Some(job));
            }
        }
    }
    let mut lines: Vec<Box<[u8]>> = Vec::new();
    let mut is_made = false;
    let mut passed = 0_u64;
    read::newest_first_texts(journal, up_to_seq, |text| {
        passed += 1;
        if passed.is_multiple_of(1024) && !may_go_on() {
            return Next::Stop;
        }
        let Some(peek) = line::peek(text).filter(|peek| job_of(peek) == Some(id)) else { return Next::Continue };
        is_made = makes_job(&peek);
        lines.push(text.into());
        if is_made { Next::Stop } else { Next::Continue }
    })?;
    // Without the line that made it, it is no job: its segment has been deleted.
    Ok(if is_made { lines.iter().rev().fold(None, |job, text| fold(job, id, text)) } else { None })
}

/// How long after an end that the server made up (expired, abandoned) the agent's own word is looked for: an agent out of reach
/// keeps what it has to tell for a month (P7).
const LATE_END: TimeDelta = TimeDelta::days(60);

/// The job whose first line has this seq: read from there to the end that the agent told, or for `LATE_END` after one that the
/// server made up. `None`: that line is not there, or another job's.
pub fn job_at(journal: &Path, up_to_seq: u64, id: JobId, seq: u64) -> Result<Option<Job>, FileError> {
    let mut found: Option<Job> = None;
    read::oldest_first_texts(journal, Start::Seq(seq), |text| {
        let Some(peek) = line::peek(text) else { return Next::Continue };
        if found.as_ref().is_some_and(|job| is_past(job, &peek)) {
            return Next::Stop;
        }
        if peek.seq <= up_to_seq && job_of(&peek) == Some(id) {
            found = fold(found.take(), id, text);
        }
        // What the agent told of the end is the last word.
        let is_whole = |job: &Job| job.status.is_final() && job.last_log_seq.is_some();
        if found.as_ref().is_none_or(is_whole) { Next::Stop } else { Next::Continue }
    })?;
    Ok(found)
}

/// Whether a line is so long after the end that the server made up that nothing more is looked for.
fn is_past(job: &Job, peek: &Peek<'_>) -> bool {
    let ended = job.finished_at.filter(|_| job.status.is_final());
    ended.is_some_and(|ended| peek.received_at().is_some_and(|at| at > ended + LATE_END))
}

/// Calls `visit` with each job that was made after an instant (or ever), the seq of its first line and its year.
pub fn jobs_made(
    journal: &Path,
    after: Option<DateTime<Utc>>,
    mut visit: impl FnMut(JobId, u64, i32),
) -> Result<(), FileError> {
    read::oldest_first_texts(journal, after.map_or(Start::Beginning, Start::After), |text| {
        if let Some(peek) = line::peek(text).filter(makes_job)
            && let (Some(id), Some(at)) = (job_of(&peek), peek.received_at())
        {
            visit(id, peek.seq, at.year());
        }
        Next::Continue
    })
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
