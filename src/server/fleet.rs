//! Pure. The fleet as checked: what every host should do, with its groups applied and every reference resolved.
//! The road is `read_tree` (directory to texts), `load` (texts to `Fleet` and problems; `raw`, `settings`, `rules`, `remembered` and
//! `effective` are its parts), `schedule_set` (what a host is sent). Nothing after `load` checks again.
//! Does not watch the directory, and holds no secret: `secrets` reads one when a host is to be sent it.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono_tz::Tz;

use super::alert_rules::{Absence, Alarms};
use crate::id::{GroupName, HostName, RepositoryName, ScheduleId};
use crate::protocol::schedule::Schedule;
use crate::protocol::text::Span;
use crate::toml_reader::Place;
use secret_text::SecretText;
use settings::ServerSettings;

pub mod channels;
pub mod difference;
mod effective;
mod fields;
pub mod load;
pub mod maintenance;
mod maintenance_checks;
mod raw;
mod raw_schedule;
pub mod read_tree;
pub mod remembered;
mod retention_checks;
mod rules;
pub mod schedule_set;
pub mod secret_commands;
pub mod secret_text;
pub mod secrets;
pub mod settings;

/// A whole configuration directory. Made by `load::load`; complete only where there was no error.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Fleet {
    pub settings: ServerSettings,
    pub repositories: BTreeMap<RepositoryName, Repository>,
    pub groups: BTreeMap<GroupName, Group>,
    /// The same `Arc` as before where a host stayed as it was from one load to the next.
    pub hosts: BTreeMap<HostName, Arc<Host>>,
    /// The hosts that use each repository, sorted.
    pub users: BTreeMap<RepositoryName, Vec<HostName>>,
    /// What each host maintains that is elected to.
    pub elected: BTreeMap<HostName, Vec<RepositoryName>>,
}

impl Fleet {
    /// The hosts that use this repository.
    pub fn hosts_of(&self, repository: &RepositoryName) -> &[HostName] {
        self.users.get(repository).map_or(&[], Vec::as_slice)
    }

    /// The repositories that this host maintains.
    pub fn maintained_by(&self, host: &HostName) -> impl Iterator<Item = &Repository> {
        self.elected.get(host).into_iter().flatten().filter_map(|name| self.repositories.get(name))
    }
}

/// What is left of a group after its hosts took what they share.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group {
    /// The hosts that list it, sorted.
    pub hosts: Vec<HostName>,
}

/// A managed machine with its effective values: groups applied in the listed order, its own file last.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    pub name: HostName,
    /// In the order in which they are applied.
    pub groups: Vec<GroupName>,
    /// `None` only for a host without a schedule that needs one.
    pub repository: Option<RepositoryName>,
    /// The groups' and the host's; already part of each backup schedule's.
    pub tags: Vec<String>,
    /// Already part of each schedule that names no zone; `None`: the zone that the machine itself has.
    pub timezone: Option<Tz>,
    /// When its agent's silence needs somebody.
    pub absence: Absence,
    /// Sorted by id, each once; disabled ones are here too, and those of the repositories that it maintains.
    pub schedules: Vec<HostSchedule>,
}

impl Host {
    pub fn schedule(&self, id: &ScheduleId) -> Option<&HostSchedule> {
        self.schedules.binary_search_by(|held| held.schedule.id.cmp(id)).ok().map(|at| &self.schedules[at])
    }
}

/// A schedule of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSchedule {
    /// As the agent gets it.
    pub schedule: Schedule,
    /// What is watched for; the server's business only.
    pub alarms: Alarms,
    /// Who is told that a job begins and ends, as Healthchecks is: an address, with `{host}`. Likewise.
    pub ping_url: Option<SecretText>,
}

/// Where restic keeps data. `{host}` in texts stands for the host's name until `for_host` replaces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    pub name: RepositoryName,
    /// As restic takes it, without credentials.
    pub url: String,
    pub username: Option<String>,
    /// The backend's password.
    pub credential: Option<SecretSource>,
    /// The repository's password.
    pub password: Option<SecretSource>,
    /// More environment for restic; never a secret.
    pub env: BTreeMap<String, String>,
    /// Jobs at once across the fleet, 1 or more; `None`: no limit.
    pub max_parallel: Option<u32>,
    /// KiB per second; 0 is unlimited.
    pub limit_upload_kib: u64,
    /// KiB per second; 0 is unlimited.
    pub limit_download_kib: u64,
    /// How long restic waits for a lock; zero: not at all.
    pub retry_lock: Span,
    pub maintenance: Option<Maintenance>,
}

/// A reference to a secret, and where it is written, so that a secret that cannot be read is told with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSource {
    pub secret: SecretRef,
    /// The configuration file, relative to the directory.
    pub file: String,
    pub place: Place,
}

/// Where a secret is. Never the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretRef {
    /// A path below one of the secret roots, with `{host}`; relative paths begin at the configuration directory.
    File(String),
    /// A name in server.toml's `[secret_commands]`.
    Command(String),
    /// A name in agent.toml's `[secrets]`: the server never learns it.
    Agent(String),
}

/// What one elected host does for a repository, with what its maintenance has of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintenance {
    pub host: HostName,
    /// Another way to the same repository, such as the port on which data may be deleted.
    pub url: Option<String>,
    pub username: Option<String>,
    pub credential: Option<SecretSource>,
    pub password: Option<SecretSource>,
    /// A cron expression; retention is each schedule's own.
    pub forget: Option<String>,
    pub prune: Option<MaintenancePrune>,
    pub check: Option<MaintenanceCheck>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaintenancePrune {
    pub cron: String,
    /// As restic takes it: "10%", "5G", "unlimited".
    pub max_unused: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaintenanceCheck {
    pub cron: String,
    /// As restic takes it, or "rolling/12".
    pub read_data_subset: Option<String>,
    pub read_data: bool,
}

/// A text of a repository for one host: `{host}` becomes its name.
pub fn for_host(template: &str, host: &HostName) -> String {
    template.replace("{host}", host.as_str())
}
