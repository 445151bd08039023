//! The floor: programs that do the barest form of what the server does, so that what is ours to lose can be told from what
//! the machine takes.

pub(crate) mod disk;
pub(crate) mod park;
