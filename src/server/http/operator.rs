//! Edge. The operators' endpoints on hosts and jobs. Parses, asks `decide`, writes, shows views.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use serde_json::Value;
use tokio::time::Instant;

use super::answer::{Answer, Problem, json, ok};
use super::audit;
use super::gate::{TOKEN_LOOK, check_still};
use super::request::{Request, shown};
use crate::clock;
use crate::file_error::chain;
use crate::id::{HostName, JobId, ScheduleId};
use crate::job::{Actor, ActorKind, Job, JobStatus};
use crate::protocol::agent_event::JobProgress;
use crate::protocol::job_options::JobKind;
use crate::server::access::Operator;
use crate::server::app::{App, blocking};
use crate::server::audit::Action;
use crate::server::decide::{Refusal, decide_abandon, decide_cancel};
use crate::server::events_in::read_snapshots;
use crate::server::find_job::{IdBeginning, find_job, find_jobs_beginning};
use crate::server::history::{self, JobFilter};
use crate::server::host::{Host, append_facts};
use crate::server::host_state::is_unsaid;
use crate::server::silence::silent_since;
use crate::server::{job_log, lease_loop, view};

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
pub(super) fn is_away(app: &App, host: &Host) -> bool {
    let enrolled_at = host.slot.durable().state.enrolled_at;
    let mut contact = contact(app, host);
    contact.last_seen = contact.last_seen.or(enrolled_at);
    contact.silent_since = Some(silent_since(contact.last_seen, app.outage));
    enrolled_at.is_none() || !view::is_online(&contact, clock::now())
}

/// The newest progress of a job that runs. May block.
pub(super) fn progress_of(host: &Host, job: &Job) -> Option<JobProgress> {
    match job.status {
        JobStatus::Running => host.progress(job.id).or_else(|| job_log::newest_progress(&host.log_path(job.id))),
        _ => None,
    }
}

pub(super) fn show_job(app: &App, host: &Host, job: &Job) -> Value {
    let progress = progress_of(host, job);
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
        no_questions: request.flag("no_questions")?,
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

pub(super) async fn shown_job(app: &Arc<App>, host: &Arc<Host>, id: JobId) -> Result<Value, Problem> {
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
pub(super) async fn wait_for_turn(host: &Host, id: JobId) {
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
    app.shared.servers.sync().await;
    let finder = Arc::clone(app);
    let Ok(id) = text.parse::<JobId>() else {
        let beginning = IdBeginning::of(text).ok_or_else(|| {
            let detail =
                format!("{} is no job's id: those are UUIDs, or eight and more of their first characters", shown(text));
            Problem::not_found("no-such-job", detail)
        })?;
        let mut found = blocking(move || find_jobs_beginning(&finder, &beginning)).await?;
        found.retain(|(host, _)| operator.may_see(&host.name));
        return the_only_one(found, text);
    };
    let found = blocking(move || find_job(&finder, id)).await?;
    found.filter(|(host, _)| operator.may_see(&host.name)).ok_or_else(|| no_such_job(id))
}

fn the_only_one(mut found: Vec<(Arc<Host>, Job)>, text: &str) -> Result<(Arc<Host>, Job), Problem> {
    if found.len() > 1 {
        let jobs = found.iter().map(|(host, job)| format!("{} ({} on {})", job.id, job.kind, host.name));
        let detail = format!("several jobs' ids begin with {text}: {}", jobs.collect::<Vec<_>>().join(", "));
        return Err(Problem::conflict("ambiguous-job-id", detail));
    }
    found.pop().ok_or_else(|| Problem::not_found("no-such-job", format!("there is no job whose id begins with {text}")))
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
    // Of one that has ended nothing is changed.
    if !job.status.is_final() {
        audit::changed(app, request.client, &operator, Action::JobCancel, Some(&host.name), Some(job.id)).await?;
    }
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
    if !job.status.is_final() {
        audit::changed(app, request.client, &operator, Action::JobAbandon, Some(&host.name), Some(job.id)).await?;
    }
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
