//! restic-manager.
pub mod append_file;
pub mod atomic_file;
pub mod clock;
pub mod cron_time;
pub mod file_error;
pub mod http_client;
pub mod id;
pub mod job;
pub mod journal;
pub mod problem;
pub mod process;
pub mod protocol;
pub mod retention;
pub mod schedule;
#[cfg(feature = "server")]
pub mod server;
pub mod tls;
