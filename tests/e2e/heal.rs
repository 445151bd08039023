//! An old copy of the server's state, an old copy of the agent's directory, and a state that is lost: each heals by itself, no
//! job runs twice, and the checker finds nothing.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::checker::check_history;
use crate::harness::{Fleet, PASSWORD, eventually, text};

/// A fleet whose restic waits with each backup while `hold` is there.
fn started() -> Fleet {
    Fleet::started_with_script(
        "for word; do [ \"$word\" = backup ] && while [ -e \"${0%/*}/hold\" ]; do sleep 0.05; done; done",
    )
}

fn copy(fleet: &Fleet, from: &str, to: &str) {
    let copied = Command::new("cp").args(["-a", text(&fleet.path(from)), text(&fleet.path(to))]).status();
    assert!(copied.expect("cp runs").success());
}

/// Puts the copy where the original is.
fn put_back(fleet: &Fleet, copy: &str, original: &str) {
    fs::remove_dir_all(fleet.path(original)).expect("removed");
    fs::rename(fleet.path(copy), fleet.path(original)).expect("renamed");
}

fn post(fleet: &Fleet, body: &Value) -> String {
    fleet.post("/v1/hosts/web-1/jobs", &body.to_string())["id"].as_str().expect("an id").to_owned()
}

fn backup(fleet: &Fleet) -> Value {
    json!({"kind": "backup", "options": {"paths": [fleet.path("data")]}})
}

fn wait_until_it_runs(fleet: &Fleet, id: &str) {
    eventually("the job runs", Duration::from_secs(60), || {
        (fleet.get(&format!("/v1/jobs/{id}"))["status"] == "running").then_some(())
    });
}

fn versions(fleet: &Fleet) -> (u64, u64) {
    eventually("what is wanted is applied", Duration::from_secs(60), || {
        let (code, body) = fleet.curl(&["/v1/hosts/web-1"]).filter(|(code, _)| *code == 200)?;
        let host: Value = serde_json::from_str(&body).ok().filter(|_| code == 200)?;
        let of = |what: &str, which: &str| host[what][which].as_u64();
        let is_applied = |what: &str| of(what, "applied").is_some() && of(what, "applied") == of(what, "wanted");
        (host["online"] == true && is_applied("schedule") && is_applied("config"))
            .then(|| Some((of("schedule", "applied")?, of("config", "applied")?)))?
    })
}

/// Waits until the agent knows that the server has all that it told.
fn settled(fleet: &Fleet) {
    eventually("every end is settled", Duration::from_secs(60), || {
        let mut open: BTreeMap<String, bool> = BTreeMap::new();
        for line in fleet.read("agent/ledger.jsonl").lines() {
            let line: Value = serde_json::from_str(line).ok()?;
            let id = line["job_id"].as_str().unwrap_or_default().to_owned();
            open.insert(id, line["job_id"].is_string() && line["stage"] != "settled");
        }
        open.values().all(|open| !open).then_some(())
    });
}

/// No id began twice, by the agent's log and by restic's own tags.
fn no_job_ran_twice(fleet: &Fleet) {
    let mut begun: BTreeMap<String, usize> = BTreeMap::new();
    for line in fleet.read("agent.log").lines().filter(|line| line.contains("job begins")) {
        let id = line.split("job=").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("an id");
        *begun.entry(id.to_owned()).or_default() += 1;
    }
    assert!(!begun.is_empty() && begun.values().all(|times| *times == 1), "{begun:?}");
    let listed = Command::new("restic")
        .args(["--no-cache", "--no-lock", "--json", "-r", text(&fleet.path("repo")), "snapshots"])
        .env("RESTIC_PASSWORD", PASSWORD)
        .output()
        .expect("restic runs");
    let snapshots: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let tags = snapshots.as_array().into_iter().flatten().flat_map(|snapshot| snapshot["tags"].as_array().cloned());
    let mut tags: Vec<String> = tags.flatten().map(|tag| tag.to_string()).filter(|tag| tag.contains("job:")).collect();
    let count = tags.len();
    tags.sort();
    tags.dedup();
    assert!(count > 0 && tags.len() == count, "a tag for each job, once: {tags:?}");
}

fn succeeds(fleet: &Fleet, id: &str) -> Value {
    let job = fleet.wait_for_job(id, Duration::from_secs(90));
    assert_eq!(job["status"], "succeeded", "{job}");
    job
}

#[test]
fn a_server_restored_from_an_old_copy_of_its_state_learns_what_it_has_lost() {
    let mut fleet = started();
    fleet.write("hold", "");
    let running = post(&fleet, &backup(&fleet));
    wait_until_it_runs(&fleet, &running);
    let accepted = post(&fleet, &json!({"kind": "unlock"}));
    eventually("the agent has accepted it", Duration::from_secs(20), || {
        let of_it = |line: &Value| line["type"] == "command.result" && line["payload"]["job_id"] == accepted.as_str();
        fleet.journal().iter().any(of_it).then_some(())
    });
    // The agent learns of the next ones after the copy only: of a command, and of one that waits for its lease.
    fleet.agent.as_ref().expect("an agent").signal("STOP");
    let (told, queued) = (post(&fleet, &json!({"kind": "unlock"})), post(&fleet, &backup(&fleet)));
    copy(&fleet, "state", "old-state");
    fleet.agent.as_ref().expect("an agent").signal("CONT");
    fs::remove_file(fleet.path("hold")).expect("removed");
    for id in [&running, &accepted, &told, &queued] {
        succeeds(&fleet, id);
    }
    let lost = post(&fleet, &backup(&fleet));
    succeeds(&fleet, &lost);
    for minute in [1, 2] {
        fleet.set_cron(&format!("{minute} 4 * * *"));
        fleet.post("/v1/config/reload", "{}");
        versions(&fleet);
    }
    settled(&fleet);
    let before = versions(&fleet);
    fleet.write("hold", "");
    // Its beginning is lost with the state, its end is yet to come.
    let unknown = post(&fleet, &backup(&fleet));
    wait_until_it_runs(&fleet, &unknown);

    fleet.server = None;
    put_back(&fleet, "old-state", "state");
    fleet.start_server();
    let after = versions(&fleet);
    assert!(after.0 > before.0 && after.1 >= 1, "above the agent's: {before:?} {after:?}");
    for id in [&running, &accepted, &told, &queued] {
        let job = succeeds(&fleet, id);
        assert_eq!(job["error"], Value::Null, "its true end, and not that nobody knows it: {job}");
    }
    fs::remove_file(fleet.path("hold")).expect("removed");
    eventually("the end of a job that the server did not know makes the job", Duration::from_secs(60), || {
        let (code, body) = fleet.curl(&[&format!("/v1/jobs/{unknown}")])?;
        (code == 200 && body.contains("\"succeeded\"") && body.contains("\"backup\"")).then_some(())
    });
    assert_eq!(fleet.curl(&[&format!("/v1/jobs/{lost}")]).map(|(code, _)| code), Some(404), "ended, and lost");
    fleet.set_cron("* * * * *");
    let fired = eventually("the schedule makes a job", Duration::from_secs(90), || {
        let jobs = fleet.get("/v1/hosts/web-1/jobs?schedule=data");
        jobs["jobs"][0]["id"].as_str().map(str::to_owned)
    });
    succeeds(&fleet, &fired);
    fleet.set_cron("0 5 * * *");
    versions(&fleet);
    settled(&fleet);
    no_job_ran_twice(&fleet);
    let history = check_history(&fleet.path("state/hosts/web-1/journal"));
    assert!(history.streams >= 2, "the agent began a new stream with what it held");
}

#[test]
fn an_agent_from_an_old_copy_of_its_directory_runs_nothing_again() {
    let mut fleet = started();
    succeeds(&fleet, &post(&fleet, &backup(&fleet)));
    settled(&fleet);
    fleet.agent = None;
    copy(&fleet, "agent", "old-agent");
    fleet.start_agent();
    let ended = post(&fleet, &backup(&fleet));
    succeeds(&fleet, &ended);
    fleet.set_cron("1 4 * * *");
    fleet.post("/v1/config/reload", "{}");
    let before = versions(&fleet);
    settled(&fleet);
    fleet.write("hold", "");
    let running = post(&fleet, &backup(&fleet));
    wait_until_it_runs(&fleet, &running);
    let log = fleet.read("agent.log").lines().count();
    fleet.agent = None;
    fs::remove_file(fleet.path("hold")).expect("removed");
    put_back(&fleet, "old-agent", "agent");
    fleet.start_agent();
    assert_eq!(versions(&fleet), before, "the newest again");
    let job = fleet.wait_for_job(&running, Duration::from_secs(30));
    assert_eq!(job["status"], "failed", "{job}");
    assert!(job["error"].as_str().is_some_and(|error| error.contains("no longer knows it")), "{job}");
    succeeds(&fleet, &post(&fleet, &backup(&fleet)));
    settled(&fleet);
    let told: Vec<String> = fleet.read("agent.log").lines().skip(log).map(str::to_owned).collect();
    assert!(told.iter().any(|line| line.contains("starting a new stream")), "another one has written its stream");
    assert!(!told.iter().any(|line| line.contains(&ended) || line.contains(&running)), "nothing of before again");
    no_job_ran_twice(&fleet);
    check_history(&fleet.path("state/hosts/web-1/journal"));
}

#[test]
fn a_state_that_is_lost_wholly_begins_anew_with_the_next_enrollment() {
    let mut fleet = started();
    let ended = post(&fleet, &backup(&fleet));
    succeeds(&fleet, &ended);
    fleet.set_cron("1 4 * * *");
    fleet.post("/v1/config/reload", "{}");
    assert_eq!(versions(&fleet).0, 2);
    fleet.write("hold", "");
    let running = post(&fleet, &backup(&fleet));
    wait_until_it_runs(&fleet, &running);
    let epoch = fleet.read("state/epoch");
    fleet.server = None;
    fs::remove_dir_all(fleet.path("state")).expect("removed");
    fleet.start_server();
    assert_ne!(fleet.read("state/epoch"), epoch);
    fleet.enroll("agent");
    let after = versions(&fleet);
    assert!(after.0 >= 3, "above the agent's: {after:?}");
    fs::remove_file(fleet.path("hold")).expect("removed");
    eventually("the running job's end makes the job", Duration::from_secs(90), || {
        let (code, body) = fleet.curl(&[&format!("/v1/jobs/{running}")])?;
        (code == 200 && body.contains("\"succeeded\"")).then_some(())
    });
    succeeds(&fleet, &post(&fleet, &backup(&fleet)));
    assert_eq!(fleet.curl(&[&format!("/v1/jobs/{ended}")]).map(|(code, _)| code), Some(404));
    settled(&fleet);
    no_job_ran_twice(&fleet);
    check_history(&fleet.path("state/hosts/web-1/journal"));
}

#[test]
fn a_damaged_list_of_snapshots_is_unknown_and_not_empty_until_the_next_report() {
    let fleet = started();
    assert_eq!(fleet.run_job(&backup(&fleet).to_string())["status"], "succeeded");
    let count = || {
        let (code, body) = fleet.curl(&["/v1/hosts/web-1/snapshots"])?;
        let body: Value = serde_json::from_str(&body).ok()?;
        (code == 200).then(|| body["snapshots"].as_array().map(Vec::len))?
    };
    eventually("it is reported", Duration::from_secs(30), || count().filter(|count| *count == 1));
    fleet.write("state/hosts/web-1/snapshots.json", "{x");
    let (code, body) = fleet.curl(&["/v1/hosts/web-1/snapshots"]).expect("an answer");
    assert_eq!(code, 503, "{body}");
    assert!(body.contains("snapshots-unknown") && body.contains("next report"), "{body}");
    assert_eq!(fleet.run_job(&backup(&fleet).to_string())["status"], "succeeded");
    eventually("it is reported anew", Duration::from_secs(30), || count().filter(|count| *count == 2));
}
