//! Pure. What server and agent say to each other: the envelope, the version, the cursor, the paths,
//! and (in the modules below) every message. Does not decide anything about what is said.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::id::{Epoch, HostName, JobId};

pub mod agent_event;
pub mod command;
pub mod job_options;
pub mod reading_options;
pub mod repository_access;
pub mod schedule;
pub mod schedule_options;
pub mod text;

/// The newest protocol version that this program speaks.
pub const PROTOCOL_VERSION: u32 = 1;
/// The oldest protocol version that this program still speaks.
pub const OLDEST_PROTOCOL_VERSION: u32 = 1;

/// Largest request body, in bytes; a larger one is answered 413 and the agent halves its batch.
pub const BODY_LIMIT_BYTES: usize = 256 * 1024;
/// Largest hello, in bytes: it names every job whose end is not acknowledged, 39 bytes each.
pub const HELLO_LIMIT_BYTES: usize = 4 * 1024 * 1024;
/// An agent with so many of those takes no more commands; what it fires by itself meanwhile still has room in a hello.
pub const UNSETTLED_JOBS_LIMIT: usize = 50_000;
/// Largest single event line, in bytes, its newline included.
pub const EVENT_LIMIT_BYTES: usize = 64 * 1024;

/// How deeply an event may be nested. Readers of JSON stop somewhere (ours at 128), and an event comes to stand within lists and
/// states: what one of them could not read would hide all that is in there with it.
pub const NESTING_LIMIT: usize = 64;

/// Whether a JSON text is nested deeper than that.
pub fn is_too_deep(json: &[u8]) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                depth += 1;
                if depth > NESTING_LIMIT {
                    return true;
                }
            }
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// The version both sides use: the lower of the two newest, if both still speak it.
pub fn negotiate_version(theirs: u32) -> Option<u32> {
    let version = theirs.min(PROTOCOL_VERSION);
    (version >= OLDEST_PROTOCOL_VERSION).then_some(version)
}

/// One line, on the wire and in files alike: what happened, in which order, and when its sender says it did.
/// The payload keeps the bytes it came with, so that fields we do not know survive.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope {
    /// Contiguous, from 1, within a stream, a job's log or a host's journal.
    pub seq: u64,
    /// The sender's clock.
    pub ts: DateTime<Utc>,
    #[serde(rename = "type")]
    pub kind: String,
    pub payload: Box<RawValue>,
}

impl Envelope {
    /// Wraps a payload; fails only where the payload has no JSON form, which none of ours is.
    pub fn new(seq: u64, ts: DateTime<Utc>, kind: &str, payload: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self { seq, ts, kind: kind.to_owned(), payload: serde_json::value::to_raw_value(payload)? })
    }
}

/// How far an agent has everything in its ledger: a line of its host's journal, named so that a journal
/// restored from a backup is noticed. Opaque to agents, who keep and return its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub epoch: Epoch,
    /// The journal line's seq; 0 is before the first line.
    pub seq: u64,
    /// That line's CRC-32C; 0 with seq 0.
    pub crc: u32,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{:08x}", self.epoch, self.seq, self.crc)
    }
}

/// The text is not a cursor of ours. A poll with such a cursor starts over; nothing is lost by that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidCursor;

impl FromStr for Cursor {
    type Err = InvalidCursor;
    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let mut parts = text.splitn(3, '.');
        let mut part = || parts.next().ok_or(InvalidCursor);
        Ok(Self {
            epoch: part()?.parse().map_err(|_| InvalidCursor)?,
            seq: part()?.parse().map_err(|_| InvalidCursor)?,
            crc: u32::from_str_radix(part()?, 16).map_err(|_| InvalidCursor)?,
        })
    }
}

/// The answer to a poll; always 200, so that only we can have sent it.
#[derive(Debug, Serialize, Deserialize)]
pub struct PollAnswer {
    pub epoch: Epoch,
    pub cursor: String,
    pub server_time: DateTime<Utc>,
    /// The cursor could not be followed: the messages are all unfinished commands.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reset: bool,
    /// A newer instance of this host polls; this one gets nothing and waits 60 s.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub superseded: bool,
    /// In the order in which they are to be applied.
    pub messages: Vec<PollMessage>,
}

/// One message of a poll's answer. config.update and schedule.set carry a version and no seq.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PollMessage {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    pub ts: DateTime<Utc>,
    #[serde(rename = "type")]
    pub kind: String,
    pub payload: Box<RawValue>,
}

/// The answer to posted events or log lines: everything up to here is durable.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Acknowledged {
    pub acked: u64,
    /// How often log lines are wanted, in milliseconds; only in answers to log lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u64>,
}

/// The body of every error, RFC 9457.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ProblemBody {
    #[serde(rename = "type")]
    pub type_uri: String,
    pub title: String,
    pub status: u16,
    pub detail: String,
    /// Stable, for programs.
    pub code: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ProblemEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// With `event-gap`: the seq that the server has to have next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<u64>,
}

/// One of several errors in one answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemEntry {
    pub file: String,
    pub line: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    pub message: String,
}

/// The path of an agent's endpoint.
pub fn agent_path(host: &HostName, endpoint: &str) -> String {
    format!("/v1/agents/{host}/{endpoint}")
}

/// The path to which a job's log lines are posted.
pub fn agent_log_path(host: &HostName, job: JobId) -> String {
    format!("/v1/agents/{host}/jobs/{job}/log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text() {
        let epoch = "0190b5a2-7c1e-4c3a-9f00-0123456789ab".parse().expect("a uuid");
        let cursor = Cursor { epoch, seq: 42, crc: 0xdead_beef };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
    }

    #[test]
    fn a_strange_cursor_is_refused_and_not_guessed_at() {
        for text in
            ["", "x", "1.2.3", "0190b5a2-7c1e-4c3a-9f00-0123456789ab.1", "0190b5a2-7c1e-4c3a-9f00-0123456789ab.-1.00"]
        {
            assert_eq!(text.parse::<Cursor>(), Err(InvalidCursor), "{text}");
        }
    }

    #[test]
    fn nesting_is_counted_outside_of_texts() {
        let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth)).into_bytes();
        assert!(!is_too_deep(&deep(NESTING_LIMIT)) && is_too_deep(&deep(NESTING_LIMIT + 1)));
        assert!(!is_too_deep(&[deep(NESTING_LIMIT), deep(NESTING_LIMIT)].concat()));
        let in_text = format!(r#"{{"a":"\"{}","b":"\\"}}"#, "[".repeat(100));
        assert!(!is_too_deep(in_text.as_bytes()) && is_too_deep(&[in_text.as_bytes(), &deep(100)].concat()));
    }

    #[test]
    fn versions_meet_at_the_lower_one_and_too_old_is_refused() {
        assert_eq!(negotiate_version(PROTOCOL_VERSION + 5), Some(PROTOCOL_VERSION));
        assert_eq!(negotiate_version(0), None);
    }
}
