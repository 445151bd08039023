//! Two agents with one identity: the newer one works, the older one says what happened, and every job runs once.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Fleet, Process, eventually, text};

const SAYS: &str = "another agent uses this host's identity";

/// A copy of the agent's directory, and an agent that runs there, with a log of its own.
fn clone_agent(fleet: &Fleet) -> Process {
    let (agent, copy) = (fleet.path("agent"), fleet.path("clone"));
    let copied = Command::new("cp").args(["-r", text(&agent), text(&copy)]).status();
    assert!(copied.expect("cp runs").success());
    fleet.agent_process_with_log("clone", "clone.log")
}

/// Every job of the journal began and ended once, and in only one of the two ledgers.
fn every_job_ran_once(fleet: &Fleet, ids: &[String]) {
    let journal = fleet.journal();
    let count = |kind: &str, id: &str| {
        journal.iter().filter(|line| line["type"] == kind && line["payload"]["job_id"] == id).count()
    };
    for id in ids {
        assert_eq!((count("job.started", id), count("job.finished", id)), (1, 1), "job {id}");
        let ran = ["agent", "clone"].map(|name| {
            let log = fleet.read(&format!("{name}.log"));
            log.lines().filter(|line| line.contains("job begins") && line.contains(id.as_str())).count()
        });
        assert_eq!(ran.iter().sum::<usize>(), 1, "job {id} ran {ran:?} times on the agent and its clone");
    }
}

#[test]
fn a_clone_takes_over_the_older_agent_says_so_and_no_job_runs_twice() {
    let mut fleet = Fleet::started();
    let id_of = |job: &Value| job["id"].as_str().expect("an id").to_owned();
    let run = |fleet: &Fleet, body: &str| {
        let job = fleet.run_job(body);
        assert_eq!(job["status"], "succeeded", "{job}");
        id_of(&job)
    };
    let mut ids = Vec::new();
    ids.push(run(&fleet, r#"{"kind":"init"}"#));
    ids.push(run(&fleet, r#"{"schedule_id":"data"}"#));
    // Both will have this schedule and fire it, with one id. The older one's minute of waiting must hold the minute's end and
    // the job of then, and the clone must be gone before the older one is back: so it begins in a minute's middle.
    eventually("a minute's middle", Duration::from_secs(65), || {
        (20..40).contains(&chrono::Timelike::second(&chrono::Utc::now())).then_some(())
    });
    fleet.set_cron("* * * * *");
    eventually("the schedule is applied", Duration::from_secs(10), || {
        (fleet.get("/v1/hosts/web-1")["schedule"]["applied"] == 2).then_some(())
    });
    let clone = clone_agent(&fleet);
    eventually("the older one says that there is another", Duration::from_secs(20), || {
        fleet.read("agent.log").contains(SAYS).then_some(())
    });
    let superseded = Instant::now();
    assert!(!fleet.read("clone.log").contains(SAYS), "the newer one works");
    assert!(fleet.read("agent.log").lines().any(|line| line.contains(SAYS) && line.contains("enroll one of the two")));
    ids.push(run(&fleet, r#"{"kind":"check"}"#));
    let fired = eventually("the schedule fires", Duration::from_secs(70), || {
        let jobs = fleet.get("/v1/hosts/web-1/jobs?schedule=data");
        let jobs = jobs["jobs"].as_array().expect("jobs").clone();
        jobs.into_iter().find(|job| job["actor"]["kind"] == "schedule")
    });
    let id = id_of(&fired);
    fleet.set_cron("0 3 * * *");
    assert_eq!(fleet.wait_for_job(&id, Duration::from_secs(20))["status"], "succeeded");
    eventually("the older one fired as well", Duration::from_secs(10), || {
        fleet.read("agent.log").contains(" due schedule").then_some(())
    });
    assert!(superseded.elapsed() < Duration::from_secs(60), "the older one still waits");
    ids.push(id);
    ids.push(run(&fleet, r#"{"kind":"check"}"#));
    // The clone goes; the older one is taken back when its minute is over, and runs what was asked meanwhile.
    drop(clone);
    let waiting = fleet.post("/v1/hosts/web-1/jobs", r#"{"schedule_id":"data"}"#);
    let id = id_of(&waiting);
    assert_eq!(fleet.wait_for_job(&id, Duration::from_secs(90))["status"], "succeeded");
    assert!(superseded.elapsed() > Duration::from_secs(58), "it stays away for a minute");
    ids.push(id);
    every_job_ran_once(&fleet, &ids);
    let unfinished: Vec<Value> = ["queued", "running"]
        .into_iter()
        .map(|status| fleet.get(&format!("/v1/hosts/web-1/jobs?status={status}"))["jobs"].clone())
        .collect();
    assert_eq!(json!(unfinished), json!([[], []]));
    fleet.agent = None;
}

#[test]
fn one_directory_has_one_agent() {
    let mut fleet = Fleet::started();
    let mut second = fleet.agent_process_with_log("agent", "second.log");
    assert_eq!(second.wait(Duration::from_secs(10)), Some(1));
    let told = fleet.read("second.log");
    assert!(told.contains(text(&fleet.path("agent"))), "{told}");
    assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded", "the first one is as it was");
    fleet.agent = None;
}
