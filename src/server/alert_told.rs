//! Pure. What channels were told of alerts, as facts and folds: which alerts each knows, those that ended lately and may have to be
//! told yet, and how each channel fares. Does not decide what is to be told: `alert_sends` does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::alert::{Alert, OpenAlerts};
use crate::id::{AlertId, ChannelName, HostName};

/// An alert that has ended is told of no more when it is this old.
pub const ENDED_FOR: TimeDelta = TimeDelta::hours(24);
/// Of one host; a channel that is out of order for long does not make more of them stay.
const MOST_ENDED: usize = 32;
/// What an error's text may take in a line, in characters.
const ERROR_LIMIT: usize = 500;

/// What a message was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Told {
    Raised,
    Resolved,
    Digest,
    Test,
}

impl Told {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Resolved => "resolved",
            Self::Digest => "digest",
            Self::Test => "test",
        }
    }
}

/// A channel has taken a message: in the journal of each host whose alerts were in it, and in the fleet's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertSent {
    pub channel: ChannelName,
    pub what: Told,
    /// Those of the journal. In the fleet's, `count` is the number of all in the message; a digest of none was not sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alerts: Vec<AlertId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// How often it was tried.
    pub attempt: u32,
}

impl AlertSent {
    pub const TYPE: &str = "alert.sent";
}

/// A channel has not taken a message, or nobody knows: in the fleet's journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertSendFailed {
    pub channel: ChannelName,
    pub what: Told,
    /// The first of the alerts that it was about, and its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert_id: Option<AlertId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    pub attempt: u32,
    /// For people; without secrets.
    pub error: String,
}

impl AlertSendFailed {
    pub const TYPE: &str = "alert.send_failed";
}

/// An alert that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedAlert {
    pub alert: Alert,
    pub ended_at: DateTime<Utc>,
    /// The channels that know.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub end_told: BTreeSet<ChannelName>,
}

/// Those of one journal, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EndedAlerts(VecDeque<EndedAlert>);

impl EndedAlerts {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &EndedAlert> {
        self.0.iter()
    }

    /// Adds alerts that have just ended; beyond `MOST_ENDED` the oldest go.
    pub fn extend(&mut self, ended: impl IntoIterator<Item = Alert>, ended_at: DateTime<Utc>) {
        self.0.extend(ended.into_iter().map(|alert| EndedAlert { alert, ended_at, end_told: BTreeSet::new() }));
        while self.0.len() > MOST_ENDED {
            self.0.pop_front();
        }
    }

    /// A channel was told that it began; nothing where that was known.
    pub fn tell(&mut self, id: AlertId, channel: &ChannelName, at: DateTime<Utc>) {
        if let Some(ended) = self.0.iter_mut().find(|ended| ended.alert.id == id) {
            ended.alert.told.entry(channel.clone()).or_insert(at);
        }
    }

    /// A channel was told that it ended.
    pub fn tell_end(&mut self, id: AlertId, channel: &ChannelName) {
        if let Some(ended) = self.0.iter_mut().find(|ended| ended.alert.id == id) {
            ended.end_told.insert(channel.clone());
        }
    }

    /// Drops what is older than `ENDED_FOR`.
    pub fn forget_old(&mut self, now: DateTime<Utc>) {
        while self.0.front().is_some_and(|ended| now - ended.ended_at > ENDED_FOR) {
            self.0.pop_front();
        }
    }
}

/// How a channel fares, by the fleet's journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelHealth {
    /// The first attempt to use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_since: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sent_at: Option<DateTime<Utc>>,
    /// Attempts that failed since then.
    #[serde(default)]
    pub failures: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failed_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_digest_at: Option<DateTime<Utc>>,
    /// Messages that it has taken, and attempts that failed, since they are counted.
    #[serde(default)]
    pub taken: u64,
    #[serde(default)]
    pub failed_in_all: u64,
}

impl ChannelHealth {
    /// The channel has taken a message: what failed before counts no more.
    pub fn sent(&mut self, sent: &AlertSent, at: DateTime<Utc>) {
        self.known_since.get_or_insert(at);
        if sent.what == Told::Digest {
            self.last_digest_at = Some(at);
        }
        // A digest with nothing in it is not sent.
        if sent.count != Some(0) {
            (self.last_sent_at, self.failures) = (Some(at), 0);
            self.taken = self.taken.saturating_add(1);
        }
    }

    /// The channel has not: the next try comes later.
    pub fn failed(&mut self, failed: &AlertSendFailed, at: DateTime<Utc>) {
        self.known_since.get_or_insert(at);
        self.failures = self.failures.saturating_add(1);
        self.failed_in_all = self.failed_in_all.saturating_add(1);
        self.last_failed_at = Some(at);
        self.last_error = Some(failed.error.chars().take(ERROR_LIMIT).collect());
    }
}

/// Of all channels that were ever used.
pub type ChannelHealths = BTreeMap<ChannelName, ChannelHealth>;

/// A channel has taken a message about these alerts, which may have ended meanwhile.
pub fn note_sent(open: &mut OpenAlerts, ended: &mut EndedAlerts, sent: &AlertSent, at: DateTime<Utc>) {
    for id in &sent.alerts {
        match sent.what {
            Told::Raised => {
                open.tell(*id, &sent.channel, at);
                ended.tell(*id, &sent.channel, at);
            }
            Told::Resolved => ended.tell_end(*id, &sent.channel),
            Told::Digest | Told::Test => {}
        }
    }
}
