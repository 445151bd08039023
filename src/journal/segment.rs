//! Pure. The names of a journal's segments, and the carry: what a segment's first line brings from before,
//! so that the newest segment alone is enough to start up. Does no I/O.

use std::fmt;

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::line::Line;

/// `2026-11.jsonl`, then `2026-11-002.jsonl` when the first of the month is full or sealed. Sorts by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    year: i32,
    month: u32,
    part: u32,
}

impl SegmentName {
    /// The first segment of the month.
    pub fn of_month(at: DateTime<Utc>) -> Self {
        Self { year: at.year(), month: at.month(), part: 1 }
    }

    /// The name after `self` for a segment begun at `at`. A clock that went back stays in the later month.
    pub fn successor(self, at: DateTime<Utc>) -> Self {
        Self::of_month(at).max(Self { part: self.part + 1, ..self })
    }

    /// The names that the next segment may have by now, were there one. `None`: the month is over, and it may be of any since.
    pub fn possible_successors(self, now: DateTime<Utc>) -> Option<[Self; 2]> {
        // The process that opens it may have a clock that is a little ahead.
        let soon = Self::of_month(now + TimeDelta::hours(1));
        (!self.is_before_month_of(now)).then(|| [Self { part: self.part + 1, ..self }, self.max(soon)])
    }

    pub fn is_before_month_of(self, at: DateTime<Utc>) -> bool {
        (self.year, self.month) < (at.year(), at.month())
    }

    /// Reads a file name; `None` for files that are no segments (`.lock`, `*.damaged`, compressed ones).
    pub fn parse(file_name: &str) -> Option<Self> {
        let mut parts = file_name.strip_suffix(".jsonl")?.split('-');
        let year = parts.next()?.parse().ok()?;
        let month = parts.next()?.parse().ok()?;
        let part = match parts.next() {
            Some(part) => part.parse().ok()?,
            None => 1,
        };
        let name = Self { year, month, part };
        (name.to_string() == file_name).then_some(name)
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)?;
        if self.part > 1 {
            write!(f, "-{:03}", self.part)?;
        }
        f.write_str(".jsonl")
    }
}

/// The type of every segment's first line.
pub const OPENED: &str = "segment.opened";

/// Whether the line is the journal's own; an agent may send an event of that type, which means nothing.
pub fn is_opening(line: &Line) -> bool {
    line.kind == OPENED && line.stream.is_none()
}

/// Where the segment before ended. Bytes after this were never acknowledged (their fsync failed) and do not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousSegment {
    pub segment: String,
    pub bytes: u64,
    pub seq: u64,
}

/// The payload of a segment's first line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Carry<S> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<PreviousSegment>,
    pub state: S,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_by_time_and_survive_their_text() {
        let november = SegmentName::of_month("2026-11-23T00:00:00Z".parse().expect("an instant"));
        let second = november.successor("2026-11-24T00:00:00Z".parse().expect("an instant"));
        let december = second.successor("2026-12-01T00:00:00Z".parse().expect("an instant"));
        assert!(november < second && second < december);
        let names = [november, second, december].map(|n| n.to_string());
        assert_eq!(names, ["2026-11.jsonl", "2026-11-002.jsonl", "2026-12.jsonl"]);
        for (name, text) in [november, second, december].iter().zip(&names) {
            assert_eq!(SegmentName::parse(text), Some(*name));
        }
    }

    #[test]
    fn a_clock_that_went_back_never_makes_an_earlier_name() {
        let december = SegmentName::of_month("2026-12-01T00:00:00Z".parse().expect("an instant"));
        assert!(december.successor("2026-10-01T00:00:00Z".parse().expect("an instant")) > december);
    }

    #[test]
    fn other_files_are_no_segments() {
        for name in
            [".lock", "2026-11.jsonl.damaged", "2026-11.jsonl.zst", "2026-1.jsonl", "x.jsonl", "2026-11-001.jsonl"]
        {
            assert_eq!(SegmentName::parse(name), None, "{name}");
        }
    }
}
