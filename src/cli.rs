//! Pure itself. The commands of `restic-manager`, one per module: arguments, what is printed, and the exit code.

pub mod check;
pub mod client;
pub mod demo;
pub mod enroll;
pub mod serve;
