//! Pure. Why a request has no answer of ours, in words for whoever has to mend it: which hop failed, how, and what to change.
//! Does not decide what to do about it: callers back off, give up or ask.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use super::connect::{ConnectError, FailedAt};
use super::tunnel::Refusal;
use crate::protocol::ProblemBody;
use crate::proxy::Proxy;

/// How far a request came. In the order in which they are passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hop {
    /// The request could not be made.
    Settings,
    /// The name of the server, or of the proxy where there is one, has no address.
    Name,
    /// Nobody answers at that address.
    Tcp,
    /// The proxy does not connect us to the server.
    Tunnel,
    /// No TLS with the server.
    Tls,
    /// The connection broke before the answer began, or it did not begin in time.
    Request,
    /// The connection broke within the answer, or the answer is not our server's.
    Answer,
    /// Our server has spoken.
    Server,
}

/// Only `Problem` proves that our server has spoken; nothing else may change what an agent believes.
#[derive(Debug)]
pub enum ClientError {
    /// The server's URL; the text goes after "the server's URL".
    BaseUrl(&'static str),
    /// The request can't be made from what the caller gave.
    Request(&'static str),
    Unreachable {
        hop: Hop,
        server: String,
        proxy: Option<Box<Proxy>>,
        source: Box<dyn Error + Send + Sync>,
    },
    /// The proxy said no.
    Refused {
        refusal: Refusal,
        proxy: Box<Proxy>,
        /// host:port of the server.
        target: String,
    },
    /// The server, or whoever intercepts TLS, is not trusted, or speaks no TLS.
    Tls {
        server: String,
        source: rustls::Error,
    },
    Timeout {
        /// What didn't come: "no answer".
        what: &'static str,
        after: Duration,
    },
    /// Our server refuses or fails, and says why.
    Problem {
        status: u16,
        body: Box<ProblemBody>,
        retry_after: Option<Duration>,
    },
    /// Something between us and the server answered, or the URL is another program's.
    Intermediary {
        status: u16,
        content_type: String,
        /// The body's first 200 bytes, without control characters.
        excerpt: String,
        why: String,
        retry_after: Option<Duration>,
    },
    /// The answer, or one line of it, has more bytes than this.
    TooLarge {
        limit: usize,
    },
}

impl ClientError {
    /// Sorts out why hyper could not get an answer. `proxy`: what the connection went through.
    pub(super) fn of_request(server: &str, proxy: Option<&Proxy>, error: hyper_util::client::legacy::Error) -> Self {
        let server = server.to_owned();
        let proxy = proxy.cloned().map(Box::new);
        let Some(ConnectError { at, target }) = find::<ConnectError>(&error) else {
            // With TLS 1.3 a server's word on our certificate comes after the handshake.
            if let Some(source) = find::<rustls::Error>(&error) {
                return Self::Tls { server, source: source.clone() };
            }
            return Self::Unreachable { hop: Hop::Request, server, proxy, source: Box::new(error) };
        };
        let (hop, text) = match at {
            FailedAt::Name(text) => (Hop::Name, text),
            FailedAt::Tcp(text) => (Hop::Tcp, text),
            FailedAt::Tunnel(text) => (Hop::Tunnel, text),
            FailedAt::TlsBroken(text) => (Hop::Tls, text),
            FailedAt::Tls(source) => return Self::Tls { server, source: source.clone() },
            FailedAt::Refused { refusal, proxy } => {
                return Self::Refused { refusal: refusal.clone(), proxy: proxy.clone(), target: target.clone() };
            }
        };
        Self::Unreachable { hop, server, proxy, source: text.clone().into() }
    }

    /// How far the request came.
    pub fn hop(&self) -> Hop {
        match self {
            Self::BaseUrl(_) | Self::Request(_) => Hop::Settings,
            Self::Unreachable { hop, .. } => *hop,
            Self::Refused { .. } => Hop::Tunnel,
            Self::Tls { .. } => Hop::Tls,
            Self::Timeout { .. } => Hop::Request,
            Self::Intermediary { .. } | Self::TooLarge { .. } => Hop::Answer,
            Self::Problem { .. } => Hop::Server,
        }
    }

    /// How long the other side wants to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Problem { retry_after, .. } | Self::Intermediary { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The problem's stable code, if our server has spoken.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Problem { body, .. } => Some(&body.code),
            _ => None,
        }
    }

    /// What failed, without what to do about it.
    pub fn headline(&self) -> String {
        match self {
            Self::BaseUrl(problem) => format!("the server's URL {problem}"),
            Self::Request(problem) => (*problem).to_owned(),
            Self::Unreachable { hop, server, proxy, .. } => unreachable_headline(*hop, server, proxy.as_deref()),
            Self::Refused { refusal, proxy, target } => refusal.said(proxy, target),
            Self::Tls { server, source } => format!("no TLS with {server}: {}", what_is_wrong(source)),
            Self::Timeout { what, after } => format!("{what} within {} s", after.as_secs_f32()),
            Self::Problem { status, body, .. } => {
                let text = if body.detail.is_empty() { &body.title } else { &body.detail };
                format!("{text} ({status} {})", body.code)
            }
            Self::Intermediary { status, content_type, excerpt, why, .. } => format!(
                "the answer is not from restic-manager, {why} (status {status}, content type {content_type:?}): {excerpt:?}"
            ),
            Self::TooLarge { limit } => format!("the answer is larger than {limit} bytes"),
        }
    }

    /// What to change, where the headline does not say it.
    pub fn advice(&self) -> Option<String> {
        let advice = match self {
            Self::Unreachable { hop, proxy, .. } => return unreachable_advice(*hop, proxy.as_deref()),
            Self::Refused { refusal, proxy, .. } => return Some(refusal.advice(proxy)),
            Self::Tls { source, .. } => tls_advice(source)?,
            Self::Problem { body, .. } if body.code == "client-certificate" => CLIENT_CERTIFICATE_ADVICE,
            Self::Intermediary { status: 200..400, .. } => {
                "a login page (captive portal) or another program answers in the server's place: log in there, or mend the server's URL"
            }
            Self::Intermediary { status: 502..=504, .. } => {
                "see that the server behind that proxy runs, and that the proxy waits for an answer longer than a poll lasts"
            }
            _ => return None,
        };
        Some(advice.to_owned())
    }
}

fn unreachable_headline(hop: Hop, server: &str, proxy: Option<&Proxy>) -> String {
    let through = proxy.map_or(String::new(), |proxy| format!(" through the proxy {proxy}"));
    match (hop, proxy) {
        (Hop::Name, Some(proxy)) => format!("cannot find the address of the proxy {proxy}"),
        (Hop::Tcp, Some(proxy)) => format!("cannot connect to the proxy {proxy}"),
        (Hop::Name, None) => format!("cannot find the address of {server}"),
        (Hop::Tcp, None) => format!("cannot connect to {server}"),
        (Hop::Tunnel, _) => format!("the way to {server}{through} ended before it was there"),
        (Hop::Tls, _) => format!("no TLS with {server}{through}: the connection ended, or nothing came"),
        (Hop::Answer | Hop::Server, _) => format!("the connection to {server}{through} broke within its answer"),
        (Hop::Settings | Hop::Request, _) => format!("the connection to {server}{through} broke before an answer"),
    }
}

fn unreachable_advice(hop: Hop, proxy: Option<&Proxy>) -> Option<String> {
    let origin = proxy.map_or("", Proxy::origin);
    Some(match (hop, proxy) {
        (Hop::Name, Some(_)) => format!("mend the proxy's name in {origin}, or this host's DNS"),
        (Hop::Tcp, Some(_)) => {
            format!("see that the proxy runs and a firewall lets this host out to it, or mend its address in {origin}")
        }
        (Hop::Name, None) => "mend the server's name, or this host's DNS".to_owned(),
        (Hop::Tcp, None) => {
            "see that the server runs and that firewalls let this host out to it; where only a proxy gets out, name it in [proxy] of agent.toml or in HTTPS_PROXY"
                .to_owned()
        }
        (Hop::Tunnel, _) => "see whether that is an HTTP proxy, and whether its log tells why".to_owned(),
        (Hop::Tls, _) => "something on the way lets connections through but no TLS: see the firewall's or proxy's log, and that the server's port speaks TLS".to_owned(),
        _ => return None,
    })
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.headline())?;
        self.advice().map_or(Ok(()), |advice| write!(f, " ({advice})"))
    }
}

impl Error for ClientError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unreachable { source, .. } => Some(source.as_ref()),
            Self::Tls { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// An error of this type in a chain. I/O errors hide what they wrap from `source`.
fn find<'e, T: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

fn what_is_wrong(error: &rustls::Error) -> &'static str {
    use rustls::CertificateError as Bad;
    match error {
        rustls::Error::InvalidCertificate(bad) => match bad {
            Bad::UnknownIssuer => "its certificate comes from a CA that is not trusted here",
            Bad::Expired | Bad::ExpiredContext { .. } => "its certificate has expired, or this host's clock is wrong",
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                "its certificate is not valid yet, or this host's clock is wrong"
            }
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => "its certificate is for another name",
            _ => "its certificate is not accepted",
        },
        rustls::Error::InvalidMessage(_) => "what answers there does not speak TLS",
        rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired) => {
            "the server wants a certificate from us"
        }
        rustls::Error::AlertReceived(alert) if is_about_our_certificate(*alert) => {
            "the server does not accept our certificate"
        }
        rustls::Error::AlertReceived(_) => "the other side refuses the connection",
        _ => "the handshake failed",
    }
}

const CLIENT_CERTIFICATE_ADVICE: &str = "set client_cert and client_key in agent.toml to a certificate, not expired, of the CA that the server's [tls] client_ca names";

fn is_about_our_certificate(alert: rustls::AlertDescription) -> bool {
    use rustls::AlertDescription as Alert;
    matches!(
        alert,
        Alert::CertificateRequired
            | Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::CertificateUnknown
    )
}

fn tls_advice(error: &rustls::Error) -> Option<&'static str> {
    use rustls::CertificateError as Bad;
    Some(match error {
        rustls::Error::InvalidCertificate(bad) => match bad {
            Bad::UnknownIssuer => {
                "it is the server's own CA, or the one of a proxy that looks into TLS: give that CA's certificate as ca_file"
            }
            Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                "compare this host's clock with the certificate's dates (openssl s_client), and set the clock or renew the certificate"
            }
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                "write the server's URL with a name that the certificate has, or give the server a certificate for this one"
            }
            _ => return None,
        },
        rustls::Error::InvalidMessage(_) => "mend the port in the server's URL, or have TLS set up there",
        rustls::Error::AlertReceived(alert) if is_about_our_certificate(*alert) => CLIENT_CERTIFICATE_ADVICE,
        _ => return None,
    })
}
