//! Followers and restarts: a job's log ends with the job, and the stream of all events tells each event once, page by page,
//! whatever happens to the server in between.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Fleet, eventually};

/// A curl that streams until the server ends its answer.
fn following(fleet: &Fleet, path: &str) -> Child {
    Command::new("curl")
        .args(["-sSN", "-m", "100", "-H", &format!("Authorization: Bearer {}", fleet.token())])
        .arg(format!("{}{path}", fleet.url()))
        .stdout(Stdio::piped())
        .spawn()
        .expect("curl runs")
}

fn lines_of(child: Child) -> Vec<Value> {
    let output = child.wait_with_output().expect("curl ends");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    // A server that is killed may leave half a line.
    text.split_inclusive('\n').filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn seqs(lines: &[Value]) -> Vec<u64> {
    lines.iter().filter_map(|line| line["seq"].as_u64()).collect()
}

/// A page of events: its lines and the next cursor.
fn page(fleet: &Fleet, after: &str, limit: usize, wait: u64) -> Option<(Vec<Value>, String)> {
    let path = format!("/v1/events?after={after}&limit={limit}&wait={wait}");
    let (code, answer) = fleet.curl(&["-i", &path])?;
    assert_eq!(code, 200, "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let cursor = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("Restic-Manager-Cursor").then(|| value.trim().to_owned())
    });
    Some((body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect(), cursor.expect("a cursor")))
}

/// Reads pages into `events` until one is empty.
fn read_on(fleet: &Fleet, cursor: &mut String, events: &mut Vec<Value>, limit: usize) {
    loop {
        let (lines, next) = page(fleet, cursor, limit, 0).expect("an answer");
        assert!(lines.len() <= limit);
        *cursor = next;
        if lines.is_empty() {
            return;
        }
        events.extend(lines);
    }
}

/// A repository that takes some seconds to fill.
fn slow(fleet: &Fleet, kib: u32) {
    // Text that neither compresses nor repeats: each number is hashed by its neighbours.
    let mut state = 88_172_645_463_325_252_u64;
    let noise: String = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        format!("{state:016x}")
    })
    .take(64 * 1024)
    .collect();
    fleet.write("data/noise", &noise);
    let repository = fleet.read("config/repositories/main.toml");
    fleet.write("config/repositories/main.toml", &format!("{repository}limit_upload_kib = {kib}\n"));
    assert_eq!(fleet.try_post("/v1/config/reload", "{}").0, 200);
    eventually("the limit is applied", Duration::from_secs(20), || {
        let host = fleet.get("/v1/hosts/web-1");
        (host["config"]["applied"] == host["config"]["wanted"]).then_some(())
    });
}

fn begin_backup(fleet: &Fleet) -> String {
    let job = fleet.post("/v1/hosts/web-1/jobs", r#"{"schedule_id":"data"}"#);
    let id = job["id"].as_str().expect("an id").to_owned();
    eventually("the backup runs", Duration::from_secs(20), || {
        (fleet.get(&format!("/v1/jobs/{id}"))["status"] == "running").then_some(())
    });
    id
}

#[test]
fn a_followed_log_ends_with_its_job_and_goes_on_after_a_restart() {
    let mut fleet = Fleet::started();
    assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
    slow(&fleet, 100);
    let id = begin_backup(&fleet);
    let cut = following(&fleet, &format!("/v1/jobs/{id}/log?follow=1"));
    let first = eventually("the log begins", Duration::from_secs(15), || {
        let (_, log) = fleet.curl(&[&format!("/v1/jobs/{id}/log")])?;
        (!log.is_empty()).then_some(log)
    });
    assert!(first.contains("restic backup"), "{first}");
    std::thread::sleep(Duration::from_millis(500));
    fleet.server = None;
    let before = lines_of(cut);
    assert!(!before.is_empty(), "what was there was told at once");
    fleet.start_server();
    // Resumed where it was cut; it ends by itself, soon after the job.
    let after = seqs(&before).last().copied().unwrap_or(0);
    let rest = following(&fleet, &format!("/v1/jobs/{id}/log?follow=1&after={after}"));
    let whole = following(&fleet, &format!("/v1/jobs/{id}/log?follow=1"));
    let job = fleet.wait_for_job(&id, Duration::from_secs(90));
    assert_eq!(job["status"], "succeeded", "{job}");
    let ended = Instant::now();
    let (rest, whole) = (lines_of(rest), lines_of(whole));
    assert!(ended.elapsed() < Duration::from_secs(20), "it ended {} s after the job", ended.elapsed().as_secs());
    assert_eq!([seqs(&before), seqs(&rest)].concat(), seqs(&whole), "resumed: each line once");
    assert!(whole.last().is_some_and(|line| line.to_string().contains("summary")), "up to the last: {whole:?}");
}

#[test]
fn each_event_is_told_once_across_pages_and_restarts() {
    let mut fleet = Fleet::started();
    let (mut cursor, mut events) = (String::new(), Vec::new());
    assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
    read_on(&fleet, &mut cursor, &mut events, 3);
    slow(&fleet, 200);
    let id = begin_backup(&fleet);
    read_on(&fleet, &mut cursor, &mut events, 1);
    // A reader that waits is cut off with the server, and asks again with the cursor it has.
    let waiting = following(&fleet, &format!("/v1/events?after={cursor}&wait=60"));
    std::thread::sleep(Duration::from_millis(300));
    fleet.server = None;
    assert!(lines_of(waiting).is_empty(), "nothing new had happened, and nothing was told");
    fleet.start_server();
    read_on(&fleet, &mut cursor, &mut events, 2);
    let ended = Instant::now();
    while !events.iter().any(|event| event["type"] == "job.finished" && event["payload"]["job_id"] == id.as_str()) {
        assert!(ended.elapsed() < Duration::from_secs(90), "the end is told");
        let (lines, next) = page(&fleet, &cursor, 1000, 10).expect("an answer");
        events.extend(lines);
        cursor = next;
    }
    // Stopped politely, a waiting reader is answered at once, with a cursor that goes on.
    read_on(&fleet, &mut cursor, &mut events, 1000);
    if let Some(server) = &mut fleet.server {
        server.signal("TERM");
        assert_eq!(server.wait(Duration::from_secs(15)), Some(0));
    }
    fleet.start_server();
    assert_eq!(fleet.run_job(r#"{"kind":"check"}"#)["status"], "succeeded");
    // Until nothing is on its way any more.
    eventually("all is told", Duration::from_secs(30), || {
        let count = fleet.journal().len();
        std::thread::sleep(Duration::from_secs(1));
        read_on(&fleet, &mut cursor, &mut events, 7);
        (fleet.journal().len() == count).then_some(())
    });
    let mut told: BTreeMap<Option<&str>, Vec<u64>> = BTreeMap::new();
    for event in &events {
        told.entry(event["host"].as_str()).or_default().push(event["seq"].as_u64().expect("a seq"));
    }
    // A segment's opening line is the journal's own.
    let is_event = |line: &Value| line["type"] != "segment.opened";
    let journal: Vec<Value> = fleet.journal().into_iter().filter(is_event).collect();
    assert_eq!(told[&Some("web-1")], seqs(&journal), "each of web-1's events, once and in order");
    assert_eq!(told[&None], (2..told[&None].len() as u64 + 2).collect::<Vec<_>>(), "the fleet's too");
    // Another reader from the start, in one page, sees the same.
    let (mut from_start, mut all) = (String::new(), Vec::new());
    read_on(&fleet, &mut from_start, &mut all, 1000);
    assert_eq!(all, events);
}
