//! Restore tests: what a verify job finds of a sample of the newest snapshot's files, with every restic.

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Fleet, eventually};
use crate::troubles::{damage_largest_pack, oldest_and_newest};

/// Another content of the same size, behind the back of the file's time.
fn damage(fleet: &Fleet, file: &str) {
    let path = fleet.path(file);
    let before = fs::metadata(&path).expect("there").modified().expect("a time");
    let content = fs::read_to_string(&path).expect("read");
    fs::write(&path, content.replace('\n', " ")).expect("write");
    fs::File::options().write(true).open(&path).expect("open").set_modified(before).expect("set");
}

#[test]
fn a_sample_of_what_was_backed_up_is_restored_and_compared() {
    for restic in oldest_and_newest() {
        let fleet = Fleet::new();
        for name in ["a [x]*?", "back\\slash", "new\nline", "ümlaut", "-dash", "empty"] {
            fleet.write(&format!("data/{name}"), if name == "empty" { "" } else { name });
        }
        // Most of the data, so that damage hits it.
        let noise: String = (0..40_000_u64).map(|n| format!("{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
        fleet.write("data/noise", &noise);
        let file = fleet.read("config/hosts/web-1.toml");
        let schedule = "[[schedule]]\nid = \"proof\"\nkind = \"verify\"\ncron = \"0 4 * * *\"\noptions = { schedule = \"data\", sample_files = 100, sample_bytes = \"10M\" }\n";
        fleet.write("config/hosts/web-1.toml", &format!("{file}{schedule}"));
        let fleet = fleet.start(&restic);
        let run = |body: &str, status: &str| {
            let job = fleet.run_job(body);
            assert_eq!(job["status"], status, "{restic}: {body}: {job}");
            assert!(!fleet.path("agent/verify").join(job["id"].as_str().expect("an id")).exists(), "{restic}");
            job
        };
        run(r#"{"kind":"init"}"#, "succeeded");
        let nothing = run(r#"{"schedule_id":"proof"}"#, "failed");
        assert!(nothing["error"].as_str().is_some_and(|said| said.contains("snapshot")), "{restic}: {nothing}");
        run(r#"{"schedule_id":"data"}"#, "succeeded");
        let all = run(r#"{"schedule_id":"proof"}"#, "succeeded");
        let stats = &all["stats"];
        assert_eq!((&stats["checked"], &stats["same"]), (&json!(27), &json!(27)), "{restic}: {all}");
        let some = run(r#"{"kind":"verify"}"#, "succeeded");
        assert_eq!(some["stats"]["checked"], 20, "{restic}: {some}");

        // What is another file by now, or none, is no damage; what only looks the same is.
        fleet.write("data/file-1", "edited since");
        fs::remove_file(fleet.path("data/file-2")).expect("removed");
        let all = run(r#"{"schedule_id":"proof"}"#, "succeeded");
        let stats = &all["stats"];
        let counts = ["same", "changed_since", "missing_since", "differing"].map(|name| stats[name].as_u64());
        assert_eq!(counts, [Some(25), Some(1), Some(1), Some(0)], "{restic}: {all}");
        damage(&fleet, "data/file-3");
        let all = run(r#"{"schedule_id":"proof"}"#, "failed");
        let said = all["error"].as_str().unwrap_or_default();
        assert!(said.contains("data/file-3") && !said.contains("file-1"), "{restic}: {all}");
        assert_eq!(all["stats"]["differing"], 1, "{restic}: {all}");
        assert_eq!(fs::read_dir(fleet.path("agent/verify")).expect("list").count(), 0, "{restic}: nothing is left");
        // Of a repository that is damaged it names the files, and says that the others are whole.
        damage_largest_pack(&fleet);
        let all = run(r#"{"schedule_id":"proof"}"#, "failed");
        let (said, stats) = (all["error"].as_str().unwrap_or_default(), &all["stats"]);
        assert!(said.contains("; of 27 restored files") && said.contains("data/noise"), "{restic}: {all}");
        assert!(stats["checked"] == 27 && stats["same"] == 23, "{restic}: {all}");
        if restic == "restic" {
            let alerts = fleet.get("/v1/alerts");
            assert!(alerts.to_string().contains("verify_failed"), "{alerts}");
        }
    }
}

#[test]
fn a_restore_test_whose_restic_hangs_or_finds_the_repository_locked_or_away_is_tried_again() {
    // Each once: the list hangs; then the restore finds a lock, which is gone at once; then nobody answers.
    let script = "case \"$1\" in \
        ls) if mkdir \"$0.hung\" 2>/dev/null; then sleep 600; fi;; \
        restore) if mkdir \"$0.locked\" 2>/dev/null; then \
            echo 'Fatal: unable to create lock in backend: repository is already locked exclusively by PID 7 on web-2' >&2; \
            case \"$(restic version)\" in 'restic 0.14'*) exit 1;; *) exit 11;; esac; fi; \
            if mkdir \"$0.away\" 2>/dev/null; then \
            echo 'Fatal: dial tcp 192.0.2.1:80: connect: connection refused' >&2; exit 1; fi;; esac";
    let mut fleet = Fleet::started_with_script(script);
    let settings = fleet.read("agent/agent.toml");
    fleet.write("agent/agent.toml", &format!("no_progress = \"2s\"\nretry_wait = \"1s\"\n{settings}"));
    fleet.agent = None;
    fleet.start_agent();
    let schedule = "[[schedule]]\nid = \"proof\"\nkind = \"verify\"\ncron = \"0 4 * * *\"\nretries = 2\n";
    fleet.write("config/hosts/web-1.toml", &(fleet.read("config/hosts/web-1.toml") + schedule));
    fleet.post("/v1/config/reload", "");
    eventually("the agent has the restore test", Duration::from_secs(20), || {
        (fleet.get("/v1/hosts/web-1")["schedule"]["applied"] == 2).then_some(())
    });
    assert_eq!(fleet.run_job(r#"{"schedule_id":"data"}"#)["status"], "succeeded");
    let job = fleet.run_job(r#"{"schedule_id":"proof"}"#);
    assert_eq!((&job["status"], &job["stats"]["same"]), (&json!("succeeded"), &json!(20)), "{job}");
    let path = format!("/v1/jobs/{}/log?follow=1", job["id"].as_str().expect("an id"));
    let log = fleet.curl(&["-H", "Accept: text/plain", &path]).expect("a log").1;
    for told in [
        "attempt 1 of 3 failed: restic made no progress for 2s",
        "already locked exclusively by PID 7",
        "attempt 2 of 3 failed: the repository's server is out of reach: dial tcp 192.0.2.1:80: connect: connection refused",
    ] {
        assert!(log.contains(told), "{told}: {log}");
    }
    assert_eq!(log.matches(": restic restore ").count(), 3, "{log}");
    assert_eq!(fs::read_dir(fleet.path("agent/verify")).expect("list").count(), 0, "nothing is left");
}

#[test]
fn a_restore_test_that_is_cancelled_ends_its_restic_and_leaves_nothing() {
    let fleet = Fleet::started_with_script("case \"$1\" in restore) echo here >&2; sleep 600;; esac");
    assert_eq!(fleet.run_job(r#"{"schedule_id":"data"}"#)["status"], "succeeded");
    let job = fleet.post("/v1/hosts/web-1/jobs", r#"{"kind":"verify"}"#);
    let id = job["id"].as_str().expect("an id");
    eventually("it restores", Duration::from_secs(20), || {
        fleet.curl(&[&format!("/v1/jobs/{id}/log")])?.1.contains("here").then_some(())
    });
    fleet.post(&format!("/v1/jobs/{id}/cancel"), "{}");
    let job = fleet.wait_for_job(id, Duration::from_secs(20));
    assert_eq!((&job["status"], job.get("error")), (&json!("cancelled"), None), "{job}");
    assert_eq!(fs::read_dir(fleet.path("agent/verify")).expect("list").count(), 0, "nothing is left");
}
