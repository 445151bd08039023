//! Edge. The audit log over HTTP: what handlers say of a change before they answer it, and `GET /v1/audit`.

use std::net::IpAddr;
use std::sync::Arc;

use super::answer::{Answer, Problem, ok};
use super::operator::page_limit;
use super::request::Request;
use crate::id::{HostName, JobId};
use crate::server::access::Operator;
use crate::server::app::{App, blocking};
use crate::server::audit::{Action, Change, Entry, newest_first, record};
use crate::server::view;

/// An operator's change, which is done: returns when it is in the log.
pub async fn changed(
    app: &App,
    client: IpAddr,
    operator: &Operator,
    action: Action,
    host: Option<&HostName>,
    job: Option<JobId>,
) -> Result<(), Problem> {
    let (by, role) = (operator.name.clone(), operator.role.to_string());
    keep(app, Change { by, role, action, host: host.cloned(), job, client }).await
}

/// The same of an agent's.
pub async fn changed_by_agent(app: &App, client: IpAddr, host: &HostName, action: Action) -> Result<(), Problem> {
    let (by, role) = (host.to_string(), "agent".to_owned());
    keep(app, Change { by, role, action, host: Some(host.clone()), job: None, client }).await
}

async fn keep(app: &App, change: Change) -> Result<(), Problem> {
    let kept = record(app, change).await;
    kept.map_err(|error| Problem::from(error).after("it is done and not in the audit log: the log was to be written"))
}

/// `GET /v1/audit?limit=&before=`: newest first; `next` is the `before` of the page that follows.
pub async fn audit(app: &Arc<App>, request: Request, _: Operator) -> Result<Answer, Problem> {
    let (entries, more) = entries_before(app, request.query("before")?, page_limit(&request)?).await?;
    let next = entries.last().filter(|_| more).map(|entry| entry.seq.to_string());
    // Text, numbers and times always have a JSON form.
    let entries = entries.iter().map(|entry| serde_json::to_value(entry).unwrap_or_default()).collect();
    Ok(ok(&view::page("audit", entries, next)))
}

/// At most `limit` entries, newest first, those before this seq if one is given; and whether there are more.
pub async fn entries_before(app: &Arc<App>, before: Option<u64>, limit: usize) -> Result<(Vec<Entry>, bool), Problem> {
    if app.shared.servers.in_company() {
        app.fleet.refresh().await;
    }
    let (dir, head) = (app.state_dir.fleet_dir(), app.fleet.durable().head.seq);
    let up_to = before.map_or(head, |before| before.saturating_sub(1).min(head));
    Ok(blocking(move || newest_first(&dir, up_to, limit)).await?)
}
