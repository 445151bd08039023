//! The answer as a whole: what is in it, for whom, in which order, and what agents' words can do to it.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use serde_json::json;

use super::*;
use crate::job::JobStatus;
use crate::protocol::text::Span;
use crate::server::alert_rules::{Alarms, Moment, decide_alerts};
use crate::server::alert_told::ChannelHealth;
use crate::server::fact::Fact;
use crate::server::folded::*;
use crate::server::host_content::HostContent;

/// What a terminal, a browser or the format's reader might obey.
const ODD: &str = "1\"} 1\nrestic_manager_host_online{host=\"x\"} 1\r\n\u{1b}[2J\u{0}\u{202e}</script>\\";

fn job_of_schedule(n: u8) -> Fact {
    let Fact::JobQueued(mut job) = queued(id(n)) else { unreachable!("it is queued") };
    job.schedule_id = Some(schedule("system"));
    Fact::JobQueued(job)
}

fn figures(folded: Folded, content: HostContent) -> HostFigures {
    HostFigures {
        name: host(),
        state: Arc::new(folded.state),
        content: Some(Arc::new(content)),
        contact: Contact { last_seen: Some(noon()), clock_skew_ms: Some(-1500), ..Contact::default() },
        spool_bytes: Some(4096),
    }
}

/// A host that has an alert, an odd agent, a success, a failure, and a job of no schedule.
fn busy() -> HostFigures {
    let mut folded = enrolled();
    let mut odd = hello(1);
    (odd.agent_version, odd.restic_version) = (ODD.to_owned(), Some(ODD.repeat(1000)));
    let end = json!({
        "job_id": id::<crate::id::JobId>(1), "status": "succeeded", "finished_at": "2026-11-23T12:00:00.25Z", "exit_code": 0,
        "stats": {"data_added": 7, "total_bytes_processed": 900, "total_files_processed": 30, "files_new": 2, "files_changed": 1},
    });
    let stats = json!({"size_bytes": 5000, "snapshot_count": 3, "dedup_ratio": 1.5, "lock_state": "locked",
        "last_check_at": "2026-11-22T05:00:00Z", "last_check_status": ODD});
    let begun = json!({"job_id": id::<crate::id::JobId>(1), "kind": "backup", "started_at": "2026-11-23T11:59:50Z"});
    folded.add([Fact::Hello(odd), job_of_schedule(1), event("job.started", &begun)]);
    folded.add([event("job.finished", &end), job_of_schedule(2), finished(id(2), "failed")]);
    folded.add([queued(id(3)), finished(id(3), "cancelled"), queued(id(4)), event("repo.stats", &stats)]);
    let hours = |hours: u64| Alarms { max_age: Some(Span::from_secs(hours * 3600)), ..Alarms::default() };
    let alarms = BTreeMap::from([(schedule("system"), hours(1)), (schedule("idle"), hours(1))]);
    let content =
        HostContent { alarms: alarms.into(), repository: Some("main/web-1".parse().expect("a target")), ..content() };
    let moment = Moment { now: noon() + TimeDelta::minutes(30), silence: None, heard_for: TimeDelta::zero() };
    folded.add(decide_alerts(&host(), &folded.state, Some(&content), moment));
    figures(folded, content)
}

#[test]
fn who_is_behind_is_told_where_both_versions_are_known() {
    let wanting = |version: &str| {
        let update = json!({"latest_version": version, "package_url": "https://packages.example.org/"});
        HostContent { agent_update: Some(Arc::new(serde_json::from_value(update).expect("an update"))), ..content() }
    };
    let behind = |agent: &str, content: HostContent| {
        let mut folded = enrolled();
        folded.add([Fact::Hello(crate::protocol::agent_event::Hello { agent_version: agent.to_owned(), ..hello(1) })]);
        let found = series(&text(snapshot(vec![figures(folded, content)], true)));
        found.get("restic_manager_agent_behind{host=\"web-1\"}").cloned()
    };
    assert_eq!(behind("1.1.9", wanting("1.2.0")).as_deref(), Some("1"));
    assert_eq!(behind("1.2.0", wanting("1.2.0")).as_deref(), Some("0"));
    assert_eq!(behind("1.1.9", content()), None, "none is wanted");
    assert_eq!(behind(ODD, wanting("1.2.0")), None, "absent means unknown");
}

fn snapshot(hosts: Vec<HostFigures>, is_whole: bool) -> Snapshot {
    let fleet = || FleetFigures {
        config: ConfigFigures { adopted: 3, is_rejected: true, errors: 2, ..ConfigFigures::default() },
        traffic: TrafficFigures {
            requests: vec![("GET", "/v1/hosts/{host}", 200, 9), ("", "", 404, 1)],
            ..TrafficFigures::default()
        },
        process: ProcessFigures { cpu_seconds: Some(1.25), ..ProcessFigures::default() },
        channels: vec![ChannelState {
            name: "hook".parse().expect("a name"),
            kind: "webhook",
            waiting: 2,
            health: ChannelHealth {
                taken: 5,
                failed_in_all: 4,
                last_sent_at: Some(noon()),
                ..ChannelHealth::default()
            },
        }],
        pings: PingFigures { taken: 7, failed: 1, last_taken: None, waiting: 1 },
    };
    Snapshot { now: noon() + TimeDelta::hours(2), version: "1.2.3", hosts, fleet: is_whole.then(fleet) }
}

fn text(snapshot: Snapshot) -> String {
    Pieces::of(snapshot).collect()
}

/// The text, line by line, as its reader would take it apart: families with head and then samples, each name and series once.
fn series(text: &str) -> BTreeMap<String, String> {
    let (mut heads, mut found, mut current) = (BTreeSet::new(), BTreeMap::new(), "");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            current = rest.split(' ').next().expect("a name");
            assert!(heads.insert(current), "{current} twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let kind = rest.strip_prefix(current).expect("of the same");
            assert_eq!(kind == " counter", current.ends_with("_total"), "{current} is a{kind}");
        } else {
            let (series, figure) = line.rsplit_once(' ').expect("a sample");
            assert_eq!(series.split('{').next(), Some(current), "{line}");
            assert!(figure.parse::<f64>().is_ok(), "{line}");
            assert_eq!(found.insert(series.to_owned(), figure.to_owned()), None, "{line} twice");
        }
    }
    found
}

#[test]
fn every_family_tells_what_it_says() {
    let found = series(&text(snapshot(vec![busy()], true)));
    for (name, figure) in [
        ("restic_manager_build_info{version=\"1.2.3\"}", "1"),
        ("restic_manager_alerts_open{kind=\"backup_failed\",severity=\"error\"}", "1"),
        ("restic_manager_alerts_open{kind=\"config_rejected\",severity=\"error\"}", "1"),
        ("restic_manager_alerts_open{kind=\"prune_failed\",severity=\"error\"}", "0"),
        ("restic_manager_config_adopted_total", "3"),
        ("restic_manager_config_rejected", "1"),
        ("restic_manager_config_problems{severity=\"error\"}", "2"),
        ("restic_manager_http_requests_total{method=\"GET\",path=\"/v1/hosts/{host}\",code=\"200\"}", "9"),
        ("process_cpu_seconds_total", "1.25"),
        ("restic_manager_alert_deliveries_total{channel=\"hook\",kind=\"webhook\",outcome=\"taken\"}", "5"),
        ("restic_manager_alert_deliveries_total{channel=\"hook\",kind=\"webhook\",outcome=\"failed\"}", "4"),
        ("restic_manager_alert_deliveries_total{channel=\"ping_url\",kind=\"ping\",outcome=\"failed\"}", "1"),
        ("restic_manager_alert_last_delivery_timestamp_seconds{channel=\"hook\",kind=\"webhook\"}", "1795435200"),
        ("restic_manager_alert_deliveries_waiting{channel=\"hook\",kind=\"webhook\"}", "2"),
        ("restic_manager_host_online{host=\"web-1\"}", "0"),
        ("restic_manager_host_clock_skew_seconds{host=\"web-1\"}", "-1.5"),
        ("restic_manager_host_last_seen_timestamp_seconds{host=\"web-1\"}", "1795435200"),
        ("restic_manager_host_jobs{host=\"web-1\",status=\"queued\"}", "1"),
        ("restic_manager_host_alerts_open{host=\"web-1\",kind=\"backup_failed\",severity=\"error\"}", "1"),
        ("restic_manager_agent_spool_bytes{host=\"web-1\"}", "4096"),
        ("restic_manager_repository_size_bytes{host=\"web-1\",repository=\"main/web-1\"}", "5000"),
        ("restic_manager_repository_locked{host=\"web-1\",repository=\"main/web-1\"}", "1"),
        ("restic_manager_repository_last_check_success{host=\"web-1\",repository=\"main/web-1\"}", "0"),
    ] {
        assert_eq!(found.get(name).map(String::as_str), Some(figure), "{name} in {found:#?}");
    }
    let of_system = |name: &str, more: &str| {
        let series = format!("restic_manager_{name}{{host=\"web-1\",schedule=\"system\",kind=\"backup\"{more}}}");
        found.get(&series).map(String::as_str)
    };
    assert_eq!(of_system("schedule_last_success_timestamp_seconds", ""), Some("1795435200.25"));
    assert_eq!(of_system("schedule_last_success_duration_seconds", ""), Some("10.25"));
    assert_eq!(of_system("schedule_last_job_success", ""), Some("0"), "the newest one failed");
    assert_eq!(of_system("schedule_stale", ""), Some("1"));
    assert_eq!(of_system("schedule_max_age_seconds", ""), Some("3600"));
    assert_eq!(of_system("backup_last_added_bytes", ""), Some("7"));
    assert_eq!(of_system("backup_last_processed_files", ""), Some("30"));
    assert_eq!(of_system("backup_last_changed_files", ""), Some("3"));
    for (outcome, count) in [("succeeded", "1"), ("failed", "1"), ("incomplete", "0"), ("cancelled", "0")] {
        assert_eq!(of_system("jobs_total", &format!(",outcome=\"{outcome}\"")), Some(count), "{outcome}");
    }
    let of_none = "restic_manager_jobs_total{host=\"web-1\",schedule=\"\",kind=\"backup\",outcome=\"cancelled\"}";
    assert_eq!(found.get(of_none).map(String::as_str), Some("1"));
    assert!(!found.keys().any(|name| name.contains("idle")), "a disabled schedule has no series");
    assert!(!found.keys().any(|name| name.contains("last_success") && name.contains("thin")), "absent means unknown");
}

#[test]
fn a_limited_token_gets_its_hosts_and_nothing_of_the_server() {
    let found = series(&text(snapshot(vec![busy()], false)));
    assert!(found.contains_key("restic_manager_build_info{version=\"1.2.3\"}"));
    assert!(found.keys().any(|name| name.starts_with("restic_manager_host_online")));
    let is_fleets = |name: &String| ["config_", "http_", "process_", "journal_"].iter().any(|part| name.contains(part));
    let leaked: Vec<_> = found.keys().filter(|name| is_fleets(name) && !name.contains("host_config")).collect();
    assert_eq!(leaked, ["restic_manager_alerts_open{kind=\"config_rejected\",severity=\"error\"}"]);
    assert_eq!(found[leaked[0]], "0");
}

#[test]
fn what_agents_say_stays_in_its_label() {
    let text = text(snapshot(vec![busy()], true));
    assert!(!text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{text:?}");
    let found = series(&text);
    assert!(!found.keys().any(|name| name.contains("host=\"x\"") && !name.contains("agent_info")), "{found:#?}");
    let info: Vec<_> = found.keys().filter(|name| name.starts_with("restic_manager_agent_info")).collect();
    assert!(info.len() == 1 && info[0].len() < 600, "{info:?}");
}

#[test]
fn pieces_are_small_and_together_they_are_the_whole() {
    let name = |number: usize| format!("h{number:05}").parse().expect("a name");
    let one = busy();
    let many = (0..600).map(|number| HostFigures {
        name: name(number),
        state: Arc::clone(&one.state),
        content: one.content.clone(),
        contact: one.contact.clone(),
        spool_bytes: None,
    });
    let pieces: Vec<String> = Pieces::of(snapshot(many.collect(), true)).collect();
    assert!(pieces.len() > 10 && pieces.iter().all(|piece| piece.len() < PIECE_BYTES + 8192));
    let found = series(&pieces.concat());
    assert_eq!(found.keys().filter(|name| name.starts_with("restic_manager_host_online")).count(), 600);
    assert!(text(snapshot(Vec::new(), true)).contains("restic_manager_build_info"));
}

#[test]
fn names_and_helps_are_as_the_conventions_ask() {
    let mut names = BTreeSet::new();
    for family in families() {
        assert!(names.insert(family.name), "{} is there twice", family.name);
        assert!(family.name.starts_with("restic_manager_") || family.name.starts_with("process_"), "{}", family.name);
        let is_allowed = |byte: u8| byte.is_ascii_lowercase() || matches!(byte, b'_');
        assert!(family.name.bytes().all(is_allowed), "{}", family.name);
        assert!(family.help.ends_with('.') && !family.help.contains(['\n', '\\']), "{}", family.name);
    }
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_part(c));
    words.filter(|word| word.starts_with("restic_manager_") || word.starts_with("process_")).collect()
}

#[test]
fn rules_and_dashboard_name_only_what_is_told() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).expect("the dashboard is JSON");
    assert!(dashboard["panels"].as_array().is_some_and(|panels| panels.len() > 15));
    let told: BTreeSet<&str> = families().map(|family| family.name).collect();
    let used: BTreeSet<&str> = named(RULES).union(&named(DASHBOARD)).copied().collect();
    assert!(used.len() > 25, "{used:?}");
    assert_eq!(used.difference(&told).collect::<Vec<_>>(), [""; 0].iter().collect::<Vec<_>>());
    assert_eq!(named("sum(restic_manager_gone{a=\"b\"})"), BTreeSet::from(["restic_manager_gone"]));
}

#[test]
fn ends_are_counted_once_and_dry_runs_never() {
    let mut folded = enrolled();
    folded.add([job_of_schedule(1), finished(id(1), "succeeded"), finished(id(1), "succeeded")]);
    let Fact::JobQueued(mut dry) = job_of_schedule(2) else { unreachable!("it is queued") };
    dry.options = json!({"dry_run": true});
    folded.add([Fact::JobQueued(dry), finished(id(2), "succeeded")]);
    let memory = &folded.state.schedules[&schedule("system")];
    assert_eq!(memory.ended.by_outcome(), [("succeeded", 1), ("incomplete", 0), ("failed", 0), ("cancelled", 0)]);
    assert_eq!(memory.last_status, Some(JobStatus::Succeeded));
    let carried = serde_json::to_string(&folded.state).expect("JSON");
    let read: crate::server::host_state::HostState = serde_json::from_str(&carried).expect("the same");
    assert_eq!(read.schedules, folded.state.schedules, "carried from segment to segment");
}

#[test]
fn a_clock_that_is_ahead_makes_no_success_newer_than_its_arrival() {
    let mut folded = enrolled();
    let end =
        json!({"job_id": id::<crate::id::JobId>(1), "status": "succeeded", "finished_at": "2099-01-01T00:00:00Z"});
    folded.add([job_of_schedule(1), event("job.finished", &end)]);
    assert_eq!(folded.state.schedules[&schedule("system")].last_success, folded.head.at);
}
