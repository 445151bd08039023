//! Pure. Thirty days of a host's schedules: for each day how the worst of its jobs ended. Days are the host's own, as its schedules are.
//! Does not read history.

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike, Days, NaiveDate, Utc};
use chrono_tz::Tz;

use super::html::{El, el};
use super::layout::job_path;
use super::past::{Past, PastJob};
use crate::id::ScheduleId;
use crate::job::JobStatus;

const DAYS: u64 = 30;

/// How a day went, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Cancelled,
    Unfinished,
    Succeeded,
    Incomplete,
    Failed,
}

impl Outcome {
    fn of(job: &PastJob) -> Self {
        match job.status {
            JobStatus::Succeeded if job.incomplete => Self::Incomplete,
            JobStatus::Succeeded => Self::Succeeded,
            JobStatus::Failed => Self::Failed,
            JobStatus::Cancelled => Self::Cancelled,
            JobStatus::Queued | JobStatus::Running => Self::Unfinished,
        }
    }

    fn looks(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Cancelled => ("neutral", "–", "cancelled"),
            Self::Unfinished => ("busy", "▶", "not ended yet"),
            Self::Succeeded => ("good", "✓", "succeeded"),
            Self::Incomplete => ("doubtful", "!", "incomplete"),
            Self::Failed => ("bad", "✕", "failed"),
        }
    }
}

/// One schedule's day.
#[derive(Debug, Clone, Copy)]
struct Day<'a> {
    worst: Outcome,
    /// The newest of the worst.
    job: &'a PastJob,
    count: usize,
}

/// A row for each of these schedules, and for what ran of others. The newest day comes first.
pub fn calendar(schedules: &[ScheduleId], past: &Past, zone: Tz, now: DateTime<Utc>) -> El {
    let today = now.with_timezone(&zone).date_naive();
    let days: Vec<NaiveDate> = (0..DAYS).filter_map(|back| today.checked_sub_days(Days::new(back))).collect();
    let mut rows: BTreeMap<&ScheduleId, BTreeMap<NaiveDate, Day<'_>>> = BTreeMap::new();
    rows.extend(schedules.iter().map(|id| (id, BTreeMap::new())));
    for job in &past.jobs {
        let Some(schedule) = &job.schedule else { continue };
        let date = job.at.with_timezone(&zone).date_naive();
        if days.last().is_none_or(|first| date < *first) {
            continue;
        }
        let worst = Outcome::of(job);
        let day = rows.entry(schedule).or_default().entry(date).or_insert(Day { worst, job, count: 0 });
        day.count += 1;
        if worst > day.worst {
            (day.worst, day.job) = (worst, job);
        }
    }
    if rows.is_empty() {
        return el("p").class("nothing").with("No schedules.");
    }
    let unread_before = past.begins.map(|at| at.with_timezone(&zone).date_naive());
    let body = rows.iter().map(|(schedule, by_day)| {
        let cells = days.iter().map(|date| cell(*date, by_day.get(date), unread_before));
        el("tr").with(el("th").attr("scope", "row").with(schedule.as_str())).with(cells.collect::<Vec<_>>())
    });
    let headings = days.iter().enumerate().map(|(index, date)| heading(index, *date));
    let corner = el("th").attr("scope", "col").with("Schedule");
    // Beside the table and no caption of it: on a narrow screen that would be as wide as all days.
    let about = format!("How the last {DAYS} days went, the newest day first; days of the time zone {zone}.");
    let about = el("p").class("about").attr("id", "calendar-about").with(about);
    let table = el("table")
        .attr("aria-labelledby", "calendar-about")
        .with(el("thead").with(el("tr").with(corner).with(headings.collect::<Vec<_>>())))
        .with(el("tbody").with(body.collect::<Vec<_>>()));
    let region = el("div")
        .class("calendar")
        .attr("role", "region")
        .attr("aria-label", "Calendar")
        .attr("tabindex", "0")
        .attr("id", "calendar-days")
        .with(table);
    el("div").with(about).with(region).with(legend(unread_before.is_some()))
}

fn heading(index: usize, date: NaiveDate) -> El {
    let ends_month = date.succ_opt().is_some_and(|next| next.month() != date.month());
    let month = if index == 0 || ends_month { date.format("%b").to_string() } else { String::new() };
    let shown = el("span")
        .attr("aria-hidden", "true")
        .with(date.day().to_string())
        .with(el("br"))
        .with(el("small").with(month));
    el("th").attr("scope", "col").with(shown).with(read_out(date.format("%-d %B").to_string()))
}

fn read_out(text: String) -> El {
    el("span").class("seen-by-readers").with(text)
}

fn cell(date: NaiveDate, day: Option<&Day<'_>>, unread_before: Option<NaiveDate>) -> El {
    let Some(day) = day else {
        let is_unread = unread_before.is_some_and(|begin| date < begin);
        let (sign, words) = if is_unread { ("?", "not looked at") } else { ("", "no run") };
        let sign = el("span").attr("aria-hidden", "true").attr("title", format!("{date}: {words}")).with(sign);
        return el("td").with(sign).with(read_out(words.to_owned()));
    };
    let (class, sign, word) = day.worst.looks();
    let runs = if day.count == 1 { String::new() } else { format!(", {} runs", day.count) };
    let words = format!("{word}{runs}");
    let title = format!("{date}: {words}");
    // Only what somebody will want to look into is a stop for the keyboard.
    let inside = if matches!(day.worst, Outcome::Succeeded | Outcome::Cancelled) {
        el("span")
    } else {
        el("a").link("href", &job_path(day.job.id)).attr("id", format!("day-{}", day.job.id))
    };
    let sign = el("span").attr("aria-hidden", "true").with(sign);
    let inside = inside.class(class).attr("title", title).with(sign).with(read_out(words));
    el("td").with(inside)
}

fn legend(has_unread: bool) -> El {
    let outcomes = [Outcome::Succeeded, Outcome::Incomplete, Outcome::Failed, Outcome::Cancelled, Outcome::Unfinished];
    let items = outcomes.map(|outcome| {
        let (class, sign, word) = outcome.looks();
        el("li").with(el("span").class(&format!("mood {class}")).with(format!("{sign} {word}")))
    });
    let unread = el("li").with("? before the newest jobs that are looked at");
    el("ul")
        .class("legend")
        .attr("aria-label", "Signs of the calendar")
        .with(Vec::from(items))
        .with(Some(unread).filter(|_| has_unread))
}

#[cfg(test)]
mod tests {
    use super::super::html::all;
    use super::*;
    use crate::protocol::job_options::JobKind;
    use crate::server::folded::{at, id, schedule};

    fn job(number: u8, time: &str, status: JobStatus) -> PastJob {
        PastJob {
            id: id(number),
            kind: JobKind::Backup,
            schedule: Some(schedule("data")),
            status,
            incomplete: false,
            at: at(time),
            started_at: None,
            finished_at: None,
            processed: None,
            added: None,
        }
    }

    fn shown(jobs: Vec<PastJob>, begins: Option<&str>, zone: Tz) -> String {
        let past = Past { jobs, begins: begins.map(at) };
        all([calendar(&[schedule("data"), schedule("idle")], &past, zone, at("2026-11-23T12:00:00Z"))]).to_string()
    }

    #[test]
    fn a_day_is_as_its_worst_job_and_leads_to_that() {
        let page = shown(
            vec![
                job(1, "2026-11-23T03:00:00Z", JobStatus::Succeeded),
                job(2, "2026-11-22T09:00:00Z", JobStatus::Succeeded),
                job(3, "2026-11-22T03:00:00Z", JobStatus::Failed),
                job(4, "2026-10-01T03:00:00Z", JobStatus::Failed),
            ],
            None,
            Tz::UTC,
        );
        assert!(
            page.contains("title=\"2026-11-23: succeeded\"") && page.contains("title=\"2026-11-22: failed, 2 runs\""),
            "{page}"
        );
        assert!(page.contains(&format!("href=\"/jobs/{}\"", id::<crate::id::JobId>(3))), "{page}");
        assert!(!page.contains(&format!("href=\"/jobs/{}\"", id::<crate::id::JobId>(4))), "before the first day");
        assert_eq!(page.matches("<tr>").count(), 3, "the heading, data, and idle, which never ran");
        assert_eq!(page.matches("no run</span>").count(), 58);
        assert!(!page.contains("not looked at"));
    }

    #[test]
    fn days_are_the_hosts_and_what_was_not_read_is_not_said_to_be_nothing() {
        let page = shown(
            vec![job(1, "2026-11-21T23:30:00Z", JobStatus::Failed)],
            Some("2026-11-20T00:00:00Z"),
            Tz::Europe__Berlin,
        );
        assert!(page.contains("title=\"2026-11-22: failed\""), "{page}");
        assert!(
            page.contains("title=\"2026-11-19: not looked at\"") && page.contains("title=\"2026-11-20: no run\""),
            "{page}"
        );
    }
}
