//! Edge. An answer as bytes, as hyper would write it, for a connection that hyper does not have at the moment: whole, or begun
//! early and kept alive with newlines, which are nothing before JSON. Does not decide which answer it is.

use chrono::{DateTime, Utc};
use http_body_util::BodyExt;
use hyper::header::{CONNECTION, EXPECT, UPGRADE};
use hyper::{HeaderMap, Method, Version};

use super::answer::Answer;

/// What a request says about how it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    pub version: Version,
    /// The client wants to send more requests on this connection.
    pub keep_alive: bool,
}

impl Manner {
    /// `None` for what only hyper answers: anything but a GET without a body, in a version that we know.
    pub fn of<B: hyper::body::Body>(request: &hyper::Request<B>) -> Option<Self> {
        let headers = request.headers();
        let version = request.version();
        let is_plain = request.method() == Method::GET
            && request.body().is_end_stream()
            && !headers.contains_key(UPGRADE)
            && !headers.contains_key(EXPECT)
            && (version == Version::HTTP_11 || version == Version::HTTP_10);
        let keep_alive = if version == Version::HTTP_11 { !has(headers, "close") } else { has(headers, "keep-alive") };
        is_plain.then_some(Self { version, keep_alive })
    }
}

/// Whether the Connection header has this word.
fn has(headers: &HeaderMap, word: &str) -> bool {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|found| found.trim().eq_ignore_ascii_case(word))
}

/// The answer's bytes. An answer that says `Connection: close` by itself ends the connection: `manner` then says so too.
pub async fn bytes_of(answer: Answer, manner: &mut Manner, now: DateTime<Utc>) -> Vec<u8> {
    let (parts, body) = answer.into_parts();
    let Ok(body) = body.collect().await;
    let body = body.to_bytes();
    manner.keep_alive &= !has(&parts.headers, "close");
    let version = if manner.version == Version::HTTP_10 { "1.0" } else { "1.1" };
    let reason = parts.status.canonical_reason().unwrap_or("-");
    let mut bytes = Vec::with_capacity(256 + body.len());
    let mut line = |parts: &[&[u8]]| {
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        bytes.extend_from_slice(b"\r\n");
    };
    line(&[b"HTTP/", version.as_bytes(), b" ", parts.status.as_str().as_bytes(), b" ", reason.as_bytes()]);
    for (name, value) in parts.headers.iter().filter(|(name, _)| *name != CONNECTION) {
        line(&[name.as_str().as_bytes(), b": ", value.as_bytes()]);
    }
    match (manner.version, manner.keep_alive) {
        (Version::HTTP_10, true) => line(&[b"connection: keep-alive"]),
        (Version::HTTP_10, false) | (_, true) => {}
        (_, false) => line(&[b"connection: close"]),
    }
    line(&[b"content-length: ", body.len().to_string().as_bytes()]);
    line(&[b"date: ", http_date(now).to_string().as_bytes()]);
    line(&[]);
    bytes.extend_from_slice(&body);
    bytes
}

/// The head of an answer whose body comes later, with signs of life before it: a JSON document, whatever it will be. An old
/// client has to be told the end by the connection's.
pub fn beginning(manner: &mut Manner, now: DateTime<Utc>) -> Vec<u8> {
    let is_old = manner.version == Version::HTTP_10;
    manner.keep_alive &= !is_old;
    let version = if is_old { "1.0" } else { "1.1" };
    let framing = if is_old { "" } else { "transfer-encoding: chunked\r\n" };
    let connection = if manner.keep_alive || is_old { "" } else { "connection: close\r\n" };
    // nginx would else keep the newlines to itself.
    let head = format!(
        "HTTP/{version} 200 OK\r\ncontent-type: application/json\r\ncache-control: no-store\r\nx-accel-buffering: no\r\n{framing}{connection}date: {}\r\n\r\n",
        http_date(now)
    );
    head.into_bytes()
}

/// A sign of life within such an answer.
pub fn beat(manner: Manner) -> &'static [u8] {
    if manner.version == Version::HTTP_10 { b"\n" } else { b"1\r\n\n\r\n" }
}

/// The rest of such an answer. What its head would say of the connection can only be done.
pub async fn ending(answer: Answer, manner: &mut Manner) -> Vec<u8> {
    let (parts, body) = answer.into_parts();
    let Ok(body) = body.collect().await;
    let body = body.to_bytes();
    manner.keep_alive &= !has(&parts.headers, "close");
    if manner.version == Version::HTTP_10 {
        return body.into();
    }
    let mut bytes = format!("{:x}\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(b"\r\n0\r\n\r\n");
    bytes
}

fn http_date(now: DateTime<Utc>) -> impl std::fmt::Display {
    now.format("%a, %d %b %Y %H:%M:%S GMT")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::http::answer::{Problem, ok};
    use http_body_util::{Empty, Full};
    use hyper::body::Bytes;

    fn manner(version: Version, connection: &str) -> Option<Manner> {
        let request = hyper::Request::get("/").version(version).header(CONNECTION, connection);
        Manner::of(&request.body(Empty::<Bytes>::new()).expect("a request"))
    }

    #[test]
    fn a_connection_is_kept_as_its_version_and_the_client_say() {
        for (version, connection, keep_alive) in [
            (Version::HTTP_11, "", true),
            (Version::HTTP_11, "close", false),
            (Version::HTTP_11, "TE, Close", false),
            (Version::HTTP_11, "keep-alive", true),
            (Version::HTTP_10, "", false),
            (Version::HTTP_10, "Keep-Alive", true),
        ] {
            assert_eq!(manner(version, connection), Some(Manner { version, keep_alive }), "{version:?} {connection}");
        }
        let with = |request: hyper::http::request::Builder, body: &str| {
            Manner::of(&request.body(Full::new(Bytes::from(body.to_owned()))).expect("a request"))
        };
        assert!(with(hyper::Request::get("/"), "").is_some());
        assert_eq!(with(hyper::Request::get("/"), "x"), None);
        assert_eq!(with(hyper::Request::post("/"), ""), None);
        assert_eq!(with(hyper::Request::get("/").header(UPGRADE, "h2c"), ""), None);
    }

    /// The same answer from hyper, to a request with this head.
    async fn by_hyper(answer: Answer, head: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut far, near) = tokio::io::duplex(4096);
        let answer = std::sync::Mutex::new(Some(answer));
        let service = hyper::service::service_fn(move |_| {
            let answer = answer.lock().expect("a lock").take().expect("one request");
            async move { Ok::<_, std::convert::Infallible>(answer) }
        });
        far.write_all(head.as_bytes()).await.expect("write");
        far.shutdown().await.expect("shutdown");
        let connection = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(hyper_util::rt::TokioIo::new(near), service);
        let _ = connection.await;
        let mut text = String::new();
        far.read_to_string(&mut text).await.expect("read");
        text
    }

    fn without_date(text: &str) -> Vec<&str> {
        text.split("\r\n").filter(|line| !line.starts_with("date: ")).collect()
    }

    #[tokio::test]
    async fn an_answer_is_what_hyper_would_write() {
        let answers: [fn() -> Answer; 2] =
            [|| ok(&serde_json::json!({"a": 1})), || Problem::unauthorized("no").into_answer()];
        for (version, line, connection) in [
            (Version::HTTP_11, "HTTP/1.1", "x"),
            (Version::HTTP_11, "HTTP/1.1", "close"),
            (Version::HTTP_10, "HTTP/1.0", "x"),
            (Version::HTTP_10, "HTTP/1.0", "keep-alive"),
        ] {
            for answer in answers {
                let head = format!("GET / {line}\r\nhost: a\r\nconnection: {connection}\r\n\r\n");
                let mut manner = manner(version, connection).expect("a plain request");
                let bytes = bytes_of(answer(), &mut manner, DateTime::UNIX_EPOCH).await;
                let ours = String::from_utf8(bytes).expect("text");
                assert!(ours.contains("\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"), "{ours}");
                let hypers = by_hyper(answer(), &head).await;
                let (mut ours, mut hypers) = (without_date(&ours), without_date(&hypers));
                ours.sort_unstable();
                hypers.sort_unstable();
                assert_eq!(ours, hypers, "{head}");
            }
        }
    }

    #[tokio::test]
    async fn an_answer_that_ends_the_connection_says_so_to_the_caller_too() {
        let mut answer = ok(&1);
        answer.headers_mut().insert(CONNECTION, hyper::header::HeaderValue::from_static("close"));
        let mut manner = Manner { version: Version::HTTP_11, keep_alive: true };
        let text = String::from_utf8(bytes_of(answer, &mut manner, DateTime::UNIX_EPOCH).await).expect("text");
        assert!(!manner.keep_alive && text.contains("\r\nconnection: close\r\n"), "{text}");
    }

    #[tokio::test]
    async fn an_answer_that_begins_early_is_read_as_one_document() {
        for (version, keep_alive) in [(Version::HTTP_11, true), (Version::HTTP_11, false), (Version::HTTP_10, true)] {
            let mut manner = Manner { version, keep_alive };
            let mut bytes = beginning(&mut manner, DateTime::UNIX_EPOCH);
            bytes.extend_from_slice(beat(manner));
            bytes.extend_from_slice(beat(manner));
            bytes.extend(ending(ok(&serde_json::json!({"a": 1})), &mut manner).await);
            assert_eq!(manner.keep_alive, keep_alive && version == Version::HTTP_11);
            let (near, mut far) = tokio::io::duplex(4096);
            tokio::spawn(async move {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                far.read_u8().await.expect("a request");
                far.write_all(&bytes).await.expect("written");
            });
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(near)).await.expect("a client");
            tokio::spawn(connection);
            let answer = sender.send_request(hyper::Request::new(Empty::<Bytes>::new())).await.expect("an answer");
            let body = answer.into_body().collect().await.expect("a body").to_bytes();
            assert_eq!(body, "\n\n{\"a\":1}\n", "{version:?}");
        }
    }
}
