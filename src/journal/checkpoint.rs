//! Edge. The folded state of a journal's present segment, kept beside it so that opening reads only what came after. A cache:
//! `checkpoint.json` is written like a line, with a checksum, and counts only where the segment bears it out. Missing, torn
//! or of another segment it is passed over, and a full fold gives the same state. Does not fold.

use std::path::Path;

use serde::Deserialize;

use super::line::{self, NewLine};
use super::segment::SegmentName;
use super::{Fold, Head};
use crate::append_file::AppendFile;
use crate::atomic_file;
use crate::file_error::FileError;

/// At least so many bytes of journal come between two checkpoints; opening reads at most about so many.
pub(super) const EVERY_BYTES: u64 = 64 * 1024;

const FILE: &str = "checkpoint.json";
const TYPE: &str = "checkpoint";
/// A line ends with `"crc":"` + 8 hex digits + `"}` and a newline.
const END_LEN: u64 = 11;

/// What a checkpoint spares from reading.
pub(super) struct Kept<S> {
    pub(super) state: S,
    /// The last line that is in it.
    pub(super) head: Head,
    /// Bytes of the segment that are in it.
    pub(super) bytes: u64,
    /// Bytes of the checkpoint itself.
    pub(super) cost: u64,
}

#[derive(Deserialize)]
struct Payload<S> {
    segment: String,
    bytes: u64,
    head_crc: String,
    state: S,
}

/// Writes the checkpoint; returns its size. Everything in `state` is durable in the segment already.
pub(super) fn keep<S: Fold>(
    dir: &Path,
    segment: SegmentName,
    bytes: u64,
    head: Head,
    state: &S,
) -> Result<u64, FileError> {
    let path = dir.join(FILE);
    let payload = serde_json::json!({
        "segment": segment.to_string(), "bytes": bytes, "head_crc": end_of(head.crc), "state": state,
    });
    let payload = serde_json::value::to_raw_value(&payload);
    let payload = payload.map_err(|error| FileError::of("describe the state for", &path)(error.into()))?;
    let at = head.at.unwrap_or_default();
    let new = NewLine { kind: TYPE.to_owned(), ts: at, stream: None, payload };
    let (text, _) = line::encode(head.seq, at, &new);
    atomic_file::replace_cache(&path, &text)?;
    Ok(text.len() as u64)
}

/// The checkpoint, if it is whole, of this segment, and ends with the line that the segment has there.
pub(super) fn read<S: Fold>(
    dir: &Path,
    segment: SegmentName,
    file: &mut AppendFile,
) -> Result<Option<Kept<S>>, FileError> {
    let Ok(text) = std::fs::read(dir.join(FILE)) else { return Ok(None) };
    let Some(line) = text.strip_suffix(b"\n").and_then(line::decode).filter(|line| line.kind == TYPE) else {
        return Ok(None);
    };
    let Ok(payload) = serde_json::from_str::<Payload<S>>(line.payload.get()) else { return Ok(None) };
    if payload.segment != segment.to_string() || payload.bytes > file.len() || payload.bytes < END_LEN {
        return Ok(None);
    }
    let end = file.read_some(payload.bytes - END_LEN, END_LEN)?;
    let Some(crc) = crc_of(&payload.head_crc).filter(|_| end == payload.head_crc.as_bytes()) else { return Ok(None) };
    let head = Head { seq: line.seq, crc, at: Some(line.received_at) };
    Ok(Some(Kept { state: payload.state, head, bytes: payload.bytes, cost: text.len() as u64 }))
}

/// How a line with this checksum ends.
fn end_of(crc: u32) -> String {
    format!("{crc:08x}\"}}\n")
}

fn crc_of(end: &str) -> Option<u32> {
    u32::from_str_radix(end.get(..8)?, 16).ok()
}
