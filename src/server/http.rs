//! Edge. From a request to its answer: `routes` says which operation it is, `gate` who may, a handler answers, and its error becomes
//! a problem. Connections are the modules' below: `listener` accepts them and `connection` lives with each.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, StatusCode};

use super::app::App;
use answer::{Answer, Problem};
use connection::Handover;
use peer::Peer;
use request::{Request, shown};
use routes::{Access, Routes, routes};

pub mod agent;
pub mod alerts;
pub mod answer;
pub mod audit;
pub mod client_address;
pub mod config_files;
pub mod connection;
pub mod credential;
pub mod enrollment;
pub mod gate;
pub mod host_pages;
pub mod listener;
pub mod metrics;
pub mod new_jobs;
pub mod open;
pub mod operator;
pub mod pages;
pub mod peer;
pub mod poll;
pub mod queries;
pub mod replay;
pub mod request;
pub mod routes;
pub mod socket;
pub mod stage;
pub mod status;
pub mod strangers;
pub mod streams;
pub mod whole_answer;

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
    let (method, path) = (request.method.clone(), request.path.clone());
    let found = match shared.routes.at(&path) {
        Ok(found) => found,
        Err(_) => {
            shared.app.traffic.count("", "", StatusCode::NOT_FOUND.as_u16());
            return nothing_at(shared, &request);
        }
    };
    request.parameters = found.params.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    request.handover = handover;
    let client = request.client;
    let mut place = ("", "");
    let answered = match found.value.operation(&method) {
        Ok(operation) => {
            place = (operation.method.as_str(), operation.path);
            if operation.access() != Access::Open {
                shared.app.catch_up_configuration().await;
            }
            gate::pass(&shared.app, operation, request).await
        }
        Err(problem) => Err(problem),
    };
    let answer = answered.unwrap_or_else(Problem::into_answer);
    shared.app.traffic.count(place.0, place.1, answer.status().as_u16());
    tracing::debug!(%client, %method, path = %shown(&path), status = answer.status().as_u16(), "answered");
    finished(&shared.app, answer)
}

/// 404: to a browser as a page, which leads back into the others for who has signed in.
fn nothing_at(shared: &Shared, request: &Request) -> Answer {
    let problem = Problem::not_found("no-such-path", format!("there is nothing at {}", shown(&request.path)));
    if request.method == Method::GET && request.wants_page() {
        return pages::refusal(gate::operator_with(&shared.app, request).as_ref(), problem);
    }
    problem.into_answer()
}

/// What every answer has to have.
fn finished(app: &App, mut answer: Answer) -> Answer {
    if *app.stopping.borrow() {
        answer.headers_mut().insert(hyper::header::CONNECTION, hyper::header::HeaderValue::from_static("close"));
    }
    debug_assert!(answer.status() != StatusCode::NO_CONTENT, "an answer without a body cannot prove who sent it");
    answer
}
