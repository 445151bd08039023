//! Pure. Sizes, spans and instants as people read them. All instants are UTC, which each page says.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use super::html::{El, el};

/// `12.0 GiB`; exact below 1 KiB.
#[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut amount = count as f64 / 1024.0;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        // What would be shown as 1024 is shown as 1 of the next.
        if amount < 1023.95 {
            break;
        }
        amount /= 1024.0;
        unit = larger;
    }
    if amount < 99.95 { format!("{amount:.1} {unit}") } else { format!("{amount:.0} {unit}") }
}

/// Digits in threes: `1 234 567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push('\u{202f}');
        }
        shown.push(digit);
    }
    shown
}

/// The two largest units of a span: `3 d 4 h`, `41 s`. Negative ones are none.
pub fn span(span: TimeDelta) -> String {
    let seconds = span.num_seconds().max(0);
    let (large, small) = match seconds {
        0..60 => return format!("{seconds} s"),
        60..3600 => ((seconds / 60, "min"), (seconds % 60, "s")),
        3600..86_400 => ((seconds / 3600, "h"), (seconds % 3600 / 60, "min")),
        _ => ((seconds / 86_400, "d"), (seconds % 86_400 / 3600, "h")),
    };
    match (large, small) {
        ((count, unit), (0, _)) => format!("{count} {unit}"),
        // Of long spans the hours are nobody's concern.
        ((count, unit), _) if unit == "d" && count > 9 => format!("{count} {unit}"),
        ((count, unit), (rest, small)) => format!("{count} {unit} {rest} {small}"),
    }
}

/// How long ago, or until when: one unit.
pub fn away(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let distance = (now - at).abs();
    let one = match distance.num_seconds() {
        0..5 => return "now".to_owned(),
        seconds @ 5..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min", seconds / 60),
        seconds @ 3600..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    };
    if at <= now { format!("{one} ago") } else { format!("in {one}") }
}

/// `2026-12-01 02:15:07`.
pub fn second(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}

/// An instant: how far away, and when.
pub fn instant(at: DateTime<Utc>, now: DateTime<Utc>) -> El {
    let exact = at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let when = el("small").with(at.format(" %Y-%m-%d %H:%M").to_string());
    el("time").attr("datetime", exact).with(away(at, now)).with(when)
}

/// The first of a commit's digits.
pub fn commit(hash: &str) -> String {
    hash.chars().take(10).collect()
}

/// Text that a list has no room for is cut, and says so.
pub fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_with_three_digits_at_most() {
        for (size, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (12_884_901_888, "12.0 GiB"),
            (858_993_459_200, "800 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(size), text);
        }
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!((count(0), count(999)), ("0".to_owned(), "999".to_owned()));
    }

    #[test]
    fn spans_have_two_units_and_distances_one() {
        for (seconds, text) in [(-5, "0 s"), (41, "41 s"), (60, "1 min"), (185, "3 min 5 s"), (7800, "2 h 10 min")] {
            assert_eq!(span(TimeDelta::seconds(seconds)), text);
        }
        assert_eq!(span(TimeDelta::hours(76)), "3 d 4 h");
        assert_eq!(span(TimeDelta::hours(24 * 40 + 3)), "40 d");
        let now: DateTime<Utc> = "2026-12-01T12:00:00Z".parse().expect("an instant");
        for (seconds, text) in
            [(0, "now"), (50, "50 s ago"), (-90, "in 1 min"), (90_000, "25 h ago"), (200_000, "2 days ago")]
        {
            assert_eq!(away(now - TimeDelta::seconds(seconds), now), text);
        }
        assert_eq!(cut("grün", 3), "grü…");
        assert_eq!(cut("grün", 4), "grün");
    }
}
