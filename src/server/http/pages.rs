//! Edge. The pages for browsers: collects what a page shows and hands it to `server/page`, which makes HTML of it. Problems become pages
//! too. Does not change anything: what a page's buttons do is the operators' endpoints'.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderValue};

use super::answer::{Answer, Problem, answer, for_browsers, full, html};
use super::audit::entries_before;
use super::operator::contact;
use super::request::{Request, shown};
use crate::clock;
use crate::id::HostName;
use crate::problem::Severity;
use crate::server::access::Operator;
use crate::server::alert_channels_state::ChannelState;
use crate::server::app::{App, blocking};
use crate::server::channel_loop::all_channels;
use crate::server::fleet_state::rejection_alert;
use crate::server::host::Host;
use crate::server::page::alerts::{MOST, alerts_page};
use crate::server::page::audit::{PAGE, audit_page};
use crate::server::page::error::error_page;
use crate::server::page::fleet::{Filter, HostLine, earliest_fire, fleet_page};
use crate::server::page::fleet_config::ConfigState;
use crate::server::page::{Visitor, parts};

/// Problems of the configuration that are collected for a page.
const MOST_PROBLEMS: usize = 200;

pub(super) fn visitor(operator: &Operator) -> Visitor {
    Visitor { name: operator.name.clone(), role: operator.role, is_limited: operator.is_limited() }
}

/// Why somebody does not get a page, as a page.
pub(super) fn refusal(operator: Option<&Operator>, problem: Problem) -> Answer {
    problem.into_page(|body| error_page(operator.map(visitor).as_ref(), body))
}

pub(super) fn page(text: String) -> Answer {
    html(StatusCode::OK, text)
}

/// A parameter of the query, empty where it is absent.
pub(super) fn parameter<'a>(request: &'a Request, name: &str) -> &'a str {
    request.query.get(name).map(String::as_str).unwrap_or_default()
}

/// `GET /page/{part}`: the name has a hash of the part, so it never changes.
pub async fn part(_: &Arc<App>, request: Request) -> Result<Answer, Problem> {
    let name = request.parameters.get("part").map(String::as_str).unwrap_or_default();
    let Some(part) = parts::part(name) else {
        return Err(Problem::not_found("no-such-path", format!("there is no part {} of a page", shown(name))));
    };
    let mut answer = for_browsers(answer(StatusCode::OK, part.content_type, full(part.text)));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    Ok(answer)
}

/// `GET /`.
pub async fn fleet(app: &Arc<App>, request: Request, operator: Operator) -> Result<Answer, Problem> {
    let show = parameter(&request, "show");
    let filter = Filter::read(parameter(&request, "name"), show, parameter(&request, "after"));
    let Some(filter) = filter else {
        return Err(Problem::bad_request("bad-query", format!("show={}: there is no such list", shown(show))));
    };
    let config = if operator.is_limited() { None } else { Some(config_state(app)) };
    let app = Arc::clone(app);
    app.shared.servers.sync().await;
    blocking(move || {
        let now = clock::now();
        let channels = channels_for(&app, &operator, now);
        let hosts = seen_hosts(&app, &operator);
        let lines: Vec<HostLine> = hosts.iter().map(|host| line_of(&app, host, now)).collect();
        let by_name: BTreeMap<&HostName, &Arc<Host>> = hosts.iter().map(|host| (&host.name, host)).collect();
        let fire = |name: &HostName| {
            let host = by_name.get(name)?;
            earliest_fire(&host.slot.durable().state, host.content().as_deref(), now)
        };
        Ok(page(fleet_page(&visitor(&operator), &lines, &filter, config.as_ref(), &channels, fire, now)))
    })
    .await
}

/// `GET /alerts`: the fleet's own first, then the newest.
pub async fn alerts(app: &Arc<App>, _: Request, operator: Operator) -> Result<Answer, Problem> {
    let app = Arc::clone(app);
    app.shared.servers.sync().await;
    blocking(move || {
        let mut all = Vec::new();
        for host in app.hosts().into_iter().filter(|host| operator.may_see(&host.name)) {
            let state = host.slot.durable().state;
            all.extend(state.alerts.iter().map(|alert| (Some(host.name.clone()), alert.clone())));
        }
        // What nobody has seen to first.
        all.sort_by_key(|(_, alert)| (alert.acknowledged_by.is_some(), std::cmp::Reverse(alert.raised_at)));
        let of_fleet = rejection_alert(&app.fleet.durable().state).filter(|_| !operator.is_limited());
        all.splice(0..0, of_fleet.map(|alert| (None, alert)));
        let total = all.len();
        all.truncate(MOST);
        let now = clock::now();
        let channels = channels_for(&app, &operator, now);
        Ok(page(alerts_page(&visitor(&operator), &all, total, &channels, now)))
    })
    .await
}

/// `GET /audit?before=`.
pub async fn audit(app: &Arc<App>, request: Request, operator: Operator) -> Result<Answer, Problem> {
    let (entries, more) = entries_before(app, request.query("before")?, PAGE).await?;
    Ok(page(audit_page(&visitor(&operator), &entries, more, clock::now())))
}

/// The hosts that an operator may see, by name, as far as they are this fleet's. Blocks.
fn seen_hosts(app: &App, operator: &Operator) -> Vec<Arc<Host>> {
    let hosts: Vec<_> = app.hosts().into_iter().filter(|host| operator.may_see(&host.name)).collect();
    if app.shared.servers.in_company() {
        hosts.iter().for_each(|host| host.read_seen());
    }
    hosts
}

/// Channels are the fleet's.
fn channels_for(app: &App, operator: &Operator, now: DateTime<Utc>) -> Vec<ChannelState> {
    if operator.is_limited() { Vec::new() } else { all_channels(app, now) }
}

fn line_of(app: &App, host: &Host, now: DateTime<Utc>) -> HostLine {
    HostLine::of(&host.name, &host.slot.durable().state, host.content().as_deref(), &contact(app, host), now)
}

fn config_state(app: &App) -> ConfigState {
    let state = app.fleet.durable().state;
    let of_tls = app.tls.problem();
    let view = app.config();
    let mut problems: Vec<_> = view.problems.iter().chain(of_tls.as_ref()).collect();
    problems.sort_by_key(|problem| problem.severity != Severity::Error);
    let adopted = state.adopted.as_ref();
    ConfigState {
        version: state.version,
        commit: adopted.and_then(|adopted| adopted.commit.clone()),
        dirty: adopted.and_then(|adopted| adopted.dirty),
        hosts: adopted.map_or(0, |adopted| adopted.hosts),
        adopted_at: state.adopted_at,
        problem_count: problems.len(),
        problems: problems.into_iter().take(MOST_PROBLEMS).cloned().collect(),
        refused: rejection_alert(&state),
    }
}
