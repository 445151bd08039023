//! Edge. What the agent's loops share: its files, its client, the jobs that run, and the bells by which loops wake each other.
//! One thread runs all loops, so nothing here is locked; nothing is borrowed across an await.
//! Does not loop or decide.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;

use chrono::{DateTime, TimeDelta, Utc};
use restic_manager::clock;
use restic_manager::file_error::{FileError, chain};
use restic_manager::http_client::HttpClient;
use restic_manager::id::{HostName, InstanceId, JobId};
use restic_manager::protocol::EVENT_LIMIT_BYTES;
use restic_manager::protocol::agent_event::{AgentEvent, CommandResult, Snapshot};
use restic_manager::protocol::command::AgentUpdateAvailable;
use restic_manager::protocol::repository_access::RepositoryAccess;
use tokio::sync::Notify;

use crate::identity::Identity;
use crate::json_file;
use crate::ledger::{Ledger, Stage};
use crate::log_spool::LogSpool;
use crate::make_room;
use crate::policy::Policy;
use crate::poll_wait::PollWait;
use crate::received::Received;
use crate::restic_version::ResticVersion;
use crate::room::Room;
use crate::scheduler::PendingFires;
use crate::settings::AgentSettings;
use crate::spool::{Spool, SpoolError};

/// How many secrets that were used are remembered.
const USED_SECRETS: usize = 8;

/// What was learned about polls.
pub(crate) const POLL_WAIT_FILE: &str = "poll_wait.json";

/// A job's log as runner and sender share it.
pub(crate) type SharedLog = Rc<RefCell<LogSpool>>;

/// The running agent.
pub(crate) struct Agent {
    pub(crate) dir: PathBuf,
    /// The programs that hooks name.
    pub(crate) hooks_dir: PathBuf,
    pub(crate) host: HostName,
    pub(crate) settings: AgentSettings,
    pub(crate) policy: Policy,
    pub(crate) client: HttpClient,
    /// With the credential in use, and the ones before and after it.
    pub(crate) identity: RefCell<Identity>,
    /// When a credential could not be replaced: the next try waits.
    pub(crate) rotation_failed: Cell<Option<tokio::time::Instant>>,
    /// How long the server wants polls to wait, in seconds.
    pub(crate) server_wait: Cell<u64>,
    pub(crate) poll_wait: RefCell<PollWait>,
    pub(crate) instance: InstanceId,
    pub(crate) started: tokio::time::Instant,
    /// The host's own zone, an IANA name.
    pub(crate) zone: String,
    pub(crate) ledger: RefCell<Ledger>,
    pub(crate) spool: RefCell<Spool>,
    /// What the spool and all logs share.
    pub(crate) room: Rc<Room>,
    pub(crate) received: RefCell<Received>,
    pub(crate) pending_fires: RefCell<PendingFires>,
    /// The secrets that the last starts of restic were given: what it says may repeat them.
    pub(crate) used_secrets: RefCell<VecDeque<String>>,
    /// This host's snapshots as the last list of them had it, with its repository's URL. Later ones may be missing, and some may be
    /// gone.
    pub(crate) known_snapshots: RefCell<(String, Vec<Snapshot>)>,
    /// What `restic version` said last.
    pub(crate) restic: RefCell<Result<ResticVersion, String>>,
    /// Jobs that run, with the bell that cancels each.
    pub(crate) running: RefCell<BTreeMap<JobId, Rc<Notify>>>,
    /// The logs that are open: the runner writes and the sender reads through one handle.
    pub(crate) logs: RefCell<BTreeMap<JobId, SharedLog>>,
    /// The server's clock less ours, as the last answer told.
    pub(crate) clock_offset: Cell<TimeDelta>,
    /// Events or log lines wait to be sent.
    pub(crate) send_bell: Notify,
    /// The schedule set changed.
    pub(crate) schedule_bell: Notify,
    /// A job was accepted.
    pub(crate) job_bell: Notify,
    /// The same, for queries.
    pub(crate) query_bell: Notify,
    /// The server no longer takes this instance for the newest: hello is due.
    pub(crate) hello_due: Cell<bool>,
    pub(crate) hello_bell: Notify,
    /// hello was answered: events may be sent.
    pub(crate) greeted: Notify,
    /// Another instance has this host: nothing is run by ourselves, since the server is there and the other one runs it.
    pub(crate) superseded: Cell<bool>,
    /// The newer agent that the server told of.
    pub(crate) update: RefCell<Option<AgentUpdateAvailable>>,
    /// For `status`.
    pub(crate) last_contact: Cell<Option<DateTime<Utc>>>,
    pub(crate) last_error: RefCell<Option<(DateTime<Utc>, String)>>,
    /// Something that `status` shows has changed.
    pub(crate) status_bell: Notify,
}

impl Agent {
    /// The server's clock, as far as is known.
    pub(crate) fn server_now(&self) -> DateTime<Utc> {
        let now = clock::now();
        // A server may say any time.
        now.checked_add_signed(self.clock_offset.get()).unwrap_or(now)
    }

    /// Puts an event into the spool, durably, and wakes the sender. An event that cannot be kept is told in the log: the
    /// disk is full or broken, and there is nobody else to tell.
    pub(crate) fn tell(&self, event: &AgentEvent) -> bool {
        let mut appended = self.spool.borrow_mut().append(clock::now(), event);
        if matches!(appended, Err(SpoolError::Full)) && make_room::for_bytes(self, EVENT_LIMIT_BYTES as u64) {
            appended = self.spool.borrow_mut().append(clock::now(), event);
        }
        self.send_bell.notify_one();
        match appended {
            Ok(_) => true,
            Err(error) => {
                self.note_error(&format!("{} could not be kept for the server: {}", event.type_name(), chain(&error)));
                false
            }
        }
    }

    /// The job's log, opened or made.
    pub(crate) fn log(&self, job: JobId) -> Result<SharedLog, FileError> {
        if let Some(log) = self.logs.borrow().get(&job) {
            return Ok(Rc::clone(log));
        }
        let log = Rc::new(RefCell::new(LogSpool::open(&self.dir, job, &self.room)?));
        self.logs.borrow_mut().insert(job, Rc::clone(&log));
        Ok(log)
    }

    /// Lets go of a log that nobody uses, so that many waiting ones do not hold many files.
    pub(crate) fn close_log(&self, job: JobId) {
        self.logs.borrow_mut().retain(|id, log| *id != job || Rc::strong_count(log) > 1);
    }

    /// The job's log is with the server.
    pub(crate) fn remove_log(&self, job: JobId) {
        let removed = self.log(job).and_then(|log| log.borrow_mut().delete());
        self.logs.borrow_mut().remove(&job);
        if let Err(error) = removed {
            tracing::warn!(%job, "the log that was sent: {}", chain(&error));
        }
    }

    /// Records a stage of a job, durably.
    pub(crate) fn record(&self, job: JobId, stage: Stage) -> bool {
        let recorded = self.ledger.borrow_mut().record(clock::now(), job, stage);
        if let Err(error) = &recorded {
            self.note_error(&format!("job {job}: {}", chain(error)));
        }
        recorded.is_ok()
    }

    /// What the connection to the server goes through, for people.
    pub(crate) fn way(&self) -> String {
        self.client.proxy().map_or("no proxy: directly".to_owned(), |proxy| format!("{proxy}, {}", proxy.origin()))
    }

    /// Lets something be learned about how long polls may wait, and keeps it. It is worth no error: it would be learned again.
    pub(crate) fn learn(&self, learn: impl FnOnce(&mut PollWait, u64) -> bool) {
        let mut learned = self.poll_wait.borrow_mut();
        if !learn(&mut learned, self.server_wait.get()) {
            return;
        }
        tracing::warn!("how polls wait has changed: {}", learned.describe(self.server_wait.get()));
        if let Err(error) = json_file::write(&self.dir.join(POLL_WAIT_FILE), &*learned) {
            tracing::warn!("how polls wait is not kept: {}", chain(&error));
        }
    }

    /// Answers a command.
    pub(crate) fn answer(&self, job_id: JobId, error: Option<String>) {
        self.tell(&AgentEvent::CommandResult(CommandResult { job_id, accepted: error.is_none(), error }));
    }

    /// Logs an error and keeps it for `status`.
    pub(crate) fn note_error(&self, text: &str) {
        tracing::error!("{text}");
        *self.last_error.borrow_mut() = Some((clock::now(), text.to_owned()));
        self.status_bell.notify_one();
    }

    /// The secrets that no line may show: those of the host's own repository, and those that were used last, of what it
    /// maintains or its own. Of thousands that it maintains the others never meet anything that is shown.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let received = self.received.borrow();
        let config = received.config();
        let own = [&config.repo_password, &config.repo_credential].into_iter().flatten();
        let own = own.map(|secret| secret.reveal().to_owned()).filter(|secret| !secret.is_empty());
        own.chain(self.used_secrets.borrow().iter().cloned()).collect()
    }

    /// restic is about to be given these.
    pub(crate) fn uses(&self, access: &RepositoryAccess) {
        let mut used = self.used_secrets.borrow_mut();
        for secret in [&access.password, &access.credential].map(|secret| secret.reveal()) {
            if !secret.is_empty() && !used.iter().any(|known| known == secret) {
                used.push_front(secret.to_owned());
            }
        }
        used.truncate(USED_SECRETS);
    }
}
