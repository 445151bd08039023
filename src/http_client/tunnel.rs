//! Edge. Through an HTTP proxy: asks for a connection to the server (CONNECT) and says what the proxy made of it. Does not
//! connect to the proxy, and keeps no time: its caller does both. Speaks Basic only.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::proxy::Proxy;

/// Longest answer to CONNECT before the tunnel begins, in bytes.
const HEAD_LIMIT_BYTES: usize = 8 * 1024;

/// What a proxy said instead of connecting us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// 407, or 401 of a login that was given. `basic`: a name with a password would be taken.
    Login { status: u16, given: bool, basic: bool },
    /// Another status.
    Status(u16),
    /// What answered speaks no HTTP, or said too much.
    NotHttp,
}

/// How a tunnel failed.
#[derive(Debug)]
pub(super) enum TunnelError {
    Refused(Refusal),
    /// The connection ended within the exchange.
    Broken(io::Error),
}

impl From<io::Error> for TunnelError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// Asks `proxy` at the other end of `stream` for `target` (host:port). After Ok the stream is the server's.
pub(super) async fn open(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    proxy: &Proxy,
    target: &str,
) -> Result<(), TunnelError> {
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: restic-manager\r\n");
    let authorization = proxy.authorization();
    if let Some(value) = &authorization {
        request.push_str("Proxy-Authorization: ");
        request.push_str(value.reveal());
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut head = Vec::with_capacity(512);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        match read_answer(&head, authorization.is_some()) {
            Ok(true) => return Ok(()),
            Ok(false) if head.len() < HEAD_LIMIT_BYTES => {}
            Ok(false) => return Err(TunnelError::Refused(Refusal::NotHttp)),
            Err(refusal) => return Err(TunnelError::Refused(refusal)),
        }
    }
}

/// Whether the answer is there and agrees; false while more of it has to come.
fn read_answer(bytes: &[u8], login_given: bool) -> Result<bool, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut answer = httparse::Response::new(&mut headers);
    let head_length = match answer.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(false),
        Err(_) => return Err(Refusal::NotHttp),
    };
    match answer.code.unwrap_or_default() {
        // Nobody behind a tunnel speaks before we do: what more came is no tunnel's.
        200..300 if bytes.len() > head_length => Err(Refusal::NotHttp),
        200..300 => Ok(true),
        // tinyproxy says 401 to a login that is wrong.
        401 if login_given => Err(Refusal::Login { status: 401, given: true, basic: true }),
        407 => {
            let offers_basic = |header: &httparse::Header<'_>| {
                header.name.eq_ignore_ascii_case("proxy-authenticate")
                    && header.value.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"basic"))
            };
            let basic = answer.headers.iter().any(offers_basic);
            Err(Refusal::Login { status: 407, given: login_given, basic })
        }
        status => Err(Refusal::Status(status)),
    }
}

impl Refusal {
    /// What the proxy said.
    pub(super) fn said(&self, proxy: &Proxy, target: &str) -> String {
        match self {
            Self::Login { given: false, status, .. } => format!("the proxy {proxy} wants a login ({status})"),
            Self::Login { given: true, status, .. } => {
                format!("the proxy {proxy} does not accept the login ({status})")
            }
            Self::Status(status @ (500 | 502..=504)) => format!("the proxy {proxy} cannot reach {target} ({status})"),
            Self::Status(status) => format!("the proxy {proxy} refuses a connection to {target} ({status})"),
            Self::NotHttp => format!("what answers at {proxy} is not an HTTP proxy"),
        }
    }

    /// What to change.
    pub(super) fn advice(&self, proxy: &Proxy) -> String {
        let origin = proxy.origin();
        match self {
            Self::Login { basic: false, .. } => format!(
                "it takes no name with password (Basic): run a local proxy that logs in for us, such as cntlm, and name that in {origin}"
            ),
            Self::Login { given: false, .. } => format!("give username and password in {origin}"),
            Self::Login { given: true, .. } => format!("mend username or password in {origin}"),
            Self::Status(403) => {
                "have its administrator allow CONNECT to the server, or list the server in no_proxy if it can be reached directly"
                    .to_owned()
            }
            Self::Status(500 | 502..=504) => {
                "see that the server runs, that its name is right, and that the proxy may connect to it".to_owned()
            }
            Self::Status(405 | 501) => format!("it does not do CONNECT, or is no proxy: name another in {origin}"),
            Self::Status(300..400 | 511) => {
                "it wants a browser at a page first (a captive portal): log in there from this network, or have its administrator let this host through"
                    .to_owned()
            }
            Self::Status(_) => "ask its administrator why".to_owned(),
            Self::NotHttp => format!("mend its address in {origin}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::command::Secret;
    use crate::proxy::Login;

    const OK: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

    /// What becomes of this answer, in these pieces; and the request.
    async fn exchange(pieces: &'static [&'static str], login: bool) -> (Result<(), TunnelError>, String) {
        let (mut near, mut far) = tokio::io::duplex(64 * 1024);
        let mut proxy = Proxy::parse("http://proxy:3128", "[proxy] of agent.toml").expect("a proxy");
        if login {
            proxy = proxy.with_login(Login { username: "u".into(), password: Secret::new("pä:ss".into()) });
        }
        let other = tokio::spawn(async move {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                far.read_buf(&mut request).await.expect("a request");
            }
            for piece in pieces {
                far.write_all(piece.as_bytes()).await.expect("written");
                tokio::task::yield_now().await;
            }
            String::from_utf8(request).expect("text")
        });
        let result = open(&mut near, &proxy, "backup.example.org:443").await;
        (result, other.await.expect("the proxy"))
    }

    #[tokio::test]
    async fn a_tunnel_is_asked_for_with_the_login_that_there_is() {
        let (result, request) = exchange(&[OK], false).await;
        assert!(result.is_ok() && !request.contains("Authorization"), "{request}");
        assert!(request.starts_with("CONNECT backup.example.org:443 HTTP/1.1\r\nHost: backup.example.org:443\r\n"));
        let (result, request) = exchange(&["HTTP/1.0 200 OK\r\nVia", ": x\r\n", "\r\n"], true).await;
        assert!(result.is_ok() && request.contains("\r\nProxy-Authorization: Basic dTpww6Q6c3M=\r\n"), "{request}");
    }

    #[tokio::test]
    async fn each_refusal_is_told_apart() {
        const NTLM: &str = "HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\n\r\n";
        let login = "HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\nproxy-authenticate: basic realm=x\r\n\r\n";
        let cases: [(&'static [&'static str], bool, Option<Refusal>); 11] = [
            (&["HTTP/1.1 403 Forbidden\r\n\r\n<html>"], false, Some(Refusal::Status(403))),
            (&["HTTP/1.1 503 No\r\n\r\n"], false, Some(Refusal::Status(503))),
            (&["HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n"], false, Some(Refusal::Status(302))),
            (&["SSH-2.0-OpenSSH\r\n"], false, Some(Refusal::NotHttp)),
            (&["HTTP/1.1 200 OK\r\n\r\n<html>a portal"], false, Some(Refusal::NotHttp)),
            (&["HTTP/1.1 200 OK\r\n"], false, None),
            (&[], false, None),
            (
                &["HTTP/1.1 401 Unauthorized\r\n\r\n"],
                true,
                Some(Refusal::Login { status: 401, given: true, basic: true }),
            ),
            (&["HTTP/1.1 401 Unauthorized\r\n\r\n"], false, Some(Refusal::Status(401))),
            (&[NTLM], false, Some(Refusal::Login { status: 407, given: false, basic: false })),
            (&[NTLM], true, Some(Refusal::Login { status: 407, given: true, basic: false })),
        ];
        for (pieces, with_login, expected) in cases {
            match (exchange(pieces, with_login).await.0, expected) {
                (Err(TunnelError::Refused(refusal)), Some(expected)) => assert_eq!(refusal, expected, "{pieces:?}"),
                (Err(TunnelError::Broken(_)), None) => {}
                (other, _) => unreachable!("{pieces:?}: {other:?}"),
            }
        }
        assert_eq!(read_answer(login.as_bytes(), true), Err(Refusal::Login { status: 407, given: true, basic: true }));
    }

    #[tokio::test]
    async fn an_answer_without_end_is_given_up() {
        let endless: &'static str = Box::leak(format!("HTTP/1.1 200 {}", "x".repeat(20_000)).into_boxed_str());
        let pieces: &'static [&'static str] = Box::leak(Box::new([endless]));
        assert!(matches!(exchange(pieces, false).await.0, Err(TunnelError::Refused(Refusal::NotHttp))));
    }
}
