//! README.md's tour, as somebody would paste it: its blocks in order into one bash, with the real programs and the real restic.
//! Only `cargo build` is left out: this test's own build stands in for it.
#![allow(clippy::disallowed_methods, reason = "tests set their files and times up by hand, and start programs")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::{fs, net};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

/// The text of the blocks that are part of the tour.
fn tour(readme: &str) -> String {
    let mut lines = Vec::new();
    let mut inside = false;
    for line in readme.lines() {
        match line {
            "```sh tour" => inside = true,
            "```" => inside = false,
            line if inside => lines.push(line),
            _ => {}
        }
    }
    lines.join("\n")
}

/// The host's history, from its files.
fn history(directory: &Path) -> Vec<Value> {
    let journal = directory.join("tour/state/hosts/web-1/journal");
    let mut segments: Vec<_> = fs::read_dir(journal).expect("a journal").flatten().map(|entry| entry.path()).collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    segments.sort();
    let text: String = segments.iter().map(|path| fs::read_to_string(path).expect("a segment")).collect();
    text.lines().map(|line| serde_json::from_str(line).expect("a line of history is JSON")).collect()
}

#[test]
fn the_readmes_tour_works_as_pasted() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("README.md");
    let tour = tour(&readme);
    for step in ["serve", "enroll", "cancel", "restore", "follow=1", "jq"] {
        assert!(tour.contains(step), "the tour has {step}");
    }
    if Command::new("restic").arg("version").stdout(Stdio::null()).status().is_err() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI has restic: apt-get install restic");
        println!("skipped: the tour needs restic (apt-get install restic)");
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let programs = Path::new(env!("CARGO_BIN_EXE_restic-manager")).parent().expect("a directory");
    assert!(Path::new(env!("CARGO_BIN_EXE_restic-manager-agent")).starts_with(programs));
    let port = net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    // Whatever happens, nothing of it runs on. The build's place is taken by a function of its name.
    let script =
        format!("set -euo pipefail\ncargo() {{ :; }}\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{tour}\n");
    let output = Command::new("timeout")
        .args(["--kill-after=20", "280", "bash", "-c", &script])
        .current_dir(directory.path())
        .env("RESTIC_MANAGER_BIN", programs)
        .env("TOUR_PORT", port.to_string())
        .stdin(Stdio::null())
        .output()
        .expect("timeout and bash are there");
    let told = || {
        let log = |name: &str| fs::read_to_string(directory.path().join("tour").join(name)).unwrap_or_default();
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        format!("{stdout}\n{stderr}\n--- server\n{}\n--- agent\n{}", log("server.log"), log("agent.log"))
    };
    assert!(output.status.success(), "{}: {}", output.status, told());
    assert!(output.stdout.ends_with(b"the same\n"), "the restored file is compared last: {}", told());

    // The last edit of the schedule was acknowledged within 2 s of its being written.
    let edited = fs::metadata(directory.path().join("tour/config/hosts/web-1.toml")).and_then(|file| file.modified());
    let edited: DateTime<Utc> = edited.expect("the time of the edit").into();
    let history = history(directory.path());
    let acknowledged = history.iter().rfind(|line| line["type"] == "schedule.ack").expect("an acknowledgement");
    let at: DateTime<Utc> = acknowledged["received_at"].as_str().and_then(|text| text.parse().ok()).expect("a time");
    assert!(at - edited <= TimeDelta::seconds(2), "edited {edited}, acknowledged {at}");

    // Every job ended once, and as the tour says: init, fire, run now, cancelled, restore.
    let ends: Vec<&str> = history
        .iter()
        .filter(|line| line["type"] == "job.finished")
        .filter_map(|line| line["payload"]["status"].as_str())
        .collect();
    assert_eq!(ends.iter().filter(|end| **end == "cancelled").count(), 1, "{ends:?}");
    assert!(ends.len() >= 5 && ends.iter().all(|end| matches!(*end, "succeeded" | "cancelled")), "{ends:?}");
}
