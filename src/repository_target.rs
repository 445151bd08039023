//! Pure. Which of restic's repositories a job is about: one of the configuration's, or one host's part of it where its url has
//! `{host}`. Does not know urls or secrets.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{HostName, InvalidName, RepositoryName};

/// As text: `main`, or `main/web-1` for the part of `main` that is web-1's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryTarget {
    pub repository: RepositoryName,
    /// `None`: all hosts share it.
    pub host: Option<HostName>,
}

impl fmt::Display for RepositoryTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) => write!(f, "{}/{host}", self.repository),
            None => self.repository.fmt(f),
        }
    }
}

impl FromStr for RepositoryTarget {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (repository, host) = match text.split_once('/') {
            Some((repository, host)) => (repository, Some(host.parse()?)),
            None => (text, None),
        };
        Ok(Self { repository: repository.parse()?, host })
    }
}

impl TryFrom<String> for RepositoryTarget {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<RepositoryTarget> for String {
    fn from(target: RepositoryTarget) -> Self {
        target.to_string()
    }
}

/// A repository as something was told of it: under the same name it may be at another place later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownRepository {
    pub name: RepositoryTarget,
    /// SHA-256 of the url, in hex.
    pub url_sha256: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_repository_or_one_hosts_part_of_it_and_nothing_else() {
        for good in ["main", "main/web-1"] {
            assert_eq!(good.parse::<RepositoryTarget>().expect(good).to_string(), good);
        }
        for bad in ["", "/", "main/", "/web-1", "main/web-1/x", "Main", "../x"] {
            assert!(bad.parse::<RepositoryTarget>().is_err(), "{bad:?}");
        }
    }
}
