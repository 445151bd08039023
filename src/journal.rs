//! Edge. Append-only JSONL history with a folded state: what state.md promises about one.
//!
//! A journal is a directory of monthly segments. Each line has a contiguous `seq` and a CRC-32C. A segment's first line
//! carries the folded state from before it, so opening a journal reads its newest segment only.
//!
//! Constraints, in the order in which they matter:
//! 1. Nothing is told to anyone before its fdatasync returned. `Batch::commit` returns after it.
//! 2. A failed fdatasync is never retried into success: the segment is sealed at its last good byte, and the next batch
//!    opens a new one.
//! 3. Writers of several processes are ordered by an advisory lock on `.lock`; a batch first folds what others appended,
//!    and makes that durable before acting on it.
//! 4. A damaged tail is set aside in `<segment>.damaged` under the lock; damage in the middle is skipped and stays.
//!
//! Does not know what events mean (`Fold` does), and keeps no file open between batches: ten thousand hosts share one
//! limit of descriptors.

use std::fs::File;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::append_file::AppendFile;
use crate::atomic_file;
use crate::file_error::FileError;

pub mod line;
pub mod read;
pub mod segment;

use line::{Line, NewLine, Piece};
use segment::{Carry, OPENED, PreviousSegment, SegmentName, is_opening};

/// What a journal's lines add up to.
pub trait Fold: Clone + Default + Serialize + DeserializeOwned {
    /// Takes one line in. Lines of unknown types change nothing.
    fn apply(&mut self, line: &Line);
}

/// A segment past this many bytes is followed by a new one, which bounds what opening a journal reads.
pub const SEGMENT_LIMIT_BYTES: u64 = 4 * 1024 * 1024;

/// The last line that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// 0: the journal is empty.
    pub seq: u64,
    pub crc: u32,
    /// `received_at` of that line.
    pub at: Option<DateTime<Utc>>,
}

/// Bytes that are no line. Reported once per opening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    pub bytes: usize,
    /// Moved to `<segment>.damaged`; false: left in the middle and skipped.
    pub set_aside: bool,
}

/// One journal, as this process knows it.
#[derive(Debug)]
pub struct Journal<S> {
    dir: PathBuf,
    segment: Option<SegmentName>,
    /// Bytes of the segment that are in `state`.
    folded: u64,
    state: S,
    head: Head,
    /// The state in memory is ahead of the disk (a batch failed): read the disk again before the next batch.
    stale: bool,
    /// The segment ends here whatever its length: an fdatasync failed.
    sealed: Option<u64>,
    damage: Vec<Damage>,
}

impl<S: Fold> Journal<S> {
    /// Opens the directory, makes it if it is missing, and folds the newest segment.
    pub fn open(dir: &Path) -> Result<Self, FileError> {
        atomic_file::create_private_dir(dir)?;
        let mut journal = Self {
            dir: dir.to_owned(),
            segment: None,
            folded: 0,
            state: S::default(),
            head: Head::default(),
            stale: true,
            sealed: None,
            damage: Vec::new(),
        };
        let _lock = journal.lock()?;
        journal.reload()?;
        Ok(journal)
    }

    pub fn state(&self) -> &S {
        &self.state
    }

    pub fn head(&self) -> Head {
        self.head
    }

    /// Damage found since this was last asked.
    pub fn take_damage(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.damage)
    }

    /// Begins a batch: takes the lock, folds what other processes appended, and opens a new segment where one is due.
    /// Blocks while another process holds the lock.
    pub fn begin(&mut self, now: DateTime<Utc>) -> Result<Batch<'_, S>, FileError> {
        let lock = self.lock()?;
        if self.sealed.is_none() {
            if self.stale || self.newest_segment()? != self.segment {
                self.reload()?;
            } else {
                self.catch_up()?;
            }
        }
        let due = match self.segment {
            None => true,
            Some(name) => {
                self.sealed.is_some()
                    || self.folded == 0
                    || self.folded >= SEGMENT_LIMIT_BYTES
                    || name.is_before_month_of(now)
            }
        };
        if due {
            self.open_segment(now)?;
        }
        Ok(Batch { journal: self, lock, bytes: Vec::new() })
    }

    fn lock(&self) -> Result<File, FileError> {
        let path = self.dir.join(".lock");
        let lock = atomic_file::open_lock(&path)?;
        lock.lock().map_err(FileError::of("lock", &path))?;
        Ok(lock)
    }

    fn newest_segment(&self) -> Result<Option<SegmentName>, FileError> {
        Ok(read::segments(&self.dir)?.pop())
    }

    /// Folds from the newest segment whose first line carries the state; all of them where none does.
    fn reload(&mut self) -> Result<(), FileError> {
        let names = read::segments(&self.dir)?;
        let mut loaded = Vec::new();
        for name in names.into_iter().rev() {
            let mut file = AppendFile::open(&self.dir.join(name.to_string()))?;
            let bytes = file.read_from(0)?;
            let pieces = line::pieces(&bytes);
            let carries = matches!(pieces.first(), Some(Piece::Line { line, .. })
                if is_opening(line) && serde_json::from_str::<Carry<S>>(line.payload.get()).is_ok());
            loaded.push((name, file, bytes, pieces));
            if carries {
                break;
            }
        }
        (self.state, self.head, self.segment, self.folded) = (S::default(), Head::default(), None, 0);
        for (name, mut file, bytes, pieces) in loaded.into_iter().rev() {
            self.folded = 0;
            self.fold(&mut file, &bytes, &pieces)?;
            self.segment = Some(name);
        }
        self.stale = false;
        Ok(())
    }

    /// Folds what others appended to the present segment, and makes it durable: they may not have done so yet.
    fn catch_up(&mut self) -> Result<(), FileError> {
        let Some(name) = self.segment else { return Ok(()) };
        let mut file = AppendFile::open(&self.dir.join(name.to_string()))?;
        if file.len() == self.folded {
            return Ok(());
        }
        if file.len() < self.folded {
            return self.reload();
        }
        file.sync()?;
        let bytes = file.read_from(self.folded)?;
        let pieces = line::pieces(&bytes);
        self.fold(&mut file, &bytes, &pieces)
    }

    /// Folds pieces that begin at `self.folded`; damage after the last good line is set aside.
    fn fold(&mut self, file: &mut AppendFile, bytes: &[u8], pieces: &[Piece]) -> Result<(), FileError> {
        let start = self.folded;
        let mut good_end = 0;
        for (index, piece) in pieces.iter().enumerate() {
            match piece {
                Piece::Line { offset, len, line } => {
                    self.take_in(line);
                    good_end = offset + len;
                }
                Piece::Damaged { offset, len } => {
                    let set_aside = !pieces[index..].iter().any(|p| matches!(p, Piece::Line { .. }));
                    let before = memchr::memchr_iter(b'\n', &bytes[..*offset]).count();
                    let damage = Damage { file: file.path().to_owned(), line: before + 1, bytes: *len, set_aside };
                    self.damage.push(damage);
                }
            }
        }
        if good_end < bytes.len() {
            let mut aside = file.path().as_os_str().to_owned();
            aside.push(".damaged");
            AppendFile::open(Path::new(&aside))?.append_durably(&bytes[good_end..])?;
            file.truncate(start + good_end as u64)?;
        }
        self.folded = start + good_end as u64;
        Ok(())
    }

    fn take_in(&mut self, line: &Line) {
        if is_opening(line) {
            // The state is the same where the line before was folded; where it was not, this is where it comes from.
            if let Ok(carry) = serde_json::from_str::<Carry<S>>(line.payload.get()) {
                self.state = carry.state;
            }
        } else {
            self.state.apply(line);
        }
        self.head = Head { seq: line.seq, crc: line.crc, at: Some(line.received_at) };
    }

    /// Begins a new segment with the carry. The batch's lock is held.
    fn open_segment(&mut self, now: DateTime<Utc>) -> Result<(), FileError> {
        if let (Some(name), Some(good_bytes)) = (self.segment, self.sealed) {
            self.refold_sealed(name, good_bytes)?;
        }
        let name = match self.segment {
            // A crash between making the file and writing its first line left it empty: use it.
            Some(name) if self.folded == 0 && self.sealed.is_none() => name,
            Some(name) => name.successor(now),
            None => SegmentName::of_month(now),
        };
        let previous = self.segment.filter(|_| self.folded > 0).map(|segment| PreviousSegment {
            segment: segment.to_string(),
            bytes: self.folded,
            seq: self.head.seq,
        });
        let payload = serde_json::value::to_raw_value(&Carry { previous, state: &self.state });
        let payload = payload.map_err(|error| FileError::of("describe the state for", &self.dir)(error.into()))?;
        let new = NewLine { kind: OPENED.to_owned(), ts: now, stream: None, payload };
        let (bytes, crc) = line::encode(self.head.seq + 1, now, &new);
        let mut file = AppendFile::open(&self.dir.join(name.to_string()))?;
        file.append_durably(&bytes)?;
        self.head = Head { seq: self.head.seq + 1, crc, at: Some(now) };
        (self.segment, self.folded, self.sealed) = (Some(name), file.len(), None);
        Ok(())
    }

    /// After a failed fdatasync the state in memory has lines that do not count: fold the good part again.
    fn refold_sealed(&mut self, name: SegmentName, good_bytes: u64) -> Result<(), FileError> {
        let mut file = AppendFile::open(&self.dir.join(name.to_string()))?;
        let mut bytes = file.read_from(0)?;
        bytes.truncate(usize::try_from(good_bytes).unwrap_or(usize::MAX));
        self.folded = 0;
        for piece in line::pieces(&bytes) {
            if let Piece::Line { line, .. } = piece {
                self.take_in(&line);
            }
        }
        self.folded = good_bytes;
        self.stale = false;
        Ok(())
    }
}

/// Lines that become durable together. Dropped without `commit`: nothing happened.
#[derive(Debug)]
pub struct Batch<'a, S> {
    journal: &'a mut Journal<S>,
    /// Released when the batch ends, however it does.
    lock: File,
    bytes: Vec<u8>,
}

impl<S: Fold> Batch<'_, S> {
    /// The state with the batch's own lines in it.
    pub fn state(&self) -> &S {
        &self.journal.state
    }

    pub fn head(&self) -> Head {
        self.journal.head
    }

    /// Adds a line and applies it. `received_at` must not be before the last line's.
    pub fn append(&mut self, received_at: DateTime<Utc>, new: &NewLine) -> u64 {
        let journal = &mut *self.journal;
        // Until the commit the memory is ahead of the disk.
        journal.stale = true;
        let seq = journal.head.seq + 1;
        let (bytes, crc) = line::encode(seq, received_at, new);
        // Memory holds what reading the line again gives.
        let (ts, received_at) = (line::written_time(new.ts), line::written_time(received_at));
        self.bytes.extend_from_slice(&bytes);
        let (stream, stream_seq) = new.stream.unzip();
        let (kind, payload) = (new.kind.clone(), new.payload.clone());
        journal.take_in(&Line { seq, ts, received_at, kind, stream, stream_seq, payload, crc });
        seq
    }

    /// Writes, releases the lock, and returns when the lines survive power loss. After an error nothing counts as written,
    /// and the journal is to be used again: it heals itself at the next `begin`.
    pub fn commit(self) -> Result<(), FileError> {
        let Self { journal, lock, bytes } = self;
        let Some(name) = journal.segment else { return Ok(()) };
        if bytes.is_empty() {
            return Ok(());
        }
        let mut file = AppendFile::open(&journal.dir.join(name.to_string()))?;
        let before = file.len();
        file.append(&bytes)?;
        drop(lock);
        if let Err(error) = file.sync() {
            journal.sealed = Some(before);
            return Err(error);
        }
        journal.folded = file.len();
        journal.stale = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
