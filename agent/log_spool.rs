//! Edge. A job's log on its way to the server: `spool/logs/<job>.jsonl`, whose lines are the wire's envelopes of
//! log.stream, job.progress and log.dropped, numbered per job from 1. Lines are not made durable one by one: `finish`
//! does, before the job's end is recorded. Bounded: what does not fit is left out, and a marker says so; a full disk
//! is no reason for a job to fail. Does not send.

use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use restic_manager::append_file::{AppendFile, open_after_whole_lines};
use restic_manager::atomic_file;
use restic_manager::file_error::FileError;
use restic_manager::id::JobId;
use restic_manager::protocol::agent_event::{JobProgress, LogDropped, LogSource, LogStream};
use serde::Serialize;

use crate::spool::Batch;

mod line;

/// All in bytes.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Of one job, what has not been trimmed yet.
    job: u64,
    /// Of all jobs' logs together.
    total: u64,
    /// So much that is acknowledged is worth rewriting the file.
    trim: u64,
    /// The text of one line.
    text: usize,
}

const LIMITS: Limits = Limits { job: 8 << 20, total: 64 << 20, trim: 2 << 20, text: 16 << 10 };

/// A marker always fits.
const MARKER_ROOM: u64 = 256;
/// How much of the file is read to find a line, in bytes.
const STRIDE: u64 = 64 * 1024;
/// Progress comes no more often.
const PROGRESS_INTERVAL: TimeDelta = TimeDelta::seconds(2);

/// The open log of one job, being written, sent, or both.
#[derive(Debug)]
pub(crate) struct LogSpool {
    job: JobId,
    path: PathBuf,
    /// None: not open, since the file was replaced and could not be opened again yet.
    file: Option<AppendFile>,
    limits: Limits,
    /// The newest line, dropped ones included.
    last_seq: u64,
    acked: u64,
    /// Lines from here to `last_seq` were left out and no marker stands for them yet.
    dropped_from: Option<u64>,
    /// Every `STRIDE` or so: the first seq at an offset.
    places: Vec<(u64, u64)>,
    progress_at: Option<DateTime<Utc>>,
}

impl LogSpool {
    /// Opens `<dir>/spool/logs/<job>.jsonl`, or makes it. Lines that a power loss has damaged become a marker.
    pub(crate) fn open(dir: &Path, job: JobId) -> Result<Self, FileError> {
        Self::open_with(dir, job, LIMITS)
    }

    fn open_with(dir: &Path, job: JobId, mut limits: Limits) -> Result<Self, FileError> {
        let dir = logs_dir(dir);
        atomic_file::create_private_dir(&dir)?;
        let path = dir.join(format!("{job}.jsonl"));
        limits.job = limits.job.min(limits.total.saturating_sub(bytes_of_others(&dir, &path)?));
        let mut file = open_after_whole_lines(&path)?;
        let bytes = file.read_from(0)?;
        let mended = line::mended(&bytes);
        if mended != bytes {
            atomic_file::replace(&path, &mended)?;
            file = AppendFile::open(&path)?;
        }
        let mut spool = Self {
            job,
            path,
            file: Some(file),
            limits,
            last_seq: 0,
            acked: 0,
            dropped_from: None,
            places: Vec::new(),
            progress_at: None,
        };
        spool.last_seq = spool.index(&mended);
        Ok(spool)
    }

    /// Adds a line. Control characters are replaced; a long text is cut, and says so.
    pub(crate) fn append_line(&mut self, now: DateTime<Utc>, stream: LogSource, text: &str) -> Result<(), FileError> {
        let seq = self.last_seq + 1;
        let payload = line::clean(text, self.limits.text);
        let line = LogStream { job_id: self.job, seq, ts: now, stream, payload };
        if !self.append(now, LogStream::TYPE, &line)? {
            self.dropped_from.get_or_insert(seq);
            self.last_seq = seq;
        }
        Ok(())
    }

    /// Adds how far the job is, at most every two seconds and where there is room; else the next one will tell.
    pub(crate) fn append_progress(&mut self, now: DateTime<Utc>, progress: &JobProgress) -> Result<(), FileError> {
        // A clock that was set back does not silence it.
        let is_early =
            self.progress_at.is_some_and(|last| (TimeDelta::zero()..PROGRESS_INTERVAL).contains(&(now - last)));
        if !is_early && self.append(now, JobProgress::TYPE, progress)? {
            self.progress_at = Some(now);
        }
        Ok(())
    }

    /// Marks what was left out, makes everything durable, and gives job.finished's `last_log_seq`.
    pub(crate) fn finish(&mut self, now: DateTime<Utc>) -> Result<u64, FileError> {
        if let Some(from) = self.dropped_from {
            let marker = self.marker(now)?;
            if !self.write(&marker, self.last_seq)? {
                // Not even a marker fits on this disk: those lines never were.
                self.last_seq = from - 1;
            }
            self.dropped_from = None;
        }
        self.sync()?;
        Ok(self.last_seq)
    }

    /// Makes what was written durable.
    pub(crate) fn sync(&mut self) -> Result<(), FileError> {
        self.file()?.sync()
    }

    /// The newest line; 0: there is none.
    pub(crate) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// What follows the line `after`, at most `max_bytes` but at least one line.
    pub(crate) fn next_batch(&mut self, after: u64, max_bytes: usize) -> Result<Option<Batch>, FileError> {
        let nearest = self.places.partition_point(|(seq, _)| *seq <= after + 1);
        let (_, offset) = nearest.checked_sub(1).map_or((0, 0), |at| self.places[at]);
        let most = STRIDE + line::LONGEST + max_bytes as u64;
        let bytes = self.file()?.read_some(offset, most)?;
        let mut batch: Option<Batch> = None;
        for (line, seq) in line::lines(&bytes).filter(|(_, seq)| *seq > after) {
            match &mut batch {
                None => batch = Some(Batch { first_seq: seq, last_seq: seq, bytes: line.to_owned() }),
                Some(batch) if batch.bytes.len() + line.len() > max_bytes => break,
                Some(batch) => {
                    batch.last_seq = seq;
                    batch.bytes.extend_from_slice(line);
                }
            }
        }
        Ok(batch)
    }

    /// The server has everything up to `up_to`; of a large file that part is given back, which makes room for more.
    pub(crate) fn acknowledge(&mut self, up_to: u64) -> Result<(), FileError> {
        self.acked = self.acked.max(up_to);
        if up_to > self.last_seq {
            // A power loss took lines that had been sent: their numbers are taken.
            (self.last_seq, self.dropped_from) = (up_to, None);
        }
        let acked_before = self.places.partition_point(|(seq, _)| *seq <= self.acked);
        let may_go = acked_before.checked_sub(1).map_or(0, |at| self.places[at].1);
        if may_go >= self.limits.trim {
            self.trim()?;
        }
        Ok(())
    }

    /// How far the server has acknowledged it, as far as this start of the agent knows.
    pub(crate) fn acked(&self) -> u64 {
        self.acked
    }

    #[cfg(test)]
    /// The server has all of it. When the job has ended, the log may be removed.
    pub(crate) fn is_sent(&self) -> bool {
        self.acked >= self.last_seq
    }

    /// Deletes the file.
    pub(crate) fn delete(&self) -> Result<(), FileError> {
        atomic_file::remove(&self.path)
    }

    /// Writes one envelope, and before it the marker for what was left out. False: there is no room.
    fn append(&mut self, now: DateTime<Utc>, kind: &str, payload: &impl Serialize) -> Result<bool, FileError> {
        let seq = self.last_seq + 1;
        let mut bytes = if self.dropped_from.is_some() { self.marker(now)? } else { Vec::new() };
        line::write(&mut bytes, seq, now, kind, payload)
            .map_err(|error| FileError::of("write", &self.path)(error.into()))?;
        if self.file()?.len() + bytes.len() as u64 + MARKER_ROOM > self.limits.job || !self.write(&bytes, seq)? {
            return Ok(false);
        }
        self.dropped_from = None;
        self.last_seq = seq;
        Ok(true)
    }

    fn marker(&self, now: DateTime<Utc>) -> Result<Vec<u8>, FileError> {
        let mut bytes = Vec::new();
        let dropped = LogDropped { from: self.dropped_from.unwrap_or(self.last_seq), to: self.last_seq };
        line::write(&mut bytes, dropped.to, now, LogDropped::TYPE, &dropped)
            .map_err(|error| FileError::of("write", &self.path)(error.into()))?;
        Ok(bytes)
    }

    /// False: the disk is full.
    fn write(&mut self, bytes: &[u8], seq: u64) -> Result<bool, FileError> {
        let file = self.file()?;
        let offset = file.len();
        match file.append(bytes) {
            Err(error) if error.is_disk_full() => return Ok(false),
            written => written?,
        }
        self.note_place(seq, offset);
        Ok(true)
    }

    /// Remembers where `seq` is. With a marker before it in the same write, the place is the marker's: a little early.
    fn note_place(&mut self, seq: u64, offset: u64) {
        if self.places.last().is_none_or(|(_, last)| offset >= last + STRIDE) {
            self.places.push((seq, offset));
        }
    }

    /// Notes the places of all lines and gives the last seq.
    fn index(&mut self, bytes: &[u8]) -> u64 {
        self.places.clear();
        let (mut offset, mut last) = (0, 0);
        for (line, seq) in line::lines(bytes) {
            self.note_place(seq, offset);
            offset += line.len() as u64;
            last = seq;
        }
        last
    }

    /// Rewrites the file without what is acknowledged, but for the last line, which keeps the numbers going.
    fn trim(&mut self) -> Result<(), FileError> {
        let bytes = self.file()?.read_from(0)?;
        let Some(last) = line::lines(&bytes).last().map(|(_, seq)| seq) else { return Ok(()) };
        let kept = line::lines(&bytes).filter(|(_, seq)| *seq > self.acked || *seq == last);
        let kept: Vec<u8> = kept.flat_map(|(line, _)| line).copied().collect();
        // The open file would go on to mean the old content.
        self.file = None;
        atomic_file::replace(&self.path, &kept)?;
        self.index(&kept);
        Ok(())
    }

    fn file(&mut self) -> Result<&mut AppendFile, FileError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => AppendFile::open(&self.path)?,
        };
        Ok(self.file.insert(file))
    }
}

/// The jobs that have a log here: to be sent, and removed when the job has ended and the server has all of it.
pub(crate) fn list(dir: &Path) -> Result<Vec<JobId>, FileError> {
    let mut jobs = Vec::new();
    for (path, _) in files(&logs_dir(dir))? {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".jsonl"));
        jobs.extend(name.and_then(|name| name.parse::<JobId>().ok()));
    }
    jobs.sort();
    Ok(jobs)
}

fn logs_dir(dir: &Path) -> PathBuf {
    dir.join("spool").join("logs")
}

fn bytes_of_others(dir: &Path, own: &Path) -> Result<u64, FileError> {
    Ok(files(dir)?.iter().filter(|(path, _)| path != own).map(|(_, len)| len).sum())
}

/// What is in the directory, with its length; nothing where there is no directory.
fn files(dir: &Path) -> Result<Vec<(PathBuf, u64)>, FileError> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(FileError::of("list", dir))?,
    };
    let found = entries.map(|entry| entry.and_then(|entry| Ok((entry.path(), entry.metadata()?.len()))));
    found.collect::<Result<_, _>>().map_err(FileError::of("list", dir))
}

#[cfg(test)]
mod tests;
