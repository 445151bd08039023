//! Pure. agent.toml: what the host's administrator says to the agent, checked, with all problems at once.
//! Does not read the file. What a server may make the host do is `crate::policy`'s.

use std::path::{Path, PathBuf};

use restic_manager::id::HostName;
use restic_manager::problem::{Problem, Severity};
use restic_manager::protocol::text::Span;
use restic_manager::toml_reader::{TableReader, read_document};

use crate::policy::{Hooks, Policy, RawPolicy};

const DEFAULT_GRACE: Span = Span::from_secs(60);

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
    /// A path, or a name that is looked up in PATH.
    pub(crate) restic: String,
    /// How long a fire waits for the server's answer before a backup runs without it.
    pub(crate) offline_grace: Span,
    pub(crate) policy: Policy,
}

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
    table.table("proxy", |proxy| {
        let url = proxy.string("url");
        for key in ["username", "password_file"] {
            proxy.string(key);
        }
        proxy.strings("no_proxy");
        if let Some(url) = url.filter(|url| !url.value.is_empty()) {
            proxy.error(url.place, "proxies come with a later version: leave [proxy] out");
        }
    });
    let policy = table.table("policy", policy);
    if let Some(place) = table.place_of("secrets") {
        table.table("secrets", TableReader::accept_anything);
        table.error(place, "secrets of the agent's own come with a later version: the server sends what restic needs");
    }
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
        restic,
        offline_grace,
        policy: policy?,
    })
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
    let hooks = table.choice("hooks", &[("off", Hooks::Off), ("named", Hooks::Named), ("inline", Hooks::Inline)]);
    RawPolicy {
        kinds,
        backup_roots,
        restore_roots,
        repositories,
        hooks: hooks.map_or(default.hooks, |hooks| hooks.value),
    }
}

/// agent.toml for a host that enrolls, with what an administrator may want to change as comments.
pub(crate) fn render(server: &str, host: &HostName, ca_file: Option<&Path>, restore_root: &Path) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let ca_file = match ca_file {
        Some(path) => format!("ca_file = {}", quoted(&path.to_string_lossy())),
        None => "# ca_file = \"/etc/ssl/our-ca.pem\"   # trusted beside the system's; tls = \"pin\" trusts only it"
            .to_owned(),
    };
    let restore_root = quoted(&restore_root.to_string_lossy());
    let server = quoted(server);
    let host = quoted(host.as_str());
    format!(
        r#"# The restic-manager agent of this host. No server can change this file.
server = {server}
host = {host}
{ca_file}
# restic = "/usr/bin/restic"
# offline_grace = "60s"      # a backup that is due runs without the server after this

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
mod tests {
    use super::*;

    #[test]
    fn what_enroll_writes_is_read_back() {
        let host = "web-1".parse().expect("a name");
        let settings = parse("agent.toml", &render("http://127.0.0.1:8080", &host, None, Path::new("/srv/restore")))
            .expect("no problems");
        assert_eq!((settings.server.as_str(), settings.host), ("http://127.0.0.1:8080", host));
        assert_eq!(settings.offline_grace, DEFAULT_GRACE);
        assert!(settings.policy.permits_kind("forget").is_err());
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
