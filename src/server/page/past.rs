//! Pure. A host's past as its page shows it: what each job was, in little room, so that many can be held. Does not read history.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::id::{JobId, ScheduleId};
use crate::job::{Job, JobStatus};
use crate::protocol::job_options::JobKind;

/// One job.
#[derive(Debug, Clone, PartialEq)]
pub struct PastJob {
    pub id: JobId,
    pub kind: JobKind,
    pub schedule: Option<ScheduleId>,
    pub status: JobStatus,
    pub incomplete: bool,
    /// When it was due, or asked for.
    pub at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    /// What a backup went through, in bytes.
    pub processed: Option<u64>,
    /// What it added to the repository, in bytes.
    pub added: Option<u64>,
}

/// The newest jobs of a host, newest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Past {
    pub jobs: Vec<PastJob>,
    /// There may be jobs before this that were not read.
    pub begins: Option<DateTime<Utc>>,
}

impl PastJob {
    pub fn of(job: &Job) -> Self {
        let number = |name: &str| job.stats.as_ref()?.get(name).and_then(Value::as_u64);
        // Before 0.17 restic does not say what came of compression.
        let added = number("data_added_packed").or_else(|| number("data_added"));
        Self {
            id: job.id,
            kind: job.kind,
            schedule: job.schedule_id.clone(),
            status: job.status,
            incomplete: job.incomplete,
            at: job.scheduled_at.unwrap_or(job.queued_at),
            started_at: job.started_at,
            finished_at: job.finished_at,
            processed: number("total_bytes_processed"),
            added,
        }
    }

    /// How long it ran, in seconds.
    pub fn seconds(&self) -> Option<u64> {
        u64::try_from((self.finished_at? - self.started_at?).num_seconds()).ok()
    }
}
