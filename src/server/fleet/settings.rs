//! Pure. server.toml: the server's own settings, each with a default, so that an empty file is a working server.
//! Does not open what the paths name. Relative paths begin at the configuration directory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use super::channels::{Channel, read_alerts};
use super::raw_schedule::{Typed, read_list};
use super::rules;
use super::secret_text::web_address;
use crate::ip_range::IpRange;
use crate::problem::Problem;
use crate::protocol::command::AgentUpdateAvailable;
use crate::protocol::text::{InvalidSpan, Span};
use crate::server::keep::KeepRules;
use crate::toml_reader::{Placed, TableReader, read_document, shown};

/// The server's settings.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerSettings {
    /// A change of it needs a restart.
    pub listen: SocketAddr,
    /// The state directory.
    pub state: String,
    /// Only their word about a client's address counts.
    pub trusted_proxies: Vec<IpRange>,
    /// Sent to agents, for inline hooks.
    pub hook_shell: String,
    /// Files of secrets must lie below one of them.
    pub secret_roots: Vec<String>,
    /// Programs that print a secret, with their arguments; `{host}` in those stands for the host's name.
    pub secret_commands: BTreeMap<String, Vec<String>>,
    pub tls: Option<TlsSettings>,
    /// Plain HTTP beyond loopback is wanted: a TLS proxy is in front.
    pub insecure_http: bool,
    pub tokens: Vec<OperatorToken>,
    /// How long events stay.
    pub history_keep: Span,
    /// How long jobs' logs stay.
    pub logs_keep: Span,
    /// From this age on both are compressed; `None`: never.
    pub compress_after: Option<Span>,
    /// Which agent is wanted everywhere.
    pub agent_update: Option<Arc<AgentUpdateAvailable>>,
    /// Where people reach this server: what links in messages begin with. Without a slash at its end.
    pub public_url: Option<String>,
    /// Where alerts are told.
    pub channels: Vec<Channel>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    pub cert: String,
    pub key: String,
    /// Agents must present a certificate that it signed.
    pub client_ca: Option<String>,
}

/// What a token may do; each may also do what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Viewer,
    Operator,
    Admin,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorToken {
    pub name: String,
    pub role: Role,
    /// Host names with `*`; empty: all hosts.
    pub hosts: Vec<String>,
    pub sha256: [u8; 32],
}

impl ServerSettings {
    pub fn keep_rules(&self) -> KeepRules {
        KeepRules { keep: self.history_keep, logs_keep: self.logs_keep, compress_after: self.compress_after }
    }
}

/// A length of time, or "never", for which "0" is another word.
struct CompressAfter(Option<Span>);

impl FromStr for CompressAfter {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if matches!(text, "never" | "0") {
            return Ok(Self(None));
        }
        let span: Span = text.parse().map_err(|error: InvalidSpan| format!("{error}, or \"never\""))?;
        Ok(Self(Some(span).filter(|span| !span.is_zero())))
    }
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            state: "../state".to_owned(),
            trusted_proxies: Vec::new(),
            hook_shell: "/bin/sh".to_owned(),
            secret_roots: vec!["/run/secrets".to_owned()],
            secret_commands: BTreeMap::new(),
            tls: None,
            insecure_http: false,
            tokens: Vec::new(),
            history_keep: Span::from_secs(2 * 31_557_600),
            logs_keep: Span::from_secs(90 * 86_400),
            compress_after: Some(Span::from_secs(30 * 86_400)),
            agent_update: None,
            public_url: None,
            channels: Vec::new(),
        }
    }
}

/// Reads server.toml.
pub(super) fn read_settings(file: &str, text: &str, problems: &mut Vec<Problem>) -> ServerSettings {
    read_document(file, text, problems, read_top).0
}

fn read_top(top: &mut TableReader<'_>) -> ServerSettings {
    let default = ServerSettings::default();
    let listen: Typed<SocketAddr> = read_listen(top);
    let tls = top.table("tls", read_tls).and_then(|tls| tls.value);
    let insecure_http = top.boolean("insecure_http").is_some_and(|on| on.value);
    if let Some(listen) = &listen
        && !listen.value.ip().is_loopback()
        && !insecure_http
        && top.place_of("tls").is_none()
    {
        let message =
            "listen beyond loopback needs [tls] with cert and key, or insecure_http = true behind a TLS proxy";
        top.error(listen.place, message);
    }
    let history = top.table("history", |history| {
        let (keep, logs_keep) = (history.parsed::<Span>("keep"), history.parsed::<Span>("logs_keep"));
        (keep, logs_keep, history.parsed::<CompressAfter>("compress_after"))
    });
    let (history_keep, logs_keep, compress_after) = history.map_or((None, None, None), |history| history.value);
    ServerSettings {
        listen: listen.map_or(default.listen, |listen| listen.value),
        state: read_path(top, "state").unwrap_or(default.state),
        trusted_proxies: top.parsed_list("trusted_proxies").map_or(default.trusted_proxies, values),
        hook_shell: read_path(top, "hook_shell").unwrap_or(default.hook_shell),
        secret_roots: read_list(top, "secret_roots", rules::file_path)
            .map_or(default.secret_roots, |roots| roots.value),
        secret_commands: top.table("secret_commands", read_commands).map_or(default.secret_commands, |c| c.value),
        tls,
        insecure_http,
        tokens: read_tokens(top),
        history_keep: history_keep.map_or(default.history_keep, |span| span.value),
        logs_keep: logs_keep.map_or(default.logs_keep, |span| span.value),
        compress_after: compress_after.map_or(default.compress_after, |after| after.value.0),
        agent_update: top.table("agent_update", read_update).and_then(|update| update.value).map(Arc::new),
        public_url: read_public_url(top),
        channels: top.table("alerts", read_alerts).map_or(default.channels, |channels| channels.value),
    }
}

fn values<T>(list: Vec<Placed<T>>) -> Vec<T> {
    list.into_iter().map(|item| item.value).collect()
}

fn read_listen(top: &mut TableReader<'_>) -> Typed<SocketAddr> {
    let text = top.string("listen")?;
    match text.value.parse() {
        Ok(value) => Some(Placed { value, place: text.place }),
        Err(_) => {
            let message = format!("listen {} is no address with a port: write \"127.0.0.1:8080\"", shown(&text.value));
            top.error(text.place, message);
            None
        }
    }
}

fn read_public_url(top: &mut TableReader<'_>) -> Option<String> {
    let url = top.string("public_url").filter(|url| !url.value.is_empty())?;
    if let Err(message) = web_address(&url.value) {
        top.error(url.place, format!("public_url {message}"));
        return None;
    }
    Some(url.value.trim_end_matches('/').to_owned())
}

fn read_path<'d>(table: &mut TableReader<'d>, key: &'d str) -> Option<String> {
    let path = table.string(key)?;
    if let Err(message) = rules::file_path(&path.value) {
        table.error(path.place, format!("{key}: {message}"));
        return None;
    }
    Some(path.value)
}

fn read_required<'d>(table: &mut TableReader<'d>, key: &'d str, example: &str) -> Option<String> {
    if table.place_of(key).is_none() {
        table.missing(key, example);
    }
    read_path(table, key)
}

fn read_tls(tls: &mut TableReader<'_>) -> Option<TlsSettings> {
    let cert = read_required(tls, "cert", "cert = \"/etc/restic-manager/tls.crt\"");
    let key = read_required(tls, "key", "key = \"/etc/restic-manager/tls.key\"");
    let client_ca = tls.string("client_ca").map(|path| path.value).filter(|path| !path.is_empty());
    Some(TlsSettings { cert: cert?, key: key?, client_ca })
}

fn read_commands(table: &mut TableReader<'_>) -> BTreeMap<String, Vec<String>> {
    let mut commands = BTreeMap::new();
    for name in table.names() {
        let Some(words) = read_list(table, name, rules::file_path) else { continue };
        if words.value.is_empty() {
            table.error(words.place, format!("{} names no program", shown(name)));
        }
        commands.insert(name.to_owned(), words.value);
    }
    commands
}

fn read_tokens(top: &mut TableReader<'_>) -> Vec<OperatorToken> {
    let mut names = BTreeSet::new();
    let tokens = top.tables("tokens", read_token);
    for Placed { value: token, place } in &tokens {
        if let Some(token) = token
            && !names.insert(token.name.clone())
        {
            top.error(*place, format!("token {} is there twice: choose another name", shown(&token.name)));
        }
    }
    let is_admin = |token: &Placed<Option<OperatorToken>>| token.value.as_ref().is_none_or(|t| t.role == Role::Admin);
    if let Some(first) = tokens.first().filter(|_| !tokens.iter().any(is_admin)) {
        let message = "no token has the role admin, so nobody can enroll hosts: state/admin-token counts only where there is no [[tokens]]";
        top.warning(first.place, message);
    }
    tokens.into_iter().filter_map(|token| token.value).collect()
}

fn read_token(table: &mut TableReader<'_>) -> Option<OperatorToken> {
    let name = read_required(table, "name", "name = \"ops\"");
    let roles = [("viewer", Role::Viewer), ("operator", Role::Operator), ("admin", Role::Admin)];
    if table.place_of("role").is_none() {
        table.missing("role", "role = \"viewer\"");
    }
    let role = table.choice("role", &roles);
    let hosts = read_list(table, "hosts", rules::host_pattern);
    if let Some(hosts) = &hosts
        && hosts.value.is_empty()
    {
        table.error(hosts.place, "hosts is empty: leave it out for all hosts");
    }
    if table.place_of("sha256").is_none() {
        table.missing("sha256", "sha256 = \"...\", as `restic-manager token new` prints it");
    }
    let hash = table.string("sha256");
    let sha256 = hash.as_ref().and_then(|hash| {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(hash.value.as_bytes()).ok()?;
        <[u8; 32]>::try_from(bytes).ok()
    });
    if let (Some(hash), None) = (&hash, sha256) {
        // Not repeated: it may be the token itself.
        table.error(hash.place, "sha256 is 64 hex digits, as `restic-manager token new` prints them");
    }
    Some(OperatorToken {
        name: name?,
        role: role?.value,
        hosts: hosts.map_or(Vec::new(), |h| h.value),
        sha256: sha256?,
    })
}

fn read_update(table: &mut TableReader<'_>) -> Option<AgentUpdateAvailable> {
    for (key, example) in [
        ("latest_version", "latest_version = \"1.2.0\""),
        ("package_url", "package_url = \"https://packages.example.org/\""),
    ] {
        if table.place_of(key).is_none() {
            table.missing(key, example);
        }
    }
    let mut read = |key: &'static str, rule: fn(&str) -> Result<(), String>| {
        let text = table.string(key)?;
        if let Err(message) = rule(&text.value) {
            // An address is not repeated: it may hold a password.
            table.error(text.place, format!("{key} {message}"));
            return None;
        }
        Some(text.value)
    };
    let latest_version = read("latest_version", rules::program_version);
    let package_url = read("package_url", web_address);
    let changelog = read("changelog", rules::words);
    Some(AgentUpdateAvailable { latest_version: latest_version?, package_url: package_url?, changelog })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_every_default() {
        let mut problems = Vec::new();
        assert_eq!(read_settings("server.toml", "", &mut problems), ServerSettings::default());
        assert_eq!(problems, []);
    }

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let text = "listen = \"127.0.0.1:8080\"\nstate = \"../state\"\ntrusted_proxies = []\nhook_shell = \"/bin/sh\"\n\
                    secret_roots = [\"/run/secrets\"]\n[history]\nkeep = \"2y\"\nlogs_keep = \"90d\"\n\
                    compress_after = \"30d\"\n";
        let mut problems = Vec::new();
        assert_eq!(read_settings("server.toml", text, &mut problems), ServerSettings::default());
        assert_eq!(problems, []);
    }

    #[test]
    fn history_is_kept_as_it_is_written() {
        let text = "[history]\nkeep = \"1y\"\nlogs_keep = \"30d\"\ncompress_after = \"never\"\n";
        let mut problems = Vec::new();
        let rules = read_settings("server.toml", text, &mut problems).keep_rules();
        assert_eq!((rules.keep, rules.logs_keep), (Span::from_secs(31_557_600), Span::from_secs(30 * 86_400)));
        assert_eq!((rules.compress_after, problems), (None, vec![]));
    }
}
