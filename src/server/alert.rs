//! Pure. Alerts: what needs a person, from when it is seen until its cause ends. One for each kind and schedule of a host at a time.
//! Does not say when one is due: `alert_rules` does. Does not send anything.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::id::{AlertId, ChannelName, HostName, JobId, ScheduleId};

/// product.md "Alerts", and what a backup's history tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertKind {
    BackupFailed,
    /// A snapshot was made without some of its sources.
    BackupIncomplete,
    /// Far smaller, or of far fewer files, than the ones before.
    BackupShrunk,
    /// Nothing new or changed for so many runs as the schedule says.
    NoNewData,
    ForgetFailed,
    PruneFailed,
    CheckFailed,
    VerifyFailed,
    /// Any other kind of scheduled job.
    JobFailed,
    /// No success for longer than the schedule's `max_age`; "nothing ran" included.
    StaleSchedule,
    AgentOffline,
    HostConflict,
    /// The fleet's, of no host: the files have errors, and the last good ones run.
    ConfigRejected,
}

impl AlertKind {
    pub const ALL: [Self; 13] = [
        Self::BackupFailed,
        Self::BackupIncomplete,
        Self::BackupShrunk,
        Self::NoNewData,
        Self::ForgetFailed,
        Self::PruneFailed,
        Self::CheckFailed,
        Self::VerifyFailed,
        Self::JobFailed,
        Self::StaleSchedule,
        Self::AgentOffline,
        Self::HostConflict,
        Self::ConfigRejected,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BackupFailed => "backup_failed",
            Self::BackupIncomplete => "backup_incomplete",
            Self::BackupShrunk => "backup_shrunk",
            Self::NoNewData => "no_new_data",
            Self::ForgetFailed => "forget_failed",
            Self::PruneFailed => "prune_failed",
            Self::CheckFailed => "check_failed",
            Self::VerifyFailed => "verify_failed",
            Self::JobFailed => "job_failed",
            Self::StaleSchedule => "stale_schedule",
            Self::AgentOffline => "agent_offline",
            Self::HostConflict => "host_conflict",
            Self::ConfigRejected => "config_rejected",
        }
    }

    /// How bad it is: what may be so by intention, or by a machine that is off, is a warning.
    pub fn severity(self) -> Severity {
        match self {
            Self::BackupIncomplete | Self::BackupShrunk | Self::NoNewData | Self::AgentOffline => Severity::Warning,
            _ => Severity::Error,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Warning,
    Error,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// An open alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    pub id: AlertId,
    pub kind: AlertKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_id: Option<ScheduleId>,
    /// The job that shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// For people; without secrets.
    pub text: String,
    pub raised_at: DateTime<Utc>,
    /// The operator who has seen to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged_by: Option<String>,
    /// When each channel was told.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub told: BTreeMap<ChannelName, DateTime<Utc>>,
}

/// It has begun; as `alert.updated`: it goes on, and what is to be said of it is another thing now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertRaised {
    pub alert_id: AlertId,
    pub kind: AlertKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_id: Option<ScheduleId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    pub text: String,
}

/// The cause has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertResolved {
    pub alert_id: AlertId,
    pub kind: AlertKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_id: Option<ScheduleId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertAcknowledged {
    pub alert_id: AlertId,
    pub by: String,
}

impl AlertAcknowledged {
    pub const TYPE: &str = "alert.acknowledged";
}

/// What one journal's facts leave open, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OpenAlerts(Vec<Alert>);

impl OpenAlerts {
    pub fn iter(&self) -> impl Iterator<Item = &Alert> {
        self.0.iter()
    }

    pub fn get(&self, id: AlertId) -> Option<&Alert> {
        self.0.iter().find(|alert| alert.id == id)
    }

    pub fn raise(&mut self, raised: &AlertRaised, at: DateTime<Utc>) {
        let AlertRaised { alert_id, kind, schedule_id, job_id, text } = raised.clone();
        if self.get(alert_id).is_none() {
            self.0.push(Alert {
                id: alert_id,
                kind,
                schedule_id,
                job_id,
                text,
                raised_at: at,
                acknowledged_by: None,
                told: BTreeMap::new(),
            });
        }
    }

    /// The same alert, with its newest words: who has seen to it, and since when it is open, stays.
    pub fn update(&mut self, updated: &AlertRaised) {
        if let Some(alert) = self.0.iter_mut().find(|alert| alert.id == updated.alert_id) {
            (alert.job_id, alert.text) = (updated.job_id, updated.text.clone());
        }
    }

    /// Returns it, as it was.
    pub fn resolve(&mut self, id: AlertId) -> Option<Alert> {
        let at = self.0.iter().position(|alert| alert.id == id)?;
        Some(self.0.remove(at))
    }

    /// A channel was told of it.
    pub fn tell(&mut self, id: AlertId, channel: &ChannelName, at: DateTime<Utc>) {
        if let Some(alert) = self.0.iter_mut().find(|alert| alert.id == id) {
            alert.told.entry(channel.clone()).or_insert(at);
        }
    }

    pub fn acknowledge(&mut self, id: AlertId, by: &str) {
        if let Some(alert) = self.0.iter_mut().find(|alert| alert.id == id) {
            alert.acknowledged_by.get_or_insert_with(|| by.to_owned());
        }
    }
}

/// The alert object of protocol.md's lists; one of the fleet has no host.
pub fn alert_view(host: Option<&HostName>, alert: &Alert) -> serde_json::Value {
    // A struct of text and times always has a JSON form.
    let mut view = serde_json::to_value(alert).unwrap_or_default();
    view["severity"] = alert.kind.severity().as_str().into();
    if let Some(host) = host {
        view["host"] = host.as_str().into();
    }
    view
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_one_name() {
        for kind in AlertKind::ALL {
            assert_eq!(serde_json::to_value(kind).expect("JSON"), kind.as_str());
        }
    }

    #[test]
    fn all_of_them_are_listed() {
        // serde names every variant where it knows none of them.
        let said = serde_json::from_str::<AlertKind>("\"?\"").expect_err("no kind").to_string();
        let (_, names) = said.split_once("expected one of ").expect("a list");
        let (names, _) = names.split_once(" at line").expect("its end");
        let listed: Vec<String> = AlertKind::ALL.iter().map(|kind| format!("`{}`", kind.as_str())).collect();
        assert_eq!(names, listed.join(", "));
    }
}
