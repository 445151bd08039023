//! What exit codes, versions and last words make of a job.

use super::*;
use restic_manager::mask::mask_url;

const NEW: ResticVersion = ResticVersion::new(0, 18, 0);
const OLD: ResticVersion = ResticVersion::new(0, 14, 0);

fn end(kind: JobKind, exit: Exit, version: ResticVersion, stderr: &[&str]) -> JobEnd {
    let mut transcript = Transcript::new(Some(kind));
    for line in stderr {
        transcript.stderr(line.as_bytes());
    }
    transcript.end(exit, version)
}

#[test]
fn exit_codes_mean_what_the_version_means_by_them() {
    use JobKind::{Backup, Forget, Prune};
    for (kind, code, version, outcome, incomplete, cause) in [
        (Backup, 0, NEW, JobOutcome::Succeeded, false, None),
        (Backup, 3, NEW, JobOutcome::Succeeded, true, None),
        (Forget, 3, NEW, JobOutcome::Failed, false, None),
        (Backup, 1, NEW, JobOutcome::Failed, false, None),
        (Backup, 2, NEW, JobOutcome::Failed, false, None),
        (Prune, 10, NEW, JobOutcome::Failed, false, Some(Cause::NoRepository)),
        (Prune, 11, NEW, JobOutcome::Failed, false, Some(Cause::Locked)),
        (Prune, 12, NEW, JobOutcome::Failed, false, Some(Cause::WrongPassword)),
        (Prune, 12, OLD, JobOutcome::Failed, false, None),
        (Backup, 130, NEW, JobOutcome::Failed, false, None),
        (Backup, -1_073_741_510, NEW, JobOutcome::Failed, false, None),
    ] {
        let end = end(kind, Exit::Code(code), version, &[]);
        assert_eq!((end.outcome, end.incomplete, end.cause), (outcome, incomplete, cause), "{kind} {code}");
        assert_eq!(end.error.is_some(), outcome == JobOutcome::Failed);
        assert_eq!(end.exit_code, Some(code));
    }
    let killed = end(Backup, Exit::Signal(9), NEW, &[]);
    assert_eq!(killed.exit_code, None);
    assert!(killed.error.as_deref().is_some_and(|text| text.starts_with("restic died of signal 9 (SIGKILL")));
}

#[test]
fn a_forget_that_removed_nothing_failed_also_when_restic_says_0() {
    let stderr = [
        "Remove(<snapshot/0a>) failed: unexpected HTTP response (403): 403 Forbidden",
        "unable to remove snapshot/0a from the repository",
    ];
    let end = end(JobKind::Forget, Exit::Code(0), NEW, &stderr);
    assert_eq!((end.outcome, end.cause, end.stats), (JobOutcome::Failed, Some(Cause::AppendOnly), None));
}

#[test]
fn a_missing_source_makes_a_backup_incomplete_also_when_restic_says_0() {
    let stderr = ["/nope does not exist, skipping"];
    let backup = end(JobKind::Backup, Exit::Code(0), OLD, &stderr);
    assert_eq!(
        (backup.outcome, backup.incomplete, &backup.warnings[..]),
        (JobOutcome::Succeeded, true, &["/nope does not exist, skipping".to_owned()][..])
    );
    let failed = backup.with_incomplete_as(IncompleteMeans::Fail);
    assert!(failed.outcome == JobOutcome::Failed && failed.error.is_some());
}

#[test]
fn warnings_are_bounded_and_counted() {
    let lines: Vec<String> = (0..100).map(|n| format!("ignoring error for /{n}: {}", "x".repeat(5000))).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let end = end(JobKind::Restore, Exit::Code(1), NEW, &lines);
    assert_eq!((end.warnings.len(), end.warnings[20].as_str()), (21, "and 80 more"));
    assert!(end.warnings.iter().map(String::len).sum::<usize>() < 32 * 1024);
}

#[test]
fn a_network_that_came_back_is_not_the_cause_of_a_later_failure() {
    let stderr = [
        "Save(<data/0a>) returned error, retrying after 1s: dial tcp: connect: connection refused",
        "Fatal: something else",
    ];
    let end = end(JobKind::Backup, Exit::Code(1), OLD, &stderr);
    assert_eq!((end.cause, end.error.as_deref()), (None, Some("something else")));
}

#[test]
fn that_the_server_is_out_of_reach_stands_before_restics_own_words_and_all_of_it_is_one_line() {
    let stderr = [
        "Stat(<config/>) returned error, retrying after 1s: dial tcp: connect: connection refused",
        "Fatal: unable to open config file: dial tcp: connect: connection refused",
        "Is there a repository at the following location?",
    ];
    let end = end(JobKind::Backup, Exit::Code(1), OLD, &stderr);
    let expected =
        "the repository's server is out of reach: unable to open config file: dial tcp: connect: connection refused";
    assert_eq!((end.cause, end.error.as_deref()), (Some(Cause::Unreachable), Some(expected)));
}

#[test]
fn what_restic_wrote_can_be_masked_as_a_whole() {
    let mut transcript = Transcript::new(Some(JobKind::Init));
    transcript.stdout(br#"{"message_type":"initialized","id":"x","repository":"rest:http://a:pw@h/"}"#);
    transcript.stderr(b"ignoring error for http://a:pw@h/: x");
    transcript.stderr(b"Fatal: http://a:pw@h/");
    let shown = format!("{:?}", transcript.end(Exit::Code(1), NEW).masked(mask_url));
    assert!(!shown.contains("pw") && shown.contains("a:***@h"), "{shown}");
}
