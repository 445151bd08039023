//! What the journals should say, by the state of a host's jobs and of its agent.

use serde_json::json;

use super::*;
use crate::server::decide::{JobDecision, JobRequest, decide_cancel, decide_job};
use crate::server::fact::JobQueued;
use crate::server::folded::*;
use crate::server::leases::LeaseGranted;
use crate::server::leases::tests::Leases;

fn main() -> RepositoryName {
    "main".parse().expect("a name")
}

fn leased() -> HostContent {
    HostContent { repository: Some("main".parse().expect("a target")), ..content() }
}

fn queue(job: JobId, kind: &str) -> Vec<Fact> {
    let options = if kind == "backup" { json!({"paths": ["/etc"]}) } else { json!({}) };
    let request = JobRequest {
        kind: Some(kind.to_owned()),
        schedule_id: None,
        options: Some(options),
        actor: operator(),
        idempotency: None,
        queue_for: Some("1d".parse().expect("a span")),
        is_offline: false,
        new_id: job,
    };
    match decide_job(&HostState::default(), Some(&leased()), &request, noon()) {
        Ok(JobDecision::New(_, facts)) => facts,
        other => unreachable!("a new job was expected: {other:?}"),
    }
}

/// One host, one repository, and their journals.
struct Scene {
    host: Folded,
    leases: Leases,
    content: HostContent,
    is_configured: bool,
    last_seen: DateTime<Utc>,
    server_ready_at: DateTime<Utc>,
    now: DateTime<Utc>,
}

impl Scene {
    fn new() -> Self {
        let (last_seen, server_ready_at, now) = (noon(), noon() - TimeDelta::days(1), noon());
        let (host, leases) = (Folded::default(), Leases::default());
        Self { host, leases, content: leased(), is_configured: true, last_seen, server_ready_at, now }
    }

    fn ask<R>(&self, decide: impl FnOnce(Tenant<'_>) -> R) -> R {
        let has_repository = |_: &RepositoryName| self.is_configured;
        let silent_since = self.last_seen.max(self.server_ready_at);
        let contact = AgentContact { last_seen: Some(self.last_seen), silent_since, now: self.now };
        decide(Tenant {
            host: &host(),
            state: &self.host.state,
            head_seq: self.host.head.seq,
            content: Some(&self.content),
            has_repository: &has_repository,
            contact,
        })
    }

    /// Writes what is to be written of leases, and says what that was.
    fn settle(&mut self) -> Vec<String> {
        let facts = self.ask(|tenant| decide_leases(&self.leases.state, &main(), tenant));
        let said = facts.iter().map(|fact| match fact {
            LeaseFact::Released(released) => format!("released {:?}", released.why),
            other => other.to_new_line(noon()).kind,
        });
        let said = said.collect();
        self.leases.add(facts);
        let again = self.ask(|tenant| decide_leases(&self.leases.state, &main(), tenant));
        assert_eq!(again, [], "what was written is not written again");
        said
    }

    fn grant(&mut self, job: JobId) {
        self.leases.add([LeaseFact::Granted(LeaseGranted { job_id: job })]);
        let news = LeaseNews { granted: vec![job], waiting: Vec::new() };
        self.host.add(decide_news(&self.host.state, &news, noon()));
    }

    fn without_lease(&self) -> Vec<Fact> {
        self.ask(decide_without_lease)
    }
}

#[test]
fn a_job_wants_a_lease_is_dispatched_with_it_and_gives_it_back_at_its_end() {
    let mut scene = Scene::new();
    scene.host.add(queue(id(1), "backup"));
    assert_eq!(scene.settle(), ["lease.wanted"]);
    assert_eq!(scene.settle(), [""; 0]);
    scene.grant(id(1));
    assert!(scene.host.state.jobs[&id(1)].dispatch.is_some());
    assert_eq!(scene.settle(), [""; 0]);
    scene.host.add([accepted(id(1)), started(id(1))]);
    assert_eq!(scene.settle(), [""; 0]);
    scene.host.add([finished(id(1), "succeeded")]);
    assert_eq!(scene.settle(), ["released Ended"]);
}

#[test]
fn what_is_granted_or_waits_is_said_once_and_not_of_a_job_that_was_cancelled() {
    let mut host = Folded::of(queue(id(1), "prune"));
    host.add(queue(id(2), "backup"));
    let news = LeaseNews { granted: vec![id(1), id(3)], waiting: vec![(id(2), "the prune".to_owned())] };
    let facts = decide_news(&host.state, &news, noon());
    assert_eq!(types(&facts), ["job.dispatched", "job.waiting"]);
    host.add(facts);
    assert_eq!(host.state.jobs[&id(2)].waiting_for.as_deref(), Some("the prune"));
    assert_eq!(decide_news(&host.state, &news, noon()), []);
    let mut cancelled = Folded::of(queue(id(1), "prune"));
    cancelled.add(decide_cancel(&cancelled.state, id(1), operator()).into_iter().take(1));
    assert_eq!(decide_news(&cancelled.state, &news, noon()), []);
}

#[test]
fn a_job_that_is_cancelled_while_it_waits_leaves_the_queue_also_when_half_of_that_is_lost() {
    for kept in [1, 2] {
        let mut scene = Scene::new();
        scene.host.add(queue(id(1), "backup"));
        assert_eq!(scene.settle(), ["lease.wanted"]);
        scene.host.add(decide_cancel(&scene.host.state, id(1), operator()).into_iter().take(kept));
        assert_eq!(scene.settle(), ["released Ended"]);
    }
}

#[test]
fn a_job_that_the_agent_runs_by_itself_takes_the_lease() {
    let mut scene = Scene::new();
    scene.host.add([queued(id(1)), started(id(1))]);
    assert_eq!(scene.settle(), ["lease.taken"]);
    assert_eq!(scene.leases.state.held(), 1);
    scene.host.add([finished(id(1), "succeeded")]);
    assert_eq!(scene.settle(), ["released Ended"]);
    // One that waited here meanwhile, and was begun there.
    scene.host.add(queue(id(2), "backup"));
    assert_eq!(scene.settle(), ["lease.wanted"]);
    scene.host.add([started(id(2))]);
    assert_eq!(scene.settle(), ["lease.taken"]);
}

#[test]
fn a_lease_lapses_after_fifteen_minutes_of_silence_and_is_taken_again_when_the_agent_is_back_with_the_job() {
    let mut scene = Scene::new();
    scene.host.add(queue(id(1), "backup"));
    scene.settle();
    scene.grant(id(1));
    scene.host.add([started(id(1))]);
    scene.now = noon() + TimeDelta::minutes(15);
    assert_eq!(scene.settle(), [""; 0]);
    scene.now = noon() + TimeDelta::minutes(16);
    let ready_at = std::mem::replace(&mut scene.server_ready_at, noon() + TimeDelta::minutes(10));
    assert_eq!(scene.settle(), [""; 0], "silence from before the server's readiness does not count");
    scene.server_ready_at = ready_at;
    assert_eq!(scene.settle(), ["released Lapsed"]);
    assert_eq!(scene.without_lease(), [], "the agent has it");
    scene.server_ready_at = scene.now;
    assert_eq!(scene.settle(), [""; 0], "a restart of the server brings no agent back");
    scene.last_seen = scene.now;
    assert_eq!(scene.settle(), ["lease.taken"]);
}

#[test]
fn a_command_that_a_lost_agent_did_not_take_is_withdrawn_and_wanted_anew_when_it_is_back() {
    let mut scene = Scene::new();
    scene.host.add(queue(id(1), "prune"));
    scene.settle();
    scene.grant(id(1));
    scene.now = noon() + TimeDelta::minutes(30);
    let withdrawn = scene.without_lease();
    assert_eq!(types(&withdrawn), ["job.waiting"]);
    scene.host.add(withdrawn);
    assert_eq!(scene.without_lease(), [], "once");
    assert_eq!(scene.settle(), ["released Lapsed"]);
    assert_eq!(scene.host.state.jobs[&id(1)].waiting_for.as_deref(), Some(OUT_OF_CONTACT));
    scene.now = noon() + TimeDelta::hours(25);
    assert_eq!(types(&scene.without_lease()), ["job.expired"], "nobody took it for a day");
    scene.last_seen = scene.now;
    assert_eq!(scene.without_lease(), []);
    assert_eq!(scene.settle(), ["lease.wanted"]);
    // It had it all the time.
    scene.host.add([accepted(id(1))]);
    assert_eq!(scene.settle(), ["lease.taken"]);
}

#[test]
fn a_job_waits_for_an_earlier_one_of_its_host_in_another_repository_and_keeps_no_lease_meanwhile() {
    let mut scene = Scene::new();
    scene.content.repository = Some("cold".parse().expect("a target"));
    let elsewhere = Fact::JobQueued(JobQueued { repository: scene.content.repository.clone(), ..job_queued(1) });
    let here = JobQueued { options: json!({"repository": "main"}), ..job_queued(2) };
    scene.host.add([elsewhere, Fact::JobQueued(JobQueued { repository: leased().repository, ..here })]);
    assert_eq!(scene.settle(), [""; 0]);
    let said = scene.without_lease();
    assert_eq!(types(&said), ["job.waiting"]);
    scene.host.add(said);
    let waiting = scene.host.state.jobs[&id(2)].waiting_for.as_deref();
    assert!(
        waiting.is_some_and(|text| text.contains("(backup on web-1), which its own agent runs first")),
        "{waiting:?}"
    );
    assert_eq!(scene.without_lease(), [], "once");
    scene.host.add([started(id(1)), finished(id(1), "succeeded")]);
    assert_eq!(scene.settle(), ["lease.wanted"]);
}

fn job_queued(number: u8) -> JobQueued {
    match queued(id(number)) {
        Fact::JobQueued(queued) => queued,
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn a_lost_agent_keeps_no_place_in_the_queue() {
    let mut scene = Scene::new();
    scene.host.add(queue(id(1), "prune"));
    scene.settle();
    assert_eq!(scene.without_lease(), []);
    scene.now = noon() + TimeDelta::minutes(16);
    assert_eq!(types(&scene.without_lease()), ["job.waiting"], "whoever asks is told why");
    assert_eq!(scene.settle(), ["released Lapsed"]);
    scene.last_seen = scene.now;
    assert_eq!(scene.settle(), ["lease.wanted"]);
}

#[test]
fn a_job_whose_repository_is_gone_or_another_needs_the_lease_no_more() {
    let mut scene = Scene::new();
    scene.host.add(queue(id(1), "backup"));
    scene.settle();
    assert_eq!(scene.without_lease(), []);
    scene.content.repository = Some("cold".parse().expect("a target"));
    assert_eq!(scene.settle(), ["released Moved"]);
    assert_eq!(scene.without_lease(), [], "it wants that of the other");
    scene.is_configured = false;
    assert_eq!(types(&scene.without_lease()), ["job.dispatched"]);
}

#[test]
fn a_lease_of_a_job_whose_beginning_was_not_read_yet_is_left_alone() {
    let mut scene = Scene::new();
    scene.host.add(queue(id(1), "backup"));
    scene.settle();
    let host = std::mem::take(&mut scene.host);
    assert_eq!(scene.settle(), [""; 0]);
    scene.now = noon() + TimeDelta::minutes(16);
    scene.last_seen = scene.now;
    assert_eq!(scene.settle(), ["released Ended"], "the host's journal is an older copy");
    scene.host = host;
    assert_eq!(scene.settle(), ["lease.wanted"]);
}
