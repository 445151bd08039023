//! Edge. Reads a journal's lines without its lock, from the newest to the oldest, for views of history.
//! A line that is being written, or was never acknowledged, is not seen. Does not repair anything.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::line::{self, Line, Piece};
use super::segment::{Carry, OPENED, SegmentName};
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
            if line.kind == OPENED {
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
