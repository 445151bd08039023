//! Edge. The job `verify`: some files of a snapshot are restored to a scratch directory and compared with the files that they were
//! made from, where those have not changed since. Does not choose the files (`verify_sample` does), nor watch over the restics that it
//! needs (`supervise` does), and changes nothing of the host's.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use restic_manager::atomic_file;
use restic_manager::clock;
use restic_manager::file_error::chain;
use restic_manager::protocol::agent_event::{JobFinished, JobOutcome, LogSource};
use restic_manager::protocol::job_options::{JobKind, VerifyOptions};

use crate::commands::ended;
use crate::core::{Agent, SharedLog};
use crate::restic_args::{ArgumentContext, verify_list_arguments, verify_restore_arguments};
use crate::restic_json::cause::Cause;
use crate::restic_run::{
    Ran, Task, cancelled_before_restic, failed_before_restic, job_context, masked, program, write,
};
use crate::restic_version::ResticVersion;
use crate::supervise::{Watched, supervise};
use crate::verify_sample::{Listed, Sample, Verdict, Verdicts};

/// Runs the job to its end. The scratch directory is gone afterwards, however it went.
pub(crate) async fn run(
    agent: &Agent,
    task: &Task<'_>,
    version: ResticVersion,
    options: &VerifyOptions,
    log: &Option<SharedLog>,
) -> Ran {
    let scratch = scratch_dir(agent).join(task.id.to_string());
    let made = atomic_file::create_private_dir(&scratch).map_err(|error| chain(&error));
    let job = VerifyJob { agent, task, version, log };
    let ran = match made {
        Ok(()) => job.compare_sample(options, &scratch).await,
        Err(error) => Err(Stopped::Failed(error)),
    };
    if let Err(error) = atomic_file::remove_dir(&scratch) {
        agent.note_error(&format!("restored files of a verify job stay: {}", chain(&error)));
    }
    match ran {
        Ok(compared) => Ran::of(job.finished(&compared)),
        Err(Stopped::Cancelled) => Ran::of(ended(task.id, JobOutcome::Cancelled, None)),
        Err(Stopped::Failed(error)) => failed_before_restic(agent, task, log, &error),
        Err(Stopped::ByRestic(ran)) => *ran,
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

/// Why there is nothing to tell of the sample.
enum Stopped {
    Cancelled,
    Failed(String),
    /// A restic that failed: whether the job is tried again depends on why.
    ByRestic(Box<Ran>),
}

/// What came of the sample.
struct Compared {
    snapshot: String,
    verdicts: Verdicts,
    /// Why restic could not restore all of it.
    damage: Option<String>,
}

/// A restore that could not write some of its files, with the repository in reach and room on the disk.
fn is_about_files(ran: &Ran) -> bool {
    let failed = ran.finished.status == JobOutcome::Failed && ran.finished.exit_code == Some(1);
    failed && !ran.cancelled && ran.cause.is_none_or(|cause| cause == Cause::Damaged)
}

impl From<String> for Stopped {
    fn from(error: String) -> Self {
        Self::Failed(error)
    }
}

/// What all steps of the job need.
struct VerifyJob<'a> {
    agent: &'a Agent,
    task: &'a Task<'a>,
    version: ResticVersion,
    log: &'a Option<SharedLog>,
}

impl VerifyJob<'_> {
    async fn compare_sample(&self, options: &VerifyOptions, scratch: &Path) -> Result<Compared, Stopped> {
        let Self { agent, task, version, log } = *self;
        crate::commands::permitted(agent, task.spec)?;
        let access = agent.received.borrow().access(None)?;
        let target = scratch.to_string_lossy().into_owned();
        let context =
            ArgumentContext { restore_target: Some(&target), ..job_context(agent, task, version, &access, None) };
        let mut sample = Sample::new(task.id, options);
        let list = verify_list_arguments(options, &context);
        self.run_restic(JobKind::Ls, list, Some(&mut |line: &str| sample.see(line))).await?;
        let (snapshot, files) = sample.chosen().ok_or_else(|| "restic listed no snapshot".to_owned())?;
        if files.is_empty() {
            return Err(Stopped::Failed(format!("snapshot {snapshot} has no file to verify")));
        }
        let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        let shown: String = snapshot.chars().take(8).collect();
        let text = format!("snapshot {shown}: {} files are restored to be compared", paths.len());
        write(log, LogSource::Event, &text);
        let restores = verify_restore_arguments(&snapshot, &paths, &context).map_err(|refusal| refusal.to_string())?;
        let mut damage = None;
        for restore in restores {
            match self.run_restic(JobKind::Restore, restore, None).await {
                // Which files it is about, and that the others are whole, is what the job is for.
                Err(Stopped::ByRestic(ran)) if is_about_files(&ran) => damage = damage.or(ran.finished.error),
                ran => ran?,
            }
        }
        let verdicts = self.compare_all(files, scratch.to_owned()).await?;
        Ok(Compared { snapshot, verdicts, damage })
    }

    /// Runs one of the job's restics to its end.
    async fn run_restic(
        &self,
        kind: JobKind,
        arguments: Vec<String>,
        take_stdout: Option<&mut dyn FnMut(&str)>,
    ) -> Result<(), Stopped> {
        let Self { agent, task, version, log } = *self;
        let access = agent.received.borrow().access(None)?;
        let Some(program) = task.unless_cancelled(program(agent, arguments, access)).await else {
            return Err(Stopped::ByRestic(Box::new(cancelled_before_restic(task, log))));
        };
        let watched = Watched { program: program?, kind, take_stdout };
        let mut ran = supervise(agent, task, version, watched, log).await;
        // Of one restore, and not of the comparison.
        ran.finished.stats = None;
        match ran.finished.status {
            // Whoever cancelled it does not want the next one.
            JobOutcome::Succeeded if ran.cancelled => Err(Stopped::Cancelled),
            JobOutcome::Succeeded => Ok(()),
            JobOutcome::Failed | JobOutcome::Cancelled => Err(Stopped::ByRestic(Box::new(ran))),
        }
    }

    async fn compare_all(&self, files: Vec<Listed>, scratch: PathBuf) -> Result<Verdicts, Stopped> {
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stop);
        let mut compared = tokio::task::spawn_blocking(move || {
            let mut verdicts = Verdicts::default();
            for file in files {
                if is_stopped.load(Ordering::Relaxed) {
                    break;
                }
                verdicts.add(&file.path, compare(&file, &scratch));
            }
            verdicts
        });
        let Some(verdicts) = self.task.unless_cancelled(&mut compared).await else {
            stop.store(true, Ordering::Relaxed);
            // It has files of the scratch directory open.
            let _ = compared.await;
            return Err(Stopped::Cancelled);
        };
        Ok(verdicts.map_err(|error| format!("the comparison did not end: {error}"))?)
    }

    fn finished(&self, Compared { snapshot, verdicts, damage }: &Compared) -> JobFinished {
        let mask = |text: &str| masked(self.agent, text);
        for line in verdicts.lines() {
            write(self.log, LogSource::Event, &mask(&line));
        }
        // restic's words first: where it could restore nothing, the files' names tell less.
        let said: Vec<String> = damage.clone().into_iter().chain(verdicts.error().map(|error| mask(&error))).collect();
        let error = (!said.is_empty()).then(|| said.join("; "));
        let status = if error.is_some() { JobOutcome::Failed } else { JobOutcome::Succeeded };
        let mut stats = verdicts.stats();
        stats.insert("snapshot".to_owned(), snapshot.clone().into());
        JobFinished { stats: Some(stats), finished_at: clock::now(), ..ended(self.task.id, status, error.as_deref()) }
    }
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
