//! A restic that is missing, too old or dies, and repositories and sources that are not as they should be: the job says why.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Fleet, eventually, restics, text};

/// A script that stands in for restic.
fn script(dir: &tempfile::TempDir, name: &str, body: &str) -> String {
    let path = dir.path().join(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    text(&path).to_owned()
}

/// The job failed; its error.
fn failed(job: &Value) -> &str {
    assert_eq!(job["status"], "failed", "{job}");
    job["error"].as_str().expect("an error")
}

/// A whole log as text.
fn log(fleet: &Fleet, job: &Value) -> String {
    let path = format!("/v1/jobs/{}/log?follow=1", job["id"].as_str().expect("an id"));
    fleet.curl(&["-H", "Accept: text/plain", &path]).expect("a log").1
}

#[test]
fn a_restic_that_is_missing_or_too_old_fails_the_job_with_the_command_that_helps() {
    let scripts = tempfile::tempdir().expect("a temporary directory");
    let old = script(&scripts, "old", "echo restic 0.12.0 compiled with go1.15 on linux/amd64");
    let other = script(&scripts, "other", "echo borg 1.2.3");
    for (restic, word) in [("/nonexistent/restic", "/nonexistent/restic"), (&old, "0.12.0"), (&other, "borg 1.2.3")] {
        let mut fleet = Fleet::new().start(restic);
        let host = fleet.get("/v1/hosts/web-1");
        assert_eq!((host.get("restic_version"), &host["online"]), (None, &json!(true)), "{restic}: {host}");
        let hello = fleet.journal().into_iter().rfind(|line| line["type"] == "hello").expect("a hello");
        assert_eq!(hello["payload"].get("restic_version"), None, "{restic}: {hello}");
        for body in [r#"{"kind":"init"}"#, r#"{"schedule_id":"data"}"#] {
            let job = fleet.run_job(body);
            let error = failed(&job);
            assert!(error.contains(word) && error.contains("apt-get install restic"), "{restic}: {error}");
            assert_eq!(job.get("exit_code"), None, "{restic}: {job}");
        }
        assert!(fleet.read("agent.log").contains("apt-get install restic"), "the agent's own log says it too");
        // Once it is mended the server hears of it with the next start, and jobs run.
        fleet.permit_everything("agent", "restic");
        fleet.agent = None;
        fleet.start_agent();
        assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
        assert!(fleet.get("/v1/hosts/web-1")["restic_version"].is_string());
    }
}

#[test]
fn a_restic_that_is_upgraded_while_the_agent_runs_needs_no_restart() {
    let scripts = tempfile::tempdir().expect("a temporary directory");
    let restic = script(&scripts, "restic", "echo restic 0.12.0 compiled with go1.15 on linux/amd64");
    let fleet = Fleet::new().start(&restic);
    failed(&fleet.run_job(r#"{"kind":"init"}"#));
    // As a package manager does it: the old file is not written to, since it may be running.
    script(&scripts, "new", "exec restic \"$@\"");
    fs::rename(scripts.path().join("new"), &restic).expect("rename");
    assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
    eventually("the server is told", Duration::from_secs(10), || {
        fleet.get("/v1/hosts/web-1")["restic_version"].is_string().then_some(())
    });
}

#[test]
fn a_restic_that_dies_fails_its_job_with_the_signal_named_and_the_next_job_runs() {
    let scripts = tempfile::tempdir().expect("a temporary directory");
    let marker = scripts.path().join("dies");
    fs::write(&marker, "").expect("write");
    // Dies once, in the middle of a backup, with the lock that restic has by then.
    let body = format!(
        "case \"$*\" in *backup*) if rm {} 2>/dev/null; then\n\
         restic \"$@\" & restic=$!; sleep 2; kill -9 $restic; kill -9 $$\nfi;; esac\nexec restic \"$@\"",
        text(&marker)
    );
    let fleet = Fleet::new().start(&script(&scripts, "restic", &body));
    assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
    let job = fleet.run_job(r#"{"schedule_id":"data"}"#);
    let error = failed(&job);
    assert!(error.contains("signal 9") && error.contains("SIGKILL"), "{error}");
    assert_eq!(job.get("exit_code"), None, "{job}");
    assert_eq!(fleet.run_job(r#"{"schedule_id":"data"}"#)["status"], "succeeded");
    assert_eq!(fleet.run_job(r#"{"kind":"check"}"#)["status"], "succeeded");
}

#[test]
fn a_wrong_password_is_named_and_not_tried_again() {
    for restic in restics() {
        let fleet = Fleet::new().start(&restic);
        assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
        let cron = fleet.read("config/hosts/web-1.toml");
        fleet.write("config/hosts/web-1.toml", &(cron + "retries = 3\n"));
        fleet.write("secrets/web-1", "another-horse");
        fleet.post("/v1/config/reload", "");
        eventually("the agent has the other password and the retries", Duration::from_secs(20), || {
            let host = fleet.get("/v1/hosts/web-1");
            (host["config"]["applied"] == 2 && host["schedule"]["applied"] == 2).then_some(())
        });
        let began = Instant::now();
        let job = fleet.run_job(r#"{"schedule_id":"data"}"#);
        assert!(
            failed(&job).contains("wrong password") || failed(&job).contains("password is wrong"),
            "{restic}: {job}"
        );
        assert!(began.elapsed() < Duration::from_secs(15), "{restic}: it is not tried again");
        let log = log(&fleet, &job);
        assert_eq!(log.matches("backup --json").count(), 1, "{restic}: {log}");
        assert!(!log.contains("another-horse") && !log.contains("correct-horse"), "{restic}: {log}");
    }
}

#[test]
fn a_repository_that_is_not_there_is_never_made_by_anything_but_init() {
    for restic in restics() {
        let fleet = Fleet::new().start(&restic);
        for body in [r#"{"schedule_id":"data"}"#, r#"{"kind":"check"}"#, r#"{"kind":"prune"}"#, r#"{"kind":"unlock"}"#]
        {
            let job = fleet.run_job(body);
            let error = failed(&job);
            assert!(error.contains("there is no repository here"), "{restic}: {body}: {error}");
            assert!(!fleet.path("repo").exists(), "{restic}: {body}");
        }
        assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
        let again = fleet.run_job(r#"{"kind":"init"}"#);
        assert!(failed(&again).contains("there is a repository already"), "{restic}: {again}");
        assert_eq!(fleet.run_job(r#"{"schedule_id":"data"}"#)["status"], "succeeded");
    }
}

#[test]
fn sources_that_cannot_be_read_or_are_not_there_make_a_backup_incomplete() {
    for restic in restics() {
        let fleet = Fleet::new().start(&restic);
        assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
        let data = fleet.path("data");
        let backup =
            |more: &str| fleet.run_job(&json!({"kind": "backup", "options": {"paths": [data, more]}}).to_string());
        // Reading one's own memory from its start is an error for everybody, root as well.
        let job = backup("/proc/self/mem");
        assert_eq!((&job["status"], &job["incomplete"]), (&json!("succeeded"), &json!(true)), "{restic}: {job}");
        assert_eq!(job["exit_code"], 3, "{restic}: {job}");
        assert!(job["warnings"].to_string().contains("/proc/self/mem"), "{restic}: {job}");
        assert!(job["stats"]["snapshot_id"].is_string(), "{restic}: {job}");
        let job = backup("/nonexistent/source");
        assert_eq!((&job["status"], &job["incomplete"]), (&json!("succeeded"), &json!(true)), "{restic}: {job}");
        assert!(job["warnings"].to_string().contains("/nonexistent/source"), "{restic}: {job}");
        let job = fleet.run_job(r#"{"kind":"backup","options":{"paths":["/nonexistent/source"]}}"#);
        failed(&job);
        let job = fleet.run_job(r#"{"schedule_id":"data"}"#);
        assert_eq!(
            (&job["status"], job.get("incomplete")),
            (&json!("succeeded"), Some(&json!(false))),
            "{restic}: {job}"
        );
        eventually("three snapshots are reported", Duration::from_secs(20), || {
            let list = fleet.get("/v1/hosts/web-1/snapshots");
            (list["snapshots"].as_array().map(Vec::len) == Some(3)).then_some(())
        });
    }
}

#[test]
fn an_enrollment_that_was_refused_is_none_and_can_be_corrected() {
    let mut fleet = Fleet::new();
    fleet.start_server();
    let dir = fleet.path("agent");
    let agent = |arguments: &[&str]| {
        let output = std::process::Command::new(crate::harness::AGENT).args(arguments).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let url = fleet.url();
    let wrong = ["enroll", "--server", &url, "--token", "rme_wrong", "--host", "wbe-1", "--dir", text(&dir)];
    let (code, error) = agent(&wrong);
    assert!(code == Some(4) && error.contains("enrollment token"), "{code:?} {error}");
    for command in ["run", "status"] {
        let (code, error) = agent(&[command, "--dir", text(&dir)]);
        assert!(code != Some(0) && error.contains("is not enrolled"), "{command}: {code:?} {error}");
    }
    fleet.enroll("agent");
    fleet.start_agent();
}
