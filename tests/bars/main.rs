//! The bars of the promises that crashes, clocks and disks put to the test: one module per promise, with its positive control.
//! `cargo test --test bars` runs reduced counts; `RESTIC_MANAGER_BARS=full` runs all of them (README.md "The bars").

#![allow(clippy::disallowed_methods, reason = "tests set their files and times up by hand, and start programs")]

#[allow(dead_code, reason = "shared with the end-to-end tests")]
#[path = "../e2e/alternate.rs"]
mod alternate;
#[allow(dead_code, reason = "shared with the end-to-end tests")]
#[path = "../e2e/checker.rs"]
mod checker;
#[path = "../fleet/damage.rs"]
mod damage;
#[allow(dead_code, reason = "shared with the end-to-end tests")]
#[path = "../e2e/harness.rs"]
mod harness;

mod behind_haproxy;
mod faults;
mod hostile_answers;
mod hostile_commands;
mod hostile_judge;
mod hostile_server;
mod hostile_settings;
mod p10;
mod p11;
mod p13;
mod p15;
mod p1_kills;
mod p1_order;
mod p1_power;
mod p2;
mod p3;
mod p4;
mod p5;
mod p6;
mod p6_halves;
mod p7;
mod p8;
mod poster;
mod small_agent;
mod station;
mod timeline;

/// How often something is done: the full count where `RESTIC_MANAGER_BARS=full`, else the short one.
pub(crate) fn count(short: usize, full: usize) -> usize {
    if std::env::var("RESTIC_MANAGER_BARS").is_ok_and(|bars| bars == "full") { full } else { short }
}
