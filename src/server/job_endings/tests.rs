//! What becomes of jobs that no agent takes, that are abandoned, or that wait for an agent that is away.

use serde_json::{Value, json};

use super::*;
use crate::job::JobStatus;
use crate::server::decide::{JobDecision, JobRequest, decide_job};
use crate::server::fact::Idempotency;
use crate::server::folded::*;
use crate::server::host_content::HostContent;

fn of_kind(kind: &str, options: Value) -> JobRequest {
    JobRequest {
        kind: Some(kind.to_owned()),
        schedule_id: None,
        options: Some(options),
        actor: operator(),
        idempotency: None,
        new_id: id(9),
        queue_for: None,
        is_offline: false,
    }
}

fn queue() -> Vec<Fact> {
    let request = of_kind("backup", json!({"paths": ["/srv"]}));
    match decide_job(&HostState::default(), Some(&content()), &request, noon()) {
        Ok(JobDecision::New(_, facts)) => facts,
        other => unreachable!("a new job was expected: {other:?}"),
    }
}

#[test]
fn abandon_ends_a_job_whose_agent_is_out_of_contact_and_no_other() {
    let mut folded = Folded::of(queue());
    folded.add([started(id(9))]);
    let in_contact = decide_abandon(&folded.state, id(9), operator(), Some(noon()));
    let Err(Refusal::Conflict(why)) = in_contact else { unreachable!("it is in contact: {in_contact:?}") };
    assert!(why.contains("can be abandoned after 2026-11-23T12:00:00Z"), "{why}");
    let fact = decide_abandon(&folded.state, id(9), operator(), None).expect("allowed").expect("a change");
    folded.add([fact]);
    let job = folded.state.job(id(9)).expect("the job");
    assert_eq!((job.status, job.error.as_deref()), (JobStatus::Failed, Some("abandoned by alice")));
    assert_eq!(decide_abandon(&folded.state, id(9), operator(), Some(noon())), Ok(None), "idempotent");
}

#[test]
fn a_command_that_nobody_took_in_time_ends_as_failed_or_as_the_cancel_that_was_asked() {
    for (cancelled, status, word) in
        [(false, JobStatus::Failed, "expired"), (true, JobStatus::Cancelled, "cancelled before")]
    {
        let mut folded = Folded::of(queue());
        if cancelled {
            folded.add(decide_cancel(&folded.state, id(9), operator()));
        }
        let deadline = noon() + COMMAND_LIFETIME;
        assert_eq!(decide_tick(&folded.state, deadline), [], "the last moment counts as in time");
        let facts = decide_tick(&folded.state, deadline + TimeDelta::seconds(1));
        assert_eq!(types(&facts), ["job.expired"]);
        folded.add(facts);
        let job = folded.state.job(id(9)).expect("the job");
        assert_eq!(job.status, status);
        assert!(job.error.as_deref().is_some_and(|error| error.starts_with(word)), "{:?}", job.error);
        assert_eq!(decide_tick(&folded.state, deadline + TimeDelta::days(9)), []);
    }
}

#[test]
fn what_an_operator_asks_for_waits_shortly_for_the_agent_a_backup_longer_and_anything_as_long_as_is_said() {
    let content = HostContent { repository: None, ..content() };
    let restore = || of_kind("restore", json!({"snapshot": "latest"}));
    let backup = || of_kind("backup", json!({"paths": ["/srv"]}));
    let span = |text: &str| Some(text.parse().expect("a span"));
    let queued = |request: &JobRequest| {
        let mut folded = Folded::default();
        let decided = decide_job(&folded.state, Some(&content), request, noon())?;
        let JobDecision::New(id, facts) = decided else { unreachable!("a new job was expected: {decided:?}") };
        folded.add(facts);
        Ok::<_, Refusal>((folded, id))
    };
    let rows = [
        (restore(), TimeDelta::minutes(15)),
        (JobRequest { queue_for: span("2h"), is_offline: true, ..restore() }, TimeDelta::hours(2)),
        (JobRequest { queue_for: span("1m"), ..backup() }, TimeDelta::minutes(1)),
        (JobRequest { is_offline: true, ..backup() }, TimeDelta::hours(24)),
        (of_kind("ls", json!({"snapshot": "latest"})), TimeDelta::minutes(5)),
    ];
    for (request, lifetime) in rows {
        let (mut folded, id) = queued(&request).expect("a new job");
        if folded.state.jobs[&id].dispatch.is_none() {
            // It had its lease at once.
            folded.add([dispatched(&folded.state.jobs[&id], noon())]);
        }
        assert_eq!(decide_tick(&folded.state, noon() + lifetime), [], "{request:?}");
        let facts = decide_tick(&folded.state, noon() + lifetime + TimeDelta::seconds(1));
        assert_eq!(types(&facts), ["job.expired"], "{request:?}");
        folded.add(facts);
        let error = folded.state.job(id).and_then(|job| job.error.clone()).expect("why");
        let by = (noon() + lifetime).format("%Y-%m-%dT%H:%M:%SZ").to_string();
        assert!(error.starts_with("expired") && error.contains(&by), "{error}");
    }
    let offline = JobRequest { is_offline: true, ..restore() };
    assert_eq!(queued(&offline).err(), Some(Refusal::AgentOffline));
    for wrong in ["0s", "8d"] {
        let refused = queued(&JobRequest { queue_for: span(wrong), ..restore() }).err();
        assert!(
            matches!(&refused, Some(Refusal::Invalid(why)) if why.contains("`queue_for` is between")),
            "{refused:?}"
        );
    }
    // A repetition finds the job that there is, whatever has become of the agent.
    let idempotency = Some(Idempotency { key: "k".to_owned(), body_sha256: "b".to_owned() });
    let (folded, id) = queued(&JobRequest { idempotency: idempotency.clone(), ..restore() }).expect("a new job");
    let again = decide_job(&folded.state, Some(&content), &JobRequest { idempotency, ..offline }, noon());
    assert_eq!(again, Ok(JobDecision::Existing(id)));
}

#[test]
fn a_job_that_was_to_wait_no_longer_ends_also_while_it_waits_for_its_turn() {
    let content = HostContent { repository: Some("main".parse().expect("a name")), ..content() };
    let request = JobRequest { queue_for: Some("1h".parse().expect("a span")), ..of_kind("prune", json!({})) };
    let decided = decide_job(&HostState::default(), Some(&content), &request, noon());
    let Ok(JobDecision::New(_, facts)) = decided else { unreachable!("a new job was expected: {decided:?}") };
    assert_eq!(types(&facts), ["job.queued"]);
    let folded = Folded::of(facts);
    assert_eq!(decide_tick(&folded.state, noon() + TimeDelta::hours(1)), []);
    assert_eq!(types(&decide_tick(&folded.state, noon() + TimeDelta::minutes(61))), ["job.expired"]);
}

#[test]
fn what_the_agent_took_never_expires() {
    for taken in [accepted(id(9)), started(id(9))] {
        let mut folded = Folded::of(queue());
        folded.add([taken]);
        assert_eq!(decide_tick(&folded.state, noon() + TimeDelta::days(30)), []);
    }
}

#[test]
fn a_job_whose_dispatch_a_crash_took_away_is_dispatched_by_the_tick() {
    let mut folded = Folded::of(queue().into_iter().take(1));
    let facts = decide_tick(&folded.state, noon());
    assert_eq!(facts, [dispatched_by(id(9), noon() + COMMAND_LIFETIME)]);
    folded.add(facts);
    assert_eq!(decide_tick(&folded.state, noon()), []);
}
