//! Edge. `restic-manager-agent status`: what the running agent writes down every few seconds, for people and as JSON.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use restic_manager::atomic_file;
use restic_manager::clock;
use restic_manager::file_error::chain;
use restic_manager::protocol::command::AgentUpdateAvailable;
use restic_manager::schedule::{compile, next_wake};
use restic_manager::service_manager::{self, Moment};
use serde::{Deserialize, Serialize};

use crate::core::Agent;
use crate::identity::Identity;
use crate::{Directory, Failure, json_file, print_to_whoever_reads, run};

#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    directory: Directory,
    /// For scripts
    #[arg(long)]
    json: bool,
}

const FILE: &str = "status.json";
/// Looked at this often while something happens, and while nothing does: an idle host is not woken for nothing.
const BUSY_INTERVAL: Duration = Duration::from_secs(5);
const IDLE_INTERVAL: Duration = Duration::from_secs(60);
/// An agent that wrote nothing for this long does not run.
const STALE_SECS: i64 = 90;
/// An unchanged status is written again after this long, at the next look: each answered poll is one.
const FRESH_SECS: i64 = 25;

/// What the agent writes down.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Status {
    written_at: DateTime<Utc>,
    host: String,
    server: String,
    /// The proxy, or that there is none.
    #[serde(default)]
    connected_through: String,
    /// How polls wait, as learned.
    #[serde(default)]
    polls: String,
    agent_version: String,
    /// The newer one that the server told of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    agent_update: Option<AgentUpdateAvailable>,
    restic_version: Option<String>,
    last_contact: Option<DateTime<Utc>>,
    schedule_version: u64,
    config_version: u64,
    next_fires: Vec<NextFire>,
    running: Vec<String>,
    waiting: usize,
    spool_bytes: u64,
    /// Of job logs, not yet sent.
    #[serde(default)]
    log_bytes: u64,
    /// Since the agent started: what did not fit and will never be sent.
    #[serde(default)]
    dropped_log_lines: u64,
    #[serde(default)]
    dropped_progress: u64,
    last_error: Option<LastError>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct LastError {
    at: DateTime<Utc>,
    text: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct NextFire {
    schedule: String,
    at: DateTime<Utc>,
}

fn status_of(agent: &Agent) -> Status {
    let received = agent.received.borrow();
    let zone = agent.zone.parse().unwrap_or(chrono_tz::UTC);
    let now = clock::now();
    let state = agent.pending_fires.borrow();
    let schedules = received.schedules().map_or(&[][..], |set| &set.schedules);
    let next_fires = schedules.iter().filter_map(|schedule| {
        let compiled = compile(schedule, &agent.host, zone).ok()?;
        let at = next_wake(&compiled, state.memory.get(&schedule.id)?, now)?;
        Some(NextFire { schedule: schedule.id.to_string(), at })
    });
    let running: Vec<String> = agent.running.borrow().keys().map(ToString::to_string).collect();
    Status {
        written_at: now,
        host: agent.host.to_string(),
        server: agent.settings.server.clone(),
        connected_through: agent.way(),
        polls: agent.poll_wait.borrow().describe(agent.server_wait.get()),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        agent_update: agent.update.borrow().clone(),
        restic_version: agent.restic.borrow().as_ref().ok().map(ToString::to_string),
        last_contact: agent.last_contact.get(),
        schedule_version: received.schedules().map_or(0, |set| set.version),
        config_version: received.config().version,
        next_fires: next_fires.collect(),
        waiting: agent.ledger.borrow().unfinished().len().saturating_sub(running.len()),
        running,
        spool_bytes: agent.room.events.get(),
        log_bytes: agent.room.logs.get(),
        dropped_log_lines: agent.room.dropped_lines.get(),
        dropped_progress: agent.room.dropped_progress.get(),
        last_error: agent.last_error.borrow().clone().map(|(at, text)| LastError { at, text }),
    }
}

/// How things are, in one line, for the service manager.
pub(crate) fn line(agent: &Agent) -> String {
    let (host, server) = (&agent.host, &agent.settings.server);
    let unheard = agent.last_contact.get().map(|at| (at, (clock::now() - at).num_seconds()));
    let patience = i64::try_from(agent.server_wait.get()).unwrap_or(0).saturating_add(STALE_SECS);
    let contact = match unheard {
        None => "not yet in contact".to_owned(),
        Some((_, age)) if age <= patience => "in contact".to_owned(),
        Some((at, _)) => format!("no contact since {}", at.to_rfc3339_opts(SecondsFormat::Secs, true)),
    };
    let running = agent.running.borrow().len();
    let waiting = agent.ledger.borrow().unfinished().len().saturating_sub(running);
    format!("{host} of {server}: {contact}; jobs: {running} running, {waiting} waiting")
}

/// Writes the status while the agent runs, when it changed and about every half minute.
pub(crate) async fn run_writer(agent: Rc<Agent>) {
    let mut last: Option<Status> = None;
    loop {
        let status = status_of(&agent);
        let comparable = |status: &Status| {
            serde_json::to_string(&Status { written_at: DateTime::default(), last_contact: None, ..status.clone() })
                .unwrap_or_default()
        };
        let due = last.as_ref().is_none_or(|last| {
            comparable(last) != comparable(&status) || (status.written_at - last.written_at).num_seconds() >= FRESH_SECS
        });
        if due {
            // Not durable: it means nothing after a crash, and a sync wakes an idle disk.
            let bytes = serde_json::to_vec(&status).unwrap_or_default();
            service_manager::tell(Moment::Status(&line(&agent)));
            if let Err(error) = atomic_file::replace_cache(&agent.dir.join(FILE), &bytes) {
                tracing::warn!("the status is not written: {}", chain(&error));
            }
            last = Some(status);
        }
        let is_idle = agent.running.borrow().is_empty() && agent.room.events.get() == 0;
        tokio::select! {
            () = agent.status_bell.notified() => {}
            () = tokio::time::sleep(if is_idle { IDLE_INTERVAL } else { BUSY_INTERVAL }) => {}
        }
    }
}

pub(crate) fn run(arguments: &StatusArguments) -> Result<(), Failure> {
    let dir = &arguments.directory.dir;
    let settings = run::read_settings(&arguments.directory.settings_file())?;
    let identity = Identity::read(dir).map_err(|error| chain(&error))?;
    if identity.is_none_or(|identity| !identity.enrolled) {
        return Err(Failure { code: 5, text: format!("{} is not enrolled: enroll this host first", dir.display()) });
    }
    let status: Option<Status> = read(dir)?;
    if arguments.json {
        let text = serde_json::to_string_pretty(&status).map_err(|error| error.to_string())?;
        print_to_whoever_reads(&format!("{text}\n"));
        return Ok(());
    }
    let Some(status) = status else {
        let (host, server) = (settings.host, settings.server);
        let text = format!("{:<18}{host}\n{:<18}{server}\n{:<18}never ran\n", "enrolled as", "server", "agent");
        print_to_whoever_reads(&text);
        return Ok(());
    };
    let at = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let age = (clock::now() - status.written_at).num_seconds();
    let alive = if age <= STALE_SECS {
        "runs".to_owned()
    } else {
        format!("does not run (last seen {})", at(status.written_at))
    };
    let mut rows = vec![
        ("enrolled as", status.host.clone()),
        ("server", status.server.clone()),
        ("connected through", status.connected_through.clone()),
        ("each poll", status.polls.clone()),
        ("agent", format!("{alive}, version {}", status.agent_version)),
        ("restic", status.restic_version.clone().unwrap_or_else(|| "none that can be used".to_owned())),
        ("last contact", status.last_contact.map_or("never".to_owned(), at)),
        ("schedule set", version(status.schedule_version)),
        ("settings", version(status.config_version)),
    ];
    let update = status.agent_update.as_ref();
    rows.extend(update.map(|update| ("newer agent", update.in_words())));
    rows.extend(status.next_fires.iter().map(|fire| ("next fire", format!("{}  {}", at(fire.at), fire.schedule))));
    rows.extend(status.running.iter().map(|job| ("running", job.clone())));
    rows.push(("waiting jobs", status.waiting.to_string()));
    rows.push(("spool", format!("{} bytes of events, {} of job logs", status.spool_bytes, status.log_bytes)));
    if status.dropped_log_lines + status.dropped_progress > 0 {
        let dropped = format!("{} log lines, {} progress reports", status.dropped_log_lines, status.dropped_progress);
        rows.push(("given up", dropped));
    }
    let is_past = |error: &LastError| status.last_contact.is_some_and(|contact| contact > error.at);
    let since = |error: &LastError| if is_past(error) { " (the server was reached since)" } else { "" };
    let last_error =
        status.last_error.as_ref().map(|error| format!("{}  {}{}", at(error.at), error.text, since(error)));
    rows.push(("last error", last_error.unwrap_or_else(|| "none".to_owned())));
    let text: String = rows.iter().map(|(name, value)| format!("{name:<18}{value}\n")).collect();
    print_to_whoever_reads(&text);
    Ok(())
}

fn version(version: u64) -> String {
    if version == 0 { "none yet".to_owned() } else { format!("version {version}") }
}

fn read(dir: &Path) -> Result<Option<Status>, Failure> {
    let mut damage = Vec::new();
    let status = json_file::read(&dir.join(FILE)).map_err(|error| chain(&error))?.or_tell(&mut damage);
    Ok(status)
}
