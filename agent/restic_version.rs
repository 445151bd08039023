//! Pure. Which restic is there, from what `restic version` prints, and what a person is told when it will not do.
//! Does not run it.

use std::fmt;

use serde_json::Value;

/// A released version of restic; development builds count as the release they follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ResticVersion {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) patch: u32,
}

impl ResticVersion {
    /// The oldest restic whose output and flags we know.
    pub(crate) const OLDEST: Self = Self::new(0, 14, 0);

    pub(crate) const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// Reads what `restic version`, with or without `--json`, prints; `None`: this is not restic's.
    pub(crate) fn parse(output: &str) -> Option<Self> {
        output.lines().find_map(|line| Self::from_json(line).or_else(|| Self::from_text(line)))
    }

    fn from_json(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line).ok()?;
        if value.get("message_type")?.as_str()? != "version" {
            return None;
        }
        Self::from_number(value.get("version")?.as_str()?)
    }

    fn from_text(line: &str) -> Option<Self> {
        Self::from_number(line.trim_start().strip_prefix("restic ")?.split_whitespace().next()?)
    }

    /// "0.17.3", "0.17.3-dev".
    fn from_number(text: &str) -> Option<Self> {
        let release = text.split(['-', '+']).next()?;
        let mut parts = release.split('.').map(str::parse);
        let version = Self::new(parts.next()?.ok()?, parts.next()?.ok()?, parts.next().unwrap_or(Ok(0)).ok()?);
        parts.next().is_none().then_some(version)
    }

    /// Knows `--retry-lock`.
    pub(crate) fn has_retry_lock(self) -> bool {
        self >= Self::new(0, 16, 0)
    }

    /// Knows `--exclude-cloud-files`.
    pub(crate) fn can_exclude_cloud_files(self) -> bool {
        self >= Self::new(0, 18, 0)
    }

    /// Knows `--overwrite` of restore.
    pub(crate) fn has_overwrite(self) -> bool {
        self >= Self::new(0, 17, 0)
    }

    /// Knows `ID:/folder`.
    pub(crate) fn has_subfolders(self) -> bool {
        self >= Self::new(0, 16, 0)
    }

    /// Says with exit codes of their own that there is no repository, that it is locked and that the password is wrong.
    pub(crate) fn has_distinct_exit_codes(self) -> bool {
        self >= Self::new(0, 17, 0)
    }

    /// The version, if it is one that we run; the error says what to do.
    pub(crate) fn supported(self) -> Result<Self, String> {
        if self >= Self::OLDEST {
            return Ok(self);
        }
        Err(format!("restic {self} is too old: {} or newer is needed; {INSTALL}", Self::OLDEST))
    }
}

const INSTALL: &str =
    "install one with `apt-get install restic`, or name a newer program in agent.toml (`restic = \"...\"`)";

/// What to tell a person when `program` does not run or does not answer as restic does.
pub(crate) fn missing(program: &str, cause: &str) -> String {
    format!("no restic runs as {program:?} ({cause}): {INSTALL}")
}

impl fmt::Display for ResticVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_text_and_json() {
        for (output, version) in [
            ("restic 0.14.0 compiled with go1.19.8 on linux/amd64\n", ResticVersion::new(0, 14, 0)),
            ("restic 0.17.3-dev (compiled manually) compiled with go1.23 on linux/amd64", ResticVersion::new(0, 17, 3)),
            (
                "{\"message_type\":\"version\",\"version\":\"0.19.1\",\"go_os\":\"linux\"}\n",
                ResticVersion::new(0, 19, 1),
            ),
            ("some warning\nrestic 1.2 compiled with go", ResticVersion::new(1, 2, 0)),
        ] {
            assert_eq!(ResticVersion::parse(output), Some(version), "{output}");
        }
    }

    #[test]
    fn what_is_not_restics_is_no_version() {
        for output in
            ["", "borg 1.2.3", "restic", "restic one.two", "restic 0.14.0.1 compiled", "{\"version\":\"0.18.0\"}"]
        {
            assert_eq!(ResticVersion::parse(output), None, "{output}");
        }
    }

    #[test]
    fn a_version_that_is_too_old_or_missing_is_told_with_the_command_that_helps() {
        assert!(ResticVersion::new(0, 14, 0).supported().is_ok());
        let error = ResticVersion::new(0, 12, 1).supported().expect_err("too old");
        assert!(error.contains("0.12.1") && error.contains("0.14.0") && error.contains("apt-get install restic"));
        assert!(missing("restic", "no such file").contains("apt-get install restic"));
    }

    #[test]
    fn versions_compare_by_number_and_not_by_text() {
        assert!(!ResticVersion::new(0, 9, 9).has_retry_lock());
        assert!(ResticVersion::new(0, 16, 0).has_retry_lock());
        assert!(!ResticVersion::new(0, 16, 5).has_distinct_exit_codes());
        assert!(ResticVersion::new(0, 18, 0).has_distinct_exit_codes());
    }
}
