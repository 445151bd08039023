//! Edge. The agent's event stream to the server: events wait here, durable, until they are acknowledged.
//! `spool/<first seq>.<stream>.jsonl` are segments whose lines are the wire's envelopes, so that a request's body is a
//! piece of a file; `spool/stream.json` names the stream and how far the server has acknowledged it. Does not send,
//! and does not hold log lines: `log_spool` does.
//!
//! The mark is replaced before what it covers is deleted, and the newest segment is only ever appended to. So a crash
//! loses nothing that `append` answered for, and a lost mark only makes the agent send again what the server skips.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use chrono::{DateTime, Utc};
use restic_manager::append_file::AppendFile;
use restic_manager::atomic_file;
use restic_manager::file_error::FileError;
use restic_manager::id::{JobId, StreamId};
use restic_manager::protocol::EVENT_LIMIT_BYTES;
use restic_manager::protocol::agent_event::AgentEvent;
use serde::{Deserialize, Serialize};

use crate::json_file;
use crate::log_spool;
use crate::room::{self, Room};

mod error;
mod segment;

pub(crate) use error::SpoolError;
use segment::Segment;

/// All in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// A segment that would grow past this is followed by a new one.
    pub(crate) segment: u64,
    /// Nothing more is taken past this, job logs included.
    pub(crate) total: u64,
    /// The last part of `total` is for the starts and ends of jobs that have been accepted.
    pub(crate) reserve: u64,
}

const LIMITS: Limits = Limits { segment: 128 * 1024, total: room::TOTAL, reserve: room::RESERVE };

/// `stream.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    stream: StreamId,
    /// The server has everything up to here.
    acked: u64,
}

/// A piece of the stream, as a request's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    pub(crate) bytes: Vec<u8>,
}

/// The open spool. One process has it at a time.
#[derive(Debug)]
pub(crate) struct Spool {
    dir: PathBuf,
    limits: Limits,
    room: Rc<Room>,
    mark: Mark,
    /// Contiguous, oldest first, none empty; the first may be acknowledged in part.
    segments: VecDeque<Segment>,
    /// The file that is appended to, and its first seq. It is in `segments` once it has a line.
    newest: Option<(u64, AppendFile)>,
    /// Ends of jobs, and rejections, that are not acknowledged.
    ends: BTreeMap<u64, JobId>,
    /// The newest event that the server may have got from here.
    given: u64,
}

impl Spool {
    /// Opens `<dir>/spool`. `new_stream` is used when there is none yet, or when the files are damaged: then a new stream
    /// begins with every event that can still be read, and the texts say what was wrong.
    pub(crate) fn open(dir: &Path, new_stream: StreamId) -> Result<(Self, Vec<String>), SpoolError> {
        Self::open_with(dir, new_stream, LIMITS)
    }

    pub(crate) fn open_with(
        dir: &Path,
        new_stream: StreamId,
        limits: Limits,
    ) -> Result<(Self, Vec<String>), SpoolError> {
        let room = Rc::new(Room::new(limits.total, limits.reserve));
        room.logs.set(log_spool::bytes(dir)?);
        let dir = dir.join("spool");
        atomic_file::create_private_dir(&dir)?;
        let mut damage = Vec::new();
        let mark: Option<Mark> = json_file::read(&dir.join("stream.json"))?.or_tell(&mut damage);
        let mut paths = segment::list(&dir)?;
        if let Some(mark) = mark {
            // A crash between a new stream's mark and the end of the old one's files, or before the mark.
            for (_, path) in paths.extract_if(.., |(name, _)| name.stream != mark.stream) {
                atomic_file::remove(&path)?;
            }
        }
        let must_begin_anew = mark.is_none() && !paths.is_empty();
        let mark = mark.unwrap_or(Mark { stream: new_stream, acked: 0 });
        let mut spool =
            Self { dir, limits, room, mark, segments: VecDeque::new(), newest: None, ends: BTreeMap::new(), given: 0 };
        let mut is_damaged = must_begin_anew;
        for (name, path) in paths {
            let Some((read, is_whole)) = segment::open(&path, name.first_seq, &mut spool.ends)? else { continue };
            is_damaged |= !is_whole || spool.segments.back().is_some_and(|last| last.last_seq() + 1 != name.first_seq);
            spool.segments.push_back(read);
        }
        is_damaged |= spool.segments.front().is_some_and(|first| first.first_seq > spool.mark.acked + 1);
        if is_damaged {
            damage.push(format!("{} is damaged: what can be read is sent as a new stream", spool.dir.display()));
            spool.start_new_stream(new_stream)?;
        } else {
            json_file::write(&spool.mark_path(), &spool.mark)?;
            spool.forget_acknowledged()?;
            if let Some(last) = spool.segments.back() {
                spool.newest = Some((last.first_seq, AppendFile::open(&last.path)?));
            }
        }
        spool.given = spool.last_seq();
        spool.measure();
        Ok((spool, damage))
    }

    /// Adds an event and gives its seq. Durable when this returns; after an error it is not in the spool.
    pub(crate) fn append(&mut self, now: DateTime<Utc>, event: &AgentEvent) -> Result<u64, SpoolError> {
        self.append_all(now, std::slice::from_ref(event))
    }

    /// Adds several events in one durable write, and gives the last one's seq.
    pub(crate) fn append_all(&mut self, now: DateTime<Utc>, events: &[AgentEvent]) -> Result<u64, SpoolError> {
        let mut bytes = Vec::new();
        let first_seq = self.last_seq() + 1;
        for (seq, event) in (first_seq..).zip(events) {
            let start = bytes.len();
            segment::write_line(&mut bytes, seq, now, event)?;
            let len = bytes.len() - start;
            if len > EVENT_LIMIT_BYTES {
                return Err(SpoolError::TooLarge { kind: event.type_name(), len });
            }
        }
        if bytes.is_empty() {
            return Ok(self.last_seq());
        }
        let len = bytes.len() as u64;
        let fits = if events.iter().all(is_of_accepted_job) { self.room.has_reserved(len) } else { self.room.has(len) };
        if !fits {
            return Err(SpoolError::Full);
        }
        self.write(first_seq, &bytes, events.len() as u64)?;
        for (seq, event) in (first_seq..).zip(events) {
            self.ends.extend(segment::end_in(event).map(|job| (seq, job)));
        }
        Ok(self.last_seq())
    }

    /// What is to be sent next, at most `max_bytes` but at least one event; always from the first event that is not
    /// acknowledged. Ends with its segment at the latest.
    pub(crate) fn next_batch(&mut self, max_bytes: usize) -> Result<Option<Batch>, SpoolError> {
        let first_seq = self.mark.acked + 1;
        let Some(segment) = self.segments.iter().find(|segment| segment.last_seq() >= first_seq) else {
            return Ok(None);
        };
        let batch = segment.read(first_seq, max_bytes)?;
        self.given = self.given.max(batch.as_ref().map_or(0, |batch| batch.last_seq));
        Ok(batch)
    }

    /// Whether the server can have the stream's events up to here from us. If not, another agent writes the same stream: a
    /// clone of this one, or the one that this is an older copy of.
    pub(crate) fn can_have_given(&self, up_to: u64) -> bool {
        up_to <= self.given
    }

    /// The server has everything up to `up_to`; wholly acknowledged segments are deleted. Gives the jobs whose end or
    /// rejection it now has, for the ledger to settle.
    pub(crate) fn acknowledge(&mut self, up_to: u64) -> Result<Vec<JobId>, SpoolError> {
        let last = self.last_seq();
        if up_to > last {
            return Err(SpoolError::AcknowledgedTooMuch { up_to, last });
        }
        if up_to <= self.mark.acked {
            return Ok(Vec::new());
        }
        let mark = Mark { acked: up_to, ..self.mark };
        json_file::write(&self.mark_path(), &mark)?;
        self.mark = mark;
        let later = self.ends.split_off(&(up_to + 1));
        let settled = std::mem::replace(&mut self.ends, later).into_values().collect();
        self.forget_acknowledged()?;
        Ok(settled)
    }

    /// Begins the stream `stream` (an id that was never used) with what is not acknowledged, numbered from 1: for a server that expects an event that
    /// is no longer here (`event-gap`), and for an agent that is not alone with its stream.
    pub(crate) fn start_new_stream(&mut self, stream: StreamId) -> Result<(), SpoolError> {
        let mut copy = segment::Copy::new(&self.dir, stream, self.limits.segment);
        for segment in &self.segments {
            copy.add(segment, self.mark.acked)?;
        }
        let (segments, ends) = copy.finish()?;
        let mark = Mark { stream, acked: 0 };
        // From here on the old stream's files are leftovers.
        json_file::write(&self.mark_path(), &mark)?;
        self.mark = mark;
        self.given = 0;
        let old = std::mem::replace(&mut self.segments, segments);
        self.newest = None;
        self.ends = ends;
        self.measure();
        for segment in old {
            atomic_file::remove(&segment.path)?;
        }
        Ok(())
    }

    pub(crate) fn stream(&self) -> StreamId {
        self.mark.stream
    }

    /// The server had everything up to here.
    pub(crate) fn acked(&self) -> u64 {
        self.mark.acked
    }

    /// The newest event; 0 when the stream has none yet.
    pub(crate) fn last_seq(&self) -> u64 {
        self.segments.back().map_or(self.mark.acked, Segment::last_seq)
    }

    /// Bytes on disk.
    pub(crate) fn depth_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len).sum()
    }

    #[cfg(test)]
    /// Everything is acknowledged.
    pub(crate) fn is_empty(&self) -> bool {
        self.last_seq() == self.mark.acked
    }

    /// There is room for the events of one more job. When not, new commands are rejected.
    pub(crate) fn has_room_for_commands(&self) -> bool {
        self.room.has_for_commands(self.limits.segment)
    }

    /// What events and logs share.
    pub(crate) fn room(&self) -> Rc<Room> {
        Rc::clone(&self.room)
    }

    fn measure(&self) {
        self.room.events.set(self.depth_bytes());
    }

    /// The job's end, or its rejection, waits here.
    pub(crate) fn holds_end_of(&self, job: JobId) -> bool {
        self.ends.values().any(|held| *held == job)
    }

    fn mark_path(&self) -> PathBuf {
        self.dir.join("stream.json")
    }

    fn write(&mut self, first_seq: u64, bytes: &[u8], count: u64) -> Result<(), SpoolError> {
        let fits = |file: &AppendFile| file.is_empty() || file.len() + bytes.len() as u64 <= self.limits.segment;
        let (file_seq, mut file) = match self.newest.take() {
            Some((file_seq, file)) if fits(&file) => (file_seq, file),
            _ => (first_seq, AppendFile::open(&segment::path(&self.dir, self.mark.stream, first_seq))?),
        };
        let path = file.path().to_owned();
        let written = file.append_durably_or_take_back(bytes);
        self.newest = Some((file_seq, file));
        written?;
        match self.segments.back_mut().filter(|last| last.first_seq == file_seq) {
            Some(last) => {
                last.count += count;
                last.len += bytes.len() as u64;
            }
            None => self.segments.push_back(Segment { path, first_seq, count, len: bytes.len() as u64 }),
        }
        self.measure();
        Ok(())
    }

    fn forget_acknowledged(&mut self) -> Result<(), FileError> {
        while let Some(first) = self.segments.front().filter(|first| first.last_seq() <= self.mark.acked) {
            atomic_file::remove(&first.path)?;
            if self.newest.as_ref().is_some_and(|(file_seq, _)| *file_seq == first.first_seq) {
                self.newest = None;
            }
            self.segments.pop_front();
        }
        self.measure();
        self.ends = self.ends.split_off(&(self.mark.acked + 1));
        Ok(())
    }
}

/// The spool's last room is for these: dropping one would lose what became of a job.
fn is_of_accepted_job(event: &AgentEvent) -> bool {
    matches!(event, AgentEvent::JobStarted(_) | AgentEvent::JobFinished(_) | AgentEvent::CommandResult(_))
}

#[cfg(test)]
mod tests;
