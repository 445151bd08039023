//! Edge. One host at run time: its journal, what it should have, when it was heard, and its job logs.
//! Does not decide anything: `decide` does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::app::blocking;
use super::fact::Fact;
use super::host_content::HostContent;
use super::host_state::HostState;
use super::job_index;
use super::slot::{Slot, WriteError, line_time};
use crate::atomic_file;
use crate::file_error::FileError;
use crate::id::{HostName, InstanceId, JobId};
use crate::journal::Batch;
use crate::protocol::agent_event::JobProgress;

/// How long a credential that was found valid is not looked up again: half of the second in which a revocation, also one
/// on another server, has to hold.
const LATELY: Duration = Duration::from_millis(500);

/// What is only in memory: caches and signs of life.
#[derive(Debug, Default)]
struct Transient {
    content: Option<Arc<HostContent>>,
    last_seen: Option<DateTime<Utc>>,
    /// The first sign of life after the last gap, or of all.
    back_at: Option<DateTime<Utc>>,
    clock_skew_ms: Option<i64>,
    progress: BTreeMap<JobId, JobProgress>,
    poll_wait_secs: Option<u64>,
    spool_bytes: Option<u64>,
    /// The SHA-256 of the credential that was found valid, and when.
    credential: Option<([u8; 32], Instant)>,
    /// Counts polls: only the newest stays parked.
    polls: u64,
}

/// Silence for longer is a gap.
const GAP: TimeDelta = TimeDelta::minutes(15);

impl Transient {
    fn see(&mut self, at: DateTime<Utc>) {
        if self.last_seen.is_none_or(|seen| at - seen > GAP) {
            self.back_at = Some(at);
        }
        self.last_seen = Some(at);
    }
}

/// `seen`: its time is when the agent was last heard.
#[derive(Debug, Serialize, Deserialize)]
struct Seen {
    /// Since when it has been heard without a gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    back_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clock_skew_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    poll_wait_secs: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spool_bytes: Option<u64>,
}

/// One host.
pub struct Host {
    pub name: HostName,
    /// `state/hosts/<host>`.
    pub dir: PathBuf,
    pub slot: Arc<Slot<HostState>>,
    transient: Mutex<Transient>,
}

impl Host {
    pub fn new(name: HostName, dir: &Path, slot: Arc<Slot<HostState>>) -> Self {
        let host = Self { name, dir: dir.to_owned(), slot, transient: Mutex::default() };
        host.read_seen();
        host
    }

    /// Takes in what other servers have written of this host, if there are any: its journal, and when it was heard.
    pub async fn catch_up(self: &Arc<Self>) {
        if !self.slot.is_in_company() {
            return;
        }
        self.slot.refresh().await;
        let host = Arc::clone(self);
        blocking(move || host.read_seen()).await;
    }

    /// The file tells what another server, or this one before its restart, knew of the agent's contact. Blocks.
    pub fn read_seen(&self) {
        let path = self.dir.join("seen");
        let Ok(at) = std::fs::metadata(&path).and_then(|metadata| metadata.modified()) else { return };
        let at = DateTime::<Utc>::from(at);
        if self.last_seen().is_some_and(|known| known >= at) {
            return;
        }
        // Half written by another server: the time alone counts.
        let seen = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Seen>(&text).ok());
        let mut transient = self.transient();
        transient.see(at);
        if let Some(seen) = seen {
            transient.back_at = seen.back_at.or(transient.back_at);
            transient.clock_skew_ms = seen.clock_skew_ms;
            transient.poll_wait_secs = seen.poll_wait_secs;
            transient.spool_bytes = seen.spool_bytes;
        }
    }

    /// Writes the file of the sign of life. Blocks.
    pub fn keep_seen(&self) -> Result<(), FileError> {
        let (seen, at) = {
            let transient = self.transient();
            let Some(at) = transient.last_seen else { return Ok(()) };
            let Transient { back_at, clock_skew_ms, poll_wait_secs, spool_bytes, .. } = *transient;
            (Seen { back_at, clock_skew_ms, poll_wait_secs, spool_bytes }, at)
        };
        // A struct of numbers always has a JSON form.
        let mut bytes = serde_json::to_vec(&seen).unwrap_or_default();
        bytes.push(b'\n');
        atomic_file::note_at(&self.dir.join("seen"), &bytes, at.into())
    }

    /// The journal's directory, for readers of history.
    pub fn journal_dir(&self) -> PathBuf {
        self.dir.join("journal")
    }

    /// A job's log file.
    pub fn log_path(&self, job: JobId) -> PathBuf {
        self.dir.join("logs").join(format!("{job}.jsonl"))
    }

    pub fn content(&self) -> Option<Arc<HostContent>> {
        self.transient().content.clone()
    }

    /// What the host should have from now on; the caller sees to the versions.
    pub fn set_content(&self, content: Arc<HostContent>) {
        self.transient().content = Some(content);
    }

    pub fn last_seen(&self) -> Option<DateTime<Utc>> {
        self.transient().last_seen
    }

    /// For how long the agent has been heard without a gap. A restart of the server is none, unless it was away for that long.
    pub fn heard_for(&self, now: DateTime<Utc>) -> TimeDelta {
        let transient = self.transient();
        let is_heard = transient.last_seen.is_some_and(|seen| now - seen <= GAP);
        transient.back_at.filter(|_| is_heard).map_or_else(TimeDelta::zero, |back| now - back)
    }

    pub fn clock_skew_ms(&self) -> Option<i64> {
        self.transient().clock_skew_ms
    }

    /// Seconds that the agent's last poll asked to wait; its silence is measured by it.
    pub fn poll_wait_secs(&self) -> u64 {
        self.transient().poll_wait_secs.unwrap_or(30)
    }

    /// What waits on the host for the server, in bytes, as the agent said last.
    pub fn spool_bytes(&self) -> Option<u64> {
        self.transient().spool_bytes
    }

    pub fn set_spool_bytes(&self, bytes: u64) {
        self.transient().spool_bytes = Some(bytes);
    }

    /// The agent was heard. What is known of that changes with the file that tells it to other servers, and to this one after a
    /// restart: at most every ten seconds, but for what is new. Returns whether the file is due.
    pub fn heard(&self, now: DateTime<Utc>, sent_at: Option<DateTime<Utc>>, wait_secs: Option<u64>) -> bool {
        let mut transient = self.transient();
        let is_due = transient.last_seen.is_none_or(|seen| (now - seen).num_seconds().abs() >= 10)
            || (sent_at.is_some() && transient.clock_skew_ms.is_none())
            || (wait_secs.is_some() && transient.poll_wait_secs != wait_secs);
        if is_due {
            // No file system's times are coarser, of those that hold a state.
            transient.see(now.trunc_subsecs(3));
            if let Some(sent_at) = sent_at {
                transient.clock_skew_ms = Some((sent_at - now).num_milliseconds());
            }
            transient.poll_wait_secs = wait_secs.or(transient.poll_wait_secs);
        }
        is_due
    }

    /// Whether the credential with this SHA-256 was found valid a moment ago: its file need not be read for each request.
    pub fn was_let_in_lately(&self, sha256: &[u8; 32]) -> bool {
        let known = self.transient().credential;
        known.is_some_and(|(known, at)| bool::from(known.ct_eq(sha256)) && at.elapsed() < LATELY)
    }

    /// Remembers that it was.
    pub fn let_in(&self, sha256: [u8; 32]) {
        self.transient().credential = Some((sha256, Instant::now()));
    }

    /// The host's credential has changed.
    pub fn forget_credential(&self) {
        self.transient().credential = None;
    }

    /// A running job's newest progress as this server heard it; `None` too where another server may have heard newer.
    pub fn progress(&self, job: JobId) -> Option<JobProgress> {
        if self.slot.is_in_company() {
            return None;
        }
        self.transient().progress.get(&job).cloned()
    }

    pub fn set_progress(&self, progress: JobProgress) {
        let running = self.slot.durable().state;
        let mut transient = self.transient();
        transient.progress.retain(|id, _| running.jobs.contains_key(id));
        transient.progress.insert(progress.job_id, progress);
    }

    /// Whether this is the host's newest instance.
    pub fn is_current(&self, instance: InstanceId) -> bool {
        super::messages::is_current(&self.slot.durable().state, instance)
    }

    /// A poll arrives; the one that is parked goes.
    pub fn park(&self) -> Parked {
        let number = {
            let mut transient = self.transient();
            transient.polls += 1;
            transient.polls
        };
        self.slot.wake();
        Parked { number }
    }

    /// Appends what `decide` finds in the state of the moment, and returns when it is durable.
    pub async fn append(
        &self,
        decide: impl FnOnce(&HostState, DateTime<Utc>) -> Vec<Fact> + Send + 'static,
    ) -> Result<(), WriteError> {
        self.slot.write(move |batch| append_facts(batch, decide)).await.map(|_| ())
    }

    /// As `append`, on this thread. Blocks. Returns how many facts there were.
    pub fn append_here(
        &self,
        decide: impl FnOnce(&HostState, DateTime<Utc>) -> Vec<Fact> + Send + 'static,
    ) -> Result<usize, WriteError> {
        self.slot.write_here(move |batch| append_facts(batch, decide))
    }

    fn transient(&self) -> MutexGuard<'_, Transient> {
        self.transient.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A poll's place.
#[derive(Debug, Clone, Copy)]
pub struct Parked {
    number: u64,
}

impl Parked {
    pub fn is_newest(self, host: &Host) -> bool {
        host.transient().polls == self.number
    }
}

/// Decides on the batch's state and appends the facts. Returns how many.
pub fn append_facts(
    batch: &mut Batch<'_, HostState>,
    decide: impl FnOnce(&HostState, DateTime<Utc>) -> Vec<Fact>,
) -> usize {
    let now = line_time();
    let facts = decide(batch.state(), now);
    let count = facts.len();
    for fact in facts {
        let seq = batch.append(line_time(), &fact.to_new_line(now));
        if let Fact::JobQueued(queued) = &fact {
            job_index::note(batch.dir(), queued.job_id, seq, now);
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::folded::{at, host};
    use crate::server::servers::Servers;
    use crate::server::slot::Shared;

    #[test]
    fn a_restart_is_no_gap_and_a_long_silence_is_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let host_dir = dir.path().join("hosts/web-1");
        std::fs::create_dir_all(&host_dir).expect("a directory");
        let open = || {
            let shared = Arc::new(Shared::new(Servers::enter(dir.path()).expect("a server")));
            let slot = Slot::open("web-1", &host_dir, shared).expect("a journal");
            Host::new(host(), &host_dir, slot)
        };
        let minutes = |host: &Host, text: &str| host.heard_for(at(text)).num_minutes();
        let first = open();
        assert_eq!(minutes(&first, "2026-01-01T12:00:00Z"), 0, "never heard");
        for text in ["2026-01-01T12:00:00Z", "2026-01-01T12:10:00Z"] {
            assert!(first.heard(at(text), None, Some(30)));
        }
        first.keep_seen().expect("written");
        assert_eq!(minutes(&first, "2026-01-01T12:10:00Z"), 10);
        let restarted = open();
        assert_eq!(minutes(&restarted, "2026-01-01T12:12:00Z"), 12, "as before");
        assert_eq!(minutes(&restarted, "2026-01-01T13:00:00Z"), 0, "it is away");
        restarted.heard(at("2026-01-01T13:00:00Z"), None, Some(30));
        assert_eq!(minutes(&restarted, "2026-01-01T13:05:00Z"), 5, "back after a gap");
    }
}
