//! Pure. The families of each host: its agent's contact, what it should have and has, its jobs at hand, its open alerts, and the
//! repository as its agent reported it.

use std::collections::BTreeMap;

use super::text::Kind::Gauge;
use super::text::Samples;
use super::{Family, HostFigures, Source, unix_seconds};
use crate::job::JobStatus;
use crate::protocol::agent_event::{LockState, RepoStats};
use crate::server::view::is_online;

pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "restic_manager_host_enrolled",
        help: "Whether the host has an agent that may connect.",
        kind: Gauge,
        source: Source::Host(|host, _, samples| {
            samples.add(&[("host", host.name.as_str())], host.state.enrolled_at.is_some());
        }),
    },
    Family {
        name: "restic_manager_host_online",
        help: "Whether the host's agent is heard.",
        kind: Gauge,
        source: Source::Host(|host, now, samples| {
            let is_online = host.state.enrolled_at.is_some() && is_online(&host.contact, now);
            samples.add(&[("host", host.name.as_str())], is_online);
        }),
    },
    Family {
        name: "restic_manager_host_last_seen_timestamp_seconds",
        help: "When the host's agent was last heard.",
        kind: Gauge,
        source: Source::Host(|host, _, samples| {
            samples.add_known(&[("host", host.name.as_str())], host.contact.last_seen.map(unix_seconds));
        }),
    },
    Family {
        name: "restic_manager_host_clock_skew_seconds",
        help: "How far the host's clock is ahead of the server's, the request's way included.",
        kind: Gauge,
        source: Source::Host(|host, _, samples| {
            samples.add_known(&[("host", host.name.as_str())], host.contact.clock_skew_ms.map(seconds));
        }),
    },
    Family {
        name: "restic_manager_host_schedule_version_wanted",
        help: "Version of the schedule set that the host should have.",
        kind: Gauge,
        source: Source::Host(|host, _, samples| {
            let wanted = host.state.schedule_wanted.as_ref().map(|wanted| wanted.version);
            samples.add_known(&[("host", host.name.as_str())], wanted);
        }),
    },
    Family {
        name: "restic_manager_host_schedule_version_applied",
        help: "Version of the schedule set that the host says it runs; 0: none yet.",
        kind: Gauge,
        source: Source::Host(|host, _, samples| {
            samples.add(&[("host", host.name.as_str())], host.state.schedule_applied);
        }),
    },
    Family {
        name: "restic_manager_host_config_version_wanted",
        help: "Version of the settings (repository, secrets) that the host should have.",
        kind: Gauge,
        source: Source::Host(|host, _, samples| {
            let wanted = host.state.config_wanted.as_ref().map(|wanted| wanted.version);
            samples.add_known(&[("host", host.name.as_str())], wanted);
        }),
    },
    Family {
        name: "restic_manager_host_config_version_applied",
        help: "Version of the settings that the host says it has; 0: none yet.",
        kind: Gauge,
        source: Source::Host(|host, _, samples| {
            samples.add(&[("host", host.name.as_str())], host.state.config_applied);
        }),
    },
    Family {
        name: "restic_manager_host_jobs",
        help: "The host's jobs that have not ended.",
        kind: Gauge,
        source: Source::Host(|host, _, samples| {
            for status in [JobStatus::Queued, JobStatus::Running] {
                let count = host.state.jobs.values().filter(|job| job.status == status).count();
                samples.add(&[("host", host.name.as_str()), ("status", status.as_str())], count);
            }
        }),
    },
    Family {
        name: "restic_manager_host_alerts_open",
        help: "The host's alerts that are open; absent where there is none of a kind.",
        kind: Gauge,
        source: Source::Host(|host, _, samples| {
            let mut counts = BTreeMap::new();
            for alert in host.state.alerts.iter() {
                *counts.entry(alert.kind).or_insert(0_u64) += 1;
            }
            for (kind, count) in counts {
                let (name, kind, severity) = (host.name.as_str(), kind.as_str(), kind.severity().as_str());
                samples.add(&[("host", name), ("kind", kind), ("severity", severity)], count);
            }
        }),
    },
    Family {
        name: "restic_manager_repository_size_bytes",
        help: "Size of the host's repository, everybody's snapshots in it, as its agent reported last.",
        kind: Gauge,
        source: Source::Host(|host, _, samples| of_repository(host, samples, |stats| Some(stats.size_bytes))),
    },
    Family {
        name: "restic_manager_repository_snapshots",
        help: "Snapshots in the host's repository, everybody's.",
        kind: Gauge,
        source: Source::Host(|host, _, samples| of_repository(host, samples, |stats| Some(stats.snapshot_count))),
    },
    Family {
        name: "restic_manager_repository_dedup_ratio",
        help: "What restores of all snapshots would write, by the size of the repository.",
        kind: Gauge,
        source: Source::Host(|host, _, samples| of_repository(host, samples, |stats| stats.dedup_ratio)),
    },
    Family {
        name: "restic_manager_repository_locked",
        help: "Whether somebody held a lock of the host's repository when its agent looked.",
        kind: Gauge,
        source: Source::Host(|host, _, samples| {
            of_repository(host, samples, |stats| Some(stats.lock_state == LockState::Locked));
        }),
    },
    Family {
        name: "restic_manager_repository_last_check_timestamp_seconds",
        help: "When the host's repository was last checked.",
        kind: Gauge,
        source: Source::Host(|host, _, samples| {
            of_repository(host, samples, |stats| stats.last_check_at.map(unix_seconds));
        }),
    },
    Family {
        name: "restic_manager_repository_last_check_success",
        help: "Whether that check found nothing wrong.",
        kind: Gauge,
        source: Source::Host(|host, _, samples| {
            of_repository(host, samples, |stats| {
                stats.last_check_status.as_deref().map(|status| status == JobStatus::Succeeded.as_str())
            });
        }),
    },
];

/// Several hosts may tell of one repository: `max by (repository)` counts it once.
fn of_repository<T: Into<super::text::Figure>>(
    host: &HostFigures,
    samples: &mut Samples,
    figure: fn(&RepoStats) -> Option<T>,
) {
    let Some(figure) = host.state.repository.as_ref().and_then(figure) else { return };
    let target = host.content.as_ref().and_then(|content| content.repository.as_ref());
    let repository = target.map(ToString::to_string).unwrap_or_default();
    samples.add(&[("host", host.name.as_str()), ("repository", &repository)], figure);
}

#[allow(clippy::cast_precision_loss, reason = "the agent's word, within 285,000 years exact")]
fn seconds(milliseconds: i64) -> f64 {
    milliseconds as f64 / 1000.0
}
