//! Pure. What an input makes of a host's state: facts to append, or a refusal. New ids and the time are arguments;
//! what memory has forgotten is looked up by the caller and passed in. Does not write, wake or answer anyone.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::fact::{Fact, HostEnrolled, Idempotency, JobQueued};
use super::fire_jobs::{queued_jobs, specs_of};
use super::host_content::HostContent;
use super::host_state::HostState;
pub use super::job_endings::{decide_abandon, decide_cancel, decide_tick};
use super::job_endings::{dispatched_by, lifetime};
use super::leases::needed_lease;
use crate::id::{
    HostName, JobId, RepositoryName, ScheduleId, job_id_of_fire, job_id_of_fire_part, job_id_of_request_part,
};
use crate::job::{Actor, ActorKind};
use crate::protocol::agent_event::ScheduleFire;
use crate::protocol::command::{FireOutcome, FireResult};
use crate::protocol::job_options::{BackupOptions, ForgetOptions, JobKind, JobSpec, RestoreOptions};
use crate::protocol::schedule::Schedule;
use crate::protocol::text::Span;
use crate::repository_target::RepositoryTarget;

/// A request that cannot be done, for the operator or agent who made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such schedule, job, ...
    NotFound(String),
    /// The request contradicts itself or the configuration.
    Invalid(String),
    /// The Idempotency-Key was used with another body.
    KeyReused,
    /// The agent is out of contact, and the job is not to wait for it.
    AgentOffline,
    /// The enrollment token was used, by another agent.
    TokenUsed,
    /// What was asked cannot be done in the present state.
    Conflict(String),
}

/// What follows from an agent's fire, beside the fire itself. `known` says that the files have this job although memory
/// has forgotten its due time.
pub fn decide_fire(
    host: &HostName,
    state: &HostState,
    content: Option<&HostContent>,
    fire: &ScheduleFire,
    now: DateTime<Utc>,
    known: bool,
) -> Vec<Fact> {
    let remembered = state.schedules.get(&fire.schedule_id);
    let decided = remembered.is_some_and(|m| m.fires.contains(&fire.scheduled_at.timestamp()));
    let is_answered =
        || remembered.is_some_and(|m| m.results.iter().any(|(_, _, result)| result.job_id == fire.job_id));
    let repeated = decided || known || state.job(fire.job_id).is_some();
    if repeated && is_answered() {
        return Vec::new();
    }
    let result = |outcome, reason: String| {
        vec![Fact::ScheduleSkipped(FireResult {
            schedule_id: fire.schedule_id.clone(),
            scheduled_at: fire.scheduled_at,
            job_id: fire.job_id,
            outcome,
            waiting_for: None,
            reason: Some(reason),
        })]
    };
    if repeated {
        // Its answer is forgotten; without one the agent would run it by itself.
        return result(FireOutcome::Skipped, "this due time was decided before".to_owned());
    }
    if fire.job_id != job_id_of_fire(host, &fire.schedule_id, fire.scheduled_at) {
        return result(
            FireOutcome::Refused,
            "the job id is not the one of this host, schedule and due time".to_owned(),
        );
    }
    let Some(schedule) = content.and_then(|c| c.schedule(&fire.schedule_id)) else {
        return result(FireOutcome::Refused, format!("the host has no schedule {}", fire.schedule_id));
    };
    if !schedule.enabled {
        return result(FireOutcome::Refused, format!("schedule {} is disabled", fire.schedule_id));
    }
    if let Some(job) = state.unfinished_of(&fire.schedule_id, fire.scheduled_at) {
        let reason = format!("job {} of this schedule is {}", job.id, job.status.as_str());
        return result(FireOutcome::Skipped, reason);
    }
    let specs = match specs_of(state, content, schedule) {
        Ok(specs) => specs,
        Err(reason) => return result(FireOutcome::Skipped, reason),
    };
    let first = JobQueued {
        job_id: fire.job_id,
        kind: schedule.kind,
        options: Value::Null,
        actor: Actor { kind: ActorKind::Schedule, name: fire.schedule_id.to_string() },
        schedule_id: Some(fire.schedule_id.clone()),
        scheduled_at: Some(fire.scheduled_at),
        idempotency: None,
        repository: None,
        part_of: None,
        take_by: None,
    };
    let id_of = |n| job_id_of_fire_part(host, &fire.schedule_id, fire.scheduled_at, n);
    queued_jobs(state, specs, &first, id_of).into_iter().flat_map(|queued| queue(queued, content, now)).collect()
}

/// A new job, and that the agent may take it: at once where it needs no lease, else when it has one.
fn queue(mut queued: JobQueued, content: Option<&HostContent>, now: DateTime<Utc>) -> Vec<Fact> {
    queued.repository = needed_lease(queued.kind, &queued.options, content).map(|(target, _)| target);
    let by = queued.take_by.unwrap_or(now + lifetime(queued.kind, queued.actor.kind));
    let at_once = queued.repository.is_none().then(|| dispatched_by(queued.job_id, by));
    std::iter::once(Fact::JobQueued(queued)).chain(at_once).collect()
}

/// What an operator asks to be run.
#[derive(Debug, Clone)]
pub struct JobRequest {
    pub kind: Option<String>,
    pub schedule_id: Option<ScheduleId>,
    pub options: Option<Value>,
    pub actor: Actor,
    pub idempotency: Option<Idempotency>,
    /// The id it gets if it becomes a job.
    pub new_id: JobId,
    /// How long it may wait for the agent to take it; absent: as `lifetime` says.
    pub queue_for: Option<Span>,
    /// Whether the agent is out of contact. Only a backup, which does no harm at whatever time, waits for it unasked.
    pub is_offline: bool,
}

/// The longest `queue_for`.
const LONGEST_QUEUE: Span = Span::from_secs(7 * 86_400);

fn time_delta(span: Span) -> TimeDelta {
    TimeDelta::seconds(i64::try_from(span.as_secs()).unwrap_or(i64::MAX / 2000))
}

/// A job that exists already (the same key and body), or the facts that make a new one.
#[derive(Debug, Clone, PartialEq)]
pub enum JobDecision {
    Existing(JobId),
    New(JobId, Vec<Fact>),
}

/// An operator's request for a job.
pub fn decide_job(
    state: &HostState,
    content: Option<&HostContent>,
    request: &JobRequest,
    now: DateTime<Utc>,
) -> Result<JobDecision, Refusal> {
    if let Some(idempotency) = &request.idempotency
        && let Some(known) = state.keys.get(&idempotency.key)
    {
        let same = known.body_sha256 == idempotency.body_sha256;
        return if same { Ok(JobDecision::Existing(known.job_id)) } else { Err(Refusal::KeyReused) };
    }
    let schedule = match &request.schedule_id {
        None => None,
        Some(id) => {
            let found = content.and_then(|c| c.schedule(id));
            Some(found.ok_or_else(|| Refusal::NotFound(format!("the host has no schedule {id}")))?)
        }
    };
    let specs = requested_specs(state, content, request, schedule)?;
    specs.iter().try_for_each(check_spec)?;
    // As a fire does: of a schedule's run the job of a target without access fails, and the others run.
    if schedule.is_none() || request.options.is_some() {
        specs.iter().filter_map(JobSpec::repository).try_for_each(|target| check_target(content, target))?;
    }
    for to in specs.iter().filter_map(JobSpec::copies_to) {
        check_copy_target(content, to)?;
    }
    let is_about_its_own = specs.iter().any(|spec| spec.repository().is_none());
    if is_about_its_own && content.is_none_or(|c| c.config.repo_url.as_deref().unwrap_or_default().is_empty()) {
        return Err(Refusal::Invalid(
            "the host has no repository: set `repository` in its file or its group's".to_owned(),
        ));
    }
    if content.is_some_and(|c| c.config_hash.is_empty()) {
        let detail =
            "the host has no settings yet, because a secret of its repository cannot be read: see GET /v1/config";
        return Err(Refusal::Invalid(detail.to_owned()));
    }
    // All of one kind.
    let kind = specs.first().map(JobSpec::kind);
    if request.queue_for.is_some_and(|span| span.is_zero() || span > LONGEST_QUEUE) {
        return Err(Refusal::Invalid(format!("`queue_for` is between 1s and {LONGEST_QUEUE}")));
    }
    if request.is_offline && request.queue_for.is_none() && kind != Some(JobKind::Backup) {
        return Err(Refusal::AgentOffline);
    }
    let first = JobQueued {
        job_id: request.new_id,
        kind: kind.ok_or_else(|| Refusal::Invalid("there is nothing to do".to_owned()))?,
        options: Value::Null,
        actor: request.actor.clone(),
        // The success of another kind of job (a forget by a backup schedule's rules), of other paths, or of a preview, is not the schedule's.
        schedule_id: schedule
            .filter(|schedule| Some(schedule.kind) == kind && !specs.iter().any(JobSpec::is_preview))
            .filter(|schedule| specs.iter().all(|spec| holds_the_same(spec, schedule)))
            .map(|schedule| schedule.id.clone()),
        scheduled_at: None,
        idempotency: request.idempotency.clone(),
        repository: None,
        part_of: None,
        take_by: request.queue_for.map(|span| now + time_delta(span)),
    };
    let jobs = queued_jobs(state, specs, &first, |n| job_id_of_request_part(request.new_id, n));
    let facts = jobs.into_iter().flat_map(|queued| queue(queued, content, now)).collect();
    Ok(JobDecision::New(request.new_id, facts))
}

/// Whether a snapshot of this would hold what the schedule's do, however it is made. Another one must neither look like the schedule's
/// success, nor carry its tag and push its snapshots out of what its retention keeps.
fn holds_the_same(spec: &JobSpec, schedule: &Schedule) -> bool {
    let (JobSpec::Backup(asked), JobSpec::Backup(own)) = (spec, schedule.job_spec()) else { return true };
    let (paths, excludes, iexcludes) = (asked.paths.clone(), asked.excludes.clone(), asked.iexcludes.clone());
    own == BackupOptions { paths, excludes, iexcludes, ..own.clone() }
}

/// What is to be done, all of one kind: more than one thing only where a schedule's fire would do as much.
fn requested_specs(
    state: &HostState,
    content: Option<&HostContent>,
    request: &JobRequest,
    schedule: Option<&Schedule>,
) -> Result<Vec<JobSpec>, Refusal> {
    let preview = request.options.as_ref().is_some_and(|options| *options == json!({"dry_run": true}));
    let as_it_is = request.options.is_none() || preview;
    let specs = match schedule.filter(|schedule| as_it_is && runs(schedule, request.kind.as_deref())) {
        Some(schedule) => specs_of(state, content, schedule).map_err(Refusal::Invalid)?,
        None if preview && request.kind.as_deref() == Some("forget") => {
            vec![requested_spec(&JobRequest { options: None, ..request.clone() }, schedule)?]
        }
        None => return Ok(vec![requested_spec(request, schedule)?]),
    };
    if preview { specs.iter().map(as_preview).collect() } else { Ok(specs) }
}

/// The same, to be told of and not done.
fn as_preview(spec: &JobSpec) -> Result<JobSpec, Refusal> {
    let mut options = spec.options_json();
    if let Some(options) = options.as_object_mut() {
        options.insert("dry_run".to_owned(), true.into());
    }
    JobSpec::parse(spec.kind().as_str(), Some(options)).map_err(Refusal::Invalid)
}

/// Whether that kind, or none by name, is what the schedule runs.
fn runs(schedule: &Schedule, kind: Option<&str>) -> bool {
    kind.is_none_or(|kind| kind == schedule.kind.as_str())
}

/// Whether the host maintains it.
fn check_target(content: Option<&HostContent>, target: &RepositoryTarget) -> Result<(), Refusal> {
    let maintained = content.and_then(|content| content.config.maintained.as_ref());
    if maintained.is_some_and(|maintained| maintained.contains_key(target)) {
        return Ok(());
    }
    let fleet = content.and_then(|content| content.maintains.as_ref());
    let is_elected = fleet.is_some_and(|fleet| fleet.repositories.contains_key(&target.repository));
    let parts = maintained.into_iter().flat_map(|all| all.keys());
    let part = parts.filter(|other| other.repository == target.repository).find(|other| other.host.is_some());
    Err(Refusal::Invalid(if let (true, Some(part), None) = (is_elected, part, &target.host) {
        format!("repository {target} is one for each host: name one of them, for example \"{part}\"")
    } else if is_elected {
        format!(
            "the host has no access to repository {target}: is there such a one, and can its secrets be read? see GET /v1/config"
        )
    } else {
        format!(
            "the host does not maintain repository {target}: host in [maintenance] of repositories/{}.toml says who does",
            target.repository
        )
    }))
}

/// Whether a copy schedule of the host names it.
fn check_copy_target(content: Option<&HostContent>, to: &RepositoryName) -> Result<(), Refusal> {
    let targets = content.and_then(|content| content.config.copy_targets.as_ref());
    if targets.is_some_and(|targets| targets.keys().any(|target| target.repository == *to)) {
        return Ok(());
    }
    Err(Refusal::Invalid(format!(
        "the host has no access to repository {to}: it needs a copy schedule with options = {{ to = \"{to}\" }}, and secrets that can be read (see GET /v1/config)"
    )))
}

fn requested_spec(request: &JobRequest, schedule: Option<&Schedule>) -> Result<JobSpec, Refusal> {
    let Some(schedule) = schedule else {
        let kind = request
            .kind
            .as_deref()
            .ok_or_else(|| Refusal::Invalid("say `kind`, or `schedule_id` to run what a schedule runs".to_owned()))?;
        return JobSpec::parse(kind, request.options.clone()).map_err(Refusal::Invalid);
    };
    match (request.kind.as_deref(), &request.options) {
        (None, None) => Ok(schedule.job_spec()),
        (Some("forget"), None) => Ok(JobSpec::Forget(ForgetOptions {
            schedule: Some(schedule.id.clone()),
            retention_policy: schedule.retention_policy.clone(),
            ..ForgetOptions::default()
        })),
        (Some(kind), Some(options)) => JobSpec::parse(kind, Some(options.clone())).map_err(Refusal::Invalid),
        (None, Some(options)) => {
            JobSpec::parse(schedule.kind.as_str(), Some(options.clone())).map_err(Refusal::Invalid)
        }
        (Some(kind), None) => {
            kind.parse::<JobKind>().map_err(|error| Refusal::Invalid(error.to_string()))?;
            Err(Refusal::Invalid(format!(
                "schedule {} runs {}, not {kind}: leave `kind` out, or leave `schedule_id` out",
                schedule.id, schedule.kind
            )))
        }
    }
}

/// What no agent would run, said at once instead of by a rejected result.
fn check_spec(spec: &JobSpec) -> Result<(), Refusal> {
    let invalid = |text: &str| Err(Refusal::Invalid(text.to_owned()));
    match spec {
        JobSpec::Backup(options) if options.paths.is_empty() => {
            invalid("a backup needs `options.paths`, or a `schedule_id` that has paths")
        }
        JobSpec::Forget(options) if options.schedule.is_none() => {
            invalid("forget needs `options.schedule`, so that it cannot touch another schedule's snapshots")
        }
        JobSpec::Forget(options) if options.repository.is_none() && !options.hosts.is_empty() => {
            invalid("forget of other hosts' snapshots needs `options.repository`: one that this host maintains")
        }
        JobSpec::Forget(options) if options.retention_policy.is_empty() => invalid(
            "forget needs a retention policy that keeps something: set `retention` in the schedule, or `options.retention_policy`",
        ),
        JobSpec::Forget(options) => match options.retention_policy.problems().first() {
            Some(problem) => invalid(problem),
            None => Ok(()),
        },
        JobSpec::Copy(options) if options.to.is_none() => {
            invalid("copy needs `options.to`: the repository that it writes to")
        }
        JobSpec::Verify(options) if options.sample_files.is_some_and(|count| !(1..=500).contains(&count)) => {
            invalid("`options.sample_files` is 1 to 500")
        }
        JobSpec::Restore(options) => check_restore(options).map_err(|text| Refusal::Invalid(text.to_owned())),
        JobSpec::Ls(options) if options.snapshot.is_empty() => invalid("ls needs `snapshot`: an id or \"latest\""),
        JobSpec::Find(options) if options.pattern.is_empty() => invalid("find needs `pattern`: a name or a path"),
        JobSpec::Diff(options) if options.from.is_empty() || options.to.is_empty() => {
            invalid("diff needs `from` and `to`: ids of snapshots")
        }
        _ => Ok(()),
    }
}

fn check_restore(options: &RestoreOptions) -> Result<(), &'static str> {
    if options.snapshot.is_empty() {
        return Err("restore needs `snapshot`: an id or \"latest\"");
    }
    if options.schedule.is_some() && options.snapshot != "latest" {
        return Err("`schedule` goes with `snapshot` \"latest\": another id says by itself which snapshot it is");
    }
    let has_patterns = !options.include.is_empty() || !options.exclude.is_empty();
    if !options.paths.is_empty() && has_patterns {
        return Err("`paths` are whole paths and exclude `include` and `exclude`, which are patterns");
    }
    match (options.in_place, &options.target) {
        (true, Some(_)) => {
            Err("`in_place` and `target` exclude each other: files go either back to where they were or there")
        }
        (true, None) if options.confirm.is_none() => {
            Err("`in_place` writes over what is there: confirm it by repeating the host's name as `confirm`")
        }
        (false, _) if options.confirm.is_some() => Err(
            "`confirm` is for `in_place`, which writes over what is there: say \"in_place\": true too, or leave `confirm` out to restore beside",
        ),
        (false, _) if options.overwrite.is_some() => {
            Err("`overwrite` is for `in_place`: in a new directory there is nothing to write over")
        }
        _ => Ok(()),
    }
}

/// Enrolls the host with a token that was found good. The same agent asking again is told the same, while what it enrolled is
/// what counts: neither a revocation nor a later enrollment is undone by repeating the request of before.
pub fn decide_enroll(state: &HostState, request: &HostEnrolled) -> Result<Option<Fact>, Refusal> {
    let Some(known) = state.enrollments.iter().find(|known| known.token_sha256 == request.token_sha256) else {
        return Ok(Some(Fact::HostEnrolled(request.clone())));
    };
    let is_same = known.enrollment_id == request.enrollment_id && known.credential_sha256 == request.credential_sha256;
    let counts = state.enrolled_at.is_some() && state.enrollments.back() == Some(known);
    if is_same && counts { Ok(None) } else { Err(Refusal::TokenUsed) }
}

#[cfg(test)]
mod tests;
