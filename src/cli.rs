//! Pure itself. The operator's commands, one per module: arguments, what is printed, and the exit code.
//! Nothing here serves or watches.

pub mod check;
