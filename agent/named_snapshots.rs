//! Edge. The snapshots that a job names, looked up before it runs: whose they are is what the policy judges, "latest" is this host's,
//! and what then runs has whole ids, so that it is about the very snapshots that were judged. Does not run the job.

use std::time::Duration;

use restic_manager::file_error::chain;
use restic_manager::process::{self, run_for_bytes};
use restic_manager::protocol::agent_event::Snapshot;
use restic_manager::protocol::job_options::{JobSpec, RestoreOptions};
use restic_manager::protocol::repository_access::RepositoryAccess;

use crate::core::Agent;
use crate::latest_snapshot::{described, latest};
use crate::restic_args::query::named_snapshots_arguments;
use crate::restic_args::snapshots_arguments;
use crate::restic_json::document;
use crate::restic_json::ending::{self, Transcript};
use crate::restic_run::{program, question_context};
use crate::restic_version::ResticVersion;

const DEADLINE: Duration = Duration::from_secs(300);
/// Bytes of a list of snapshots.
const LIST_LIMIT: usize = 32 << 20;

/// Why there is no answer. The text is for a person, and was not masked.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) text: String,
    /// restic's, where it failed.
    pub(crate) exit_code: Option<i32>,
    /// What was asked for is not there: `snapshot` or `path`.
    pub(crate) missing: Option<&'static str>,
}

impl Trouble {
    /// There is no such snapshot, or path in it.
    pub(crate) fn missing(what: &'static str, text: String) -> Self {
        Self { missing: Some(what), ..Self::from(text) }
    }

    /// restic failed.
    pub(crate) fn of_restic(text: String, exit_code: Option<i32>) -> Self {
        Self { exit_code, ..Self::from(text) }
    }
}

impl From<String> for Trouble {
    fn from(text: String) -> Self {
        Self { text, exit_code: None, missing: None }
    }
}

/// What restic prints, of at most so many bytes.
pub(crate) async fn ask(
    agent: &Agent,
    arguments: Vec<String>,
    access: RepositoryAccess,
    version: ResticVersion,
    limit: usize,
) -> Result<Vec<u8>, Trouble> {
    let program = program(agent, arguments, access).await?;
    let ran = run_for_bytes(&program, Vec::new(), limit, DEADLINE).await;
    let (exit, stdout, stderr) = ran.map_err(|error| chain(&error))?;
    let mut transcript = Transcript::new(None);
    stderr.lines().for_each(|line| drop(transcript.stderr(line.as_bytes())));
    let exit = match exit {
        process::Exit::Code(code) => ending::Exit::Code(code),
        process::Exit::Signal(signal) => ending::Exit::Signal(signal),
    };
    let end = transcript.end(exit, version);
    match end.error {
        Some(text) => Err(Trouble::of_restic(text, end.exit_code)),
        None => Ok(stdout),
    }
}

/// All of this host's, in restic's order: oldest first.
pub(crate) async fn own(agent: &Agent, version: ResticVersion) -> Result<Vec<Snapshot>, Trouble> {
    let access = agent.received.borrow().access(None)?;
    let url = access.url.clone();
    let stdout =
        ask(agent, snapshots_arguments(&question_context(agent, version)), access, version, LIST_LIMIT).await?;
    let list = document::snapshots(&stdout).ok_or_else(|| "restic printed no list of snapshots".to_owned())?;
    *agent.known_snapshots.borrow_mut() = (url, list.clone());
    Ok(list)
}

/// The snapshots of this host that are known without asking. What is gone meanwhile, restic misses.
pub(crate) fn known(agent: &Agent) -> Vec<Snapshot> {
    let (url, list) = &*agent.known_snapshots.borrow();
    let is_of_now = agent.received.borrow().access(None).is_ok_and(|access| access.url == *url);
    if is_of_now { list.clone() } else { Vec::new() }
}

/// The snapshots that go by these names, in their order, if this host may read them. `restore`: what "latest" is for, if it is that.
pub(crate) async fn named(
    agent: &Agent,
    version: ResticVersion,
    names: &[&String],
    restore: Option<&RestoreOptions>,
) -> Result<Vec<Snapshot>, Trouble> {
    let mut known = known(agent);
    let is_known = |known: &[Snapshot], name: &str| known.iter().any(|snapshot| goes_by(snapshot, name));
    let unknown = |name: &&&String| **name != "latest" && !is_known(&known, name);
    let ids: Vec<String> = names.iter().filter(unknown).map(|name| (*name).clone()).collect();
    if !ids.is_empty() {
        let access = agent.received.borrow().access(None)?;
        let arguments = named_snapshots_arguments(&ids, &question_context(agent, version))
            .map_err(|refusal| refusal.to_string())?;
        let stdout = ask(agent, arguments, access, version, LIST_LIMIT).await?;
        known.extend(document::snapshots(&stdout).unwrap_or_default());
    }
    let latest = match names.iter().any(|name| *name == "latest") {
        true => match own(agent, version).await?.as_slice() {
            [] => None,
            own => Some(latest_for(own, restore)?),
        },
        false => None,
    };
    let found = names.iter().map(|name| match name.as_str() {
        "latest" => latest.clone().ok_or_else(|| Trouble::missing("snapshot", "this host has no snapshot".to_owned())),
        name => known.iter().find(|snapshot| goes_by(snapshot, name)).cloned().ok_or_else(|| {
            Trouble::missing("snapshot", format!("there is no snapshot {name}, or more than one whose id begins so"))
        }),
    });
    let found = found.collect::<Result<Vec<_>, _>>()?;
    for snapshot in &found {
        agent.policy.permits_snapshots_of(agent.host.as_str(), &snapshot.hostname)?;
    }
    Ok(found)
}

/// The host's newest; for a restore in place, where each schedule's newest holds something else, one of them would bring back a part of
/// the host as if it were all.
fn latest_for(own: &[Snapshot], restore: Option<&RestoreOptions>) -> Result<Snapshot, String> {
    let Some(RestoreOptions { schedule, paths, include, in_place, .. }) = restore else {
        return Ok(latest(own, None, &[])?.snapshot.clone());
    };
    let wanted = if *in_place && paths.is_empty() { include } else { paths };
    let found = latest(own, schedule.as_ref(), wanted)?;
    if *in_place && !found.beside.is_empty() {
        let others: Vec<String> = found.beside.iter().map(|other| described(other)).collect();
        return Err(format!(
            "\"latest\" is snapshot {}; this host's newest of others hold other paths: {}. Restore them one by one: name a `schedule` with \"latest\", or a snapshot's id",
            described(found.snapshot),
            others.join("; ")
        ));
    }
    Ok(found.snapshot.clone())
}

/// restic takes 8 digits and more of an id.
fn goes_by(snapshot: &Snapshot, name: &str) -> bool {
    name.len() >= 8 && snapshot.id.starts_with(&name.to_ascii_lowercase())
}

/// The same job with whole ids for the snapshots that it names, and those.
pub(crate) async fn resolved(
    agent: &Agent,
    version: ResticVersion,
    spec: &JobSpec,
) -> Result<(JobSpec, Vec<Snapshot>), Trouble> {
    let meant = spec;
    let mut spec = meant.clone();
    let mut names: Vec<&mut String> = match &mut spec {
        JobSpec::Restore(RestoreOptions { snapshot, .. }) => vec![snapshot],
        JobSpec::Ls(options) => vec![&mut options.snapshot],
        JobSpec::Find(options) => options.snapshot.iter_mut().collect(),
        JobSpec::Diff(options) => vec![&mut options.from, &mut options.to],
        JobSpec::Stats(options) => options.snapshot.iter_mut().collect(),
        _ => Vec::new(),
    };
    let asked: Vec<&String> = names.iter().map(|name| &**name).collect();
    let restore = if let JobSpec::Restore(options) = meant { Some(options) } else { None };
    let found = if asked.is_empty() { Vec::new() } else { named(agent, version, &asked, restore).await? };
    for (name, snapshot) in names.iter_mut().zip(&found) {
        name.clone_from(&snapshot.id);
    }
    Ok((spec, found))
}
