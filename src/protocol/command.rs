//! Pure. What the server tells an agent. Each message's `type` is the constant beside it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::repository_access::RepositoryAccess;
use super::schedule::Schedule;
use super::text::Span;
use crate::id::{Epoch, HostName, JobId, ScheduleId, StreamId};
use crate::repository_target::RepositoryTarget;

/// How a host reaches its repository, and the other settings that are the server's to give.
/// An absent field leaves the value that the agent has; an explicit empty one clears it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConfigUpdate {
    pub version: u64,
    pub hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo_username: Option<String>,
    /// The repository's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo_password: Option<Secret>,
    /// The backend's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo_credential: Option<Secret>,
    /// Instead of the repository's password: the name of a secret of the agent's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo_password_secret: Option<String>,
    /// The same instead of the backend's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo_credential_secret: Option<String>,
    /// The shell for inline hooks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook_shell: Option<String>,
    /// More environment for restic, such as AWS_DEFAULT_REGION.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// KiB per second; 0 is unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_upload_kib: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_download_kib: Option<u64>,
    /// How long restic waits for a lock; zero: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_lock: Option<Span>,
    /// The repositories that this host maintains, each with what only their maintenance gets. Replaced as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintained: Option<BTreeMap<RepositoryTarget, RepositoryAccess>>,
    /// The second repositories that the host's copy schedules write to. Replaced as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_targets: Option<BTreeMap<RepositoryTarget, RepositoryAccess>>,
}

impl ConfigUpdate {
    pub const TYPE: &str = "config.update";

    /// The settings after this update: what it has, and of `present` what it leaves alone.
    pub fn applied_to(self, present: &Self) -> Self {
        let keep = present.clone();
        Self {
            version: self.version,
            hash: self.hash,
            repo_url: self.repo_url.or(keep.repo_url),
            repo_username: self.repo_username.or(keep.repo_username),
            repo_password: self.repo_password.or(keep.repo_password),
            repo_credential: self.repo_credential.or(keep.repo_credential),
            repo_password_secret: self.repo_password_secret.or(keep.repo_password_secret),
            repo_credential_secret: self.repo_credential_secret.or(keep.repo_credential_secret),
            hook_shell: self.hook_shell.or(keep.hook_shell),
            env: self.env.or(keep.env),
            limit_upload_kib: self.limit_upload_kib.or(keep.limit_upload_kib),
            limit_download_kib: self.limit_download_kib.or(keep.limit_download_kib),
            retry_lock: self.retry_lock.or(keep.retry_lock),
            maintained: self.maintained.or(keep.maintained),
            copy_targets: self.copy_targets.or(keep.copy_targets),
        }
    }
}

/// The largest secret that is read, in bytes.
pub const SECRET_LIMIT: usize = 64 * 1024;

/// Text that must not be shown: `Debug` hides it, and only messages and the agent's 0600 files hold it.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// A text as a secret: without the newline at its end. The error goes on after "it ...".
    pub fn of_text(text: &str) -> Result<Self, &'static str> {
        let secret = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
        if secret.is_empty() {
            return Err("is empty");
        }
        if secret.contains('\0') {
            return Err("has a NUL, which no environment can hold");
        }
        if secret.contains(['\n', '\r']) {
            return Err("has more than one line: a secret is the first and only one");
        }
        Ok(Self(secret.to_owned()))
    }

    /// The secret itself, for the child's environment, a header or a hash, and nothing else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A host's whole schedule set. A lower version than the one applied is never applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScheduleSet {
    pub version: u64,
    pub hash: String,
    /// Required: a missing list is an error, never "delete everything".
    pub schedules: Vec<Schedule>,
}

impl ScheduleSet {
    pub const TYPE: &str = "schedule.set";
}

/// What became of a fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FireOutcome {
    /// A job with the fire's id exists.
    Queued,
    /// A job exists and waits for its turn.
    Waiting,
    /// No job: the schedule's last one has not ended.
    Skipped,
    /// No job: the server does not know the schedule, or it is disabled.
    Refused,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FireResult {
    pub schedule_id: ScheduleId,
    pub scheduled_at: DateTime<Utc>,
    pub job_id: JobId,
    pub outcome: FireOutcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl FireResult {
    pub const TYPE: &str = "fire.result";
}

/// Run a job. `kind` and `options` are read with `JobSpec::parse`, so that a kind that this agent does
/// not know is answered with a rejecting result and not with a parse error of the whole answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommandRun {
    pub job_id: JobId,
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<Value>,
    /// Whose snapshots a backup makes: becomes the tag `schedule:<id>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_id: Option<ScheduleId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<DateTime<Utc>>,
    pub issued_at: DateTime<Utc>,
    /// On the server's clock; after it the agent refuses the command.
    pub expires_at: DateTime<Utc>,
}

impl CommandRun {
    pub const TYPE: &str = "command.run";
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandCancel {
    pub job_id: JobId,
}

impl CommandCancel {
    pub const TYPE: &str = "command.cancel";
}

/// Part of hello's answer to an agent that is older than the one that is wanted; informational: the agent never replaces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentUpdateAvailable {
    pub latest_version: String,
    pub package_url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changelog: Option<String>,
}

impl AgentUpdateAvailable {
    pub const TYPE: &str = "agent.update.available";

    /// For people, on one line: the version, where it is, and what has changed.
    pub fn in_words(&self) -> String {
        let Self { latest_version, package_url, changelog } = self;
        let changelog = changelog.as_ref().map_or_else(String::new, |changelog| format!(" ({changelog})"));
        format!("{latest_version}: {package_url}{changelog}")
    }
}

/// The answer to hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloAnswer {
    pub server_time: DateTime<Utc>,
    pub protocol_version: u32,
    pub host: HostName,
    pub epoch: Epoch,
    /// What the server has of each of the agent's streams.
    pub acked: BTreeMap<StreamId, u64>,
    /// Seconds that a poll should ask to wait.
    pub poll_wait: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_update: Option<AgentUpdateAvailable>,
}
