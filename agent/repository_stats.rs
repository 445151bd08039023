//! Edge. How large the host's repository is, how often it shares data, whether it is locked, and how its last check went: told to
//! the server after maintenance and checks, and once a day after a backup. Asked beside the jobs, without a lock.

use std::path::Path;
use std::rc::Rc;

use chrono::{DateTime, TimeDelta, Utc};
use restic_manager::clock;
use restic_manager::file_error::chain;
use restic_manager::protocol::agent_event::{AgentEvent, JobFinished, JobOutcome, LockState, RepoStats};
use restic_manager::protocol::job_options::{JobKind, JobSpec};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::core::Agent;
use crate::json_file;
use crate::named_snapshots::{Trouble, ask};
use crate::restic_args::query::{list_locks_arguments, repository_stats_arguments};
use crate::restic_json::query;
use crate::restic_run::{masked, question_context};
use crate::restic_version::ResticVersion;

/// What is kept of it over restarts.
const FILE: &str = "repository.json";
const OUTPUT_LIMIT: usize = 1 << 20;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    /// Another repository has another history.
    url: String,
    told_at: Option<DateTime<Utc>>,
    last_check_at: Option<DateTime<Utc>>,
    last_check_status: Option<String>,
}

impl Kept {
    /// Whether a job that ended so is a reason to tell, once what it says of a check is kept.
    fn take(&mut self, kind: JobKind, finished: &JobFinished, now: DateTime<Utc>) -> bool {
        let succeeded = finished.status == JobOutcome::Succeeded;
        match kind {
            JobKind::Check if finished.status != JobOutcome::Cancelled => {
                self.last_check_at = Some(finished.finished_at);
                self.last_check_status = Some(if succeeded { "succeeded" } else { "failed" }.to_owned());
                true
            }
            JobKind::Prune | JobKind::Forget => succeeded,
            // A clock that was set back is no reason to be silent.
            JobKind::Backup => {
                let age = self.told_at.map(|at| now - at);
                succeeded && age.is_none_or(|age| !(TimeDelta::zero()..TimeDelta::days(1)).contains(&age))
            }
            _ => false,
        }
    }
}

/// After a job: tells, if it is about the host's own repository and a reason to.
pub(crate) fn after(agent: &Rc<Agent>, spec: &JobSpec, finished: &JobFinished, version: ResticVersion) {
    if agent.policy.permits_kind("stats").is_err() {
        return;
    }
    let Some(url) = own_url(agent, spec) else { return };
    let path = agent.dir.join(FILE);
    let mut kept = read(&path).filter(|kept| kept.url == url).unwrap_or_default();
    kept.url = url;
    let kind = spec.kind();
    let is_reason = kept.take(kind, finished, clock::now());
    if !is_reason {
        return;
    }
    if kind == JobKind::Check {
        write(&path, &kept);
    }
    let agent = Rc::clone(agent);
    tokio::task::spawn_local(async move {
        match stats(&agent, version, &kept).await {
            Ok(stats) => {
                kept.told_at = Some(clock::now());
                write(&path, &kept);
                agent.tell(&AgentEvent::RepoStats(stats));
            }
            Err(trouble) => tracing::warn!("the repository's size: {}", masked(&agent, &trouble.text)),
        }
    });
}

/// The URL of the host's own repository without its credentials, if the job was about that one.
fn own_url(agent: &Agent, spec: &JobSpec) -> Option<String> {
    let received = agent.received.borrow();
    let own = received.access(None).ok()?.url;
    let meant = received.access(spec.repository()).ok()?.url;
    (own == meant).then(|| crate::repository_url::without_credentials(&own))
}

fn read(path: &Path) -> Option<Kept> {
    // What cannot be read is asked for again.
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn write(path: &Path, kept: &Kept) {
    if let Err(error) = json_file::write(path, kept) {
        tracing::warn!("when the repository's size was told is not kept: {}", chain(&error));
    }
}

async fn stats(agent: &Agent, version: ResticVersion, kept: &Kept) -> Result<RepoStats, Trouble> {
    let raw = counts(agent, version, "raw-data").await?;
    let number = |counts: &Map<String, Value>, name: &str| counts.get(name).and_then(Value::as_u64).unwrap_or(0);
    let (size_bytes, snapshot_count) = (number(&raw, "total_size"), number(&raw, "snapshots_count"));
    let restored = number(&counts(agent, version, "restore-size").await?, "total_size");
    let access = agent.received.borrow().access(None)?;
    let locks =
        ask(agent, list_locks_arguments(&question_context(agent, version)), access, version, OUTPUT_LIMIT).await?;
    let is_locked = locks.split(|byte| *byte == b'\n').any(|line| line.len() == 64);
    #[allow(clippy::cast_precision_loss, reason = "a ratio for people")]
    let dedup_ratio = (size_bytes > 0).then(|| restored as f64 / size_bytes as f64);
    Ok(RepoStats {
        size_bytes,
        snapshot_count,
        dedup_ratio,
        last_check_at: kept.last_check_at,
        last_check_status: kept.last_check_status.clone(),
        lock_state: if is_locked { LockState::Locked } else { LockState::Unlocked },
    })
}

async fn counts(agent: &Agent, version: ResticVersion, mode: &str) -> Result<Map<String, Value>, Trouble> {
    let access = agent.received.borrow().access(None)?;
    let arguments = repository_stats_arguments(mode, &question_context(agent, version));
    let stdout = ask(agent, arguments, access, version, OUTPUT_LIMIT).await?;
    let text = String::from_utf8_lossy(&stdout);
    text.lines().find_map(query::stats).ok_or_else(|| Trouble::from("restic printed no statistics".to_owned()))
}

#[cfg(test)]
mod tests {
    use restic_manager::id::JobId;

    use super::*;

    #[test]
    fn a_backup_tells_once_a_day_and_maintenance_always() {
        let now: DateTime<Utc> = "2026-01-02T03:04:05Z".parse().expect("an instant");
        let ended =
            |status| JobFinished { finished_at: now, ..crate::commands::ended(JobId(uuid::Uuid::nil()), status, None) };
        let good = ended(JobOutcome::Succeeded);
        let mut kept = Kept::default();
        assert!(kept.take(JobKind::Backup, &good, now));
        kept.told_at = Some(now);
        for (kind, later, is_reason) in [
            (JobKind::Backup, TimeDelta::hours(23), false),
            (JobKind::Backup, TimeDelta::hours(24), true),
            (JobKind::Backup, TimeDelta::hours(-1), true),
            (JobKind::Prune, TimeDelta::zero(), true),
            (JobKind::Restore, TimeDelta::days(9), false),
        ] {
            assert_eq!(kept.take(kind, &good, now + later), is_reason, "{kind} {later}");
        }
        assert!(!kept.take(JobKind::Prune, &ended(JobOutcome::Failed), now));
        assert!(kept.take(JobKind::Check, &ended(JobOutcome::Failed), now));
        assert_eq!((kept.last_check_at, kept.last_check_status.as_deref()), (Some(now), Some("failed")));
        assert!(!kept.take(JobKind::Check, &ended(JobOutcome::Cancelled), now));
    }
}
