//! Edge. Cheap marks of a configuration directory, taken before and after its files are read: where they are the same and no git is at
//! work, no link was swapped and no `git checkout` ran in between. Does not read the files and does not decide what follows.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::git_tree::{self, GitTree};
use crate::clock;
use crate::file_stamp::{self, FileStamp};

/// As many links as a path may lead through.
const LINKS_LIMIT: usize = 40;

/// What a directory looks like from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// Where the files really are: the path without links. `None`: nothing is there.
    pub directory: Option<PathBuf>,
    /// Tells a directory that was moved into the place of another.
    identity: Option<(u64, u64)>,
    /// The links to it and in it that stand for many files, and what they lead to.
    pub links: Vec<(PathBuf, Option<FileStamp>, Option<PathBuf>)>,
    pub git: Option<GitMarks>,
}

/// The same of its git work tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitMarks {
    pub tree: GitTree,
    pub commit: Option<String>,
    pub index: Option<FileStamp>,
    /// `index.lock`, which git has while it changes files.
    pub lock: Option<FileStamp>,
}

impl Marks {
    /// Takes them. Blocks, for some tens of system calls.
    pub fn of(path: &Path) -> Self {
        let Ok(directory) = path.canonicalize() else { return Self::default() };
        let on_the_way = way_to(path).into_iter().filter(|entry| entry.is_symlink());
        let links = on_the_way.chain(links_in(&directory));
        let links = links.map(|link| (file_stamp::of(&link).ok(), link.canonicalize().ok(), link));
        let links = links.map(|(stamp, target, link)| (link, stamp, target)).collect();
        Self {
            identity: file_stamp::identity_of(&directory),
            links,
            git: git_marks(&directory),
            directory: Some(directory),
        }
    }

    /// Where the directory is, whatever git does in it.
    pub fn without_git(&self) -> Self {
        Self { git: None, ..self.clone() }
    }

    /// The lock of a git that is at work, and for how long it has been as it is, by the file's time; `None` where that is in
    /// the future.
    pub fn lock(&self) -> Option<(PathBuf, &FileStamp, Option<Duration>)> {
        let git = self.git.as_ref()?;
        let stamp = git.lock.as_ref()?;
        let age = std::time::SystemTime::from(clock::now()).duration_since(stamp.modified()).ok();
        Some((git.tree.lock_path(), stamp, age))
    }
}

fn git_marks(directory: &Path) -> Option<GitMarks> {
    let tree = git_tree::of(directory)?;
    let lock = || file_stamp::of(&tree.lock_path()).ok();
    // Before and after the index: what git does between the one reading of marks and the other shows in the one or in the other.
    let before = lock();
    let index = tree.index();
    let lock = lock().or(before);
    Some(GitMarks { commit: tree.commit(), index, lock, tree })
}

/// Links to directories at the top, and Kubernetes' `..data` there and one level below, where a ConfigMap may be mounted.
fn links_in(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut links = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_symlink() => {
                let is_one_file = path.extension().is_some_and(|extension| extension == "toml");
                links.extend((!is_one_file).then_some(path));
            }
            Ok(kind) if kind.is_dir() => links.extend(Some(path.join("..data")).filter(|data| data.is_symlink())),
            _ => {}
        }
    }
    links.sort();
    links
}

/// Every entry of a directory that leads to the path, links and what they lead through included, as far as they are there: who
/// watches them all sees when something else takes the place of any.
pub fn way_to(path: &Path) -> Vec<PathBuf> {
    let (mut way, mut resolved, mut rest, mut links) = (Vec::new(), PathBuf::new(), path.to_owned(), 0);
    loop {
        let mut parts = rest.components();
        let Some(first) = parts.next() else { return way };
        let after = parts.as_path().to_owned();
        match first {
            Component::CurDir => {}
            Component::ParentDir => drop(resolved.pop()),
            Component::Normal(name) => {
                let entry = resolved.join(name);
                let target = fs::read_link(&entry).ok();
                way.push(entry.clone());
                if let Some(target) = target {
                    links += 1;
                    if links > LINKS_LIMIT {
                        return way;
                    }
                    rest = target.join(after);
                    continue;
                }
                resolved = entry;
            }
            root => resolved.push(root),
        }
        rest = after;
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_swapped_link_and_a_replaced_directory_change_the_marks_and_files_do_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().canonicalize().expect("a path");
        for name in ["releases/1/config/hosts", "releases/2/config/hosts"] {
            fs::create_dir_all(dir.join(name)).expect("made");
        }
        let point = |link: &str, target: &str| {
            symlink(target, dir.join("new")).expect("linked");
            fs::rename(dir.join("new"), dir.join(link)).expect("renamed");
        };
        point("current", "releases/1");
        point("live", "./current");
        let path = dir.join("live/config");
        let way: Vec<_> =
            way_to(&path).into_iter().filter_map(|entry| Some(entry.strip_prefix(&dir).ok()?.to_owned())).collect();
        let expected = ["", "live", "current", "releases", "releases/1", "releases/1/config"];
        assert_eq!(way, expected.map(PathBuf::from));

        let mut before = Marks::of(&path);
        assert_eq!(before.directory, Some(dir.join("releases/1/config")));
        fs::write(path.join("hosts/a.toml"), "").expect("written");
        assert_eq!(Marks::of(&path), before);
        let mut differs = |what: &str| {
            let now = Marks::of(&path);
            assert_ne!(std::mem::replace(&mut before, now.clone()), now, "{what}");
        };
        point("current", "releases/2");
        differs("a link on the way");
        point("current", "releases/1");
        point("current", "releases/2");
        differs("there and back");
        point("releases/2/config/..data", "hosts");
        differs("a ConfigMap");
        point("releases/2/config/hosts/..data", "nowhere");
        differs("a ConfigMap below");
        fs::rename(dir.join("releases/1/config"), dir.join("other")).expect("moved");
        fs::rename(dir.join("releases/2/config"), dir.join("away")).expect("moved");
        differs("none");
        fs::rename(dir.join("other"), dir.join("releases/2/config")).expect("moved");
        differs("another directory");
        fs::remove_file(dir.join("current")).expect("removed");
        point("current", "current");
        assert_eq!((Marks::of(&path), way_to(&path).len() > 3), (Marks::default(), true), "a link to itself");
    }

    #[test]
    fn a_lock_and_a_new_index_show() {
        let dir = tempfile::tempdir().expect("a directory");
        let git = dir.path().join(".git");
        fs::create_dir(&git).expect("made");
        fs::write(git.join("HEAD"), "ref: refs/heads/main\n").expect("written");
        let before = Marks::of(dir.path());
        assert!(before.git.is_some() && before.lock().is_none());
        fs::write(git.join("index.lock"), "").expect("written");
        let locked = Marks::of(dir.path());
        let (path, _, age) = locked.lock().expect("a lock");
        assert!(path.ends_with(".git/index.lock") && age.is_some_and(|age| age < Duration::from_secs(60)));
        fs::rename(git.join("index.lock"), git.join("index")).expect("renamed");
        let after = Marks::of(dir.path());
        assert!(after.lock().is_none() && after != before);
        assert_eq!(Marks::of(dir.path()), after);
    }
}
