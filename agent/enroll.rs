//! Edge. `restic-manager-agent enroll`: makes the credential, shows the server its hash and the one-time token, and writes agent.toml.
//! Repeating it after a lost answer is harmless: identity and enrollment id are on disk before they are sent.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use restic_manager::atomic_file;
use restic_manager::file_error::chain;
use restic_manager::http_client::ClientError;
use restic_manager::id::HostName;
use serde_json::{Value, json};

use crate::identity::{self, Identity};
use crate::settings::FirstSettings;
use crate::{Directory, Failure, restic_probe, run, settings};

#[derive(Debug, Args)]
pub(crate) struct EnrollArguments {
    /// The server's address, https://... (http:// for loopback only)
    #[arg(long)]
    server: String,
    /// The enrollment token, from `restic-manager enroll HOST`
    #[arg(long, env = "RESTIC_MANAGER_ENROLLMENT_TOKEN", hide_env_values = true)]
    token: String,
    /// This host's name in the configuration; default: its hostname
    #[arg(long)]
    host: Option<String>,
    /// A certificate authority beside the system's, PEM
    #[arg(long)]
    ca_file: Option<PathBuf>,
    /// A certificate of this host's own, PEM, where the server wants one
    #[arg(long, requires = "client_key")]
    client_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, requires = "client_cert")]
    client_key: Option<PathBuf>,
    /// The proxy through which the server is reached, http://host:port; default: the environment's HTTPS_PROXY
    #[arg(long)]
    proxy: Option<String>,
    /// The name to log in at the proxy with
    #[arg(long, requires = "proxy")]
    proxy_username: Option<String>,
    /// A file with the password that goes with it
    #[arg(long, requires = "proxy_username")]
    proxy_password_file: Option<PathBuf>,
    #[command(flatten)]
    directory: Directory,
}

const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) fn run(arguments: &EnrollArguments) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| format!("cannot start: {error}"))?.block_on(enroll(arguments))
}

async fn enroll(arguments: &EnrollArguments) -> Result<(), Failure> {
    let host: HostName = match &arguments.host {
        Some(name) => name.parse().map_err(|error| format!("--host: {error}"))?,
        None => identity::hostname()
            .to_lowercase()
            .parse()
            .map_err(|error| format!("{error}; name the host with --host"))?,
    };
    let dir = &arguments.directory.dir;
    atomic_file::create_private_dir(dir).map_err(|error| chain(&error))?;
    let before = Identity::read(dir).map_err(|error| chain(&error))?;
    let identity = Identity::read_or_make(dir, &host, &arguments.server).map_err(|error| chain(&error))?;
    // An agent.toml of an attempt that named another host or server, and never came to anything, is not the administrator's.
    let is_leftover = before.is_some_and(|before| before.enrollment_id != identity.enrollment_id);
    write_settings(dir, arguments, &host, is_leftover)?;
    let settings = run::read_settings(dir)?;
    let body = json!({
        "token": arguments.token,
        "enrollment_id": identity.enrollment_id,
        "host": host,
        "credential_sha256": identity.credential_sha256(),
        "fingerprint": identity::fingerprint(),
    });
    let enrolled: Result<Value, ClientError> =
        run::client(&settings, None)?.post_json("/v1/enroll", &body, DEADLINE).await;
    enrolled.map_err(|error| {
        let code = if matches!(error, ClientError::Problem { status: 401 | 403, .. }) { 4 } else { 1 };
        Failure { code, text: chain(&error) }
    })?;
    identity.mark_enrolled(dir).map_err(|error| chain(&error))?;
    println!("enrolled as {host}; settings are in {}", dir.join("agent.toml").display());
    if let Err(error) = restic_probe::version_of(&settings.restic).await {
        println!("warning: {error}");
    }
    println!("run it with: restic-manager-agent run --dir {}", dir.display());
    Ok(())
}

/// agent.toml as it is needed; one that is there is the administrator's and stays.
fn write_settings(dir: &Path, arguments: &EnrollArguments, host: &HostName, is_leftover: bool) -> Result<(), Failure> {
    let path = dir.join("agent.toml");
    if path.exists() && !is_leftover {
        return Ok(());
    }
    // Beside the agent's own files, wherever those are.
    let restore_root = std::path::absolute(dir.join("restore")).unwrap_or_else(|_| dir.join("restore"));
    let first = FirstSettings {
        server: &arguments.server,
        ca_file: arguments.ca_file.as_deref(),
        client_certificate: arguments.client_cert.as_deref().zip(arguments.client_key.as_deref()),
        proxy_url: arguments.proxy.as_deref(),
        proxy_username: arguments.proxy_username.as_deref(),
        proxy_password_file: arguments.proxy_password_file.as_deref(),
    };
    let text = settings::render(&first, host, &restore_root);
    Ok(atomic_file::replace(&path, text.as_bytes()).map_err(|error| chain(&error))?)
}
