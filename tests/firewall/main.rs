//! P16: the agent works from behind what companies put in its way, or names the hop that fails and what to change. Each row is the
//! real server and the real agent, with the real restic, in a network of its own in which the agent can reach one proxy and no
//! more; the proxies are the real squid, tinyproxy, nginx and haproxy. Needs root.
//! `cargo test --test firewall` runs reduced counts; `RESTIC_MANAGER_BARS=full` runs all of them (README.md "The bars").

#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "tests set their files and times up by hand, and start programs")]

#[allow(dead_code, reason = "shared with the end-to-end tests")]
#[path = "../e2e/alternate.rs"]
mod alternate;
#[allow(dead_code, reason = "shared with the end-to-end tests")]
#[path = "../e2e/checker.rs"]
mod checker;
#[allow(dead_code, reason = "shared with the end-to-end tests")]
#[path = "../e2e/harness.rs"]
mod harness;

mod alone;
mod authority;
mod controls;
mod cuts;
mod fails;
mod judge;
mod proxies;
mod scene;
mod space;
mod works;

/// How often something is done: the full count where `RESTIC_MANAGER_BARS=full`, else the short one.
pub(crate) fn count(short: usize, full: usize) -> usize {
    if std::env::var("RESTIC_MANAGER_BARS").is_ok_and(|bars| bars == "full") { full } else { short }
}
