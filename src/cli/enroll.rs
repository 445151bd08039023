//! Edge. `restic-manager enroll` and `restic-manager token new`: tokens, shown once.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::client::{CliFailure, Reached, ServerArguments};
use crate::server::access::sha256_hex;
use crate::server::state_dir::new_token;

const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub struct EnrollArguments {
    /// The host, as its file in config/hosts is named
    host: String,
    /// How long the token may be used
    #[arg(long, default_value = "1h")]
    ttl: String,
    #[command(flatten)]
    server: ServerArguments,
}

/// Asks for an enrollment token and prints the line to run on the host.
pub async fn enroll(arguments: &EnrollArguments) -> Result<(), CliFailure> {
    let Reached { client, url, ca_file } = arguments.server.reach()?;
    let body = json!({"host": arguments.host, "ttl": arguments.ttl});
    let answer: Value =
        client.post_json("/v1/enrollment-tokens", &body, DEADLINE).await.map_err(|error| CliFailure::of(&error))?;
    let token = answer["token"].as_str().unwrap_or_default();
    let expires_at = answer["expires_at"].as_str().unwrap_or_default();
    println!("# run this on {} before {expires_at}; it can be used once", arguments.host);
    let ca_file = match ca_file {
        None => String::new(),
        Some(path) => {
            println!("# with the CA's certificate there, as {}", path.display());
            format!(" --ca-file {}", path.display())
        }
    };
    let host = &arguments.host;
    println!("restic-manager-agent enroll --server {url} --host {host}{ca_file} --token {token}");
    Ok(())
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleName {
    Viewer,
    Operator,
    Admin,
}

#[derive(Debug, Args)]
pub struct TokenArguments {
    /// Shown wherever the token changes something
    #[arg(long)]
    name: String,
    #[arg(long)]
    role: RoleName,
    /// Only hosts whose names fit, `*` being any run of characters
    #[arg(long)]
    hosts: Option<String>,
}

/// Makes an operator's token: printed once, with the lines for server.toml that hold its hash.
pub fn new(arguments: &TokenArguments) -> Result<(), String> {
    let token = new_token("rmo_");
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    println!("{token}");
    println!("# the token is shown once; these lines go into server.toml:");
    println!("[[tokens]]\nname = {}", quoted(&arguments.name));
    println!("role = \"{}\"", format!("{:?}", arguments.role).to_lowercase());
    if let Some(hosts) = &arguments.hosts {
        println!("hosts = [{}]", quoted(hosts));
    }
    println!("sha256 = \"{}\"", sha256_hex(token.as_bytes()));
    Ok(())
}
