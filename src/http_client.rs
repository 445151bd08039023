//! Edge. The HTTP client of the agent and of the command line: one server, one token, bounded in time and size.
//! Tells the server's answers from those of whatever stands in between. Follows no redirect, repeats nothing, uses no
//! proxy, and keeps no state but its connections.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use crate::protocol::command::Secret;

mod error;
mod lines;

pub use error::{ClientError, Hop};
pub use lines::Lines;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Shorter than the server's 75 s, so that no request meets a connection that is just being closed.
const POOL_IDLE: Duration = Duration::from_secs(20);
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// Unacknowledged bytes for this long end a connection: the other side is gone.
#[cfg(target_os = "linux")]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest answer, in bytes, unless the caller says otherwise.
const ANSWER_LIMIT_BYTES: usize = 16 * 1024 * 1024;

/// Talks to one server. Clones share their connections.
#[derive(Clone)]
pub struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// Without a slash at its end.
    base_url: String,
    /// "Bearer ...", marked as sensitive.
    authorization: Option<HeaderValue>,
    answer_limit: usize,
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

/// A whole answer, whoever sent it.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    /// Without parameters, in lower case; empty where there is none.
    pub content_type: String,
    /// Only where given in seconds.
    pub retry_after: Option<Duration>,
    pub headers: HeaderMap,
}

impl HttpClient {
    /// `base_url` may have a path, under which the server is mounted. Plain http is for loopback addresses only, unless
    /// `allow_plain`: the token would travel in clear text.
    pub fn new(
        base_url: &str,
        token: Option<&Secret>,
        tls: rustls::ClientConfig,
        allow_plain: bool,
    ) -> Result<Self, ClientError> {
        let base_url = checked_base_url(base_url, allow_plain).map_err(ClientError::BaseUrl)?;
        let authorization = match token {
            None => None,
            Some(token) => {
                let value = HeaderValue::try_from(format!("Bearer {}", token.reveal()));
                let mut value =
                    value.map_err(|_| ClientError::Request("the token has characters that no token has"))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(TCP_KEEPALIVE));
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(2)
            .build(connector);
        Ok(Self { client, base_url, authorization, answer_limit: ANSWER_LIMIT_BYTES })
    }

    /// With another limit for the size of answers, in bytes.
    #[must_use]
    pub fn with_answer_limit(self, answer_limit: usize) -> Self {
        Self { answer_limit, ..self }
    }

    /// One request and its whole answer within `deadline`. Whose answer it is, `Answer::json` tells.
    pub async fn request(
        &self,
        method: Method,
        path_and_query: &str,
        headers: &[(&str, &str)],
        body: Option<(&str, Vec<u8>)>,
        deadline: Duration,
    ) -> Result<Answer, ClientError> {
        let until = Instant::now() + deadline;
        let request = self.build(method, path_and_query, headers, body)?;
        let response = self.send(request, until, deadline).await?;
        self.read(response, until, deadline).await
    }

    /// GET, with an answer that must be ours.
    pub async fn get_json<T: DeserializeOwned>(&self, path: &str, deadline: Duration) -> Result<T, ClientError> {
        self.request(Method::GET, path, &[], None, deadline).await?.json()
    }

    /// POST of a value as JSON, with an answer that must be ours.
    pub async fn post_json<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        deadline: Duration,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|_| ClientError::Request("the body has no JSON form"))?;
        self.request(Method::POST, path, &[], Some(("application/json", body)), deadline).await?.json()
    }

    /// GET of lines that come as they are made, for following. `deadline` is for the beginning of the answer; after that
    /// `idle` is the longest silence.
    pub async fn stream_lines(
        &self,
        path_and_query: &str,
        headers: &[(&str, &str)],
        deadline: Duration,
        idle: Duration,
    ) -> Result<Lines, ClientError> {
        let until = Instant::now() + deadline;
        let request = self.build(Method::GET, path_and_query, headers, None)?;
        let response = self.send(request, until, deadline).await?;
        let is_lines = matches!(
            content_type(response.headers()).as_str(),
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "text/plain"
        );
        if response.status().as_u16() == 200 && is_lines {
            return Ok(Lines::new(response.into_body(), idle));
        }
        let answer = self.read(response, until, deadline).await?;
        Err(answer.problem("it has no lines"))
    }

    fn build(
        &self,
        method: Method,
        path_and_query: &str,
        headers: &[(&str, &str)],
        body: Option<(&str, Vec<u8>)>,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let uri = Uri::try_from(format!("{}{path_and_query}", self.base_url)).ok();
        let uri = uri.filter(|_| path_and_query.starts_with('/'));
        let mut request = Request::new(Full::default());
        *request.method_mut() = method;
        *request.uri_mut() = uri.ok_or(ClientError::Request("the path cannot be part of a URL"))?;
        let map = request.headers_mut();
        map.insert(header::USER_AGENT, HeaderValue::from_static(concat!("restic-manager/", env!("CARGO_PKG_VERSION"))));
        map.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        map.extend(self.authorization.clone().map(|value| (header::AUTHORIZATION, value)));
        let content_type = body.as_ref().map(|(content_type, _)| ("content-type", *content_type));
        for (name, value) in headers.iter().copied().chain(content_type) {
            let pair = HeaderName::try_from(name).ok().zip(HeaderValue::try_from(value).ok());
            let (name, value) = pair.ok_or(ClientError::Request("a header has characters that no header has"))?;
            map.insert(name, value);
        }
        if let Some((_, bytes)) = body {
            *request.body_mut() = Full::from(bytes);
        }
        Ok(request)
    }

    async fn send(
        &self,
        request: Request<Full<Bytes>>,
        until: Instant,
        deadline: Duration,
    ) -> Result<Response<Incoming>, ClientError> {
        let response = timeout_at(until, self.client.request(request)).await;
        response
            .map_err(|_| ClientError::Timeout { what: "no answer", after: deadline })?
            .map_err(|error| ClientError::of_request(&self.base_url, error))
    }

    async fn read(
        &self,
        response: Response<Incoming>,
        until: Instant,
        deadline: Duration,
    ) -> Result<Answer, ClientError> {
        let (parts, body) = response.into_parts();
        let body = timeout_at(until, Limited::new(body, self.answer_limit).collect()).await;
        let body = body.map_err(|_| ClientError::Timeout { what: "no end of the answer", after: deadline })?;
        let body = body.map_err(|source| {
            if source.is::<LengthLimitError>() {
                ClientError::TooLarge { limit: self.answer_limit }
            } else {
                ClientError::Unreachable { hop: Hop::Answer, server: self.base_url.clone(), source }
            }
        })?;
        let seconds = parts.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        Ok(Answer {
            status: parts.status.as_u16(),
            body: body.to_bytes().into(),
            content_type: content_type(&parts.headers),
            retry_after: seconds.map(Duration::from_secs),
            headers: parts.headers,
        })
    }
}

impl Answer {
    /// The body, if it proves to come from our server: 2xx, named JSON, and of the wanted form. Everything else is an
    /// error, and only a `Problem` is one of ours.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        if !(200..300).contains(&self.status) || self.content_type != "application/json" {
            return Err(self.problem("it has no JSON"));
        }
        serde_json::from_slice(&self.body).map_err(|error| self.intermediary(&format!("its JSON is not ours: {error}")))
    }

    /// The answer as an error: a problem of ours, or an intermediary's word, which `why` then explains.
    pub fn problem(&self, why: &str) -> ClientError {
        // A proxy speaks with these, even in JSON.
        let why = match self.status {
            300..400 => "it is a redirect",
            407 => "a proxy wants a login",
            502 | 504 => "a proxy cannot reach the server",
            400.. if self.content_type == "application/problem+json" => match self.problem_body() {
                Some(body) => {
                    let retry_after = body.retry_after_ms.map(Duration::from_millis).or(self.retry_after);
                    return ClientError::Problem { status: self.status, body: Box::new(body), retry_after };
                }
                None => "its problem is not one of ours",
            },
            _ => why,
        };
        self.intermediary(why)
    }

    fn problem_body(&self) -> Option<crate::protocol::ProblemBody> {
        let body: crate::protocol::ProblemBody = serde_json::from_slice(&self.body).ok()?;
        // Other programs speak RFC 9457 too; a code and the same status twice are our habit.
        (body.status == self.status && !body.code.is_empty()).then_some(body)
    }

    fn intermediary(&self, why: &str) -> ClientError {
        let start = &self.body[..self.body.len().min(200)];
        let excerpt = String::from_utf8_lossy(start).chars().filter(|c| !c.is_control()).collect();
        ClientError::Intermediary {
            status: self.status,
            content_type: self.content_type.chars().filter(|c| !c.is_control()).take(80).collect(),
            excerpt,
            why: why.to_owned(),
            retry_after: self.retry_after,
        }
    }
}

fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The URL to put paths after, or what is wrong with it. What was given may hold a password: it is not repeated.
fn checked_base_url(text: &str, allow_plain: bool) -> Result<String, &'static str> {
    let uri: Uri = text.parse().map_err(|_| "is not a URL such as https://backup.example.com")?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err("has to begin with https://, as https://backup.example.com does");
    };
    if authority.as_str().contains('@') {
        return Err("must not have a user or password in it");
    }
    if uri.query().is_some() {
        return Err("must not have a query");
    }
    match scheme {
        "https" => {}
        "http" if allow_plain || is_loopback(authority.host()) => {}
        "http" => return Err("has to begin with https://: without TLS the token could be read on the way"),
        _ => return Err("has to begin with https://"),
    }
    Ok(format!("{scheme}://{authority}{}", uri.path().trim_end_matches('/')))
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    address.map_or_else(|_| host.eq_ignore_ascii_case("localhost"), |address| address.is_loopback())
}

#[cfg(test)]
mod tests;
