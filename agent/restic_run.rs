//! Edge. One run of a job's restic: with typed arguments and a clean environment, and with what a job's log and end are told of it.
//! No secret reaches a log line, an event or an error. Does not touch the ledger, nor watch over restic: `supervise` does.

use restic_manager::clock;
use restic_manager::file_error::chain;
use restic_manager::id::{JobId, ScheduleId};
use restic_manager::mask::{mask_secrets, mask_url};
use restic_manager::process::Program;
use restic_manager::protocol::agent_event::{JobFinished, JobOutcome, LogSource};
use restic_manager::protocol::command::Secret;
use restic_manager::protocol::job_options::JobSpec;
use restic_manager::protocol::repository_access::RepositoryAccess;
use tokio::sync::Notify;

use crate::commands::ended;
use crate::copy_environment::copy_environment;
use crate::core::{Agent, SharedLog};
use crate::make_room;
use crate::read_secrets;
use crate::repository_url::Backend;
use crate::restic_args::{ArgumentContext, arguments};
use crate::restic_environment::{EnvironmentContext, environment};
use crate::restic_json::cause::Cause;
use crate::restic_version::ResticVersion;
use crate::supervise::{Watched, supervise};
use crate::verify;

mod restore;

/// What to run.
pub(crate) struct Task<'a> {
    pub(crate) id: JobId,
    pub(crate) spec: &'a JobSpec,
    pub(crate) schedule_id: Option<&'a ScheduleId>,
    /// Rings to cancel.
    pub(crate) cancel: &'a Notify,
}

impl Task<'_> {
    /// `None`: the job was cancelled first, and the work is given up.
    pub(crate) async fn unless_cancelled<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.cancel.notified() => None,
        }
    }
}

/// How it went.
pub(crate) struct Ran {
    pub(crate) finished: JobFinished,
    /// Why it failed, where that is known. None of a job that was cancelled.
    pub(crate) cause: Option<Cause>,
    /// It was told to stop; it may have succeeded all the same.
    pub(crate) cancelled: bool,
}

impl Ran {
    /// An end that says all there is to know.
    pub(crate) fn of(finished: JobFinished) -> Self {
        let cancelled = finished.status == JobOutcome::Cancelled;
        Self { finished, cause: None, cancelled }
    }
}

/// What the arguments of something depend on that the agent asks beside its jobs: no limits, and no wait for a lock.
pub(crate) fn question_context(agent: &Agent, restic_version: ResticVersion) -> ArgumentContext<'_> {
    ArgumentContext {
        host: &agent.host,
        job_id: JobId(uuid::Uuid::nil()),
        schedule_id: None,
        restic_version,
        limit_upload_kib: 0,
        limit_download_kib: 0,
        retry_lock: None,
        restore_target: None,
    }
}

/// What a job's arguments depend on. `written`: the second repository, if there is one; what goes up goes there.
pub(crate) fn job_context<'a>(
    agent: &'a Agent,
    task: &Task<'a>,
    version: ResticVersion,
    access: &RepositoryAccess,
    written: Option<&RepositoryAccess>,
) -> ArgumentContext<'a> {
    let written = written.unwrap_or(access);
    ArgumentContext {
        job_id: task.id,
        schedule_id: task.schedule_id,
        limit_upload_kib: written.limit_upload_kib,
        limit_download_kib: access.limit_download_kib,
        retry_lock: Some(written.retry_lock),
        ..question_context(agent, version)
    }
}

/// Hides the secrets of the moment in a text.
pub(crate) fn masked(agent: &Agent, text: &str) -> String {
    let secrets = agent.secrets();
    let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
    mask_url(&mask_secrets(text, &secrets))
}

/// restic with these arguments, in the environment that this access makes.
pub(crate) async fn program(
    agent: &Agent,
    arguments: Vec<String>,
    access: RepositoryAccess,
) -> Result<Program, String> {
    Ok(in_environment(agent, arguments, environment_of(agent, access).await?))
}

/// The same with two repositories: what is read, and what is written to.
async fn program_of_two(
    agent: &Agent,
    arguments: Vec<String>,
    from: RepositoryAccess,
    to: RepositoryAccess,
) -> Result<Program, String> {
    let backends = (Backend::of(&from.url), Backend::of(&to.url));
    let (from, to) = (environment_of(agent, from).await?, environment_of(agent, to).await?);
    let both = copy_environment(from, to, backends).map_err(|refusal| refusal.to_string())?;
    Ok(in_environment(agent, arguments, both))
}

fn in_environment(agent: &Agent, arguments: Vec<String>, environment: Vec<(String, Secret)>) -> Program {
    let environment = environment.into_iter().map(|(name, value)| (name, value.reveal().to_owned())).collect();
    Program { program: agent.settings.restic.clone().into(), arguments, environment, directory: None }
}

async fn environment_of(agent: &Agent, access: RepositoryAccess) -> Result<Vec<(String, Secret)>, String> {
    let (cache, temp) = (agent.dir.join("cache"), agent.dir.join("tmp"));
    for dir in [&cache, &temp] {
        restic_manager::atomic_file::create_private_dir(dir).map_err(|error| chain(&error))?;
    }
    let inherited: Vec<(String, String)> =
        ["PATH", "HOME", "SystemRoot", "SystemDrive", "LOCALAPPDATA", "USERPROFILE", "SSH_AUTH_SOCK"]
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
            .collect();
    let context = EnvironmentContext {
        cache_dir: &cache.to_string_lossy(),
        temp_dir: &temp.to_string_lossy(),
        inherited: &inherited,
    };
    // Whoever starts restic, for a job or not: the repository is the one of this moment.
    agent.policy.permits_repository(&access.url)?;
    let access = read_secrets::resolve(agent, access).await?;
    environment(&access, &context).map_err(|refusal| refusal.to_string())
}

/// The program, and where a restore goes.
async fn job_program(
    agent: &Agent,
    task: &Task<'_>,
    version: ResticVersion,
) -> Result<(Program, Option<restore::Destination>), String> {
    crate::commands::permitted(agent, task.spec)?;
    let (spec, destination) = restore::prepared(agent, task, version).await?;
    let access = agent.received.borrow().access(task.spec.repository())?;
    let copy_access = task.spec.copies_to().map(|to| agent.received.borrow().copy_access(to)).transpose()?;
    let context = ArgumentContext {
        restore_target: destination.as_ref().map(|destination| destination.target.as_str()),
        ..job_context(agent, task, version, &access, copy_access.as_ref())
    };
    let arguments = arguments(&spec, &context).map_err(|refusal| refusal.to_string())?;
    let program = match copy_access {
        Some(to) => program_of_two(agent, arguments, access, to).await?,
        None => program(agent, arguments, access).await?,
    };
    Ok((program, destination))
}

/// Runs the job, with its output in the job's log.
pub(crate) async fn run(agent: &Agent, task: &Task<'_>, version: ResticVersion) -> Ran {
    make_room::for_log(agent);
    let log = match agent.log(task.id) {
        Ok(log) => Some(log),
        Err(error) => {
            agent.note_error(&format!("job {} has no log: {}", task.id, chain(&error)));
            None
        }
    };
    let ran = match task.spec {
        JobSpec::Verify(options) => verify::run(agent, task, version, options, &log).await,
        _ => run_one(agent, task, version, &log).await,
    };
    agent.send_bell.notify_one();
    ran
}

/// A job that is one run of restic.
async fn run_one(agent: &Agent, task: &Task<'_>, version: ResticVersion, log: &Option<SharedLog>) -> Ran {
    // A secret's program may take its time; it dies with a cancel.
    match task.unless_cancelled(job_program(agent, task, version)).await {
        None => cancelled_before_restic(task, log),
        Some(Err(error)) => failed_before_restic(agent, task, log, &error),
        Some(Ok((program, destination))) => {
            let watched = Watched { program, kind: task.spec.kind(), take_stdout: None };
            let mut ran = supervise(agent, task, version, watched, log).await;
            if let Some(destination) = destination {
                restore::judge(&mut ran.finished, task.spec, destination);
            }
            ran
        }
    }
}

pub(crate) fn cancelled_before_restic(task: &Task<'_>, log: &Option<SharedLog>) -> Ran {
    write(log, LogSource::Event, "cancelled before restic began");
    Ran::of(ended(task.id, JobOutcome::Cancelled, None))
}

/// An end for which restic gave no reason: the log has it too.
pub(crate) fn failed_before_restic(agent: &Agent, task: &Task<'_>, log: &Option<SharedLog>, error: &str) -> Ran {
    let error = masked(agent, error);
    write(log, LogSource::Event, &error);
    Ran::of(ended(task.id, JobOutcome::Failed, Some(&error)))
}

/// Writes one line into the job's log.
pub(crate) fn log_line(agent: &Agent, job: JobId, source: LogSource, text: &str) {
    write(&agent.log(job).ok(), source, text);
}

/// The job's log is complete: its end says how far it goes.
pub(crate) fn end_log(agent: &Agent, finished: &mut JobFinished) {
    let ended = agent.log(finished.job_id).and_then(|log| {
        let mut log = log.borrow_mut();
        let ended = log.finish(clock::now());
        finished.last_log_seq = log.last_seq();
        ended
    });
    if let Err(error) = ended {
        agent.note_error(&format!("job {}: its log: {}", finished.job_id, chain(&error)));
    }
}

/// Writes one line into a job's log that is open.
pub(crate) fn write(log: &Option<SharedLog>, source: LogSource, text: &str) {
    // A log that cannot be written must not stop a backup; its end says how far it goes.
    if let Some(log) = log
        && let Err(error) = log.borrow_mut().append_line(clock::now(), source, text)
    {
        tracing::warn!("a log line is lost: {}", chain(&error));
    }
}
