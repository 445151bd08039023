//! The real programs over real sockets, with the real restic on real files. One module per promise.

#![allow(clippy::disallowed_methods, reason = "tests set their files and times up by hand, and start programs")]

mod alternate;
mod bad_input;
mod checker;
mod clone;
mod crash;
mod curl_agent;
mod demo;
mod edits;
mod follow;
mod harness;
mod kinds;
mod offline;
mod restic_trouble;
mod secrets;
mod tls;
