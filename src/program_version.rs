//! Pure. Versions of our own programs, and which of two is the older one, by the precedence of Semantic Versioning. Does not know
//! which version is wanted.

use std::cmp::Ordering;
use std::str::FromStr;

/// `1.2.0`, `1.2`, `1.2.0-rc.1`; what follows a `+` says how it was built and not how old it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramVersion {
    /// Without zeros at the end, so that 1.2 is 1.2.0.
    numbers: Vec<u64>,
    /// Of a version before the one that the numbers name; empty: that one itself.
    pre_release: Vec<Part>,
}

/// In the order of precedence: numbers are below words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(u64),
    Word(String),
}

/// The text is no version that could be compared with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidVersion;

/// Longer texts are no versions of programs.
const LONGEST_BYTES: usize = 64;

/// Whether a program of the first version is older than one of the second; `None`: one of the two cannot be compared.
pub fn is_older(version: &str, than: &str) -> Option<bool> {
    let (version, than): (ProgramVersion, ProgramVersion) = (version.parse().ok()?, than.parse().ok()?);
    Some(version < than)
}

impl FromStr for ProgramVersion {
    type Err = InvalidVersion;
    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        if text.len() > LONGEST_BYTES {
            return Err(InvalidVersion);
        }
        let is_plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
        if build.is_some_and(|build| !build.split('.').all(is_plain)) {
            return Err(InvalidVersion);
        }
        let (numbers, pre_release) = text.split_once('-').map_or((text, None), |(start, rest)| (start, Some(rest)));
        let mut numbers = numbers.split('.').map(number).collect::<Option<Vec<u64>>>().ok_or(InvalidVersion)?;
        while numbers.last() == Some(&0) {
            numbers.pop();
        }
        let part =
            |part: &str| is_plain(part).then(|| number(part).map_or_else(|| Part::Word(part.to_owned()), Part::Number));
        let pre_release = match pre_release {
            None => Vec::new(),
            Some(parts) => parts.split('.').map(part).collect::<Option<Vec<Part>>>().ok_or(InvalidVersion)?,
        };
        Ok(Self { numbers, pre_release })
    }
}

fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

impl Ord for ProgramVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        let pre_releases = || match (self.pre_release.is_empty(), other.pre_release.is_empty()) {
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            _ => self.pre_release.cmp(&other.pre_release),
        };
        self.numbers.cmp(&other.numbers).then_with(pre_releases)
    }
}

impl PartialOrd for ProgramVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_their_numbers_and_what_leads_to_a_release_is_before_it() {
        let ordered = [
            "0",
            "0.1.0",
            "0.9",
            "0.10.0",
            "1.0.0-1",
            "1.0.0-2",
            "1.0.0-10",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-beta",
            "1.0.0-rc.1",
            "1.0.0",
            "1.0.1",
            "1.2",
            "1.2.0.1",
            "10.0.0",
        ];
        for (place, first) in ordered.iter().enumerate() {
            for (other, second) in ordered.iter().enumerate() {
                assert_eq!(is_older(first, second), Some(place < other), "{first} and {second}");
            }
        }
        for (first, second) in [("1.2", "1.2.0"), ("1.2.0+abc.7", "1.2.0"), ("0.0", "0")] {
            assert_eq!((is_older(first, second), is_older(second, first)), (Some(false), Some(false)), "{first}");
        }
    }

    #[test]
    fn what_cannot_be_compared_is_not_guessed_at() {
        let long = "1".repeat(LONGEST_BYTES + 1);
        for odd in ["", "shell", "v1.2.0", "1.", "1..2", "-1", "1.2 ", "1.2-", "1.2+", "1.2-a..b", "+1", "1.é", &long]
        {
            assert_eq!(odd.parse::<ProgramVersion>(), Err(InvalidVersion), "{odd}");
            assert_eq!((is_older(odd, "1.2.0"), is_older("1.2.0", odd)), (None, None), "{odd}");
        }
        assert_eq!(is_older("18446744073709551616", "1"), None, "larger than any number that we know");
    }
}
