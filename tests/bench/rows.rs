//! The rows of the table: which there are, and what several of them need.

mod back;
mod backup;
mod busy;
mod edit;
mod events;
mod history;
mod idle;
mod load;
mod memory;
mod metrics;
mod nchan;
mod plan;
mod sqlite;
mod start;
mod wake;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::processes::{Server, Worker};
use crate::table::Line;
use crate::{Bench, Outcome, fleet_files};

/// One row, or a few lines that are measured together.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) measure: fn(&Bench) -> Outcome<Vec<Line>>,
}

const ROWS: [Row; 14] = [
    Row { name: "memory", what: "memory per parked poll", measure: memory::plain },
    Row { name: "memory-tls", what: "memory per parked poll over TLS", measure: memory::tls },
    Row { name: "wake", what: "a command until the parked agent holds it", measure: wake::measure },
    Row { name: "edit", what: "one group edit until all agents hold it", measure: edit::measure },
    Row { name: "events", what: "durable events per second", measure: events::measure },
    Row { name: "history", what: "last 50 jobs of a host", measure: history::measure },
    Row { name: "metrics", what: "figures for Prometheus", measure: metrics::measure },
    Row { name: "start", what: "start-up with history", measure: start::measure },
    Row { name: "load", what: "loading the configuration; one file's change", measure: load::measure },
    Row { name: "plan", what: "a plan in which one host changes", measure: plan::measure },
    Row { name: "back", what: "TLS agents back after a restart", measure: back::measure },
    Row { name: "idle", what: "an idle agent", measure: idle::measure },
    Row { name: "backup", what: "a backup through the agent", measure: backup::measure },
    Row { name: "busy", what: "other requests while polls are parked", measure: busy::measure },
];

/// The rows of these names; all of them for none.
pub(crate) fn chosen(names: &[String]) -> Outcome<Vec<Row>> {
    if let Some(unknown) = names.iter().find(|name| ROWS.iter().all(|row| row.name != **name)) {
        let known = ROWS.map(|row| row.name).join(", ");
        return Err(format!("there is no row {unknown}: there are {known}"));
    }
    Ok(ROWS.into_iter().filter(|row| names.is_empty() || names.iter().any(|name| name == row.name)).collect())
}

/// A fleet with its hosts enrolled, and no server running.
pub(crate) struct Fleet {
    pub(crate) dir: PathBuf,
    pub(crate) authority: PathBuf,
    /// Hosts with agents that park.
    pub(crate) agents: usize,
    /// More hosts, for requests beside.
    pub(crate) others: usize,
}

impl Bench {
    /// The count for `--quick`, or the full one.
    pub(crate) fn size<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    /// A new directory in the scratch one.
    pub(crate) fn new_dir(&self, name: &str) -> Outcome<PathBuf> {
        let dir = self.scratch.join(name);
        fleet_files::remove(&dir)?;
        fleet_files::make_dir(&dir)?;
        Ok(dir)
    }

    /// Shows that run after run is done.
    pub(crate) fn bar(&self, steps: usize, what: &'static str) -> ProgressBar {
        let bar = ProgressBar::new(steps as u64).with_message(what);
        if let Ok(style) = ProgressStyle::with_template("  {msg} {wide_bar} {pos}/{len} {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        bar
    }

    /// The fleet of all rows with many agents; made, and its hosts enrolled, at first use.
    pub(crate) fn fleet(&self) -> Outcome<&Fleet> {
        if self.fleet.get().is_none() {
            let made = self.make_fleet()?;
            let _ = self.fleet.set(made);
        }
        self.fleet.get().ok_or_else(|| "there is no fleet".to_owned())
    }

    fn make_fleet(&self) -> Outcome<Fleet> {
        let bar = self.bar(2, "making and enrolling the fleet");
        let dir = self.new_dir("fleet")?;
        let others = self.size(100, 1000);
        let authority = fleet_files::make_fleet(&dir, self.agents + others)?;
        let fleet = Fleet { dir, authority, agents: self.agents, others };
        let server = fleet.start(false)?;
        bar.inc(1);
        let mut enrolling = fleet.worker(&server, 0, fleet.agents + fleet.others)?;
        enrolling.ask(&json!({"do": "enroll", "at_once": 32}))?;
        drop(enrolling);
        server.stop()?;
        bar.finish_and_clear();
        Ok(fleet)
    }

    /// This program's other part run to its end: what it prints.
    pub(crate) fn part(&self, arguments: &[&str]) -> Outcome<Value> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let output = Command::new(own).args(arguments).output().map_err(|error| error.to_string())?;
        let answer: Value =
            serde_json::from_slice(&output.stdout).map_err(|error| format!("{arguments:?}: {error}"))?;
        match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer),
        }
    }

    /// A floor program that parks, and clients for it.
    pub(crate) fn floor(&self, style: &str, tls: bool) -> Outcome<(Worker, Worker)> {
        self.floor_with(style, tls, None)
    }

    /// The same, with every POST's line made durable in this directory.
    pub(crate) fn floor_with(&self, style: &str, tls: bool, sync: Option<&Path>) -> Outcome<(Worker, Worker)> {
        let port = crate::processes::free_port()?;
        let mut arguments = vec!["park".to_owned(), style.to_owned(), port.to_string()];
        if tls {
            let dir = self.fleet()?.dir.join("tls");
            arguments.push("--tls".to_owned());
            arguments.extend(["tls.crt", "tls.key"].map(|name| shown(&dir.join(name))));
        }
        arguments.extend(sync.map(|dir| format!("--sync={}", shown(dir))));
        let floor = Worker::start(&arguments, &self.scratch)?;
        Ok((floor, self.sockets(port, tls)?))
    }

    pub(crate) fn sockets(&self, port: u16, tls: bool) -> Outcome<Worker> {
        let mut arguments = vec!["sockets".to_owned(), port.to_string()];
        if tls {
            arguments.push(shown(&self.fleet()?.authority));
        }
        Worker::start(&arguments, &self.scratch)
    }
}

pub(crate) fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

impl Fleet {
    pub(crate) fn start(&self, tls: bool) -> Outcome<Server> {
        Server::start(&self.dir, tls.then(|| self.authority.clone()))
    }

    /// A load generator for these hosts.
    pub(crate) fn worker(&self, server: &Server, first: usize, count: usize) -> Outcome<Worker> {
        worker(&self.dir, server, first, count)
    }

    /// One for the hosts that park, hello said, and nothing new for them.
    pub(crate) fn agents(&self, server: &Server) -> Outcome<Worker> {
        let mut agents = self.worker(server, 0, self.agents)?;
        // Few at once: a burst would leave freed memory behind, in which the polls would then hide.
        agents.ask(&json!({"do": "hello", "at_once": 8}))?;
        Ok(agents)
    }

    /// One for the other hosts, hello said.
    pub(crate) fn others(&self, server: &Server) -> Outcome<Worker> {
        let mut others = self.worker(server, self.agents, self.others)?;
        others.ask(&json!({"do": "hello", "at_once": 32}))?;
        Ok(others)
    }
}

/// A load generator for hosts of any fleet directory.
pub(crate) fn worker(fleet: &Path, server: &Server, first: usize, count: usize) -> Outcome<Worker> {
    let scheme = if server.authority.is_some() { "https" } else { "http" };
    let mut arguments = vec!["agents".to_owned(), "--commands".to_owned()];
    arguments.push(format!("--url={scheme}://127.0.0.1:{}", server.port));
    arguments.push(format!("--token-file={}", shown(&fleet.join("state/admin-token"))));
    arguments.push(format!("--first={first}"));
    arguments.push(format!("--count={count}"));
    arguments.extend(server.authority.iter().map(|path| format!("--ca-file={}", shown(path))));
    Worker::start(&arguments, fleet)
}

/// Every agent parks, and the server has come to rest.
pub(crate) fn park(agents: &mut Worker, server: &Server) -> Outcome<()> {
    agents.ask(&json!({"do": "park", "at_once": 8, "greet": false}))?;
    crate::processes::settle(server.id())
}
