//! Edge. Secrets of the agent's own, `[secrets.NAME]` of agent.toml: read at each start of restic, for just the repositories that
//! they are bound to, and never told to the server. The server knows their names only. Does not start restic.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use restic_manager::file_error::{FileError, chain};
use restic_manager::protocol::command::{SECRET_LIMIT, Secret};
use restic_manager::protocol::repository_access::RepositoryAccess;
use restic_manager::secret_program;

use crate::core::Agent;
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

/// The access with the agent's own secrets in it, for one start of restic. They are masked in what is shown from now on.
pub(crate) async fn resolve(agent: &Agent, mut access: RepositoryAccess) -> Result<RepositoryAccess, String> {
    permits(&agent.settings.secrets, &access)?;
    for (name, place) in
        [(&access.password_secret, &mut access.password), (&access.credential_secret, &mut access.credential)]
    {
        if let Some(secret) = agent.settings.secrets.get(name.as_str()) {
            *place = read(&secret.source).await.map_err(|why| format!("[secrets.{name}] of agent.toml: {why}"))?;
        }
    }
    agent.uses(&access);
    Ok(access)
}

async fn read(source: &SecretSource) -> Result<Secret, String> {
    match source {
        SecretSource::File(path) => read_file(path),
        SecretSource::Environment(name) => {
            let value = std::env::var(name).map_err(|error| format!("the environment variable {name}: {error}"))?;
            Secret::of_text(&value).map_err(|what| format!("the environment variable {name} {what}"))
        }
        SecretSource::Command(argv) => {
            let program = argv.first().map_or("", String::as_str);
            secret_program::ask(argv).await.map_err(|error| format!("the command {program:?} {error}"))
        }
    }
}

fn read_file(path: &Path) -> Result<Secret, String> {
    let unread = |error: std::io::Error| chain(&FileError::of("read", path)(error));
    if !path.metadata().map_err(unread)?.is_file() {
        // Said before it is opened: opening a pipe would wait.
        return Err(format!("{} is not a file", path.display()));
    }
    let file = std::fs::File::open(path).map_err(unread)?;
    check_rights(path, &file.metadata().map_err(unread)?)?;
    let mut text = String::new();
    let size = file.take(SECRET_LIMIT as u64 + 1).read_to_string(&mut text).map_err(unread)?;
    if size > SECRET_LIMIT {
        return Err(format!("{} is larger than 64 KiB", path.display()));
    }
    Secret::of_text(&text).map_err(|what| format!("{} {what}", path.display()))
}

/// A secret that everybody on the host can read is none. Its group may read it: some tools share secrets so.
#[cfg(unix)]
fn check_rights(path: &Path, metadata: &std::fs::Metadata) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt;
    if metadata.mode() & 0o027 == 0 {
        return Ok(());
    }
    Err(format!("{0} is open to others than its owner: chmod 600 {0}", path.display()))
}

/// On Windows the file's ACL is what counts.
#[cfg(not(unix))]
fn check_rights(_: &Path, _: &std::fs::Metadata) -> Result<(), String> {
    Ok(())
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

    #[cfg(unix)]
    #[tokio::test]
    async fn a_secret_comes_from_a_file_a_variable_or_a_command() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        restic_manager::atomic_file::replace(&path, b"s\n").expect("written");
        let mode = |mode: u32| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
        let file = SecretSource::File(path.clone());
        mode(0o640);
        assert_eq!(read(&file).await, Ok(Secret::new("s".to_owned())));
        for open in [0o644, 0o660] {
            mode(open);
            assert!(read(&file).await.expect_err("open").contains("chmod 600"));
        }
        let path_value = std::env::var("PATH").expect("PATH is set");
        assert_eq!(read(&SecretSource::Environment("PATH".to_owned())).await, Ok(Secret::new(path_value)));
        assert!(
            read(&SecretSource::Environment("RM_NOTHING".to_owned())).await.expect_err("no").contains("RM_NOTHING")
        );
        let command = ["/bin/sh", "-c", "echo s; echo s >&2; exit \"$0\""].map(str::to_owned).to_vec();
        let with = |code: &str| SecretSource::Command([command.clone(), vec![code.to_owned()]].concat());
        assert_eq!(read(&with("0")).await, Ok(Secret::new("s".to_owned())));
        assert!(read(&with("1")).await.expect_err("failed").contains("exit code 1: ***"));
    }
}
