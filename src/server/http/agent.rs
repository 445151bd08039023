//! Edge. The agents' endpoints but the long poll: enroll, hello, heartbeat, events and job logs.
//! Parses, asks `decide`, writes, answers. Does not decide, and does not look at credentials: `gate` does.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::answer::{Answer, Problem, ok};
use super::gate::Agent;
use super::request::{ContentType, Request, json_problem, shown};
use super::{audit, poll};
use crate::clock;
use crate::id::{EnrollmentId, HostName, InstanceId, JobId, StreamId};
use crate::protocol::agent_event::{Heartbeat, Hello};
use crate::protocol::command::HelloAnswer;
use crate::protocol::{
    Acknowledged, EVENT_LIMIT_BYTES, Envelope, HELLO_LIMIT_BYTES, NESTING_LIMIT, PROTOCOL_VERSION, is_too_deep,
    negotiate_version,
};
use crate::server::access::sha256_hex;
use crate::server::app::{App, blocking};
use crate::server::audit::Action;
use crate::server::decide::{Refusal, decide_enroll};
use crate::server::fact::HostEnrolled;
use crate::server::find_job::{find_job, is_of_another_host};
use crate::server::host::{Host, append_facts};
use crate::server::messages::is_current;
use crate::server::settle::decide_hello;
use crate::server::{credentials, events_in, job_log};

/// How often an agent should send log lines.
const LOG_INTERVAL_MS: u64 = 2000;

/// Notes the sign of life, and tells other servers by the `seen` file now and then.
pub(super) async fn heard(host: &Arc<Host>, sent_at: Option<DateTime<Utc>>, wait: Option<u64>) {
    if host.heard(clock::now(), sent_at, wait) {
        let host = Arc::clone(host);
        if let Err(error) = with_small_file(move || host.keep_seen()).await {
            tracing::warn!(%error, "other servers may take the host for offline");
        }
    }
}

/// How many small files are read or touched at once. When ten thousand agents come together, each of them would else get a
/// thread of its own, and every thread its stack and its heap.
static SMALL_FILES: Semaphore = Semaphore::const_new(8);

/// Runs what reads or touches one small file off the reactor.
pub(super) async fn with_small_file<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    // It is never closed.
    let _turn = SMALL_FILES.acquire().await;
    blocking(work).await
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

/// That a credential is taken: the first, or the next one.
#[derive(Serialize)]
pub(super) struct EnrollAnswer {
    pub(super) host: HostName,
    pub(super) server_time: DateTime<Utc>,
}

/// A credential's SHA-256 as agents send it.
pub(super) fn check_hash(text: &str) -> Result<(), Problem> {
    if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(());
    }
    Err(Problem::unprocessable("invalid", "credential_sha256 is not 64 lower-case hex digits"))
}

pub async fn enroll(app: &Arc<App>, mut request: Request) -> Result<Answer, Problem> {
    request.check_certificate()?;
    let (body, _) = request.json::<EnrollRequest>(ContentType::Any).await?;
    check_hash(&body.credential_sha256)?;
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
    request.let_in();
    let host = app.current_host(&body.host).await.ok_or_else(refused)?;
    let enrolled = HostEnrolled {
        enrollment_id: body.enrollment_id,
        token_sha256,
        credential_sha256: body.credential_sha256.clone(),
        fingerprint: body.fingerprint,
    };
    let decided = host.slot.write(move |batch| {
        let fact = decide_enroll(batch.state(), &enrolled)?;
        let is_new = fact.is_some();
        append_facts(batch, |_, _| fact.into_iter().collect());
        Ok::<_, Refusal>(is_new)
    });
    let is_new = decided.await??;
    let (dir, hash) = (host.dir.clone(), body.credential_sha256);
    let kept = host.slot.write(move |batch| {
        let state = batch.state();
        // It may have been revoked or followed by another meanwhile; and said again by an agent that has named its next
        // credential it changes nothing.
        let is_last = state.enrollments.back().is_some_and(|last| last.credential_sha256 == hash);
        let counts = state.enrolled_at.is_some() && is_last && state.credentials_named == 0;
        if counts { credentials::set_credential(&dir, &hash) } else { Ok(()) }
    });
    kept.await??;
    host.forget_credential();
    if is_new {
        audit::changed_by_agent(app, request.client, &host.name, Action::HostEnroll).await?;
        tracing::info!(host = %host.name, client = %request.client, "enrolled");
    }
    Ok(ok(&EnrollAnswer { host: body.host, server_time: clock::now() }))
}

pub async fn hello(app: &Arc<App>, mut request: Request, Agent { host, .. }: Agent) -> Result<Answer, Problem> {
    let (hello, _) = request.json_up_to::<Hello>(ContentType::Any, HELLO_LIMIT_BYTES).await?;
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
    heard(&host, None, None).await;
    let agent_update = host.content().and_then(|content| content.update_of(&hello.agent_version).cloned());
    // After an outage everybody says what the journal has already: no thread and no lock is needed to find that.
    if !decide_hello(&host.slot.durable().state, &hello, now).is_empty() {
        host.append(move |state, _| decide_hello(state, &hello, now)).await?;
        app.leases.attend(&host.name);
        if host.slot.durable().state.is_another_machine() {
            tracing::warn!(
                host = %host.name,
                client = %request.client,
                "the agent runs on another machine than the one that was enrolled: if nobody moved it, revoke its credential"
            );
        }
    }
    let state = host.slot.durable().state;
    Ok(ok(&HelloAnswer {
        server_time: clock::now(),
        protocol_version,
        host: host.name.clone(),
        epoch: app.state_dir.epoch,
        acked: state.streams.iter().map(|(stream, mark)| (*stream, mark.seq)).collect(),
        poll_wait: poll::WAIT_SECS,
        agent_update,
    }))
}

pub(super) fn host_conflict() -> Problem {
    Problem::conflict(
        "host-conflict",
        "two agents use this host's identity in turns, so neither gets commands: give each machine its own name and enroll it",
    )
}

#[derive(Serialize)]
struct HeartbeatAnswer {
    server_time: DateTime<Utc>,
}

pub async fn heartbeat(_: &Arc<App>, mut request: Request, Agent { host, .. }: Agent) -> Result<Answer, Problem> {
    let (beat, _) = request.json::<Heartbeat>(ContentType::Any).await?;
    heard(&host, Some(beat.sent_at), None).await;
    Ok(ok(&HeartbeatAnswer { server_time: clock::now() }))
}

/// The envelopes of an NDJSON body: each line's own error says which it is.
pub fn envelopes(body: &[u8]) -> Result<Vec<Envelope>, Problem> {
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
        if is_too_deep(line) {
            let detail = format!("line {} is nested more than {NESTING_LIMIT} deep", index + 1);
            return Err(Problem::unprocessable("bad-event", detail));
        }
        envelopes.push(envelope);
    }
    Ok(envelopes)
}

pub async fn events(app: &Arc<App>, mut request: Request, Agent { host, .. }: Agent) -> Result<Answer, Problem> {
    let stream: StreamId = request.required_query("stream")?;
    let instance: InstanceId = request.required_query("instance")?;
    heard(&host, None, None).await;
    let state = host.slot.durable().state;
    if state.superseded.contains(&instance) {
        let detail = "a newer instance of this host said hello: wait until a poll says so, then say hello again";
        return Err(Problem::conflict("superseded", detail));
    }
    if !is_current(&state, instance) {
        return Err(Problem::conflict("not-current", "this instance has not said hello: POST hello first"));
    }
    drop(state);
    let envelopes = envelopes(&request.body().await?)?;
    let is_of_jobs = envelopes.iter().any(|envelope| events_in::concerns_jobs(&envelope.kind));
    let (writer, content, indexed_since) = (Arc::clone(&host), host.content(), app.outage.ready_at);
    let everybody = Arc::clone(app);
    let taken = host.slot.write(move |batch| {
        let is_of_another = |job: JobId| is_of_another_host(&everybody, job, &writer.name);
        let content = content.as_deref();
        let source = events_in::Source { host: &writer, content, stream, indexed_since, is_of_another: &is_of_another };
        events_in::take(batch, &source, &envelopes)
    });
    let taken = taken.await?;
    if is_of_jobs {
        app.leases.attend(&host.name);
    }
    let acked = taken?;
    Ok(ok(&Acknowledged { acked, interval_ms: None }))
}

pub async fn log(app: &Arc<App>, mut request: Request, Agent { host, .. }: Agent) -> Result<Answer, Problem> {
    let job: JobId = request.parameter("job")?;
    heard(&host, None, None).await;
    let known = host.slot.durable().state.job(job).is_some() || {
        let (app, id) = (Arc::clone(app), job);
        let found = blocking(move || find_job(&app, id)).await?;
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
