//! Pure. One journal line: its bytes, its checksum, and finding lines in bytes that may be damaged.
//! Does not know what an event means, and does no I/O.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, SubsecRound, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::id::StreamId;

/// Every line begins so, which is how a line is found again after a damaged newline.
const LINE_START: &[u8] = b"{\"seq\":";
/// Stands between what the checksum covers and the checksum.
const CRC_KEY: &[u8] = b",\"crc\":\"";
/// `,"crc":"` + 8 hex digits + `"}`.
const CRC_TAIL_LEN: usize = CRC_KEY.len() + 8 + 2;

/// What is written, beside the place in the journal.
#[derive(Debug, Clone)]
pub struct NewLine {
    pub kind: String,
    /// The sender's clock; the server's for its own facts.
    pub ts: DateTime<Utc>,
    /// Where the event came from, for an agent's events.
    pub stream: Option<(StreamId, u64)>,
    pub payload: Box<RawValue>,
}

/// A line that was read, checksum verified. Field order is that of state.md.
#[derive(Debug, Clone, Deserialize)]
pub struct Line {
    pub seq: u64,
    pub ts: DateTime<Utc>,
    pub received_at: DateTime<Utc>,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub stream: Option<StreamId>,
    #[serde(default)]
    pub stream_seq: Option<u64>,
    pub payload: Box<RawValue>,
    #[serde(deserialize_with = "hex_crc")]
    pub crc: u32,
}

fn hex_crc<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let text = String::deserialize(deserializer)?;
    u32::from_str_radix(&text, 16).map_err(serde::de::Error::custom)
}

/// The bytes of a line, newline included, and its checksum.
pub fn encode(seq: u64, received_at: DateTime<Utc>, new: &NewLine) -> (Vec<u8>, u32) {
    let time = |at: &DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Micros, true);
    let mut text =
        format!("{{\"seq\":{seq},\"ts\":\"{}\",\"received_at\":\"{}\",\"type\":", time(&new.ts), time(&received_at));
    // Writing to a String cannot fail; a type is text, which always has a JSON form.
    text.push_str(&serde_json::to_string(&new.kind).unwrap_or_default());
    if let Some((stream, stream_seq)) = new.stream {
        let _ = write!(text, ",\"stream\":\"{stream}\",\"stream_seq\":{stream_seq}");
    }
    text.push_str(",\"payload\":");
    push_on_one_line(&mut text, new.payload.get());
    let crc = crc32c::crc32c(text.as_bytes());
    let _ = writeln!(text, ",\"crc\":\"{crc:08x}\"}}");
    (text.into_bytes(), crc)
}

/// A time as a line keeps it: in whole microseconds.
pub fn written_time(at: DateTime<Utc>) -> DateTime<Utc> {
    at.trunc_subsecs(6)
}

/// Raw payloads keep their sender's white space; a newline in it (always outside of strings) would break the line.
fn push_on_one_line(text: &mut String, json: &str) {
    if json.contains(['\n', '\r']) {
        text.extend(json.chars().map(|c| if matches!(c, '\n' | '\r') { ' ' } else { c }));
    } else {
        text.push_str(json);
    }
}

/// The checksum of a line without its newline, if the line is whole; `None` when it is damaged.
pub fn checksum(bytes: &[u8]) -> Option<u32> {
    let covered = bytes.len().checked_sub(CRC_TAIL_LEN)?;
    let (body, tail) = bytes.split_at(covered);
    let hex = tail.strip_prefix(CRC_KEY)?.strip_suffix(b"\"}")?;
    let crc = u32::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?;
    // Upper case or a sign would be another line's bytes with the same value.
    let as_written = hex.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b));
    (as_written && crc32c::crc32c(body) == crc).then_some(crc)
}

/// Reads a line without its newline; `None` when it is damaged.
pub fn decode(bytes: &[u8]) -> Option<Line> {
    checksum(bytes)?;
    serde_json::from_slice(bytes).ok()
}

/// What the beginning of a line tells without parsing the rest.
#[derive(Debug, Clone, Copy)]
pub struct Peek<'a> {
    pub seq: u64,
    received_at: &'a str,
    pub kind: &'a str,
    /// It came from an agent, whatever its type says.
    pub is_agents: bool,
    /// JSON.
    pub payload: &'a [u8],
}

impl Peek<'_> {
    pub fn received_at(&self) -> Option<DateTime<Utc>> {
        self.received_at.parse().ok()
    }
}

/// Looks at a whole line (`checksum` said so) by the fixed order of its first keys. `None`: a type that needs escapes, or another
/// writer's line: decode it.
pub fn peek(bytes: &[u8]) -> Option<Peek<'_>> {
    fn text<'a>(rest: &mut &'a [u8], key: &[u8]) -> Option<&'a str> {
        let after = rest.strip_prefix(key)?;
        let (value, left) = after.split_at(memchr::memchr(b'"', after)?);
        *rest = &left[1..];
        std::str::from_utf8(value).ok().filter(|value| !value.contains('\\'))
    }
    let mut rest = bytes.strip_prefix(LINE_START)?;
    let digits = memchr::memchr(b',', rest)?;
    let seq = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
    rest = &rest[digits..];
    text(&mut rest, b",\"ts\":\"")?;
    let received_at = text(&mut rest, b",\"received_at\":\"")?;
    let kind = text(&mut rest, b",\"type\":\"")?;
    let is_agents = text(&mut rest, b",\"stream\":\"").is_some();
    if is_agents {
        rest = rest.strip_prefix(b",\"stream_seq\":")?;
        rest = &rest[memchr::memchr(b',', rest)?..];
    }
    let payload = rest.strip_prefix(b",\"payload\":")?;
    Some(Peek { seq, received_at, kind, is_agents, payload: &payload[..payload.len().checked_sub(CRC_TAIL_LEN)?] })
}

/// One piece of a file: a good line or bytes that are none.
#[derive(Debug)]
pub enum Piece {
    Line { offset: usize, len: usize, line: Line },
    Damaged { offset: usize, len: usize },
}

/// Where a piece lies. `len` counts the newline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    pub offset: usize,
    pub len: usize,
    /// Its checksum is right.
    pub is_line: bool,
}

impl Cut {
    /// The line without its newline.
    pub fn text(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.offset..self.offset + self.len - 1]
    }
}

/// Cuts a file's bytes into good lines and damage, and parses the lines. `len` counts the newline.
pub fn pieces(bytes: &[u8]) -> Vec<Piece> {
    let piece = |cut: Cut| {
        let line = if cut.is_line { decode(cut.text(bytes)) } else { None };
        match line {
            Some(line) => Piece::Line { offset: cut.offset, len: cut.len, line },
            None => Piece::Damaged { offset: cut.offset, len: cut.len },
        }
    };
    cuts(bytes).into_iter().map(piece).collect()
}

/// Cuts a file's bytes into good lines and damage by their checksums. Trailing bytes without a newline are damage also when
/// they would be a line: their newline never became durable.
pub fn cuts(bytes: &[u8]) -> Vec<Cut> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let end = memchr::memchr(b'\n', &bytes[at..]).map(|n| at + n);
        let (text, next) = match end {
            Some(end) => (&bytes[at..end], end + 1),
            None => (&bytes[at..], bytes.len()),
        };
        if end.is_some() && checksum(text).is_some() {
            found.push(Cut { offset: at, len: next - at, is_line: true });
        } else {
            salvage(bytes, at, next, end.is_some(), &mut found);
        }
        at = next;
    }
    found
}

/// Two lines joined by a damaged newline: looks for a good line that begins inside, and for a good one before it.
fn salvage(bytes: &[u8], from: usize, to: usize, ended: bool, found: &mut Vec<Cut>) {
    let text_end = if ended { to - 1 } else { to };
    let mut damaged_from = from;
    if ended {
        for start in memchr::memmem::find_iter(&bytes[from..text_end], LINE_START).map(|n| from + n) {
            if checksum(&bytes[start..text_end]).is_none() {
                continue;
            }
            // The byte before a line is the newline that was damaged: what is before it may be a whole line.
            if start > from + 1 && checksum(&bytes[from..start - 1]).is_some() {
                found.push(Cut { offset: from, len: start - from, is_line: true });
                damaged_from = start;
            }
            if damaged_from < start {
                found.push(Cut { offset: damaged_from, len: start - damaged_from, is_line: false });
            }
            found.push(Cut { offset: start, len: to - start, is_line: true });
            return;
        }
    }
    found.push(Cut { offset: damaged_from, len: to - damaged_from, is_line: false });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seq: u64, payload: &str) -> Vec<u8> {
        let at = DateTime::from_timestamp(1_700_000_000, 0).expect("an instant");
        let payload = RawValue::from_string(payload.to_owned()).expect("JSON");
        encode(seq, at, &NewLine { kind: "job.started".into(), ts: at, stream: None, payload }).0
    }

    fn good_seqs(bytes: &[u8]) -> Vec<u64> {
        pieces(bytes)
            .iter()
            .filter_map(|p| if let Piece::Line { line, .. } = p { Some(line.seq) } else { None })
            .collect()
    }

    #[test]
    fn the_literal_form_is_the_one_that_people_grep() {
        let text = String::from_utf8(line(7, r#"{"a":"\n"}"#)).expect("UTF-8");
        assert_eq!(
            text,
            "{\"seq\":7,\"ts\":\"2023-11-14T22:13:20.000000Z\",\"received_at\":\"2023-11-14T22:13:20.000000Z\",\"type\":\"job.started\",\"payload\":{\"a\":\"\\n\"},\"crc\":\"CRC\"}\n"
                .replace("CRC", &text[text.len() - 11..text.len() - 3])
        );
        assert!(decode(text.trim_end().as_bytes()).is_some());
    }

    #[test]
    fn a_payload_with_newlines_still_is_one_line() {
        let bytes = line(1, "{\n \"a\": 1\n}");
        assert_eq!(bytes.iter().filter(|b| **b == b'\n').count(), 1);
        assert_eq!(good_seqs(&bytes), [1]);
    }

    #[test]
    fn any_flipped_byte_is_one_lines_damage_and_a_newline_two_lines_at_most() {
        let lines = [line(1, "{}"), line(2, r#"{"x":[1,2,3]}"#), line(3, "{}")];
        let whole = lines.concat();
        for at in 0..whole.len() {
            for flip in [1u8, 0x20, 0x80] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                let hit = if at < lines[0].len() {
                    1
                } else if at < lines[0].len() + lines[1].len() {
                    2
                } else {
                    3
                };
                let seqs = good_seqs(&bytes);
                for seq in 1..=3 {
                    let is_newline = whole[at] == b'\n';
                    if seq != hit && !(is_newline && seq == hit + 1) {
                        assert!(seqs.contains(&seq), "byte {at} flipped by {flip}: line {seq} is hidden");
                    }
                }
                if whole[at] != b'\n' {
                    assert!(!seqs.contains(&hit), "byte {at} flipped by {flip} is not noticed");
                }
            }
        }
    }

    #[test]
    fn a_damaged_newline_loses_no_line() {
        let mut bytes = [line(1, "{}"), line(2, "{}"), line(3, "{}")].concat();
        let newline = memchr::memchr(b'\n', &bytes).expect("a newline");
        bytes[newline] = b'x';
        assert_eq!(good_seqs(&bytes), [1, 2, 3]);
    }

    #[test]
    fn a_look_at_the_beginning_tells_what_parsing_tells() {
        let at = DateTime::from_timestamp(1_700_000_000, 0).expect("an instant");
        let payload = RawValue::from_string(r#"{"job_id":"x","crc":"y"}"#.to_owned()).expect("JSON");
        for stream in [None, Some((StreamId(uuid::Uuid::nil()), 12))] {
            let new = NewLine { kind: "job.started".into(), ts: at, stream, payload: payload.clone() };
            let (bytes, _) = encode(42, at, &new);
            let text = &bytes[..bytes.len() - 1];
            let (peeked, line) = (peek(text).expect("a line"), decode(text).expect("a line"));
            assert_eq!((peeked.seq, peeked.kind, peeked.is_agents), (42, "job.started", stream.is_some()));
            assert_eq!(peeked.received_at(), Some(line.received_at));
            assert_eq!(peeked.payload, line.payload.get().as_bytes());
        }
        let odd = NewLine { kind: "a\"b".into(), ts: at, stream: None, payload };
        let (bytes, _) = encode(1, at, &odd);
        assert!(peek(&bytes[..bytes.len() - 1]).is_none() && decode(&bytes[..bytes.len() - 1]).is_some());
    }

    #[test]
    fn a_line_without_its_newline_is_not_there_yet() {
        let mut bytes = [line(1, "{}"), line(2, "{}")].concat();
        bytes.pop();
        assert_eq!(good_seqs(&bytes), [1]);
    }
}
