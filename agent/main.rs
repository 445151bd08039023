#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests set their files and times up by hand"))]
#![allow(dead_code, unused_imports, unreachable_pub)] // The loops that use the modules come with the real main.
mod host_path;
mod json_file;
mod ledger;
mod policy;
mod repository_url;
mod restic_args;
mod restic_environment;
mod restic_version;

fn main() {}
