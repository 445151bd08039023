//! The audit log: every change is in it with whom, what and from where, before it is answered; admins alone read it.

use serde_json::{Value, json};
use sha2::Digest;

use crate::bad_input::{INSTANCE, JSON, STREAM, enroll, enrolled_with_curl, expect_as, hello};
use crate::harness::{Fleet, Process, eventually, free_port};

/// A server with tokens `boss`, `ops`, `eyes` and `part`, an admin of web-1 only, behind a proxy on this machine.
fn started() -> Fleet {
    let mut fleet = Fleet::new();
    let mut settings =
        "trusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]\n".to_owned() + &fleet.read("config/server.toml");
    for (name, role, hosts) in [
        ("boss", "admin", ""),
        ("ops", "operator", ""),
        ("eyes", "viewer", ""),
        ("part", "admin", "hosts = [\"web-*\"]\n"),
    ] {
        let sha256 = data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(name.as_bytes()));
        settings += &format!("[[tokens]]\nname = {name:?}\nrole = {role:?}\n{hosts}sha256 = {sha256:?}\n");
    }
    fleet.write("config/server.toml", &settings);
    fleet.start_server();
    fleet
}

fn bearer(name: &str) -> String {
    format!("Authorization: Bearer {name}")
}

fn audit(fleet: &Fleet, query: &str) -> Value {
    let answer = fleet.ask(&bearer("boss"), &[&format!("/v1/audit{query}")]).expect("an answer");
    assert_eq!(answer.code, 200, "{}", answer.body);
    answer.json()
}

/// The log in the order in which it was written: who, as what, what, of which host, from where.
fn changes(fleet: &Fleet) -> Vec<[String; 5]> {
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or("-").to_owned();
    let entries = audit(fleet, "?limit=1000")["audit"].as_array().expect("a list").clone();
    entries.iter().rev().map(|entry| ["by", "role", "action", "host", "client"].map(|key| text(entry, key))).collect()
}

#[test]
fn every_change_is_in_the_log_with_whom_what_and_from_where() {
    let fleet = started();
    let from = "X-Forwarded-For: 198.51.100.7, 203.0.113.9, 10.1.1.1";
    let by = |name: &str, arguments: &[&str]| {
        let answer = fleet.ask(&bearer(name), &[&["-H", from, "-H", JSON], arguments].concat()).expect("an answer");
        assert!((200..300).contains(&answer.code), "{arguments:?}: {}", answer.body);
        answer.json()
    };
    let jobs = "/v1/hosts/web-1/jobs";
    let token = by("boss", &["-d", r#"{"host":"web-1"}"#, "/v1/enrollment-tokens"])["token"].clone();
    assert_eq!(enroll(&fleet, "web-1", &token, 1, "rma_one").code, 200);
    assert_eq!(enroll(&fleet, "web-1", &token, 1, "rma_one").code, 200, "which changes nothing");
    let next =
        json!({"credential_sha256": data_encoding::HEXLOWER.encode(&sha2::Sha256::digest("rma_two"))}).to_string();
    by("rma_one", &["-d", &next, "/v1/agents/web-1/credential"]);
    by("rma_two", &["-d", &hello(INSTANCE, STREAM).to_string(), "/v1/agents/web-1/hello"]);
    let once = ["-H", "Idempotency-Key: k", "-d", r#"{"kind":"check","queue_for":"1h"}"#, jobs];
    let job = by("ops", &once);
    assert_eq!(by("ops", &once)["id"], job["id"], "no job of its own");
    by("ops", &["-d", r#"{"snapshot":"latest","queue_for":"1h"}"#, "/v1/hosts/web-1/restore"]);
    by("ops", &["-X", "POST", &format!("/v1/jobs/{}/cancel", job["id"].as_str().expect("an id"))]);
    by("ops", &["-X", "POST", "/v1/config/reload"]);
    by("boss", &["-X", "DELETE", "/v1/hosts/web-1/credential"]);
    let abandon = eventually("the agent is out of contact", std::time::Duration::from_secs(5), || {
        let path = format!("/v1/jobs/{}/abandon", job["id"].as_str()?);
        fleet.ask(&bearer("ops"), &["-X", "POST", &path]).filter(|answer| answer.code == 202)
    });
    assert_eq!(abandon.json()["id"], job["id"]);
    // Reading is no change, nor is what was refused.
    by("eyes", &["/v1/hosts"]);
    expect_as(&fleet, &bearer("ops"), &["-H", JSON, "-d", r#"{"kind":"bakcup"}"#, jobs], 422, "invalid");
    expect_as(&fleet, &bearer("eyes"), &["-H", JSON, "-d", r#"{"kind":"check"}"#, jobs], 403, "forbidden");
    let (proxied, direct) = ("203.0.113.9", "127.0.0.1");
    let expected = [
        ["boss", "admin", "enrollment_token.create", "web-1", proxied],
        ["web-1", "agent", "host.enroll", "web-1", direct],
        ["web-1", "agent", "credential.name_next", "web-1", proxied],
        ["web-1", "agent", "credential.rotate", "web-1", proxied],
        ["ops", "operator", "job.create", "web-1", proxied],
        ["ops", "operator", "job.restore", "web-1", proxied],
        ["ops", "operator", "job.cancel", "web-1", proxied],
        ["ops", "operator", "config.reload", "-", proxied],
        ["boss", "admin", "credential.revoke", "web-1", proxied],
        ["ops", "operator", "job.abandon", "web-1", direct],
    ];
    assert_eq!(changes(&fleet), expected);
    let entry = &audit(&fleet, "?limit=1")["audit"][0];
    assert_eq!(entry["job"], job["id"], "{entry}");
    assert!(entry["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{entry}");
    let log = fleet.read("server.log");
    let refused = log.lines().filter(|line| line.contains("WARN") && line.contains("this token may not do that"));
    assert_eq!(refused.filter(|line| line.contains("eyes")).count(), 1);
    // The fleet's journal is a file for tail and jq, and holds no secret.
    let entries = std::fs::read_dir(fleet.path("state/fleet")).expect("a directory").flatten();
    let journal: String = entries
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "jsonl"))
        .map(|entry| std::fs::read_to_string(entry.path()).expect("a segment"))
        .collect();
    assert_eq!(journal.matches("\"type\":\"audit\"").count(), expected.len());
    assert!(!journal.contains("rme_") && !journal.contains("rma_"));
}

#[test]
fn the_log_is_paged_newest_first_and_read_by_admins_of_all_hosts_only() {
    let fleet = started();
    for number in 0..5 {
        let body = json!({"kind": "check", "options": {}, "queue_for": "1h"}).to_string();
        let key = format!("Idempotency-Key: {number}");
        let arguments = ["-H", JSON, "-H", &key, "-d", &body, "/v1/hosts/web-1/jobs"];
        assert_eq!(fleet.ask(&bearer("ops"), &arguments).expect("an answer").code, 201);
    }
    let (mut before, mut seqs) = (String::new(), Vec::new());
    loop {
        let page = audit(&fleet, &format!("?limit=2{before}"));
        seqs.extend(
            page["audit"].as_array().expect("a list").iter().map(|entry| entry["seq"].as_u64().expect("a seq")),
        );
        let Some(next) = page["next"].as_str() else { break };
        before = format!("&before={next}");
    }
    assert_eq!(seqs.len(), 5);
    assert!(seqs.is_sorted_by(|one, other| one > other), "{seqs:?}");
    for name in ["ops", "eyes", "part"] {
        expect_as(&fleet, &bearer(name), &["/v1/audit"], 403, "forbidden");
    }
    expect_as(&fleet, "X-Nothing: here", &["/v1/audit"], 401, "unauthorized");
    let agent = enrolled_with_curl_as(&fleet);
    expect_as(&fleet, &agent, &["/v1/audit"], 401, "unauthorized");
    expect_as(&fleet, &bearer("boss"), &["/v1/audit?before=x"], 400, "bad-query");
    // Nor does the stream of all events tell it to others.
    let events = |name: &str| fleet.ask(&bearer(name), &["/v1/events?limit=1000"]).expect("an answer").body;
    assert!(events("boss").contains("\"type\":\"audit\"") && !events("eyes").contains("\"type\":\"audit\""));
    assert!(events("eyes").contains("config.adopted"));
}

/// The admin's token is `boss` here.
fn enrolled_with_curl_as(fleet: &Fleet) -> String {
    let answer = fleet.ask(&bearer("boss"), &["-H", JSON, "-d", r#"{"host":"web-1"}"#, "/v1/enrollment-tokens"]);
    let token = answer.expect("an answer").json()["token"].clone();
    assert_eq!(enroll(fleet, "web-1", &token, 1, "rma_one").code, 200);
    bearer("rma_one")
}

#[test]
fn two_servers_of_one_state_directory_have_one_log() {
    let mut fleet = Fleet::new();
    fleet.start_server();
    let (config, state, port) = (fleet.path("config"), fleet.path("state"), free_port());
    let _second = Process::serve(&config, &state, port, &fleet.path("second.log"), &[]);
    let other = Fleet { dir: tempfile::tempdir().expect("a directory"), port, server: None, agent: None };
    let ask = |arguments: &[&str]| other.ask(&fleet.bearer(), arguments).expect("an answer");
    eventually("the second server is ready", std::time::Duration::from_secs(20), || {
        other.ask("X-Nothing: here", &["/readyz"]).filter(|answer| answer.code == 200)
    });
    let _agent = enrolled_with_curl(&fleet, "web-1");
    assert_eq!(ask(&["-X", "POST", "/v1/config/reload"]).code, 200);
    fleet.post("/v1/hosts/web-1/jobs", r#"{"kind":"check","queue_for":"1h"}"#);
    let at_the_second = ask(&["/v1/audit"]).json();
    assert_eq!(at_the_second, fleet.get("/v1/audit"));
    let actions: Vec<&str> =
        at_the_second["audit"].as_array().expect("a list").iter().rev().filter_map(|e| e["action"].as_str()).collect();
    assert_eq!(actions, ["enrollment_token.create", "host.enroll", "config.reload", "job.create"]);
}
