//! Pure. Whether a schedule's retention keeps something, often enough, and whether the schedule whose snapshots another one is about
//! is one. Does not say what there is to keep: restic does.

use chrono::TimeDelta;

use super::HostSchedule;
use super::effective::{Context, Layers};
use crate::id::ScheduleId;
use crate::problem::Problem;
use crate::protocol::job_options::JobKind;
use crate::retention::RetentionPolicy;

/// What was written as retention must keep something, whatever other files say to it.
pub(super) fn check_policy(
    id: &ScheduleId,
    kind: JobKind,
    policy: &RetentionPolicy,
    layers: &Layers<'_>,
    problems: &mut Vec<Problem>,
) {
    let Some((file, retention)) = layers.last(|raw| &raw.retention) else { return };
    let (place, id) = (retention.place, id.as_str());
    if !matches!(kind, JobKind::Backup | JobKind::Forget) {
        return;
    }
    if policy.is_empty() {
        let else_all = if kind == JobKind::Backup { "; to keep everything leave retention out" } else { "" };
        let message = format!(
            "retention of schedule {id:?} keeps nothing: write for example retention = {{ keep_daily = 7 }}{else_all}"
        );
        problems.push(place.error(file, message));
    }
    if policy.is_by_tags_alone() {
        let message = format!(
            "retention of schedule {id:?} has keep_tags alone: every snapshot without one of these tags goes, however new it is"
        );
        problems.push(place.warning(file, message));
    }
}

/// A restore test of snapshots that nobody makes would fail each time, and a copy of them has nothing to do.
pub(super) fn check_source(
    schedule: &HostSchedule,
    layers: &Layers<'_>,
    all: &[HostSchedule],
    problems: &mut Vec<Problem>,
) {
    let HostSchedule { schedule, .. } = schedule;
    let Some((file, source)) = layers.last(|raw| &raw.schedule) else { return };
    let is_there = all.iter().any(|held| held.schedule.id == source.value && held.schedule.kind == JobKind::Backup);
    if is_there {
        return;
    }
    let message = format!(
        "{} schedule {:?} is about the snapshots of {:?}, which is no backup schedule of the host: name one in options.schedule, or leave it out for all",
        schedule.kind,
        schedule.id.as_str(),
        source.value.as_str()
    );
    match schedule.kind {
        JobKind::Verify => problems.push(source.place.error(file, message)),
        JobKind::Copy => problems.push(source.place.warning(file, message)),
        _ => {}
    }
}

/// Whether a policy's snapshots come from a backup schedule, and often enough for its rules.
pub(super) fn check_retention(
    schedule: &HostSchedule,
    layers: &Layers<'_>,
    all: &[HostSchedule],
    context: &mut Context,
    problems: &mut Vec<Problem>,
) {
    let HostSchedule { schedule, .. } = schedule;
    let Some((file, retention)) = layers.last(|raw| &raw.retention) else { return };
    let source = match schedule.kind {
        JobKind::Backup => schedule,
        JobKind::Forget => {
            let target = schedule.options.schedule.as_ref().unwrap_or(&schedule.id);
            let backup = all.iter().find(|held| held.schedule.id == *target && held.schedule.kind == JobKind::Backup);
            let Some(backup) = backup else {
                let (file, place) = layers.place();
                let message = format!(
                    "forget schedule {:?} is about the snapshots of {:?}, which is no backup schedule of the host: name one in options.schedule",
                    schedule.id.as_str(),
                    target.as_str()
                );
                problems.push(place.warning(file, message));
                return;
            };
            &backup.schedule
        }
        _ => return,
    };
    let Some(gap) = context.shortest_gap(&source.cron_expr) else { return };
    if let Some(rule) = too_fine(&schedule.retention_policy, gap) {
        let message = format!(
            "{rule} keeps no more than a coarser rule would, because schedule {:?} makes snapshots too seldom",
            source.id.as_str()
        );
        problems.push(retention.place.warning(file, message));
    }
}

/// The first rule whose next coarser one would keep the same snapshots.
fn too_fine(policy: &RetentionPolicy, gap: TimeDelta) -> Option<&'static str> {
    let rows = [
        // An hour less than a day, a week and so on: clocks change.
        ("keep_hourly", policy.keep_hourly > 0 || policy.keep_within_hourly.is_some(), 23),
        ("keep_daily", policy.keep_daily > 0 || policy.keep_within_daily.is_some(), 7 * 24 - 1),
        ("keep_weekly", policy.keep_weekly > 0 || policy.keep_within_weekly.is_some(), 28 * 24 - 1),
        ("keep_monthly", policy.keep_monthly > 0 || policy.keep_within_monthly.is_some(), 365 * 24 - 1),
    ];
    rows.into_iter().find(|(_, set, hours)| *set && gap >= TimeDelta::hours(*hours)).map(|(rule, ..)| rule)
}
