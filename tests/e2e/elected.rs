//! A second agent of a fleet: backup-1, which maintains its repository.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{AGENT, Fleet, Process, eventually, text};

/// Once for each fleet.
pub(crate) fn enroll(fleet: &Fleet) {
    let answer = fleet.post("/v1/enrollment-tokens", r#"{"host":"backup-1"}"#);
    let token = answer["token"].as_str().expect("a token");
    let (url, dir) = (fleet.url(), fleet.path("elected"));
    let arguments = ["enroll", "--server", &url, "--token", token, "--host", "backup-1", "--dir", text(&dir)];
    assert!(Command::new(AGENT).args(arguments).status().expect("enroll runs").success());
}

/// Its agent, which may remove data with this restic.
pub(crate) fn start(fleet: &Fleet, program: &str) -> Process {
    let policy = "[policy]\nkinds = [\"forget\", \"prune\", \"unlock\"]\n";
    let settings = format!("server = {:?}\nhost = \"backup-1\"\nrestic = {program:?}\n{policy}", fleet.url());
    fleet.write("elected/agent.toml", &settings);
    let agent = fleet.agent_process_with_log("elected", "elected.log");
    eventually("the elected host has its settings", Duration::from_secs(30), || {
        let host = fleet.get("/v1/hosts/backup-1");
        let has = |what: &str| host[what]["applied"] == host[what]["wanted"];
        (host["online"] == true && has("schedule") && has("config")).then_some(())
    });
    agent
}

/// Runs what a fire of repository main's forget or prune would run, or only tells what it would do; gives the jobs, which succeed.
pub(crate) fn maintain(fleet: &Fleet, kind: &str, preview: bool) -> Vec<Value> {
    let list = || fleet.get("/v1/hosts/backup-1/jobs?limit=100")["jobs"].as_array().expect("jobs").clone();
    let before: Vec<Value> = list().iter().map(|job| job["id"].clone()).collect();
    let mut request = json!({"schedule_id": format!("maintenance:main:{kind}")});
    if preview {
        request["options"] = json!({"dry_run": true});
    }
    fleet.post("/v1/hosts/backup-1/jobs", &request.to_string());
    eventually("the jobs have ended", Duration::from_secs(120), || {
        let jobs: Vec<Value> = list().into_iter().filter(|job| !before.contains(&job["id"])).collect();
        assert!(jobs.iter().all(|job| job["status"] != "failed"), "{jobs:?}");
        (!jobs.is_empty() && jobs.iter().all(|job| job["status"] == "succeeded")).then_some(jobs)
    })
}
