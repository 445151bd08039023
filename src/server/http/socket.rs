//! Edge. An accepted socket, with or without TLS, as small as it gets while nothing happens on it. Does not know HTTP.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// A peer that is gone without a word is asked after this long, so that its poll is not parked for ever.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// And given up on when what was sent is not acknowledged for this long.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// Boxed where it is large: a parked poll's task is as large as the largest thing in it.
#[derive(Debug)]
pub enum Socket {
    Plain(TcpStream),
    Tls(Box<Encrypted>),
}

/// A connection with TLS.
#[derive(Debug)]
pub struct Encrypted {
    stream: TlsStream<TcpStream>,
    /// The number of the authority whose certificate the client has shown, if it has.
    certified_by: Option<u64>,
}

impl Socket {
    /// `client_ca`: the number of the authority by which the handshake took clients' certificates.
    pub fn tls(stream: TlsStream<TcpStream>, client_ca: Option<u64>) -> Self {
        let has_certificate = stream.get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty());
        Self::Tls(Box::new(Encrypted { stream, certified_by: client_ca.filter(|_| has_certificate) }))
    }

    /// The number of the authority whose certificate the client has shown, if it has.
    pub fn certified_by(&self) -> Option<u64> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(encrypted) => encrypted.certified_by,
        }
    }

    /// The address at the other end, while there is one.
    pub fn peer_address(&self) -> Option<IpAddr> {
        let stream = match self {
            Self::Plain(stream) => stream,
            Self::Tls(encrypted) => encrypted.stream.get_ref().0,
        };
        stream.peer_addr().ok().map(|address| address.ip().to_canonical())
    }

    /// The next byte of what the client sends, `None` when it sends no more. Cancel-safe.
    pub async fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        match self.read(&mut byte).await {
            Ok(1) => Some(byte[0]),
            _ => None,
        }
    }
}

/// Answers go out at once, and peers that vanish are noticed.
pub fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    // With the interval and the system's nine or ten probes the user timeout comes first where there is one.
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    #[cfg(not(target_os = "linux"))]
    let _ = USER_TIMEOUT;
    Ok(())
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(encrypted) => Pin::new(&mut encrypted.stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(encrypted) => Pin::new(&mut encrypted.stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(encrypted) => Pin::new(&mut encrypted.stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(encrypted) => encrypted.stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(encrypted) => Pin::new(&mut encrypted.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(encrypted) => Pin::new(&mut encrypted.stream).poll_shutdown(cx),
        }
    }
}
