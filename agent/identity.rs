//! Edge. Who this agent is: `identity.json` (0600), made and durable before the agent enrolls, so that a repeated enroll
//! request is the same one; and what is known of the machine. Does not enroll. A damaged identity is an error, never
//! replaced silently: another one would have to be enrolled by a person.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use restic_manager::clock;
use restic_manager::file_error::FileError;
use restic_manager::id::{EnrollmentId, HostName};
use restic_manager::protocol::agent_event::{Arch, Os};
use restic_manager::protocol::command::Secret;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::json_file;

/// `identity.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) enrollment_id: EnrollmentId,
    /// The bearer token: `rma_` and 43 base64url characters.
    pub(crate) credential: Secret,
    pub(crate) host: HostName,
    /// The server's URL, without a slash at its end.
    pub(crate) server: String,
    /// The server has said yes. Before that, host and server may still be corrected.
    #[serde(default = "yes")]
    pub(crate) enrolled: bool,
    /// Since when the credential is in use; files from before credentials replaced themselves do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) credential_since: Option<DateTime<Utc>>,
    /// The one that is to replace it, and that the server may have heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next_credential: Option<Secret>,
    /// Of agent.toml as enroll wrote it: while that is so, another attempt may write it anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) settings_sha256: Option<String>,
    /// The one before it: a server whose state was restored from a backup knows that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) previous_credential: Option<Secret>,
}

impl Identity {
    /// The identity that is here, if any.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, IdentityError> {
        let path = path(dir);
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(FileError::of("read", &path)).map_err(IdentityError::File)?,
        };
        // Not `json_file::read`, which would set a damaged file aside and so make room for another credential.
        serde_json::from_slice(&bytes).map(Some).map_err(|_| IdentityError::Damaged(path))
    }

    /// The identity to enroll with: the one that is here when it is of this host and server, so that a retry is the same
    /// request; else a new one, durable when this returns.
    pub(crate) fn read_or_make(dir: &Path, host: &HostName, server: &str) -> Result<Self, IdentityError> {
        let server = server.trim_end_matches('/');
        match Self::read(dir)? {
            None => Self::make_anew(dir, host, server),
            Some(identity) if identity.host == *host && identity.server == server => Ok(identity),
            Some(identity) if !identity.enrolled => Self::make_anew(dir, host, server),
            Some(Self { host, server, .. }) => Err(IdentityError::Other { host, server }),
        }
    }

    /// A new identity in place of the one that may be here: to enroll anew after the credential was revoked.
    pub(crate) fn make_anew(dir: &Path, host: &HostName, server: &str) -> Result<Self, IdentityError> {
        let credential = new_credential()?;
        let enrollment_id = EnrollmentId(uuid::Uuid::new_v4());
        let server = server.trim_end_matches('/').to_owned();
        let identity = Self {
            enrollment_id,
            credential,
            host: host.clone(),
            server,
            enrolled: false,
            credential_since: Some(clock::now()),
            next_credential: None,
            settings_sha256: None,
            previous_credential: None,
        };
        json_file::write(&path(dir), &identity).map_err(IdentityError::File)?;
        Ok(identity)
    }

    /// The server has taken it: from here on it is changed by hand only.
    pub(crate) fn mark_enrolled(self, dir: &Path) -> Result<(), IdentityError> {
        json_file::write(&path(dir), &Self { enrolled: true, ..self }).map_err(IdentityError::File)
    }

    /// Replaces the file; durable when this returns.
    pub(crate) fn keep(&self, dir: &Path) -> Result<(), FileError> {
        json_file::write(&path(dir), self)
    }

    /// What the enroll request tells of the credential, in lower-case hexadecimal.
    pub(crate) fn credential_sha256(&self) -> String {
        secret_sha256(&self.credential)
    }
}

/// What the server is told of a credential.
pub(crate) fn secret_sha256(secret: &Secret) -> String {
    hex_sha256(secret.reveal().as_bytes())
}

/// Why there is no identity.
#[derive(Debug)]
pub(crate) enum IdentityError {
    File(FileError),
    /// The file is there and cannot be understood.
    Damaged(PathBuf),
    /// The agent has an identity, of another host or server.
    Other {
        host: HostName,
        server: String,
    },
    /// The system gives no random bytes.
    NoRandomness(getrandom::Error),
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Damaged(path) => {
                write!(f, "{} cannot be understood: remove it and enroll this host anew", path.display())
            }
            Self::Other { host, server } => {
                write!(f, "this agent is already {host} of {server}: remove its identity.json to enroll it anew")
            }
            Self::NoRandomness(_) => f.write_str("the system gives no random bytes for a credential"),
        }
    }
}

impl std::error::Error for IdentityError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File(error) => error.source(),
            Self::NoRandomness(error) => Some(error),
            Self::Damaged(_) | Self::Other { .. } => None,
        }
    }
}

/// Files from before there was this mark were written by agents that ran.
const fn yes() -> bool {
    true
}

fn path(dir: &Path) -> PathBuf {
    dir.join("identity.json")
}

pub(crate) fn new_credential() -> Result<Secret, IdentityError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(IdentityError::NoRandomness)?;
    Ok(Secret::new(format!("rma_{}", data_encoding::BASE64URL_NOPAD.encode(&bytes))))
}

/// A random share from 0 to 1, for waits that must differ between hosts. Without randomness the middle: no harm.
pub(crate) fn random_unit() -> f64 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

/// A hash that tells this machine from a clone of it; absent where the system has no id of the machine.
pub(crate) fn fingerprint() -> Option<String> {
    let machine_id = std::fs::read_to_string("/etc/machine-id").ok()?;
    Some(fingerprint_of(machine_id.trim(), &hostname())).filter(|_| !machine_id.trim().is_empty())
}

fn fingerprint_of(machine_id: &str, hostname: &str) -> String {
    // machine-id(5) asks not to show the id itself; hashing it with words of ours makes it ours alone.
    hex_sha256(format!("restic-manager machine\n{machine_id}\n{hostname}").as_bytes())
}

pub(crate) fn hex_sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

/// The machine's own name, which need not be the host's in the fleet.
pub(crate) use restic_manager::machine::hostname;

pub(crate) const fn os() -> Os {
    if cfg!(windows) { Os::Windows } else { Os::Linux }
}

pub(crate) const fn arch() -> Arch {
    if cfg!(target_arch = "aarch64") { Arch::Arm64 } else { Arch::Amd64 }
}

/// When the machine started, to the second; absent where the system does not say.
pub(crate) fn boot_time() -> Option<DateTime<Utc>> {
    boot_time_in(&std::fs::read_to_string("/proc/stat").ok()?)
}

fn boot_time_in(proc_stat: &str) -> Option<DateTime<Utc>> {
    let seconds = proc_stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    DateTime::from_timestamp(seconds.trim().parse().ok()?, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "https://backup.example.org";

    fn host(name: &str) -> HostName {
        name.parse().expect("a host name")
    }

    #[test]
    fn a_retry_enrolls_with_the_same_identity() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(Identity::read(dir.path()).expect("fine"), None);
        let first = Identity::read_or_make(dir.path(), &host("web-1"), SERVER).expect("created");
        assert_eq!(Identity::read_or_make(dir.path(), &host("web-1"), SERVER).expect("loaded"), first);
        let slashed = Identity::read_or_make(dir.path(), &host("web-1"), "https://backup.example.org/");
        assert_eq!(slashed.expect("loaded"), first);
        assert_eq!(Identity::read(dir.path()).expect("fine"), Some(first.clone()));
        let secret = first.credential.reveal().strip_prefix("rma_").expect("the prefix");
        assert_eq!(data_encoding::BASE64URL_NOPAD.decode(secret.as_bytes()).map(|bytes| bytes.len()), Ok(32));
        assert_eq!((secret.len(), first.credential_sha256().len()), (43, 64));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let metadata = std::fs::metadata(path(dir.path())).expect("there");
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn the_identity_of_another_host_or_server_is_not_replaced_unless_asked() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mistyped = Identity::read_or_make(dir.path(), &host("wbe-1"), SERVER).expect("created");
        let first = Identity::read_or_make(dir.path(), &host("web-1"), SERVER).expect("the server had not said yes");
        assert_ne!(mistyped.enrollment_id, first.enrollment_id);
        first.clone().mark_enrolled(dir.path()).expect("written");
        for (name, server) in [("web-2", SERVER), ("web-1", "https://other.example.org")] {
            let error = Identity::read_or_make(dir.path(), &host(name), server).expect_err("another");
            assert!(error.to_string().contains("web-1 of https://backup.example.org"), "{error}");
        }
        let second = Identity::make_anew(dir.path(), &host("web-2"), SERVER).expect("created");
        assert!(second.credential != first.credential && second.enrollment_id != first.enrollment_id);
        assert_eq!(Identity::read(dir.path()).expect("fine"), Some(second));
    }

    #[test]
    fn a_damaged_identity_is_an_error_and_stays_where_it_is() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(path(dir.path()), "{\"credential\": \"rma_x\"").expect("written");
        let error = Identity::read_or_make(dir.path(), &host("web-1"), SERVER).expect_err("damaged");
        assert!(matches!(error, IdentityError::Damaged(_)) && !error.to_string().contains("rma_x"), "{error}");
        assert!(path(dir.path()).exists());
    }

    #[test]
    fn the_machine_is_described_as_far_as_it_is_known() {
        assert_eq!(boot_time_in("cpu 1 2\nbtime 1790000000\n"), DateTime::from_timestamp(1_790_000_000, 0));
        assert_eq!(boot_time_in("cpu 1 2\n"), None);
        assert_ne!(fingerprint_of("a", "b"), fingerprint_of("a", "c"));
        assert_eq!(fingerprint_of("a", "b").len(), 64);
        #[cfg(target_os = "linux")]
        assert!(boot_time().is_some() && !hostname().is_empty());
    }
}
