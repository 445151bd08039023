//! Pure. The families of what alerts are told by: each channel of the configuration, and the pings of schedules, which count as one
//! more. They tell when nobody would hear of an alert.

use super::text::Figure;
use super::text::Kind::{Counter, Gauge};
use super::text::Samples;
use super::{Family, FleetFigures, Source, unix_seconds};
use crate::server::alert_channels_state::ChannelState;

/// What pings have in place of a channel's name and kind; a channel of that name has another kind.
const PINGS: [(&str, &str); 2] = [("channel", "ping_url"), ("kind", "ping")];

pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "restic_manager_alert_deliveries_total",
        help: "Messages that the channel has taken, and attempts that failed. Of pings: by this server since its start.",
        kind: Counter,
        source: Source::Fleet(|fleet, samples| {
            let pings = (fleet.pings.taken, fleet.pings.failed);
            let of_channels = fleet.channels.iter().map(|channel| {
                let health = &channel.health;
                (labels(channel), (health.taken, health.failed_in_all))
            });
            for ([name, kind], (taken, failed)) in of_channels.chain([(PINGS, pings)]) {
                samples.add(&[name, kind, ("outcome", "taken")], taken);
                samples.add(&[name, kind, ("outcome", "failed")], failed);
            }
        }),
    },
    Family {
        name: "restic_manager_alert_last_delivery_timestamp_seconds",
        help: "When the channel last took a message; absent: never.",
        kind: Gauge,
        source: Source::Fleet(|fleet, samples| {
            samples.add_known(&PINGS, fleet.pings.last_taken.map(unix_seconds));
            each(fleet, samples, |channel| channel.health.last_sent_at.map(unix_seconds));
        }),
    },
    Family {
        name: "restic_manager_alert_deliveries_waiting",
        help: "What the channel is to be told yet.",
        kind: Gauge,
        source: Source::Fleet(|fleet, samples| {
            samples.add(&PINGS, fleet.pings.waiting);
            each(fleet, samples, |channel| Some(channel.waiting));
        }),
    },
];

fn labels(channel: &ChannelState) -> [(&'static str, &str); 2] {
    [("channel", channel.name.as_str()), ("kind", channel.kind)]
}

fn each<T: Into<Figure>>(fleet: &FleetFigures, samples: &mut Samples, figure: fn(&ChannelState) -> Option<T>) {
    for channel in &fleet.channels {
        samples.add_known(&labels(channel), figure(channel));
    }
}
