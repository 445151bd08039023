//! Pure itself. The server: desired state in, journals and answers out. What is in its modules, nothing here.

pub mod access;
pub mod adoption;
pub mod app;
pub mod bell;
pub mod credentials;
pub mod decide;
pub mod events_in;
pub mod fact;
pub mod fleet;
pub mod fleet_contents;
pub mod fleet_copy;
pub mod fleet_install;
pub mod fleet_loop;
pub mod fleet_state;
pub mod fleet_tree;
pub mod fleet_watch;
#[cfg(test)]
mod folded;
pub mod history;
pub mod host;
pub mod host_content;
pub mod host_state;
pub mod http;
pub mod in_flight;
pub mod job_fold;
pub mod job_index;
pub mod job_log;
pub mod keep;
pub mod messages;
pub mod servers;
pub mod servers_loop;
pub mod settle;
pub mod slot;
pub mod state_dir;
pub mod upkeep;
pub mod versions;
pub mod view;
