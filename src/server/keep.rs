//! Pure. How long history and logs are kept, and from when on they are compressed. Does not look at files.

use chrono::{DateTime, TimeDelta, Utc};

use crate::protocol::text::Span;

/// `[history]` of server.toml.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepRules {
    /// Segments whose newest line is older than this go.
    pub keep: Span,
    /// Logs of finished jobs that were not written to for longer than this go.
    pub logs_keep: Span,
    /// Both are compressed from this age on; `None`: never.
    pub compress_after: Option<Span>,
}

impl KeepRules {
    pub fn delete_before(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        before(now, self.keep)
    }

    pub fn compress_before(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.compress_after.map(|span| before(now, span))
    }
}

fn before(now: DateTime<Utc>, span: Span) -> DateTime<Utc> {
    let seconds = i64::try_from(span.as_secs()).ok().and_then(TimeDelta::try_seconds);
    seconds.and_then(|seconds| now.checked_sub_signed(seconds)).unwrap_or(DateTime::<Utc>::MIN_UTC)
}

/// How many of the oldest segments hold only lines from before `cutoff`. `begins`: when each began, oldest first; `None` where
/// its first line is damaged. A segment's lines are older than the next one's first; the newest never counts, and the
/// segment after the last that counts carries the state.
pub fn segments_before(begins: &[Option<DateTime<Utc>>], cutoff: DateTime<Utc>) -> usize {
    begins.iter().rposition(|at| at.is_some_and(|at| at < cutoff)).unwrap_or(0)
}

/// What to do with a job's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogDeed {
    Leave,
    Compress,
    Delete,
}

/// A log that was last written to at `written`.
pub fn log_deed(
    rules: &KeepRules,
    now: DateTime<Utc>,
    written: DateTime<Utc>,
    is_unfinished: bool,
    is_compressed: bool,
) -> LogDeed {
    if is_unfinished {
        LogDeed::Leave
    } else if written < before(now, rules.logs_keep) {
        LogDeed::Delete
    } else if !is_compressed && rules.compress_before(now).is_some_and(|cutoff| written < cutoff) {
        LogDeed::Compress
    } else {
        LogDeed::Leave
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::folded::{at, noon};

    const DAY: u64 = 86_400;

    fn rules(compress_after: Option<u64>) -> KeepRules {
        let span = |days| Span::from_secs(days * DAY);
        KeepRules { keep: span(730), logs_keep: span(90), compress_after: compress_after.map(span) }
    }

    #[test]
    fn a_segment_is_old_when_a_later_one_began_before_the_cutoff() {
        let cutoff = at("2026-03-01T00:00:00Z");
        let (january, february, march) =
            (Some(at("2026-01-01T00:00:00Z")), Some(at("2026-02-01T00:00:00Z")), Some(at("2026-03-02T00:00:00Z")));
        let rows: [(&[Option<DateTime<Utc>>], usize); 6] = [
            (&[], 0),
            (&[january], 0),
            (&[january, february], 1),
            (&[january, february, march], 1),
            (&[january, None, march], 0),
            (&[None, None, february], 2),
        ];
        for (begins, expected) in rows {
            assert_eq!(segments_before(begins, cutoff), expected, "{begins:?}");
        }
    }

    #[test]
    fn a_log_is_compressed_then_deleted_and_a_running_jobs_left_alone() {
        let days_ago = |days: i64| noon() - TimeDelta::days(days);
        let rows = [
            (Some(30), days_ago(29), false, false, LogDeed::Leave),
            (Some(30), days_ago(31), false, false, LogDeed::Compress),
            (Some(30), days_ago(31), false, true, LogDeed::Leave),
            (Some(30), days_ago(91), false, true, LogDeed::Delete),
            (Some(30), days_ago(91), true, false, LogDeed::Leave),
            (None, days_ago(31), false, false, LogDeed::Leave),
            (None, days_ago(91), false, false, LogDeed::Delete),
        ];
        for (after, written, unfinished, compressed, expected) in rows {
            let deed = log_deed(&rules(after), noon(), written, unfinished, compressed);
            assert_eq!(deed, expected, "{after:?} {written} {unfinished} {compressed}");
        }
    }

    #[test]
    fn the_longest_span_is_before_everything() {
        let rules = KeepRules { keep: Span::from_secs(u64::MAX), ..rules(None) };
        assert!(rules.delete_before(noon()) < at("0001-01-01T00:00:00Z"));
    }
}
