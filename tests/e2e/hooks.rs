//! Hooks around backups, on the host: programs of hooks.d by name, text for a shell only where the policy says so.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Fleet, eventually, text};

/// A fleet whose agent permits these hooks and has its repository.
fn fleet_with(hooks: &str) -> Fleet {
    let mut fleet = Fleet::new();
    fleet.start_server();
    fleet.enroll("agent");
    fleet.permit_everything("agent", "restic");
    let toml = fleet.read("agent/agent.toml").replace("[policy]", &format!("[policy]\nhooks = {hooks:?}"));
    fleet.write("agent/agent.toml", &toml);
    fs::create_dir_all(fleet.path("agent/hooks.d")).expect("a directory");
    fs::set_permissions(fleet.path("agent/hooks.d"), fs::Permissions::from_mode(0o755)).expect("chmod");
    fleet.start_agent();
    assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
    fleet
}

fn hook(fleet: &Fleet, name: &str, body: &str) {
    let path = format!("agent/hooks.d/{name}");
    fleet.write(&path, &format!("#!/bin/sh\n{body}\n"));
    fs::set_permissions(fleet.path(&path), fs::Permissions::from_mode(0o755)).expect("chmod");
}

/// Adds these lines to the host's one schedule, and waits until the agent has them.
fn set_hooks(fleet: &Fleet, lines: &str) {
    fleet.set_cron("0 3 * * *");
    let toml = fleet.read("config/hosts/web-1.toml");
    fleet.write("config/hosts/web-1.toml", &format!("{toml}{lines}"));
    let config = fleet.post("/v1/config/reload", "");
    assert_eq!(config["files_run"], true, "{config}");
    eventually("the agent has it", Duration::from_secs(10), || {
        let host = fleet.get("/v1/hosts/web-1");
        (host["schedule"]["applied"] == host["schedule"]["wanted"]).then_some(())
    });
}

fn run(fleet: &Fleet) -> Value {
    fleet.run_job(r#"{"schedule_id":"data"}"#)
}

fn log(fleet: &Fleet, job: &Value) -> String {
    let path = format!("/v1/jobs/{}/log?follow=1", job["id"].as_str().expect("an id"));
    fleet.curl(&["-H", "Accept: text/plain", &path]).expect("a log").1
}

#[test]
fn hooks_run_around_a_backup_with_its_outcome_and_nothing_secret_in_their_environment() {
    let fleet = fleet_with("named");
    let seen = fleet.path("seen");
    let record = format!("env | sort > {}.$RM_JOB_STATUS; echo \"from the hook: $RM_SCHEDULE_ID\"", text(&seen));
    hook(&fleet, "before", &format!("{record}; date > {}", text(&fleet.path("data/dump"))));
    hook(&fleet, "after", &record);
    set_hooks(&fleet, "pre_hook = \"before\"\npost_hook = \"after\"\n");
    let job = run(&fleet);
    assert_eq!((&job["status"], &job["warnings"]), (&json!("succeeded"), &json!([])), "{job}");
    assert_eq!(job["stats"]["files_new"], 21, "what the first hook wrote is in the backup: {job}");
    let log = log(&fleet, &job);
    for line in ["pre_hook before begins", "from the hook: data", "post_hook after ended well"] {
        assert!(log.contains(line), "{line}: {log}");
    }
    for status in ["running", "succeeded"] {
        let environment = fleet.read(&format!("seen.{status}"));
        let expected = [format!("RM_JOB_ID={}", job["id"].as_str().expect("an id")), "RM_JOB_KIND=backup".to_owned()];
        assert!(expected.iter().all(|line| environment.contains(line)), "{environment}");
        assert!(!environment.contains("RESTIC") && !environment.contains(crate::harness::PASSWORD), "{environment}");
    }

    // A dry run asks what would be done, and does nothing.
    fs::remove_file(fleet.path("seen.running")).expect("removed");
    let body = r#"{"schedule_id":"data","options":{"paths":["/etc/hostname"],"dry_run":true,"pre_hook":"before"}}"#;
    assert_eq!(fleet.run_job(body)["status"], "succeeded");
    assert!(!fleet.path("seen.running").exists());

    // Whatever became of the backup.
    hook(&fleet, "before", "echo no dump today; exit 3");
    let job = run(&fleet);
    assert_eq!(job["status"], "failed");
    let error = job["error"].as_str().expect("an error");
    assert!(error.contains("pre_hook before") && error.contains("exit code 3"), "{error}");
    assert!(fleet.path("seen.failed").exists(), "the other hook ran");
    assert!(!self::log(&fleet, &job).contains("restic backup"), "and restic did not");

    // A hook that fails afterwards changes nothing about the backup.
    set_hooks(&fleet, "post_hook = \"absent\"\n");
    let job = run(&fleet);
    assert_eq!(job["status"], "succeeded");
    assert!(job["warnings"][0].as_str().is_some_and(|w| w.contains("hooks.d/absent")), "{job}");
}

#[test]
fn a_hook_that_takes_too_long_or_is_cancelled_dies_with_all_that_it_started() {
    let fleet = fleet_with("named");
    let marker = fleet.path("child.pid");
    let body = format!("sh -c 'echo $$ > {}; exec sleep 300' &\nsleep 300", text(&marker));
    hook(&fleet, "slow", &body);
    let child_is_gone = || {
        let pid = fleet.read("child.pid");
        assert!(!pid.trim().is_empty(), "the hook had started its child");
        eventually("the hook's child is gone", Duration::from_secs(5), || {
            let state = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            (state.is_empty() || state.contains(") Z ")).then_some(())
        });
        fs::remove_file(&marker).expect("removed");
    };
    set_hooks(&fleet, "pre_hook = \"slow\"\nhook_timeout = \"1s\"\n");
    let job = run(&fleet);
    assert_eq!(job["status"], "failed");
    assert!(job["error"].as_str().is_some_and(|error| error.contains("hook_timeout")), "{job}");
    child_is_gone();

    set_hooks(&fleet, "pre_hook = \"slow\"\n");
    let id = fleet.post("/v1/hosts/web-1/jobs", r#"{"schedule_id":"data"}"#)["id"].as_str().expect("an id").to_owned();
    eventually("the hook has its child", Duration::from_secs(10), || marker.metadata().ok().filter(|m| m.len() > 1));
    let began = Instant::now();
    fleet.post(&format!("/v1/jobs/{id}/cancel"), "");
    assert_eq!(fleet.wait_for_job(&id, Duration::from_secs(20))["status"], "cancelled");
    assert!(began.elapsed() < Duration::from_secs(10));
    child_is_gone();
}

#[test]
fn the_hosts_policy_decides_which_hooks_run() {
    let mut fleet = fleet_with("off");
    hook(&fleet, "here", &format!("touch {}", text(&fleet.path("ran-named"))));
    for (policy, named, inline) in [("off", false, false), ("named", true, false), ("inline", true, true)] {
        let toml = fleet.read("agent/agent.toml").replace("hooks = \"off\"", &format!("hooks = {policy:?}"));
        fleet.write("agent/agent.toml", &toml.replace("hooks = \"named\"", &format!("hooks = {policy:?}")));
        fleet.agent = None;
        fleet.start_agent();
        let _ = fs::remove_file(fleet.path("ran-named"));
        let text_hook = format!("touch {}", text(&fleet.path("ran-inline")));
        for (line, permitted, marker) in [
            ("pre_hook = \"here\"\n".to_owned(), named, "ran-named"),
            (format!("pre_hook = {text_hook:?}\n"), inline, "ran-inline"),
        ] {
            set_hooks(&fleet, &line);
            let job = run(&fleet);
            let expected = if permitted { "succeeded" } else { "failed" };
            assert_eq!(
                (&job["status"], fleet.path(marker).exists()),
                (&json!(expected), permitted),
                "{policy} {line}: {job}"
            );
            let says = job["error"].as_str().is_some_and(|error| error.contains("[policy] of agent.toml"));
            assert_eq!(says, !permitted, "{job}");
        }
    }
}
