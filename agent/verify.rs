//! Edge. The job `verify`: some files of a snapshot are restored to a scratch directory and compared with the files that they were
//! made from, where those have not changed since. Does not choose the files (`verify_sample` does), and changes nothing of the host's.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use restic_manager::atomic_file;
use restic_manager::clock;
use restic_manager::file_error::chain;
use restic_manager::process::{self, Exit, Output, Program};
use restic_manager::protocol::agent_event::{JobFinished, JobOutcome, LogSource};
use restic_manager::protocol::job_options::VerifyOptions;

use crate::commands::ended;
use crate::core::Agent;
use crate::restic_args::{ArgumentContext, verify_list_arguments, verify_restore_arguments};
use crate::restic_json::ending::{self, Transcript};
use crate::restic_run::{Task, log_line, masked, program};
use crate::restic_version::ResticVersion;
use crate::verify_sample::{Listed, Sample, Verdict, Verdicts};

/// Nothing said for so long: the storage is gone.
const SILENCE: Duration = Duration::from_secs(15 * 60);
/// What an interrupted restic may take to end.
const CANCEL_GRACE: Duration = Duration::from_secs(90);

/// Runs the job to its end. The scratch directory is gone afterwards, however it went.
pub(crate) async fn run(
    agent: &Agent,
    task: &Task<'_>,
    version: ResticVersion,
    options: &VerifyOptions,
) -> JobFinished {
    let scratch = scratch_dir(agent).join(task.id.to_string());
    let made = atomic_file::create_private_dir(&scratch).map_err(|error| chain(&error));
    let ran = match made {
        Ok(()) => compare_sample(agent, task, version, options, &scratch).await,
        Err(error) => Err(Stopped::Failed(error)),
    };
    if let Err(error) = atomic_file::remove_dir(&scratch) {
        agent.note_error(&format!("restored files of a verify job stay: {}", chain(&error)));
    }
    match ran {
        Ok((snapshot, verdicts)) => finished(agent, task, &snapshot, &verdicts),
        Err(Stopped::Cancelled) => ended(task.id, JobOutcome::Cancelled, None),
        Err(Stopped::Failed(error)) => {
            let error = masked(agent, &error);
            log_line(agent, task.id, LogSource::Event, &error);
            ended(task.id, JobOutcome::Failed, Some(&error))
        }
    }
}

/// What an agent that died has left.
pub(crate) fn remove_leftovers(agent: &Agent) {
    if let Err(error) = atomic_file::remove_dir(&scratch_dir(agent)) {
        tracing::warn!("restored files of a verify job stay: {}", chain(&error));
    }
}

fn scratch_dir(agent: &Agent) -> PathBuf {
    agent.dir.join("verify")
}

enum Stopped {
    Cancelled,
    Failed(String),
}

impl From<String> for Stopped {
    fn from(error: String) -> Self {
        Self::Failed(error)
    }
}

async fn compare_sample(
    agent: &Agent,
    task: &Task<'_>,
    version: ResticVersion,
    options: &VerifyOptions,
    scratch: &Path,
) -> Result<(String, Verdicts), Stopped> {
    crate::commands::permitted(agent, task.spec)?;
    let access = agent.received.borrow().access(None)?;
    let target = scratch.to_string_lossy().into_owned();
    let context = ArgumentContext {
        host: &agent.host,
        job_id: task.id,
        schedule_id: task.schedule_id,
        restic_version: version,
        limit_upload_kib: access.limit_upload_kib,
        limit_download_kib: access.limit_download_kib,
        retry_lock: Some(access.retry_lock),
        restore_target: Some(&target),
    };
    let list = verify_list_arguments(options, &context);
    let list = program(agent, list, access.clone()).await?;
    let mut sample = Sample::new(task.id, options);
    run_restic(agent, task, version, &list, |line| sample.see(line)).await?;
    let (snapshot, files) = sample.chosen().ok_or_else(|| "restic listed no snapshot".to_owned())?;
    if files.is_empty() {
        return Err(Stopped::Failed(format!("snapshot {snapshot} has no file to verify")));
    }
    let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let shown: String = snapshot.chars().take(8).collect();
    log_line(
        agent,
        task.id,
        LogSource::Event,
        &format!("snapshot {shown}: {} files are restored to be compared", paths.len()),
    );
    let restores = verify_restore_arguments(&snapshot, &paths, &context).map_err(|refusal| refusal.to_string())?;
    for restore in restores {
        let restore = program(agent, restore, access.clone()).await?;
        run_restic(agent, task, version, &restore, |_| ()).await?;
    }
    let scratch = scratch.to_owned();
    let compared = tokio::task::spawn_blocking(move || {
        let mut verdicts = Verdicts::default();
        for file in files {
            let verdict = compare(&file, &scratch);
            verdicts.add(&file.path, verdict);
        }
        verdicts
    });
    Ok((snapshot, compared.await.map_err(|error| format!("the comparison did not end: {error}"))?))
}

/// Runs restic to its end, each line of its stdout to `see`.
async fn run_restic(
    agent: &Agent,
    task: &Task<'_>,
    version: ResticVersion,
    program: &Program,
    mut see: impl FnMut(&str),
) -> Result<(), Stopped> {
    let shown = masked(agent, &program.arguments.join(" "));
    log_line(agent, task.id, LogSource::Event, &format!("restic {version}: restic {shown}"));
    let (running, mut output) = process::start(program).map_err(|error| chain(&error))?;
    let mut transcript = Transcript::new(None);
    let (mut cancelled, mut silent) = (false, false);
    let exit = loop {
        let line = tokio::select! {
            line = output.recv() => line,
            () = task.cancel.notified(), if !cancelled => {
                // It only reads: what it leaves is a lock that goes stale at most.
                cancelled = true;
                if !running.interrupt() {
                    running.kill_tree();
                }
                continue;
            }
            () = tokio::time::sleep(if cancelled { CANCEL_GRACE } else { SILENCE }) => {
                silent = true;
                running.kill_tree();
                continue;
            }
        };
        match line {
            None => break ending::Exit::Signal(9),
            Some(Output::Exit(Exit::Code(code))) => break ending::Exit::Code(code),
            Some(Output::Exit(Exit::Signal(signal))) => break ending::Exit::Signal(signal),
            Some(Output::Stdout(line)) => see(&line),
            Some(Output::Stderr(line)) => {
                if let Some(text) = transcript.stderr(line.as_bytes()).text() {
                    log_line(agent, task.id, LogSource::Stderr, &masked(agent, text));
                }
            }
        }
    };
    while output.recv().await.is_some() {}
    if cancelled {
        return Err(Stopped::Cancelled);
    }
    if silent {
        return Err(Stopped::Failed("restic said nothing for 15 minutes and was killed".to_owned()));
    }
    let end = transcript.end(exit, version);
    end.error.map_or(Ok(()), |error| Err(Stopped::Failed(error)))
}

/// What was restored beside its source. Blocks.
fn compare(file: &Listed, scratch: &Path) -> Verdict {
    let restored = scratch.join(file.path.trim_start_matches('/'));
    let Ok(restored_is) = restored.symlink_metadata() else { return Verdict::NotRestored };
    if !restored_is.is_file() || restored_is.len() != file.size {
        return Verdict::NotRestored;
    }
    let source = source_path(&file.path);
    let Ok(source_is) = source.symlink_metadata() else { return Verdict::MissingSince };
    if !source_is.is_file() || !is_as_it_was(file, &source_is) {
        return Verdict::ChangedSince;
    }
    let same = match (File::open(&source), File::open(&restored)) {
        (Err(_), _) => return Verdict::Unreadable,
        (_, Err(_)) => return Verdict::NotRestored,
        (Ok(source), Ok(restored)) => have_same_bytes(source, restored),
    };
    match same {
        Err(_) => Verdict::Unreadable,
        Ok(true) => Verdict::Same,
        // It may have changed while it was read.
        Ok(false) if source.symlink_metadata().is_ok_and(|now| is_as_it_was(file, &now)) => Verdict::Differing,
        Ok(false) => Verdict::ChangedSince,
    }
}

fn is_as_it_was(file: &Listed, metadata: &std::fs::Metadata) -> bool {
    let modified = metadata.modified().ok().map(chrono::DateTime::<chrono::Utc>::from);
    metadata.len() == file.size && modified == Some(file.mtime)
}

fn have_same_bytes(mut one: File, mut other: File) -> std::io::Result<bool> {
    let (mut mine, mut theirs) = ([0_u8; 64 * 1024], [0_u8; 64 * 1024]);
    loop {
        let count = one.read(&mut mine)?;
        if count == 0 {
            return Ok(other.read(&mut theirs)? == 0);
        }
        let Some(theirs) = theirs.get_mut(..count) else { return Ok(false) };
        match other.read_exact(theirs) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
        if mine.get(..count) != Some(&*theirs) {
            return Ok(false);
        }
    }
}

/// Windows paths stand in snapshots as `/C/data/file`.
fn source_path(path: &str) -> PathBuf {
    if cfg!(windows)
        && let Some((drive, rest)) = path.trim_start_matches('/').split_once('/')
        && drive.len() == 1
    {
        return PathBuf::from(format!("{drive}:\\{}", rest.replace('/', "\\")));
    }
    PathBuf::from(path)
}

fn finished(agent: &Agent, task: &Task<'_>, snapshot: &str, verdicts: &Verdicts) -> JobFinished {
    for line in verdicts.lines() {
        log_line(agent, task.id, LogSource::Event, &masked(agent, &line));
    }
    let error = verdicts.error().map(|error| masked(agent, &error));
    let status = if error.is_some() { JobOutcome::Failed } else { JobOutcome::Succeeded };
    let mut stats = verdicts.stats();
    stats.insert("snapshot".to_owned(), snapshot.into());
    JobFinished { stats: Some(stats), finished_at: clock::now(), ..ended(task.id, status, error.as_deref()) }
}
