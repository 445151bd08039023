//! Edge. The operators' endpoints on hosts and jobs. Parses, asks `decide`, writes, shows views.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::answer::{Answer, Problem, json, ok};
use super::audit;
use super::gate::{TOKEN_LOOK, check_still};
use super::request::{ContentType, Request, shown};
use crate::clock;
use crate::file_error::chain;
use crate::id::{HostName, JobId, ScheduleId};
use crate::job::{Actor, ActorKind, Job, JobStatus};
use crate::protocol::job_options::JobKind;
use crate::protocol::text::Span;
use crate::server::access::{Operator, Role, sha256_hex};
use crate::server::app::{App, blocking};
use crate::server::audit::Action;
use crate::server::decide::{JobDecision, JobRequest, Refusal, decide_abandon, decide_cancel, decide_job};
use crate::server::events_in::read_snapshots;
use crate::server::find_job::find_job;
use crate::server::history::{self, JobFilter};
use crate::server::host::{Host, append_facts};
use crate::server::host_state::is_unsaid;
use crate::server::silence::silent_since;
use crate::server::{job_log, lease_loop, view};

/// Longest `?wait=` of a job creation, in seconds.
const LONGEST_JOB_WAIT_SECS: u64 = 300;
/// How long a new job's answer waits for its lease to be granted or queued for.
const LONGEST_TURN_WAIT: Duration = Duration::from_secs(1);
const DEFAULT_PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;

pub fn no_such_host(name: &str) -> Problem {
    Problem::not_found(
        "no-such-host",
        format!("there is no host {}: is config/hosts/{}.toml there?", shown(name), shown(name)),
    )
}

/// The host of the path, if the operator may see it. One that it may not see does not exist for it.
pub async fn host_of(app: &Arc<App>, request: &Request, operator: &Operator) -> Result<Arc<Host>, Problem> {
    let text = request.parameters.get("host").cloned().unwrap_or_default();
    let name: HostName = text.parse().map_err(|_| no_such_host(&text))?;
    let host = if operator.may_see(&name) { app.current_host(&name).await } else { None };
    host.ok_or_else(|| no_such_host(&text))
}

pub fn contact(app: &App, host: &Host) -> view::Contact {
    view::Contact {
        last_seen: host.last_seen(),
        clock_skew_ms: host.clock_skew_ms(),
        poll_wait_secs: host.poll_wait_secs(),
        silent_since: Some(silent_since(host.last_seen(), app.outage)),
    }
}

/// Whether the agent is heard, and may be.
pub(super) fn is_online(app: &App, host: &Host) -> bool {
    host.slot.durable().state.enrolled_at.is_some() && view::is_online(&contact(app, host), clock::now())
}

/// Whether the agent is known to be away: not heard lately, or never and not enrolled a moment ago, about to begin.
fn is_away(app: &App, host: &Host) -> bool {
    let enrolled_at = host.slot.durable().state.enrolled_at;
    let mut contact = contact(app, host);
    contact.last_seen = contact.last_seen.or(enrolled_at);
    contact.silent_since = Some(silent_since(contact.last_seen, app.outage));
    enrolled_at.is_none() || !view::is_online(&contact, clock::now())
}

pub(super) fn show_job(app: &App, host: &Host, job: &Job) -> Value {
    let progress = match job.status {
        JobStatus::Running => host.progress(job.id).or_else(|| job_log::newest_progress(&host.log_path(job.id))),
        _ => None,
    };
    view::job_view(&host.name, job, progress.as_ref(), is_online(app, host), lease_loop::waiting_for(app, host, job))
}

fn show_host(app: &App, host: &Host) -> Value {
    let state = host.slot.durable().state;
    view::host_view(&host.name, &state, host.content().as_deref(), &contact(app, host), clock::now())
}

pub(super) fn page_limit(request: &Request) -> Result<usize, Problem> {
    Ok(request.query::<usize>("limit")?.unwrap_or(DEFAULT_PAGE).clamp(1, LARGEST_PAGE))
}

/// `GET /v1/hosts`: by name; `next` is the name to continue after.
pub async fn hosts(app: &Arc<App>, request: Request, operator: Operator) -> Result<Answer, Problem> {
    let limit = page_limit(&request)?;
    let after: Option<String> = request.query("after")?;
    let (app, after) = (Arc::clone(app), after.unwrap_or_default());
    app.shared.servers.sync().await;
    blocking(move || {
        let mut hosts =
            app.hosts().into_iter().filter(|h| operator.may_see(&h.name) && h.name.as_str() > after.as_str());
        let page: Vec<Arc<Host>> = hosts.by_ref().take(limit).collect();
        let next = page.last().filter(|_| hosts.next().is_some()).map(|host| host.name.to_string());
        if app.shared.servers.in_company() {
            page.iter().for_each(|host| host.read_seen());
        }
        Ok(ok(&view::page("hosts", page.iter().map(|host| show_host(&app, host)).collect(), next)))
    })
    .await
}

pub async fn host(app: &Arc<App>, request: Request, operator: Operator) -> Result<Answer, Problem> {
    let host = host_of(app, &request, &operator).await?;
    Ok(ok(&show_host(app, &host)))
}

pub async fn schedules(app: &Arc<App>, request: Request, operator: Operator) -> Result<Answer, Problem> {
    let host = host_of(app, &request, &operator).await?;
    Ok(ok(&view::schedules_view(&host.slot.durable().state, host.content().as_deref(), clock::now())))
}

/// `GET /v1/hosts/{host}/jobs`: newest first.
pub async fn jobs(app: &Arc<App>, request: Request, operator: Operator) -> Result<Answer, Problem> {
    let host = host_of(app, &request, &operator).await?;
    let status = match request.query::<String>("status")? {
        None => None,
        Some(text) => {
            let parsed = serde_json::from_value(Value::String(text.clone()));
            Some(parsed.map_err(|_| {
                Problem::bad_request(
                    "bad-query",
                    format!("status={}: there are queued, running, succeeded, failed, cancelled", shown(&text)),
                )
            })?)
        }
    };
    let filter = JobFilter {
        kind: request.query::<JobKind>("kind")?,
        status,
        schedule: request.query::<ScheduleId>("schedule")?,
        before: request.query("before")?,
    };
    let limit = page_limit(&request)?;
    let app = Arc::clone(app);
    blocking(move || {
        let head = host.slot.durable().head;
        let (jobs, more) = history::jobs(&host.journal_dir(), head.seq, &filter, limit)?;
        let next = jobs.last().filter(|_| more).map(|job| job.queued_seq.to_string());
        Ok(ok(&view::page("jobs", jobs.iter().map(|job| show_job(&app, &host, job)).collect(), next)))
    })
    .await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateJob {
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    schedule_id: Option<ScheduleId>,
    #[serde(default)]
    options: Option<Value>,
    #[serde(default)]
    queue_for: Option<Span>,
}

/// `POST /v1/hosts/{host}/jobs`.
pub async fn create_job(app: &Arc<App>, mut request: Request, operator: Operator) -> Result<Answer, Problem> {
    let host = host_of(app, &request, &operator).await?;
    let (body, bytes) = request.json::<CreateJob>(ContentType::MustBeJson).await?;
    let removes_all = body.options.as_ref().is_some_and(|o| o.get("remove_all") == Some(&Value::Bool(true)));
    if removes_all && operator.role < Role::Admin {
        return Err(Problem::forbidden(
            "unlock with remove_all needs an admin's token: it removes the locks of running jobs",
        ));
    }
    start_job(app, &host, &request, &operator, (body.kind, body.schedule_id, body.options, body.queue_for), &bytes)
        .await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RestoreRequest {
    snapshot: String,
    #[serde(default)]
    include: Vec<String>,
    #[serde(default)]
    exclude: Vec<String>,
    #[serde(default)]
    target: Option<String>,
    #[serde(default)]
    in_place: bool,
    #[serde(default)]
    confirm: Option<String>,
    #[serde(default)]
    overwrite: Option<String>,
    #[serde(default)]
    queue_for: Option<Span>,
}

/// `POST /v1/hosts/{host}/restore`: the restore job, with the restore's own words.
pub async fn restore(app: &Arc<App>, mut request: Request, operator: Operator) -> Result<Answer, Problem> {
    let host = host_of(app, &request, &operator).await?;
    let (body, bytes) = request.json::<RestoreRequest>(ContentType::MustBeJson).await?;
    let mut options = json!({"snapshot": body.snapshot, "include": body.include, "exclude": body.exclude});
    for (name, value) in [("target", body.target), ("confirm", body.confirm), ("overwrite", body.overwrite)] {
        if let Some(value) = value {
            options[name] = Value::String(value);
        }
    }
    if body.in_place {
        options["in_place"] = Value::Bool(true);
    }
    let asked = (Some("restore".to_owned()), None, Some(options), body.queue_for);
    start_job(app, &host, &request, &operator, asked, &bytes).await
}

async fn start_job(
    app: &Arc<App>,
    host: &Arc<Host>,
    request: &Request,
    operator: &Operator,
    (kind, schedule_id, options, queue_for): (Option<String>, Option<ScheduleId>, Option<Value>, Option<Span>),
    body: &[u8],
) -> Result<Answer, Problem> {
    let is_restore = kind.as_deref() == Some("restore");
    let confirmed = options.as_ref().and_then(|options| options.get("confirm")).and_then(Value::as_str);
    if is_restore && confirmed.is_some_and(|confirmed| confirmed != host.name.as_str()) {
        let detail =
            format!("`confirm` is not this host's name: to write over what is there, repeat {:?}", host.name.as_str());
        return Err(Problem::unprocessable("not-confirmed", detail));
    }
    let key = request.header("idempotency-key").map(str::to_owned);
    if key.as_ref().is_some_and(|key| key.is_empty() || key.len() > 255) {
        return Err(Problem::bad_request("bad-idempotency-key", "an Idempotency-Key has 1 to 255 characters"));
    }
    let idempotency = key.map(|key| crate::server::fact::Idempotency {
        key,
        // The same body to another endpoint is another request.
        body_sha256: sha256_hex(&[request.path.as_bytes(), b"\n", body].concat()),
    });
    let job_request = JobRequest {
        kind,
        schedule_id,
        options,
        actor: Actor { kind: ActorKind::Operator, name: operator.name.clone() },
        idempotency,
        new_id: JobId(uuid::Uuid::new_v4()),
        queue_for,
        is_offline: is_away(app, host),
    };
    let wait = request.query::<u64>("wait")?.unwrap_or(0).min(LONGEST_JOB_WAIT_SECS);
    let content = host.content();
    let decided = host
        .slot
        .write(move |batch| {
            let decision = decide_job(batch.state(), content.as_deref(), &job_request, clock::now())?;
            Ok::<_, Refusal>(match decision {
                JobDecision::Existing(id) => (id, false),
                JobDecision::New(id, facts) => {
                    append_facts(batch, |_, _| facts);
                    (id, true)
                }
            })
        })
        .await?;
    let (id, is_new) = decided?;
    app.leases.attend(&host.name);
    if is_new {
        let action = if is_restore { Action::JobRestore } else { Action::JobCreate };
        audit::changed(app, request.client, operator, action, Some(&host.name), Some(id)).await?;
    }
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    wait_for_turn(host, id).await;
    wait_for_end(app, host, id, operator, Duration::from_secs(wait)).await;
    let shown = shown_job(app, host, id).await?;
    let mut answer = json(status, &shown);
    if let Ok(location) = format!("/v1/jobs/{id}").parse() {
        answer.headers_mut().insert(hyper::header::LOCATION, location);
    }
    Ok(answer)
}

async fn shown_job(app: &Arc<App>, host: &Arc<Host>, id: JobId) -> Result<Value, Problem> {
    let job = read_job(host, id).await?.ok_or_else(|| no_such_job(id))?;
    let (app, host) = (Arc::clone(app), Arc::clone(host));
    Ok(blocking(move || show_job(&app, &host, &job)).await)
}

/// A job of this host, from memory or its files.
pub(super) async fn read_job(host: &Arc<Host>, id: JobId) -> Result<Option<Job>, Problem> {
    let host = Arc::clone(host);
    blocking(move || {
        let durable = host.slot.durable();
        match durable.state.job(id) {
            Some(job) => Ok(Some(job.clone())),
            None => Ok(history::job(&host.journal_dir(), durable.head.seq, id)?),
        }
    })
    .await
}

/// Until it is known whether the job runs now or waits, so that the answer says so: that takes two journals more. Not for long.
async fn wait_for_turn(host: &Host, id: JobId) {
    let mut changed = host.slot.watch();
    let known = async {
        while host.slot.durable().state.jobs.get(&id).is_some_and(is_unsaid) && changed.changed().await.is_ok() {}
    };
    let _ = tokio::time::timeout(LONGEST_TURN_WAIT, known).await;
}

pub(super) async fn wait_for_end(app: &App, host: &Host, id: JobId, operator: &Operator, wait: Duration) {
    let deadline = Instant::now() + wait;
    let mut changed = host.slot.watch();
    let mut stopping = app.stopping.subscribe();
    while host.slot.durable().state.jobs.contains_key(&id) && !*stopping.borrow() && check_still(app, operator).is_ok()
    {
        tokio::select! {
            _ = changed.changed() => {}
            _ = stopping.changed() => {}
            () = tokio::time::sleep_until(deadline.min(Instant::now() + TOKEN_LOOK)) => {}
        }
        if Instant::now() >= deadline {
            return;
        }
    }
}

fn no_such_job(id: JobId) -> Problem {
    Problem::not_found("no-such-job", format!("there is no job {id}"))
}

/// The job of the path and its host, if the operator may see that.
pub async fn job_of(app: &Arc<App>, request: &Request, operator: &Operator) -> Result<(Arc<Host>, Job), Problem> {
    let text = request.parameters.get("job").map(String::as_str).unwrap_or_default();
    let Ok(id) = text.parse::<JobId>() else {
        return Err(Problem::not_found("no-such-job", format!("{} is no job's id: those are UUIDs", shown(text))));
    };
    app.shared.servers.sync().await;
    let finder = Arc::clone(app);
    let found = blocking(move || find_job(&finder, id)).await?;
    found.filter(|(host, _)| operator.may_see(&host.name)).ok_or_else(|| no_such_job(id))
}

pub async fn job(app: &Arc<App>, request: Request, operator: Operator) -> Result<Answer, Problem> {
    let (host, job) = job_of(app, &request, &operator).await?;
    let app = Arc::clone(app);
    Ok(ok(&blocking(move || show_job(&app, &host, &job)).await))
}

pub async fn cancel(app: &Arc<App>, request: Request, operator: Operator) -> Result<Answer, Problem> {
    let (host, job) = job_of(app, &request, &operator).await?;
    let actor = Actor { kind: ActorKind::Operator, name: operator.name.clone() };
    host.append(move |state, _| decide_cancel(state, job.id, actor)).await?;
    app.leases.attend(&host.name);
    audit::changed(app, request.client, &operator, Action::JobCancel, Some(&host.name), Some(job.id)).await?;
    Ok(json(StatusCode::ACCEPTED, &shown_job(app, &host, job.id).await?))
}

pub async fn abandon(app: &Arc<App>, request: Request, operator: Operator) -> Result<Answer, Problem> {
    let (host, job) = job_of(app, &request, &operator).await?;
    let actor = Actor { kind: ActorKind::Operator, name: operator.name.clone() };
    let enrolled = host.slot.durable().state.enrolled_at.is_some();
    let online_until = contact(app, &host).online_until(clock::now()).filter(|_| enrolled);
    let decided = host.slot.write(move |batch| {
        let fact = decide_abandon(batch.state(), job.id, actor, online_until)?;
        append_facts(batch, |_, _| fact.into_iter().collect());
        Ok::<_, Refusal>(())
    });
    decided.await??;
    app.leases.attend(&host.name);
    audit::changed(app, request.client, &operator, Action::JobAbandon, Some(&host.name), Some(job.id)).await?;
    Ok(json(StatusCode::ACCEPTED, &shown_job(app, &host, job.id).await?))
}

/// The host's snapshots by its last report, newest first. A report of another repository than the host has now is not shown as its own.
pub(super) async fn snapshots_of(host: &Arc<Host>) -> Result<Answer, Problem> {
    let path = host.dir.join("snapshots.json");
    let file = blocking(move || read_snapshots(&path)).await.map_err(|error| {
        let why = chain(&error);
        tracing::error!("the list of snapshots is unknown until the agent's next report: {why}");
        let detail = format!("the list is unknown until the agent's next report, which follows its next backup: {why}");
        // No Retry-After: nothing is gained by asking soon.
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "snapshots-unknown", detail)
    })?;
    Ok(ok(&view::snapshots_view(host.content().as_deref(), file)))
}
