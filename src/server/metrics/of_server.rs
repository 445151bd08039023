//! Pure. The families of the server itself: its build, the alerts in sum, the configuration, its traffic, and what it costs.

use super::text::Kind::{Counter, Gauge};
use super::{Family, Source, unix_seconds};
use crate::server::alert::AlertKind;

pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "restic_manager_build_info",
        help: "The server's version; always 1.",
        kind: Gauge,
        source: Source::Server(|snapshot, samples| samples.add(&[("version", snapshot.version)], 1_u64)),
    },
    Family {
        name: "restic_manager_alerts_open",
        help: "Alerts that are open, of all hosts; host_alerts_open has them by host.",
        kind: Gauge,
        source: Source::Server(|snapshot, samples| {
            let counts = snapshot.open_alerts();
            for kind in AlertKind::ALL {
                let count = counts.get(&kind).copied().unwrap_or_default();
                samples.add(&[("kind", kind.as_str()), ("severity", kind.severity().as_str())], count);
            }
        }),
    },
    Family {
        name: "restic_manager_config_adopted_total",
        help: "Configurations that were adopted since the state directory was made.",
        kind: Counter,
        source: Source::Fleet(|fleet, samples| samples.add(&[], fleet.config.adopted)),
    },
    Family {
        name: "restic_manager_config_last_adopted_timestamp_seconds",
        help: "When the configuration that runs was adopted.",
        kind: Gauge,
        source: Source::Fleet(|fleet, samples| samples.add_known(&[], fleet.config.adopted_at.map(unix_seconds))),
    },
    Family {
        name: "restic_manager_config_rejected",
        help: "Whether the newest configuration was refused, and the last good one runs.",
        kind: Gauge,
        source: Source::Fleet(|fleet, samples| samples.add(&[], fleet.config.is_rejected)),
    },
    Family {
        name: "restic_manager_config_problems",
        help: "Problems of the configuration's files as they are now.",
        kind: Gauge,
        source: Source::Fleet(|fleet, samples| {
            samples.add(&[("severity", "error")], fleet.config.errors);
            samples.add(&[("severity", "warning")], fleet.config.warnings);
        }),
    },
    Family {
        name: "restic_manager_config_hosts",
        help: "Hosts in the configuration that runs.",
        kind: Gauge,
        source: Source::Fleet(|fleet, samples| samples.add(&[], fleet.config.hosts)),
    },
    Family {
        name: "restic_manager_http_requests_total",
        help: "Requests that were answered; polls when their wait has ended. path is empty where there is nothing.",
        kind: Counter,
        source: Source::Fleet(|fleet, samples| {
            for (method, path, code, count) in &fleet.traffic.requests {
                samples.add(&[("method", method), ("path", path), ("code", &code.to_string())], *count);
            }
        }),
    },
    Family {
        name: "restic_manager_polls_parked",
        help: "Agents' polls that wait for something to tell.",
        kind: Gauge,
        source: Source::Fleet(|fleet, samples| samples.add(&[], fleet.traffic.parked)),
    },
    Family {
        name: "restic_manager_connections",
        help: "Connections that are open.",
        kind: Gauge,
        source: Source::Fleet(|fleet, samples| samples.add(&[], fleet.traffic.connections)),
    },
    Family {
        name: "restic_manager_journal_writes_total",
        help: "Batches of events that became durable, or that were found to be there already.",
        kind: Counter,
        source: Source::Fleet(|fleet, samples| samples.add(&[], fleet.traffic.writes)),
    },
    Family {
        name: "restic_manager_journal_write_failures_total",
        help: "Batches of events that could not be written, of which nothing was acknowledged: a full disk, mostly.",
        kind: Counter,
        source: Source::Fleet(|fleet, samples| samples.add(&[], fleet.traffic.failed_writes)),
    },
    Family {
        name: "process_cpu_seconds_total",
        help: "CPU time of the server, in user and system mode.",
        kind: Counter,
        source: Source::Fleet(|fleet, samples| samples.add_known(&[], fleet.process.cpu_seconds)),
    },
    Family {
        name: "process_resident_memory_bytes",
        help: "Resident memory of the server.",
        kind: Gauge,
        source: Source::Fleet(|fleet, samples| samples.add_known(&[], fleet.process.resident_bytes)),
    },
    Family {
        name: "process_virtual_memory_bytes",
        help: "Virtual memory of the server.",
        kind: Gauge,
        source: Source::Fleet(|fleet, samples| samples.add_known(&[], fleet.process.virtual_bytes)),
    },
    Family {
        name: "process_open_fds",
        help: "File descriptors that the server has open.",
        kind: Gauge,
        source: Source::Fleet(|fleet, samples| samples.add_known(&[], fleet.process.open_descriptors)),
    },
    Family {
        name: "process_max_fds",
        help: "File descriptors that it may have open.",
        kind: Gauge,
        source: Source::Fleet(|fleet, samples| samples.add_known(&[], fleet.process.most_descriptors)),
    },
    Family {
        name: "process_threads",
        help: "Threads of the server.",
        kind: Gauge,
        source: Source::Fleet(|fleet, samples| samples.add_known(&[], fleet.process.threads)),
    },
    Family {
        name: "process_start_time_seconds",
        help: "When the server started.",
        kind: Gauge,
        source: Source::Fleet(|fleet, samples| samples.add_known(&[], fleet.process.started_at)),
    },
];
