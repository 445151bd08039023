//! Pure. Every captured run of the commands that we use, of three versions, through the parsers: nothing restic really
//! printed is a surprise, and each run ends as it should. The runs are in tests/restic-json.

use std::collections::BTreeMap;

use restic_manager::protocol::agent_event::JobOutcome;
use restic_manager::protocol::job_options::JobKind;
use serde::Deserialize;
use serde_json::json;

use super::cause::Cause;
use super::ending::{Exit, JobEnd, Transcript};
use super::stderr::StderrLine;
use super::{StdoutLine, document};
use crate::restic_version::ResticVersion;

const CAPTURED: [(ResticVersion, &str); 3] = [
    (ResticVersion::new(0, 14, 0), include_str!("../../tests/restic-json/0.14.0.jsonl")),
    (ResticVersion::new(0, 18, 0), include_str!("../../tests/restic-json/0.18.0.jsonl")),
    (ResticVersion::new(0, 19, 1), include_str!("../../tests/restic-json/0.19.1.jsonl")),
];

/// Of the commands that our jobs are not, and what is none of restic's. Each says its version.
const OTHERS: &str = include_str!("../../tests/restic-json/others.jsonl");

#[derive(Deserialize)]
pub(super) struct Case {
    #[serde(default)]
    version: String,
    pub(super) case: String,
    pub(super) kind: String,
    cmd: String,
    exit: i32,
    pub(super) stdout: String,
    stderr: String,
    /// Where the bytes are not UTF-8.
    stderr_hex: Option<String>,
}

pub(super) struct Run {
    pub(super) version: ResticVersion,
    pub(super) case: Case,
    pub(super) end: JobEnd,
    stdout: Vec<StdoutLine>,
    stderr: Vec<StderrLine>,
    unknown_lines: u64,
}

impl Run {
    fn of(version: ResticVersion, case: Case) -> Self {
        let mut transcript = Transcript::new(case.kind.parse().ok());
        let stderr = case.stderr_hex.as_ref().map_or_else(
            || case.stderr.clone().into_bytes(),
            |hex| data_encoding::HEXLOWER.decode(hex.as_bytes()).expect("hexadecimal"),
        );
        let stdout = case.stdout.lines().map(|line| transcript.stdout(line.as_bytes())).collect();
        let stderr = stderr.split(|byte| *byte == b'\n').map(|line| transcript.stderr(line)).collect();
        // The capture has a shell's codes. 130 and 143 are restic's own where it handles the signal.
        let dies = matches!(case.exit, 137 | 141) || (case.exit == 143 && version < ResticVersion::new(0, 17, 0));
        let exit = if dies { Exit::Signal(case.exit - 128) } else { Exit::Code(case.exit) };
        let unknown_lines = transcript.unknown_lines();
        Self { version, end: transcript.end(exit, version), case, stdout, stderr, unknown_lines }
    }

    fn name(&self) -> String {
        format!("{} {}", self.version, self.case.case)
    }

    fn is_json(&self) -> bool {
        self.case.cmd.lines().next().is_some_and(|command| command.contains("--json"))
    }

    fn is_new(&self) -> bool {
        self.version.has_distinct_exit_codes()
    }
}

/// Those too that are no jobs of ours.
pub(super) fn all_runs() -> Vec<Run> {
    let others = OTHERS.lines().map(|line| serde_json::from_str::<Case>(line).expect("a captured run"));
    let others = others.map(|case| {
        let version = ResticVersion::parse(&format!("restic {}", case.version)).expect("a version");
        Run::of(version, case)
    });
    let mut all: Vec<Run> = runs().into_iter().chain(others).collect();
    all.sort_by_key(|run| run.version);
    all
}

fn runs() -> Vec<Run> {
    let mut runs = Vec::new();
    for (version, lines) in CAPTURED {
        for line in lines.lines() {
            runs.push(Run::of(version, serde_json::from_str(line).expect("a captured run")));
        }
    }
    runs
}

/// Why a run fails, by its name in the captures; the same for all versions unless a version is given.
/// From "Differences between the versions" and the cases of the captures' README.
fn expected_cause(run: &Run) -> Option<Cause> {
    let new = run.is_new();
    let name = run.case.case.trim_start_matches("rest13-").trim_start_matches("rest14-");
    let rest = name.len() != run.case.case.len();
    match name {
        "repo-missing-backup-json"
        | "repo-missing-snapshots"
        | "repo-missing-snapshots-json"
        | "repo-emptydir-snapshots-json"
        | "damage-config-missing-json"
        | "missing-repo-json" => Some(Cause::NoRepository),
        "wrong-password" | "wrong-password-json" | "wrong-repo-password-json" | "damage-keys-missing-json" => {
            Some(Cause::WrongPassword)
        }
        "locked-exclusive-backup-json"
        | "locked-exclusive-backup-text"
        | "locked-exclusive-forget-dry-json"
        | "locked-exclusive-snapshots-json"
        | "locked-shared-check-json"
        | "locked-shared-forget-json"
        | "locked-shared-forget-real-json"
        | "locked-shared-prune-json"
        | "locked-shared-prune-text"
        | "stale-check-json"
        | "stale-forget-json"
        | "stale-prune-json"
        | "stale-prune-text"
        | "stale-otherhost-prune-json" => Some(Cause::Locked),
        // 0.14 stops at the unknown flag.
        "locked-retry-lock-json" | "locked-retry-lock-text" => new.then_some(Cause::Locked),
        "init-again" | "init-json-again" => Some(Cause::RepositoryExists),
        "backup-repo-disk-full-json" | "quota-backup-json" | "restore-disk-full-json" => Some(Cause::NoSpace),
        name if name.starts_with("damage-") => Some(Cause::Damaged),
        "no-credentials-json"
        | "other-users-repo-json"
        | "wrong-http-password-json"
        | "restore-target-not-writable-json"
        | "snapshots-repo-unreadable-json" => Some(Cause::AccessDenied),
        // What 0.19 may not write is its own cache; the others go on without.
        "cache-unwritable-snapshots-json" => Some(Cause::AccessDenied),
        "snapshots-env-user-json" => (!new).then_some(Cause::AccessDenied),
        name if rest && name.starts_with("append-only-") => Some(Cause::AppendOnly),
        "server-down-init-json" | "server-down-backup-json" | "server-down-snapshots-json" | "dns-fails-json" => {
            Some(Cause::Unreachable)
        }
        _ => None,
    }
}

#[test]
fn no_line_that_restic_printed_is_a_surprise() {
    let runs = runs();
    for run in &runs {
        // A query prints a document of its own; text without --json is text.
        assert_eq!(run.unknown_lines, 0, "{}: {:?} {:?}", run.name(), run.stdout, run.stderr);
        for line in
            run.stdout.iter().filter_map(|line| if let StdoutLine::Text(text) = line { Some(text) } else { None })
        {
            assert!(
                run.case.kind == "version" || !line.starts_with("{\""),
                "{}: JSON taken for text: {line}",
                run.name()
            );
        }
        for text in run.stderr.iter().filter_map(StderrLine::text) {
            assert!(!text.starts_with("{\"") && !text.contains(['\u{1b}', '\r']), "{}: {text:?}", run.name());
        }
    }
    // Fewer would mean that the files are not what they were.
    let per_version = |version| runs.iter().filter(|run| run.version == version).count();
    assert_eq!(CAPTURED.map(|(version, _)| per_version(version)), [203, 233, 203]);
}

#[test]
fn every_run_ends_as_its_exit_code_and_version_mean() {
    let mut other_causes = Vec::new();
    for run in runs() {
        let (name, end) = (run.name(), &run.end);
        let backup = run.case.kind == "backup";
        // 0.18 says 0 though the append-only server removed nothing.
        let lies =
            run.case.exit == 0 && run.case.kind == "forget" && run.case.case.contains("append-only") && run.is_new();
        // Only 0.19 says 3 for a missing source.
        let missing = run.case.case == "backup-missing-one-source-json";
        let succeeded = (run.case.exit == 0 && !lies) || (run.case.exit == 3 && backup);
        assert_eq!(end.outcome == JobOutcome::Succeeded, succeeded, "{name}: {end:?}");
        assert_eq!(end.incomplete, backup && (run.case.exit == 3 || missing), "{name}: {end:?}");
        assert!(!end.incomplete || !end.warnings.is_empty(), "{name}: {end:?}");
        let expected = if succeeded || end.exit_code.is_none() { None } else { expected_cause(&run) };
        if end.cause != expected {
            other_causes.push(format!("{name}: {expected:?} expected: {end:?}"));
        }
        let error = end.error.as_deref();
        assert_eq!(error.is_some(), !succeeded, "{name}: {end:?}");
        for noise in ["github.com/", "runtime.", "\n", "retrying after", "\t"] {
            assert!(!error.is_some_and(|error| error.contains(noise)), "{name}: {error:?}");
        }
        assert!(!error.is_some_and(|error| error.starts_with("Fatal: ")), "{name}: {error:?}");
    }
    assert!(other_causes.is_empty(), "{}", other_causes.join("\n"));
}

#[test]
fn the_causes_that_need_an_answer_are_found_in_every_version() {
    let mut found: BTreeMap<String, Vec<ResticVersion>> = BTreeMap::new();
    for run in runs() {
        if let Some(cause) = run.end.cause {
            let versions = found.entry(format!("{cause:?}")).or_default();
            if !versions.contains(&run.version) {
                versions.push(run.version);
            }
        }
    }
    for cause in
        ["NoRepository", "Locked", "WrongPassword", "RepositoryExists", "Unreachable", "AccessDenied", "NoSpace"]
    {
        assert_eq!(found.get(cause).map(Vec::len), Some(3), "{cause}: {found:?}");
    }
}

#[test]
fn a_job_that_has_a_summary_shows_it() {
    let mut seen: BTreeMap<(String, ResticVersion), u32> = BTreeMap::new();
    for run in runs().iter().filter(|run| run.is_json() && run.end.outcome == JobOutcome::Succeeded) {
        let (name, stats) = (run.name(), run.end.stats.as_ref());
        let has = |key: &str| stats.is_some_and(|stats| stats.contains_key(key));
        let shows = match run.case.kind.parse() {
            Ok(JobKind::Backup) => {
                // There is no snapshot of a dry run, nor of an unchanged source that was skipped.
                let dry = run.case.cmd.contains("--dry-run");
                let snapshot = has("snapshot_id");
                assert_eq!(snapshot, !dry && !run.case.cmd.contains("--skip-if-unchanged"), "{name}: {stats:?}");
                has("files_new") && has("data_added") && has("total_bytes_processed")
            }
            Ok(JobKind::Forget) => has("snapshots_kept") && has("snapshots_removed"),
            // 0.14 prints text for these.
            Ok(JobKind::Check) if run.is_new() => has("num_errors"),
            Ok(JobKind::Restore) if run.is_new() => has("files_restored") && has("total_bytes"),
            Ok(JobKind::Init) => has("id") && has("repository"),
            _ => continue,
        };
        assert!(shows, "{name}: {stats:?}");
        *seen.entry((run.case.kind.clone(), run.version)).or_default() += 1;
    }
    assert_eq!(seen.len(), 3 * 3 + 2 * 2, "{seen:?}");
}

#[test]
fn counts_are_the_captured_ones() {
    let runs = runs();
    let stats = |version: usize, case: &str| {
        let run = runs.iter().find(|run| run.version == CAPTURED[version].0 && run.case.case == case);
        json!(run.expect("a captured run").end.stats)
    };
    for version in 0..3 {
        let forget = stats(version, "forget-keep-last-json");
        assert_eq!(forget["snapshots_kept"], json!(4), "{forget}");
        assert_eq!(stats(version, "forget-nomatch-json")["snapshots_removed"], json!(0));
        assert_eq!(stats(version, "backup-first-json")["files_new"], json!(105));
    }
    assert_eq!(stats(0, "init-json")["id"], json!("91976baed6"));
    assert_eq!(stats(2, "restore-json")["files_restored"], json!(117));
    assert_eq!(stats(1, "check-json")["num_errors"], json!(0));
}

#[test]
fn progress_is_read_in_backups_and_restores() {
    for (kind, versions) in [("backup", 3), ("restore", 2)] {
        let runs = runs();
        let with_progress = |run: &&Run| {
            let progress =
                |line: &StdoutLine| matches!(line, StdoutLine::Progress(progress) if progress.percent_done.is_some());
            run.case.kind == kind && run.stdout.iter().any(progress)
        };
        let found: std::collections::BTreeSet<ResticVersion> =
            runs.iter().filter(with_progress).map(|run| run.version).collect();
        assert_eq!(found.len(), versions, "{kind}");
    }
}

#[test]
fn every_list_of_snapshots_is_read() {
    let mut lists = 0;
    for run in runs().iter().filter(|run| run.case.kind == "snapshots" && run.is_json()) {
        let snapshots = document::snapshots(run.case.stdout.as_bytes());
        assert_eq!(snapshots.is_some(), run.case.exit == 0, "{}", run.name());
        let Some(snapshots) = snapshots else { continue };
        lists += 1;
        // Sizes are known from 0.17 on, but for the snapshots that `tag` rewrote in place.
        let sized = snapshots.iter().filter(|snapshot| snapshot.size_bytes.is_some()).count();
        assert_eq!(sized, if run.is_new() { snapshots.len() } else { 0 }, "{}", run.name());
        assert!(
            snapshots.iter().all(|snapshot| snapshot.id.len() == 64 && snapshot.id.starts_with(&snapshot.short_id))
        );
        // Grouped, the snapshots are a level deeper; we never ask for that.
        let listed = run.case.stdout.matches("\"short_id\":").count();
        let listed = if run.case.cmd.contains("--group-by") { 0 } else { listed };
        assert_eq!(snapshots.len(), listed, "{}", run.name());
    }
    assert!(lists > 30, "{lists}");
}

#[test]
fn versions_are_read_from_what_each_version_prints() {
    for run in runs().iter().filter(|run| run.case.kind == "version") {
        assert_eq!(ResticVersion::parse(&run.case.stdout), Some(run.version), "{}", run.name());
    }
}
