//! Pure. Why a command of the operator's failed: one line that says what to change, then the causes; and the exit code.

use crate::file_error::chain;
use crate::http_client::{ClientError, Hop};

use crate::printable::printable;

/// Why a command failed, with its exit code (cli.md "Exit codes").
#[derive(Debug)]
pub struct CliFailure {
    pub code: u8,
    /// Empty where there is nothing more to say.
    pub text: String,
}

/// Codes of problems that say that there is no such thing, whatever their status.
const MISSING: [&str; 2] = ["no-such-snapshot", "no-such-path"];

/// The command line contradicts itself.
const USAGE: u8 = 2;

impl CliFailure {
    /// Of what the server said, or did not.
    pub fn of(error: &ClientError) -> Self {
        let code = match error {
            ClientError::Problem { status: 401 | 403, .. } => 4,
            ClientError::Problem { status: 404, .. } => 5,
            // A value of an argument that only the server knows to be wrong.
            ClientError::Problem { status: 400, .. } => USAGE,
            // What was asked for is in no host's repository: a 422, since it was the host's agent that looked.
            ClientError::Problem { body, .. } if MISSING.contains(&body.code.as_str()) => 5,
            _ => 1,
        };
        // The words may be the server's, or of whoever answers in its place.
        Self { code, text: printable(&told(error)) }
    }

    /// What was asked makes no sense, whatever the server has.
    pub(super) fn usage(text: impl Into<String>) -> Self {
        Self { code: USAGE, text: text.into() }
    }

    /// A code of its own, with everything said already.
    pub(super) fn silent(code: u8) -> Self {
        Self { code, text: String::new() }
    }
}

impl From<String> for CliFailure {
    fn from(text: String) -> Self {
        Self { code: 1, text }
    }
}

fn told(error: &ClientError) -> String {
    let Some(advice) = advice(error) else { return chain(error) };
    let headline = error.headline();
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(format!("{headline} ({advice})"), |text, cause| {
        let cause = cause.to_string();
        if text.ends_with(&cause) { text } else { format!("{text}: {cause}") }
    })
}

/// What to change where the client's own advice is for agents; `None`: that will do.
fn advice(error: &ClientError) -> Option<&'static str> {
    Some(match error {
        ClientError::BaseUrl(_) => "it comes from --server, RESTIC_MANAGER_URL or url in client.toml",
        ClientError::Unreachable { hop: Hop::Name | Hop::Tcp, proxy: None, .. } => {
            "see that the server runs there and firewalls let this machine to it; --server, RESTIC_MANAGER_URL or url in client.toml names another"
        }
        ClientError::Tls { source, .. } if is_of_unknown_ca(source) => {
            "it is the server's own CA, or the one of a proxy that looks into TLS: name its CA with --ca-file or ca_file in client.toml"
        }
        ClientError::Problem { status: 401, .. } => {
            "give the server a token that it lists: --token-file, RESTIC_MANAGER_TOKEN_FILE or token_file in client.toml"
        }
        _ => return None,
    })
}

fn is_of_unknown_ca(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer))
}

/// Whether the same request may well be answered a moment later: the server restarts, or something on the way was cut.
pub(super) fn is_passing(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } | ClientError::Timeout { .. } => true,
        ClientError::Problem { status, .. } => matches!(status, 429 | 503 | 507),
        ClientError::Intermediary { status, .. } => matches!(status, 502..=504),
        _ => false,
    }
}

/// Whether the request may have reached the server although nothing of its answer came.
pub(super) fn is_answer_lost(error: &ClientError) -> bool {
    let reached = !matches!(error, ClientError::Unreachable { hop: Hop::Name | Hop::Tcp | Hop::Tunnel | Hop::Tls, .. });
    reached && is_passing(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ProblemBody;

    fn problem(status: u16, detail: &str) -> ClientError {
        problem_with(status, detail, "c")
    }

    fn problem_with(status: u16, detail: &str, code: &str) -> ClientError {
        let text = serde_json::json!({"type": "x", "title": "t", "status": status, "detail": detail, "code": code});
        let body: ProblemBody = serde_json::from_value(text).expect("a problem");
        ClientError::Problem { status, body: Box::new(body), retry_after: None }
    }

    #[test]
    fn codes_tell_who_may_not_from_what_is_not_there_and_the_rest() {
        let code = |status| CliFailure::of(&problem(status, "d")).code;
        assert_eq!([400, 401, 403, 404, 409, 422, 500, 503].map(code), [2, 4, 4, 5, 1, 1, 1, 1]);
        let code = |code| CliFailure::of(&problem_with(422, "no such snapshot", code)).code;
        assert_eq!(
            ["no-such-snapshot", "no-such-path", "query-failed"].map(code),
            [5, 5, 1],
            "by the code, not the words"
        );
    }

    #[test]
    fn an_unknown_ca_and_a_server_that_is_not_there_name_what_to_change_and_the_cause() {
        let source = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let text = CliFailure::of(&ClientError::Tls { server: "https://b".into(), source }).text;
        assert!(text.contains("--ca-file or ca_file in client.toml"), "{text}");
        let refused = ClientError::Unreachable {
            hop: Hop::Tcp,
            server: "https://b".into(),
            proxy: None,
            source: "connection refused".into(),
        };
        let text = CliFailure::of(&refused).text;
        assert!(text.starts_with("cannot connect to https://b (") && text.ends_with("): connection refused"), "{text}");
        assert!(text.contains("--server") && !text.contains("agent.toml"), "{text}");
    }

    #[test]
    fn a_servers_words_drive_no_terminal() {
        let text = CliFailure::of(&problem(422, "\u{1b}[2J no snapshot \u{202e}")).text;
        assert_eq!(text, "\\u{1b}[2J no snapshot \\u{202e} (422 c)");
    }

    #[test]
    fn only_what_may_have_arrived_counts_as_a_lost_answer() {
        let broken = |hop| ClientError::Unreachable { hop, server: String::new(), proxy: None, source: "x".into() };
        assert!(is_passing(&broken(Hop::Tcp)) && !is_answer_lost(&broken(Hop::Tcp)));
        assert!(is_answer_lost(&broken(Hop::Request)) && is_answer_lost(&broken(Hop::Answer)));
        assert!(is_answer_lost(&problem(503, "")) && !is_passing(&problem(422, "")) && !is_passing(&problem(401, "")));
    }
}
