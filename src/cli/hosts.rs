//! Edge. `restic-manager hosts` and `restic-manager host`: who is there, and how it is with one of them.

use chrono::{DateTime, Utc};
use clap::Args;
use serde::Deserialize;

use super::alerts::Alert;
use super::api::{self, Pages, Query, path, read};
use super::client::{CliFailure, ServerArguments};
use super::output::{Output, OutputArguments};
use super::table::{Cell, Style, Table, cell, cut, facts, number, styled, whole, whole_or_none};
use super::words::{self, Times};
use crate::http_client::HttpClient;
use crate::protocol::agent_event::RepoStats;
use crate::protocol::command::AgentUpdateAvailable;

#[derive(Debug, Args)]
pub struct HostsArguments {
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Debug, Args)]
pub struct HostArguments {
    /// The host
    host: String,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

/// What is shown of a host.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Host {
    name: String,
    online: bool,
    enrolled: bool,
    configured: bool,
    conflict: bool,
    fingerprint_changed: bool,
    last_seen: Option<DateTime<Utc>>,
    agent_version: Option<String>,
    agent_update: Option<AgentUpdateAvailable>,
    restic_version: Option<String>,
    os: Option<String>,
    arch: Option<String>,
    clock_skew_ms: Option<i64>,
    schedule: Versions,
    config: Versions,
    running: Vec<String>,
    queued: Vec<String>,
    schedules: Vec<Schedule>,
    repository: Option<Repository>,
    alerts: Vec<Alert>,
}

/// What the agent told of it last, if that was of this one.
#[derive(Debug, Deserialize)]
struct Repository {
    name: Option<String>,
    /// When that was.
    as_of: Option<DateTime<Utc>>,
    #[serde(flatten)]
    stats: Option<RepoStats>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Versions {
    wanted: Option<u64>,
    applied: Option<u64>,
    commit: Option<String>,
    dirty: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Schedule {
    id: String,
    kind: String,
    last_success: Option<DateTime<Utc>>,
    last_status: Option<String>,
    next_fire: Option<DateTime<Utc>>,
    stale: bool,
}

impl Host {
    fn state(&self) -> (&'static str, Style) {
        match self {
            Self { conflict: true, .. } => ("conflict", Style::Bad),
            Self { configured: false, .. } => ("no file", Style::Faint),
            Self { enrolled: false, .. } => ("not enrolled", Style::Doubtful),
            Self { online: true, .. } => ("online", Style::Good),
            _ => ("offline", Style::Bad),
        }
    }

    /// The newest success of a backup.
    fn last_backup(&self) -> Option<DateTime<Utc>> {
        self.schedules.iter().filter(|schedule| schedule.kind == "backup").filter_map(|s| s.last_success).max()
    }

    fn next_fire(&self) -> Option<DateTime<Utc>> {
        self.schedules.iter().filter_map(|schedule| schedule.next_fire).min()
    }

    fn jobs(&self) -> String {
        match (self.running.len(), self.queued.len()) {
            (0, 0) => String::new(),
            (running, 0) => format!("{running} running"),
            (0, queued) => format!("{queued} queued"),
            (running, queued) => format!("{running} running, {queued} queued"),
        }
    }
}

/// A host's agent that does not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Away {
    pub(super) last_seen: Option<DateTime<Utc>>,
}

/// Whether this host's agent is away.
pub(super) async fn away_of(client: &HttpClient, host: &str) -> Result<Option<Away>, CliFailure> {
    let host: Host = read(&api::get(client, &path(&["hosts", host])).await?)?;
    Ok((!host.online).then_some(Away { last_seen: host.last_seen }))
}

/// `restic-manager hosts`.
pub(super) async fn list(arguments: &HostsArguments) -> Result<u8, CliFailure> {
    let client = arguments.server.reach()?.client;
    let mut output = Output::new(arguments.output);
    let columns = [
        whole("HOST"),
        whole("STATE"),
        whole_or_none("SEEN", 3),
        whole_or_none("LAST BACKUP", 1),
        whole_or_none("NEXT", 4),
        cut("JOBS", 5),
        number("ALERTS"),
        cut("RESTIC", 6),
        cut("AGENT", 7),
        cut("SYSTEM", 8),
    ];
    let times = output.times;
    let mut pages = Pages::new(&client, path(&["hosts"]), Query::default(), ("hosts", "after"), None);
    let none = "no host that this token may see: each is a file in config/hosts";
    pages.show(&mut output, Table::new(&columns), none, |host: &Host| row(host, times)).await?;
    Ok(0)
}

fn row(host: &Host, times: Times) -> Vec<Cell> {
    let (state, style) = host.state();
    let is_stale = host.schedules.iter().any(|schedule| schedule.stale);
    let backup = styled(times.show_if(host.last_backup()), if is_stale { Style::Bad } else { Style::Plain });
    let open = host.alerts.iter().filter(|alert| alert.acknowledged_by.is_none()).count();
    let alerts = styled(host.alerts.len().to_string(), if open > 0 { Style::Bad } else { Style::Plain });
    vec![
        cell(&host.name),
        styled(state, style),
        cell(times.show_if(host.last_seen)),
        backup,
        cell(times.show_if(host.next_fire())),
        cell(host.jobs()),
        alerts,
        cell(host.restic_version.as_deref().unwrap_or_default()),
        agent(host),
        cell(system(host)),
    ]
}

/// Its agent's version, and which is wanted where that is newer.
fn agent(host: &Host) -> Cell {
    let version = host.agent_version.as_deref().unwrap_or_default();
    match &host.agent_update {
        Some(update) => styled(format!("{version}, behind {}", update.latest_version), Style::Doubtful),
        None => cell(version),
    }
}

fn system(host: &Host) -> String {
    [&host.os, &host.arch].into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(" ")
}

/// `restic-manager host`.
pub(super) async fn show(arguments: &HostArguments) -> Result<u8, CliFailure> {
    let client = arguments.server.reach()?.client;
    let mut output = Output::new(arguments.output);
    let value = api::get(&client, &path(&["hosts", &arguments.host])).await?;
    if output.json {
        output.json(&value)?;
    } else {
        write(&read(&value)?, &mut output)?;
    }
    output.flush()?;
    Ok(0)
}

fn write(host: &Host, output: &mut Output) -> Result<(), CliFailure> {
    let (times, screen) = (output.times, output.screen);
    output.lines(&facts(&known(host, times), screen))?;
    if !host.schedules.is_empty() {
        let columns = [whole("SCHEDULE"), whole("KIND"), whole("LAST"), whole("LAST SUCCESS"), whole("NEXT")];
        let rows: Vec<Vec<Cell>> = host.schedules.iter().map(|schedule| schedule_row(schedule, times)).collect();
        output.lines(&format!("\n{}", Table::new(&columns).part(&rows, screen)))?;
    }
    if !host.alerts.is_empty() {
        let rows: Vec<Vec<Cell>> = host.alerts.iter().map(|alert| alert.row(times)).collect();
        output.lines(&format!("\n{}", Table::new(&Alert::COLUMNS).part(&rows, screen)))?;
    }
    Ok(())
}

/// What is known of it, in order of interest.
fn known(host: &Host, times: Times) -> Vec<(&'static str, Cell)> {
    let (state, style) = host.state();
    let mut facts = vec![("host", cell(&host.name)), ("state", styled(state, style))];
    let mut add = |name, value: Option<String>| facts.extend(value.map(|value| (name, cell(value))));
    add("last seen", host.last_seen.map(|at| times.show(at)));
    add("agent", host.agent_version.clone());
    add("wanted", host.agent_update.as_ref().map(|update| format!("agent {}", update.in_words())));
    add("restic", host.restic_version.clone());
    add("system", Some(system(host)).filter(|system| !system.is_empty()));
    add(
        "clock",
        host.clock_skew_ms
            .filter(|skew| skew.abs() >= 1000)
            .map(|skew| format!("{} s {}", skew.abs() / 1000, if skew > 0 { "ahead" } else { "behind" })),
    );
    add("machine", host.fingerprint_changed.then(|| "another one than when it was enrolled".to_owned()));
    add("schedules", host.schedule.words());
    add("settings", host.config.words());
    add("running", Some(host.running.join(", ")).filter(|jobs| !jobs.is_empty()));
    add("queued", Some(host.queued.join(", ")).filter(|jobs| !jobs.is_empty()));
    add("repository", host.repository.as_ref().and_then(|repository| repository.name.clone()));
    if let Some(repository) = host.repository.as_ref().and_then(|repository| repository.stats.as_ref()) {
        // Of a few small files the repository is larger than they are, which tells nothing.
        let ratio = repository.dedup_ratio.filter(|ratio| *ratio >= 1.0);
        let ratio = ratio.map_or_else(String::new, |ratio| format!(", 1 : {ratio:.1}"));
        let locked =
            if repository.lock_state == crate::protocol::agent_event::LockState::Locked { ", locked" } else { "" };
        let snapshots = words::count(repository.snapshot_count, "snapshot", "snapshots");
        let as_of = host.repository.as_ref().and_then(|repository| repository.as_of);
        let as_of = as_of.map_or_else(String::new, |at| format!(", as of {}", times.show(at)));
        add("it holds", Some(format!("{}, {snapshots}{ratio}{locked}{as_of}", words::size(repository.size_bytes))));
        add(
            "last check",
            repository.last_check_at.map(|at| {
                format!("{} {}", repository.last_check_status.as_deref().unwrap_or_default(), times.show(at))
            }),
        );
    }
    facts
}

impl Versions {
    /// "version 7 runs", and of which commit; "version 7 wanted, 6 runs".
    fn words(&self) -> Option<String> {
        let wanted = self.wanted?;
        let runs = match self.applied {
            Some(applied) if applied == wanted => format!("version {wanted} runs"),
            Some(applied) => format!("version {wanted} wanted, {applied} runs"),
            None => format!("version {wanted} wanted, none runs"),
        };
        let commit = self.commit.as_ref().map_or_else(String::new, |commit| {
            let changed = if self.dirty == Some(true) { " with changes" } else { "" };
            format!(", commit {}{changed}", commit.chars().take(8).collect::<String>())
        });
        Some(format!("{runs}{commit}"))
    }
}

fn schedule_row(schedule: &Schedule, times: Times) -> Vec<Cell> {
    let style = match schedule.last_status.as_deref() {
        Some("succeeded") => Style::Good,
        Some("failed") => Style::Bad,
        _ => Style::Plain,
    };
    vec![
        cell(&schedule.id),
        cell(&schedule.kind),
        styled(schedule.last_status.as_deref().unwrap_or_default(), style),
        styled(times.show_if(schedule.last_success), if schedule.stale { Style::Bad } else { Style::Plain }),
        cell(times.show_if(schedule.next_fire)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::table::Screen;
    use serde_json::json;

    fn host(mut more: serde_json::Value) -> Host {
        for (name, value) in [("name", json!("web-1")), ("configured", json!(true)), ("enrolled", json!(true))] {
            if more.get(name).is_none() {
                more[name] = value;
            }
        }
        Host::deserialize(more).expect("a host")
    }

    #[test]
    fn the_state_is_the_worst_that_is_known() {
        for (value, state) in [
            (json!({"online": true}), "online"),
            (json!({}), "offline"),
            (json!({"enrolled": false}), "not enrolled"),
            (json!({"configured": false, "online": true}), "no file"),
            (json!({"online": true, "conflict": true}), "conflict"),
        ] {
            assert_eq!(host(value).state().0, state);
        }
    }

    #[test]
    fn what_is_unknown_is_left_out_and_the_rest_is_told() {
        let now = "2026-01-02T00:00:00Z".parse().expect("an instant");
        let shown = |host: &Host| facts(&known(host, Times::From(now)), Screen::default());
        assert_eq!(shown(&host(json!({}))), "host   web-1\nstate  offline\n");
        let full = host(json!({
            "online": true, "last_seen": "2026-01-01T23:59:00Z", "clock_skew_ms": -61_000, "os": "linux", "arch": "amd64",
            "schedule": {"wanted": 7, "applied": 6, "commit": "0123456789ab", "dirty": true}, "config": {"wanted": 2, "applied": 2},
            "repository": {"name": "main", "size_bytes": 1_048_576, "snapshot_count": 1, "dedup_ratio": 2.51, "lock_state": "locked", "as_of": "2026-01-01T23:00:00Z",
                           "last_check_at": "2026-01-01T00:00:00Z", "last_check_status": "succeeded"},
        }));
        let expected = "host        web-1\n\
                        state       online\n\
                        last seen   60 s ago\n\
                        system      linux amd64\n\
                        clock       61 s behind\n\
                        schedules   version 7 wanted, 6 runs, commit 01234567 with changes\n\
                        settings    version 2 runs\n\
                        repository  main\n\
                        it holds    1.0 MiB, 1 snapshot, 1 : 2.5, locked, as of 60 min ago\n\
                        last check  succeeded 24 h ago\n";
        assert_eq!(shown(&full), expected);
        let small = host(
            json!({"repository": {"size_bytes": 2048, "snapshot_count": 1, "dedup_ratio": 0.02, "lock_state": "unlocked"}}),
        );
        assert!(shown(&small).ends_with("it holds  2.0 KiB, 1 snapshot\n"), "{}", shown(&small));
    }

    #[test]
    fn an_agent_that_is_behind_is_shown_beside_the_one_that_is_wanted() {
        let behind = host(json!({"agent_version": "0.1.0", "agent_update":
            {"latest_version": "0.2.0", "package_url": "https://packages.example.org/", "changelog": "faster"}}));
        let shown = facts(&known(&behind, Times::Utc), Screen::default());
        let expected = "agent   0.1.0\nwanted  agent 0.2.0: https://packages.example.org/ (faster)\n";
        assert!(shown.ends_with(expected), "{shown}");
        let row = Table::new(&[whole("AGENT")]).part(&[vec![agent(&behind)]], Screen::default());
        assert!(row.contains("0.1.0, behind 0.2.0"), "{row}");
        let other = Table::new(&[whole("AGENT")])
            .part(&[vec![agent(&host(json!({"agent_version": "0.2.0"})))]], Screen::default());
        assert!(!other.contains("behind"), "{other}");
    }

    #[test]
    fn the_last_backup_is_the_newest_of_all_backup_schedules() {
        let host = host(json!({"schedules": [
            {"id": "a", "kind": "backup", "last_success": "2026-01-01T00:00:00Z", "next_fire": "2026-01-03T00:00:00Z"},
            {"id": "b", "kind": "backup", "last_success": "2026-01-02T00:00:00Z", "next_fire": "2026-01-04T00:00:00Z"},
            {"id": "c", "kind": "check", "last_success": "2026-01-03T00:00:00Z"},
        ]}));
        assert_eq!(host.last_backup().map(words::utc).as_deref(), Some("2026-01-02T00:00:00Z"));
        assert_eq!(host.next_fire().map(words::utc).as_deref(), Some("2026-01-03T00:00:00Z"));
    }
}
