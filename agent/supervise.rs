//! Edge. Watches over one restic that runs for a job: its output goes to the job's log, and it is stopped where it is cancelled or makes
//! no progress: asked first, killed with all that it started if it does not heed, its locks removed then. Does not build its
//! arguments, nor decide whether it is tried again.

use std::time::Duration;

use restic_manager::clock;
use restic_manager::file_error::chain;
use restic_manager::process::{self, Exit, HAS_ACTIVITY, Output, Program, Running};
use restic_manager::protocol::agent_event::{JobFinished, JobOutcome, LogSource};
use restic_manager::protocol::job_options::{IncompleteMeans, JobKind, JobSpec};
use restic_manager::protocol::text::Span;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use crate::core::{Agent, SharedLog};
use crate::restic_json::StdoutLine;
use crate::restic_json::cause::Cause;
use crate::restic_json::document;
use crate::restic_json::ending::{self, JobEnd, Transcript};
use crate::restic_run::{Ran, Task, failed_before_restic, masked, write};
use crate::restic_version::ResticVersion;
use crate::unlock::{LockPlace, unlock};
use crate::watchdog::{self, Watchdog};

/// Packs in flight take up to 15 s to finish after an interrupt, 80 s with the storage gone.
const STOP_GRACE: Duration = Duration::from_secs(90);

/// One restic, to be watched over.
pub(crate) struct Watched<'a> {
    pub(crate) program: Program,
    /// By which its output is read: the job's own, or what this one of its restics does.
    pub(crate) kind: JobKind,
    /// Takes each line of stdout, which then is neither read here nor logged.
    pub(crate) take_stdout: Option<&'a mut dyn FnMut(&str)>,
}

/// Starts the program and sees it to its end.
pub(crate) async fn supervise(
    agent: &Agent,
    task: &Task<'_>,
    version: ResticVersion,
    watched: Watched<'_>,
    log: &Option<SharedLog>,
) -> Ran {
    let Watched { program, kind, mut take_stdout } = watched;
    let shown = masked(agent, &program.arguments.join(" "));
    write(log, LogSource::Event, &format!("restic {version}: restic {shown}"));
    let (running, mut output) = match process::start(&program) {
        Ok(started) => started,
        Err(error) => return failed_before_restic(agent, task, log, &chain(&error)),
    };
    let mut transcript = Transcript::new(Some(kind));
    let mut stop = Stop::default();
    let mut has_progressed = false;
    let limit = progress_limit(agent, task, version);
    let mut watch = limit.map(Watch::new);
    let exit = loop {
        let line = tokio::select! {
            line = output.recv() => line,
            () = task.cancel.notified(), if stop.why != Some(Why::Cancelled) => {
                stop.begin(&running, Why::Cancelled);
                write(log, LogSource::Event, "cancelled: asked restic to stop");
                continue;
            }
            () = stop.deadline() => {
                stop.kill(&running);
                write(log, LogSource::Event, "restic did not stop in time and was killed");
                continue;
            }
            () = Watch::tick(&mut watch), if stop.why.is_none() => {
                if watch.as_mut().is_some_and(|watch| watch.look(&running)) {
                    stop.begin(&running, Why::NoProgress);
                    let text = no_progress(limit.unwrap_or_default(), &transcript);
                    write(log, LogSource::Event, &masked(agent, &format!("{text}: asked it to stop")));
                }
                continue;
            }
        };
        if let (Some(watch), Some(line)) = (&mut watch, &line) {
            watch.heard(line);
        }
        match line {
            None => break ending::Exit::Signal(9),
            Some(Output::Exit(Exit::Code(code))) => break ending::Exit::Code(code),
            Some(Output::Exit(Exit::Signal(signal))) => break ending::Exit::Signal(signal),
            Some(Output::Stdout(line)) if let Some(take) = &mut take_stdout => {
                if let Some(watch) = &mut watch {
                    watch.dog.text(&line);
                }
                take(&line);
            }
            Some(Output::Stdout(line)) => match transcript.stdout(line.as_bytes()) {
                StdoutLine::Progress(progress) => {
                    has_progressed = true;
                    if let Some(watch) = &mut watch {
                        watch.dog.status(&progress);
                    }
                    if let Some(log) = log {
                        let _ = log.borrow_mut().append_progress(clock::now(), &progress.of_job(task.id));
                    }
                }
                StdoutLine::Summary(_) => write(log, LogSource::Stdout, &masked(agent, &line)),
                StdoutLine::Fact { text, .. } | StdoutLine::Text(text) | StdoutLine::Unknown(text) => {
                    if let Some(watch) = &mut watch {
                        watch.dog.text(&text);
                    }
                    write(log, LogSource::Stdout, &masked(agent, &text));
                }
                StdoutLine::Snapshots | StdoutLine::Nothing => {}
            },
            Some(Output::Stderr(line)) => {
                if let Some(text) = transcript.stderr(line.as_bytes()).text() {
                    if let Some(watch) = &mut watch {
                        watch.dog.text(text);
                    }
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
    let stuck = (stop.why == Some(Why::NoProgress)).then(|| no_progress(limit.unwrap_or_default(), &transcript));
    let incomplete = if let JobSpec::Backup(options) = task.spec { options.incomplete } else { IncompleteMeans::Warn };
    let mut end = transcript.end(exit, version).with_incomplete_as(incomplete);
    if let Some(stuck) = stuck.filter(|_| end.outcome == JobOutcome::Failed) {
        end.error = Some(stuck);
        end.cause = Some(Cause::NoProgress);
    }
    let end = end.masked(|text| masked(agent, text));
    let cancelled = stop.why == Some(Why::Cancelled);
    let cause = end.cause.filter(|_| !cancelled);
    let mut finished = finished(task.id, end, cancelled);
    if !matches!(task.spec, JobSpec::Forget(options) if options.dry_run)
        && let Some(stats) = &mut finished.stats
    {
        document::without_kept(stats);
    }
    // Whoever killed it: a dead restic's lock is in everybody's way. So is that of one which was asked to stop just after it had written
    // its lock: for a moment restic does not know yet that it has one.
    let was_early = stop.why.is_some() && !has_progressed;
    if stop.killed || was_early || matches!(exit, ending::Exit::Signal(_)) {
        unlock(agent, version, &LockPlace::of(task.spec)).await;
    }
    Ran { finished, cause, cancelled }
}

/// For people.
fn no_progress(limit: Span, transcript: &Transcript) -> String {
    let text = format!("restic made no progress for {limit}: {}", Cause::NoProgress);
    match transcript.last_retry() {
        Some(retry) => format!("{text} It said last: {retry}"),
        None => text,
    }
}

/// `None`: agent.toml says "never".
fn progress_limit(agent: &Agent, task: &Task<'_>, version: ResticVersion) -> Option<Span> {
    let access = agent.received.borrow().access(task.spec.repository());
    let waits = if version.has_retry_lock() {
        access.map(|access| access.retry_lock).unwrap_or_default()
    } else {
        Span::default()
    };
    let no_progress = agent.settings.no_progress?;
    Some(watchdog::limit(no_progress, waits, task.spec.kind(), HAS_ACTIVITY))
}

async fn drain(mut output: mpsc::Receiver<Output>) {
    while output.recv().await.is_some() {}
}

/// The watchdog with its clock.
struct Watch {
    dog: Watchdog,
    ticks: tokio::time::Interval,
    looked_at: Instant,
}

impl Watch {
    fn new(limit: Span) -> Self {
        let dog = Watchdog::new(limit);
        let looked_at = Instant::now();
        let mut ticks = tokio::time::interval_at(looked_at + dog.interval(), dog.interval());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { dog, ticks, looked_at }
    }

    async fn tick(watch: &mut Option<Self>) {
        match watch {
            Some(watch) => {
                watch.ticks.tick().await;
            }
            None => std::future::pending().await,
        }
    }

    fn heard(&mut self, line: &Output) {
        if let Output::Stdout(line) | Output::Stderr(line) = line {
            self.dog.printed(line.len());
        }
    }

    /// Whether restic has made no progress for too long.
    fn look(&mut self, running: &Running) -> bool {
        let since_last = self.looked_at.elapsed();
        self.looked_at = Instant::now();
        self.dog.look(since_last, process::activity(running.pid()))
    }
}

/// Why a restic that runs is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Cancelled,
    NoProgress,
}

/// A stop on its way. Whether a job was cancelled is what the agent did, not what the exit code says.
#[derive(Default)]
struct Stop {
    why: Option<Why>,
    kill_at: Option<Instant>,
    killed: bool,
}

impl Stop {
    /// Again, for another reason, it does not take longer.
    fn begin(&mut self, running: &Running, why: Why) {
        self.why = Some(why);
        if self.kill_at.is_none() {
            // Where it cannot be asked (Windows, in this version), it is killed at once.
            let grace = if running.interrupt() { STOP_GRACE } else { Duration::ZERO };
            self.kill_at = Some(Instant::now() + grace);
        }
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

fn finished(job_id: restic_manager::id::JobId, end: JobEnd, cancelled: bool) -> JobFinished {
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
