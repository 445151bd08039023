//! Pure. For tests: a host's state folded from lines as the journal would hand them over, without files.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::fact::{Fact, JobQueued, agent_line};
use super::host_content::HostContent;
use super::host_state::HostState;
use crate::id::{HostName, JobId, ScheduleId, StreamId};
use crate::job::{Actor, ActorKind};
use crate::journal::line::{self, NewLine};
use crate::journal::{Fold, Head};
use crate::protocol::Envelope;
use crate::protocol::agent_event::{AgentEvent, Hello};
use crate::protocol::command::ConfigUpdate;
use crate::protocol::job_options::JobKind;

pub(crate) fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("an instant")
}

/// The instant from which tests count.
pub(crate) fn noon() -> DateTime<Utc> {
    at("2026-11-23T12:00:00Z")
}

pub(crate) fn host() -> HostName {
    "web-1".parse().expect("a host name")
}

pub(crate) fn schedule(id: &str) -> ScheduleId {
    id.parse().expect("a schedule id")
}

/// The n-th id of its kind.
pub(crate) fn id<T: std::str::FromStr>(n: u8) -> T
where
    T::Err: std::fmt::Debug,
{
    format!("00000000-0000-4000-8000-0000000000{n:02x}").parse().expect("a uuid")
}

pub(crate) fn operator() -> Actor {
    Actor { kind: ActorKind::Operator, name: "alice".to_owned() }
}

pub(crate) fn hello(instance: u8) -> Hello {
    serde_json::from_value(json!({
        "protocol_version": 1, "agent_version": "0.1.0", "hostname": "web-1", "os": "linux", "arch": "amd64",
        "instance_id": id::<JobId>(instance), "stream": id::<JobId>(1), "running_jobs": [],
    }))
    .expect("a hello")
}

/// An agent's event from its type and payload.
pub(crate) fn event(kind: &str, payload: &Value) -> Fact {
    Fact::Agent(serde_json::from_value(json!({"type": kind, "payload": payload})).expect("an event"))
}

/// A backup that an operator asked for.
pub(crate) fn queued(job_id: JobId) -> Fact {
    Fact::JobQueued(JobQueued {
        job_id,
        kind: JobKind::Backup,
        options: json!({}),
        actor: operator(),
        schedule_id: None,
        scheduled_at: None,
        idempotency: None,
        repository: None,
        part_of: None,
        take_by: None,
    })
}

pub(crate) fn started(job: JobId) -> Fact {
    event("job.started", &json!({"job_id": job, "kind": "backup", "started_at": "2026-11-23T12:00:05Z"}))
}

pub(crate) fn finished(job: JobId, status: &str) -> Fact {
    event(
        "job.finished",
        &json!({"job_id": job, "status": status, "finished_at": "2026-11-23T12:00:09Z", "exit_code": 0}),
    )
}

pub(crate) fn accepted(job: JobId) -> Fact {
    event("command.result", &json!({"job_id": job, "accepted": true}))
}

/// An enrolled host, of which nothing more is known.
pub(crate) fn enrolled() -> Folded {
    let enrolled = json!({"enrollment_id": id::<JobId>(90), "token_sha256": "t", "credential_sha256": "c"});
    Folded::of([Fact::HostEnrolled(serde_json::from_value(enrolled).expect("an enrollment"))])
}

/// A content with the schedules `system` (a backup), `idle` (a disabled backup), `tidy` (a prune) and `thin` (a backup that
/// keeps nothing).
pub(crate) fn content() -> HostContent {
    let schedule = |value: Value| serde_json::from_value(value).expect("a schedule");
    HostContent {
        schedules: [
            schedule(
                json!({"id": "idle", "kind": "backup", "cron_expr": "@daily", "paths": ["/etc"], "enabled": false}),
            ),
            schedule(
                json!({"id": "system", "kind": "backup", "cron_expr": "@daily", "paths": ["/etc"], "enabled": true,
                "retention_policy": {"keep_daily": 7}}),
            ),
            schedule(
                json!({"id": "thin", "kind": "backup", "cron_expr": "@daily", "paths": ["/etc"], "enabled": true}),
            ),
            schedule(json!({"id": "tidy", "kind": "prune", "cron_expr": "@daily", "enabled": true})),
        ]
        .into(),
        schedule_hash: "s1".to_owned(),
        config: ConfigUpdate { repo_url: Some("rest:http://backup/web-1".to_owned()), ..ConfigUpdate::default() }
            .into(),
        config_hash: "c1".to_owned(),
        alarms: std::sync::Arc::default(),
        absence: crate::server::alert_rules::Absence::default(),
        pings: std::sync::Arc::default(),
        commit: Some("abc".to_owned()),
        dirty: Some(false),
        adopted_at: None,
        maintains: None,
        configured: true,
        agent_update: None,
        repository: None,
    }
}

/// A journal without files: facts go in, the state and the head come out.
#[derive(Default)]
pub(crate) struct Folded {
    pub(crate) state: HostState,
    pub(crate) head: Head,
    agent_seq: u64,
}

impl Folded {
    pub(crate) fn of(facts: impl IntoIterator<Item = Fact>) -> Self {
        let mut folded = Self::default();
        folded.add(facts);
        folded
    }

    /// Takes facts in, a second apart, an agent's as events of its stream 1.
    pub(crate) fn add(&mut self, facts: impl IntoIterator<Item = Fact>) {
        for fact in facts {
            let now = self.head.at.map_or_else(noon, |at| at + TimeDelta::seconds(1));
            self.add_at(now, &fact);
        }
    }

    pub(crate) fn add_at(&mut self, now: DateTime<Utc>, fact: &Fact) {
        let new = fact.to_new_line(now);
        let new = match fact {
            Fact::Agent(_) => self.as_agents(&new),
            _ => new,
        };
        self.add_line(now, &new);
    }

    /// Any line as an agent's event.
    pub(crate) fn as_agents(&mut self, new: &NewLine) -> NewLine {
        self.agent_seq += 1;
        let (kind, payload) = (new.kind.clone(), new.payload.clone());
        agent_line(id::<StreamId>(1), &Envelope { seq: self.agent_seq, ts: new.ts, kind, payload })
    }

    pub(crate) fn add_line(&mut self, now: DateTime<Utc>, new: &NewLine) {
        let (bytes, crc) = line::encode(self.head.seq + 1, now, new);
        let line = line::decode(bytes.trim_ascii_end()).expect("a line that was just encoded");
        self.state.apply(&line);
        self.head = Head { seq: line.seq, crc, at: Some(line.received_at) };
    }
}

/// The types of facts, which is what most tests look at.
pub(crate) fn types(facts: &[Fact]) -> Vec<String> {
    facts.iter().map(|fact| fact.to_new_line(noon()).kind).collect()
}

pub(crate) fn agent_event(fact: &Fact) -> &AgentEvent {
    match fact {
        Fact::Agent(event) => event,
        other => unreachable!("{other:?} is not an agent's"),
    }
}
