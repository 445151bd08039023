//! Edge. `restic-manager-agent enroll`: makes the credential, shows the server its hash and the one-time token, and writes agent.toml.
//! Repeating it after a lost answer is harmless: identity and enrollment id are on disk before they are sent.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use restic_manager::atomic_file;
use restic_manager::file_error::{FileError, chain};
use restic_manager::http_client::ClientError;
use restic_manager::id::HostName;
use serde_json::{Value, json};

use crate::identity::{self, Identity, hex_sha256};
use crate::settings::{AgentSettings, FirstSettings};
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
    let enrolled = make_and_show(arguments).await;
    // Also of an attempt that failed: what it left is used by the next one, whoever makes that.
    hand_over(&arguments.directory).map_err(|error| chain(&error))?;
    enrolled
}

async fn make_and_show(arguments: &EnrollArguments) -> Result<(), Failure> {
    let host: HostName = match &arguments.host {
        Some(name) => name.parse().map_err(|error| format!("--host: {error}"))?,
        None => identity::hostname()
            .to_lowercase()
            .parse()
            .map_err(|error| format!("{error}; name the host with --host"))?,
    };
    let (dir, settings_file) = (&arguments.directory.dir, arguments.directory.settings_file());
    atomic_file::create_private_dir(dir).map_err(|error| chain(&error))?;
    #[cfg(windows)]
    crate::service_windows::close_to_others(dir)?;
    let before = Identity::read(dir).map_err(|error| chain(&error))?;
    let mut identity = Identity::read_or_make(dir, &host, &arguments.server).map_err(|error| chain(&error))?;
    write_settings(&settings_file, arguments, &host, before.as_ref(), &mut identity)?;
    let settings = run::read_settings(&settings_file)?;
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
    println!("enrolled as {host}; settings are in {}", settings_file.display());
    if let Err(error) = restic_probe::version_of(&settings.restic).await {
        println!("warning: {error}");
    }
    match arguments.directory.is_packaged() {
        true => println!("run it with: systemctl restart restic-manager-agent"),
        false if cfg!(windows) => println!("start it with: restic-manager-agent service install"),
        false => println!("run it with: restic-manager-agent run {}", arguments.directory.as_arguments()),
    }
    Ok(())
}

/// agent.toml as it is needed. One that is there is the administrator's and stays, unless it is as an attempt that never came to
/// anything has left it; flags that it does not agree with are told.
fn write_settings(
    path: &Path,
    arguments: &EnrollArguments,
    host: &HostName,
    before: Option<&Identity>,
    identity: &mut Identity,
) -> Result<(), Failure> {
    // The agent is started from elsewhere than this command.
    let absolute = |path: &Option<PathBuf>| path.as_ref().map(|path| std::path::absolute(path).unwrap_or(path.clone()));
    let dir = &arguments.directory.dir;
    let (ca_file, password_file) = (absolute(&arguments.ca_file), absolute(&arguments.proxy_password_file));
    let (client_cert, client_key) = (absolute(&arguments.client_cert), absolute(&arguments.client_key));
    let first = FirstSettings {
        server: &arguments.server,
        ca_file: ca_file.as_deref(),
        client_certificate: client_cert.as_deref().zip(client_key.as_deref()),
        proxy_url: arguments.proxy.as_deref(),
        proxy_username: arguments.proxy_username.as_deref(),
        proxy_password_file: password_file.as_deref(),
    };
    // Beside the agent's own files, wherever those are.
    let restore_root = std::path::absolute(dir.join("restore")).unwrap_or_else(|_| dir.join("restore"));
    let text = settings::render(&first, host, &restore_root);
    let wanted = settings::parse("agent.toml", &text).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(|problem| problem.message.clone()).collect();
        Failure { code: 2, text: format!("nothing was done: {}", lines.join("; ")) }
    })?;
    if let Ok(there) = std::fs::read_to_string(path) {
        let is_another_attempts = before.is_some_and(|before| before.enrollment_id != identity.enrollment_id);
        let is_as_written = identity.settings_sha256.as_ref() == Some(&hex_sha256(there.as_bytes()));
        if !is_another_attempts && (identity.enrolled || !is_as_written) {
            return agrees(path, &run::read_settings(path)?, &wanted, &first);
        }
    }
    atomic_file::replace(path, text.as_bytes()).map_err(|error| chain(&error))?;
    identity.settings_sha256 = Some(hex_sha256(text.as_bytes()));
    Ok(identity.keep(dir).map_err(|error| chain(&error))?)
}

/// What root made is given to the agent's user: the identity to the owner of the directory that it is in, and agent.toml, when it is not
/// there too, to be read by the group of its own directory and changed by root alone. Nothing to do where everything is one user's.
#[cfg(unix)]
fn hand_over(directory: &Directory) -> Result<(), FileError> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
    let metadata = |path: &Path| std::fs::metadata(path).map_err(FileError::of("look at", path));
    let (identity, settings) = (directory.dir.join("identity.json"), directory.settings_file());
    if !rustix::process::geteuid().is_root() || !identity.exists() {
        return Ok(());
    }
    let owner = metadata(&directory.dir)?;
    // Never through a link that the other user may have put there.
    lchown(&identity, Some(owner.uid()), Some(owner.gid())).map_err(FileError::of("hand over", &identity))?;
    let is_elsewhere = settings.parent() != Some(directory.dir.as_path());
    if let (true, true, Some(parent)) = (is_elsewhere, settings.exists(), settings.parent()) {
        lchown(&settings, None, Some(metadata(parent)?.gid())).map_err(FileError::of("hand over", &settings))?;
        let mode = std::fs::Permissions::from_mode(0o640);
        std::fs::set_permissions(&settings, mode).map_err(FileError::of("hand over", &settings))?;
    }
    Ok(())
}

/// On Windows rights come with the directory.
#[cfg(not(unix))]
fn hand_over(_: &Directory) -> Result<(), FileError> {
    Ok(())
}

/// Whether the administrator's file says what the flags say.
fn agrees(
    path: &Path,
    there: &AgentSettings,
    wanted: &AgentSettings,
    first: &FirstSettings<'_>,
) -> Result<(), Failure> {
    let proxy = |settings: &AgentSettings| settings.proxy.as_ref().map(|p| (p.proxy.clone(), p.login.clone()));
    let differs = [
        ("ca_file", first.ca_file.is_some() && there.ca_file != wanted.ca_file),
        (
            "client_cert and client_key",
            first.client_certificate.is_some() && there.client_certificate != wanted.client_certificate,
        ),
        ("[proxy]", first.proxy_url.is_some() && proxy(there) != proxy(wanted)),
    ];
    let names: Vec<&str> = differs.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect();
    if names.is_empty() {
        return Ok(());
    }
    let text = format!(
        "{} is there, is not changed by this command, and says otherwise of {}: change it there, or remove the file",
        path.display(),
        names.join(" and ")
    );
    Err(Failure { code: 2, text })
}
