//! Pure. What a host's journal adds up to: `apply` is the only way in which anything about a host changes.
//! Bounded: only unfinished jobs, a few finished ones, and what is needed to recognize a repetition stay in memory;
//! the rest is read from the files when somebody asks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::alert::OpenAlerts;
use super::alert_rules::{LastEnd, RunSize, remember_run};
use super::alert_told::{EndedAlerts, note_sent};
use super::fact::{CredentialRotated, Fact, Idempotency, JobQueued, RotationStage, Versioned};
use super::job_ends::{Ends, SuccessCost};
use super::job_fold::{apply_to_job, changed_job, queued_job};
use super::ping_rules::Pinged;
use crate::id::{InstanceId, JobId, ScheduleId, StreamId};
use crate::job::{ActorKind, Job, JobStatus};
use crate::journal::Fold;
use crate::journal::line::Line;
use crate::protocol::agent_event::{AgentEvent, Hello, RepoStats};
use crate::protocol::command::{FireOutcome, FireResult};
use crate::protocol::job_options::JobKind;
use crate::protocol::text::is_default;
use crate::repository_target::KnownRepository;

/// Finished jobs kept at hand for the requests that ask just after the end.
const RECENT_JOBS: usize = 4;
/// Due instants remembered per schedule; an older one is looked for in the files.
const REMEMBERED_FIRES: usize = 256;
/// Answers to fires remembered per schedule.
const REMEMBERED_RESULTS: usize = 8;
/// Streams of an agent remembered; each is one life of its spool.
const REMEMBERED_STREAMS: usize = 8;
/// Instances remembered, to tell a return from a start.
const REMEMBERED_INSTANCES: usize = 16;
/// Lines whose checksum is remembered, so that cursors to them can be followed.
const REMEMBERED_LINES: usize = 64;
/// How long an Idempotency-Key finds its job.
const IDEMPOTENCY_DAYS: i64 = 7;
/// Keys kept at most.
const IDEMPOTENCY_KEYS: usize = 1000;

/// An operator's key and what it made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RememberedKey {
    pub body_sha256: String,
    pub job_id: JobId,
    pub at: DateTime<Utc>,
}

/// What is remembered of one schedule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ScheduleMemory {
    /// Due instants that were decided, as Unix seconds.
    pub fires: BTreeSet<i64>,
    /// The newest due instant that is no longer in `fires`, as Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgotten_until: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_status: Option<JobStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_end: Option<LastEnd>,
    /// Sizes of the newest successful backups, oldest first.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub runs: VecDeque<RunSize>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub ended: Ends,
    /// Of the newest success.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cost: SuccessCost,
    /// By target, how many parts of its data a check that rolls through them has read, one after the other.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rolled: BTreeMap<String, u64>,
    /// What was pinged last.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pinged: Pinged,
    /// The latest answers to fires with their lines, oldest first: an agent that comes back after a while wants several.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub results: VecDeque<(u64, DateTime<Utc>, FireResult)>,
}

impl ScheduleMemory {
    /// A check that read the part which was next: then the one after that is.
    fn roll(&mut self, job: &Job) {
        let text = |name: &str| job.options.get(name).and_then(Value::as_str);
        let part = text("read_data_subset").and_then(|subset| subset.split_once('/'));
        let part = part.and_then(|(n, of)| Some((n.parse::<u64>().ok()?, of.parse::<u64>().ok()?)));
        let (JobKind::Check, Some((n, of))) = (job.kind, part) else { return };
        let count = self.rolled.entry(text("repository").unwrap_or_default().to_owned()).or_default();
        if of > 0 && n == *count % of + 1 {
            *count += 1;
        }
    }
}

/// One life of an agent's spool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamMark {
    /// Everything up to here is in the journal.
    pub seq: u64,
    /// The journal line that moved it last; the oldest is forgotten first.
    pub line: u64,
}

/// Everything that is known of a host from its journal.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostState {
    pub enrolled_at: Option<DateTime<Utc>>,
    /// Tokens that enrolled this host, with what they enrolled: a token serves once.
    pub enrollments: VecDeque<super::fact::HostEnrolled>,
    /// Since the last of them: how often the agent named another credential, and how often it used one that it had named.
    pub credentials_named: u32,
    pub credentials_used: u32,
    pub hello: Option<Hello>,
    /// Instances that a newer one replaced.
    pub superseded: VecDeque<InstanceId>,
    /// When a superseded instance came back; more than three in ten minutes are two machines with one identity.
    pub returns: VecDeque<DateTime<Utc>>,
    pub schedule_wanted: Option<Versioned>,
    pub schedule_applied: u64,
    /// The commit that the applied version came from, where it is known.
    pub schedule_applied_commit: Option<String>,
    pub config_wanted: Option<Versioned>,
    pub config_applied: u64,
    /// The repository that the agent works with, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_applied_repository: Option<KnownRepository>,
    pub streams: BTreeMap<StreamId, StreamMark>,
    /// Queued and running jobs.
    pub jobs: BTreeMap<JobId, Job>,
    /// The last few that ended, newest first.
    pub recent: VecDeque<Job>,
    pub schedules: BTreeMap<ScheduleId, ScheduleMemory>,
    pub keys: BTreeMap<String, RememberedKey>,
    pub alerts: OpenAlerts,
    /// Of jobs that were of no schedule.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ended: BTreeMap<JobKind, Ends>,
    /// Those that ended lately: channels may have to be told of them yet.
    #[serde(skip_serializing_if = "EndedAlerts::is_empty")]
    pub ended_alerts: EndedAlerts,
    /// What the agent said last of its repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepoStats>,
    /// When that was, and of which one, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository_as_of: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository_told_of: Option<KnownRepository>,
    /// Checksums of the newest lines, oldest first. Not carried: a cursor from before starts over, which is harmless.
    #[serde(skip)]
    pub lines: VecDeque<(u64, u32)>,
}

impl HostState {
    /// A job that is in memory.
    pub fn job(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id).or_else(|| self.recent.iter().find(|job| job.id == id))
    }

    /// The job of this schedule that has not ended, if there is one; those of this due time aside.
    pub fn unfinished_of(&self, schedule: &ScheduleId, scheduled_at: DateTime<Utc>) -> Option<&Job> {
        let is_before = |job: &&Job| job.scheduled_at != Some(scheduled_at);
        self.jobs.values().filter(is_before).find(|job| job.schedule_id.as_ref() == Some(schedule))
    }

    /// Whether the machine that said hello last is another one than was enrolled, as far as both are known. A new board or a
    /// moved disk is reason enough, so it is told and nothing more.
    pub fn is_another_machine(&self) -> bool {
        let enrolled = self.enrollments.back().and_then(|enrolled| enrolled.fingerprint.as_ref());
        let now = self.hello.as_ref().and_then(|hello| hello.machine_fingerprint.as_ref());
        enrolled.zip(now).is_some_and(|(enrolled, now)| enrolled != now)
    }

    /// Whether two machines have been using this host's identity in turns.
    pub fn is_in_conflict(&self, now: DateTime<Utc>) -> bool {
        let since = now - TimeDelta::minutes(10);
        self.returns.iter().filter(|at| **at > since).count() > 3
    }

    fn apply_schedule(&mut self, version: u64) {
        if version != self.schedule_applied {
            let wanted = self.schedule_wanted.as_ref().filter(|wanted| wanted.version == version);
            self.schedule_applied_commit = wanted.and_then(|wanted| wanted.commit.clone());
        }
        self.schedule_applied = version;
    }

    fn apply_config(&mut self, version: u64) {
        if version != self.config_applied {
            let wanted = self.config_wanted.as_ref().filter(|wanted| wanted.version == version);
            self.config_applied_repository = wanted.and_then(|wanted| wanted.repository.clone());
        }
        self.config_applied = version;
    }

    fn change_job(&mut self, id: JobId, fact: &Fact, line: &Line) {
        let recent = self.recent.iter().position(|job| job.id == id);
        let Some(before) = self.jobs.get(&id).or_else(|| self.recent.get(recent?)) else { return };
        let mut job = before.clone();
        apply_to_job(&mut job, fact, line);
        // A repeated end is no news, also not of its schedule.
        if job == *before {
            return;
        }
        let ends_now = !before.status.is_final() && job.status.is_final();
        if is_unsaid(before) && !is_unsaid(&job) {
            self.say_result_of(&job, line);
        }
        self.jobs.remove(&id);
        if let Some(at) = recent {
            self.recent.remove(at);
        }
        if !job.status.is_final() {
            self.jobs.insert(id, job);
            return;
        }
        let is_dry_run = job.options.get("dry_run") == Some(&Value::Bool(true));
        if ends_now && !is_dry_run {
            match &job.schedule_id {
                Some(schedule) => self.schedules.entry(schedule.clone()).or_default().ended.add(&job),
                None => self.ended.entry(job.kind).or_default().add(&job),
            }
        }
        if let Some(schedule) = job.schedule_id.as_ref().filter(|_| !is_dry_run) {
            let memory = self.schedules.entry(schedule.clone()).or_default();
            let goes_on = self.jobs.values().any(|other| other.round() == job.round());
            if LastEnd::counts(memory.last_end.as_ref(), &job, goes_on) {
                memory.last_status = Some(job.status);
                memory.last_end = LastEnd::of(&job).or(memory.last_end.take());
            }
            if job.status == JobStatus::Succeeded {
                // A clock that is ahead must not make a schedule look fresh for longer than it is.
                let finished_at = job.finished_at.map(|at| at.min(line.received_at));
                if finished_at >= memory.last_success {
                    (memory.last_success, memory.cost) = (finished_at, SuccessCost::of(&job));
                }
                if let Some(run) = RunSize::of(&job) {
                    remember_run(&mut memory.runs, run);
                }
                memory.roll(&job);
            }
        }
        self.recent.push_front(job);
        self.recent.truncate(RECENT_JOBS);
    }

    fn queue(&mut self, queued: &JobQueued, line: &Line) {
        if let (Some(schedule_id), Some(scheduled_at), ActorKind::Schedule, None) =
            (&queued.schedule_id, queued.scheduled_at, queued.actor.kind, queued.part_of)
        {
            let outcome = FireOutcome::Queued;
            self.remember_fire(
                FireResult {
                    schedule_id: schedule_id.clone(),
                    scheduled_at,
                    job_id: queued.job_id,
                    outcome,
                    waiting_for: None,
                    reason: None,
                },
                line,
            );
        }
        if let Some(Idempotency { key, body_sha256 }) = &queued.idempotency {
            let oldest = line.received_at - TimeDelta::days(IDEMPOTENCY_DAYS);
            self.keys.retain(|_, remembered| remembered.at > oldest);
            if self.keys.len() >= IDEMPOTENCY_KEYS
                && let Some(key) = self.keys.iter().min_by_key(|(_, k)| k.at).map(|(key, _)| key.clone())
            {
                self.keys.remove(&key);
            }
            let remembered =
                RememberedKey { body_sha256: body_sha256.clone(), job_id: queued.job_id, at: line.received_at };
            self.keys.insert(key.clone(), remembered);
        }
        self.jobs.insert(queued.job_id, queued_job(queued, line));
    }

    /// The answer to the job's fire, if it has one, counts as of this line: a poll before it was not told.
    fn say_result_of(&mut self, job: &Job, line: &Line) {
        let memory = job.schedule_id.as_ref().and_then(|schedule| self.schedules.get_mut(schedule));
        let results = memory.into_iter().flat_map(|memory| &mut memory.results);
        if let Some((seq, at, _)) = results.into_iter().find(|(_, _, result)| result.job_id == job.id) {
            (*seq, *at) = (line.seq, line.received_at);
        }
    }

    fn remember_fire(&mut self, result: FireResult, line: &Line) {
        let memory = self.schedules.entry(result.schedule_id.clone()).or_default();
        memory.fires.insert(result.scheduled_at.timestamp());
        while memory.fires.len() > REMEMBERED_FIRES {
            memory.forgotten_until = memory.forgotten_until.max(memory.fires.pop_first());
        }
        memory.results.push_back((line.seq, line.received_at, result));
        if memory.results.len() > REMEMBERED_RESULTS {
            memory.results.pop_front();
        }
    }

    fn greet(&mut self, hello: &Hello, line: &Line) {
        if let Some(before) = self.hello.as_ref().map(|h| h.instance_id)
            && before != hello.instance_id
        {
            if let Some(at) = self.superseded.iter().position(|id| *id == hello.instance_id) {
                self.superseded.remove(at);
                self.returns.push_back(line.received_at);
            }
            self.superseded.push_back(before);
        }
        while self.superseded.len() > REMEMBERED_INSTANCES {
            self.superseded.pop_front();
        }
        while self.returns.len() > REMEMBERED_INSTANCES {
            self.returns.pop_front();
        }
        self.hello = Some(hello.clone());
    }

    fn remember_line(&mut self, line: &Line) {
        self.lines.push_back((line.seq, line.crc));
        if self.lines.len() > REMEMBERED_LINES {
            self.lines.pop_front();
        }
        if let (Some(stream), Some(seq)) = (line.stream, line.stream_seq) {
            self.streams.insert(stream, StreamMark { seq, line: line.seq });
            if self.streams.len() > REMEMBERED_STREAMS
                && let Some(oldest) = self.streams.iter().min_by_key(|(_, mark)| mark.line).map(|(id, _)| *id)
            {
                self.streams.remove(&oldest);
            }
        }
    }
}

/// Whether it is open yet if the job runs now or waits: its fire is answered when that is known.
pub fn is_unsaid(job: &Job) -> bool {
    job.is_undispatched() && job.waiting_for.is_none()
}

impl Fold for HostState {
    fn apply(&mut self, line: &Line) {
        self.remember_line(line);
        self.ended_alerts.forget_old(line.received_at);
        let Some(fact) = Fact::from_line(line) else { return };
        match &fact {
            Fact::HostEnrolled(enrolled) => {
                self.enrolled_at = Some(line.received_at);
                self.enrollments.push_back(enrolled.clone());
                while self.enrollments.len() > REMEMBERED_STREAMS {
                    self.enrollments.pop_front();
                }
                (self.credentials_named, self.credentials_used) = (0, 0);
            }
            Fact::HostRevoked(_) => self.enrolled_at = None,
            Fact::CredentialRotated(CredentialRotated { stage: RotationStage::Named, .. }) => {
                self.credentials_named += 1;
            }
            Fact::CredentialRotated(CredentialRotated { stage: RotationStage::Used, .. }) => self.credentials_used += 1,
            Fact::Hello(hello) => self.greet(hello, line),
            Fact::Agent(AgentEvent::ScheduleAck(ack)) => self.apply_schedule(ack.version),
            Fact::Agent(AgentEvent::ConfigAck(ack)) => self.apply_config(ack.version),
            Fact::Agent(AgentEvent::RepoStats(stats)) => {
                self.repository = Some(stats.clone());
                self.repository_as_of = Some(line.received_at);
                self.repository_told_of.clone_from(&self.config_applied_repository);
            }
            Fact::JobQueued(queued) => self.queue(queued, line),
            Fact::ScheduleSkipped(result) => self.remember_fire(result.clone(), line),
            Fact::ScheduleVersioned(wanted) => self.schedule_wanted = Some(wanted.clone()),
            Fact::ConfigVersioned(wanted) => self.config_wanted = Some(wanted.clone()),
            Fact::AlertRaised(raised) => self.alerts.raise(raised, line.received_at),
            Fact::AlertUpdated(updated) => self.alerts.update(updated),
            Fact::AlertResolved(resolved) => {
                let ended = self.alerts.resolve(resolved.alert_id);
                self.ended_alerts.extend(ended, line.received_at);
            }
            Fact::AlertSent(sent) => note_sent(&mut self.alerts, &mut self.ended_alerts, sent, line.received_at),
            Fact::PingSent(sent) => {
                self.schedules.entry(sent.schedule_id.clone()).or_default().pinged.sent(sent);
            }
            Fact::AlertAcknowledged(seen) => self.alerts.acknowledge(seen.alert_id, &seen.by),
            other => {
                if let Some(id) = changed_job(other) {
                    self.change_job(id, other, line);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
