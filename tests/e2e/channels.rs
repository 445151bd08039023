//! Alerts reach people: each once on each channel, signed, harmless, with nothing secret left behind; a channel that is out of order
//! keeps nothing back and is told when it is back; schedules ping. With two servers the same.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Fleet, eventually, text};
use crate::receivers::{Received, Receiver};
use crate::secrets::{files_below, found_in};

const SIGNING_KEY: &str = "canary-21 signing+key\"/ö";
const NTFY_TOKEN: &str = "tk_canary22ofntfy";
const SECRET_PATH: &str = "/T00/canary-23-in-a-path";
const HEADER_TOKEN: &str = "canary-24-in-a-header";
const PING_PATH: &str = "/canary-25-of-a-ping";

/// A fleet whose restic fails, with hostile words, as long as the file `broken` is there.
fn fleet() -> Fleet {
    let fleet = Fleet::new();
    let (restic, broken) = (fleet.path("failing-restic"), fleet.path("broken"));
    let script = format!(
        "#!/bin/sh\nif [ -e '{}' ] && [ \"$1\" != version ]; then printf 'Fatal: a\\tBcc: x@y\\033[31m\\342\\200\\256<b>\\n' >&2; exit 1; fi\nexec restic \"$@\"\n",
        text(&broken)
    );
    fs::write(&restic, script).expect("write");
    fs::set_permissions(&restic, fs::Permissions::from_mode(0o755)).expect("chmod");
    for (name, secret) in [("key", SIGNING_KEY), ("ntfy", NTFY_TOKEN), ("header", HEADER_TOKEN)] {
        fleet.write(&format!("secrets/{name}"), secret);
    }
    fleet
}

fn start_agent(fleet: &mut Fleet) {
    fleet.enroll("agent");
    let restic = fleet.path("failing-restic");
    fleet.permit_everything("agent", text(&restic));
    fleet.start_agent();
}

fn secret(name: &str) -> String {
    format!("{{ file = \"../secrets/{name}\" }}")
}

fn set_channels(fleet: &Fleet, channels: &str) {
    fleet.write(
        "config/server.toml",
        &format!("secret_roots = [\"../secrets\"]\npublic_url = \"https://b.example\"\n{channels}"),
    );
}

fn hook(receiver: &Receiver) -> String {
    format!(
        "[alerts.channels.hook]\nkind = \"webhook\"\nurl = {:?}\nsecret = {}\nsend_resolved = true\n[alerts.channels.hook.headers]\nAuthorization = {}\n",
        receiver.url(SECRET_PATH),
        secret("key"),
        secret("header")
    )
}

fn other(name: &str, url: &str) -> String {
    format!("[alerts.channels.{name}]\nkind = \"webhook\"\nurl = {url:?}\n")
}

/// Type and kinds of what came, in order.
fn told(received: &[Received]) -> Vec<String> {
    let of_one = |received: &Received| {
        let body = received.json();
        let kinds: Vec<&str> =
            body["alerts"].as_array().expect("alerts").iter().filter_map(|a| a["kind"].as_str()).collect();
        format!("{} {}", body["type"].as_str().unwrap_or("-"), kinds.join(","))
    };
    received.iter().map(of_one).collect()
}

fn channel(fleet: &Fleet, name: &str) -> Value {
    let all = fleet.get("/v1/alerts/channels");
    let found = all["channels"].as_array().expect("a list").iter().find(|channel| channel["name"] == name).cloned();
    found.expect("the channel")
}

fn plain(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn fleets_journal(fleet: &Fleet) -> String {
    let files = files_below(&fleet.path("state/fleet"));
    files.iter().filter_map(|path| fs::read_to_string(path).ok()).collect()
}

fn run(fleet: &Fleet) -> Value {
    fleet.run_job(r#"{"schedule_id":"data"}"#)
}

#[test]
fn each_alert_is_told_once_on_each_channel_whatever_is_out_of_order() {
    let mut fleet = fleet();
    let (web, ntfy, hole) = (Receiver::start(), Receiver::start(), Receiver::start());
    hole.answer(0);
    let dead = { Receiver::start().port };
    let channels = [
        hook(&web),
        format!(
            "[alerts.channels.phone]\nkind = \"ntfy\"\nurl = {:?}\ntoken = {}\n",
            ntfy.url("/topic-1"),
            secret("ntfy")
        ),
        other("dead", &format!("http://127.0.0.1:{dead}/")),
        other("hole", &hole.url("/")),
    ];
    set_channels(&fleet, &channels.concat());
    fleet.start_server_with(&[("RUST_LOG", "trace")]);
    start_agent(&mut fleet);
    assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
    fleet.write("broken", "");
    assert_eq!(run(&fleet)["status"], "failed");
    let first = web.await_count(1);
    assert_eq!(told(&first), ["alert.raised backup_failed"]);
    let (request, body) = (&first[0], first[0].json());
    assert!(request.is_signed_with(SIGNING_KEY), "{request:?}");
    assert_eq!((request.path.as_str(), request.header("authorization")), (SECRET_PATH, HEADER_TOKEN));
    assert_eq!(request.header("idempotency-key"), body["id"].as_str().expect("an id"));
    let alert = body["alerts"][0].clone();
    assert_eq!(
        (&alert["host"], &alert["schedule_id"], &alert["severity"]),
        (&json!("web-1"), &json!("data"), &json!("error"))
    );
    let said = alert["text"].as_str().expect("text");
    assert!(said.contains("Bcc: x@y") && !said.chars().any(|c| c.is_control() || c == '\u{202e}'), "{said:?}");
    let phone = ntfy.await_count(1)[0].clone();
    let note = phone.json();
    assert_eq!(phone.header("authorization"), format!("Bearer {NTFY_TOKEN}"));
    assert_eq!((&note["topic"], &note["title"]), (&json!("topic-1"), &json!("web-1: backup_failed (data)")));
    assert_eq!(
        (&note["priority"], &note["click"]),
        (&json!(4), &json!(format!("https://b.example/jobs/{}", plain(&alert["job_id"]))))
    );
    assert!(note["message"].as_str().is_some_and(|text| !text.contains(['\r', '\u{1b}', '\u{202e}'])), "{note}");

    // Seen to, and told no more; another failure is the same alert.
    let id = alert["id"].as_str().expect("an id");
    fleet.post(&format!("/v1/alerts/{id}/ack"), "");
    run(&fleet);
    let dead_now = eventually("the dead one is known to be", Duration::from_secs(10), || {
        Some(channel(&fleet, "dead")).filter(|found| found["failures"].as_u64() >= Some(1))
    });
    assert!(dead_now["last_error"].as_str().is_some_and(|error| error.contains("cannot connect to")), "{dead_now}");
    assert!(dead_now["next_try_at"].is_string(), "{dead_now}");
    eventually("who was told is shown", Duration::from_secs(5), || {
        fleet.get("/v1/alerts")["alerts"][0]["told"]["hook"].is_string().then_some(())
    });

    // Its end is told where that is wanted.
    fs::remove_file(fleet.path("broken")).expect("removed");
    assert_eq!(run(&fleet)["status"], "succeeded");
    assert_eq!(told(&web.await_count(2)), ["alert.raised backup_failed", "alert.resolved backup_failed"]);
    // The fleet's own, once, however often it is edited.
    let good = fleet.read("config/hosts/web-1.toml");
    for wrong in ["repository = 5\n", "repository = 6\n"] {
        fleet.write("config/hosts/web-1.toml", wrong);
        fleet.post("/v1/config/reload", "");
        assert_eq!(told(&web.await_count(3))[2], "alert.raised config_rejected");
    }
    fleet.write("config/hosts/web-1.toml", &good);
    fleet.post("/v1/config/reload", "");
    assert_eq!(told(&web.await_count(4))[3..], ["alert.resolved config_rejected"]);

    // Back, the dead one is told what it has missed and nobody has seen to.
    let back = Receiver::at(dead);
    let missed = back.await_count(1);
    assert_eq!(told(&missed), ["alert.raised config_rejected"]);
    assert!(missed[0].json()["alerts"][0]["ended_at"].is_string());
    eventually("it is in order", Duration::from_secs(5), || (channel(&fleet, "dead")["failures"] == 0).then_some(()));
    eventually("it is written down who was told", Duration::from_secs(10), || {
        ["hook", "phone", "dead"].iter().all(|name| channel(&fleet, name)["waiting"] == 0).then_some(())
    });
    // kill -9 changes nothing of what was told.
    fleet.server.as_mut().expect("a server").kill();
    fleet.start_server_with(&[("RUST_LOG", "trace")]);
    std::thread::sleep(Duration::from_secs(2));
    let counts = [web.received().len(), ntfy.received().len(), back.received().len()];
    assert_eq!(counts, [4, 2, 1], "each once: {:?}", told(&web.received()));

    let mut answers: Vec<(String, String)> = Vec::new();
    for path in ["/v1/alerts/channels", "/v1/alerts", "/v1/config", "/v1/config/files", "/v1/events", "/v1/audit"] {
        answers.push((path.to_owned(), fleet.curl(&[path]).expect("an answer").1));
    }
    (fleet.agent, fleet.server) = (None, None);
    expect_no_canary(&fleet, &answers);
}

/// In no file but those that are there to hold one, and no answer.
fn expect_no_canary(fleet: &Fleet, answers: &[(String, String)]) {
    let named = [
        ("key", SIGNING_KEY),
        ("ntfy", NTFY_TOKEN),
        ("path", SECRET_PATH),
        ("header", HEADER_TOKEN),
        ("ping", PING_PATH),
    ];
    let canaries = named.map(|(name, secret)| (name, secret.to_owned()));
    let mut leaks = Vec::new();
    for path in files_below(fleet.dir.path()) {
        let shown = path.strip_prefix(fleet.dir.path()).expect("below").to_string_lossy().into_owned();
        // What was written into the configuration is in its files, and in the server's own copy of them.
        if shown.starts_with("secrets/") || shown.starts_with("config/") || shown == "state/fleet/adopted.json" {
            continue;
        }
        let found = found_in(&fs::read(&path).expect("read"), &canaries);
        leaks.extend(found.into_iter().map(|leak| format!("{shown}: {leak}")));
    }
    for (path, answer) in answers {
        leaks.extend(found_in(answer.as_bytes(), &canaries).into_iter().map(|leak| format!("{path}: {leak}")));
    }
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
}

#[test]
fn a_channel_is_tested_and_says_what_is_wrong_and_schedules_ping() {
    let mut fleet = fleet();
    let (web, pings) = (Receiver::start(), Receiver::start());
    let dead = { Receiver::start().port };
    set_channels(&fleet, &[hook(&web), other("dead", &format!("http://127.0.0.1:{dead}{SECRET_PATH}"))].concat());
    let host = fleet.read("config/hosts/web-1.toml");
    fleet.write(
        "config/hosts/web-1.toml",
        &format!("{host}ping_url = {:?}\n", pings.url(&format!("{PING_PATH}/{{host}}"))),
    );
    fleet.start_server_with(&[("RUST_LOG", "trace")]);
    let mut answers = Vec::new();
    let mut expect = |name: &str, status: u16, words: &[&str]| {
        let (code, answer) = fleet.try_post("/v1/alerts/test", &json!({ "channel": name }).to_string());
        let answer = answer.to_string();
        assert_eq!(code, status, "{answer}");
        assert!(words.iter().all(|word| answer.contains(word)), "{answer}");
        answers.push((name.to_owned(), answer));
    };
    expect("hook", 200, &["answered 200 said"]);
    assert_eq!(told(&web.await_count(1)), ["alert.test "]);
    assert!(web.received()[0].is_signed_with(SIGNING_KEY));
    web.answer(401);
    expect("hook", 502, &["channel-failed", "answered 401", "see whether the token"]);
    expect("dead", 502, &["channel-failed", "cannot connect to", "refused"]);
    expect("hokk", 404, &["no-such-channel"]);
    fs::remove_file(fleet.path("secrets/key")).expect("removed");
    expect("hook", 502, &["server.toml:", "secrets/key"]);
    fleet.write("secrets/key", SIGNING_KEY);
    assert_eq!(fleet.try_post("/v1/alerts/test", "{}").0, 422);
    let audit = fleet.get("/v1/audit");
    assert_eq!(audit["audit"][0]["action"], "alert.test", "{audit}");

    // Pings: the first is not taken, and comes again.
    pings.answer(503);
    start_agent(&mut fleet);
    assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
    fleet.write("broken", "");
    run(&fleet);
    pings.await_count(1);
    pings.answer(200);
    let paths =
        |pings: &Receiver| -> Vec<String> { pings.received().into_iter().map(|request| request.path).collect() };
    let (start, end) = (format!("{PING_PATH}/web-1/start"), format!("{PING_PATH}/web-1"));
    let failed = format!("{end}/fail");
    eventually("the failure is told", Duration::from_secs(20), || {
        (paths(&pings).iter().filter(|path| **path == failed).count() >= 1).then_some(())
    });
    fs::remove_file(fleet.path("broken")).expect("removed");
    assert_eq!(run(&fleet)["status"], "succeeded");
    eventually("the success is told", Duration::from_secs(20), || (paths(&pings).last() == Some(&end)).then_some(()));
    assert!(paths(&pings).iter().all(|path| [&start, &end, &failed].contains(&path)), "{:?}", paths(&pings));
    for path in ["/v1/hosts/web-1", "/v1/hosts/web-1/schedules", "/v1/config/files"] {
        answers.push((path.to_owned(), fleet.curl(&[path]).expect("an answer").1));
    }
    (fleet.agent, fleet.server) = (None, None);
    expect_no_canary(&fleet, &answers);
}

#[test]
fn who_is_killed_between_sending_and_writing_sends_the_same_id_again() {
    let mut fleet = Fleet::new();
    let web = Receiver::start();
    web.answer(0);
    set_channels(&fleet, &other("hook", &web.url("/")));
    fleet.start_server();
    fleet.write("config/hosts/web-1.toml", "repository = 5\n");
    fleet.post("/v1/config/reload", "");
    let first = web.await_count(1);
    fleet.server.as_mut().expect("a server").kill();
    web.answer(200);
    fleet.start_server();
    let both = web.await_count(2);
    assert_eq!(both[0].header("idempotency-key"), both[1].header("idempotency-key"));
    assert_eq!(told(&both), ["alert.raised config_rejected", "alert.raised config_rejected"]);
    assert_eq!(first.len(), 1);
    fleet.write("config/hosts/web-1.toml", "repository = \"main\"\n");
    fleet.post("/v1/config/reload", "");
    eventually("its end", Duration::from_secs(20), || {
        fleet.get("/v1/alerts")["alerts"].as_array().expect("alerts").is_empty().then_some(())
    });
    // The digest of a channel that is new tells nothing of what was before it (`every_alert` has one that has something to say).
    let at = (chrono::Utc::now() - chrono::TimeDelta::hours(1)).format("%H:%M");
    let daily = Receiver::start();
    let digest = format!("{}digest = \"{at}\"\n", other("daily", &daily.url("/")));
    set_channels(&fleet, &[other("hook", &web.url("/")), digest].concat());
    fleet.post("/v1/config/reload", "");
    eventually("its first day has begun", Duration::from_secs(20), || {
        fleets_journal(&fleet).contains("\"channel\":\"daily\"").then_some(())
    });
    fleet.start_server();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((web.received().len(), daily.received().len()), (2, 0));
}
