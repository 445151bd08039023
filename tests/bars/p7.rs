//! P7: with the server gone an agent keeps its last schedule for 30 days and delivers every job event afterwards, in order, once.
//! The agent runs with a clock that steps a day at a time, restarts now and then, and backs up by itself; then the server is back.
//! The control drops one line in the middle of the spool: the check misses exactly what it told. (30 simulated days of spool and
//! logs with their bound are among the agent's own tests.)

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use chrono::TimeDelta;
use serde_json::Value;

use crate::checker::check_history;
use crate::count;
use crate::harness::{Fleet, eventually};
use crate::p8::{Clocked, fires, latest_due};

/// Days without a server. Gives what must have fired, in order of each day.
fn days_without_a_server(clocked: &mut Clocked, days: usize) -> Vec<(String, String)> {
    clocked.fleet.server = None;
    let base = clocked.now() - chrono::Utc::now();
    let mut expected = Vec::new();
    for day in 1..=days {
        // Every third day the agent lives through the step; else it starts on the new day, as after a night switched off.
        let restarts = day % 3 != 0;
        if restarts {
            clocked.fleet.agent = None;
        }
        clocked.set_clock(base + TimeDelta::days(i64::try_from(day).expect("small")));
        let due = latest_due(clocked.now());
        if restarts {
            clocked.start_agent();
        }
        let jobs = expected.len() + due.len();
        expected.extend(due);
        eventually("the day's backups have ended", Duration::from_secs(75), || {
            let ended = clocked.fleet.read("agent/ledger.jsonl").matches("\"stage\":\"finished\"").count();
            (ended >= jobs).then_some(())
        });
    }
    expected
}

/// What the journal lacks, has twice, or has in another order, of what should have fired and run.
fn problems(fleet: &Fleet, expected: &[(String, String)]) -> Vec<String> {
    let journal = fleet.journal();
    let (fired, mut problems) = (fires(&journal), Vec::new());
    let mut told: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let mut ids: BTreeMap<String, (String, String)> = BTreeMap::new();
    for line in &journal {
        let payload = &line["payload"];
        let text = |key: &str| payload[key].as_str().unwrap_or_default().to_owned();
        let kind = line["type"].as_str().unwrap_or_default();
        if kind == "job.started" {
            ids.insert(text("job_id"), (text("schedule_id"), text("scheduled_at")));
        }
        if let ("job.started" | "job.finished", Some(due)) = (kind, ids.get(&text("job_id"))) {
            told.entry(due.clone()).or_default().push(kind.to_owned());
        }
    }
    for due in expected {
        let count = fired.iter().filter(|other| *other == due).count();
        if count != 1 {
            problems.push(format!("{due:?} fired {count} times"));
        }
        let events = told.remove(due).unwrap_or_default();
        if events != ["job.started", "job.finished"] {
            problems.push(format!("{due:?}: {events:?}"));
        }
    }
    problems.extend(told.keys().map(|due| format!("{due:?} was not expected")));
    for schedule in ["hourly", "daily"] {
        let of = |list: &[(String, String)]| -> Vec<String> {
            list.iter().filter(|(id, _)| id == schedule).map(|(_, at)| at.clone()).collect()
        };
        if of(&fired) != of(expected) {
            problems.push(format!("{schedule}: another order"));
        }
    }
    problems
}

/// The server is back, and the agent has nothing left to tell.
fn server_is_back(clocked: &mut Clocked) {
    clocked.start_server();
    clocked.fleet.agent = None;
    clocked.start_agent();
    let mut lines = 0;
    eventually("everything is delivered", Duration::from_secs(90), || {
        let before = std::mem::replace(&mut lines, clocked.fleet.journal().len());
        std::thread::sleep(Duration::from_secs(2));
        let logs = fs::read_dir(clocked.fleet.path("agent/spool/logs")).map_or(0, Iterator::count);
        (before == lines && logs == 0).then_some(())
    });
}

fn started() -> Clocked {
    let mut clocked = Clocked::new();
    // Half past an hour, and not near 02:30.
    let second = chrono::Utc::now().timestamp().rem_euclid(86_400);
    clocked.set_clock(TimeDelta::seconds(12 * 3600 + 1800 - second));
    clocked.start();
    clocked
}

#[test]
fn p7_days_without_a_server_lose_nothing_and_tell_nothing_twice() {
    let mut clocked = started();
    let expected = days_without_a_server(&mut clocked, count(4, 30));
    let held = clocked.fleet.read("agent/status.json");
    let status: Value = serde_json::from_str(&held).expect("a status");
    assert_eq!((&status["dropped_log_lines"], &status["dropped_progress"]), (&0.into(), &0.into()), "{status}");
    server_is_back(&mut clocked);
    assert_eq!(problems(&clocked.fleet, &expected), [""; 0]);
    let history = check_history(&clocked.fleet.path("state/hosts/web-1/journal"));
    assert_eq!(history.streams, 1, "one stream all the while");
    eprintln!("{} days, {} jobs, {} events, each once and in order", count(4, 30), history.jobs, history.events);
}

#[test]
fn p7_a_line_lost_from_the_middle_of_the_spool_is_found() {
    let mut clocked = started();
    let expected = days_without_a_server(&mut clocked, 2);
    clocked.fleet.agent = None;
    let spool =
        fs::read_dir(clocked.fleet.path("agent/spool")).expect("a spool").map(|entry| entry.expect("one").path());
    let segment = spool.filter(|path| path.extension().is_some_and(|e| e == "jsonl")).max().expect("a segment");
    let text = fs::read_to_string(&segment).expect("read");
    let lost = text.lines().position(|line| line.contains("\"job.started\"")).expect("a start");
    let kept: String =
        text.lines().enumerate().filter(|(n, _)| *n != lost).map(|(_, line)| format!("{line}\n")).collect();
    fs::write(&segment, kept).expect("written");
    server_is_back(&mut clocked);
    let problems = problems(&clocked.fleet, &expected);
    assert!(problems.len() == 1 && problems[0].contains("[]"), "{problems:?}");
}
