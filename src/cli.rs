//! Pure itself. The commands of `restic-manager`, one per module: arguments, what is printed, and the exit code.

pub mod check;
pub mod client;
pub mod demo;
pub mod enroll;
pub mod monitoring;
pub mod plan;
pub mod plan_side;
pub mod plan_text;
pub mod schema;
pub mod serve;
