//! Pure. The environment in which restic runs: the only place where secrets reach it, in the form that every version from
//! 0.14 on reads. Whoever starts restic clears the inherited environment first and gives it exactly this.
//! Does not read the agent's own environment: PATH and the like are passed in.

use restic_manager::protocol::command::Secret;
use restic_manager::protocol::repository_access::RepositoryAccess;

use crate::repository_url::{Backend, hazard, with_credentials};
use crate::restic_args::Refusal;

/// What the agent knows about the place it runs in.
#[derive(Debug, Clone)]
pub(crate) struct EnvironmentContext<'a> {
    /// Below the agent's own state; restic 0.19 fails without a cache directory.
    pub(crate) cache_dir: &'a str,
    pub(crate) temp_dir: &'a str,
    /// Of the agent's own environment: PATH, HOME, and on Windows SystemRoot and its like.
    pub(crate) inherited: &'a [(String, String)],
}

/// What `env` of a repository may set: settings of backends, tuning and proxies. A list of what is allowed and not of what is
/// forbidden, because a name forgotten here costs an operator a message, and a name forgotten there could run a program:
/// RESTIC_PASSWORD_COMMAND, LD_PRELOAD, PATH, RCLONE_PASSWORD_COMMAND, credential_process of a named AWS profile file, ...
const ALLOWED: [&str; 34] = [
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AWS_SESSION_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AZURE_ACCOUNT_NAME",
    "AZURE_ENDPOINT_SUFFIX",
    "B2_ACCOUNT_ID",
    "GOOGLE_PROJECT_ID",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "OS_AUTH_URL",
    "OS_REGION_NAME",
    "OS_TENANT_ID",
    "OS_TENANT_NAME",
    "OS_USER_ID",
    "OS_USER_DOMAIN_NAME",
    "OS_USER_DOMAIN_ID",
    "OS_PROJECT_NAME",
    "OS_PROJECT_DOMAIN_NAME",
    "OS_PROJECT_DOMAIN_ID",
    "OS_TRUST_ID",
    "OS_STORAGE_URL",
    "SWIFT_DEFAULT_CONTAINER_POLICY",
    "RESTIC_COMPRESSION",
    "RESTIC_PACK_SIZE",
    "RESTIC_READ_CONCURRENCY",
    "RESTIC_CACERT",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "GOGC",
    "GOMAXPROCS",
    "GOMEMLIMIT",
];

/// The whole environment of the child, each name once. Every value counts as secret: the URL has a password in it.
pub(crate) fn environment(
    access: &RepositoryAccess,
    context: &EnvironmentContext<'_>,
) -> Result<Vec<(String, Secret)>, Refusal> {
    let url = access.url.as_str();
    if let Some(hazard) = hazard(url) {
        return Err(Refusal::new(hazard));
    }
    let password = present(access.password.reveal())
        .ok_or_else(|| Refusal::new("there is no password for the repository: the server has sent no repo_password"))?;
    let username = present(&access.username);
    let credential = present(access.credential.reveal());

    let mut variables = Variables::default();
    for (name, value) in &access.env {
        if !ALLOWED.contains(&name.to_ascii_uppercase().as_str()) {
            return Err(Refusal::new(format!(
                "the repository's env may not set {name}: allowed are {}",
                ALLOWED.join(", ")
            )));
        }
        variables.set(name, value)?;
    }
    for (name, value) in context.inherited {
        variables.set(name, value)?;
    }
    let mut repository = url.to_owned();
    let names = match Backend::of(url) {
        // In the URL, because 0.14 knows no RESTIC_REST_USERNAME.
        Backend::Rest => {
            match (username, credential) {
                (Some(username), credential) => {
                    repository = with_credentials(url, username, credential).map_err(Refusal::new)?;
                }
                (None, Some(_)) => return Err(Refusal::new("the repository has a credential and no username")),
                (None, None) => {}
            }
            None
        }
        Backend::S3 => Some(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")),
        Backend::B2 => Some(("B2_ACCOUNT_ID", "B2_ACCOUNT_KEY")),
        Backend::Azure => Some(("AZURE_ACCOUNT_NAME", "AZURE_ACCOUNT_KEY")),
        Backend::Swift => Some(("OS_USERNAME", "OS_PASSWORD")),
        Backend::GoogleStorage if credential.is_some() => {
            return Err(Refusal::new(
                "a gs: repository takes no credential: put a key file on the host and name it in env as GOOGLE_APPLICATION_CREDENTIALS",
            ));
        }
        // ssh, rclone and file systems have their own; there is nothing to hand on.
        Backend::GoogleStorage | Backend::Local | Backend::Sftp | Backend::Rclone => None,
    };
    if let Some((name_of_username, name_of_credential)) = names {
        for (name, value) in [(name_of_username, username), (name_of_credential, credential)] {
            if let Some(value) = value {
                variables.set(name, value)?;
            }
        }
    }
    variables.set("RESTIC_REPOSITORY", &repository)?;
    variables.set("RESTIC_PASSWORD", password)?;
    variables.set("RESTIC_CACHE_DIR", context.cache_dir)?;
    // One line of progress a second; 0.18 would print 53.
    variables.set("RESTIC_PROGRESS_FPS", "1")?;
    // Each system reads its own.
    for name in if cfg!(windows) { &["TMP", "TEMP"][..] } else { &["TMPDIR"][..] } {
        variables.set(name, context.temp_dir)?;
    }
    Ok(variables.0)
}

/// An empty setting is one that was cleared.
fn present(value: &str) -> Option<&str> {
    Some(value).filter(|value| !value.is_empty())
}

#[derive(Default)]
struct Variables(Vec<(String, Secret)>);

impl Variables {
    /// The last value of a name wins; the refusal does not show the value.
    fn set(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(Refusal::new(format!("the environment variable {name:?} cannot be set: a NUL or '=' in it")));
        }
        self.0.retain(|(present, _)| present != name);
        self.0.push((name.to_owned(), Secret::new(value.to_owned())));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn environment_of(settings: Value) -> Result<Vec<(String, String)>, Refusal> {
        let mut settings = settings;
        settings["version"] = json!(1);
        settings["hash"] = json!("");
        let access = RepositoryAccess::own(&serde_json::from_value(settings).expect("settings"));
        let inherited = [("PATH".to_owned(), "/usr/bin".to_owned()), ("HOME".to_owned(), "/root".to_owned())];
        let context = EnvironmentContext { cache_dir: "/c", temp_dir: "/t", inherited: &inherited };
        let variables = environment(&access, &context)?;
        Ok(variables.into_iter().map(|(name, value)| (name, value.reveal().to_owned())).collect())
    }

    fn value<'a>(variables: &'a [(String, String)], name: &str) -> Option<&'a str> {
        let mut found = variables.iter().filter(|(present, _)| present == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert_eq!(found.next(), None, "{name} is there twice");
        value
    }

    #[test]
    fn credentials_go_where_each_backend_looks_for_them() {
        for (url, name, expected) in [
            ("rest:https://h/a/", "RESTIC_REPOSITORY", Some("rest:https://ali%40ce:p%2Fw@h/a/")),
            ("rest:https://h/a/", "RESTIC_REST_PASSWORD", None),
            ("s3:https://s3.example.org/b", "AWS_ACCESS_KEY_ID", Some("ali@ce")),
            ("s3:https://s3.example.org/b", "AWS_SECRET_ACCESS_KEY", Some("p/w")),
            ("s3:https://s3.example.org/b", "RESTIC_REPOSITORY", Some("s3:https://s3.example.org/b")),
            ("b2:bucket:/a", "B2_ACCOUNT_KEY", Some("p/w")),
            ("azure:container:/", "AZURE_ACCOUNT_NAME", Some("ali@ce")),
            ("swift:container:/", "OS_PASSWORD", Some("p/w")),
            ("/srv/repo", "RESTIC_REPOSITORY", Some("/srv/repo")),
            ("sftp:backup@nas:/srv", "RESTIC_REPOSITORY", Some("sftp:backup@nas:/srv")),
        ] {
            let settings =
                json!({"repo_url": url, "repo_username": "ali@ce", "repo_credential": "p/w", "repo_password": "x"});
            let variables = environment_of(settings).expect(url);
            assert_eq!(value(&variables, name), expected, "{url} {name}");
        }
    }

    #[test]
    fn what_every_job_needs_is_always_there() {
        let settings =
            json!({"repo_url": "/r", "repo_password": "pw", "repo_username": "", "env": {"AWS_DEFAULT_REGION": "eu"}});
        let variables = environment_of(settings).expect("an environment");
        for (name, expected) in [
            ("RESTIC_REPOSITORY", "/r"),
            ("RESTIC_PASSWORD", "pw"),
            ("RESTIC_CACHE_DIR", "/c"),
            ("RESTIC_PROGRESS_FPS", "1"),
            ("PATH", "/usr/bin"),
            ("HOME", "/root"),
            ("AWS_DEFAULT_REGION", "eu"),
        ] {
            assert_eq!(value(&variables, name), Some(expected), "{name}");
        }
    }

    #[test]
    fn env_cannot_make_restic_run_a_program_or_change_what_is_ours() {
        for name in [
            "RESTIC_PASSWORD_COMMAND",
            "restic_password_command",
            "RESTIC_PASSWORD_FILE",
            "RESTIC_PASSWORD",
            "RESTIC_REPOSITORY",
            "RESTIC_REPOSITORY_FILE",
            "RESTIC_FROM_PASSWORD_COMMAND",
            "RESTIC_CACHE_DIR",
            "LD_PRELOAD",
            "PATH",
            "HOME",
            "TMPDIR",
            "RCLONE_PASSWORD_COMMAND",
            "AWS_SHARED_CREDENTIALS_FILE",
            "AWS_CONFIG_FILE",
            "AZURE_FORCE_CLI_CREDENTIAL",
            "SSH_ASKPASS",
            "BASH_ENV",
            "GODEBUG",
            "",
        ] {
            let settings = json!({"repo_url": "/r", "repo_password": "pw", "env": {name: "x"}});
            let refusal = environment_of(settings).expect_err(name).to_string();
            assert!(refusal.contains(name), "{refusal}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused_and_no_refusal_shows_a_secret() {
        for (settings, says) in [
            (json!({"repo_password": "hunter2"}), "repo_url"),
            (json!({"repo_url": "/r"}), "repo_password"),
            (json!({"repo_url": "/r", "repo_password": ""}), "repo_password"),
            (json!({"repo_url": "/r", "repo_password": "hunter2\u{0}"}), "RESTIC_PASSWORD"),
            (json!({"repo_url": "rest:https://h/", "repo_credential": "hunter2", "repo_password": "x"}), "username"),
            (json!({"repo_url": "gs:b:/", "repo_credential": "hunter2", "repo_password": "x"}), "GOOGLE_APPLICATION"),
            (json!({"repo_url": "sftp:-oProxyCommand=x:/", "repo_password": "hunter2"}), "ssh"),
        ] {
            let refusal = environment_of(settings).expect_err(says).to_string();
            assert!(refusal.contains(says) && !refusal.contains("hunter2"), "{refusal}");
        }
    }
}
