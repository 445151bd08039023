//! Pure. What the journal of a repository's leases adds up to: which jobs wait for it, in their order, and which have it. Shared
//! by backups and reads; exclusive for what takes restic's exclusive lock. Does not decide who is next: `lease_grants` does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::host_content::HostContent;
use crate::id::{HostName, JobId};
use crate::journal::Fold;
use crate::journal::line::{Line, NewLine};
use crate::protocol::job_options::JobKind;
use crate::repository_target::RepositoryTarget;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseMode {
    /// Beside others of its mode.
    Shared,
    /// Alone on its target.
    Exclusive,
}

/// How a kind of job uses a repository; `None`: it needs no lease, and helps where one is in the way.
pub const fn mode_of(kind: JobKind) -> Option<LeaseMode> {
    match kind {
        JobKind::Backup | JobKind::Copy | JobKind::Restore | JobKind::Verify => Some(LeaseMode::Shared),
        JobKind::Init | JobKind::Forget | JobKind::Prune | JobKind::Check => Some(LeaseMode::Exclusive),
        // A query takes no lock, so that nothing waits for it and it for nothing, not even for its turn among backups.
        JobKind::Unlock | JobKind::Ls | JobKind::Find | JobKind::Diff | JobKind::Stats | JobKind::Snapshots => None,
    }
}

/// The lease that a job needs: of the repository that its options name, else of its host's. `None`: it needs none.
pub fn needed_lease(
    kind: JobKind,
    options: &Value,
    content: Option<&HostContent>,
) -> Option<(RepositoryTarget, LeaseMode)> {
    let mode = mode_of(kind)?;
    // One that is written to from another: that one is only read, under restic's own shared lock.
    if let Some(to) = options.get("to").and_then(Value::as_str) {
        let mut targets = content?.config.copy_targets.as_ref()?.keys();
        return Some((targets.find(|target| target.repository.as_str() == to)?.clone(), mode));
    }
    let named = options.get("repository").and_then(Value::as_str).and_then(|text| text.parse().ok());
    let target = named.or_else(|| content?.repository.clone())?;
    Some((target, mode))
}

/// For lease.wanted and lease.taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseClaim {
    pub job_id: JobId,
    /// Whose agent runs it.
    pub host: HostName,
    pub kind: JobKind,
    pub target: RepositoryTarget,
    pub mode: LeaseMode,
    /// The line of the host's journal that made the job: whoever has read that far knows whether it has ended.
    pub queued_seq: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseGranted {
    pub job_id: JobId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseReleased {
    pub job_id: JobId,
    pub why: ReleaseReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseReason {
    /// The job has ended.
    Ended,
    /// Its agent is out of contact.
    Lapsed,
    /// The job does not work with this repository any more.
    Moved,
}

/// One line's meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseFact {
    Wanted(LeaseClaim),
    Granted(LeaseGranted),
    /// The job is with its agent already: a fact, also where it collides.
    Taken(LeaseClaim),
    Released(LeaseReleased),
}

impl LeaseFact {
    /// `None`: a type of a later version, or a payload that is not its type's.
    pub fn from_line(line: &Line) -> Option<Self> {
        let payload = line.payload.get();
        match line.kind.as_str() {
            "lease.wanted" => serde_json::from_str(payload).ok().map(Self::Wanted),
            "lease.granted" => serde_json::from_str(payload).ok().map(Self::Granted),
            "lease.taken" => serde_json::from_str(payload).ok().map(Self::Taken),
            "lease.released" => serde_json::from_str(payload).ok().map(Self::Released),
            _ => None,
        }
    }

    pub fn to_new_line(&self, now: DateTime<Utc>) -> NewLine {
        let (kind, payload) = match self {
            Self::Wanted(claim) => ("lease.wanted", serde_json::value::to_raw_value(claim)),
            Self::Granted(granted) => ("lease.granted", serde_json::value::to_raw_value(granted)),
            Self::Taken(claim) => ("lease.taken", serde_json::value::to_raw_value(claim)),
            Self::Released(released) => ("lease.released", serde_json::value::to_raw_value(released)),
        };
        // Structs with text keys always have a JSON form.
        let payload = payload.unwrap_or_else(|_| RawValue::NULL.to_owned());
        NewLine { kind: kind.to_owned(), ts: now, stream: None, payload }
    }
}

/// One job's place: in the queue, or among those that have the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    #[serde(flatten)]
    pub claim: LeaseClaim,
    /// The line that wanted it: its place in the queue.
    pub seq: u64,
    pub wanted_at: DateTime<Utc>,
    /// `None`: it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted_at: Option<DateTime<Utc>>,
}

/// The fold. A copy shares the leases with the original.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Kept", into = "Kept")]
pub struct LeaseState {
    /// By the order in which they were wanted.
    leases: BTreeMap<u64, Arc<Lease>>,
    seq_of: BTreeMap<JobId, u64>,
    jobs_of: BTreeMap<HostName, BTreeSet<JobId>>,
    held: usize,
}

/// As it is written.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    leases: Vec<Lease>,
}

impl From<Kept> for LeaseState {
    fn from(kept: Kept) -> Self {
        let mut state = Self::default();
        kept.leases.into_iter().for_each(|lease| state.insert(Arc::new(lease)));
        state
    }
}

impl From<LeaseState> for Kept {
    fn from(state: LeaseState) -> Self {
        Self { leases: state.leases.into_values().map(Arc::unwrap_or_clone).collect() }
    }
}

impl LeaseState {
    pub fn of_job(&self, job: JobId) -> Option<&Lease> {
        self.seq_of.get(&job).and_then(|seq| self.leases.get(seq)).map(Arc::as_ref)
    }

    pub fn of_host<'a>(&'a self, host: &HostName) -> impl Iterator<Item = &'a Lease> {
        self.jobs_of.get(host).into_iter().flatten().filter_map(|job| self.of_job(*job))
    }

    /// In the order in which they were wanted, those that wait and those that have it.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values().map(Arc::as_ref)
    }

    /// The hosts that have a job here.
    pub fn hosts(&self) -> impl Iterator<Item = &HostName> {
        self.jobs_of.keys()
    }

    /// How many have it.
    pub const fn held(&self) -> usize {
        self.held
    }

    /// How many wait for it.
    pub fn waiting(&self) -> usize {
        self.leases.len() - self.held
    }

    fn insert(&mut self, lease: Arc<Lease>) {
        self.remove(lease.claim.job_id);
        self.held += usize::from(lease.granted_at.is_some());
        self.seq_of.insert(lease.claim.job_id, lease.seq);
        self.jobs_of.entry(lease.claim.host.clone()).or_default().insert(lease.claim.job_id);
        self.leases.insert(lease.seq, lease);
    }

    fn remove(&mut self, job: JobId) -> Option<Arc<Lease>> {
        let lease = self.leases.remove(&self.seq_of.remove(&job)?)?;
        self.held -= usize::from(lease.granted_at.is_some());
        if let Some(jobs) = self.jobs_of.get_mut(&lease.claim.host) {
            jobs.remove(&job);
            if jobs.is_empty() {
                self.jobs_of.remove(&lease.claim.host);
            }
        }
        Some(lease)
    }
}

impl Fold for LeaseState {
    fn apply(&mut self, line: &Line) {
        match LeaseFact::from_line(line) {
            // Wanted again, it keeps its place.
            Some(LeaseFact::Wanted(claim)) if self.of_job(claim.job_id).is_none() => {
                let (seq, wanted_at) = (line.seq, line.received_at);
                self.insert(Arc::new(Lease { claim, seq, wanted_at, granted_at: None }));
            }
            Some(LeaseFact::Taken(claim)) => {
                let before = self.remove(claim.job_id);
                let (seq, wanted_at) = before.map_or((line.seq, line.received_at), |b| (b.seq, b.wanted_at));
                self.insert(Arc::new(Lease { claim, seq, wanted_at, granted_at: Some(line.received_at) }));
            }
            Some(LeaseFact::Granted(LeaseGranted { job_id })) => {
                if let Some(lease) = self.of_job(job_id).filter(|lease| lease.granted_at.is_none()) {
                    let granted = Lease { granted_at: Some(line.received_at), ..lease.clone() };
                    self.insert(Arc::new(granted));
                }
            }
            Some(LeaseFact::Released(released)) => {
                self.remove(released.job_id);
            }
            Some(LeaseFact::Wanted(_)) | None => {}
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;
    use crate::journal::line;
    use crate::protocol::command::ConfigUpdate;
    use crate::protocol::repository_access::RepositoryAccess;
    use crate::server::folded::{content, id, noon};

    /// A journal of leases without files.
    #[derive(Default)]
    pub(in crate::server) struct Leases {
        pub(in crate::server) state: LeaseState,
        seq: u64,
    }

    impl Leases {
        pub(in crate::server) fn add(&mut self, facts: impl IntoIterator<Item = LeaseFact>) {
            for fact in facts {
                self.seq += 1;
                let at = noon() + chrono::TimeDelta::seconds(i64::try_from(self.seq).expect("small"));
                let (bytes, _) = line::encode(self.seq, at, &fact.to_new_line(at));
                self.state.apply(&line::decode(bytes.trim_ascii_end()).expect("a line that was just encoded"));
            }
        }

        pub(in crate::server) fn of(facts: impl IntoIterator<Item = LeaseFact>) -> Self {
            let mut leases = Self::default();
            leases.add(facts);
            leases
        }
    }

    /// Job `number` of this host; backups are shared, prunes are not.
    pub(in crate::server) fn claim(number: u8, host: &str, kind: JobKind, target: &str) -> LeaseClaim {
        LeaseClaim {
            job_id: id(number),
            host: host.parse().expect("a host"),
            kind,
            target: target.parse().expect("a target"),
            mode: mode_of(kind).expect("it needs one"),
            queued_seq: number.into(),
        }
    }

    pub(in crate::server) fn released(number: u8) -> LeaseFact {
        LeaseFact::Released(LeaseReleased { job_id: id(number), why: ReleaseReason::Ended })
    }

    #[test]
    fn a_lease_is_wanted_granted_and_released_and_a_repetition_changes_nothing() {
        let granted = || LeaseFact::Granted(LeaseGranted { job_id: id(1) });
        let wanted = || LeaseFact::Wanted(claim(1, "web-1", JobKind::Backup, "main"));
        let mut leases = Leases::of([granted(), wanted(), wanted()]);
        assert_eq!((leases.state.waiting(), leases.state.held()), (1, 0), "nothing is granted that nobody wants");
        leases.add([granted()]);
        let once = leases.state.clone();
        leases.add([granted(), wanted()]);
        assert_eq!((leases.state.waiting(), leases.state.held(), &leases.state), (0, 1, &once));
        let text = serde_json::to_string(&once).expect("JSON");
        assert_eq!(serde_json::from_str::<LeaseState>(&text).expect("as it was written"), once);
        leases.add([released(1), released(1)]);
        assert_eq!(leases.state, LeaseState::default());
    }

    #[test]
    fn a_job_that_runs_already_has_what_it_takes_and_keeps_its_place() {
        let taken = LeaseFact::Taken(claim(2, "web-2", JobKind::Backup, "main"));
        let mut leases = Leases::of([LeaseFact::Wanted(claim(2, "web-2", JobKind::Backup, "main"))]);
        leases.add([taken.clone(), taken]);
        let lease = leases.state.of_job(id(2)).expect("the lease");
        assert_eq!((lease.seq, leases.state.held(), leases.state.waiting()), (1, 1, 0));
        assert_eq!(leases.state.of_host(&lease.claim.host).count(), 1);
    }

    #[test]
    fn a_job_needs_the_lease_of_the_repository_that_it_names_or_of_its_hosts() {
        let target = |text: &str| text.parse::<RepositoryTarget>().expect("a target");
        let own = HostContent { repository: Some(target("main/web-1")), ..content() };
        let needed = |kind, options: &Value| needed_lease(kind, options, Some(&own));
        let none = json!({});
        assert_eq!(needed(JobKind::Backup, &none), Some((target("main/web-1"), LeaseMode::Shared)));
        assert_eq!(
            needed(JobKind::Prune, &json!({"repository": "cold"})),
            Some((target("cold"), LeaseMode::Exclusive))
        );
        let config = ConfigUpdate {
            copy_targets: Some([(target("offsite/web-1"), RepositoryAccess::default())].into()),
            ..ConfigUpdate::default()
        };
        let copying = HostContent { config: config.into(), ..own.clone() };
        let needed_to_copy = needed_lease(JobKind::Copy, &json!({"to": "offsite"}), Some(&copying));
        assert_eq!(needed_to_copy, Some((target("offsite/web-1"), LeaseMode::Shared)), "where it writes");
        assert_eq!(needed(JobKind::Unlock, &none), None, "it removes what is in the way");
        assert_eq!(needed_lease(JobKind::Backup, &none, None), None);
        assert_eq!(needed_lease(JobKind::Backup, &none, Some(&content())), None);
    }
}
