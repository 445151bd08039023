#![allow(dead_code)] // Nothing is wired yet.
mod host_path;
mod policy;
mod repository_url;
mod restic_args;
mod restic_environment;
mod restic_json;
mod restic_version;

fn main() {}
