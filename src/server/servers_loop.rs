//! Edge. Keeps up with the other servers of the state directory: notices those that come and go, hears their bells, and
//! refreshes the journals that they changed, which wakes whoever waits here. Watched by notify, and looked at every second
//! anyway: a shared file system may have no events. Does not decide or answer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use notify::{EventKind, RecursiveMode, Watcher};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::app::{App, FLEET, blocking, stopped};
use super::bell::{Heard, Listener};
use super::lease_desk::LeaseDesk;
use super::servers::{Other, Servers};
use crate::atomic_file;
use crate::file_error::{FileError, chain};

/// Looked at this often whatever was noticed.
const LOOK: Duration = Duration::from_secs(1);
/// Journals read at once.
const AT_ONCE: usize = 32;

/// Runs until the server stops. Must run before the first request is answered.
pub async fn run(app: Arc<App>) {
    let servers = Arc::clone(&app.shared.servers);
    let Some(mut wanted) = servers.wanted.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    let (sender, mut hints) = mpsc::channel::<()>(1);
    let mut watcher = watcher(sender);
    let mut watched: Vec<PathBuf> = Vec::new();
    watch(&mut watcher, servers.dir());
    let mut listeners: BTreeMap<PathBuf, Listener> = BTreeMap::new();
    let mut stopping = app.stopping.subscribe();
    let mut waiting: Vec<oneshot::Sender<()>> = Vec::new();
    loop {
        app.shared.tell_again();
        match keep_up(&app, &mut listeners).await {
            Ok(()) => {
                for done in waiting.drain(..) {
                    // Whoever asked may have gone.
                    let _ = done.send(());
                }
            }
            Err(error) => {
                tracing::warn!("the other servers cannot be followed, the next look tries again: {}", chain(&error));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        let present: Vec<PathBuf> = listeners.keys().cloned().collect();
        for gone in watched.iter().filter(|dir| !present.contains(dir)) {
            let _ = watcher.as_mut().map(|watcher| watcher.unwatch(gone));
        }
        for new in present.iter().filter(|dir| !watched.contains(dir)) {
            watch(&mut watcher, new);
        }
        watched = present;
        tokio::select! {
            () = stopped(&mut stopping) => return,
            Some(done) = wanted.recv() => {
                waiting.push(done);
                while let Ok(more) = wanted.try_recv() {
                    waiting.push(more);
                }
            }
            Some(()) = hints.recv() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn watcher(sender: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let handler = move |event: notify::Result<notify::Event>| {
        // Reading makes Access events: looking again on those would go on for ever.
        if event.is_ok_and(|event| !matches!(event.kind, EventKind::Access(_))) {
            let _ = sender.try_send(());
        }
    };
    let made = notify::recommended_watcher(handler);
    made.inspect_err(|error| tracing::warn!(%error, "other servers' changes are seen once a second only")).ok()
}

fn watch(watcher: &mut Option<notify::RecommendedWatcher>, dir: &std::path::Path) {
    if let Some(watcher) = watcher {
        // What cannot be watched is looked at every second.
        let _ = watcher.watch(dir, RecursiveMode::NonRecursive);
    }
}

/// One look: everything that others made durable before it is in memory after it.
async fn keep_up(app: &Arc<App>, listeners: &mut BTreeMap<PathBuf, Listener>) -> Result<(), FileError> {
    let servers = Arc::clone(&app.shared.servers);
    let looker = Arc::clone(&servers);
    let (living, dead) = blocking(move || looker.look()).await?;
    let new: Vec<Other> = living.iter().filter(|other| !listeners.contains_key(&other.dir)).cloned().collect();
    for other in &new {
        tracing::info!(pid = other.about.pid, hostname = %other.about.hostname, "another server shares this state directory");
        listeners.insert(other.dir.clone(), Servers::listener(other));
    }
    let gone: Vec<PathBuf> =
        listeners.keys().filter(|dir| living.iter().all(|other| other.dir != **dir)).cloned().collect();
    let mut changed = Heard::Names(std::collections::BTreeSet::new());
    for (dir, listener) in listeners.iter_mut() {
        let heard = match listener.listen() {
            Ok(heard) => heard,
            // It took its directory with it.
            Err(_) if gone.contains(dir) => Heard::Anything,
            Err(error) => return Err(error),
        };
        changed = both(changed, heard);
    }
    // What a server that died had made durable and not told yet.
    if !gone.is_empty() || !dead.is_empty() {
        changed = Heard::Anything;
    }
    if !new.is_empty() || !gone.is_empty() || servers.others().len() != living.len() {
        if !new.is_empty() {
            // From here on our batches are shown and told; those that began before must have ended before anyone relies on that.
            servers.set_others(living.clone());
            let since = crate::clock::received_at();
            while app.shared.in_flight.horizon() < since {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        refresh(app, &changed).await;
        servers.set_others(living.clone());
    } else {
        // Directories that they read may be others by now.
        servers.set_others(living.clone());
        refresh(app, &changed).await;
    }
    listeners.retain(|dir, _| !gone.contains(dir));
    if matches!(changed, Heard::Anything) {
        // It may have left a lease half done.
        app.leases.attend_all();
    }
    blocking(move || {
        living.iter().try_for_each(|other| servers.notice(other))?;
        dead.iter().try_for_each(|dir| atomic_file::remove_dir(dir))
    })
    .await
}

fn both(one: Heard, other: Heard) -> Heard {
    match (one, other) {
        (Heard::Names(mut names), Heard::Names(more)) => {
            names.extend(more);
            Heard::Names(names)
        }
        _ => Heard::Anything,
    }
}

async fn refresh(app: &Arc<App>, changed: &Heard) {
    let is_meant = |name: &str| match changed {
        Heard::Names(names) => names.contains(name),
        Heard::Anything => true,
    };
    if is_meant(FLEET) {
        app.fleet.refresh().await;
    }
    for name in app.leases.repositories() {
        if let Some(slot) = app.leases.known_slot(&name).filter(|slot| is_meant(slot.name())) {
            slot.refresh().await;
        }
    }
    // A repository's leases, or a host, that another server made known first.
    if let Heard::Names(names) = changed {
        for name in names.iter().filter_map(|name| LeaseDesk::repository_of(name)) {
            let opener = Arc::clone(app);
            if let Err(error) = blocking(move || opener.leases.slot(&name).map(drop)).await {
                tracing::warn!("leases that another server has: {}", chain(&error));
            }
        }
        for name in names.iter().filter_map(|name| name.parse().ok()) {
            let opener = Arc::clone(app);
            if let Err(error) = blocking(move || opener.open_host(&name).map(drop)).await {
                tracing::warn!("a host that another server has: {}", chain(&error));
            }
        }
    }
    let mut refreshing = JoinSet::new();
    for host in app.hosts().into_iter().filter(|host| is_meant(host.name.as_str())) {
        while refreshing.len() >= AT_ONCE {
            refreshing.join_next().await;
        }
        refreshing.spawn(async move {
            host.slot.refresh().await;
            // A log or a sign of life is in no journal.
            host.slot.wake();
        });
    }
    while refreshing.join_next().await.is_some() {}
}
