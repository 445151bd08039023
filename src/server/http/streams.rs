//! Edge. The operators' endpoints that stream or wait: job logs, all hosts' events, the configuration.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HeaderValue};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::answer::{Answer, Problem, answer, full, ok};
use super::audit;
use super::gate::{TOKEN_LOOK, check_still};
use super::operator::{job_of, no_such_host};
use super::request::{Request, shown};
use crate::id::{HostName, JobId};
use crate::protocol::Envelope;
use crate::protocol::agent_event::{JobProgress, LogStream};
use crate::server::access::{Operator, Role};
use crate::server::app::{App, blocking};
use crate::server::audit::{Action, TYPE as AUDIT};
use crate::server::host::Host;
use crate::server::{history, job_log};

/// Bytes of a log that are read at a time.
const LOG_CHUNK_BYTES: usize = 64 * 1024;
/// How long a follower waits for the last lines of a job that has ended.
const LAST_LINES_PATIENCE: Duration = Duration::from_secs(30);
/// Events in one answer.
const EVENTS_PAGE: usize = 1000;
const LONGEST_EVENTS_WAIT_SECS: u64 = 300;

/// `GET /v1/jobs/{job}/log?after=SEQ&follow=1`: NDJSON, or text with `Accept: text/plain`.
pub async fn log(app: &Arc<App>, request: Request, operator: Operator) -> Result<Answer, Problem> {
    let (host, job) = job_of(app, &request, &operator).await?;
    let after = request.query::<u64>("after")?.unwrap_or(0);
    let follow = match request.query.get("follow").map(String::as_str) {
        None | Some("0" | "false") => false,
        Some("" | "1" | "true") => true,
        Some(text) => {
            let detail = format!("follow: {:?} is neither 1 nor 0", shown(text));
            return Err(Problem::bad_request("bad-query", detail));
        }
    };
    let as_text = request.header(ACCEPT.as_str()).is_some_and(|accept| accept.starts_with("text/plain"));
    let (mut sender, body) = Channel::<Bytes, std::convert::Infallible>::new(4);
    let app = Arc::clone(app);
    tokio::spawn(async move {
        let mut place = Place { offset: 0, seq: after };
        let mut changed = host.slot.watch();
        let mut stopping = app.stopping.subscribe();
        let mut ended_at: Option<Instant> = None;
        loop {
            changed.mark_unchanged();
            // Looked at before the log is read: lines that come with the end are not missed.
            let end = log_end(&host, job.id).await;
            loop {
                let (path, at) = (host.log_path(job.id), place.clone());
                let read = blocking(move || job_log::read_after(&path, at.offset, at.seq, LOG_CHUNK_BYTES)).await;
                let Ok((lines, offset)) = read else { return };
                if offset == place.offset {
                    break;
                }
                place.offset = offset;
                place.seq = lines.last().map_or(place.seq, |line| line.seq);
                let bytes = render(&lines, as_text);
                if !bytes.is_empty() && sender.send_data(Bytes::from(bytes)).await.is_err() {
                    return;
                }
            }
            let complete = end.is_some_and(|last| place.seq >= last);
            if end.is_some() {
                ended_at.get_or_insert_with(Instant::now);
            }
            let given_up = ended_at.is_some_and(|at| at.elapsed() > LAST_LINES_PATIENCE);
            if !follow || complete || given_up || *stopping.borrow() {
                return;
            }
            tokio::select! {
                _ = changed.changed() => {}
                _ = stopping.changed() => {}
                // A silent peer is noticed, other servers' lines are seen, and so is the end of the token.
                () = tokio::time::sleep(TOKEN_LOOK) => {}
            }
            if check_still(&app, &operator).is_err() {
                return;
            }
        }
    });
    let content_type = if as_text { "text/plain; charset=utf-8" } else { "application/x-ndjson" };
    Ok(answer(StatusCode::OK, content_type, body.boxed_unsync()))
}

/// How far a follower has got.
#[derive(Debug, Clone)]
struct Place {
    offset: u64,
    seq: u64,
}

/// The seq of a finished job's last log line; `None` while it may go on.
async fn log_end(host: &Arc<Host>, id: JobId) -> Option<u64> {
    let durable = host.slot.durable();
    if durable.state.jobs.contains_key(&id) {
        return None;
    }
    let job = match durable.state.job(id) {
        Some(job) => Some(job.clone()),
        None => {
            let (dir, seq) = (host.journal_dir(), durable.head.seq);
            blocking(move || history::job(&dir, seq, id)).await.ok().flatten()
        }
    };
    Some(job.and_then(|job| job.last_log_seq).unwrap_or(0))
}

fn render(lines: &[Envelope], as_text: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        if as_text {
            bytes.extend(as_plain_text(line).into_bytes());
        } else {
            bytes.extend(serde_json::to_vec(line).unwrap_or_default());
            bytes.push(b'\n');
        }
    }
    bytes
}

/// One line for a person. Progress is left out, and control characters of the host's text never reach a terminal.
fn as_plain_text(line: &Envelope) -> String {
    if line.kind == JobProgress::TYPE {
        return String::new();
    }
    let at = line.ts.to_rfc3339_opts(SecondsFormat::Secs, true);
    match serde_json::from_str::<LogStream>(line.payload.get()) {
        Ok(log) => {
            let text: String =
                log.payload.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
            format!("{at} {text}\n")
        }
        Err(_) => format!("{at} [{}]\n", line.kind),
    }
}

/// `GET /v1/events?after=CURSOR&wait=30&host=`: NDJSON; the next cursor is in `Restic-Manager-Cursor`. Without `after`, from
/// the beginning of what is kept; `after=now` skips it.
pub async fn events(app: &Arc<App>, request: Request, operator: Operator) -> Result<Answer, Problem> {
    let wait = request.query::<u64>("wait")?.unwrap_or(0).min(LONGEST_EVENTS_WAIT_SECS);
    let only: Option<HostName> = request.query("host")?;
    if let Some(name) = only.as_ref().filter(|name| app.host(name).is_none_or(|host| !operator.may_see(&host.name))) {
        return Err(no_such_host(name.as_str()));
    }
    let limit = request.query::<usize>("limit")?.unwrap_or(EVENTS_PAGE).clamp(1, EVENTS_PAGE);
    let mut after = match request.query.get("after").map(String::as_str).unwrap_or_default() {
        "" => None,
        "now" => Some(app.horizon().await - TimeDelta::microseconds(1)),
        text => Some(parse_cursor(text)?),
    };
    // Who did what from where is the admins'.
    let shows_audit = operator.role == Role::Admin;
    let operator_now = operator.clone();
    let deadline = Instant::now() + Duration::from_secs(wait);
    let mut changed = app.shared.any_changed.subscribe();
    let mut stopping = app.stopping.subscribe();
    loop {
        changed.mark_unchanged();
        let (reader, operator, only) = (Arc::clone(app), operator.clone(), only.clone());
        let horizon = app.horizon().await;
        let lines = blocking(move || {
            let mut lines: Vec<(DateTime<Utc>, Value)> = Vec::new();
            // Nothing from here on can be among the first.
            let mut before = horizon;
            let mut collect = |host: Option<&HostName>, dir: &std::path::Path, seq: u64| {
                for line in history::lines_between(dir, seq, after, before, limit, |line| shows_audit || line.kind != AUDIT)? {
                    let mut event = json!({"host": host, "seq": line.seq, "ts": line.ts, "received_at": line.received_at, "type": line.kind, "payload": line.payload});
                    if let (Some(map), None) = (event.as_object_mut(), host) {
                        map.remove("host");
                    }
                    lines.push((line.received_at, event));
                }
                // Ten thousand hosts' pages are never held together.
                if let Some(last) = keep_first(&mut lines, limit) {
                    before = before.min(last + TimeDelta::microseconds(1));
                }
                Ok::<_, crate::file_error::FileError>(())
            };
            for host in reader.hosts().iter().filter(|h| operator.may_see(&h.name) && only.as_ref().is_none_or(|o| *o == h.name)) {
                let head = host.slot.durable().head;
                if head.at > after {
                    collect(Some(&host.name), &host.journal_dir(), head.seq)?;
                }
            }
            let head = reader.fleet.durable().head;
            if only.is_none() && !operator.is_limited() && head.at > after {
                collect(None, &reader.state_dir.fleet_dir(), head.seq)?;
            }
            Ok::<_, crate::file_error::FileError>(lines)
        })
        .await;
        let lines = lines?;
        check_still(app, &operator_now)?;
        if let Some((last, _)) = lines.last() {
            after = Some(*last);
        }
        if !lines.is_empty() || Instant::now() >= deadline || *stopping.borrow() {
            let mut bytes = Vec::new();
            for (_, event) in lines {
                bytes.extend(serde_json::to_vec(&event).unwrap_or_default());
                bytes.push(b'\n');
            }
            let mut response = answer(StatusCode::OK, "application/x-ndjson", full(bytes));
            let cursor = after.map_or(0, |at| at.timestamp_micros()).to_string();
            if let Ok(value) = HeaderValue::from_str(&cursor) {
                response.headers_mut().insert("restic-manager-cursor", value);
            }
            return Ok(response);
        }
        // With nothing new a look costs nothing; the token's end is noticed at once, and not only with news.
        loop {
            check_still(app, &operator_now)?;
            tokio::select! {
                _ = changed.changed() => break,
                _ = stopping.changed() => break,
                () = tokio::time::sleep_until(deadline.min(Instant::now() + TOKEN_LOOK)) => {}
            }
            if Instant::now() >= deadline {
                break;
            }
        }
    }
}

/// Keeps the first `limit` in the order of their times, and those of the last one's very time: the cursor is a time, and two
/// servers may have given one to lines of two hosts. Returns the last time where there were as many as that.
fn keep_first<T>(lines: &mut Vec<(DateTime<Utc>, T)>, limit: usize) -> Option<DateTime<Utc>> {
    lines.sort_by_key(|(at, _)| *at);
    let last = lines.get(limit.checked_sub(1)?)?.0;
    lines.truncate(lines.partition_point(|(at, _)| *at <= last));
    Some(last)
}

fn parse_cursor(text: &str) -> Result<DateTime<Utc>, Problem> {
    let parsed = text.parse().ok().and_then(DateTime::from_timestamp_micros);
    parsed.ok_or_else(|| {
        Problem::bad_request("bad-cursor", "after= is no cursor of this server: take it from Restic-Manager-Cursor")
    })
}

/// `GET /v1/config`.
pub async fn config(app: &Arc<App>, _: Request, _: Operator) -> Result<Answer, Problem> {
    Ok(ok(&config_view(app)))
}

/// Problems that are listed at most; `problem_count` is of all.
const SHOWN_PROBLEMS: usize = 1000;

fn config_view(app: &App) -> Value {
    let state = app.fleet.durable().state;
    let view = app.config();
    let of_tls = app.tls.problem();
    // Errors first: a broken group may be one in each of ten thousand hosts.
    let (errors, warnings): (Vec<_>, Vec<_>) =
        view.problems.iter().chain(of_tls.as_ref()).partition(|p| p.severity == crate::problem::Severity::Error);
    let count = errors.len() + warnings.len();
    let problems: Vec<Value> = errors
        .into_iter()
        .chain(warnings)
        .take(SHOWN_PROBLEMS)
        .map(|p| json!({"file": p.file, "line": p.line, "column": p.column, "severity": if p.severity == crate::problem::Severity::Error { "error" } else { "warning" }, "message": p.message}))
        .collect();
    json!({
        "version": state.version,
        "hash": state.adopted.as_ref().map(|a| &a.hash),
        "commit": state.adopted.as_ref().and_then(|a| a.commit.as_ref()),
        "dirty": state.adopted.as_ref().and_then(|a| a.dirty),
        "hosts": state.adopted.as_ref().map_or(0, |a| a.hosts),
        "adopted_at": state.adopted_at,
        "files_run": view.runs,
        "loaded_at": view.loaded_at,
        "problems": problems,
        "problem_count": count,
        "refused": state.rejected_hash.as_ref().map(|hash| json!({
            "hash": hash,
            "commit": state.rejected_commit,
            "at": state.rejected_at,
            "problem_count": state.rejected_count,
        })),
    })
}

/// `POST /v1/config/reload`: reads the directory now and reports.
pub async fn reload(app: &Arc<App>, request: Request, operator: Operator) -> Result<Answer, Problem> {
    audit::changed(app, request.client, &operator, Action::ConfigReload, None, None).await?;
    let mut reloaded = app.reloaded.subscribe();
    let mut ours = 0;
    app.reload_wanted.send_modify(|count| {
        *count += 1;
        ours = *count;
    });
    // One that is under way already may have read what was changed since: the one after it has seen everything.
    let done = tokio::time::timeout(Duration::from_secs(60), reloaded.wait_for(|seen| *seen >= ours)).await;
    if done.is_err() {
        return Err(Problem::unavailable("reload-slow", "the configuration is still being read: see GET /v1/config"));
    }
    Ok(ok(&config_view(app)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_not_cut_between_lines_of_one_time() {
        let at = |micros| DateTime::from_timestamp_micros(micros).expect("an instant");
        let mut lines: Vec<_> =
            [(5, 'f'), (1, 'a'), (3, 'c'), (3, 'd'), (2, 'b'), (3, 'e')].map(|(t, c)| (at(t), c)).into();
        assert_eq!(keep_first(&mut lines, 7), None, "all of a short page");
        assert_eq!(lines.len(), 6);
        assert_eq!(keep_first(&mut lines, 3), Some(at(3)));
        let kept: String = lines.iter().map(|(_, c)| *c).collect();
        assert_eq!(kept, "abcde");
    }
}
