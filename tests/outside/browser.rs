//! The pages in a real browser: a walk from the fleet to a host, a job that runs, and a restore; focus and selections that stay while the page
//! brings itself up to date; no request to anywhere else; and axe-core, which must find nothing serious, light and dark, narrow and wide.
//! `browser.mjs` walks. `RESTIC_MANAGER_TEST_SHOTS`: a directory for pictures of every page.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Fleet, text};
use crate::made_up_fleet;

/// The directory of node's packages, where node, a browser and those are here. Says why the test is skipped where they are not; where
/// `RESTIC_MANAGER_TEST_NODE_TOOLS` names the directory, that is a failure.
fn tools() -> Option<PathBuf> {
    let named = std::env::var_os("RESTIC_MANAGER_TEST_NODE_TOOLS").map(PathBuf::from);
    let is_wanted = named.is_some();
    let dir = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/node-tools"));
    let runs =
        |program: &str| Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    let missing = [
        (!runs("node")).then_some("node"),
        (!runs("chromium")).then_some("chromium"),
        (!dir.join("node_modules/axe-core").is_dir())
            .then_some("axe-core and playwright-core (tests/tools/get-node-tools target/node-tools gets them)"),
    ];
    let missing: Vec<&str> = missing.into_iter().flatten().collect();
    if missing.is_empty() {
        return Some(dir);
    }
    assert!(!is_wanted, "missing: {}", missing.join(", "));
    eprintln!("skipped: there is no {}", missing.join(", no "));
    None
}

#[test]
fn the_pages_are_walked_through_by_mouse_and_keyboard_and_say_nothing_serious_against_themselves() {
    let Some(tools) = tools() else { return };
    let mut fleet = Fleet::new();
    made_up_fleet::write(&fleet);
    fleet.start_server();
    fleet.enroll("agent");
    fleet.permit_everything("agent", "restic");
    fleet.start_agent();
    for body in [r#"{"kind":"init"}"#, r#"{"schedule_id":"data"}"#] {
        assert_eq!(fleet.run_job(body)["status"], "succeeded", "{body}");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside/browser.mjs");
    let data = fleet.path("data");
    let walked = Command::new("node")
        .arg(script)
        .args([text(&tools), &fleet.url(), text(&data)])
        .env("RESTIC_MANAGER_TEST_TOKEN", fleet.token())
        .output()
        .expect("node runs");
    let said = format!("{}{}", String::from_utf8_lossy(&walked.stdout), String::from_utf8_lossy(&walked.stderr));
    assert!(walked.status.success(), "{said}");
    // What the browser asked for is what was done.
    let restored = fleet.path("restore");
    let found = Command::new("find").arg(&restored).args(["-name", "file-*"]).output().expect("find runs");
    assert_eq!(String::from_utf8_lossy(&found.stdout).lines().count(), 1, "only what was selected: {said}");
}
