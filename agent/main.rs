#![allow(dead_code, unused_imports, unreachable_pub)] // The loops that use the modules come with the real main.

mod json_file;
mod ledger;
mod log_spool;
mod spool;

fn main() {}
