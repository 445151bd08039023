//! What older releases have written: `tests/upgrade/VERSION` holds, as that release left them, a server's state and an agent's
//! directory, with jobs that had ended, one that ran, one that waited, and an end that was still in the spool. The present programs
//! start on each, show its history, and go on with nothing lost. `RESTIC_MANAGER_UPGRADE_BLESS=1` writes the present release's.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::checker::check_history;
use crate::harness::{Fleet, eventually, text};

/// What of a release is kept: the fleet's files, and those of both programs.
const PARTS: [&str; 4] = ["config", "secrets", "state", "agent"];
/// What the API answered before that release was stopped.
const ANSWERS: &str = "answers.json";

fn releases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/upgrade")
}

fn copy(from: &Path, to: &Path, change: &dyn Fn(&str) -> String) {
    fs::create_dir_all(to).expect("a directory");
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).expect("chmod");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let (path, kind) = (to.join(entry.file_name()), entry.file_type().expect("a type"));
        if kind.is_dir() && entry.file_name() == "cache" {
            // restic's, of a repository that is not kept.
        } else if kind.is_dir() {
            copy(&entry.path(), &path, change);
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).expect("a file");
            // The agent's own settings name the server's port, and nothing that is kept looks like a secret; all else is as it was.
            let is_settings = ["agent.toml", "identity.json", "admin-token"].iter().any(|name| path.ends_with(name));
            let bytes = match String::from_utf8(bytes) {
                Ok(text) if is_settings => change(&text).into_bytes(),
                Ok(text) => text.into_bytes(),
                Err(error) => error.into_bytes(),
            };
            fs::write(&path, bytes).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        }
    }
}

/// All that is asked before and after.
fn answers(fleet: &Fleet) -> Value {
    let jobs = fleet.get("/v1/hosts/web-1/jobs")["jobs"].clone();
    let logs = jobs.as_array().expect("jobs").iter().map(|job| {
        let id = job["id"].as_str().expect("an id").to_owned();
        let (_, log) = fleet.curl(&["-H", "Accept: text/plain", &format!("/v1/jobs/{id}/log")]).expect("an answer");
        (id, Value::from(log))
    });
    json!({
        "logs": Value::Object(logs.collect()),
        "host": fleet.get("/v1/hosts/web-1"),
        "snapshots": fleet.get("/v1/hosts/web-1/snapshots"),
        "audit": fleet.get("/v1/audit?limit=1000")["audit"],
        "jobs": jobs,
    })
}

/// The present programs make what a release leaves behind.
fn leave_behind(to: &Path) {
    let script = r#"case "$*" in *backup*) while [ -e "$(dirname "$0")/hold" ]; do sleep 0.05; done ;; esac"#;
    let mut fleet = Fleet::started_with_script(script);
    // Years later nothing of it may be too old.
    let keep = "secret_roots = [\"../secrets\"]\n[history]\nkeep = \"100y\"\nlogs_keep = \"100y\"\ncompress_after = \"never\"\n";
    fleet.write("config/server.toml", keep);
    let host = fleet.read("config/hosts/web-1.toml");
    let gone = "[[schedule]]\nid = \"gone\"\nkind = \"backup\"\ncron = \"0 4 * * *\"\npaths = [\"/nonexistent\"]\n";
    fleet.write("config/hosts/web-1.toml", &format!("{host}{gone}"));
    fleet.post("/v1/config/reload", "");
    assert_eq!(fleet.run_job(r#"{"schedule_id":"data"}"#)["status"], "succeeded");
    assert_eq!(fleet.run_job(r#"{"schedule_id":"gone"}"#)["status"], "failed");
    eventually("snapshots are reported", Duration::from_secs(30), || {
        fleet.get("/v1/hosts/web-1/snapshots")["snapshots"].as_array().filter(|list| !list.is_empty()).map(|_| ())
    });
    fleet.write("hold", "");
    let begin =
        || fleet.post("/v1/hosts/web-1/jobs", r#"{"schedule_id":"data"}"#)["id"].as_str().expect("an id").to_owned();
    let runs = |id: &str| {
        eventually("it runs", Duration::from_secs(20), || {
            (fleet.get(&format!("/v1/jobs/{id}"))["status"] == "running").then_some(())
        });
    };
    let cancelled = begin();
    runs(&cancelled);
    fleet.post(&format!("/v1/jobs/{cancelled}/cancel"), "{}");
    assert_eq!(fleet.wait_for_job(&cancelled, Duration::from_secs(30))["status"], "cancelled");
    let running = begin();
    runs(&running);
    fleet.server = None;
    fs::remove_file(fleet.path("hold")).expect("removed");
    eventually("its end waits for the server", Duration::from_secs(30), || {
        let ledger = fleet.read("agent/ledger.jsonl");
        let is_of_it = |line: &&str| line.contains(&running) && line.contains("\"finished\"");
        ledger.lines().find(is_of_it).map(|_| ())
    });
    let agent = fleet.agent.as_mut().expect("an agent");
    agent.signal("TERM");
    assert_eq!(agent.wait(Duration::from_secs(20)), Some(0));
    fleet.start_server();
    fleet.post("/v1/hosts/web-1/jobs", r#"{"schedule_id":"data"}"#);
    let answers = answers(&fleet);
    let server = fleet.server.as_mut().expect("a server");
    server.signal("TERM");
    assert_eq!(server.wait(Duration::from_secs(20)), Some(0));
    let (restic, url) = (text(&fleet.path("slow-restic")).to_owned(), fleet.url());
    for part in PARTS {
        copy(&fleet.path(part), &to.join(part), &|text| {
            let text = text.replace(&restic, "restic").replace(&url, "@URL@");
            text.replace("rma_", "@RMA@").replace("rmo_", "@RMO@")
        });
    }
    fs::write(to.join(ANSWERS), serde_json::to_string_pretty(&answers).expect("JSON") + "\n").expect("written");
}

/// A scratch fleet on a copy of what a release left.
fn fleet_on(release: &Path) -> (Fleet, Value) {
    let fleet = Fleet::new();
    let url = fleet.url();
    for part in PARTS {
        copy(&release.join(part), &fleet.path(part), &|text| {
            text.replace("@URL@", &url).replace("@RMA@", "rma_").replace("@RMO@", "rmo_")
        });
    }
    let answers = fs::read_to_string(release.join(ANSWERS)).expect("answers");
    (fleet, serde_json::from_str(&answers).expect("JSON"))
}

fn by_id(list: &Value) -> BTreeMap<String, Value> {
    let list = list.as_array().expect("a list").iter();
    list.map(|item| (item["id"].as_str().expect("an id").to_owned(), item.clone())).collect()
}

/// The journal's files and what is in them.
fn segments(fleet: &Fleet) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(fleet.path("state/hosts/web-1/journal")).expect("a journal");
    let paths = files
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "jsonl"));
    paths.map(|path| (path.clone(), fs::read(path).expect("a segment"))).collect()
}

/// Both programs start on it, show what was, and go on.
fn go_on_with(mut fleet: Fleet, before: &Value) {
    let written = segments(&fleet);
    fleet.start_server();
    let now = answers(&fleet);
    let (old_jobs, jobs) = (by_id(&before["jobs"]), by_id(&now["jobs"]));
    assert!(old_jobs.len() >= 6, "{before}");
    let is_final = |job: &Value| matches!(job["status"].as_str(), Some("succeeded" | "failed" | "cancelled"));
    for (id, old) in &old_jobs {
        let job = jobs.get(id).unwrap_or_else(|| unreachable!("job {id} is gone"));
        if is_final(old) {
            assert_eq!(job, old);
            assert_eq!(now["logs"][id], before["logs"][id], "the log of job {id}");
        } else {
            assert_eq!(
                (&job["kind"], &job["queued_at"], &job["actor"]),
                (&old["kind"], &old["queued_at"], &old["actor"])
            );
        }
    }
    assert_eq!(now["snapshots"]["snapshots"], before["snapshots"]["snapshots"]);
    let (alerts, open) = (by_id(&now["host"]["alerts"]), by_id(&before["host"]["alerts"]));
    assert!(!open.is_empty() && open.keys().all(|id| alerts.contains_key(id)), "{alerts:?}");
    let audit = |answers: &Value| answers["audit"].as_array().expect("entries").clone();
    let said = audit(&now);
    assert!(!audit(before).is_empty() && audit(before).iter().all(|entry| said.contains(entry)), "{said:?}");

    for versions in ["schedule", "config"] {
        let wanted = |answers: &Value| answers["host"][versions]["wanted"].as_u64().expect("a version");
        assert_eq!(wanted(&now), wanted(before), "nobody has edited anything: {versions}");
    }

    // The agent is the one that was enrolled, and has an end to tell.
    fleet.start_agent();
    for (id, old) in old_jobs.iter().filter(|(_, old)| !is_final(old)) {
        let end = fleet.wait_for_job(id, Duration::from_secs(40));
        if old["status"] == "running" {
            assert_eq!(end["status"], "succeeded", "what was in the spool: {end}");
        }
    }
    // The repository is not among what a release leaves, it is restic's: the host moves to another.
    let repository = format!("url = {:?}\npassword = {{ file = \"../secrets/{{host}}\" }}\n", fleet.path("repo"));
    fleet.write("config/repositories/main.toml", &repository);
    fleet.set_cron("0 3 * * *");
    fleet.post("/v1/config/reload", "");
    eventually("the agent has moved", Duration::from_secs(30), || {
        let place = format!("{:?}", fleet.path("repo"));
        (fleet.read("agent/settings.json").contains(&place) && !fleet.read("agent/schedules.json").contains("gone"))
            .then_some(())
    });
    assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
    assert_eq!(fleet.run_job(r#"{"schedule_id":"data"}"#)["status"], "succeeded");
    for (path, bytes) in &written {
        let now = fs::read(path).expect("a segment");
        assert!(now.starts_with(bytes), "{}: lines that were written are never edited", path.display());
    }
    let history = check_history(&fleet.path("state/hosts/web-1/journal"));
    assert!(history.jobs >= old_jobs.len() + 2, "{} jobs", history.jobs);
    let log = fleet.read("server.log") + &fleet.read("agent.log");
    assert!(!log.contains("damaged"), "{log}");
}

#[test]
fn what_the_present_release_leaves_behind_it_goes_on_with() {
    let made = tempfile::tempdir().expect("a temporary directory");
    leave_behind(made.path());
    if std::env::var_os("RESTIC_MANAGER_UPGRADE_BLESS").is_some() {
        let place = releases().join(env!("CARGO_PKG_VERSION"));
        let _ = fs::remove_dir_all(&place);
        copy(made.path(), &place, &str::to_owned);
    }
    let (fleet, before) = fleet_on(made.path());
    go_on_with(fleet, &before);
}

#[test]
fn the_present_programs_go_on_with_what_every_earlier_release_left_behind() {
    let found: Vec<PathBuf> =
        fs::read_dir(releases()).expect("tests/upgrade").map(|entry| entry.expect("an entry").path()).collect();
    assert!(!found.is_empty(), "tests/upgrade is empty");
    for release in found {
        let (fleet, before) = fleet_on(&release);
        go_on_with(fleet, &before);
    }
}

/// A line of a later release, as state.md has it: with a type, or a field, that nobody here knows.
fn append_line(path: &Path, kind: &str, payload: &Value) {
    let before = fs::read_to_string(path).expect("a segment");
    let last: Value = serde_json::from_str(before.lines().last().expect("a line")).expect("JSON");
    let (seq, at) = (
        last["seq"].as_u64().expect("a seq") + 1,
        chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
    );
    let line =
        format!(r#"{{"seq":{seq},"ts":"{at}","received_at":"{at}","type":"{kind}","moon":"full","payload":{payload}"#);
    let crc = crc32c::crc32c(line.as_bytes());
    fs::write(path, format!("{before}{line},\"crc\":\"{crc:08x}\"}}\n")).expect("written");
}

#[test]
fn what_a_later_release_has_added_is_skipped_and_kept() {
    let made = tempfile::tempdir().expect("a temporary directory");
    let release = fs::read_dir(releases()).expect("tests/upgrade").next().expect("a release").expect("an entry").path();
    copy(&release, made.path(), &str::to_owned);
    let newest = |dir: &str| {
        let files =
            fs::read_dir(made.path().join(dir)).expect("a directory").map(|entry| entry.expect("an entry").path());
        files.filter(|path| path.extension().is_some_and(|e| e == "jsonl")).max().expect("a segment")
    };
    let journal = newest("state/hosts/web-1/journal");
    append_line(&journal, "moon.risen", &json!({"phase": "full"}));
    append_line(&journal, "alert.acknowledged", &json!({"moon": "no alert's id"}));
    append_line(&newest("state/fleet"), "moon.risen", &json!({}));
    for file in
        ["state/hosts/web-1/snapshots.json", "agent/identity.json", "agent/settings.json", "agent/schedules.json"]
    {
        let path = made.path().join(file);
        let text = fs::read_to_string(&path).expect(file);
        fs::write(&path, text.replacen('{', "{\"moon\":{\"phase\":\"full\"},", 1)).expect("written");
    }
    let (fleet, before) = fleet_on(made.path());
    go_on_with(fleet, &before);
}
