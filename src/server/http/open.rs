//! Edge. What anybody may ask: whether the server lives, whether it is ready, and the document of all operations.

use std::sync::Arc;

use hyper::StatusCode;
use serde_json::json;

use super::answer::{Answer, Problem, answer, full, ok};
use super::request::Request;
use crate::server::app::App;

/// OpenAPI 3.1 of every operation. Written by hand; the tests below and `tests/outside` hold it against the table and the server.
pub const OPENAPI: &str = include_str!("openapi.json");

pub async fn healthz(_: &Arc<App>, _: Request) -> Result<Answer, Problem> {
    Ok(ok(&json!({"status": "ok"})))
}

pub async fn readyz(app: &Arc<App>, _: Request) -> Result<Answer, Problem> {
    if *app.stopping.borrow() {
        return Err(Problem::unavailable("stopping", "the server is stopping"));
    }
    Ok(ok(&json!({"status": "ready"})))
}

pub async fn openapi(_: &Arc<App>, _: Request) -> Result<Answer, Problem> {
    Ok(answer(StatusCode::OK, "application/json", full(OPENAPI)))
}

#[cfg(test)]
mod tests;
