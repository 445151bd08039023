//! Hosts with a long past, written with the server's own journal, so that they are what a server would have left.

use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use restic_manager::job::{Actor, ActorKind};
use restic_manager::journal::Journal;
use restic_manager::protocol::Envelope;
use restic_manager::server::fact::{Fact, JobDispatched, JobQueued, agent_line};
use restic_manager::server::host_state::HostState;

use crate::Outcome;
use crate::agents::uuid_of;

/// Names the form of what is kept between runs: another number makes it anew.
pub(crate) const FORM: &str = "v1";
/// Lines that become durable together.
const AT_ONCE: u64 = 5000;
const EVENTS_OF_A_JOB: u64 = 5;
/// From one event to the next.
const PACE_SECS: i64 = 10;

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Writes so many events, five for each job, the last of them a moment ago.
pub(crate) fn write(dir: &Path, events: u64) -> Outcome<()> {
    write_of(dir, events, &[])
}

/// The same, with the jobs being those of these schedules in turns.
pub(crate) fn write_of(dir: &Path, events: u64, schedules: &[&str]) -> Outcome<()> {
    let mut journal = Journal::<HostState>::open(dir).map_err(text)?;
    let stream = uuid_of("history").parse().map_err(text)?;
    let began = restic_manager::clock::now() - TimeDelta::seconds(PACE_SECS * i64::try_from(events).map_err(text)?);
    let at = |number: u64| began + TimeDelta::seconds(PACE_SECS * i64::try_from(number).unwrap_or_default());
    let (mut number, mut stream_seq) = (0, 0);
    while number < events {
        let mut batch = journal.begin(at(number)).map_err(text)?;
        for _ in 0..AT_ONCE.min(events - number) {
            let now = at(number);
            let line = match server_fact(number, now, schedules)? {
                Some(fact) => fact.to_new_line(now),
                None => {
                    stream_seq += 1;
                    agent_line(stream, &agent_event(number, stream_seq, now, schedules)?)
                }
            };
            batch.append(now, &line);
            number += 1;
        }
        batch.commit().map_err(text)?;
    }
    Ok(())
}

fn job_id(number: u64) -> String {
    uuid_of(&format!("job {}", number / EVENTS_OF_A_JOB))
}

/// The first two events of a job are the server's.
fn server_fact(number: u64, now: DateTime<Utc>, schedules: &[&str]) -> Outcome<Option<Fact>> {
    let turn = usize::try_from(number / EVENTS_OF_A_JOB).map_err(text)? % schedules.len().max(1);
    let schedule = schedules.get(turn).map(|schedule| schedule.parse().map_err(text)).transpose()?;
    let job_id = job_id(number).parse().map_err(text)?;
    Ok(match number % EVENTS_OF_A_JOB {
        0 => Some(Fact::JobQueued(JobQueued {
            job_id,
            kind: "backup".parse().map_err(text)?,
            options: json!({"paths": ["/etc", "/home", "/var/lib"], "tags": ["linux"]}),
            actor: Actor { kind: ActorKind::Operator, name: "ops".to_owned() },
            schedule_id: schedule,
            scheduled_at: None,
            idempotency: None,
            repository: None,
            part_of: None,
            take_by: None,
        })),
        1 => Some(Fact::JobDispatched(JobDispatched { job_id, expires_at: now + TimeDelta::hours(1) })),
        _ => None,
    })
}

fn agent_event(number: u64, seq: u64, now: DateTime<Utc>, schedules: &[&str]) -> Outcome<Envelope> {
    let id = job_id(number);
    let (kind, mut payload) = match number % EVENTS_OF_A_JOB {
        2 => ("command.result", json!({"job_id": id, "accepted": true})),
        3 => ("job.started", json!({"job_id": id, "kind": "backup", "started_at": now})),
        _ => (
            "job.finished",
            json!({"job_id": id, "status": "succeeded", "exit_code": 0, "finished_at": now, "last_log_seq": 12, "stats": {
                "files_new": 12, "files_changed": 3, "files_unmodified": 20431, "data_added": 73_400_320,
                "total_bytes_processed": 12_884_901_888u64, "total_duration": 41.7, "snapshot_id": id,
            }}),
        ),
    };
    // What is kept between runs has no such figure.
    if !schedules.is_empty() && payload["stats"].is_object() {
        payload["stats"]["total_files_processed"] = json!(20_446);
    }
    Envelope::new(seq, now, kind, &payload).map_err(text)
}
