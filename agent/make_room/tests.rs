//! The order in which things are given up, with small bounds: progress, then lines, never an event.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use chrono::{DateTime, Utc};
use proptest::prelude::*;
use restic_manager::id::StreamId;
use restic_manager::protocol::Envelope;
use restic_manager::protocol::agent_event::{AgentEvent, JobProgress, LogDropped, LogSource};
use serde_json::json;

use super::*;
use crate::log_spool::LogSpool;
use crate::spool::{Limits, Spool, SpoolError};

const LIMITS: Limits = Limits { segment: 2_000, total: 30_000, reserve: 4_000 };

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000, 0).expect("an instant")
}

fn job(n: u64) -> JobId {
    JobId(uuid::Uuid::from_u128(u128::from(n)))
}

fn event(kind: &str) -> AgentEvent {
    let payload = match kind {
        "job.finished" => json!({"job_id": job(1), "status": "failed", "finished_at": now()}),
        _ => json!({"version": 1, "applied_at": now()}),
    };
    serde_json::from_value(json!({"type": kind, "payload": payload})).expect("an event")
}

fn progress(job: JobId) -> JobProgress {
    serde_json::from_value(json!({"job_id": job, "percent_done": 0.5})).expect("progress")
}

/// The agent's files, without the agent.
pub(super) struct Files {
    pub(super) spool: Spool,
    pub(super) room: Rc<Room>,
    logs: BTreeMap<JobId, LogSpool>,
    /// Seconds, for progress.
    clock: i64,
}

impl Files {
    fn open(dir: &Path) -> Self {
        let stream = StreamId(uuid::Uuid::from_u128(1));
        let (spool, damage) = Spool::open_with(dir, stream, LIMITS).expect("opens");
        assert!(damage.is_empty(), "{damage:?}");
        let room = spool.room();
        let logs = (1..=3).map(|n| (job(n), LogSpool::open(dir, job(n), &room).expect("opens"))).collect();
        Self { spool, room, logs, clock: 0 }
    }

    fn say(&mut self, n: u64, len: usize) {
        let log = self.logs.get_mut(&job(n)).expect("a log");
        log.append_line(now(), LogSource::Stdout, &"x".repeat(len)).expect("appended");
    }

    fn progress(&mut self, n: u64) {
        self.clock += 5;
        let at = now() + chrono::TimeDelta::seconds(self.clock);
        let log = self.logs.get_mut(&job(n)).expect("a log");
        log.append_progress(at, &progress(job(n))).expect("appended");
    }

    /// As the agent tells: room is made where there is none. What was given up is returned too.
    fn tell(&mut self, kind: &str) -> (bool, Dropped) {
        match self.spool.append(now(), &event(kind)) {
            Ok(_) => return (true, Dropped::default()),
            Err(SpoolError::Full) => {}
            Err(error) => unreachable!("{error}"),
        }
        let jobs: Vec<JobId> = self.logs.keys().copied().collect();
        let (room, logs) = (Rc::clone(&self.room), &mut self.logs);
        let dropped = give_up(&room, &jobs, &[GiveUp::Progress, GiveUp::Lines], 500, |job, what| {
            logs.get_mut(&job).expect("a log").give_up(what, now()).expect("given up")
        });
        (self.spool.append(now(), &event(kind)).is_ok(), dropped)
    }

    /// What of a job's log waits: (the first line that it stands for, its type, its last line), contiguous.
    fn waiting(&mut self, n: u64) -> Vec<(u64, String, u64)> {
        let log = self.logs.get_mut(&job(n)).expect("a log");
        log.finish(now()).expect("finished");
        let Some(batch) = log.next_batch(log.acked(), 1_000_000).expect("read") else { return Vec::new() };
        let mut lines: Vec<(u64, String, u64)> = Vec::new();
        for line in batch.bytes.split_inclusive(|byte| *byte == b'\n') {
            let envelope: Envelope = serde_json::from_slice(line).expect("an envelope");
            let first = if envelope.kind == LogDropped::TYPE {
                serde_json::from_str::<LogDropped>(envelope.payload.get()).expect("a marker").from
            } else {
                envelope.seq
            };
            let expected = lines.last().map_or(log.acked(), |(_, _, last)| *last) + 1;
            assert!(first <= expected && envelope.seq >= expected, "{n}: a gap at {expected}: {envelope:?}");
            lines.push((first, envelope.kind.clone(), envelope.seq));
        }
        assert_eq!(lines.last().map(|(_, _, last)| *last), Some(log.last_seq()), "up to the end");
        lines
    }

    fn waits(&mut self, n: u64, kind: &str) -> usize {
        self.waiting(n).iter().filter(|(_, of, _)| of == kind).count()
    }
}

#[test]
fn events_make_progress_go_first_then_the_oldest_jobs_lines_and_then_they_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut files = Files::open(dir.path());
    for n in 1..=3 {
        for _ in 0..4 {
            files.say(n, 1_200);
            files.progress(n);
        }
    }
    let count = |files: &mut Files, kind: &str| (1..=3).map(|n| files.waits(n, kind)).collect::<Vec<_>>();
    assert_eq!(count(&mut files, "job.progress"), [4, 4, 4]);
    let mut seen = Vec::new();
    let mut told = 0;
    while files.tell("schedule.ack").0 {
        told += 1;
        assert!(files.room.events.get() + files.room.logs.get() <= LIMITS.total, "within the bound");
        let state = (count(&mut files, "job.progress"), count(&mut files, "log.stream"));
        if seen.last() != Some(&state) {
            seen.push(state);
        }
    }
    let expected = [
        (vec![4, 4, 4], vec![4, 4, 4]),
        (vec![0, 4, 4], vec![4, 4, 4]),
        (vec![0, 0, 4], vec![4, 4, 4]),
        (vec![0, 0, 0], vec![4, 4, 4]),
        (vec![0, 0, 0], vec![0, 4, 4]),
        (vec![0, 0, 0], vec![0, 0, 4]),
        (vec![0, 0, 0], vec![0, 0, 0]),
    ];
    let mut left = expected.iter();
    assert!(seen.iter().all(|state| left.any(|other| other == state)), "in this order: {seen:?}");
    assert_eq!(seen.last(), expected.last(), "all of it went before an event was refused");
    assert_eq!((files.room.dropped_lines.get(), files.room.dropped_progress.get()), (12, 12), "each is counted");
    assert!(!files.spool.has_room_for_commands(), "new commands are refused");
    let mut ends = 0;
    while files.tell("job.finished").0 {
        ends += 1;
    }
    assert!(ends > 10, "the reserve is for what became of jobs: {ends}");
    let mut held = 0;
    while let Some(batch) = files.spool.next_batch(1_000_000).expect("read") {
        held += batch.last_seq + 1 - batch.first_seq;
        files.spool.acknowledge(batch.last_seq).expect("acknowledged");
    }
    assert_eq!(held, told + ends, "no event was given up");
    assert!(files.spool.has_room_for_commands());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn nothing_goes_before_what_matters_less_and_numbers_stay_contiguous(
        steps in prop::collection::vec((0_u8..10, 1_u64..4, 1_usize..1_500), 1..150),
    ) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut files = Files::open(dir.path());
        let mut told = 0;
        for (what, n, len) in steps {
            match what {
                0..=3 => files.say(n, len),
                4..=5 => files.progress(n),
                6 => {
                    let log = files.logs.get_mut(&job(n)).expect("a log");
                    if let Some(batch) = log.next_batch(log.acked(), len).expect("read") {
                        log.acknowledge(batch.last_seq).expect("acknowledged");
                    }
                }
                _ => {
                    let (kept, dropped) = files.tell(if what == 9 { "job.finished" } else { "schedule.ack" });
                    told += u64::from(kept);
                    let left = |files: &mut Files, kind| (1..=3).map(|n| files.waits(n, kind)).sum::<usize>();
                    prop_assert!(dropped.lines == 0 || left(&mut files, "job.progress") == 0);
                    prop_assert!(kept || left(&mut files, "log.stream") == 0 || what == 9);
                }
            }
            prop_assert!(files.room.events.get() + files.room.logs.get() <= LIMITS.total);
            prop_assert_eq!(files.room.events.get(), files.spool.depth_bytes());
            prop_assert_eq!(files.room.logs.get(), log_spool::bytes(dir.path()).expect("measured"));
        }
        for n in 1..=3 {
            files.waiting(n);
        }
        prop_assert_eq!(files.spool.last_seq(), told);
    }
}
