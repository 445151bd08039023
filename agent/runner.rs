//! Edge. Runs accepted jobs, one at a time, in order of receipt. Does not decide what is accepted.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use restic_manager::clock;
use restic_manager::file_error::chain;
use restic_manager::id::ScheduleId;
use restic_manager::protocol::agent_event::{AgentEvent, JobOutcome, JobStarted};
use restic_manager::protocol::job_options::{JobKind, JobSpec};
use restic_manager::repository_target::RepositoryTarget;
use tokio::sync::Notify;

use crate::commands::{ended, finish};
use crate::core::Agent;
use crate::ledger::{LedgerJob, Progress, Stage, Work};
use crate::restic_run::{self, Task};
use crate::{hook_run, restic_probe, snapshots, verify};

/// How soon a job that found the repository locked is tried again, in seconds, times the number of the try.
const LOCKED_RETRY_SECS: u64 = 20;

/// The ledger is looked at this often where nothing happens at all.
const QUIET_DAY: Duration = Duration::from_secs(24 * 3600);

/// How long after a start a lock may be one that our last run left, and how often it is tried to remove it.
const OWN_DEAD_LOCKS: Duration = Duration::from_secs(120);
const MOST_UNLOCKS: u64 = 3;

/// Runs jobs until the agent stops. Whatever restic the last life of the agent had died with it, be it a job's or not, and
/// may have left its lock: stale locks are removed before the first job that could find one.
/// `died_within_a_job`: surely one has, so that others who share the repository need not wait for our next job.
pub(crate) async fn run(agent: Rc<Agent>, died_within_a_job: bool) {
    verify::remove_leftovers(&agent);
    if died_within_a_job && let Ok(version) = restic_probe::probe(&agent).await {
        restic_run::unlock(&agent, version, None).await;
    }
    // Again: the system may not have buried the dead by then, and to restic a zombie holds its lock.
    let mut unlocked: BTreeSet<Option<RepositoryTarget>> = BTreeSet::new();
    loop {
        let next =
            agent.ledger.borrow().unfinished().into_iter().find(|job| job.progress == Progress::Accepted).cloned();
        let Some(job) = next else {
            // A quiet moment; and commands that were all rejected make the file grow too.
            compact_ledger(&agent);
            tokio::select! {
                () = agent.job_bell.notified() => {}
                () = tokio::time::sleep(QUIET_DAY) => {}
            }
            continue;
        };
        if let Some(repository) = meets_locks_of(&job)
            && unlocked.insert(repository.clone())
        {
            if let Ok(version) = restic_probe::probe(&agent).await {
                restic_run::unlock(&agent, version, repository.as_ref()).await;
            }
            // That took its time: the job may have been cancelled.
            continue;
        }
        run_job(&agent, &job).await;
    }
}

fn compact_ledger(agent: &Agent) {
    if let Err(error) = agent.ledger.borrow_mut().compact_if_large(clock::now()) {
        tracing::warn!("the ledger stays large: {}", chain(&error));
    }
}

/// The repository whose locks are in this job's way: none where there is no repository yet, nor where it is there to remove
/// them. `Some(None)`: the host's own.
fn meets_locks_of(job: &LedgerJob) -> Option<Option<RepositoryTarget>> {
    let spec = prepare(job).ok()?.spec;
    (!matches!(spec.kind(), JobKind::Init | JobKind::Unlock)).then(|| spec.repository().cloned())
}

/// What is known of a job that is about to run.
struct Prepared {
    spec: JobSpec,
    schedule_id: Option<ScheduleId>,
    scheduled_at: Option<chrono::DateTime<chrono::Utc>>,
    offline: bool,
}

fn prepare(job: &LedgerJob) -> Result<Prepared, String> {
    match &job.work {
        Work::Command(command) => Ok(Prepared {
            spec: JobSpec::parse(&command.kind, command.options.clone())?,
            schedule_id: command.schedule_id.clone(),
            scheduled_at: command.scheduled_at,
            offline: false,
        }),
        Work::Offline(offline) => Ok(Prepared {
            spec: offline.spec.clone(),
            schedule_id: Some(offline.schedule_id.clone()),
            scheduled_at: Some(offline.scheduled_at),
            offline: true,
        }),
        Work::Forgotten => Err("the agent's ledger no longer knows what this job was to do".to_owned()),
    }
}

async fn run_job(agent: &Rc<Agent>, job: &LedgerJob) {
    let prepared = match prepare(job) {
        Ok(prepared) => prepared,
        Err(error) => return finish(agent, ended(job.id, JobOutcome::Failed, Some(&error))),
    };
    let kind = prepared.spec.kind();
    let bell = Rc::new(Notify::new());
    agent.running.borrow_mut().insert(job.id, Rc::clone(&bell));
    // In the ledger before anything runs: an agent that dies now never runs this id again.
    if !agent.record(job.id, Stage::Started) {
        agent.running.borrow_mut().remove(&job.id);
        tokio::time::sleep(Duration::from_secs(5)).await;
        return;
    }
    tracing::info!(job = %job.id, %kind, "job begins");
    agent.status_bell.notify_one();
    agent.tell(&AgentEvent::JobStarted(JobStarted {
        job_id: job.id,
        kind,
        started_at: clock::now(),
        schedule_id: prepared.schedule_id.clone(),
        scheduled_at: prepared.scheduled_at,
        offline: prepared.offline,
    }));
    let version = restic_probe::probe(agent).await;
    let task = Task { id: job.id, spec: &prepared.spec, schedule_id: prepared.schedule_id.as_ref(), cancel: &bell };
    let mut finished = match version {
        Ok(version) => hook_run::between_hooks(agent, &task, run_with_retries(agent, &task, version)).await,
        Err(error) => ended(job.id, JobOutcome::Failed, Some(&error)),
    };
    restic_run::end_log(agent, &mut finished);
    let succeeded = finished.status == JobOutcome::Succeeded;
    finish(agent, finished);
    agent.running.borrow_mut().remove(&job.id);
    agent.close_log(job.id);
    agent.status_bell.notify_one();
    agent.send_bell.notify_one();
    // The list is of the host's own repository.
    let is_own = prepared.spec.repository().is_none();
    if succeeded && is_own && matches!(kind, JobKind::Backup | JobKind::Forget) {
        snapshots::report(agent).await;
    }
}

/// A job that found the repository locked changed nothing. Soon after a start the lock may be one of our own dead, which the
/// system had not cleared away yet when it was unlocked first; else a backup is tried again as often as its schedule says.
async fn run_with_retries(
    agent: &Rc<Agent>,
    task: &Task<'_>,
    version: crate::restic_version::ResticVersion,
) -> restic_manager::protocol::agent_event::JobFinished {
    let retries = if let JobSpec::Backup(options) = task.spec { u64::from(options.retries.min(10)) } else { 0 };
    let (mut attempt, mut unlocked) = (1, 0);
    loop {
        let ran = restic_run::run(agent, task, version).await;
        if ran.locked && agent.started.elapsed() < OWN_DEAD_LOCKS && unlocked < MOST_UNLOCKS {
            unlocked += 1;
            tokio::time::sleep(Duration::from_secs(unlocked)).await;
            restic_run::unlock(agent, version, task.spec.repository()).await;
            continue;
        }
        if !ran.locked || attempt > retries {
            return ran.finished;
        }
        tracing::info!(job = %task.id, attempt, "the repository is locked: trying again");
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(LOCKED_RETRY_SECS * attempt)) => attempt += 1,
            () = task.cancel.notified() => return ended(task.id, JobOutcome::Cancelled, None),
        }
    }
}
