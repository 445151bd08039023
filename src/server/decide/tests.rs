//! What becomes of fires, requests, time passing, versions, hellos and enrollments.

use serde_json::json;

use super::*;
use crate::job::JobStatus;
use crate::protocol::agent_event::JobStarted;
use crate::protocol::command::{ConfigUpdate, FireResult};
use crate::repository_target::RepositoryTarget;
use crate::server::fact::HostRevoked;
use crate::server::folded::*;
use crate::server::job_endings::COMMAND_LIFETIME;
use crate::server::settle::decide_started;

fn fire_at(id: &str, scheduled_at: &str) -> ScheduleFire {
    let (schedule_id, scheduled_at) = (schedule(id), at(scheduled_at));
    let job_id = job_id_of_fire(&host(), &schedule_id, scheduled_at);
    ScheduleFire { schedule_id, scheduled_at, fired_at: scheduled_at, job_id }
}

fn fire(id: &str) -> ScheduleFire {
    fire_at(id, "2026-11-23T02:00:00Z")
}

fn decided(folded: &Folded, fire: &ScheduleFire) -> Vec<Fact> {
    decide_fire(&host(), &folded.state, Some(&content()), fire, noon(), false)
}

fn skipped(facts: &[Fact]) -> &FireResult {
    match facts {
        [Fact::ScheduleSkipped(result)] => result,
        other => unreachable!("one schedule.skipped was expected: {other:?}"),
    }
}

#[test]
fn a_fire_becomes_a_job_and_a_command() {
    let fire = fire("system");
    let facts = decided(&Folded::default(), &fire);
    assert_eq!(types(&facts), ["job.queued", "job.dispatched"]);
    let folded = Folded::of(facts);
    let job = folded.state.job(fire.job_id).expect("the job");
    assert_eq!((job.status, job.kind), (JobStatus::Queued, JobKind::Backup));
    assert_eq!(job.options, json!({"paths": ["/etc"]}));
    assert_eq!((job.schedule_id.as_ref(), job.scheduled_at), (Some(&fire.schedule_id), Some(fire.scheduled_at)));
    assert_eq!((job.actor.kind, job.actor.name.as_str()), (ActorKind::Schedule, "system"));
    assert_eq!(job.dispatch.as_ref().map(|d| d.expires_at), Some(noon() + COMMAND_LIFETIME));
}

#[test]
fn a_fire_that_was_decided_decides_nothing_again() {
    let fire = fire("system");
    let mut folded = Folded::default();
    let facts = decided(&folded, &fire);
    // Power loss may have kept the first fact only: the fire still is decided.
    folded.add([facts[0].clone()]);
    assert_eq!(decided(&folded, &fire), []);
    folded.add([facts[1].clone(), started(fire.job_id), finished(fire.job_id, "succeeded")]);
    assert_eq!(decided(&folded, &fire), []);
    for n in 0..10 {
        folded.add(queue(id(n), None));
        folded.add([finished(id(n), "succeeded")]);
    }
    assert_eq!(folded.state.job(fire.job_id), None, "the job itself is forgotten by now");
    assert_eq!(decided(&folded, &fire), []);
}

#[test]
fn a_skipped_or_refused_fire_is_decided_too() {
    for id in ["system", "idle", "nothing"] {
        let mut folded = Folded::of(decided(&Folded::default(), &fire("system")));
        let second = fire_at(id, "2026-11-23T03:00:00Z");
        let facts = decided(&folded, &second);
        skipped(&facts);
        folded.add(facts);
        assert_eq!(decided(&folded, &second), [], "{id}");
    }
}

#[test]
fn a_fire_that_memory_forgot_and_the_files_know_makes_no_job_and_is_answered() {
    let again = |state: &HostState| decide_fire(&host(), state, Some(&content()), &fire("system"), noon(), true);
    let facts = again(&HostState::default());
    assert_eq!(skipped(&facts).reason.as_deref(), Some("this due time was decided before"));
    assert_eq!(again(&Folded::of(facts).state), [], "once");
}

#[test]
fn a_fire_while_its_schedules_job_has_not_ended_is_skipped_with_the_reason() {
    let first = fire("system");
    let mut folded = Folded::of(decided(&Folded::default(), &first));
    let second = fire_at("system", "2026-11-23T03:00:00Z");
    for word in ["queued", "running"] {
        let facts = decided(&folded, &second);
        let result = skipped(&facts);
        assert_eq!((result.outcome, result.job_id), (FireOutcome::Skipped, second.job_id));
        let reason = result.reason.as_deref().expect("a reason");
        assert!(reason.contains(&first.job_id.to_string()) && reason.ends_with(word), "{reason}");
        folded.add([started(first.job_id)]);
    }
    assert_eq!(decided(&folded, &fire("tidy")).len(), 2, "another schedule's fire is not held up");
    folded.add([finished(first.job_id, "failed")]);
    assert_eq!(types(&decided(&folded, &second)), ["job.queued", "job.dispatched"]);
}

#[test]
fn a_fire_that_cannot_be_is_refused_with_the_reason() {
    let other_hosts = ScheduleFire {
        job_id: job_id_of_fire(&"web-2".parse().expect("a name"), &schedule("system"), fire("system").scheduled_at),
        ..fire("system")
    };
    for (fire, why) in [
        (fire("nothing"), "the host has no schedule nothing"),
        (fire("idle"), "schedule idle is disabled"),
        (other_hosts, "the job id is not the one of this host, schedule and due time"),
    ] {
        let facts = decided(&Folded::default(), &fire);
        let result = skipped(&facts);
        assert_eq!((result.outcome, result.reason.as_deref()), (FireOutcome::Refused, Some(why)));
    }
    let facts = decide_fire(&host(), &HostState::default(), None, &fire("system"), noon(), false);
    assert_eq!(skipped(&facts).outcome, FireOutcome::Refused, "a host without a file has no schedules");
}

#[test]
fn a_job_that_the_agent_began_by_itself_becomes_a_job_once() {
    let started = JobStarted {
        job_id: fire("system").job_id,
        kind: JobKind::Backup,
        started_at: noon(),
        schedule_id: Some(schedule("system")),
        scheduled_at: Some(fire("system").scheduled_at),
        offline: true,
    };
    let fact = decide_started(&HostState::default(), &started, false).expect("a job");
    let folded = Folded::of([fact]);
    assert_eq!(decide_started(&folded.state, &started, false), None);
    assert_eq!(decide_started(&HostState::default(), &started, true), None);
    assert_eq!(decided(&folded, &fire("system")), [], "its fire, told later, makes no second one");
}

fn request() -> JobRequest {
    JobRequest {
        kind: None,
        schedule_id: None,
        options: None,
        actor: operator(),
        idempotency: None,
        new_id: id(9),
        queue_for: None,
        is_offline: false,
    }
}

fn of_schedule(kind: Option<&str>, schedule_id: &str) -> JobRequest {
    JobRequest { kind: kind.map(str::to_owned), schedule_id: Some(schedule(schedule_id)), ..request() }
}

fn of_kind(kind: &str, options: Value) -> JobRequest {
    JobRequest { kind: Some(kind.to_owned()), options: Some(options), ..request() }
}

fn queue(job: JobId, idempotency: Option<(&str, &str)>) -> Vec<Fact> {
    let idempotency = idempotency.map(|(key, body)| Idempotency { key: key.to_owned(), body_sha256: body.to_owned() });
    let request = JobRequest { new_id: job, idempotency, ..of_kind("backup", json!({"paths": ["/srv"]})) };
    match decide_job(&HostState::default(), Some(&content()), &request, noon()) {
        Ok(JobDecision::New(_, facts)) => facts,
        other => unreachable!("a new job was expected: {other:?}"),
    }
}

fn asked(request: &JobRequest) -> Result<JobQueued, Refusal> {
    match decide_job(&HostState::default(), Some(&content()), request, noon())? {
        JobDecision::New(_, facts) => match facts.as_slice() {
            [Fact::JobQueued(queued), Fact::JobDispatched(_)] => Ok(queued.clone()),
            other => unreachable!("job.queued and job.dispatched were expected: {other:?}"),
        },
        JobDecision::Existing(id) => unreachable!("{id} exists"),
    }
}

fn refusal(request: &JobRequest) -> String {
    match asked(request) {
        Err(Refusal::Invalid(why)) => why,
        other => unreachable!("Invalid was expected: {other:?}"),
    }
}

#[test]
fn an_operator_runs_what_a_schedule_runs_or_a_kind_with_options() {
    let queued = asked(&of_schedule(None, "system")).expect("a job");
    assert_eq!((queued.kind, queued.options), (JobKind::Backup, json!({"paths": ["/etc"]})));
    assert_eq!((queued.schedule_id, queued.scheduled_at), (Some(schedule("system")), None));
    assert_eq!(asked(&of_schedule(Some("backup"), "system")).expect("a job").kind, JobKind::Backup);
    let queued = asked(&of_kind("backup", json!({"paths": ["/srv"]}))).expect("a job");
    assert_eq!((queued.options, queued.schedule_id, queued.actor), (json!({"paths": ["/srv"]}), None, operator()));
}

#[test]
fn a_key_finds_its_job_with_the_same_body_and_is_refused_with_another() {
    let folded = Folded::of(queue(id(9), Some(("k", "body"))));
    let again = |body: &str| {
        let idempotency = Some(Idempotency { key: "k".to_owned(), body_sha256: body.to_owned() });
        let request = JobRequest { idempotency, new_id: id(10), ..of_kind("backup", json!({"paths": ["/srv"]})) };
        decide_job(&folded.state, Some(&content()), &request, noon())
    };
    assert_eq!(again("body"), Ok(JobDecision::Existing(id(9))));
    assert_eq!(again("other"), Err(Refusal::KeyReused));
}

#[test]
fn forget_takes_a_backup_schedules_retention_and_scope_and_is_not_its_success() {
    let queued = asked(&of_schedule(Some("forget"), "system")).expect("a job");
    assert_eq!(queued.kind, JobKind::Forget);
    assert_eq!(queued.options, json!({"schedule": "system", "retention_policy": {"keep_daily": 7}}));
    assert_eq!(queued.schedule_id, None, "the schedule backs up: its success is a backup's");
    let check = JobRequest { options: Some(json!({})), ..of_schedule(Some("check"), "system") };
    assert_eq!(asked(&check).expect("a job").schedule_id, None);
}

#[test]
fn a_backup_of_something_else_is_not_the_schedules() {
    let of = |options: Value| {
        let request = JobRequest { options: Some(options), ..of_schedule(None, "system") };
        asked(&request).expect("a job").schedule_id
    };
    assert_eq!(of(json!({"paths": ["/etc"]})), Some(schedule("system")));
    assert_eq!(
        of(json!({"paths": ["/etc"], "tags": ["by-hand"]})),
        Some(schedule("system")),
        "a tag more holds as much"
    );
    assert_eq!(of(json!({"paths": ["/srv"]})), None);
    assert_eq!(of(json!({"paths": ["/etc", "/srv"]})), None);
    assert_eq!(of(json!({"paths": ["/etc"], "excludes": ["/etc/*"]})), None, "less than the schedule's");
}

#[test]
fn what_no_agent_would_run_is_refused_at_once() {
    for (request, why) in [
        (request(), "say `kind`"),
        (of_schedule(Some("prune"), "system"), "runs backup, not prune"),
        (of_schedule(Some("bakcup"), "system"), "is not a kind of job"),
        (of_kind("bakcup", json!({})), "is not a kind of job"),
        (of_schedule(Some("forget"), "thin"), "a retention policy that keeps something"),
        (of_kind("forget", json!({"schedule": "system", "retention_policy": {"keep_last": 0}})), "a retention policy"),
        (of_kind("forget", json!({"retention_policy": {"keep_last": 1}})), "needs `options.schedule`"),
        (of_kind("forget", json!({"schedule": "system", "retention_policy": {"keep_within": "2w"}})), "not a span"),
        (of_kind("backup", json!({})), "needs `options.paths`"),
        (of_kind("backup", json!({"paths": ["/srv"], "dryrun": true})), "dryrun"),
        (of_kind("restore", json!({"target": "/restore"})), "needs `snapshot`"),
    ] {
        let text = refusal(&request);
        assert!(text.contains(why), "{request:?}: {text}");
    }
    let not_found = asked(&of_schedule(None, "nothing"));
    assert_eq!(not_found, Err(Refusal::NotFound("the host has no schedule nothing".to_owned())));
}

#[test]
fn a_host_without_a_repository_runs_nothing() {
    let without = |repo_url: Option<&str>| {
        let mut content = content();
        content.config = ConfigUpdate { repo_url: repo_url.map(str::to_owned), ..ConfigUpdate::default() }.into();
        decide_job(&HostState::default(), Some(&content), &of_schedule(None, "system"), noon())
    };
    for answer in [
        without(None),
        without(Some("")),
        decide_job(&HostState::default(), None, &of_kind("prune", json!({})), noon()),
    ] {
        assert!(matches!(&answer, Err(Refusal::Invalid(why)) if why.contains("no repository")), "{answer:?}");
    }
}

#[test]
fn cancel_is_asked_once_and_only_of_a_job_that_has_not_ended() {
    let mut folded = Folded::of(queue(id(9), None));
    let facts = decide_cancel(&folded.state, id(9), operator());
    assert_eq!(types(&facts), ["job.cancel_requested"]);
    folded.add(facts);
    assert_eq!(decide_cancel(&folded.state, id(9), operator()), [], "it was asked");
    assert_eq!(decide_cancel(&folded.state, id(8), operator()), [], "there is no such job");
    folded.add([started(id(9)), finished(id(9), "cancelled")]);
    assert_eq!(decide_cancel(&folded.state, id(9), operator()), [], "it has ended");
}

#[test]
fn a_job_that_needs_a_lease_is_dispatched_by_whoever_grants_it_and_a_cancel_ends_it_at_once() {
    let target: RepositoryTarget = "main".parse().expect("a target");
    let content = HostContent { repository: Some(target.clone()), ..content() };
    let request = of_kind("prune", json!({}));
    let new = decide_job(&HostState::default(), Some(&content), &request, noon());
    let Ok(JobDecision::New(job, facts)) = new else { unreachable!("a new job was expected: {new:?}") };
    assert_eq!(types(&facts), ["job.queued"]);
    let mut folded = Folded::of(facts);
    assert_eq!(folded.state.job(job).and_then(|job| job.repository.clone()), Some(target));
    assert_eq!(decide_tick(&folded.state, noon() + TimeDelta::days(30)), [], "it waits as long as it takes");
    let facts = decide_cancel(&folded.state, job, operator());
    assert_eq!(types(&facts), ["job.cancel_requested", "job.expired"]);
    // Of the two lines power loss may keep the first one only.
    folded.add(facts.into_iter().take(1));
    assert_eq!(types(&decide_tick(&folded.state, noon())), ["job.expired"]);
    folded.add(decide_tick(&folded.state, noon()));
    assert_eq!(folded.state.job(job).map(|job| job.status), Some(JobStatus::Cancelled));
    let unlock = decide_job(&HostState::default(), Some(&content), &of_kind("unlock", json!({})), noon());
    let Ok(JobDecision::New(_, facts)) = unlock else { unreachable!("a new job was expected: {unlock:?}") };
    assert_eq!(types(&facts), ["job.queued", "job.dispatched"]);
}

#[test]
fn a_restore_that_is_confirmed_and_not_in_place_is_refused() {
    let request = of_kind("restore", json!({"snapshot": "latest", "confirm": "alpha"}));
    let refused = decide_job(&HostState::default(), Some(&content()), &request, noon()).expect_err("beside or over?");
    assert!(matches!(&refused, Refusal::Invalid(why) if why.contains("`confirm` is for `in_place`")), "{refused:?}");
}

#[test]
fn a_token_enrolls_one_agent_however_often_that_asks() {
    let enrolled = |enrollment: u8, credential: &str| HostEnrolled {
        enrollment_id: id(enrollment),
        token_sha256: "t".to_owned(),
        credential_sha256: credential.to_owned(),
        fingerprint: None,
    };
    let first = decide_enroll(&HostState::default(), &enrolled(1, "c")).expect("good").expect("a change");
    let folded = Folded::of([first]);
    assert_eq!(folded.state.enrolled_at, Some(noon()));
    assert_eq!(decide_enroll(&folded.state, &enrolled(1, "c")), Ok(None));
    assert_eq!(decide_enroll(&folded.state, &enrolled(2, "c")), Err(Refusal::TokenUsed));
    assert_eq!(decide_enroll(&folded.state, &enrolled(1, "d")), Err(Refusal::TokenUsed));
    let anew = HostEnrolled { token_sha256: "u".to_owned(), ..enrolled(2, "d") };
    let anew = decide_enroll(&folded.state, &anew).expect("good").expect("a new token enrolls anew");
    let mut revoked = Folded::of([Fact::HostEnrolled(enrolled(1, "c"))]);
    revoked.add([Fact::HostRevoked(HostRevoked { actor: operator() })]);
    let mut later = folded;
    later.add([anew]);
    for state in [&revoked.state, &later.state] {
        assert_eq!(decide_enroll(state, &enrolled(1, "c")), Err(Refusal::TokenUsed), "a repetition undoes nothing");
    }
}
