//! Pure. From when on an agent's silence counts: only time in which a server was there to hear it, so that a restart makes no agent
//! seem lost that is not, and none heard that is not. Does not say how much silence is too much: `view`, `alert_rules` and
//! `lease_decide` do.

use chrono::{DateTime, TimeDelta, Utc};

/// The time before this server's readiness in which no server could hear an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// When a server of this state was last there; `None`: nobody knows, and no silence of before counts.
    pub from: Option<DateTime<Utc>>,
    pub ready_at: DateTime<Utc>,
}

/// The instant from which the agent has been silent, moved by the part of the outage that came after it was heard.
pub fn silent_since(last_seen: Option<DateTime<Utc>>, outage: Outage) -> DateTime<Utc> {
    let Outage { from, ready_at } = outage;
    let Some(seen) = last_seen else { return ready_at };
    if seen >= ready_at {
        return seen;
    }
    let before = from.map_or(TimeDelta::zero(), |from| from.min(ready_at) - seen);
    ready_at - before.max(TimeDelta::zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::folded::at;

    #[test]
    fn silence_goes_on_over_a_restart_and_the_time_without_a_server_is_no_silence() {
        let outage = |from: Option<&str>, ready: &str| Outage { from: from.map(at), ready_at: at(ready) };
        let (noon, down, up) = ("2026-01-01T12:00:00Z", "2026-01-01T12:01:00Z", "2026-01-01T12:05:00Z");
        let rows = [
            // Silent for a minute when the server went: so it is when the next one is ready.
            (Some(noon), outage(Some(down), up), "2026-01-01T12:04:00Z"),
            (Some(noon), outage(Some(noon), up), up),
            (Some(up), outage(Some(down), up), up),
            // Another server was there all the time.
            (Some(noon), outage(Some(up), up), noon),
            (Some(noon), outage(Some("2026-01-01T12:05:03Z"), up), noon),
            // The mark is older than the sign of life.
            (Some(down), outage(Some(noon), up), up),
            (Some(noon), outage(None, up), up),
            (None, outage(Some(down), up), up),
        ];
        for (seen, outage, expected) in rows {
            assert_eq!(silent_since(seen.map(at), outage), at(expected), "{seen:?} {outage:?}");
        }
    }
}
