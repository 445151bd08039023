//! Edge. `GET /v1/status`: 200 where everything has succeeded in time, 503 where something has not, so that one line of curl is a
//! monitor. Does not decide what is late: `status` does.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::ACCEPT;
use serde_json::{Value, json};

use super::answer::{Answer, Problem, answer, full, problem_with};
use super::operator::no_such_host;
use super::request::Request;
use crate::clock;
use crate::id::HostName;
use crate::protocol::text::Span;
use crate::server::access::Operator;
use crate::server::app::{App, blocking};
use crate::server::status::Status;

/// `GET /v1/status?max_age=26h&host=`: JSON, or text with `Accept: text/plain`. A limited token's is of its hosts.
pub async fn status(app: &Arc<App>, request: Request, operator: Operator) -> Result<Answer, Problem> {
    let max_age: Option<Span> = request.query("max_age")?;
    let only: Option<HostName> = request.query("host")?;
    let as_text = request.header(ACCEPT.as_str()).is_some_and(|accept| accept.starts_with("text/plain"));
    app.shared.servers.sync().await;
    let place = Arc::clone(app);
    let now = clock::now();
    let status = blocking(move || {
        let mut status = Status::default();
        let mut is_found = only.is_none();
        for host in place.hosts().iter().filter(|host| operator.may_see(&host.name)) {
            if only.as_ref().is_some_and(|only| *only != host.name) {
                continue;
            }
            is_found = true;
            if let Some(content) = host.content().filter(|content| content.configured) {
                status.add(&host.name, &host.slot.durable().state, &content, max_age, now);
            }
        }
        if is_found { Ok(status) } else { Err(only) }
    });
    let status = status.await.map_err(|name| no_such_host(name.as_ref().map_or("", HostName::as_str)))?;
    let code = if status.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if as_text {
        return Ok(answer(code, "text/plain; charset=utf-8", full(status.text(now))));
    }
    if status.ok {
        return Ok(super::answer::ok(&status));
    }
    // What is late is a problem like others, with what a program needs beside the words.
    let more = match json!(status) {
        Value::Object(more) => more,
        _ => serde_json::Map::new(),
    };
    Ok(problem_with(&Problem::new(code, "late", status.summary()), more))
}
