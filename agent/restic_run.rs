//! Edge. One run of restic: started with typed arguments and a clean environment, read to its end, cancelled by signal.
//! No secret reaches a log line, an event or an error. Does not touch the ledger.

use std::time::Duration;

use restic_manager::clock;
use restic_manager::file_error::chain;
use restic_manager::id::{JobId, ScheduleId};
use restic_manager::mask::{mask_secrets, mask_url};
use restic_manager::process::{self, Exit, Output, Program, Running};
use restic_manager::protocol::agent_event::{JobFinished, JobOutcome, LogSource};
use restic_manager::protocol::command::Secret;
use restic_manager::protocol::job_options::{IncompleteMeans, JobSpec, UnlockOptions};
use restic_manager::protocol::repository_access::RepositoryAccess;
use restic_manager::repository_target::RepositoryTarget;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::commands::ended;
use crate::copy_environment::copy_environment;
use crate::core::{Agent, SharedLog};
use crate::make_room;
use crate::read_secrets;
use crate::repository_url::Backend;
use crate::restic_args::{ArgumentContext, arguments};
use crate::restic_environment::{EnvironmentContext, environment};
use crate::restic_json::StdoutLine;
use crate::restic_json::cause::Cause;
use crate::restic_json::document;
use crate::restic_json::ending::{self, JobEnd, Transcript};
use crate::restic_version::ResticVersion;

/// Packs in flight take up to 15 s to finish after an interrupt, 80 s with the storage gone.
const CANCEL_GRACE: Duration = Duration::from_secs(90);

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
    /// It changed nothing, because another restic has the repository.
    pub(crate) locked: bool,
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
) -> Result<(Program, Option<String>), String> {
    crate::commands::permitted(agent, task.spec)?;
    let target = match task.spec {
        JobSpec::Restore(options) => Some(restore_target(agent, task.id, options.target.as_deref())?),
        _ => None,
    };
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
            restore_target: target.as_deref(),
        };
        arguments(task.spec, &context).map_err(|refusal| refusal.to_string())?
    };
    let program = match copy_access {
        Some(to) => program_of_two(agent, arguments, access, to).await?,
        None => program(agent, arguments, access).await?,
    };
    Ok((program, target))
}

/// A directory that does not exist yet: what is there is never overwritten by this version.
fn restore_target(agent: &Agent, job: JobId, wanted: Option<&str>) -> Result<String, String> {
    let target = match wanted {
        Some(target) => target.to_owned(),
        None => {
            let root = agent
                .policy
                .first_restore_root()
                .ok_or("there is nowhere to restore to: restore_roots in [policy] of agent.toml is empty")?;
            format!("{}/{job}", root.trim_end_matches('/'))
        }
    };
    let path = std::path::Path::new(&target);
    let occupied = std::fs::read_dir(path).map_or(path.exists(), |mut entries| entries.next().is_some());
    if occupied {
        return Err(format!("{target} exists and is not empty: name a directory that does not exist yet"));
    }
    restic_manager::atomic_file::create_private_dir(path).map_err(|error| chain(&error))?;
    Ok(target)
}

/// Runs the job, with its output in the job's log.
pub(crate) async fn run(agent: &Agent, task: &Task<'_>, version: ResticVersion) -> Ran {
    make_room::for_log(agent);
    if let JobSpec::Verify(options) = task.spec {
        let finished = crate::verify::run(agent, task, version, options).await;
        agent.send_bell.notify_one();
        return Ran { finished, locked: false };
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
            return Ran { finished: ended(task.id, JobOutcome::Cancelled, None), locked: false };
        }
    };
    let (finished, locked) = match program {
        Err(error) => {
            let error = masked(agent, &error);
            write(&log, LogSource::Event, &error);
            (ended(task.id, JobOutcome::Failed, Some(&error)), false)
        }
        Ok((program, target)) => {
            let shown = masked(agent, &program.arguments.join(" "));
            write(&log, LogSource::Event, &format!("restic {version}: restic {shown}"));
            let (mut finished, locked) = run_program(agent, task, version, &program, &log).await;
            if let Some(target) = target {
                judge_restore(&mut finished, task.spec, target);
            }
            (finished, locked)
        }
    };
    agent.send_bell.notify_one();
    Ran { finished, locked }
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

/// restic counts a restore of nothing as a success; who asked for files that are not in the snapshot must not. Says where the
/// files are.
fn judge_restore(finished: &mut JobFinished, spec: &JobSpec, target: String) {
    let asked_for_some = matches!(spec, JobSpec::Restore(options) if !options.include.is_empty());
    let is_empty = std::fs::read_dir(&target).is_ok_and(|mut entries| entries.next().is_none());
    if finished.status == JobOutcome::Succeeded && asked_for_some && is_empty {
        finished.status = JobOutcome::Failed;
        finished.error = Some("nothing was restored: no file of the snapshot fits `include`".to_owned());
    }
    finished.stats.get_or_insert_default().insert("target".to_owned(), target.into());
}

fn write(log: &Option<SharedLog>, source: LogSource, text: &str) {
    // A log that cannot be written must not stop a backup; its end says how far it goes.
    if let Some(log) = log
        && let Err(error) = log.borrow_mut().append_line(clock::now(), source, text)
    {
        tracing::warn!("a log line is lost: {}", chain(&error));
    }
}

async fn run_program(
    agent: &Agent,
    task: &Task<'_>,
    version: ResticVersion,
    program: &Program,
    log: &Option<SharedLog>,
) -> (JobFinished, bool) {
    let (running, mut output) = match process::start(program) {
        Ok(started) => started,
        Err(error) => {
            let error = masked(agent, &chain(&error));
            write(log, LogSource::Event, &error);
            return (ended(task.id, JobOutcome::Failed, Some(&error)), false);
        }
    };
    let mut transcript = Transcript::new(Some(task.spec.kind()));
    let mut cancelled = Cancel::default();
    let exit = loop {
        let line = tokio::select! {
            line = output.recv() => line,
            () = task.cancel.notified(), if cancelled.kill_at.is_none() => {
                cancelled.begin(&running);
                write(log, LogSource::Event, "cancelled: asked restic to stop");
                continue;
            }
            () = cancelled.deadline() => {
                cancelled.kill(&running);
                write(log, LogSource::Event, "restic did not stop in time and was killed");
                continue;
            }
        };
        match line {
            None => break ending::Exit::Signal(9),
            Some(Output::Exit(Exit::Code(code))) => break ending::Exit::Code(code),
            Some(Output::Exit(Exit::Signal(signal))) => break ending::Exit::Signal(signal),
            Some(Output::Stdout(line)) => match transcript.stdout(line.as_bytes()) {
                StdoutLine::Progress(progress) => {
                    if let Some(log) = log {
                        let _ = log.borrow_mut().append_progress(clock::now(), &progress.of_job(task.id));
                    }
                }
                StdoutLine::Summary(_) => write(log, LogSource::Stdout, &masked(agent, &line)),
                StdoutLine::Fact { text, .. } | StdoutLine::Text(text) | StdoutLine::Unknown(text) => {
                    write(log, LogSource::Stdout, &masked(agent, &text));
                }
                StdoutLine::Snapshots | StdoutLine::Nothing => {}
            },
            Some(Output::Stderr(line)) => {
                if let Some(text) = transcript.stderr(line.as_bytes()).text() {
                    write(log, LogSource::Stderr, &masked(agent, text));
                }
            }
        }
    };
    drain(output).await;
    if transcript.unknown_lines() > 0 {
        let count = transcript.unknown_lines();
        write(
            log,
            LogSource::Event,
            &format!("{count} lines were of no kind that this agent knows: restic may be newer than it"),
        );
    }
    let incomplete = if let JobSpec::Backup(options) = task.spec { options.incomplete } else { IncompleteMeans::Warn };
    let end = transcript.end(exit, version).with_incomplete_as(incomplete).masked(|text| masked(agent, text));
    let locked = end.cause == Some(Cause::Locked) && cancelled.kill_at.is_none();
    let mut finished = finished(task.id, end, cancelled.kill_at.is_some());
    if !matches!(task.spec, JobSpec::Forget(options) if options.dry_run)
        && let Some(stats) = &mut finished.stats
    {
        document::without_kept(stats);
    }
    if cancelled.killed {
        unlock(agent, version, task.spec.repository()).await;
    }
    (finished, locked)
}

async fn drain(mut output: mpsc::Receiver<Output>) {
    while output.recv().await.is_some() {}
}

/// A cancel on its way. Whether a job was cancelled is what the agent did, not what the exit code says.
#[derive(Default)]
struct Cancel {
    kill_at: Option<Instant>,
    killed: bool,
}

impl Cancel {
    fn begin(&mut self, running: &Running) {
        // Where it cannot be asked (Windows, in this version), it is killed at once.
        let grace = if running.interrupt() { CANCEL_GRACE } else { Duration::ZERO };
        self.kill_at = Some(Instant::now() + grace);
    }

    async fn deadline(&self) {
        match self.kill_at {
            Some(at) if !self.killed => tokio::time::sleep_until(at).await,
            _ => std::future::pending().await,
        }
    }

    fn kill(&mut self, running: &Running) {
        self.killed = true;
        running.kill_tree();
    }
}

fn finished(job_id: JobId, end: JobEnd, cancelled: bool) -> JobFinished {
    // One that had done all its work before the signal reached it has succeeded.
    let status = if cancelled && end.outcome != JobOutcome::Succeeded { JobOutcome::Cancelled } else { end.outcome };
    JobFinished {
        job_id,
        status,
        exit_code: end.exit_code,
        finished_at: clock::now(),
        incomplete: end.incomplete,
        warnings: end.warnings,
        last_log_seq: 0,
        stats: end.stats,
        error: if status == JobOutcome::Cancelled { None } else { end.error },
        kind: None,
        schedule_id: None,
        scheduled_at: None,
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
            process::run_to_end(&program, Duration::from_secs(120)).await.map_err(|error| chain(&error))
        }
        Err(error) => Err(error),
    };
    match ran {
        Ok(captured) if captured.exit == Exit::Code(0) => {}
        Ok(captured) => tracing::warn!("{}: {}", task.spec.kind(), masked(agent, captured.stderr.trim())),
        Err(error) => tracing::warn!("{}: {}", task.spec.kind(), masked(agent, &error)),
    }
}
