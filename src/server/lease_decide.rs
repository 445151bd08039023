//! Pure. What a repository's journal of leases should say of one host's jobs, and what the host's journal should say of leases that
//! its jobs got or wait for. Level-triggered: the same whether a step before was done here, by another server, or by one that died
//! half way. Does not decide who is next: `lease_grants` does.

use chrono::{DateTime, TimeDelta, Utc};

use super::fact::{Fact, JobExpired, JobWaiting};
use super::host_content::HostContent;
use super::host_state::HostState;
use super::job_endings::{dispatched, lifetime};
use super::lease_grants::its_own_agent_runs;
use super::leases::{
    Lease, LeaseClaim, LeaseFact, LeaseMode, LeaseReleased, LeaseState, ReleaseReason, mode_of, needed_lease,
};
use crate::id::{HostName, JobId, RepositoryName};
use crate::job::Job;
use crate::repository_target::RepositoryTarget;

/// How long an agent may be out of contact until its leases lapse (protocol.md "Delivered is not received").
pub const LAPSES_AFTER: TimeDelta = TimeDelta::minutes(15);

/// What a job waits for when its agent has been silent for that long.
pub const OUT_OF_CONTACT: &str = "its agent, which is out of contact";

/// When the agent was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentContact {
    pub last_seen: Option<DateTime<Utc>>,
    /// From when on its silence counts against it, by `silence`.
    pub silent_since: DateTime<Utc>,
    pub now: DateTime<Utc>,
}

impl AgentContact {
    /// Whether it has been silent for so long that its leases lapse.
    pub fn is_lost(self) -> bool {
        self.now - self.silent_since > LAPSES_AFTER
    }

    /// Whether it was heard within that time, also by the server's predecessor.
    fn is_heard(self) -> bool {
        self.last_seen.is_some_and(|seen| self.now - seen <= LAPSES_AFTER)
    }
}

/// A host as far as leases go.
#[derive(Clone, Copy)]
pub struct Tenant<'a> {
    pub host: &'a HostName,
    pub state: &'a HostState,
    /// How far its journal was read.
    pub head_seq: u64,
    pub content: Option<&'a HostContent>,
    /// Whether the configuration has a repository.
    pub has_repository: &'a dyn Fn(&RepositoryName) -> bool,
    pub contact: AgentContact,
}

impl Tenant<'_> {
    /// The lease that the job needs as things are now. `None`: it needs none, and may be dispatched at once.
    pub fn needs(&self, job: &Job) -> Option<(RepositoryTarget, LeaseMode)> {
        let needed = needed_lease(job.kind, &job.options, self.content);
        needed.filter(|(target, _)| (self.has_repository)(&target.repository))
    }

    /// The job that the host's agent runs before this one, where that is in another repository: jobs of one host go in their order
    /// over all repositories, else one would be kept from others by a job that waits at its agent.
    fn runs_elsewhere_first(&self, job: &Job, repository: &RepositoryName) -> Option<&Job> {
        let is_elsewhere = |other: &Job| {
            let target = other.repository.clone().or_else(|| Some(self.needs(other)?.0));
            target.is_some_and(|target| target.repository != *repository)
        };
        let before = self.state.jobs.values().filter(|other| other.queued_seq < job.queued_seq);
        before.filter(|other| is_elsewhere(other)).min_by_key(|other| other.queued_seq)
    }

    /// The repositories whose leases its jobs may have, or want: of those that have just ended too.
    pub fn repositories(&self) -> impl Iterator<Item = RepositoryName> {
        let jobs = self.state.jobs.values().chain(&self.state.recent);
        let said = jobs.clone().filter_map(|job| job.repository.clone());
        let needed = jobs.filter(|job| mode_of(job.kind).is_some()).filter_map(|job| Some(self.needs(job)?.0));
        said.chain(needed).map(|target| target.repository)
    }
}

/// What is to be written of this host into the journal of this repository's leases.
pub fn decide_leases(leases: &LeaseState, repository: &RepositoryName, tenant: Tenant<'_>) -> Vec<LeaseFact> {
    let mut facts = Vec::new();
    for lease in leases.of_host(tenant.host) {
        let job_id = lease.claim.job_id;
        if let Some(why) = reason_to_release(lease, tenant) {
            facts.push(LeaseFact::Released(LeaseReleased { job_id, why }));
        } else if lease.granted_at.is_none() && tenant.state.jobs.get(&job_id).is_some_and(|job| job.accepted) {
            facts.push(LeaseFact::Taken(lease.claim.clone()));
        }
    }
    let mut jobs: Vec<&Job> = tenant.state.jobs.values().filter(|job| leases.of_job(job.id).is_none()).collect();
    jobs.sort_by_key(|job| job.queued_seq);
    for job in jobs {
        let Some((target, mode)) = tenant.needs(job).filter(|(target, _)| target.repository == *repository) else {
            continue;
        };
        let (host, kind) = (tenant.host.clone(), job.kind);
        let claim = LeaseClaim { job_id: job.id, host, kind, target, mode, queued_seq: job.queued_seq };
        if job.is_undispatched() {
            let is_first = tenant.runs_elsewhere_first(job, repository).is_none();
            if is_first && job.cancel_seq.is_none() && !tenant.contact.is_lost() {
                facts.push(LeaseFact::Wanted(claim));
            }
        } else if tenant.contact.is_heard() {
            facts.push(LeaseFact::Taken(claim));
        }
    }
    facts
}

fn reason_to_release(lease: &Lease, tenant: Tenant<'_>) -> Option<ReleaseReason> {
    let now = tenant.contact.now;
    let Some(job) = tenant.state.jobs.get(&lease.claim.job_id) else {
        // One whose beginning was not read yet has not ended. A host's journal that is an older copy never gets there.
        let is_known = tenant.head_seq >= lease.claim.queued_seq || now - lease.wanted_at > LAPSES_AFTER;
        return is_known.then_some(ReleaseReason::Ended);
    };
    let is_fresh = lease.granted_at.is_some_and(|at| now - at <= LAPSES_AFTER);
    if tenant.contact.is_lost() && !is_fresh {
        return Some(ReleaseReason::Lapsed);
    }
    if job.is_undispatched() && job.cancel_seq.is_some() {
        return Some(ReleaseReason::Ended);
    }
    // What the agent has goes on with the repository that it had.
    let target = tenant.needs(job).map(|(target, _)| target);
    let has_moved = job.is_undispatched() && target.as_ref() != Some(&lease.claim.target);
    has_moved.then_some(ReleaseReason::Moved)
}

/// What a host is to be told about its jobs' leases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaseNews {
    pub granted: Vec<JobId>,
    /// With what they wait for.
    pub waiting: Vec<(JobId, String)>,
}

/// What is to be written of it into the host's journal.
pub fn decide_news(state: &HostState, news: &LeaseNews, now: DateTime<Utc>) -> Vec<Fact> {
    let undispatched = |id: &JobId| state.jobs.get(id).filter(|job| job.is_undispatched() && job.cancel_seq.is_none());
    let granted = news.granted.iter().filter_map(undispatched).map(|job| dispatched(job, now));
    let waiting = news.waiting.iter().filter_map(|(id, text)| {
        let job = undispatched(id).filter(|job| job.waiting_for.is_none())?;
        Some(Fact::JobWaiting(JobWaiting { job_id: job.id, waiting_for: text.clone() }))
    });
    granted.chain(waiting).collect()
}

/// What is to be written into the host's journal whoever has a lease: jobs that need none are dispatched. Of an agent that is lost,
/// commands that it has not taken are withdrawn until it is back, and what it did not take in time ends as commands do.
pub fn decide_without_lease(tenant: Tenant<'_>) -> Vec<Fact> {
    let now = tenant.contact.now;
    let is_lost = tenant.contact.is_lost();
    let waits = |job: &Job, waiting_for: String| Fact::JobWaiting(JobWaiting { job_id: job.id, waiting_for });
    // `decide_tick` ends those that were cancelled.
    let jobs = tenant.state.jobs.values().filter(|job| job.cancel_seq.is_none());
    let of_job = |job: &Job| {
        let Some((target, _)) = tenant.needs(job) else {
            return job.is_undispatched().then(|| dispatched(job, now));
        };
        if let Some(dispatch) = job.dispatch.as_ref().filter(|_| !job.accepted && !job.told_again) {
            let is_withdrawn = is_lost && now - dispatch.issued_at > LAPSES_AFTER;
            return is_withdrawn.then(|| waits(job, OUT_OF_CONTACT.to_owned()));
        }
        if !job.is_undispatched() {
            return None;
        }
        let by = job.take_by.unwrap_or(job.queued_at + lifetime(job.kind, job.actor.kind));
        if is_lost && now > by {
            return Some(Fact::JobExpired(JobExpired { job_id: job.id }));
        }
        if job.waiting_for.is_some() {
            return None;
        }
        let first = tenant.runs_elsewhere_first(job, &target.repository);
        let first = first.map(|first| its_own_agent_runs(first.id, first.kind, tenant.host));
        first.or_else(|| is_lost.then(|| OUT_OF_CONTACT.to_owned())).map(|text| waits(job, text))
    };
    jobs.filter_map(of_job).collect()
}

#[cfg(test)]
mod tests;
