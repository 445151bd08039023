//! Pure. Answers: JSON, NDJSON, text, and errors as RFC 9457 problems with a stable `code`.
//! Does not decide which answer a request gets.

use std::convert::Infallible;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::protocol::{ProblemBody, ProblemEntry};
use crate::server::decide::Refusal;
use crate::server::find_job::FindError;
use crate::server::slot::WriteError;

/// Asks browsers for a password, which is the token.
const BASIC: &str = "Basic realm=\"restic-manager\", charset=\"UTF-8\"";

/// Whole or streamed; a stream that fails just ends.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;
pub type Answer = Response<Body>;

/// A body that is there already.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// An answer of any type.
pub fn answer(status: StatusCode, content_type: &'static str, body: Body) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A JSON document with a newline at its end, for terminals.
pub fn json(status: StatusCode, document: &impl Serialize) -> Answer {
    match serde_json::to_vec(document) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            answer(status, "application/json", full(bytes))
        }
        Err(error) => Problem::internal(&format!("the answer has no JSON form: {error}")).into_answer(),
    }
}

/// What a page may do: take its own style, script and icon, ask this server, and nothing else.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
    form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// A page for browsers.
pub fn html(status: StatusCode, page: String) -> Answer {
    for_browsers(answer(status, "text/html; charset=utf-8", full(page)))
}

/// The headers by which a browser keeps a page, or a part of one, apart from everything else.
pub fn for_browsers(mut answer: Answer) -> Answer {
    for (name, value) in [
        ("content-security-policy", PAGE_POLICY),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        answer.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    answer
}

/// 200 with a JSON document.
pub fn ok(document: &impl Serialize) -> Answer {
    json(StatusCode::OK, document)
}

/// A problem with further members.
pub fn problem_with(problem: &Problem, more: serde_json::Map<String, serde_json::Value>) -> Answer {
    // A struct of text and numbers always has a JSON form.
    let mut document = serde_json::to_value(&problem.body).unwrap_or_default();
    if let Some(members) = document.as_object_mut() {
        members.extend(more);
    }
    let status = StatusCode::from_u16(problem.body.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer(status, "application/problem+json", full(format!("{document}\n")))
}

/// An error on its way to becoming an answer.
#[derive(Debug, Clone)]
pub struct Problem {
    body: Box<ProblemBody>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        let body = ProblemBody {
            type_uri: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            code: code.to_owned(),
            ..ProblemBody::default()
        };
        Self { body: Box::new(body), headers: Vec::new() }
    }

    pub fn bad_request(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    pub fn not_found(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail)
    }

    pub fn unprocessable(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }

    pub fn conflict(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    pub fn unauthorized(detail: impl Into<String>) -> Self {
        let mut problem = Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail);
        problem.headers.push((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"restic-manager\"")));
        problem
    }

    /// The same to a page's script: by Basic the browser sends along what its user signed in with, which it else keeps to the part of
    /// the server where that was.
    pub fn to_browser(mut self) -> Self {
        self.headers.retain(|(name, _)| *name != WWW_AUTHENTICATE);
        self.headers.push((WWW_AUTHENTICATE, HeaderValue::from_static(BASIC)));
        self
    }

    /// 401 to an agent whose connection has shown no certificate. The connection ends with it: the agent may have one that was
    /// not asked for when it connected.
    pub fn client_certificate() -> Self {
        let detail = "agents of this server must show a client certificate signed by the authority in server.toml's [tls] client_ca, and \
            this connection has shown none: give the agent its certificate and key";
        let mut problem = Self::new(StatusCode::UNAUTHORIZED, "client-certificate", detail);
        problem.headers.push((CONNECTION, HeaderValue::from_static("close")));
        problem
    }

    /// 405; `allowed` is the header's value: methods with commas between them.
    pub fn method_not_allowed(allowed: &str) -> Self {
        let detail = format!("this path takes {}", allowed.replace(", ", " or "));
        let mut problem = Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail);
        problem.headers.extend(HeaderValue::from_str(allowed).ok().map(|value| (ALLOW, value)));
        problem
    }

    pub fn internal(detail: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    pub fn unavailable(code: &str, detail: impl Into<String>) -> Self {
        let mut problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail);
        problem.headers.push((RETRY_AFTER, HeaderValue::from_static("5")));
        problem.body.retry_after_ms = Some(5000);
        problem
    }

    /// 409 to events that do not follow on what the server has.
    pub fn event_gap(expected: u64, got: u64) -> Self {
        let mut problem = Self::conflict("event-gap", format!("seq {got} came where {expected} is next"));
        problem.body.expected = Some(expected);
        problem
    }

    /// The same about what followed on something that is done and stays so.
    pub fn after(mut self, done: &str) -> Self {
        self.body.detail = format!("{done}, but then: {}", self.body.detail);
        self
    }

    /// The same as a page for browsers, by its body; a 401 asks for a password, which is the token.
    pub fn into_page(self, page: impl FnOnce(&ProblemBody) -> String) -> Answer {
        let status = StatusCode::from_u16(self.body.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = html(status, page(&self.body));
        response.headers_mut().extend(self.headers);
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(BASIC));
        }
        response
    }

    /// What failed, in words.
    pub fn detail(&self) -> &str {
        &self.body.detail
    }

    /// 403: who asks is known, and may not.
    pub fn is_not_found(&self) -> bool {
        self.body.status == StatusCode::NOT_FOUND.as_u16()
    }

    pub fn is_forbidden(&self) -> bool {
        self.body.status == StatusCode::FORBIDDEN.as_u16()
    }

    pub fn with_errors(mut self, errors: Vec<ProblemEntry>) -> Self {
        self.body.errors = errors;
        self
    }

    pub fn into_answer(self) -> Answer {
        let status = StatusCode::from_u16(self.body.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // A struct of text and numbers always has a JSON form.
        let mut bytes = serde_json::to_vec(&self.body).unwrap_or_default();
        bytes.push(b'\n');
        let mut response = answer(status, "application/problem+json", full(bytes));
        response.headers_mut().extend(self.headers);
        response
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::DiskFull(_) => Self::new(StatusCode::INSUFFICIENT_STORAGE, "disk-full", error.to_string()),
            WriteError::Failed(_) => Self::unavailable("write-failed", error.to_string()),
            WriteError::Busy => Self::unavailable("busy", error.to_string()),
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotFound(detail) => Self::not_found("not-found", detail),
            Refusal::Invalid(detail) => Self::unprocessable("invalid", detail),
            Refusal::KeyReused => Self::unprocessable(
                "idempotency-key-reused",
                "this Idempotency-Key was used with another body in the last 7 days: use a new key",
            ),
            Refusal::TokenUsed => Self::forbidden("this enrollment token was used by another agent: ask for a new one"),
            Refusal::AgentOffline => Self::conflict(
                "agent-offline",
                "the agent is offline, or not enrolled (last_seen of its host says since when), so nothing was queued: ask again when it is back, or say how long the job may wait for it, for example \"queue_for\": \"2h\"",
            ),
            Refusal::Conflict(detail) => Self::conflict("conflict", detail),
        }
    }
}

impl From<crate::file_error::FileError> for Problem {
    fn from(error: crate::file_error::FileError) -> Self {
        Self::from(WriteError::from(&error))
    }
}

impl From<FindError> for Problem {
    fn from(error: FindError) -> Self {
        match error {
            FindError::File(error) => error.into(),
            FindError::NotYet(_) => Self::unavailable("not-indexed-yet", error.to_string()),
        }
    }
}
