//! Edge. A configuration directory, or the copy of what was adopted, as read and checked, with its hash and its git commit.
//! Does not decide whether it runs.

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::fleet::Fleet;
use super::fleet::load::{Texts, load_again};
use super::fleet::read_tree::{ReadBefore, read_tree};
use super::fleet::remembered::Remembered;
use super::fleet_copy::{self, AdoptedCopy};
use super::fleet_state::ConfigAdopted;
use crate::file_error::FileError;
use crate::problem::Problem;

/// A configuration as read and checked.
#[derive(Debug, Clone)]
pub struct Tree {
    pub files: Texts,
    pub hash: String,
    pub commit: Option<String>,
    pub fleet: Arc<Fleet>,
    pub problems: Vec<Problem>,
}

/// What one reading of a directory leaves for the next; a default one has everything read.
#[derive(Debug, Default)]
pub struct LastRead {
    files: ReadBefore,
    loaded: Remembered,
}

/// Reads the directory; of files that did not change only their times are looked at. Blocks.
pub fn read(directory: &Path, last: &mut LastRead) -> Tree {
    let (files, unread) = read_tree(directory, &mut last.files);
    let (fleet, problems) = load_again(&files, &mut last.loaded);
    let problems = if unread.is_empty() { problems } else { unread };
    Tree { hash: hash_of(&files), files, commit: commit_of(directory), fleet: Arc::new(fleet), problems }
}

/// What was adopted last, as it was then; `None` where the copy is gone or another one's. Blocks.
pub fn read_copy(fleet_dir: &Path, adopted: &ConfigAdopted) -> Result<Option<Tree>, FileError> {
    let copy = fleet_copy::read_adopted(fleet_dir)?.filter(|copy| copy.hash == adopted.hash);
    let Some(AdoptedCopy { files, .. }) = copy else { return Ok(None) };
    let (fleet, problems) = load_again(&files, &mut Remembered::default());
    let (hash, commit) = (adopted.hash.clone(), adopted.commit.clone());
    Ok(Some(Tree { files, hash, commit, fleet: Arc::new(fleet), problems }))
}

fn hash_of(files: &Texts) -> String {
    let mut hasher = Sha256::new();
    for (path, text) in files {
        hasher.update((path.len() as u64).to_be_bytes());
        hasher.update(path);
        hasher.update((text.len() as u64).to_be_bytes());
        hasher.update(text.as_bytes());
    }
    data_encoding::HEXLOWER.encode(&hasher.finalize()[..16])
}

/// The commit of the git work tree that the directory is or is in, by git's own files.
fn commit_of(directory: &Path) -> Option<String> {
    let directory = directory.canonicalize().ok()?;
    let git = directory.ancestors().take(3).map(|dir| dir.join(".git")).find(|git| git.is_dir())?;
    let head = std::fs::read_to_string(git.join("HEAD")).ok()?;
    let Some(reference) = head.trim().strip_prefix("ref: ") else { return Some(head.trim().to_owned()) };
    if let Ok(commit) = std::fs::read_to_string(git.join(reference)) {
        return Some(commit.trim().to_owned());
    }
    let packed = std::fs::read_to_string(git.join("packed-refs")).ok()?;
    packed.lines().find_map(|line| line.strip_suffix(reference)).map(|commit| commit.trim().to_owned())
}
