//! Pure. What a channel is to be told next, as a function of the folded states, how the channel fares and the time: level-triggered, so
//! that a restart or another server goes on where the last one was. Does not send, and does not write down that it was sent.

use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest as _, Sha256};

use super::alert::{Alert, AlertKind};
use super::alert_told::{ChannelHealth, ENDED_FOR, EndedAlert, EndedAlerts, Told};
use super::fleet::channels::{Channel, Digest};
use crate::cron_time::CronExpression;
use crate::id::{AlertId, HostName};
use crate::wildcard::matches;

/// After a first failure; each further one doubles it.
const FIRST_WAIT: TimeDelta = TimeDelta::seconds(2);
const LONGEST_WAIT: TimeDelta = TimeDelta::minutes(10);
/// When more than this wait at once, they are one message: half a fleet may go offline together.
const MOST_SINGLES: usize = 10;
/// Alerts in one message.
const MOST_TOGETHER: usize = 100;
/// A digest that could not be sent at its time is sent for this long.
const DIGEST_FOR: TimeDelta = TimeDelta::hours(6);

/// An alert that a channel is to be told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// `None`: it is the fleet's.
    pub host: Option<HostName>,
    pub alert: Alert,
    /// Also of one that the channel is only now told was raised.
    pub ended_at: Option<DateTime<Utc>>,
}

/// What one sending is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub what: Told,
    pub dues: Vec<Due>,
    /// The same whenever the same is sent again.
    pub id: String,
}

impl Message {
    pub fn new(what: Told, dues: Vec<Due>) -> Self {
        let word = what.as_str();
        let id = match dues.as_slice() {
            [one] => format!("{}-{word}", one.alert.id),
            several => {
                let ids: Vec<String> = several.iter().map(|due| due.alert.id.to_string()).collect();
                let hash = Sha256::digest(ids.join(" ").as_bytes());
                format!("{}-{word}", data_encoding::HEXLOWER.encode(hash.get(..16).unwrap_or_default()))
            }
        };
        Self { what, dues, id }
    }

    /// The ids of this host's alerts; `None`: of the fleet's.
    pub fn alerts_of(&self, host: Option<&HostName>) -> Vec<AlertId> {
        self.dues.iter().filter(|due| due.host.as_ref() == host).map(|due| due.alert.id).collect()
    }
}

/// Whether the channel is for such alerts. The fleet's own are of no host.
pub fn wants(channel: &Channel, host: Option<&HostName>, kind: AlertKind) -> bool {
    let is_of_hosts = match host {
        _ if channel.hosts.is_empty() => true,
        Some(host) => channel.hosts.iter().any(|pattern| matches(pattern, host.as_str())),
        None => false,
    };
    is_of_hosts
        && kind.severity() >= channel.min_severity
        && (channel.kinds.is_empty() || channel.kinds.contains(&kind))
}

/// What of one journal the channel has to be told, each with what. Of what is over only what ended since the channel is
/// known by a first attempt: to a new one the rest is history.
pub fn due_of<'a>(
    channel: &Channel,
    known_since: Option<DateTime<Utc>>,
    host: Option<&HostName>,
    open: impl IntoIterator<Item = &'a Alert>,
    ended: &EndedAlerts,
    now: DateTime<Utc>,
) -> Vec<(Told, Due)> {
    if channel.digest.is_some() {
        return Vec::new();
    }
    let wanted = |alert: &Alert| wants(channel, host, alert.kind);
    let is_untold = |alert: &Alert| alert.acknowledged_by.is_none() && !alert.told.contains_key(&channel.name);
    let due = |alert: &Alert, ended_at| Due { host: host.cloned(), alert: alert.clone(), ended_at };
    let open = open.into_iter().filter(|alert| wanted(alert) && is_untold(alert));
    let mut found: Vec<(Told, Due)> = open.map(|alert| (Told::Raised, due(alert, None))).collect();
    for EndedAlert { alert, ended_at, end_told } in ended.iter().filter(|ended| wanted(&ended.alert)) {
        if now - *ended_at > ENDED_FOR {
            continue;
        }
        if known_since.is_some_and(|since| since <= *ended_at) && is_untold(alert) {
            found.push((Told::Raised, due(alert, Some(*ended_at))));
        } else if channel.send_resolved && alert.told.contains_key(&channel.name) && !end_told.contains(&channel.name) {
            found.push((Told::Resolved, due(alert, Some(*ended_at))));
        }
    }
    found
}

/// The next message of what is due. After a failure another one than before is tried: what the channel refuses for what it says
/// must not keep back the rest.
pub fn next_message(mut due: Vec<(Told, Due)>, health: &ChannelHealth) -> Option<Message> {
    due.sort_by_key(|(what, due)| (*what, due.alert.raised_at, due.alert.id));
    if due.len() <= MOST_SINGLES {
        let turn = usize::try_from(health.failures).unwrap_or(0) % due.len().max(1);
        let (what, due) = due.into_iter().nth(turn)?;
        return Some(Message::new(what, vec![due]));
    }
    let what = due.first()?.0;
    let together = due.into_iter().filter(|(of, _)| *of == what).take(MOST_TOGETHER);
    Some(Message::new(what, together.map(|(_, due)| due).collect()))
}

/// When the channel may be tried again.
pub fn next_try(health: &ChannelHealth) -> Option<DateTime<Utc>> {
    let doublings = health.failures.checked_sub(1)?.min(16);
    Some(health.last_failed_at? + (FIRST_WAIT * 2_i32.pow(doublings)).min(LONGEST_WAIT))
}

/// The instant of the digest that is to be sent now.
pub fn due_digest(digest: Digest, health: &ChannelHealth, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let Digest { minute, timezone } = digest;
    let expression = CronExpression::parse(&format!("{} {} * * *", minute % 60, minute / 60)).ok()?;
    let next = |at: &DateTime<Utc>| expression.next_after(timezone, *at);
    let instants = std::iter::successors(next(&(now - TimeDelta::hours(50))), next).take(4);
    let last = instants.take_while(|at| *at <= now).last()?;
    (now - last < DIGEST_FOR && health.last_digest_at.is_none_or(|at| at < last)).then_some(last)
}

/// Since when alerts that have ended are a digest's news: the last one, but nothing of before the channel is known.
pub fn digest_since(health: &ChannelHealth, now: DateTime<Utc>) -> DateTime<Utc> {
    let since = health.last_digest_at.unwrap_or(now - TimeDelta::hours(24));
    since.max(health.known_since.unwrap_or(now))
}

/// The order of a digest: what is open first, the worst and the oldest before the rest; then what has ended.
pub fn sort_digest(dues: &mut [Due]) {
    dues.sort_by_key(|due| {
        let severity = std::cmp::Reverse(due.alert.kind.severity());
        (due.ended_at, severity, due.alert.raised_at, due.alert.id)
    });
}

/// What a digest lists of one journal: everything that is open, and what has ended since the last one.
pub fn digest_of<'a>(
    channel: &Channel,
    host: Option<&HostName>,
    open: impl IntoIterator<Item = &'a Alert>,
    ended: &EndedAlerts,
    since: DateTime<Utc>,
) -> Vec<Due> {
    let due = |alert: &Alert, ended_at| Due { host: host.cloned(), alert: alert.clone(), ended_at };
    let open = open.into_iter().map(|alert| due(alert, None));
    let ended =
        ended.iter().filter(|ended| ended.ended_at > since).map(|ended| due(&ended.alert, Some(ended.ended_at)));
    open.chain(ended).filter(|due| wants(channel, host, due.alert.kind)).collect()
}

#[cfg(test)]
mod tests;
