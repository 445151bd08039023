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
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct CredentialFile {
    /// SHA-256 of each credential that is valid, in hex.
    pub sha256: Vec<String>,
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

/// Removes tokens that expired before this. Reads every open one: not for each request.
pub fn remove_expired(dir: &Path, before: DateTime<Utc>) -> Result<(), FileError> {
    for entry in std::fs::read_dir(dir).map_err(FileError::of("list", dir))? {
        let path = entry.map_err(FileError::of("list", dir))?.path();
        // Others may be writing tokens at this moment, under names of their own.
        let is_token = path.extension().is_some_and(|extension| extension == "json");
        if is_token && read_json::<EnrollmentToken>(&path)?.is_some_and(|token| token.expires_at < before) {
            atomic_file::remove(&path)?;
        }
    }
    Ok(())
}

fn credential_path(host_dir: &Path) -> PathBuf {
    host_dir.join("credential.json")
}

/// From now on exactly this credential is the host's.
pub fn set_credential(host_dir: &Path, sha256: &str) -> Result<(), FileError> {
    let bytes = serde_json::to_vec(&CredentialFile { sha256: vec![sha256.to_owned()] }).unwrap_or_default();
    atomic_file::replace(&credential_path(host_dir), &bytes)
}

/// The host's agent is let in no more.
pub fn revoke(host_dir: &Path) -> Result<(), FileError> {
    atomic_file::remove(&credential_path(host_dir))
}

/// Whether the credential with this hash (hex of its SHA-256) is the host's. Reads the file, which is what counts on every
/// server.
pub fn has_hash(host_dir: &Path, sha256: &str) -> Result<bool, FileError> {
    let file: Option<CredentialFile> = read_json(&credential_path(host_dir))?;
    Ok(file.is_some_and(|file| file.sha256.iter().filter(|kept| same_hash(kept, sha256)).count() > 0))
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

    #[test]
    fn a_credential_is_valid_until_it_is_revoked() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert!(!has_hash(dir.path(), &sha256_hex(b"rma_x")).expect("read"));
        set_credential(dir.path(), &sha256_hex(b"rma_x")).expect("set");
        assert!(has_hash(dir.path(), &sha256_hex(b"rma_x")).expect("read"));
        assert!(!has_hash(dir.path(), &sha256_hex(b"rma_y")).expect("read"));
        revoke(dir.path()).expect("revoke");
        assert!(!has_hash(dir.path(), &sha256_hex(b"rma_x")).expect("read"));
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
