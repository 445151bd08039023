//! Pure. What a host's journal may hold: an agent's events and the server's own facts, each with its type name.
//! Does not decide or apply them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::alert::{AlertAcknowledged, AlertRaised, AlertResolved};
use super::alert_told::AlertSent;
use super::ping_rules::PingSent;
use crate::id::{EnrollmentId, JobId, ScheduleId, StreamId};
use crate::job::Actor;
use crate::journal::line::{Line, NewLine};
use crate::protocol::Envelope;
use crate::protocol::agent_event::{AgentEvent, Hello};
use crate::protocol::command::FireResult;
use crate::protocol::job_options::JobKind;
use crate::repository_target::{KnownRepository, RepositoryTarget};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostEnrolled {
    pub enrollment_id: EnrollmentId,
    /// Which token let it in: the SHA-256 of the token, in hex.
    pub token_sha256: String,
    pub credential_sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

/// The host's credential counts no more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostRevoked {
    pub actor: Actor,
}

/// The agent changes its credential: it has named another, or has used that one, since when the one before counts no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialRotated {
    /// The other one's.
    pub credential_sha256: String,
    pub stage: RotationStage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RotationStage {
    Named,
    Used,
}

/// An operator's key, so that a repeated request finds its job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idempotency {
    pub key: String,
    /// SHA-256 of the body, in hex.
    pub body_sha256: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobQueued {
    pub job_id: JobId,
    pub kind: JobKind,
    pub options: Value,
    pub actor: Actor,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_id: Option<ScheduleId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<Idempotency>,
    /// Whose lease it needs before it is dispatched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryTarget>,
    /// One of the further jobs of a fire or request that makes several: the one that answers for all of them, which comes last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_of: Option<JobId>,
    /// Until when the agent may take it, where the request says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub take_by: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobDispatched {
    pub job_id: JobId,
    pub expires_at: DateTime<Utc>,
}

/// The job's turn has not come; or it is withdrawn from an agent out of contact, which had not taken it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobWaiting {
    pub job_id: JobId,
    /// For people.
    pub waiting_for: String,
}

/// For job.cancel_requested and job.abandoned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobAndActor {
    pub job_id: JobId,
    pub actor: Actor,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobExpired {
    pub job_id: JobId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versioned {
    pub version: u64,
    pub hash: String,
    /// The configuration's git commit, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Whether its files were not those of the commit; absent: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty: Option<bool>,
    /// When the configuration that says so was adopted: a server that still has an older one leaves this alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted_at: Option<DateTime<Utc>>,
    /// Of settings: the repository that they are about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<KnownRepository>,
}

/// One line's meaning.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    HostEnrolled(HostEnrolled),
    HostRevoked(HostRevoked),
    CredentialRotated(CredentialRotated),
    Hello(Hello),
    Agent(AgentEvent),
    JobQueued(JobQueued),
    JobDispatched(JobDispatched),
    JobWaiting(JobWaiting),
    JobCancelRequested(JobAndActor),
    JobAbandoned(JobAndActor),
    JobExpired(JobExpired),
    /// A fire that made no job: skipped or refused.
    ScheduleSkipped(FireResult),
    ScheduleVersioned(Versioned),
    ConfigVersioned(Versioned),
    AlertRaised(AlertRaised),
    AlertUpdated(AlertRaised),
    AlertResolved(AlertResolved),
    AlertAcknowledged(AlertAcknowledged),
    AlertSent(AlertSent),
    PingSent(PingSent),
}

impl Fact {
    /// Reads a line. `None`: a type of a later version, or a payload that is not its type's. A line that came from an agent
    /// is never one of the server's own facts, whatever type the agent gave it.
    pub fn from_line(line: &Line) -> Option<Self> {
        let payload = line.payload.get();
        if line.stream.is_some() {
            return Self::agent_event(line);
        }
        match line.kind.as_str() {
            "host.enrolled" => serde_json::from_str(payload).ok().map(Self::HostEnrolled),
            "host.revoked" => serde_json::from_str(payload).ok().map(Self::HostRevoked),
            "host.credential_rotated" => serde_json::from_str(payload).ok().map(Self::CredentialRotated),
            Hello::TYPE => serde_json::from_str(payload).ok().map(Self::Hello),
            "job.queued" => serde_json::from_str(payload).ok().map(Self::JobQueued),
            "job.dispatched" => serde_json::from_str(payload).ok().map(Self::JobDispatched),
            "job.waiting" => serde_json::from_str(payload).ok().map(Self::JobWaiting),
            "job.cancel_requested" => serde_json::from_str(payload).ok().map(Self::JobCancelRequested),
            "job.abandoned" => serde_json::from_str(payload).ok().map(Self::JobAbandoned),
            "job.expired" => serde_json::from_str(payload).ok().map(Self::JobExpired),
            "schedule.skipped" => serde_json::from_str(payload).ok().map(Self::ScheduleSkipped),
            "schedule.versioned" => serde_json::from_str(payload).ok().map(Self::ScheduleVersioned),
            "config.versioned" => serde_json::from_str(payload).ok().map(Self::ConfigVersioned),
            "alert.raised" => serde_json::from_str(payload).ok().map(Self::AlertRaised),
            "alert.updated" => serde_json::from_str(payload).ok().map(Self::AlertUpdated),
            "alert.resolved" => serde_json::from_str(payload).ok().map(Self::AlertResolved),
            "alert.acknowledged" => serde_json::from_str(payload).ok().map(Self::AlertAcknowledged),
            AlertSent::TYPE => serde_json::from_str(payload).ok().map(Self::AlertSent),
            PingSent::TYPE => serde_json::from_str(payload).ok().map(Self::PingSent),
            _ => Self::agent_event(line),
        }
    }

    fn agent_event(line: &Line) -> Option<Self> {
        let envelope = Envelope { seq: 0, ts: line.ts, kind: line.kind.clone(), payload: line.payload.clone() };
        AgentEvent::from_envelope(&envelope).ok().flatten().map(Self::Agent)
    }

    /// The server's own facts as a line to append.
    pub fn to_new_line(&self, now: DateTime<Utc>) -> NewLine {
        let (kind, payload) = match self {
            Self::HostEnrolled(payload) => ("host.enrolled", to_raw(payload)),
            Self::HostRevoked(payload) => ("host.revoked", to_raw(payload)),
            Self::CredentialRotated(payload) => ("host.credential_rotated", to_raw(payload)),
            Self::Hello(payload) => (Hello::TYPE, to_raw(payload)),
            Self::Agent(event) => {
                let value = serde_json::to_value(event).unwrap_or_default();
                (event.type_name(), to_raw(&value["payload"]))
            }
            Self::JobQueued(payload) => ("job.queued", to_raw(payload)),
            Self::JobDispatched(payload) => ("job.dispatched", to_raw(payload)),
            Self::JobWaiting(payload) => ("job.waiting", to_raw(payload)),
            Self::JobCancelRequested(payload) => ("job.cancel_requested", to_raw(payload)),
            Self::JobAbandoned(payload) => ("job.abandoned", to_raw(payload)),
            Self::JobExpired(payload) => ("job.expired", to_raw(payload)),
            Self::ScheduleSkipped(payload) => ("schedule.skipped", to_raw(payload)),
            Self::ScheduleVersioned(payload) => ("schedule.versioned", to_raw(payload)),
            Self::ConfigVersioned(payload) => ("config.versioned", to_raw(payload)),
            Self::AlertRaised(payload) => ("alert.raised", to_raw(payload)),
            Self::AlertUpdated(payload) => ("alert.updated", to_raw(payload)),
            Self::AlertResolved(payload) => ("alert.resolved", to_raw(payload)),
            Self::AlertAcknowledged(payload) => ("alert.acknowledged", to_raw(payload)),
            Self::AlertSent(payload) => (AlertSent::TYPE, to_raw(payload)),
            Self::PingSent(payload) => (PingSent::TYPE, to_raw(payload)),
        };
        NewLine { kind: kind.to_owned(), ts: now, stream: None, payload }
    }
}

/// An agent's event as it came: its own bytes, its own clock, its place in its stream.
pub fn agent_line(stream: StreamId, envelope: &Envelope) -> NewLine {
    NewLine {
        kind: envelope.kind.clone(),
        ts: envelope.ts,
        stream: Some((stream, envelope.seq)),
        payload: envelope.payload.clone(),
    }
}

/// Our payloads are structs with text keys, which always have a JSON form.
fn to_raw(payload: &impl Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(payload).unwrap_or_else(|_| RawValue::NULL.to_owned())
}
