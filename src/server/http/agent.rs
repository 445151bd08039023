//! Edge. The agents' endpoints: enroll, hello, heartbeat, the long poll, events and job logs.
//! Parses, asks `decide`, writes, answers. Does not decide.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::answer::{Answer, Problem, ok};
use super::request::{ContentType, Request, json_problem, shown};
use crate::clock;
use crate::id::{EnrollmentId, HostName, InstanceId, JobId, StreamId};
use crate::protocol::agent_event::{Heartbeat, Hello};
use crate::protocol::command::HelloAnswer;
use crate::protocol::{Acknowledged, Cursor, EVENT_LIMIT_BYTES, Envelope, PROTOCOL_VERSION, negotiate_version};
use crate::server::access::sha256_hex;
use crate::server::app::{App, blocking};
use crate::server::decide::{decide_enroll, decide_hello};
use crate::server::fact::HostEnrolled;
use crate::server::host::{Host, append_facts};
use crate::server::messages::{PollQuestion, empty_answer, is_news, poll_answer, superseded_answer};
use crate::server::versions::{AgentHas, decide_versions_of_agent};
use crate::server::{credentials, events_in, job_log};

/// The poll wait that agents are told to ask for, in seconds: the poll is the heartbeat.
const POLL_WAIT_SECS: u64 = 30;
const POLL_WAIT_RANGE_SECS: std::ops::RangeInclusive<u64> = 5..=300;
/// How often an agent should send log lines.
const LOG_INTERVAL_MS: u64 = 2000;

/// Finds the host and checks that the credential is its own.
pub async fn authorized_host(app: &Arc<App>, request: &Request) -> Result<Arc<Host>, Problem> {
    let name: HostName = request.parameter("host")?;
    let Some(credential) = request.token() else {
        return Err(Problem::unauthorized("the request has no credential: send Authorization: Bearer <credential>"));
    };
    let dir = app.state_dir.host_dir(&name);
    let valid = blocking(move || credentials::is_valid(&dir, &credential)).await?;
    match app.current_host(&name).await {
        Some(host) if valid => Ok(host),
        _ => Err(Problem::unauthorized(format!(
            "this credential is not the one of host {name}: enroll the agent again, with a new token"
        ))),
    }
}

/// Notes the sign of life, and tells other servers by the `seen` file now and then.
fn heard(host: &Arc<Host>, sent_at: Option<DateTime<Utc>>, wait: Option<u64>) {
    if host.heard(clock::now(), sent_at, wait) {
        let host = Arc::clone(host);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = host.keep_seen() {
                tracing::warn!(%error, "other servers may take the host for offline");
            }
        });
    }
}

#[derive(Debug, Deserialize)]
struct EnrollRequest {
    token: String,
    enrollment_id: EnrollmentId,
    host: HostName,
    credential_sha256: String,
    #[serde(default)]
    fingerprint: Option<String>,
}

#[derive(Serialize)]
struct EnrollAnswer {
    host: HostName,
    server_time: DateTime<Utc>,
}

pub async fn enroll(app: &Arc<App>, mut request: Request) -> Result<Answer, Problem> {
    let (body, _) = request.json::<EnrollRequest>(ContentType::Any).await?;
    let is_hash = body.credential_sha256.len() == 64
        && body.credential_sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !is_hash {
        return Err(Problem::unprocessable("invalid", "credential_sha256 is not 64 lower-case hex digits"));
    }
    let refused = || {
        Problem::forbidden(
            "this enrollment token is unknown, expired, or for another host: ask for a new one with `restic-manager enroll HOST`",
        )
    };
    let token_sha256 = sha256_hex(body.token.as_bytes());
    let (dir, hash) = (app.state_dir.enrollments_dir(), token_sha256.clone());
    let token = blocking(move || credentials::find_token(&dir, &hash)).await?.ok_or_else(refused)?;
    if token.host != body.host || token.expires_at < clock::now() {
        return Err(refused());
    }
    let host = app.current_host(&body.host).await.ok_or_else(refused)?;
    let enrolled = HostEnrolled {
        enrollment_id: body.enrollment_id,
        token_sha256,
        credential_sha256: body.credential_sha256.clone(),
        fingerprint: body.fingerprint,
    };
    let decided = host
        .slot
        .write(move |batch| {
            let fact = decide_enroll(batch.state(), &enrolled)?;
            append_facts(batch, |_, _| fact.into_iter().collect());
            Ok::<_, crate::server::decide::Refusal>(())
        })
        .await?;
    decided?;
    let (dir, hash) = (host.dir.clone(), body.credential_sha256);
    blocking(move || credentials::set_credential(&dir, &hash)).await?;
    tracing::info!(host = %host.name, "enrolled");
    Ok(ok(&EnrollAnswer { host: body.host, server_time: clock::now() }))
}

pub async fn hello(app: &Arc<App>, mut request: Request) -> Result<Answer, Problem> {
    let host = authorized_host(app, &request).await?;
    let (hello, _) = request.json::<Hello>(ContentType::Any).await?;
    let Some(protocol_version) = negotiate_version(hello.protocol_version) else {
        return Err(Problem::new(
            StatusCode::UPGRADE_REQUIRED,
            "protocol-version",
            format!(
                "this server speaks protocol version {PROTOCOL_VERSION}, the agent only {}: update the agent",
                hello.protocol_version
            ),
        ));
    };
    let now = clock::now();
    if host.slot.durable().state.is_in_conflict(now) {
        return Err(host_conflict());
    }
    heard(&host, None, None);
    host.append(move |state, _| decide_hello(state, &hello)).await?;
    let state = host.slot.durable().state;
    Ok(ok(&HelloAnswer {
        server_time: clock::now(),
        protocol_version,
        host: host.name.clone(),
        epoch: app.state_dir.epoch,
        acked: state.streams.iter().map(|(stream, mark)| (*stream, mark.seq)).collect(),
        poll_wait: POLL_WAIT_SECS,
        agent_update: None,
    }))
}

fn host_conflict() -> Problem {
    Problem::conflict(
        "host-conflict",
        "two agents use this host's identity in turns, so neither gets commands: give each machine its own name and enroll it",
    )
}

#[derive(Serialize)]
struct HeartbeatAnswer {
    server_time: DateTime<Utc>,
}

pub async fn heartbeat(app: &Arc<App>, mut request: Request) -> Result<Answer, Problem> {
    let host = authorized_host(app, &request).await?;
    let (beat, _) = request.json::<Heartbeat>(ContentType::Any).await?;
    heard(&host, Some(beat.sent_at), None);
    Ok(ok(&HeartbeatAnswer { server_time: clock::now() }))
}

/// The long poll: no side effects but the sign of life, so a proxy may repeat it.
pub async fn commands(app: &Arc<App>, request: Request) -> Result<Answer, Problem> {
    let host = authorized_host(app, &request).await?;
    let instance: InstanceId = request.required_query("instance")?;
    let wait = match request.query::<u64>("wait")?.unwrap_or(POLL_WAIT_SECS) {
        // For curl: look, do not wait.
        0 => 0,
        wait => wait.clamp(*POLL_WAIT_RANGE_SECS.start(), *POLL_WAIT_RANGE_SECS.end()),
    };
    let question = PollQuestion {
        after: request.query.get("after").and_then(|text| text.parse::<Cursor>().ok()),
        schedule_version: request.query("schedule_version")?.unwrap_or(0),
        config_version: request.query("config_version")?.unwrap_or(0),
    };
    let schedule_hash: Option<String> = request.query("schedule_hash")?;
    let config_hash: Option<String> = request.query("config_hash")?;
    heard(&host, request.query("sent_at")?, Some(wait));
    // So that a fleet that was cut off together does not poll together for ever.
    let [.., high, low] = *uuid::Uuid::new_v4().as_bytes();
    let jitter = Duration::from_millis(u64::from(u16::from_be_bytes([high, low])) % 3000);
    let deadline = Instant::now() + Duration::from_secs(wait) + if wait == 0 { Duration::ZERO } else { jitter };
    let parked = host.park();
    let mut changed = host.slot.watch();
    let mut stopping = app.stopping.subscribe();
    loop {
        changed.mark_unchanged();
        let durable = host.slot.durable();
        let now = clock::now();
        let cursor = request.query.get("after").cloned().unwrap_or_default();
        if durable.state.is_in_conflict(now) {
            return Err(host_conflict());
        }
        if !host.is_current(instance) {
            if durable.state.superseded.contains(&instance) {
                return Ok(ok(&superseded_answer(app.state_dir.epoch, cursor, now)));
            }
            return Err(Problem::conflict("hello-first", "this instance has not said hello: POST hello first"));
        }
        if !parked.is_newest(&host) {
            return Ok(ok(&empty_answer(app.state_dir.epoch, cursor, now)));
        }
        let content = host.content();
        if let Some(content) = &content {
            let has = AgentHas {
                schedule: schedule_hash.as_deref().map(|hash| (question.schedule_version, hash)),
                config: config_hash.as_deref().map(|hash| (question.config_version, hash)),
            };
            if !decide_versions_of_agent(&durable.state, content, has).is_empty() {
                let (content, schedule_hash, config_hash) =
                    (Arc::clone(content), schedule_hash.clone(), config_hash.clone());
                let (schedule_version, config_version) = (question.schedule_version, question.config_version);
                host.append(move |state, _| {
                    let schedule = schedule_hash.as_deref().map(|hash| (schedule_version, hash));
                    let config = config_hash.as_deref().map(|hash| (config_version, hash));
                    decide_versions_of_agent(state, &content, AgentHas { schedule, config })
                })
                .await?;
                continue;
            }
        }
        let answer = poll_answer(&durable.state, durable.head, content.as_deref(), app.state_dir.epoch, &question, now);
        if is_news(&answer) || Instant::now() >= deadline || *stopping.borrow() {
            return Ok(ok(&answer));
        }
        tokio::select! {
            _ = changed.changed() => {}
            _ = stopping.changed() => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
        // Revoked while it was parked?
        authorized_host(app, &request).await?;
    }
}

/// The envelopes of an NDJSON body: each line's own error says which it is.
fn envelopes(body: &[u8]) -> Result<Vec<Envelope>, Problem> {
    let mut envelopes: Vec<Envelope> = Vec::new();
    for (index, line) in body.split(|b| *b == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        if line.len() > EVENT_LIMIT_BYTES {
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "event-too-large",
                format!("line {} is longer than {EVENT_LIMIT_BYTES} bytes", index + 1),
            ));
        }
        let envelope: Envelope =
            serde_json::from_slice(line).map_err(|error| json_problem(&format!("line {}", index + 1), line, &error))?;
        envelopes.push(envelope);
    }
    Ok(envelopes)
}

pub async fn events(app: &Arc<App>, mut request: Request) -> Result<Answer, Problem> {
    let host = authorized_host(app, &request).await?;
    let stream: StreamId = request.required_query("stream")?;
    let instance: InstanceId = request.required_query("instance")?;
    heard(&host, None, None);
    if host.slot.durable().state.superseded.contains(&instance) {
        let detail = "a newer instance of this host said hello: wait until a poll says so, then say hello again";
        return Err(Problem::conflict("superseded", detail));
    }
    if !host.is_current(instance) {
        return Err(Problem::conflict("not-current", "this instance has not said hello: POST hello first"));
    }
    let envelopes = envelopes(&request.body().await?)?;
    let (writer, content) = (Arc::clone(&host), host.content());
    let taken =
        host.slot.write(move |batch| events_in::take(batch, &writer, content.as_deref(), stream, &envelopes)).await?;
    let acked = taken?;
    Ok(ok(&Acknowledged { acked, interval_ms: None }))
}

pub async fn log(app: &Arc<App>, mut request: Request) -> Result<Answer, Problem> {
    let host = authorized_host(app, &request).await?;
    let job: JobId = request.parameter("job")?;
    heard(&host, None, None);
    let known = host.slot.durable().state.job(job).is_some() || {
        let (app, id) = (Arc::clone(app), job);
        let found = blocking(move || app.find_job(id)).await?;
        found.is_some_and(|(owner, _)| owner.name == host.name)
    };
    if !known {
        return Err(Problem::not_found("no-such-job", format!("host {} has no job {job}", shown(host.name.as_str()))));
    }
    let envelopes = envelopes(&request.body().await?)?;
    let path = host.log_path(job);
    // Within the host's batch: one writer per log, ordered among servers by the journal's lock.
    let appended = host.slot.write(move |_| job_log::append(&path, &envelopes)).await?;
    let (acked, progress) = appended.map_err(|error| match error {
        job_log::LogError::Gap { expected, got } => Problem::event_gap(expected, got),
        job_log::LogError::File(error) => Problem::from(error),
    })?;
    if let Some(progress) = progress {
        host.set_progress(progress);
    }
    host.slot.wake_everywhere();
    Ok(ok(&Acknowledged { acked, interval_ms: Some(LOG_INTERVAL_MS) }))
}
