//! Copies to a second repository: only the host's own snapshots, each once, with the second one's own password; with every restic.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Fleet, PASSWORD, eventually, text};
use crate::locks::{locks, locks_in};
use crate::troubles::{kill_restic, noise, oldest_and_newest};

const OFFSITE_PASSWORD: &str = "canary-offsite-password";

fn restic(fleet: &Fleet, program: &str, repository: &str, password: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .env("RESTIC_REPOSITORY", fleet.path(repository))
        .env("RESTIC_PASSWORD", password)
        .env("RESTIC_CACHE_DIR", fleet.path("cache"))
        .output()
        .expect("restic runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// With a second repository, and a schedule that copies there.
fn with_offsite(more: &str) -> Fleet {
    let fleet = Fleet::new();
    fleet.write("secrets/offsite", OFFSITE_PASSWORD);
    let offsite =
        format!("url = {:?}\npassword = {{ file = \"../secrets/offsite\" }}\n{more}", fleet.path("offsite-{host}"));
    fleet.write("config/repositories/offsite.toml", &offsite);
    let file = fleet.read("config/hosts/web-1.toml");
    let schedule =
        "[[schedule]]\nid = \"away\"\nkind = \"copy\"\ncron = \"0 4 * * *\"\noptions = { to = \"offsite\" }\n";
    fleet.write("config/hosts/web-1.toml", &format!("{file}{schedule}"));
    fleet
}

#[test]
fn a_hosts_snapshots_are_copied_to_a_second_repository_and_no_others() {
    for program in oldest_and_newest() {
        let fleet = with_offsite("").start(&program);
        let run = |body: &str, status: &str| {
            let job = fleet.run_job(body);
            assert_eq!(job["status"], status, "{program}: {body}: {job}");
            job
        };
        run(r#"{"kind":"init"}"#, "succeeded");
        let absent = run(r#"{"schedule_id":"away"}"#, "failed");
        assert!(absent["error"].as_str().is_some_and(|said| said.contains("init")), "{program}: {absent}");
        run(r#"{"kind":"init","options":{"to":"offsite"}}"#, "succeeded");
        run(r#"{"schedule_id":"data"}"#, "succeeded");
        fleet.write("data/file-1", "changed\n");
        run(r#"{"schedule_id":"data"}"#, "succeeded");
        let data = fleet.path("data");
        restic(&fleet, &program, "repo", PASSWORD, &["backup", "-q", "--host", "stranger", text(&data)]);

        let copied = run(r#"{"schedule_id":"away"}"#, "succeeded");
        assert_eq!(copied["stats"]["snapshots_copied"], 2, "{program}: {copied}");
        assert_eq!(copied["repository"], Value::Null, "{program}: {copied}");
        let list = restic(&fleet, &program, "offsite-web-1", OFFSITE_PASSWORD, &["snapshots", "--json"]);
        let list: Vec<Value> = serde_json::from_str(&list).expect("JSON");
        assert_eq!(list.len(), 2, "{program}: {list:?}");
        for snapshot in &list {
            assert_eq!(snapshot["hostname"], "web-1", "{program}");
            assert_eq!(snapshot["tags"][0], "schedule:data", "{program}: so that retention finds them");
        }
        let path = fleet.path("data/file-1");
        let dumped = restic(&fleet, &program, "offsite-web-1", OFFSITE_PASSWORD, &["dump", "latest", text(&path)]);
        assert_eq!(dumped, "changed\n", "{program}");
        let again = run(r#"{"schedule_id":"away"}"#, "succeeded");
        assert_eq!(again["stats"]["snapshots_copied"], 0, "{program}: {again}");

        // Nowhere else, and nothing of it is shown.
        let (code, refused) = fleet.try_post("/v1/hosts/web-1/jobs", r#"{"kind":"copy","options":{"to":"main"}}"#);
        assert!(code == 422 || code == 400, "{code} {refused}");
        assert!(refused.to_string().contains("copy schedule"), "{refused}");
        assert!(fleet.read("agent/settings.json").contains(OFFSITE_PASSWORD));
        for file in ["agent.log", "server.log"] {
            assert!(!fleet.read(file).contains(OFFSITE_PASSWORD), "{program}: {file}");
        }

        // What agent.toml does not list is not copied, whatever the server says.
        let policy = fleet.read("agent/agent.toml").replace(", \"copy\"", "");
        fleet.write("agent/agent.toml", &policy);
        let mut fleet = fleet;
        fleet.agent = None;
        fleet.start_agent();
        let job = fleet.run_job(r#"{"schedule_id":"away"}"#);
        let error = job["error"].as_str().unwrap_or_default();
        assert!(job["status"] == "failed" && error.contains("copy is not permitted"), "{program}: {job}");
        assert_eq!(job["kind"], json!("copy"));
    }
}

#[test]
fn a_killed_copy_leaves_no_lock_in_either_repository_nor_does_one_that_died_with_the_agent() {
    let fleet = with_offsite("limit_upload_kib = 20\n");
    fs::write(fleet.path("data/noise"), noise(900_000)).expect("write");
    let mut fleet = fleet.start("restic");
    for body in [r#"{"kind":"init"}"#, r#"{"kind":"init","options":{"to":"offsite"}}"#, r#"{"schedule_id":"data"}"#] {
        assert_eq!(fleet.run_job(body)["status"], "succeeded", "{body}");
    }
    let offsite_locks = |fleet: &Fleet| locks_in(&fleet.path("offsite-web-1"));
    let begin = |fleet: &Fleet| {
        let job = fleet.post("/v1/hosts/web-1/jobs", r#"{"schedule_id":"away"}"#);
        eventually("the copy has both locks", Duration::from_secs(20), || {
            (locks(fleet) == 1 && offsite_locks(fleet) == 1).then_some(())
        });
        job["id"].as_str().expect("an id").to_owned()
    };
    let id = begin(&fleet);
    kill_restic(&fleet);
    let job = fleet.wait_for_job(&id, Duration::from_secs(60));
    assert!(job["error"].as_str().is_some_and(|said| said.contains("signal 9")), "{job}");
    assert_eq!((locks(&fleet), offsite_locks(&fleet)), (0, 0), "the agent has removed both");

    let id = begin(&fleet);
    fleet.agent.as_mut().expect("an agent").kill();
    fleet.start_agent();
    let job = fleet.wait_for_job(&id, Duration::from_secs(60));
    assert_eq!(job["error"], "agent restarted", "{job}");
    eventually("its locks are removed, too", Duration::from_secs(60), || {
        (locks(&fleet) == 0 && offsite_locks(&fleet) == 0).then_some(())
    });
}
