//! Old history and logs while a real server runs: compressed, everything is shown as before; past their time they are gone; and a
//! server leaves it alone while another is at it.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, TimeDelta, Utc};
use restic_manager::journal::Journal;
use restic_manager::journal::line::NewLine;
use restic_manager::server::host_state::HostState;
use serde_json::{Value, json, value::to_raw_value};

use crate::harness::{Fleet, eventually};

const LONG: Duration = Duration::from_secs(40);

/// The id of the job of a month.
fn job(month: u32) -> String {
    format!("{month:02}000000-0000-4000-8000-000000000000")
}

fn set_time(file: &Path, time: DateTime<Utc>) {
    let opened = fs::File::options().append(true).open(file);
    opened.and_then(|file| file.set_modified(SystemTime::from(time))).expect("a time");
}

/// A history of web-1 with a finished job in each of five months of the past, and their logs.
fn write_old_history(host: &Path) {
    let mut journal = Journal::<HostState>::open(&host.join("journal")).expect("open");
    fs::create_dir_all(host.join("logs")).expect("a directory");
    for month in 1..=5 {
        let time: DateTime<Utc> = format!("2025-{month:02}-10T03:00:00Z").parse().expect("an instant");
        let id = job(month);
        let lines = [
            (
                "job.queued",
                json!({"job_id": id, "kind": "backup", "options": {}, "actor": {"kind": "operator", "name": "ops"}}),
            ),
            ("job.dispatched", json!({"job_id": id, "expires_at": time + TimeDelta::hours(1)})),
            ("job.started", json!({"job_id": id, "kind": "backup", "started_at": time})),
            (
                "job.finished",
                json!({"job_id": id, "status": "succeeded", "exit_code": 0, "finished_at": time, "last_log_seq": 2}),
            ),
        ];
        let mut batch = journal.begin(time).expect("begin");
        for (step, (kind, payload)) in (1..).zip(lines) {
            let payload = to_raw_value(&payload).expect("JSON");
            let at = time + TimeDelta::seconds(step);
            batch.append(at, &NewLine { kind: kind.to_owned(), ts: at, stream: None, payload });
        }
        batch.commit().expect("commit");
        set_time(&host.join(format!("journal/2025-{month:02}.jsonl")), time);
        let log = host.join(format!("logs/{id}.jsonl"));
        let line = |seq: u64| json!({"seq": seq, "ts": time, "type": "log.stream", "payload": {"job_id": id, "seq": seq, "ts": time, "stream": "stdout", "payload": format!("line {seq}")}});
        fs::write(&log, format!("{}\n{}\n", line(1), line(2))).expect("write");
        set_time(&log, time);
    }
}

/// Everything that the API shows of that history.
fn views(fleet: &Fleet) -> Vec<Value> {
    let mut views = vec![fleet.get("/v1/hosts/web-1/jobs?limit=100")];
    for month in 1..=5 {
        let found = fleet.curl(&[&format!("/v1/jobs/{}", job(month))]).expect("an answer");
        let log = fleet.curl(&[&format!("/v1/jobs/{}/log", job(month))]).expect("an answer");
        views.push(json!([found, log]));
    }
    let (code, events) = fleet.curl(&["/v1/events?host=web-1"]).expect("an answer");
    let events = events.lines().filter(|line| line.contains("\"received_at\":\"2025-"));
    views.push(json!([code, events.collect::<Vec<_>>()]));
    views
}

fn files(dir: &Path, end: &str) -> usize {
    fs::read_dir(dir)
        .expect("list")
        .filter(|entry| entry.as_ref().expect("an entry").file_name().to_string_lossy().ends_with(end))
        .count()
}

/// server.toml with these rules, and the server started anew.
fn restart(fleet: &mut Fleet, history: &str) {
    fleet.server = None;
    fleet.write("config/server.toml", &format!("secret_roots = [\"../secrets\"]\n[history]\n{history}\n"));
    fleet.start_server();
}

#[test]
fn old_history_is_compressed_unseen_and_gone_in_the_end() {
    let mut fleet = Fleet::new();
    let host = fleet.path("state/hosts/web-1");
    write_old_history(&host);
    restart(&mut fleet, "keep = \"90y\"\nlogs_keep = \"90y\"\ncompress_after = \"never\"");
    let before = views(&fleet);
    assert_eq!(before[0]["jobs"].as_array().map(Vec::len), Some(5), "{before:?}");
    assert!(before[1..6].iter().all(|v| v[0][0] == 200 && v[1][1].as_str().is_some_and(|t| t.lines().count() == 2)));
    assert_eq!(before[6][1].as_array().map(Vec::len), Some(20), "{before:?}");
    eventually("the index is complete", LONG, || fleet.path("state/jobs/complete").exists().then_some(()));
    assert_eq!(views(&fleet), before, "by the index");
    fs::remove_dir_all(fleet.path("state/jobs")).expect("delete");
    let nobodys = format!("/v1/jobs/{}", job(9));
    eventually("404, or 503 until it is known", LONG, || match fleet.curl(&[&nobodys])?.0 {
        404 => Some(()),
        code => {
            assert_eq!(code, 503);
            None
        }
    });
    eventually("the index is complete again", LONG, || fleet.path("state/jobs/complete").exists().then_some(()));
    assert_eq!(views(&fleet), before, "by the new index");
    assert_eq!((files(&host.join("journal"), ".gz"), files(&host.join("logs"), ".gz")), (0, 0));

    // Another process is at it: this server does nothing.
    fleet.server = None;
    let lock = fs::File::options().create(true).append(true).open(fleet.path("state/.upkeep.lock")).expect("the lock");
    lock.lock().expect("held");
    restart(&mut fleet, "keep = \"90y\"\nlogs_keep = \"90y\"\ncompress_after = \"1s\"");
    eventually("the server sees it", LONG, || {
        fleet.read("server.log").contains("another server is at it").then_some(())
    });
    assert_eq!((files(&host.join("journal"), ".gz"), files(&host.join("logs"), ".gz")), (0, 0));
    drop(lock);

    restart(&mut fleet, "keep = \"90y\"\nlogs_keep = \"90y\"\ncompress_after = \"1s\"");
    eventually("everything is compressed", LONG, || {
        let count = |end| (files(&host.join("journal"), end), files(&host.join("logs"), end));
        // The last original goes a moment after its compressed file is there.
        (count(".jsonl.gz") == (5, 5) && count(".jsonl") == (1, 0)).then_some(())
    });
    assert_eq!(views(&fleet), before, "compressed");
    let zcat =
        std::process::Command::new("zcat").arg(host.join("journal/2025-01.jsonl.gz")).output().expect("zcat runs");
    assert!(zcat.status.success() && String::from_utf8_lossy(&zcat.stdout).contains("\"type\":\"job.queued\""));

    restart(&mut fleet, "keep = \"1d\"\nlogs_keep = \"1d\"\ncompress_after = \"1s\"");
    eventually("it is gone", LONG, || {
        (files(&host.join("journal"), ".gz") == 0 && files(&host.join("logs"), ".gz") == 0).then_some(())
    });
    let after = views(&fleet);
    assert_eq!(after[0]["jobs"], json!([]));
    eventually("the job is not found", LONG, || {
        (fleet.curl(&[&format!("/v1/jobs/{}", job(1))])?.0 == 404).then_some(())
    });
    assert_eq!(after[6][1], json!([]));
}
