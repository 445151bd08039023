//! What is wrong gets a clear error, as problem+json with a stable code, and loses nothing.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Fleet, eventually, text};

const JSON: &str = "Content-Type: application/json";

/// The whole answer must be a problem with this status and code.
fn expect(fleet: &Fleet, arguments: &[&str], status: u16, code: &str) -> Value {
    let (got, body) = fleet.curl(arguments).expect("an answer");
    let problem: Value = serde_json::from_str(&body).unwrap_or_default();
    assert_eq!((got, problem["code"].as_str()), (status, Some(code)), "{arguments:?}: {body}");
    for field in ["type", "title", "status", "detail"] {
        assert!(!problem[field].is_null(), "{field} is missing: {body}");
    }
    problem
}

#[test]
fn a_broken_edit_changes_nothing_until_it_is_mended_also_across_a_restart() {
    let mut fleet = Fleet::started();
    let before = fleet.get("/v1/hosts/web-1/schedules");
    let good = fleet.read("config/hosts/web-1.toml");
    fleet.write("config/hosts/web-1.toml", &good.replace("paths", "pahts"));
    let told = |fleet: &Fleet| {
        let view = eventually("the problem is told", Duration::from_secs(10), || {
            let view = fleet.get("/v1/config");
            (view["files_run"] == false).then_some(view)
        });
        let problem = &view["problems"][0];
        assert_eq!((&problem["file"], &problem["line"]), (&json!("hosts/web-1.toml"), &json!(7)), "{view}");
        assert!(problem["message"].as_str().is_some_and(|m| m.contains("pahts") && m.contains("paths")), "{view}");
    };
    told(&fleet);
    assert_eq!(fleet.get("/v1/hosts/web-1/schedules")["version"], before["version"]);
    fleet.server = None;
    fleet.start_server();
    told(&fleet);
    // As power loss between two renames leaves it.
    fleet.server = None;
    fs::rename(fleet.path("state/fleet/adopted"), fleet.path("state/fleet/adopted.new")).expect("rename");
    fleet.start_server();
    told(&fleet);
    assert_eq!(fleet.get("/v1/hosts/web-1/schedules")["schedules"][0]["paths"], before["schedules"][0]["paths"]);
    fleet.write("config/hosts/web-1.toml", &good.replace("0 3 * * *", "5 4 * * *"));
    eventually("the mended file is applied", Duration::from_secs(40), || {
        let host = fleet.get("/v1/hosts/web-1");
        (host["schedule"]["applied"] == 2 && fleet.get("/v1/config")["files_run"] == true).then_some(())
    });
}

#[test]
fn requests_that_are_wrong_are_told_what_is_wrong() {
    let fleet = Fleet::started();
    let job = "/v1/jobs/0190b5a2-7c1e-4c3a-9f00-0123456789ab";
    expect(&fleet, &["-X", "POST", "-H", JSON, "-d", "{no json", "/v1/hosts/web-1/jobs"], 400, "not-json");
    expect(&fleet, &["-X", "POST", "-H", JSON, "-d", "{}", "/v1/hosts/web-1/jobs"], 422, "invalid");
    expect(&fleet, &["-X", "POST", "-H", JSON, "-d", r#"{"kind":"bakcup"}"#, "/v1/hosts/web-1/jobs"], 422, "invalid");
    expect(
        &fleet,
        &["-X", "POST", "-H", JSON, "-d", r#"{"kind":"init","optoins":{}}"#, "/v1/hosts/web-1/jobs"],
        422,
        "invalid",
    );
    expect(&fleet, &["-X", "POST", "-d", "{}", "/v1/hosts/web-1/jobs"], 415, "not-json");
    expect(
        &fleet,
        &["-X", "POST", "-H", JSON, "-d", r#"{"kind":"init"}"#, "/v1/hosts/nobody/jobs"],
        404,
        "no-such-host",
    );
    expect(&fleet, &[job], 404, "no-such-job");
    expect(&fleet, &["-X", "POST", &format!("{job}/cancel")], 404, "no-such-job");
    expect(&fleet, &["/v1/jobs/x"], 404, "not-found");
    expect(&fleet, &["/v1/nothing"], 404, "no-such-path");
    expect(&fleet, &["-X", "DELETE", "/v1/hosts"], 405, "method-not-allowed");
    expect(&fleet, &["/v1/hosts/web-1/jobs?limit=many"], 400, "bad-query");
    expect(&fleet, &["/v1/events?after=x"], 400, "bad-cursor");
    for header in ["Authorization: Bearer wrong", "X-Nothing: here"] {
        let (code, body) = fleet.curl_as(header, &["/v1/hosts"]).expect("an answer");
        assert!(code == 401 && body.contains("unauthorized"), "{code} {body}");
    }
    fs::write(fleet.path("large"), "x".repeat(300 * 1024)).expect("write");
    let large = format!("@{}", text(&fleet.path("large")));
    expect(&fleet, &["-X", "POST", "-H", JSON, "--data-binary", &large, "/v1/hosts/web-1/jobs"], 413, "body-too-large");

    let once =
        ["-X", "POST", "-H", JSON, "-H", "Idempotency-Key: k1", "-d", r#"{"kind":"init"}"#, "/v1/hosts/web-1/jobs"];
    let (first, again) = (fleet.curl(&once).expect("an answer"), fleet.curl(&once).expect("an answer"));
    let id = |body: &str| serde_json::from_str::<Value>(body).expect("JSON")["id"].clone();
    assert_eq!((first.0, again.0, id(&first.1)), (201, 200, id(&again.1)));
    let other =
        ["-X", "POST", "-H", JSON, "-H", "Idempotency-Key: k1", "-d", r#"{"kind":"check"}"#, "/v1/hosts/web-1/jobs"];
    expect(&fleet, &other, 422, "idempotency-key-reused");
}

#[test]
fn an_agent_written_with_curl_is_told_gaps_and_repetitions() {
    let mut fleet = Fleet::started();
    fleet.agent = None;
    let credential: Value = serde_json::from_str(&fleet.read("agent/identity.json")).expect("JSON");
    let bearer = format!("Authorization: Bearer {}", credential["credential"].as_str().expect("a credential"));
    let post = |path: &str, body: &str| {
        let (code, answer) = fleet.curl_as(&bearer, &["-X", "POST", "--data-binary", body, path]).expect("an answer");
        (code, serde_json::from_str::<Value>(&answer).unwrap_or(Value::String(answer)))
    };
    let (instance, stream) = ("11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222");
    let poll = format!("/v1/agents/web-1/commands?instance={instance}&wait=0");
    let (code, body) = fleet.curl_as(&bearer, &[&poll]).expect("an answer");
    assert!(code == 409 && body.contains("hello-first"), "{code} {body}");
    let hello = json!({"protocol_version": 1, "agent_version": "0", "hostname": "h", "os": "linux", "arch": "amd64", "instance_id": instance, "stream": stream, "running_jobs": []});
    assert_eq!(post("/v1/agents/web-1/hello", &hello.to_string()).0, 200);
    let old = json!({"protocol_version": 0, "agent_version": "0", "hostname": "h", "os": "linux", "arch": "amd64", "instance_id": instance, "stream": stream});
    assert_eq!(post("/v1/agents/web-1/hello", &old.to_string()).1["code"], "protocol-version");
    let (code, body) = fleet.curl_as(&bearer, &[&poll]).expect("an answer");
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    let kinds: Vec<&str> =
        answer["messages"].as_array().expect("messages").iter().filter_map(|m| m["type"].as_str()).collect();
    assert_eq!((code, kinds), (200, vec!["config.update", "schedule.set"]), "{body}");

    let events = format!("/v1/agents/web-1/events?stream={stream}&instance={instance}");
    let ack = |seq: u64| {
        format!(
            r#"{{"seq":{seq},"ts":"2026-11-23T00:00:00Z","type":"schedule.ack","payload":{{"version":1,"applied_at":"2026-11-23T00:00:00Z"}}}}"#
        ) + "\n"
    };
    assert_eq!(post(&events, &(ack(1) + &ack(2))).1["acked"], 2);
    assert_eq!(post(&events, &(ack(1) + &ack(2) + &ack(3))).1["acked"], 3, "what is there already is skipped");
    let (code, gap) = post(&events, &ack(7));
    assert_eq!((code, gap["code"].as_str(), &gap["expected"]), (409, Some("event-gap"), &json!(4)));
    let (code, bad) = post(&events, &ack(4).replace("\"version\":1,", ""));
    assert_eq!((code, bad["code"].as_str()), (422, Some("bad-event")), "{bad}");
    assert_eq!(post(&events, "no json\n").1["code"], "not-json");
    let long = ack(4).replace("\"version\"", &format!("\"x\":\"{}\",\"version\"", "x".repeat(70_000)));
    fs::write(fleet.path("long"), long).expect("write");
    assert_eq!(post(&events, &format!("@{}", text(&fleet.path("long")))).0, 413);
    let acks = fleet.journal().iter().filter(|line| line["stream"] == stream).count();
    assert_eq!(acks, 3, "each event once");
    let unknown = "/v1/agents/web-1/jobs/0190b5a2-7c1e-4c3a-9f00-0123456789ab/log";
    assert_eq!(post(unknown, "").1["code"], "no-such-job");
}

#[test]
fn a_second_agent_with_the_same_identity_takes_over_and_the_first_says_so() {
    let mut fleet = Fleet::started();
    assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
    let copied =
        std::process::Command::new("cp").args(["-r", text(&fleet.path("agent")), text(&fleet.path("clone"))]).status();
    assert!(copied.expect("cp runs").success());
    fleet.start_agent();
    let _clone = fleet.agent_process("clone");
    eventually("one of the two says that there is another", Duration::from_secs(20), || {
        fleet.read("agent.log").contains("another agent uses this host's identity").then_some(())
    });
    let job = fleet.run_job(r#"{"schedule_id":"data"}"#);
    assert_eq!(job["status"], "succeeded", "{job}");
    let starts =
        fleet.journal().iter().filter(|l| l["type"] == "job.started" && l["payload"]["job_id"] == job["id"]).count();
    assert_eq!(starts, 1);
    fleet.agent = None;
}

#[test]
fn a_restic_that_is_missing_too_old_or_dies_fails_the_job_and_says_why() {
    let scripts = tempfile::tempdir().expect("a temporary directory");
    let script = |name: &str, body: &str| {
        use std::os::unix::fs::PermissionsExt;
        let path = scripts.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        text(&path).to_owned()
    };
    let dies = "if [ \"$1\" = version ]; then exec restic version; fi\nkill -9 $$";
    for (restic, word) in [
        ("/nonexistent/restic".to_owned(), "install"),
        (script("old", "echo restic 0.12.0 compiled with go1.15"), "0.14"),
        (script("dies", dies), "signal"),
    ] {
        let fleet = Fleet::started_with(&restic);
        let job = fleet.run_job(r#"{"kind":"init"}"#);
        let error = job["error"].as_str().unwrap_or_default();
        assert!(job["status"] == "failed" && error.contains(word), "{restic}: {job}");
    }
}
