//! Parked connections, as bare as can be (sockets and a waiter), and with hyper as it comes; plain or by TLS. Also the bare
//! wake: a POST answers the one that is parked under the same number, with `--sync` once its line is durable in a file of that
//! number.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::Outcome;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Style {
    /// Sockets, a small task each, no buffer while it waits.
    Raw,
    /// A handler that waits.
    Hyper,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ParkArguments {
    style: Style,
    port: u16,
    /// Certificate and key: by TLS
    #[arg(long, num_args = 2)]
    tls: Option<Vec<PathBuf>>,
    /// Each POST first appends a line to a file in this directory, and syncs it
    #[arg(long)]
    sync: Option<PathBuf>,
}

/// What all connections share.
struct Shared {
    waiters: Mutex<HashMap<u32, oneshot::Sender<()>>>,
    sync: Option<PathBuf>,
}

/// About what a poll's answer with one command is.
const ANSWER: &str = r#"{"epoch":"00000000-0000-4000-8000-000000000000","cursor":"00000000-0000-4000-8000-000000000000.12345.0123abcd","server_time":"2026-11-25T04:10:00.123456Z","messages":[{"seq":12345,"ts":"2026-11-25T04:10:00.123456Z","type":"command.run","payload":{"job_id":"00000000-0000-4000-8000-000000000000","kind":"init","options":{},"issued_at":"2026-11-25T04:10:00.123456Z","expires_at":"2026-11-25T04:10:00.123456Z"}}]}"#;

pub(crate) async fn serve(arguments: &ParkArguments) -> Outcome<()> {
    let acceptor = match arguments.tls.as_deref() {
        Some([certificate, key]) => {
            let config = restic_manager::tls::server_config(certificate, key, None).map_err(|e| e.to_string())?;
            Some(TlsAcceptor::from(Arc::new(config)))
        }
        _ => None,
    };
    let listener = TcpListener::bind(("127.0.0.1", arguments.port)).await.map_err(|error| error.to_string())?;
    println!("{}", json!({"ready": true}));
    let shared = Arc::new(Shared { waiters: Mutex::default(), sync: arguments.sync.clone() });
    let style = arguments.style;
    loop {
        let (stream, _) = listener.accept().await.map_err(|error| error.to_string())?;
        let _ = stream.set_nodelay(true);
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        match acceptor {
            None => drop(tokio::spawn(connection(style, stream, shared))),
            Some(acceptor) => drop(tokio::spawn(async move {
                // The handshake's state is large and lives shortly: boxed, and gone before the task of the connection begins.
                if let Ok(stream) = Box::pin(acceptor.accept(stream)).await {
                    tokio::spawn(connection(style, stream, shared));
                }
            })),
        }
    }
}

async fn connection(style: Style, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, shared: Arc<Shared>) {
    match style {
        Style::Raw => raw(stream, shared).await,
        Style::Hyper => hyper_as_it_comes(stream, shared).await,
    }
}

impl Shared {
    /// Waits under a number until somebody rings.
    fn park(&self, number: u32) -> oneshot::Receiver<()> {
        let (bell, rung) = oneshot::channel();
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner).insert(number, bell);
        rung
    }

    fn ring(&self, number: u32) {
        if let Some(bell) = self.waiters.lock().unwrap_or_else(PoisonError::into_inner).remove(&number) {
            let _ = bell.send(());
        }
    }

    /// Makes a line durable where that is wanted. False: it could not be.
    async fn keep(&self, number: u32) -> bool {
        let Some(dir) = &self.sync else { return true };
        let path = dir.join(format!("{number}.jsonl"));
        matches!(tokio::task::spawn_blocking(move || super::disk::append(&path)).await, Ok(Ok(())))
    }
}

/// The path's first part, and the number after it.
fn parts(path: &str) -> (&str, u32) {
    let path = path.split('?').next().unwrap_or_default();
    let (what, number) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
    (what, number.parse().unwrap_or_default())
}

enum Asked {
    Park(u32),
    Wake(u32),
    Answer(u32),
}

async fn raw(mut stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    loop {
        let Some(asked) = read_request(&mut stream).await else { return };
        if let Asked::Park(number) = asked {
            let _ = shared.park(number).await;
        }
        if let Asked::Wake(number) | Asked::Answer(number) = asked
            && !Box::pin(shared.keep(number)).await
        {
            return;
        }
        if let Asked::Wake(number) = asked {
            shared.ring(number);
        }
        if Box::pin(write_answer(&mut stream)).await.is_none() {
            return;
        }
    }
}

/// Reads one request into a buffer that is gone when it returns.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<Asked> {
    let mut first = [0; 1];
    stream.read_exact(&mut first).await.ok()?;
    Box::pin(async {
        let mut buffer = first.to_vec();
        let head = loop {
            if let Some(end) = memchr::memmem::find(&buffer, b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut buffer).await.ok()? == 0 {
                return None;
            }
        };
        let text = std::str::from_utf8(&buffer[..head]).ok()?;
        let length =
            text.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok()).unwrap_or(0usize);
        let (what, number) = parts(text.split(' ').nth(1)?);
        let asked = match what {
            "park" => Asked::Park(number),
            "wake" => Asked::Wake(number),
            _ => Asked::Answer(number),
        };
        while buffer.len() < head + length {
            stream.read_buf(&mut buffer).await.ok().filter(|read| *read > 0)?;
        }
        Some(asked)
    })
    .await
}

async fn write_answer(stream: &mut (impl AsyncWrite + Unpin)) -> Option<()> {
    let text = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{ANSWER}",
        ANSWER.len()
    );
    stream.write_all(text.as_bytes()).await.ok()?;
    stream.flush().await.ok()
}

async fn hyper_as_it_comes(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, shared: Arc<Shared>) {
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let shared = Arc::clone(&shared);
        async move {
            let (what, number) = parts(request.uri().path());
            match what {
                "park" => drop(shared.park(number).await),
                "wake" => shared.ring(number),
                _ => {
                    shared.keep(number).await;
                }
            }
            Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::from_static(ANSWER.as_bytes()))))
        }
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
