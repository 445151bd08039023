//! Pure. The pages for browsers: each a function from what is known and who looks to HTML. `html` escapes, `layout` has what all pages
//! have in common. Does not read state or speak HTTP: `http/pages` does.

use super::access::Role;

pub mod alerts;
pub mod audit;
pub mod calendar;
pub mod channels;
pub mod error;
pub mod fleet;
pub mod fleet_config;
pub mod host;
pub mod host_facts;
pub mod html;
pub mod job;
pub mod layout;
pub mod parts;
pub mod past;
pub mod plot;
pub mod shown;
pub mod snapshot;
pub mod table;

/// Who looks at a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visitor {
    /// The token's name.
    pub name: String,
    pub role: Role,
    /// To some hosts.
    pub is_limited: bool,
}

impl Visitor {
    /// May run, cancel, acknowledge and restore.
    pub fn may_change(&self) -> bool {
        self.role >= Role::Operator
    }
}
