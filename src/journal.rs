//! Edge. Append-only JSONL history with a folded state: what state.md promises about one.
//!
//! A journal is a directory of monthly segments. Each line has a contiguous `seq` and a CRC-32C. A segment's first line
//! carries the folded state from before it, and a checkpoint the one from within it, so opening a journal reads the end of
//! its newest segment only.
//!
//! Constraints, in the order in which they matter:
//! 1. Nothing is told to anyone before its fdatasync returned. `Batch::commit` returns after it.
//! 2. A failed fdatasync is never retried into success: the segment is sealed at its last good byte, and a new one is opened
//!    at once, which says so.
//! 3. Writers of several processes are ordered by an advisory lock on `.lock`, held until the fdatasync has returned: what
//!    another process reads under the lock is durable, or the sealed rest of a failed sync, or left by a process that died.
//!    A batch first folds what others appended, and syncs it once more before acting on it.
//! 4. A damaged tail is set aside in `<segment>.damaged` under the lock; damage in the middle is skipped and stays.
//!
//! Does not know what events mean (`Fold` does), and keeps no file open between batches: ten thousand hosts share one
//! limit of descriptors.

use std::fs::File;
use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::append_file::AppendFile;
use crate::atomic_file;
use crate::file_error::{FileError, chain};

mod batch;
mod checkpoint;
pub mod line;
pub mod read;
pub mod segment;
pub mod stored;
mod tell;

pub use batch::Batch;
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

/// How far a reader has folded: everything before it is in its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// `None`: nothing yet.
    pub segment: Option<SegmentName>,
    /// Of that segment.
    pub bytes: u64,
}

impl Place {
    /// Whether another process appended after this place to the journal in `dir`. A few looks at names and lengths.
    pub fn is_behind(self, dir: &Path, now: DateTime<Utc>) -> Result<bool, FileError> {
        let Some(name) = self.segment else { return Ok(!read::segments(dir)?.is_empty()) };
        if has_successor(dir, name, now)? {
            return Ok(true);
        }
        let path = dir.join(name.to_string());
        let len = std::fs::metadata(&path).map_err(FileError::of("look at", &path))?.len();
        Ok(len != self.bytes)
    }
}

fn has_successor(dir: &Path, name: SegmentName, now: DateTime<Utc>) -> Result<bool, FileError> {
    match name.possible_successors(now) {
        Some(names) => Ok(names.iter().any(|other| *other != name && dir.join(other.to_string()).exists())),
        None => Ok(read::segments(dir)?.last().is_some_and(|newest| *newest > name)),
    }
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
    /// The segment ends there whatever its length: an fdatasync failed, and no new segment could be opened yet.
    sealed: Option<(SegmentName, u64)>,
    /// Where the segment before ended.
    previous: Option<PreviousSegment>,
    /// Bytes of the segment that a checkpoint or the opening line spares from reading, and what that cost.
    spared: u64,
    checkpoint_bytes: u64,
    damage: Vec<Damage>,
}

impl<S: Fold> Journal<S> {
    /// Opens the directory, makes it if it is missing, and folds the end of the newest segment, which it syncs first: a process
    /// that was killed may have left lines there that are in memory only.
    pub fn open(dir: &Path) -> Result<Self, FileError> {
        Self::open_with(dir, false)
    }

    /// The same where the caller has just synced the whole file system, which for many journals is much faster.
    pub fn open_synced(dir: &Path) -> Result<Self, FileError> {
        Self::open_with(dir, true)
    }

    fn open_with(dir: &Path, is_synced: bool) -> Result<Self, FileError> {
        if read::segments(dir)?.is_empty() {
            atomic_file::create_private_dir(dir)?;
        }
        let mut journal = Self {
            dir: dir.to_owned(),
            segment: None,
            folded: 0,
            state: S::default(),
            head: Head::default(),
            stale: true,
            sealed: None,
            previous: None,
            spared: 0,
            checkpoint_bytes: 0,
            damage: Vec::new(),
        };
        let _lock = journal.lock()?;
        journal.reload(is_synced)?;
        Ok(journal)
    }

    pub fn state(&self) -> &S {
        &self.state
    }

    pub fn head(&self) -> Head {
        self.head
    }

    /// How far `state` goes.
    pub fn place(&self) -> Place {
        Place { segment: self.segment, bytes: self.folded }
    }

    /// Damage found since this was last asked.
    pub fn take_damage(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.damage)
    }

    /// Begins a batch: takes the lock, folds what other processes appended, and opens a new segment where one is due.
    /// Blocks while another process holds the lock.
    pub fn begin(&mut self, now: DateTime<Utc>) -> Result<Batch<'_, S>, FileError> {
        let lock = self.lock()?;
        let has_successor = match self.segment {
            Some(name) => has_successor(&self.dir, name, now)?,
            None => true,
        };
        let mut file = None;
        if self.stale || has_successor {
            self.reload(false)?;
        } else if self.sealed.is_none() {
            file = self.catch_up()?;
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
            file = None;
        }
        Ok(Batch::new(self, lock, file, now))
    }

    /// Keeps the folded state beside the journal when enough was appended since it was last kept. A cache: readers that find
    /// it missing or wrong fold the segment. Not while a batch is open.
    pub fn keep_checkpoint_if_due(&mut self) -> Result<(), FileError> {
        let due = checkpoint::EVERY_BYTES.max(4 * self.checkpoint_bytes);
        let (Some(segment), false) = (self.segment, self.stale || self.folded < self.spared + due) else {
            return Ok(());
        };
        self.checkpoint_bytes = checkpoint::keep(&self.dir, segment, self.folded, self.head, &self.state)?;
        self.spared = self.folded;
        Ok(())
    }

    fn lock(&self) -> Result<File, FileError> {
        let path = self.dir.join(".lock");
        let lock = atomic_file::open_lock(&path)?;
        lock.lock().map_err(FileError::of("lock", &path))?;
        Ok(lock)
    }

    /// Folds from the checkpoint or the newest segment whose first line carries the state; all of them where there is neither.
    fn reload(&mut self, is_synced: bool) -> Result<(), FileError> {
        let names = read::segments(&self.dir)?;
        if let (Some(name), None) = (names.last(), self.sealed)
            && self.resume(*name, is_synced)?
        {
            return Ok(());
        }
        let newest = names.last().copied();
        let mut loaded = Vec::new();
        for name in names.into_iter().rev() {
            let mut file = AppendFile::open(&self.dir.join(name.to_string()))?;
            let sealed = self.sealed.filter(|(sealed, _)| *sealed == name);
            if !is_synced && newest == Some(name) && sealed.is_none() {
                file.sync()?;
            }
            let mut bytes = file.read_from(0)?;
            if let Some((_, end)) = sealed {
                bytes.truncate(usize::try_from(end).unwrap_or(usize::MAX));
            }
            let pieces = line::pieces(&bytes);
            let carries = matches!(pieces.first(), Some(Piece::Line { line, .. })
                if is_opening(line) && serde_json::from_str::<Carry<S>>(line.payload.get()).is_ok());
            loaded.push((name, file, bytes, pieces));
            if carries {
                break;
            }
        }
        // A later segment that carries the state says where the sealed one ended: another process has opened it.
        if loaded.iter().all(|(name, ..)| self.sealed.is_none_or(|(sealed, _)| *name > sealed)) {
            self.sealed = None;
        }
        (self.state, self.head, self.segment, self.folded) = (S::default(), Head::default(), None, 0);
        self.previous = None;
        for (name, mut file, bytes, pieces) in loaded.into_iter().rev() {
            self.previous = self.end().or(self.previous.take());
            self.folded = 0;
            self.fold(&mut file, &bytes, &pieces)?;
            self.segment = Some(name);
        }
        (self.spared, self.stale) = (0, false);
        Ok(())
    }

    /// Folds from the checkpoint on, if there is one of this segment that its bytes bear out.
    fn resume(&mut self, name: SegmentName, is_synced: bool) -> Result<bool, FileError> {
        let mut file = AppendFile::open(&self.dir.join(name.to_string()))?;
        let Some(kept) = checkpoint::read::<S>(&self.dir, name, &mut file)? else { return Ok(false) };
        if !is_synced {
            file.sync()?;
        }
        (self.state, self.head, self.segment, self.folded) = (kept.state, kept.head, Some(name), kept.bytes);
        (self.spared, self.checkpoint_bytes) = (kept.bytes, kept.cost);
        let bytes = file.read_from(kept.bytes)?;
        let pieces = line::pieces(&bytes);
        self.fold(&mut file, &bytes, &pieces)?;
        self.stale = false;
        Ok(true)
    }

    /// Where the present segment ends so far; `None` while it has no line.
    fn end(&self) -> Option<PreviousSegment> {
        let segment = self.segment.filter(|_| self.folded > 0)?;
        Some(PreviousSegment { segment: segment.to_string(), bytes: self.folded, seq: self.head.seq })
    }

    /// Folds what others appended to the present segment, and makes it durable: they may not have done so yet. Gives the
    /// segment's file where it stays open.
    fn catch_up(&mut self) -> Result<Option<AppendFile>, FileError> {
        let Some(name) = self.segment else { return Ok(None) };
        let mut file = AppendFile::open(&self.dir.join(name.to_string()))?;
        if file.len() == self.folded {
            return Ok(Some(file));
        }
        if file.len() < self.folded {
            self.reload(false)?;
            return Ok(None);
        }
        file.sync()?;
        let bytes = file.read_from(self.folded)?;
        let pieces = line::pieces(&bytes);
        self.fold(&mut file, &bytes, &pieces)?;
        Ok(Some(file))
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
                    let earlier = file.read_some(0, start)?;
                    let before = [&earlier[..], &bytes[..*offset]];
                    let before: usize = before.iter().map(|part| memchr::memchr_iter(b'\n', part).count()).sum();
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
        // Another process' clock may be ahead of ours; lines' times only grow.
        let now = self.head.at.map_or(now, |at| now.max(at + TimeDelta::microseconds(1)));
        let name = match self.segment {
            // A crash between making the file and writing its first line left it empty: use it.
            Some(name) if self.folded == 0 => name,
            Some(name) => name.successor(now),
            None => SegmentName::of_month(now),
        };
        let previous = self.end().or(self.previous.take());
        let payload = serde_json::value::to_raw_value(&Carry { previous, state: &self.state });
        let payload = payload.map_err(|error| FileError::of("describe the state for", &self.dir)(error.into()))?;
        let new = NewLine { kind: OPENED.to_owned(), ts: now, stream: None, payload };
        let (bytes, crc) = line::encode(self.head.seq + 1, now, &new);
        let path = self.dir.join(name.to_string());
        let opened = AppendFile::open(&path).and_then(|mut file| {
            file.append_durably(&bytes)?;
            Ok(file.len())
        });
        let len = opened.inspect_err(|_| {
            // Nobody may take this line for good: its sync failed. Memory is read anew, since it has no `previous` now.
            self.stale = true;
            if let Err(error) = atomic_file::remove(&path) {
                tracing::error!("{}: remove it by hand", chain(&error));
            }
        })?;
        self.head = Head { seq: self.head.seq + 1, crc, at: Some(now) };
        (self.segment, self.folded, self.sealed, self.spared) = (Some(name), len, None, len);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
