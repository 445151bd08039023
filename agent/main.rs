#![allow(dead_code, unused_imports, unreachable_pub)] // The loops that use the modules come with the real main.
mod host_path;
mod json_file;
mod ledger;
mod policy;
mod repository_url;
mod restic_args;
mod restic_environment;
mod restic_json;
mod restic_version;
mod log_spool;
mod spool;

fn main() {}
