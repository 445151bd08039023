//! Edge. Keeps what runs equal to the configuration directory: watches it, reads it whole when anything changed, adopts it
//! when it has no error, and gives each host its content. Does not decide versions: `decide_versions` does, in each host's journal.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::app::{App, ConfigView, blocking, stopped};
use super::decide::{AgentHas, decide_versions};
use super::fleet::load::{has_errors, load};
use super::fleet::read_tree::read_tree;
use super::fleet::schedule_set::{HostSecrets, config_hash, config_update_of, schedule_hash, schedules_of};
use super::fleet::secrets::read_secrets;
use super::fleet::{Fleet, Host as FleetHost};
use super::fleet_state::{ConfigAdopted, ConfigRejected};
use super::fleet_watch::{secret_roots, watch};
use super::host::Host;
use super::host_content::HostContent;
use super::slot::{WriteError, line_time};
use crate::atomic_file;
use crate::clock;
use crate::file_error::{FileError, chain};
use crate::id::HostName;
use crate::journal::line::NewLine;
use crate::problem::{Problem, Severity};
use crate::protocol::ProblemEntry;
use crate::protocol::command::ConfigUpdate;

/// A directory is read when nothing has changed in it for this long.
const QUIET: Duration = Duration::from_millis(300);
/// It is read this often whatever was noticed: not every file system tells of changes.
const RESCAN: Duration = Duration::from_secs(60);
/// Journals written at once when many hosts change.
const HOSTS_AT_ONCE: usize = 64;

/// Why the server cannot start with this configuration.
#[derive(Debug)]
pub enum StartError {
    /// The configuration has errors and none was adopted before.
    Problems(Vec<Problem>),
    File(FileError),
    Write(WriteError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Problems(problems) => {
                f.write_str("the configuration has errors, and there is none that ran before:")?;
                let errors = problems.iter().filter(|problem| problem.severity == Severity::Error);
                errors.into_iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
            Self::File(error) => f.write_str(&chain(error)),
            Self::Write(error) => error.fmt(f),
        }
    }
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

/// The configuration to begin with: the directory's if it is good, else the last one that was. Returns it for the settings.
pub async fn start(app: &Arc<App>, directory: &Path) -> Result<Fleet, StartError> {
    let (tree, _) = reload(app, directory).await?;
    if !has_errors(&tree.problems) {
        return Ok(tree.fleet);
    }
    // Power loss between the two renames of `keep_adopted` leaves the new copy, which is whole by then, under its first name.
    let copies = ["adopted", "adopted.new", "adopted.old"].map(|name| app.state_dir.fleet_dir().join(name));
    let adopted = copies.iter().find(|copy| copy.exists()).unwrap_or(&copies[0]).clone();
    let last_good = blocking(move || read(&adopted)).await;
    if app.fleet.durable().state.adopted.is_none() || has_errors(&last_good.problems) {
        return Err(StartError::Problems(tree.problems));
    }
    tracing::error!("the configuration has errors: the last good one runs");
    app.set_tokens(last_good.fleet.settings.tokens.clone())?;
    app.set_keep_rules(last_good.fleet.settings.keep_rules());
    // Secrets lie beside the real directory, not beside the copy.
    install(app, directory, &last_good).await?;
    Ok(last_good.fleet)
}

/// Watches and reloads until the server stops. `fleet` is what `start` returned.
pub async fn run(app: Arc<App>, directory: PathBuf, fleet: &Fleet) {
    let (sender, mut hints) = mpsc::channel::<()>(1);
    let mut stopping = app.stopping.subscribe();
    let mut wanted = app.reload_wanted.subscribe();
    let mut roots = secret_roots(&directory, fleet);
    let mut watcher = watch(&directory, &roots, sender.clone());
    loop {
        tokio::select! {
            () = stopped(&mut stopping) => return,
            Some(()) = hints.recv() => {
                // Wait for a quiet moment, but not for ever.
                let patience = tokio::time::Instant::now() + Duration::from_secs(5);
                while tokio::time::Instant::now() < patience && tokio::time::timeout(QUIET, hints.recv()).await.is_ok() {}
            }
            Ok(()) = wanted.changed() => {}
            () = tokio::time::sleep(RESCAN) => {}
        }
        wanted.mark_unchanged();
        match reload(&app, &directory).await {
            Ok((tree, _)) => roots = secret_roots(&directory, &tree.fleet),
            Err(error) => not_applied(&app, &error),
        }
        // A replaced directory keeps the watch on the old one: look at what is there now.
        watcher = watch(&directory, &roots, sender.clone()).or(watcher);
        app.reloaded.send_modify(|count| *count += 1);
    }
}

/// A good configuration that could not be adopted (a full disk, usually) does not run, and that is shown.
fn not_applied(app: &App, error: &StartError) {
    tracing::error!("the configuration was not applied, the next scan tries again: {error}");
    let problem = Problem {
        file: "state".to_owned(),
        line: 0,
        column: 0,
        severity: Severity::Error,
        message: format!("the files are good and do not run yet: {error}"),
    };
    app.set_config(ConfigView { problems: vec![problem], runs: false, ..ConfigView::clone(&app.config()) });
}

/// A directory as read and checked.
struct Tree {
    files: BTreeMap<String, String>,
    hash: String,
    commit: Option<String>,
    fleet: Fleet,
    problems: Vec<Problem>,
}

fn read(directory: &Path) -> Tree {
    let (files, unread) = read_tree(directory);
    let (fleet, problems) = load(&files);
    let mut hasher = Sha256::new();
    for (path, text) in &files {
        hasher.update((path.len() as u64).to_be_bytes());
        hasher.update(path);
        hasher.update((text.len() as u64).to_be_bytes());
        hasher.update(text);
    }
    let hash = data_encoding::HEXLOWER.encode(&hasher.finalize()[..16]);
    let problems = if unread.is_empty() { problems } else { unread };
    Tree { files, hash, commit: commit_of(directory), fleet, problems }
}

/// The commit of the git work tree that the directory is or is in, by git's own files.
fn commit_of(directory: &Path) -> Option<String> {
    let directory = directory.canonicalize().ok()?;
    let git = directory.ancestors().take(3).map(|dir| dir.join(".git")).find(|git| git.is_dir())?;
    let head = std::fs::read_to_string(git.join("HEAD")).ok()?;
    let Some(reference) = head.trim().strip_prefix("ref: ") else { return Some(head.trim().to_owned()) };
    if let Ok(commit) = std::fs::read_to_string(git.join(reference)) {
        return Some(commit.trim().to_owned());
    }
    let packed = std::fs::read_to_string(git.join("packed-refs")).ok()?;
    packed.lines().find_map(|line| line.strip_suffix(reference)).map(|commit| commit.trim().to_owned())
}

/// Reads the directory, adopts or rejects it, and gives the hosts what they should have.
async fn reload(app: &Arc<App>, directory: &Path) -> Result<(Tree, bool), StartError> {
    let path = directory.to_owned();
    let mut tree = blocking(move || read(&path)).await;
    let state = app.fleet.durable().state;
    let refused = has_errors(&tree.problems);
    if refused {
        if state.rejected_hash.as_ref() != Some(&tree.hash) {
            for problem in &tree.problems {
                match problem.severity {
                    Severity::Error => tracing::error!("{problem}"),
                    Severity::Warning => tracing::warn!("{problem}"),
                }
            }
            let problems = tree.problems.iter().map(entry).collect();
            append_fleet(app, ConfigRejected::TYPE, ConfigRejected { hash: tree.hash.clone(), problems }).await?;
        }
    } else {
        if state.adopted.as_ref().is_none_or(|a| a.hash != tree.hash) || state.rejected_hash.is_some() {
            keep_adopted(app, &tree).await?;
            let adopted =
                ConfigAdopted { hash: tree.hash.clone(), commit: tree.commit.clone(), hosts: tree.fleet.hosts.len() };
            tracing::info!(hash = %tree.hash, hosts = adopted.hosts, "configuration adopted");
            append_fleet(app, ConfigAdopted::TYPE, adopted).await?;
        }
        app.set_tokens(tree.fleet.settings.tokens.clone())?;
        app.set_keep_rules(tree.fleet.settings.keep_rules());
        let secret_problems = install(app, directory, &tree).await?;
        // Told when it begins, not at every scan.
        let told = app.config();
        for problem in secret_problems.iter().filter(|problem| !told.problems.contains(problem)) {
            tracing::warn!("{problem}");
        }
        tree.problems.extend(secret_problems);
    }
    app.set_config(ConfigView {
        hash: tree.hash.clone(),
        commit: tree.commit.clone(),
        problems: tree.problems.clone(),
        runs: !refused,
        loaded_at: Some(clock::now()),
    });
    Ok((tree, refused))
}

fn entry(problem: &Problem) -> ProblemEntry {
    let column = (problem.column > 0).then_some(problem.column);
    ProblemEntry { file: problem.file.clone(), line: problem.line, column, message: problem.message.clone() }
}

/// Copies the files to `fleet/adopted`: what runs after a restart with a broken directory. Secrets are there by reference only.
async fn keep_adopted(app: &Arc<App>, tree: &Tree) -> Result<(), FileError> {
    let (dir, files) = (app.state_dir.fleet_dir(), tree.files.clone());
    blocking(move || {
        let (new, old, present) = (dir.join("adopted.new"), dir.join("adopted.old"), dir.join("adopted"));
        atomic_file::remove_dir(&new)?;
        atomic_file::create_private_dir(&new)?;
        for (path, text) in &files {
            let path = new.join(path);
            if let Some(parent) = path.parent() {
                atomic_file::create_private_dir(parent)?;
            }
            atomic_file::replace(&path, text.as_bytes())?;
        }
        atomic_file::remove_dir(&old)?;
        if present.exists() {
            atomic_file::rename_durably(&present, &old)?;
        }
        atomic_file::rename_durably(&new, &present)?;
        atomic_file::remove_dir(&old)
    })
    .await
}

/// Gives every host its content; hosts without a file get none of everything. Returns the secrets that cannot be read.
async fn install(app: &Arc<App>, directory: &Path, tree: &Tree) -> Result<Vec<Problem>, StartError> {
    let (fleet, path, key) = (tree.fleet.clone(), directory.to_owned(), app.state_dir.hash_key);
    let commit = tree.commit.clone();
    let known: BTreeMap<HostName, Arc<Host>> = app.hosts().into_iter().map(|host| (host.name.clone(), host)).collect();
    let (contents, problems) = blocking(move || {
        let mut problems = Vec::new();
        let mut contents = Vec::new();
        for (name, host) in &fleet.hosts {
            match read_secrets(&fleet, &path, host) {
                Ok(secrets) => contents.push((name.clone(), content_of(&fleet, host, &secrets, &key, commit.as_ref()))),
                Err(unread) => {
                    problems.extend(unread.into_iter().map(|p| Problem { severity: Severity::Warning, ..p }));
                    let content = content_of(&fleet, host, &HostSecrets::default(), &key, commit.as_ref());
                    contents.push((name.clone(), keeping_settings(content, &known, name)));
                }
            }
        }
        (contents, problems)
    })
    .await;
    let mut writers = JoinSet::new();
    let gone = app.hosts().into_iter().filter(|host| !tree.fleet.hosts.contains_key(&host.name));
    let gone = gone.map(|host| (host.name.clone(), no_content(&app.state_dir.hash_key, tree.commit.as_ref())));
    for (name, content) in contents.into_iter().chain(gone.collect::<Vec<_>>()) {
        while writers.len() >= HOSTS_AT_ONCE {
            if let Some(done) = writers.join_next().await {
                done.unwrap_or(Ok(()))?;
            }
        }
        let app = Arc::clone(app);
        writers.spawn(async move { give(&app, &name, content).await });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap_or(Ok(()))?;
    }
    Ok(problems)
}

async fn give(app: &Arc<App>, name: &HostName, content: HostContent) -> Result<(), StartError> {
    let (opener, host_name) = (Arc::clone(app), name.clone());
    let host = blocking(move || opener.open_host(&host_name)).await?;
    let content = Arc::new(content);
    if host.content().as_ref() == Some(&content) {
        return Ok(());
    }
    host.set_content(Arc::clone(&content));
    if !decide_versions(&host.slot.durable().state, &content, AgentHas::default()).is_empty() {
        host.append(move |state, _| decide_versions(state, &content, AgentHas::default())).await?;
    }
    host.slot.wake();
    Ok(())
}

fn content_of(
    fleet: &Fleet,
    host: &FleetHost,
    secrets: &HostSecrets,
    key: &[u8; 32],
    commit: Option<&String>,
) -> HostContent {
    let schedules = schedules_of(host);
    let config = config_update_of(fleet, host, secrets);
    let max_age = host.schedules.iter().filter_map(|held| Some((held.schedule.id.clone(), held.max_age?)));
    HostContent {
        schedule_hash: schedule_hash(&schedules),
        schedules,
        config_hash: config_hash(&config, key),
        config,
        max_age: max_age.collect(),
        commit: commit.cloned(),
        configured: true,
    }
}

/// A host whose secrets cannot be read keeps the settings that it has; its schedules are not touched by that.
fn keeping_settings(content: HostContent, known: &BTreeMap<HostName, Arc<Host>>, name: &HostName) -> HostContent {
    let host = known.get(name);
    if let Some(present) = host.and_then(|host| host.content()) {
        return HostContent { config: present.config.clone(), config_hash: present.config_hash.clone(), ..content };
    }
    // After a restart: what the agent has stays, and that is what the journal knows by its hash.
    let wanted = host.and_then(|host| host.slot.durable().state.config_wanted.clone());
    let config = ConfigUpdate { repo_password: None, repo_credential: None, ..content.config };
    HostContent { config, config_hash: wanted.map_or(String::new(), |wanted| wanted.hash), ..content }
}

/// What a host without a file should have: nothing to run, and its settings left as they are.
fn no_content(key: &[u8; 32], commit: Option<&String>) -> HostContent {
    let config = ConfigUpdate::default();
    HostContent {
        schedule_hash: schedule_hash(&[]),
        schedules: Vec::new(),
        config_hash: config_hash(&config, key),
        config,
        max_age: BTreeMap::new(),
        commit: commit.cloned(),
        configured: false,
    }
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
