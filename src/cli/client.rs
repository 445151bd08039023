//! Edge. How the operator's commands reach a server: its address and a token from flags, the environment or client.toml, in this
//! order. Does not ask anything.

use std::path::{Path, PathBuf};

use clap::Args;

use super::client_file::{self, ClientFile};
pub use super::failure::CliFailure;
use super::output::remark;
use super::private_file::{Holds, Opened, check_rights};
use crate::file_error::{FileError, chain};
use crate::http_client::HttpClient;
use crate::protocol::command::Secret;
use crate::proxy::ProxyRules;
use crate::tls;

/// Where a server listens that was told nothing.
const DEFAULT_URL: &str = "http://127.0.0.1:8080";

#[derive(Debug, Clone, Args)]
pub struct ServerArguments {
    /// The server's address [default: url of client.toml, or http://127.0.0.1:8080]
    // No value of the environment is shown: manual pages are made from this too.
    #[arg(
        long = "server",
        visible_alias = "url",
        value_name = "URL",
        env = "RESTIC_MANAGER_URL",
        hide_env_values = true,
        help_heading = "Server"
    )]
    url: Option<String>,
    #[command(flatten)]
    credentials: Credentials,
}

/// With what a server is asked.
#[derive(Debug, Clone, Args)]
pub struct Credentials {
    /// An operator's token; better in the environment or a file than on the command line, which everyone can see
    #[arg(long, env = "RESTIC_MANAGER_TOKEN", hide_env_values = true, help_heading = "Server")]
    pub(super) token: Option<String>,
    /// A file that holds the token, such as state/admin-token
    #[arg(
        long,
        value_name = "FILE",
        env = "RESTIC_MANAGER_TOKEN_FILE",
        hide_env_values = true,
        help_heading = "Server"
    )]
    pub(super) token_file: Option<PathBuf>,
    /// A certificate authority beside the system's, PEM
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub(super) ca_file: Option<PathBuf>,
}

/// A server and how to reach it.
pub struct Reached {
    pub client: HttpClient,
    /// For lines that are printed to be pasted.
    pub url: String,
    /// The certificate authority that was named.
    pub ca_file: Option<PathBuf>,
}

impl ServerArguments {
    /// The server these arguments, the environment and client.toml describe. The error says what is missing.
    pub fn reach(&self) -> Result<Reached, CliFailure> {
        let file = file_of_this_user()?;
        let url = self.url.clone().filter(|url| !url.is_empty());
        let url = url.or_else(|| file.url.clone()).unwrap_or_else(|| DEFAULT_URL.to_owned());
        let client = self.credentials.client_with(&url, &file)?;
        Ok(Reached { client, ca_file: self.credentials.ca_file_for(&url, &file), url })
    }
}

impl Credentials {
    /// A client of the server at this address. The error says what is missing.
    pub fn client(&self, url: &str) -> Result<HttpClient, CliFailure> {
        self.client_with(url, &file_of_this_user()?)
    }

    fn client_with(&self, url: &str, file: &ClientFile) -> Result<HttpClient, CliFailure> {
        let token = self.token_for(url, file)?;
        let ca_file = self.ca_file_for(url, file);
        let tls = tls::client_config(ca_file.as_deref(), false).map_err(|error| chain(&error))?;
        let proxies = ProxyRules::from_environment(|name| std::env::var(name).ok())?;
        HttpClient::new(url, Some(&token), tls, proxies).map_err(|error| CliFailure::of(&error))
    }

    fn token_for(&self, url: &str, file: &ClientFile) -> Result<Secret, String> {
        let from_file = |path: &Path, is_own: bool| -> Result<Secret, String> {
            match check_rights(path, Holds::Token) {
                // A secret that a container is given is often there for all in it.
                Err(Opened::ToReaders(text)) if !is_own => remark(&format!("warning: {text}")),
                rights => rights.map_err(|opened| opened.words().to_owned())?,
            }
            let text = std::fs::read_to_string(path).map_err(|error| chain(&FileError::of("read", path)(error)))?;
            if text.trim().is_empty() {
                return Err(format!("{} is empty: it should hold a token", path.display()));
            }
            Ok(Secret::new(text.trim().to_owned()))
        };
        if let Some(token) = self.token.as_ref().filter(|token| !token.trim().is_empty()) {
            return Ok(Secret::new(token.trim().to_owned()));
        }
        if let Some(path) = self.token_file.as_ref().filter(|path| !path.as_os_str().is_empty()) {
            return from_file(path, false);
        }
        match file {
            _ if !is_about(file, url) => {}
            ClientFile { token: Some(token), .. } => return Ok(Secret::new(token.reveal().trim().to_owned())),
            ClientFile { token_file: Some(path), .. } => return from_file(path, true),
            _ => {}
        }
        let mut text =
            "no token: set RESTIC_MANAGER_TOKEN_FILE, --token-file or token_file in client.toml (a new server's is in state/admin-token)".to_owned();
        if file.token.is_some() || file.token_file.is_some() {
            text.push_str(&format!("; the one of {} is for another server", file.path.display()));
        }
        Err(text)
    }

    fn ca_file_for(&self, url: &str, file: &ClientFile) -> Option<PathBuf> {
        self.ca_file.clone().or_else(|| file.ca_file.clone().filter(|_| is_about(file, url)))
    }
}

/// Whether the file's token may be shown to this server: one server's token is never sent to another.
fn is_about(file: &ClientFile, url: &str) -> bool {
    let bare = |url: &str| url.trim_end_matches('/').to_ascii_lowercase();
    file.url.as_ref().is_none_or(|own| bare(own) == bare(url))
}

fn file_of_this_user() -> Result<ClientFile, String> {
    let environment = |name: &str| std::env::var(name).ok();
    let home = environment("HOME").map(PathBuf::from);
    let path = client_file::default_path(environment);
    path.map_or_else(|| Ok(ClientFile::default()), |path| client_file::read(&path, home.as_deref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(token: Option<&str>) -> Credentials {
        Credentials { token: token.map(str::to_owned), token_file: None, ca_file: None }
    }

    fn file(url: Option<&str>) -> ClientFile {
        ClientFile {
            path: "/c/client.toml".into(),
            url: url.map(str::to_owned),
            token: Some(Secret::new("of-the-file".to_owned())),
            ca_file: Some("/c/ca.pem".into()),
            ..ClientFile::default()
        }
    }

    #[test]
    fn a_token_at_hand_goes_before_the_files() {
        let token = |given, file: &ClientFile| {
            credentials(given).token_for("https://b", file).map(|token| token.reveal().to_owned())
        };
        assert_eq!(token(Some("mine\n"), &file(None)).as_deref(), Ok("mine"));
        assert_eq!(token(None, &file(None)).as_deref(), Ok("of-the-file"));
        assert_eq!(token(Some(""), &file(Some("https://B/"))).as_deref(), Ok("of-the-file"));
        assert!(token(None, &ClientFile::default()).expect_err("none").contains("state/admin-token"));
    }

    #[cfg(unix)]
    #[test]
    fn a_token_file_that_others_may_read_is_refused_where_client_toml_names_it_and_one_that_they_may_write_always() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        std::fs::write(&path, "hush\n").expect("written");
        let named = ClientFile { token_file: Some(path.clone()), ..ClientFile::default() };
        let given = Credentials { token_file: Some(path.clone()), ..credentials(None) };
        for (mode, expected) in [(0o600, [true, true]), (0o644, [true, false]), (0o660, [false, false])] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
            let found = [
                given.token_for("https://b", &ClientFile::default()),
                credentials(None).token_for("https://b", &named),
            ];
            for (found, is_fine) in found.into_iter().zip(expected) {
                match found {
                    Ok(token) => assert!(is_fine && token.reveal() == "hush", "{mode:o}"),
                    Err(error) => {
                        assert!(
                            !is_fine && error.contains("chmod 600") && !error.contains("hush"),
                            "{mode:o}: {error}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_token_of_one_server_is_not_shown_to_another() {
        let other = file(Some("https://a.example.org"));
        let error = credentials(None).token_for("https://b", &other).expect_err("none");
        assert!(error.contains("/c/client.toml is for another server") && !error.contains("of-the-file"), "{error}");
        assert_eq!(credentials(None).ca_file_for("https://b", &other), None);
        assert_eq!(credentials(None).ca_file_for("https://b", &file(None)), Some("/c/ca.pem".into()));
    }
}
