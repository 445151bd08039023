//! Edge. The listener: connections, TLS, routes. Each request goes to one handler; a handler's error becomes a problem.
//! hyper's http1 directly, with limits on headers and on how long a client may be silent.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::app::{App, stopped};
use answer::{Answer, Problem, ok};
use request::{Request, shown};

pub mod agent;
pub mod answer;
pub mod enrollment;
pub mod operator;
pub mod request;
pub mod streams;

/// A silent connection is closed after this; the agent's pool forgets its own after 20 s.
const IDLE_LIMIT: Duration = Duration::from_secs(75);
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Everything that is open ends within this at shutdown.
const DRAIN_LIMIT: Duration = Duration::from_secs(9);
const HEADER_BYTES: usize = 16 * 1024;
const HEADER_FIELDS: usize = 64;

/// Every path. A new one has its row here, its handler below, and nothing else to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Enroll,
    Hello,
    Heartbeat,
    Commands,
    Events,
    AgentLog,
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
    Healthz,
    Readyz,
}

const ROUTES: [(&str, Route); 23] = [
    ("/v1/enroll", Route::Enroll),
    ("/v1/agents/{host}/hello", Route::Hello),
    ("/v1/agents/{host}/heartbeat", Route::Heartbeat),
    ("/v1/agents/{host}/commands", Route::Commands),
    ("/v1/agents/{host}/events", Route::Events),
    ("/v1/agents/{host}/jobs/{job}/log", Route::AgentLog),
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
    ("/healthz", Route::Healthz),
    ("/readyz", Route::Readyz),
];

async fn handle(app: &Arc<App>, route: Route, request: Request) -> Result<Answer, Problem> {
    let method = request.method.clone();
    match (route, &method) {
        (Route::Enroll, &Method::POST) => agent::enroll(app, request).await,
        (Route::Hello, &Method::POST) => agent::hello(app, request).await,
        (Route::Heartbeat, &Method::POST) => agent::heartbeat(app, request).await,
        (Route::Commands, &Method::GET) => agent::commands(app, request).await,
        (Route::Events, &Method::POST) => agent::events(app, request).await,
        (Route::AgentLog, &Method::POST) => agent::log(app, request).await,
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

async fn answer_request(app: Arc<App>, routes: Arc<Routes>, request: hyper::Request<Incoming>) -> Answer {
    let mut request = Request::new(request);
    let path = request.path.clone();
    let found = match routes.at(&path) {
        Ok(found) => found,
        Err(_) => {
            return Problem::not_found("no-such-path", format!("there is nothing at {}", shown(&path))).into_answer();
        }
    };
    request.parameters = found.params.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let method = request.method.clone();
    if !matches!(found.value, Route::Healthz | Route::Readyz) {
        app.catch_up_configuration().await;
    }
    let mut answer = match handle(&app, *found.value, request).await {
        Ok(answer) => answer,
        Err(problem) => problem.into_answer(),
    };
    tracing::debug!(%method, path = %shown(&path), status = answer.status().as_u16(), "answered");
    if *app.stopping.borrow() {
        answer.headers_mut().insert(hyper::header::CONNECTION, hyper::header::HeaderValue::from_static("close"));
    }
    debug_assert!(answer.status() != StatusCode::NO_CONTENT, "an answer without a body cannot prove who sent it");
    answer
}

/// Serves until `app.stopping` is true, then drains. The caller binds, so that tests use port 0.
pub async fn serve(app: Arc<App>, listener: TcpListener, tls: Option<Arc<rustls::ServerConfig>>) {
    let routes = Arc::new(routes());
    let acceptor = tls.map(TlsAcceptor::from);
    let mut connections = JoinSet::new();
    let mut stopping = app.stopping.subscribe();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = stopped(&mut stopping) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, usually: they come back as connections end.
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (app, routes, acceptor) = (Arc::clone(&app), Arc::clone(&routes), acceptor.clone());
        connections.spawn(async move {
            match acceptor {
                None => connection(app, routes, stream).await,
                Some(acceptor) => {
                    // Boxed apart: the handshake's state is large and lives shortly.
                    let handshake = Box::pin(tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)));
                    match handshake.await {
                        Ok(Ok(stream)) => connection(app, routes, stream).await,
                        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake"),
                        Err(_) => tracing::debug!("TLS handshake took too long"),
                    }
                }
            }
        });
    }
    drop(listener);
    let drained = tokio::time::timeout(DRAIN_LIMIT, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(connections = connections.len(), "closed connections that did not end by themselves");
    }
}

async fn connection(app: Arc<App>, routes: Arc<Routes>, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut stopping = app.stopping.subscribe();
    let service = service_fn(move |request| {
        let (app, routes) = (Arc::clone(&app), Arc::clone(&routes));
        async move { Ok::<_, Infallible>(answer_request(app, routes, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_LIMIT)
        .max_buf_size(HEADER_BYTES)
        .max_headers(HEADER_FIELDS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        // Clients go away all the time; that is no error of ours.
        _ = connection.as_mut() => return,
        () = stopped(&mut stopping) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
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
