//! Polls that ask for signs of life, for ways that cut silent connections: newlines come before the answer, the answer is one JSON
//! document, and what happens meanwhile is in it. With curl, in both versions of HTTP that proxies speak.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::bad_input::{INSTANCE, STREAM, enrolled_with_curl, hello};
use crate::harness::{Fleet, eventually, text};

/// A server, and an agent of curl's that has said hello and knows everything: its credential, and the query of its polls.
fn parked() -> (Fleet, String, String) {
    let mut fleet = Fleet::new();
    fleet.start_server();
    let bearer = enrolled_with_curl(&fleet, "web-1");
    let answer = fleet.ask(&bearer, &["-d", &hello(INSTANCE, STREAM).to_string(), "/v1/agents/web-1/hello"]);
    assert_eq!(answer.expect("an answer").code, 200);
    let first = format!("/v1/agents/web-1/commands?instance={INSTANCE}&wait=0");
    let answer = fleet.ask(&bearer, &[&first]).expect("an answer").json();
    let (config, schedule) = (&answer["messages"][0]["payload"], &answer["messages"][1]["payload"]);
    let of = |value: &Value, name: &str| value[name].to_string().trim_matches('"').to_owned();
    let query = format!(
        "/v1/agents/web-1/commands?instance={INSTANCE}&after={}&schedule_version={}&schedule_hash={}&config_version={}&config_hash={}",
        answer["cursor"].as_str().expect("a cursor"),
        of(schedule, "version"),
        of(schedule, "hash"),
        of(config, "version"),
        of(config, "hash"),
    );
    (fleet, bearer, query)
}

/// A poll by curl whose answer goes to a file as it comes.
fn poll(fleet: &Fleet, bearer: &str, query: &str, options: &[&str]) -> std::process::Child {
    let url = format!("{}{query}", fleet.url());
    Command::new("curl")
        .args(["-sS", "-N", "-m", "60", "-o", text(&fleet.path("answer")), "-w", "%{http_code}", "-H", bearer])
        .args(options)
        .arg(url)
        .stdout(Stdio::piped())
        .spawn()
        .expect("curl runs")
}

fn signs_of_life(fleet: &Fleet) -> usize {
    fleet.read("answer").bytes().take_while(|byte| *byte == b'\n').count()
}

#[test]
fn newlines_come_while_a_poll_waits_and_then_the_command() {
    for version in ["--http1.1", "--http1.0"] {
        let (fleet, bearer, query) = parked();
        let waiting = poll(&fleet, &bearer, &format!("{query}&wait=50&keepalive=2"), &[version]);
        eventually("two signs of life", Duration::from_secs(15), || (signs_of_life(&fleet) >= 2).then_some(()));
        let job = fleet.post("/v1/hosts/web-1/jobs", r#"{"kind":"init"}"#);
        let output = waiting.wait_with_output().expect("curl");
        assert!(output.status.success() && output.stdout == b"200", "{version}: {output:?}");
        let answer: Value = serde_json::from_str(&fleet.read("answer")).expect("one JSON document");
        assert_eq!(answer["messages"][0]["payload"]["job_id"], job["id"], "{version}: {answer}");
    }
}

#[test]
fn a_poll_that_asks_for_no_sign_of_life_gets_none() {
    let (fleet, bearer, query) = parked();
    let output = poll(&fleet, &bearer, &format!("{query}&wait=5"), &[]).wait_with_output().expect("curl");
    assert_eq!((output.stdout.as_slice(), signs_of_life(&fleet)), (&b"200"[..], 0));
}

#[test]
fn an_agent_that_is_revoked_meanwhile_is_told_at_its_next_request() {
    let (fleet, bearer, query) = parked();
    let waiting = poll(&fleet, &bearer, &format!("{query}&wait=50&keepalive=2"), &[]);
    eventually("a sign of life", Duration::from_secs(15), || (signs_of_life(&fleet) >= 1).then_some(()));
    assert_eq!(fleet.curl(&["-X", "DELETE", "/v1/hosts/web-1/credential"]).expect("an answer").0, 200);
    let output = waiting.wait_with_output().expect("curl");
    assert!(output.status.success(), "{output:?}");
    let answer: Value = serde_json::from_str(&fleet.read("answer")).expect("one JSON document");
    assert_eq!(answer["messages"], serde_json::json!([]), "nothing is told to it: {answer}");
    assert_eq!(fleet.ask(&bearer, &[&format!("{query}&wait=0")]).expect("an answer").code, 401);
}
