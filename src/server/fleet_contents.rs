//! Edge. What each host should have, by the configuration that runs: its schedules, its settings with the secrets as their files
//! have them now, and the hashes of both. What nothing changed of is taken from the last time. Does not give it to anybody.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::alert_rules::Absence;
use super::fleet::maintenance::{copy_targets, targets};
use super::fleet::schedule_set::{HostSecrets, config_hash, config_update_of, schedule_hash, schedules_of};
use super::fleet::secret_commands::SecretCommands;
use super::fleet::secrets::{ReadSecrets, SecretPlaces, read_secrets};
use super::fleet::{Fleet, Host as FleetHost, Repository};
use super::host::Host;
use super::host_content::HostContent;
use crate::id::HostName;
use crate::parallel;
use crate::problem::{Problem, Severity};
use crate::protocol::command::ConfigUpdate;
use crate::repository_target::RepositoryTarget;

/// What all contents of one configuration share. No `Debug`: the key is a secret.
pub struct MadeFrom {
    /// Of the hashes of settings; the state directory's.
    pub key: [u8; 32],
    /// The git commit of the configuration, where it has one.
    pub commit: Option<String>,
    pub dirty: Option<bool>,
    /// When the configuration was adopted.
    pub adopted_at: Option<DateTime<Utc>>,
}

/// The contents that were made last, and what of. A default one: none.
#[derive(Debug, Default)]
pub struct LastContents {
    fleet: Arc<Fleet>,
    hosts: HashMap<HostName, Made>,
}

impl LastContents {
    /// Whether the host's own part of the configuration is what it was.
    pub fn has_same(&self, host: &Arc<FleetHost>) -> bool {
        self.hosts.get(&host.name).is_some_and(|made| Arc::ptr_eq(&made.host, host))
    }

    /// Of all hosts of this fleet.
    pub fn of(fleet: &Arc<Fleet>, made: Vec<Made>) -> Self {
        Self { fleet: Arc::clone(fleet), hosts: made.into_iter().map(|made| (made.host.name.clone(), made)).collect() }
    }
}

/// One host's content, and what it was made of.
#[derive(Debug)]
pub struct Made {
    pub host: Arc<FleetHost>,
    pub content: Arc<HostContent>,
    /// `None`: they could not be read.
    secrets: Option<Arc<ReadSecrets>>,
}

/// What is the same for all hosts while contents are made.
pub struct Making<'a> {
    pub fleet: &'a Arc<Fleet>,
    pub directory: &'a Path,
    pub commands: &'a SecretCommands,
    pub from: &'a MadeFrom,
    pub last: &'a LastContents,
    /// The hosts that there are already.
    pub known: &'a BTreeMap<HostName, Arc<Host>>,
}

/// Makes the contents of these hosts, on as many threads as there are processors. Blocks. The problems are secrets that cannot
/// be read.
pub fn make(making: &Making<'_>, hosts: &[Arc<FleetHost>]) -> (Vec<Made>, Vec<Problem>) {
    let places = SecretPlaces::of(making.fleet, making.directory, making.commands);
    let same_places = making.last.fleet.settings.secret_roots == making.fleet.settings.secret_roots;
    let made = parallel::map(hosts, |host| {
        let mut problems = Vec::new();
        let made = making.make(host, &places, same_places, &mut problems);
        (made, problems)
    });
    let (made, problems): (Vec<_>, Vec<_>) = made.into_iter().unzip();
    (made, problems.into_iter().flatten().collect())
}

impl Making<'_> {
    fn make(
        &self,
        host: &Arc<FleetHost>,
        places: &SecretPlaces<'_>,
        same_places: bool,
        problems: &mut Vec<Problem>,
    ) -> Made {
        let before = self.last.hosts.get(&host.name);
        let same_settings = before.filter(|made| same_places && self.has_same_settings(made, host));
        let (config, config_hash, secrets) = match same_settings {
            Some(Made { content, secrets: Some(secrets), .. }) if secrets.are_unchanged(places) => {
                (Arc::clone(&content.config), content.config_hash.clone(), Some(Arc::clone(secrets)))
            }
            _ => self.settings(host, places, problems),
        };
        let same_schedules = before.filter(|made| Arc::ptr_eq(&made.host, host)).map(|made| &made.content);
        let (schedules, schedule_hash, alarms, pings) = match same_schedules {
            Some(content) => {
                let (alarms, pings) = (Arc::clone(&content.alarms), Arc::clone(&content.pings));
                (Arc::clone(&content.schedules), content.schedule_hash.clone(), alarms, pings)
            }
            None => {
                let schedules = schedules_of(host);
                let hash = schedule_hash(&schedules);
                let alarms = host.schedules.iter().map(|held| (held.schedule.id.clone(), held.alarms));
                let pings = host.schedules.iter();
                let pings = pings.filter_map(|held| Some((held.schedule.id.clone(), held.ping_url.clone()?)));
                (schedules.into(), hash, Arc::new(alarms.collect()), Arc::new(pings.collect()))
            }
        };
        let maintains = self.fleet.elected.contains_key(&host.name).then(|| Arc::clone(self.fleet));
        let (commit, adopted_at) = (self.from.commit.clone(), self.from.adopted_at);
        let content = HostContent {
            schedules,
            schedule_hash,
            config,
            config_hash,
            alarms,
            absence: host.absence,
            pings,
            commit,
            dirty: self.from.dirty,
            adopted_at,
            maintains,
            configured: true,
            agent_update: self.fleet.settings.agent_update.clone(),
            repository: target_of(self.fleet, host),
        };
        Made { host: Arc::clone(host), content: Arc::new(content), secrets }
    }

    fn settings(
        &self,
        host: &FleetHost,
        places: &SecretPlaces<'_>,
        problems: &mut Vec<Problem>,
    ) -> (Arc<ConfigUpdate>, String, Option<Arc<ReadSecrets>>) {
        let mut tell = |unread: &[Problem]| {
            problems.extend(unread.iter().map(|p| Problem { severity: Severity::Warning, ..p.clone() }));
        };
        match read_secrets(self.fleet, places, host) {
            Ok(read) if read.unread.is_empty() => {
                let config = config_update_of(self.fleet, host, &read.secrets);
                let hash = config_hash(&config, &self.from.key);
                (Arc::new(config), hash, Some(Arc::new(read)))
            }
            Ok(read) => {
                tell(&read.unread);
                let (config, hash) = self.partly_kept_settings(host, &read.secrets);
                (config, hash, None)
            }
            Err(unread) => {
                tell(&unread);
                let (config, hash) = self.kept_settings(host);
                (config, hash, None)
            }
        }
    }

    /// A host that maintains repositories some of whose secrets cannot be read keeps what it has of those.
    fn partly_kept_settings(&self, host: &FleetHost, secrets: &HostSecrets) -> (Arc<ConfigUpdate>, String) {
        let known = self.known.get(&host.name);
        let present = known.and_then(|known| known.content()).map(|content| Arc::clone(&content.config));
        let has_some = known.is_some_and(|known| known.slot.durable().state.config_wanted.is_some());
        if present.is_none() && has_some {
            return self.kept_settings(host);
        }
        let mut config = config_update_of(self.fleet, host, secrets);
        let kept = present.as_ref().and_then(|present| present.maintained.clone()).unwrap_or_default();
        let maintained = config.maintained.get_or_insert_default();
        for target in self.fleet.maintained_by(&host.name).flat_map(|repository| targets(self.fleet, repository)) {
            if let Some(access) = kept.get(&target).filter(|_| !maintained.contains_key(&target)) {
                maintained.insert(target, access.clone());
            }
        }
        let kept = present.and_then(|present| present.copy_targets.clone()).unwrap_or_default();
        let copied_to = config.copy_targets.get_or_insert_default();
        for (target, _) in copy_targets(self.fleet, host) {
            if let Some(access) = kept.get(&target).filter(|_| !copied_to.contains_key(&target)) {
                copied_to.insert(target, access.clone());
            }
        }
        let hash = config_hash(&config, &self.from.key);
        (Arc::new(config), hash)
    }

    /// Whether what settings are made of, secrets aside, is what it was.
    fn has_same_settings(&self, made: &Made, host: &FleetHost) -> bool {
        let (last, fleet) = (&*self.last.fleet, &**self.fleet);
        let maintained = |fleet: &Fleet| -> Vec<(Repository, Vec<RepositoryTarget>)> {
            let maintained = fleet.maintained_by(&host.name);
            maintained.map(|repository| (repository.clone(), targets(fleet, repository))).collect()
        };
        last.settings.hook_shell == fleet.settings.hook_shell
            && last.settings.secret_commands == fleet.settings.secret_commands
            && repository_of(last, &made.host) == repository_of(fleet, host)
            && maintained(last) == maintained(fleet)
            && copy_targets(last, &made.host) == copy_targets(fleet, host)
    }

    /// A host whose secrets cannot be read keeps the settings that it has; its schedules are not touched by that.
    fn kept_settings(&self, host: &FleetHost) -> (Arc<ConfigUpdate>, String) {
        let known = self.known.get(&host.name);
        if let Some(present) = known.and_then(|known| known.content()) {
            return (Arc::clone(&present.config), present.config_hash.clone());
        }
        // After a restart: what the agent has stays, and that is what the journal knows by its hash.
        let wanted = known.and_then(|known| known.slot.durable().state.config_wanted.clone());
        let config = config_update_of(self.fleet, host, &HostSecrets::default());
        let config =
            ConfigUpdate { repo_password: None, repo_credential: None, maintained: None, copy_targets: None, ..config };
        (Arc::new(config), wanted.map_or(String::new(), |wanted| wanted.hash))
    }
}

fn repository_of<'a>(fleet: &'a Fleet, host: &FleetHost) -> Option<&'a Repository> {
    host.repository.as_ref().and_then(|name| fleet.repositories.get(name))
}

/// The host's repository, or its own part of that.
fn target_of(fleet: &Fleet, host: &FleetHost) -> Option<RepositoryTarget> {
    let repository = repository_of(fleet, host)?;
    let own = repository.url.contains("{host}").then(|| host.name.clone());
    Some(RepositoryTarget { repository: repository.name.clone(), host: own })
}

/// What a host without a file should have: nothing to run, and its settings left as they are.
pub fn no_content(from: &MadeFrom) -> HostContent {
    let config = ConfigUpdate::default();
    HostContent {
        schedule_hash: schedule_hash(&[]),
        schedules: Arc::new([]),
        config_hash: config_hash(&config, &from.key),
        config: Arc::new(config),
        alarms: Arc::default(),
        absence: Absence::default(),
        pings: Arc::default(),
        commit: from.commit.clone(),
        dirty: from.dirty,
        adopted_at: from.adopted_at,
        maintains: None,
        configured: false,
        agent_update: None,
        repository: None,
    }
}
