//! Edge. Which host has which job: `state/jobs/<year>/<first two hex digits>.idx`, a line per job with its id, its host, and the
//! seq of the line that made it. A cache of what the journals say: appended to without fsync, checked against the journal by
//! whoever follows a hint, made complete again by upkeep, and free to be deleted. Does not read journals.
//!
//! By year, so that old hints go with their directory and no file is ever rewritten while somebody appends to it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Datelike, Utc};

use crate::atomic_file;
use crate::clock;
use crate::file_error::{FileError, chain};
use crate::id::JobId;

/// When a hint was lost and not even the mark of completeness could be taken away, in microseconds: what was complete before is
/// not any more, as far as this process knows.
static FAILED_AT: AtomicI64 = AtomicI64::new(i64::MIN);

/// Of a job's id as text.
const ID_LENGTH: usize = 36;

/// What could not be read, each told once: whoever makes the index complete makes them anew.
static UNREADABLE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

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

/// What the index says of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hints {
    /// The newest first.
    pub hints: Vec<Hint>,
    /// Everything that could have one was read.
    pub is_whole: bool,
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

    /// Hints for a job. What cannot be read is told once and left out. None: see `is_complete`.
    pub fn find(&self, id: JobId) -> Hints {
        let text = id.to_string();
        let mut found = Hints { hints: Vec::new(), is_whole: true };
        let years = self.years().unwrap_or_else(|error| {
            found.is_whole = false;
            tell_unreadable(&self.dir, &error);
            Vec::new()
        });
        for year in years.into_iter().rev() {
            let path = self.file(year, &text);
            let bytes = match read(&path) {
                Ok(bytes) => bytes,
                Err(error) => {
                    found.is_whole = false;
                    tell_unreadable(&path, &error);
                    continue;
                }
            };
            // A torn line before it does not hide one.
            let places = memchr::memmem::find_iter(&bytes, text.as_bytes());
            let mut here: Vec<Hint> = places.filter_map(|at| hint_of(&bytes[at + text.len()..])).collect();
            here.reverse();
            found.hints.append(&mut here);
        }
        found
    }

    /// Jobs whose ids begin so, by at least two characters, each with a hint, the newest first; at most so many. Reads what `find` reads.
    pub fn find_beginning(&self, beginning: &str, most: usize) -> (Vec<(JobId, Hint)>, bool) {
        let mut found = Vec::new();
        let Ok(years) = self.years().inspect_err(|error| tell_unreadable(&self.dir, error)) else {
            return (found, false);
        };
        let mut is_whole = true;
        for year in years.into_iter().rev() {
            let path = self.file(year, beginning);
            let Ok(bytes) = read(&path).inspect_err(|error| tell_unreadable(&path, error)) else {
                is_whole = false;
                continue;
            };
            // It may stand within another id too, where no whole one follows.
            let id_at = |at: usize| std::str::from_utf8(bytes.get(at..at + ID_LENGTH)?).ok()?.parse::<JobId>().ok();
            let places = memchr::memmem::rfind_iter(&bytes, beginning.as_bytes());
            let jobs = places.filter_map(|at| Some((id_at(at)?, hint_of(&bytes[at + ID_LENGTH..])?)));
            found.extend(jobs.take(most.saturating_sub(found.len())));
        }
        (found, is_whole)
    }

    /// Whether a job that was durable before `since` and has no hint does not exist.
    pub fn is_complete(&self, since: DateTime<Utc>) -> bool {
        let complete = self.complete_since();
        complete.is_some_and(|at| at >= since && at.timestamp_micros() > FAILED_AT.load(Ordering::Acquire))
    }

    /// When the last pass over the journals that came to its end began; `None`: there was none, or hints were lost since.
    pub fn complete_since(&self) -> Option<DateTime<Utc>> {
        self.time_in("complete")
    }

    /// Lines that are older than this have their hints; `None`: nothing is known.
    pub fn looked_until(&self) -> Option<DateTime<Utc>> {
        self.complete_since().or_else(|| self.time_in("complete-before"))
    }

    /// A time from the future is none: it was written under a wrong clock, and says nothing of what came after it.
    fn time_in(&self, name: &str) -> Option<DateTime<Utc>> {
        let text = std::fs::read_to_string(self.dir.join(name)).ok()?;
        text.trim().parse().ok().filter(|at| *at <= clock::now())
    }

    /// A pass over all journals begins now. Makes anew what cannot be read.
    pub fn begin_completing(&self, began: DateTime<Utc>) -> Result<(), FileError> {
        self.drop_unreadable()?;
        atomic_file::create_private_dir(&self.dir)?;
        atomic_file::replace(&self.dir.join("completing"), format!("{}\n", began.to_rfc3339()).as_bytes())
    }

    /// The pass has seen every journal. What it relies on is durable when this returns. `false`: a hint was lost meanwhile.
    pub fn end_completing(&self) -> Result<bool, FileError> {
        let before = self.looked_until().map(std::time::SystemTime::from);
        for path in self.files()? {
            let sync = std::fs::File::open(&path).and_then(|file| {
                let changed = file.metadata()?.modified()?;
                if before.is_none_or(|before| changed >= before) { file.sync_data() } else { Ok(()) }
            });
            sync.map_err(FileError::of("make durable", &path)).inspect_err(|error| tell_unreadable(&path, error))?;
        }
        match atomic_file::rename_durably(&self.dir.join("completing"), &self.dir.join("complete")) {
            Ok(()) => Ok(true),
            Err(error) if error.source.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A hint is lost: for every server the index is complete no more, nor becomes so by a pass that is under way. Writes
    /// nothing, so that it works on a full disk.
    fn mark_incomplete(&self) {
        // In this order: the pass may end between the two.
        let marked = atomic_file::remove(&self.dir.join("completing")).and_then(|()| {
            let complete = self.dir.join("complete");
            match atomic_file::rename_durably(&complete, &self.dir.join("complete-before")) {
                Err(error) if error.source.kind() != ErrorKind::NotFound => atomic_file::remove(&complete),
                _ => Ok(()),
            }
        });
        if let Err(error) = marked {
            FAILED_AT.store(clock::now().timestamp_micros(), Ordering::Release);
            tracing::warn!("other servers may say that there is no job where there is one: {}", chain(&error));
        }
    }

    /// What still cannot be read goes, and with it all that is known of how far the journals were looked at.
    fn drop_unreadable(&self) -> Result<(), FileError> {
        let unreadable: Vec<PathBuf> = {
            let all = UNREADABLE.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().filter(|path| path.starts_with(&self.dir)).cloned().collect()
        };
        for path in unreadable {
            if path != self.dir && read(&path).is_err() {
                for mark in ["completing", "complete", "complete-before"] {
                    atomic_file::remove(&self.dir.join(mark))?;
                }
                if path.is_dir() { atomic_file::remove_dir(&path)? } else { atomic_file::remove(&path)? }
            }
            UNREADABLE.lock().unwrap_or_else(PoisonError::into_inner).remove(&path);
        }
        Ok(())
    }

    /// Adds those that have no hint yet.
    pub fn add_missing(&self, made: Vec<Made>) -> Result<(), FileError> {
        let mut by_file: BTreeMap<PathBuf, Vec<Made>> = BTreeMap::new();
        for job in made {
            by_file.entry(self.file(job.year, &job.id.to_string())).or_default().push(job);
        }
        for (path, jobs) in by_file {
            let text = read(&path).inspect_err(|error| tell_unreadable(&path, error))?;
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
        tracing::debug!("jobs are found more slowly until the index is complete again: {}", chain(&error));
        index.mark_incomplete();
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
        Err(error) if error.kind() == ErrorKind::NotFound => {
            atomic_file::create_private_dir(path.parent().unwrap_or(Path::new(".")))?;
            open()
        }
        file => file,
    };
    file.and_then(|mut file| file.write_all(lines.as_bytes())).map_err(FileError::of("append to", path))
}

/// The whole file; a missing one is empty.
fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(FileError::of("read", path)),
    }
}

fn tell_unreadable(path: &Path, error: &FileError) {
    if UNREADABLE.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned()) {
        tracing::warn!("jobs are looked for in history until this is made anew: {}", chain(error));
    }
}

fn list(dir: &Path) -> Result<Vec<String>, FileError> {
    match std::fs::read_dir(dir) {
        Ok(entries) => Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(FileError::of("list", dir)(error)),
    }
}

#[cfg(test)]
mod tests;
