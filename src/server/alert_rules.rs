//! Pure. Which alerts a host should have open, as a function of its folded state, and the facts that make it so: level-triggered, so
//! that nothing is lost between an event and its alert, and a restart changes nothing. Does not write or send.

use std::collections::VecDeque;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::alert::{AlertKind, AlertRaised, AlertResolved};
use super::fact::Fact;
use super::host_content::HostContent;
use super::host_state::{HostState, ScheduleMemory};
use crate::id::{HostName, JobId, ScheduleId, alert_id};
use crate::job::{Job, JobStatus};
use crate::protocol::job_options::JobKind;
use crate::protocol::text::Span;

/// An agent that was silent for so long needs somebody: restarts and short outages do not.
const SILENCE: Span = Span::from_secs(15 * 60);
/// The same of a host that is often away, as laptops are.
const LONG_SILENCE: Span = Span::from_secs(14 * 86_400);
/// What a host that is often away has missed it has this long to make up for, once it is back.
const BACK: TimeDelta = TimeDelta::hours(2);
/// Successes of a schedule whose sizes are remembered.
const REMEMBERED_RUNS: usize = 32;
/// A backup is compared with at least so many before it.
const FEWEST_RUNS: usize = 3;
/// What an error's text may take in an alert, in characters.
const TEXT_LIMIT: usize = 500;

/// What of a schedule is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alarms {
    /// No success for longer is stale.
    pub max_age: Option<Span>,
    /// A backup of less than this share of the ones before has shrunk, in percent; 0: not watched.
    pub shrink_percent: u8,
    /// So many runs with nothing new or changed are too many; 0: not watched.
    pub no_new_data: u32,
}

impl Default for Alarms {
    fn default() -> Self {
        Self { max_age: None, shrink_percent: 50, no_new_data: 0 }
    }
}

/// When the silence of a host's agent needs somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Absence {
    /// After so long.
    pub offline_after: Span,
    /// Schedules are not stale while the host is away, nor in the first hours after that.
    pub often_away: bool,
}

impl Absence {
    /// As the host's files say; `None`: they do not.
    pub fn of(often_away: bool, offline_after: Option<Span>) -> Self {
        Self { offline_after: offline_after.unwrap_or(if often_away { LONG_SILENCE } else { SILENCE }), often_away }
    }
}

impl Default for Absence {
    fn default() -> Self {
        Self::of(false, None)
    }
}

/// How a schedule's newest job ended, cancelled and dry ones aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastEnd {
    pub job_id: JobId,
    pub round: JobId,
    pub kind: JobKind,
    /// False: it failed.
    pub succeeded: bool,
    pub incomplete: bool,
    /// The error, or the first warning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime<Utc>>,
}

impl LastEnd {
    /// Whether this job's end is what is told of its schedule from now on. Of a round of several jobs a failure is not undone by
    /// another one's success, and one of before only when all of this round have ended well. `goes_on`: others of it have not ended.
    pub fn counts(before: Option<&Self>, job: &Job, goes_on: bool) -> bool {
        let is_success = job.status == JobStatus::Succeeded && !job.incomplete;
        let is_bad = before.is_some_and(|end| !end.succeeded || end.incomplete);
        !(is_success && is_bad && (goes_on || before.is_some_and(|end| end.round == job.round())))
    }

    /// Of a job that has ended; `None`: this end tells nothing.
    pub fn of(job: &Job) -> Option<Self> {
        let succeeded = match job.status {
            JobStatus::Succeeded => true,
            JobStatus::Failed => false,
            JobStatus::Queued | JobStatus::Running | JobStatus::Cancelled => return None,
        };
        let text = job.error.as_ref().or_else(|| job.warnings.first());
        let text: Option<String> = text.map(|text| text.chars().take(TEXT_LIMIT).collect());
        let repository = job.options.get("repository").and_then(Value::as_str);
        let text = match (text, repository) {
            (Some(text), Some(repository)) => Some(format!("{repository}: {text}")),
            (text, _) => text,
        };
        let (job_id, round, kind, incomplete, at) = (job.id, job.round(), job.kind, job.incomplete, job.finished_at);
        Some(Self { job_id, round, kind, succeeded, incomplete, text, at })
    }
}

/// What one backup was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSize {
    /// Absent: of a server before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    pub bytes: u64,
    pub files: u64,
    /// Files that were new or had changed.
    pub changed: u64,
}

impl RunSize {
    /// From restic's summary of a backup.
    pub fn of(job: &Job) -> Option<Self> {
        let stats = job.stats.as_ref()?;
        let number = |name: &str| stats.get(name).and_then(Value::as_u64);
        Some(Self {
            job_id: Some(job.id),
            bytes: number("total_bytes_processed")?,
            files: number("total_files_processed")?,
            changed: number("files_new")? + number("files_changed")?,
        })
    }
}

/// Remembers a run, the newest last.
pub fn remember_run(runs: &mut VecDeque<RunSize>, run: RunSize) {
    runs.push_back(run);
    while runs.len() > REMEMBERED_RUNS {
        runs.pop_front();
    }
}

/// What is known at the moment beside the state.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    pub now: DateTime<Utc>,
    /// How long the agent has been silent, as far as this server may count it; `None`: nobody looked.
    pub silence: Option<TimeDelta>,
    /// For how long it has been heard without a gap.
    pub heard_for: TimeDelta,
}

impl Moment {
    /// Of a host that was heard just now, for how long is not known.
    pub fn heard(now: DateTime<Utc>) -> Self {
        Self { now, silence: Some(TimeDelta::zero()), heard_for: TimeDelta::zero() }
    }
}

/// The facts by which the open alerts become those that should be open.
pub fn decide_alerts(host: &HostName, state: &HostState, content: Option<&HostContent>, moment: Moment) -> Vec<Fact> {
    let due = due_alerts(state, content, moment);
    let open_of =
        |due: &Due| state.alerts.iter().find(|open| (open.kind, &open.schedule_id) == (due.kind, &due.schedule_id));
    let is_unknown = |kind: AlertKind| kind == AlertKind::AgentOffline && moment.silence.is_none();
    // Whether it still is comes out when the host has had its time.
    let is_away = content.is_some_and(|content| content.absence.often_away) && moment.heard_for < BACK;
    let has_time = |due: &Due| is_away && due.kind == AlertKind::StaleSchedule;
    let ended = state.alerts.iter().filter(|open| {
        !is_unknown(open.kind) && !due.iter().any(|due| (open.kind, &open.schedule_id) == (due.kind, &due.schedule_id))
    });
    let mut facts: Vec<Fact> = ended
        .map(|open| {
            let schedule_id = open.schedule_id.clone();
            Fact::AlertResolved(AlertResolved { alert_id: open.id, kind: open.kind, schedule_id })
        })
        .collect();
    facts.extend(due.iter().filter_map(|due| {
        let Due { kind, schedule_id, job_id, text } = due.clone();
        if let Some(open) = open_of(due) {
            let updated = AlertRaised { alert_id: open.id, kind, schedule_id, job_id, text };
            return (updated.text != open.text).then_some(Fact::AlertUpdated(updated));
        }
        if has_time(due) {
            return None;
        }
        let what = format!("{kind:?}/{}", schedule_id.as_ref().map_or("", |id| id.as_str()));
        let alert_id = alert_id(host, &what, moment.now);
        Some(Fact::AlertRaised(AlertRaised { alert_id, kind, schedule_id, job_id, text }))
    }));
    facts
}

/// Whether a schedule has had no success for longer than `age`. Before the first one the time counts since the host was enrolled and its
/// schedules became what they are: a new one has had no time yet. Without an agent nothing can succeed, and nothing has.
pub fn is_stale(age: Span, memory: Option<&ScheduleMemory>, state: &HostState, now: DateTime<Utc>) -> bool {
    let changed_at = state.schedule_wanted.as_ref().and_then(|wanted| wanted.adopted_at);
    let begun_at = state.enrolled_at.map(|at| changed_at.map_or(at, |changed_at| at.max(changed_at)));
    let since = memory.and_then(|memory| memory.last_success).or(begun_at);
    since.is_none_or(|since| now - since > length(age))
}

#[derive(Debug, Clone)]
struct Due {
    kind: AlertKind,
    schedule_id: Option<ScheduleId>,
    job_id: Option<JobId>,
    text: String,
}

fn due_alerts(state: &HostState, content: Option<&HostContent>, moment: Moment) -> Vec<Due> {
    let mut due = Vec::new();
    let Some(content) = content.filter(|content| content.configured && state.enrolled_at.is_some()) else { return due };
    let of_host = |kind, text: String| Due { kind, schedule_id: None, job_id: None, text };
    let Absence { offline_after, .. } = content.absence;
    if moment.silence.is_some_and(|silence| silence > length(offline_after)) {
        due.push(of_host(
            AlertKind::AgentOffline,
            format!("the agent has not been heard for more than {offline_after}"),
        ));
    }

    if state.is_in_conflict(moment.now) {
        due.push(of_host(
            AlertKind::HostConflict,
            "two machines use this host's identity in turns: enroll one of them anew".to_owned(),
        ));
    }
    for schedule in content.schedules.iter().filter(|schedule| schedule.enabled) {
        let alarms = content.alarms.get(&schedule.id).copied().unwrap_or_default();
        let memory = state.schedules.get(&schedule.id);
        let mut add = |kind, job_id, text| {
            due.push(Due { kind, schedule_id: Some(schedule.id.clone()), job_id, text });
        };
        if let Some(age) = alarms.max_age.filter(|age| is_stale(*age, memory, state, moment.now)) {
            add(AlertKind::StaleSchedule, None, format!("schedule {} had no success for {age}", schedule.id));
        }
        let Some(memory) = memory else { continue };
        if let Some(last) = &memory.last_end
            && let Some((kind, text)) = of_last_end(last)
        {
            add(kind, Some(last.job_id), text);
        }
        // A failure says nothing of what the newest snapshot holds.
        if let Some(newest) = memory.runs.back().filter(|_| schedule.kind == JobKind::Backup) {
            for (kind, text) in of_sizes(memory, alarms) {
                add(kind, newest.job_id, text);
            }
        }
    }
    due
}

fn length(span: Span) -> TimeDelta {
    TimeDelta::seconds(i64::try_from(span.as_secs()).unwrap_or(i64::MAX / 2000))
}

fn of_last_end(last: &LastEnd) -> Option<(AlertKind, String)> {
    let said = || last.text.clone().unwrap_or_else(|| "no reason was given".to_owned());
    match (last.succeeded, last.kind) {
        (true, _) if last.incomplete => {
            Some((AlertKind::BackupIncomplete, format!("a snapshot without all files: {}", said())))
        }
        (true, _) => None,
        (false, JobKind::Backup) => Some((AlertKind::BackupFailed, said())),
        (false, JobKind::Forget) => Some((AlertKind::ForgetFailed, said())),
        (false, JobKind::Prune) => Some((AlertKind::PruneFailed, said())),
        (false, JobKind::Check) => Some((AlertKind::CheckFailed, said())),
        (false, JobKind::Verify) => Some((AlertKind::VerifyFailed, said())),
        (false, kind) => Some((AlertKind::JobFailed, format!("{kind}: {}", said()))),
    }
}

/// What the newest backup's size says beside those before it.
fn of_sizes(memory: &ScheduleMemory, alarms: Alarms) -> Vec<(AlertKind, String)> {
    let mut found = Vec::new();
    let runs = &memory.runs;
    let Some(newest) = runs.back() else { return found };
    let before = || runs.iter().take(runs.len() - 1);
    if alarms.shrink_percent > 0 && runs.len() > FEWEST_RUNS {
        let has_shrunk = |now: u64, usual: u64| {
            now < usual / 100 * u64::from(alarms.shrink_percent) + usual % 100 * u64::from(alarms.shrink_percent) / 100
        };
        let (bytes, files) = (median(before().map(|run| run.bytes)), median(before().map(|run| run.files)));
        if has_shrunk(newest.bytes, bytes) || has_shrunk(newest.files, files) {
            let text = format!(
                "the backup is of {} files and {} bytes; those before were of about {files} files and {bytes} bytes",
                newest.files, newest.bytes
            );
            found.push((AlertKind::BackupShrunk, text));
        }
    }
    let limit = usize::try_from(alarms.no_new_data).unwrap_or(usize::MAX);
    let unchanged = runs.iter().rev().take_while(|run| run.changed == 0).count();
    if limit > 0 && unchanged >= limit.min(REMEMBERED_RUNS) {
        found.push((AlertKind::NoNewData, format!("the last {unchanged} backups had no new or changed file")));
    }
    found
}

fn median(numbers: impl Iterator<Item = u64>) -> u64 {
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable();
    numbers.get(numbers.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests;
