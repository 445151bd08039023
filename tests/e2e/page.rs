//! The pages for browsers, asked with curl: who gets them and how they ask for a password, the headers that keep everything else out, what
//! a token that is limited to some hosts sees, and that nothing a host says becomes part of the markup.

use std::process::Command;
use std::time::Duration;

use serde_json::json;
use sha2::Digest;

use crate::bad_input::{INSTANCE, STREAM, hello};
use crate::harness::{Fleet, eventually};

/// An answer with its headers in lower case, a line for each.
struct Page {
    code: u16,
    headers: String,
    body: String,
}

/// GET as a browser: with this token as a password, or without.
fn browse(fleet: &Fleet, token: Option<&str>, path: &str, more: &[&str]) -> Page {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-i", "-m", "60"]).args(more);
    if let Some(token) = token {
        curl.args(["-u", &format!("anybody:{token}")]);
    }
    let output = curl.arg(format!("{}{path}", fleet.url())).output().expect("curl runs");
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a code");
    Page { code, headers: head.to_lowercase(), body: body.to_owned() }
}

fn sha256(text: &str) -> String {
    data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(text.as_bytes()))
}

/// With tokens that are named as what they may do; `part` sees web-2 only.
fn fleet() -> Fleet {
    let mut fleet = Fleet::new();
    let mut settings = fleet.read("config/server.toml");
    for (name, role, hosts) in [
        ("boss", "admin", ""),
        ("ops", "operator", ""),
        ("eyes", "viewer", ""),
        ("part", "viewer", "hosts = [\"web-2\"]\n"),
    ] {
        settings += &format!("[[tokens]]\nname = {name:?}\nrole = {role:?}\nsha256 = {:?}\n{hosts}", sha256(name));
    }
    fleet.write("config/server.toml", &settings);
    fleet.write("config/hosts/web-2.toml", "repository = \"main\"\n");
    fleet.write("secrets/web-2", "another-password");
    fleet.start_server();
    fleet
}

#[test]
fn a_browser_is_asked_for_a_password_which_is_a_token_and_gets_pages_that_can_do_nothing_else() {
    let fleet = fleet();
    let refused = browse(&fleet, None, "/", &[]);
    assert_eq!(refused.code, 401);
    assert!(
        refused.headers.contains("www-authenticate: basic realm=\"restic-manager\", charset=\"utf-8\""),
        "{}",
        refused.headers
    );
    assert!(
        refused.body.starts_with("<!doctype html>") && refused.body.contains("as the password"),
        "{}",
        refused.body
    );
    assert!(!refused.body.contains("web-1"));
    let api = browse(&fleet, None, "/v1/hosts", &[]);
    assert!(api.code == 401 && api.headers.contains("www-authenticate: bearer"), "{}", api.headers);
    assert_eq!(browse(&fleet, Some("wrong"), "/", &[]).code, 401);

    for path in ["/", "/hosts/web-1", "/alerts", "/audit", "/hosts/web-1/snapshots/latest", "/hosts/nowhere"] {
        let page = browse(&fleet, Some("boss"), path, &[]);
        assert_eq!(page.code, if path.ends_with("nowhere") { 404 } else { 200 }, "{path}: {}", page.body);
        for header in [
            "content-type: text/html; charset=utf-8",
            "cache-control: no-store",
            "content-security-policy: default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
        ] {
            assert!(page.headers.contains(header), "{path}: {header} in {}", page.headers);
        }
        assert!(
            !page.body.contains(" style=") && !page.body.contains("<style") && !page.body.contains(" onclick="),
            "{path}"
        );
        assert!(!page.body.contains("://") || path.contains("snapshots"), "{path} leads elsewhere: {}", page.body);
    }
    // Its parts are everybody's, and may be kept for ever: their names say what is in them.
    let page = browse(&fleet, Some("eyes"), "/", &[]).body;
    for start in ["/page/style-", "/page/script-", "/page/icon-"] {
        let at = page.find(start).expect("the page names its parts");
        let name = page[at..].split('"').next().expect("an end");
        let part = browse(&fleet, None, name, &[]);
        assert!(
            part.code == 200 && part.headers.contains("cache-control: public, max-age=31536000, immutable"),
            "{name}: {}",
            part.headers
        );
        assert!(part.headers.contains("x-content-type-options: nosniff"), "{name}");
    }
    assert_eq!(browse(&fleet, None, "/page/style-000000000000.css", &[]).code, 404);
    // A browser gets a page also where there is nothing, with the way back for who has signed in; curl gets a problem.
    let as_browser = ["-H", "Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"];
    for (token, way_back) in [(Some("eyes"), true), (None, false)] {
        let nothing = browse(&fleet, token, "/hosts/web-1/snapshot", &as_browser);
        assert!(
            nothing.code == 404 && nothing.body.contains("there is nothing at /hosts/web-1/snapshot"),
            "{}",
            nothing.body
        );
        assert!(nothing.headers.contains("content-type: text/html"), "{}", nothing.headers);
        assert_eq!(nothing.body.contains("<nav"), way_back, "{}", nothing.body);
    }
    let nothing = browse(&fleet, Some("eyes"), "/hosts/web-1/snapshot", &[]);
    assert!(nothing.code == 404 && nothing.headers.contains("application/problem+json"), "{}", nothing.headers);
    // Of snapshots that the agent has told of, one that is none of them.
    fleet.write(
        "state/hosts/web-1/snapshots.json",
        r#"{"report_id":"0190b5a2-7c1e-4c3a-9f00-0123456789ab","pages":1,"have":1,"snapshots":[]}"#,
    );
    let none = browse(&fleet, Some("eyes"), "/hosts/web-1/snapshots/0123456789", &[]);
    assert!(none.code == 404 && none.body.contains("has no snapshot 0123456789"), "{} {}", none.code, none.body);
    let (code, answer) = fleet.curl_as("Authorization: Bearer eyes", &["/?nmae=x"]).expect("an answer");
    assert!(code == 400 && answer.contains("no parameter nmae"), "{code} {answer}");
}

#[test]
fn a_page_shows_what_its_token_may_see_and_buttons_to_those_who_may_press_them() {
    let fleet = fleet();
    for (token, path, code) in
        [("eyes", "/audit", 403), ("part", "/audit", 403), ("part", "/hosts/web-1", 404), ("part", "/hosts/web-2", 200)]
    {
        assert_eq!(browse(&fleet, Some(token), path, &[]).code, code, "{token} {path}");
    }
    let part = browse(&fleet, Some("part"), "/", &[]).body;
    assert!(
        part.contains("web-2")
            && !part.contains("web-1")
            && !part.contains("id=\"config\"")
            && !part.contains("/audit"),
        "{part}"
    );
    let all = browse(&fleet, Some("eyes"), "/", &[]).body;
    assert!(all.contains("web-1") && all.contains("id=\"config\""));
    assert!(browse(&fleet, Some("ops"), "/hosts/web-1", &[]).body.contains("Run now</button>"));
    assert!(!browse(&fleet, Some("eyes"), "/hosts/web-1", &[]).body.contains("<button"));

    // What a button does is taken from our own pages only: a browser sends the password with any site's request.
    let body = ["-H", "Content-Type: application/json", "-d", r#"{"kind":"check","queue_for":"1h"}"#];
    for (more, code) in [
        (["-H", "Sec-Fetch-Site: same-origin"], 201),
        (["-H", "Sec-Fetch-Site: cross-site"], 403),
        (["-H", "Sec-Fetch-Site: same-site"], 403),
        (["-H", "Origin: http://elsewhere.example"], 403),
    ] {
        let answer = browse(&fleet, Some("ops"), "/v1/hosts/web-1/jobs", &[&body[..], &more].concat());
        assert_eq!(answer.code, code, "{more:?}: {}", answer.body);
    }
    let form = ["-H", "Sec-Fetch-Site: same-origin", "-d", "kind=check"];
    assert_eq!(browse(&fleet, Some("ops"), "/v1/hosts/web-1/jobs", &form).code, 415);
    let elsewhere = browse(&fleet, Some("ops"), "/hosts/web-1/snapshots/latest", &["-H", "Sec-Fetch-Site: cross-site"]);
    assert!(
        elsewhere.code == 200 && elsewhere.body.contains("Ask the host what is in this folder"),
        "{}",
        elsewhere.body
    );
}

#[test]
fn what_an_agent_says_is_shown_and_never_becomes_markup() {
    const HARM: &str = "</script><script>alert(1)</script>\" onload=\"alert(1) \u{202e}gpj.exe";
    let fleet = fleet();
    let token = fleet.curl_as(
        "Authorization: Bearer boss",
        &["-H", "Content-Type: application/json", "-d", r#"{"host":"web-1"}"#, "/v1/enrollment-tokens"],
    );
    let token: serde_json::Value = serde_json::from_str(&token.expect("an answer").1).expect("JSON");
    let enrollment = json!({"token": token["token"], "enrollment_id": INSTANCE, "host": "web-1", "credential_sha256": sha256("own")});
    let agent = |path: &str, body: &str| {
        let path = format!("/v1/agents/web-1/{path}");
        let answer = fleet.curl_as(
            "Authorization: Bearer own",
            &["-H", "Content-Type: application/json", "--data-binary", body, &path],
        );
        let (code, answer) = answer.expect("an answer");
        assert_eq!(code, 200, "{path}: {answer}");
    };
    let entered = fleet.curl_as(
        "X-Nothing: here",
        &["-H", "Content-Type: application/json", "-d", &enrollment.to_string(), "/v1/enroll"],
    );
    assert_eq!(entered.expect("an answer").0, 200);
    let mut said = hello(INSTANCE, STREAM);
    (said["hostname"], said["agent_version"]) = (HARM.into(), HARM.into());
    agent("hello", &said.to_string());
    let at = "2026-01-01T03:00:00Z";
    let schedule = "data".parse().expect("an id");
    let job = restic_manager::id::job_id_of_fire(
        &"web-1".parse().expect("a name"),
        &schedule,
        at.parse().expect("an instant"),
    );
    let snapshot = json!({"id": "ab".repeat(32), "short_id": "abababab", "time": at, "hostname": HARM, "paths": [HARM], "tags": [HARM]});
    let events = [
        ("schedule.fire", json!({"schedule_id": "data", "scheduled_at": at, "fired_at": at, "job_id": job})),
        ("command.result", json!({"job_id": job, "accepted": true})),
        ("job.started", json!({"job_id": job, "kind": "backup", "started_at": at})),
        ("snapshots.report", json!({"report_id": INSTANCE, "page": 1, "pages": 1, "snapshots": [snapshot]})),
        (
            "job.finished",
            json!({"job_id": job, "status": "failed", "finished_at": at, "error": HARM, "warnings": [HARM], "last_log_seq": 1}),
        ),
    ];
    let lines = (1..).zip(events).map(|(seq, (kind, payload))| {
        json!({"seq": seq, "ts": at, "type": kind, "payload": payload}).to_string() + "\n"
    });
    let line = json!({"seq": 1, "ts": at, "type": "log.stream", "payload": {"job_id": job, "seq": 1, "ts": at, "stream": "stderr", "payload": HARM}});
    agent(&format!("events?stream={STREAM}&instance={INSTANCE}"), &lines.collect::<String>());
    agent(&format!("jobs/{job}/log"), &format!("{line}\n"));
    eventually("the failure is an alert", Duration::from_secs(20), || {
        browse(&fleet, Some("eyes"), "/alerts", &[]).body.contains("backup failed").then_some(())
    });
    for path in ["/", "/hosts/web-1", "/alerts", &format!("/jobs/{job}")] {
        let page = browse(&fleet, Some("ops"), path, &[]);
        assert_eq!(page.code, 200, "{path}");
        assert!(
            page.body.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot; onload=&quot;"),
            "{path} shows it: {}",
            page.body
        );
        assert!(!page.body.contains("<script>") && !page.body.contains('\u{202e}'), "{path}: {}", page.body);
        assert!(page.body.contains("U+202E"), "{path}");
    }
}
