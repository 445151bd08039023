//! Edge. The HTTP client of the agent and of the command line: one server, one token, bounded in time and size; directly or
//! through a proxy. Tells the server's answers from those of whatever stands in between. Follows no redirect, repeats
//! nothing, and keeps no state but its connections.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use crate::protocol::command::Secret;
use crate::proxy::{Proxy, ProxyRules, is_loopback};
use connect::Connector;

mod connect;
mod error;
mod lines;
mod tunnel;

pub use error::{ClientError, Hop};
pub use lines::Lines;

/// A silent connection is forgotten by some NATs after a few seconds, without a word to either side: a request on it would wait for
/// its deadline. Polls follow each other at once, and so do the parts of what a job has to tell.
const POOL_IDLE: Duration = Duration::from_secs(4);
/// Largest answer, in bytes, unless the caller says otherwise.
const ANSWER_LIMIT_BYTES: usize = 16 * 1024 * 1024;

/// Talks to one server. Clones share their connections.
#[derive(Clone)]
pub struct HttpClient {
    client: Client<Connector, Full<Bytes>>,
    /// Without a slash at its end.
    base_url: String,
    /// What connections to it go through.
    proxy: Option<Proxy>,
    first_hop: String,
    /// "Bearer ...", marked as sensitive. Shared by clones: a new token is every clone's.
    authorization: Arc<RwLock<Option<HeaderValue>>>,
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

/// How long a request may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// From the request to the end of its answer.
    pub whole: Duration,
    /// The longest silence within the answer.
    pub idle: Duration,
}

impl From<Duration> for Patience {
    fn from(whole: Duration) -> Self {
        Self { whole, idle: whole }
    }
}

impl HttpClient {
    /// `base_url` may have a path, under which the server is mounted. Plain http is for loopback addresses only: the token would
    /// travel in clear text.
    pub fn new(
        base_url: &str,
        token: Option<&Secret>,
        tls: rustls::ClientConfig,
        proxies: ProxyRules,
    ) -> Result<Self, ClientError> {
        let base_url = checked_base_url(base_url).map_err(ClientError::BaseUrl)?;
        let made = Self::to(base_url, tls, proxies)?;
        token.map_or(Ok(()), |token| made.set_token(token))?;
        Ok(made)
    }

    /// To another program's server: scheme, name and port of it. Without TLS too, where whoever wrote the address wants that.
    pub fn to_other(origin: &str, tls: rustls::ClientConfig, proxies: ProxyRules) -> Result<Self, ClientError> {
        Self::to(origin.trim_end_matches('/').to_owned(), tls, proxies)
    }

    fn to(base_url: String, tls: rustls::ClientConfig, proxies: ProxyRules) -> Result<Self, ClientError> {
        let connector = Connector::new(tls, proxies);
        let uri: Uri = base_url.parse().map_err(|_| ClientError::BaseUrl("is not a URL"))?;
        let (proxy, first_hop) = (connector.proxy_for(&uri).cloned(), connector.first_hop(&uri));
        // Without a timer of the pool's: the limit is looked at when a connection is wanted, and an idle agent is woken less often.
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(2)
            .build(connector);
        let (authorization, answer_limit) = (Arc::default(), ANSWER_LIMIT_BYTES);
        Ok(Self { client, base_url, proxy, first_hop, authorization, answer_limit })
    }

    /// From now on requests, those of all clones, have this token.
    pub fn set_token(&self, token: &Secret) -> Result<(), ClientError> {
        let value = HeaderValue::try_from(format!("Bearer {}", token.reveal()));
        let mut value = value.map_err(|_| ClientError::Request("the token has characters that no token has"))?;
        value.set_sensitive(true);
        *self.authorization.write().unwrap_or_else(PoisonError::into_inner) = Some(value);
        Ok(())
    }

    /// host:port of whom connections are made to: the proxy, or the server.
    pub fn first_hop(&self) -> &str {
        &self.first_hop
    }

    /// The proxy that requests go through, if there is one.
    pub fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
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
        deadline: impl Into<Patience>,
    ) -> Result<Answer, ClientError> {
        let patience = deadline.into();
        let until = Instant::now() + patience.whole;
        let request = self.build(method, path_and_query, headers, body)?;
        let response = self.send(request, until, patience.whole).await?;
        self.read(response, until, patience).await
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
        let answer = self.read(response, until, deadline.into()).await?;
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
        let authorization = self.authorization.read().unwrap_or_else(PoisonError::into_inner).clone();
        map.extend(authorization.map(|value| (header::AUTHORIZATION, value)));
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
            .map_err(|error| ClientError::of_request(&self.base_url, self.proxy(), error))
    }

    async fn read(
        &self,
        response: Response<Incoming>,
        until: Instant,
        patience: Patience,
    ) -> Result<Answer, ClientError> {
        let (parts, mut incoming) = response.into_parts();
        let mut body = Vec::new();
        loop {
            let silence = Instant::now() + patience.idle;
            let frame = timeout_at(until.min(silence), incoming.frame()).await.map_err(|_| {
                let is_over = silence >= until;
                let (what, after) = if is_over {
                    ("no end of the answer", patience.whole)
                } else {
                    ("the answer stopped: nothing", patience.idle)
                };
                ClientError::Timeout { what, after }
            })?;
            match frame {
                None => break,
                Some(Ok(frame)) => body.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(error)) => {
                    let (server, proxy) = (self.base_url.clone(), self.proxy.clone().map(Box::new));
                    return Err(ClientError::Unreachable { hop: Hop::Answer, server, proxy, source: error.into() });
                }
            }
            if body.len() > self.answer_limit {
                return Err(ClientError::TooLarge { limit: self.answer_limit });
            }
        }
        let seconds = parts.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        Ok(Answer {
            status: parts.status.as_u16(),
            body,
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
        // Ours are never stored, and never packed since we do not ask for that.
        if self.headers.contains_key(header::AGE) {
            return Err(self.intermediary("it comes from a cache"));
        }
        if self.headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            return Err(self.intermediary("it was re-encoded on the way"));
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
fn checked_base_url(text: &str) -> Result<String, &'static str> {
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
        "http" if is_loopback(authority.host()) => {}
        "http" => return Err("has to begin with https://: without TLS the token could be read on the way"),
        _ => return Err("has to begin with https://"),
    }
    Ok(format!("{scheme}://{authority}{}", uri.path().trim_end_matches('/')))
}

#[cfg(all(test, feature = "server"))]
mod proxy_tests;
#[cfg(test)]
mod tests;
