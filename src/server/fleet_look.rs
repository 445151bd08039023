//! Edge. One look at the configuration directory: its files, and whether they are those of the commit, which git is asked only where
//! something may have changed. Does not decide what becomes of it.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::app::blocking;
use super::fleet_tree::{self, AtWork, LastRead, Tree, of_git};
use super::git_status;
use super::git_text::{Standing, standing};
use super::git_tree::is_told;
use super::tree_marks::{GitMarks, Marks};

/// A git that takes longer than this is not asked again for a while: edits must not wait for it.
const SLOW: Duration = Duration::from_secs(1);
const NOT_AGAIN: Duration = Duration::from_secs(600);

/// Why the directory is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is time.
    Rescan,
    /// Something changed there.
    Hint,
    /// Somebody asked for it.
    Forced,
}

/// What one look leaves for the next.
#[derive(Debug, Default)]
pub struct LastLook {
    read: LastRead,
    git: Option<Asked>,
    slow_at: Option<Instant>,
    /// What was read last, which holds while there is nothing whole to be read.
    tree: Option<Tree>,
}

/// What git said, and about what.
#[derive(Debug)]
struct Asked {
    hash: String,
    git: GitMarks,
    said: Result<Standing, String>,
}

/// What was seen; the tree of the look before, if any, where there is nothing whole at the moment.
#[derive(Debug)]
pub struct Look {
    pub tree: Option<Tree>,
    pub at_work: Option<AtWork>,
}

/// Whether there is nothing whole at the moment.
pub async fn at_work(directory: &Path, last: &mut LastLook) -> Option<AtWork> {
    let (path, mut read) = (directory.to_owned(), std::mem::take(&mut last.read));
    let (at_work, read) = blocking(move || (fleet_tree::at_work(&path, &mut read), read)).await;
    last.read = read;
    at_work
}

/// Looks. Call from a thread that lives as long as the process (see `process::start`).
pub async fn look(directory: &Path, last: &mut LastLook, why: Why) -> Look {
    // Who asks for it may have a reason to mistrust the times of files.
    if why == Why::Forced {
        (last.read, last.git, last.slow_at) = (LastRead::default(), None, None);
    }
    let path = directory.to_owned();
    let marks = blocking(move || Marks::of(&path)).await;
    let may_differ = why != Why::Rescan || last.git.as_ref().map(|asked| &asked.git) != marks.git.as_ref();
    let (path, mut read) = (directory.to_owned(), std::mem::take(&mut last.read));
    let reading = blocking(move || (fleet_tree::read(&path, &mut read), read));
    // Beside the reading: it would take as long again.
    let early = async { if may_differ { ask(&marks, &mut last.slow_at).await } else { None } };
    let ((read, last_read), early) = tokio::join!(reading, early);
    last.read = last_read;
    let (mut tree, now) = match read {
        Ok(read) => read,
        Err(at_work) => return Look { tree: last.tree.clone(), at_work: Some(at_work) },
    };
    let is_of_these = early.is_some() && now == marks;
    let said = match (is_of_these, &last.git) {
        (true, _) => early,
        (false, Some(asked)) if Some(&asked.git) == now.git.as_ref() && asked.hash == tree.hash => None,
        _ => ask(&now, &mut last.slow_at).await,
    };
    let (git, place) = (now.git, now.directory.unwrap_or_default());
    if let (Some(git), Some(said)) = (&git, said) {
        let said = said.map(|status| standing(&status, &prefix(git, &place), &tree.files));
        last.git = Some(Asked { hash: tree.hash.clone(), git: git.clone(), said });
    } else if last.git.as_ref().is_some_and(|asked| asked.hash != tree.hash || Some(&asked.git) != git.as_ref()) {
        last.git = None;
    }
    match last.git.as_ref().map(|asked| &asked.said) {
        Some(Ok(Standing::Clean)) => tree.dirty = Some(false),
        Some(Ok(Standing::Dirty)) => tree.dirty = Some(true),
        Some(Ok(Standing::Foreign)) => tree.commit = None,
        Some(Err(why)) => {
            tree.problems.push(of_git(format!("whether the files are those of the commit is unknown: {why}")));
        }
        None => {}
    }
    last.tree = Some(tree.clone());
    Look { tree: Some(tree), at_work: None }
}

/// `None` where there is no work tree to ask about, or asking takes too long.
async fn ask(marks: &Marks, slow_at: &mut Option<Instant>) -> Option<Result<String, String>> {
    let (git, directory) = (marks.git.as_ref()?, marks.directory.as_deref()?);
    if is_told(directory, Some(&git.tree)) || slow_at.is_some_and(|at| at.elapsed() < NOT_AGAIN) {
        return None;
    }
    let begun = Instant::now();
    let said = git_status::status(&git.tree, directory).await;
    *slow_at = (begun.elapsed() > SLOW).then_some(begun);
    Some(said)
}

/// The directory within its work tree, with a `/` at its end; empty where it is all of it.
fn prefix(git: &GitMarks, directory: &Path) -> String {
    let below = directory.strip_prefix(&git.tree.top).unwrap_or(Path::new(""));
    below.iter().map(|part| format!("{}/", part.to_string_lossy())).collect()
}
