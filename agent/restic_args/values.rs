//! Pure. The shapes of what a job may hand to restic: each function returns the value unchanged or says why not.

use crate::host_path::HostPath;
use crate::restic_args::Refusal;

/// Text that is some flag's value: not empty (restic would take it for "none" or for "all") and without NUL, which no
/// program's arguments can have.
pub(crate) fn text<'a>(what: &str, value: &'a str) -> Result<&'a str, Refusal> {
    if value.is_empty() {
        return Err(Refusal::new(format!("{what} is empty")));
    }
    if value.contains('\0') {
        return Err(Refusal::new(format!("{what} {value:?} has a NUL character")));
    }
    Ok(value)
}

/// A tag. A comma would make it two, and the prefixes are those by which retention finds a schedule's snapshots.
pub(crate) fn tag<'a>(what: &str, value: &'a str) -> Result<&'a str, Refusal> {
    let value = text(what, value)?;
    if value.contains(',') {
        return Err(Refusal::new(format!("{what} {value:?} has a comma, which restic reads as two tags")));
    }
    Ok(value)
}

/// A tag of the operator's own choice.
pub(crate) fn own_tag(value: &str) -> Result<&str, Refusal> {
    let value = tag("the tag", value)?;
    if ["schedule:", "job:"].iter().any(|prefix| value.trim_start().starts_with(prefix)) {
        return Err(Refusal::new(format!(
            "the tag {value:?} looks like one of the agent's own, by which retention works"
        )));
    }
    Ok(value)
}

/// An absolute path.
pub(crate) fn path<'a>(what: &str, value: &'a str) -> Result<&'a str, Refusal> {
    HostPath::parse(value).map_err(|error| Refusal::new(format!("{what} {value:?} {error}")))?;
    Ok(value)
}

/// A path as snapshots have them, with '/' on every system.
pub(crate) fn path_in_snapshot(value: &str) -> Result<&str, Refusal> {
    let value = text("the path", value)?;
    if !value.starts_with('/') {
        return Err(Refusal::new(format!("the path {value:?} does not begin with '/': write it as `ls` shows it")));
    }
    Ok(value)
}

/// The pattern that fits this path of a snapshot and no other. A name that is not UTF-8 is shown with U+FFFD in place of each byte
/// that is none, and restic matches such a byte with `?`.
pub(crate) fn literal(path: &str) -> String {
    let mut pattern = String::with_capacity(path.len());
    for letter in path.chars() {
        match letter {
            '*' | '?' | '[' => pattern.extend(['[', letter, ']']),
            // No letter of a name on Windows, where it would be a separator.
            '\\' => pattern.push_str("\\\\"),
            char::REPLACEMENT_CHARACTER => pattern.push('?'),
            _ => pattern.push(letter),
        }
    }
    pattern
}

/// A snapshot's id or "latest".
pub(crate) fn snapshot(value: &str) -> Result<&str, Refusal> {
    let is_id = (8..=64).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id || value == "latest" {
        return Ok(value);
    }
    Err(Refusal::new(format!("{value:?} is no snapshot: write \"latest\" or 8 to 64 hexadecimal digits of its id")))
}

/// "100M", "2G", "512".
pub(crate) fn size<'a>(what: &str, value: &'a str) -> Result<&'a str, Refusal> {
    if is_size(value) {
        return Ok(value);
    }
    Err(Refusal::new(format!("{what} = {value:?} is no size: write for example \"100M\" or \"2G\" (K, M, G, T)")))
}

fn is_size(value: &str) -> bool {
    let digits = value.strip_suffix(['k', 'K', 'm', 'M', 'g', 'G', 't', 'T']).unwrap_or(value);
    is_number(digits, 1..=1 << 22) || (digits == value && is_number(digits, 0..=1 << 62))
}

fn is_number(digits: &str, range: std::ops::RangeInclusive<u64>) -> bool {
    digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse().is_ok_and(|number| range.contains(&number))
}

/// "5%", "2.5%".
fn percentage(value: &str) -> Option<f64> {
    let digits = value.strip_suffix('%')?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && digits.len() <= 8;
    digits.parse().ok().filter(|_| plain)
}

/// prune's `max_unused`: "10%", "5G", "unlimited".
pub(crate) fn max_unused(value: &str) -> Result<&str, Refusal> {
    if value == "unlimited" || is_size(value) || percentage(value).is_some_and(|share| share < 100.0) {
        return Ok(value);
    }
    Err(Refusal::new(format!(
        "max_unused = {value:?}: write for example \"10%\" (less than 100%), \"5G\" or \"unlimited\""
    )))
}

/// check's `read_data_subset`: "1/12", "5%", "2G". "rolling/12" is for the server, which knows whose turn it is.
pub(crate) fn read_data_subset(value: &str) -> Result<&str, Refusal> {
    let is_part = value.split_once('/').is_some_and(|(part, parts)| {
        is_number(parts, 1..=256) && parts.parse().is_ok_and(|parts: u64| is_number(part, 1..=parts))
    });
    let is_share = percentage(value).is_some_and(|share| share > 0.0 && share <= 100.0);
    if is_part || is_share || (is_size(value) && value.bytes().any(|byte| (b'1'..=b'9').contains(&byte))) {
        return Ok(value);
    }
    Err(Refusal::new(format!(
        "read_data_subset = {value:?}: write for example \"1/12\" (to 256 parts), \"5%\" or \"2G\""
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(shape: fn(&str) -> Result<&str, Refusal>, good: &[&str], bad: &[&str]) {
        for value in good {
            assert_eq!(shape(value), Ok(*value));
        }
        for value in bad {
            assert!(shape(value).is_err(), "{value:?}");
        }
    }

    #[test]
    fn sizes_are_numbers_with_a_unit() {
        check(
            |v| size("x", v),
            &["0", "512", "100M", "2g", "1T", "64K"],
            &["", "M", "-1", "1.5G", "1P", "1 M", "M1", "+1M", "99999999999999999999", "9999999999T"],
        );
    }

    #[test]
    fn unused_data_is_a_share_or_a_size() {
        check(
            max_unused,
            &["10%", "0%", "2.5%", "5G", "0", "unlimited"],
            &["", "100%", "-1%", "%", "lots", "1e1%", "inf%", "NaN%", "1/2"],
        );
    }

    #[test]
    fn subsets_are_a_part_a_share_or_a_size() {
        check(
            read_data_subset,
            &["1/12", "12/12", "256/256", "5%", "100%", "0.1%", "2G", "500"],
            &[
                "",
                "0/12",
                "13/12",
                "9/2",
                "1/257",
                "1/",
                "/2",
                "1/2/3",
                "0%",
                "101%",
                "0",
                "rolling/12",
                "-1/2",
                "+1/2",
            ],
        );
    }

    #[test]
    fn snapshots_are_ids_or_the_latest() {
        check(
            snapshot,
            &["latest", "deadbeef", &"a".repeat(64), "DEADBEEF"],
            &["", "deadbee", "deadbeeg", "--target", "-", "latest:/etc", "deadbeef:/etc", &"a".repeat(65)],
        );
    }

    #[test]
    fn tags_that_would_be_two_or_retentions_own_are_refused() {
        check(
            own_tag,
            &["linux", "a b", "-x", "rejob:1"],
            &["", "a,b", ",", "schedule:system", "job:1", " schedule:x", "a\0b"],
        );
    }
}
