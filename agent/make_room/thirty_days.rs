//! Edge. P7 in process: 30 days without a server, on a clock of the test's own. The schedules that the agent has go on, everything waits
//! within its bound, what is given up is counted, and every event is delivered afterwards, once and in order.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use restic_manager::id::{JobId, StreamId, job_id_of_fire};
use restic_manager::protocol::Envelope;
use restic_manager::protocol::agent_event::{AgentEvent, LogSource};
use restic_manager::schedule::{ScheduleMemory, compile, decide};
use serde_json::json;

use super::*;
use crate::log_spool::LogSpool;
use crate::spool::{Limits, Spool, SpoolError};

const DAYS: i64 = 30;
/// Holds the events of thirty days, and the logs of a few of them.
const LIMITS: Limits = Limits { segment: 16_000, total: 900_000, reserve: 100_000 };

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("an instant")
}

fn event(kind: &str, payload: &serde_json::Value) -> AgentEvent {
    serde_json::from_value(json!({"type": kind, "payload": payload})).expect("an event")
}

/// Adds an event as the agent does: room is made where there is none.
fn tell(
    spool: &mut Spool,
    logs: &mut BTreeMap<JobId, LogSpool>,
    jobs: &[JobId],
    now: DateTime<Utc>,
    event: &AgentEvent,
) {
    match spool.append(now, event) {
        Err(SpoolError::Full) => {
            let room = spool.room();
            give_up(&room, jobs, &[GiveUp::Progress, GiveUp::Lines], 60_000, |job, what| {
                logs.get_mut(&job).map_or_else(Dropped::default, |log| log.give_up(what, now).expect("given up"))
            });
            spool.append(now, event).expect("room was made");
        }
        appended => {
            appended.expect("appended");
        }
    }
}

/// What was told, in order; what the spool then delivers to a server that insists on order.
fn live(days: i64, lose: Option<u64>) -> (Vec<String>, Vec<String>, Dropped, u64) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut spool, _) = Spool::open_with(dir.path(), StreamId(uuid::Uuid::from_u128(1)), LIMITS).expect("opens");
    let host = "web-1".parse().expect("a host name");
    let start = at("2026-11-01T12:15:00Z");
    let mut schedules: Vec<_> = [("hourly", "0 * * * *"), ("daily", "30 2 * * *")]
        .map(|(id, cron)| {
            let value = json!({"id": id, "kind": "backup", "cron_expr": cron, "paths": ["/etc"], "enabled": true});
            let compiled = compile(&serde_json::from_value(value).expect("a schedule"), &host, chrono_tz::UTC);
            let compiled = compiled.expect("compiles");
            let memory = ScheduleMemory::new(&compiled, start);
            (compiled, memory)
        })
        .into();
    let (mut told, mut logs, mut jobs, mut most) = (Vec::new(), BTreeMap::new(), Vec::new(), 0);
    let mut now = start;
    while now < start + TimeDelta::days(days) {
        now += TimeDelta::minutes(5);
        for (schedule, memory) in &mut schedules {
            let Some(fire) = decide(schedule, memory, now) else { continue };
            let job = job_id_of_fire(&host, &schedule.id, fire.scheduled_at);
            let due =
                json!({"schedule_id": schedule.id, "scheduled_at": fire.scheduled_at, "fired_at": now, "job_id": job});
            tell(&mut spool, &mut logs, &jobs, now, &event("schedule.fire", &due));
            let begun = json!({"job_id": job, "kind": "backup", "started_at": now, "schedule_id": schedule.id});
            tell(&mut spool, &mut logs, &jobs, now, &event("job.started", &begun));
            let mut log = LogSpool::open(dir.path(), job, &spool.room()).expect("opens");
            (0..40).for_each(|_| log.append_line(now, LogSource::Stdout, &"x".repeat(100)).expect("appended"));
            log.finish(now).expect("finished");
            logs.insert(job, log);
            jobs.push(job);
            let ended = json!({"job_id": job, "status": "succeeded", "finished_at": now});
            tell(&mut spool, &mut logs, &jobs, now, &event("job.finished", &ended));
            told.extend(["schedule.fire", "job.started", "job.finished"].map(|kind| format!("{kind} {job}")));
            // A start of the agent now and then: what waits is what was left.
            if told.len() % 300 == 0 {
                drop(std::mem::take(&mut logs));
                spool = Spool::open_with(dir.path(), StreamId(uuid::Uuid::from_u128(2)), LIMITS).expect("opens").0;
                let open = |job: &JobId| (*job, LogSpool::open(dir.path(), *job, &spool.room()).expect("opens"));
                logs = jobs.iter().map(open).collect();
            }
            most = most.max(spool.room().events.get() + spool.room().logs.get());
        }
    }
    let dropped = Dropped { lines: spool.room().dropped_lines.get(), progress: spool.room().dropped_progress.get() };
    let mut delivered = Vec::new();
    while let Some(batch) = spool.next_batch(50_000).expect("read") {
        for line in batch.bytes.split_inclusive(|byte| *byte == b'\n') {
            let envelope: Envelope = serde_json::from_slice(line).expect("an envelope");
            if Some(envelope.seq) == lose {
                continue;
            }
            let payload: serde_json::Value = serde_json::from_str(envelope.payload.get()).expect("JSON");
            delivered.push(format!("{} {}", envelope.kind, payload["job_id"].as_str().expect("an id")));
        }
        spool.acknowledge(batch.last_seq).expect("acknowledged");
    }
    (told, delivered, dropped, most)
}

#[test]
fn thirty_days_without_a_server_are_delivered_whole_once_and_in_order() {
    let (told, delivered, dropped, most) = live(DAYS, None);
    assert_eq!(told.len(), 3 * 30 * 25, "a fire, a start and an end, hourly and daily");
    assert!(told == delivered, "no gap, no other order, nothing twice");
    assert!(most <= LIMITS.total, "within its bound: {most}");
    assert!(dropped.lines > 0, "logs made way, and that is counted");
}

#[test]
fn a_line_that_is_lost_on_the_way_is_found() {
    let (told, delivered, _, _) = live(2, Some(77));
    assert!(told != delivered && told.len() == delivered.len() + 1);
}
