//! Pure. One host: how it is, its alerts, thirty days of its schedules, sizes and durations over ninety days, its snapshots and its newest
//! jobs. Facts and schedules are `host_facts`'. Does not read anything.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use serde_json::json;

use super::Visitor;
use super::alerts::alert_table;
use super::calendar::calendar;
use super::host_facts::{Known, host_facts, schedules, standing};
use super::html::{El, Html, Link, all, el};
use super::layout::{Mood, Page, button, events, job_path, mood, notice, section, status_of};
use super::past::{Past, PastJob};
use super::plot::Plot;
use super::shown;
use super::table::{Row, Table};
use crate::id::ScheduleId;
use crate::job::{Job, JobStatus};
use crate::protocol::agent_event::Snapshot;
use crate::protocol::job_options::JobKind;

/// Days that the plots reach back.
pub const PLOTTED_DAYS: i64 = 90;
/// Snapshots on the page before all are asked for, and then.
const NEWEST_SNAPSHOTS: usize = 10;
const MOST_SNAPSHOTS: usize = 2000;
/// Schedules whose sizes and durations are drawn.
const MOST_PLOTTED: usize = 6;

/// What of a host's page is read from files.
pub struct FromFiles<'a> {
    pub past: &'a Past,
    /// Newest first.
    pub newest_jobs: &'a [Job],
    /// Newest first; `Err`: why the list is unknown.
    pub snapshots: Result<&'a [Snapshot], String>,
    /// All of them are wanted.
    pub all_snapshots: bool,
}

/// The page of one host, as whole HTML.
pub fn host_page(visitor: &Visitor, known: &Known<'_>, files: &FromFiles<'_>, now: DateTime<Utc>) -> String {
    let zone = known.state.hello.as_ref().and_then(|hello| hello.timezone.as_deref());
    let zone: Tz = zone.and_then(|zone| zone.parse().ok()).unwrap_or(Tz::UTC);
    let ids: Vec<ScheduleId> =
        known.content.map_or(&[][..], |content| &content.schedules).iter().map(|s| s.id.clone()).collect();
    let alerts: Vec<_> = known.state.alerts.iter().map(|alert| (None, alert)).collect();
    let alerts = (!alerts.is_empty()).then(|| section("alerts", "Alerts", alert_table(visitor, &alerts, now)));
    let main = all([(
        (el("h1").with(known.name), standing(known), unfinished(visitor, known, now), alerts),
        (host_facts(known, now), section("schedules", "Schedules", schedules(known, visitor, now))),
        section("calendar", "Thirty days", calendar(&ids, files.past, zone, now)),
        section("plots", "Size and duration", plots(files.past, now)),
        section("snapshots", "Snapshots", snapshots(known.name, files, now)),
        section("jobs", "Newest jobs", jobs(files.newest_jobs, now)),
    )]);
    Page { title: known.name, visitor: Some(visitor), news: Some(events(Some(known.name))), main }.into_html()
}

/// What runs and waits, with buttons that end it.
fn unfinished(visitor: &Visitor, known: &Known<'_>, now: DateTime<Utc>) -> Option<El> {
    let mut jobs: Vec<&Job> = known.state.jobs.values().collect();
    jobs.sort_by_key(|job| job.queued_seq);
    let mut table = Table::new("Jobs that have not ended", &["Job", "Status", "Since", "Cancel"]);
    for job in jobs {
        let (how, word) = status_of(job);
        let waits = job.waiting_for.as_ref().filter(|_| job.is_undispatched()).map(|what| format!(" waits {what}"));
        table.row(
            Row::new()
                .id(format!("unfinished-{}", job.id))
                .cell(job_link(job))
                .cell((mood(how, word), waits))
                .cell(shown::instant(job.started_at.unwrap_or(job.queued_at), now))
                .cell(cancel_button(visitor, job)),
        );
    }
    (!table.is_empty()).then(|| section("unfinished", "Now", table.or("")))
}

fn job_link(job: &Job) -> El {
    let of = job.schedule_id.as_ref().map(|schedule| format!(" {schedule}")).unwrap_or_default();
    el("a").link("href", &job_path(job.id)).with(format!("{}{of}", job.kind))
}

/// For operators, of a job that has not ended.
pub fn cancel_button(visitor: &Visitor, job: &Job) -> Option<El> {
    if !visitor.may_change() || job.status.is_final() {
        return None;
    }
    if job.cancel_seq.is_some() {
        return Some(mood(Mood::Neutral, "to be cancelled"));
    }
    let to = Link::to("/v1/jobs").segment(job.id).segment("cancel");
    let question = format!("Cancel this {}?", job.kind);
    Some(button("Cancel", &format!("Cancel {} {}", job.kind, job.id), &to, &json!({}), Some(&question)))
}

/// For each schedule that makes snapshots, how much it went through and how long that took.
fn plots(past: &Past, now: DateTime<Utc>) -> Html {
    let from = now - TimeDelta::days(PLOTTED_DAYS);
    let mut by_schedule: BTreeMap<&ScheduleId, Vec<&PastJob>> = BTreeMap::new();
    for job in past.jobs.iter().rev().filter(|job| job.kind == JobKind::Backup && job.at >= from) {
        if let Some(schedule) = &job.schedule {
            by_schedule.entry(schedule).or_default().push(job);
        }
    }
    if by_schedule.is_empty() {
        return all([el("p").class("nothing").with("No backup has run in the last 90 days.")]);
    }
    let mut figures = Vec::new();
    for (index, (schedule, jobs)) in by_schedule.iter().take(MOST_PLOTTED).enumerate() {
        let failures: Vec<_> = jobs.iter().filter(|job| job.status == JobStatus::Failed).map(|job| job.at).collect();
        let mut plot =
            |name: &str, title: String, value: &dyn Fn(&PastJob) -> Option<u64>, format: &dyn Fn(u64) -> String| {
                let good = jobs.iter().filter(|job| job.status == JobStatus::Succeeded);
                let points = good.filter_map(|job| Some((job.at, value(job)?))).collect();
                let plot = Plot {
                    id: format!("{name}-{index}"),
                    title,
                    from,
                    to: now,
                    points,
                    failures: failures.clone(),
                    format,
                };
                figures.push(plot.figure());
            };
        plot("size", format!("{schedule}: data that was backed up"), &|job| job.processed, &shown::bytes);
        plot("added", format!("{schedule}: added to the repository"), &|job| job.added, &shown::bytes);
        plot("duration", format!("{schedule}: duration"), &PastJob::seconds, &|seconds| {
            shown::span(TimeDelta::seconds(i64::try_from(seconds).unwrap_or(i64::MAX / 1000)))
        });
    }
    let unread = past.begins.filter(|begins| *begins > from);
    let unread = unread.map(|begins| {
        el("p").with(format!("Of the newest {} jobs, which reach back to {}.", past.jobs.len(), shown::second(begins)))
    });
    all([(el("div").class("plots").with(figures), unread)])
}

fn snapshots(host: &str, files: &FromFiles<'_>, now: DateTime<Utc>) -> Html {
    let list = match &files.snapshots {
        Ok(list) => *list,
        Err(why) => return all([notice(Mood::Doubtful, el("p").with(why))]),
    };
    let most = if files.all_snapshots { MOST_SNAPSHOTS } else { NEWEST_SNAPSHOTS };
    let mut table = Table::new(
        "Snapshots by the agent's last report, newest first",
        &["Snapshot", "When", "Paths", "Tags", "Size"],
    );
    for snapshot in list.iter().take(most) {
        let to = Link::to("/hosts").segment(host).segment("snapshots").segment(&snapshot.id);
        let tags = snapshot.tags.iter().filter(|tag| !tag.starts_with("job:"));
        table.row(
            Row::new()
                .id(format!("snapshot-{}", snapshot.id))
                .cell(
                    el("a")
                        .link("href", &to)
                        .attr("aria-label", format!("Look into {}", snapshot.short_id))
                        .with(el("code").with(&snapshot.short_id)),
                )
                .cell(shown::instant(snapshot.time, now))
                .cell(lines(&snapshot.paths))
                .cell(lines(&tags.cloned().collect::<Vec<_>>()))
                .cell(snapshot.size_bytes.map(shown::bytes)),
        );
    }
    let rest = list.len().saturating_sub(most);
    let every = Link::to("/hosts").segment(host).query("snapshots", "all");
    let more = el("p").with(el("a").link("href", &every).with(format!("All {} snapshots", list.len())));
    all([(
        table.or("None is known: the list comes after a backup."),
        Some(more).filter(|_| rest > 0 && !files.all_snapshots),
    )])
}

/// A few of them, each on a line.
fn lines(texts: &[String]) -> Html {
    const MOST: usize = 4;
    let mut parts = Vec::new();
    for (index, text) in texts.iter().take(MOST).enumerate() {
        let line = el("code").with(shown::cut(text, 120));
        parts.push(if index > 0 { all([(el("br"), line)]) } else { all([line]) });
    }
    if texts.len() > MOST {
        parts.push(all([el("small").with(format!(" and {} more", texts.len() - MOST))]));
    }
    all(parts)
}

fn jobs(jobs: &[Job], now: DateTime<Utc>) -> El {
    let mut table =
        Table::new("Jobs, newest first", &["Job", "Status", "When", "Took", "Added", "By", "Error or warning"]);
    for job in jobs {
        let (how, word) = status_of(job);
        let past = PastJob::of(job);
        let took =
            past.seconds().and_then(|seconds| Some(shown::span(TimeDelta::seconds(i64::try_from(seconds).ok()?))));
        let text = job.error.as_ref().or_else(|| job.warnings.first()).map(|text| shown::cut(text, 160));
        table.row(
            Row::new()
                .id(format!("job-{}", job.id))
                .cell(job_link(job))
                .cell(mood(how, word))
                .cell(shown::instant(job.started_at.unwrap_or(job.queued_at), now))
                .cell(took)
                .cell(past.added.map(shown::bytes))
                .cell(shown::cut(&job.actor.name, 60))
                .cell(text),
        );
    }
    table.or("None has run.")
}

#[cfg(test)]
mod tests;
