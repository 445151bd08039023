#![allow(dead_code)] // Nothing is wired yet.
mod host_path;
mod policy;
mod repository_url;
mod restic_args;
mod restic_environment;
mod restic_version;
#![allow(dead_code, unused_imports, unreachable_pub)] // The loops that use the modules come with the real main.

mod json_file;
mod ledger;

fn main() {}
