//! Pure. What the pages say of the alert channels: those that take nothing, which must be seen before any alert is missed, and all of
//! them in a table. Does not send.

use chrono::{DateTime, Utc};

use super::html::{El, Link, all, el};
use super::layout::{Mood, instant_or, mood, notice};
use super::shown;
use super::table::{Row, Table};
use crate::server::alert_channels_state::ChannelState;

/// What a list has room for of an error, in characters.
const TEXT_LIMIT: usize = 200;

/// The channels on which nobody hears of alerts at the moment; `None`: there is none.
pub fn channel_trouble(channels: &[ChannelState], now: DateTime<Utc>) -> Option<El> {
    let broken: Vec<&ChannelState> = channels.iter().filter(|channel| channel.is_out_of_order()).collect();
    if broken.is_empty() {
        return None;
    }
    let line = |channel: &&ChannelState| {
        let health = &channel.health;
        let text = format!("Alerts do not get through on {} ({}),", channel.name, channel.kind);
        let tries = if health.failures == 1 { "one try".to_owned() } else { format!("{} tries", health.failures) };
        let error = health.last_error.as_deref().map(|error| format!(": {}", shown::cut(error, TEXT_LIMIT)));
        let since = health.last_sent_at.map(|at| (", last success ", shown::instant(at, now)));
        el("p").with(mood(Mood::Bad, text)).with((" ", tries, since)).with(error)
    };
    let list = el("a").link("href", &Link::to("/alerts").part("channels")).with("All channels");
    Some(notice(Mood::Bad, all([(broken.iter().map(line).collect::<Vec<_>>(), el("p").with(list))])))
}

/// All of them, as the configuration has them.
pub fn channel_table(channels: &[ChannelState], now: DateTime<Utc>) -> El {
    let mut table =
        Table::new("Alert channels", &["Channel", "Kind", "State", "Waiting", "Taken", "Last success", "Last error"]);
    for channel in channels {
        let health = &channel.health;
        let (how, word) = match (channel.is_out_of_order(), health.last_sent_at) {
            (true, _) if health.failures == 1 => (Mood::Bad, "failed once".to_owned()),
            (true, _) => (Mood::Bad, format!("failed {} times", health.failures)),
            (false, Some(_)) => (Mood::Good, "works".to_owned()),
            (false, None) => (Mood::Neutral, "not used yet".to_owned()),
        };
        let error = health.last_error.as_ref().map(|error| shown::cut(error, TEXT_LIMIT));
        let when = health.last_failed_at.map(|at| (" ", shown::instant(at, now)));
        table.row(
            Row::new()
                .id(format!("channel-{}", channel.name))
                .cell(channel.name.as_str())
                .cell(channel.kind)
                .cell(mood(how, word))
                .cell(shown::count(channel.waiting as u64))
                .cell(shown::count(health.taken))
                .cell(instant_or(health.last_sent_at, now, "never"))
                .cell((error, when)),
        );
    }
    table.or("server.toml has no channel under [alerts.channels].")
}

#[cfg(test)]
mod tests {
    use super::super::html::tests::{HOSTILE, assert_tame};
    use super::*;
    use crate::server::alert_told::ChannelHealth;
    use crate::server::folded::noon;

    fn channel(name: &str, failures: u32, error: &str) -> ChannelState {
        let last_error = Some(error.to_owned()).filter(|error| !error.is_empty());
        let health = ChannelHealth {
            failures,
            last_error,
            known_since: Some(noon()),
            last_sent_at: Some(noon()),
            ..ChannelHealth::default()
        };
        ChannelState { name: name.parse().expect("a name"), kind: "smtp", waiting: 3, health }
    }

    #[test]
    fn only_a_channel_that_takes_nothing_is_trouble() {
        let (good, bad) = (channel("phone", 0, "an old error"), channel("mail", 4, "connection refused"));
        assert!(channel_trouble(std::slice::from_ref(&good), noon()).is_none());
        let both = [good, bad];
        let told = all([channel_trouble(&both, noon()).expect("one is")]).to_string();
        for part in ["on mail (smtp)", "4 tries", "connection refused", "href=\"/alerts#channels\""] {
            assert!(told.contains(part), "{part} in {told}");
        }
        assert!(!told.contains("phone"), "{told}");
        let table = all([channel_table(&both, noon())]).to_string();
        assert!(table.contains("failed 4 times") && table.contains("works") && table.contains("phone"), "{table}");
    }

    #[test]
    fn nothing_that_a_receiver_said_runs() {
        for text in HOSTILE {
            let channel = channel("mail", 1, text);
            let parts = (channel_trouble(std::slice::from_ref(&channel), noon()), channel_table(&[channel], noon()));
            assert_tame(&all([parts]).to_string());
        }
    }
}
