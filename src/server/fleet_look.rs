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
    /// Something changed there. Git is not asked: the files are not kept waiting for it.
    Hint,
    /// A look for a hint is done; what git says of the files is still wanted.
    OnlyGit,
    /// Somebody asked for it.
    Forced,
}

/// What one look leaves for the next.
#[derive(Debug, Default)]
pub struct LastLook {
    read: LastRead,
    git: Option<Asked>,
    slow_at: Option<Instant>,
    /// What was read last, which holds while there is nothing whole to be read, and without what git says. And the marks of then.
    tree: Option<(Tree, Marks)>,
    /// Git was not asked about it.
    pub is_unasked: bool,
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
    let (tree, now, said) = match (why, last.tree.clone()) {
        (Why::OnlyGit, Some((tree, then))) => {
            last.is_unasked = false;
            // Where more has changed since there is another hint, or the next scan.
            let said = if then == marks { ask(&marks, &mut last.slow_at).await } else { None };
            (tree, then, said)
        }
        _ => match read_anew(directory, last, why, marks).await {
            Ok(seen) => seen,
            Err(at_work) => return Look { tree: last.told(), at_work: Some(at_work) },
        },
    };
    if let (Some(git), Some(said)) = (&now.git, said) {
        let place = now.directory.clone().unwrap_or_default();
        let said = said.map(|status| standing(&status, &prefix(git, &place), &tree.files));
        last.git = Some(Asked { hash: tree.hash.clone(), git: git.clone(), said });
    } else if !last.is_unasked && !is_known(last.git.as_ref(), Some(&tree.hash), &now) {
        last.git = None;
    }
    last.tree = Some((tree, now));
    Look { tree: last.told(), at_work: None }
}

/// The tree with the marks of its reading, and what git says of it if it was asked.
async fn read_anew(
    directory: &Path,
    last: &mut LastLook,
    why: Why,
    marks: Marks,
) -> Result<(Tree, Marks, Option<Result<String, String>>), AtWork> {
    let was_unasked = std::mem::take(&mut last.is_unasked);
    let may_differ = match why {
        Why::Hint => false,
        Why::Rescan => was_unasked || !is_known(last.git.as_ref(), None, &marks),
        Why::OnlyGit | Why::Forced => true,
    };
    let (path, mut read) = (directory.to_owned(), std::mem::take(&mut last.read));
    let reading = blocking(move || (fleet_tree::read(&path, &mut read), read));
    // Beside the reading: it would take as long again.
    let early = async { if may_differ { ask(&marks, &mut last.slow_at).await } else { None } };
    let ((read, last_read), early) = tokio::join!(reading, early);
    last.read = last_read;
    let (tree, now) = read?;
    if why == Why::Hint {
        last.is_unasked = can_ask(&now, last.slow_at);
        return Ok((tree, now, None));
    }
    let said = match early {
        Some(said) if now == marks => Some(said),
        _ if is_known(last.git.as_ref(), Some(&tree.hash), &now) => None,
        _ => ask(&now, &mut last.slow_at).await,
    };
    Ok((tree, now, said))
}

impl LastLook {
    /// What was read last, with what git said of it.
    fn told(&self) -> Option<Tree> {
        let (mut tree, marks) = self.tree.clone()?;
        let is_of_these = is_known(self.git.as_ref(), Some(&tree.hash), &marks);
        let same_work_tree = |asked: &Asked| marks.git.as_ref().is_some_and(|git| git.tree == asked.git.tree);
        match self.git.as_ref().filter(|asked| same_work_tree(asked)).map(|asked| &asked.said) {
            // A directory that git leaves out stays one, whatever changes in it.
            Some(Ok(Standing::Foreign)) => tree.commit = None,
            _ if !is_of_these => {}
            Some(Ok(Standing::Clean)) => tree.dirty = Some(false),
            Some(Ok(Standing::Dirty)) => tree.dirty = Some(true),
            Some(Err(why)) => {
                tree.problems.push(of_git(format!("whether the files are those of the commit is unknown: {why}")));
            }
            None => {}
        }
        Some(tree)
    }
}

/// Whether git was asked about this: the same of its own files, and the same hash where one is given.
fn is_known(asked: Option<&Asked>, hash: Option<&str>, now: &Marks) -> bool {
    match asked {
        Some(asked) => Some(&asked.git) == now.git.as_ref() && hash.is_none_or(|hash| hash == asked.hash),
        None => now.git.is_none(),
    }
}

/// Whether there is a work tree to ask about, and asking does not take too long.
fn can_ask(marks: &Marks, slow_at: Option<Instant>) -> bool {
    let (Some(git), Some(directory)) = (marks.git.as_ref(), marks.directory.as_deref()) else { return false };
    !is_told(directory, Some(&git.tree)) && slow_at.is_none_or(|at| at.elapsed() >= NOT_AGAIN)
}

/// `None` where there is no work tree to ask about, or asking takes too long.
async fn ask(marks: &Marks, slow_at: &mut Option<Instant>) -> Option<Result<String, String>> {
    let (git, directory) = (marks.git.as_ref()?, marks.directory.as_deref()?);
    if !can_ask(marks, *slow_at) {
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
