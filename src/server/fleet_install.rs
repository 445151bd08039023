//! Edge. Gives every host what the configuration that runs says it should have, and has new versions decided in its journal. Does
//! not read the configuration, choose which one runs, or make contents: `fleet_contents` does.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinSet;

use super::app::{App, blocking};
use super::fleet::Fleet;
use super::fleet::Repository;
use super::fleet::secret_commands::questions;
use super::fleet_contents::{LastContents, MadeFrom, Making, make, no_content};
use super::fleet_loop::StartError;
use super::fleet_tree::Tree;
use super::host::Host;
use super::host_content::HostContent;
use super::lease_grants::LeaseRules;
use super::versions::decide_versions;
use crate::id::HostName;
use crate::problem::Problem;

/// Threads that write when many hosts change: each waits for the disk most of the time, and requests need some of them too.
const WRITERS: usize = 16;

/// Gives every host its content, those whose part of the configuration changed first; hosts without a file get none of everything.
/// Returns the secrets that cannot be read. `last` becomes what was made.
pub async fn install(
    app: &Arc<App>,
    directory: &Path,
    tree: &Tree,
    last: &mut LastContents,
) -> Result<Vec<Problem>, StartError> {
    let rules = |repository: &Repository| LeaseRules { max_parallel: repository.max_parallel };
    app.leases.set_rules(tree.fleet.repositories.iter().map(|(name, found)| (name.clone(), rules(found))).collect());
    ask_for_secrets(app, &tree.fleet).await;
    let from = MadeFrom {
        key: app.state_dir.hash_key,
        commit: tree.commit.clone(),
        dirty: tree.dirty,
        adopted_at: app.fleet.durable().state.adopted_at,
    };
    let known: BTreeMap<HostName, Arc<Host>> = app.hosts().into_iter().map(|host| (host.name.clone(), host)).collect();
    let gone = known.keys().filter(|name| !tree.fleet.hosts.contains_key(name)).cloned().collect::<Vec<_>>();
    let of_the_gone = Arc::new(no_content(&from));
    let before = Arc::new(std::mem::take(last));
    let shared = Arc::new((from, known));
    let (same, changed): (Vec<_>, Vec<_>) = tree.fleet.hosts.values().cloned().partition(|host| before.has_same(host));
    let (mut all, mut problems) = (Vec::new(), Vec::new());
    for hosts in [changed, same] {
        let (fleet, directory) = (Arc::clone(&tree.fleet), directory.to_owned());
        let (before, shared, commands) = (Arc::clone(&before), Arc::clone(&shared), Arc::clone(&app.secret_commands));
        let (made, unread) = blocking(move || {
            let (from, known) = &*shared;
            let making =
                Making { fleet: &fleet, directory: &directory, commands: &commands, from, last: &before, known };
            make(&making, &hosts)
        })
        .await;
        give_all(app, made.iter().map(|made| (&made.host.name, &made.content))).await?;
        all.extend(made);
        problems.extend(unread);
    }
    give_all(app, gone.iter().map(|name| (name, &of_the_gone))).await?;
    // A repository may be gone, or another's, or take more jobs at once.
    app.leases.attend_all();
    *last = LastContents::of(&tree.fleet, all);
    Ok(problems)
}

/// Has commands asked for secrets. Where another server has settled on other settings than this one made, it may know newer answers
/// than ours: we ask again, else each would put its own back in turns.
async fn ask_for_secrets(app: &Arc<App>, fleet: &Fleet) {
    let differs = |name: &HostName| {
        let host = app.host(name);
        let wanted = host.as_ref().and_then(|host| host.slot.durable().state.config_wanted.clone());
        let ours = host.and_then(|host| host.content());
        wanted.zip(ours).is_some_and(|(wanted, ours)| wanted.hash != ours.config_hash)
    };
    let doubted = if app.shared.servers.in_company() { questions(fleet, differs) } else { HashSet::new() };
    let wish = *app.reload_wanted.borrow();
    app.secret_commands.ask(questions(fleet, |_| true), &doubted, wish).await;
}

/// Returns when every host's versions are durable.
async fn give_all<'a>(
    app: &Arc<App>,
    contents: impl Iterator<Item = (&'a HostName, &'a Arc<HostContent>)>,
) -> Result<(), StartError> {
    let mut told = Vec::new();
    for (name, content) in contents {
        match app.host(name) {
            // Most hosts have nothing to be told.
            Some(host) if decide_versions(&host.slot.durable().state, content).is_empty() => {
                show(&host, Arc::clone(content));
            }
            _ => told.push((name.clone(), Arc::clone(content))),
        }
    }
    let (told, next) = (Arc::new(told), Arc::new(AtomicUsize::new(0)));
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS.min(told.len()) {
        let (app, told, next) = (Arc::clone(app), Arc::clone(&told), Arc::clone(&next));
        writers.spawn_blocking(move || {
            while let Some((name, content)) = told.get(next.fetch_add(1, Ordering::Relaxed)) {
                give(&app, name, content)?;
            }
            Ok::<(), StartError>(())
        });
    }
    while let Some(done) = writers.join_next().await {
        match done.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(given) => given?,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // The runtime is going down: the next start finds what is missing.
            Err(Err(_)) => {}
        }
    }
    Ok(())
}

fn give(app: &Arc<App>, name: &HostName, content: &Arc<HostContent>) -> Result<(), StartError> {
    let host = app.open_host(name)?;
    let is_news = set(&host, Arc::clone(content));
    let content = Arc::clone(content);
    let versions = host.append_here(move |state, _| decide_versions(state, &content))?;
    // Versions wake the poll themselves, and not before they are durable.
    if is_news && versions == 0 {
        host.slot.wake();
    }
    Ok(())
}

/// From now on the host's content; wakes its poll where an agent would be told something else.
fn show(host: &Host, content: Arc<HostContent>) {
    if set(host, content) {
        host.slot.wake();
    }
}

/// Returns whether an agent would be told something else than before.
fn set(host: &Host, content: Arc<HostContent>) -> bool {
    let is_news = host.content().is_none_or(|before| !before.says_the_same(&content));
    host.set_content(content);
    is_news
}
