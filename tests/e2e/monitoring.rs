//! What monitors see: `/v1/status` is 503 until every backup has succeeded, README.md's lines work as they stand, `/metrics` says the
//! same before and after a restart, and a limited token sees its hosts only.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use data_encoding::HEXLOWER;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::harness::{Fleet, SERVER, eventually};

/// README.md's lines for monitors.
fn readmes_lines() -> String {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("README.md");
    let blocks = readme.split("```sh monitor\n").skip(1);
    blocks.filter_map(|rest| rest.split_once("\n```").map(|(block, _)| format!("{block}\n"))).collect()
}

/// They run in an empty directory with a viewer's header; each line must succeed, pipes included.
fn run_readmes_lines(fleet: &Fleet, token: &str) -> (bool, String) {
    let dir = fleet.path("monitor");
    fs::create_dir_all(&dir).expect("a directory");
    fs::write(dir.join("header"), format!("Authorization: Bearer {token}\n")).expect("written");
    let programs = Path::new(SERVER).parent().expect("a directory").to_str().expect("text");
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
    let script = format!("set -euo pipefail\nurl={}\n{}", fleet.url(), readmes_lines());
    let ran =
        Command::new("bash").args(["-c", &script]).current_dir(&dir).env("PATH", path).output().expect("bash runs");
    (ran.status.success(), format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr)))
}

/// Every series of a scrape but those of the moment and of the server itself.
fn lasting(text: &str) -> BTreeMap<&str, &str> {
    let of_a_moment = ["process_", "restic_manager_http_", "restic_manager_journal_", "restic_manager_connections"];
    let more = [
        "restic_manager_polls_",
        "restic_manager_host_clock_skew",
        "restic_manager_host_last_seen",
        "restic_manager_agent_spool",
    ];
    text.lines()
        .filter(|line| !line.starts_with('#') && !of_a_moment.iter().chain(&more).any(|start| line.starts_with(start)))
        .filter_map(|line| line.rsplit_once(' '))
        .collect()
}

fn metrics(fleet: &Fleet) -> String {
    let (code, text) = fleet.curl(&["/metrics"]).expect("an answer");
    assert_eq!(code, 200, "{text}");
    text
}

#[test]
fn monitors_see_what_has_not_succeeded_and_a_restart_changes_no_figure() {
    let mut fleet = Fleet::new();
    let sha256 = |token: &str| HEXLOWER.encode(&Sha256::digest(token.as_bytes()));
    let token = |name: &str, role: &str, hosts: &str| {
        format!("[[tokens]]\nname = \"{name}\"\nrole = \"{role}\"\nsha256 = \"{}\"\n{hosts}", sha256(name))
    };
    fleet.start_server();
    let admin = format!("[[tokens]]\nname = \"root\"\nrole = \"admin\"\nsha256 = \"{}\"\n", sha256(&fleet.token()));
    let tokens = admin + &token("seer", "viewer", "") + &token("other", "viewer", "hosts = [\"db-*\"]\n");
    fleet.write("config/server.toml", &format!("secret_roots = [\"../secrets\"]\n{tokens}"));
    fleet.post("/v1/config/reload", "");
    let seer = "Authorization: Bearer seer";

    // No agent: nothing has succeeded, whatever limit is asked for.
    for path in ["/v1/status", "/v1/status?max_age=50y", "/v1/status?host=web-1"] {
        let late = fleet.ask(seer, &[path]).expect("an answer");
        assert_eq!((late.code, late.content_type.as_str()), (503, "application/problem+json"), "{}", late.body);
        let late = late.json();
        assert_eq!(
            (&late["code"], &late["late"], &late["hosts"][0]["enrolled"]),
            (&json!("late"), &json!(1), &json!(false))
        );
    }
    let (code, text) = fleet.curl_as(seer, &["-H", "Accept: text/plain", "/v1/status"]).expect("an answer");
    assert!(code == 503 && text.contains("\nweb-1  data      backup  never: no agent"), "{text}");
    assert!(!run_readmes_lines(&fleet, "seer").0, "the README's monitor would not notice");
    for (path, expected) in
        [("/v1/status?max_age=soon", 400), ("/v1/status?host=web-9", 404), ("/v1/status?age=1d", 400)]
    {
        assert_eq!(fleet.ask(seer, &[path]).expect("an answer").code, expected, "{path}");
    }

    let mut fleet = fleet.start("restic");
    assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
    assert_eq!(fleet.run_job(r#"{"schedule_id":"data"}"#)["status"], "succeeded");
    let (is_well, told) = run_readmes_lines(&fleet, "seer");
    assert!(is_well && told.contains("ok: the one schedule is not late"), "{told}");
    assert!(told.contains("restic_manager_schedule_last_success_timestamp_seconds{host=\"web-1\""), "{told}");
    assert!(fleet.read("monitor/restic-manager.rules.yml").contains("groups:"));
    assert!(serde_json::from_str::<serde_json::Value>(&fleet.read("monitor/restic-manager.json")).is_ok());

    // Basic, as Prometheus and uptime monitors can send it; nothing without a token, or of other hosts.
    let basic = format!("Authorization: Basic {}", data_encoding::BASE64.encode(b"prometheus:seer"));
    assert_eq!(fleet.ask(&basic, &["/metrics"]).expect("an answer").code, 200);
    assert_eq!(fleet.ask("X-Nothing: here", &["/metrics"]).expect("an answer").code, 401);
    let of_others = fleet.ask("Authorization: Bearer other", &["/metrics"]).expect("an answer");
    assert!(of_others.code == 200 && !of_others.body.contains("web-1"), "{}", of_others.body);
    assert_eq!(fleet.ask("Authorization: Bearer other", &["/v1/status?host=web-1"]).expect("an answer").code, 404);
    assert_eq!(of_others.content_type, "text/plain; version=0.0.4; charset=utf-8");
    let (_, heads) = fleet.curl(&["-i", "/metrics"]).expect("an answer");
    assert!(heads.to_ascii_lowercase().contains("cache-control: private, no-cache"), "{heads}");

    // The agent's reports have come.
    let before = eventually("all is told", Duration::from_secs(40), || {
        let text = metrics(&fleet);
        let has = |what: &str| text.contains(what);
        (has("repository_size_bytes{")
            && has("restic_manager_polls_parked 1\n")
            && has("agent_spool_bytes{host=\"web-1\"} "))
        .then_some(text)
    });
    let of_jobs = "restic_manager_jobs_total{host=\"web-1\",schedule=\"data\",kind=\"backup\",outcome=\"succeeded\"}";
    assert_eq!(lasting(&before).get(of_jobs), Some(&"1"), "{before}");
    assert!(
        before.contains("restic_manager_http_requests_total{method=\"GET\",path=\"/metrics\",code=\"200\"}"),
        "{before}"
    );
    fleet.start_server();
    let after = eventually("the agent is back", Duration::from_secs(40), || {
        let text = metrics(&fleet);
        text.contains("restic_manager_polls_parked 1\n").then_some(text)
    });
    assert_eq!(lasting(&after), lasting(&before));
}
