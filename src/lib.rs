//! restic-manager.
pub mod cron_time;
pub mod id;
