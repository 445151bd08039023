//! Edge. Hints that the configuration or a secret may have changed. A hint is never the truth: whoever gets one looks at everything
//! again. Does not read or debounce.

use std::path::{Path, PathBuf};

use notify::{EventKind, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::fleet::Fleet;

/// Where secrets lie: a change there is a change of settings.
pub fn secret_roots(directory: &Path, fleet: &Fleet) -> Vec<PathBuf> {
    let roots = fleet.settings.secret_roots.iter().map(|root| directory.join(root));
    roots.filter_map(|root| root.canonicalize().ok()).collect()
}

/// Watches the directory, its parent (a swapped symlink is an event of its parent), and the secrets. An event is a hint, never
/// the truth.
pub fn watch(directory: &Path, roots: &[PathBuf], sender: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let own: Vec<PathBuf> = roots.iter().map(PathBuf::as_path).chain([directory]).map(Path::to_owned).collect();
    let handler = move |event: notify::Result<notify::Event>| {
        let is_hint = event.is_ok_and(|event| {
            // Reading the directory makes Access events: reloading on them would go on for ever. And of the parent's entries
            // only the directory's own counts: a log that is written beside it would never let it be quiet.
            let own = event.need_rescan() || event.paths.iter().any(|path| own.iter().any(|own| path.starts_with(own)));
            own && !matches!(event.kind, EventKind::Access(_))
        });
        if is_hint {
            let _ = sender.try_send(());
        }
    };
    let watched = notify::recommended_watcher(handler).and_then(|mut watcher| {
        watcher.watch(directory, RecursiveMode::Recursive)?;
        if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            // Best effort: the rescan sees what this would have told.
            let _ = watcher.watch(parent, RecursiveMode::NonRecursive);
        }
        for root in roots {
            let _ = watcher.watch(root, RecursiveMode::Recursive);
        }
        Ok(watcher)
    });
    watched.inspect_err(|error| tracing::warn!(%error, "changes are seen by the scan every 60 s only")).ok()
}
