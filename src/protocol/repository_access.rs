//! Pure. How restic reaches one repository: what the agent needs for its own, and for each one that it maintains.
//! Does not say which repository it is, nor whether the agent may use it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::command::{ConfigUpdate, Secret};
use super::text::{Span, is_default};

/// Empty stands for none. A secret comes either as itself or as the name of one of the agent's own (agent.toml's
/// `[secrets.NAME]`), which the server never learns.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RepositoryAccess {
    /// As restic takes it, without credentials.
    pub url: String,
    #[serde(skip_serializing_if = "is_default")]
    pub username: String,
    /// The repository's password.
    #[serde(skip_serializing_if = "is_default")]
    pub password: Secret,
    #[serde(skip_serializing_if = "is_default")]
    pub password_secret: String,
    /// The backend's password.
    #[serde(skip_serializing_if = "is_default")]
    pub credential: Secret,
    #[serde(skip_serializing_if = "is_default")]
    pub credential_secret: String,
    /// More environment for restic.
    #[serde(skip_serializing_if = "is_default")]
    pub env: BTreeMap<String, String>,
    /// KiB per second; 0 is unlimited.
    #[serde(skip_serializing_if = "is_default")]
    pub limit_upload_kib: u64,
    /// KiB per second; 0 is unlimited.
    #[serde(skip_serializing_if = "is_default")]
    pub limit_download_kib: u64,
    /// How long restic waits for a lock; zero: not at all.
    #[serde(skip_serializing_if = "is_default")]
    pub retry_lock: Span,
}

impl RepositoryAccess {
    /// The host's own repository, as its settings have it.
    pub fn own(settings: &ConfigUpdate) -> Self {
        let settings = settings.clone();
        Self {
            url: settings.repo_url.unwrap_or_default(),
            username: settings.repo_username.unwrap_or_default(),
            password: settings.repo_password.unwrap_or_default(),
            password_secret: settings.repo_password_secret.unwrap_or_default(),
            credential: settings.repo_credential.unwrap_or_default(),
            credential_secret: settings.repo_credential_secret.unwrap_or_default(),
            env: settings.env.unwrap_or_default(),
            limit_upload_kib: settings.limit_upload_kib.unwrap_or(0),
            limit_download_kib: settings.limit_download_kib.unwrap_or(0),
            retry_lock: settings.retry_lock.unwrap_or_default(),
        }
    }
}
