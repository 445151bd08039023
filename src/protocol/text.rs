//! Pure. Values that are text in what people write and on the wire: durations and hashes.
//! Does not know which of them a file or message needs.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A length of time in whole seconds, written as people do: "90s", "30m", "2h 30m", "1d", "2y".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(Duration);

impl Span {
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    pub const fn as_secs(self) -> u64 {
        self.0.as_secs()
    }

    pub const fn duration(self) -> Duration {
        self.0
    }

    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

/// For serde's `skip_serializing_if`: what is as it would be by default is left out.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Whether a text may name a secret of an agent's own (agent.toml's `[secrets.NAME]`).
pub fn is_secret_name(text: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    (1..=63).contains(&text.len()) && text.bytes().all(is_allowed)
}

/// The text is no length of time. `Display` says what to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidSpan(String);

impl fmt::Display for InvalidSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.0.chars().take(40).collect();
        write!(
            f,
            "{shown:?} is not a length of time: write \"90s\", \"30m\", \"2h 30m\", \"1d\" or \"2y\" (whole seconds, at most 100 years)"
        )
    }
}

impl std::error::Error for InvalidSpan {}

/// Longer spans overflow calendars further on.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);

impl FromStr for Span {
    type Err = InvalidSpan;
    fn from_str(text: &str) -> Result<Self, InvalidSpan> {
        let invalid = || InvalidSpan(text.to_owned());
        let duration = humantime::parse_duration(text.trim()).map_err(|_| invalid())?;
        if duration.subsec_nanos() != 0 || duration > LONGEST {
            return Err(invalid());
        }
        Ok(Self(duration))
    }
}

impl TryFrom<String> for Span {
    type Error = InvalidSpan;
    fn try_from(text: String) -> Result<Self, InvalidSpan> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only units that mean the same everywhere; humantime's months and years are averages.
        let mut seconds = self.0.as_secs();
        if seconds == 0 {
            return f.write_str("0s");
        }
        let mut gap = "";
        for (unit, size) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
            if seconds >= size {
                write!(f, "{gap}{}{unit}", seconds / size)?;
                seconds %= size;
                gap = " ";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_survive_their_text() {
        for (text, seconds) in [
            ("90s", 90),
            ("30m", 1800),
            ("2h 30m", 9000),
            ("2h30m", 9000),
            ("1d", 86_400),
            ("0s", 0),
            ("2w", 1_209_600),
        ] {
            let span: Span = text.parse().expect(text);
            assert_eq!(span.as_secs(), seconds, "{text}");
            assert_eq!(span.to_string().parse(), Ok(span), "{text}");
        }
    }

    #[test]
    fn what_is_no_whole_length_of_time_is_refused() {
        for text in ["", "30", "-1m", "1.5s", "500ms", "soon", "99999999999y"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
