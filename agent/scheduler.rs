//! Edge. The agent's own cron: looks what is due, tells the server, and runs a backup by itself when no answer comes within
//! the grace. `restic_manager::schedule` decides what is due. Does not run restic.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use restic_manager::clock;
use restic_manager::file_error::{FileError, chain};
use restic_manager::id::{JobId, ScheduleId, job_id_of_fire};
use restic_manager::protocol::agent_event::{AgentEvent, ScheduleFire};
use restic_manager::protocol::command::FireResult;
use restic_manager::protocol::schedule::Schedule;
use restic_manager::schedule::{CompiledSchedule, ScheduleMemory, compile, decide, next_wake};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::commands;
use crate::core::Agent;
use crate::json_file;
use crate::ledger::{OfflineJob, Stage};

/// Looked at again this often whatever the plan: the clock may jump, and the host may sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// A fire that the server has not answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PendingFire {
    pub(crate) fire: ScheduleFire,
    /// What it would run, as the schedule was then.
    pub(crate) schedule: Schedule,
}

/// `schedules-state.json`: what the schedules remember, and the fires that wait for an answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PendingFires {
    pub(crate) memory: BTreeMap<ScheduleId, ScheduleMemory>,
    pub(crate) pending: Vec<PendingFire>,
}

impl PendingFires {
    pub(crate) fn read(dir: &std::path::Path, damage: &mut Vec<String>) -> Result<Self, FileError> {
        Ok(json_file::read(&dir.join(FILE))?.or_tell(damage).unwrap_or_default())
    }
}

const FILE: &str = "schedules-state.json";

fn save(agent: &Agent) {
    if let Err(error) = json_file::write(&agent.dir.join(FILE), &*agent.pending_fires.borrow()) {
        // A fire told again has the same job id, so forgetting is harmless.
        agent.note_error(&format!("what the schedules remember: {}", chain(&error)));
    }
}

/// The server has decided a fire: the agent does what it is told, and no longer what it would do by itself.
pub(crate) fn answered(agent: &Agent, result: &FireResult) {
    let before = agent.pending_fires.borrow().pending.len();
    agent.pending_fires.borrow_mut().pending.retain(|pending| pending.fire.job_id != result.job_id);
    if agent.pending_fires.borrow().pending.len() != before {
        save(agent);
    }
}

/// Fires until the agent stops.
pub(crate) async fn run(agent: Rc<Agent>) {
    // The grace runs on the monotonic clock; after a restart it begins anew.
    let mut deadlines: BTreeMap<JobId, Instant> = BTreeMap::new();
    let mut schedules = load(&agent);
    loop {
        let now = clock::now();
        fire_due(&agent, &schedules, now);
        let grace = agent.settings.offline_grace.duration();
        let pending: Vec<PendingFire> = agent.pending_fires.borrow().pending.clone();
        deadlines.retain(|id, _| pending.iter().any(|p| p.fire.job_id == *id));
        for fire in &pending {
            let deadline = deadlines.entry(fire.fire.job_id).or_insert_with(|| Instant::now() + grace);
            if agent.superseded.get() {
                *deadline = Instant::now() + grace;
            }
            let deadline = *deadline;
            if Instant::now() >= deadline {
                run_offline(&agent, fire);
            }
        }
        let until_due = schedules
            .iter()
            .filter_map(|(_, compiled)| {
                let state = agent.pending_fires.borrow();
                next_wake(compiled, state.memory.get(&compiled.id)?, now)
            })
            .min()
            .and_then(|at| (at - clock::now()).to_std().ok())
            .unwrap_or(LONGEST_SLEEP);
        let until_grace =
            deadlines.values().min().map_or(LONGEST_SLEEP, |at| at.saturating_duration_since(Instant::now()));
        let sleep = until_due.min(until_grace).min(LONGEST_SLEEP).max(Duration::from_millis(20));
        tokio::select! {
            () = agent.schedule_bell.notified() => schedules = load(&agent),
            () = tokio::time::sleep(sleep) => {}
        }
    }
}

/// The schedules of the moment, compiled. One that cannot be is told, and the others run.
fn load(agent: &Agent) -> Vec<(Schedule, CompiledSchedule)> {
    let zone = agent.zone.parse().unwrap_or(chrono_tz::UTC);
    let set = agent.received.borrow().schedules().cloned();
    let mut schedules = Vec::new();
    for schedule in set.into_iter().flat_map(|set| set.schedules) {
        match compile(&schedule, &agent.host, zone) {
            Ok(compiled) => schedules.push((schedule, compiled)),
            Err(error) => agent.note_error(&format!("schedule {} does not run: {error}", schedule.id)),
        }
    }
    let now = clock::now();
    let mut state = agent.pending_fires.borrow_mut();
    state.memory.retain(|id, _| schedules.iter().any(|(schedule, _)| schedule.id == *id));
    for (_, compiled) in &schedules {
        state.memory.entry(compiled.id.clone()).or_insert_with(|| ScheduleMemory::new(compiled, now));
    }
    drop(state);
    save(agent);
    schedules
}

fn fire_due(agent: &Agent, schedules: &[(Schedule, CompiledSchedule)], now: DateTime<Utc>) {
    for (schedule, compiled) in schedules {
        let mut memory = match agent.pending_fires.borrow().memory.get(&compiled.id) {
            Some(memory) => memory.clone(),
            None => ScheduleMemory::new(compiled, now),
        };
        let Some(due) = decide(compiled, &mut memory, now) else {
            agent.pending_fires.borrow_mut().memory.insert(compiled.id.clone(), memory);
            continue;
        };
        let fire = ScheduleFire {
            schedule_id: schedule.id.clone(),
            scheduled_at: due.scheduled_at,
            fired_at: now,
            job_id: job_id_of_fire(&agent.host, &schedule.id, due.scheduled_at),
        };
        tracing::info!(schedule = %schedule.id, scheduled_at = %due.scheduled_at, late = due.late, "due");
        // First the fire, then the memory of it: told twice it is one job, forgotten it is none.
        if agent.tell(&AgentEvent::ScheduleFire(fire.clone())) {
            let mut state = agent.pending_fires.borrow_mut();
            state.memory.insert(compiled.id.clone(), memory);
            state.pending.push(PendingFire { fire, schedule: schedule.clone() });
            drop(state);
            save(agent);
        }
    }
}

/// No answer within the grace: a backup runs by itself, under the id that the server will give it too. Other kinds wait for
/// the server; their fire is in the spool.
fn run_offline(agent: &Agent, pending: &PendingFire) {
    let fire = &pending.fire;
    agent.pending_fires.borrow_mut().pending.retain(|p| p.fire.job_id != fire.job_id);
    save(agent);
    if !pending.schedule.kind.runs_without_server() {
        return;
    }
    let of_schedule = |job: &crate::ledger::LedgerJob| match &job.work {
        crate::ledger::Work::Command(command) => command.schedule_id.as_ref() == Some(&fire.schedule_id),
        crate::ledger::Work::Offline(offline) => offline.schedule_id == fire.schedule_id,
        crate::ledger::Work::Forgotten => false,
    };
    let busy = agent.ledger.borrow().job(fire.job_id).is_some()
        || agent.ledger.borrow().unfinished().into_iter().any(of_schedule);
    if busy {
        tracing::info!(schedule = %fire.schedule_id, "the schedule's last job has not ended: this one is left out");
        return;
    }
    let spec = pending.schedule.job_spec();
    if let Err(error) = commands::permitted(agent, &spec) {
        agent.note_error(&format!("schedule {}: {error}", fire.schedule_id));
        return;
    }
    tracing::warn!(schedule = %fire.schedule_id, job = %fire.job_id, "no answer from the server: running the backup all the same");
    let offline = OfflineJob { schedule_id: fire.schedule_id.clone(), scheduled_at: fire.scheduled_at, spec };
    if agent.record(fire.job_id, Stage::Accepted { offline: Some(offline) }) {
        agent.job_bell.notify_one();
    }
}
