//! Edge. Keeps what runs equal to the configuration directory: watches it, looks at all of it when anything changed, adopts it
//! when it has no error, and gives each host its content. Does not decide versions: `decide_versions` does, in each host's journal.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::app::{App, ConfigView, blocking, stopped};
use super::fleet::Fleet;
use super::fleet_copy;
use super::fleet_look::{Why, at_work};
use super::fleet_reload::{LastReload, reload};
use super::fleet_tree::AtWork;
use super::fleet_watch::{FleetWatch, secret_roots};
use super::served_tls;
use super::slot::WriteError;
use super::tree_marks::Marks;
use crate::file_error::{FileError, chain};
use crate::problem::{Problem, Severity};

/// A directory is read when nothing has changed in it for this long.
const QUIET: Duration = Duration::from_millis(300);
/// It is read this often whatever was noticed: not every file system tells of changes.
const RESCAN: Duration = Duration::from_secs(60);
/// And this soon again when it could not be applied, on a full disk for instance.
const RETRY: Duration = Duration::from_secs(3);
/// Where a git is at work, it is looked at whether it still is.
const AT_WORK: Duration = Duration::from_millis(250);
/// That it is at work is worth showing after this long.
const LONG_WORK: Duration = Duration::from_secs(5);

/// Why the server cannot start with this configuration.
#[derive(Debug)]
pub enum StartError {
    /// The configuration has errors and none was adopted before.
    Problems(Vec<Problem>),
    /// The copy of what was adopted is gone from this directory of the state, or is another one's. And why it is needed.
    NoCopy(PathBuf, Vec<Problem>),
    /// A git is at work in the directory, and no configuration was adopted before.
    AtWork(AtWork),
    File(FileError),
    Write(WriteError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Problems(problems) => {
                f.write_str("the configuration has errors, and there is none that ran before:")?;
                write_errors(f, problems)
            }
            Self::NoCopy(dir, problems) => {
                write!(
                    f,
                    "{} lacks the configuration that was adopted last: mend the configuration directory, which is adopted then",
                    dir.join("adopted.json").display()
                )?;
                write_errors(f, problems)
            }
            Self::AtWork(at_work) => write!(f, "no configuration ran before, and {at_work}"),
            Self::File(error) => f.write_str(&chain(error)),
            Self::Write(error) => error.fmt(f),
        }
    }
}

fn write_errors(f: &mut fmt::Formatter<'_>, problems: &[Problem]) -> fmt::Result {
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error);
    errors.into_iter().try_for_each(|problem| write!(f, "\n  {problem}"))
}

impl From<FileError> for StartError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl From<WriteError> for StartError {
    fn from(error: WriteError) -> Self {
        Self::Write(error)
    }
}

/// What `run` goes on from.
pub struct Started {
    /// The configuration that runs, for its settings.
    pub fleet: Arc<Fleet>,
    directory: PathBuf,
    last: LastReload,
    watch: FleetWatch,
    hints: mpsc::Receiver<()>,
}

/// The configuration to begin with: the directory's if it is good, else the last one that was.
pub async fn start(app: &Arc<App>, directory: &Path) -> Result<Started, StartError> {
    let (sender, hints) = mpsc::channel(1);
    // The watch comes before the reading, here and later: what changes during it is a hint.
    let watch = follow(FleetWatch::new(sender), directory, &[]).await;
    let (fleet_dir, path) = (app.state_dir.fleet_dir(), directory.to_owned());
    let seen = blocking(move || fleet_copy::last_seen(&fleet_dir, &path)).await;
    let mut last = LastReload::of(seen);
    // A git command that is at work has usually ended in a moment.
    let patience = Instant::now() + LONG_WORK;
    while at_work(directory, &mut last.look).await.is_some() && Instant::now() < patience {
        tokio::time::sleep(AT_WORK).await;
    }
    let fleet = reload(app, directory, &mut last, Why::Forced, true).await?;
    Ok(Started { fleet, directory: directory.to_owned(), last, watch, hints })
}

/// Watches and reloads until the server stops.
pub async fn run(app: Arc<App>, started: Started) {
    let Started { fleet, directory, mut last, mut watch, mut hints } = started;
    let mut stopping = app.stopping.subscribe();
    let mut wanted = app.reload_wanted.subscribe();
    let mut decided = app.fleet.watch();
    let mut answered_late = app.secret_commands.late.subscribe();
    if *answered_late.borrow() > 0 {
        answered_late.mark_changed();
    }
    let mut roots = secret_roots(&directory, &fleet);
    drop(fleet);
    // An instant, not a wait: what else is told to the fleet's journal must not put it off.
    let mut next = Instant::now() + RESCAN;
    // At the start a git may have been at work: the first look tells.
    let mut working_since = last.is_at_work.then(Instant::now);
    watch = follow(watch, &directory, &roots).await;
    loop {
        let why = tokio::select! {
            () = stopped(&mut stopping) => return,
            why = news(&app, &directory, &mut last, &mut hints, &mut wanted, &mut decided, &mut answered_late, next, working_since) => why,
        };
        wanted.mark_unchanged();
        decided.mark_unchanged();
        let request = *wanted.borrow();
        watch = follow(watch, &directory, &roots).await;
        let is_long = working_since.is_some_and(|since| since.elapsed() >= LONG_WORK);
        let shows_work = is_long || why == Why::Forced;
        next = Instant::now() + RESCAN;
        let mut loaded = reload(&app, &directory, &mut last, why, shows_work).await;
        if loaded.is_ok() && last.look.is_unasked && !last.is_at_work {
            loaded = reload(&app, &directory, &mut last, Why::OnlyGit, shows_work).await;
        }
        match loaded {
            Ok(fleet) => {
                let now = secret_roots(&directory, &fleet);
                if now != roots {
                    roots = now;
                    watch = follow(watch, &directory, &roots).await;
                }
                working_since = last.is_at_work.then(|| working_since.unwrap_or_else(Instant::now));
            }
            Err(error) => {
                not_applied(&app, &error);
                next = Instant::now() + RETRY;
            }
        }
        served_tls::look(&app).await;
        app.reloaded.send_replace(request);
    }
}

/// Waits until the directory is to be looked at, and says why. While a git is at work there, that is when it has ended.
#[allow(clippy::too_many_arguments, reason = "it is the waiting half of `run`, whose values these are")]
async fn news(
    app: &App,
    directory: &Path,
    last: &mut LastReload,
    hints: &mut mpsc::Receiver<()>,
    wanted: &mut tokio::sync::watch::Receiver<u64>,
    decided: &mut tokio::sync::watch::Receiver<u64>,
    answered_late: &mut tokio::sync::watch::Receiver<u64>,
    next: Instant,
    working_since: Option<Instant>,
) -> Why {
    loop {
        let rescan = if working_since.is_some() { next.min(Instant::now() + AT_WORK) } else { next };
        let why = tokio::select! {
            Some(()) = hints.recv() => Why::Hint,
            Ok(()) = wanted.changed() => return Why::Forced,
            Ok(()) = decided.changed() => {
                if app.fleet.durable().state.decisions <= *app.installed.borrow() {
                    continue;
                }
                return Why::Rescan;
            }
            // Secrets of commands that `start` or the last reload did not wait for.
            Ok(()) = answered_late.changed() => Why::Hint,
            () = tokio::time::sleep_until(rescan) => Why::Rescan,
        };
        if why == Why::Hint {
            tokio::select! {
                () = quiet(hints) => {}
                Ok(()) = wanted.changed() => return Why::Forced,
            }
        }
        let Some(since) = working_since else { return why };
        if at_work(directory, &mut last.look).await.is_none() {
            // git moves HEAD after it has let go of the lock.
            tokio::time::sleep(QUIET).await;
            return Why::Hint;
        }
        // Secrets are looked at all the same; and that git takes this long is worth showing.
        let elapsed = since.elapsed();
        if Instant::now() >= next || (elapsed >= LONG_WORK && elapsed < LONG_WORK + 2 * AT_WORK) {
            return Why::Rescan;
        }
    }
}

async fn follow(mut watch: FleetWatch, directory: &Path, roots: &[PathBuf]) -> FleetWatch {
    let (directory, roots) = (directory.to_owned(), roots.to_owned());
    let follow = move || {
        watch.follow(&directory, &Marks::of(&directory), &roots);
        watch
    };
    blocking(follow).await
}

/// Waits for a quiet moment, but not for ever.
async fn quiet(hints: &mut mpsc::Receiver<()>) {
    let patience = Instant::now() + Duration::from_secs(5);
    while Instant::now() < patience && tokio::time::timeout(QUIET, hints.recv()).await.is_ok() {}
}

/// What could not be adopted (on a full disk, usually) does not run, and that is shown.
fn not_applied(app: &App, error: &StartError) {
    tracing::error!("the configuration was not applied, the next scan tries again: {error}");
    let of_state =
        |message: String| Problem { file: "state".to_owned(), line: 0, column: 0, severity: Severity::Error, message };
    let problems = match error {
        StartError::Problems(problems) => problems.clone(),
        StartError::NoCopy(dir, problems) => {
            [&problems[..], &[of_state(format!("{} lacks what was adopted last", dir.display()))]].concat()
        }
        error => vec![of_state(format!("the files are good and do not run yet: {error}"))],
    };
    app.set_config(ConfigView { problems, runs: false, ..ConfigView::clone(&app.config()) });
}
