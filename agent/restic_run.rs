//! Edge. One run of restic: with typed arguments and a clean environment, and with what a job's log and end are told of it.
//! No secret reaches a log line, an event or an error. Does not touch the ledger, nor watch over restic: `supervise` does.

use std::time::Duration;

use restic_manager::clock;
use restic_manager::file_error::chain;
use restic_manager::id::{JobId, ScheduleId};
use restic_manager::mask::{mask_secrets, mask_url};
use restic_manager::process::{self, Exit, Program};
use restic_manager::protocol::agent_event::{JobFinished, JobOutcome, LogSource};
use restic_manager::protocol::command::Secret;
use restic_manager::protocol::job_options::{JobSpec, UnlockOptions};
use restic_manager::protocol::repository_access::RepositoryAccess;
use restic_manager::repository_target::RepositoryTarget;
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
use crate::supervise::supervise;

mod restore;

/// What the agent runs for its own needs has at most this long.
const QUIET_DEADLINE: Duration = Duration::from_secs(120);

/// What to run.
pub(crate) struct Task<'a> {
    pub(crate) id: JobId,
    pub(crate) spec: &'a JobSpec,
    pub(crate) schedule_id: Option<&'a ScheduleId>,
    /// Rings to cancel.
    pub(crate) cancel: &'a Notify,
}

/// How it went.
pub(crate) struct Ran {
    pub(crate) finished: JobFinished,
    /// Why it failed, where that is known. None of a job that was cancelled.
    pub(crate) cause: Option<Cause>,
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
    // What goes up goes to the second one, if there is one.
    let written = copy_access.as_ref().unwrap_or(&access);
    let arguments = {
        let context = ArgumentContext {
            host: &agent.host,
            job_id: task.id,
            schedule_id: task.schedule_id,
            restic_version: version,
            limit_upload_kib: written.limit_upload_kib,
            limit_download_kib: access.limit_download_kib,
            retry_lock: Some(written.retry_lock),
            restore_target: destination.as_ref().map(|destination| destination.target.as_str()),
        };
        arguments(&spec, &context).map_err(|refusal| refusal.to_string())?
    };
    let program = match copy_access {
        Some(to) => program_of_two(agent, arguments, access, to).await?,
        None => program(agent, arguments, access).await?,
    };
    Ok((program, destination))
}

/// Runs the job, with its output in the job's log.
pub(crate) async fn run(agent: &Agent, task: &Task<'_>, version: ResticVersion) -> Ran {
    make_room::for_log(agent);
    if let JobSpec::Verify(options) = task.spec {
        let finished = crate::verify::run(agent, task, version, options).await;
        agent.send_bell.notify_one();
        return Ran { finished, cause: None };
    }
    let log = match agent.log(task.id) {
        Ok(log) => Some(log),
        Err(error) => {
            agent.note_error(&format!("job {} has no log: {}", task.id, chain(&error)));
            None
        }
    };
    let program = tokio::select! {
        program = job_program(agent, task, version) => program,
        // A secret's program may take its time; it dies with this.
        () = task.cancel.notified() => {
            write(&log, LogSource::Event, "cancelled before restic began");
            return Ran { finished: ended(task.id, JobOutcome::Cancelled, None), cause: None };
        }
    };
    let ran = match program {
        Err(error) => {
            let error = masked(agent, &error);
            write(&log, LogSource::Event, &error);
            Ran { finished: ended(task.id, JobOutcome::Failed, Some(&error)), cause: None }
        }
        Ok((program, destination)) => {
            let shown = masked(agent, &program.arguments.join(" "));
            write(&log, LogSource::Event, &format!("restic {version}: restic {shown}"));
            let mut ran = supervise(agent, task, version, &program, &log).await;
            if let Some(destination) = destination {
                restore::judge(&mut ran.finished, task.spec, destination);
            }
            ran
        }
    };
    agent.send_bell.notify_one();
    ran
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

/// Removes the lock that a restic which was killed, or died with the agent, has left. Locks of others stay: plain unlock
/// takes stale ones only.
pub(crate) async fn unlock(agent: &Agent, version: ResticVersion, repository: Option<&RepositoryTarget>) {
    let spec = JobSpec::Unlock(UnlockOptions { remove_all: false, repository: repository.cloned() });
    if crate::commands::permitted(agent, &spec).is_ok() {
        let never = Notify::new();
        let task = Task { id: JobId(uuid::Uuid::nil()), spec: &spec, schedule_id: None, cancel: &never };
        run_quietly(agent, &task, version).await;
    }
}

/// Runs restic for the agent's own needs: no log, no job; a failure is told in the agent's log.
async fn run_quietly(agent: &Agent, task: &Task<'_>, version: ResticVersion) {
    let ran = match job_program(agent, task, version).await {
        Ok((program, _)) => {
            // Of a storage that is away restic tells nothing for long, and the job itself comes after this.
            let deadline =
                agent.settings.no_progress.map_or(QUIET_DEADLINE, |span| span.duration().min(QUIET_DEADLINE));
            process::run_to_end(&program, deadline).await.map_err(|error| chain(&error))
        }
        Err(error) => Err(error),
    };
    match ran {
        Ok(captured) if captured.exit == Exit::Code(0) => {}
        Ok(captured) => tracing::warn!("{}: {}", task.spec.kind(), masked(agent, captured.stderr.trim())),
        Err(error) => tracing::warn!("{}: {}", task.spec.kind(), masked(agent, &error)),
    }
}
