//! Edge. Reads a journal's lines without its lock, from either end, for views of history.
//! A line that is being written, or was never acknowledged, is not seen. Does not repair anything.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use chrono::{DateTime, Utc};

use super::line::{self, Line, Piece};
use super::segment::{Carry, PreviousSegment, SegmentName, is_opening};
use crate::file_error::FileError;

/// How much is read at a time, in bytes; a longer line is read whole.
const CHUNK_BYTES: u64 = 64 * 1024;

/// The names of the segments, oldest first.
pub fn segments(dir: &Path) -> Result<Vec<SegmentName>, FileError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(FileError::of("list", dir)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(FileError::of("list", dir))?;
        names.extend(entry.file_name().to_str().and_then(SegmentName::parse));
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether to go on reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Continue,
    Stop,
}

/// Calls `visit` with each line, newest first, until it says stop. Lines with a seq above `up_to_seq` (what memory knows to be
/// durable) are left out, as are the segments' own first lines.
pub fn newest_first(dir: &Path, up_to_seq: u64, mut visit: impl FnMut(Line) -> Next) -> Result<(), FileError> {
    let mut names = segments(dir)?;
    // The end of a segment as its successor knows it.
    let mut ends_at: Option<u64> = None;
    while let Some(name) = names.pop() {
        let path = dir.join(name.to_string());
        let mut stopped = false;
        let mut previous = None;
        segment_newest_first(&path, ends_at, |line| {
            if is_opening(&line) {
                previous = serde_json::from_str::<Carry<serde::de::IgnoredAny>>(line.payload.get())
                    .ok()
                    .and_then(|c| c.previous);
                return Next::Continue;
            }
            if line.seq > up_to_seq {
                return Next::Continue;
            }
            let next = visit(line);
            stopped = next == Next::Stop;
            next
        })?;
        if stopped {
            break;
        }
        ends_at = previous.filter(|p| names.last().is_some_and(|n| n.to_string() == p.segment)).map(|p| p.bytes);
    }
    Ok(())
}

/// Calls `visit` with each line received after an instant, oldest first, until it says stop. Segments that ended before are
/// not read.
pub fn oldest_first(
    dir: &Path,
    after: Option<DateTime<Utc>>,
    mut visit: impl FnMut(Line) -> Next,
) -> Result<(), FileError> {
    let names = segments(dir)?;
    let openings = names.iter().map(|name| opening(&dir.join(name.to_string()))).collect::<Result<Vec<_>, _>>()?;
    // A segment can be left out when the next one that says when it began did so before the instant.
    let first =
        (1..names.len()).rev().find(|at| openings[*at].as_ref().is_some_and(|o| after.is_some_and(|a| o.at <= a)));
    for (at, name) in names.iter().enumerate().skip(first.unwrap_or(0)) {
        let path = dir.join(name.to_string());
        let mut bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(FileError::of("read", &path)(error)),
        };
        let next = openings.get(at + 1).and_then(Option::as_ref).and_then(|o| o.previous.as_ref());
        if let Some(previous) = next.filter(|p| p.segment == name.to_string()) {
            bytes.truncate(usize::try_from(previous.bytes).unwrap_or(usize::MAX));
        }
        for piece in line::pieces(&bytes) {
            if let Piece::Line { line, .. } = piece
                && !is_opening(&line)
                && after.is_none_or(|after| line.received_at > after)
                && visit(line) == Next::Stop
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// What a segment's first line says of its beginning; `None` where that line is damaged.
struct Opening {
    at: DateTime<Utc>,
    previous: Option<PreviousSegment>,
}

fn opening(path: &Path) -> Result<Option<Opening>, FileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::of("read", path)(error)),
    };
    let mut first = Vec::new();
    BufReader::new(file).read_until(b'\n', &mut first).map_err(FileError::of("read", path))?;
    let line = first.strip_suffix(b"\n").and_then(line::decode).filter(is_opening);
    Ok(line.and_then(|line| {
        let carry = serde_json::from_str::<Carry<serde::de::IgnoredAny>>(line.payload.get()).ok()?;
        Some(Opening { at: line.received_at, previous: carry.previous })
    }))
}

fn segment_newest_first(
    path: &Path,
    ends_at: Option<u64>,
    mut visit: impl FnMut(Line) -> Next,
) -> Result<(), FileError> {
    let failed = |error| FileError::of("read", path)(error);
    let mut file = match File::open(path) {
        Ok(file) => file,
        // The operator removed an old segment meanwhile.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let len = file.metadata().map_err(failed)?.len();
    let mut at = ends_at.map_or(len, |end| end.min(len));
    // The beginning of a line whose start is further ahead in the file.
    let mut rest: Vec<u8> = Vec::new();
    while at > 0 {
        let from = at.saturating_sub(CHUNK_BYTES);
        let mut bytes = vec![0; usize::try_from(at - from).unwrap_or_default()];
        file.seek(SeekFrom::Start(from)).and_then(|_| file.read_exact(&mut bytes)).map_err(failed)?;
        bytes.extend_from_slice(&rest);
        at = from;
        let whole_from = match memchr::memchr(b'\n', &bytes) {
            _ if from == 0 => 0,
            Some(newline) => newline + 1,
            None => {
                rest = bytes;
                continue;
            }
        };
        for piece in line::pieces(&bytes[whole_from..]).into_iter().rev() {
            if let Piece::Line { line, .. } = piece
                && visit(line) == Next::Stop
            {
                return Ok(());
            }
        }
        bytes.truncate(whole_from);
        rest = bytes;
    }
    Ok(())
}
