//! Pure. Whether a job whose restic has failed is tried again, after how long, and what is told of it. Only what passes by itself is
//! worth another try: locks, networks, servers that do not answer; never a wrong password, a missing repository or a full disk.
//! Does not sleep, roll the dice or run anything.

use std::time::Duration;

use restic_manager::protocol::agent_event::{JobFinished, JobOutcome, Snapshot};
use restic_manager::protocol::job_options::{IncompleteMeans, JobSpec};
use restic_manager::protocol::text::Span;

use crate::restic_json::cause::Cause;

/// The longest middle of a wait; chance comes on top.
const LONGEST: Duration = Duration::from_secs(600);
/// How often a restic that cannot wait for a lock itself is started anew, as those that can look again.
const FIRST_LOOK_AT_LOCK: Duration = Duration::from_secs(5);
const LONGEST_LOOK_AT_LOCK: Duration = Duration::from_secs(60);
const MOST_RETRIES: u32 = 10;

/// What does not change between a job's attempts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetryRules {
    /// Attempts beside the first one.
    pub(crate) retries: u32,
    /// The middle of the first wait; each later one's is twice the one before.
    pub(crate) first_wait: Span,
    /// How long to wait for a lock where restic does not do it: versions before 0.16.
    pub(crate) lock_wait: Span,
}

impl RetryRules {
    /// A schedule's `retries` are of backups, and of restore tests, which only read: what other kinds change before they fail is not
    /// theirs to change twice.
    pub(crate) fn of(spec: &JobSpec, first_wait: Span, lock_wait: Span) -> Self {
        let retries = match spec {
            JobSpec::Backup(options) => options.retries,
            JobSpec::Verify(options) => options.retries,
            _ => 0,
        };
        Self { retries: u32::from(retries).min(MOST_RETRIES), first_wait, lock_wait }
    }
}

/// How far a job is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Attempts {
    /// Ended without success, and counted.
    pub(crate) failed: u32,
    /// Restarts only because of a lock, within `lock_wait`, uncounted.
    pub(crate) lock_looks: u32,
}

/// What to do after an attempt has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Never,
    /// The lock may be gone by then; the attempt does not count.
    LookAtLock(Duration),
    Attempt(Duration),
}

/// `attempts` are those before this one; `since` is the time since the first began; `random` is 0 to 1.
pub(crate) fn next(rules: &RetryRules, attempts: Attempts, cause: Option<Cause>, since: Duration, random: f64) -> Next {
    let random = if random.is_finite() { random.clamp(0.0, 1.0) } else { 0.5 };
    if !cause.is_some_and(Cause::is_passing) {
        return Next::Never;
    }
    let left = rules.lock_wait.duration().saturating_sub(since);
    if cause == Some(Cause::Locked) && attempts.failed == 0 && !left.is_zero() {
        return Next::LookAtLock(doubled(FIRST_LOOK_AT_LOCK, attempts.lock_looks, LONGEST_LOOK_AT_LOCK).min(left));
    }
    if attempts.failed >= rules.retries {
        return Next::Never;
    }
    Next::Attempt(doubled(rules.first_wait.duration(), attempts.failed, LONGEST).mul_f64(0.5 + random))
}

fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times.min(16))).min(longest)
}

/// Whether this end leaves open whether a snapshot was made: not one that found the repository locked.
pub(crate) fn may_have_made_a_snapshot(spec: &JobSpec, cause: Option<Cause>) -> bool {
    matches!(spec, JobSpec::Backup(options) if !options.dry_run) && cause != Some(Cause::Locked)
}

/// For the job's log: an attempt has failed and another follows.
pub(crate) fn told(attempt: u32, rules: &RetryRules, error: Option<&str>, wait: Duration) -> String {
    let error = error.unwrap_or("no reason was given");
    format!("attempt {attempt} of {} failed: {error}; the next begins in {} s", rules.retries + 1, wait.as_secs())
}

/// The last attempt's end, as the job's.
pub(crate) fn after_all(mut finished: JobFinished, attempts: u32) -> JobFinished {
    if attempts > 1 && finished.status == JobOutcome::Failed {
        let last = finished.error.as_deref().unwrap_or("no reason was given");
        finished.error = Some(format!("{last} (the last of {attempts} attempts)"));
    }
    finished
}

/// The attempt that ended like this had made its snapshot all the same: the job has succeeded with that one.
pub(crate) fn with_its_snapshot(failed: JobFinished, snapshot: &Snapshot, incomplete: IncompleteMeans) -> JobFinished {
    let error = failed.error.unwrap_or_else(|| "its end is unknown".to_owned());
    // What restic said about single files by then is about this snapshot.
    let is_incomplete = !failed.warnings.is_empty();
    let is_failure = is_incomplete && incomplete == IncompleteMeans::Fail;
    let mut warnings = failed.warnings;
    warnings.push(format!(
        "the snapshot {} was made by an attempt that did not end well, and is not made again: {error}",
        snapshot.short_id
    ));
    let mut stats = failed.stats.unwrap_or_default();
    stats.insert("snapshot_id".to_owned(), snapshot.id.as_str().into());
    for (name, number) in
        [("total_bytes_processed", snapshot.size_bytes), ("total_files_processed", snapshot.file_count)]
    {
        if let Some(number) = number {
            stats.insert(name.to_owned(), number.into());
        }
    }
    JobFinished {
        status: if is_failure { JobOutcome::Failed } else { JobOutcome::Succeeded },
        incomplete: is_incomplete,
        warnings,
        stats: Some(stats),
        error: is_failure.then(|| "some sources could not be read, which this schedule counts as a failure".to_owned()),
        ..failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const RULES: RetryRules = RetryRules { retries: 3, first_wait: Span::from_secs(20), lock_wait: Span::from_secs(0) };

    fn failed(failed: u32) -> Attempts {
        Attempts { failed, lock_looks: 0 }
    }

    fn finished() -> JobFinished {
        crate::commands::ended(
            restic_manager::id::JobId(uuid::Uuid::nil()),
            JobOutcome::Failed,
            Some("connection reset"),
        )
    }

    #[test]
    fn waits_double_up_to_ten_minutes_and_end_with_the_retries() {
        let rules = RetryRules { retries: 10, ..RULES };
        let waits: Vec<u64> = (0..11)
            .map_while(|n| match next(&rules, failed(n), Some(Cause::Unreachable), Duration::ZERO, 0.5) {
                Next::Attempt(wait) => Some(wait.as_secs()),
                _ => None,
            })
            .collect();
        assert_eq!(waits, [20, 40, 80, 160, 320, 600, 600, 600, 600, 600]);
        for (random, seconds) in [(0.0, 10), (1.0, 30), (f64::NAN, 20)] {
            let wait = next(&RULES, failed(0), Some(Cause::NoProgress), Duration::ZERO, random);
            assert_eq!(wait, Next::Attempt(Duration::from_secs(seconds)));
        }
    }

    #[test]
    fn what_does_not_pass_by_itself_is_never_tried_again() {
        for cause in [
            None,
            Some(Cause::WrongPassword),
            Some(Cause::NoRepository),
            Some(Cause::NoSpace),
            Some(Cause::AccessDenied),
            Some(Cause::RepositoryExists),
        ] {
            assert_eq!(next(&RULES, failed(0), cause, Duration::ZERO, 0.5), Next::Never, "{cause:?}");
        }
        assert_eq!(next(&RULES, failed(3), Some(Cause::Locked), Duration::ZERO, 0.5), Next::Never);
    }

    #[test]
    fn only_backups_and_restore_tests_are_tried_again() {
        let parse = |kind: &str, options| JobSpec::parse(kind, Some(options)).expect("a job");
        let rules = |spec: &JobSpec| RetryRules::of(spec, Span::from_secs(20), Span::default()).retries;
        let backup = parse("backup", json!({"paths": ["/etc"], "retries": 4}));
        assert_eq!((rules(&backup), rules(&parse("prune", json!({})))), (4, 0));
        let verify = parse("verify", json!({"retries": 3}));
        assert_eq!(rules(&verify), 3);
        assert!(!may_have_made_a_snapshot(&verify, Some(Cause::Unreachable)));
        assert!(may_have_made_a_snapshot(&backup, Some(Cause::NoProgress)));
        assert!(!may_have_made_a_snapshot(&backup, Some(Cause::Locked)));
        let dry = parse("backup", json!({"paths": ["/etc"], "dry_run": true}));
        assert!(!may_have_made_a_snapshot(&dry, Some(Cause::Unreachable)));
    }

    #[test]
    fn a_restic_that_cannot_wait_for_a_lock_is_started_anew_for_as_long_as_others_would_wait() {
        let rules = RetryRules { retries: 0, lock_wait: Span::from_secs(60), ..RULES };
        let look = |looks, since| {
            let attempts = Attempts { failed: 0, lock_looks: looks };
            next(&rules, attempts, Some(Cause::Locked), Duration::from_secs(since), 0.5)
        };
        assert_eq!(look(0, 0), Next::LookAtLock(Duration::from_secs(5)));
        assert_eq!(look(3, 20), Next::LookAtLock(Duration::from_secs(40)));
        assert_eq!(look(4, 55), Next::LookAtLock(Duration::from_secs(5)));
        assert_eq!(look(5, 60), Next::Never);
        assert_eq!(next(&rules, failed(0), Some(Cause::Unreachable), Duration::ZERO, 0.5), Next::Never);
    }

    #[test]
    fn what_was_tried_is_told() {
        let wait = Duration::from_secs(20);
        let text = told(1, &RULES, Some("connection reset"), wait);
        assert_eq!(text, "attempt 1 of 4 failed: connection reset; the next begins in 20 s");
        assert_eq!(after_all(finished(), 1).error.as_deref(), Some("connection reset"));
        assert_eq!(after_all(finished(), 3).error.as_deref(), Some("connection reset (the last of 3 attempts)"));
    }

    #[test]
    fn a_snapshot_that_is_there_makes_the_job_succeed_with_it() {
        let snapshot: Snapshot = serde_json::from_value(json!({
            "id": "abcdef0123", "short_id": "abcdef01", "time": "2026-01-02T03:04:05Z", "hostname": "web-1",
            "paths": [], "tags": [], "size_bytes": 5
        }))
        .expect("a snapshot");
        let found = with_its_snapshot(finished(), &snapshot, IncompleteMeans::Fail);
        assert_eq!((found.status, found.incomplete, found.error), (JobOutcome::Succeeded, false, None));
        let stats = found.stats.expect("stats");
        assert_eq!((&stats["snapshot_id"], &stats["total_bytes_processed"]), (&json!("abcdef0123"), &json!(5)));
        assert!(found.warnings[0].contains("abcdef01") && found.warnings[0].contains("connection reset"));
        let unread = JobFinished { warnings: vec!["/x: permission denied".to_owned()], ..finished() };
        let found = with_its_snapshot(unread.clone(), &snapshot, IncompleteMeans::Warn);
        assert_eq!((found.status, found.incomplete), (JobOutcome::Succeeded, true));
        let found = with_its_snapshot(unread, &snapshot, IncompleteMeans::Fail);
        assert!(found.status == JobOutcome::Failed && found.error.is_some());
    }
}
