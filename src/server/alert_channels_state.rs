//! Pure. How each alert channel fares at the moment: whether it takes what it is told, what waits for it, and how often it did and did not.
//! The API, the pages and the metrics all show this. Does not send, and does not decide what is due.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::alert_sends::next_try;
use super::alert_told::{ChannelHealth, ChannelHealths, Told};
use super::fleet::channels::Channel;
use crate::id::ChannelName;

/// One channel of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelState {
    pub name: ChannelName,
    /// smtp, webhook or ntfy.
    pub kind: &'static str,
    /// Messages that it is to be told yet.
    pub waiting: usize,
    /// By the fleet's journal; of one that was never used it is empty.
    pub health: ChannelHealth,
}

impl ChannelState {
    /// `health`: what the journal says of it.
    pub fn of(channel: &Channel, health: Option<&ChannelHealth>, waiting: usize) -> Self {
        let health = health.cloned().unwrap_or_default();
        Self { name: channel.name.clone(), kind: channel.kind(), waiting, health }
    }

    /// It did not take what it was told last.
    pub fn is_out_of_order(&self) -> bool {
        self.health.failures > 0
    }

    /// The channel's object in protocol.md's list.
    pub fn view(&self) -> Value {
        let health = &self.health;
        let mut view =
            json!({"name": self.name, "kind": self.kind, "waiting": self.waiting, "failures": health.failures});
        let times: [(&str, Option<DateTime<Utc>>); 3] = [
            ("last_sent_at", health.last_sent_at),
            ("last_failed_at", health.last_failed_at),
            ("next_try_at", next_try(health)),
        ];
        for (key, at) in times {
            if let Some(at) = at {
                view[key] = json!(at);
            }
        }
        if let Some(error) = &health.last_error {
            view["last_error"] = error.as_str().into();
        }
        view
    }
}

/// All channels in the configuration's order. `waiting`: how much one of them has to be told yet.
pub fn channel_states(
    channels: &[Channel],
    healths: &ChannelHealths,
    waiting: impl Fn(&Channel, Option<&ChannelHealth>) -> Vec<(Told, super::alert_sends::Due)>,
) -> Vec<ChannelState> {
    let state = |channel: &Channel| {
        let health = healths.get(&channel.name);
        ChannelState::of(channel, health, waiting(channel, health).len())
    };
    channels.iter().map(state).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::alert_told::{AlertSendFailed, AlertSent};
    use crate::server::folded::{at, noon};

    fn failed(name: &ChannelName) -> AlertSendFailed {
        let (alert_id, host) = (None, None);
        AlertSendFailed {
            channel: name.clone(),
            what: Told::Raised,
            alert_id,
            host,
            attempt: 1,
            error: "refused".to_owned(),
        }
    }

    #[test]
    fn a_channel_is_out_of_order_from_its_first_failure_to_its_next_success_and_all_are_counted() {
        let name: ChannelName = "hook".parse().expect("a name");
        let state = |health: &ChannelHealth| ChannelState {
            name: name.clone(),
            kind: "webhook",
            waiting: 2,
            health: health.clone(),
        };
        let mut health = ChannelHealth::default();
        assert!(!state(&health).is_out_of_order());
        assert_eq!(
            state(&health).view(),
            json!({"name": "hook", "kind": "webhook", "waiting": 2, "failures": 0}),
            "of one that was never used nothing more is known"
        );
        health.failed(&failed(&name), noon());
        health.failed(&failed(&name), at("2026-11-23T12:00:10Z"));
        let view = state(&health).view();
        assert!(state(&health).is_out_of_order());
        assert_eq!((&view["failures"], &view["last_error"]), (&json!(2), &json!("refused")));
        assert!(view["next_try_at"].is_string() && view.get("last_sent_at").is_none(), "{view}");
        let sent =
            AlertSent { channel: name.clone(), what: Told::Raised, alerts: Vec::new(), count: Some(1), attempt: 3 };
        health.sent(&sent, at("2026-11-23T12:01:00Z"));
        assert!(!state(&health).is_out_of_order());
        assert_eq!((health.taken, health.failed_in_all), (1, 2), "what failed before is still counted");
        // A digest with nothing in it is not sent.
        health.sent(&AlertSent { what: Told::Digest, count: Some(0), ..sent }, noon());
        assert_eq!(health.taken, 1);
    }
}
