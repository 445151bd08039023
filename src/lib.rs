//! restic-manager.
pub mod id;
pub mod mask;
pub mod problem;
pub mod protocol;
pub mod retention;
