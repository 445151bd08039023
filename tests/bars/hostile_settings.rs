//! Settings that an agent may have, and a hostile server's, under which no job may run.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::text;
use crate::hostile_commands::touch;
use crate::hostile_server::message;

/// Settings that this agent may have.
pub(crate) fn good_config(version: u64, dir: &Path) -> String {
    let payload = json!({"version": version, "hash": format!("h{version}"), "repo_url": dir.join("repo"), "repo_username": "", "repo_password": "pw",
        "repo_credential": "", "hook_shell": "", "env": {"AWS_DEFAULT_REGION": "eu"}, "limit_upload_kib": 0, "limit_download_kib": 0, "retry_lock": "0s"});
    message("config.update", &payload.to_string())
}

/// Fields of settings under which no job may run.
pub(crate) fn hostile_configs(dir: &Path) -> Vec<Value> {
    let (touch, dir) = (touch(dir), text(dir));
    let urls = [
        "rclone:remote:x".to_owned(),
        format!("rclone::sftp,ssh=\"{touch}\":x"),
        format!("sftp:-oProxyCommand={touch}:/x"),
        format!("sftp://-oProxyCommand={touch}/x"),
        format!("sftp:user@-oProxyCommand={touch}:/x"),
        format!("sftp:%2doProxyCommand={touch}:/x"),
        "rest:https://evil.example.org/".to_owned(),
        "rest:https://backup.example.org@evil.example.org/web-1/".to_owned(),
        "rest:https://backup.example.org/web-1/../web-2/".to_owned(),
        "rest:https://backup.example.org/web-1/%2e%2e/web-2/".to_owned(),
        "rest:https://backup.example.org.evil.org/web-1/".to_owned(),
        "rest:http://backup.example.org/web-1/".to_owned(),
        "s3:s3.evil.example.org/bucket".to_owned(),
        "/etc".to_owned(),
        "local:/etc".to_owned(),
        format!("local:{dir}/repo"),
        format!("{dir}/repo/../outside"),
        format!("{dir}/repo\n"),
        format!("{dir}/repo-other"),
        format!("{dir}/repo\0"),
        "--option=x".to_owned(),
        String::new(),
    ];
    let mut configs: Vec<Value> = urls.into_iter().map(|url| json!({"repo_url": url})).collect();
    for name in [
        "RESTIC_PASSWORD_COMMAND",
        "restic_password_command",
        "RESTIC_PASSWORD_FILE",
        "RESTIC_REPOSITORY",
        "RESTIC_REPOSITORY_FILE",
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "PATH",
        "HOME",
        "TMPDIR",
        "RCLONE_CONFIG",
        "BASH_ENV",
        "SSH_ASKPASS",
        "AWS_CONFIG_FILE",
        "GODEBUG",
        "A=B",
        "",
        "X\0Y",
        "AWS_DEFAULT_REGION\0",
        "RESTIC_CACHE_DIR",
    ] {
        configs.push(json!({"env": {name: touch}}));
    }
    configs.push(json!({"env": {"AWS_DEFAULT_REGION": "a\0b"}}));
    configs.push(json!({"repo_password": "a\0RESTIC_PASSWORD_COMMAND=id"}));
    configs.push(json!({"repo_password": ""}));
    configs
}
