//! Edge. Gives every host what the configuration that runs says it should have: reads its secrets, makes its content, and has new
//! versions decided in its journal. Does not read the configuration or choose which one runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::task::JoinSet;

use super::app::{App, blocking};
use super::fleet::schedule_set::{HostSecrets, config_hash, config_update_of, schedule_hash, schedules_of};
use super::fleet::secrets::read_secrets;
use super::fleet::{Fleet, Host as FleetHost};
use super::fleet_loop::{StartError, Tree};
use super::host::Host;
use super::host_content::HostContent;
use super::versions::decide_versions;
use crate::id::HostName;
use crate::problem::{Problem, Severity};
use crate::protocol::command::ConfigUpdate;

/// Journals written at once when many hosts change.
const HOSTS_AT_ONCE: usize = 64;

/// Gives every host its content; hosts without a file get none of everything. Returns the secrets that cannot be read.
pub async fn install(app: &Arc<App>, directory: &Path, tree: &Tree) -> Result<Vec<Problem>, StartError> {
    let (fleet, path, key) = (Arc::clone(&tree.fleet), directory.to_owned(), app.state_dir.hash_key);
    let made_from = MadeFrom { commit: tree.commit.clone(), adopted_at: app.fleet.durable().state.adopted_at };
    let of_the_gone = no_content(&key, &made_from);
    let known: BTreeMap<HostName, Arc<Host>> = app.hosts().into_iter().map(|host| (host.name.clone(), host)).collect();
    let (contents, problems) = blocking(move || {
        let hosts: Vec<(&HostName, &FleetHost)> = fleet.hosts.iter().collect();
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let content_of =
            |name: &HostName, host: &FleetHost, problems: &mut Vec<Problem>| match read_secrets(&fleet, &path, host) {
                Ok(secrets) => content_of(&fleet, host, &secrets, &key, &made_from),
                Err(unread) => {
                    problems.extend(unread.into_iter().map(|p| Problem { severity: Severity::Warning, ..p }));
                    let content = content_of(&fleet, host, &HostSecrets::default(), &key, &made_from);
                    keeping_settings(content, &known, name)
                }
            };
        let of_some = |hosts: &[(&HostName, &FleetHost)]| {
            let mut problems = Vec::new();
            let contents = hosts.iter().map(|(name, host)| ((*name).clone(), content_of(name, host, &mut problems)));
            (contents.collect::<Vec<_>>(), problems)
        };
        // Reading secrets and hashing is most of what an edit costs with ten thousand hosts.
        std::thread::scope(|scope| {
            let parts = hosts.chunks(hosts.len().div_ceil(threads).max(1));
            let parts: Vec<_> = parts.map(|part| scope.spawn(|| of_some(part))).collect();
            let (mut contents, mut problems) = (Vec::new(), Vec::new());
            for part in parts {
                let (more, unread) = part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                contents.extend(more);
                problems.extend(unread);
            }
            (contents, problems)
        })
    })
    .await;
    let mut writers = JoinSet::new();
    let gone = app.hosts().into_iter().filter(|host| !tree.fleet.hosts.contains_key(&host.name));
    let gone = gone.map(|host| (host.name.clone(), of_the_gone.clone()));
    for (name, content) in contents.into_iter().chain(gone.collect::<Vec<_>>()) {
        let content = Arc::new(content);
        // Most hosts have nothing to be told.
        if let Some(host) = app.host(&name)
            && decide_versions(&host.slot.durable().state, &content).is_empty()
        {
            show(&host, content);
            continue;
        }
        while writers.len() >= HOSTS_AT_ONCE {
            if let Some(done) = writers.join_next().await {
                done.unwrap_or(Ok(()))?;
            }
        }
        let app = Arc::clone(app);
        writers.spawn(async move { give(&app, &name, content).await });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap_or(Ok(()))?;
    }
    Ok(problems)
}

async fn give(app: &Arc<App>, name: &HostName, content: Arc<HostContent>) -> Result<(), StartError> {
    let (opener, host_name) = (Arc::clone(app), name.clone());
    let host = blocking(move || opener.open_host(&host_name)).await?;
    show(&host, Arc::clone(&content));
    // Also where the content is as before: the versions could not be written then.
    host.append(move |state, _| decide_versions(state, &content)).await?;
    Ok(())
}

/// From now on the host's content; wakes its poll where an agent would be told something else.
fn show(host: &Host, content: Arc<HostContent>) {
    let is_news = host.content().is_none_or(|before| !before.says_the_same(&content));
    host.set_content(content);
    if is_news {
        host.slot.wake();
    }
}

/// What all contents of one configuration share.
#[derive(Debug, Clone)]
struct MadeFrom {
    commit: Option<String>,
    adopted_at: Option<DateTime<Utc>>,
}

fn content_of(
    fleet: &Fleet,
    host: &FleetHost,
    secrets: &HostSecrets,
    key: &[u8; 32],
    made_from: &MadeFrom,
) -> HostContent {
    let schedules = schedules_of(host);
    let config = config_update_of(fleet, host, secrets);
    let max_age = host.schedules.iter().filter_map(|held| Some((held.schedule.id.clone(), held.max_age?)));
    HostContent {
        schedule_hash: schedule_hash(&schedules),
        schedules,
        config_hash: config_hash(&config, key),
        config,
        max_age: max_age.collect(),
        commit: made_from.commit.clone(),
        adopted_at: made_from.adopted_at,
        configured: true,
    }
}

/// A host whose secrets cannot be read keeps the settings that it has; its schedules are not touched by that.
fn keeping_settings(content: HostContent, known: &BTreeMap<HostName, Arc<Host>>, name: &HostName) -> HostContent {
    let host = known.get(name);
    if let Some(present) = host.and_then(|host| host.content()) {
        return HostContent { config: present.config.clone(), config_hash: present.config_hash.clone(), ..content };
    }
    // After a restart: what the agent has stays, and that is what the journal knows by its hash.
    let wanted = host.and_then(|host| host.slot.durable().state.config_wanted.clone());
    let config = ConfigUpdate { repo_password: None, repo_credential: None, ..content.config };
    HostContent { config, config_hash: wanted.map_or(String::new(), |wanted| wanted.hash), ..content }
}

/// What a host without a file should have: nothing to run, and its settings left as they are.
fn no_content(key: &[u8; 32], made_from: &MadeFrom) -> HostContent {
    let config = ConfigUpdate::default();
    HostContent {
        schedule_hash: schedule_hash(&[]),
        schedules: Vec::new(),
        config_hash: config_hash(&config, key),
        config,
        max_age: BTreeMap::new(),
        commit: made_from.commit.clone(),
        adopted_at: made_from.adopted_at,
        configured: false,
    }
}
