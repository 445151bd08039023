//! Edge. Runs accepted jobs, one at a time, in order of receipt. Does not decide what is accepted.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use restic_manager::clock;
use restic_manager::file_error::chain;
use restic_manager::id::ScheduleId;
use restic_manager::protocol::agent_event::{AgentEvent, JobOutcome, JobStarted};
use restic_manager::protocol::job_options::{JobKind, JobSpec};
use tokio::sync::Notify;

use crate::commands::{ended, finish};
use crate::core::Agent;
use crate::ledger::{LedgerJob, Progress, Stage, Work};
use crate::restic_run::{self, Task};
use crate::unlock::{LockPlace, unlock};
use crate::{attempts, hook_run, query_run, repository_stats, restic_probe, snapshots, verify};

/// The ledger is looked at this often where nothing happens at all.
const QUIET_DAY: Duration = Duration::from_secs(24 * 3600);
/// After a death within a job, each after the one before.
const UNLOCKED_AGAIN_AFTER: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(20)];

/// Runs jobs until the agent stops. Whatever restic the last life of the agent had died with it, be it a job's or not, and
/// may have left its lock: stale locks are removed before the first job that could find one.
/// `died_within`: surely those have, so that others who share their repositories need not wait for our next jobs.
pub(crate) async fn run(agent: Rc<Agent>, died_within: Vec<LedgerJob>) {
    verify::remove_leftovers(&agent);
    let places: BTreeSet<LockPlace> = died_within.iter().flat_map(locks_of).collect();
    if !places.is_empty() {
        let places = Vec::from_iter(places);
        unlock_once(&agent, &places).await;
        tokio::task::spawn_local(unlock_again(Rc::clone(&agent), places));
    }
    let mut unlocked: BTreeSet<LockPlace> = BTreeSet::new();
    loop {
        let next = agent.ledger.borrow().unfinished().into_iter().find(|job| is_next(job) && !is_query(job)).cloned();
        let Some(job) = next else {
            // A quiet moment; and commands that were all rejected make the file grow too.
            compact_ledger(&agent);
            tokio::select! {
                () = agent.job_bell.notified() => {}
                () = tokio::time::sleep(QUIET_DAY) => {}
            }
            continue;
        };
        // Those that are in this job's way.
        let new: Vec<LockPlace> = locks_of(&job).into_iter().filter(|place| !unlocked.contains(place)).collect();
        if !new.is_empty() {
            unlock_once(&agent, &new).await;
            unlocked.extend(new);
            // That took its time: the job may have been cancelled.
            continue;
        }
        run_job(&agent, &job).await;
    }
}

/// Answers queries until the agent stops, beside the jobs: they take no lock, and somebody waits. More than one of these may run.
pub(crate) async fn run_queries(agent: Rc<Agent>) {
    loop {
        let next = agent.ledger.borrow().unfinished().into_iter().find(|job| is_next(job) && is_query(job)).cloned();
        match next {
            Some(job) => run_job(&agent, &job).await,
            None => agent.query_bell.notified().await,
        }
    }
}

fn is_next(job: &LedgerJob) -> bool {
    job.progress == Progress::Accepted
}

fn is_query(job: &LedgerJob) -> bool {
    matches!(&job.work, Work::Command(command) if command.kind.parse().is_ok_and(JobKind::is_query))
}

fn compact_ledger(agent: &Agent) {
    if let Err(error) = agent.ledger.borrow_mut().compact_if_large(clock::now()) {
        tracing::warn!("the ledger stays large: {}", chain(&error));
    }
}

async fn unlock_once(agent: &Agent, places: &[LockPlace]) {
    if let Ok(version) = restic_probe::probe(agent).await {
        unlock(agent, version, places).await;
    }
}

/// The system may not have buried the dead at the first time, and to restic a zombie holds its lock.
async fn unlock_again(agent: Rc<Agent>, places: Vec<LockPlace>) {
    for wait in UNLOCKED_AGAIN_AFTER {
        tokio::time::sleep(wait).await;
        unlock_once(&agent, &places).await;
    }
}

/// Of a job that nobody can read any more: where most are.
fn locks_of(job: &LedgerJob) -> Vec<LockPlace> {
    prepare(job).map_or_else(|_| vec![LockPlace::Own], |prepared| LockPlace::of(&prepared.spec))
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
    let mut finished = match version.clone() {
        Ok(version) if kind.is_query() => query_run::run(agent, &task, version).await,
        Ok(version) => hook_run::between_hooks(agent, &task, attempts::run(agent, &task, version)).await,
        Err(error) => ended(job.id, JobOutcome::Failed, Some(&error)),
    };
    restic_run::end_log(agent, &mut finished);
    let succeeded = finished.status == JobOutcome::Succeeded;
    finish(agent, finished.clone());
    agent.running.borrow_mut().remove(&job.id);
    agent.close_log(job.id);
    agent.status_bell.notify_one();
    agent.send_bell.notify_one();
    // The list is of the host's own repository.
    let is_own = prepared.spec.repository().is_none();
    if succeeded && is_own && matches!(kind, JobKind::Backup | JobKind::Forget) {
        snapshots::report(agent).await;
    }
    if let Ok(version) = version {
        repository_stats::after(agent, &prepared.spec, &finished, version);
    }
}
