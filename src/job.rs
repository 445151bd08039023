//! Pure. A job: its states and what each fact does to it. Does not decide whether a job may exist or run.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::id::{JobId, ScheduleId};
use crate::protocol::agent_event::{JobFinished, JobOutcome, JobStarted};
use crate::protocol::job_options::JobKind;
use crate::protocol::text::is_default;
use crate::repository_target::RepositoryTarget;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl JobStatus {
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl From<JobOutcome> for JobStatus {
    fn from(outcome: JobOutcome) -> Self {
        match outcome {
            JobOutcome::Succeeded => Self::Succeeded,
            JobOutcome::Failed => Self::Failed,
            JobOutcome::Cancelled => Self::Cancelled,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    Schedule,
    Operator,
    System,
}

/// Who asked for something: a schedule by its id, an operator by the token's name, or the server itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    pub kind: ActorKind,
    pub name: String,
}

/// When a job was given to the agent, and until when the agent may take it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dispatch {
    /// The journal line that made it a command.
    pub seq: u64,
    pub issued_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// One execution. Absent fields are unknown or have not happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub id: JobId,
    pub kind: JobKind,
    pub status: JobStatus,
    /// The journal line that made the job: its place in lists.
    pub queued_seq: u64,
    /// Of several jobs of one fire or request: the one that answers for them. `None`: it is that one, or alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_of: Option<JobId>,
    pub actor: Actor,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_id: Option<ScheduleId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<DateTime<Utc>>,
    pub queued_at: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub incomplete: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub warnings: Vec<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub offline: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub options: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_log_seq: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dispatch: Option<Dispatch>,
    /// Whose lease it needs before it is dispatched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryTarget>,
    /// Until when the agent may take it, where the request says so; absent: so long after it may, as its kind and actor say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub take_by: Option<DateTime<Utc>>,
    /// What it waits for, as the agent is told, while it is no command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// The agent has it in its ledger.
    #[serde(default, skip_serializing_if = "is_default")]
    pub accepted: bool,
    /// It is to be told to the agent again although that has it: for its end, which this state has lost.
    #[serde(default, skip_serializing_if = "is_default")]
    pub told_again: bool,
    /// The journal line that asked for its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_seq: Option<u64>,
}

impl Job {
    /// What the jobs of one fire or request have in common.
    pub fn round(&self) -> JobId {
        self.part_of.unwrap_or(self.id)
    }

    /// No command yet, or no more, and not known to be with the agent: it may be dispatched, and ends at once when it is cancelled.
    pub const fn is_undispatched(&self) -> bool {
        !self.status.is_final() && self.dispatch.is_none() && !self.accepted
    }

    /// The agent began it. A job that has ended stays ended: the line came late.
    pub fn start(&mut self, started: &JobStarted) {
        if self.status.is_final() {
            return;
        }
        self.status = JobStatus::Running;
        self.started_at = Some(started.started_at);
        self.accepted = true;
        self.offline = started.offline;
    }

    /// The agent ended it. Of two ends the first counts, but for one the server made up (`abandoned`, `expired`): what
    /// the agent saw is the better knowledge.
    pub fn finish(&mut self, finished: &JobFinished) {
        let made_up = self.status.is_final() && self.exit_code.is_none() && self.last_log_seq.is_none();
        if self.status.is_final() && !made_up {
            return;
        }
        self.status = finished.status.into();
        self.finished_at = Some(finished.finished_at);
        self.exit_code = finished.exit_code;
        self.error.clone_from(&finished.error);
        self.incomplete = finished.incomplete;
        self.warnings.clone_from(&finished.warnings);
        self.last_log_seq = Some(finished.last_log_seq);
        self.stats.clone_from(&finished.stats);
    }

    /// The server ends it: refused by the agent, never taken, or abandoned.
    pub fn end(&mut self, status: JobStatus, at: DateTime<Utc>, error: &str) {
        if self.status.is_final() {
            return;
        }
        self.status = status;
        self.finished_at = Some(at);
        self.error = Some(error.to_owned());
    }
}
