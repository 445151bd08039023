//! Edge. Who this agent is: its credential and enrollment id, made once and on disk before anything is sent, and what tells
//! this machine from another. Does not talk to the server.

use std::path::Path;

use chrono::{DateTime, Utc};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use restic_manager::file_error::FileError;
use restic_manager::id::{EnrollmentId, HostName};
use restic_manager::protocol::agent_event::{Arch, Os};
use restic_manager::protocol::command::Secret;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::json_file;

/// `identity.json`, readable by its owner only.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) host: HostName,
    pub(crate) server: String,
    pub(crate) enrollment_id: EnrollmentId,
    /// `rma_` and 43 base64url characters.
    pub(crate) credential: Secret,
}

const FILE: &str = "identity.json";

impl Identity {
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, FileError> {
        let mut damage = Vec::new();
        let identity = json_file::read(&dir.join(FILE))?.or_tell(&mut damage);
        for text in damage {
            tracing::error!("{text}: enroll this host again");
        }
        Ok(identity)
    }

    /// The identity for this host and server: the one that is there, so that a repeated enrollment is the same one, or a new one.
    pub(crate) fn read_or_make(dir: &Path, host: &HostName, server: &str) -> Result<Self, FileError> {
        if let Some(identity) = Self::read(dir)?.filter(|known| known.host == *host && known.server == server) {
            return Ok(identity);
        }
        let identity = Self {
            host: host.clone(),
            server: server.to_owned(),
            enrollment_id: EnrollmentId(uuid::Uuid::new_v4()),
            credential: Secret::new(format!("rma_{}", BASE64URL_NOPAD.encode(&random_bytes()))),
        };
        json_file::write(&dir.join(FILE), &identity)?;
        Ok(identity)
    }
}

fn random_bytes() -> [u8; 32] {
    let mut bytes = [0; 32];
    // The system's generator fails on no supported system once booted; a credential of zeros would be worse than a stop.
    #[allow(clippy::expect_used, reason = "no credential is better than a guessable one")]
    getrandom::fill(&mut bytes).expect("the system's random generator works");
    bytes
}

/// A random number from 0 to 1, for jitter.
pub(crate) fn random_unit() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness there is no jitter, which harms nothing.
    let _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
}

/// The machine's own name.
#[cfg(unix)]
pub(crate) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
pub(crate) fn hostname() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_else(|_| "unknown".to_owned())
}

pub(crate) const fn os() -> Os {
    if cfg!(windows) { Os::Windows } else { Os::Linux }
}

pub(crate) const fn arch() -> Arch {
    if cfg!(target_arch = "aarch64") { Arch::Arm64 } else { Arch::Amd64 }
}

/// A hash of the machine's id and name, which a clone under another name does not share; absent where the system has no id.
pub(crate) fn fingerprint() -> Option<String> {
    let id = std::fs::read_to_string("/etc/machine-id").ok()?;
    Some(HEXLOWER.encode(&Sha256::digest(format!("{}\n{}", id.trim(), hostname()))))
}

/// When the system started, where it says so.
pub(crate) fn boot_time() -> Option<DateTime<Utc>> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    DateTime::from_timestamp(seconds, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_once_per_host_and_server() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let host: HostName = "web-1".parse().expect("a name");
        let first = Identity::read_or_make(dir.path(), &host, "https://a").expect("make");
        let again = Identity::read_or_make(dir.path(), &host, "https://a").expect("read");
        assert_eq!(first.credential.reveal(), again.credential.reveal());
        assert_eq!(first.credential.reveal().len(), 4 + 43);
        let other = Identity::read_or_make(dir.path(), &host, "https://b").expect("make");
        assert_ne!(first.credential.reveal(), other.credential.reveal());
        assert!(!format!("{first:?}").contains(first.credential.reveal()));
    }
}
