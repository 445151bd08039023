//! Pure. Times, sizes and counts as people read them. Scripts have `--json`, where they are as the server gave them.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

/// How times are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Times {
    /// As seen from this instant: "3 h ago".
    From(DateTime<Utc>),
    /// As they are, in UTC: `2026-11-30T02:00:11Z`.
    Utc,
}

impl Times {
    pub(super) fn show(self, at: DateTime<Utc>) -> String {
        match self {
            Self::Utc => utc(at),
            Self::From(now) => relative(at, now),
        }
    }

    /// `-` where there is none.
    pub(super) fn show_if(self, at: Option<DateTime<Utc>>) -> String {
        at.map_or_else(nothing, |at| self.show(at))
    }
}

/// What stands where nothing is known.
pub(super) fn nothing() -> String {
    "-".to_owned()
}

/// In whole seconds, as every program reads it.
pub(super) fn utc(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn relative(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let distance = now - at;
    match distance.num_seconds() {
        -1..=1 => "now".to_owned(),
        ..-1 => format!("in {}", span(-distance)),
        _ => format!("{} ago", span(distance)),
    }
}

/// A length of time in its largest unit that is no less than two of it: "90 s", "3 h", "40 d".
pub(super) fn span(length: TimeDelta) -> String {
    const UNITS: [(&str, i64); 4] = [("y", 365 * 86_400), ("d", 86_400), ("h", 3_600), ("min", 60)];
    let seconds = length.num_seconds().max(0);
    let unit = UNITS.iter().find(|(_, size)| seconds >= 2 * size);
    unit.map_or_else(|| format!("{seconds} s"), |(name, size)| format!("{} {name}", seconds / size))
}

/// Bytes in IEC units, three digits or so: "512 B", "1.5 KiB", "12.3 MiB", "234 GiB".
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    // 1023.95 would be shown as 1024.0.
    while value >= 1023.95 {
        let Some(larger) = units.next() else { break };
        (value, unit) = (value / 1024.0, larger);
    }
    if value < 99.95 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// "1 file", "20 files".
pub(super) fn count(number: u64, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

/// A whole number of percent, for a part of 0 to 1.
pub(super) fn percent(part: f64) -> u8 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
    let percent = (part.clamp(0.0, 1.0) * 100.0) as u8;
    percent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_people_do_on_both_sides_of_now() {
        let now: DateTime<Utc> = "2026-11-30T12:00:00Z".parse().expect("an instant");
        for (seconds, shown) in [
            (0, "now"),
            (1, "now"),
            (2, "2 s ago"),
            (119, "119 s ago"),
            (120, "2 min ago"),
            (3 * 3600 + 59 * 60, "3 h ago"),
            (47 * 3600, "47 h ago"),
            (48 * 3600, "2 d ago"),
            (729 * 86_400, "729 d ago"),
            (800 * 86_400, "2 y ago"),
            (-90, "in 90 s"),
            (-5 * 3600, "in 5 h"),
        ] {
            assert_eq!(Times::From(now).show(now - TimeDelta::seconds(seconds)), shown);
        }
        assert_eq!(Times::Utc.show(now + TimeDelta::milliseconds(700)), "2026-11-30T12:00:00Z");
        assert_eq!(Times::Utc.show_if(None), "-");
        // No clock is too wrong to be shown.
        for extreme in [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC] {
            assert!(Times::From(now).show(extreme).ends_with(if extreme < now { " y ago" } else { " y" }));
        }
    }

    #[test]
    fn sizes_have_three_digits_and_no_unit_is_full() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (102_348, "99.9 KiB"),
            (102_400, "100 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (25_165_824, "24.0 MiB"),
            (5 << 40, "5.0 TiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), shown, "{bytes}");
        }
    }

    #[test]
    fn parts_are_never_more_than_the_whole() {
        assert_eq!([-1.0, 0.0, 0.999, 1.0, 7.0, f64::NAN].map(percent), [0, 0, 99, 100, 100, 0]);
    }
}
