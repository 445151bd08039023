//! Edge. Jobs and events out of a host's files for what memory no longer holds: lists newest first, one job from where it was
//! made. Lines of other things are passed over by their bytes. What a line makes of a job is `job_fold`'s, as for the state.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use chrono::{DateTime, Datelike, Utc};
use serde::Deserialize;

use super::fact::Fact;
use super::job_fold::{apply_to_job, changed_job, is_settled, queued_job};
use super::job_index::JobIndex;
use crate::file_error::FileError;
use crate::id::{JobId, ScheduleId};
use crate::job::{Job, JobStatus};
use crate::journal::line::{self, Line, Peek};
use crate::journal::read::{self, Next, Start};
use crate::journal::stored;
use crate::protocol::job_options::JobKind;

/// Which jobs are wanted.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    pub kind: Option<JobKind>,
    pub status: Option<JobStatus>,
    pub schedule: Option<ScheduleId>,
    /// Without what only asks what is in the repository.
    pub no_questions: bool,
    /// Only jobs whose line is before this one.
    pub before: Option<u64>,
}

impl JobFilter {
    fn takes(&self, job: &Job) -> bool {
        self.kind.is_none_or(|kind| job.kind == kind)
            && self.status.is_none_or(|status| job.status == status)
            && self.schedule.as_ref().is_none_or(|id| job.schedule_id.as_ref() == Some(id))
            && !(self.no_questions && job.kind.is_query())
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
pub fn jobs_newest_first(journal: &Path, up_to_seq: u64, mut visit: impl FnMut(Job) -> Next) -> Result<(), FileError> {
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
    if let Some((_, seqs, _)) = hinted(journal, id) {
        for seq in seqs {
            if let Some(job) = job_at(journal, up_to_seq, id, seq)? {
                return Ok(Some(job));
            }
        }
    }
    job_by_reading(journal, up_to_seq, id, None).map(|(job, _)| job)
}

/// Whether there is such a job, without reading what became of it: by its hint, and where there is none by the host's history. An
/// index that is complete since `trusted_since` is believed that there is no job; `None`: it is not asked for that.
pub fn is_known(
    journal: &Path,
    up_to_seq: u64,
    id: JobId,
    trusted_since: Option<DateTime<Utc>>,
) -> Result<bool, FileError> {
    if let Some((index, seqs, is_whole)) = hinted(journal, id) {
        for seq in seqs {
            if is_made_at(journal, up_to_seq, id, seq)? {
                return Ok(true);
            }
        }
        if is_whole && trusted_since.is_some_and(|since| index.is_complete(since)) {
            return Ok(false);
        }
    }
    job_by_reading(journal, up_to_seq, id, None).map(|(job, _)| job.is_some())
}

/// The index beside a host's journal, the seqs that it has for a job of that host, and whether all of it could be read.
fn hinted(journal: &Path, id: JobId) -> Option<(JobIndex, Vec<u64>, bool)> {
    let host = journal.parent().and_then(Path::file_name)?.to_str()?;
    let index = JobIndex::beside(journal)?;
    let found = index.find(id);
    let seqs = found.hints.iter().filter(|hint| hint.host == host).map(|hint| hint.seq).collect();
    Some((index, seqs, found.is_whole))
}

fn is_made_at(journal: &Path, up_to_seq: u64, id: JobId, seq: u64) -> Result<bool, FileError> {
    let mut is_made = false;
    read::oldest_first_texts(journal, Start::Seq(seq), |text| {
        is_made = line::peek(text).is_some_and(|p| p.seq <= up_to_seq && makes_job(&p) && job_of(&p) == Some(id));
        Next::Stop
    })?;
    Ok(is_made)
}

/// One job by reading the host's history backwards, and whether the deadline cut that short.
pub fn job_by_reading(
    journal: &Path,
    up_to_seq: u64,
    id: JobId,
    deadline: Option<Instant>,
) -> Result<(Option<Job>, bool), FileError> {
    let mut lines: Vec<Box<[u8]>> = Vec::new();
    let (mut is_made, mut is_late) = (false, false);
    read::newest_first_texts(journal, up_to_seq, |text| {
        is_late = deadline.is_some_and(|deadline| Instant::now() > deadline);
        if is_late {
            return Next::Stop;
        }
        let Some(peek) = line::peek(text).filter(|peek| job_of(peek) == Some(id)) else { return Next::Continue };
        is_made = makes_job(&peek);
        lines.push(text.into());
        if is_made { Next::Stop } else { Next::Continue }
    })?;
    // Without the line that made it, it is no job: its segment has been deleted.
    let job = if is_made { lines.iter().rev().fold(None, |job, text| fold(job, id, text)) } else { None };
    Ok((job, is_late))
}

/// The job whose first line has this seq: read from there until no later line can change it, which for a job that the server
/// ended is `LATE_END` after that, or to the end. `None`: that line is not there, or another job's.
pub fn job_at(journal: &Path, up_to_seq: u64, id: JobId, seq: u64) -> Result<Option<Job>, FileError> {
    let mut found: Option<Job> = None;
    read::oldest_first_texts(journal, Start::Seq(seq), |text| {
        let peek = line::peek(text);
        if peek.as_ref().is_some_and(|peek| peek.seq > up_to_seq) {
            return Next::Stop;
        }
        if peek.as_ref().is_some_and(|peek| job_of(peek) == Some(id)) {
            found = fold(found.take(), id, text);
        }
        let Some(job) = &found else { return Next::Stop };
        // Most lines are read while it runs: their times are not parsed.
        let settled = job.status.is_final() && peek.and_then(|p| p.received_at()).is_some_and(|at| is_settled(job, at));
        if settled { Next::Stop } else { Next::Continue }
    })?;
    Ok(found)
}

/// Whether the journal's line with this seq is the one with this checksum, be it a segment's first one.
pub fn has_line(journal: &Path, seq: u64, crc: u32) -> Result<bool, FileError> {
    let is_it = |text: &[u8]| line::peek(text).is_some_and(|peek| peek.seq == seq) && line::checksum(text) == Some(crc);
    let mut has = false;
    read::oldest_first_texts(journal, Start::Seq(seq), |text| {
        has = is_it(text);
        Next::Stop
    })?;
    if has {
        return Ok(true);
    }
    for name in stored::segments(journal)?.into_iter().rev() {
        let first = stored::first_line(journal, name)?.unwrap_or_default();
        if is_it(&first) {
            return Ok(true);
        }
        if line::peek(&first).is_some_and(|peek| peek.seq < seq) {
            break;
        }
    }
    Ok(false)
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

/// The first `limit` wanted lines received after an instant and before another, oldest first.
pub fn lines_between(
    journal: &Path,
    up_to_seq: u64,
    after: Option<DateTime<Utc>>,
    before: DateTime<Utc>,
    limit: usize,
    is_wanted: impl Fn(&Line) -> bool,
) -> Result<Vec<Line>, FileError> {
    let mut lines = Vec::new();
    read::oldest_first(journal, after, |line| {
        if line.received_at >= before || line.seq > up_to_seq {
            return Next::Stop;
        }
        if !is_wanted(&line) {
            return Next::Continue;
        }
        lines.push(line);
        if lines.len() == limit { Next::Stop } else { Next::Continue }
    })?;
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::journal::{Fold, Journal};
    use crate::server::fact::{JobAndActor, JobQueued};
    use crate::server::folded::{at, finished, id, operator, queued};
    use crate::server::host_state::HostState;

    /// A journal with these facts at these days, a batch for each.
    fn journal(facts: &[(i64, Fact)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut journal = Journal::<HostState>::open(dir.path()).expect("open");
        for (day, fact) in facts {
            let time = at("2026-01-02T12:00:00Z") + TimeDelta::days(*day);
            let mut batch = journal.begin(time).expect("begin");
            batch.append(time + TimeDelta::seconds(1), &fact.to_new_line(time));
            batch.commit().expect("commit");
        }
        dir
    }

    fn abandoned(job: JobId) -> Fact {
        Fact::JobAbandoned(JobAndActor { job_id: job, actor: operator() })
    }

    fn first_job(dir: &Path) -> Job {
        let listed = jobs(dir, u64::MAX, &JobFilter::default(), 100).expect("jobs").0.pop().expect("the oldest job");
        job_at(dir, u64::MAX, listed.id, listed.queued_seq)
            .expect("read")
            .filter(|job| *job == listed)
            .expect("as listed")
    }

    #[test]
    fn questions_are_jobs_that_a_list_may_leave_out() {
        let question = match queued(id(2)) {
            Fact::JobQueued(queued) => Fact::JobQueued(JobQueued { kind: JobKind::Ls, ..queued }),
            other => other,
        };
        let dir = journal(&[(0, queued(id(1))), (1, question)]);
        let listed = |no_questions| {
            let filter = JobFilter { no_questions, ..JobFilter::default() };
            let (jobs, _) = jobs(dir.path(), u64::MAX, &filter, 100).expect("jobs");
            jobs.iter().map(|job| job.kind).collect::<Vec<_>>()
        };
        assert_eq!(listed(false), [JobKind::Ls, JobKind::Backup]);
        assert_eq!(listed(true), [JobKind::Backup]);
    }

    #[test]
    fn a_late_end_of_an_abandoned_job_counts_for_thirty_days_in_every_view() {
        for (days, status) in [(29, JobStatus::Succeeded), (31, JobStatus::Failed)] {
            let facts = [(0, queued(id(1))), (1, abandoned(id(1))), (1 + days, finished(id(1), "succeeded"))];
            let dir = journal(&facts);
            assert_eq!(first_job(dir.path()).status, status);
            let mut state = HostState::default();
            let lines =
                lines_between(dir.path(), u64::MAX, None, at("2027-01-01T00:00:00Z"), 100, |_| true).expect("lines");
            lines.iter().for_each(|line| state.apply(line));
            assert_eq!(state.job(id(1)).map(|job| job.status), Some(status));
        }
    }

    #[test]
    fn a_job_that_the_server_ended_is_not_looked_for_in_all_that_came_after() {
        let months = [(60, queued(id(2))), (90, queued(id(3))), (120, queued(id(4))), (150, queued(id(5)))];
        let read = |ends: &[(i64, Fact)]| {
            let dir = journal(&[&[(0, queued(id(1)))], ends, &months].concat());
            let first = first_job(dir.path());
            // The search for the first segment looks at the beginnings of others, and the reading of March at April's.
            let later = dir.path().join("2026-05.jsonl");
            assert!(dir.path().join("2026-06.jsonl").exists());
            std::fs::remove_file(&later).expect("there");
            std::fs::create_dir(&later).expect("what cannot be read");
            job_at(dir.path(), u64::MAX, first.id, first.queued_seq).map(|job| (job, first))
        };
        let (job, before) = read(&[(1, abandoned(id(1)))]).expect("May is not read");
        assert_eq!(job, Some(before));
        assert!(read(&[]).is_err(), "the control: a job that has not ended is looked for everywhere");
    }
}
