//! Edge. The git work tree that a directory is or is in, by git's own files: its commit, its index, and the lock that git holds while
//! it changes files. Does not run git: `git_status` does, which asks whether the files are those of the commit.

use std::fs;
use std::path::{Path, PathBuf};

use super::git_text::{self, Head};
use crate::file_stamp::{self, FileStamp};

/// A work tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitTree {
    /// Where its files begin: the directory itself or one above it.
    pub top: PathBuf,
    /// `.git`, or where that file points to: HEAD, the index, its lock.
    pub git_dir: PathBuf,
    /// Where references are: that of the main work tree, else `git_dir`.
    pub common_dir: PathBuf,
}

/// The work tree of a directory whose path has no links. All directories above it are looked at, as git does: a fleet is often a
/// part of a larger repository.
pub fn of(directory: &Path) -> Option<GitTree> {
    directory.ancestors().find_map(|top| {
        let dot_git = top.join(".git");
        let kind = fs::metadata(&dot_git).ok()?;
        let git_dir = if kind.is_dir() {
            dot_git
        } else {
            let text = fs::read_to_string(&dot_git).ok()?;
            top.join(git_text::git_directory(&text)?).canonicalize().ok()?
        };
        // An empty or foreign `.git` is none, and git looks further up.
        let has_head = git_dir.join("HEAD").symlink_metadata().is_ok();
        let common = fs::read_to_string(git_dir.join("commondir")).ok();
        let common_dir =
            common.map_or_else(|| Some(git_dir.clone()), |path| git_dir.join(path.trim()).canonicalize().ok())?;
        has_head.then(|| GitTree { top: top.to_owned(), git_dir, common_dir })
    })
}

impl GitTree {
    /// The commit that is checked out. `None`: there is none yet, or references are kept in a way that only git itself can read.
    pub fn commit(&self) -> Option<String> {
        let text = fs::read_to_string(self.git_dir.join("HEAD")).ok()?;
        let reference = match git_text::head(&text)? {
            Head::Detached(commit) => return Some(commit.to_owned()),
            Head::Reference(reference) => reference,
        };
        let loose = fs::read_to_string(self.common_dir.join(reference)).ok();
        if let Some(commit) = loose.as_deref().and_then(git_text::commit) {
            return Some(commit.to_owned());
        }
        let text = fs::read_to_string(self.common_dir.join("packed-refs")).ok()?;
        git_text::packed(&text, reference).map(str::to_owned)
    }

    /// Tells whether the index is the one from before: git renames a new one over it at the end of whatever changes files.
    pub fn index(&self) -> Option<FileStamp> {
        file_stamp::of(&self.git_dir.join("index")).ok()
    }

    /// What git makes first and renames last.
    pub fn lock_path(&self) -> PathBuf {
        self.git_dir.join("index.lock")
    }
}

/// The commit that a directory is of: that of its work tree; else the one that a file `.commit` in it tells; else that of the work
/// tree it is in.
pub fn commit_of(directory: &Path, git: Option<&GitTree>) -> Option<String> {
    match git {
        Some(git) if git.top == directory => git.commit(),
        git => {
            let told = fs::read_to_string(directory.join(".commit")).ok();
            told.as_deref().and_then(git_text::told_commit).map(str::to_owned).or_else(|| git?.commit())
        }
    }
}

/// Whether a file `.commit` tells the commit, so that git has nothing to say about it.
pub fn is_told(directory: &Path, git: Option<&GitTree>) -> bool {
    git.is_none_or(|git| git.top != directory) && directory.join(".commit").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "1111111111111111111111111111111111111111";
    const TWO: &str = "2222222222222222222222222222222222222222";

    fn write(path: PathBuf, text: &str) {
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, text).expect("written");
    }

    #[test]
    fn the_commit_is_found_as_git_keeps_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().canonicalize().expect("a path");
        let config = dir.join("a/b/c/d/config");
        fs::create_dir_all(&config).expect("made");
        assert_eq!(of(&config).filter(|git| git.top.starts_with(&dir)), None);
        write(config.join(".commit"), &format!("{TWO}\n"));
        assert_eq!(commit_of(&config, None).as_deref(), Some(TWO));
        // A branch, loose and packed, far above; what the directory itself tells is nearer.
        write(dir.join(".git/HEAD"), "ref: refs/heads/main\n");
        let git = of(&config).expect("a work tree");
        assert_eq!((git.top.as_path(), git.commit()), (dir.as_path(), None));
        write(dir.join(".git/packed-refs"), &format!("{ONE} refs/heads/main\n"));
        assert_eq!(git.commit().as_deref(), Some(ONE));
        write(dir.join(".git/refs/heads/main"), &format!("{TWO}\n"));
        assert_eq!(git.commit().as_deref(), Some(TWO));
        fs::remove_file(dir.join(".git/refs/heads/main")).expect("removed");
        assert_eq!(commit_of(&config, Some(&git)).as_deref(), Some(TWO));
        fs::remove_file(config.join(".commit")).expect("removed");
        assert_eq!(commit_of(&config, Some(&git)).as_deref(), Some(ONE));
        // A second work tree of it, and a `.git` that is nothing.
        write(dir.join("second/.git"), "gitdir: ../.git/worktrees/second\n");
        write(dir.join(".git/worktrees/second/HEAD"), &format!("{TWO}\n"));
        write(dir.join(".git/worktrees/second/commondir"), "../..\n");
        let second = of(&dir.join("second")).expect("a work tree");
        assert_eq!((second.commit().as_deref(), second.common_dir), (Some(TWO), dir.join(".git")));
        write(dir.join(".git/worktrees/second/HEAD"), "ref: refs/heads/main\n");
        assert_eq!(of(&dir.join("second")).and_then(|git| git.commit()).as_deref(), Some(ONE));
        fs::create_dir_all(dir.join("a/.git")).expect("made");
        assert_eq!(of(&config).map(|git| git.top), Some(dir));
    }
}
