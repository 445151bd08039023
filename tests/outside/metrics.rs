//! Prometheus' own tool judges what the server tells and the files that `restic-manager monitoring` prints. The controls give it a
//! metric without a help text, a rule that is none, and rules with another limit.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::harness::{Fleet, SERVER, eventually};
use crate::tool_from;

/// `None`: the test skips, which was said.
fn promtool() -> Option<PathBuf> {
    tool_from("promtool", "RESTIC_MANAGER_TEST_PROMTOOL", "tests/tools/get-promtool")
}

fn printed(which: &str) -> String {
    let output = Command::new(SERVER).args(["monitoring", which]).output().expect("it runs");
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("text")
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// `promtool check metrics` of this text.
fn check_metrics(promtool: &Path, text: &str) -> Output {
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(text.as_bytes()).expect("written");
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

#[test]
fn promtool_accepts_the_metrics_of_a_fleet() {
    let Some(promtool) = promtool() else { return };
    let fleet = Fleet::started();
    assert_eq!(fleet.run_job(r#"{"kind":"init"}"#)["status"], "succeeded");
    assert_eq!(fleet.run_job(r#"{"schedule_id":"data"}"#)["status"], "succeeded");
    eventually("the repository is told of", Duration::from_secs(20), || {
        fleet.get("/v1/hosts/web-1").get("repository").is_some().then_some(())
    });
    let (code, text) = fleet.curl(&["/metrics"]).expect("an answer");
    assert_eq!(code, 200);
    let judged = check_metrics(&promtool, &text);
    assert!(judged.status.success() && told(&judged).is_empty(), "{}\n{text}", told(&judged));
    for (what, bad) in [
        ("a counter without a help", text.replacen("# HELP restic_manager_jobs_total", "# HELLO", 1)),
        ("a line that is none", text + "restic_manager_host_online{host=\"a\nb\"} 1\n"),
    ] {
        assert!(!check_metrics(&promtool, &bad).status.success(), "{what} is accepted");
    }
}

#[test]
fn promtool_accepts_the_rules_and_they_tell_what_they_should() {
    let Some(promtool) = promtool() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    for cases in ["rules_test.yml", "rules_days_test.yml"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside").join(cases);
        fs::copy(from, dir.path().join(cases)).expect("copied");
    }
    let run = |rules: &str, arguments: [&str; 3]| {
        fs::write(dir.path().join("rules.yml"), rules).expect("written");
        Command::new(&promtool).args(arguments).current_dir(dir.path()).output().expect("promtool runs")
    };
    let rules = printed("rules");
    let (check, test) = (["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]);
    for arguments in [check, test, ["test", "rules", "rules_days_test.yml"]] {
        let judged = run(&rules, arguments);
        assert!(judged.status.success(), "{arguments:?}: {}", told(&judged));
    }
    assert!(!run(&rules.replace(" == 1", " === 1"), check).status.success());
    assert!(!run(&rules.replace("> 26 * 3600", "> 48 * 3600"), test).status.success(), "the cases look");
    let every = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let read = |cases: &str| fs::read_to_string(dir.path().join(cases)).expect("read");
    let cases = read("rules_test.yml") + &read("rules_days_test.yml");
    let untested: Vec<&str> = every.filter(|name| !cases.contains(&format!("alertname: {name}"))).collect();
    assert_eq!(untested, [""; 0], "every rule has a case");
}
