//! Edge. What the fleet's directory of the state keeps of configurations: the copy of the one that runs, secrets by reference
//! only, and what each server last saw in its own directory. Does not decide which one runs.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::access::sha256_hex;
use super::adoption::DirectorySeen;
use super::fleet::load::Texts;
use crate::atomic_file;
use crate::file_error::FileError;
use crate::machine;

/// Keeps other servers from adopting anything until the value is dropped. Blocks.
pub fn adoption_lock(fleet_dir: &Path) -> Result<File, FileError> {
    let path = fleet_dir.join(".adopt.lock");
    let lock = atomic_file::open_lock(&path)?;
    lock.lock().map_err(FileError::of("lock", &path))?;
    Ok(lock)
}

/// The configuration that was adopted last, as texts.
#[derive(Debug)]
pub struct AdoptedCopy {
    /// `ConfigAdopted`'s.
    pub hash: String,
    pub files: Arc<Texts>,
}

/// An `AdoptedCopy` in its file.
#[derive(Serialize, Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    hash: Cow<'a, str>,
    #[serde(borrow)]
    files: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}

/// Replaces the copy, durably. One file for all: ten thousand would take as many syncs.
pub fn keep_adopted(fleet_dir: &Path, copy: &AdoptedCopy) -> Result<(), FileError> {
    let path = fleet_dir.join(ADOPTED);
    let files = copy.files.iter().map(|(path, text)| (path.as_str().into(), (&**text).into())).collect();
    let bytes = serde_json::to_vec(&Written { hash: copy.hash.as_str().into(), files })
        .map_err(|error| FileError::of("write", &path)(error.into()))?;
    atomic_file::replace(&path, &bytes)
}

/// The copy; `None` where nothing was adopted yet, or it is damaged, which is told.
pub fn read_adopted(fleet_dir: &Path) -> Result<Option<AdoptedCopy>, FileError> {
    let path = fleet_dir.join(ADOPTED);
    match std::fs::read(&path) {
        Ok(bytes) => {
            let Ok(Written { hash, files }) = serde_json::from_slice(&bytes)
                .inspect_err(|error| tracing::error!("{} is damaged and not used: {error}", path.display()))
            else {
                return Ok(None);
            };
            let files: Texts = files.into_iter().map(|(path, text)| (path.into_owned(), text.into())).collect();
            Ok(Some(AdoptedCopy { hash: hash.into_owned(), files: files.into() }))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::of("read", &path)(error)),
    }
}

const ADOPTED: &str = "adopted.json";

/// The hash that was last seen in a configuration directory by a server on this machine.
pub fn last_seen(fleet_dir: &Path, directory: &Path) -> Option<String> {
    let text = std::fs::read(seen_path(fleet_dir, directory)).ok()?;
    serde_json::from_slice::<DirectorySeen>(&text).ok().map(|seen| seen.hash)
}

/// Remembers it.
pub fn keep_seen(fleet_dir: &Path, directory: &Path, hash: &str) -> Result<(), FileError> {
    let path = seen_path(fleet_dir, directory);
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        atomic_file::create_private_dir(parent)?;
    }
    let seen = DirectorySeen { of: name_of(directory), hash: hash.to_owned() };
    // A struct of text always has a JSON form.
    atomic_file::replace(&path, &serde_json::to_vec(&seen).unwrap_or_default())
}

/// A directory, told from those of the same path on other machines.
pub fn name_of(directory: &Path) -> String {
    format!("{}:{}", machine::hostname(), directory.display())
}

fn seen_path(fleet_dir: &Path, directory: &Path) -> PathBuf {
    let digest = sha256_hex(name_of(directory).as_bytes());
    fleet_dir.join("directories").join(format!("{}.json", &digest[..16]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_replaced_whole_and_what_was_seen_is_remembered_per_directory() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let copy = |text: &str| AdoptedCopy {
            hash: "h".to_owned(),
            files: Texts::from([("hosts/web-1.toml".to_owned(), text.into())]).into(),
        };
        assert!(read_adopted(dir.path()).expect("none yet").is_none());
        keep_adopted(dir.path(), &copy("one")).expect("kept");
        keep_adopted(dir.path(), &copy("two")).expect("kept");
        let kept = read_adopted(dir.path()).expect("read").expect("a copy");
        assert_eq!((kept.hash.as_str(), &*kept.files["hosts/web-1.toml"]), ("h", "two"));
        let (one, two) = (Path::new("/etc/one"), Path::new("/etc/two"));
        assert_eq!(last_seen(dir.path(), one), None);
        keep_seen(dir.path(), one, "a").expect("kept");
        keep_seen(dir.path(), one, "b").expect("kept");
        assert_eq!((last_seen(dir.path(), one), last_seen(dir.path(), two)), (Some("b".to_owned()), None));
    }
}
