//! restic-manager.
pub mod id;
pub mod problem;
pub mod protocol;
pub mod retention;
