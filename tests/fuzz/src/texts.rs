//! Small texts with a meaning: cron expressions, lengths of time, cursors, tokens, patterns, paths, URLs.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use restic_manager::cron_time::CronExpression;
use restic_manager::id::{HostName, ScheduleId};
use restic_manager::mask::{mask_secrets, mask_url};
use restic_manager::protocol::Cursor;
use restic_manager::protocol::text::Span;
use restic_manager::server::access::presented_token;
use restic_manager::wildcard::matches;

use crate::host_path::HostPath;
use crate::noon;
use crate::repository_url::{hazard, pattern_names, with_credentials, without_credentials};

/// A cron expression, and when it is due next in zones with strange clocks.
pub fn cron(data: &[u8]) {
    let Some((seed, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let Ok(expression) = CronExpression::parse(text) else { return };
    let zones = [Tz::UTC, Tz::Europe__Berlin, Tz::Australia__Lord_Howe, Tz::America__St_Johns, Tz::Pacific__Apia];
    let zone = zones[usize::from(*seed) % zones.len()];
    let start = noon() + chrono::TimeDelta::hours(i64::from(*seed) * 37);
    for after in [start, DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC, DateTime::UNIX_EPOCH] {
        if let Some(next) = expression.next_after(zone, after) {
            assert!(next > after, "it goes on");
            let latest = expression.latest_in(zone, after, next);
            assert!(latest.is_none_or(|latest| latest > after && latest <= next));
        }
    }
}

/// By the first byte: a length of time, a cursor, a token's header, a pattern, a path, a URL, a name.
pub fn texts(data: &[u8]) {
    let Some((mode, data)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(data);
    let (first, second) = text.split_once('\n').unwrap_or((&text, ""));
    match mode % 7 {
        0 => {
            if let Ok(span) = text.parse::<Span>() {
                assert_eq!(span.to_string().parse(), Ok(span));
            }
        }
        1 => {
            if let Ok(cursor) = text.parse::<Cursor>() {
                assert_eq!(cursor.to_string().parse(), Ok(cursor));
            }
        }
        2 => {
            let _ = (presented_token(Some(first), None), presented_token(Some(first), Some(second)));
        }
        3 => {
            let _ = (matches(first, second), pattern_names(first, second));
        }
        4 => {
            if let Ok(path) = HostPath::parse(&text) {
                assert!(path.is_within(&HostPath::parse("/").expect("a path")) && !text.split('/').any(|p| p == ".."));
            }
        }
        5 => {
            let _ = (hazard(&text), without_credentials(&text), mask_url(&text));
            // ssh's user is part of the place.
            if let (false, Ok(url)) = (first.starts_with("sftp:"), with_credentials(first, "user", Some(second))) {
                assert_eq!(without_credentials(&url), without_credentials(first), "they go into their place only");
            }
            let masked = mask_secrets(first, &[second]);
            // Shorter ones are hidden only where they stand alone, and asterisks hide nothing.
            let is_plain = second.len() >= 4 && second.bytes().all(|byte| byte.is_ascii_alphanumeric());
            assert!(!is_plain || !masked.contains(second), "the secret is gone");
        }
        _ => {
            let _ = (text.parse::<HostName>(), text.parse::<ScheduleId>());
        }
    }
}
