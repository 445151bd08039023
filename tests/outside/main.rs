//! The server as programs of other people see it: schemathesis holds it against its own /openapi.json, sslyze its TLS against
//! Mozilla's profile, aiosmtpd takes its mails, Prometheus' promtool its metrics and rules. tests/tools/get-python-tools and
//! tests/tools/get-promtool get them; `RESTIC_MANAGER_TEST_PYTHON_TOOLS` and `RESTIC_MANAGER_TEST_PROMTOOL` are their directories, else
//! they are looked for on the PATH. Without them the tests skip, but fail where `CI=true`.
//! `cargo test --test outside` runs few cases; `RESTIC_MANAGER_BARS=full` runs more than 2,000.

#![allow(clippy::disallowed_methods, reason = "tests set their files and times up by hand, and start programs")]

#[allow(dead_code, reason = "shared with the end-to-end tests")]
#[path = "../e2e/alternate.rs"]
mod alternate;
#[allow(dead_code, reason = "shared with the end-to-end tests")]
#[path = "../e2e/harness.rs"]
mod harness;

mod browser;
mod made_up_fleet;
mod mail;
mod metrics;
mod openapi;
mod tls;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One of the Python programs, if it is here.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    tool_from(name, "RESTIC_MANAGER_TEST_PYTHON_TOOLS", "tests/tools/get-python-tools")
}

/// The program, if it is here: in the directory that the variable names, else on the PATH. Says why a test is skipped where it is not.
pub(crate) fn tool_from(name: &str, variable: &str, getter: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map_or(name.into(), |dir| Path::new(&dir).join(name));
    let runs = Command::new(&path).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if runs.is_ok_and(|status| status.success()) {
        return Some(path);
    }
    assert!(!std::env::var("CI").is_ok_and(|ci| ci == "true"), "there is no {name}: {getter} gets it");
    eprintln!("skipped: there is no {name} ({getter} gets it)");
    None
}

/// The number: the full one where `RESTIC_MANAGER_BARS=full`, else the short one.
pub(crate) fn count(short: usize, full: usize) -> usize {
    if is_full() { full } else { short }
}

pub(crate) fn is_full() -> bool {
    std::env::var("RESTIC_MANAGER_BARS").is_ok_and(|bars| bars == "full")
}
