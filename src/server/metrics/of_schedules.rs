//! Pure. The families of each enabled schedule of the configuration, and of jobs by their ends. A schedule that is not in the
//! configuration any more has no series, whatever the host's history holds.

use chrono::{DateTime, Utc};

use super::text::Kind::{Counter, Gauge};
use super::text::{Figure, Samples};
use super::{Family, HostFigures, Source, unix_seconds};
use crate::job::JobStatus;
use crate::protocol::schedule::Schedule;
use crate::server::alert_rules::{RunSize, is_stale};
use crate::server::host_state::ScheduleMemory;

pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "restic_manager_schedule_last_success_timestamp_seconds",
        help: "When the schedule's newest job that succeeded ended, by the agent's clock; absent: never.",
        kind: Gauge,
        source: Source::Host(|host, now, samples| {
            each(host, now, samples, |of| Some(unix_seconds(of.memory?.last_success?)));
        }),
    },
    Family {
        name: "restic_manager_schedule_last_success_duration_seconds",
        help: "How long that job ran.",
        kind: Gauge,
        source: Source::Host(|host, now, samples| {
            #[allow(clippy::cast_precision_loss, reason = "milliseconds of one job")]
            each(host, now, samples, |of| Some(of.memory?.cost.duration_ms? as f64 / 1000.0));
        }),
    },
    Family {
        name: "restic_manager_schedule_last_job_success",
        help: "Whether the schedule's newest job succeeded; absent: none has ended.",
        kind: Gauge,
        source: Source::Host(|host, now, samples| {
            each(host, now, samples, |of| Some(of.memory?.last_status? == JobStatus::Succeeded));
        }),
    },
    Family {
        name: "restic_manager_schedule_stale",
        help: "Whether there was no success for longer than the schedule's max_age, counted from enrollment where there was none at all; absent: it has no max_age.",
        kind: Gauge,
        source: Source::Host(|host, now, samples| {
            each(host, now, samples, |of| {
                let age = of.host.content.as_ref()?.alarms.get(&of.schedule.id)?.max_age?;
                Some(is_stale(age, of.memory, &of.host.state, of.now))
            });
        }),
    },
    Family {
        name: "restic_manager_schedule_max_age_seconds",
        help: "The schedule's max_age; absent: it has none.",
        kind: Gauge,
        source: Source::Host(|host, now, samples| {
            each(host, now, samples, |of| {
                Some(of.host.content.as_ref()?.alarms.get(&of.schedule.id)?.max_age?.as_secs())
            });
        }),
    },
    Family {
        name: "restic_manager_backup_last_added_bytes",
        help: "What the schedule's newest successful backup added to the repository, before compression.",
        kind: Gauge,
        source: Source::Host(|host, now, samples| each(host, now, samples, |of| of.memory?.cost.added_bytes)),
    },
    Family {
        name: "restic_manager_backup_last_processed_bytes",
        help: "The size of what the schedule's newest successful backup holds.",
        kind: Gauge,
        source: Source::Host(|host, now, samples| each(host, now, samples, |of| Some(of.run()?.bytes))),
    },
    Family {
        name: "restic_manager_backup_last_processed_files",
        help: "Files that it holds.",
        kind: Gauge,
        source: Source::Host(|host, now, samples| each(host, now, samples, |of| Some(of.run()?.files))),
    },
    Family {
        name: "restic_manager_backup_last_changed_files",
        help: "Files of it that were new or had changed since the one before.",
        kind: Gauge,
        source: Source::Host(|host, now, samples| each(host, now, samples, |of| Some(of.run()?.changed))),
    },
    Family {
        name: "restic_manager_jobs_total",
        help: "Jobs that have ended, dry runs aside; incomplete: a snapshot without all files. schedule is empty for those of no schedule.",
        kind: Counter,
        source: Source::Host(|host, _, samples| {
            for schedule in enabled(host) {
                let ended = host.state.schedules.get(&schedule.id).map(|memory| memory.ended).unwrap_or_default();
                for (outcome, count) in ended.by_outcome() {
                    let labels = labels(host, schedule);
                    samples.add(&[labels[0], labels[1], labels[2], ("outcome", outcome)], count);
                }
            }
            for (kind, ended) in &host.state.ended {
                for (outcome, count) in ended.by_outcome() {
                    let labels = [("host", host.name.as_str()), ("schedule", ""), ("kind", kind.as_str())];
                    samples.add(&[labels[0], labels[1], labels[2], ("outcome", outcome)], count);
                }
            }
        }),
    },
];

/// A schedule of a host at the moment.
struct OfSchedule<'a> {
    host: &'a HostFigures,
    schedule: &'a Schedule,
    /// `None`: nothing of it has happened yet.
    memory: Option<&'a ScheduleMemory>,
    now: DateTime<Utc>,
}

impl OfSchedule<'_> {
    fn run(&self) -> Option<&RunSize> {
        self.memory?.runs.back()
    }
}

fn enabled(host: &HostFigures) -> impl Iterator<Item = &Schedule> {
    let schedules = host.content.as_ref().map_or(&[][..], |content| &content.schedules);
    schedules.iter().filter(|schedule| schedule.enabled)
}

fn labels<'a>(host: &'a HostFigures, schedule: &'a Schedule) -> [(&'static str, &'a str); 3] {
    [("host", host.name.as_str()), ("schedule", schedule.id.as_str()), ("kind", schedule.kind.as_str())]
}

/// One sample of each schedule whose figure is known.
fn each<T: Into<Figure>>(
    host: &HostFigures,
    now: DateTime<Utc>,
    samples: &mut Samples,
    figure: fn(&OfSchedule) -> Option<T>,
) {
    for schedule in enabled(host) {
        let of = OfSchedule { host, schedule, memory: host.state.schedules.get(&schedule.id), now };
        samples.add_known(&labels(host, schedule), figure(&of));
    }
}
