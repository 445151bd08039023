//! Edge. One reload: the configuration directory is looked at, adopted or refused, and what runs is given to the hosts. Does not
//! watch: `fleet_loop` says when.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::adoption::{Adoption, CommitTold, decide_adoption, emptied, has_changed, is_committed_anew};
use super::app::{App, ConfigView, Telling, blocking};
use super::fleet::Fleet;
use super::fleet::load::has_errors;
use super::fleet_contents::LastContents;
use super::fleet_copy::{self, AdoptedCopy};
use super::fleet_install::install;
use super::fleet_look::{LastLook, Look, Why, look};
use super::fleet_loop::StartError;
use super::fleet_state::{ConfigAdopted, ConfigCommitted, ConfigRejected, FleetState, PROBLEMS_LIMIT};
use super::fleet_tree::{self, AtWork, Tree, of_git};
use super::slot::{WriteError, line_time};
use crate::clock;
use crate::file_error::chain;
use crate::journal::line::NewLine;
use crate::problem::{Problem, Severity};
use crate::protocol::ProblemEntry;

/// What one reload leaves for the next.
#[derive(Debug, Default)]
pub struct LastReload {
    /// The hash of the directory's files.
    seen: Option<String>,
    pub look: LastLook,
    /// A git was at work there.
    pub is_at_work: bool,
    contents: LastContents,
    /// What the directory said of its commit.
    told: Option<CommitTold>,
}

impl LastReload {
    /// Before the first one. `seen` is the hash that the directory had when a server looked at it last.
    pub fn of(seen: Option<String>) -> Self {
        Self { seen, ..Self::default() }
    }
}

/// Reads the directory, adopts or rejects it, and gives the hosts what they should have. Returns what runs. `shows_work`: that a git is at work is a
/// problem worth showing.
pub async fn reload(
    app: &Arc<App>,
    directory: &Path,
    last: &mut LastReload,
    why: Why,
    shows_work: bool,
) -> Result<Arc<Fleet>, StartError> {
    let Look { tree, at_work } = look(directory, &mut last.look, why).await;
    last.is_at_work = at_work.is_some();
    let fleet_dir = app.state_dir.fleet_dir();
    let place = fleet_dir.clone();
    let lock = blocking(move || fleet_copy::adoption_lock(&place)).await?;
    let in_company = app.shared.servers.in_company();
    if in_company {
        app.fleet.refresh().await;
    }
    let before = app.fleet.durable().state;
    let mut tree = match (tree, &at_work) {
        (Some(tree), _) => tree,
        (None, Some(at_work)) => ran_before(app, &before, at_work).await?,
        (None, None) => return Err(StartError::Problems(Vec::new())),
    };
    if !has_errors(&tree.problems) {
        tree.problems.extend(emptied(&before, !tree.files.is_empty()));
    }
    let changed = at_work.is_none() && has_changed(last.seen.as_deref(), &tree.hash, &before, in_company);
    let adoption = decide_adoption(&before, &tree.hash, has_errors(&tree.problems), changed);
    let settled = at_work.is_none() && !last.look.is_unasked;
    let told = CommitTold { commit: tree.commit.clone(), dirty: tree.dirty, from: fleet_copy::name_of(directory) };
    match adoption {
        Adoption::Adopt => adopt(app, &tree, &told).await?,
        Adoption::Reject => reject(app, &tree).await?,
        // Where git has not been asked yet that is soon.
        Adoption::Runs if settled && is_committed_anew(&before, &told, last.told.as_ref(), in_company) => {
            commit(app, &tree).await?;
        }
        Adoption::StillRefused | Adoption::Runs | Adoption::Differs => {}
    }
    if settled || adoption == Adoption::Adopt {
        last.told = Some(told);
    }
    if at_work.is_none() {
        remember(app, directory, &tree.hash, last).await;
    }
    let state = app.fleet.durable().state;
    let runs = matches!(adoption, Adoption::Adopt | Adoption::Runs);
    let copy = match &state.adopted {
        // Of the commit, the journal's word counts for all servers.
        Some(adopted) if runs => {
            (tree.commit, tree.dirty) = (adopted.commit.clone(), adopted.dirty);
            None
        }
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
    tree.problems.extend(at_work.iter().filter(|_| shows_work).map(|at_work| of_git(at_work.to_string())));
    let running = copy.as_ref().unwrap_or(&tree);
    app.set_keep_rules(running.fleet.settings.keep_rules());
    app.set_trusted_proxies(&running.fleet.settings.trusted_proxies);
    app.telling.send_replace(Telling { fleet: Arc::clone(&running.fleet), directory: directory.to_owned() });
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
    show(app, directory, tree, runs);
    Ok(fleet)
}

/// What the directory held last, where its own files cannot be had at the moment and were never read by us.
async fn ran_before(app: &App, state: &FleetState, at_work: &AtWork) -> Result<Tree, StartError> {
    let Some(adopted) = state.adopted.clone() else { return Err(StartError::AtWork(at_work.clone())) };
    let fleet_dir = app.state_dir.fleet_dir();
    let place = fleet_dir.clone();
    let copy = blocking(move || fleet_tree::read_copy(&place, &adopted)).await?;
    copy.ok_or_else(|| StartError::NoCopy(fleet_dir, vec![of_git(at_work.to_string())]))
}

/// So that after a restart too only what changed since is news.
async fn remember(app: &App, directory: &Path, hash: &str, last: &mut LastReload) {
    if last.seen.as_deref() != Some(hash) {
        let (fleet_dir, path, seen) = (app.state_dir.fleet_dir(), directory.to_owned(), hash.to_owned());
        if let Err(error) = blocking(move || fleet_copy::keep_seen(&fleet_dir, &path, &seen)).await {
            tracing::warn!("which configuration was read last is not remembered: {}", chain(&error));
        }
        last.seen = Some(hash.to_owned());
    }
    app.shared.servers.show_directory(directory, hash);
}

/// Problems are told when they begin, not at every scan.
fn show(app: &App, directory: &Path, tree: Tree, runs: bool) {
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
        dirty: tree.dirty,
        problems: tree.problems,
        runs,
        loaded_at: Some(clock::now()),
    });
}

async fn adopt(app: &App, tree: &Tree, told: &CommitTold) -> Result<(), StartError> {
    let copy = AdoptedCopy { hash: tree.hash.clone(), files: Arc::clone(&tree.files) };
    let fleet_dir = app.state_dir.fleet_dir();
    blocking(move || fleet_copy::keep_adopted(&fleet_dir, &copy)).await?;
    let adopted = ConfigAdopted {
        hash: tree.hash.clone(),
        commit: tree.commit.clone(),
        dirty: tree.dirty,
        hosts: tree.fleet.hosts.len(),
        from: Some(told.from.clone()),
    };
    tracing::info!(hash = %tree.hash, commit = ?tree.commit, dirty = ?tree.dirty, hosts = adopted.hosts, "configuration adopted");
    Ok(append_fleet(app, ConfigAdopted::TYPE, adopted).await?)
}

async fn commit(app: &App, tree: &Tree) -> Result<(), StartError> {
    tracing::info!(commit = ?tree.commit, dirty = ?tree.dirty, "the configuration that runs is of this commit");
    let committed = ConfigCommitted { hash: tree.hash.clone(), commit: tree.commit.clone(), dirty: tree.dirty };
    Ok(append_fleet(app, ConfigCommitted::TYPE, committed).await?)
}

async fn reject(app: &App, tree: &Tree) -> Result<(), StartError> {
    let (errors, warnings): (Vec<_>, Vec<_>) = tree.problems.iter().partition(|p| p.severity == Severity::Error);
    let error_count = errors.len();
    let problems = errors.into_iter().chain(warnings).take(PROBLEMS_LIMIT).map(entry).collect();
    let count = tree.problems.len();
    let rejected =
        ConfigRejected { hash: tree.hash.clone(), commit: tree.commit.clone(), problems, count, errors: error_count };
    Ok(append_fleet(app, ConfigRejected::TYPE, rejected).await?)
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
