//! Agents' credentials: one token lets one agent in however many ask at once, an agent changes its credential by itself, and what
//! was revoked or replaced comes back by no repetition.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::Digest;

use crate::bad_input::{INSTANCE, STREAM, enroll, expect_as, hello};
use crate::harness::{Fleet, eventually};
use crate::parked::Scene;

const HELLO: &str = "/v1/agents/web-1/hello";
const CREDENTIAL: &str = "/v1/agents/web-1/credential";

fn bearer(credential: &str) -> String {
    format!("Authorization: Bearer {credential}")
}

fn sha256(credential: &str) -> String {
    data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(credential.as_bytes()))
}

/// Whether each of these credentials lets web-1's agent in.
fn let_in(fleet: &Fleet, credentials: &[&str]) -> Vec<bool> {
    let say = hello(INSTANCE, STREAM).to_string();
    let code = |credential: &&str| fleet.ask(&bearer(credential), &["-d", &say, HELLO]).expect("an answer").code;
    credentials
        .iter()
        .map(code)
        .inspect(|code| assert!(matches!(code, 200 | 401), "{code}"))
        .map(|c| c == 200)
        .collect()
}

/// These let nobody in, at any server, from a second from now on at the latest.
fn are_out(fleet: &Fleet, credentials: &[&str]) {
    // Each of two servers looks at the file twice a second.
    let twice = [credentials, credentials].concat();
    eventually("they are out", Duration::from_secs(1), || let_in(fleet, &twice).iter().all(|open| !open).then_some(()));
}

/// Names the next credential with this one; the status code.
fn name_next(fleet: &Fleet, present: &str, next: &str) -> u16 {
    let body = json!({"credential_sha256": sha256(next)}).to_string();
    fleet.ask(&bearer(present), &["-d", &body, CREDENTIAL]).expect("an answer").code
}

/// The stages of changes that web-1's journal tells.
fn stages(fleet: &Fleet) -> Vec<String> {
    let lines = fleet.journal().into_iter().filter(|line| line["type"] == "host.credential_rotated");
    lines.map(|line| line["payload"]["stage"].as_str().expect("a stage").to_owned()).collect()
}

fn token(fleet: &Fleet) -> Value {
    fleet.post("/v1/enrollment-tokens", r#"{"host":"web-1"}"#)["token"].clone()
}

fn started() -> Fleet {
    let mut fleet = Fleet::new();
    fleet.start_server();
    assert_eq!(enroll(&fleet, "web-1", &token(&fleet), 1, "rma_one").code, 200);
    fleet
}

/// P12: of 100 agents that enroll with one token at once, one is let in.
#[test]
fn one_token_lets_in_one_of_a_hundred_agents_that_ask_at_once() {
    let mut fleet = Fleet::new();
    fleet.start_server();
    let token = token(&fleet);
    let all = Barrier::new(100);
    let codes: Vec<u16> = std::thread::scope(|scope| {
        let ask = |number: u64| {
            let (fleet, token, all) = (&fleet, &token, &all);
            move || {
                all.wait();
                enroll(fleet, "web-1", token, number, &format!("rma_{number}")).code
            }
        };
        let asking: Vec<_> = (0..100).map(|number| scope.spawn(ask(number))).collect();
        asking.into_iter().map(|asked| asked.join().expect("an answer")).collect()
    });
    let winners: Vec<usize> = (0..100).filter(|number| codes[*number] == 200).collect();
    assert_eq!((winners.len(), codes.iter().filter(|code| **code == 403).count()), (1, 99), "{codes:?}");
    let credentials: Vec<String> = (0..100).map(|number| format!("rma_{number}")).collect();
    let names: Vec<&str> = credentials.iter().map(String::as_str).collect();
    let open: Vec<usize> =
        let_in(&fleet, &names).iter().enumerate().filter(|(_, open)| **open).map(|(n, _)| n).collect();
    assert_eq!(open, winners);
}

#[test]
fn an_agent_changes_its_credential_and_the_old_one_counts_until_the_new_one_is_used() {
    let mut fleet = started();
    assert_eq!(let_in(&fleet, &["rma_one", "rma_two"]), [true, false]);
    assert_eq!(name_next(&fleet, "rma_two", "rma_two"), 401);
    assert_eq!((name_next(&fleet, "rma_one", "rma_three"), stages(&fleet).len()), (200, 1));
    assert_eq!((name_next(&fleet, "rma_one", "rma_two"), name_next(&fleet, "rma_one", "rma_two")), (200, 200));
    assert_eq!(stages(&fleet), ["named", "named"], "the second replaces the first, and is named twice");
    // Both count, also after a restart, and what the second replaced does not.
    fleet.start_server();
    assert_eq!(let_in(&fleet, &["rma_one", "rma_three"]), [true, false]);
    assert_eq!(let_in(&fleet, &["rma_two"]), [true], "which ends the old one");
    are_out(&fleet, &["rma_one"]);
    assert_eq!(let_in(&fleet, &["rma_two"]), [true]);
    assert_eq!(stages(&fleet), ["named", "named", "used"]);
    // A repetition of the request that has been answered changes nothing.
    assert_eq!((name_next(&fleet, "rma_two", "rma_two"), stages(&fleet).len()), (200, 3));
    fleet.start_server();
    assert_eq!(let_in(&fleet, &["rma_one", "rma_two"]), [false, true]);
    let invalid = json!({"credential_sha256": "x"}).to_string();
    expect_as(&fleet, &bearer("rma_two"), &["-d", &invalid, CREDENTIAL], 422, "invalid");
    let file = fleet.read("state/hosts/web-1/credential.json");
    assert!(
        file.contains(&sha256("rma_two")) && !file.contains(&sha256("rma_one")) && !file.contains("rma_"),
        "{file}"
    );
}

#[test]
fn a_revocation_ends_both_credentials_and_no_repetition_brings_one_back() {
    let fleet = started();
    let first = token(&fleet);
    assert_eq!(enroll(&fleet, "web-1", &first, 2, "rma_one").code, 200);
    assert_eq!(name_next(&fleet, "rma_one", "rma_two"), 200);
    assert_eq!(enroll(&fleet, "web-1", &first, 2, "rma_one").code, 200, "said again by the same agent");
    assert_eq!(let_in(&fleet, &["rma_two", "rma_two"]), [true, true], "which does not unmake the next one");
    assert_eq!(name_next(&fleet, "rma_two", "rma_three"), 200);
    assert_eq!(fleet.curl(&["-X", "DELETE", "/v1/hosts/web-1/credential"]).expect("an answer").0, 200);
    are_out(&fleet, &["rma_one", "rma_two", "rma_three"]);
    assert_eq!(enroll(&fleet, "web-1", &first, 2, "rma_one").code, 403);
    assert_eq!(
        (name_next(&fleet, "rma_two", "rma_four"), let_in(&fleet, &["rma_one", "rma_four"])),
        (401, vec![false; 2])
    );
    // Nor is a later enrollment undone by the one before it.
    let second = token(&fleet);
    assert_eq!(enroll(&fleet, "web-1", &second, 3, "rma_five").code, 200);
    assert_eq!(enroll(&fleet, "web-1", &first, 2, "rma_one").code, 403);
    assert_eq!(let_in(&fleet, &["rma_five", "rma_one"]), [true, false]);
}

/// Whoever has the old credential is told nothing more, and the agent itself polls again.
#[test]
fn a_poll_with_the_old_credential_ends_empty_when_the_new_one_is_used() {
    let scene = Scene::new(false);
    let present = scene.credential().to_owned();
    assert_eq!(name_next(&scene.fleet, &present, "rma_two"), 200);
    let mut line = scene.connect();
    scene.park(&mut line, "HTTP/1.1");
    let begun = Instant::now();
    assert_eq!(let_in(&scene.fleet, &["rma_two"]), [true]);
    let (head, body) = line.answer();
    assert!(head.starts_with("HTTP/1.1 200 ") && begun.elapsed() < Duration::from_secs(2), "{head}");
    assert_eq!(body["messages"], json!([]), "{body}");
    are_out(&scene.fleet, &[&present]);
}

#[test]
fn an_agent_on_another_machine_than_was_enrolled_is_told_to_the_operator_and_served() {
    let mut fleet = Fleet::new();
    fleet.start_server();
    let token = token(&fleet);
    let body = json!({"token": token, "enrollment_id": INSTANCE, "host": "web-1", "credential_sha256": sha256("rma_one"), "fingerprint": "a"});
    assert_eq!(fleet.ask("X-Nothing: here", &["-d", &body.to_string(), "/v1/enroll"]).expect("an answer").code, 200);
    let say = |fingerprint: Value| {
        let mut hello = hello(INSTANCE, STREAM);
        hello["machine_fingerprint"] = fingerprint;
        let answer = fleet.ask(&bearer("rma_one"), &["-d", &hello.to_string(), HELLO]).expect("an answer");
        assert_eq!(answer.code, 200, "{}", answer.body);
        fleet.get("/v1/hosts/web-1")["fingerprint_changed"].clone()
    };
    let warnings = || fleet.read("server.log").matches("another machine than the one that was enrolled").count();
    assert_eq!((say(Value::Null), say(json!("a")), warnings()), (Value::Null, Value::Null, 0));
    assert_eq!((say(json!("b")), say(json!("b")), warnings()), (json!(true), json!(true), 1));
    assert_eq!(say(json!("a")), Value::Null);
}
