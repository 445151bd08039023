//! SQLite as a reference, by Python's module.

use std::process::Command;

use serde_json::Value;

use crate::Bench;

/// Runs tests/bench/sqlite.py; the error says what is missing.
pub(super) fn run(bench: &Bench, arguments: &[&str]) -> Result<Value, String> {
    if bench.quick {
        return Err("SQLite: not with --quick".to_owned());
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/sqlite.py");
    let output = Command::new("python3").arg(script).args(arguments).output();
    let output = output.map_err(|_| "python3 with sqlite3 is missing: apt-get install python3".to_owned())?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        format!("SQLite (apt-get install python3): {}", said.lines().last().unwrap_or_default())
    })
}
