//! Pure. How jobs have ended, counted, and what the newest success of a schedule took: as much of history as metrics tell, kept in
//! the folded state so that nobody has to read history for it. Counts grow only; jobs that ended before they were counted are not
//! in them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::job::{Job, JobStatus};

/// How many ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ends {
    /// With everything that was asked for.
    pub succeeded: u64,
    /// A snapshot was made, without some of the sources.
    pub incomplete: u64,
    pub failed: u64,
    pub cancelled: u64,
}

impl Ends {
    /// Counts a job that has just ended; one that has not changes nothing.
    pub fn add(&mut self, job: &Job) {
        let count = match job.status {
            JobStatus::Queued | JobStatus::Running => return,
            JobStatus::Succeeded if job.incomplete => &mut self.incomplete,
            JobStatus::Succeeded => &mut self.succeeded,
            JobStatus::Failed => &mut self.failed,
            JobStatus::Cancelled => &mut self.cancelled,
        };
        *count = count.saturating_add(1);
    }

    /// Each with its name.
    pub const fn by_outcome(&self) -> [(&'static str, u64); 4] {
        [
            ("succeeded", self.succeeded),
            ("incomplete", self.incomplete),
            ("failed", self.failed),
            ("cancelled", self.cancelled),
        ]
    }
}

/// What the newest success of a schedule took, as far as it is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuccessCost {
    /// From its start to its end, by the agent's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// What restic added to the repository, before compression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added_bytes: Option<u64>,
}

impl SuccessCost {
    pub fn of(job: &Job) -> Self {
        let duration = job.started_at.zip(job.finished_at).map(|(from, to)| (to - from).num_milliseconds());
        let added = job.stats.as_ref().and_then(|stats| stats.get("data_added")).and_then(Value::as_u64);
        // A clock that was set back meanwhile tells nothing.
        Self { duration_ms: duration.and_then(|ms| u64::try_from(ms).ok()), added_bytes: added }
    }
}
