//! Edge. How the operator's commands reach a server: its address and a token from flags, environment or the state directory.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::file_error::{FileError, chain};
use crate::http_client::{ClientError, HttpClient};
use crate::protocol::command::Secret;
use crate::proxy::ProxyRules;
use crate::tls;

/// Why a command of the operator's failed, with its exit code (cli.md "Exit codes").
#[derive(Debug)]
pub struct CliFailure {
    pub code: u8,
    pub text: String,
}

impl CliFailure {
    /// Of what the server said, or did not.
    pub fn of(error: &ClientError) -> Self {
        let code = match error {
            ClientError::Problem { status: 401 | 403, .. } => 4,
            ClientError::Problem { status: 404, .. } => 5,
            _ => 1,
        };
        Self { code, text: chain(error) }
    }
}

impl From<String> for CliFailure {
    fn from(text: String) -> Self {
        Self { code: 1, text }
    }
}

#[derive(Debug, Clone, Args)]
pub struct ServerArguments {
    /// The server's address
    #[arg(long, alias = "server", env = "RESTIC_MANAGER_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    #[command(flatten)]
    credentials: Credentials,
}

/// With what a server is asked.
#[derive(Debug, Clone, Args)]
pub struct Credentials {
    /// An operator's token; better in the environment or a file than on the command line
    #[arg(long, env = "RESTIC_MANAGER_TOKEN", hide_env_values = true)]
    pub(super) token: Option<String>,
    /// A file that holds the token, such as state/admin-token
    #[arg(long, env = "RESTIC_MANAGER_TOKEN_FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// A certificate authority beside the system's, PEM
    #[arg(long)]
    pub(super) ca_file: Option<PathBuf>,
}

impl ServerArguments {
    /// The server's address, for lines that are printed to be pasted.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The certificate authority that was named.
    pub fn ca_file(&self) -> Option<&Path> {
        self.credentials.ca_file.as_deref()
    }

    /// The client these arguments describe. The error says what is missing.
    pub fn client(&self) -> Result<HttpClient, String> {
        self.credentials.client(&self.url)
    }
}

impl Credentials {
    /// A client of the server at this address. The error says what is missing.
    pub fn client(&self, url: &str) -> Result<HttpClient, String> {
        let token = match (&self.token, &self.token_file) {
            (Some(token), _) => token.clone(),
            (None, Some(path)) => {
                std::fs::read_to_string(path).map_err(|error| chain(&FileError::of("read", path)(error)))?
            }
            (None, None) => {
                return Err(
                    "no token: set RESTIC_MANAGER_TOKEN or --token-file (a new server's is in state/admin-token)"
                        .to_owned(),
                );
            }
        };
        let token = Secret::new(token.trim().to_owned());
        let tls = tls::client_config(self.ca_file.as_deref(), false).map_err(|error| chain(&error))?;
        let proxies = ProxyRules::from_environment(|name| std::env::var(name).ok())?;
        HttpClient::new(url, Some(&token), tls, proxies).map_err(|error| chain(&error))
    }
}
