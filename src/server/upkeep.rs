//! Edge. What is done now and then to the files: old segments and logs are compressed and deleted. One server at a time, off the
//! reactor, a file at a time with pauses. `keep` says what is old.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::app::{App, blocking, stopped};
use super::job_log;
use super::keep::{KeepRules, LogDeed, log_deed, segments_before};
use crate::atomic_file;
use crate::clock;
use crate::file_error::{FileError, chain};
use crate::gzip_file;
use crate::id::JobId;
use crate::journal::read;
use crate::journal::segment::SegmentName;
use crate::journal::stored;

/// The first look after the start.
const FIRST_AFTER: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_secs(3600);
/// Between two files that were changed or read whole.
const PAUSE: Duration = Duration::from_millis(2);

/// What a run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    pub segments_deleted: usize,
    pub segments_compressed: usize,
    pub logs_deleted: usize,
    pub logs_compressed: usize,
}

/// Runs until the server stops.
pub async fn run(app: Arc<App>) {
    let mut stopping = app.stopping.subscribe();
    let mut pause = FIRST_AFTER;
    loop {
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = EVERY;
        let worker = Arc::clone(&app);
        match blocking(move || run_once(&worker)).await {
            Ok(Some(done)) if done != Done::default() => tracing::info!(?done, "upkeep"),
            Ok(Some(_)) => tracing::debug!("upkeep: nothing to do"),
            Ok(None) => tracing::debug!("upkeep: another server is at it"),
            Err(error) => tracing::warn!("upkeep did not come to its end: {}", chain(&error)),
        }
    }
}

/// One run; `None`: another server is at it. Blocks.
pub fn run_once(app: &App) -> Result<Option<Done>, FileError> {
    let path = app.state_dir.path.join(".upkeep.lock");
    let Some(_lock) = atomic_file::try_lock(&path)? else { return Ok(None) };
    let (rules, now) = (app.keep_rules(), clock::now());
    let mut done = Done::default();
    let tell = |result: Result<(), FileError>| {
        if let Err(error) = result {
            tracing::warn!("upkeep goes on without it: {}", chain(&error));
        }
    };
    for host in app.hosts() {
        if *app.stopping.borrow() {
            return Ok(Some(done));
        }
        tell(keep_segments(&host.journal_dir(), &rules, now, &mut done));
        let unfinished = |id: JobId| host.slot.durable().state.jobs.contains_key(&id);
        tell(keep_logs(&host.dir.join("logs"), &rules, now, unfinished, &mut done));
    }
    for repository in app.leases.repositories() {
        tell(keep_segments(&app.leases.journal_dir(&repository), &rules, now, &mut done));
    }
    tell(keep_segments(&app.state_dir.fleet_dir(), &rules, now, &mut done));
    Ok(Some(done))
}

/// Deletes and compresses a journal's old segments.
pub fn keep_segments(dir: &Path, rules: &KeepRules, now: DateTime<Utc>, done: &mut Done) -> Result<(), FileError> {
    let names = stored::segments(dir)?;
    let old = count_before(dir, &names, rules.delete_before(now))?;
    for name in &names[..old] {
        for file in [name.to_string(), name.compressed(), format!("{name}.damaged")] {
            atomic_file::remove(&dir.join(file))?;
        }
        done.segments_deleted += 1;
        std::thread::sleep(PAUSE);
    }
    let names = &names[old..];
    let Some(cutoff) = rules.compress_before(now) else { return Ok(()) };
    let is_plain = |name: &SegmentName| dir.join(name.to_string()).exists();
    let Some(first) = names.iter().position(is_plain) else { return Ok(()) };
    let names = &names[first..];
    for name in &names[..count_before(dir, names, cutoff)?] {
        let path = dir.join(name.to_string());
        if path.exists() {
            gzip_file::compress(&path)?;
            done.segments_compressed += 1;
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}

/// How many of the segments are older, reading as few of their first lines as it takes.
fn count_before(dir: &Path, names: &[SegmentName], cutoff: DateTime<Utc>) -> Result<usize, FileError> {
    // The first segment's own beginning tells nothing.
    let mut begins = vec![None; names.len().min(1)];
    for name in names.iter().skip(1).take_while(|name| name.month().is_some_and(|month| month < cutoff)) {
        let at = read::opening(dir, *name)?.map(|opening| opening.at);
        begins.push(at);
        if at.is_some_and(|at| at >= cutoff) {
            break;
        }
    }
    let old = segments_before(&begins, cutoff);
    // A host that was silent for long: the next segment began late, and this one's own lines tell more.
    if let [name, next, ..] = &names[old..]
        && may_be_before(dir, *name, cutoff)
        && read::opening(dir, *next)?.is_some()
        && read::newest_at(dir, *name)?.is_some_and(|at| at < cutoff)
    {
        return Ok(old + 1);
    }
    Ok(old)
}

/// Whether it is worth while to read a segment for its newest line: a compressed one must be unpacked, and kept its time.
fn may_be_before(dir: &Path, name: SegmentName, cutoff: DateTime<Utc>) -> bool {
    let modified = |file: String| std::fs::metadata(dir.join(file)).and_then(|metadata| metadata.modified()).ok();
    let is_compressed = !dir.join(name.to_string()).exists();
    !is_compressed || modified(name.compressed()).is_some_and(|at| DateTime::<Utc>::from(at) < cutoff)
}

/// Deletes and compresses the logs of finished jobs.
pub fn keep_logs(
    dir: &Path,
    rules: &KeepRules,
    now: DateTime<Utc>,
    is_unfinished: impl Fn(JobId) -> bool,
    done: &mut Done,
) -> Result<(), FileError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(FileError::of("list", dir)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(FileError::of("list", dir))?;
        let name = entry.file_name();
        let Some((id, is_compressed)) = name.to_str().and_then(log_name) else { continue };
        // Gone meanwhile: fine.
        let Ok(written) = entry.metadata().and_then(|metadata| metadata.modified()) else { continue };
        let path = entry.path();
        match log_deed(rules, now, written.into(), is_unfinished(id), is_compressed) {
            LogDeed::Leave => continue,
            LogDeed::Delete => {
                done.logs_deleted += usize::from(job_log::while_nobody_appends(&path, || atomic_file::remove(&path))?);
            }
            LogDeed::Compress => {
                done.logs_compressed +=
                    usize::from(job_log::while_nobody_appends(&path, || gzip_file::compress(&path))?);
            }
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// `<job>.jsonl`, or with `.gz`.
fn log_name(name: &str) -> Option<(JobId, bool)> {
    let plain = name.strip_suffix(".gz");
    let id = plain.unwrap_or(name).strip_suffix(".jsonl")?.parse().ok()?;
    Some((id, plain.is_some()))
}

#[cfg(test)]
pub(super) mod tests;
