//! Edge. `restic-manager-agent diagnose`: goes the way to the server as the agent does, and says of each hop whether it is passed,
//! what was seen and what to change; in the words of the log. Changes nothing, and takes no commands: the agent may run meanwhile.

use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use hyper::{Method, Uri};
use restic_manager::clock;
use restic_manager::file_error::chain;
use restic_manager::http_client::{ClientError, Hop, HttpClient};
use restic_manager::protocol::agent_path;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::core::POLL_WAIT_FILE;
use crate::identity::Identity;
use crate::poll_wait::PollWait;
use crate::settings::AgentSettings;
use crate::{Directory, Failure, print_to_whoever_reads, run};

#[derive(Debug, Args)]
pub(crate) struct DiagnoseArguments {
    #[command(flatten)]
    directory: Directory,
    /// For scripts
    #[arg(long)]
    json: bool,
}

const DEADLINE: Duration = Duration::from_secs(40);
/// A clock that is off by more makes certificates, schedules and commands' expiry go wrong.
const SKEW_LIMIT: TimeDelta = TimeDelta::minutes(2);

/// One hop, tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Tried {
    hop: &'static str,
    ok: bool,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<String>,
}

impl Tried {
    fn passed(hop: &'static str, detail: impl Into<String>) -> Self {
        Self { hop, ok: true, detail: detail.into(), change: None }
    }

    fn failed(hop: &'static str, detail: impl Into<String>, change: Option<String>) -> Self {
        Self { hop, ok: false, detail: detail.into(), change }
    }
}

pub(crate) fn run(arguments: &DiagnoseArguments) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    let tried = runtime.block_on(try_all(&arguments.directory));
    let text = if arguments.json { format!("{}\n", json!({"hops": tried})) } else { lines(&tried) };
    print_to_whoever_reads(&text);
    match tried.iter().find(|tried| !tried.ok) {
        None => Ok(()),
        Some(failed) => Err(Failure { code: 1, text: format!("the way to the server fails at: {}", failed.hop) }),
    }
}

fn lines(tried: &[Tried]) -> String {
    let mut text = String::new();
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    for Tried { hop, ok, detail, change } in tried {
        let word = match (ok, colour) {
            (true, false) => "ok    ",
            (false, false) => "FAILED",
            (true, true) => "\u{1b}[32mok\u{1b}[0m    ",
            (false, true) => "\u{1b}[31mFAILED\u{1b}[0m",
        };
        text.push_str(&format!("{hop:<12}{word}  {detail}\n"));
        if let Some(change) = change {
            text.push_str(&format!("{:<20}change: {change}\n", ""));
        }
    }
    text
}

async fn try_all(directory: &Directory) -> Vec<Tried> {
    let dir = &directory.dir;
    let settings = match run::read_settings(&directory.settings_file()) {
        Ok(settings) => settings,
        Err(failure) => return vec![Tried::failed("settings", failure.text, None)],
    };
    let identity = Identity::read(dir).ok().flatten().filter(|identity| identity.enrolled);
    let client = match run::client(&settings, identity.as_ref().map(|identity| &identity.credential)) {
        Ok(client) => client,
        Err(failure) => return vec![Tried::failed("settings", failure.text, None)],
    };
    let way =
        client.proxy().map_or("directly".to_owned(), |proxy| format!("through the proxy {proxy} ({})", proxy.origin()));
    let mut tried = vec![Tried::passed("settings", format!("{} as {}, {way}", settings.server, settings.host))];
    let went = client.request(Method::GET, "/healthz", &[], None, DEADLINE).await;
    let health = went.and_then(|answer| answer.json::<Health>());
    tried.extend(hops_of(&settings, &client, health.as_ref().err()).await);
    if health.is_ok() {
        tried.extend(try_credential(&settings, &client, identity.is_some()).await);
        tried.push(poll_wait(dir));
    }
    tried
}

/// What `/healthz` answers: another program's JSON has not that.
#[derive(Deserialize)]
struct Health {
    #[serde(rename = "status")]
    _status: String,
}

/// The hops of the request that ended with `error` or, without one, got through: all before the one that failed were passed.
async fn hops_of(settings: &AgentSettings, client: &HttpClient, error: Option<&ClientError>) -> Vec<Tried> {
    let uri: Uri = settings.server.parse().unwrap_or_default();
    let is_tls = uri.scheme_str() == Some("https");
    let server = uri.authority().map_or(String::new(), ToString::to_string);
    let peer = client.first_hop();
    let failed_at = error.map_or(Hop::Server, ClientError::hop);
    let mut tried = Vec::new();
    let mut pass = |hop: Hop, name: &'static str, detail: String| {
        if failed_at > hop {
            tried.push(Tried::passed(name, detail));
        } else if failed_at == hop
            && let Some(error) = error
        {
            tried.push(Tried::failed(name, headline_and_causes(error), error.advice()));
        }
    };
    let addresses = tokio::net::lookup_host(peer).await.map(|found| found.map(|a| a.ip().to_string()).collect());
    let addresses: Vec<String> = addresses.unwrap_or_default();
    pass(
        Hop::Name,
        "name",
        format!("{peer} is {}", if addresses.is_empty() { "known".to_owned() } else { addresses.join(", ") }),
    );
    match client.proxy() {
        None => pass(Hop::Tcp, "tcp", format!("connected to {server}")),
        Some(proxy) => {
            pass(Hop::Tcp, "proxy", format!("connected to {proxy}"));
            pass(Hop::Tunnel, "connect", format!("the proxy connects us to {server}"));
        }
    }
    if is_tls {
        pass(Hop::Tls, "tls", "the server's certificate is trusted".to_owned());
    }
    // What is left failed after the connection was there.
    match error {
        Some(error) if failed_at > Hop::Tls || (failed_at == Hop::Tls && !is_tls) => {
            tried.push(Tried::failed("server", headline_and_causes(error), error.advice()));
        }
        Some(error) if failed_at == Hop::Settings => {
            tried.push(Tried::failed("settings", headline_and_causes(error), error.advice()));
        }
        Some(_) => {}
        None => tried.push(Tried::passed("server", "it is restic-manager that answers")),
    }
    tried
}

fn headline_and_causes(error: &ClientError) -> String {
    let causes = std::error::Error::source(error).map(|source| format!(": {}", chain(source)));
    format!("{}{}", error.headline(), causes.unwrap_or_default())
}

#[derive(Deserialize)]
struct ServerTime {
    server_time: DateTime<Utc>,
}

/// The credential, and by the answer's time the clock.
async fn try_credential(settings: &AgentSettings, client: &HttpClient, is_enrolled: bool) -> Vec<Tried> {
    if !is_enrolled {
        let change = "enroll it: restic-manager enroll HOST on the server prints the line to run here".to_owned();
        return vec![Tried::failed("credential", "this host is not enrolled", Some(change))];
    }
    let (began, before) = (Instant::now(), clock::now());
    let beat = json!({"sent_at": before});
    match client.post_json::<ServerTime>(&agent_path(&settings.host, "heartbeat"), &beat, DEADLINE).await {
        Ok(ServerTime { server_time }) => {
            let took = began.elapsed();
            let middle = before + TimeDelta::from_std(took / 2).unwrap_or_default();
            vec![
                clock(middle - server_time),
                Tried::passed("credential", format!("accepted, in {} ms", took.as_millis())),
            ]
        }
        Err(error) => {
            let change = match &error {
                ClientError::Problem { status: 401, body, .. } if body.code == "unauthorized" => {
                    Some("enroll this host again with a new token: its credential was revoked or replaced".to_owned())
                }
                error => error.advice(),
            };
            vec![Tried::failed("credential", headline_and_causes(&error), change)]
        }
    }
}

/// `ahead`: this host's clock less the server's.
fn clock(ahead: TimeDelta) -> Tried {
    #[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
    let seconds = ahead.num_milliseconds() as f64 / 1000.0;
    let detail = match seconds {
        s if s.abs() < 0.05 => "agrees with the server's".to_owned(),
        s if s > 0.0 => format!("{s:.1} s ahead of the server's"),
        s => format!("{:.1} s behind the server's", -s),
    };
    if ahead.abs() > SKEW_LIMIT {
        return Tried::failed("clock", detail, Some("set this host's clock or the server's (NTP)".to_owned()));
    }
    Tried::passed("clock", detail)
}

fn poll_wait(dir: &Path) -> Tried {
    let path = dir.join(POLL_WAIT_FILE);
    let learned = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<PollWait>(&bytes).ok());
    Tried::passed("poll", format!("each {}", learned.unwrap_or_default().describe(run::DEFAULT_WAIT_SECS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_is_named_with_its_direction() {
        assert_eq!(clock(TimeDelta::milliseconds(10)), Tried::passed("clock", "agrees with the server's"));
        assert_eq!(clock(TimeDelta::milliseconds(-1500)), Tried::passed("clock", "1.5 s behind the server's"));
        let off = clock(TimeDelta::hours(3));
        assert!(!off.ok && off.detail == "10800.0 s ahead of the server's" && off.change.is_some(), "{off:?}");
    }

    #[tokio::test]
    async fn without_settings_that_is_the_hop_that_fails() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let tried = try_all(&Directory::at(dir.path())).await;
        assert!(tried.len() == 1 && tried[0].hop == "settings" && !tried[0].ok, "{tried:?}");
    }

    #[tokio::test]
    async fn the_hops_before_the_one_that_fails_are_passed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        // A port that nobody listens on: bound once, and let go.
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        std::fs::write(
            dir.path().join("agent.toml"),
            format!("server = \"https://localhost:{port}\"\nhost = \"web-1\"\n"),
        )
        .expect("written");
        let tried = try_all(&Directory::at(dir.path())).await;
        let seen: Vec<(&str, bool)> = tried.iter().map(|tried| (tried.hop, tried.ok)).collect();
        assert_eq!(seen, [("settings", true), ("name", true), ("tcp", false)], "{tried:?}");
        assert!(tried[2].change.as_ref().is_some_and(|change| change.contains("[proxy] of agent.toml")), "{tried:?}");
    }
}
