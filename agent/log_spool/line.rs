//! Pure. The lines of a job's log: making them, finding their numbers, mending a file that has lost some. Does not
//! know which of them were sent.

use chrono::{DateTime, Utc};
use restic_manager::protocol::Envelope;
use restic_manager::protocol::agent_event::{JobProgress, LogDropped};
use serde::{Deserialize, Serialize};

use super::GiveUp;
use crate::room::Dropped;

/// No line is longer, in bytes: a text of 16 KiB, each character escaped, and its envelope.
pub(super) const LONGEST: u64 = 40 * 1024;

#[derive(Serialize)]
struct Line<'a, T> {
    seq: u64,
    ts: DateTime<Utc>,
    #[serde(rename = "type")]
    kind: &'a str,
    payload: &'a T,
}

/// Adds an envelope and a newline to `bytes`.
pub(super) fn write(
    bytes: &mut Vec<u8>,
    seq: u64,
    ts: DateTime<Utc>,
    kind: &str,
    payload: &impl Serialize,
) -> Result<(), serde_json::Error> {
    serde_json::to_writer(&mut *bytes, &Line { seq, ts, kind, payload })?;
    bytes.push(b'\n');
    Ok(())
}

/// Whole lines that have a number, with it. An incomplete last line is left out.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = (&[u8], u64)> {
    #[derive(Deserialize)]
    struct Numbered {
        seq: u64,
    }
    let whole = bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    whole.filter_map(|line| Some((line, serde_json::from_slice::<Numbered>(line).ok()?.seq)))
}

/// The lines from `next` on that can be read, in order, with a marker for each number that is missing between them. The first
/// lines of a trimmed file are missing too; the server has them and skips the marker.
pub(super) fn mended(bytes: &[u8], mut next: u64) -> Vec<u8> {
    let mut mended = Vec::with_capacity(bytes.len());
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let Ok(envelope) = serde_json::from_slice::<Envelope>(line) else { continue };
        if envelope.seq < next {
            continue;
        }
        let dropped: Option<LogDropped> =
            if envelope.kind == LogDropped::TYPE { serde_json::from_str(envelope.payload.get()).ok() } else { None };
        let first = dropped.map_or(envelope.seq, |dropped| dropped.from);
        if first > next {
            let marker = LogDropped { from: next, to: first - 1 };
            // A marker is two numbers, which always have a JSON form.
            let _ = write(&mut mended, marker.to, envelope.ts, LogDropped::TYPE, &marker);
        }
        mended.extend_from_slice(line);
        next = envelope.seq + 1;
    }
    mended
}

/// What remains of a log: lines after `acked`, without its progress or without any. Markers stand for what is left out.
pub(super) fn without(bytes: &[u8], acked: u64, what: GiveUp, now: DateTime<Utc>) -> (Vec<u8>, Dropped) {
    let (mut kept, mut dropped) = (Vec::new(), Dropped::default());
    let (mut last, mut last_kept) = (0, acked);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let Ok(envelope) = serde_json::from_slice::<Envelope>(line) else { continue };
        last = envelope.seq;
        let is_progress = envelope.kind == JobProgress::TYPE;
        let goes = is_progress || what == GiveUp::Lines;
        if envelope.seq <= acked {
            continue;
        }
        if !goes {
            kept.extend_from_slice(line);
            last_kept = last;
        } else if is_progress {
            dropped.progress += 1;
        } else if envelope.kind != LogDropped::TYPE {
            dropped.lines += 1;
        }
    }
    let mut kept = mended(&kept, acked + 1);
    if last_kept < last || kept.is_empty() {
        // Also where all of it is acknowledged: the last line keeps the numbers going.
        let marker = LogDropped { from: last.min(last_kept + 1), to: last };
        let _ = write(&mut kept, last, now, LogDropped::TYPE, &marker);
    }
    (kept, dropped)
}

/// The text without control characters (a terminal would obey them), at most `limit` bytes of it.
pub(super) fn clean(text: &str, limit: usize) -> String {
    let text = text.trim_end_matches(['\n', '\r']);
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut clean = String::with_capacity(end);
    for c in text[..end].chars() {
        // One byte, so that the limit holds.
        clean.push(if c.is_control() && c != '\t' { '?' } else { c });
    }
    if end < text.len() {
        clean.push_str(&format!(" [{} more bytes]", text.len() - end));
    }
    clean
}
