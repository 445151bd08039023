//! Pure. What an agent tells the server, and its spool and the host's journal keep.
//! Times in payloads are the agent's; the server adds its own to the journal line.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Envelope;
use super::job_options::JobKind;
use crate::id::{InstanceId, JobId, ReportId, ScheduleId, StreamId};

/// First request of every agent start and of every new connection after an outage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol_version: u32,
    pub agent_version: String,
    /// Absent: there is no restic that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restic_version: Option<String>,
    pub hostname: String,
    pub os: Os,
    pub arch: Arch,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_time: Option<DateTime<Utc>>,
    pub instance_id: InstanceId,
    /// A hash of what tells this machine from a clone of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_fingerprint: Option<String>,
    /// The stream that the spool writes now.
    pub stream: StreamId,
    /// The host's own time zone, for schedules that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// Jobs whose end the server has not acknowledged.
    #[serde(default)]
    pub running_jobs: Vec<JobId>,
    /// The newest jobs whose end it has acknowledged, at most `ENDED_JOBS_LIMIT`: a server whose state is older than that asks
    /// for their ends again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended_jobs: Vec<JobId>,
}

/// So many of the newest ended jobs are in a hello.
pub const ENDED_JOBS_LIMIT: usize = 1000;

impl Hello {
    pub const TYPE: &str = "hello";
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Os {
    Linux,
    Windows,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arch {
    Amd64,
    Arm64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub sent_at: DateTime<Utc>,
}

impl Heartbeat {
    pub const TYPE: &str = "heartbeat";
}

/// The schedule set of this version is durable on the agent and runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleAck {
    pub version: u64,
    pub applied_at: DateTime<Utc>,
}

/// The settings of this version are durable on the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigAck {
    pub version: u64,
    pub applied_at: DateTime<Utc>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleFire {
    pub schedule_id: ScheduleId,
    /// The due instant, before splay; of several missed ones the latest.
    pub scheduled_at: DateTime<Utc>,
    pub fired_at: DateTime<Utc>,
    /// `job_id_of_fire` of the above.
    pub job_id: JobId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandResult {
    pub job_id: JobId,
    pub accepted: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStarted {
    pub job_id: JobId,
    pub kind: JobKind,
    pub started_at: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_id: Option<ScheduleId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<DateTime<Utc>>,
    /// Begun without the server's answer, after `offline_grace`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub offline: bool,
}

/// How far a job is. Absent means unknown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobProgress {
    pub job_id: JobId,
    /// 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent_done: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_done: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_files: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_done: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<u64>,
    /// Bytes per second since the job began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput_bps: Option<u64>,
}

impl JobProgress {
    pub const TYPE: &str = "job.progress";
}

/// How a job can end on an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobOutcome {
    Succeeded,
    Failed,
    Cancelled,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobFinished {
    pub job_id: JobId,
    pub status: JobOutcome,
    /// restic's; absent where restic did not run or died of a signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    pub finished_at: DateTime<Utc>,
    /// A snapshot was made, without some of the sources.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub incomplete: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The job's log is complete up to here; 0: it has none.
    #[serde(default)]
    pub last_log_seq: u64,
    /// restic's summary, its own field names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it was, for a server that has lost the job's beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<JobKind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_id: Option<ScheduleId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogSource {
    Stdout,
    Stderr,
    /// The agent's own words about the job.
    Event,
}

/// One line of a job's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStream {
    pub job_id: JobId,
    /// Contiguous per job, from 1, shared with job.progress.
    pub seq: u64,
    pub ts: DateTime<Utc>,
    pub stream: LogSource,
    pub payload: String,
}

impl LogStream {
    pub const TYPE: &str = "log.stream";
}

/// Stands for the log lines `from..=to` that the agent had no room for; its envelope's seq is `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogDropped {
    pub from: u64,
    pub to: u64,
}

impl LogDropped {
    pub const TYPE: &str = "log.dropped";
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub id: String,
    pub short_id: String,
    pub time: DateTime<Utc>,
    pub hostname: String,
    pub paths: Vec<String>,
    #[serde(default)]
    pub tags: Vec<String>,
    /// Absent: this restic's snapshots do not say (before 0.17).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_count: Option<u64>,
}

/// One page of the full list of the host's snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotsReport {
    pub report_id: ReportId,
    /// From 1.
    pub page: u32,
    pub pages: u32,
    pub snapshots: Vec<Snapshot>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockState {
    Locked,
    Unlocked,
}

/// Of the host's own repository, everybody's snapshots in it: after maintenance, after a check, and daily after a backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RepoStats {
    pub size_bytes: u64,
    pub snapshot_count: u64,
    /// What restores of all snapshots would write, by what the repository holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup_ratio: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_check_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_check_status: Option<String>,
    pub lock_state: LockState,
}

/// Everything that an agent's event stream may hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "payload")]
pub enum AgentEvent {
    #[serde(rename = "schedule.ack")]
    ScheduleAck(ScheduleAck),
    #[serde(rename = "config.ack")]
    ConfigAck(ConfigAck),
    #[serde(rename = "schedule.fire")]
    ScheduleFire(ScheduleFire),
    #[serde(rename = "command.result")]
    CommandResult(CommandResult),
    #[serde(rename = "job.started")]
    JobStarted(JobStarted),
    #[serde(rename = "job.finished")]
    JobFinished(JobFinished),
    #[serde(rename = "snapshots.report")]
    SnapshotsReport(SnapshotsReport),
    #[serde(rename = "repo.stats")]
    RepoStats(RepoStats),
}

impl AgentEvent {
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::ScheduleAck(_) => "schedule.ack",
            Self::ConfigAck(_) => "config.ack",
            Self::ScheduleFire(_) => "schedule.fire",
            Self::CommandResult(_) => "command.result",
            Self::JobStarted(_) => "job.started",
            Self::JobFinished(_) => "job.finished",
            Self::SnapshotsReport(_) => "snapshots.report",
            Self::RepoStats(_) => "repo.stats",
        }
    }

    /// Reads an envelope's payload. `Ok(None)`: a type that this version does not know, which is kept
    /// and otherwise ignored. `Err`: a known type with a payload that is not its own.
    pub fn from_envelope(envelope: &Envelope) -> Result<Option<Self>, serde_json::Error> {
        let payload = envelope.payload.get();
        Ok(Some(match envelope.kind.as_str() {
            "schedule.ack" => Self::ScheduleAck(serde_json::from_str(payload)?),
            "config.ack" => Self::ConfigAck(serde_json::from_str(payload)?),
            "schedule.fire" => Self::ScheduleFire(serde_json::from_str(payload)?),
            "command.result" => Self::CommandResult(serde_json::from_str(payload)?),
            "job.started" => Self::JobStarted(serde_json::from_str(payload)?),
            "job.finished" => Self::JobFinished(serde_json::from_str(payload)?),
            "snapshots.report" => Self::SnapshotsReport(serde_json::from_str(payload)?),
            "repo.stats" => Self::RepoStats(serde_json::from_str(payload)?),
            _ => return Ok(None),
        }))
    }
}
