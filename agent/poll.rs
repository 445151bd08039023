//! Edge. The long poll: hello, then one request after the other, each answer applied before the next is asked.
//! A command is in the ledger, durably, before the cursor moves. Only answers that prove to be the server's change anything.
//! Does not run jobs or send events, and what the way bears is `crate::poll_wait`'s to know.

use std::rc::Rc;
use std::time::Duration;

use hyper::Method;
use restic_manager::clock;
use restic_manager::file_error::chain;
use restic_manager::http_client::{ClientError, Patience};
use restic_manager::id::JobId;
use restic_manager::protocol::agent_event::{AgentEvent, ConfigAck, ENDED_JOBS_LIMIT, Hello, ScheduleAck};
use restic_manager::protocol::command::{
    CommandCancel, CommandRun, ConfigUpdate, FireResult, HelloAnswer, ScheduleSet,
};
use restic_manager::protocol::{
    BODY_LIMIT_BYTES, PROTOCOL_VERSION, PollAnswer, PollMessage, agent_path, negotiate_version,
};

use crate::agent_update;
use crate::backoff::Backoff;
use crate::commands;
use crate::core::Agent;
use crate::identity;
use crate::ledger::Command;
use crate::poll_wait::SHORTEST_SILENCE;
use crate::restic_json::readable;
use crate::rotation;

/// Beyond the wait that was asked for, in seconds.
const ANSWER_GRACE_SECS: u64 = 15;
const HELLO_DEADLINE: Duration = Duration::from_secs(30);
/// How much longer than its interval a sign of life may take.
const KEEPALIVE_GRACE: u32 = 3;
/// The longest pause after a cut that was to be expected.
const CUT_PAUSE: Duration = Duration::from_secs(2);
/// A longer cursor or hash is not sent back.
const QUERY_VALUE_LIMIT_BYTES: usize = 1024;
/// How long a superseded instance stays away.
const SUPERSEDED_WAIT: Duration = Duration::from_secs(60);

/// Polls until the agent stops.
pub(crate) async fn run(agent: Rc<Agent>) {
    let mut backoff = Backoff::default();
    let mut is_greeted = false;
    loop {
        let result = if is_greeted && !agent.hello_due.get() {
            poll(&agent).await
        } else {
            hello(&agent).await.map(|answer| {
                agent_update::told(&agent, answer.agent_update);
                agent.hello_due.set(false);
                agent.greeted.notify_one();
                is_greeted = true;
                agent.server_wait.set(answer.poll_wait.clamp(5, 300));
                Outcome::Applied
            })
        };
        match result {
            Ok(Outcome::Applied) => {
                backoff = Backoff::default();
                agent.last_contact.set(Some(clock::now()));
                // Applied versions and fires show at once.
                agent.status_bell.notify_one();
                rotation::rotate_if_due(&agent).await;
            }
            Ok(Outcome::Cut) => tokio::time::sleep(CUT_PAUSE.mul_f64(identity::random_unit())).await,
            Ok(Outcome::Superseded) => {
                agent.note_error("another agent uses this host's identity: waiting 60 s; if this machine was cloned, enroll one of the two under its own name");
                // A copy of this directory goes on with the same stream: what is told from here on must not pass for its.
                commands::begin_stream(&agent, "another agent has taken over");
                agent.superseded.set(true);
                tokio::time::sleep(SUPERSEDED_WAIT).await;
                agent.superseded.set(false);
                agent.hello_due.set(true);
            }
            Err(error) => {
                let code = if let ClientError::Problem { body, .. } = &error { body.code.as_str() } else { "" };
                if code == "unauthorized" {
                    rotation::try_the_other(&agent);
                }
                let pause = backoff.next(error.retry_after(), identity::random_unit());
                agent.note_error(&format!("the server: {}; next try in {} s", chain(&error), pause.as_secs()));
                tokio::time::sleep(pause).await;
                agent.hello_due.set(true);
            }
        }
    }
}

enum Outcome {
    Applied,
    Superseded,
    /// By what stands between, as it does with each long poll here.
    Cut,
}

async fn hello(agent: &Agent) -> Result<HelloAnswer, ClientError> {
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        restic_version: agent.restic.borrow().as_ref().ok().map(ToString::to_string),
        hostname: identity::hostname(),
        os: identity::os(),
        arch: identity::arch(),
        boot_time: identity::boot_time(),
        instance_id: agent.instance,
        machine_fingerprint: identity::fingerprint(),
        stream: agent.spool.borrow().stream(),
        timezone: Some(agent.zone.clone()),
        running_jobs: agent.ledger.borrow().unsettled().iter().map(|job| job.id).collect(),
        ended_jobs: agent.ledger.borrow().settled(ENDED_JOBS_LIMIT),
    };
    let before = clock::now();
    let answer: HelloAnswer = agent.client.post_json(&agent_path(&agent.host, "hello"), &hello, HELLO_DEADLINE).await?;
    agent.clock_offset.set(answer.server_time - (before + (clock::now() - before) / 2));
    if answer.host != agent.host {
        return Err(ClientError::Request("the server takes us for another host"));
    }
    if negotiate_version(answer.protocol_version) != Some(answer.protocol_version) {
        return Err(ClientError::Request(
            "the server answers in a protocol version that this agent does not speak: update whichever of the two is older",
        ));
    }
    // What the server has needs no sending again.
    let stream = agent.spool.borrow().stream();
    let acked = answer.acked.get(&stream).copied().unwrap_or(0);
    if acked < agent.spool.borrow().acked() {
        commands::begin_stream(agent, "the server has lost events that it had: its state is an older copy");
        commands::tell_versions(agent);
    } else {
        commands::acknowledged(agent, acked);
    }
    rotation::greeted(agent);
    tracing::info!(host = %agent.host, through = %agent.way(), "connected");
    agent.send_bell.notify_one();
    Ok(answer)
}

async fn poll(agent: &Agent) -> Result<Outcome, ClientError> {
    let ask = agent.poll_wait.borrow().ask(agent.server_wait.get());
    let query = {
        let received = agent.received.borrow();
        let ledger = agent.ledger.borrow();
        format!(
            "{}?instance={}&after={}&schedule_version={}&schedule_hash={}&config_version={}&config_hash={}&wait={}{}&sent_at={}&spool_bytes={}",
            agent_path(&agent.host, "commands"),
            agent.instance,
            in_query(ledger.cursor().unwrap_or_default()),
            received.schedules().map_or(0, |set| set.version),
            in_query(received.schedules().map_or("", |set| set.hash.as_str())),
            received.config().version,
            in_query(&received.config().hash),
            ask.wait_secs,
            ask.keepalive_secs.map_or(String::new(), |every| format!("&keepalive={every}")),
            clock::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
            agent.room.events.get() + agent.room.logs.get(),
        )
    };
    // The server adds up to 3 s to the wait.
    let whole = Duration::from_secs(ask.wait_secs + 3 + ANSWER_GRACE_SECS);
    let idle = ask.keepalive_secs.map_or(whole, |every| Duration::from_secs(every) * KEEPALIVE_GRACE);
    let began = tokio::time::Instant::now();
    let request = agent.client.request(Method::GET, &query, &[], None, Patience { whole, idle });
    let answer: Result<PollAnswer, ClientError> = tokio::select! {
        answer = request => answer.and_then(|answer| answer.json()),
        () = agent.hello_bell.notified() => return Ok(Outcome::Applied),
    };
    let answer = match answer {
        Ok(answer) => {
            agent.learn(|learned, server_wait| {
                learned.answered(began.elapsed());
                learned.creep_back(server_wait, clock::now())
            });
            answer
        }
        Err(error @ ClientError::Problem { .. }) => return Err(error),
        Err(error) => {
            let after = began.elapsed();
            // A proxy that says it has waited too long is there, and so is the way to it: nothing is gained by staying away.
            let is_impatience = matches!(error, ClientError::Intermediary { status: 408 | 504, .. });
            let is_expected = (is_impatience || agent.poll_wait.borrow().expects_cuts()) && after >= SHORTEST_SILENCE;
            agent.learn(|learned, _| learned.cut(ask, after, clock::now()));
            if !is_expected {
                return Err(error);
            }
            tracing::info!("a poll was cut for its silence: {}", chain(&error));
            return Ok(Outcome::Cut);
        }
    };
    if answer.superseded {
        return Ok(Outcome::Superseded);
    }
    if answer.reset && agent.ledger.borrow().cursor().is_some() {
        // The server's state is not the one that we have followed: hello settles what became of its jobs.
        tracing::warn!("the server does not know our cursor: saying hello again");
        agent.hello_due.set(true);
    }
    apply(agent, &answer);
    Ok(Outcome::Applied)
}

/// Text of the server's as a query's value, whatever it is: what cannot be sent back would stop every poll. No cursor or hash of
/// a server of ours is so long that it is left out.
fn in_query(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':');
    let text = if text.len() > QUERY_VALUE_LIMIT_BYTES { "" } else { text };
    text.bytes()
        .map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Applies an answer's messages in order. A message that cannot be read is told, and the others are applied; its command
/// gets a rejecting result where it names a job.
fn apply(agent: &Agent, answer: &PollAnswer) {
    let mut received_commands = Vec::new();
    for message in &answer.messages {
        let payload = message.payload.get();
        match message.kind.as_str() {
            ConfigUpdate::TYPE => with(agent, message, |update: ConfigUpdate| apply_config(agent, update)),
            ScheduleSet::TYPE => with(agent, message, |set: ScheduleSet| apply_schedules(agent, set)),
            FireResult::TYPE => with(agent, message, |result: FireResult| {
                tracing::info!(schedule = %result.schedule_id, outcome = ?result.outcome, reason = result.reason, "fire answered");
                crate::scheduler::answered(agent, &result);
            }),
            CommandRun::TYPE if payload.len() > BODY_LIMIT_BYTES => {
                // No operator's request can have been so large.
                reject_unreadable(agent, payload, &format!("it is larger than {BODY_LIMIT_BYTES} bytes"));
            }
            CommandRun::TYPE => match serde_json::from_str::<CommandRun>(payload) {
                Ok(command) => received_commands.push(Command::Run(command)),
                Err(error) => reject_unreadable(agent, payload, &error.to_string()),
            },
            CommandCancel::TYPE => {
                with(agent, message, |cancel: CommandCancel| received_commands.push(Command::Cancel(cancel.job_id)));
            }
            other => tracing::warn!(kind = other, "a message of a later version is ignored"),
        }
    }
    commands::receive(agent, &received_commands, &answer.cursor);
}

fn with<T: serde::de::DeserializeOwned>(agent: &Agent, message: &PollMessage, apply: impl FnOnce(T)) {
    match serde_json::from_str(message.payload.get()) {
        Ok(parsed) => apply(parsed),
        Err(error) => agent.note_error(&format!("the server's {} cannot be read: {error}", message.kind)),
    }
}

fn reject_unreadable(agent: &Agent, payload: &str, error: &str) {
    let error = readable(error.as_bytes());
    #[derive(serde::Deserialize)]
    struct IdOnly {
        job_id: JobId,
    }
    agent.note_error(&format!("a command cannot be read: {error}"));
    if let Ok(IdOnly { job_id }) = serde_json::from_str(payload) {
        let version = env!("CARGO_PKG_VERSION");
        commands::reject_unreadable(agent, job_id, format!("this agent ({version}) cannot read the command: {error}"));
    }
}

fn apply_config(agent: &Agent, update: ConfigUpdate) {
    let version = update.version;
    let applied = agent.received.borrow_mut().apply_config(update);
    match applied {
        Ok(true) => {
            tracing::info!(version, "settings applied");
            agent.tell(&AgentEvent::ConfigAck(ConfigAck { version, applied_at: clock::now() }));
        }
        Ok(false) => {}
        Err(error) => agent.note_error(&format!("settings version {version}: {}", chain(&error))),
    }
}

fn apply_schedules(agent: &Agent, set: ScheduleSet) {
    let version = set.version;
    let applied = agent.received.borrow_mut().apply_schedules(set);
    match applied {
        Ok(true) => {
            tracing::info!(version, "schedule set applied");
            agent.tell(&AgentEvent::ScheduleAck(ScheduleAck { version, applied_at: clock::now() }));
            agent.schedule_bell.notify_one();
        }
        Ok(false) => {}
        Err(error) => agent.note_error(&format!("schedule set version {version}: {}", chain(&error))),
    }
}
