//! Edge. Lines that become durable together, and what happens when they do not. Does not begin itself: `Journal::begin` does.

use std::fs::File;
use std::path::Path;

use chrono::{DateTime, Utc};

use super::line::{self, Line, NewLine};
use super::{Fold, Head, Journal};
use crate::append_file::AppendFile;
use crate::file_error::{FileError, chain};

/// Lines that become durable together. Dropped without `commit`: nothing happened.
#[derive(Debug)]
pub struct Batch<'a, S> {
    journal: &'a mut Journal<S>,
    /// Released when the batch ends, however it does.
    lock: File,
    /// The segment, where `begin` has opened it already.
    file: Option<AppendFile>,
    bytes: Vec<u8>,
    now: DateTime<Utc>,
}

impl<'a, S: Fold> Batch<'a, S> {
    pub(super) const fn new(
        journal: &'a mut Journal<S>,
        lock: File,
        file: Option<AppendFile>,
        now: DateTime<Utc>,
    ) -> Self {
        Self { journal, lock, file, bytes: Vec::new(), now }
    }

    /// The state with the batch's own lines in it.
    pub fn state(&self) -> &S {
        &self.journal.state
    }

    pub fn head(&self) -> Head {
        self.journal.head
    }

    /// The journal's directory.
    pub fn dir(&self) -> &Path {
        &self.journal.dir
    }

    /// Nothing to write, so far.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
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

    /// Writes, and returns when the lines survive power loss. After an error nothing counts as written, and the journal is to
    /// be used again: it heals itself, here or at the next `begin`.
    pub fn commit(self) -> Result<(), FileError> {
        let Self { journal, lock, file, bytes, now } = self;
        let Some(name) = journal.segment else { return Ok(()) };
        if bytes.is_empty() {
            return Ok(());
        }
        let mut file = match file {
            Some(file) => file,
            None => AppendFile::open(&journal.dir.join(name.to_string()))?,
        };
        let before = file.len();
        file.append(&bytes)?;
        if let Err(error) = file.sync() {
            // The kernel takes the lost pages for clean, so another reader's sync would succeed: the segment ends before
            // them, and its successor says so before anyone else gets the lock.
            journal.sealed = Some((name, before));
            if let Err(error) = journal.reload(false).and_then(|()| journal.open_segment(now)) {
                tracing::warn!("{}: the next batch tries again", chain(&error));
                // Only this process knows of the seal so far: another one, or the next start, must not find the lines.
                // Whether the cut is durable does not matter: after power loss, what is there is what the disk has.
                if let Err(error) = file.truncate(before) {
                    tracing::warn!("{}", chain(&error));
                }
            }
            return Err(error);
        }
        drop(lock);
        journal.folded = file.len();
        journal.stale = false;
        Ok(())
    }
}
