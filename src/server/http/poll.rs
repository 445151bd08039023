//! Edge. The agents' long poll: the question, the look for an answer, and the wait between looks. A poll that has to wait is
//! small and goes to its connection's task; what is news, `messages` decides. Does not read or write sockets.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use data_encoding::HEXLOWER;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::agent::{heard, host_conflict};
use super::answer::{Answer, Problem, ok};
use super::gate::{Agent, not_authorized};
use super::request::Request;
use crate::clock;
use crate::id::InstanceId;
use crate::job::Job;
use crate::protocol::{Cursor, agent_path};
use crate::server::app::{App, blocking};
use crate::server::history;

use crate::server::host::{Host, Parked};
use crate::server::messages::{PollQuestion, can_follow, empty_answer, is_news, poll_answer, superseded_answer};
use crate::server::versions::{AgentHas, decide_versions_of_agent};

/// The path of polls.
pub const COMMANDS: &str = "/v1/agents/{host}/commands";
/// The poll wait that agents are told to ask for, in seconds: the poll is the heartbeat.
pub const WAIT_SECS: u64 = 30;
const WAIT_RANGE_SECS: RangeInclusive<u64> = 5..=300;
/// How often a poll may ask for a sign of life, in seconds: silent connections are cut after ten seconds here and there.
const KEEPALIVE_RANGE_SECS: RangeInclusive<u64> = 2..=60;

/// A poll, and all that its answer depends on. Kept small: ten thousand of them wait.
pub struct Poll {
    host: Arc<Host>,
    place: Parked,
    instance: InstanceId,
    question: PollQuestion,
    /// The cursor as the agent wrote it, where it is none of ours.
    strange_after: Option<Box<str>>,
    schedule_hash: Option<SmallHash>,
    config_hash: Option<SmallHash>,
    /// When the host was enrolled, as the journal says: while that is so, its credential is what it was.
    enrolled_at: Option<DateTime<Utc>>,
    /// How often the agent had begun to use another credential: while that is so, its credential counts.
    credentials_used: u32,
    deadline: Instant,
    /// The next sign of life, where the agent asked for any.
    beat: Option<Beat>,
    changed: watch::Receiver<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Beat {
    next: Instant,
    every_secs: u8,
}

/// A hash that the agent sent, in half of its text's size and without an allocation. What is none of ours never equals one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SmallHash([u8; 16]);

impl SmallHash {
    fn of(text: &str) -> Self {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        Self(bytes.unwrap_or_default())
    }

    fn text(self) -> String {
        HEXLOWER.encode(&self.0)
    }
}

/// The long poll: no side effects but the sign of life, so a proxy may repeat it.
pub async fn commands(app: &Arc<App>, mut request: Request, agent: Agent) -> Result<Answer, Problem> {
    let mut poll = ask(app, &request, agent).await?;
    if let Some(answer) = look(app, &mut poll).await? {
        return Ok(answer);
    }
    if let Some(handover) = request.handover.take() {
        drop(request);
        return handover.park(poll).await;
    }
    // A request that only hyper can answer waits here, with all that hyper keeps for it.
    let _parked = app.traffic.parked.hold();
    loop {
        poll.wait().await;
        if let Some(answer) = look_again(app, &mut poll).await? {
            return Ok(answer);
        }
    }
}

async fn ask(app: &Arc<App>, request: &Request, agent: Agent) -> Result<Poll, Problem> {
    let Agent { host, enrolled_at, credentials_used } = agent;
    let instance: InstanceId = request.required_query("instance")?;
    let wait = match request.query::<u64>("wait")?.unwrap_or(WAIT_SECS) {
        // For curl: look, do not wait.
        0 => 0,
        wait => wait.clamp(*WAIT_RANGE_SECS.start(), *WAIT_RANGE_SECS.end()),
    };
    let after = request.query.get("after").map(String::as_str).unwrap_or_default();
    let cursor = after.parse::<Cursor>().ok();
    let question = PollQuestion {
        after: cursor,
        is_known: is_known(app, &host, cursor).await,
        schedule_version: request.query("schedule_version")?.unwrap_or(0),
        config_version: request.query("config_version")?.unwrap_or(0),
    };
    let hash = |name: &str| request.query.get(name).filter(|text| !text.is_empty()).map(|text| SmallHash::of(text));
    // Older agents do not say.
    if let Some(bytes) = request.query("spool_bytes")? {
        host.set_spool_bytes(bytes);
    }
    heard(&host, request.query("sent_at")?, Some(wait)).await;
    // So that a fleet that was cut off together does not poll together for ever.
    let [.., high, low] = *uuid::Uuid::new_v4().as_bytes();
    let jitter = Duration::from_millis(u64::from(u16::from_be_bytes([high, low])) % 3000);
    let deadline = Instant::now() + Duration::from_secs(wait) + if wait == 0 { Duration::ZERO } else { jitter };
    let beat = request.query::<u64>("keepalive")?.map(|secs| {
        let secs = secs.clamp(*KEEPALIVE_RANGE_SECS.start(), *KEEPALIVE_RANGE_SECS.end());
        Beat { next: Instant::now() + Duration::from_secs(secs), every_secs: u8::try_from(secs).unwrap_or(u8::MAX) }
    });
    // It may have been out of contact for long, and its jobs without a lease since.
    if host.slot.durable().state.jobs.values().any(Job::is_undispatched) {
        app.leases.attend(&host.name);
    }
    let place = host.park();
    Ok(Poll {
        place,
        instance,
        strange_after: question.after.is_none().then(|| after.into()),
        question,
        schedule_hash: hash("schedule_hash"),
        config_hash: hash("config_hash"),
        enrolled_at,
        credentials_used,
        deadline,
        beat,
        changed: host.slot.watch(),
        host,
    })
}

/// Whether the cursor's line is one of ours, by memory, or by the files for what memory has forgotten: an agent whose events come
/// faster than its polls would else be told everything again, and answer all of that again.
async fn is_known(app: &App, host: &Arc<Host>, cursor: Option<Cursor>) -> bool {
    let Some(cursor) = cursor else { return false };
    let durable = host.slot.durable();
    let epoch = app.state_dir.epoch;
    if can_follow(&durable.state, durable.head, cursor, epoch) {
        return true;
    }
    if cursor.epoch != epoch || cursor.seq > durable.head.seq {
        return false;
    }
    let journal = host.journal_dir();
    // A file that cannot be read is as good as none: the agent is told everything again, which is harmless.
    blocking(move || history::has_line(&journal, cursor.seq, cursor.crc)).await.unwrap_or(false)
}

/// The answer, if there is one by now.
async fn look(app: &App, poll: &mut Poll) -> Result<Option<Answer>, Problem> {
    let (host, epoch) = (&poll.host, app.state_dir.epoch);
    let question = &poll.question;
    loop {
        // Before the state is read, so that a change after that wakes.
        poll.changed.mark_unchanged();
        let durable = host.slot.durable();
        let now = clock::now();
        let after = || poll.after();
        if durable.state.is_in_conflict(now) {
            return Err(host_conflict());
        }
        if !host.is_current(poll.instance) {
            if durable.state.superseded.contains(&poll.instance) {
                return Ok(Some(ok(&superseded_answer(epoch, after(), now))));
            }
            return Err(Problem::conflict("hello-first", "this instance has not said hello: POST hello first"));
        }
        if !poll.place.is_newest(host) {
            return Ok(Some(ok(&empty_answer(epoch, after(), now))));
        }
        let content = host.content();
        if let Some(content) = &content {
            let [schedule_hash, config_hash] =
                [poll.schedule_hash, poll.config_hash].map(|hash| hash.map(SmallHash::text));
            let has = AgentHas {
                schedule: schedule_hash.as_deref().map(|hash| (question.schedule_version, hash)),
                config: config_hash.as_deref().map(|hash| (question.config_version, hash)),
            };
            if !decide_versions_of_agent(&durable.state, content, has).is_empty() {
                let content = Arc::clone(content);
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
        let answer = poll_answer(&durable.state, durable.head, content.as_deref(), epoch, question, now);
        let is_due = is_news(&answer) || Instant::now() >= poll.deadline || *app.stopping.borrow();
        return Ok(is_due.then(|| ok(&answer)));
    }
}

/// The same after a wait, in which the credential may have been revoked or replaced: that is a line of the journal, which wakes.
pub async fn look_again(app: &App, poll: &mut Poll) -> Result<Option<Answer>, Problem> {
    let state = poll.host.slot.durable().state;
    if state.enrolled_at != poll.enrolled_at {
        return Err(not_authorized(&poll.host.name));
    }
    if state.credentials_used != poll.credentials_used {
        // Its credential may be the one that counts no more: its agent polls again with the one that does.
        return Ok(Some(ok(&empty_answer(app.state_dir.epoch, poll.after(), clock::now()))));
    }
    look(app, poll).await
}

impl Poll {
    /// The cursor, as the agent wrote it.
    fn after(&self) -> String {
        match (&self.question.after, &self.strange_after) {
            (Some(cursor), _) => cursor.to_string(),
            (None, text) => text.as_deref().unwrap_or_default().to_owned(),
        }
    }

    /// Until there may be an answer: the host's bell, which also rings when the server stops (a bell more would be a third of
    /// a parked poll's memory), or the end of the wait; or until a sign of life is due. Cancel-safe.
    pub async fn wait(&mut self) {
        let until = self.beat.map_or(self.deadline, |beat| beat.next.min(self.deadline));
        let _ = timeout_at(until, self.changed.changed()).await;
    }

    /// Whether a sign of life is due; the next one is then an interval away.
    pub fn takes_beat(&mut self) -> bool {
        let now = Instant::now();
        let Some(beat) = self.beat.as_mut().filter(|beat| beat.next <= now) else { return false };
        beat.next = now + Duration::from_secs(beat.every_secs.into());
        true
    }

    /// That there is nothing to say. For an answer that has begun, and so can be no problem any more: the agent asks again and
    /// is told then.
    pub fn nothing(&self, app: &App) -> Answer {
        ok(&empty_answer(app.state_dir.epoch, self.after(), clock::now()))
    }

    /// For logs.
    pub fn path(&self) -> String {
        agent_path(&self.host.name, "commands")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_of_ours_is_kept_and_anything_else_equals_none() {
        let text = crate::server::fleet::schedule_set::schedule_hash(&[]);
        assert_eq!(SmallHash::of(&text).text(), text);
        for other in ["", "x", &text[1..], &text.to_uppercase(), "\u{e9}"] {
            assert_eq!(SmallHash::of(other).text(), "0".repeat(32), "{other}");
        }
    }
}
