//! Pure. What a poll returns: a function of the folded state, what the host should have, and what the agent says it has.
//! Level-triggered: nothing is queued anywhere else. Does not wait or answer.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;

use super::host_content::HostContent;
use super::host_state::{HostState, is_unsaid};
use crate::id::{Epoch, InstanceId};
use crate::job::{Job, JobStatus};
use crate::journal::Head;
use crate::protocol::command::{CommandCancel, CommandRun, ConfigUpdate, FireOutcome, FireResult, ScheduleSet};
use crate::protocol::{Cursor, PollAnswer, PollMessage};

/// What the poll's query says.
#[derive(Debug, Clone, Default)]
pub struct PollQuestion {
    /// `None`: empty, unknown, or of another epoch.
    pub after: Option<Cursor>,
    /// When the poll came its line was found, in memory or in the files; memory has only the newest ones.
    pub is_known: bool,
    pub schedule_version: u64,
    pub config_version: u64,
}

/// Whether the cursor names a line that is as it was. The head is one also when it is a segment's first line or the
/// start, which the state does not remember: otherwise each answer would be a reset, and the agent would ask without pause.
pub fn can_follow(state: &HostState, head: Head, cursor: Cursor, epoch: Epoch) -> bool {
    let line = (cursor.seq, cursor.crc);
    cursor.epoch == epoch && (line == (head.seq, head.crc) || state.lines.contains(&line))
}

/// The answer as it stands; `messages` is empty when there is nothing to say yet.
pub fn poll_answer(
    state: &HostState,
    head: Head,
    content: Option<&HostContent>,
    epoch: Epoch,
    question: &PollQuestion,
    now: DateTime<Utc>,
) -> PollAnswer {
    let followed = question.after.filter(|cursor| question.is_known || can_follow(state, head, *cursor, epoch));
    let after = followed.map_or(0, |cursor| cursor.seq);
    let mut messages = Vec::new();
    if let Some(content) = content {
        messages.extend(desired_state(state, content, question, now));
    }
    messages.extend(commands(state, after));
    PollAnswer {
        epoch,
        cursor: Cursor { epoch, seq: head.seq, crc: head.crc }.to_string(),
        server_time: now,
        reset: followed.is_none(),
        superseded: false,
        messages,
    }
}

/// Whether the answer must be sent at once: there is something to apply, or the agent's cursor must be replaced.
pub fn is_news(answer: &PollAnswer) -> bool {
    !answer.messages.is_empty() || answer.reset || answer.superseded
}

/// The answer to a poll whose place a newer poll of the same instance took: a proxy repeated it, or the agent gave up on it.
pub fn empty_answer(epoch: Epoch, cursor: String, now: DateTime<Utc>) -> PollAnswer {
    PollAnswer { epoch, cursor, server_time: now, reset: false, superseded: false, messages: Vec::new() }
}

/// The answer for an instance that a newer one replaced.
pub fn superseded_answer(epoch: Epoch, cursor: String, now: DateTime<Utc>) -> PollAnswer {
    PollAnswer { superseded: true, ..empty_answer(epoch, cursor, now) }
}

/// Whether this instance is the host's newest.
pub fn is_current(state: &HostState, instance: InstanceId) -> bool {
    state.hello.as_ref().is_some_and(|hello| hello.instance_id == instance)
}

fn message(kind: &str, seq: Option<u64>, ts: DateTime<Utc>, payload: &impl Serialize) -> PollMessage {
    // Structs with text keys always have a JSON form.
    let payload = serde_json::value::to_raw_value(payload).unwrap_or_else(|_| RawValue::NULL.to_owned());
    PollMessage { seq, ts, kind: kind.to_owned(), payload }
}

/// config.update and schedule.set, where the agent is behind. Content whose version is not in the journal yet waits for it.
fn desired_state(
    state: &HostState,
    content: &HostContent,
    question: &PollQuestion,
    now: DateTime<Utc>,
) -> Vec<PollMessage> {
    let mut messages = Vec::new();
    if let Some(wanted) = &state.config_wanted
        && wanted.hash == content.config_hash
        && wanted.version > question.config_version
    {
        let update =
            ConfigUpdate { version: wanted.version, hash: wanted.hash.clone(), ..ConfigUpdate::clone(&content.config) };
        messages.push(message(ConfigUpdate::TYPE, None, now, &update));
    }
    if let Some(wanted) = &state.schedule_wanted
        && wanted.hash == content.schedule_hash
        && wanted.version > question.schedule_version
    {
        let set =
            ScheduleSet { version: wanted.version, hash: wanted.hash.clone(), schedules: content.schedules.to_vec() };
        messages.push(message(ScheduleSet::TYPE, None, now, &set));
    }
    messages
}

/// fire.result, command.run and command.cancel after the cursor, in the order of their lines.
fn commands(state: &HostState, after: u64) -> Vec<PollMessage> {
    let mut messages = Vec::new();
    for (seq, at, result) in state.schedules.values().flat_map(|memory| &memory.results) {
        if let Some(present) = present_result(state, result).filter(|_| *seq > after) {
            messages.push(message(FireResult::TYPE, Some(*seq), *at, &present));
        }
    }
    for job in state.jobs.values() {
        if let Some(dispatch) = job.dispatch.as_ref().filter(|d| d.seq > after && needs_command(job)) {
            let command = CommandRun {
                job_id: job.id,
                kind: job.kind.as_str().to_owned(),
                options: Some(job.options.clone()),
                schedule_id: job.schedule_id.clone(),
                scheduled_at: job.scheduled_at,
                issued_at: dispatch.issued_at,
                expires_at: dispatch.expires_at,
            };
            messages.push(message(CommandRun::TYPE, Some(dispatch.seq), dispatch.issued_at, &command));
        }
        if let Some(seq) = job.cancel_seq.filter(|seq| *seq > after) {
            messages.push(message(CommandCancel::TYPE, Some(seq), job.queued_at, &CommandCancel { job_id: job.id }));
        }
    }
    messages.sort_by_key(|message| message.seq);
    messages
}

/// A queued job that the agent has not answered for. One that it has in its ledger needs no second command; after a reset
/// it may have lost its ledger, so an accepted job that has not begun is told again (a known id is not run twice). One that has
/// begun is told again where the agent said that it has ended.
fn needs_command(job: &Job) -> bool {
    job.status == JobStatus::Queued || job.told_again
}

/// A queued fire whose job is not dispatched yet waits. `None`: it is open yet whether it does, which is a matter of milliseconds.
fn present_result(state: &HostState, result: &FireResult) -> Option<FireResult> {
    let job = state.jobs.get(&result.job_id).filter(|_| result.outcome == FireOutcome::Queued);
    match job {
        Some(job) if is_unsaid(job) => None,
        Some(job) if job.is_undispatched() => {
            let waiting_for = job.waiting_for.clone();
            Some(FireResult { outcome: FireOutcome::Waiting, waiting_for, ..result.clone() })
        }
        _ => Some(result.clone()),
    }
}

#[cfg(test)]
mod tests;
