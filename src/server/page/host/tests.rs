use serde_json::json;

use super::super::html::tests::{HOSTILE, assert_tame};
use super::*;
use crate::id::JobId;
use crate::server::access::Role;
use crate::server::alert::{AlertKind, AlertRaised};
use crate::server::fact::Fact;
use crate::server::folded::*;
use crate::server::page::fleet::HostLine;
use crate::server::view::Contact;

fn backup(number: u8, hours_ago: i64, status: JobStatus) -> PastJob {
    let at = noon() - TimeDelta::hours(hours_ago);
    PastJob {
        id: id(number),
        kind: JobKind::Backup,
        schedule: Some(schedule("system")),
        status,
        incomplete: false,
        at,
        started_at: Some(at),
        finished_at: Some(at + TimeDelta::seconds(90)),
        processed: Some(3 << 30),
        added: Some(5 << 20),
    }
}

fn snapshot(text: &str) -> Snapshot {
    serde_json::from_value(json!({
        "id": "0123456789abcdef", "short_id": "01234567", "time": "2026-11-23T03:00:00Z", "hostname": text,
        "paths": [text, "/etc"], "tags": [text, "job:x"], "size_bytes": 1024,
    }))
    .expect("a snapshot")
}

fn shown(role: Role, folded: &Folded, past: &Past, jobs: &[Job], snapshots: Result<&[Snapshot], String>) -> String {
    let visitor = Visitor { name: "ops".to_owned(), role, is_limited: false };
    let (content, contact) = (content(), Contact { last_seen: Some(noon()), poll_wait_secs: 30, ..Contact::default() });
    let line = HostLine::of(&host(), &folded.state, Some(&content), &contact, noon());
    let known = Known { name: "web-1", state: &folded.state, content: Some(&content), contact: &contact, line };
    let files = FromFiles { past, newest_jobs: jobs, snapshots, all_snapshots: false };
    host_page(&visitor, &known, &files, noon())
}

#[test]
fn a_host_shows_its_schedules_past_snapshots_and_what_runs_with_buttons_for_operators() {
    let mut folded = Folded::of([Fact::Hello(hello(1)), queued(id(1)), started(id(1))]);
    folded.add([Fact::AlertRaised(AlertRaised {
        alert_id: id(9),
        kind: AlertKind::BackupFailed,
        schedule_id: Some(schedule("system")),
        job_id: None,
        text: "disk full".to_owned(),
    })]);
    let stats = json!({"size_bytes": 5000, "snapshot_count": 3, "dedup_ratio": 1.5, "lock_state": "unlocked"});
    folded.add([event("repo.stats", &stats)]);
    let past = Past { jobs: vec![backup(3, 9, JobStatus::Succeeded), backup(2, 33, JobStatus::Failed)], begins: None };
    let running: Vec<Job> = folded.state.jobs.values().cloned().collect();
    let list = [snapshot("/srv")];
    let page = shown(Role::Operator, &folded, &past, &running, Ok(&list));
    for part in [
        "Linux amd64, web-1",
        "disk full",
        "<dt>Size and number as of</dt>",
        "title=\"2026-11-22: failed\"",
        "system: data that was backed up",
        "1 values from 2026-08-25 to 2026-11-23: the newest 3.0 GiB",
        "the newest 1 min 30 s",
        "failed once",
        "/hosts/web-1/snapshots/0123456789abcdef\"",
        "data-body=\"{&quot;schedule_id&quot;:&quot;system&quot;}\"",
        ">Cancel</button>",
        "disabled</span>",
        "data-news=\"/v1/events?wait=30&amp;limit=100&amp;host=web-1\"",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
    assert!(!page.contains("job:x"), "a tag that is for programs");
    assert_eq!(page.matches("Run now</button>").count(), 3, "not the disabled one");
    assert!(!shown(Role::Viewer, &folded, &past, &running, Ok(&list)).contains("<button"));
}

#[test]
fn a_host_without_anything_says_so_and_a_list_that_is_unknown_is_not_an_empty_one() {
    let page = shown(Role::Viewer, &Folded::default(), &Past::default(), &[], Err("the list is damaged".to_owned()));
    for part in ["No agent was enrolled", "No backup has run", "the list is damaged", "None has run.", "none yet"] {
        assert!(page.contains(part), "{part} in {page}");
    }
    let none = shown(Role::Viewer, &Folded::default(), &Past::default(), &[], Ok(&[]));
    assert!(none.contains("None is known"), "{none}");
}

#[test]
fn ids_differ_so_that_a_page_is_brought_up_to_date_in_the_right_places() {
    let folded = Folded::of([Fact::Hello(hello(1)), queued(id(1)), started(id(1))]);
    let past = Past { jobs: vec![backup(3, 9, JobStatus::Failed), backup(2, 33, JobStatus::Failed)], begins: None };
    let running: Vec<Job> = folded.state.jobs.values().cloned().collect();
    let page = shown(Role::Operator, &folded, &past, &running, Ok(&[snapshot("x")]));
    let mut ids: Vec<&str> = page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "{page}");
}

#[test]
fn nothing_that_a_host_says_runs() {
    for text in HOSTILE {
        let mut said = hello(1);
        (said.hostname, said.agent_version) = (text.to_owned(), text.to_owned());
        (said.restic_version, said.timezone) = (Some(text.to_owned()), Some(text.to_owned()));
        let folded = Folded::of([Fact::Hello(said), queued(id(1)), started(id(1))]);
        let mut job = folded.state.job(id::<JobId>(1)).expect("the job").clone();
        (job.error, job.actor.name) = (Some(text.to_owned()), text.to_owned());
        assert_tame(&shown(Role::Operator, &folded, &Past::default(), &[job], Ok(&[snapshot(text)])));
        assert_tame(&shown(Role::Operator, &folded, &Past::default(), &[], Err(text.to_owned())));
    }
}
