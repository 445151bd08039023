//! Edge. A configuration directory, or the copy of what was adopted, as read and checked, with its hash and its git commit. Never one
//! that a link swap or a git command changed while it was read. Does not decide whether it runs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::fleet::Fleet;
use super::fleet::load::{Texts, load_again};
use super::fleet::read_tree::{ReadBefore, read_tree, with_unread};
use super::fleet::remembered::Remembered;
use super::fleet_copy::{self, AdoptedCopy};
use super::fleet_state::ConfigAdopted;
use super::git_text::is_stale;
use super::git_tree;
use super::tree_marks::Marks;
use crate::file_error::FileError;
use crate::file_stamp::FileStamp;
use crate::problem::{Problem, Severity};

/// Readings of one look, until two marks are the same.
const ATTEMPTS: usize = 5;

/// A configuration as read and checked.
#[derive(Debug, Clone)]
pub struct Tree {
    pub files: Arc<Texts>,
    pub hash: String,
    pub commit: Option<String>,
    /// Whether the files are not those of the commit; `None`: unknown.
    pub dirty: Option<bool>,
    pub fleet: Arc<Fleet>,
    pub problems: Vec<Problem>,
}

/// Why there is nothing whole to be read at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AtWork {
    /// A git command has this lock.
    Locked(PathBuf),
    /// Links are swapped, or git commands run, one after the other.
    Changing(PathBuf),
}

impl fmt::Display for AtWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked(lock) => write!(
                f,
                "a git command is at work here ({} is there), and nothing is adopted before it has ended; if none runs any more, remove that file, which counts for ten minutes",
                lock.display()
            ),
            Self::Changing(directory) => {
                write!(f, "{} is replaced again and again, and is read when that ends", directory.display())
            }
        }
    }
}

/// What one reading of a directory leaves for the next; a default one has everything read.
#[derive(Debug, Default)]
pub struct LastRead {
    files: ReadBefore,
    loaded: Remembered,
    /// A lock, and since when we have seen it as it is.
    lock: Option<(FileStamp, Instant)>,
}

/// Reads the directory; of files that did not change only their times are looked at. Gives the marks that held before and after.
/// Blocks.
pub fn read(directory: &Path, last: &mut LastRead) -> Result<(Tree, Marks), AtWork> {
    for _ in 0..ATTEMPTS {
        let before = Marks::of(directory);
        let stale = held(&before, last)?;
        // Below the path without links: a link that is swapped meanwhile leads the reading nowhere else.
        let place = before.directory.as_deref().unwrap_or(directory);
        let (files, unread) = read_tree(place, &mut last.files);
        if Marks::of(directory) != before {
            continue;
        }
        let hash = hash_of(&files, &unread);
        let (fleet, problems) = load_again(&files, &mut last.loaded);
        let mut problems = with_unread(problems, unread);
        problems.extend(stale);
        let commit = git_tree::commit_of(place, before.git.as_ref().map(|git| &git.tree));
        let tree = Tree { files: files.into(), hash, commit, dirty: None, fleet: Arc::new(fleet), problems };
        return Ok((tree, before));
    }
    Err(AtWork::Changing(directory.to_owned()))
}

/// Whether a git is at work, without reading anything. Blocks.
pub fn at_work(directory: &Path, last: &mut LastRead) -> Option<AtWork> {
    held(&Marks::of(directory), last).err()
}

/// Nothing is read while git has its lock. One that a git left behind is told of, and does not count.
fn held(marks: &Marks, last: &mut LastRead) -> Result<Option<Problem>, AtWork> {
    let Some((path, stamp, age)) = marks.lock() else {
        last.lock = None;
        return Ok(None);
    };
    let watched = match &last.lock {
        Some((seen, since)) if seen == stamp => since.elapsed(),
        _ => {
            last.lock = Some((stamp.clone(), Instant::now()));
            Duration::ZERO
        }
    };
    if !is_stale(age, watched) {
        return Err(AtWork::Locked(path));
    }
    Ok(Some(of_git(format!(
        "{} is more than ten minutes old, as a git that was killed leaves it: the files are read all the same; if no git runs there, remove it, since git itself refuses to work until then",
        path.display()
    ))))
}

/// A warning about the work tree.
pub fn of_git(message: String) -> Problem {
    Problem { file: ".git".to_owned(), line: 0, column: 0, severity: Severity::Warning, message }
}

/// What was adopted last, as it was then; `None` where the copy is gone or another one's. Blocks.
pub fn read_copy(fleet_dir: &Path, adopted: &ConfigAdopted) -> Result<Option<Tree>, FileError> {
    let copy = fleet_copy::read_adopted(fleet_dir)?.filter(|copy| copy.hash == adopted.hash);
    let Some(AdoptedCopy { files, .. }) = copy else { return Ok(None) };
    let (fleet, problems) = load_again(&files, &mut Remembered::default());
    let (hash, commit, dirty) = (adopted.hash.clone(), adopted.commit.clone(), adopted.dirty);
    Ok(Some(Tree { files, hash, commit, dirty, fleet: Arc::new(fleet), problems }))
}

/// What could not be read counts too: once it is gone, the files that are left are something else than they were with it.
fn hash_of(files: &Texts, unread: &[Problem]) -> String {
    let mut hasher = Sha256::new();
    for (path, text) in files {
        hasher.update((path.len() as u64).to_be_bytes());
        hasher.update(path);
        hasher.update((text.len() as u64).to_be_bytes());
        hasher.update(text.as_bytes());
    }
    unread
        .iter()
        .filter(|problem| problem.severity == Severity::Error)
        .for_each(|problem| hasher.update(format!("\0{problem}")));
    data_encoding::HEXLOWER.encode(&hasher.finalize()[..16])
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn nothing_is_read_while_git_has_its_lock_and_one_that_was_left_behind_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let lock = dir.path().join(".git/index.lock");
        fs::create_dir(dir.path().join(".git")).expect("made");
        fs::write(dir.path().join(".git/HEAD"), "ref: refs/heads/main\n").expect("written");
        fs::write(dir.path().join("server.toml"), "").expect("written");
        let mut last = LastRead::default();
        let told = |last: &mut LastRead| -> Result<Vec<Problem>, AtWork> {
            let (tree, _) = read(dir.path(), last)?;
            Ok(tree.problems.into_iter().filter(|problem| problem.file == ".git").collect())
        };
        assert_eq!(told(&mut last), Ok(vec![]));
        fs::write(&lock, "").expect("written");
        assert_eq!(told(&mut last), Err(AtWork::Locked(lock.canonicalize().expect("a path"))));
        assert!(at_work(dir.path(), &mut last).is_some());
        let old = fs::File::options().write(true).open(&lock).expect("opened");
        old.set_modified(std::time::SystemTime::from(crate::clock::now()) - Duration::from_secs(601)).expect("set");
        let problems = told(&mut last).expect("the lock is an old one");
        assert!(problems.len() == 1 && problems[0].to_string().contains("index.lock"), "{problems:?}");
        fs::remove_file(&lock).expect("removed");
        assert_eq!(told(&mut last), Ok(vec![]));
    }

    #[cfg(unix)]
    #[test]
    fn what_cannot_be_read_is_part_of_the_hash() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("server.toml"), "").expect("written");
        let hash = || read(dir.path(), &mut LastRead::default()).expect("nobody is at work").0.hash;
        let without = hash();
        std::os::unix::fs::symlink("nowhere", dir.path().join("agent.toml")).expect("linked");
        assert_ne!(hash(), without);
        fs::remove_file(dir.path().join("agent.toml")).expect("removed");
        assert_eq!(hash(), without);
    }
}
