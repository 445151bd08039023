//! Edge. One file of the spool: its name, its lines, and copying its lines under other numbers. Does not know what is
//! acknowledged: it is told.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use restic_manager::append_file::open_after_whole_lines;
use restic_manager::atomic_file;
use restic_manager::file_error::FileError;
use restic_manager::id::{JobId, StreamId};
use restic_manager::protocol::Envelope;
use restic_manager::protocol::agent_event::AgentEvent;
use serde::Serialize;

use super::{Batch, SpoolError};

/// A file with at least one line.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) first_seq: u64,
    /// Lines.
    pub(super) count: u64,
    /// Bytes.
    pub(super) len: u64,
}

impl Segment {
    pub(super) const fn last_seq(&self) -> u64 {
        self.first_seq + self.count - 1
    }

    /// Lines from `from` on, at most `max_bytes` but at least one.
    pub(super) fn read(&self, from: u64, max_bytes: usize) -> Result<Option<Batch>, FileError> {
        let bytes = std::fs::read(&self.path).map_err(FileError::of("read", &self.path))?;
        let skipped = usize::try_from(from.saturating_sub(self.first_seq)).unwrap_or(usize::MAX);
        let mut lines = whole_lines(&bytes).skip(skipped);
        let Some(first) = lines.next() else { return Ok(None) };
        let mut batch = Batch { first_seq: from, last_seq: from, bytes: first.to_owned() };
        for line in lines {
            if batch.bytes.len() + line.len() > max_bytes {
                break;
            }
            batch.bytes.extend_from_slice(line);
            batch.last_seq += 1;
        }
        Ok(Some(batch))
    }
}

/// What a segment's file name says.
pub(super) struct SegmentName {
    pub(super) first_seq: u64,
    pub(super) stream: StreamId,
}

pub(super) fn path(dir: &Path, stream: StreamId, first_seq: u64) -> PathBuf {
    dir.join(format!("{first_seq:020}.{stream}.jsonl"))
}

fn parse_name(name: &str) -> Option<SegmentName> {
    let (first_seq, stream) = name.strip_suffix(".jsonl")?.split_once('.')?;
    Some(SegmentName { first_seq: first_seq.parse().ok()?, stream: stream.parse().ok()? })
}

/// The segments of all streams, by first seq.
pub(super) fn list(dir: &Path) -> Result<Vec<(SegmentName, PathBuf)>, FileError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(FileError::of("list", dir))? {
        let path = entry.map_err(FileError::of("list", dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(parse_name);
        found.extend(name.map(|name| (name, path)));
    }
    found.sort_by_key(|(name, _)| (name.stream, name.first_seq));
    Ok(found)
}

/// Opens a segment after a start: a torn last line is cut off. False: its lines are not what they should be. An empty
/// file is no segment and is removed.
pub(super) fn open(
    path: &Path,
    first_seq: u64,
    ends: &mut BTreeMap<u64, JobId>,
) -> Result<Option<(Segment, bool)>, FileError> {
    let mut file = open_after_whole_lines(path)?;
    if file.is_empty() {
        atomic_file::remove(path)?;
        return Ok(None);
    }
    let bytes = file.read_from(0)?;
    let mut is_whole = true;
    let mut count = 0;
    for line in whole_lines(&bytes) {
        match serde_json::from_slice::<Envelope>(line) {
            Ok(envelope) if envelope.seq == first_seq + count => {
                ends.extend(end_in_envelope(&envelope).map(|job| (envelope.seq, job)));
            }
            _ => is_whole = false,
        }
        count += 1;
    }
    Ok(Some((Segment { path: path.to_owned(), first_seq, count, len: file.len() }, is_whole)))
}

fn whole_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"))
}

#[derive(Serialize)]
struct Line<'a, T> {
    seq: u64,
    ts: DateTime<Utc>,
    #[serde(flatten)]
    event: &'a T,
}

/// Adds the event's envelope and a newline to `bytes`.
pub(super) fn write_line(
    bytes: &mut Vec<u8>,
    seq: u64,
    ts: DateTime<Utc>,
    event: &AgentEvent,
) -> Result<(), SpoolError> {
    serde_json::to_writer(&mut *bytes, &Line { seq, ts, event }).map_err(SpoolError::Json)?;
    bytes.push(b'\n');
    Ok(())
}

/// The job that this event settles once it is acknowledged.
pub(super) const fn end_in(event: &AgentEvent) -> Option<JobId> {
    match event {
        AgentEvent::JobFinished(finished) => Some(finished.job_id),
        AgentEvent::CommandResult(result) if !result.accepted => Some(result.job_id),
        _ => None,
    }
}

fn end_in_envelope(envelope: &Envelope) -> Option<JobId> {
    if !matches!(envelope.kind.as_str(), "job.finished" | "command.result") {
        return None;
    }
    AgentEvent::from_envelope(envelope).ok().flatten().as_ref().and_then(end_in)
}

/// Writes lines of old segments as a new stream, numbered from 1.
pub(super) struct Copy<'a> {
    dir: &'a Path,
    stream: StreamId,
    segment_limit: u64,
    next_seq: u64,
    /// The lines of the segment that is not written yet.
    bytes: Vec<u8>,
    first_seq: u64,
    segments: VecDeque<Segment>,
    ends: BTreeMap<u64, JobId>,
}

impl<'a> Copy<'a> {
    pub(super) const fn new(dir: &'a Path, stream: StreamId, segment_limit: u64) -> Self {
        Self {
            dir,
            stream,
            segment_limit,
            next_seq: 1,
            bytes: Vec::new(),
            first_seq: 1,
            segments: VecDeque::new(),
            ends: BTreeMap::new(),
        }
    }

    /// Adds the lines after `acked` that can be read.
    pub(super) fn add(&mut self, segment: &Segment, acked: u64) -> Result<(), SpoolError> {
        let bytes = std::fs::read(&segment.path).map_err(FileError::of("read", &segment.path))?;
        for line in whole_lines(&bytes) {
            let Ok(mut envelope) = serde_json::from_slice::<Envelope>(line) else { continue };
            if envelope.seq <= acked {
                continue;
            }
            if (self.bytes.len() + line.len()) as u64 > self.segment_limit {
                self.flush()?;
            }
            envelope.seq = self.next_seq;
            self.next_seq += 1;
            serde_json::to_writer(&mut self.bytes, &envelope).map_err(SpoolError::Json)?;
            self.bytes.push(b'\n');
            self.ends.extend(end_in_envelope(&envelope).map(|job| (envelope.seq, job)));
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<(VecDeque<Segment>, BTreeMap<u64, JobId>), SpoolError> {
        self.flush()?;
        Ok((self.segments, self.ends))
    }

    fn flush(&mut self) -> Result<(), FileError> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let path = path(self.dir, self.stream, self.first_seq);
        atomic_file::replace(&path, &self.bytes)?;
        let (first_seq, count) = (self.first_seq, self.next_seq - self.first_seq);
        self.segments.push_back(Segment { path, first_seq, count, len: self.bytes.len() as u64 });
        self.first_seq = self.next_seq;
        self.bytes.clear();
        Ok(())
    }
}
