//! Edge. Runs a job's restic until it has succeeded, or no other attempt is due: waits between attempts, and looks whether an attempt
//! whose end is unknown has made its snapshot before that is made again. Does not decide what is worth another try: `retry` does.

use std::time::Duration;

use restic_manager::file_error::chain;
use restic_manager::process::{Exit, run_to_end};
use restic_manager::protocol::agent_event::{JobFinished, JobOutcome, LogSource, Snapshot};
use restic_manager::protocol::job_options::JobSpec;
use restic_manager::protocol::text::Span;
use tokio::time::Instant;

use crate::commands::ended;
use crate::core::Agent;
use crate::identity::random_unit;
use crate::restic_args::{fs_snapshot, job_snapshots_arguments};
use crate::restic_json::cause::Cause;
use crate::restic_json::document;
use crate::restic_json::ending::{self, Transcript};
use crate::restic_run::{self, Ran, Task, job_context, log_line, masked};
use crate::restic_version::ResticVersion;
use crate::retry::{self, Attempts, Next, RetryRules};
use crate::unlock::{LockPlace, unlock};

/// How long after a start a lock may be one that our last run left, and how often it is tried to remove it.
const OWN_DEAD_LOCKS: Duration = Duration::from_secs(120);
const MOST_UNLOCKS: u64 = 3;
/// A list of snapshots that takes longer is none; less where `no_progress` is less.
const LOOK_DEADLINE: Duration = Duration::from_secs(300);

/// Runs the job, more than once where that may help. A cancel also ends the wait between two attempts.
pub(crate) async fn run(agent: &Agent, task: &Task<'_>, version: ResticVersion) -> JobFinished {
    let finished = fs_snapshot::judge(run_attempts(agent, task, version).await, task.spec);
    let Some(spec) = fs_snapshot::without(task.spec, &finished) else { return finished };
    let error = finished.error.unwrap_or_default();
    let text = format!("there is no shadow copy, so the files are read as they are: {error}");
    log_line(agent, task.id, LogSource::Event, &text);
    let mut finished = run_attempts(agent, &Task { spec: &spec, ..*task }, version).await;
    finished.warnings.insert(0, text);
    finished
}

async fn run_attempts(agent: &Agent, task: &Task<'_>, version: ResticVersion) -> JobFinished {
    let rules = rules(agent, task, version);
    let began = Instant::now();
    let mut attempts = Attempts::default();
    // What is open since an attempt of which nobody knows whether it made its snapshot.
    let mut open: Option<JobFinished> = None;
    let mut unlocked = 0;
    loop {
        let mut has_run = true;
        let ran = match &open {
            None => run_unless_own_dead(agent, task, version, &mut unlocked).await,
            Some(failed) => match task.unless_cancelled(find_snapshot(agent, task, version)).await {
                None => return ended(task.id, JobOutcome::Cancelled, None),
                Some(Ok(Some(snapshot))) => return with_its_snapshot(agent, task, failed.clone(), &snapshot),
                Some(Ok(None)) => run_unless_own_dead(agent, task, version, &mut unlocked).await,
                Some(Err(error)) => {
                    has_run = false;
                    let before = failed.error.as_deref().unwrap_or_default();
                    let error = masked(agent, &error);
                    let text = format!("{before}; whether that attempt made its snapshot cannot be asked: {error}");
                    let finished = JobFinished { error: Some(text), ..failed.clone() };
                    Ran { cause: Some(Cause::Unreachable), ..Ran::of(finished) }
                }
            },
        };
        if ran.finished.status != JobOutcome::Failed {
            return ran.finished;
        }
        let number = attempts.failed + 1;
        let wait = match retry::next(&rules, attempts, ran.cause, began.elapsed(), random_unit()) {
            Next::Never => return retry::after_all(ran.finished, number),
            Next::LookAtLock(wait) => {
                attempts.lock_looks += 1;
                let text = format!("the repository is locked: restic is started anew in {} s", wait.as_secs());
                log_line(agent, task.id, LogSource::Event, &text);
                wait
            }
            Next::Attempt(wait) => {
                attempts.failed += 1;
                let text = retry::told(number, &rules, ran.finished.error.as_deref(), wait);
                tracing::info!(job = %task.id, "{text}");
                log_line(agent, task.id, LogSource::Event, &text);
                wait
            }
        };
        if has_run && retry::may_have_made_a_snapshot(task.spec, ran.cause) {
            open = Some(ran.finished);
        }
        agent.send_bell.notify_one();
        if task.unless_cancelled(tokio::time::sleep(wait)).await.is_none() {
            log_line(agent, task.id, LogSource::Event, "cancelled between two attempts");
            return ended(task.id, JobOutcome::Cancelled, None);
        }
    }
}

fn rules(agent: &Agent, task: &Task<'_>, version: ResticVersion) -> RetryRules {
    let access = agent.received.borrow().access(task.spec.repository());
    let lock_wait = access.map(|access| access.retry_lock).unwrap_or_default();
    let lock_wait = if version.has_retry_lock() { Span::default() } else { lock_wait };
    RetryRules::of(task.spec, agent.settings.retry_wait, lock_wait)
}

/// A job that found the repository locked changed nothing. Soon after a start the lock may be one of our own dead, which the
/// system had not cleared away yet when it was unlocked first.
async fn run_unless_own_dead(agent: &Agent, task: &Task<'_>, version: ResticVersion, unlocked: &mut u64) -> Ran {
    loop {
        let ran = restic_run::run(agent, task, version).await;
        let is_locked = ran.cause == Some(Cause::Locked);
        if !is_locked || agent.started.elapsed() >= OWN_DEAD_LOCKS || *unlocked >= MOST_UNLOCKS {
            return ran;
        }
        *unlocked += 1;
        tokio::time::sleep(Duration::from_secs(*unlocked)).await;
        unlock(agent, version, &LockPlace::of(task.spec)).await;
    }
}

/// The snapshot that an attempt of this job has made.
async fn find_snapshot(agent: &Agent, task: &Task<'_>, version: ResticVersion) -> Result<Option<Snapshot>, String> {
    let access = agent.received.borrow().access(task.spec.repository())?;
    let arguments = job_snapshots_arguments(&job_context(agent, task, version, &access, None));
    let program = restic_run::program(agent, arguments, access).await?;
    let deadline = agent.settings.no_progress.map_or(LOOK_DEADLINE, |span| span.duration().min(LOOK_DEADLINE));
    let captured = run_to_end(&program, deadline).await.map_err(|error| chain(&error))?;
    if captured.exit != Exit::Code(0) {
        // As a job's own failure is told: one line, without what restic said while it was still trying.
        let mut transcript = Transcript::new(None);
        captured.stderr.lines().for_each(|line| drop(transcript.stderr(line.as_bytes())));
        let exit = match captured.exit {
            Exit::Code(code) => ending::Exit::Code(code),
            Exit::Signal(signal) => ending::Exit::Signal(signal),
        };
        return Err(transcript.end(exit, version).error.unwrap_or_default());
    }
    let found = document::snapshots(captured.stdout.as_bytes()).ok_or("restic printed no list of snapshots")?;
    // More than one cannot be; the newest is the last.
    Ok(found.into_iter().next_back())
}

fn with_its_snapshot(agent: &Agent, task: &Task<'_>, failed: JobFinished, snapshot: &Snapshot) -> JobFinished {
    let text = format!("snapshot {} is of this job: it is not made again", snapshot.short_id);
    log_line(agent, task.id, LogSource::Event, &text);
    let incomplete = if let JobSpec::Backup(options) = task.spec { options.incomplete } else { Default::default() };
    retry::with_its_snapshot(failed, snapshot, incomplete)
}
