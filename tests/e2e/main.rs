//! The real programs over real sockets, with the real restic on real files. One module per promise.

mod crash;
mod follow;
mod harness;
mod kinds;
mod offline;
mod secrets;
