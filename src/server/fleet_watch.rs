//! Edge. Hints that the configuration or a secret may have changed. A hint is never the truth: whoever gets one looks at everything
//! again. Does not read or debounce.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::fleet::Fleet;
use super::git_tree::GitTree;
use super::tree_marks::{Marks, way_to};

/// Where secrets lie: a change there is a change of settings.
pub fn secret_roots(directory: &Path, fleet: &Fleet) -> Vec<PathBuf> {
    let roots = fleet.settings.secret_roots.iter().map(|root| directory.join(root));
    roots.filter_map(|root| root.canonicalize().ok()).collect()
}

/// What is watched.
#[derive(Debug, Default, Clone, PartialEq)]
struct Watched {
    /// The real directory and the secrets', with all below.
    whole: Vec<PathBuf>,
    /// Entries of directories that lead there, each of which something else may replace.
    way: Vec<PathBuf>,
    git: Option<GitTree>,
}

/// The present watch, which follows the directory to wherever it is.
pub struct FleetWatch {
    sender: mpsc::Sender<()>,
    /// `None`: nothing yet. The marks tell a directory that was replaced.
    of: Option<(Marks, Watched)>,
    watcher: Option<RecommendedWatcher>,
    /// Events were lost, and with them perhaps new directories: the watch is to be made anew.
    has_lost: Arc<AtomicBool>,
    /// It has been told that something cannot be watched.
    is_told: bool,
}

impl FleetWatch {
    pub fn new(sender: mpsc::Sender<()>) -> Self {
        Self { sender, of: None, watcher: None, has_lost: Arc::default(), is_told: false }
    }

    /// Watches what there is now, unless it is what is watched already. Best effort: the rescan sees what this would have told.
    pub fn follow(&mut self, directory: &Path, marks: &Marks, roots: &[PathBuf]) {
        let git = marks.git.as_ref().map(|git| git.tree.clone());
        let whole = marks.directory.iter().chain(roots).cloned().collect();
        let watched = Watched { whole, way: way_to(directory), git };
        let of = (marks.without_git(), watched);
        let has_lost = self.has_lost.swap(false, Ordering::Relaxed);
        if !has_lost && self.watcher.is_some() && self.of.as_ref() == Some(&of) {
            return;
        }
        match self.watch(&of.1) {
            Ok(watcher) => (self.of, self.watcher, self.is_told) = (Some(of), Some(watcher), false),
            // What the one before still sees is better than nothing.
            Err(error) if !self.is_told => {
                tracing::warn!(
                    "not every change is noticed at once, the scan every 60 s sees the rest: {}",
                    remedy(&error)
                );
                self.is_told = true;
            }
            Err(_) => {}
        }
    }

    fn watch(&self, watched: &Watched) -> notify::Result<RecommendedWatcher> {
        let (sender, has_lost, of) = (self.sender.clone(), Arc::clone(&self.has_lost), watched.clone());
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let is_hint = match event {
                Ok(event) if event.need_rescan() => {
                    has_lost.store(true, Ordering::Relaxed);
                    true
                }
                // Reading the directory makes Access events: reloading on them would go on for ever.
                Ok(event) if matches!(event.kind, EventKind::Access(_)) => false,
                Ok(event) => event.paths.iter().any(|path| of.is_hint(path)),
                Err(_) => {
                    has_lost.store(true, Ordering::Relaxed);
                    true
                }
            };
            if is_hint {
                let _ = sender.try_send(());
            }
        })?;
        for whole in &watched.whole {
            watcher.watch(whole, RecursiveMode::Recursive)?;
        }
        for directory in watched.way.iter().filter_map(|entry| entry.parent()) {
            let _ = watcher.watch(directory, RecursiveMode::NonRecursive);
        }
        if let Some(git) = &watched.git {
            // Of a work tree above, or one whose `.git` is a file.
            let is_elsewhere = |path: &Path| !watched.whole.iter().any(|whole| path.starts_with(whole));
            for directory in [&git.git_dir, &git.common_dir].into_iter().filter(|path| is_elsewhere(path)) {
                let _ = watcher.watch(directory, RecursiveMode::NonRecursive);
            }
            let _ = watcher.watch(&git.common_dir.join("refs/heads"), RecursiveMode::Recursive);
        }
        Ok(watcher)
    }
}

impl Watched {
    /// Whether an event of this path may be one of the configuration: a log that is written beside it, or the objects that git
    /// stores, would never let it be quiet.
    fn is_hint(&self, path: &Path) -> bool {
        if let Some(git) = &self.git
            && let Ok(below) = path.strip_prefix(&git.git_dir).or_else(|_| path.strip_prefix(&git.common_dir))
        {
            let names = ["HEAD", "ORIG_HEAD", "index", "index.lock", "packed-refs"];
            return below.starts_with("refs") || names.iter().any(|name| below == Path::new(name));
        }
        self.way.iter().any(|entry| entry == path) || self.whole.iter().any(|whole| path.starts_with(whole))
    }
}

fn remedy(error: &notify::Error) -> String {
    match error.kind {
        notify::ErrorKind::MaxFilesWatch => {
            format!("{error}: raise fs.inotify.max_user_watches (sysctl)")
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_stores_and_what_lies_beside_are_no_hints() {
        let git = GitTree { top: "/srv".into(), git_dir: "/srv/.git".into(), common_dir: "/srv/.git".into() };
        let watched =
            Watched { whole: vec!["/srv/fleet".into()], way: vec!["/srv".into(), "/srv/fleet".into()], git: Some(git) };
        for (path, expected) in [
            ("/srv/fleet/hosts/a.toml", true),
            ("/srv/fleet", true),
            ("/srv", true),
            ("/srv/server.log", false),
            ("/srv/.git/index.lock", true),
            ("/srv/.git/refs/heads/main", true),
            ("/srv/.git/HEAD.lock", false),
            ("/srv/.git/objects/ab/cd", false),
            ("/srv/.git/logs/HEAD", false),
        ] {
            assert_eq!(watched.is_hint(Path::new(path)), expected, "{path}");
        }
    }
}
