//! restic-manager: a self-hosted control plane for restic backups.
//!
//! What server, agent and command line share, and the server itself. README.md draws the road that data takes and names
//! every file; `tests/tidy.rs` checks the rules between layers.
//!
//! Invariants, each shown by a test:
//! - Decide (pure), append (durable), apply (pure), wake: an acknowledgement comes after the fsync, never before.
//! - Memory is a fold of the files: a restart changes no view.
//! - A job id is executed at most once, and every id ends.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests set their files and times up by hand"))]

pub mod append_file;
pub mod atomic_file;
#[cfg(feature = "server")]
pub mod cli;
pub mod clock;
pub mod cron_time;
pub mod file_error;
pub mod file_stamp;
pub mod gzip_file;
pub mod http_client;
pub mod id;
pub mod ip_range;
pub mod job;
pub mod journal;
pub mod logging;
pub mod machine;
pub mod mask;
pub mod parallel;
pub mod printable;
pub mod problem;
pub mod process;
pub mod program_version;
pub mod protocol;
pub mod proxy;
pub mod repository_target;
pub mod retention;
pub mod schedule;
pub mod secret_program;
#[cfg(feature = "server")]
pub mod server;
pub mod service_manager;
pub mod shell_help;
pub mod tls;
pub mod toml_reader;
pub mod wildcard;
