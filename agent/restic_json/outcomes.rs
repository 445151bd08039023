//! Edge. What is made of every captured run, case by case and version by version, as tests/restic-json/outcomes.txt expects it: how it
//! ended, why, in which words, and what was counted. A case that is not in there is an error, and so is one too many there.
//! `RESTIC_MANAGER_OUTCOMES_BLESS=1` writes the file anew, for somebody who reads the difference.

use std::collections::BTreeMap;
use std::fmt::Write;

use restic_manager::protocol::agent_event::JobOutcome;
use serde_json::Value;

use super::captured::{Run, all_runs};
use super::document;
use super::query::{self, DiffLine};
use crate::restic_version::ResticVersion;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/restic-json/outcomes.txt");
const EXPECTED: &str = include_str!("../../tests/restic-json/outcomes.txt");

/// What is counted alike in every run of a case.
const COUNTS: [&str; 15] = [
    "files_new",
    "files_changed",
    "files_unmodified",
    "total_files_processed",
    "files_restored",
    "files_skipped",
    "snapshots_kept",
    "snapshots_removed",
    "snapshots_copied",
    "num_errors",
    "suggest_prune",
    "suggest_repair_index",
    "to_delete",
    "total_prune",
    "remaining",
];

#[test]
fn every_captured_case_has_the_outcome_that_is_expected_of_it() {
    let mut outcomes: BTreeMap<String, Vec<(ResticVersion, String)>> = BTreeMap::new();
    for run in all_runs() {
        outcomes.entry(run.case.case.clone()).or_default().push((run.version, outcome(&run)));
    }
    // Fewer would mean that the captures are not what they were.
    let of = |version| outcomes.values().flatten().filter(|(of, _)| *of == version).count();
    let versions = [(0, 14, 0), (0, 18, 0), (0, 19, 1)].map(|(a, b, c)| ResticVersion::new(a, b, c));
    assert_eq!(versions.map(of), [289, 327, 289]);
    let found: BTreeMap<&str, String> =
        outcomes.iter().map(|(case, outcomes)| (case.as_str(), paragraph(outcomes))).collect();
    if std::env::var_os("RESTIC_MANAGER_OUTCOMES_BLESS").is_some() {
        let text: Vec<String> = found.iter().map(|(case, lines)| format!("{case}\n{lines}")).collect();
        #[allow(clippy::disallowed_methods, reason = "a file of the source")]
        std::fs::write(FILE, text.join("\n")).expect("written");
        return;
    }
    let mut expected: BTreeMap<&str, &str> =
        EXPECTED.split("\n\n").filter_map(|paragraph| paragraph.split_once('\n')).collect();
    let mut problems = Vec::new();
    for (case, found) in &found {
        match expected.remove(case) {
            None => problems.push(format!("{case} is not expected:\n{found}")),
            Some(wanted) if wanted.trim_end() == found.trim_end() => {}
            Some(wanted) => problems.push(format!("{case}: expected is\n{wanted}\nand found\n{found}")),
        }
    }
    problems.extend(expected.keys().map(|case| format!("{case} is expected and there is no such case")));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Versions that agree share a line.
fn paragraph(outcomes: &[(ResticVersion, String)]) -> String {
    let mut lines: Vec<(Vec<String>, &str)> = Vec::new();
    for (version, outcome) in outcomes {
        let version = version.to_string();
        match lines.iter_mut().find(|(_, said)| said == outcome) {
            Some((versions, _)) => versions.push(version),
            None => lines.push((vec![version], outcome)),
        }
    }
    let mut text = String::new();
    for (versions, outcome) in lines {
        let _ = writeln!(text, "    {}: {outcome}", versions.join(" "));
    }
    text
}

fn outcome(run: &Run) -> String {
    let end = &run.end;
    let mut text = match end.outcome {
        JobOutcome::Succeeded if end.incomplete => "succeeded, incomplete".to_owned(),
        JobOutcome::Succeeded => "succeeded".to_owned(),
        JobOutcome::Failed | JobOutcome::Cancelled => {
            let exit = end.exit_code.map_or_else(|| "by a signal".to_owned(), |code| format!("exit {code}"));
            let cause = end.cause.map_or_else(|| "no known cause".to_owned(), |cause| format!("{cause:?}"));
            format!("failed, {exit}, {cause}")
        }
    };
    if let Some(error) = &end.error {
        // Without what only says the cause in words.
        let cause = end.cause.map(|cause| cause.to_string()).unwrap_or_default();
        let said = error.strip_prefix(&format!("{cause}: ")).or_else(|| error.strip_suffix(&format!(" ({cause})")));
        let _ = write!(text, ": {:?}", said.unwrap_or(error));
    }
    if let Some(first) = end.warnings.first() {
        let more = if end.warnings.len() > 1 { format!(" and {} more", end.warnings.len() - 1) } else { String::new() };
        let _ = write!(text, "; warned of {first:?}{more}");
    }
    let mut counts: Vec<String> = Vec::new();
    if let Some(stats) = &end.stats {
        counts.extend(stats.contains_key("snapshot_id").then(|| "a snapshot".to_owned()));
        for name in COUNTS {
            match stats.get(name) {
                None | Some(Value::Null) => {}
                Some(Value::String(value)) => counts.push(format!("{name} {value:?}")),
                Some(value) => counts.push(format!("{name} {value}")),
            }
        }
    }
    counts.extend(answer(run));
    if !counts.is_empty() {
        let _ = write!(text, "; {}", counts.join(", "));
    }
    text
}

/// What a query was answered.
fn answer(run: &Run) -> Option<String> {
    let lines = || run.case.stdout.lines();
    match run.case.kind.as_str() {
        "ls" => Some(format!("{} entries", lines().filter_map(query::ls_line).count())),
        "find" => Some(match query::find(run.case.stdout.as_bytes()) {
            Some(entries) => format!("{} entries", entries.len()),
            None => "no document".to_owned(),
        }),
        "diff" => {
            let read: Vec<DiffLine> = lines().filter_map(query::diff_line).collect();
            let changes = read.iter().filter(|line| matches!(line, DiffLine::Change(_))).count();
            Some(format!("{changes} changes, {} statistics", read.len() - changes))
        }
        "stats" => {
            let counts = lines().find_map(query::stats);
            let of = |counts: serde_json::Map<String, Value>| {
                format!("{} snapshots, {} files", counts["snapshots_count"], counts["total_file_count"])
            };
            Some(counts.map_or_else(|| "no document".to_owned(), of))
        }
        "snapshots" => Some(match document::snapshots(run.case.stdout.as_bytes()) {
            Some(snapshots) => format!("{} snapshots", snapshots.len()),
            None => "no document".to_owned(),
        }),
        "list" => Some(format!("{} ids", lines().filter(|line| line.len() == 64).count())),
        "version" => ResticVersion::parse(&run.case.stdout).map(|version| version.to_string()),
        _ => None,
    }
}
