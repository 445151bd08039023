//! Pure. How jobs end that no agent ends: cancelled before it took them, abandoned, or not taken in time; and what that time is.
//! Does not make jobs: `decide` does.

use chrono::{DateTime, TimeDelta, Utc};

use super::decide::Refusal;
use super::fact::{Fact, JobAndActor, JobDispatched, JobExpired};
use super::host_state::HostState;
use crate::id::JobId;
use crate::job::{Actor, ActorKind, Job};
use crate::protocol::job_options::JobKind;

/// How long an agent may take to pick a command up.
pub const COMMAND_LIFETIME: TimeDelta = TimeDelta::hours(24);
/// The same of what an operator asked for, unless the request says `queue_for`: days later a restore in place would write over what
/// was made since. A backup does no harm at whatever time.
pub const REQUEST_LIFETIME: TimeDelta = TimeDelta::minutes(15);
/// The same of a query: nobody waits longer for an answer.
pub const QUERY_LIFETIME: TimeDelta = TimeDelta::minutes(5);

/// How long an agent may take to pick such a job up, once it may.
pub const fn lifetime(kind: JobKind, actor: ActorKind) -> TimeDelta {
    match (kind, actor) {
        (kind, _) if kind.is_query() => QUERY_LIFETIME,
        (JobKind::Backup, _) | (_, ActorKind::Schedule | ActorKind::System) => COMMAND_LIFETIME,
        (_, ActorKind::Operator) => REQUEST_LIFETIME,
    }
}

/// That the agent may take the job from now on.
pub(super) fn dispatched(job: &Job, now: DateTime<Utc>) -> Fact {
    dispatched_by(job.id, job.take_by.unwrap_or(now + lifetime(job.kind, job.actor.kind)))
}

pub(super) fn dispatched_by(job_id: JobId, expires_at: DateTime<Utc>) -> Fact {
    Fact::JobDispatched(JobDispatched { job_id, expires_at })
}

/// A cancel that changes something: nothing when the job has ended or was asked to end before. One that is no command ends here.
pub fn decide_cancel(state: &HostState, job_id: JobId, actor: Actor) -> Vec<Fact> {
    let Some(job) = state.jobs.get(&job_id).filter(|job| job.cancel_seq.is_none()) else { return Vec::new() };
    let ends = job.is_undispatched().then_some(Fact::JobExpired(JobExpired { job_id }));
    std::iter::once(Fact::JobCancelRequested(JobAndActor { job_id, actor })).chain(ends).collect()
}

/// Ends a job whose agent is out of contact. `online_until`: until when it is not, if it says nothing more.
pub fn decide_abandon(
    state: &HostState,
    job_id: JobId,
    actor: Actor,
    online_until: Option<DateTime<Utc>>,
) -> Result<Option<Fact>, Refusal> {
    if !state.jobs.contains_key(&job_id) {
        return Ok(None);
    }
    if let Some(until) = online_until {
        let until = until.format("%Y-%m-%dT%H:%M:%SZ");
        return Err(Refusal::Conflict(format!(
            "the agent is in contact: cancel the job instead. If nothing more is heard of the agent, the job can be abandoned after {until}"
        )));
    }
    Ok(Some(Fact::JobAbandoned(JobAndActor { job_id, actor })))
}

/// Jobs that nobody took in time end; queued ones that need no lease and are no command yet become one, and cancelled ones end
/// (power loss may keep the line that queued or cancelled a job without the next one).
pub fn decide_tick(state: &HostState, now: DateTime<Utc>) -> Vec<Fact> {
    let due = state.jobs.values().filter(|job| !job.accepted).filter_map(|job| match &job.dispatch {
        Some(dispatch) => (dispatch.expires_at < now).then_some(Fact::JobExpired(JobExpired { job_id: job.id })),
        None if job.cancel_seq.is_some() || job.take_by.is_some_and(|at| at < now) => {
            Some(Fact::JobExpired(JobExpired { job_id: job.id }))
        }
        None => job.repository.is_none().then(|| dispatched(job, now)),
    });
    due.collect()
}

#[cfg(test)]
mod tests;
