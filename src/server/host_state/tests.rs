//! What lines make of a host's state.

use serde_json::json;
use serde_json::value::RawValue;

use super::*;
use crate::journal::line::NewLine;
use crate::server::decide::{JobDecision, JobRequest, decide_job};
use crate::server::fact::{JobAndActor, JobExpired, Versioned};
use crate::server::folded::*;
use crate::server::settle::decide_started;

fn queue(job: JobId, schedule_id: Option<&str>, options: Option<Value>) -> Vec<Fact> {
    let kind = schedule_id.map_or_else(|| Some("prune".to_owned()), |_| None);
    let schedule_id = schedule_id.map(schedule);
    let request = JobRequest {
        kind,
        schedule_id,
        options,
        actor: operator(),
        idempotency: None,
        new_id: job,
        queue_for: None,
        is_offline: false,
    };
    match decide_job(&HostState::default(), Some(&content()), &request, noon()) {
        Ok(JobDecision::New(_, facts)) => facts,
        other => unreachable!("a new job was expected: {other:?}"),
    }
}

#[test]
fn a_job_goes_from_queued_over_running_to_its_end() {
    let mut folded = Folded::of(queue(id(1), None, None));
    let status = |folded: &Folded| folded.state.job(id(1)).map(|job| (job.status, job.accepted));
    assert_eq!(status(&folded), Some((JobStatus::Queued, false)));
    folded.add([accepted(id(1))]);
    assert_eq!(status(&folded), Some((JobStatus::Queued, true)));
    folded.add([started(id(1))]);
    assert_eq!(status(&folded), Some((JobStatus::Running, true)));
    folded.add([finished(id(1), "succeeded")]);
    assert_eq!(status(&folded), Some((JobStatus::Succeeded, true)));
    assert!(folded.state.jobs.is_empty());
    folded.add([started(id(1)), finished(id(1), "failed")]);
    assert_eq!(status(&folded), Some((JobStatus::Succeeded, true)), "what has ended stays so");
}

#[test]
fn a_refused_command_ends_its_job_with_the_agents_reason() {
    let mut folded = Folded::of(queue(id(1), None, None));
    folded.add([event(
        "command.result",
        &json!({"job_id": id::<JobId>(1), "accepted": false, "error": "no prune here"}),
    )]);
    let job = folded.state.job(id(1)).expect("the job");
    assert_eq!((job.status, job.error.as_deref()), (JobStatus::Failed, Some("no prune here")));
}

#[test]
fn what_the_agent_saw_is_better_than_an_end_that_the_server_made_up() {
    let made_up = [
        Fact::JobExpired(JobExpired { job_id: id(1) }),
        Fact::JobAbandoned(JobAndActor { job_id: id(1), actor: operator() }),
    ];
    for end in made_up {
        let mut folded = Folded::of(queue(id(1), None, None));
        folded.add([end, finished(id(1), "succeeded")]);
        let job = folded.state.job(id(1)).expect("the job");
        assert_eq!((job.status, job.error.as_deref(), job.exit_code), (JobStatus::Succeeded, None, Some(0)));
    }
}

#[test]
fn a_few_ended_jobs_stay_newest_first_and_the_rest_is_left_to_the_files() {
    let mut folded = Folded::default();
    for n in 1..=6 {
        folded.add(queue(id(n), None, None));
        folded.add([finished(id(n), "succeeded")]);
    }
    let recent: Vec<JobId> = folded.state.recent.iter().map(|job| job.id).collect();
    assert_eq!(recent, [6, 5, 4, 3].map(id::<JobId>));
    assert_eq!(folded.state.job(id(2)), None);
}

#[test]
fn only_a_real_run_of_the_schedules_own_job_is_its_success() {
    let memory = |options: Option<Value>, status: &str| {
        let mut folded = Folded::of(queue(id(1), Some("system"), options));
        folded.add([finished(id(1), status)]);
        let memory = folded.state.schedules.remove(&schedule("system")).unwrap_or_default();
        (memory.last_success, memory.last_status)
    };
    // The end says :09, by the agent's clock, which is ahead: the line arrived before.
    let end = Some(at("2026-11-23T12:00:02Z"));
    assert_eq!(memory(None, "succeeded"), (end, Some(JobStatus::Succeeded)));
    assert_eq!(memory(None, "failed"), (None, Some(JobStatus::Failed)));
    let dry = json!({"paths": ["/etc"], "dry_run": true});
    assert_eq!(memory(Some(dry), "succeeded"), (None, None), "a dry run made no snapshot");
}

#[test]
fn an_end_told_again_does_not_outdo_a_later_jobs() {
    let mut folded = Folded::default();
    for (n, status) in [(1, "succeeded"), (2, "failed")] {
        folded.add(queue(id(n), Some("system"), None));
        folded.add([finished(id(n), status)]);
    }
    folded.add([finished(id(1), "succeeded")]);
    assert_eq!(folded.state.schedules[&schedule("system")].last_status, Some(JobStatus::Failed));
    assert_eq!(folded.state.recent.front().map(|job| job.id), Some(id(2)));
}

#[test]
fn a_newer_instance_supersedes_and_only_a_return_counts_against_the_host() {
    let greet = |instances: &[u8]| Folded::of(instances.iter().map(|n| Fact::Hello(hello(*n))));
    let restarts = greet(&[1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(restarts.state.superseded, [1, 2, 3, 4, 5, 6, 7].map(id::<InstanceId>));
    assert!(restarts.state.returns.is_empty() && !restarts.state.is_in_conflict(noon()));
    let three = greet(&[1, 2, 1, 2, 1]);
    assert_eq!((three.state.returns.len(), three.state.is_in_conflict(noon())), (3, false));
    let four = greet(&[1, 2, 1, 2, 1, 2]);
    assert_eq!(four.state.returns.len(), 4);
    assert!(four.state.is_in_conflict(noon()));
    let first_return = noon() + TimeDelta::seconds(2);
    assert!(four.state.is_in_conflict(first_return + TimeDelta::seconds(599)));
    assert!(!four.state.is_in_conflict(first_return + TimeDelta::minutes(10)), "it ends by itself");
}

#[test]
fn returns_that_are_rare_are_no_conflict() {
    let mut folded = Folded::default();
    for (minutes, n) in [1, 2, 1, 2, 1, 2, 1, 2].into_iter().enumerate() {
        let now = noon() + TimeDelta::minutes(4 * i64::try_from(minutes).expect("small"));
        folded.add_at(now, &Fact::Hello(hello(n)));
        assert!(!folded.state.is_in_conflict(now));
    }
}

#[test]
fn a_key_is_forgotten_after_seven_days() {
    let keyed = |n: u8, key: &str| {
        let mut facts = queue(id(n), None, None);
        if let Fact::JobQueued(queued) = &mut facts[0] {
            queued.idempotency = Some(Idempotency { key: key.to_owned(), body_sha256: "b".to_owned() });
        }
        facts.remove(0)
    };
    let mut folded = Folded::default();
    folded.add_at(noon(), &keyed(1, "a"));
    folded.add_at(noon() + TimeDelta::days(6), &keyed(2, "b"));
    assert_eq!(folded.state.keys.len(), 2);
    folded.add_at(noon() + TimeDelta::days(7), &keyed(3, "c"));
    assert_eq!(folded.state.keys.keys().collect::<Vec<_>>(), ["b", "c"]);
}

#[test]
fn due_instants_beyond_the_remembered_ones_leave_the_mark_below_which_files_are_asked() {
    let mut folded = Folded::default();
    let count = i64::try_from(REMEMBERED_FIRES).expect("small") + 10;
    for n in 0..count {
        let scheduled_at = noon() + TimeDelta::minutes(n);
        folded.add([Fact::ScheduleSkipped(FireResult {
            schedule_id: schedule("system"),
            scheduled_at,
            job_id: id(1),
            outcome: FireOutcome::Skipped,
            waiting_for: None,
            reason: None,
        })]);
    }
    let memory = &folded.state.schedules[&schedule("system")];
    assert_eq!(memory.fires.len(), REMEMBERED_FIRES);
    assert_eq!(memory.forgotten_until, Some((noon() + TimeDelta::minutes(9)).timestamp()));
    assert_eq!(memory.fires.first(), Some(&(noon() + TimeDelta::minutes(10)).timestamp()));
}

#[test]
fn acks_and_streams_are_followed() {
    let mut folded = Folded::default();
    folded.add([
        event("schedule.ack", &json!({"version": 3, "applied_at": "2026-11-23T12:00:00Z"})),
        event("config.ack", &json!({"version": 2, "applied_at": "2026-11-23T12:00:00Z"})),
    ]);
    assert_eq!((folded.state.schedule_applied, folded.state.config_applied), (3, 2));
    assert_eq!(folded.state.streams[&id::<StreamId>(1)], StreamMark { seq: 2, line: 2 });
}

#[test]
fn an_agent_cannot_speak_as_the_server() {
    let mut folded = Folded::of(queue(id(1), None, None));
    let before = folded.state.clone();
    let forged = [
        Fact::Hello(hello(7)),
        Fact::JobExpired(JobExpired { job_id: id(1) }),
        Fact::ScheduleVersioned(Versioned {
            version: u64::MAX,
            hash: "x".to_owned(),
            commit: None,
            dirty: None,
            adopted_at: None,
            repository: None,
        }),
        queue(id(2), None, None).remove(0),
    ];
    for fact in forged {
        let line = folded.as_agents(&fact.to_new_line(noon()));
        folded.add_line(noon(), &line);
    }
    let seen = HostState { streams: before.streams.clone(), lines: before.lines.clone(), ..folded.state };
    assert_eq!(seen, before);
}

#[test]
fn unknown_types_and_strange_payloads_change_nothing_but_are_counted() {
    let mut folded = Folded::default();
    for (kind, payload) in [("tomorrow.news", "{\"x\":1}"), ("job.started", "[]"), ("job.finished", "null")] {
        let payload = RawValue::from_string(payload.to_owned()).expect("JSON");
        let line = folded.as_agents(&NewLine { kind: kind.to_owned(), ts: noon(), stream: None, payload });
        folded.add_line(noon(), &line);
    }
    let seen = HostState { streams: BTreeMap::new(), lines: VecDeque::new(), ..folded.state.clone() };
    assert_eq!(seen, HostState::default());
    assert_eq!(folded.state.streams[&id::<StreamId>(1)].seq, 3);
}

#[test]
fn a_state_survives_its_carry() {
    let mut folded = Folded::default();
    let enrolled = json!({"enrollment_id": id::<JobId>(1), "token_sha256": "t", "credential_sha256": "c"});
    folded.add([
        Fact::HostEnrolled(serde_json::from_value(enrolled).expect("an enrollment")),
        Fact::Hello(hello(1)),
        Fact::Hello(hello(2)),
        Fact::Hello(hello(1)),
        Fact::ScheduleVersioned(Versioned {
            version: 1,
            hash: "s".to_owned(),
            commit: None,
            dirty: None,
            adopted_at: None,
            repository: None,
        }),
        Fact::ConfigVersioned(Versioned {
            version: 2,
            hash: "c".to_owned(),
            commit: Some("abc".to_owned()),
            dirty: None,
            adopted_at: None,
            repository: None,
        }),
    ]);
    folded.add(queue(id(1), Some("system"), None));
    folded.add([started(id(1))]);
    let by_itself = json!({"job_id": id::<JobId>(2), "kind": "backup", "started_at": "2026-11-23T12:00:05.25Z",
        "schedule_id": "system", "scheduled_at": "2026-11-23T02:00:00Z", "offline": true});
    let by_itself = event("job.started", &by_itself);
    if let AgentEvent::JobStarted(started) = agent_event(&by_itself) {
        folded.add(decide_started(&HostState::default(), started, false));
    }
    folded.add([
        by_itself,
        event(
            "job.finished",
            &json!({"job_id": id::<JobId>(2), "status": "succeeded", "incomplete": true,
            "warnings": ["unreadable"], "exit_code": 3, "finished_at": "2026-11-23T12:00:09.123456789Z",
            "last_log_seq": 9, "stats": {"total_duration": 0.1234567890123, "files_new": 3, "n": null}}),
        ),
        Fact::JobCancelRequested(JobAndActor { job_id: id(1), actor: operator() }),
    ]);
    let state = HostState { lines: VecDeque::new(), ..folded.state };
    let text = serde_json::to_string(&state).expect("JSON");
    assert_eq!(serde_json::from_str::<HostState>(&text).expect("its own JSON"), state);
}
