//! Pure. agent.toml: what the host's administrator says to the agent, checked, with all problems at once.
//! Does not read the file. What a server may make the host do is `crate::policy`'s.

use std::path::{Path, PathBuf};

use restic_manager::id::HostName;
use restic_manager::problem::{Problem, Severity};
use restic_manager::protocol::text::Span;
use restic_manager::proxy::{DirectRule, Proxy};
use restic_manager::toml_reader::{TableReader, read_document, shown};

use crate::own_secrets::{self, OwnSecrets};
use crate::policy::{Hooks, Policy, RawPolicy};

const DEFAULT_GRACE: Span = Span::from_secs(60);
const DEFAULT_ROTATION: Span = Span::from_secs(90 * 86_400);
/// restic itself gives up on a server that is away after about 15 minutes.
const DEFAULT_NO_PROGRESS: Span = Span::from_secs(30 * 60);
const DEFAULT_RETRY_WAIT: Span = Span::from_secs(20);

/// agent.toml, checked.
#[derive(Debug, Clone)]
pub(crate) struct AgentSettings {
    /// The server's URL.
    pub(crate) server: String,
    pub(crate) host: HostName,
    /// Certificate authorities beside the system's, PEM.
    pub(crate) ca_file: Option<PathBuf>,
    /// Only `ca_file` is trusted.
    pub(crate) pin: bool,
    /// What the agent shows a server that asks for a certificate: chain and key, PEM.
    pub(crate) client_certificate: Option<(PathBuf, PathBuf)>,
    /// `None`: as the environment says.
    pub(crate) proxy: Option<ProxySettings>,
    /// The agent's credential is replaced when it is this old; `None`: never.
    pub(crate) rotate_after: Option<Span>,
    /// A path, or a name that is looked up in PATH.
    pub(crate) restic: String,
    /// How long a fire waits for the server's answer before a backup runs without it.
    pub(crate) offline_grace: Span,
    /// A restic that shows no progress for so long is stopped; `None`: never.
    pub(crate) no_progress: Option<Span>,
    /// How long to wait before a job is tried again, more or less; doubles each time.
    pub(crate) retry_wait: Span,
    pub(crate) policy: Policy,
    pub(crate) secrets: OwnSecrets,
}

/// `[proxy]`.
#[derive(Debug, Clone)]
pub(crate) struct ProxySettings {
    pub(crate) proxy: Proxy,
    /// With the file that has the password.
    pub(crate) login: Option<(String, Option<PathBuf>)>,
    pub(crate) direct: Vec<DirectRule>,
}

/// Where `[proxy]` is, for whoever has to change it.
const PROXY_ORIGIN: &str = "[proxy] of agent.toml";

/// Reads agent.toml. The problems are sorted by place.
pub(crate) fn parse(file: &str, text: &str) -> Result<AgentSettings, Vec<Problem>> {
    let mut problems = Vec::new();
    let (settings, _) = read_document(file, text, &mut problems, read);
    if problems.iter().any(|problem| problem.severity == Severity::Error) {
        problems.sort();
        return Err(problems);
    }
    settings.ok_or(problems)
}

fn read(table: &mut TableReader<'_>) -> Option<AgentSettings> {
    let server = table.string("server");
    if server.is_none() && table.place_of("server").is_none() {
        table.missing("server", "server = \"https://backup.example.org\"");
    }
    let host = table.parsed::<HostName>("host");
    if host.is_none() && table.place_of("host").is_none() {
        table.missing("host", "host = \"web-1\"");
    }
    let ca_file = table.string("ca_file").map(|path| path.value).filter(|path| !path.is_empty()).map(PathBuf::from);
    let tls = table.choice("tls", &[("system", false), ("pin", true)]);
    if let Some(tls) = tls.as_ref().filter(|tls| tls.value && ca_file.is_none()) {
        table.error(tls.place, "tls = \"pin\" trusts only ca_file: set it");
    }
    let restic = table.string("restic").map_or("restic".to_owned(), |restic| restic.value);
    let offline_grace = table.parsed::<Span>("offline_grace").map_or(DEFAULT_GRACE, |grace| grace.value);
    let client_certificate = read_client_certificate(table);
    let rotate_after =
        table.parsed::<SpanOrNever>("rotate_after").map_or(Some(DEFAULT_ROTATION), |after| after.value.0);
    let no_progress = table.parsed::<SpanOrNever>("no_progress");
    if let Some(span) = no_progress.as_ref().filter(|span| span.value.0.is_some_and(Span::is_zero)) {
        table.error(span.place, "no_progress = \"0s\" would stop every restic at once: write \"never\" to let it hang");
    }
    let no_progress = no_progress.map_or(Some(DEFAULT_NO_PROGRESS), |span| span.value.0);
    let retry_wait = table.parsed::<Span>("retry_wait").map_or(DEFAULT_RETRY_WAIT, |wait| wait.value);
    let proxy = table.table("proxy", read_proxy).and_then(|proxy| proxy.value);
    let policy = table.table("policy", policy);
    let secrets = table.table("secrets", own_secrets::read).map_or_else(OwnSecrets::new, |secrets| secrets.value);
    let raw = policy.map_or_else(RawPolicy::default, |policy| policy.value);
    let policy = match Policy::try_from(raw) {
        Ok(policy) => Some(policy),
        Err(errors) => {
            let place = table.place_of("policy").unwrap_or_else(|| table.place());
            for error in errors {
                table.error(place, error);
            }
            None
        }
    };
    Some(AgentSettings {
        server: server?.value.trim_end_matches('/').to_owned(),
        host: host?.value,
        ca_file,
        pin: tls.is_some_and(|tls| tls.value),
        client_certificate,
        proxy,
        rotate_after,
        restic,
        offline_grace,
        no_progress,
        retry_wait,
        policy: policy?,
        secrets,
    })
}

/// A length of time, or "never".
struct SpanOrNever(Option<Span>);

impl std::str::FromStr for SpanOrNever {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self(None));
        }
        text.parse().map(|span| Self(Some(span))).map_err(|error| format!("{error}, or \"never\""))
    }
}

fn read_client_certificate(table: &mut TableReader<'_>) -> Option<(PathBuf, PathBuf)> {
    let [certificate, key] =
        ["client_cert", "client_key"].map(|name| table.string(name).filter(|path| !path.value.is_empty()));
    match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate.value.into(), key.value.into())),
        (None, None) => None,
        (Some(alone), None) => {
            table.error(alone.place, "client_cert needs its key: set client_key");
            None
        }
        (None, Some(alone)) => {
            table.error(alone.place, "client_key needs its certificate: set client_cert");
            None
        }
    }
}

fn read_proxy(table: &mut TableReader<'_>) -> Option<ProxySettings> {
    let url = table.string("url").filter(|url| !url.value.is_empty());
    let username = table.string("username").filter(|name| !name.value.is_empty());
    let password_file = table.string("password_file").filter(|path| !path.value.is_empty());
    let mut direct = Vec::new();
    for entry in table.strings("no_proxy").map(|list| list.value).unwrap_or_default() {
        match DirectRule::parse(&entry.value) {
            Ok(rule) => direct.push(rule),
            Err(problem) => table.error(entry.place, format!("proxy.no_proxy: {} {problem}", shown(&entry.value))),
        }
    }
    if let (None, Some(file)) = (&username, &password_file) {
        table.error(file.place, "proxy.password_file needs the name that goes with it: set username");
    }
    if let (Some(name), true) = (&username, username.as_ref().is_some_and(|name| name.value.contains(':'))) {
        table.error(name.place, "proxy.username must not have a colon in it: the password goes into password_file");
    }
    let Some(url) = url else {
        // An empty one switches the table off.
        if table.place_of("url").is_none() {
            table.missing("url", "url = \"http://proxy.corp:3128\"");
        }
        return None;
    };
    let proxy = match Proxy::parse(&url.value, PROXY_ORIGIN) {
        Ok(proxy) if proxy.has_login() => {
            table.error(url.place, "proxy.url has a login in it: write username and password_file instead");
            return None;
        }
        Ok(proxy) => proxy,
        Err(problem) => {
            table.error(url.place, format!("proxy.url {problem}"));
            return None;
        }
    };
    let login = username.map(|name| (name.value, password_file.map(|file| PathBuf::from(file.value))));
    Some(ProxySettings { proxy, login, direct })
}

fn policy(table: &mut TableReader<'_>) -> RawPolicy {
    let default = RawPolicy::default();
    let mut list = |key: &'static str, default: Vec<String>| match table.strings(key) {
        Some(list) => list.value.into_iter().map(|item| item.value).collect(),
        None => default,
    };
    let kinds = list("kinds", default.kinds);
    let backup_roots = list("backup_roots", default.backup_roots);
    let restore_roots = list("restore_roots", default.restore_roots);
    let repositories = list("repositories", default.repositories);
    let restore_from = list("restore_from", default.restore_from);
    let hooks = table.choice("hooks", &[("off", Hooks::Off), ("named", Hooks::Named), ("inline", Hooks::Inline)]);
    RawPolicy {
        kinds,
        backup_roots,
        restore_roots,
        repositories,
        hooks: hooks.map_or(default.hooks, |hooks| hooks.value),
        restore_from,
    }
}

/// What an administrator says at enrollment.
#[derive(Debug, Default)]
pub(crate) struct FirstSettings<'a> {
    pub(crate) server: &'a str,
    pub(crate) ca_file: Option<&'a Path>,
    pub(crate) client_certificate: Option<(&'a Path, &'a Path)>,
    pub(crate) proxy_url: Option<&'a str>,
    pub(crate) proxy_username: Option<&'a str>,
    pub(crate) proxy_password_file: Option<&'a Path>,
}

/// agent.toml for a host that enrolls, with what an administrator may want to change as comments.
pub(crate) fn render(first: &FirstSettings<'_>, host: &HostName, restore_root: &Path) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let path = |path: &Path| quoted(&path.to_string_lossy());
    let ca_file = match first.ca_file {
        Some(file) => format!("ca_file = {}", path(file)),
        None => "# ca_file = \"/etc/ssl/our-ca.pem\"   # trusted beside the system's; tls = \"pin\" trusts only it"
            .to_owned(),
    };
    let client_certificate = match first.client_certificate {
        Some((certificate, key)) => format!("client_cert = {}\nclient_key = {}\n", path(certificate), path(key)),
        None => String::new(),
    };
    let proxy = match first.proxy_url {
        None => "# [proxy]                  # where only a proxy gets out; else HTTPS_PROXY and NO_PROXY of the environment\n\
                 # url = \"http://proxy.corp:3128\""
            .to_owned(),
        Some(url) => {
            let mut lines = vec!["[proxy]".to_owned(), format!("url = {}", quoted(url))];
            lines.extend(first.proxy_username.map(|name| format!("username = {}", quoted(name))));
            lines.extend(first.proxy_password_file.map(|file| format!("password_file = {}", path(file))));
            lines.join("\n")
        }
    };
    let (restore_root, server, host) = (path(restore_root), quoted(first.server), quoted(host.as_str()));
    format!(
        r#"# The restic-manager agent of this host. No server can change this file.
server = {server}
host = {host}
{ca_file}
{client_certificate}# restic = "/usr/bin/restic"
# offline_grace = "60s"      # a backup that is due runs without the server after this
# no_progress = "30m"        # a restic that gets nowhere for so long is stopped, or "never"
# retry_wait = "20s"         # before a job is tried again; doubles each time
# rotate_after = "90d"       # the agent's credential replaces itself

{proxy}

# The limit of what any server can make this host do.
[policy]
# forget and prune delete backups: list them only on a host that maintains a repository.
kinds = ["backup", "check", "snapshots", "ls", "find", "diff", "stats", "restore", "verify", "init", "unlock"]
backup_roots = ["/"]
restore_roots = [{restore_root}]
repositories = ["*"]
hooks = "named"
"#
    )
}

#[cfg(test)]
mod schema_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_enroll_writes_is_read_back() {
        let host = "web-1".parse().expect("a name");
        let first = FirstSettings { server: "http://127.0.0.1:8080", ..FirstSettings::default() };
        let settings = parse("agent.toml", &render(&first, &host, Path::new("/srv/restore"))).expect("no problems");
        assert_eq!((settings.server.as_str(), settings.host), ("http://127.0.0.1:8080", host));
        assert_eq!(settings.offline_grace, DEFAULT_GRACE);
        assert!(settings.policy.permits_kind("forget").is_err());
    }

    #[test]
    fn what_enroll_writes_of_a_proxy_is_read_back() {
        let first = FirstSettings {
            server: "https://backup.example.org",
            ca_file: Some(Path::new("/ca.pem")),
            client_certificate: Some((Path::new("/c.pem"), Path::new("/k.pem"))),
            proxy_url: Some("http://proxy.corp:3128"),
            proxy_username: Some("svc"),
            proxy_password_file: Some(Path::new("/pw")),
        };
        let text = render(&first, &"web-1".parse().expect("a name"), Path::new("/srv/restore"));
        let settings = parse("agent.toml", &text).expect("no problems");
        let proxy = settings.proxy.expect("a proxy");
        assert_eq!(format!("{:?}", proxy.proxy), "http://proxy.corp:3128 ([proxy] of agent.toml)");
        assert_eq!(proxy.login, Some(("svc".to_owned(), Some("/pw".into()))));
        assert_eq!(settings.client_certificate, Some(("/c.pem".into(), "/k.pem".into())));
    }

    #[test]
    fn a_proxy_is_off_with_an_empty_url_and_every_slip_in_it_is_told() {
        let head = "server = \"https://backup.example.org\"\nhost = \"web-1\"\n";
        let parsed = |text: &str| parse("agent.toml", &format!("{head}{text}"));
        assert!(parsed("[proxy]\nurl = \"\"\nusername = \"\"\nno_proxy = []\n").expect("fine").proxy.is_none());
        assert_eq!(parsed("rotate_after = \"never\"\n").expect("fine").rotate_after, None);
        assert_eq!(parsed("").expect("fine").no_progress, Some(DEFAULT_NO_PROGRESS));
        assert_eq!(parsed("no_progress = \"never\"\n").expect("fine").no_progress, None);
        assert!(parsed("no_progress = \"0s\"\n").is_err());
        let text = "client_cert = \"/c.pem\"\n[proxy]\nurl = \"http://u:s3cret@proxy\"\npassword_file = \"/pw\"\n\
                    no_proxy = [\"a/b\", \"*.corp:8443\"]\n";
        let shown: Vec<String> = parsed(text).expect_err("wrong").iter().map(ToString::to_string).collect();
        let all = shown.join("\n");
        for part in ["client_key", "password_file instead", "set username", "\"a/b\" is nothing to reach directly"] {
            assert!(all.contains(part), "{part} is missing in:\n{all}");
        }
        assert!(shown.len() == 4 && !all.contains("s3cret"), "{all}");
    }

    #[test]
    fn the_sample_is_read() {
        parse("agent.toml", include_str!("../config/agent.toml")).expect("the sample has no problems");
    }

    #[test]
    fn all_problems_are_told_at_once_with_their_places() {
        let text = "sever = \"x\"\nhost = \"Web\"\ntls = \"pin\"\n[policy]\nkinds = [\"bakcup\"]\nhooks = \"on\"\n";
        let problems = parse("agent.toml", text).expect_err("it is all wrong");
        let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let all = shown.join("\n");
        for part in ["server", "not a host name", "pin", "bakcup", "hooks"] {
            assert!(all.contains(part), "{part} is missing in:\n{all}");
        }
        assert!(shown.iter().all(|line| line.starts_with("agent.toml:")), "{all}");
    }
}
