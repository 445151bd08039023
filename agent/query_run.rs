//! Edge. Runs a query: what restic prints becomes one line of JSON for each entry in the job's log, in the shape of
//! `restic_json::query`, of a bounded number; the job's statistics say how many there were. Takes no lock, so whoever must end it
//! may kill it. Does not choose which query runs when.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use restic_manager::clock;
use restic_manager::file_error::chain;
use restic_manager::printable::json_line;
use restic_manager::process::{self, Exit, Output};
use restic_manager::protocol::agent_event::{JobFinished, JobOutcome, LogSource, Snapshot};
use restic_manager::protocol::job_options::{DEFAULT_ENTRIES, FindOptions, JobSpec, MOST_ENTRIES};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::commands::{ended, permitted};
use crate::core::{Agent, SharedLog};
use crate::named_snapshots::{self, Trouble, ask, resolved};
use crate::restic_args::arguments;
use crate::restic_args::query::find_arguments;
use crate::restic_json::ending::{self, Transcript};
use crate::restic_json::query::{self, DiffLine, Entry};
use crate::restic_run::{Task, masked, program, question_context};
use crate::restic_version::ResticVersion;
use crate::{make_room, snapshots};

/// Nobody waits longer for an answer.
const DEADLINE: Duration = Duration::from_secs(15 * 60);
/// Bytes of what find prints: one document for all it finds.
const FIND_LIMIT: usize = 64 << 20;
/// How often it is looked whether the server has taken lines, so that there is room for more.
const ROOM_LOOK: Duration = Duration::from_millis(50);

/// Runs the query to its end, with its result in the job's log.
pub(crate) async fn run(agent: &Agent, task: &Task<'_>, version: ResticVersion) -> JobFinished {
    make_room::for_log(agent);
    let log = match agent.log(task.id) {
        Ok(log) => log,
        Err(error) => return ended(task.id, JobOutcome::Failed, Some(&format!("it has no log: {}", chain(&error)))),
    };
    let mut result = QueryResult { agent, log, limit: limit_of(task.spec), written: 0, found: 0 };
    let ran = tokio::select! {
        ran = tokio::time::timeout(DEADLINE, answer(agent, task.spec, version, &mut result)) => ran,
        () = task.cancel.notified() => return ended(task.id, JobOutcome::Cancelled, None),
    };
    let ran = ran.unwrap_or_else(|_| Err(format!("no answer within {} minutes", DEADLINE.as_secs() / 60).into()));
    match ran {
        Ok(mut stats) => {
            result.count(&mut stats);
            JobFinished { exit_code: Some(0), stats: Some(stats), ..ended(task.id, JobOutcome::Succeeded, None) }
        }
        Err(Trouble { text, exit_code, missing }) => {
            let text = masked(agent, &text);
            result.write(LogSource::Event, &text).await;
            // For programs, which go by no words.
            let stats = missing.map(|what| Map::from_iter([("missing".to_owned(), what.into())]));
            JobFinished { exit_code, stats, ..ended(task.id, JobOutcome::Failed, Some(&text)) }
        }
    }
}

fn limit_of(spec: &JobSpec) -> u32 {
    let asked = match spec {
        JobSpec::Ls(options) => options.limit,
        JobSpec::Find(options) => options.limit,
        JobSpec::Diff(options) => options.limit,
        _ => None,
    };
    asked.unwrap_or(DEFAULT_ENTRIES).clamp(1, MOST_ENTRIES)
}

/// Where the entries go.
struct QueryResult<'a> {
    agent: &'a Agent,
    log: SharedLog,
    limit: u32,
    written: u32,
    found: u64,
}

impl QueryResult<'_> {
    /// Writes a line, once there is room for it: restic waits meanwhile.
    async fn write(&self, source: LogSource, text: &str) {
        while !self.log.borrow_mut().has_room_for_a_line() {
            self.agent.send_bell.notify_one();
            tokio::time::sleep(ROOM_LOOK).await;
        }
        if let Err(error) = self.log.borrow_mut().append_line(clock::now(), source, text) {
            tracing::warn!("a line of a query's result is lost: {}", chain(&error));
        }
    }

    /// An entry more; those past the limit are counted only.
    async fn add(&mut self, entry: &impl Serialize) {
        self.found += 1;
        if self.written < self.limit {
            self.written += 1;
            // A log takes no control characters: unescaped, a name with one would come as another name.
            self.write(LogSource::Stdout, &json_line(entry)).await;
        }
    }

    /// How many there were, into the job's statistics.
    fn count(&self, stats: &mut Map<String, Value>) {
        stats.insert("entries".to_owned(), self.written.into());
        stats.insert("found".to_owned(), self.found.into());
        stats.insert("truncated".to_owned(), (self.found > u64::from(self.written)).into());
    }
}

/// The statistics of the query's answer, whose entries go into `result`.
async fn answer(
    agent: &Agent,
    spec: &JobSpec,
    version: ResticVersion,
    result: &mut QueryResult<'_>,
) -> Result<Map<String, Value>, Trouble> {
    permitted(agent, spec)?;
    match spec {
        JobSpec::Find(options) => return find(agent, options, version, result).await,
        JobSpec::Snapshots(_) => {
            let list = named_snapshots::own(agent, version).await?;
            let count = list.len();
            snapshots::tell(agent, list);
            return Ok(Map::from_iter([("snapshots_count".to_owned(), count.into())]));
        }
        _ => {}
    }
    let (spec, named) = resolved(agent, version, spec).await?;
    let mut stats = stream(agent, &spec, version, result).await?;
    if let JobSpec::Ls(options) = &spec {
        stats.extend(named.first().map(|snapshot| ("snapshot".to_owned(), snapshot.id.clone().into())));
        let path = options.path.as_deref().unwrap_or("/");
        if result.found == 0 && !path.trim_end_matches('/').is_empty() && stats.remove("itself").is_none() {
            return Err(Trouble::missing("path", format!("there is no {path:?} in the snapshot")));
        }
        stats.remove("itself");
    }
    Ok(stats)
}

/// Runs a query that prints line by line.
async fn stream(
    agent: &Agent,
    spec: &JobSpec,
    version: ResticVersion,
    result: &mut QueryResult<'_>,
) -> Result<Map<String, Value>, Trouble> {
    let access = agent.received.borrow().access(None)?;
    let arguments = arguments(spec, &question_context(agent, version)).map_err(|refusal| refusal.to_string())?;
    let shown = masked(agent, &arguments.join(" "));
    result.write(LogSource::Event, &format!("restic {version}: restic {shown}")).await;
    let program = program(agent, arguments, access).await?;
    let (running, mut output) = process::start(&program).map_err(|error| chain(&error))?;
    // However this ends: nothing is left running, and there is no lock to leave behind.
    let _killed = Killed(running);
    let mut transcript = Transcript::new(None);
    let mut stats = Map::new();
    let exit = loop {
        match output.recv().await {
            None => break ending::Exit::Signal(9),
            Some(Output::Exit(Exit::Code(code))) => break ending::Exit::Code(code),
            Some(Output::Exit(Exit::Signal(signal))) => break ending::Exit::Signal(signal),
            Some(Output::Stdout(line)) => match spec {
                JobSpec::Ls(options) => match query::ls_line(&line) {
                    // restic names the folder before what is in it.
                    Some(entry) if entry.kind == "dir" && is_itself(&entry.path, options.path.as_deref()) => {
                        stats.insert("itself".to_owned(), true.into());
                    }
                    Some(entry) => result.add(&masked_entry(agent, entry)).await,
                    None => {}
                },
                JobSpec::Diff(_) => match query::diff_line(&line) {
                    Some(DiffLine::Change(mut change)) => {
                        change.path = masked(agent, &change.path);
                        result.add(&change).await;
                    }
                    Some(DiffLine::Statistics(statistics)) => stats.extend(statistics),
                    None => {}
                },
                _ => stats.extend(query::stats(&line).unwrap_or_default()),
            },
            Some(Output::Stderr(line)) => {
                if let Some(text) = transcript.stderr(line.as_bytes()).text() {
                    result.write(LogSource::Stderr, &masked(agent, text)).await;
                }
            }
        }
    };
    let end = transcript.end(exit, version);
    match end.error {
        Some(text) => Err(Trouble::of_restic(text, end.exit_code)),
        None => Ok(stats),
    }
}

struct Killed(process::Running);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill_tree();
    }
}

fn is_itself(path: &str, asked: Option<&str>) -> bool {
    asked.is_some_and(|asked| asked.trim_end_matches('/') == path)
}

fn masked_entry(agent: &Agent, entry: Entry) -> Entry {
    Entry { path: masked(agent, &entry.path), name: masked(agent, &entry.name), ..entry }
}

/// Finds in the host's snapshots, newest first.
async fn find(
    agent: &Agent,
    options: &FindOptions,
    version: ResticVersion,
    result: &mut QueryResult<'_>,
) -> Result<Map<String, Value>, Trouble> {
    let is_meant = |snapshot: &Snapshot| {
        options.since.is_none_or(|since| snapshot.time >= since)
            && options.until.is_none_or(|until| snapshot.time < until)
    };
    let mut stats = Map::new();
    // In all of the host's where nothing says otherwise: restic finds them by itself.
    let mut within = Vec::new();
    if options.snapshot.is_some() || options.since.is_some() || options.until.is_some() {
        within = match &options.snapshot {
            Some(name) => named_snapshots::named(agent, version, &[name], None).await?,
            None => named_snapshots::own(agent, version).await?,
        };
        within.retain(is_meant);
        stats.insert("snapshots_searched".to_owned(), within.len().into());
        if within.is_empty() {
            return Ok(stats);
        }
    }
    let ids: Vec<String> = within.iter().map(|snapshot| snapshot.id.clone()).collect();
    if ids.len() > MOST_SNAPSHOTS_NAMED {
        return Err(format!(
            "{} snapshots are of that time, and {MOST_SNAPSHOTS_NAMED} can be named at once: narrow since and until",
            ids.len()
        )
        .into());
    }
    let access = agent.received.borrow().access(None)?;
    let arguments =
        find_arguments(options, &ids, &question_context(agent, version)).map_err(|refusal| refusal.to_string())?;
    let shown = masked(agent, &arguments.join(" "));
    result.write(LogSource::Event, &format!("restic {version}: restic {shown}")).await;
    let stdout = ask(agent, arguments, access, version, FIND_LIMIT).await?;
    let mut entries = query::find(&stdout).ok_or_else(|| "restic printed no list of what it found".to_owned())?;
    drop(stdout);
    if within.is_empty() {
        within = named_snapshots::known(agent);
        let known: HashSet<&str> = within.iter().map(|snapshot| snapshot.id.as_str()).collect();
        if entries.iter().any(|entry| entry.snapshot.as_deref().is_some_and(|id| !known.contains(id))) {
            within = named_snapshots::own(agent, version).await?;
        }
    }
    let times: HashMap<&str, _> = within.iter().map(|snapshot| (snapshot.id.as_str(), snapshot.time)).collect();
    let time_of = |entry: &Entry| entry.snapshot.as_deref().and_then(|id| times.get(id)).copied();
    entries.sort_by_key(|entry| std::cmp::Reverse(time_of(entry)));
    let with_files: HashSet<_> = entries.iter().filter_map(|entry| entry.snapshot.clone()).collect();
    stats.insert("snapshots_with_matches".to_owned(), with_files.len().into());
    for mut entry in entries {
        entry.snapshot_time = time_of(&entry).map(|time| time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true));
        result.add(&masked_entry(agent, entry)).await;
    }
    Ok(stats)
}

/// So that they fit into a command line, also of Windows.
const MOST_SNAPSHOTS_NAMED: usize = 300;
