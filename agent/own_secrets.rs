//! Pure. Secrets of the agent's own, `[secrets.NAME]` of agent.toml: where they are, and with which repositories they may be used.
//! The server knows their names only. Does not read them: `crate::read_secrets` does.

use std::collections::BTreeMap;
use std::path::PathBuf;

use restic_manager::protocol::repository_access::RepositoryAccess;
use restic_manager::protocol::text::is_secret_name;
use restic_manager::toml_reader::{TableReader, shown};

use crate::repository_url::{pattern_names, without_credentials};

/// One `[secrets.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnSecret {
    pub(crate) source: SecretSource,
    /// Patterns of the repositories that it may be used with.
    pub(crate) repositories: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SecretSource {
    File(PathBuf),
    /// A variable of the agent's own environment.
    Environment(String),
    /// A program that prints it, with its arguments.
    Command(Vec<String>),
}

/// By name.
pub(crate) type OwnSecrets = BTreeMap<String, OwnSecret>;

/// With these the server's settings could lead a backend's password elsewhere than to the repository that it is bound to.
const LEADING_ELSEWHERE: [&str; 8] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "RESTIC_CACERT",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "OS_AUTH_URL",
    "OS_STORAGE_URL",
    "AZURE_ENDPOINT_SUFFIX",
];

/// Whether agent.toml lets its secrets be used as this access says. The refusal names what to write there.
pub(crate) fn permits(secrets: &OwnSecrets, access: &RepositoryAccess) -> Result<(), String> {
    for name in [&access.password_secret, &access.credential_secret].into_iter().filter(|name| !name.is_empty()) {
        let url = without_credentials(&access.url);
        let Some(secret) = secrets.get(name.as_str()) else {
            return Err(format!(
                "this host has no secret {name:?}: write [secrets.{name}] into agent.toml, with file = \"...\" and repositories = [{url:?}]"
            ));
        };
        if !secret.repositories.iter().any(|pattern| pattern_names(pattern, &access.url)) {
            return Err(format!(
                "the secret {name:?} may not be used with the repository {url:?}: add a pattern for it to repositories in [secrets.{name}] of agent.toml"
            ));
        }
    }
    let leads = |name: &&String| LEADING_ELSEWHERE.contains(&name.to_ascii_uppercase().as_str());
    match access.env.keys().find(leads).filter(|_| !access.credential_secret.is_empty()) {
        Some(name) => Err(format!(
            "the repository's env sets {name}, which may lead the secret {:?} elsewhere: set it on this host, not in the repository's file",
            access.credential_secret
        )),
        None => Ok(()),
    }
}

/// Reads `[secrets]`.
pub(crate) fn read(table: &mut TableReader<'_>) -> OwnSecrets {
    let mut secrets = OwnSecrets::new();
    for name in table.names() {
        let Some(read) = table.table(name, |table| read_one(table, name)) else { continue };
        if !is_secret_name(name) {
            table.error(read.place, format!("{} is no name: use 1 to 63 of a-z, A-Z, 0-9, '_' and '-'", shown(name)));
        }
        secrets.extend(read.value.map(|secret| (name.to_owned(), secret)));
    }
    secrets
}

/// Exactly one of `file`, `env` and `command`, and what it may be used with.
fn read_one(table: &mut TableReader<'_>, name: &str) -> Option<OwnSecret> {
    let argv = table.strings("command").map(|list| list.value.into_iter().map(|item| item.value).collect());
    let repositories = table.strings("repositories");
    let found = [
        table.string("file").map(|path| SecretSource::File(path.value.into())),
        table.string("env").map(|name| SecretSource::Environment(name.value)),
        argv.map(SecretSource::Command),
    ];
    let mut found = found.into_iter().flatten();
    let source = match (found.next(), found.next()) {
        (Some(source), None) => source,
        (None, _) => {
            if table.place_of("command").is_none() {
                table.missing("file", "file = \"/etc/restic-manager-agent/restic-password\" (or env, or command)");
            }
            return None;
        }
        (Some(_), Some(_)) => {
            table
                .error(table.place(), format!("secrets.{name} has more than one of file, env and command: choose one"));
            return None;
        }
    };
    let is_empty = match &source {
        SecretSource::File(path) => path.as_os_str().is_empty(),
        SecretSource::Environment(name) => name.is_empty() || name.contains(['=', '\0']),
        SecretSource::Command(argv) => argv.first().is_none_or(String::is_empty),
    };
    if is_empty {
        table.error(table.place(), format!("secrets.{name} names no file, variable or command"));
        return None;
    }
    if table.place_of("repositories").is_none() {
        table.missing("repositories", "repositories = [\"rest:https://backup.example.org/*\"]");
    }
    let repositories: Vec<String> = repositories?.value.into_iter().map(|pattern| pattern.value).collect();
    if repositories.is_empty() {
        table.error(table.place(), format!("secrets.{name}.repositories is empty: the secret could be used with none"));
    }
    Some(OwnSecret { source, repositories })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(url: &str) -> RepositoryAccess {
        RepositoryAccess { url: url.to_owned(), credential_secret: "rest".to_owned(), ..RepositoryAccess::default() }
    }

    fn bound_to(pattern: &str) -> OwnSecrets {
        let source = SecretSource::File("/etc/x".into());
        [("rest".to_owned(), OwnSecret { source, repositories: vec![pattern.to_owned()] })].into()
    }

    #[test]
    fn a_secret_is_used_with_its_repositories_only_and_the_refusal_says_what_to_write() {
        let secrets = bound_to("rest:https://backup.example.org/*");
        assert_eq!(permits(&secrets, &access("rest:https://backup.example.org/web-1/")), Ok(()));
        for (url, secrets) in [
            ("rest:https://evil.example.org/", &secrets),
            ("rest:https://backup.example.org/../../evil/", &secrets),
            ("rest:https://backup.example.org@evil.example.org/", &secrets),
            ("rest:https://backup.example.org/", &OwnSecrets::new()),
        ] {
            let refusal = permits(secrets, &access(url)).expect_err(url);
            assert!(refusal.contains("[secrets.rest]") && refusal.contains("repositories"), "{refusal}");
        }
    }

    #[test]
    fn settings_that_lead_elsewhere_are_refused_with_a_credential_of_the_agents() {
        let secrets = bound_to("*");
        let env = [("https_proxy".to_owned(), "http://evil:3128".to_owned())];
        let led = RepositoryAccess { env: env.into(), ..access("rest:https://backup.example.org/") };
        assert!(permits(&secrets, &led).expect_err("refused").contains("https_proxy"));
        let only_password = RepositoryAccess { credential_secret: String::new(), ..led };
        assert_eq!(permits(&secrets, &only_password), Ok(()), "a repository's password goes to no server");
    }

    #[test]
    fn secrets_of_ones_own_have_one_source_and_say_what_they_are_for() {
        let head = "server = \"https://backup.example.org\"\nhost = \"web-1\"\n";
        let parsed = |text: &str| crate::settings::parse("agent.toml", &format!("{head}{text}"));
        let good = "[secrets.a]\nfile = 'C:\\x\\y'\nrepositories = [\"*\"]\n[secrets.b]\nenv = \"B\"\nrepositories = []\n\
                    [secrets.c]\ncommand = [\"pass\", \"c\"]\nrepositories = [\"rest:*\"]\n";
        let secrets = parsed(good).expect("fine").secrets;
        assert_eq!(secrets["a"].source, SecretSource::File("C:\\x\\y".into()));
        assert_eq!(secrets["c"].source, SecretSource::Command(vec!["pass".to_owned(), "c".to_owned()]));
        for (text, says) in [
            ("[secrets.a]\nrepositories = []\n", "secrets.a.file is missing"),
            ("[secrets.a]\nfile = \"/x\"\n", "secrets.a.repositories is missing"),
            ("[secrets.a]\nfile = \"/x\"\nenv = \"A\"\nrepositories = []\n", "choose one"),
            ("[secrets.a]\ncommand = []\nrepositories = []\n", "names no"),
            ("[secrets.\"a b\"]\nfile = \"/x\"\nrepositories = []\n", "is no name"),
            ("[secrets.a]\nfiel = \"/x\"\nrepositories = []\n", "fiel"),
            ("[secrets]\na = \"hunter2\"\n", "secrets.a"),
        ] {
            let problems = parsed(text).expect_err(says);
            let all: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
            assert!(all.contains(says) && !all.contains("hunter2"), "{says} is missing in:\n{all}");
        }
    }
}
