//! Edge. Which host has which job: `state/jobs/<year>/<first two hex digits>.idx`, a line per job with its id, its host, and the
//! seq of the line that made it. A cache of what the journals say: appended to without fsync, checked against the journal by
//! whoever follows a hint, made complete again by upkeep, and free to be deleted. Does not read journals.
//!
//! By year, so that old hints go with their directory and no file is ever rewritten while somebody appends to it.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Datelike, Utc};

use crate::atomic_file;
use crate::clock;
use crate::file_error::{FileError, chain};
use crate::id::JobId;

/// By directory, when a hint could not be written or read: a pass that began before is not complete.
static FAILED: Mutex<BTreeMap<PathBuf, DateTime<Utc>>> = Mutex::new(BTreeMap::new());

/// Where a job was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    pub host: String,
    pub seq: u64,
}

/// A job that a journal holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub id: JobId,
    pub hint: Hint,
    pub year: i32,
}

/// The hints of a state directory.
#[derive(Debug, Clone)]
pub struct JobIndex {
    dir: PathBuf,
}

impl JobIndex {
    pub fn of(state: &Path) -> Self {
        Self { dir: state.join("jobs") }
    }

    /// The one that belongs to a host's journal, `state/hosts/<host>/journal`.
    pub fn beside(journal: &Path) -> Option<Self> {
        let hosts = journal.parent()?.parent()?;
        (hosts.file_name()? == "hosts").then_some(())?;
        Some(Self::of(hosts.parent()?))
    }

    /// Hints for a job, the newest first. None: see `is_complete`. What cannot be read has none, and is not complete.
    pub fn find(&self, id: JobId) -> Vec<Hint> {
        let text = id.to_string();
        self.find_in_files(&text).unwrap_or_else(|error| {
            tracing::warn!("jobs are found more slowly until the next upkeep: {}", chain(&error));
            self.is_incomplete();
            Vec::new()
        })
    }

    fn find_in_files(&self, text: &str) -> Result<Vec<Hint>, FileError> {
        let mut hints = Vec::new();
        for year in self.years()?.into_iter().rev() {
            let path = self.file(year, text);
            let bytes = match std::fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(FileError::of("read", &path)(error)),
            };
            // A torn line before it does not hide one.
            let found = memchr::memmem::find_iter(&bytes, text.as_bytes());
            let mut here: Vec<Hint> = found.filter_map(|at| hint_of(&bytes[at + text.len()..])).collect();
            here.reverse();
            hints.append(&mut here);
        }
        Ok(hints)
    }

    /// Whether a job that was durable before `since` and has no hint does not exist.
    pub fn is_complete(&self, since: DateTime<Utc>) -> bool {
        let complete = self.complete_since();
        let failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner).get(&self.dir).copied();
        complete.is_some_and(|at| at >= since && failed.is_none_or(|failed| at > failed))
    }

    /// When the last pass over the journals that came to its end began. One from the future tells nothing.
    pub fn complete_since(&self) -> Option<DateTime<Utc>> {
        let text = std::fs::read_to_string(self.dir.join("complete")).ok()?;
        text.trim().parse().ok().filter(|at| *at <= clock::now())
    }

    /// From now on until the next pass: for this server by its memory, for others by the file, whose removal also a full disk
    /// allows.
    fn is_incomplete(&self) {
        FAILED.lock().unwrap_or_else(PoisonError::into_inner).insert(self.dir.clone(), clock::now());
        if let Err(error) = atomic_file::remove(&self.dir.join("complete")) {
            tracing::debug!("other servers take the index of jobs for complete: {}", chain(&error));
        }
    }

    /// A pass that began then has seen every journal. What it relies on is durable when this returns.
    pub fn set_complete(&self, began: DateTime<Utc>) -> Result<(), FileError> {
        let before = self.complete_since().map(std::time::SystemTime::from);
        for path in self.files()? {
            let sync = std::fs::File::open(&path).and_then(|file| {
                let changed = file.metadata()?.modified()?;
                if before.is_none_or(|before| changed >= before) { file.sync_data() } else { Ok(()) }
            });
            sync.map_err(FileError::of("make durable", &path))?;
        }
        atomic_file::create_private_dir(&self.dir)?;
        atomic_file::replace(&self.dir.join("complete"), format!("{}\n", began.to_rfc3339()).as_bytes())
    }

    /// Adds those that have no hint yet.
    pub fn add_missing(&self, made: Vec<Made>) -> Result<(), FileError> {
        let mut by_file: BTreeMap<PathBuf, Vec<Made>> = BTreeMap::new();
        for job in made {
            by_file.entry(self.file(job.year, &job.id.to_string())).or_default().push(job);
        }
        for (path, jobs) in by_file {
            let text = std::fs::read(&path).unwrap_or_default();
            let known: HashSet<&[u8]> = text.split(|b| *b == b'\n').collect();
            let lines = jobs.iter().map(|job| line_of(job.id, &job.hint));
            let missing: Vec<String> = lines.filter(|line| !known.contains(line.trim_end().as_bytes())).collect();
            if !missing.is_empty() {
                append(&path, &missing.concat())?;
            }
        }
        Ok(())
    }

    /// Drops the hints of the years before this one.
    pub fn forget_before(&self, year: i32) -> Result<(), FileError> {
        for old in self.years()?.into_iter().filter(|other| *other < year) {
            atomic_file::remove_dir(&self.dir.join(old.to_string()))?;
        }
        Ok(())
    }

    fn file(&self, year: i32, id: &str) -> PathBuf {
        self.dir.join(year.to_string()).join(format!("{}.idx", &id[..2]))
    }

    /// Oldest first.
    fn years(&self) -> Result<Vec<i32>, FileError> {
        let mut years: Vec<i32> = list(&self.dir)?.iter().filter_map(|name| name.parse().ok()).collect();
        years.sort_unstable();
        Ok(years)
    }

    fn files(&self) -> Result<Vec<PathBuf>, FileError> {
        let mut files = Vec::new();
        for year in self.years()? {
            let dir = self.dir.join(year.to_string());
            files.extend(list(&dir)?.into_iter().filter(|name| name.ends_with(".idx")).map(|name| dir.join(name)));
        }
        Ok(files)
    }
}

/// Remembers where a job was made. For the one who appends the line, in the batch: a kill after it then loses no hint.
/// A failure is no failure of the batch.
pub fn note(journal: &Path, id: JobId, seq: u64, now: DateTime<Utc>) {
    let host = journal.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    let (Some(index), Some(host)) = (JobIndex::beside(journal), host) else { return };
    let path = index.file(now.year(), &id.to_string());
    if let Err(error) = append(&path, &line_of(id, &Hint { host: host.to_owned(), seq })) {
        tracing::debug!("jobs are found more slowly until the next upkeep: {}", chain(&error));
        index.is_incomplete();
    }
}

fn line_of(id: JobId, hint: &Hint) -> String {
    format!("{id} {} {}\n", hint.host, hint.seq)
}

/// What follows an id: ` web-1 12`, then the end of the line.
fn hint_of(rest: &[u8]) -> Option<Hint> {
    let line = &rest[..memchr::memchr(b'\n', rest)?];
    let mut words = std::str::from_utf8(line).ok()?.strip_prefix(' ')?.split(' ');
    let hint = Hint { host: words.next()?.to_owned(), seq: words.next()?.parse().ok()? };
    words.next().is_none().then_some(hint)
}

/// One write, which several processes may do at once.
fn append(path: &Path, lines: &str) -> Result<(), FileError> {
    let open = || atomic_file::private_options().append(true).create(true).open(path);
    let file = match open() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            atomic_file::create_private_dir(path.parent().unwrap_or(Path::new(".")))?;
            open()
        }
        file => file,
    };
    file.and_then(|mut file| file.write_all(lines.as_bytes())).map_err(FileError::of("append to", path))
}

fn list(dir: &Path) -> Result<Vec<String>, FileError> {
    match std::fs::read_dir(dir) {
        Ok(entries) => Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(FileError::of("list", dir)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::folded::{at, id};

    fn hint(host: &str, seq: u64) -> Hint {
        Hint { host: host.to_owned(), seq }
    }

    #[test]
    fn a_job_is_found_again_and_a_torn_line_hides_no_other() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let journal = state.path().join("hosts/web-1/journal");
        let index = JobIndex::of(state.path());
        let now = at("2026-11-23T12:00:00Z");
        assert_eq!(index.find(id(1)), []);
        note(&journal, id(1), 7, now);
        append(&index.file(2026, &id::<JobId>(1).to_string()), "00000000-0000-4000-80").expect("tear");
        note(&journal, id(2), 9, now);
        note(&journal, id(1), 12, at("2027-01-01T00:00:00Z"));
        assert_eq!(index.find(id(2)), [hint("web-1", 9)]);
        assert_eq!(index.find(id(1)), [hint("web-1", 12), hint("web-1", 7)]);
        index.forget_before(2027).expect("forget");
        assert_eq!(index.find(id(1)), [hint("web-1", 12)]);
    }

    #[test]
    fn many_who_append_at_once_lose_no_hint() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let journal = |host: &str| state.path().join("hosts").join(host).join("journal");
        std::thread::scope(|scope| {
            for host in ["web-1", "web-2", "web-3"] {
                let journal = journal(host);
                // The same ids, so that all write to the same files, each by a descriptor of its own as another process would.
                scope.spawn(move || {
                    (0..200).for_each(|n| note(&journal, id(n), u64::from(n), at("2026-11-23T12:00:00Z")));
                });
            }
        });
        let index = JobIndex::of(state.path());
        for n in 0..200 {
            let mut hosts: Vec<String> = index.find(id(n)).into_iter().map(|hint| hint.host).collect();
            hosts.sort();
            assert_eq!(hosts, ["web-1", "web-2", "web-3"]);
        }
    }

    #[test]
    fn a_hint_that_cannot_be_written_or_read_makes_the_index_incomplete_for_every_server() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let index = JobIndex::of(state.path());
        let complete = |index: &JobIndex| index.complete_since().is_some();
        index.set_complete(clock::now()).expect("set");
        // No file can be opened where a directory is.
        std::fs::create_dir_all(index.file(2026, &id::<JobId>(1).to_string())).expect("a directory");
        note(&state.path().join("hosts/web-1/journal"), id(1), 7, at("2026-11-23T12:00:00Z"));
        assert!(!complete(&index), "a failed append is told by the file that others look at");
        index.set_complete(clock::now()).expect("set");
        assert!(complete(&index) && index.find(id(1)).is_empty() && !complete(&index));
    }

    #[test]
    fn a_time_from_the_future_is_no_completeness() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let index = JobIndex::of(state.path());
        index.set_complete(clock::now() + chrono::TimeDelta::hours(1)).expect("set");
        assert!(index.complete_since().is_none() && !index.is_complete(at("2020-01-01T00:00:00Z")));
    }

    #[test]
    fn what_is_missing_is_added_once_and_complete_is_since_when() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let index = JobIndex::of(state.path());
        let made = vec![Made { id: id(1), hint: hint("web-1", 7), year: 2026 }];
        index.add_missing(made.clone()).expect("add");
        index.add_missing(made).expect("add again");
        assert_eq!(index.find(id(1)), [hint("web-1", 7)]);
        let noon = clock::now();
        assert!(!index.is_complete(noon));
        index.set_complete(noon).expect("set");
        assert!(index.is_complete(noon) && !index.is_complete(noon + chrono::TimeDelta::seconds(1)));
    }
}
