//! Pure. The alerts that are open, each with what shows it, and for operators a button that says it is seen to. Does not raise or end any.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::Visitor;
use super::channels::{channel_table, channel_trouble};
use super::html::{El, Link, all, el};
use super::layout::{Mood, Page, button, events, host_link, job_path, mood, section};
use super::shown;
use super::table::{Row, Table};
use crate::id::HostName;
use crate::server::alert::{Alert, AlertKind};
use crate::server::alert_channels_state::ChannelState;

/// Alerts on the page.
pub const MOST: usize = 500;

/// The alert's kind, in the words of the protocol.
pub fn kind_of(alert: &Alert) -> String {
    // A unit variant always is a text.
    serde_json::to_value(alert.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned)).unwrap_or_default()
}

/// `alerts`: those to be shown, with their hosts; `None`: the fleet's own. `total`: how many there are. `channels`: none for one who may not see the whole fleet.
pub fn alerts_page(
    visitor: &Visitor,
    alerts: &[(Option<HostName>, Alert)],
    total: usize,
    channels: &[ChannelState],
    now: DateTime<Utc>,
) -> String {
    let list: Vec<_> = alerts.iter().map(|(host, alert)| (host.as_ref(), alert)).collect();
    let more = total.saturating_sub(alerts.len());
    let more = Some(el("p").with(format!("{more} more: see GET /v1/alerts"))).filter(|_| more > 0);
    let main = all([(
        el("h1").with("Alerts"),
        channel_trouble(channels, now),
        el("p").with(format!("{total} open.")),
        alert_table(visitor, &list, now),
        more,
        Some(section("channels", "Channels", channel_table(channels, now))).filter(|_| !channels.is_empty()),
    )]);
    Page { title: "Alerts", visitor: Some(visitor), news: Some(events(None)), main }.into_html()
}

/// The alerts of one host (each without its name) or of several.
pub fn alert_table(visitor: &Visitor, alerts: &[(Option<&HostName>, &Alert)], now: DateTime<Utc>) -> El {
    let has_hosts = alerts.iter().any(|(host, _)| host.is_some());
    let columns: &[&str] = match has_hosts {
        true => &["Alert", "Host", "Since", "What happened", "Job", "Seen to"],
        false => &["Alert", "Since", "What happened", "Job", "Seen to"],
    };
    let mut table = Table::new("Open alerts", columns);
    for (host, alert) in alerts {
        let kind = kind_of(alert).replace('_', " ");
        let of = alert.schedule_id.as_ref().map(|schedule| format!(": {schedule}")).unwrap_or_default();
        let how = match alert.kind {
            AlertKind::BackupIncomplete | AlertKind::BackupShrunk | AlertKind::NoNewData | AlertKind::AgentOffline => {
                Mood::Doubtful
            }
            _ => Mood::Bad,
        };
        let job = alert.job_id.map(|job| {
            el("a").link("href", &job_path(job)).attr("aria-label", format!("Job of {kind}{of}")).with("job")
        });
        let mut row = Row::new().id(format!("alert-{}", alert.id)).cell(mood(how, format!("{kind}{of}")));
        if has_hosts {
            row = row.cell(host.map(|host| host_link(host.as_str())));
        }
        let row = row.cell(shown::instant(alert.raised_at, now)).cell(&alert.text).cell(job);
        table.row(row.cell(seen_to(visitor, alert, &kind)));
    }
    table.or("None is open.")
}

fn seen_to(visitor: &Visitor, alert: &Alert, kind: &str) -> El {
    if let Some(by) = &alert.acknowledged_by {
        return el("span").with(format!("by {by}"));
    }
    if !visitor.may_change() {
        return el("span").class("nothing").with("not yet");
    }
    let to = Link::to("/v1/alerts").segment(alert.id).segment("ack");
    let nothing: Value = json!({});
    button("Acknowledge", &format!("Acknowledge {kind}"), &to, &nothing, None)
}

#[cfg(test)]
mod tests {
    use super::super::html::tests::{HOSTILE, assert_tame};
    use super::*;
    use crate::server::access::Role;
    use crate::server::folded::{host, id, noon, schedule};

    fn alert(text: &str, by: Option<&str>) -> Alert {
        Alert {
            id: id(1),
            kind: AlertKind::BackupFailed,
            schedule_id: Some(schedule("data")),
            job_id: Some(id(2)),
            text: text.to_owned(),
            raised_at: noon(),
            acknowledged_by: by.map(str::to_owned),
            told: std::collections::BTreeMap::default(),
        }
    }

    fn shown(role: Role, alert: Alert) -> String {
        let visitor = Visitor { name: "ops".to_owned(), role, is_limited: false };
        alerts_page(&visitor, &[(Some(host()), alert)], 1, &[], noon())
    }

    #[test]
    fn an_alert_says_what_and_where_and_an_operator_can_acknowledge_it_once() {
        let page = shown(Role::Operator, alert("disk full", None));
        for part in ["backup failed: data", "href=\"/hosts/web-1\"", "disk full", "Acknowledge</button>", "/ack\""] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert!(page.contains(&format!("href=\"/jobs/{}\"", id::<crate::id::JobId>(2))));
        assert!(!shown(Role::Viewer, alert("disk full", None)).contains("<button"));
        let seen = shown(Role::Operator, alert("disk full", Some("bob")));
        assert!(seen.contains("by bob") && !seen.contains("<button"), "{seen}");
        let visitor = Visitor { name: "ops".to_owned(), role: Role::Viewer, is_limited: false };
        assert!(alerts_page(&visitor, &[], 0, &[], noon()).contains("None is open."));
        assert!(alerts_page(&visitor, &[(None, alert("x", None))], 7, &[], noon()).contains("6 more"));
    }

    #[test]
    fn nothing_in_an_alert_runs() {
        for text in HOSTILE {
            assert_tame(&shown(Role::Operator, alert(text, Some(text))));
        }
    }
}
