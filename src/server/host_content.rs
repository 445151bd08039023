//! Pure. What a host should have, as the fleet's configuration says: its schedule set and its settings, each with the hash by
//! which versions are compared. Does not know versions: the journal does.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::access::sha256_hex;
use super::alert_rules::{Absence, Alarms};
use super::fleet::Fleet;
use super::fleet::secret_text::SecretText;
use crate::id::ScheduleId;
use crate::program_version::is_older;
use crate::protocol::command::{AgentUpdateAvailable, ConfigUpdate};
use crate::protocol::schedule::Schedule;
use crate::repository_target::{KnownRepository, RepositoryTarget};

/// One host's desired state. What is large is shared by those of several configurations.
#[derive(Debug, Clone, PartialEq)]
pub struct HostContent {
    /// Sorted by id.
    pub schedules: Arc<[Schedule]>,
    pub schedule_hash: String,
    /// Version 0; every field explicit, so that what is not set is cleared.
    pub config: Arc<ConfigUpdate>,
    pub config_hash: String,
    /// What of each schedule is watched for; all of them are here.
    pub alarms: Arc<BTreeMap<ScheduleId, Alarms>>,
    /// When its agent's silence needs somebody.
    pub absence: Absence,
    /// Who is told that jobs begin and end, by schedule.
    pub pings: Arc<BTreeMap<ScheduleId, SecretText>>,
    /// The git commit of the configuration, where it has one.
    pub commit: Option<String>,
    /// Whether its files are not those of the commit; `None`: unknown.
    pub dirty: Option<bool>,
    /// When the configuration that says so was adopted.
    pub adopted_at: Option<DateTime<Utc>>,
    /// The configuration, for a host that maintains repositories: what a fire of that runs is put together of it.
    pub maintains: Option<Arc<Fleet>>,
    /// The host's file is there; false for one that was removed, whose schedules are none.
    pub configured: bool,
    /// Which agent is wanted. No part of what versions are of: hello's answer has it.
    pub agent_update: Option<Arc<AgentUpdateAvailable>>,
    /// The repository that its jobs work with, unless they name another. No part of what the agent is told.
    pub repository: Option<RepositoryTarget>,
}

impl HostContent {
    /// Whether an agent would be told the same by both.
    pub fn says_the_same(&self, other: &Self) -> bool {
        (&self.schedule_hash, &self.config_hash) == (&other.schedule_hash, &other.config_hash)
    }

    /// The repository and its place; `None`: there is none, or its settings cannot be known at the moment.
    pub fn known_repository(&self) -> Option<KnownRepository> {
        let name = self.repository.clone().filter(|_| !self.config_hash.is_empty())?;
        let url = self.config.repo_url.as_deref().unwrap_or_default();
        Some(KnownRepository { name, url_sha256: sha256_hex(url.as_bytes()) })
    }

    /// Whether what was told of this repository is of the one that the host has now, as far as both are known.
    pub fn has_still(&self, told_of: Option<&KnownRepository>) -> bool {
        let now = self.known_repository();
        told_of.is_none_or(|told| now.is_none_or(|now| now == *told))
    }

    /// Whether an agent of this version is older than the one that is wanted; `None`: none is, or the two cannot be compared.
    pub fn is_behind(&self, agent_version: &str) -> Option<bool> {
        is_older(agent_version, &self.agent_update.as_ref()?.latest_version)
    }

    /// The agent that an older one of this version is to be replaced by.
    pub fn update_of(&self, agent_version: &str) -> Option<&AgentUpdateAvailable> {
        self.agent_update.as_deref().filter(|_| self.is_behind(agent_version) == Some(true))
    }

    pub fn schedule(&self, id: &ScheduleId) -> Option<&Schedule> {
        self.schedules.iter().find(|schedule| schedule.id == *id)
    }
}
