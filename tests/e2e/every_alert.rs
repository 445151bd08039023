//! Every kind of alert, from its cause with the real programs to a receiver and back: told once when it begins, and once when its cause
//! has ended. The unit tests of the rules have the cases; `channels` has what goes wrong with receivers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Fleet, eventually, text};
use crate::receivers::Receiver;

/// restic fails at a command, or misses a source, while a file here says so.
const SCRIPT: &str = r#"#!/bin/sh
here=$(dirname "$0")
if [ -e "$here/fail-$1" ]; then echo "Fatal: no $1 today" >&2; exit 1; fi
if [ "$1" = backup ] && [ -e "$here/incomplete" ]; then
    restic "$@" || exit
    echo 'error: open /data/secret: permission denied' >&2
    exit 3
fi
exec restic "$@"
"#;

const SCHEDULES: &str = r#"
[[schedule]]
id = "look"
kind = "check"
cron = "0 5 1 1 *"
[[schedule]]
id = "thin"
kind = "forget"
cron = "0 6 1 1 *"
options = { schedule = "data" }
retention = { keep_last = 20 }
[[schedule]]
id = "sweep"
kind = "prune"
cron = "0 7 1 1 *"
[[schedule]]
id = "proof"
kind = "verify"
cron = "0 8 1 1 *"
[[schedule]]
id = "away"
kind = "copy"
cron = "0 9 1 1 *"
options = { to = "second" }
"#;

/// What the receiver was told, and how much of it was awaited.
struct Told {
    receiver: Receiver,
    count: usize,
}

impl Told {
    /// The next message is this one.
    fn next(&mut self, what: &str, kind: &str) -> Value {
        let expected = (format!("alert.{what}"), json!(kind));
        let body = eventually(&format!("{kind} is {what}"), Duration::from_secs(180), || {
            self.receiver.received().get(self.count).map(super::receivers::Received::json)
        });
        self.count += 1;
        let alert = body["alerts"][0].clone();
        assert_eq!((body["type"].as_str().unwrap_or_default().to_owned(), alert["kind"].clone()), expected, "{body}");
        alert
    }
}

fn host_file(fleet: &Fleet, head: &str, of_data: &str) {
    let data = fleet.path("data");
    fleet.write(
        "config/hosts/web-1.toml",
        &format!(
            "repository = \"main\"\ntimezone = \"UTC\"\n{head}[[schedule]]\nid = \"data\"\nkind = \"backup\"\ncron = \"0 3 1 1 *\"\npaths = [{data:?}]\nalarms = {{ no_new_data = 2 }}\n{of_data}{SCHEDULES}"
        ),
    );
    let view = fleet.post("/v1/config/reload", "");
    assert_eq!(view["files_run"], true, "{view}");
}

#[test]
fn each_kind_is_told_when_it_begins_and_when_its_cause_has_ended() {
    let mut fleet = Fleet::new();
    let mut told = Told { receiver: Receiver::start(), count: 0 };
    fleet.write(
        "config/server.toml",
        &format!(
            "secret_roots = [\"../secrets\"]\n[alerts.channels.hook]\nkind = \"webhook\"\nurl = {:?}\nsend_resolved = true\n",
            told.receiver.url("/")
        ),
    );
    let second = format!("url = {:?}\npassword = {{ file = \"../secrets/web-1\" }}\n", fleet.path("second"));
    fleet.write("config/repositories/second.toml", &second);
    fleet.write("scripted-restic", SCRIPT);
    let restic = fleet.path("scripted-restic");
    fs::set_permissions(&restic, fs::Permissions::from_mode(0o755)).expect("chmod");
    fleet.start_server();
    host_file(&fleet, "", "");
    fleet.enroll("agent");
    fleet.permit_everything("agent", text(&restic));
    fleet.start_agent();
    let run = |schedule: &str, status: &str| {
        let job = fleet.run_job(&json!({"schedule_id": schedule}).to_string());
        assert_eq!(job["status"], status, "{schedule}: {job}");
    };
    let back_up = |change: &str| {
        fleet.write("data/changes", change);
        run("data", "succeeded");
    };
    assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
    for change in ["1", "2", "3", "4"] {
        back_up(change);
    }

    // A job of each kind fails, and succeeds.
    let kinds = [
        ("data", "backup", "backup_failed"),
        ("look", "check", "check_failed"),
        ("thin", "forget", "forget_failed"),
        ("sweep", "prune", "prune_failed"),
        ("proof", "restore", "verify_failed"),
    ];
    for (schedule, command, kind) in kinds {
        let trouble = format!("fail-{command}");
        fleet.write(&trouble, "");
        run(schedule, "failed");
        let alert = told.next("raised", kind);
        assert_eq!((&alert["host"], &alert["schedule_id"]), (&json!("web-1"), &json!(schedule)));
        assert!(alert["text"].as_str().is_some_and(|said| said.contains(&format!("no {command} today"))), "{alert}");
        fs::remove_file(fleet.path(&trouble)).expect("removed");
        if schedule == "data" {
            fleet.write("data/changes", "again");
        }
        run(schedule, "succeeded");
        told.next("resolved", kind);
    }
    run("away", "failed");
    told.next("raised", "job_failed");
    assert_eq!(fleet.run_job(r#"{"kind":"init","options":{"to":"second"}}"#)["status"], "succeeded");
    run("away", "succeeded");
    told.next("resolved", "job_failed");

    // Snapshots that are not what they should be.
    fleet.write("incomplete", "");
    back_up("5");
    told.next("raised", "backup_incomplete");
    fs::remove_file(fleet.path("incomplete")).expect("removed");
    back_up("6");
    told.next("resolved", "backup_incomplete");
    fs::rename(fleet.path("data"), fleet.path("kept")).expect("moved");
    fs::create_dir(fleet.path("data")).expect("a folder");
    back_up("7");
    told.next("raised", "backup_shrunk");
    fs::remove_dir_all(fleet.path("data")).expect("removed");
    fs::rename(fleet.path("kept"), fleet.path("data")).expect("moved");
    back_up("8");
    told.next("resolved", "backup_shrunk");
    run("data", "succeeded");
    run("data", "succeeded");
    told.next("raised", "no_new_data");
    back_up("9");
    told.next("resolved", "no_new_data");

    // What only time tells.
    host_file(&fleet, "", "max_age = \"1s\"\n");
    told.next("raised", "stale_schedule");
    host_file(&fleet, "", "max_age = \"1d\"\n");
    told.next("resolved", "stale_schedule");
    // Two minutes are the least that a host may be given, too long for every run.
    if std::env::var("RESTIC_MANAGER_BARS").is_ok_and(|bars| bars == "full") {
        host_file(&fleet, "offline_after = \"2m\"\n", "");
        fleet.agent = None;
        told.next("raised", "agent_offline");
        fleet.start_agent();
        told.next("resolved", "agent_offline");
    }

    // Two machines in turns; that they no longer are is known ten minutes later.
    let identity: Value = serde_json::from_str(&fleet.read("agent/identity.json")).expect("JSON");
    fleet.agent = None;
    let bearer = format!("Authorization: Bearer {}", identity["credential"].as_str().expect("a credential"));
    for turn in 0..7 {
        let instance = format!("00000000-0000-4000-8000-{:012}", turn % 2);
        let hello = json!({"protocol_version": 1, "agent_version": "0.1.0", "hostname": "web-1", "os": "linux", "arch": "amd64",
            "instance_id": instance, "stream": instance});
        let answer = fleet.ask(&bearer, &["-d", &hello.to_string(), "/v1/agents/web-1/hello"]).expect("an answer");
        assert!(matches!(answer.code, 200 | 409), "{}", answer.body);
    }
    told.next("raised", "host_conflict");

    fleet.write("config/hosts/web-2.toml", "repository = 5\n");
    fleet.post("/v1/config/reload", "");
    told.next("raised", "config_rejected");
    fs::remove_file(fleet.path("config/hosts/web-2.toml")).expect("removed");
    fleet.post("/v1/config/reload", "");
    told.next("resolved", "config_rejected");
    assert_eq!(told.receiver.received().len(), told.count, "each once");
}
