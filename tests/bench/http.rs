//! A client as small as can be: what it costs must not hide what the server costs. One connection, one request at a time,
//! answers with `Content-Length` or in chunks.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::Outcome;

/// Longer than any poll.
const ANSWER_LIMIT: Duration = Duration::from_secs(330);
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// Where to, and whether by TLS.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) port: u16,
    tls: Option<TlsConnector>,
}

impl Target {
    /// The port on 127.0.0.1; with the authority that signed the server's certificate, by TLS without resumption.
    pub(crate) fn new(port: u16, authority: Option<&Path>) -> Outcome<Self> {
        let tls = match authority {
            None => None,
            Some(path) => {
                let mut config =
                    restic_manager::tls::client_config(Some(path), true).map_err(|error| error.to_string())?;
                config.resumption = rustls::client::Resumption::disabled();
                Some(TlsConnector::from(Arc::new(config)))
            }
        };
        Ok(Self { port, tls })
    }

    pub(crate) async fn connect(&self) -> io::Result<Connection> {
        let connecting = async {
            let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            stream.set_nodelay(true)?;
            let stream = match &self.tls {
                None => Stream::Plain(stream),
                Some(connector) => {
                    let name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
                    Stream::Tls(Box::new(connector.connect(name, stream).await?))
                }
            };
            Ok(Connection { stream, buffer: Vec::new() })
        };
        tokio::time::timeout(CONNECT_LIMIT, connecting).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

pub(crate) struct Connection {
    stream: Stream,
    buffer: Vec<u8>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// The server ends the connection after this answer.
    pub(crate) closes: bool,
}

impl Answer {
    pub(crate) fn json(&self) -> Outcome<serde_json::Value> {
        serde_json::from_slice(&self.body)
            .map_err(|error| format!("{}: {error}: {}", self.status, String::from_utf8_lossy(&self.body)))
    }
}

/// A request's bytes. `token` empty: none is sent.
pub(crate) fn request(method: &str, path: &str, token: &str, body: &str) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n");
    if !token.is_empty() {
        text.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    if method != "GET" {
        text.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(body);
    text.into_bytes()
}

impl Connection {
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(bytes).await,
            Stream::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    async fn more(&mut self) -> io::Result<()> {
        let read = match &mut self.stream {
            Stream::Plain(stream) => stream.read_buf(&mut self.buffer).await?,
            Stream::Tls(stream) => stream.read_buf(&mut self.buffer).await?,
        };
        if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Reads one whole answer.
    pub(crate) async fn answer(&mut self) -> io::Result<Answer> {
        tokio::time::timeout(ANSWER_LIMIT, self.read_answer())
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    async fn read_answer(&mut self) -> io::Result<Answer> {
        let head = loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await?;
        };
        let text = String::from_utf8_lossy(&self.buffer[..head]).to_ascii_lowercase();
        let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("not an answer: {text}"));
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(bad)?;
        let header = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(|value| value.trim().to_owned())
        };
        let closes = header("connection").is_some_and(|value| value == "close");
        let length = header("content-length").map(|value| value.parse::<usize>().map_err(|_| bad())).transpose()?;
        let chunked = header("transfer-encoding").is_some_and(|value| value == "chunked");
        self.buffer.drain(..head);
        let body = match length {
            Some(length) => {
                while self.buffer.len() < length {
                    self.more().await?;
                }
                self.buffer.drain(..length).collect()
            }
            None if chunked => self.read_chunks().await?,
            None => return Err(bad()),
        };
        Ok(Answer { status, body, closes })
    }

    async fn read_chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n") {
                    break end;
                }
                self.more().await?;
            };
            let size =
                std::str::from_utf8(&self.buffer[..line]).ok().and_then(|t| usize::from_str_radix(t.trim(), 16).ok());
            let size = size.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a chunk"))?;
            while self.buffer.len() < line + 2 + size + 2 {
                self.more().await?;
            }
            body.extend_from_slice(&self.buffer[line + 2..line + 2 + size]);
            self.buffer.drain(..line + 2 + size + 2);
            if size == 0 {
                return Ok(body);
            }
        }
    }

    /// One request and its answer.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.send(request).await?;
        self.answer().await
    }

    /// The same, which must succeed, as JSON.
    pub(crate) async fn ask_json(&mut self, request: &[u8]) -> Outcome<serde_json::Value> {
        let answer = self.ask(request).await.map_err(|error| error.to_string())?;
        if !(200..300).contains(&answer.status) {
            return Err(format!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body)));
        }
        answer.json()
    }
}
