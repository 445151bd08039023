//! P11: schemathesis on /openapi.json, with a real fleet behind it: no answer is a server's error, and none is undocumented in its
//! status, type, headers or schema. The control takes one status out of the document, and it is found.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::Digest;

use crate::harness::{Fleet, eventually, text};
use crate::{count, is_full, tool};

const INSTANCE: &str = "11111111-1111-4111-8111-111111111111";
const STREAM: &str = "22222222-2222-4222-8222-222222222222";
/// Hosts without an agent's process: one keeps its session, one says hello in any way, one is revoked all the time.
const QUIET: [&str; 3] = ["web-2", "web-3", "web-4"];

fn credential(host: &str) -> String {
    format!("rma_{}", host.repeat(43).split_at(43).0)
}

fn token(fleet: &Fleet, host: &str) -> Value {
    fleet.post("/v1/enrollment-tokens", &json!({"host": host}).to_string())["token"].clone()
}

/// A fleet with something of everything, and the ids of jobs: one that has ended, and one that nobody takes.
fn fleet() -> (Fleet, [String; 2]) {
    let fleet = Fleet::new();
    for (number, host) in QUIET.iter().enumerate() {
        fleet.write(&format!("config/hosts/{host}.toml"), "repository = \"main\"\n");
        fleet.write(&format!("secrets/{host}"), &format!("{}-{number}", crate::harness::PASSWORD));
    }
    let mut fleet = fleet.start("restic");
    // Whatever is thought of, this host backs up its own few files only.
    fleet.agent = None;
    let settings = fleet
        .read("agent/agent.toml")
        .replace("[policy]\n", &format!("[policy]\nbackup_roots = [{:?}]\n", fleet.path("data")));
    fleet.write("agent/agent.toml", &settings);
    fleet.start_agent();
    for host in QUIET {
        let credential = credential(host);
        let sha256 = data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(credential.as_bytes()));
        let body =
            json!({"token": token(&fleet, host), "enrollment_id": INSTANCE, "host": host, "credential_sha256": sha256});
        fleet.post("/v1/enroll", &body.to_string());
        let hello = json!({"protocol_version": 1, "agent_version": "0", "hostname": host, "os": "linux", "arch": "amd64", "instance_id": INSTANCE, "stream": STREAM});
        let header = format!("Authorization: Bearer {credential}");
        let path = format!("/v1/agents/{host}/hello");
        let said = fleet.ask(&header, &["-d", &hello.to_string(), &path]).expect("an answer");
        assert_eq!(said.code, 200, "{}", said.body);
    }
    assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
    let finished = fleet.run_job(r#"{"schedule_id":"data"}"#);
    assert_eq!(finished["status"], "succeeded", "{finished}");
    eventually("the snapshots are reported", Duration::from_secs(20), || {
        let list = fleet.get("/v1/hosts/web-1/snapshots");
        list["snapshots"].as_array().is_some_and(|list| !list.is_empty()).then_some(())
    });
    let waiting = fleet.post("/v1/hosts/web-2/jobs", r#"{"kind":"init","queue_for":"1h"}"#);
    let ids = [finished, waiting].map(|job| job["id"].as_str().expect("an id").to_owned());
    (fleet, ids)
}

/// schemathesis' settings: who asks as whom, and values that mean something here, among many that do not.
fn settings(fleet: &Fleet, [finished, waiting]: &[String; 2]) -> String {
    let tokens: Vec<Value> = (0..5).map(|_| token(fleet, "web-4")).collect();
    let agents = |path: &str, hosts: &[&str], credential: &str| {
        format!(
            r#"
[[operations]]
{path}
headers = {{ Authorization = "Bearer {credential}" }}
parameters = {{ "path.host" = {{ dictionary = "{hosts}", probability = 0.9 }}, "path.job" = {{ dictionary = "waiting", probability = 0.7 }}, "query.instance" = {{ dictionary = "instance", probability = 0.9 }}, "query.stream" = {{ dictionary = "stream", probability = 0.7 }} }}
"#,
            hosts = hosts[0]
        )
    };
    let session = agents(
        r#"include-path-regex = "^/v1/agents/.*/(heartbeat|commands|events|log)$""#,
        &["web-2"],
        &credential("web-2"),
    );
    let hellos = agents(r#"include-path-regex = "^/v1/agents/.*/hello$""#, &["web-3"], &credential("web-3"));
    format!(
        r#"
headers = {{ Authorization = "Bearer {admin}" }}
hooks = {hooks:?}
request-timeout = 20.0

# Else most requests are refused for a made-up token, before anything of them is looked at.
[generation]
with-security-parameters = false

[dictionaries]
hosts = {{ values = ["web-1", "web-1", "web-2"] }}
web-2 = {{ values = ["web-2"] }}
web-3 = {{ values = ["web-3"] }}
web-4 = {{ values = ["web-4"] }}
jobs = {{ values = ["{finished}", "{waiting}"] }}
waiting = {{ values = ["{waiting}"] }}
instance = {{ values = ["{INSTANCE}"] }}
stream = {{ values = ["{STREAM}"] }}
schedules = {{ values = ["data"] }}
paths = {{ values = [{data:?}] }}
snapshots = {{ values = ["latest"] }}
tokens = {{ values = {tokens} }}

[parameters]
"path.host" = {{ dictionary = "hosts", probability = 0.8 }}
"path.job" = {{ dictionary = "jobs", probability = 0.8 }}
"query.host" = {{ dictionary = "hosts", probability = 0.6 }}
"query.schedule" = {{ dictionary = "schedules", probability = 0.5 }}
"body.schedule_id" = {{ dictionary = "schedules", probability = 0.5 }}
"body.snapshot" = {{ dictionary = "snapshots", probability = 0.5 }}
"body.host" = {{ dictionary = "web-4", probability = 0.7 }}
"body.token" = {{ dictionary = "tokens", probability = 0.5 }}

# What is no line in a body that is lines is not for the schema to say.
[[operations]]
include-operation-id = ["events", "agentLog"]
checks = {{ negative_data_rejection = {{ enabled = false }} }}

# Its 503 is how a monitor is told that something is late, and documented.
[[operations]]
include-operation-id = "status"
checks = {{ not_a_server_error = {{ enabled = false }} }}

[[operations]]
include-operation-id = "revoke"
parameters = {{ "path.host" = {{ dictionary = "web-4", probability = 0.8 }} }}
{session}{hellos}
"#,
        admin = fleet.token(),
        hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside/hooks.py"),
        data = fleet.path("data"),
        tokens = json!(tokens),
    )
}

/// Runs schemathesis: whether it is content, what it said, and how many cases it had.
fn run(program: &Path, fleet: &Fleet, jobs: &[String; 2], document: &str, more: &[&str]) -> (bool, String, u64) {
    let report = fleet.path("report.json");
    let output = Command::new(program)
        .args([
            "--no-color",
            "--config-file",
            text(&fleet.path("schemathesis.toml")),
            "run",
            document,
            "--url",
            &fleet.url(),
        ])
        .args(["--continue-on-failure", "--no-shrink", "--warnings", "off", "--suppress-health-check", "all"])
        .args(["--report", "json", "--report-json-path", text(&report)])
        .args(more)
        .env("RESTIC_MANAGER_JOBS", jobs.join(" "))
        .current_dir(fleet.dir.path())
        .output()
        .expect("schemathesis runs");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let report: Value =
        std::fs::read_to_string(&report).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let cases = report["test_cases"]["generated"].as_u64().unwrap_or(0);
    (output.status.success(), said, cases)
}

#[test]
fn nothing_that_is_asked_gets_a_servers_error_or_an_undocumented_answer() {
    let Some(program) = tool("schemathesis") else { return };
    let (mut fleet, jobs) = fleet();
    fleet.write("schemathesis.toml", &settings(&fleet, &jobs));
    let document = format!("{}/openapi.json", fleet.url());
    let examples = count(6, 100).to_string();
    let phases = if is_full() { "coverage,fuzzing" } else { "fuzzing" };
    // Refusals for what no schema can say (a backup without paths on this host) are no fault of the server's.
    let mut arguments =
        vec!["--phases", phases, "--max-examples", &examples, "--exclude-checks", "positive_data_acceptance"];
    if !is_full() {
        // The same cases each time; the full run looks for new ones, and says its seed.
        arguments.extend(["--seed", "1"]);
    }
    let (is_content, said, cases) = run(&program, &fleet, &jobs, &document, &arguments);
    assert!(is_content, "{said}");
    eprintln!("schemathesis: {cases} cases");
    assert!(cases >= count(100, 2000) as u64, "only {cases} cases: {said}");
    assert!(fleet.server.as_mut().expect("a server").is_running(), "{}", fleet.read("server.log"));
    assert!(fleet.agent.as_mut().expect("an agent").is_running(), "{}", fleet.read("agent.log"));
    assert!(!fleet.read("server.log").contains("panicked"));

    // The control: a document that does not know the 404.
    let mut other: Value = serde_json::from_str(&fleet.curl(&["/openapi.json"]).expect("an answer").1).expect("JSON");
    let responses = other.pointer_mut("/paths/~1v1~1hosts~1{host}/get/responses").and_then(Value::as_object_mut);
    responses.expect("responses").remove("404");
    fleet.write("other.json", &other.to_string());
    let arguments = [
        "--phases",
        "fuzzing",
        "--max-examples",
        "20",
        "--include-operation-id",
        "host",
        "--checks",
        "status_code_conformance",
    ];
    let (is_content, said, _) = run(&program, &fleet, &jobs, text(&fleet.path("other.json")), &arguments);
    assert!(!is_content && said.contains("404"), "an undocumented status was not found: {said}");
}
