//! Pure. What the fleet's own journal adds up to: which configuration runs, and which was refused.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::alert::{Alert, AlertAcknowledged, AlertKind};
use super::alert_told::{AlertSendFailed, AlertSent, ChannelHealths, EndedAlerts, Told};
use crate::id::{ChannelName, fleet_alert_id};
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
    /// Whether the files are not those of the commit; absent: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty: Option<bool>,
    pub hosts: usize,
    /// The directory that it was read from, with its machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

impl ConfigAdopted {
    pub const TYPE: &str = "config.adopted";
}

/// The same files are those of another commit than before, or no longer differ from it: no host has anything to be told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConfigCommitted {
    pub hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty: Option<bool>,
}

impl ConfigCommitted {
    pub const TYPE: &str = "config.committed";
}

/// A configuration that was refused whole; the last good one runs on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConfigRejected {
    pub hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Errors before warnings, at most `PROBLEMS_LIMIT`.
    pub problems: Vec<ProblemEntry>,
    /// How many there are.
    #[serde(default)]
    pub count: usize,
    /// How many of them are errors, for which it was refused.
    #[serde(default)]
    pub errors: usize,
}

/// Problems that are written down of one refusal; a broken group may be one in each of ten thousand hosts.
pub const PROBLEMS_LIMIT: usize = 200;

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
    pub rejected_at: Option<DateTime<Utc>>,
    /// Its commit, and how many problems it has.
    pub rejected_commit: Option<String>,
    pub rejected_count: usize,
    #[serde(default)]
    pub rejected_errors: usize,
    /// The first of its errors, with its place.
    #[serde(default)]
    pub rejected_first: Option<ProblemEntry>,
    /// The operator who has seen to it.
    pub rejection_acknowledged_by: Option<String>,
    /// When each channel was told, of it or of one that it followed on.
    pub rejection_told: BTreeMap<ChannelName, DateTime<Utc>>,
    /// Refusals that are over.
    pub ended_alerts: EndedAlerts,
    pub channels: ChannelHealths,
}

/// What the refusal of a configuration is as an alert: open until one is adopted.
pub fn rejection_alert(state: &FleetState) -> Option<Alert> {
    let (hash, raised_at) = (state.rejected_hash.as_deref()?, state.rejected_at?);
    Some(Alert {
        id: fleet_alert_id(hash, raised_at),
        kind: AlertKind::ConfigRejected,
        schedule_id: None,
        job_id: None,
        text: rejection_text(state.rejected_first.as_ref(), state.rejected_errors),
        raised_at,
        acknowledged_by: state.rejection_acknowledged_by.clone(),
        told: state.rejection_told.clone(),
    })
}

/// Where the first error is and what it is, how many more there are, and what runs meanwhile.
fn rejection_text(first: Option<&ProblemEntry>, errors: usize) -> String {
    let more = match errors.saturating_sub(1) {
        0 => String::new(),
        1 => " (and 1 more error)".to_owned(),
        more => format!(" (and {more} more errors)"),
    };
    let rest = "the last good configuration runs on: see GET /v1/config";
    match first {
        Some(ProblemEntry { file, line: 0, message, .. }) => {
            format!("the configuration was refused: {file}: {message}{more}; {rest}")
        }
        Some(ProblemEntry { file, line, message, .. }) => {
            format!("the configuration was refused: {file}:{line}: {message}{more}; {rest}")
        }
        // Of a server that did not note it.
        None => format!("the configuration was refused; {rest}"),
    }
}

impl FleetState {
    fn take_sent(&mut self, sent: &AlertSent, at: DateTime<Utc>) {
        self.channels.entry(sent.channel.clone()).or_default().sent(sent, at);
        for id in &sent.alerts {
            match sent.what {
                Told::Raised if rejection_alert(self).is_some_and(|alert| alert.id == *id) => {
                    self.rejection_told.entry(sent.channel.clone()).or_insert(at);
                }
                Told::Raised => self.ended_alerts.tell(*id, &sent.channel, at),
                Told::Resolved => self.ended_alerts.tell_end(*id, &sent.channel),
                Told::Digest | Told::Test => {}
            }
        }
    }
}

impl Fold for FleetState {
    fn apply(&mut self, line: &Line) {
        self.ended_alerts.forget_old(line.received_at);
        match line.kind.as_str() {
            ConfigAdopted::TYPE => {
                if let Ok(adopted) = serde_json::from_str(line.payload.get()) {
                    self.version += 1;
                    self.decisions += 1;
                    self.ended_alerts.extend(rejection_alert(self), line.received_at);
                    self.rejection_told.clear();
                    self.adopted = Some(adopted);
                    self.adopted_at = Some(line.received_at);
                    (self.rejected_hash, self.rejected_at, self.rejected_commit) = (None, None, None);
                    (self.rejected_count, self.rejection_acknowledged_by) = (0, None);
                    (self.rejected_errors, self.rejected_first) = (0, None);
                }
            }
            ConfigRejected::TYPE => {
                if let Ok(rejected) = serde_json::from_str::<ConfigRejected>(line.payload.get()) {
                    self.decisions += 1;
                    self.rejected_hash = Some(rejected.hash);
                    self.rejection_acknowledged_by = None;
                    (self.rejected_at, self.rejected_commit) = (Some(line.received_at), rejected.commit);
                    // Lines of earlier versions have no count, and all problems.
                    self.rejected_count = rejected.count.max(rejected.problems.len());
                    self.rejected_errors = rejected.errors;
                    self.rejected_first = rejected.problems.into_iter().next();
                }
            }
            AlertAcknowledged::TYPE => {
                if let Ok(AlertAcknowledged { alert_id, by }) = serde_json::from_str(line.payload.get())
                    && rejection_alert(self).is_some_and(|alert| alert.id == alert_id)
                {
                    self.rejection_acknowledged_by.get_or_insert(by);
                }
            }
            AlertSent::TYPE => {
                if let Ok(sent) = serde_json::from_str(line.payload.get()) {
                    self.take_sent(&sent, line.received_at);
                }
            }
            AlertSendFailed::TYPE => {
                if let Ok(failed) = serde_json::from_str::<AlertSendFailed>(line.payload.get()) {
                    self.channels.entry(failed.channel.clone()).or_default().failed(&failed, line.received_at);
                }
            }
            ConfigCommitted::TYPE => {
                if let Ok(ConfigCommitted { hash, commit, dirty }) = serde_json::from_str(line.payload.get())
                    && let Some(adopted) = self.adopted.as_mut().filter(|adopted| adopted.hash == hash)
                {
                    self.decisions += 1;
                    (adopted.commit, adopted.dirty) = (commit, dirty);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_first_error_and_how_many_more_there_are() {
        let entry = |line| ProblemEntry {
            file: "hosts/web-1.toml".to_owned(),
            line,
            column: Some(3),
            message: "cron: 61 is no minute".to_owned(),
        };
        let one = rejection_text(Some(&entry(7)), 1);
        assert_eq!(
            one,
            "the configuration was refused: hosts/web-1.toml:7: cron: 61 is no minute; the last good configuration runs on: see GET /v1/config"
        );
        assert!(rejection_text(Some(&entry(7)), 2).contains("no minute (and 1 more error);"));
        assert!(rejection_text(Some(&entry(7)), 12).contains("(and 11 more errors)"));
        assert!(rejection_text(Some(&entry(0)), 1).contains("hosts/web-1.toml: cron"), "of a whole file");
        assert!(rejection_text(None, 0).starts_with("the configuration was refused; "));
    }
}
