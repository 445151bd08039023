//! restic-manager.
pub mod id;
