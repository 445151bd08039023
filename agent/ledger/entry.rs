//! Pure. A line of the ledger, and what the lines together say: a fold. Stages only go forward and the first end
//! counts, so a line that comes twice changes nothing. Does not read or write files.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use restic_manager::id::{JobId, ScheduleId};
use restic_manager::protocol::agent_event::JobFinished;
use restic_manager::protocol::command::CommandRun;
use restic_manager::protocol::job_options::{JobKind, JobSpec};
use serde::{Deserialize, Serialize};

/// One line of `ledger.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[allow(clippy::large_enum_variant, reason = "short-lived, and nearly always the large one")]
pub(crate) enum Entry {
    /// Something happened to a job.
    Job {
        ts: DateTime<Utc>,
        job_id: JobId,
        #[serde(flatten)]
        stage: Stage,
    },
    /// Everything up to here has been received. Written after the commands that it covers.
    Cursor { cursor: String },
}

/// What happened to a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub(crate) enum Stage {
    Received {
        command: CommandRun,
    },
    /// It will run. With `offline` it was not received: the agent begins it by itself.
    Accepted {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offline: Option<OfflineJob>,
    },
    Started,
    CancelRequested,
    Rejected {
        error: String,
    },
    Finished {
        finished: JobFinished,
    },
    /// The server has acknowledged the end, or the rejection.
    Settled,
}

/// A fire that the agent runs without the server's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OfflineJob {
    pub(crate) schedule_id: ScheduleId,
    pub(crate) scheduled_at: DateTime<Utc>,
    #[serde(flatten)]
    pub(crate) spec: JobSpec,
}

/// Where a job's content comes from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Work {
    Command(CommandRun),
    Offline(OfflineJob),
    /// No longer known: the job ended long ago, or its line was damaged. Such a job is never run.
    Forgotten,
}

impl Work {
    /// The kind, and the schedule and due time that it is for.
    pub(crate) fn origin(&self) -> (Option<JobKind>, Option<ScheduleId>, Option<DateTime<Utc>>) {
        match self {
            Self::Command(command) => (command.kind.parse().ok(), command.schedule_id.clone(), command.scheduled_at),
            Self::Offline(offline) => {
                (Some(offline.spec.kind()), Some(offline.schedule_id.clone()), Some(offline.scheduled_at))
            }
            Self::Forgotten => (None, None, None),
        }
    }
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Progress {
    Received,
    Accepted,
    Started,
    Rejected { error: String },
    Finished(JobFinished),
}

impl Progress {
    const fn rank(&self) -> u8 {
        match self {
            Self::Received => 0,
            Self::Accepted => 1,
            Self::Started => 2,
            Self::Rejected { .. } | Self::Finished(_) => 3,
        }
    }
}

/// What the ledger knows of a job.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LedgerJob {
    pub(crate) id: JobId,
    pub(crate) work: Work,
    pub(crate) progress: Progress,
    pub(crate) cancel_requested: bool,
    /// The server has acknowledged the end.
    pub(crate) settled: bool,
    pub(crate) received_at: DateTime<Utc>,
    /// The last line about it.
    pub(crate) changed_at: DateTime<Utc>,
}

impl LedgerJob {
    pub(crate) const fn has_ended(&self) -> bool {
        matches!(self.progress, Progress::Rejected { .. } | Progress::Finished(_))
    }

    #[cfg(test)]
    pub(crate) fn is_offline(&self) -> bool {
        matches!(self.work, Work::Offline(_))
    }

    fn move_to(&mut self, progress: Progress) {
        if progress.rank() > self.progress.rank() {
            self.progress = progress;
        }
    }
}

/// Everything that the lines say.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct LedgerState {
    /// By order of receipt.
    jobs: BTreeMap<u64, LedgerJob>,
    places: HashMap<JobId, u64>,
    next_place: u64,
    cursor: Option<String>,
}

impl LedgerState {
    pub(crate) fn job(&self, id: JobId) -> Option<&LedgerJob> {
        self.jobs.get(self.places.get(&id)?)
    }

    /// All jobs in order of receipt.
    pub(crate) fn jobs(&self) -> impl DoubleEndedIterator<Item = &LedgerJob> {
        self.jobs.values()
    }

    pub(crate) fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    fn job_mut(&mut self, id: JobId) -> Option<&mut LedgerJob> {
        self.jobs.get_mut(self.places.get(&id)?)
    }

    fn insert(&mut self, id: JobId, work: Work, ts: DateTime<Utc>) {
        let job = LedgerJob {
            id,
            work,
            progress: Progress::Received,
            cancel_requested: false,
            settled: false,
            received_at: ts,
            changed_at: ts,
        };
        self.places.insert(id, self.next_place);
        self.jobs.insert(self.next_place, job);
        self.next_place += 1;
    }
}

/// What the state is after one more line.
pub(crate) fn apply(state: &mut LedgerState, entry: &Entry) {
    let (ts, id, stage) = match entry {
        Entry::Cursor { cursor } => {
            state.cursor = Some(cursor.clone());
            return;
        }
        Entry::Job { ts, job_id, stage } => (*ts, *job_id, stage),
    };
    if state.job(id).is_none() {
        match stage {
            Stage::Received { command } => state.insert(id, Work::Command(command.clone()), ts),
            Stage::Accepted { offline: Some(offline) } => state.insert(id, Work::Offline(offline.clone()), ts),
            // Its first line is gone, but it has run, or must not: remember the id.
            Stage::Started | Stage::Rejected { .. } | Stage::Finished { .. } => state.insert(id, Work::Forgotten, ts),
            // Its first line is gone and it has not begun: when it is delivered again, it is new.
            Stage::Accepted { offline: None } | Stage::CancelRequested | Stage::Settled => return,
        }
    }
    let Some(job) = state.job_mut(id) else { return };
    job.changed_at = ts;
    match stage {
        Stage::Received { .. } => {}
        Stage::Accepted { .. } => job.move_to(Progress::Accepted),
        Stage::Started => job.move_to(Progress::Started),
        Stage::CancelRequested => job.cancel_requested = true,
        Stage::Rejected { error } => job.move_to(Progress::Rejected { error: error.clone() }),
        Stage::Finished { finished } => job.move_to(Progress::Finished(finished.clone())),
        Stage::Settled => job.settled = true,
    }
    if let (true, Work::Command(command)) = (job.has_ended(), &mut job.work) {
        // It does not run again: a server could else fill the memory with what it never ran.
        command.options = None;
    }
}

/// Settled jobs of which everything is kept: the newest ones, unless they are older than `KEPT_FOR`.
const KEPT_WHOLE: usize = 1_000;
const KEPT_FOR: TimeDelta = TimeDelta::days(30);
/// Settled jobs whose id and end are kept, so that one delivered again is answered and not run.
const REMEMBERED: usize = 10_000;
const REMEMBERED_FOR: TimeDelta = TimeDelta::days(90);

/// The fewest lines that say the same, but for settled jobs of long ago: of those the id and the end remain
/// (without warnings and statistics), and of the oldest nothing.
pub(crate) fn compacted(state: &LedgerState, now: DateTime<Utc>) -> Vec<Entry> {
    let settled: Vec<JobId> = state.jobs().rev().filter(|job| job.settled).map(|job| job.id).collect();
    let age_rank: HashMap<JobId, usize> = settled.into_iter().enumerate().map(|(rank, id)| (id, rank)).collect();
    let mut entries = Vec::new();
    for job in state.jobs() {
        let age = now - job.changed_at;
        match age_rank.get(&job.id) {
            // A clock that jumps ahead makes everything old: the newest ids stay whatever it says.
            Some(rank) if *rank >= REMEMBERED || (*rank >= KEPT_WHOLE && age > REMEMBERED_FOR) => {}
            Some(rank) if *rank >= KEPT_WHOLE || age > KEPT_FOR => lines_of(&slim(job), &mut entries),
            _ => lines_of(job, &mut entries),
        }
    }
    entries.extend(state.cursor.iter().map(|cursor| Entry::Cursor { cursor: cursor.clone() }));
    entries
}

fn slim(job: &LedgerJob) -> LedgerJob {
    let mut job = job.clone();
    job.work = Work::Forgotten;
    job.received_at = job.changed_at;
    if let Progress::Finished(finished) = &mut job.progress {
        finished.warnings.clear();
        finished.stats = None;
    }
    job
}

/// Lines that make this job when they are applied.
fn lines_of(job: &LedgerJob, entries: &mut Vec<Entry>) {
    let mut push = |ts, stage| entries.push(Entry::Job { ts, job_id: job.id, stage });
    match &job.work {
        Work::Command(command) => push(job.received_at, Stage::Received { command: command.clone() }),
        Work::Offline(offline) => push(job.received_at, Stage::Accepted { offline: Some(offline.clone()) }),
        Work::Forgotten => {}
    }
    match &job.progress {
        Progress::Received => {}
        Progress::Accepted => push(job.changed_at, Stage::Accepted { offline: None }),
        Progress::Started => push(job.changed_at, Stage::Started),
        Progress::Rejected { error } => push(job.changed_at, Stage::Rejected { error: error.clone() }),
        Progress::Finished(finished) => push(job.changed_at, Stage::Finished { finished: finished.clone() }),
    }
    if job.cancel_requested {
        push(job.changed_at, Stage::CancelRequested);
    }
    if job.settled {
        push(job.changed_at, Stage::Settled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn id(n: u128) -> JobId {
        JobId(uuid::Uuid::from_u128(n))
    }

    fn day(n: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_790_000_000 + n * 86_400, 0).expect("an instant")
    }

    fn entry(n: u128, stage: serde_json::Value, ts: DateTime<Utc>) -> Entry {
        let mut json = stage;
        json["ts"] = json!(ts);
        json["job_id"] = json!(id(n));
        serde_json::from_value(json).expect("an entry")
    }

    fn finished(n: u128, ts: DateTime<Utc>) -> Entry {
        let end = json!({"job_id": id(n), "status": "succeeded", "exit_code": 0, "finished_at": ts,
            "stats": {"files_new": 1}, "warnings": ["one"]});
        entry(n, json!({"stage": "finished", "finished": end}), ts)
    }

    #[test]
    fn the_lines_have_the_form_that_is_written_down() {
        let offline = json!({"stage": "accepted", "offline": {"schedule_id": "system",
            "scheduled_at": "2026-11-23T02:15:00Z", "kind": "backup", "options": {"paths": ["/etc"]}}});
        let line = serde_json::to_value(entry(1, offline.clone(), day(0))).expect("JSON");
        assert_eq!(line["offline"], offline["offline"]);
        let cursor: Entry = serde_json::from_str(r#"{"cursor":"x.1.2"}"#).expect("an entry");
        assert_eq!(cursor, Entry::Cursor { cursor: "x.1.2".into() });
    }

    #[test]
    fn stages_only_go_forward_and_the_first_end_counts() {
        let mut state = LedgerState::default();
        apply(&mut state, &entry(1, json!({"stage": "started"}), day(0)));
        apply(&mut state, &entry(1, json!({"stage": "accepted"}), day(0)));
        assert_eq!(state.job(id(1)).expect("known").progress, Progress::Started);
        apply(&mut state, &finished(1, day(1)));
        apply(&mut state, &entry(1, json!({"stage": "rejected", "error": "late"}), day(2)));
        assert!(matches!(state.job(id(1)).expect("known").progress, Progress::Finished(_)));
    }

    #[test]
    fn old_settled_jobs_keep_their_end_and_the_oldest_go() {
        let mut state = LedgerState::default();
        let many = (REMEMBERED + 500) as u128;
        for n in 0..many {
            apply(&mut state, &finished(n, day(0)));
            if n > 0 {
                apply(&mut state, &entry(n, json!({"stage": "settled"}), day(0)));
            }
        }
        let again = |now| {
            let mut again = LedgerState::default();
            compacted(&state, now).iter().for_each(|entry| apply(&mut again, entry));
            again
        };
        let kept = again(day(1));
        assert_eq!(kept.jobs().count(), REMEMBERED + 1, "the unsettled one stays too");
        assert_eq!(kept.job(id(0)), state.job(id(0)));
        assert_eq!(kept.job(id(many - 1)), state.job(id(many - 1)));
        let old = kept.job(id(many - 2_000)).expect("remembered");
        assert!(matches!(&old.progress, Progress::Finished(end) if end.stats.is_none() && end.exit_code == Some(0)));
        assert_eq!(again(day(91)).jobs().count(), KEPT_WHOLE + 1, "whatever the clock says");
    }
}
