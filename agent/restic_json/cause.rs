//! Pure. Why restic failed, as far as a program or a person can do something about it, from the words in which it says so.
//! Does not read exit codes: `ending` does, and asks here where a code does not tell.

use std::fmt;

/// Why a job failed, where it is one of those that a program or a person can do something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Nothing is there; a share that is not mounted looks the same, so no repository is ever made because of it.
    NoRepository,
    Locked,
    WrongPassword,
    /// init found one.
    RepositoryExists,
    Unreachable,
    AccessDenied,
    /// What is there may be read and added to, and not removed.
    AppendOnly,
    NoSpace,
    /// Data of the repository is not what was written, or is gone.
    Damaged,
    /// The agent has stopped it: it did nothing for longer than it may.
    NoProgress,
}

impl Cause {
    /// Whether trying again later may help without anyone doing anything.
    pub(crate) fn is_passing(self) -> bool {
        matches!(self, Self::Locked | Self::Unreachable | Self::NoProgress)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoRepository => {
                "there is no repository here, or its storage is not what it seems: run an init job only if it is new"
            }
            Self::Locked => "another job uses the repository; if none does, run an unlock job; for half an hour another machine's lock counts as live, and only `remove_all` removes it",
            Self::WrongPassword => "the password is wrong, or the repository has lost its keys",
            Self::RepositoryExists => "there is a repository already",
            Self::Unreachable => "the repository's server is out of reach",
            Self::AccessDenied => {
                "access is denied, to the agent's user on this host or to its credentials at the server"
            }
            Self::AppendOnly => {
                "the storage lets this host add data and not remove it (append-only): removing is for the host that [maintenance] of the repository names"
            }
            Self::NoSpace => "there is no space left",
            Self::Damaged => {
                "data in the repository is damaged or gone: \"Troubleshooting\" in restic's manual says what can be saved, and how"
            }
            Self::NoProgress => "is the repository's server or the network stuck?",
        })
    }
}

/// Before 0.17 the exit code is 1 for these too.
pub(crate) fn cause_in_old_text(text: &str) -> Option<Cause> {
    if text.contains("wrong password or no key found") {
        return Some(Cause::WrongPassword);
    }
    if text.contains("repository is already locked") {
        return Some(Cause::Locked);
    }
    let absent = ["no such file or directory", "does not exist", "cannot find the file", "cannot find the path"];
    let no_config = text.contains("unable to open config file") && absent.iter().any(|words| text.contains(words));
    no_config.then_some(Cause::NoRepository)
}

/// What is the same in every version: storage, network and permissions.
pub(crate) fn cause_in_text(text: &str) -> Option<Cause> {
    let text = text.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|words| text.contains(words));
    if says(&["config file already exists"]) {
        return Some(Cause::RepositoryExists);
    }
    if says(&["no space left on device", "insufficient storage", "disk quota exceeded", "not enough space on the disk"])
    {
        return Some(Cause::NoSpace);
    }
    if says(&["401 unauthorized", "403 forbidden", "permission denied", "access denied", "access is denied"]) {
        return Some(Cause::AccessDenied);
    }
    let network = [
        "connection refused",
        "connection reset",
        "connection timed out",
        "network is unreachable",
        "no route to host",
        "no such host",
        "server misbehaving",
        "i/o timeout",
        "tls handshake timeout",
        "dial tcp",
    ];
    if says(&network) {
        return Some(Cause::Unreachable);
    }
    let damage = [
        "repository contains errors",
        "loadindex returned errors",
        "ciphertext verification failed",
        "invalid data returned",
        "packs from index missing in repo",
        "unexpected file size",
    ];
    says(&damage).then_some(Cause::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_locks_networks_and_standstills_are_worth_another_try() {
        for cause in [Cause::Locked, Cause::Unreachable, Cause::NoProgress] {
            assert!(cause.is_passing(), "{cause}");
        }
        for cause in [
            Cause::AppendOnly,
            Cause::NoRepository,
            Cause::WrongPassword,
            Cause::RepositoryExists,
            Cause::AccessDenied,
            Cause::NoSpace,
            Cause::Damaged,
        ] {
            assert!(!cause.is_passing(), "{cause}");
        }
    }

    #[test]
    fn a_server_that_refuses_or_is_away_is_no_missing_repository() {
        for (text, cause) in [
            ("unable to open config file: stat /r/config: no such file or directory", Some(Cause::NoRepository)),
            ("unable to open config file: Stat: The specified key does not exist.", Some(Cause::NoRepository)),
            ("unable to open config file: unexpected HTTP response (401): 401 Unauthorized", None),
            ("unable to open config file: Head: dial tcp 192.0.2.1:80: connect: connection refused", None),
        ] {
            assert_eq!(cause_in_old_text(text), cause, "{text}");
        }
        assert_eq!(cause_in_text("Head: dial tcp: lookup h: no such host"), Some(Cause::Unreachable));
        let two = "ciphertext verification failed; dial tcp 192.0.2.1:80: i/o timeout";
        assert_eq!(cause_in_text(two), Some(Cause::Unreachable), "what looks like damage may be the network's");
        assert_eq!(cause_in_text("something else"), None);
    }
}
