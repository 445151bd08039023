//! Edge. One job by its id, whichever host has it: by the index of jobs, by memory, and while the index is not complete by
//! reading history, one search at a time and not for long. Does not make the index: `index_upkeep` does.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, TryLockError};
use std::time::{Duration, Instant};

use super::app::App;
use super::history;
use super::host::Host;
use super::job_index::{Hint, JobIndex};
use crate::file_error::FileError;
use crate::id::{HostName, JobId};
use crate::job::Job;

/// How long history is read for one request.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why it is not known whether there is a job.
#[derive(Debug)]
pub enum FindError {
    File(FileError),
    /// The index is being made, and history was not read to its end.
    NotYet(String),
}

/// How a job's id begins, as people copy it: eight characters or more.
#[derive(Debug, Clone)]
pub struct IdBeginning {
    text: String,
    first: JobId,
    last: JobId,
}

impl IdBeginning {
    /// `None`: no id begins so, or too many could.
    pub fn of(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let rest = |all: &'static str| all.get(text.len()..).filter(|_| text.len() >= SHORTEST_BEGINNING);
        // With its hyphens: another way of writing it would begin another way.
        let is_of_an_id = text.bytes().zip(NO_ID.bytes()).all(|(byte, form)| (byte == b'-') == (form == b'-'));
        let whole = |all| format!("{text}{}", rest(all)?).parse::<JobId>().ok();
        let (first, last) = (whole(NO_ID)?, whole(LAST_ID)?);
        is_of_an_id.then_some(Self { text, first, last })
    }
}

const SHORTEST_BEGINNING: usize = 8;
const NO_ID: &str = "00000000-0000-0000-0000-000000000000";
const LAST_ID: &str = "ffffffff-ffff-ffff-ffff-ffffffffffff";
/// Of jobs whose ids begin alike so many are looked at: one more than nobody could mean.
const MOST_ALIKE: usize = 16;

impl fmt::Display for FindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => fmt::Display::fmt(error, f),
            Self::NotYet(id) => write!(
                f,
                "whether there is a job {id} is not known yet: the index of jobs is being made from all history; ask again in some seconds"
            ),
        }
    }
}

impl std::error::Error for FindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File(error) => error.source(),
            Self::NotYet(_) => None,
        }
    }
}

impl From<FileError> for FindError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

/// The host that has this job, and the job. A job that nobody has costs no history where the index is complete; where it is
/// not, the index is asked for, and history is read for two seconds at most. May block: call off the reactor.
pub fn find_job(app: &App, id: JobId) -> Result<Option<(Arc<Host>, Job)>, FindError> {
    let index = JobIndex::of(&app.state_dir.path);
    let found = index.find(id);
    for hint in &found.hints {
        if let Some(job) = job_at_hint(app, id, hint)? {
            return Ok(Some(job));
        }
    }
    for host in app.hosts() {
        let job = host.slot.durable().state.job(id).cloned();
        if let Some(job) = job {
            return Ok(Some((host, job)));
        }
    }
    if found.is_whole && index.is_complete(app.outage.ready_at) {
        return Ok(None);
    }
    app.index_wanted.notify_one();
    search_history(app, id, Instant::now() + PATIENCE)
}

/// The jobs whose ids begin so, by id; sixteen at most. No history is read but where the index says: where that is not complete, a
/// job that ended long ago may be missing. May block.
pub fn find_jobs_beginning(app: &App, beginning: &IdBeginning) -> Result<Vec<(Arc<Host>, Job)>, FindError> {
    let index = JobIndex::of(&app.state_dir.path);
    let (hints, is_whole) = index.find_beginning(&beginning.text, MOST_ALIKE);
    let mut found = BTreeMap::new();
    for (id, hint) in hints {
        if !found.contains_key(&id)
            && let Some(job) = job_at_hint(app, id, &hint)?
        {
            found.insert(id, job);
        }
    }
    for host in app.hosts() {
        let state = host.slot.durable().state;
        let ended = state.recent.iter().filter(|job| (beginning.first..=beginning.last).contains(&job.id));
        for job in state.jobs.range(beginning.first..=beginning.last).map(|(_, job)| job).chain(ended) {
            found.entry(job.id).or_insert_with(|| (Arc::clone(&host), job.clone()));
        }
    }
    if found.is_empty() && !(is_whole && index.is_complete(app.outage.ready_at)) {
        app.index_wanted.notify_one();
        return Err(FindError::NotYet(beginning.text.clone()));
    }
    Ok(found.into_values().take(MOST_ALIKE).collect())
}

/// The job, if it is where the hint says.
fn job_at_hint(app: &App, id: JobId, hint: &Hint) -> Result<Option<(Arc<Host>, Job)>, FindError> {
    let host = hint.host.parse().map_or(Ok(None), |name| host_with_journal(app, &name))?;
    let Some(host) = host else { return Ok(None) };
    let durable = host.slot.durable();
    let job = match durable.state.job(id) {
        Some(job) => Some(job.clone()),
        None => history::job_at(&host.journal_dir(), durable.head.seq, id, hint.seq)?,
    };
    Ok(job.map(|job| (host, job)))
}

/// Whether another host has a job with this id, as far as the index says, which has each job before it is durable: a host's agent
/// must not be able to make another's job look like its own. Does not look at ten thousand hosts for one event.
pub fn is_of_another_host(app: &App, id: JobId, host: &HostName) -> bool {
    JobIndex::of(&app.state_dir.path).find(id).hints.iter().any(|hint| hint.host != host.as_str())
}

/// The host, also one that another server made known.
fn host_with_journal(app: &App, name: &HostName) -> Result<Option<Arc<Host>>, FileError> {
    match app.host(name) {
        None if app.state_dir.host_dir(name).join("journal").is_dir() => app.open_host(name).map(Some),
        known => Ok(known),
    }
}

/// Reads every host's history until the deadline, unless somebody is at it already: requests for jobs that nobody has must not
/// take all threads and the disk.
fn search_history(app: &App, id: JobId, deadline: Instant) -> Result<Option<(Arc<Host>, Job)>, FindError> {
    let _search = match app.history_search.try_lock() {
        Ok(search) => search,
        Err(TryLockError::Poisoned(search)) => search.into_inner(),
        Err(TryLockError::WouldBlock) => return Err(FindError::NotYet(id.to_string())),
    };
    // A job that ran has a log, which names its host without reading any history.
    let log_of = |host: &HostName| app.state_dir.host_dir(host).join("logs").join(format!("{id}.jsonl"));
    let (with_log, without): (Vec<_>, Vec<_>) = app.state_dir.hosts()?.into_iter().partition(|h| log_of(h).exists());
    for name in with_log.into_iter().chain(without) {
        let Some(host) = host_with_journal(app, &name)? else { continue };
        let head = host.slot.durable().head;
        let (job, is_late) = history::job_by_reading(&host.journal_dir(), head.seq, id, Some(deadline))?;
        if let Some(job) = job {
            return Ok(Some((host, job)));
        }
        if is_late || Instant::now() > deadline {
            return Err(FindError::NotYet(id.to_string()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::folded::id;
    use crate::server::http::answer::Problem;
    use crate::server::index_upkeep;
    use crate::server::upkeep::tests::five_months;

    #[test]
    fn one_request_at_a_time_reads_history_and_the_others_are_to_ask_again() {
        let (state, _dir) = five_months();
        let app = App::open(state.path()).expect("open");
        let search = app.history_search.lock().expect("free");
        let refused = find_job(&app, id(99)).err().expect("somebody is at it");
        assert!(matches!(&refused, FindError::NotYet(job) if *job == id::<JobId>(99).to_string()));
        let answer = Problem::from(refused).into_answer();
        assert_eq!(answer.status(), 503);
        assert!(answer.headers().contains_key("retry-after"));
        drop(search);
        assert!(find_job(&app, id(99)).expect("nobody is at it").is_none());
        // With the index nobody reads.
        index_upkeep::complete_once(&app).expect("index").expect("nobody else is at it");
        let _search = app.history_search.lock().expect("free");
        assert!(find_job(&app, id(99)).expect("known").is_none());
        assert!(find_job(&app, id(7)).expect("known").is_some());
    }

    #[test]
    fn a_host_that_another_server_made_known_is_looked_at_too() {
        let (state, dir) = five_months();
        let name: HostName = "web-9".parse().expect("a name");
        let app = App::open(state.path()).expect("open");
        let later = dir.parent().expect("the host's").with_file_name("web-9");
        std::fs::rename(dir.parent().expect("the host's"), &later).expect("a host that came later");
        assert!(app.host(&name).is_none());
        index_upkeep::complete_once(&app).expect("index").expect("nobody else is at it");
        let (host, _) = find_job(&app, id(7)).expect("known").expect("by the index");
        assert_eq!(host.name, name);
    }

    #[test]
    fn whether_a_job_is_known_is_told_by_the_index_and_only_without_it_by_history() {
        let (state, dir) = five_months();
        let app = App::open(state.path()).expect("open");
        let known = |job: u8, trusted| history::is_known(&dir, u64::MAX, id(job), trusted).expect("read");
        assert!(known(7, None) && !known(99, None), "by history");
        index_upkeep::complete_once(&app).expect("index").expect("nobody else is at it");
        assert!(known(7, Some(app.outage.ready_at)) && known(7, None) && !known(99, Some(app.outage.ready_at)));
        // The control: an index that lacks a hint and passes for complete is believed, so nothing else was read.
        for file in std::fs::read_dir(state.path().join("jobs/2026")).expect("a directory") {
            std::fs::write(file.expect("a file").path(), "").expect("emptied");
        }
        assert!(!known(7, Some(app.outage.ready_at)) && known(7, None));
    }

    #[test]
    fn a_job_is_found_by_how_its_id_begins_and_several_are_told() {
        let (state, _dir) = five_months();
        let app = App::open(state.path()).expect("open");
        let found = |text: &str| find_jobs_beginning(&app, &IdBeginning::of(text).expect("a beginning"));
        assert!(matches!(found("abcdef01"), Err(FindError::NotYet(_))), "the index is not complete");
        index_upkeep::complete_once(&app).expect("index").expect("nobody else is at it");
        assert!(found("abcdef01").expect("known").is_empty());
        let whole = id::<JobId>(7).to_string();
        let one = found(&whole[..35]).expect("known");
        assert!(one.len() > 1 && one.iter().all(|(_, job)| job.id.to_string().starts_with(&whole[..35])));
        assert_eq!(found(&whole).expect("known").len(), 1);
        let too_short_or_none = ["abcdef0", "abcdef0g", "abcdef01a", "abcdef-01", "", "abcdef01-", "ABCDEF01-2"];
        assert_eq!(
            too_short_or_none.map(|text| IdBeginning::of(text).is_some()),
            [false, false, false, false, false, true, true]
        );
        assert!(IdBeginning::of(&format!("{whole}0")).is_none() && IdBeginning::of("äääääääää").is_none());
    }

    #[test]
    fn history_is_not_read_beyond_the_deadline() {
        let (state, _dir) = five_months();
        let app = App::open(state.path()).expect("open");
        let until = |deadline| search_history(&app, id(7), deadline);
        assert!(matches!(until(Instant::now() - Duration::from_millis(1)), Err(FindError::NotYet(_))));
        assert!(until(Instant::now() + PATIENCE).expect("in time").is_some(), "the control");
    }
}
