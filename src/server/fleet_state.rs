//! Pure. What the fleet's own journal adds up to: which configuration runs, and which was refused.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::journal::Fold;
use crate::journal::line::Line;
use crate::protocol::ProblemEntry;

/// A configuration that was adopted: it runs until the next one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigAdopted {
    /// Over every file's path and bytes.
    pub hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    pub hosts: usize,
    /// The directory that it was read from, with its machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

impl ConfigAdopted {
    pub const TYPE: &str = "config.adopted";
}

/// A configuration that was refused whole; the last good one runs on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConfigRejected {
    pub hash: String,
    pub problems: Vec<ProblemEntry>,
}

impl ConfigRejected {
    pub const TYPE: &str = "config.rejected";
}

/// An enrollment token was made; its hash only.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EnrollmentTokenMade {
    pub host: crate::id::HostName,
    pub expires_at: DateTime<Utc>,
    pub by: String,
}

impl EnrollmentTokenMade {
    pub const TYPE: &str = "enrollment_token.made";
}

/// The fold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FleetState {
    /// How many configurations were adopted so far.
    pub version: u64,
    /// How many were adopted or refused: whenever it grows, there is something to look at.
    pub decisions: u64,
    pub adopted: Option<ConfigAdopted>,
    pub adopted_at: Option<DateTime<Utc>>,
    /// The hash of the refused configuration, while it is the newest one seen.
    pub rejected_hash: Option<String>,
}

impl Fold for FleetState {
    fn apply(&mut self, line: &Line) {
        match line.kind.as_str() {
            ConfigAdopted::TYPE => {
                if let Ok(adopted) = serde_json::from_str(line.payload.get()) {
                    self.version += 1;
                    self.decisions += 1;
                    self.adopted = Some(adopted);
                    self.adopted_at = Some(line.received_at);
                    self.rejected_hash = None;
                }
            }
            ConfigRejected::TYPE => {
                if let Ok(rejected) = serde_json::from_str::<ConfigRejected>(line.payload.get()) {
                    self.decisions += 1;
                    self.rejected_hash = Some(rejected.hash);
                }
            }
            _ => {}
        }
    }
}
