use std::sync::Arc;

use serde_json::json;

use super::super::html::tests::{HOSTILE, assert_tame};
use super::*;
use crate::problem::{Problem, Severity};
use crate::server::access::Role;
use crate::server::alert::{AlertKind, AlertRaised};
use crate::server::fact::Fact;
use crate::server::folded::*;

fn visitor() -> Visitor {
    Visitor { name: "ops".to_owned(), role: Role::Operator, is_limited: false }
}

fn heard() -> Contact {
    Contact { last_seen: Some(noon()), poll_wait_secs: 30, ..Contact::default() }
}

fn enrolled() -> Fact {
    let enrolled = json!({"enrollment_id": id::<crate::id::JobId>(1), "token_sha256": "", "credential_sha256": ""});
    Fact::HostEnrolled(serde_json::from_value(enrolled).expect("a fact"))
}

fn line(name: &str, wrong: &[Wrong]) -> HostLine {
    HostLine {
        name: name.parse().expect("a name"),
        wrong: wrong.to_vec(),
        removed: false,
        online: !wrong.contains(&Wrong::Offline),
        behind: false,
        failed: vec![schedule("data")],
        stale: Vec::new(),
        last_seen: Some(noon()),
        last_success: None,
        running: Vec::new(),
        size_bytes: Some(1 << 30),
        alerts: 1,
        alert_text: Some("it broke".to_owned()),
    }
}

fn shown(lines: &[HostLine], filter: &Filter, config: Option<&ConfigState>) -> String {
    fleet_page(&visitor(), lines, filter, config, &[], |_| None, noon())
}

#[test]
fn a_host_is_as_its_state_says() {
    let wrong =
        |state: &HostState, contact: &Contact| HostLine::of(&host(), state, Some(&content()), contact, noon()).wrong;
    let mut folded = Folded::default();
    assert_eq!(wrong(&folded.state, &Contact::default()), [Wrong::NotEnrolled]);
    // One that was taken out of the configuration, and has no agent any more.
    let gone = HostLine::of(&host(), &folded.state, None, &heard(), noon());
    assert!(gone.wrong.is_empty() && !gone.online && gone.moods().to_string().contains("removed"));
    assert!(gone.removed);
    folded.add([enrolled()]);
    assert_eq!(wrong(&folded.state, &Contact::default()), [Wrong::Offline]);
    let silent = HostLine::of(&host(), &folded.state, None, &Contact::default(), noon());
    assert_eq!(silent.wrong, [], "nothing is expected of it");
    assert_eq!(wrong(&folded.state, &heard()), []);
    let mut fired = queued(id(1));
    if let Fact::JobQueued(queued) = &mut fired {
        queued.schedule_id = Some(schedule("system"));
    }
    folded.add([fired, started(id(1))]);
    let running = HostLine::of(&host(), &folded.state, Some(&content()), &heard(), noon());
    assert_eq!((running.running, running.failed.len()), (vec![JobKind::Backup], 0));
    folded.add([finished(id(1), "failed")]);
    let failed = HostLine::of(&host(), &folded.state, Some(&content()), &heard(), noon());
    assert_eq!((failed.wrong, failed.failed), (vec![Wrong::Failed], vec![schedule("system")]));
    let alarms = [(
        schedule("system"),
        crate::server::alert_rules::Alarms { max_age: Some("1h".parse().expect("a span")), ..Default::default() },
    )];
    let watched = HostContent { alarms: Arc::new(alarms.into()), ..content() };
    let wrong_after = |hours: i64| {
        HostLine::of(&host(), &folded.state, Some(&watched), &heard(), noon() + chrono::TimeDelta::hours(hours)).wrong
    };
    assert_eq!(wrong_after(0), [Wrong::Failed], "it has had no time yet");
    assert!(wrong_after(2).contains(&Wrong::Stale));
    folded.add([Fact::AlertRaised(AlertRaised {
        alert_id: id(9),
        kind: AlertKind::BackupFailed,
        schedule_id: None,
        job_id: None,
        text: "disk full".to_owned(),
    })]);
    let alerted = HostLine::of(&host(), &folded.state, Some(&content()), &heard(), noon());
    assert_eq!((alerted.alerts, alerted.alert_text.as_deref()), (1, Some("disk full")));
    assert!(alerted.wrong.contains(&Wrong::Alert));
}

#[test]
fn what_is_wrong_comes_first_and_the_worst_of_it_before() {
    let lines =
        [line("a-fine", &[]), line("b-off", &[Wrong::Offline]), line("c-bad", &[Wrong::Failed, Wrong::Offline])];
    let page = shown(&lines, &Filter::default(), None);
    let place = |text: &str| page.find(text).unwrap_or_else(|| unreachable!("{text} in {page}"));
    assert!(place("wrong-c-bad") < place("wrong-b-off") && place("wrong-b-off") < place("host-a-fine"));
    assert!(!page.contains("wrong-a-fine") && page.contains("3 hosts") && page.contains("failed: data"), "{page}");
    assert!(!page.contains("id=\"config\""), "the configuration is not everybody's");
    let fine = shown(&lines[..1], &Filter::default(), None);
    assert!(fine.contains("Nothing is wrong."), "{fine}");
    assert!(shown(&[], &Filter::default(), None).contains("There are no hosts yet"));
}

#[test]
fn hosts_are_found_by_name_and_by_what_is_wrong_and_come_in_pages() {
    let mut lines: Vec<HostLine> = (0..450).map(|n| line(&format!("web-{n:03}"), &[])).collect();
    lines.insert(0, line("db-1", &[Wrong::Stale]));
    let names = |filter: &Filter| {
        let (page, next) = page_of(filter, &lines);
        (page.len(), page.first().map(|line| line.name.to_string()), next.map(ToString::to_string))
    };
    let read = |name: &str, show: &str, after: &str| Filter::read(name, show, after).expect("a filter");
    assert_eq!(names(&read("", "", "")), (PAGE, Some("db-1".to_owned()), Some("web-198".to_owned())));
    assert_eq!(names(&read("", "", "web-398")), (51, Some("web-399".to_owned()), None));
    assert_eq!(names(&read(" WEB-44 ", "", "")), (10, Some("web-440".to_owned()), None));
    assert_eq!(names(&read("", "wrong", "")), (1, Some("db-1".to_owned()), None));
    assert_eq!(names(&read("", "stale", "")), (1, Some("db-1".to_owned()), None));
    assert_eq!(names(&read("", "failed", "")), (0, None, None));
    assert_eq!(Filter::read("", "nonsense", ""), None);
    let page = shown(&lines, &read("web", "", "web-001"), None);
    assert!(page.contains("href=\"/?name=web&amp;after=web-201\">Next page") && page.contains("First page"), "{page}");
}

#[test]
fn hosts_with_an_older_agent_are_counted_and_found_and_nothing_is_wrong_with_them() {
    let update = json!({"latest_version": "0.2.0", "package_url": "https://packages.example.org/"});
    let wanting =
        HostContent { agent_update: Some(Arc::new(serde_json::from_value(update).expect("an update"))), ..content() };
    let of = |version: &str, content: &HostContent| {
        let hello = crate::protocol::agent_event::Hello { agent_version: version.to_owned(), ..hello(1) };
        let folded = Folded::of([enrolled(), Fact::Hello(hello)]);
        HostLine::of(&host(), &folded.state, Some(content), &heard(), noon())
    };
    let old = of("0.1.0", &wanting);
    assert!(old.behind && old.wrong.is_empty());
    assert!(!of("0.2.0", &wanting).behind && !of("0.1.0", &content()).behind && !of("shell", &wanting).behind);
    let lines = [old, line("web-2", &[])];
    let filter = Filter::read("", "behind", "").expect("a filter");
    assert_eq!(page_of(&filter, &lines).0, [&lines[0]]);
    let page = shown(&lines, &Filter::default(), None);
    assert!(page.contains("href=\"/?show=behind\"") && page.contains("1 with an older agent"), "{page}");
    assert!(page.contains("Nothing is wrong.") && page.contains("2 with nothing wrong"), "{page}");
    assert!(!shown(&lines[1..], &Filter::default(), None).contains("1 with an older"));
}

#[test]
fn a_refused_configuration_is_the_first_thing_said() {
    let problem = |message: &str| Problem {
        file: "hosts/web-1.toml".to_owned(),
        line: 3,
        column: 1,
        severity: Severity::Error,
        message: message.to_owned(),
    };
    let config =
        ConfigState { version: 4, problems: vec![problem("no such key")], problem_count: 1, ..ConfigState::default() };
    let page = shown(&[], &Filter::default(), Some(&config));
    assert!(
        page.contains("was refused") && page.contains("hosts/web-1.toml:3") && page.contains("no such key"),
        "{page}"
    );
    let fine = ConfigState { commit: Some("0123456789abcdef".to_owned()), dirty: Some(true), ..ConfigState::default() };
    let page = shown(&[], &Filter::default(), Some(&fine));
    assert!(!page.contains("was refused") && page.contains(">0123456789</code>, with changes"), "{page}");
}

#[test]
fn nothing_that_a_host_or_a_request_says_runs() {
    for text in HOSTILE {
        let lines = [HostLine { alert_text: Some(text.to_owned()), ..line("web-1", &[Wrong::Alert]) }];
        let problem = Problem {
            file: text.to_owned(),
            line: 1,
            column: 1,
            severity: Severity::Warning,
            message: text.to_owned(),
        };
        let config = ConfigState { commit: Some(text.to_owned()), problems: vec![problem], ..ConfigState::default() };
        assert_tame(&shown(&lines, &Filter::default(), Some(&config)));
        assert_tame(&shown(&lines, &Filter::read(text, "", text).expect("a filter"), None));
    }
}

#[test]
fn a_removed_host_is_neither_well_nor_wrong_and_can_be_listed() {
    let removed = HostLine { removed: true, ..line("old-1", &[]) };
    let lines = [line("web-1", &[]), removed, line("web-2", &[Wrong::Failed])];
    let page = shown(&lines, &Filter::default(), None);
    for part in ["3 hosts", "1 with nothing wrong", "1 removed", "href=\"/?show=removed\""] {
        assert!(page.contains(part), "{part} in {page}");
    }
    let filter = Filter::read("", "removed", "").expect("a list");
    let (found, _) = page_of(&filter, &lines);
    assert_eq!(found.iter().map(|line| line.name.as_str()).collect::<Vec<_>>(), ["old-1"]);
}
