//! Edge. What lets agents in: enrollment tokens (hashes, one file each) and each host's credential file.
//! Does not decide who may enroll: `decide_enroll` does, in the host's journal.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::access::{same_hash, sha256_hex};
use crate::atomic_file;
use crate::file_error::FileError;
use crate::id::HostName;

/// An open enrollment token: `enrollments/<sha256 of the token>.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EnrollmentToken {
    pub host: HostName,
    pub expires_at: DateTime<Utc>,
}

/// `hosts/<host>/credential.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialFile {
    /// SHA-256 of each credential that is valid, in hex: the present one, and the next one where the agent has named one.
    pub sha256: Vec<String>,
}

/// Which of a host's credentials it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Present,
    /// Named by the agent and not used yet: with its first use it becomes the present one.
    Next,
}

fn token_path(dir: &Path, token_sha256: &str) -> PathBuf {
    dir.join(format!("{token_sha256}.json"))
}

/// Keeps a new token's hash.
pub fn keep_token(dir: &Path, token: &str, kept: &EnrollmentToken) -> Result<(), FileError> {
    // Text and a time always have a JSON form.
    let bytes = serde_json::to_vec(kept).unwrap_or_default();
    atomic_file::replace(&token_path(dir, &sha256_hex(token.as_bytes())), &bytes)
}

/// The token with this hash, if it was made here and not removed since. Expired ones are returned: the caller tells.
pub fn find_token(dir: &Path, token_sha256: &str) -> Result<Option<EnrollmentToken>, FileError> {
    read_json(&token_path(dir, token_sha256))
}

/// Removes the open tokens for this host: whoever holds one must not bring back what was just revoked.
pub fn remove_tokens_of(dir: &Path, host: &HostName) -> Result<(), FileError> {
    remove_where(dir, |token| token.host == *host)
}

/// Removes tokens that expired before this. Reads every open one: not for each request.
pub fn remove_expired(dir: &Path, before: DateTime<Utc>) -> Result<(), FileError> {
    remove_where(dir, |token| token.expires_at < before)
}

fn remove_where(dir: &Path, goes: impl Fn(&EnrollmentToken) -> bool) -> Result<(), FileError> {
    for entry in std::fs::read_dir(dir).map_err(FileError::of("list", dir))? {
        let path = entry.map_err(FileError::of("list", dir))?.path();
        // Others may be writing tokens at this moment, under names of their own.
        let is_token = path.extension().is_some_and(|extension| extension == "json");
        if is_token && read_json::<EnrollmentToken>(&path)?.is_some_and(|token| goes(&token)) {
            atomic_file::remove(&path)?;
        }
    }
    Ok(())
}

fn credential_path(host_dir: &Path) -> PathBuf {
    host_dir.join("credential.json")
}

/// From now on exactly this credential is the host's. This and whatever else changes the file runs within the host's batch.
pub fn set_credential(host_dir: &Path, sha256: &str) -> Result<(), FileError> {
    keep(host_dir, vec![sha256.to_owned()])
}

fn keep(host_dir: &Path, sha256: Vec<String>) -> Result<(), FileError> {
    // A list of texts always has a JSON form.
    let bytes = serde_json::to_vec(&CredentialFile { sha256 }).unwrap_or_default();
    atomic_file::replace(&credential_path(host_dir), &bytes)
}

/// The host's agent is let in no more.
pub fn revoke(host_dir: &Path) -> Result<(), FileError> {
    atomic_file::remove(&credential_path(host_dir))
}

/// Whether the credential with this hash (hex of its SHA-256) is the host's, and which. Reads the file, which is what counts
/// on every server.
pub fn standing(host_dir: &Path, sha256: &str) -> Result<Option<Standing>, FileError> {
    let file: Option<CredentialFile> = read_json(&credential_path(host_dir))?;
    let mut found = None;
    for (place, kept) in file.iter().flat_map(|file| &file.sha256).enumerate() {
        if same_hash(kept, sha256) {
            found = Some(if place == 0 { Standing::Present } else { Standing::Next });
        }
    }
    Ok(found)
}

/// What became of naming the next credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// It is the next one from now on; one that was named before is forgotten.
    New,
    /// It was before: the next one, or the present one already.
    Before,
    /// The presented credential is not the host's any more.
    NotAllowed,
}

/// The agent with this present credential names its next one; both are hashes.
pub fn name_next(host_dir: &Path, presented: &str, next: &str) -> Result<Named, FileError> {
    if standing(host_dir, presented)? != Some(Standing::Present) {
        return Ok(Named::NotAllowed);
    }
    if standing(host_dir, next)?.is_some() {
        return Ok(Named::Before);
    }
    keep(host_dir, vec![presented.to_owned(), next.to_owned()])?;
    Ok(Named::New)
}

/// The next credential was used: from now on it is the only one. Returns `false` if it is the next one no more.
pub fn use_next(host_dir: &Path, sha256: &str) -> Result<bool, FileError> {
    let is_next = standing(host_dir, sha256)? == Some(Standing::Next);
    if is_next {
        set_credential(host_dir, sha256)?;
    }
    Ok(is_next)
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, FileError> {
    match std::fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map(Some).map_err(|error| FileError::of("read", path)(error.into()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::of("read", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the host's credentials of these names are.
    fn standings(dir: &Path, names: &[&str]) -> Vec<Option<Standing>> {
        names.iter().map(|name| standing(dir, &sha256_hex(name.as_bytes())).expect("read")).collect()
    }

    #[test]
    fn a_credential_is_valid_until_it_is_revoked() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(standings(dir.path(), &["rma_x"]), [None]);
        set_credential(dir.path(), &sha256_hex(b"rma_x")).expect("set");
        assert_eq!(standings(dir.path(), &["rma_x", "rma_y"]), [Some(Standing::Present), None]);
        revoke(dir.path()).expect("revoke");
        assert_eq!(standings(dir.path(), &["rma_x"]), [None]);
    }

    #[test]
    fn the_next_credential_counts_beside_the_present_one_until_it_is_used() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let dir = dir.path();
        let hash = |name: &str| sha256_hex(name.as_bytes());
        let name = |present: &str, next: &str| name_next(dir, &hash(present), &hash(next)).expect("named");
        assert_eq!(name("one", "two"), Named::NotAllowed, "there is none");
        set_credential(dir, &hash("one")).expect("set");
        assert_eq!((name("two", "three"), name("one", "one")), (Named::NotAllowed, Named::Before));
        assert_eq!((name("one", "two"), name("one", "two")), (Named::New, Named::Before));
        let (present, next) = (Some(Standing::Present), Some(Standing::Next));
        assert_eq!(standings(dir, &["one", "two"]), [present, next]);
        assert_eq!(name("one", "three"), Named::New);
        assert_eq!(standings(dir, &["one", "two", "three"]), [present, None, next]);
        assert_eq!(name("three", "four"), Named::NotAllowed, "its first use comes first");
        assert!(use_next(dir, &hash("three")).expect("used") && !use_next(dir, &hash("three")).expect("used"));
        assert_eq!(standings(dir, &["one", "two", "three"]), [None, None, present]);
        assert_eq!(name("three", "four"), Named::New);
        revoke(dir).expect("revoked");
        assert_eq!(standings(dir, &["three", "four"]), [None, None]);
        assert!(!use_next(dir, &hash("four")).expect("used"), "nobody comes back by it");
    }

    #[test]
    fn a_tokens_file_does_not_hold_the_token() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let kept = EnrollmentToken { host: "web-1".parse().expect("a name"), expires_at: DateTime::default() };
        keep_token(dir.path(), "rme_secret", &kept).expect("keep");
        let entry = std::fs::read_dir(dir.path()).expect("list").next().expect("one").expect("entry");
        let text = std::fs::read_to_string(entry.path()).expect("read");
        assert!(!text.contains("rme_secret") && !entry.path().display().to_string().contains("rme_secret"));
        assert!(find_token(dir.path(), &sha256_hex(b"rme_secret")).expect("find").is_some());
        remove_expired(dir.path(), crate::clock::now()).expect("remove");
        assert!(find_token(dir.path(), &sha256_hex(b"rme_secret")).expect("find").is_none());
    }

    #[test]
    fn a_token_that_is_just_being_written_disturbs_no_sweep() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let unfinished = dir.path().join(format!("{}.json.123.tmp", sha256_hex(b"rme_other")));
        std::fs::write(&unfinished, b"").expect("write");
        remove_expired(dir.path(), crate::clock::now()).expect("remove");
        assert!(unfinished.exists());
    }
}
