//! Maintenance by the elected host: retention of each host's schedules exactly, prune and check with credentials that no other host
//! gets, and parts of the data in turns, with real restic.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bad_input::{INSTANCE, STREAM, enrolled_with_curl, hello};
use crate::harness::{AGENT, Fleet, PASSWORD, Process, eventually, restics, text};

/// Of the key with which the maintenance host opens the repository.
const ADMIN_PASSWORD: &str = "canary-admin-password";
const WORK: &str = "forget = \"0 4 1 1 *\"\nprune = { cron = \"0 5 1 1 *\", max_unused = \"0\" }\ncheck = { cron = \"0 6 1 1 *\", read_data_subset = \"rolling/3\" }\n";
/// What the elected host's restic was given.
const OBSERVED: &str = "observed";

fn restic(fleet: &Fleet, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .env("RESTIC_REPOSITORY", fleet.path("repo"))
        .env("RESTIC_PASSWORD", PASSWORD)
        .env("RESTIC_CACHE_DIR", fleet.path("cache"))
        .output()
        .expect("restic runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// By host and tags, the ids of the snapshots, oldest first.
fn snapshots(fleet: &Fleet, program: &str) -> BTreeMap<(String, String), Vec<String>> {
    let list: Value = serde_json::from_str(&restic(fleet, program, &["snapshots", "--json"])).expect("JSON");
    let mut found: BTreeMap<(String, String), Vec<(String, String)>> = BTreeMap::new();
    for snapshot in list.as_array().expect("a list") {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let key = (text(&snapshot["hostname"]), text(&snapshot["tags"][0]));
        found.entry(key).or_default().push((text(&snapshot["time"]), text(&snapshot["id"])));
    }
    let sorted = |mut list: Vec<(String, String)>| {
        list.sort();
        list.into_iter().map(|(_, id)| id).collect()
    };
    found.into_iter().map(|(key, list)| (key, sorted(list))).collect()
}

fn schedule(id: &str, more: &str) -> String {
    format!("[[schedule]]\nid = \"{id}\"\nkind = \"backup\"\ncron = \"0 3 1 1 *\"\npaths = [\"/etc\"]\n{more}\n")
}

/// A repository that web-1 and web-2 share, and backup-1, which maintains it.
fn shared_fleet(program: &str) -> Fleet {
    let fleet = Fleet::new();
    fleet.write("secrets/shared", PASSWORD);
    fleet.write("secrets/admin", ADMIN_PASSWORD);
    restic(&fleet, program, &["init"]);
    let new_key = fleet.path("secrets/admin");
    restic(&fleet, program, &["key", "add", "--new-password-file", text(&new_key)]);
    let repository = format!(
        "url = {:?}\npassword = {{ file = \"../secrets/shared\" }}\n[maintenance]\nhost = \"backup-1\"\npassword = {{ file = \"../secrets/admin\" }}\n{WORK}",
        fleet.path("repo")
    );
    fleet.write("config/repositories/main.toml", &repository);
    let one = schedule("data", "retention = { keep_last = 1 }");
    fleet.write("config/hosts/web-1.toml", &format!("repository = \"main\"\n{one}"));
    let two = schedule("data", "retention = { keep_last = 1 }\nenabled = false")
        + &schedule("other", "retention = { keep_last = 2 }");
    fleet.write("config/hosts/web-2.toml", &format!("repository = \"main\"\n{two}"));
    fleet.write("config/hosts/backup-1.toml", "timezone = \"UTC\"\n");
    fleet
}

/// The elected host's agent, whose restic's passwords are noted.
fn start_elected(fleet: &Fleet, program: &str) -> Process {
    use std::os::unix::fs::PermissionsExt;
    let token =
        fleet.post("/v1/enrollment-tokens", r#"{"host":"backup-1"}"#)["token"].as_str().expect("a token").to_owned();
    let dir = fleet.path("elected");
    let arguments = ["enroll", "--server", &fleet.url(), "--token", &token, "--host", "backup-1", "--dir", text(&dir)];
    assert!(Command::new(AGENT).args(arguments).status().expect("enroll runs").success());
    let script = fleet.path("observed-restic");
    let observed = fleet.path(OBSERVED);
    let lines = format!("#!/bin/sh\necho \"$1 $RESTIC_PASSWORD\" >> '{}'\nexec {program} \"$@\"\n", text(&observed));
    fs::write(&script, lines).expect("write");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");
    fleet.write(
        "elected/agent.toml",
        &format!(
            "server = {:?}\nhost = \"backup-1\"\nrestic = {script:?}\n[policy]\nkinds = [\"forget\", \"prune\", \"check\", \"unlock\"]\n",
            fleet.url()
        ),
    );
    let agent = fleet.agent_process_with_log("elected", "elected.log");
    eventually("the elected host has its schedules", Duration::from_secs(30), || {
        let host = fleet.get("/v1/hosts/backup-1");
        (host["online"] == true
            && host["schedule"]["applied"] == host["schedule"]["wanted"]
            && host["config"]["applied"] == host["config"]["wanted"])
            .then_some(())
    });
    agent
}

/// Runs what a fire would run, to the end of all its jobs, which succeed.
fn run(fleet: &Fleet, kind: &str) -> Vec<Value> {
    let id = format!("maintenance:main:{kind}");
    let first = fleet.post("/v1/hosts/backup-1/jobs", &json!({"schedule_id": id}).to_string());
    assert_eq!(first["schedule_id"], id.as_str(), "{first}");
    eventually("all jobs have ended", Duration::from_secs(60), || {
        let list = fleet.get("/v1/hosts/backup-1/jobs?limit=100");
        let jobs: Vec<Value> = list["jobs"]
            .as_array()
            .expect("jobs")
            .iter()
            .filter(|job| job["schedule_id"] == id.as_str())
            .cloned()
            .collect();
        assert!(jobs.iter().all(|job| job["status"] != "failed"), "{jobs:?}");
        jobs.iter().all(|job| job["status"] == "succeeded").then_some(jobs)
    })
}

#[test]
fn the_elected_host_maintains_a_shared_repository_with_its_own_key() {
    for program in restics() {
        let mut fleet = shared_fleet(&program);
        let data = fleet.path("data");
        let mut unlike = 0;
        for (host, tag, count) in
            [("web-1", "data", 2), ("web-2", "data", 2), ("web-2", "other", 3), ("stranger", "data", 2)]
        {
            for _ in 0..count {
                unlike += 1;
                fleet.write("data/file-0", &format!("{unlike}\n"));
                let tag = format!("schedule:{tag}");
                restic(&fleet, &program, &["backup", "-q", "--host", host, "--tag", &tag, text(&data)]);
            }
        }
        let before = snapshots(&fleet, &program);
        fleet.start_server();
        fleet.enroll("agent");
        fleet.permit_everything("agent", &program);
        fleet.start_agent();
        let _elected = start_elected(&fleet, &program);

        // Of each host's schedule what its own retention says, and nothing else.
        assert_eq!(run(&fleet, "forget").len(), 2, "{program}: one for each policy of a schedule");
        let after = snapshots(&fleet, &program);
        for ((host, tag), ids) in &before {
            let keep = match (host.as_str(), tag.as_str()) {
                ("web-1" | "web-2", "schedule:data") => 1,
                _ => 2,
            };
            let expected = &ids[ids.len() - keep..];
            assert_eq!(after[&(host.clone(), tag.clone())], expected, "{program}: {host} {tag}");
        }
        assert_eq!(before.values().flatten().count() - after.values().flatten().count(), 3, "{program}");
        run(&fleet, "prune");
        if program != "restic" {
            // The rest is the same for every version.
            continue;
        }
        let part = |jobs: &[Value]| jobs[0]["options"]["read_data_subset"].clone();
        assert_eq!(part(&run(&fleet, "check")), "1/3", "{program}");
        fleet.start_server();
        assert_eq!(part(&run(&fleet, "check")), "2/3", "{program}: after a restart of the server");

        // An operator's own wish, on the host that may and on one that does not maintain it.
        let prune = r#"{"kind":"prune","options":{"repository":"main"}}"#;
        let job = fleet.post("/v1/hosts/backup-1/jobs?wait=60", prune);
        assert_eq!(job["status"], "succeeded", "{program}: {job}");
        let (code, refused) = fleet.try_post("/v1/hosts/web-1/jobs", prune);
        assert!(code == 422 || code == 400, "{code} {refused}");
        assert!(refused.to_string().contains("does not maintain"), "{refused}");

        // One key for those who back up and another one for maintenance, which is nowhere else.
        let observed = fleet.read(OBSERVED);
        let given: BTreeSet<(&str, &str)> = observed.lines().filter_map(|line| line.split_once(' ')).collect();
        let expected = ["forget", "prune", "check", "unlock"].map(|kind| (kind, ADMIN_PASSWORD));
        let given: BTreeSet<_> = given.into_iter().filter(|(kind, _)| *kind != "version").collect();
        assert_eq!(given, expected.into(), "{program}");
        assert!(fleet.read("elected/settings.json").contains(ADMIN_PASSWORD));
        assert!(fleet.read("agent/settings.json").contains(PASSWORD));
        for file in ["agent/settings.json", "agent.log", "elected.log", "server.log"] {
            assert!(!fleet.read(file).contains(ADMIN_PASSWORD), "{program}: {file}");
        }
    }
}

/// What a poll of this agent tells.
fn messages(fleet: &Fleet, bearer: &str, host: &str) -> Vec<Value> {
    let greeting = hello(INSTANCE, STREAM).to_string();
    assert_eq!(
        fleet.ask(bearer, &["-d", &greeting, &format!("/v1/agents/{host}/hello")]).expect("an answer").code,
        200
    );
    let poll = format!("/v1/agents/{host}/commands?instance={INSTANCE}&wait=0");
    fleet.ask(bearer, &[&poll]).expect("an answer").json()["messages"].as_array().expect("messages").clone()
}

#[test]
fn where_each_host_has_its_own_repository_a_fire_makes_a_job_for_each() {
    let mut fleet = Fleet::new();
    let repository = format!(
        "url = {:?}\nusername = \"{{host}}\"\npassword = {{ file = \"../secrets/{{host}}\" }}\n[maintenance]\nhost = \"web-1\"\n{WORK}",
        format!("{}/{{host}}", text(&fleet.path("repos")))
    );
    fleet.write("config/repositories/main.toml", &repository);
    fleet.write("secrets/web-2", "of-web-2");
    let two = schedule("data", "retention = { keep_last = 2 }");
    fleet.write("config/hosts/web-2.toml", &format!("repository = \"main\"\n{two}"));
    fleet.start_server();
    let (one, two) = (enrolled_with_curl(&fleet, "web-1"), enrolled_with_curl(&fleet, "web-2"));
    let maintained = &messages(&fleet, &one, "web-1")[0]["payload"]["maintained"];
    assert_eq!(maintained["main/web-2"]["password"], "of-web-2");
    assert_eq!(
        (&maintained["main/web-2"]["username"], maintained.as_object().map(serde_json::Map::len)),
        (&json!("web-2"), Some(2))
    );
    let settings = messages(&fleet, &two, "web-2")[0].clone();
    assert_eq!(settings["payload"]["maintained"], json!({}));
    assert!(!settings.to_string().contains(PASSWORD), "{settings}");

    // A secret that is gone takes no target away.
    fs::remove_file(fleet.path("secrets/web-2")).expect("removed");
    let (_, config) = fleet.try_post("/v1/config/reload", "{}");
    assert!(config["problems"].to_string().contains("host web-2: the secret's file"), "{config}");
    let kept = &messages(&fleet, &one, "web-1")[0]["payload"];
    assert_eq!((&kept["version"], &kept["maintained"]["main/web-2"]["password"]), (&json!(1), &json!("of-web-2")));
    fleet.start_server();
    assert_eq!(fleet.get("/v1/hosts/web-1")["config"]["wanted"], 1, "nor does a restart");
    fleet.write("secrets/web-2", "of-web-2");
    fleet.post("/v1/config/reload", "{}");
    assert_eq!(fleet.get("/v1/hosts/web-1")["config"]["wanted"], 1);

    let events = format!("/v1/agents/web-1/events?stream={STREAM}&instance={INSTANCE}");
    let mut seq = 0;
    let mut tell = |kind: &str, payload: Value| {
        seq += 1;
        let event =
            json!({"seq": seq, "ts": "2026-11-23T00:00:00Z", "type": kind, "payload": payload}).to_string() + "\n";
        let answer = fleet.ask(&one, &["-H", "Content-Type: application/x-ndjson", "--data-binary", &event, &events]);
        assert_eq!(answer.expect("an answer").json()["acked"], seq);
    };
    // Each target's next part: of the one whose check failed the same once more.
    for (day, expected, web_2_ends) in
        [(1, ["1/3", "1/3"], "failed"), (2, ["2/3", "1/3"], "succeeded"), (3, ["3/3", "2/3"], "succeeded")]
    {
        let at = format!("2026-11-0{day}T06:00:00Z");
        let id = "maintenance:main:check";
        let job = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, format!("restic-manager:web-1/{id}@{at}").as_bytes());
        tell("schedule.fire", json!({"schedule_id": id, "scheduled_at": at, "fired_at": at, "job_id": job}));
        // One at a time: the host's agent runs one job at a time, so it has one lease at a time.
        let (mut commands, mut results) = (Vec::<Value>::new(), 0);
        while commands.len() < 2 {
            let command = eventually("the next target's command", Duration::from_secs(10), || {
                let told = messages(&fleet, &one, "web-1");
                let at =
                    |message: &&Value| message["type"] == "fire.result" && message["payload"]["scheduled_at"] == at;
                results = results.max(told.iter().filter(at).count());
                let mut open = told.iter().filter(|message| message["type"] == "command.run");
                let command = open.next().map(|message| message["payload"].clone())?;
                assert_eq!(open.count(), 0, "one at a time");
                Some(command).filter(|command| commands.iter().all(|before| before["job_id"] != command["job_id"]))
            });
            assert_eq!((&command["kind"], &command["schedule_id"]), (&json!("check"), &json!(id)));
            let status = if command["options"]["repository"] == "main/web-2" { web_2_ends } else { "succeeded" };
            tell(
                "job.finished",
                json!({"job_id": command["job_id"], "status": status, "finished_at": "2026-11-23T00:00:02Z", "last_log_seq": 0}),
            );
            commands.push(command);
        }
        let option = |command: &Value, name: &str| command["options"][name].as_str().expect("an option").to_owned();
        let mut parts: Vec<(String, String)> = commands
            .iter()
            .map(|command| (option(command, "repository"), option(command, "read_data_subset")))
            .collect();
        parts.sort_unstable();
        let expected = [("main/web-1", expected[0]), ("main/web-2", expected[1])];
        assert_eq!(parts, expected.map(|(target, part)| (target.to_owned(), part.to_owned())), "day {day}");
        let is_own = |command: &Value| command["job_id"] == job.to_string();
        assert!(commands.iter().any(is_own), "the fire's own job is one of them");
        assert_eq!(results, 1, "one answer");
    }
}
