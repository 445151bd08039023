//! Pure. What agent and server make of each other's jobs when one of them knows less than it did: the agent's ledger was lost,
//! it ran jobs by itself, or the server's state is an older copy. Does not decide new jobs.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::fact::{Fact, JobAndActor, JobQueued};
use super::host_state::HostState;
use super::job_endings::{COMMAND_LIFETIME, dispatched_by};
use crate::id::{JobId, ScheduleId};
use crate::job::{Actor, ActorKind};
use crate::protocol::agent_event::{Hello, JobFinished, JobStarted};
use crate::protocol::job_options::JobKind;

/// So many of a hello's `running_jobs` are kept for whoever reads the history.
const KEPT_RUNNING_JOBS: usize = 100;

/// hello is a fact when it says something new. Of the jobs that have not ended here:
///
/// - One that the agent has ended, and had acknowledged, is told to it again, so that it tells the end again: our state is older
///   than that.
/// - One that the agent took and no longer knows (its ledger was lost with its disk) ends here. `running_jobs` names every job
///   whose end was not acknowledged. It is never run again under its id.
pub fn decide_hello(state: &HostState, hello: &Hello, now: DateTime<Utc>) -> Vec<Fact> {
    let without_jobs = |hello: &Hello| Hello { running_jobs: Vec::new(), ended_jobs: Vec::new(), ..hello.clone() };
    // What has ended, and all that runs, is of use at this moment only.
    let running_jobs = hello.running_jobs.iter().copied().take(KEPT_RUNNING_JOBS).collect();
    let said = Hello { ended_jobs: Vec::new(), running_jobs, ..hello.clone() };
    let same = state.hello.as_ref().is_some_and(|known| without_jobs(known) == without_jobs(&said));
    let mut facts = if same { Vec::new() } else { vec![Fact::Hello(said)] };
    let known: HashSet<&JobId> = hello.running_jobs.iter().collect();
    for job in state.jobs.values().filter(|job| !known.contains(&job.id)) {
        if hello.ended_jobs.contains(&job.id) {
            facts.push(dispatched_by(job.id, now + COMMAND_LIFETIME));
        } else if job.accepted {
            let actor = Actor { kind: ActorKind::System, name: "the agent, which no longer knows it".to_owned() };
            facts.push(Fact::JobAbandoned(JobAndActor { job_id: job.id, actor }));
        }
    }
    facts
}

/// A job that the agent began by itself becomes a job here, just before the line that says so. `known`: the files have it.
pub fn decide_started(state: &HostState, started: &JobStarted, known: bool) -> Option<Fact> {
    let unknown = !known && state.job(started.job_id).is_none();
    unknown.then(|| told_by_the_agent(started.job_id, started.kind, started.schedule_id.as_ref(), started.scheduled_at))
}

/// The same for the end of a job whose beginning this state has lost. An agent of before does not say what it was: then the
/// end is kept, and there is no job.
pub fn decide_finished(state: &HostState, finished: &JobFinished, known: bool) -> Option<Fact> {
    let unknown = !known && state.job(finished.job_id).is_none();
    let kind = finished.kind.filter(|_| unknown)?;
    Some(told_by_the_agent(finished.job_id, kind, finished.schedule_id.as_ref(), finished.scheduled_at))
}

fn told_by_the_agent(
    job_id: JobId,
    kind: JobKind,
    schedule_id: Option<&ScheduleId>,
    scheduled_at: Option<DateTime<Utc>>,
) -> Fact {
    let (actor, name) = match schedule_id {
        Some(schedule) => (ActorKind::Schedule, schedule.to_string()),
        None => (ActorKind::System, "agent".to_owned()),
    };
    Fact::JobQueued(JobQueued {
        job_id,
        kind,
        options: Value::Null,
        actor: Actor { kind: actor, name },
        schedule_id: schedule_id.cloned(),
        scheduled_at,
        idempotency: None,
        repository: None,
        part_of: None,
        take_by: None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::id::InstanceId;
    use crate::job::JobStatus;
    use crate::protocol::agent_event::AgentEvent;
    use crate::server::folded::*;

    fn queue(job: JobId) -> Vec<Fact> {
        let queued = JobQueued {
            job_id: job,
            kind: JobKind::Prune,
            options: json!({}),
            actor: operator(),
            schedule_id: None,
            scheduled_at: None,
            idempotency: None,
            repository: None,
            part_of: None,
            take_by: None,
        };
        vec![Fact::JobQueued(queued), dispatched_by(job, noon() + COMMAND_LIFETIME)]
    }

    #[test]
    fn a_hello_is_a_fact_when_it_says_something_new() {
        let mut folded = Folded::of(decide_hello(&HostState::default(), &hello(1), noon()));
        assert_eq!(decide_hello(&folded.state, &hello(1), noon()), []);
        let updated = Hello { restic_version: Some("0.19.0".to_owned()), ..hello(1) };
        assert_eq!(types(&decide_hello(&folded.state, &updated, noon())), ["hello"]);
        folded.add(decide_hello(&folded.state, &hello(2), noon()));
        assert_eq!(folded.state.hello.as_ref().map(|h| h.instance_id), Some(id::<InstanceId>(2)));
    }

    #[test]
    fn a_job_that_the_agent_took_and_no_longer_knows_ends_with_its_hello() {
        let mut folded = Folded::of(decide_hello(&HostState::default(), &hello(1), noon()));
        for n in [10, 11, 12, 13] {
            folded.add(queue(id(n)));
        }
        folded.add([accepted(id(11)), started(id(12)), started(id(13))]);
        let after = Hello { running_jobs: vec![id(12)], ..hello(2) };
        folded.add(decide_hello(&folded.state, &after, noon()));
        let status = |n: u8| folded.state.job(id(n)).expect("the job").status;
        assert_eq!(
            [10, 11, 12, 13].map(status),
            [JobStatus::Queued, JobStatus::Failed, JobStatus::Running, JobStatus::Failed],
            "the first was not taken yet, the third goes on"
        );
        assert_eq!(decide_hello(&folded.state, &after, noon()), [], "once");
    }

    #[test]
    fn a_job_that_the_agent_has_ended_long_ago_is_told_again_for_its_end() {
        let mut folded = Folded::of([Fact::Hello(hello(1))]);
        for n in [10, 11, 12] {
            folded.add(queue(id(n)));
        }
        folded.add([accepted(id(11)), started(id(12))]);
        let after = Hello { ended_jobs: vec![id(10), id(11), id(12), id(13)], ..hello(2) };
        let facts = decide_hello(&folded.state, &after, noon());
        assert_eq!(types(&facts), ["hello", "job.dispatched", "job.dispatched", "job.dispatched"]);
        folded.add(facts);
        assert_eq!(folded.state.hello.as_ref().map(|hello| hello.ended_jobs.len()), Some(0), "it is not kept");
        assert!([10, 11, 12].iter().all(|n| folded.state.jobs[&id::<JobId>(*n)].told_again), "a command again");
        let lost = decide_hello(&folded.state, &hello(2), noon());
        assert_eq!(types(&lost), ["job.abandoned"; 3], "an agent that does not know them must not get them as new");
        folded.add([finished(id(12), "succeeded")]);
        assert_eq!(folded.state.job(id(12)).map(|job| job.status), Some(JobStatus::Succeeded));
        assert_eq!(types(&decide_hello(&folded.state, &after, noon())), ["job.dispatched", "job.dispatched"]);
    }

    #[test]
    fn the_end_of_a_job_whose_beginning_is_lost_makes_the_job() {
        let end = event(
            "job.finished",
            &json!({"job_id": id::<JobId>(9), "status": "succeeded", "finished_at": noon(), "kind": "backup",
                "schedule_id": "system", "scheduled_at": noon()}),
        );
        let AgentEvent::JobFinished(finished) = agent_event(&end) else { unreachable!("an end") };
        let mut folded = Folded::default();
        folded.add(decide_finished(&folded.state, finished, false));
        assert_eq!(decide_finished(&folded.state, finished, false), None, "once");
        folded.add([end.clone()]);
        assert_eq!(folded.state.job(id(9)).map(|job| job.status), Some(JobStatus::Succeeded));
        assert_eq!(folded.state.schedules[&schedule("system")].last_success, Some(noon()));
        let state = HostState::default();
        assert_eq!(decide_finished(&state, finished, true), None, "the files have it");
        let nameless = JobFinished { kind: None, ..finished.clone() };
        assert_eq!(decide_finished(&state, &nameless, false), None);
    }
}
