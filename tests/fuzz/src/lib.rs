//! What the fuzz targets do with their bytes: each function is a parser of bytes from outside with what follows from it, and what
//! must hold whatever the bytes are. Does not decide which bytes: the fuzzer does.

#![allow(dead_code, reason = "the agent's modules are taken in whole")]

/// The agent's own modules, which are in no library. They know each other as the crate's.
#[path = "../../../agent"]
mod agent {
    pub(crate) mod hook_reference;
    pub(crate) mod host_path;
    pub(crate) mod latest_snapshot;
    pub(crate) mod own_secrets;
    pub(crate) mod policy;
    pub(crate) mod repository_url;
    pub(crate) mod restic_args;
    pub(crate) mod restic_environment;
    pub(crate) mod restic_json;
    pub(crate) mod restic_version;
    pub(crate) mod settings;
    pub(crate) mod verify_sample;
}
use agent::{
    hook_reference, host_path, latest_snapshot, own_secrets, policy, repository_url, restic_args, restic_environment,
    restic_json, restic_version, settings, verify_sample,
};

mod agent_side;
mod server_side;
mod texts;

pub use agent_side::{agent_toml, command, poll_answer, restic_answers, restic_output};
pub use server_side::{events, fleet, hello, journal, request};
pub use texts::{cron, texts};

use chrono::{DateTime, Utc};

/// Whatever time it is.
fn noon() -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000, 0).unwrap_or_default()
}
