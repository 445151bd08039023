//! The real programs over real sockets, with the real restic on real files. One module per promise.

#![allow(clippy::disallowed_methods, reason = "tests set their files and times up by hand, and start programs")]

mod access;
mod alerts;
mod alternate;
mod append_only;
mod audit;
mod bad_input;
mod channels;
mod checker;
mod cli;
mod clone;
mod commits;
mod connections;
mod contact;
mod copy;
mod crash;
mod credentials;
mod curl_agent;
mod delivery;
mod demo;
mod edits;
mod elected;
mod every_alert;
mod follow;
mod git;
#[allow(dead_code, reason = "shared with the bars")]
mod harness;
mod heal;
mod hooks;
mod hostile_agent;
mod hostile_payloads;
#[allow(dead_code, reason = "shared with the bars")]
#[path = "../bars/hostile_server.rs"]
mod hostile_server;
mod keep_rules;
mod keepalive;
mod kinds;
mod leases;
mod leftovers;
mod locks;
mod maintenance;
mod monitoring;
mod offline;
mod operate;
mod page;
mod parked;
mod queries;
mod receivers;
mod releases;
mod restic_trouble;
mod restore;
mod retention;
mod retries;
mod schema;
mod secret_sources;
mod secrets;
mod service;
mod tls;
mod tls_files;
mod troubles;
mod upgrades;
mod upkeep;
mod verify;
mod watch;
mod way;
