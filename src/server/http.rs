//! Edge. The routes: each request goes to one handler; a handler's error becomes a problem. Connections are the modules' below:
//! `listener` accepts them and `connection` lives with each.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, StatusCode};
use serde_json::json;

use super::access::operator_of;
use super::app::App;
use answer::{Answer, Problem, ok};
use connection::Handover;
use peer::Peer;
use request::{Request, shown};

pub mod agent;
pub mod answer;
pub mod audit;
pub mod client_address;
pub mod connection;
pub mod credential;
pub mod enrollment;
pub mod listener;
pub mod operator;
pub mod peer;
pub mod poll;
pub mod replay;
pub mod request;
pub mod socket;
pub mod stage;
pub mod strangers;
pub mod streams;
pub mod whole_answer;

/// Every path. A new one has its row here, its handler below, and nothing else to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Enroll,
    Hello,
    Heartbeat,
    Commands,
    Events,
    AgentLog,
    AgentCredential,
    Hosts,
    Host,
    Schedules,
    Jobs,
    Restore,
    Snapshots,
    Credential,
    Job,
    JobLog,
    Cancel,
    Abandon,
    AllEvents,
    Config,
    Reload,
    EnrollmentTokens,
    Audit,
    Healthz,
    Readyz,
}

const ROUTES: [(&str, Route); 25] = [
    ("/v1/enroll", Route::Enroll),
    ("/v1/agents/{host}/hello", Route::Hello),
    ("/v1/agents/{host}/heartbeat", Route::Heartbeat),
    ("/v1/agents/{host}/commands", Route::Commands),
    ("/v1/agents/{host}/events", Route::Events),
    ("/v1/agents/{host}/jobs/{job}/log", Route::AgentLog),
    ("/v1/agents/{host}/credential", Route::AgentCredential),
    ("/v1/hosts", Route::Hosts),
    ("/v1/hosts/{host}", Route::Host),
    ("/v1/hosts/{host}/schedules", Route::Schedules),
    ("/v1/hosts/{host}/jobs", Route::Jobs),
    ("/v1/hosts/{host}/restore", Route::Restore),
    ("/v1/hosts/{host}/snapshots", Route::Snapshots),
    ("/v1/hosts/{host}/credential", Route::Credential),
    ("/v1/jobs/{job}", Route::Job),
    ("/v1/jobs/{job}/log", Route::JobLog),
    ("/v1/jobs/{job}/cancel", Route::Cancel),
    ("/v1/jobs/{job}/abandon", Route::Abandon),
    ("/v1/events", Route::AllEvents),
    ("/v1/config", Route::Config),
    ("/v1/config/reload", Route::Reload),
    ("/v1/enrollment-tokens", Route::EnrollmentTokens),
    ("/v1/audit", Route::Audit),
    ("/healthz", Route::Healthz),
    ("/readyz", Route::Readyz),
];

async fn handle(app: &Arc<App>, route: Route, request: Request) -> Result<Answer, Problem> {
    let method = request.method.clone();
    match (route, &method) {
        (Route::Enroll, &Method::POST) => agent::enroll(app, request).await,
        (Route::Hello, &Method::POST) => agent::hello(app, request).await,
        (Route::Heartbeat, &Method::POST) => agent::heartbeat(app, request).await,
        (Route::Commands, &Method::GET) => poll::commands(app, request).await,
        (Route::Events, &Method::POST) => agent::events(app, request).await,
        (Route::AgentLog, &Method::POST) => agent::log(app, request).await,
        (Route::AgentCredential, &Method::POST) => credential::rotate(app, request).await,
        (Route::Hosts, &Method::GET) => operator::hosts(app, request).await,
        (Route::Host, &Method::GET) => operator::host(app, request).await,
        (Route::Schedules, &Method::GET) => operator::schedules(app, request).await,
        (Route::Jobs, &Method::GET) => operator::jobs(app, request).await,
        (Route::Jobs, &Method::POST) => operator::create_job(app, request).await,
        (Route::Restore, &Method::POST) => operator::restore(app, request).await,
        (Route::Snapshots, &Method::GET) => operator::snapshots(app, request).await,
        (Route::Credential, &Method::DELETE) => enrollment::revoke(app, request).await,
        (Route::Job, &Method::GET) => operator::job(app, request).await,
        (Route::JobLog, &Method::GET) => streams::log(app, request).await,
        (Route::Cancel, &Method::POST) => operator::cancel(app, request).await,
        (Route::Abandon, &Method::POST) => operator::abandon(app, request).await,
        (Route::AllEvents, &Method::GET) => streams::events(app, request).await,
        (Route::Config, &Method::GET) => streams::config(app, request).await,
        (Route::Reload, &Method::POST) => streams::reload(app, request).await,
        (Route::EnrollmentTokens, &Method::POST) => enrollment::enrollment_token(app, request).await,
        (Route::Audit, &Method::GET) => audit::audit(app, request).await,
        (Route::Healthz, &Method::GET) => Ok(ok(&json!({"status": "ok"}))),
        (Route::Readyz, &Method::GET) if *app.stopping.borrow() => {
            Err(Problem::unavailable("stopping", "the server is stopping"))
        }
        (Route::Readyz, &Method::GET) => Ok(ok(&json!({"status": "ready"}))),
        (Route::Jobs, _) => Err(Problem::method_not_allowed("GET, POST")),
        (Route::Credential, _) => Err(Problem::method_not_allowed("DELETE")),
        (
            Route::Enroll
            | Route::Hello
            | Route::Heartbeat
            | Route::Events
            | Route::AgentLog
            | Route::AgentCredential
            | Route::Restore
            | Route::Cancel
            | Route::Abandon
            | Route::Reload
            | Route::EnrollmentTokens,
            _,
        ) => Err(Problem::method_not_allowed("POST")),
        _ => Err(Problem::method_not_allowed("GET")),
    }
}

type Routes = matchit::Router<Route>;

fn routes() -> Routes {
    let mut router = Routes::new();
    for (path, route) in ROUTES {
        #[allow(clippy::expect_used, reason = "a constant table; `every_route_is_found` proves it")]
        router.insert(path, route).expect("paths differ");
    }
    router
}

/// What all connections have in common.
pub struct Shared {
    app: Arc<App>,
    routes: Routes,
}

/// `handover`: where a poll may be left that has to wait.
async fn answer_request(
    shared: &Shared,
    request: hyper::Request<Incoming>,
    handover: Option<Handover>,
    peer: &Arc<Peer>,
) -> Answer {
    let mut request = Request::new(request, peer, &shared.app);
    let path = request.path.clone();
    let found = match shared.routes.at(&path) {
        Ok(found) => found,
        Err(_) => {
            return Problem::not_found("no-such-path", format!("there is nothing at {}", shown(&path))).into_answer();
        }
    };
    request.parameters = found.params.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    request.handover = handover;
    let (method, client, token) = (request.method.clone(), request.client, request.token());
    if !matches!(found.value, Route::Healthz | Route::Readyz) {
        shared.app.catch_up_configuration().await;
    }
    let answer = match handle(&shared.app, *found.value, request).await {
        Ok(answer) => answer,
        Err(problem) => problem.into_answer(),
    };
    tracing::debug!(%client, %method, path = %shown(&path), status = answer.status().as_u16(), "answered");
    if answer.status() == StatusCode::FORBIDDEN
        && let Some(operator) = token.and_then(|token| operator_of(&shared.app.tokens(), &token))
    {
        let (token, role) = (operator.name, operator.role);
        tracing::warn!(%token, %role, %client, %method, path = %shown(&path), "refused: this token may not do that");
    }
    finished(&shared.app, answer)
}

/// What every answer has to have.
fn finished(app: &App, mut answer: Answer) -> Answer {
    if *app.stopping.borrow() {
        answer.headers_mut().insert(hyper::header::CONNECTION, hyper::header::HeaderValue::from_static("close"));
    }
    debug_assert!(answer.status() != StatusCode::NO_CONTENT, "an answer without a body cannot prove who sent it");
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_found() {
        let routes = routes();
        for (path, route) in ROUTES {
            let path = path.replace("{host}", "web-1").replace("{job}", "0190b5a2-7c1e-4c3a-9f00-0123456789ab");
            assert_eq!(routes.at(&path).map(|found| *found.value), Ok(route), "{path}");
        }
    }
}
