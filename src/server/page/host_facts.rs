//! Pure. What a host's page says of the host itself and of its schedules: facts from its folded state and its content. Does not know its past.

use chrono::{DateTime, Utc};
use serde_json::json;

use super::Visitor;
use super::fleet::{HostLine, Wrong, is_stale};
use super::html::{El, Html, Link, all, el};
use super::layout::{Mood, button, facts, instant_or, mood, notice};
use super::shown;
use super::table::{Row, Table};
use crate::job::JobStatus;
use crate::protocol::agent_event::{Arch, Hello, LockState, Os};
use crate::protocol::schedule::Schedule;
use crate::server::host_content::HostContent;
use crate::server::host_state::HostState;
use crate::server::view::{Contact, next_fire};

/// What is known of a host, apart from its past.
pub struct Known<'a> {
    pub name: &'a str,
    pub state: &'a HostState,
    pub content: Option<&'a HostContent>,
    pub contact: &'a Contact,
    pub line: HostLine,
}

/// How it is, in words.
pub fn standing(known: &Known<'_>) -> Html {
    let mut parts = vec![known.line.moods()];
    let mut say = |how: Mood, text: String| parts.push(all([notice(how, el("p").with(text))]));
    if known.line.wrong.contains(&Wrong::Conflict) {
        say(Mood::Bad, "Two machines use this host's identity in turns, and neither gets commands: enroll one of them anew, under a name of its own.".to_owned());
    }
    if known.state.is_another_machine() {
        say(Mood::Doubtful, "The agent runs on another machine than the one that was enrolled.".to_owned());
    }
    if known.line.wrong.contains(&Wrong::NotEnrolled) {
        say(
            Mood::Doubtful,
            "No agent was enrolled for this host: make a token with POST /v1/enrollment-tokens.".to_owned(),
        );
    }
    if known.content.is_some_and(|content| !content.configured) {
        say(
            Mood::Doubtful,
            format!("config/hosts/{}.toml is gone: nothing is scheduled. History and snapshots stay.", known.name),
        );
    }
    // A minute is what two honest clocks never differ by.
    if let Some(skew) = known.contact.clock_skew_ms.filter(|skew| skew.abs() > 60_000) {
        let span = shown::span(chrono::TimeDelta::milliseconds(skew.abs()));
        let way = if skew > 0 { "ahead" } else { "behind" };
        say(Mood::Doubtful, format!("The host's clock is {span} {way}."));
    }
    all(parts)
}

/// What is known of the host now: contact, versions, repository.
pub fn host_facts(known: &Known<'_>, now: DateTime<Utc>) -> El {
    let (state, text) = (known.state, |text: String| Some(all([text])));
    let hello = state.hello.as_ref();
    // What was told of another repository than the host has now is none of this one's.
    let is_of_it = known.content.is_none_or(|content| content.has_still(state.repository_told_of.as_ref()));
    let repository = state.repository.as_ref().filter(|_| is_of_it);
    let as_of = state.repository_as_of.filter(|_| repository.is_some());
    let check = repository.and_then(|repository| {
        let status = repository.last_check_status.clone().unwrap_or_default();
        Some(all([(shown::instant(repository.last_check_at?, now), format!(" {status}"))]))
    });
    let lock = repository.filter(|repository| repository.lock_state == LockState::Locked);
    facts(vec![
        ("Last seen", Some(instant_or(known.contact.last_seen, now, "never"))),
        ("Agent", hello.map(|hello| agent(hello, known.content))),
        (
            "restic",
            hello.map(|hello| all([hello.restic_version.clone().unwrap_or_else(|| "none that runs".to_owned())])),
        ),
        ("System", hello.and_then(|hello| text(system(hello)))),
        ("Time zone", hello.and_then(|hello| text(hello.timezone.clone()?))),
        ("Schedules", Some(versions(known))),
        ("Settings", settings(known)),
        ("Repository", known.content.and_then(|content| text(content.repository.as_ref()?.to_string()))),
        ("Repository's size", repository.and_then(|repository| text(shown::bytes(repository.size_bytes)))),
        ("Snapshots in it", repository.and_then(|repository| text(shown::count(repository.snapshot_count)))),
        ("Size and number as of", as_of.map(|at| all([shown::instant(at, now)]))),
        ("Last check", check),
        ("Lock", lock.map(|_| all([mood(Mood::Doubtful, "locked")]))),
    ])
}

/// Its version, and the one that is wanted where that is newer.
fn agent(hello: &Hello, content: Option<&HostContent>) -> Html {
    let update = content.and_then(|content| content.update_of(&hello.agent_version));
    let update = update.map(|update| (" ", mood(Mood::Doubtful, "behind"), " ", update.in_words()));
    all([(hello.agent_version.clone(), update)])
}

fn system(hello: &Hello) -> String {
    let os = match hello.os {
        Os::Linux => "Linux",
        Os::Windows => "Windows",
    };
    let arch = match hello.arch {
        Arch::Amd64 => "amd64",
        Arch::Arm64 => "arm64",
    };
    format!("{os} {arch}, {}", hello.hostname)
}

/// Which version is wanted, which the agent runs, and the commits of both.
fn versions(known: &Known<'_>) -> Html {
    let state = known.state;
    let Some(wanted) = &state.schedule_wanted else { return all(["none yet"]) };
    let commit = known.content.and_then(|content| content.commit.as_ref()).or(wanted.commit.as_ref());
    let of = |commit: &String| el("code").attr("title", commit).with(shown::commit(commit));
    if state.schedule_applied == wanted.version {
        let dirty = known
            .content
            .is_some_and(|content| content.dirty == Some(true))
            .then_some(", with changes that are not committed");
        return all([(format!("version {} runs ", wanted.version), commit.map(of), dirty)]);
    }
    let applied = match state.schedule_applied {
        0 => "none runs".to_owned(),
        applied => format!("version {applied} runs "),
    };
    let behind = mood(Mood::Doubtful, "not there yet");
    let first = (
        behind,
        format!(" version {} is wanted ", wanted.version),
        commit.map(of),
        ", ",
        applied,
        state.schedule_applied_commit.as_ref().map(of),
    );
    all([first])
}

fn settings(known: &Known<'_>) -> Option<Html> {
    let wanted = known.state.config_wanted.as_ref()?.version;
    Some(match known.state.config_applied {
        applied if applied == wanted => all([format!("version {wanted} runs")]),
        applied => {
            all([(mood(Mood::Doubtful, "not there yet"), format!(" version {wanted} is wanted, {applied} runs"))])
        }
    })
}

/// Every schedule: when it fires, how it went, and for operators a button that runs it.
pub fn schedules(known: &Known<'_>, visitor: &Visitor, now: DateTime<Utc>) -> El {
    let zone = known.state.hello.as_ref().and_then(|hello| hello.timezone.as_deref());
    let mut table = Table::new(
        "Schedules and when they fire next",
        &["Schedule", "Kind", "When", "Next fire", "Last success", "Last end", "Run"],
    );
    let list = known.content.map_or(&[][..], |content| &content.schedules);
    for schedule in list {
        let memory = known.state.schedules.get(&schedule.id);
        let end = match memory.and_then(|memory| memory.last_status) {
            None => None,
            Some(JobStatus::Succeeded)
                if memory.and_then(|m| m.last_end.as_ref()).is_some_and(|end| end.incomplete) =>
            {
                Some(mood(Mood::Doubtful, "incomplete"))
            }
            Some(JobStatus::Succeeded) => Some(mood(Mood::Good, "succeeded")),
            Some(JobStatus::Failed) => Some(mood(Mood::Bad, "failed")),
            Some(other) => Some(mood(Mood::Neutral, other.as_str())),
        };
        let stale = is_stale(known.state, known.content, &schedule.id, now).then(|| mood(Mood::Bad, "stale"));
        table.row(
            Row::new()
                .id(format!("schedule-{}", schedule.id))
                .cell(schedule.id.as_str())
                .cell(schedule.kind.as_str())
                .cell(when(schedule, zone))
                .cell(next(schedule, zone, now))
                .cell(instant_or(memory.and_then(|memory| memory.last_success), now, "never"))
                .cell(el("span").class("moods").with(end).with(stale))
                .cell(run_button(known.name, schedule, visitor)),
        );
    }
    table.or("Nothing is scheduled on this host.")
}

fn when(schedule: &Schedule, zone: Option<&str>) -> Html {
    let zone = schedule.timezone.as_deref().or(zone);
    all([(el("code").with(&schedule.cron_expr), el("small").with(zone.map(|zone| format!(" {zone}"))))])
}

fn next(schedule: &Schedule, zone: Option<&str>, now: DateTime<Utc>) -> Html {
    if !schedule.enabled {
        return all([mood(Mood::Neutral, "disabled")]);
    }
    instant_or(next_fire(schedule, zone, now), now, "unknown yet")
}

fn run_button(host: &str, schedule: &Schedule, visitor: &Visitor) -> Option<El> {
    if !visitor.may_change() || !schedule.enabled {
        return None;
    }
    let (id, kind) = (schedule.id.as_str(), schedule.kind);
    let question = format!("Run {kind} {id} on {host} now?");
    let label = format!("Run now: {id}");
    Some(button("Run now", &label, &jobs_path(host), &json!({"schedule_id": id}), Some(&question)))
}

/// Where jobs of a host are made.
pub fn jobs_path(host: &str) -> Link {
    Link::to("/v1/hosts").segment(host).segment("jobs")
}
