//! Pure itself. The server: what is in its modules, nothing here.

pub mod fleet;
