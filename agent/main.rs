#![allow(dead_code, unused_imports)] // The loops that use the modules come with the real main.
mod backoff;
mod host_path;
mod identity;
mod json_file;
mod ledger;
mod log_spool;
mod policy;
mod received;
mod repository_url;
mod restic_args;
mod restic_environment;
mod restic_version;
mod spool;

fn main() {}
