//! What is wrong gets a clear error, as problem+json with a stable code, and loses nothing.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::Digest;

use crate::harness::{Answer, Fleet, eventually, text};

pub(crate) const JSON: &str = "Content-Type: application/json";
const NO_JOB: &str = "/v1/jobs/0190b5a2-7c1e-4c3a-9f00-0123456789ab";
pub(crate) const AGENT_LOG: &str = "/v1/agents/web-1/jobs/0190b5a2-7c1e-4c3a-9f00-0123456789ab/log";
pub(crate) const INSTANCE: &str = "11111111-1111-4111-8111-111111111111";
pub(crate) const STREAM: &str = "22222222-2222-4222-8222-222222222222";

/// The whole answer must be a problem with this status and code.
fn expect(fleet: &Fleet, arguments: &[&str], status: u16, code: &str) -> Value {
    expect_as(fleet, &fleet.bearer(), arguments, status, code)
}

/// The same with another header than the admin's.
pub(crate) fn expect_as(fleet: &Fleet, header: &str, arguments: &[&str], status: u16, code: &str) -> Value {
    let answer = fleet.ask(header, arguments).expect("an answer");
    is_problem(&answer, status, code, arguments)
}

fn is_problem(answer: &Answer, status: u16, code: &str, arguments: &[&str]) -> Value {
    let body = &answer.body;
    let problem: Value = serde_json::from_str(body).unwrap_or_default();
    assert_eq!((answer.code, problem["code"].as_str()), (status, Some(code)), "{arguments:?}: {body}");
    assert_eq!(answer.content_type, "application/problem+json", "{arguments:?}: {body}");
    for field in ["type", "title", "detail"] {
        assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{arguments:?}: {field}: {body}");
    }
    assert_eq!(problem["status"], status, "{arguments:?}: {body}");
    problem
}

/// The fleet's problems: the view of the configuration as soon as the files have one with these words.
fn told(fleet: &Fleet, words: &[&str]) -> Value {
    eventually("the problem is told", Duration::from_secs(10), || {
        let view = fleet.get("/v1/config");
        let message = view["problems"][0]["message"].as_str().unwrap_or_default().to_owned();
        (view["files_run"] == false && words.iter().all(|word| message.contains(word))).then_some(view)
    })
}

#[test]
fn a_broken_edit_changes_nothing_until_it_is_mended_also_across_a_restart() {
    let mut fleet = Fleet::started();
    let before = fleet.get("/v1/hosts/web-1/schedules");
    let adopted = fleet.get("/v1/config");
    let good = fleet.read("config/hosts/web-1.toml");
    let place = |view: &Value| {
        let problem = &view["problems"][0];
        assert_eq!((&view["hash"], &view["version"]), (&adopted["hash"], &adopted["version"]), "the good one stays");
        (problem["file"].as_str().map(str::to_owned), problem["line"].as_u64(), problem["column"].as_u64())
    };
    let at = |line, column| (Some("hosts/web-1.toml".to_owned()), Some(line), Some(column));
    // No TOML at all: the text of line 6 has lost its quotes.
    fleet.write("config/hosts/web-1.toml", &good.replace("\"0 3 * * *\"", "0 3 * * *"));
    assert_eq!(place(&told(&fleet, &[])), at(6, 8));
    // TOML with a key that there is not, and what it may have been meant to be.
    fleet.write("config/hosts/web-1.toml", &good.replace("paths", "pahts"));
    assert_eq!(place(&told(&fleet, &["pahts", "paths"])), at(7, 1));
    let reloaded = fleet.post("/v1/config/reload", "");
    assert_eq!(place(&reloaded), at(7, 1), "a reload reports the same: {reloaded}");
    let schedules = fleet.get("/v1/hosts/web-1/schedules");
    assert_eq!(schedules["version"], before["version"], "{schedules}");
    fleet.server = None;
    fleet.start_server();
    assert_eq!(place(&told(&fleet, &["pahts", "paths"])), at(7, 1));
    let after = fleet.get("/v1/hosts/web-1/schedules");
    assert_eq!((&after["version"], &after["schedules"]), (&before["version"], &before["schedules"]));
    fleet.write("config/hosts/web-1.toml", &good.replace("0 3 * * *", "5 4 * * *"));
    eventually("the mended file is applied", Duration::from_secs(40), || {
        let host = fleet.get("/v1/hosts/web-1");
        (host["schedule"]["applied"] == 2 && fleet.get("/v1/config")["files_run"] == true).then_some(())
    });
    let left = fleet.get("/v1/config")["problems"].clone();
    assert!(left.as_array().expect("a list").iter().all(|problem| problem["severity"] == "warning"), "{left}");
}

/// A host that is there and has said hello, without an agent's process: its credential's header.
pub(crate) fn enrolled_with_curl(fleet: &Fleet, host: &str) -> String {
    let credential = format!("rma_{}", host.repeat(43).split_at(43).0);
    let token = fleet.post("/v1/enrollment-tokens", &json!({"host": host}).to_string())["token"].clone();
    assert_eq!(enroll(fleet, host, &token, 1, &credential).code, 200);
    format!("Authorization: Bearer {credential}")
}

/// What the enrollment of the `number`th agent gets.
pub(crate) fn enroll(fleet: &Fleet, host: &str, token: &Value, number: u64, credential: &str) -> Answer {
    let sha256 = data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(credential.as_bytes()));
    let id = format!("33333333-3333-4333-8333-{number:012}");
    let body = json!({"token": token, "enrollment_id": id, "host": host, "credential_sha256": sha256});
    let arguments = ["-X", "POST", "-H", JSON, "-d", &body.to_string(), "/v1/enroll"];
    fleet.ask("X-Nothing: here", &arguments).expect("an answer")
}

pub(crate) fn hello(instance: &str, stream: &str) -> Value {
    json!({"protocol_version": 1, "agent_version": "0", "hostname": "h", "os": "linux", "arch": "amd64", "instance_id": instance, "stream": stream, "running_jobs": []})
}

#[test]
fn a_body_that_is_no_json_gets_400_at_every_endpoint_and_changes_nothing() {
    let mut fleet = Fleet::new();
    fleet.start_server();
    let agent = enrolled_with_curl(&fleet, "web-1");
    let hello = hello(INSTANCE, STREAM).to_string();
    assert_eq!(fleet.ask(&agent, &["-d", &hello, "/v1/agents/web-1/hello"]).expect("an answer").code, 200);
    let admin = fleet.bearer();
    let job = fleet.post("/v1/hosts/web-1/jobs", r#"{"kind":"init"}"#);
    let log = format!("/v1/agents/web-1/jobs/{}/log", job["id"].as_str().expect("an id"));
    let events = format!("/v1/agents/web-1/events?stream={STREAM}&instance={INSTANCE}");
    let before = fleet.journal();
    for body in ["{no json", "", "\u{0}\u{1}", "[[[[", "{\"kind\":\"init\""] {
        for path in ["/v1/hosts/web-1/jobs", "/v1/hosts/web-1/restore", "/v1/enrollment-tokens", "/v1/enroll"] {
            fleet.write("body", body);
            let body = format!("@{}", text(&fleet.path("body")));
            expect_as(&fleet, &admin, &["-H", JSON, "--data-binary", &body, path], 400, "not-json");
        }
        for path in ["/v1/agents/web-1/hello", "/v1/agents/web-1/heartbeat", &events, &log] {
            // No lines are no news.
            if body.is_empty() && (path == events || path == log) {
                continue;
            }
            let body = format!("@{}", text(&fleet.path("body")));
            expect_as(&fleet, &agent, &["-H", JSON, "--data-binary", &body, path], 400, "not-json");
        }
    }
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
        for path in ["/v1/hosts/web-1/jobs", "/v1/hosts/web-1/restore", "/v1/enrollment-tokens"] {
            let kind = format!("Content-Type: {kind}");
            expect(&fleet, &["-H", &kind, "-d", r#"{"kind":"init"}"#, path], 415, "not-json");
        }
    }
    assert_eq!(fleet.journal(), before, "nothing came of it");
}

#[test]
fn a_path_and_a_method_that_are_not_there_are_told_which_are() {
    let mut fleet = Fleet::new();
    fleet.start_server();
    for path in ["/v1/nothing", "/v1", "/v1/hosts/web-1/nothing", "/v1/hosts/", "//v1/hosts", "/v1/hosts/web-1/jobs/x"]
    {
        expect(&fleet, &[path], 404, "no-such-path");
    }
    for host in ["nobody", "%2e%2e", "WEB-1%00", "..%2Fweb-1"] {
        expect(&fleet, &[&format!("/v1/hosts/{host}")], 404, "no-such-host");
    }
    for (method, path, allowed) in [
        ("DELETE", "/v1/hosts".to_owned(), "GET"),
        ("PUT", "/v1/hosts/web-1/jobs".to_owned(), "GET or POST"),
        ("GET", "/v1/hosts/web-1/restore".to_owned(), "POST"),
        ("GET", "/v1/hosts/web-1/credential".to_owned(), "DELETE"),
        ("GET", "/v1/enroll".to_owned(), "POST"),
        ("GET", "/v1/enrollment-tokens".to_owned(), "POST"),
        ("POST", "/v1/config".to_owned(), "GET"),
        ("GET", "/v1/config/reload".to_owned(), "POST"),
        ("GET", format!("{NO_JOB}/cancel"), "POST"),
        ("PATCH", format!("{NO_JOB}/log"), "GET"),
        ("POST", "/v1/agents/web-1/commands".to_owned(), "GET"),
        ("GET", "/v1/agents/web-1/events".to_owned(), "POST"),
        ("GET", AGENT_LOG.to_owned(), "POST"),
        ("POST", "/healthz".to_owned(), "GET"),
    ] {
        let arguments = ["-X", method, &path];
        let answer = fleet.ask(&fleet.bearer(), &arguments).expect("an answer");
        is_problem(&answer, 405, "method-not-allowed", &arguments);
        let methods: Vec<&str> = answer.allow.split(',').map(str::trim).collect();
        assert_eq!(methods, allowed.split(" or ").collect::<Vec<_>>(), "{method} {path}");
    }
}

#[test]
fn tokens_open_only_what_they_are_for() {
    let mut fleet = Fleet::new();
    fleet.write("config/hosts/web-2.toml", "repository = \"main\"\n");
    fleet.write("secrets/web-2", "another-password");
    let mut settings = fleet.read("config/server.toml");
    for (name, role, hosts) in [("boss", "admin", "*"), ("ops", "operator", "web-2"), ("eyes", "viewer", "*")] {
        let sha256 = data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(name.as_bytes()));
        settings +=
            &format!("[[tokens]]\nname = {name:?}\nrole = {role:?}\nhosts = [{hosts:?}]\nsha256 = {sha256:?}\n");
    }
    fleet.write("config/server.toml", &settings);
    fleet.start_server();
    let [boss, ops, eyes] = ["boss", "ops", "eyes"].map(|name| format!("Authorization: Bearer {name}"));
    let jobs = "/v1/hosts/web-1/jobs";
    let init = ["-H", JSON, "-d", r#"{"kind":"init","queue_for":"1h"}"#, jobs];
    eventually("the tokens are loaded", Duration::from_secs(10), || {
        (fleet.ask(&eyes, &[jobs]).expect("an answer").code == 200).then_some(())
    });
    for header in
        ["X-Nothing: here", "Authorization: Bearer wrong", "Authorization: Bearer ", "Authorization: Basic !!!"]
    {
        for arguments in [&init[..], &["/v1/hosts"], &["/v1/config"], &["/v1/events"], &[NO_JOB]] {
            expect_as(&fleet, header, arguments, 401, "unauthorized");
        }
    }
    expect_as(&fleet, &eyes, &init, 403, "forbidden");
    for path in ["/v1/hosts/web-1/restore", "/v1/enrollment-tokens", "/v1/config/reload", &format!("{NO_JOB}/cancel")] {
        expect_as(&fleet, &eyes, &["-H", JSON, "-d", "{}", path], 403, "forbidden");
    }
    expect_as(&fleet, &eyes, &["-X", "DELETE", "/v1/hosts/web-1/credential"], 403, "forbidden");
    expect_as(&fleet, &ops, &init, 404, "no-such-host");
    expect_as(&fleet, &ops, &["-H", JSON, "-d", r#"{"host":"web-2"}"#, "/v1/enrollment-tokens"], 403, "forbidden");

    // As a browser sends another site's form, with the password that it knows.
    for (header, code) in [
        ("Sec-Fetch-Site: cross-site", 403),
        ("Origin: https://example.org", 403),
        ("Origin: null", 403),
        ("Sec-Fetch-Site: same-origin", 200),
        (&format!("Origin: {}", fleet.url()), 200),
    ] {
        let got = |arguments: &[&str]| fleet.ask(&boss, arguments).expect("an answer").code;
        assert_eq!(got(&["-X", "POST", "-H", header, "/v1/config/reload"]), code, "{header}");
        assert_eq!(got(&["-H", header, "/v1/hosts"]), 200, "{header}: what changes nothing is open");
    }

    let token = |host: &str, ttl: &str| {
        let body = json!({"host": host, "ttl": ttl}).to_string();
        let answer = fleet.ask(&boss, &["-H", JSON, "-d", &body, "/v1/enrollment-tokens"]).expect("an answer");
        assert_eq!(answer.code, 201, "{}", answer.body);
        answer.json()["token"].clone()
    };
    let refused = |host: &str, token: &Value, number: u64, why: &str| {
        is_problem(&enroll(&fleet, host, token, number, "rma_other"), 403, "forbidden", &[why]);
    };
    let first = token("web-1", "1h");
    refused("web-2", &first, 1, "foreign");
    refused("web-1", &json!("rme_unknown"), 1, "unknown");
    assert_eq!(enroll(&fleet, "web-1", &first, 1, "rma_one").code, 200);
    assert_eq!(enroll(&fleet, "web-1", &first, 1, "rma_one").code, 200, "the same agent again");
    refused("web-1", &first, 2, "used");
    refused("web-1", &first, 1, "used with another credential");
    let short = token("web-2", "1s");
    std::thread::sleep(Duration::from_millis(1100));
    refused("web-2", &short, 3, "expired");
    assert_eq!(enroll(&fleet, "web-2", &token("web-2", "1h"), 4, "rma_two").code, 200);

    let hello = hello(INSTANCE, STREAM).to_string();
    let say = |host: &str| format!("/v1/agents/{host}/hello");
    for (header, host) in [
        ("Authorization: Bearer rma_one", "web-2"),
        ("Authorization: Bearer rma_two", "web-1"),
        ("Authorization: Bearer rma_other", "web-1"),
        ("Authorization: Bearer rma_one", "nobody"),
        (boss.as_str(), "web-1"),
        ("X-Nothing: here", "web-1"),
    ] {
        expect_as(&fleet, header, &["-d", &hello, &say(host)], 401, "unauthorized");
        expect_as(
            &fleet,
            header,
            &[&format!("/v1/agents/{host}/commands?instance={INSTANCE}&wait=0")],
            401,
            "unauthorized",
        );
    }
    expect_as(&fleet, "Authorization: Bearer rma_one", &["/v1/hosts"], 401, "unauthorized");
    for (header, host) in [("Authorization: Bearer rma_one", "web-1"), ("X-Restic-Manager-Token: rma_two", "web-2")] {
        assert_eq!(fleet.ask(header, &["-d", &hello, &say(host)]).expect("an answer").code, 200, "{host}");
    }
}

#[test]
fn requests_that_are_wrong_are_told_what_is_wrong() {
    let fleet = Fleet::started();
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
    expect(&fleet, &[NO_JOB], 404, "no-such-job");
    expect(&fleet, &["-X", "POST", &format!("{NO_JOB}/cancel")], 404, "no-such-job");
    expect(&fleet, &["/v1/jobs/x"], 404, "no-such-job");
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
fn a_missing_secret_is_told_once_and_used_as_soon_as_it_is_there() {
    let mut fleet = Fleet::new();
    fs::remove_file(fleet.path("secrets/web-1")).expect("remove");
    fleet.start_server();
    fleet.enroll("agent");
    let problem =
        expect(&fleet, &["-X", "POST", "-H", JSON, "-d", r#"{"kind":"init"}"#, "/v1/hosts/web-1/jobs"], 422, "invalid");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("secret")), "{problem}");
    // The server's own log is written beside the configuration: that must not make it look again and again.
    std::thread::sleep(Duration::from_secs(3));
    let servers = if crate::harness::are_two_servers() { 2 } else { 1 };
    assert_eq!(fleet.read("server.log").matches("cannot be read").count(), servers, "each tells it once");
    fleet.write("secrets/web-1", crate::harness::PASSWORD);
    eventually("the secret is noticed", Duration::from_secs(5), || {
        (fleet.get("/v1/hosts/web-1")["config"]["wanted"] == 1).then_some(())
    });
    fleet.write("secrets/web-1", "another");
    eventually("a changed secret is a new version", Duration::from_secs(5), || {
        (fleet.get("/v1/hosts/web-1")["config"]["wanted"] == 2).then_some(())
    });
    let revoked = fleet.curl(&["-X", "DELETE", "/v1/hosts/web-1/credential"]).expect("an answer");
    assert_eq!(revoked.0, 200, "{}", revoked.1);
    let host = fleet.get("/v1/hosts/web-1");
    assert_eq!((&host["enrolled"], &host["online"]), (&json!(false), &json!(false)), "{host}");
}
