//! Pure. One job: how it goes, what it was asked, and the end of its log. While it runs, the page waits for lines of its log.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use super::Visitor;
use super::host::cancel_button;
use super::html::{El, Html, Link, all, el};
use super::layout::{Mood, Page, button, events, facts, host_link, mood, notice, section, status_of};
use super::shown;
use crate::job::{ActorKind, Job, JobStatus};
use crate::protocol::Envelope;
use crate::protocol::agent_event::{JobProgress, LogDropped, LogSource, LogStream};

/// What a line of the log has room for, in characters.
const LINE_LIMIT: usize = 2000;
/// Lines of the log's end that are shown.
pub const LINES: usize = 300;

/// A job with what is beside it.
pub struct JobNow<'a> {
    pub host: &'a str,
    pub job: &'a Job,
    pub progress: Option<&'a JobProgress>,
    /// Its agent is heard.
    pub in_contact: bool,
    pub waiting_for: Option<String>,
    /// The end of its log, oldest first, progress too.
    pub log: &'a [Envelope],
    /// There is more before that.
    pub is_cut: bool,
}

/// The page of one job, as whole HTML.
pub fn job_page(visitor: &Visitor, now_of: &JobNow<'_>, now: DateTime<Utc>) -> String {
    let JobNow { host, job, .. } = *now_of;
    let of = job.schedule_id.as_ref().map(|schedule| format!(" {schedule}")).unwrap_or_default();
    let title = format!("{}{of} on {host}", job.kind);
    let (how, word) = status_of(job);
    let lost = (!job.status.is_final() && !now_of.in_contact).then(|| {
        notice(
            Mood::Doubtful,
            el("p").with("The agent is out of contact: how the job goes is not known until it is back."),
        )
    });
    let errors: Vec<El> = job.error.iter().map(|error| notice(Mood::Bad, el("p").with(error))).collect();
    let main = all([(
        (el("h1").with(format!("{}{of} on ", job.kind)).with(host_link(host)), el("p").with(mood(how, word))),
        lost,
        errors,
        warnings(job),
        progress(now_of),
        actions(visitor, now_of),
        (job_facts(now_of, now), options(job)),
        section("log", "Log", log(now_of)),
    )]);
    // A job that waits has no log that would tell of its turn.
    let last = now_of.log.last().map_or(0, |line| line.seq);
    let news = match job.status {
        JobStatus::Running => {
            Some(Link::to("/v1/jobs").segment(job.id).segment("log").query("follow", 1).query("after", last))
        }
        JobStatus::Queued => Some(events(Some(host))),
        _ => None,
    };
    Page { title: &title, visitor: Some(visitor), news, main }.into_html()
}

fn warnings(job: &Job) -> Option<El> {
    let items: Vec<El> = job.warnings.iter().map(|warning| el("li").with(warning)).collect();
    (!items.is_empty()).then(|| notice(Mood::Doubtful, el("ul").with(items)))
}

/// What is known of how far it is.
fn progress(now_of: &JobNow<'_>) -> Option<El> {
    let progress = now_of.progress.filter(|_| now_of.job.status == JobStatus::Running)?;
    let of = |done: Option<u64>, total: Option<u64>, show: fn(u64) -> String| match (done, total) {
        (Some(done), Some(total)) => Some(format!("{} of {}", show(done), show(total))),
        (Some(done), None) => Some(show(done)),
        _ => None,
    };
    let seconds = |seconds: u64| shown::span(TimeDelta::seconds(i64::try_from(seconds).unwrap_or(i64::MAX / 1000)));
    let percent = progress.percent_done.map(|share| (share.clamp(0.0, 1.0) * 100.0).floor());
    let files = of(progress.files_done, progress.total_files, shown::count).map(|text| format!("{text} files"));
    let parts = [
        percent.map(|percent| format!("{percent} %")),
        of(progress.bytes_done, progress.total_bytes, shown::bytes),
        files,
        progress.throughput_bps.map(|speed| format!("{}/s", shown::bytes(speed))),
        progress.eta_seconds.map(|eta| format!("about {} left", seconds(eta))),
    ];
    let text = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let bar = el("progress").attr("aria-label", "Progress").attr("max", 100);
    let bar = match percent {
        Some(percent) => bar.attr("value", percent),
        None => bar,
    };
    Some(el("div").with(bar).with(el("p").with(text)))
}

fn actions(visitor: &Visitor, now_of: &JobNow<'_>) -> Option<El> {
    let job = now_of.job;
    let cancel = cancel_button(visitor, job);
    let may_abandon = visitor.may_change() && !job.status.is_final() && !now_of.in_contact;
    let abandon = may_abandon.then(|| {
        let to = Link::to("/v1/jobs").segment(job.id).segment("abandon");
        let question = "Abandon this job? It counts as failed from then on, until its agent says otherwise.";
        button("Abandon", "Abandon this job", &to, &json!({}), Some(question))
    });
    (cancel.is_some() || abandon.is_some()).then(|| el("div").class("actions").with(cancel).with(abandon))
}

fn job_facts(now_of: &JobNow<'_>, now: DateTime<Utc>) -> El {
    let job = now_of.job;
    let instant = |at: Option<DateTime<Utc>>| Some(all([shown::instant(at?, now)]));
    let by = match job.actor.kind {
        ActorKind::Schedule => format!("schedule {}", job.actor.name),
        ActorKind::Operator => format!("operator {}", job.actor.name),
        ActorKind::System => format!("the server: {}", job.actor.name),
    };
    let until = job.finished_at.unwrap_or(now);
    let took = job.started_at.map(|started| all([shown::span(until - started)]));
    let mut list = vec![
        ("Asked for by", Some(all([by]))),
        ("Due", instant(job.scheduled_at)),
        ("Queued", instant(job.queued_at.into())),
        ("Waits", now_of.waiting_for.as_ref().map(|what| all([what]))),
        ("Started", instant(job.started_at)),
        ("Ended", instant(job.finished_at)),
        (if job.status.is_final() { "Took" } else { "Runs for" }, took),
        ("Exit code of restic", job.exit_code.map(|code| all([code.to_string()]))),
        ("Without the server", job.offline.then(|| all(["begun while it was out of reach"]))),
        ("Id", Some(all([el("code").with(job.id.to_string())]))),
    ];
    list.extend(job.stats.as_ref().map(known_stats).unwrap_or_default());
    facts(list)
}

/// Of restic's summary what a person asks for first. The rest is in the API's.
fn known_stats(stats: &Map<String, Value>) -> Vec<(&'static str, Option<Html>)> {
    let number = |name: &str| stats.get(name).and_then(Value::as_u64);
    let snapshot = stats.get("snapshot_id").and_then(Value::as_str);
    let bytes = |name: &str| number(name).map(|size| all([shown::bytes(size)]));
    let count = |name: &str| number(name).map(|many| all([shown::count(many)]));
    vec![
        ("Snapshot", snapshot.map(|id| all([el("code").with(shown::cut(id, 8))]))),
        ("Files", count("total_files_processed")),
        ("New files", count("files_new")),
        ("Changed files", count("files_changed")),
        ("Went through", bytes("total_bytes_processed")),
        ("Added", bytes("data_added")),
        ("Added, compressed", bytes("data_added_packed")),
        ("Files restored", count("files_restored")),
        ("Restored", bytes("bytes_restored")),
    ]
}

fn options(job: &Job) -> Option<El> {
    let is_empty = job.options.as_object().is_none_or(Map::is_empty);
    let text = serde_json::to_string_pretty(&job.options).unwrap_or_default();
    let details = el("details").attr("id", "options").with(el("summary").with("Options"));
    (!is_empty).then(|| details.with(el("pre").class("command").with(text)))
}

fn log(now_of: &JobNow<'_>) -> Html {
    let lines: Vec<El> = now_of.log.iter().filter_map(log_line).collect();
    let skip = lines.len().saturating_sub(LINES);
    let whole = Link::to("/v1/jobs").segment(now_of.job.id).segment("log");
    let cut = (now_of.is_cut || skip > 0)
        .then(|| el("p").with("This is its end. ").with(el("a").link("href", &whole).with("All of it, as JSON lines")));
    if lines.is_empty() {
        return all([el("p").class("nothing").with("It has no lines.")]);
    }
    let lines: Vec<El> = lines.into_iter().skip(skip).collect();
    let log = el("pre")
        .class("log")
        .attr("id", "log-lines")
        .attr("role", "region")
        .attr("aria-label", "Lines of the log")
        .attr("tabindex", "0");
    all([(cut, log.with(lines))])
}

/// One line; progress is none.
fn log_line(line: &Envelope) -> Option<El> {
    let at = el("span").class("at").with(line.ts.format("%H:%M:%S ").to_string());
    let (class, text) = match line.kind.as_str() {
        JobProgress::TYPE => return None,
        LogDropped::TYPE => ("event", "[lines are missing here: the agent had no room for them]".to_owned()),
        _ => match serde_json::from_str::<LogStream>(line.payload.get()) {
            Ok(log) => {
                let (class, before) = match log.stream {
                    LogSource::Stdout => ("stdout", ""),
                    LogSource::Stderr => ("stderr", "stderr: "),
                    LogSource::Event => ("event", "agent: "),
                };
                (class, format!("{before}{}", shown::cut(log.payload.trim_end(), LINE_LIMIT)))
            }
            Err(_) => ("event", format!("[{}]", line.kind)),
        },
    };
    Some(el("span").attr("id", format!("line-{}", line.seq)).class(class).with(at).with(text).with("\n"))
}

#[cfg(test)]
mod tests {
    use super::super::html::tests::{HOSTILE, assert_tame};
    use super::*;
    use crate::server::access::Role;
    use crate::server::folded::*;

    fn line(seq: u64, stream: &str, text: &str) -> Envelope {
        let payload =
            json!({"job_id": id::<crate::id::JobId>(1), "seq": seq, "ts": noon(), "stream": stream, "payload": text});
        Envelope::new(seq, noon(), LogStream::TYPE, &payload).expect("an envelope")
    }

    fn shown(role: Role, facts: Vec<crate::server::fact::Fact>, log: &[Envelope], change: impl Fn(&mut Job)) -> String {
        let folded = Folded::of(facts);
        let mut job = folded.state.job(id(1)).expect("the job").clone();
        change(&mut job);
        let percent = JobProgress {
            job_id: job.id,
            percent_done: Some(0.423),
            files_done: Some(3),
            total_files: Some(7),
            bytes_done: Some(1 << 20),
            total_bytes: Some(1 << 30),
            eta_seconds: Some(65),
            throughput_bps: None,
        };
        let visitor = Visitor { name: "ops".to_owned(), role, is_limited: false };
        let now_of = JobNow {
            host: "web-1",
            job: &job,
            progress: Some(&percent),
            in_contact: true,
            waiting_for: None,
            log,
            is_cut: false,
        };
        job_page(&visitor, &now_of, noon())
    }

    #[test]
    fn a_running_job_says_how_far_it_is_follows_its_log_and_can_be_cancelled() {
        let log = [line(1, "event", "begins"), line(2, "stdout", "hello"), line(3, "stderr", "oh")];
        let facts = || vec![queued(id(1)), started(id(1))];
        let page = shown(Role::Operator, facts(), &log, |_| {});
        for part in [
            "42 %, 1.0 MiB of 1.0 GiB, 3 of 7 files, about 1 min 5 s left",
            "value=\"42\"",
            "agent: begins",
            "stderr: oh",
            ">Cancel</button>",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert!(page.contains("log?follow=1&amp;after=3\""), "{page}");
        assert!(!shown(Role::Viewer, facts(), &log, |_| {}).contains("<button"));
        let asked = shown(Role::Operator, facts(), &log, |job| job.cancel_seq = Some(9));
        assert!(asked.contains("to be cancelled") && !asked.contains("<button"));
    }

    #[test]
    fn a_job_that_has_ended_says_how_and_waits_for_nothing() {
        let page = shown(Role::Operator, vec![queued(id(1)), started(id(1)), finished(id(1), "failed")], &[], |job| {
            job.error = Some("disk full".to_owned());
        });
        assert!(
            page.contains("failed</span>") && page.contains("disk full") && page.contains("It has no lines."),
            "{page}"
        );
        assert!(!page.contains("data-news") && !page.contains("<progress") && !page.contains("<button"), "{page}");
    }

    #[test]
    fn nothing_that_restic_or_an_agent_says_runs() {
        for text in HOSTILE {
            let log = [line(1, "stdout", text), line(2, "stderr", text)];
            let page = shown(Role::Operator, vec![queued(id(1)), started(id(1))], &log, |job| {
                job.error = Some(text.to_owned());
                job.warnings = vec![text.to_owned()];
                job.options = json!({"paths": [text], text: 1});
                job.actor.name = text.to_owned();
                job.stats = json!({"snapshot_id": text}).as_object().cloned();
            });
            assert_tame(&page);
        }
    }
}
