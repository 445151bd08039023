//! Edge. The server's run-time whole: hosts, the fleet's journal, tokens, the adopted configuration, and the bells.
//! Handlers and loops share it. Does not speak HTTP and does not watch files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::{Notify, watch};

use super::access::{OperatorToken, Role, sha256};
use super::fleet::Fleet;
use super::fleet::secret_commands::SecretCommands;
use super::fleet::settings::ServerSettings;
use super::fleet_state::FleetState;
use super::host::Host;
use super::host_state::HostState;
use super::in_flight;
use super::keep::KeepRules;
use super::lease_desk::LeaseDesk;
use super::past_cache::PastCache;
use super::served_tls::ServedTls;
use super::servers::Servers;
use super::silence::Outage;
use super::slot::{Shared, Slot};
use super::state_dir::{StateDir, StateDirError};
use super::traffic::{PingCounts, Traffic};
use crate::clock;
use crate::file_error::FileError;
use crate::id::HostName;
use crate::ip_range::IpRange;
use crate::journal::Journal;
use crate::problem::Problem;

/// The name of the fleet's own journal, which no host can have.
pub const FLEET: &str = "/fleet";

/// What was read of the configuration last, good or not.
#[derive(Debug, Clone, Default)]
pub struct ConfigView {
    /// Of the files as they are now; differs from the adopted one's while they have errors.
    pub hash: String,
    pub commit: Option<String>,
    pub dirty: Option<bool>,
    pub problems: Vec<Problem>,
    /// The files as they are now are what runs.
    pub runs: bool,
    pub loaded_at: Option<DateTime<Utc>>,
}

/// The configuration that runs, as those need it who tell people something.
#[derive(Debug, Clone, Default)]
pub struct Telling {
    pub fleet: Arc<Fleet>,
    /// Relative paths of secrets begin here.
    pub directory: PathBuf,
}

/// Everything that the server is at run time.
pub struct App {
    pub state_dir: StateDir,
    pub fleet: Arc<Slot<FleetState>>,
    /// What all journals share: the bell of any change, and the other servers.
    pub shared: Arc<Shared>,
    /// What it is asked, and has open.
    pub traffic: Traffic,
    /// What became of its pings.
    pub pings: PingCounts,
    pub leases: LeaseDesk,
    /// True from the moment on at which the server is to stop.
    pub stopping: watch::Sender<bool>,
    /// When there was no server before this one was ready: silence of then does not count.
    pub outage: Outage,
    hosts: RwLock<BTreeMap<HostName, Arc<Host>>>,
    tokens: RwLock<Arc<Vec<OperatorToken>>>,
    keep_rules: RwLock<KeepRules>,
    trusted_proxies: RwLock<Arc<[IpRange]>>,
    /// What TLS connections are shown.
    pub tls: ServedTls,
    config: RwLock<Arc<ConfigView>>,
    /// Rings for `POST /v1/config/reload` and SIGHUP; the value counts requests.
    pub reload_wanted: watch::Sender<u64>,
    /// What `[secret_commands]` answered.
    pub secret_commands: Arc<SecretCommands>,
    /// The `reload_wanted` that the last finished reload has seen at its beginning.
    pub reloaded: watch::Sender<u64>,
    /// Of the hosts whose pages were looked at lately.
    pub pasts: PastCache,
    /// Rings when a request misses what the index of jobs should hold.
    pub index_wanted: Notify,
    /// Held while history is read for a job: one reader at a time.
    pub history_search: Mutex<()>,
    /// What alerts and pings are told by.
    pub telling: watch::Sender<Telling>,
    /// `FleetState::decisions` as far as this server has done what they say.
    pub installed: watch::Sender<u64>,
}

impl App {
    /// Opens the state directory and the journals of every host that has one. Blocks.
    pub fn open(state: &Path) -> Result<Arc<Self>, StateDirError> {
        let state_dir = StateDir::open(state)?;
        let shared = Arc::new(Shared::new(Servers::enter(&state_dir.path)?));
        // What a server that was killed had written is in no answer of ours before it is durable.
        let is_synced = state_dir.sync_file_system();
        let fleet = Slot::open(FLEET, &state_dir.fleet_dir(), Arc::clone(&shared))?;
        let leases = LeaseDesk::open(&state_dir.repositories_dir(), Arc::clone(&shared))?;
        let outage = Outage { from: state_dir.last_alive(), ready_at: clock::now() };
        let app = Arc::new(Self {
            leases,
            state_dir,
            fleet,
            shared,
            traffic: Traffic::default(),
            pings: PingCounts::default(),
            stopping: watch::Sender::new(false),
            outage,
            hosts: RwLock::default(),
            tokens: RwLock::default(),
            keep_rules: RwLock::new(ServerSettings::default().keep_rules()),
            trusted_proxies: RwLock::default(),
            tls: ServedTls::default(),
            config: RwLock::default(),
            reload_wanted: watch::Sender::new(0),
            secret_commands: Arc::default(),
            reloaded: watch::Sender::new(0),
            pasts: PastCache::default(),
            index_wanted: Notify::new(),
            history_search: Mutex::default(),
            telling: watch::Sender::new(Telling::default()),
            installed: watch::Sender::new(0),
        });
        app.open_hosts(&app.state_dir.hosts()?, is_synced)?;
        Ok(app)
    }

    /// Opens many journals, on as many threads as there are processors: reading and folding them is what starting takes.
    fn open_hosts(&self, names: &[HostName], is_synced: bool) -> Result<(), FileError> {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let open = || {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    self.open_host_with(name, is_synced)?;
                }
                Ok(())
            };
            let openers: Vec<_> = (0..threads).map(|_| scope.spawn(open)).collect();
            openers
                .into_iter()
                .try_for_each(|opener| opener.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }

    /// The host, made known if it was not. Blocks the first time.
    pub fn open_host(&self, name: &HostName) -> Result<Arc<Host>, FileError> {
        if let Some(host) = self.host(name) {
            return Ok(host);
        }
        self.open_host_with(name, false)
    }

    fn open_host_with(&self, name: &HostName, is_synced: bool) -> Result<Arc<Host>, FileError> {
        let dir = self.state_dir.host_dir(name);
        let journal_dir = dir.join("journal");
        let journal =
            if is_synced { Journal::open_synced(&journal_dir)? } else { Journal::<HostState>::open(&journal_dir)? };
        let slot = Slot::of(name.as_str(), &journal_dir, Arc::clone(&self.shared), journal);
        let host = Arc::new(Host::new(name.clone(), &dir, slot));
        let mut hosts = self.hosts.write().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(hosts.entry(name.clone()).or_insert(host)))
    }

    /// Waits until what other servers adopted or refused is what this one goes by too.
    pub async fn catch_up_configuration(&self) {
        if !self.shared.servers.in_company() {
            return;
        }
        self.fleet.refresh().await;
        let decisions = self.fleet.durable().state.decisions;
        let mut installed = self.installed.subscribe();
        let caught_up = installed.wait_for(|done| *done >= decisions);
        if tokio::time::timeout(Duration::from_secs(5), caught_up).await.is_err() {
            tracing::warn!("what another server adopted is not in force here yet");
        }
    }

    /// The host as the files have it now, also one that another server made known.
    pub async fn current_host(self: &Arc<Self>, name: &HostName) -> Option<Arc<Host>> {
        if !self.shared.servers.in_company() {
            return self.host(name);
        }
        let host = match self.host(name) {
            Some(host) => host,
            None if self.state_dir.host_dir(name).join("journal").is_dir() => {
                let (app, name) = (Arc::clone(self), name.clone());
                blocking(move || app.open_host(&name)).await.ok()?
            }
            None => return None,
        };
        host.catch_up().await;
        Some(host)
    }

    /// The instant before which every line of every server is durable and in memory here.
    pub async fn horizon(&self) -> DateTime<Utc> {
        let servers = &self.shared.servers;
        // Our own clock first: what the others begin after this is after it.
        let own = self.shared.in_flight.horizon();
        let others = servers.others();
        if others.is_empty() {
            return own;
        }
        let horizon = blocking(move || {
            others.iter().try_fold(own, |horizon, other| {
                // Clocks of two machines differ by less than this where they are kept by NTP.
                let skew = if other.is_on_this_machine { TimeDelta::zero() } else { TimeDelta::seconds(2) };
                let theirs = in_flight::earliest_of(other)?.unwrap_or(own).min(own);
                Ok::<_, FileError>(horizon.min(theirs - skew))
            })
        });
        let horizon = match horizon.await {
            Ok(horizon) => horizon,
            Err(error) => {
                tracing::warn!("events wait: {}", crate::file_error::chain(&error));
                DateTime::UNIX_EPOCH
            }
        };
        // A batch that is no longer on its way was told by its server's bell before.
        servers.sync().await;
        horizon
    }

    pub fn host(&self, name: &HostName) -> Option<Arc<Host>> {
        self.hosts.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// All hosts by name.
    pub fn hosts(&self) -> Vec<Arc<Host>> {
        self.hosts.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// How long history is kept.
    pub fn keep_rules(&self) -> KeepRules {
        *self.keep_rules.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_keep_rules(&self, rules: KeepRules) {
        *self.keep_rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    pub fn tokens(&self) -> Arc<Vec<OperatorToken>> {
        Arc::clone(&self.tokens.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The configured tokens; where there are none, the admin token of the state directory.
    pub fn set_tokens(&self, configured: Vec<OperatorToken>) -> Result<(), FileError> {
        let mut tokens = configured;
        if tokens.is_empty() {
            let (token, is_new) = self.state_dir.admin_token()?;
            if is_new {
                let path = self.state_dir.path.join("admin-token");
                tracing::warn!(path = %path.display(), "no token is configured: made an admin token");
            }
            let sha256 = sha256(token.as_bytes());
            tokens.push(OperatorToken { name: "admin-token".to_owned(), role: Role::Admin, hosts: Vec::new(), sha256 });
        }
        *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tokens);
        Ok(())
    }

    /// Whose word about a client's address counts.
    pub fn trusted_proxies(&self) -> Arc<[IpRange]> {
        Arc::clone(&self.trusted_proxies.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn set_trusted_proxies(&self, ranges: &[IpRange]) {
        *self.trusted_proxies.write().unwrap_or_else(PoisonError::into_inner) = ranges.into();
    }

    pub fn config(&self) -> Arc<ConfigView> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn set_config(&self, view: ConfigView) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }
}

/// Runs what blocks (files) off the reactor.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // The task panicked, which its own message has said, or the runtime is going down.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Returns when the server is to stop.
pub async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}
