//! Pure. Who gets a repository next, and what the others wait for, for people. In the order in which they asked; a later one may go
//! ahead of one that waits only where it takes nothing from it:
//!
//! - An exclusive lease has its target alone, and one that waits lets no later one at its target: what runs there ends, and then
//!   it is first. A shared one that waits is passed by no exclusive one of its target.
//! - A host has one lease of a repository, since its agent runs one job at a time, and its jobs go in their order.
//! - `max_parallel` counts all that have the repository. When it is reached nobody is looked at further: whatever ends, the one that
//!   waits longest and may go is next. So whoever waits is passed only while something that was there before it is in its way.
//!
//! Does not read or write: the state and the rules are arguments.

use std::collections::BTreeMap;

use super::leases::{Lease, LeaseMode, LeaseState};
use crate::id::{HostName, JobId};
use crate::protocol::job_options::JobKind;
use crate::repository_target::RepositoryTarget;

/// What a repository's configuration says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeaseRules {
    /// `None`: no limit.
    pub max_parallel: Option<u32>,
}

impl LeaseRules {
    fn is_full(self, held: usize) -> bool {
        self.max_parallel.is_some_and(|most| held >= usize::try_from(most).unwrap_or(usize::MAX))
    }
}

/// What is taken, and by whom the rest is claimed, while one goes along the queue.
#[derive(Default)]
struct Taken<'a> {
    held: usize,
    /// Hosts that have a job here, or one that comes first.
    hosts: BTreeMap<&'a HostName, &'a Lease>,
    targets: BTreeMap<&'a RepositoryTarget, OnTarget<'a>>,
}

#[derive(Default)]
struct OnTarget<'a> {
    exclusive: Option<&'a Lease>,
    shared: usize,
    /// The first that waits, of each mode.
    waiting_exclusive: Option<&'a Lease>,
    waiting_shared: Option<&'a Lease>,
}

/// Why a lease is not granted.
enum Obstacle<'a> {
    OwnHost(&'a Lease),
    Held(&'a Lease),
    /// It wants to be alone, and so many are there.
    NotAlone(usize),
    Before(&'a Lease),
}

impl<'a> Taken<'a> {
    fn of(state: &'a LeaseState) -> Self {
        let mut taken = Self::default();
        state.leases().filter(|lease| lease.granted_at.is_some()).for_each(|lease| taken.hold(lease));
        taken
    }

    fn hold(&mut self, lease: &'a Lease) {
        self.held += 1;
        self.hosts.entry(&lease.claim.host).or_insert(lease);
        let target = self.targets.entry(&lease.claim.target).or_default();
        match lease.claim.mode {
            LeaseMode::Exclusive => target.exclusive = Some(lease),
            LeaseMode::Shared => target.shared += 1,
        }
    }

    fn wait(&mut self, lease: &'a Lease) {
        self.hosts.entry(&lease.claim.host).or_insert(lease);
        let target = self.targets.entry(&lease.claim.target).or_default();
        let first = match lease.claim.mode {
            LeaseMode::Exclusive => &mut target.waiting_exclusive,
            LeaseMode::Shared => &mut target.waiting_shared,
        };
        first.get_or_insert(lease);
    }

    fn obstacle(&self, lease: &Lease) -> Option<Obstacle<'a>> {
        if let Some(target) = self.targets.get(&lease.claim.target) {
            let is_exclusive = lease.claim.mode == LeaseMode::Exclusive;
            if let Some(holder) = target.exclusive {
                return Some(Obstacle::Held(holder));
            }
            let before = target.waiting_exclusive.or(target.waiting_shared.filter(|_| is_exclusive));
            if let Some(before) = before {
                return Some(Obstacle::Before(before));
            }
            if is_exclusive && target.shared > 0 {
                return Some(Obstacle::NotAlone(target.shared));
            }
        }
        self.hosts.get(&lease.claim.host).map(|lease| Obstacle::OwnHost(lease))
    }
}

/// Those that get it now, in their order.
pub fn grants(state: &LeaseState, rules: LeaseRules) -> Vec<JobId> {
    if rules.is_full(state.held()) || state.waiting() == 0 {
        return Vec::new();
    }
    let mut taken = Taken::of(state);
    let mut granted = Vec::new();
    for lease in state.leases().filter(|lease| lease.granted_at.is_none()) {
        if rules.is_full(taken.held) {
            break;
        }
        match taken.obstacle(lease) {
            None => {
                granted.push(lease.claim.job_id);
                taken.hold(lease);
            }
            Some(_) => taken.wait(lease),
        }
    }
    granted
}

/// What a job that waits here waits for. `None`: it does not.
pub fn waits_for(state: &LeaseState, rules: LeaseRules, job: JobId) -> Option<String> {
    let mine = state.of_job(job).filter(|lease| lease.granted_at.is_none())?;
    waits_for_each(state, rules, |lease| lease.seq == mine.seq).pop().map(|(_, text)| text)
}

/// The same of many at once, going along the queue once.
pub fn waits_for_each(
    state: &LeaseState,
    rules: LeaseRules,
    is_meant: impl Fn(&Lease) -> bool,
) -> Vec<(&Lease, String)> {
    let mut taken = Taken::of(state);
    let mut said = Vec::new();
    for (ahead, lease) in state.leases().filter(|lease| lease.granted_at.is_none()).enumerate() {
        if is_meant(lease) {
            said.push((lease, says(&taken, rules, lease, ahead)));
        }
        taken.wait(lease);
    }
    said
}

/// What keeps this one from it, with so many before it.
fn says(taken: &Taken<'_>, rules: LeaseRules, mine: &Lease, ahead: usize) -> String {
    let target = &mine.claim.target;
    let reason = match taken.obstacle(mine) {
        Some(Obstacle::Held(holder)) => Some(format!("for {}, which has repository {target} alone", shown(holder))),
        Some(Obstacle::NotAlone(1)) => Some(format!("for the job in repository {target} to end, to have that alone")),
        Some(Obstacle::NotAlone(count)) => {
            Some(format!("for the {count} jobs in repository {target} to end, to have that alone"))
        }
        Some(Obstacle::Before(first)) if first.claim.mode == LeaseMode::Exclusive => {
            Some(format!("for {}, which is before it and will have repository {target} alone", shown(first)))
        }
        Some(Obstacle::OwnHost(other)) => {
            Some(its_own_agent_runs(other.claim.job_id, other.claim.kind, &other.claim.host))
        }
        Some(Obstacle::Before(_)) | None => None,
    };
    let full = rules.max_parallel.filter(|_| rules.is_full(taken.held));
    let full = full.map(|most| format!("for repository {}, which is at its max_parallel of {most}", target.repository));
    let count = match ahead {
        0 => None,
        1 => Some("1 job before it".to_owned()),
        count => Some(format!("{count} jobs before it")),
    };
    let parts: Vec<String> = [count, reason.or(full)].into_iter().flatten().collect();
    if parts.is_empty() { "its turn".to_owned() } else { parts.join(", and ") }
}

/// What a job waits for when its host has another one before it.
pub fn its_own_agent_runs(job: JobId, kind: JobKind, host: &HostName) -> String {
    format!("for job {job} ({kind} on {host}), which its own agent runs first")
}

fn shown(lease: &Lease) -> String {
    format!("job {} ({} on {})", lease.claim.job_id, lease.claim.kind, lease.claim.host)
}

#[cfg(test)]
mod tests;
