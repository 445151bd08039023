//! restic-manager.
#[cfg(feature = "server")]
pub mod cli;
pub mod cron_time;
pub mod id;
pub mod problem;
pub mod protocol;
pub mod retention;
#[cfg(feature = "server")]
pub mod server;
pub mod toml_reader;
