//! Edge. From a URL to a connection, hop by hop: the name, the proxy if there is one, TLS. Each hop has a time limit and an
//! error of its own. Does not know HTTP beyond CONNECT, and keeps no connection.

use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper_rustls::MaybeHttpsStream;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::tunnel::{self, Refusal, TunnelError};
use crate::file_error::chain;
use crate::proxy::{Proxy, ProxyRules};

/// Looking up the name and connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// CONNECT and the TLS handshake together.
const HANDSHAKES_TIMEOUT: Duration = Duration::from_secs(15);
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// Unacknowledged bytes for this long end a connection: the other side is gone.
#[cfg(target_os = "linux")]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(60);

/// Makes connections to any server, by the same trust and rules.
#[derive(Clone)]
pub(super) struct Connector {
    tcp: HttpConnector,
    tls: TlsConnector,
    proxies: Arc<ProxyRules>,
}

type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// Why there is no connection.
#[derive(Debug)]
pub(super) struct ConnectError {
    pub(super) at: FailedAt,
    /// host:port of the server.
    pub(super) target: String,
}

/// Where it ended; the cause in words where nobody needs more of it.
#[derive(Debug)]
pub(super) enum FailedAt {
    /// The name of the server, or of the proxy where there is one, has no address.
    Name(String),
    /// Nobody answers at that address.
    Tcp(String),
    /// The proxy said no.
    Refused { refusal: Refusal, proxy: Box<Proxy> },
    /// The proxy ended the connection instead of answering, or said nothing in time.
    Tunnel(String),
    /// No TLS, because of what was said.
    Tls(rustls::Error),
    /// No TLS, because nothing was said or the connection ended.
    TlsBroken(String),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `ClientError` has the words.
        write!(f, "no connection to {}", self.target)
    }
}

impl Error for ConnectError {}

impl Connector {
    pub(super) fn new(tls: rustls::ClientConfig, proxies: ProxyRules) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(TCP_KEEPALIVE));
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
        Self { tcp, tls: Arc::new(tls).into(), proxies: Arc::new(proxies) }
    }

    /// The proxy that connections to this URL go through.
    pub(super) fn proxy_for(&self, uri: &Uri) -> Option<&Proxy> {
        self.proxies.proxy_for(uri.host().unwrap_or_default(), port_of(uri))
    }

    /// host:port of whom connections for this URL are made to: the proxy's, or the server's.
    pub(super) fn first_hop(&self, uri: &Uri) -> String {
        let server = || format!("{}:{}", uri.host().unwrap_or_default(), port_of(uri));
        self.proxy_for(uri).map_or_else(server, Proxy::address)
    }

    async fn connect(mut self, uri: Uri) -> Result<Stream, ConnectError> {
        let proxy = self.proxy_for(&uri).cloned();
        let target = format!("{}:{}", uri.host().unwrap_or_default(), port_of(&uri));
        let failed = |at| ConnectError { at, target: target.clone() };
        let mut stream = self.connect_tcp(&uri, proxy.as_ref()).await.map_err(failed)?;
        let until = Instant::now() + HANDSHAKES_TIMEOUT;
        if let Some(proxy) = &proxy {
            let opened = timeout_at(until, tunnel::open(stream.inner_mut(), proxy, &target)).await;
            opened.unwrap_or_else(|_| Err(silence().into())).map_err(|error| {
                failed(match error {
                    TunnelError::Refused(refusal) => FailedAt::Refused { refusal, proxy: Box::new(proxy.clone()) },
                    TunnelError::Broken(error) => FailedAt::Tunnel(error.to_string()),
                })
            })?;
        }
        if uri.scheme_str() != Some("https") {
            return Ok(MaybeHttpsStream::Http(stream));
        }
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| failed(FailedAt::Name(format!("{host:?} can be in no certificate"))))?;
        // Boxed: a handshake's state is large, and lives shortly.
        let handshake = Box::pin(self.tls.connect(name, TokioIo::new(stream)));
        let secured = timeout_at(until, handshake).await.unwrap_or_else(|_| Err(silence()));
        secured.map(MaybeHttpsStream::from).map_err(|error| failed(tls_error(&error)))
    }

    async fn connect_tcp(&mut self, uri: &Uri, proxy: Option<&Proxy>) -> Result<TokioIo<TcpStream>, FailedAt> {
        let to = match proxy {
            None => uri.clone(),
            Some(proxy) => Uri::try_from(proxy.to_string()).map_err(|error| FailedAt::Name(error.to_string()))?,
        };
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, self.tcp.call(to)).await;
        let error = match connected {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => chain(&error),
            Err(_) => silence().to_string(),
        };
        // Its own limit is the same: which of the two is first is chance, and no other word for people.
        let error = if error.contains("deadline has elapsed") { silence().to_string() } else { error };
        // The crate tells them apart in words only.
        Err(if error.contains("dns error") { FailedAt::Name(error) } else { FailedAt::Tcp(error) })
    }
}

fn port_of(uri: &Uri) -> u16 {
    uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 })
}

fn silence() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

fn tls_error(error: &io::Error) -> FailedAt {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(found) => FailedAt::Tls(found.clone()),
        None => FailedAt::TlsBroken(error.to_string()),
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}
