//! Edge. `restic-manager events`: what happened on all hosts, each event once, and what happens next.

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Args;
use hyper::Method;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::api::{DEADLINE, Query, path, read};
use super::client::{CliFailure, ServerArguments};
use super::failure::is_passing;
use super::follow::unless_interrupted;
use super::output::{Output, OutputArguments, remark};
use super::table::shortened;
use super::words::Times;
use crate::http_client::{ClientError, HttpClient};

/// Events of one answer: the largest are 64 KiB each.
const PAGE: usize = 200;
/// Seconds that one request waits for news.
const WAIT_SECS: u64 = 60;
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Of one value within a line.
const VALUE_COLUMNS: usize = 120;

#[derive(Debug, Args)]
pub struct EventsArguments {
    /// Go on with what happens from now on, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Only those of this host
    #[arg(long)]
    host: Option<String>,
    /// Those after this place, as an earlier run has told it [default: all that is kept; with -f from now on]
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Debug, Deserialize)]
struct Event {
    host: Option<String>,
    ts: DateTime<Utc>,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    payload: Map<String, Value>,
}

pub(super) async fn run(arguments: &EventsArguments) -> Result<u8, CliFailure> {
    let client = arguments.server.reach()?.client;
    let mut output = Output::new(arguments.output);
    // Times of many days are no use as "3 h ago", and wrong while they are followed.
    output.times = Times::Utc;
    let mut cursor = arguments.after.clone().or_else(|| arguments.follow.then(|| "now".to_owned()));
    let read = read_on(&client, arguments, &mut cursor, &mut output);
    let interrupted = match unless_interrupted(read).await {
        Some(result) => result.map(|()| false)?,
        None => true,
    };
    output.flush()?;
    if let Some(cursor) = cursor.filter(|cursor| cursor != "now") {
        remark(&format!("to go on from here: --after {cursor}"));
    }
    Ok(if interrupted { 130 } else { 0 })
}

/// Prints page after page, to the end of what is there or for ever. `cursor` is after what was printed.
async fn read_on(
    client: &HttpClient,
    arguments: &EventsArguments,
    cursor: &mut Option<String>,
    output: &mut Output,
) -> Result<(), CliFailure> {
    let (mut is_there, mut is_lost, mut pause) = (false, false, Duration::from_millis(250));
    loop {
        let wait = arguments.follow.then_some(WAIT_SECS);
        let answer = page(client, arguments.host.as_ref(), cursor.as_ref(), wait).await;
        let (lines, next) = match answer {
            Ok(answer) => answer,
            Err(error) if is_there && arguments.follow && is_passing(&error) => {
                if !is_lost {
                    remark(&format!("{}: trying again until the server is back", error.headline()));
                }
                is_lost = true;
                tokio::time::sleep(error.retry_after().unwrap_or(pause).min(LONGEST_PAUSE)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
            Err(error) => return Err(CliFailure::of(&error)),
        };
        if is_lost {
            remark("the server is back");
        }
        (is_there, is_lost, pause) = (true, false, Duration::from_millis(250));
        for line in &lines {
            if output.json {
                output.json(line)?;
            } else {
                output.line(&shown(&read(line)?))?;
            }
        }
        output.flush()?;
        *cursor = next.or(cursor.take());
        if lines.is_empty() && !arguments.follow {
            return Ok(());
        }
    }
}

/// Events after the cursor, and the next cursor.
async fn page(
    client: &HttpClient,
    host: Option<&String>,
    cursor: Option<&String>,
    wait: Option<u64>,
) -> Result<(Vec<Value>, Option<String>), ClientError> {
    let query = Query::default().with("host", host).with("after", cursor).with("wait", wait).with("limit", Some(PAGE));
    let patience = Duration::from_secs(wait.unwrap_or(0)) + DEADLINE;
    let answer =
        client.request(Method::GET, &format!("{}{}", path(&["events"]), query.text()), &[], None, patience).await?;
    if answer.status != 200 || answer.content_type != "application/x-ndjson" {
        return Err(answer.problem("it has no events"));
    }
    let text = String::from_utf8_lossy(&answer.body);
    let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
    let lines = lines.map_err(|_| answer.problem("its lines are no JSON"))?;
    let next = answer.headers.get("restic-manager-cursor").and_then(|value| value.to_str().ok()).map(str::to_owned);
    Ok((lines, next))
}

/// One line: when, where, what, and the payload's plain values.
fn shown(event: &Event) -> String {
    let mut line = Times::Utc.show(event.ts);
    line.push_str(&format!(" {} {}", event.host.as_deref().unwrap_or("(all)"), event.kind));
    for (name, value) in &event.payload {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            Value::Array(list) if list.is_empty() => continue,
            Value::Array(list) => format!("({})", list.len()),
            Value::Null | Value::Object(_) => continue,
        };
        line.push_str(&format!(" {name}={}", shortened(&value, VALUE_COLUMNS)));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_one_line_with_its_plain_values() {
        let event = json!({"host": "web-1", "seq": 4, "ts": "2026-01-01T00:00:00.25Z", "type": "job.finished", "payload":
            {"job_id": "j", "status": "failed", "exit_code": 1, "stats": {"a": 1}, "warnings": ["x", "y"], "error": "e".repeat(500)}});
        let line = shown(&read(&event).expect("an event"));
        let start = "2026-01-01T00:00:00Z web-1 job.finished error=eeee";
        assert!(
            line.starts_with(start) && line.ends_with(" exit_code=1 job_id=j status=failed warnings=(2)"),
            "{line}"
        );
        assert!(line.contains("e… exit_code"), "{line}");
        let fleet = json!({"ts": "2026-01-01T00:00:00Z", "type": "config.rejected"});
        assert_eq!(shown(&read(&fleet).expect("an event")), "2026-01-01T00:00:00Z (all) config.rejected");
    }
}
