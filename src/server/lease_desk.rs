//! Edge. Where leases are kept and asked for: the journals of the repositories' leases, what the configuration says of
//! repositories, and which hosts somebody has to look at. Does not look itself: `lease_loop` does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::Notify;

use super::lease_grants::{LeaseRules, waits_for};
use super::leases::LeaseState;
use super::slot::{Shared, Slot};
use crate::file_error::FileError;
use crate::id::{HostName, RepositoryName};
use crate::job::Job;

/// How the journals' names begin, which no host's does.
const PREFIX: &str = "/repositories/";

/// What is to be looked at.
#[derive(Debug, Default)]
pub struct Attention {
    pub hosts: BTreeSet<HostName>,
    /// Everything.
    pub all: bool,
}

/// The leases of all repositories.
pub struct LeaseDesk {
    /// `state/repositories`.
    dir: PathBuf,
    shared: Arc<Shared>,
    slots: RwLock<BTreeMap<RepositoryName, Arc<Slot<LeaseState>>>>,
    rules: RwLock<Arc<BTreeMap<RepositoryName, LeaseRules>>>,
    attention: Mutex<Attention>,
    /// Rings when there is something to look at.
    pub wanted: Notify,
}

impl LeaseDesk {
    /// With the journals that there are. Blocks.
    pub fn open(dir: &Path, shared: Arc<Shared>) -> Result<Self, FileError> {
        let desk = Self {
            dir: dir.to_owned(),
            shared,
            slots: RwLock::default(),
            rules: RwLock::default(),
            attention: Mutex::default(),
            wanted: Notify::new(),
        };
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(desk),
            Err(error) => return Err(FileError::of("list", dir)(error)),
        };
        for entry in entries {
            let name = entry.map_err(FileError::of("list", dir))?.file_name();
            if let Some(name) = name.to_str().and_then(|name| name.parse().ok()) {
                desk.slot(&name)?;
            }
        }
        Ok(desk)
    }

    /// Have this host's jobs looked at. Called after anything durable that its leases may depend on.
    pub fn attend(&self, host: &HostName) {
        self.attention().hosts.insert(host.clone());
        self.wanted.notify_one();
    }

    /// Have all leases and all jobs looked at.
    pub fn attend_all(&self) {
        self.attention().all = true;
        self.wanted.notify_one();
    }

    /// What is to be looked at, which is nobody else's business from here on.
    pub fn take_attention(&self) -> Attention {
        std::mem::take(&mut *self.attention())
    }

    fn attention(&self) -> std::sync::MutexGuard<'_, Attention> {
        self.attention.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every repository that the configuration has.
    pub fn rules(&self) -> Arc<BTreeMap<RepositoryName, LeaseRules>> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn set_rules(&self, rules: BTreeMap<RepositoryName, LeaseRules>) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    /// The journal of a repository's leases, made when it is first needed. Blocks the first time.
    pub fn slot(&self, repository: &RepositoryName) -> Result<Arc<Slot<LeaseState>>, FileError> {
        if let Some(slot) = self.known_slot(repository) {
            return Ok(slot);
        }
        let (name, dir) = (format!("{PREFIX}{repository}"), self.journal_dir(repository));
        let slot = Slot::open(&name, &dir, Arc::clone(&self.shared))?;
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(slots.entry(repository.clone()).or_insert(slot)))
    }

    pub fn known_slot(&self, repository: &RepositoryName) -> Option<Arc<Slot<LeaseState>>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).get(repository).cloned()
    }

    /// All repositories that ever had a lease.
    pub fn repositories(&self) -> Vec<RepositoryName> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    pub fn journal_dir(&self, repository: &RepositoryName) -> PathBuf {
        self.dir.join(repository.as_str()).join("leases")
    }

    /// The repository of a journal that another server says has changed.
    pub fn repository_of(slot_name: &str) -> Option<RepositoryName> {
        slot_name.strip_prefix(PREFIX)?.parse().ok()
    }

    /// What a job waits for, as things are now; `None`: for no lease.
    pub fn waits_for(&self, job: &Job) -> Option<String> {
        let repository = &job.repository.as_ref()?.repository;
        let rules = self.rules().get(repository).copied().unwrap_or_default();
        waits_for(&self.known_slot(repository)?.durable().state, rules, job.id)
    }
}
