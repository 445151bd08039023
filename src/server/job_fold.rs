//! Pure. What facts make of one job: for the host's state, which holds the jobs at hand, and for history, which reads one at a
//! time. Does not know other jobs, schedules or keys.

use chrono::{DateTime, TimeDelta, Utc};

use super::fact::{Fact, JobQueued};
use crate::id::JobId;
use crate::job::{Dispatch, Job, JobStatus};
use crate::journal::line::Line;
use crate::protocol::agent_event::{AgentEvent, CommandResult};

/// The job as it is when it is queued.
pub fn queued_job(queued: &JobQueued, line: &Line) -> Job {
    Job {
        id: queued.job_id,
        kind: queued.kind,
        status: JobStatus::Queued,
        queued_seq: line.seq,
        part_of: queued.part_of,
        actor: queued.actor.clone(),
        schedule_id: queued.schedule_id.clone(),
        scheduled_at: queued.scheduled_at,
        queued_at: line.received_at,
        started_at: None,
        finished_at: None,
        exit_code: None,
        error: None,
        incomplete: false,
        warnings: Vec::new(),
        offline: false,
        stats: None,
        options: queued.options.clone(),
        last_log_seq: None,
        dispatch: None,
        repository: queued.repository.clone(),
        take_by: queued.take_by,
        waiting_for: None,
        accepted: false,
        told_again: false,
        cancel_seq: None,
    }
}

/// The job that a fact changes.
pub fn changed_job(fact: &Fact) -> Option<JobId> {
    match fact {
        Fact::JobDispatched(dispatched) => Some(dispatched.job_id),
        Fact::JobWaiting(waiting) => Some(waiting.job_id),
        Fact::JobCancelRequested(request) | Fact::JobAbandoned(request) => Some(request.job_id),
        Fact::JobExpired(expired) => Some(expired.job_id),
        Fact::Agent(AgentEvent::CommandResult(result)) => Some(result.job_id),
        Fact::Agent(AgentEvent::JobStarted(started)) => Some(started.job_id),
        Fact::Agent(AgentEvent::JobFinished(finished)) => Some(finished.job_id),
        _ => None,
    }
}

/// How long after an end that the server made up (expired, refused, abandoned) the agent's own word of the end counts.
///
/// The agent's event is taken whenever it comes: an agent without contact may tell an end after weeks. Without a limit each look
/// at such a job would read its host's history to the end for a word that mostly never comes.
pub const LATE_END: TimeDelta = TimeDelta::days(30);

/// Whether no line that is received at this instant or later changes the job: the agent has told its end, or it is too late for
/// the agent to do so.
pub fn is_settled(job: &Job, at: DateTime<Utc>) -> bool {
    let is_told = job.last_log_seq.is_some();
    job.status.is_final() && (is_told || job.finished_at.is_some_and(|ended| at - ended > LATE_END))
}

/// Takes a fact about this job in.
pub fn apply_to_job(job: &mut Job, fact: &Fact, line: &Line) {
    if is_settled(job, line.received_at) {
        return;
    }
    let has_ended = job.status.is_final();
    match fact {
        Fact::JobDispatched(dispatched) if !has_ended => {
            if job.dispatch.is_some() {
                // Told again to an agent that said it has it.
                (job.told_again, job.accepted) = (true, true);
            }
            job.waiting_for = None;
            job.dispatch = Some(Dispatch { seq: line.seq, issued_at: line.ts, expires_at: dispatched.expires_at });
        }
        Fact::JobWaiting(waiting) if !has_ended && !job.accepted => {
            (job.dispatch, job.waiting_for) = (None, Some(waiting.waiting_for.clone()));
        }
        Fact::JobCancelRequested(_) if !has_ended => {
            job.cancel_seq.get_or_insert(line.seq);
        }
        Fact::JobAbandoned(request) => {
            job.end(JobStatus::Failed, line.received_at, &format!("abandoned by {}", request.actor.name));
        }
        Fact::JobExpired(_) if job.cancel_seq.is_some() => {
            job.end(JobStatus::Cancelled, line.received_at, "cancelled before the agent took it");
        }
        Fact::JobExpired(_) => {
            let by = job.dispatch.as_ref().map(|dispatch| dispatch.expires_at).or(job.take_by);
            let by = by.map_or(String::new(), |at| format!(", by {}", at.format("%Y-%m-%dT%H:%M:%SZ")));
            let why = format!("expired: the agent did not take it in time{by}; it was not run and will not be");
            job.end(JobStatus::Failed, line.received_at, &why);
        }
        Fact::Agent(AgentEvent::CommandResult(CommandResult { accepted: true, .. })) => job.accepted |= !has_ended,
        Fact::Agent(AgentEvent::CommandResult(CommandResult { error, .. })) => {
            let why = error.as_deref().unwrap_or("refused by the agent without a reason");
            job.end(JobStatus::Failed, line.received_at, why);
        }
        Fact::Agent(AgentEvent::JobStarted(started)) => job.start(started),
        Fact::Agent(AgentEvent::JobFinished(finished)) => job.finish(finished),
        _ => {}
    }
}
