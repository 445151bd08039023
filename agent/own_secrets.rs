//! Pure. Secrets of the agent's own, `[secrets.NAME]` of agent.toml: where they are, and with which repositories they may be used.
//! The server knows their names only. Does not read them: `crate::read_secrets` does.

use std::collections::BTreeMap;
use std::path::PathBuf;

use restic_manager::protocol::repository_access::RepositoryAccess;

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
}
