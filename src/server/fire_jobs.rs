//! Pure. The jobs that one fire of a schedule makes, or one request to run it now: usually one, for maintenance one for each thing
//! there is to do, put together from the configuration of that moment. Does not decide whether the fire makes any.

use super::fact::JobQueued;
use super::fleet::maintenance::{maintained_repository, maintenance_jobs};
use super::host_content::HostContent;
use super::host_state::HostState;
use crate::id::JobId;
use crate::protocol::job_options::JobSpec;
use crate::protocol::schedule::Schedule;

/// What a run of the schedule does, at least one thing. The error says why there is nothing to do.
pub fn specs_of(state: &HostState, content: Option<&HostContent>, schedule: &Schedule) -> Result<Vec<JobSpec>, String> {
    if maintained_repository(&schedule.id).is_none() {
        return Ok(vec![schedule.job_spec()]);
    }
    let fleet = content.and_then(|content| content.maintains.as_deref());
    let fleet = fleet.ok_or_else(|| format!("{} is not maintained by this host", schedule.id))?;
    let nothing = Default::default();
    let rolled = state.schedules.get(&schedule.id).map_or(&nothing, |memory| &memory.rolled);
    maintenance_jobs(fleet, schedule, rolled)
}

/// These jobs as `first` is, with ids by their number. The one with number 0 comes last: while its line is not in the files (power
/// loss may keep any beginning of a batch) nothing is decided, and deciding it again makes the same jobs.
pub fn queued_jobs(
    state: &HostState,
    specs: Vec<JobSpec>,
    first: &JobQueued,
    id_of: impl Fn(usize) -> JobId,
) -> Vec<JobQueued> {
    let of_one = |(n, spec): (usize, JobSpec)| JobQueued {
        job_id: id_of(n),
        kind: spec.kind(),
        options: spec.options_json(),
        part_of: (n > 0).then(|| id_of(0)),
        idempotency: first.idempotency.clone().filter(|_| n == 0),
        ..first.clone()
    };
    let all = specs.into_iter().enumerate().map(of_one).rev();
    all.filter(|queued| queued.part_of.is_none() || state.job(queued.job_id).is_none()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::id::{ScheduleId, job_id_of_fire};
    use crate::protocol::agent_event::ScheduleFire;
    use crate::protocol::command::{ConfigUpdate, FireOutcome};
    use crate::protocol::repository_access::RepositoryAccess;
    use crate::server::decide::{JobDecision, JobRequest, Refusal, decide_fire, decide_job, decide_tick};
    use crate::server::fact::Fact;
    use crate::server::fleet::load::load;
    use crate::server::folded::*;

    /// web-1 maintains the repository of twelve hosts, each of which has its own.
    fn elected() -> HostContent {
        let mut files = BTreeMap::from([(
            "repositories/main.toml".to_owned(),
            "url = \"/srv/{host}\"\npassword = { file = \"/run/secrets/p\" }\n[maintenance]\nhost = \"web-1\"\nforget = \"@daily\"\nprune = \"@daily\"\ncheck = { cron = \"@daily\", read_data_subset = \"rolling/2\" }\n".to_owned(),
        )]);
        for n in 1..=12 {
            files.insert(format!("hosts/web-{n}.toml"), "repository = \"main\"\n".to_owned());
        }
        let (fleet, _) = load(&files);
        let targets = (1..=12).map(|n| format!("main/web-{n}").parse().expect("a target"));
        let maintained = Some(targets.map(|target| (target, RepositoryAccess::default())).collect());
        let schedules = fleet.hosts.get(&host()).expect("there").schedules.iter().map(|held| held.schedule.clone());
        HostContent {
            schedules: schedules.collect(),
            config: ConfigUpdate { maintained, ..ConfigUpdate::default() }.into(),
            maintains: Some(Arc::new(fleet)),
            ..content()
        }
    }

    fn decided(state: &HostState, kind: &str, at_text: &str) -> (ScheduleFire, Vec<Fact>) {
        let schedule_id: ScheduleId = format!("maintenance:main:{kind}").parse().expect("an id");
        let scheduled_at = at(at_text);
        let job_id = job_id_of_fire(&host(), &schedule_id, scheduled_at);
        let fire = ScheduleFire { schedule_id, scheduled_at, fired_at: scheduled_at, job_id };
        let facts = decide_fire(&host(), state, Some(&elected()), &fire, noon(), false);
        (fire, facts)
    }

    const DUE: &str = "2026-11-23T00:00:00Z";

    #[test]
    fn whatever_of_a_fires_jobs_power_loss_keeps_deciding_again_adds_the_others_and_none_twice() {
        let (fire, facts) = decided(&HostState::default(), "prune", DUE);
        assert_eq!(facts.len(), 12, "each waits for a lease");
        for kept in 0..=facts.len() {
            let mut folded = Folded::of(facts[..kept].iter().cloned());
            let (_, rest) = decided(&folded.state, "prune", DUE);
            folded.add(rest);
            folded.add(decide_tick(&folded.state, noon()));
            assert_eq!(folded.state.jobs.len(), 12, "{kept}");
            assert!(folded.state.jobs.values().all(|job| job.round() == fire.job_id), "{kept}");
            let results = &folded.state.schedules[&fire.schedule_id].results;
            let answers: Vec<JobId> = results.iter().map(|(_, _, result)| result.job_id).collect();
            assert_eq!(answers, [fire.job_id], "{kept}: one answer to the agent, of the fire's own job");
            assert_eq!(decided(&folded.state, "prune", DUE).1, [], "{kept}");
        }
    }

    #[test]
    fn the_next_fire_is_skipped_while_any_job_of_the_last_has_not_ended() {
        let (_, facts) = decided(&HostState::default(), "prune", DUE);
        let mut folded = Folded::of(facts);
        let ids: Vec<JobId> = folded.state.jobs.keys().copied().collect();
        for id in &ids {
            let (_, next) = decided(&folded.state, "prune", "2026-11-24T00:00:00Z");
            assert!(matches!(&next[..], [Fact::ScheduleSkipped(result)] if result.outcome == FireOutcome::Skipped));
            folded.add([started(*id), finished(*id, "succeeded")]);
        }
        assert_eq!(decided(&folded.state, "prune", "2026-11-24T00:00:00Z").1.len(), 12);
    }

    #[test]
    fn a_fire_with_nothing_to_do_is_skipped_with_the_reason() {
        let (_, facts) = decided(&HostState::default(), "forget", DUE);
        let [Fact::ScheduleSkipped(result)] = &facts[..] else { unreachable!("{facts:?}") };
        assert!(result.reason.as_ref().is_some_and(|reason| reason.contains("retention")), "{result:?}");
    }

    #[test]
    fn each_target_goes_on_to_its_next_part_when_the_one_before_was_read() {
        let parts = |facts: &[Fact]| -> BTreeMap<String, (JobId, String)> {
            let part = |fact: &Fact| match fact {
                Fact::JobQueued(queued) => {
                    let option = |name: &str| queued.options[name].as_str().expect("an option").to_owned();
                    Some((option("repository"), (queued.job_id, option("read_data_subset"))))
                }
                _ => None,
            };
            facts.iter().filter_map(part).collect()
        };
        let mut folded = Folded::default();
        for (day, one, two) in [(1, "1/2", "1/2"), (2, "2/2", "1/2"), (3, "1/2", "1/2")] {
            let (_, facts) = decided(&folded.state, "check", &format!("2026-11-0{day}T00:00:00Z"));
            let parts = parts(&facts);
            folded.add(facts);
            assert_eq!((parts["main/web-1"].1.as_str(), parts["main/web-2"].1.as_str()), (one, two), "{day}");
            for (target, (id, _)) in parts {
                folded.add([finished(id, if target == "main/web-2" { "failed" } else { "succeeded" })]);
            }
        }
    }

    #[test]
    fn an_operator_has_done_what_a_fire_does_or_one_thing_and_nothing_that_is_another_hosts() {
        let ask = |kind: Option<&str>, schedule_id: Option<&str>, options: Option<serde_json::Value>| {
            let (kind, schedule_id) = (kind.map(str::to_owned), schedule_id.map(schedule));
            let request = JobRequest {
                kind,
                schedule_id,
                options,
                actor: operator(),
                idempotency: None,
                new_id: id(7),
                queue_for: None,
                is_offline: false,
            };
            decide_job(&HostState::default(), Some(&elected()), &request, noon())
        };
        let Ok(JobDecision::New(first, facts)) = ask(None, Some("maintenance:main:check"), None) else {
            unreachable!("jobs")
        };
        let folded = Folded::of(facts);
        assert_eq!((first, folded.state.jobs.len()), (id(7), 12));
        assert!(folded.state.jobs.contains_key(&first));
        let of = |target: &str| Some(json!({"repository": target}));
        assert!(matches!(ask(Some("prune"), None, of("main/web-2")), Ok(JobDecision::New(..))));
        for (kind, options, says) in [
            ("prune", of("main"), "main/web-1"),
            ("prune", of("main/web-99"), "no access"),
            ("prune", of("other"), "does not maintain"),
            ("prune", None, "no repository"),
            (
                "forget",
                Some(json!({"schedule": "x", "retention_policy": {"keep_last": 1}, "hosts": ["web-2"]})),
                "options.repository",
            ),
        ] {
            let Err(Refusal::Invalid(text)) = ask(Some(kind), None, options) else { unreachable!("{kind} {says}") };
            assert!(text.contains(says), "{text}");
        }
        let Err(Refusal::Invalid(text)) = ask(None, Some("maintenance:main:forget"), None) else { unreachable!() };
        assert!(text.contains("retention"), "{text}");
    }
}
