//! Every kind of alert, from its cause with the real programs to receivers of each kind of channel and back: told once on each when it
//! begins, acknowledged, and told once when its cause has ended, while another channel is dead. What only time tells, the server's clock
//! is set forward for. The unit tests of the rules have the cases; `channels` has what goes wrong with receivers.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use restic_manager::server::alert::AlertKind;
use serde_json::{Value, json};

use crate::harness::{Fleet, eventually, text};
use crate::receivers::{MailReceiver, Receiver};

/// Debian's package `faketime`, where this machine's architecture has it.
fn clock_library() -> String {
    let places = fs::read_dir("/usr/lib").expect("/usr/lib").flatten();
    let library = places.map(|place| place.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    text(&library.expect("the package faketime is installed")).to_owned()
}

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

/// After what the test does, whatever it takes, and what it sets the clock forward for.
const DIGEST_IN: chrono::TimeDelta = chrono::TimeDelta::hours(1);

/// What the receivers were told, and how much of it was awaited.
struct Told {
    hook: Receiver,
    /// Is told of a day at once.
    daily: Receiver,
    phone: Receiver,
    mail: MailReceiver,
    /// What and of which kind, in order.
    seen: Vec<(&'static str, String)>,
    /// The alerts that were acknowledged and have not ended, by kind.
    open: Vec<(String, Value)>,
}

impl Told {
    fn start() -> Self {
        let (hook, phone, mail) = (Receiver::start(), Receiver::start(), MailReceiver::start());
        Self { hook, daily: Receiver::start(), phone, mail, seen: Vec::new(), open: Vec::new() }
    }

    fn channels(&self) -> String {
        let dead = Receiver::start().port;
        let at = (chrono::Utc::now() + DIGEST_IN).format("%H:%M");
        let of = |name: &str, rest: String| format!("[alerts.channels.{name}]\nsend_resolved = true\n{rest}\n");
        of("hook", format!("kind = \"webhook\"\nurl = {:?}", self.hook.url("/")))
            + &of("phone", format!("kind = \"ntfy\"\nurl = {:?}", self.phone.url("/topic")))
            + &of(
                "mail",
                format!(
                    "kind = \"smtp\"\nhost = \"127.0.0.1\"\nport = {}\ntls = \"none\"\nfrom = \"rm@example.org\"\nto = [\"ops@example.org\"]",
                    self.mail.port
                ),
            )
            + &of(
                "daily",
                format!("kind = \"webhook\"\nurl = {:?}\ntimezone = \"UTC\"\ndigest = \"{at}\"", self.daily.url("/")),
            )
            + &of("dead", format!("kind = \"webhook\"\nurl = \"http://127.0.0.1:{dead}/\""))
    }

    /// The next message is this one.
    fn next(&mut self, what: &'static str, kind: &str) -> Value {
        let expected = (format!("alert.{what}"), json!(kind));
        let body = eventually(&format!("{kind} is {what}"), Duration::from_secs(180), || {
            self.hook.received().get(self.seen.len()).map(super::receivers::Received::json)
        });
        self.seen.push((what, kind.to_owned()));
        let alert = body["alerts"][0].clone();
        assert_eq!((body["type"].as_str().unwrap_or_default().to_owned(), alert["kind"].clone()), expected, "{body}");
        alert
    }

    /// It begins; an operator says that it is seen to, and it stays open.
    fn raised(&mut self, fleet: &Fleet, kind: &str) -> Value {
        let alert = self.next("raised", kind);
        let id = alert["id"].as_str().expect("an id");
        // What somebody has seen to is told no more.
        eventually(&format!("{kind} is told on every channel"), Duration::from_secs(30), || {
            let all = fleet.get("/v1/alerts");
            let told = all["alerts"].as_array()?.iter().find(|open| open["id"] == alert["id"])?["told"].clone();
            ["hook", "phone", "mail"].iter().all(|channel| told[channel].is_string()).then_some(())
        });
        let seen = fleet.post(&format!("/v1/alerts/{id}/ack"), "");
        assert_eq!((&seen["id"], &seen["acknowledged_by"]), (&alert["id"], &json!("admin-token")), "{seen}");
        assert!(open_ids(fleet).contains(&alert["id"]), "{kind} stays open");
        self.open.push((kind.to_owned(), alert["id"].clone()));
        alert
    }

    /// The one that was raised is over, and nobody has ended it.
    fn resolved(&mut self, fleet: &Fleet, kind: &str) {
        let alert = self.next("resolved", kind);
        let open = self.open.iter().position(|(of, id)| of == kind && *id == alert["id"]);
        assert!(open.is_some(), "it was raised: {alert}");
        self.open.retain(|(_, id)| *id != alert["id"]);
        assert_eq!(alert["acknowledged_by"], "admin-token", "{alert}");
        assert!(alert["ended_at"].is_string() && !open_ids(fleet).contains(&alert["id"]), "{alert}");
    }

    /// Each kind that there is has begun and ended, and each channel was told each once, in whatever order.
    fn expect_every_kind_once(&self) {
        for what in ["raised", "resolved"] {
            let seen: BTreeSet<&str> =
                self.seen.iter().filter(|(of, _)| *of == what).map(|(_, kind)| kind.as_str()).collect();
            let every: BTreeSet<&str> = AlertKind::ALL.iter().map(|kind| kind.as_str()).collect();
            assert_eq!(seen, every, "a new kind of alert is {what} here too");
        }
        let titles = |of: Vec<String>| {
            let mut titles = of;
            titles.sort();
            titles
        };
        let hook = titles(self.hook.received().iter().map(|got| said(&got.json()["title"])).collect());
        assert_eq!(hook.len(), self.seen.len(), "each once");
        let of_phone = || titles(self.phone.received().iter().map(|got| said(&got.json()["title"])).collect());
        eventually("the phone was told all", Duration::from_secs(30), || {
            (of_phone().len() >= hook.len()).then_some(())
        });
        assert_eq!(of_phone(), hook);
        eventually("all mails came", Duration::from_secs(30), || {
            (self.mail.subjects().len() >= hook.len()).then_some(())
        });
        assert_eq!(titles(self.mail.subjects()), hook);
    }
}

fn said(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn open_ids(fleet: &Fleet) -> Vec<Value> {
    fleet.get("/v1/alerts")["alerts"].as_array().expect("alerts").iter().map(|alert| alert["id"].clone()).collect()
}

/// From now on the server's clock is so far ahead. In one piece, so that nobody reads half of it.
fn set_clock(fleet: &Fleet, ahead_secs: u64) {
    fleet.write("clock.next", &format!("+{ahead_secs}\n"));
    fs::rename(fleet.path("clock.next"), fleet.path("clock")).expect("renamed");
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
    let mut told = Told::start();
    fleet.write("config/server.toml", &format!("secret_roots = [\"../secrets\"]\n{}", told.channels()));
    let second = format!("url = {:?}\npassword = {{ file = \"../secrets/web-1\" }}\n", fleet.path("second"));
    fleet.write("config/repositories/second.toml", &second);
    fleet.write("scripted-restic", SCRIPT);
    let restic = fleet.path("scripted-restic");
    fs::set_permissions(&restic, fs::Permissions::from_mode(0o755)).expect("chmod");
    set_clock(&fleet, 0);
    let (library, clock) = (clock_library(), text(&fleet.path("clock")).to_owned());
    let with_its_clock = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", &clock),
        ("FAKETIME_CACHE_DURATION", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("NO_FAKE_STAT", "1"),
    ];
    fleet.start_server_with(&with_its_clock);
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
        let alert = told.raised(&fleet, kind);
        assert_eq!((&alert["host"], &alert["schedule_id"]), (&json!("web-1"), &json!(schedule)));
        assert!(alert["text"].as_str().is_some_and(|said| said.contains(&format!("no {command} today"))), "{alert}");
        fs::remove_file(fleet.path(&trouble)).expect("removed");
        if schedule == "data" {
            fleet.write("data/changes", "again");
        }
        run(schedule, "succeeded");
        told.resolved(&fleet, kind);
    }
    run("away", "failed");
    told.raised(&fleet, "job_failed");
    assert_eq!(fleet.run_job(r#"{"kind":"init","options":{"to":"second"}}"#)["status"], "succeeded");
    run("away", "succeeded");
    told.resolved(&fleet, "job_failed");

    // Snapshots that are not what they should be.
    fleet.write("incomplete", "");
    back_up("5");
    told.raised(&fleet, "backup_incomplete");
    fs::remove_file(fleet.path("incomplete")).expect("removed");
    back_up("6");
    told.resolved(&fleet, "backup_incomplete");
    fs::rename(fleet.path("data"), fleet.path("kept")).expect("moved");
    fs::create_dir(fleet.path("data")).expect("a folder");
    back_up("7");
    told.raised(&fleet, "backup_shrunk");
    fs::remove_dir_all(fleet.path("data")).expect("removed");
    fs::rename(fleet.path("kept"), fleet.path("data")).expect("moved");
    back_up("8");
    told.resolved(&fleet, "backup_shrunk");
    run("data", "succeeded");
    run("data", "succeeded");
    told.raised(&fleet, "no_new_data");
    back_up("9");
    told.resolved(&fleet, "no_new_data");

    // What only time tells.
    host_file(&fleet, "", "max_age = \"1s\"\n");
    told.raised(&fleet, "stale_schedule");
    host_file(&fleet, "", "max_age = \"1d\"\n");
    told.resolved(&fleet, "stale_schedule");
    // Two minutes are the least that a host may be given.
    host_file(&fleet, "offline_after = \"2m\"\n", "");
    fleet.agent = None;
    set_clock(&fleet, 180);
    told.raised(&fleet, "agent_offline");
    fleet.start_agent();
    told.resolved(&fleet, "agent_offline");
    host_file(&fleet, "offline_after = \"1d\"\n", "");

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
    told.raised(&fleet, "host_conflict");
    set_clock(&fleet, 180 + 11 * 60);
    told.resolved(&fleet, "host_conflict");

    fleet.write("config/hosts/web-2.toml", "repository = 5\n");
    fleet.post("/v1/config/reload", "");
    told.raised(&fleet, "config_rejected");
    fs::remove_file(fleet.path("config/hosts/web-2.toml")).expect("removed");
    fleet.post("/v1/config/reload", "");
    told.resolved(&fleet, "config_rejected");
    told.expect_every_kind_once();
    // The day's digest comes at its time, once, and tells what has ended since the channel is there.
    assert_eq!(told.daily.received().len(), 0);
    set_clock(&fleet, 61 * 60);
    let digest = told.daily.await_count(1)[0].json();
    let ended = AlertKind::ALL.len();
    assert_eq!(digest["title"], format!("restic-manager: no alert is open, {ended} have ended"), "{digest}");
    assert_eq!(digest["alerts"].as_array().map(Vec::len), Some(ended));
    let channel = |fleet: &Fleet, name: &str| {
        let channels = fleet.get("/v1/alerts/channels")["channels"].clone();
        channels
            .as_array()
            .expect("channels")
            .iter()
            .find(|channel| channel["name"] == name)
            .cloned()
            .expect("it is there")
    };
    eventually("that it was sent is written down", Duration::from_secs(20), || {
        channel(&fleet, "daily")["last_sent_at"].is_string().then_some(())
    });
    fleet.start_server_with(&with_its_clock);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(told.daily.received().len(), 1, "not again after a restart");
    // One that nobody answers at has delayed none of these, and is still tried.
    let dead = channel(&fleet, "dead");
    assert!(dead["failures"].as_u64() > Some(2), "{dead}");
}
