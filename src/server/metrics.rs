//! Pure. What `GET /metrics` answers: a snapshot of what memory holds becomes text, in pieces, so that ten thousand hosts' figures
//! are never held as one. Everything comes from the folded state: no request reads history. How many series there can be is
//! bounded by the configuration (hosts, schedules) and by our own enums, never by what agents say.
//! Does not gather anything: `http/metrics` does. The families are the modules' below.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::alert_channels_state::ChannelState;
use super::host_content::HostContent;
use super::host_state::HostState;
use super::view::Contact;
use crate::id::HostName;
use text::{Kind, Samples, write_head};

pub mod of_agents;
pub mod of_channels;
pub mod of_hosts;
pub mod of_schedules;
pub mod of_server;
pub mod text;

/// Alert rules for Prometheus and a dashboard for Grafana, on these metrics. They are for people to take; the server does not use them.
pub const RULES: &str = include_str!("monitoring/rules.yml");
pub const DASHBOARD: &str = include_str!("monitoring/dashboard.json");

/// A piece of the answer has about so many bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// One host at the moment.
pub struct HostFigures {
    pub name: HostName,
    pub state: Arc<HostState>,
    pub content: Option<Arc<HostContent>>,
    pub contact: Contact,
    /// Bytes that wait in the agent's spool, as it said last.
    pub spool_bytes: Option<u64>,
}

/// The configuration, as the fleet's journal and the last look at the files have it.
#[derive(Debug, Clone, Default)]
pub struct ConfigFigures {
    pub adopted: u64,
    pub adopted_at: Option<DateTime<Utc>>,
    pub is_rejected: bool,
    pub hosts: u64,
    pub errors: u64,
    pub warnings: u64,
}

/// Pings that this server has sent since it runs.
#[derive(Debug, Clone, Copy, Default)]
pub struct PingFigures {
    pub taken: u64,
    pub failed: u64,
    /// When the last one was taken.
    pub last_taken: Option<DateTime<Utc>>,
    /// Such as were not taken, and are tried again.
    pub waiting: u64,
}

/// What requests and connections there were and are.
#[derive(Debug, Clone, Default)]
pub struct TrafficFigures {
    /// By method, path and status, in the table's order; paths are ours, with their parameters' names.
    pub requests: Vec<(&'static str, &'static str, u16, u64)>,
    pub parked: u64,
    pub connections: u64,
    /// Batches of lines that became durable, and such that did not.
    pub writes: u64,
    pub failed_writes: u64,
}

/// What the server's process takes, where the system tells.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProcessFigures {
    pub cpu_seconds: Option<f64>,
    pub resident_bytes: Option<u64>,
    pub virtual_bytes: Option<u64>,
    pub open_descriptors: Option<u64>,
    pub most_descriptors: Option<u64>,
    pub threads: Option<u64>,
    /// Unix seconds.
    pub started_at: Option<f64>,
}

/// What is only for who may see the whole fleet.
pub struct FleetFigures {
    pub config: ConfigFigures,
    pub channels: Vec<ChannelState>,
    pub pings: PingFigures,
    pub traffic: TrafficFigures,
    pub process: ProcessFigures,
}

/// All that is told, as it was at one moment.
pub struct Snapshot {
    pub now: DateTime<Utc>,
    pub version: &'static str,
    /// Those that the asker may see.
    pub hosts: Vec<HostFigures>,
    /// `None`: the asker is limited to some hosts.
    pub fleet: Option<FleetFigures>,
}

impl Snapshot {
    /// How many alerts of each kind are open.
    fn open_alerts(&self) -> BTreeMap<super::alert::AlertKind, u64> {
        let mut counts = BTreeMap::new();
        for alert in self.hosts.iter().flat_map(|host| host.state.alerts.iter()) {
            *counts.entry(alert.kind).or_default() += 1;
        }
        if self.fleet.as_ref().is_some_and(|fleet| fleet.config.is_rejected) {
            *counts.entry(super::alert::AlertKind::ConfigRejected).or_default() += 1;
        }
        counts
    }
}

/// Metrics of one name.
pub struct Family {
    pub name: &'static str,
    pub help: &'static str,
    kind: Kind,
    source: Source,
}

/// Whose figures they are.
#[derive(Clone, Copy)]
enum Source {
    Server(fn(&Snapshot, &mut Samples)),
    /// Of a server, for who may see the whole fleet.
    Fleet(fn(&FleetFigures, &mut Samples)),
    Host(fn(&HostFigures, DateTime<Utc>, &mut Samples)),
}

/// All of them, in the order of the answer.
pub fn families() -> impl Iterator<Item = &'static Family> {
    let parts =
        [of_server::FAMILIES, of_channels::FAMILIES, of_hosts::FAMILIES, of_agents::FAMILIES, of_schedules::FAMILIES];
    parts.into_iter().flatten()
}

/// The answer, piece by piece.
pub struct Pieces {
    snapshot: Snapshot,
    families: Vec<&'static Family>,
    family: usize,
    /// The next host of the family.
    host: usize,
}

impl Pieces {
    pub fn of(snapshot: Snapshot) -> Self {
        Self { snapshot, families: families().collect(), family: 0, host: 0 }
    }
}

impl Iterator for Pieces {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut piece = String::with_capacity(PIECE_BYTES + PIECE_BYTES / 8);
        while piece.len() < PIECE_BYTES {
            let Some(family) = self.families.get(self.family) else { break };
            if self.host == 0 && !matches!((family.source, &self.snapshot.fleet), (Source::Fleet(_), None)) {
                write_head(&mut piece, family.name, family.help, family.kind);
            }
            let mut samples = Samples::new(&mut piece, family.name);
            match family.source {
                Source::Host(write) => {
                    if let Some(host) = self.snapshot.hosts.get(self.host) {
                        write(host, self.snapshot.now, &mut samples);
                        self.host += 1;
                        continue;
                    }
                }
                Source::Server(write) => write(&self.snapshot, &mut samples),
                Source::Fleet(write) => {
                    if let Some(fleet) = &self.snapshot.fleet {
                        write(fleet, &mut samples);
                    }
                }
            }
            (self.family, self.host) = (self.family + 1, 0);
        }
        (!piece.is_empty()).then_some(piece)
    }
}

/// Unix seconds, to the millisecond.
#[allow(clippy::cast_precision_loss, reason = "the last 285,000 years and the next are exact")]
fn unix_seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp_millis() as f64 / 1000.0
}

#[cfg(test)]
mod tests;
