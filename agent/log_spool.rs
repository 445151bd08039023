//! Edge. A job's log on its way to the server: `spool/logs/<job>.jsonl`, whose lines are the wire's envelopes of
//! log.stream, job.progress and log.dropped, numbered per job from 1. Lines are not made durable one by one: `finish`
//! does, before the job's end is recorded. Bounded: what does not fit is left out, and a marker says so; a full disk
//! is no reason for a job to fail. Does not send.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use chrono::{DateTime, TimeDelta, Utc};
use restic_manager::append_file::{AppendFile, open_after_whole_lines};
use restic_manager::atomic_file;
use restic_manager::file_error::FileError;
use restic_manager::id::JobId;
use restic_manager::protocol::agent_event::{JobProgress, LogDropped, LogSource, LogStream};
use serde::Serialize;

use crate::room::{Dropped, Room};
use crate::spool::Batch;

mod line;

/// All in bytes.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Of one job, what has not been trimmed yet.
    job: u64,
    /// So much that is acknowledged is worth rewriting the file.
    trim: u64,
    /// The text of one line.
    text: usize,
}

/// What of one job may wait, in bytes.
pub(crate) const JOB_LIMIT: u64 = 8 << 20;

const LIMITS: Limits = Limits { job: JOB_LIMIT, trim: 2 << 20, text: 16 << 10 };

/// What a log gives up for events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GiveUp {
    Progress,
    /// Everything that was not sent; a marker stands for it.
    Lines,
}

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
    room: Rc<Room>,
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
    /// `room` counts the bytes of all logs, this one's among them.
    pub(crate) fn open(dir: &Path, job: JobId, room: &Rc<Room>) -> Result<Self, FileError> {
        Self::open_with(dir, job, room, LIMITS)
    }

    fn open_with(dir: &Path, job: JobId, room: &Rc<Room>, limits: Limits) -> Result<Self, FileError> {
        let dir = logs_dir(dir);
        atomic_file::create_private_dir(&dir)?;
        let path = dir.join(format!("{job}.jsonl"));
        let counted = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        let mut file = open_after_whole_lines(&path)?;
        let bytes = file.read_from(0)?;
        let mended = line::mended(&bytes, 1);
        if mended != bytes {
            // Not every Windows replaces a file that is open.
            drop(file);
            atomic_file::replace(&path, &mended)?;
            file = AppendFile::open(&path)?;
        }
        room.log_changed(counted, file.len());
        let mut spool = Self {
            job,
            path,
            file: Some(file),
            limits,
            room: Rc::clone(room),
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
        if self.append(now, LogStream::TYPE, &line)? {
            return Ok(());
        }
        // Progress goes before lines.
        if self.dropped_from.is_none()
            && self.give_up(GiveUp::Progress, now)?.progress > 0
            && self.append(now, LogStream::TYPE, &line)?
        {
            return Ok(());
        }
        if self.dropped_from.is_none() {
            tracing::warn!(job = %self.job, "there is no room for its log: lines are left out until the server takes some");
        }
        self.dropped_from.get_or_insert(seq);
        self.last_seq = seq;
        self.room.count(Dropped { lines: 1, progress: 0 });
        Ok(())
    }

    /// Whether the longest line would be taken now, and not left out until the server has taken some.
    pub(crate) fn has_room_for_a_line(&mut self) -> bool {
        let len = self.limits.text as u64 + 4 * MARKER_ROOM;
        let most = self.limits.job;
        // A file that cannot be opened is no reason to wait.
        self.file().map_or(true, |file| file.len() + 2 * len <= most) && self.room.has(len)
    }

    /// Adds how far the job is, at most every two seconds and where there is room; else the next one will tell.
    pub(crate) fn append_progress(&mut self, now: DateTime<Utc>, progress: &JobProgress) -> Result<(), FileError> {
        // A clock that was set back does not silence it.
        let is_early =
            self.progress_at.is_some_and(|last| (TimeDelta::zero()..PROGRESS_INTERVAL).contains(&(now - last)));
        if is_early {
            return Ok(());
        }
        if self.append(now, JobProgress::TYPE, progress)? {
            self.progress_at = Some(now);
        } else {
            self.room.count(Dropped { lines: 0, progress: 1 });
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

    /// The server expects line `expected`, which it had acknowledged before: its state is an older copy. What is still here is
    /// sent again; a marker stands for what is not. False: that is how it was already.
    pub(crate) fn rewind(&mut self, expected: u64) -> Result<bool, FileError> {
        if expected > self.acked {
            return Ok(false);
        }
        let bytes = self.file()?.read_from(0)?;
        let mended = line::mended(&bytes, expected);
        if mended != bytes {
            self.replace(&mended)?;
        }
        self.acked = expected.saturating_sub(1);
        Ok(true)
    }

    /// Makes the log smaller for what matters more. What is acknowledged goes in any case.
    pub(crate) fn give_up(&mut self, what: GiveUp, now: DateTime<Utc>) -> Result<Dropped, FileError> {
        let bytes = self.file()?.read_from(0)?;
        let (kept, dropped) = line::without(&bytes, self.acked, what, now);
        if dropped == Dropped::default() || kept.len() >= bytes.len() {
            return Ok(Dropped::default());
        }
        self.replace(&kept)?;
        self.room.count(dropped);
        Ok(dropped)
    }

    fn replace(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        let before = self.file()?.len();
        // The open file would go on to mean the old content.
        self.file = None;
        atomic_file::replace(&self.path, bytes)?;
        self.room.log_changed(before, bytes.len() as u64);
        self.index(bytes);
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

    /// Deletes the file. It is closed first: Windows keeps the name of one that is open.
    pub(crate) fn delete(&mut self) -> Result<(), FileError> {
        self.file = None;
        let len = std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len());
        atomic_file::remove(&self.path)?;
        self.room.log_changed(len, 0);
        Ok(())
    }

    /// Writes one envelope, and before it the marker for what was left out. False: there is no room.
    fn append(&mut self, now: DateTime<Utc>, kind: &str, payload: &impl Serialize) -> Result<bool, FileError> {
        let seq = self.last_seq + 1;
        let mut bytes = if self.dropped_from.is_some() { self.marker(now)? } else { Vec::new() };
        line::write(&mut bytes, seq, now, kind, payload)
            .map_err(|error| FileError::of("write", &self.path)(error.into()))?;
        let len = bytes.len() as u64 + MARKER_ROOM;
        if self.file()?.len() + len > self.limits.job || !self.room.has(len) || !self.write(&bytes, seq)? {
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
        self.room.log_changed(0, bytes.len() as u64);
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
        self.replace(&kept)
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
    let mut jobs: Vec<JobId> = files(&logs_dir(dir))?.iter().filter_map(|(path, _)| job_of(path)).collect();
    jobs.sort();
    Ok(jobs)
}

fn logs_dir(dir: &Path) -> PathBuf {
    dir.join("spool").join("logs")
}

/// The same, in the order in which the logs were last written.
pub(crate) fn oldest_first(dir: &Path) -> Result<Vec<JobId>, FileError> {
    let dir = logs_dir(dir);
    let mut files = files(&dir)?;
    files.sort_by_key(|(_, metadata)| metadata.modified().ok());
    Ok(files.iter().filter_map(|(path, _)| job_of(path)).collect())
}

/// Bytes of all logs.
pub(crate) fn bytes(dir: &Path) -> Result<u64, FileError> {
    Ok(files(&logs_dir(dir))?.iter().map(|(_, metadata)| metadata.len()).sum())
}

fn job_of(path: &Path) -> Option<JobId> {
    path.file_name()?.to_str()?.strip_suffix(".jsonl")?.parse().ok()
}

/// What is in the directory; nothing where there is no directory.
fn files(dir: &Path) -> Result<Vec<(PathBuf, std::fs::Metadata)>, FileError> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(FileError::of("list", dir))?,
    };
    let found = entries.map(|entry| entry.and_then(|entry| Ok((entry.path(), entry.metadata()?))));
    found.collect::<Result<_, _>>().map_err(FileError::of("list", dir))
}

#[cfg(test)]
mod tests;
