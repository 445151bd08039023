//! Edge. The state directory as a whole: that it is ours and private, its epoch, its keys and its places.
//! Does not read journals.

use std::fmt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};

use crate::atomic_file;
use crate::file_error::FileError;
use crate::id::{Epoch, HostName};

/// Why the server does not start on a state directory.
#[derive(Debug)]
pub enum StateDirError {
    File(FileError),
    /// A symlink, someone else's, or writable by others: what is wrong and what to do.
    Unsafe(String),
}

impl fmt::Display for StateDirError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => fmt::Display::fmt(error, f),
            Self::Unsafe(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for StateDirError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File(error) => std::error::Error::source(error),
            Self::Unsafe(_) => None,
        }
    }
}

impl From<FileError> for StateDirError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

/// The opened directory.
#[derive(Debug, Clone)]
pub struct StateDir {
    pub path: PathBuf,
    pub epoch: Epoch,
    /// Keys the hash of settings that hold secrets, so that the hash tells nothing about them.
    pub hash_key: [u8; 32],
}

impl StateDir {
    /// Opens the directory, or makes it with a new epoch. Refuses one that others could write to.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        if !path.exists() {
            atomic_file::create_private_dir(path)?;
        }
        check_is_ours(path)?;
        atomic_file::create_private_dir(&path.join("hosts"))?;
        atomic_file::create_private_dir(&path.join("enrollments"))?;
        let epoch = read_or_make(&path.join("epoch"), || uuid::Uuid::new_v4().to_string())?;
        let epoch: Epoch = epoch.trim().parse().map_err(|_| {
            StateDirError::Unsafe(format!("{} does not hold a UUID: restore it from a backup of the state, or remove it (agents then start their cursors over)", path.join("epoch").display()))
        })?;
        let key = read_or_make(&path.join("hash-key"), || data_encoding::HEXLOWER.encode(&random_bytes()))?;
        let hash_key = HEXLOWER_PERMISSIVE.decode(key.trim().as_bytes()).ok().and_then(|key| key.try_into().ok());
        let hash_key = hash_key.ok_or_else(|| {
            StateDirError::Unsafe(format!(
                "{} does not hold 64 hex digits: remove it (every host's settings then get a new version)",
                path.join("hash-key").display()
            ))
        })?;
        Ok(Self { path: path.to_owned(), epoch, hash_key })
    }

    /// Makes everything durable that any process has written to the file system of this directory: one flush for all journals.
    /// `false`: it could not; then each file has to be synced by itself, which tells of its own errors.
    pub fn sync_file_system(&self) -> bool {
        #[cfg(target_os = "linux")]
        {
            let synced = std::fs::File::open(&self.path).and_then(|dir| Ok(rustix::fs::syncfs(&dir)?));
            synced.inspect_err(|error| tracing::warn!(%error, "each journal is synced by itself")).is_ok()
        }
        #[cfg(not(target_os = "linux"))]
        false
    }

    /// When a server of this state was there last, as far as its mark says.
    pub fn last_alive(&self) -> Option<DateTime<Utc>> {
        std::fs::metadata(self.path.join("alive")).and_then(|metadata| metadata.modified()).ok().map(Into::into)
    }

    /// Leaves that mark: a server was there at this time.
    pub fn mark_alive(&self, now: DateTime<Utc>) -> Result<(), FileError> {
        atomic_file::note_at(&self.path.join("alive"), b"", now.into())
    }

    pub fn host_dir(&self, host: &HostName) -> PathBuf {
        self.path.join("hosts").join(host.as_str())
    }

    pub fn repositories_dir(&self) -> PathBuf {
        self.path.join("repositories")
    }

    pub fn fleet_dir(&self) -> PathBuf {
        self.path.join("fleet")
    }

    pub fn enrollments_dir(&self) -> PathBuf {
        self.path.join("enrollments")
    }

    /// Hosts that have a history here.
    pub fn hosts(&self) -> Result<Vec<HostName>, FileError> {
        let dir = self.path.join("hosts");
        let mut hosts = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(FileError::of("list", &dir))? {
            let entry = entry.map_err(FileError::of("list", &dir))?;
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            hosts.extend(entry.file_name().to_str().filter(|_| is_dir).and_then(|name| name.parse().ok()));
        }
        hosts.sort_unstable();
        Ok(hosts)
    }

    /// The admin token of a server without configured tokens; made at first use. `true`: it is new.
    pub fn admin_token(&self) -> Result<(String, bool), FileError> {
        let path = self.path.join("admin-token");
        let is_new = !path.exists();
        Ok((read_or_make(&path, || new_token("rmo_"))?.trim().to_owned(), is_new))
    }
}

/// 256 random bits.
pub fn random_bytes() -> [u8; 32] {
    let mut bytes = [0; 32];
    // The system's generator fails on no supported system once booted; a token made of zeros would be worse than a stop.
    #[allow(clippy::expect_used, reason = "no token is better than a guessable one")]
    getrandom::fill(&mut bytes).expect("the system's random generator works");
    bytes
}

/// A token: a prefix that tells its kind, and 256 random bits.
pub fn new_token(prefix: &str) -> String {
    format!("{prefix}{}", BASE64URL_NOPAD.encode(&random_bytes()))
}

/// Two servers that start together make one: the second finds what the first made.
fn read_or_make(path: &Path, make: impl FnOnce() -> String) -> Result<String, FileError> {
    if let Some(text) = read(path)? {
        return Ok(text);
    }
    let lock_path = path.with_file_name(".make.lock");
    let lock = atomic_file::open_lock(&lock_path)?;
    lock.lock().map_err(FileError::of("lock", &lock_path))?;
    if let Some(text) = read(path)? {
        return Ok(text);
    }
    let text = format!("{}\n", make());
    atomic_file::replace(path, text.as_bytes())?;
    Ok(text)
}

fn read(path: &Path) -> Result<Option<String>, FileError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::of("read", path)(error)),
    }
}

#[cfg(unix)]
fn check_is_ours(path: &Path) -> Result<(), StateDirError> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::symlink_metadata(path).map_err(FileError::of("look at", path))?;
    let shown = path.display();
    if metadata.is_symlink() {
        return Err(StateDirError::Unsafe(format!("{shown} is a symlink: name the directory itself with --state")));
    }
    if !metadata.is_dir() {
        return Err(StateDirError::Unsafe(format!("{shown} is not a directory: name one with --state")));
    }
    let me = rustix::process::geteuid().as_raw();
    if metadata.uid() != me {
        let owner = metadata.uid();
        return Err(StateDirError::Unsafe(format!(
            "{shown} belongs to user {owner}, not to user {me}, who runs the server: chown it, or run the server as its owner"
        )));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(StateDirError::Unsafe(format!(
            "{shown} may be written by others (mode {:03o}): chmod 700 it",
            metadata.mode() & 0o777
        )));
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_is_ours(path: &Path) -> Result<(), StateDirError> {
    let metadata = std::fs::symlink_metadata(path).map_err(FileError::of("look at", path))?;
    if metadata.is_symlink() || !metadata.is_dir() {
        return Err(StateDirError::Unsafe(format!(
            "{} is not a directory itself: name one with --state",
            path.display()
        )));
    }
    Ok(())
}
