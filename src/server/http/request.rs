//! Edge. A request, taken apart: path parameters, query, headers and a body bounded in size and time.
//! Does not know routes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{Method, StatusCode};
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::sync::Semaphore;

use super::answer::Problem;
use super::client_address::client_address;
use super::connection::Handover;
use super::peer::Peer;
use crate::id::{HostName, InstanceId, JobId, ScheduleId, StreamId};
use crate::protocol::BODY_LIMIT_BYTES;
use crate::protocol::job_options::JobKind;
use crate::protocol::text::Span;
use crate::server::access::presented_token;
use crate::server::app::App;

/// How long a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// Bodies above the usual limit that are taken in at once.
static LARGE_BODIES: Semaphore = Semaphore::const_new(4);

/// A request on its way to its handler.
pub struct Request {
    pub method: Method,
    pub path: String,
    pub parameters: BTreeMap<String, String>,
    pub query: BTreeMap<String, String>,
    /// Where a poll that has to wait may be left; `None` where only hyper can answer.
    pub handover: Option<Handover>,
    /// Whose request it is, as far as can be believed.
    pub client: IpAddr,
    /// TLS asks agents for a certificate, and this connection has shown none that counts now.
    lacks_certificate: bool,
    peer: Arc<Peer>,
    headers: hyper::HeaderMap,
    body: Option<Incoming>,
}

impl Request {
    pub fn new(request: hyper::Request<Incoming>, peer: &Arc<Peer>, app: &App) -> Self {
        let (parts, body) = request.into_parts();
        let query = parts.uri.query().map(parse_query).unwrap_or_default();
        let forwarded = parts.headers.get_all("x-forwarded-for").into_iter();
        // What is no text is no address either.
        let forwarded = forwarded.map(|value| value.to_str().unwrap_or("?"));
        let client_ca = app.tls.current().and_then(|tls| tls.client_ca);
        Self {
            method: parts.method,
            path: parts.uri.path().to_owned(),
            parameters: BTreeMap::new(),
            query,
            handover: None,
            client: client_address(peer.address, forwarded, &app.trusted_proxies()),
            lacks_certificate: client_ca.is_some() && peer.certified_by != client_ca,
            peer: Arc::clone(peer),
            headers: parts.headers,
            body: Some(body),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The token that the request carries, wherever.
    pub fn token(&self) -> Option<String> {
        presented_token(self.header(AUTHORIZATION.as_str()), self.header("x-restic-manager-token"))
    }

    /// The token or credential that the request carries is valid: its connection is no stranger's any more.
    pub fn let_in(&self) {
        self.peer.let_in();
    }

    /// A browser asks for a page; curl and programs take anything, or say JSON.
    pub fn wants_page(&self) -> bool {
        self.header("accept").is_some_and(|accept| accept.contains("text/html"))
    }

    /// Refuses an agent that has shown no certificate where `client_ca` asks for one. Operators need none.
    pub fn check_certificate(&self) -> Result<(), Problem> {
        if self.lacks_certificate { Err(Problem::client_certificate()) } else { Ok(()) }
    }

    /// Whether a browser sends this for another site's page. Programs send neither header.
    pub fn is_of_another_site(&self) -> bool {
        if let Some(site) = self.header("sec-fetch-site") {
            return !matches!(site, "same-origin" | "none");
        }
        // Browsers leave the above out where a page came without TLS.
        let Some(origin) = self.header("origin") else { return false };
        origin.split_once("://").map(|(_, authority)| authority) != self.header("host")
    }

    /// A path parameter as its type. What is not of that type is a thing that does not exist: 404.
    pub fn parameter<T: InUrl>(&self, name: &str) -> Result<T, Problem> {
        let text = self.parameters.get(name).map(String::as_str).unwrap_or_default();
        T::read(text).map_err(|error| Problem::not_found("not-found", format!("{name}: {error}")))
    }

    /// A query parameter as its type; absent or empty is `None`.
    pub fn query<T: InUrl>(&self, name: &str) -> Result<Option<T>, Problem> {
        let Some(text) = self.query.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        T::read(text).map(Some).map_err(|error| Problem::bad_request("bad-query", format!("{name}: {error}")))
    }

    /// A query parameter that must be there.
    pub fn required_query<T: InUrl>(&self, name: &str) -> Result<T, Problem> {
        self.query(name)?.ok_or_else(|| Problem::bad_request("bad-query", format!("the query lacks {name}=")))
    }

    /// A query parameter that is either set or not; the name alone sets it.
    pub fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.query.get(name).map(String::as_str) {
            None | Some("0" | "false") => Ok(false),
            Some("" | "1" | "true") => Ok(true),
            Some(other) => {
                Err(Problem::bad_request("bad-query", format!("{name}: {:?} is neither 1 nor 0", shown(other))))
            }
        }
    }

    /// The whole body; 413 past the limit, 408 past the deadline.
    pub async fn body(&mut self) -> Result<Bytes, Problem> {
        self.body_up_to(BODY_LIMIT_BYTES).await
    }

    /// The same with another limit, in bytes. Few bodies above the usual one are taken in at a time; the others wait.
    pub async fn body_up_to(&mut self, limit: usize) -> Result<Bytes, Problem> {
        let Some(body) = self.body.take() else { return Ok(Bytes::new()) };
        let is_large = body.size_hint().upper().is_none_or(|bytes| bytes > BODY_LIMIT_BYTES as u64);
        let collected = tokio::time::timeout(BODY_DEADLINE, async {
            // It is never closed.
            let _turn = if is_large && limit > BODY_LIMIT_BYTES { LARGE_BODIES.acquire().await.ok() } else { None };
            Limited::new(body, limit).collect().await
        })
        .await;
        match collected {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body-too-large",
                format!("the body is larger than {limit} bytes: send less at a time"),
            )),
            Ok(Err(error)) => Err(Problem::bad_request("body-unreadable", format!("the body did not arrive: {error}"))),
            Err(_) => {
                let detail = format!("the body did not arrive within {} s", BODY_DEADLINE.as_secs());
                Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body-timeout", detail))
            }
        }
    }

    /// The body of a request that has nothing to say but itself: none, or `{}`. What is said and would be lost is refused.
    pub async fn no_fields(&mut self) -> Result<(), Problem> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Nothing {}
        let bytes = self.body().await?;
        if bytes.trim_ascii().is_empty() {
            return Ok(());
        }
        let parsed = serde_json::from_slice::<Nothing>(&bytes).map(|_| ());
        parsed.map_err(|error| json_problem("the body, which has no fields here", &bytes, &error))
    }

    /// The body as JSON. `content_type` asks for `application/json`, which a browser cannot forge from another site.
    pub async fn json<T: DeserializeOwned>(&mut self, content_type: ContentType) -> Result<(T, Bytes), Problem> {
        self.json_up_to(content_type, BODY_LIMIT_BYTES).await
    }

    /// The same with another limit of the body, in bytes.
    pub async fn json_up_to<T: DeserializeOwned>(
        &mut self,
        content_type: ContentType,
        limit: usize,
    ) -> Result<(T, Bytes), Problem> {
        if content_type == ContentType::MustBeJson {
            let given = self.header(CONTENT_TYPE.as_str()).unwrap_or_default();
            let is_json = given.split(';').next().is_some_and(|t| t.trim().eq_ignore_ascii_case("application/json"));
            if !is_json {
                return Err(Problem::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    "not-json",
                    "send Content-Type: application/json (curl: -H 'Content-Type: application/json')",
                ));
            }
        }
        let bytes = self.body_up_to(limit).await?;
        let parsed = serde_json::from_slice(&bytes).map_err(|error| json_problem("the body", &bytes, &error))?;
        Ok((parsed, bytes))
    }
}

/// What may stand in a URL. The error is for a person: what stood there, and what to write.
pub trait InUrl: Sized {
    fn read(text: &str) -> Result<Self, String>;
}

/// Types whose errors name the text and the rule.
macro_rules! in_url_with_own_words {
    ($($name:ty),*) => { $(impl InUrl for $name {
        fn read(text: &str) -> Result<Self, String> {
            text.parse().map_err(|error: <Self as FromStr>::Err| error.to_string())
        }
    })* };
}

macro_rules! in_url {
    ($($name:ty: $what:literal),* $(,)?) => { $(impl InUrl for $name {
        fn read(text: &str) -> Result<Self, String> {
            text.parse().map_err(|_| format!("{:?} is not {}", shown(text), $what))
        }
    })* };
}

/// Digits only: Rust would take a plus too.
macro_rules! in_url_as_number {
    ($($name:ty),*) => { $(impl InUrl for $name {
        fn read(text: &str) -> Result<Self, String> {
            let parsed = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
            parsed.ok_or_else(|| format!("{:?} is not a whole number, such as 30", shown(text)))
        }
    })* };
}

in_url_as_number!(u64, usize);
in_url_with_own_words!(String, HostName, ScheduleId, JobKind, Span);
in_url! {
    JobId: "a job's id: those are UUIDs",
    InstanceId: "an instance's id: those are UUIDs",
    StreamId: "a stream's id: those are UUIDs",
}

impl InUrl for DateTime<Utc> {
    fn read(text: &str) -> Result<Self, String> {
        // The plus of a zone that was sent as it stands has come as a space.
        let with_plus = || text.rsplit_once(' ').map(|(time, zone)| format!("{time}+{zone}"));
        let parsed = text.parse().ok().or_else(|| with_plus()?.parse().ok());
        parsed.ok_or_else(|| format!("{:?} is not a time, such as 2026-01-31T12:00:00Z", shown(text)))
    }
}

/// Whether the declared type of a body counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentType {
    MustBeJson,
    Any,
}

/// Tells text that is no JSON from JSON of another shape, which may be found first.
pub fn json_problem(what: &str, text: &[u8], error: &serde_json::Error) -> Problem {
    match serde_json::from_slice::<IgnoredAny>(text) {
        Ok(_) => Problem::unprocessable("invalid", format!("{what}: {error}")),
        Err(error) => Problem::bad_request("not-json", format!("{what}: {error}")),
    }
}

/// Text of a request as it may be shown: short, and without control characters.
pub fn shown(text: &str) -> String {
    text.chars().take(100).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

pub fn parse_query(query: &str) -> BTreeMap<String, String> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decode(k), decode(v))).collect()
}

/// `+` is a space, as forms and curl's `--data-urlencode` send it.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match digits.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_wrongly_in_a_url_is_shown_with_what_to_write() {
        assert_eq!(u64::read("-1"), Err("\"-1\" is not a whole number, such as 30".to_owned()));
        assert!(u64::read("+1").is_err() && u64::read("18446744073709551616").is_err());
        assert_eq!(u64::read("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(JobId::read("x\n"), Err("\"x\u{fffd}\" is not a job's id: those are UUIDs".to_owned()));
        assert!(HostName::read("WEB").expect_err("capitals").contains("a-z"));
        assert!(JobKind::read("bakcup").expect_err("misspelt").contains("backup"));
        assert!(DateTime::<Utc>::read("now").is_err() && DateTime::<Utc>::read("").is_err());
    }

    #[test]
    fn a_plus_is_a_space_and_the_zone_of_a_time_is_understood_all_the_same() {
        let query = parse_query(
            "pattern=report+x&name=a%2Bb&a+b=1&t=2026-11-01T00:00:00+01:00&u=2026-11-01T00%3A00%3A00%2B01%3A00",
        );
        assert_eq!(
            (query["pattern"].as_str(), query["name"].as_str(), query["a b"].as_str()),
            ("report x", "a+b", "1")
        );
        for name in ["t", "u"] {
            let read = DateTime::<Utc>::read(&query[name]).expect("a time");
            assert_eq!(read.to_rfc3339(), "2026-10-31T23:00:00+00:00", "{name}");
        }
    }

    #[test]
    fn a_query_is_taken_apart_whatever_it_holds() {
        let query = parse_query("after=a%2Fb&wait=30&&x&t=2026-01-01T00:00:00-01:00&bad=%zz%4&u=%ff");
        assert_eq!(query["after"], "a/b");
        assert_eq!(query["x"], "");
        assert_eq!(query["t"], "2026-01-01T00:00:00-01:00");
        assert_eq!(query["bad"], "%zz%4");
        assert_eq!(query["u"], "\u{fffd}");
    }
}
