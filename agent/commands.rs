//! Edge. Commands on their way to the runner: into the ledger first, then checked against the clock, the types and the policy,
//! and answered. A known id is answered again from what the ledger knows, and never run again.
//! Does not poll or run.

use restic_manager::clock;
use restic_manager::file_error::chain;
use restic_manager::id::{JobId, StreamId};
use restic_manager::protocol::UNSETTLED_JOBS_LIMIT;
use restic_manager::protocol::agent_event::{AgentEvent, ConfigAck, JobFinished, JobOutcome, ScheduleAck};
use restic_manager::protocol::command::CommandRun;
use restic_manager::protocol::job_options::JobSpec;

use crate::core::Agent;
use crate::ledger::{Command, LedgerJob, Progress, Stage, Work};
use crate::own_secrets;
use crate::real_path;
use crate::restic_json::readable;

/// Takes what a poll brought. When the ledger cannot be written the cursor stays, and the server tells all of it again.
pub(crate) fn receive(agent: &Agent, commands: &[Command], cursor: &str) {
    if commands.is_empty() && agent.ledger.borrow().cursor() == Some(cursor) {
        return;
    }
    let receipt = match agent.ledger.borrow_mut().receive(clock::now(), commands, cursor) {
        Ok(receipt) => receipt,
        Err(error) => {
            agent
                .note_error(&format!("commands could not be kept, the server will tell them again: {}", chain(&error)));
            return;
        }
    };
    for id in receipt.known {
        answer_again(agent, id);
    }
    for id in receipt.new {
        take(agent, id);
    }
    for id in receipt.cancel {
        cancel(agent, id);
    }
    agent.job_bell.notify_one();
    agent.query_bell.notify_one();
}

/// Accepts or rejects a command that the ledger has received.
pub(crate) fn take(agent: &Agent, id: JobId) {
    let command = match agent.ledger.borrow().job(id).map(|job| job.work.clone()) {
        Some(Work::Command(command)) => command,
        _ => return,
    };
    match check(agent, &command) {
        Ok(_) => {
            if agent.record(id, Stage::Accepted { offline: None }) {
                agent.answer(id, None);
            }
        }
        Err(error) => {
            // It may repeat what the server has said, which may be long.
            let error = readable(error.as_bytes());
            tracing::warn!(job = %id, %error, "command rejected");
            if agent.record(id, Stage::Rejected { error: error.clone() }) {
                agent.answer(id, Some(error));
            }
        }
    }
}

/// What the command runs, if it may.
fn check(agent: &Agent, command: &CommandRun) -> Result<JobSpec, String> {
    if command.expires_at < agent.server_now() {
        return Err(format!("expired at {}", command.expires_at));
    }
    if !agent.ledger.borrow().has_room_for_commands() {
        return Err(format!("more than {UNSETTLED_JOBS_LIMIT} jobs wait at the agent: let some of them end first"));
    }
    if !agent.spool.borrow().has_room_for_commands() {
        return Err("the agent's spool is full: the server must take its events first".to_owned());
    }
    let spec = JobSpec::parse(&command.kind, command.options.clone())?;
    permitted(agent, &spec)?;
    Ok(spec)
}

/// The policy's word on a job with the repository of the moment, and with the links of the moment on the disk.
pub(crate) fn permitted(agent: &Agent, spec: &JobSpec) -> Result<(), String> {
    let access = agent.received.borrow().access(spec.repository())?;
    agent.policy.permits(spec, &access.url)?;
    own_secrets::permits(&agent.settings.secrets, &access)?;
    if let Some(to) = spec.copies_to() {
        let access = agent.received.borrow().copy_access(to)?;
        agent.policy.permits_repository(&access.url)?;
        own_secrets::permits(&agent.settings.secrets, &access)?;
    }
    agent.policy.permits_real(spec, real_path::real)
}

/// Rejects a command that cannot be read. Its id is used: should it come again, with other content, it is answered again.
pub(crate) fn reject_unreadable(agent: &Agent, id: JobId, error: String) {
    if agent.ledger.borrow().job(id).is_some() {
        answer_again(agent, id);
    } else if agent.record(id, Stage::Rejected { error: error.clone() }) {
        agent.answer(id, Some(error));
    }
}

fn answer_again(agent: &Agent, id: JobId) {
    let progress = agent.ledger.borrow().job(id).map(|job| job.progress.clone());
    match progress {
        Some(Progress::Finished(finished)) => {
            agent.tell(&AgentEvent::JobFinished(finished));
        }
        Some(Progress::Rejected { error }) => agent.answer(id, Some(error)),
        Some(Progress::Received) => take(agent, id),
        Some(Progress::Accepted | Progress::Started) => agent.answer(id, None),
        None => {}
    }
}

/// Cancels a job: one that runs is interrupted, one that has not begun ends here.
pub(crate) fn cancel(agent: &Agent, id: JobId) {
    let bell = agent.running.borrow().get(&id).cloned();
    if let Some(bell) = bell {
        bell.notify_one();
        return;
    }
    let waits = agent
        .ledger
        .borrow()
        .job(id)
        .is_some_and(|job| matches!(job.progress, Progress::Accepted | Progress::Received));
    if waits {
        finish(agent, ended(id, JobOutcome::Cancelled, Some("cancelled before it began")));
    }
}

/// The end of a job that restic had no part in.
pub(crate) fn ended(job_id: JobId, status: JobOutcome, error: Option<&str>) -> JobFinished {
    JobFinished {
        job_id,
        status,
        exit_code: None,
        finished_at: clock::now(),
        incomplete: false,
        warnings: Vec::new(),
        last_log_seq: 0,
        stats: None,
        error: error.map(str::to_owned),
        kind: None,
        schedule_id: None,
        scheduled_at: None,
    }
}

/// Records a job's end and tells it. Ledger first: an end that is told is never forgotten here.
pub(crate) fn finish(agent: &Agent, mut finished: JobFinished) {
    if let Some(job) = agent.ledger.borrow().job(finished.job_id) {
        // For a server that has lost the job's beginning.
        (finished.kind, finished.schedule_id, finished.scheduled_at) = job.work.origin();
    }
    finished.error = finished.error.map(|error| readable(error.as_bytes()));
    tracing::info!(job = %finished.job_id, status = ?finished.status, error = finished.error, "job ended");
    if agent.record(finished.job_id, Stage::Finished { finished: finished.clone() }) {
        agent.tell(&AgentEvent::JobFinished(finished));
    }
}

/// The server has everything up to here: ends among it are settled.
pub(crate) fn acknowledged(agent: &Agent, up_to: u64) {
    if !agent.spool.borrow().can_have_given(up_to) {
        return begin_stream(
            agent,
            "another agent has written this one's event stream, or this directory is an older copy",
        );
    }
    let settled = match agent.spool.borrow_mut().acknowledge(up_to) {
        Ok(settled) => settled,
        Err(error) => {
            tracing::warn!("the spool: {}", chain(&error));
            return;
        }
    };
    for job in settled {
        agent.record(job, Stage::Settled);
    }
}

/// What the server has not acknowledged is sent as a new stream.
pub(crate) fn begin_stream(agent: &Agent, why: &str) {
    tracing::warn!("{why}: starting a new stream");
    let begun = agent.spool.borrow_mut().start_new_stream(StreamId(uuid::Uuid::new_v4()));
    if let Err(error) = begun {
        agent.note_error(&format!("the spool: {}", chain(&error)));
    }
}

/// After a start: jobs that ran when the agent died end here and are never run again, and ends that the spool lost are
/// told again. Returns the jobs that died, which may have left locks.
pub(crate) fn recover(agent: &Agent) -> Vec<LedgerJob> {
    let died_with = agent.ledger.borrow().started_without_end();
    let died = died_with.iter().filter_map(|id| agent.ledger.borrow().job(*id).cloned()).collect();
    for id in &died_with {
        let last_log_seq = crate::sender::last_log_seq(agent, *id);
        let cancelled = agent.ledger.borrow().job(*id).is_some_and(|job| job.cancel_requested);
        let status = if cancelled { JobOutcome::Cancelled } else { JobOutcome::Failed };
        finish(agent, JobFinished { last_log_seq, ..ended(*id, status, Some("agent restarted")) });
    }
    let ends: Vec<_> = agent.ledger.borrow().unsettled_ends().into_iter().cloned().collect();
    for job in ends.iter().filter(|job| !agent.spool.borrow().holds_end_of(job.id)) {
        answer_again(agent, job.id);
    }
    let received: Vec<JobId> = agent
        .ledger
        .borrow()
        .unfinished()
        .iter()
        .filter(|job| job.progress == Progress::Received)
        .map(|job| job.id)
        .collect();
    for id in received {
        take(agent, id);
    }
    let cancelled: Vec<JobId> =
        agent.ledger.borrow().unfinished().iter().filter(|job| job.cancel_requested).map(|job| job.id).collect();
    for id in cancelled {
        cancel(agent, id);
    }
    // Versions that were applied just before a crash may not have been acknowledged.
    tell_versions(agent);
    died
}

/// Tells which versions of settings and schedules are applied.
pub(crate) fn tell_versions(agent: &Agent) {
    let (config, schedules) = {
        let received = agent.received.borrow();
        (received.config().version, received.schedules().map_or(0, |set| set.version))
    };
    let applied_at = clock::now();
    if config > 0 {
        agent.tell(&AgentEvent::ConfigAck(ConfigAck { version: config, applied_at }));
    }
    if schedules > 0 {
        agent.tell(&AgentEvent::ScheduleAck(ScheduleAck { version: schedules, applied_at }));
    }
}
