//! Edge. Questions about a host's snapshots, asked over HTTP and answered by its agent: each makes a query job, waits for it, and
//! shows a page of what is in its log. Further pages read the same log, at the place that the cursor names, and ask nobody.
//! A viewer may ask: nothing is changed, and the job's actor says who asked. Does not run anything.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use hyper::StatusCode;
use serde_json::{Map, Value, json};

use super::answer::{Answer, Problem, json as json_answer, ok};
use super::operator::{host_of, is_away, page_limit, read_job, show_job, snapshots_of, wait_for_end};
use super::request::{Request, shown};
use crate::clock;
use crate::id::{HostName, JobId};
use crate::job::{Actor, ActorKind, Job, JobStatus};
use crate::protocol::agent_event::{LogDropped, LogSource, LogStream};
use crate::protocol::job_options::{JobKind, MOST_ENTRIES};
use crate::server::access::Operator;
use crate::server::app::{App, blocking};
use crate::server::decide::{JobDecision, JobRequest, Refusal, decide_job};
use crate::server::host::{Host, append_facts};
use crate::server::job_log;

/// So many queries of one host wait or run at a time.
const MOST_AT_ONCE: usize = 4;
const DEFAULT_WAIT_SECS: u64 = 30;
const LONGEST_WAIT_SECS: u64 = 300;
/// How long after the job's end its last lines may take to arrive.
const LAST_LINES: Duration = Duration::from_secs(20);
const LINES_LOOK: Duration = Duration::from_millis(50);
/// Bytes of a log that are read at a time.
const WINDOW_BYTES: usize = 256 * 1024;

/// What a kind of query is called in its answer.
struct Question {
    kind: JobKind,
    /// The list's name.
    list: &'static str,
    options: Value,
}

fn text(request: &Request, name: &str) -> Option<String> {
    request.query.get(name).filter(|text| !text.is_empty()).cloned()
}

fn in_path(request: &Request, name: &str) -> String {
    request.parameters.get(name).cloned().unwrap_or_default()
}

/// `GET /v1/hosts/{host}/snapshots/{snapshot}/ls?path=&recursive=&limit=&after=`.
pub async fn ls(app: &Arc<App>, request: Request, operator: Operator) -> Result<Answer, Problem> {
    let mut options = json!({"snapshot": in_path(&request, "snapshot"), "limit": MOST_ENTRIES});
    options["path"] = text(&request, "path").unwrap_or_else(|| "/".to_owned()).into();
    if request.flag("recursive")? {
        options["recursive"] = true.into();
    }
    ask(app, &request, &operator, Question { kind: JobKind::Ls, list: "entries", options }).await
}

/// `GET /v1/hosts/{host}/snapshots/{snapshot}/diff/{other}?limit=&after=`.
pub async fn diff(app: &Arc<App>, request: Request, operator: Operator) -> Result<Answer, Problem> {
    let (from, to) = (in_path(&request, "snapshot"), in_path(&request, "other"));
    let options = json!({"from": from, "to": to, "limit": MOST_ENTRIES});
    ask(app, &request, &operator, Question { kind: JobKind::Diff, list: "changes", options }).await
}

/// `GET /v1/hosts/{host}/find?pattern=&snapshot=&since=&until=&ignore_case=&limit=&after=`.
pub async fn find(app: &Arc<App>, request: Request, operator: Operator) -> Result<Answer, Problem> {
    let mut options = json!({"pattern": text(&request, "pattern").unwrap_or_default(), "limit": MOST_ENTRIES});
    if let Some(snapshot) = text(&request, "snapshot") {
        options["snapshot"] = snapshot.into();
    }
    for name in ["since", "until"] {
        if let Some(time) = request.query::<DateTime<Utc>>(name)? {
            options[name] = json!(time);
        }
    }
    if request.flag("ignore_case")? {
        options["ignore_case"] = true.into();
    }
    ask(app, &request, &operator, Question { kind: JobKind::Find, list: "matches", options }).await
}

/// `GET /v1/hosts/{host}/stats?snapshot=&mode=`.
pub async fn stats(app: &Arc<App>, request: Request, operator: Operator) -> Result<Answer, Problem> {
    let mut options = json!({});
    for name in ["snapshot", "mode"] {
        if let Some(value) = text(&request, name) {
            options[name] = value.into();
        }
    }
    ask(app, &request, &operator, Question { kind: JobKind::Stats, list: "entries", options }).await
}

/// `GET /v1/hosts/{host}/snapshots?refresh=1`: from the last report; with `refresh` the agent looks first.
pub async fn snapshots(app: &Arc<App>, request: Request, operator: Operator) -> Result<Answer, Problem> {
    if !request.flag("refresh")? && !request.query.contains_key("job") {
        let host = host_of(app, &request, &operator).await?;
        return snapshots_of(&host).await;
    }
    let question = Question { kind: JobKind::Snapshots, list: "snapshots", options: json!({}) };
    ask(app, &request, &operator, question).await
}

/// Where a page begins: the job, the bytes of its log before the place, and the seq of the last line that was shown.
struct Cursor {
    job: JobId,
    offset: u64,
    seq: u64,
}

impl Cursor {
    fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let (job, offset, seq) =
            (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        parts.next().is_none().then_some(Self { job, offset, seq })
    }

    fn shown(&self) -> String {
        format!("{}.{}.{}", self.job, self.offset, self.seq)
    }
}

/// The place that the request's `after` names.
fn cursor_of(request: &Request) -> Result<Option<Cursor>, Problem> {
    let Some(text) = text(request, "after") else { return Ok(None) };
    Cursor::read(&text)
        .map(Some)
        .ok_or_else(|| Problem::bad_request("bad-cursor", "after= is no cursor of this server: take it from `next`"))
}

/// What a folder of a snapshot holds, for a page.
pub(super) enum Listed {
    Entries { entries: Vec<Value>, next: Option<String>, is_cut: bool },
    NotYet(JobId),
}

fn listing(snapshot: &str, path: &str) -> Question {
    let options = json!({"snapshot": snapshot, "limit": MOST_ENTRIES, "path": path});
    Question { kind: JobKind::Ls, list: "entries", options }
}

/// Asks the agent what a folder holds; the answer is in the job.
pub(super) async fn begin_listing(
    app: &Arc<App>,
    host: &Arc<Host>,
    operator: &Operator,
    snapshot: &str,
    path: &str,
) -> Result<JobId, Problem> {
    begin(app, host, operator, &listing(snapshot, path)).await
}

/// What came of it, by the request's `job` or `after`.
pub(super) async fn listed(
    app: &Arc<App>,
    request: &Request,
    host: &Arc<Host>,
    operator: &Operator,
    limit: usize,
    wait_secs: u64,
) -> Result<Listed, Problem> {
    let cursor = cursor_of(request)?;
    let none = || Problem::bad_request("bad-query", "the query names no job: ask anew");
    let id = cursor.as_ref().map(|cursor| cursor.job).or(request.query("job")?).ok_or_else(none)?;
    let question = listing("", "");
    app.shared.servers.sync().await;
    job_of_question(host, id, &question).await?;
    wait_for_end(app, host, id, operator, Duration::from_secs(wait_secs)).await;
    let job = job_of_question(host, id, &question).await?;
    if !job.status.is_final() {
        return Ok(Listed::NotYet(id));
    }
    check_success(&host.name, &job)?;
    let page = read_page(host, &job, cursor.unwrap_or(Cursor { job: id, offset: 0, seq: 0 }), limit).await?;
    let is_truncated = job.stats.as_ref().is_some_and(|stats| stats.get("truncated") == Some(&Value::Bool(true)));
    Ok(Listed::Entries { entries: page.entries, next: page.next, is_cut: is_truncated || page.has_gap })
}

async fn ask(app: &Arc<App>, request: &Request, operator: &Operator, question: Question) -> Result<Answer, Problem> {
    let host = host_of(app, request, operator).await?;
    let limit = page_limit(request)?;
    let wait = request.query::<u64>("wait")?.unwrap_or(DEFAULT_WAIT_SECS).min(LONGEST_WAIT_SECS);
    let cursor = cursor_of(request)?;
    let before: Option<JobId> = request.query("job")?;
    let id = match (&cursor, before) {
        (Some(cursor), _) => cursor.job,
        (None, Some(id)) => id,
        (None, None) => begin(app, &host, operator, &question).await?,
    };
    app.shared.servers.sync().await;
    job_of_question(&host, id, &question).await?;
    wait_for_end(app, &host, id, operator, Duration::from_secs(wait)).await;
    let job = job_of_question(&host, id, &question).await?;
    if !job.status.is_final() {
        return Ok(not_yet(app, request, &host, &job));
    }
    check_success(&host.name, &job)?;
    if question.kind == JobKind::Snapshots {
        return snapshots_of(&host).await;
    }
    let cursor = cursor.unwrap_or(Cursor { job: id, offset: 0, seq: 0 });
    let page = read_page(&host, &job, cursor, limit).await?;
    Ok(ok(&shown_page(&question, &job, page)))
}

/// The job, if it is one of this host and asks such a thing.
async fn job_of_question(host: &Arc<Host>, id: JobId, question: &Question) -> Result<Job, Problem> {
    let found = read_job(host, id).await?.filter(|job| job.kind == question.kind);
    found.ok_or_else(|| {
        let (host, kind) = (shown(host.name.as_str()), question.kind);
        Problem::not_found("no-such-job", format!("host {host} has no {kind} job {id}"))
    })
}

/// Makes the query's job, if the agent is there to take it and has not too many already.
async fn begin(app: &Arc<App>, host: &Arc<Host>, operator: &Operator, question: &Question) -> Result<JobId, Problem> {
    if is_away(app, host) {
        let detail = format!(
            "host {} is offline, and only its agent can answer this: GET /v1/hosts/{} says when it was seen last",
            shown(host.name.as_str()),
            shown(host.name.as_str())
        );
        return Err(Problem::conflict("agent-offline", detail));
    }
    let request = JobRequest {
        kind: Some(question.kind.to_string()),
        schedule_id: None,
        options: Some(question.options.clone()),
        actor: Actor { kind: ActorKind::Operator, name: operator.name.clone() },
        idempotency: None,
        new_id: JobId(uuid::Uuid::new_v4()),
        queue_for: None,
        is_offline: false,
    };
    let content = host.content();
    let decided = host.slot.write(move |batch| {
        let asked = batch.state().jobs.values().filter(|job| job.kind.is_query()).count();
        if asked >= MOST_AT_ONCE {
            return Ok(None);
        }
        let decision = decide_job(batch.state(), content.as_deref(), &request, clock::now())?;
        Ok::<_, Refusal>(Some(match decision {
            JobDecision::Existing(id) => id,
            JobDecision::New(id, facts) => {
                append_facts(batch, |_, _| facts);
                id
            }
        }))
    });
    decided.await??.ok_or_else(|| {
        let detail =
            format!("{MOST_AT_ONCE} questions to this host wait for their answers: ask again when one of them has it");
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-queries", detail)
    })
}

/// 202: the job, and where its answer will be.
fn not_yet(app: &App, request: &Request, host: &Host, job: &Job) -> Answer {
    let again = format!("{}?job={}", request.path, job.id);
    let mut answer = json_answer(StatusCode::ACCEPTED, &json!({"job": show_job(app, host, job), "again": again}));
    if let Ok(location) = again.parse() {
        answer.headers_mut().insert(hyper::header::LOCATION, location);
    }
    answer
}

/// 422: restic failed, the agent refused, or what was asked for is not there. By the code they are told apart; none is this server's
/// failure.
fn check_success(host: &HostName, job: &Job) -> Result<(), Problem> {
    if job.status == JobStatus::Succeeded {
        return Ok(());
    }
    let why = job.error.clone().unwrap_or_else(|| "no reason was given".to_owned());
    let detail = format!("{} on host {}, job {}: {why}", job.kind, shown(host.as_str()), job.id);
    let missing = job.stats.as_ref().and_then(|stats| stats.get("missing")?.as_str());
    let code = match missing {
        Some("snapshot") => "no-such-snapshot",
        Some("path") => "no-such-path",
        _ if job.exit_code.is_some() => "query-failed",
        _ => "query-refused",
    };
    Err(Problem::unprocessable(code, detail))
}

/// A page of the entries in a job's log.
#[derive(Debug, Default)]
struct Page {
    entries: Vec<Value>,
    next: Option<String>,
    /// Lines of the result did not reach the server.
    has_gap: bool,
}

async fn read_page(host: &Arc<Host>, job: &Job, cursor: Cursor, limit: usize) -> Result<Page, Problem> {
    let last = job.last_log_seq.unwrap_or(0);
    let deadline = tokio::time::Instant::now() + LAST_LINES;
    loop {
        let (path, from) = (host.log_path(job.id), Cursor { ..cursor });
        let (page, seq) = blocking(move || page_from(&path, from, limit, last)).await?;
        if seq >= last || page.next.is_some() {
            return Ok(page);
        }
        if tokio::time::Instant::now() >= deadline {
            let detail = format!(
                "the result of job {} has not arrived from the agent yet: ask again with job={}",
                job.id, job.id
            );
            return Err(Problem::unavailable("result-incomplete", detail));
        }
        tokio::time::sleep(LINES_LOOK).await;
    }
}

/// At most `limit` entries after the cursor, and how far the log was read.
fn page_from(
    path: &std::path::Path,
    mut at: Cursor,
    limit: usize,
    last: u64,
) -> Result<(Page, u64), crate::file_error::FileError> {
    let mut page = Page::default();
    loop {
        let (lines, offset) = job_log::read_after(path, at.offset, at.seq, WINDOW_BYTES)?;
        for line in lines {
            if page.entries.len() == limit && line.seq <= last {
                // Only where another entry follows is there another page.
                if entry_of(&line).is_some() {
                    page.next = Some(at.shown());
                    return Ok((page, at.seq));
                }
            }
            page.has_gap |= line.kind == LogDropped::TYPE;
            page.entries.extend(entry_of(&line));
            at.seq = line.seq;
        }
        if offset == at.offset {
            return Ok((page, at.seq));
        }
        at.offset = offset;
    }
}

fn entry_of(line: &crate::protocol::Envelope) -> Option<Value> {
    let log = serde_json::from_str::<LogStream>(line.payload.get()).ok()?;
    if log.stream != LogSource::Stdout { None } else { serde_json::from_str(&log.payload).ok() }
}

/// `{"<list>": [...], "next", "job", "truncated"}` and what the job's statistics say beside.
fn shown_page(question: &Question, job: &Job, page: Page) -> Value {
    let stats = job.stats.clone().unwrap_or_default();
    let mut shown = Map::new();
    if question.kind == JobKind::Stats {
        let counts = stats.into_iter().filter(|(name, _)| !matches!(name.as_str(), "entries" | "found" | "truncated"));
        shown.insert("stats".to_owned(), Value::Object(counts.collect()));
        shown.insert("job".to_owned(), json!(job.id));
        return Value::Object(shown);
    }
    shown.insert(question.list.to_owned(), Value::Array(page.entries));
    shown.insert("next".to_owned(), json!(page.next));
    shown.insert("job".to_owned(), json!(job.id));
    let is_cut = stats.get("truncated") == Some(&Value::Bool(true)) || page.has_gap;
    shown.insert("truncated".to_owned(), is_cut.into());
    let rest = stats.into_iter().filter(|(name, _)| !matches!(name.as_str(), "entries" | "truncated"));
    match question.kind {
        JobKind::Diff => {
            let rest = rest.filter(|(name, _)| name != "found");
            shown.insert("statistics".to_owned(), Value::Object(rest.collect()));
        }
        _ => shown.extend(rest),
    }
    Value::Object(shown)
}
