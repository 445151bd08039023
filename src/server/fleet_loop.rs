//! Edge. Keeps what runs equal to the configuration directory: watches it, looks at all of it when anything changed, adopts it
//! when it has no error, and gives each host its content. Does not decide versions: `decide_versions` does, in each host's journal.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::adoption::{Adoption, decide_adoption, has_changed};
use super::app::{App, ConfigView, blocking, stopped};
use super::fleet::Fleet;
use super::fleet::load::has_errors;
use super::fleet_contents::LastContents;
use super::fleet_copy::{self, AdoptedCopy};
use super::fleet_install::install;
use super::fleet_state::{ConfigAdopted, ConfigRejected, FleetState};
use super::fleet_tree::{self, LastRead, Tree};
use super::fleet_watch::{secret_roots, watch};
use super::served_tls;
use super::slot::{WriteError, line_time};
use crate::clock;
use crate::file_error::{FileError, chain};
use crate::journal::line::NewLine;
use crate::problem::{Problem, Severity};
use crate::protocol::ProblemEntry;

/// A directory is read when nothing has changed in it for this long.
const QUIET: Duration = Duration::from_millis(300);
/// It is read this often whatever was noticed: not every file system tells of changes.
const RESCAN: Duration = Duration::from_secs(60);
/// And this soon again when it could not be applied, on a full disk for instance.
const RETRY: Duration = Duration::from_secs(3);
/// Why the server cannot start with this configuration.
#[derive(Debug)]
pub enum StartError {
    /// The configuration has errors and none was adopted before.
    Problems(Vec<Problem>),
    /// The copy of what was adopted is gone from this directory of the state, or is another one's. And why it is needed.
    NoCopy(PathBuf, Vec<Problem>),
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

/// What one reload leaves for the next.
#[derive(Debug, Default)]
pub struct LastReload {
    /// The hash of the directory's files.
    seen: Option<String>,
    read: LastRead,
    contents: LastContents,
}

/// The configuration to begin with: the directory's if it is good, else the last one that was. Returns it for the settings, and
/// what `run` goes on from.
pub async fn start(app: &Arc<App>, directory: &Path) -> Result<(Arc<Fleet>, LastReload), StartError> {
    let (fleet_dir, path) = (app.state_dir.fleet_dir(), directory.to_owned());
    let seen = blocking(move || fleet_copy::last_seen(&fleet_dir, &path)).await;
    let mut last = LastReload { seen, ..LastReload::default() };
    let fleet = reload(app, directory, &mut last).await?;
    Ok((fleet, last))
}

/// Watches and reloads until the server stops. `fleet` and `last` are what `start` returned.
pub async fn run(app: Arc<App>, directory: PathBuf, fleet: Arc<Fleet>, mut last: LastReload) {
    let (sender, mut hints) = mpsc::channel::<()>(1);
    let mut stopping = app.stopping.subscribe();
    let mut wanted = app.reload_wanted.subscribe();
    let mut decided = app.fleet.watch();
    let mut answered_late = app.secret_commands.late.subscribe();
    if *answered_late.borrow() > 0 {
        answered_late.mark_changed();
    }
    let mut roots = secret_roots(&directory, &fleet);
    drop(fleet);
    let mut watcher = watch(&directory, &roots, sender.clone());
    // An instant, not a wait: what else is told to the fleet's journal must not put it off.
    let mut rescan = Instant::now() + RESCAN;
    loop {
        tokio::select! {
            () = stopped(&mut stopping) => return,
            Some(()) = hints.recv() => {
                // Wait for a quiet moment, but not for ever.
                let patience = Instant::now() + Duration::from_secs(5);
                while Instant::now() < patience && tokio::time::timeout(QUIET, hints.recv()).await.is_ok() {}
            }
            // Who asks for it may have a reason to mistrust the times of files.
            Ok(()) = wanted.changed() => last = LastReload { seen: last.seen, ..LastReload::default() },
            Ok(()) = decided.changed() => {
                if app.fleet.durable().state.decisions <= *app.installed.borrow() {
                    continue;
                }
            }
            // Secrets of commands that `start` or the last reload did not wait for.
            Ok(()) = answered_late.changed() => {}
            () = tokio::time::sleep_until(rescan) => {}
        }
        wanted.mark_unchanged();
        decided.mark_unchanged();
        match reload(&app, &directory, &mut last).await {
            Ok(fleet) => (roots, rescan) = (secret_roots(&directory, &fleet), Instant::now() + RESCAN),
            Err(error) => {
                not_applied(&app, &error);
                rescan = Instant::now() + RETRY;
            }
        }
        served_tls::look(&app).await;
        // A replaced directory keeps the watch on the old one: look at what is there now.
        watcher = watch(&directory, &roots, sender.clone()).or(watcher);
        app.reloaded.send_modify(|count| *count += 1);
    }
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

/// Reads the directory, adopts or rejects it, and gives the hosts what they should have. Returns what runs.
async fn reload(app: &Arc<App>, directory: &Path, last: &mut LastReload) -> Result<Arc<Fleet>, StartError> {
    let (path, mut last_read) = (directory.to_owned(), std::mem::take(&mut last.read));
    let (mut tree, last_read) = blocking(move || (fleet_tree::read(&path, &mut last_read), last_read)).await;
    last.read = last_read;
    let fleet_dir = app.state_dir.fleet_dir();
    let place = fleet_dir.clone();
    let lock = blocking(move || fleet_copy::adoption_lock(&place)).await?;
    let in_company = app.shared.servers.in_company();
    if in_company {
        app.fleet.refresh().await;
    }
    let before = app.fleet.durable().state;
    let changed = has_changed(last.seen.as_deref(), &tree.hash, &before, in_company);
    let adoption = decide_adoption(&before, &tree.hash, has_errors(&tree.problems), changed);
    match adoption {
        Adoption::Adopt => adopt(app, directory, &tree).await?,
        Adoption::Reject => reject(app, &tree).await?,
        Adoption::StillRefused | Adoption::Runs | Adoption::Differs => {}
    }
    if last.seen.as_ref() != Some(&tree.hash) {
        let (fleet_dir, path, hash) = (fleet_dir.clone(), directory.to_owned(), tree.hash.clone());
        if let Err(error) = blocking(move || fleet_copy::keep_seen(&fleet_dir, &path, &hash)).await {
            tracing::warn!("which configuration was read last is not remembered: {}", chain(&error));
        }
        last.seen = Some(tree.hash.clone());
    }
    app.shared.servers.show_directory(directory, &tree.hash);
    let state = app.fleet.durable().state;
    let runs = matches!(adoption, Adoption::Adopt | Adoption::Runs);
    let copy = match &state.adopted {
        _ if runs => None,
        None => return Err(StartError::Problems(tree.problems)),
        Some(adopted) => {
            let adopted = adopted.clone();
            // Still under the lock, so that it is the one that the journal says.
            let place = fleet_dir.clone();
            let copy = blocking(move || fleet_tree::read_copy(&place, &adopted)).await?;
            Some(copy.ok_or_else(|| StartError::NoCopy(fleet_dir, tree.problems.clone()))?)
        }
    };
    drop(lock);
    if adoption == Adoption::Differs {
        tree.problems.push(differs(&state));
    }
    let running = copy.as_ref().unwrap_or(&tree);
    app.set_keep_rules(running.fleet.settings.keep_rules());
    app.set_trusted_proxies(&running.fleet.settings.trusted_proxies);
    app.tls.want(running.fleet.settings.tls.as_ref(), directory);
    // Secrets lie beside the real directory, not beside the copy.
    let installed = match app.set_tokens(running.fleet.settings.tokens.clone()) {
        Ok(()) => install(app, directory, running, &mut last.contents).await,
        Err(error) => Err(error.into()),
    };
    // Also where that failed: nobody waits for what is tried again later.
    app.installed.send_replace(state.decisions);
    let fleet = Arc::clone(&running.fleet);
    tree.problems.extend(installed?);
    // Told when it begins, not at every scan.
    let told = app.config();
    for problem in tree.problems.iter().filter(|problem| !told.problems.contains(problem)) {
        match problem.severity {
            Severity::Error => tracing::error!("{problem}"),
            Severity::Warning => tracing::warn!("{problem}"),
        }
    }
    if !runs && (told.runs || told.loaded_at.is_none()) {
        tracing::error!(
            "the files of {} do not run: the configuration that was adopted last does",
            directory.display()
        );
    }
    app.set_config(ConfigView {
        hash: tree.hash,
        commit: tree.commit,
        problems: tree.problems,
        runs,
        loaded_at: Some(clock::now()),
    });
    Ok(fleet)
}

async fn adopt(app: &App, directory: &Path, tree: &Tree) -> Result<(), StartError> {
    let copy = AdoptedCopy { hash: tree.hash.clone(), files: tree.files.clone() };
    let fleet_dir = app.state_dir.fleet_dir();
    blocking(move || fleet_copy::keep_adopted(&fleet_dir, &copy)).await?;
    let adopted = ConfigAdopted {
        hash: tree.hash.clone(),
        commit: tree.commit.clone(),
        hosts: tree.fleet.hosts.len(),
        from: Some(fleet_copy::name_of(directory)),
    };
    tracing::info!(hash = %tree.hash, hosts = adopted.hosts, "configuration adopted");
    Ok(append_fleet(app, ConfigAdopted::TYPE, adopted).await?)
}

async fn reject(app: &App, tree: &Tree) -> Result<(), StartError> {
    let problems = tree.problems.iter().map(entry).collect();
    Ok(append_fleet(app, ConfigRejected::TYPE, ConfigRejected { hash: tree.hash.clone(), problems }).await?)
}

/// Tells that this server's directory is not what runs.
fn differs(state: &FleetState) -> Problem {
    let adopted = state.adopted.as_ref();
    let from = adopted.and_then(|adopted| adopted.from.as_deref()).unwrap_or("another directory");
    let at = state.adopted_at.map_or(String::new(), |at| format!(" at {}", at.format("%Y-%m-%dT%H:%M:%SZ")));
    Problem {
        file: "server.toml".to_owned(),
        line: 0,
        column: 0,
        severity: Severity::Warning,
        message: format!(
            "this server's configuration directory differs from what runs, which was adopted from {from}{at}: deploy the same files here, or change them to have them adopted"
        ),
    }
}

fn entry(problem: &Problem) -> ProblemEntry {
    let column = (problem.column > 0).then_some(problem.column);
    ProblemEntry { file: problem.file.clone(), line: problem.line, column, message: problem.message.clone() }
}

/// Appends a fact of the fleet.
pub async fn append_fleet(
    app: &App,
    kind: &'static str,
    payload: impl Serialize + Send + 'static,
) -> Result<(), WriteError> {
    let write = app.fleet.write(move |batch| {
        // Our payloads are structs with text keys, which always have a JSON form.
        if let Ok(payload) = serde_json::value::to_raw_value(&payload) {
            let now = line_time();
            batch.append(now, &NewLine { kind: kind.to_owned(), ts: now, stream: None, payload });
        }
    });
    write.await
}
