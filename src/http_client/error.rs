//! Pure. Why a request has no answer of ours, in words for whoever has to mend it.
//! Does not decide what to do about it: callers back off, give up or ask.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use crate::protocol::ProblemBody;

/// How far a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// The server's name has no address.
    Name,
    /// Nobody answers at that address.
    Tcp,
    /// The connection broke before the answer began.
    Request,
    /// The connection broke within the answer.
    Answer,
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
        source: Box<dyn Error + Send + Sync>,
    },
    /// The server, or whoever intercepts TLS, is not trusted, or speaks no TLS.
    Tls {
        server: String,
        advice: &'static str,
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
    /// Sorts out why hyper could not get an answer.
    pub(super) fn of_request(server: &str, error: hyper_util::client::legacy::Error) -> Self {
        if let Some(source) = find_rustls(&error) {
            return Self::Tls { server: server.to_owned(), advice: advice(&source), source };
        }
        let hop = if !error.is_connect() {
            Hop::Request
        } else if crate::file_error::chain(&error).contains("dns error") {
            Hop::Name
        } else {
            Hop::Tcp
        };
        Self::Unreachable { hop, server: server.to_owned(), source: Box::new(error) }
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
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BaseUrl(problem) => write!(f, "the server's URL {problem}"),
            Self::Request(problem) => f.write_str(problem),
            Self::Unreachable { hop, server, .. } => match hop {
                Hop::Name => write!(f, "cannot find the address of {server}"),
                Hop::Tcp => write!(f, "cannot connect to {server}"),
                Hop::Request => write!(f, "the connection to {server} broke before an answer"),
                Hop::Answer => write!(f, "the connection to {server} broke within its answer"),
            },
            Self::Tls { server, advice, .. } => write!(f, "no TLS with {server}: {advice}"),
            Self::Timeout { what, after } => write!(f, "{what} within {} s", after.as_secs_f32()),
            Self::Problem { status, body, .. } => {
                let text = if body.detail.is_empty() { &body.title } else { &body.detail };
                write!(f, "{text} ({status} {})", body.code)
            }
            Self::Intermediary { status, content_type, excerpt, why, .. } => write!(
                f,
                "the answer is not from restic-manager, {why} (status {status}, content type {content_type:?}): {excerpt:?}"
            ),
            Self::TooLarge { limit } => write!(f, "the answer is larger than {limit} bytes"),
        }
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

/// The TLS error in a chain. I/O errors hide what they wrap from `source`.
fn find_rustls(error: &(dyn Error + 'static)) -> Option<rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found.clone());
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

fn advice(error: &rustls::Error) -> &'static str {
    use rustls::CertificateError as Bad;
    match error {
        rustls::Error::InvalidCertificate(bad) => match bad {
            Bad::UnknownIssuer => {
                "its certificate comes from a CA that is not trusted here; give that CA's certificate as ca_file"
            }
            Bad::Expired | Bad::ExpiredContext { .. } => "its certificate has expired, or this host's clock is wrong",
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                "its certificate is not valid yet, or this host's clock is wrong"
            }
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => "its certificate is for another name",
            _ => "its certificate is not accepted",
        },
        rustls::Error::InvalidMessage(_) => "what answers there does not speak TLS",
        rustls::Error::AlertReceived(_) => "the other side refuses the connection",
        _ => "the handshake failed",
    }
}
