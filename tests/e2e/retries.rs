//! A job is tried again where that may help, after a wait that a cancel ends, and never makes a second snapshot of what the first
//! attempt has saved.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Fleet, eventually};

/// With settings for impatient agents, and a schedule with retries.
fn started(script: &str, settings: &str) -> Fleet {
    let mut fleet = Fleet::started_with_script(script);
    impatient(&mut fleet, settings);
    let schedule = fleet.read("config/hosts/web-1.toml");
    fleet.write("config/hosts/web-1.toml", &(schedule + "retries = 2\n"));
    fleet.post("/v1/config/reload", "");
    eventually("the agent has the retries", Duration::from_secs(20), || {
        (fleet.get("/v1/hosts/web-1")["schedule"]["applied"] == 2).then_some(())
    });
    fleet
}

fn impatient(fleet: &mut Fleet, settings: &str) {
    let before = fleet.read("agent/agent.toml");
    fleet.write("agent/agent.toml", &format!("{settings}\n{before}"));
    fleet.agent = None;
    fleet.start_agent();
}

fn log(fleet: &Fleet, job: &Value) -> String {
    let path = format!("/v1/jobs/{}/log?follow=1", job["id"].as_str().expect("an id"));
    fleet.curl(&["-H", "Accept: text/plain", &path]).expect("a log").1
}

#[test]
fn a_backup_that_hung_after_its_snapshot_was_saved_is_found_and_not_made_again() {
    let script = "case \"$1\" in backup) restic \"$@\"; sleep 600;; esac";
    let fleet = started(script, "no_progress = \"3s\"\nretry_wait = \"1s\"");
    let job = fleet.run_job(r#"{"schedule_id":"data"}"#);
    assert_eq!((&job["status"], &job["incomplete"]), (&json!("succeeded"), &json!(false)), "{job}");
    assert!(job["warnings"].to_string().contains("made no progress for 3s"), "{job}");
    let log = log(&fleet, &job);
    assert_eq!(log.matches("restic: restic backup").count() + log.matches(": restic backup").count(), 1, "{log}");
    assert!(log.contains("attempt 1 of 3 failed"), "{log}");
    let snapshots = eventually("the snapshot is reported", Duration::from_secs(20), || {
        let list = fleet.get("/v1/hosts/web-1/snapshots")["snapshots"].as_array().cloned().unwrap_or_default();
        (!list.is_empty()).then_some(list)
    });
    assert_eq!((snapshots.len(), &snapshots[0]["id"]), (1, &job["stats"]["snapshot_id"]), "{job}");
}

#[test]
fn a_backup_that_hung_before_its_snapshot_is_made_by_the_next_attempt() {
    // Once; the status line says the same each second, as restic's does.
    let script = "case \"$1\" in backup) if mkdir \"$0.hung\" 2>/dev/null; then while sleep 0.3; do \
                  echo '{\"message_type\":\"status\",\"percent_done\":0.5,\"bytes_done\":7}'; done; fi;; esac";
    let fleet = started(script, "no_progress = \"3s\"\nretry_wait = \"1s\"");
    let job = fleet.run_job(r#"{"schedule_id":"data"}"#);
    assert_eq!((&job["status"], &job["exit_code"]), (&json!("succeeded"), &json!(0)), "{job}");
    let log = log(&fleet, &job);
    assert!(log.contains("attempt 1 of 3 failed: restic made no progress for 3s"), "{log}");
    assert_eq!(fleet.get("/v1/alerts")["alerts"], json!([]));
}

#[test]
fn a_cancel_ends_the_wait_between_two_attempts() {
    let script =
        "case \"$1\" in backup) echo 'Fatal: dial tcp 192.0.2.1:80: connect: connection refused' >&2; exit 1;; esac";
    let fleet = started(script, "retry_wait = \"1h\"");
    let job = fleet.post("/v1/hosts/web-1/jobs", r#"{"schedule_id":"data"}"#);
    let id = job["id"].as_str().expect("an id");
    eventually("it waits for its second attempt", Duration::from_secs(20), || {
        let lines = fleet.curl(&[&format!("/v1/jobs/{id}/log")])?.1;
        lines.contains("attempt 1 of 3 failed").then_some(())
    });
    let began = Instant::now();
    fleet.post(&format!("/v1/jobs/{id}/cancel"), "{}");
    let job = fleet.wait_for_job(id, Duration::from_secs(20));
    assert_eq!((&job["status"], job.get("error")), (&json!("cancelled"), None), "{job}");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[cfg(target_os = "linux")]
#[test]
fn a_restic_that_works_without_a_word_is_left_alone() {
    // For longer than `no_progress`: reading, and then computing.
    let script = "case \"$1\" in check) for n in 1 2 3 4 5 6 7; do head -c 100000 /dev/zero >/dev/null; sleep 0.5; done; \
                  timeout --foreground 3 sh -c 'while :; do :; done';; esac";
    let fleet = started(script, "no_progress = \"2s\"");
    let job = fleet.run_job(r#"{"kind":"check"}"#);
    assert_eq!(job["status"], "succeeded", "{job}");
}

#[test]
fn a_backup_without_the_shadow_copy_that_it_should_try_is_made_with_a_warning_and_one_that_needs_it_is_refused_here() {
    let script = "case \"$1\" in backup) if mkdir \"$0.denied\" 2>/dev/null; then \
                  echo 'VSS error: The caller is not an administrator: E_ACCESSDENIED (0x80070005)' >&2; exit 1; fi;; esac";
    let fleet = Fleet::started_with_script(script);
    let backup = |how: &str| {
        let options = json!({"paths": [fleet.path("data")], "use_fs_snapshot": how, "exclude_cloud_files": true});
        fleet.run_job(&json!({"kind": "backup", "options": options}).to_string())
    };
    let job = backup("try");
    assert_eq!((&job["status"], &job["incomplete"]), (&json!("succeeded"), &json!(false)), "{job}");
    assert!(job["warnings"][0].as_str().is_some_and(|text| text.contains("not an administrator")), "{job}");
    let job = backup("require");
    assert!(job["status"] == "failed" && job["error"].to_string().contains("Windows"), "{job}");
}
