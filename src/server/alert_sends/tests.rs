//! Each alert to each channel once, whatever comes between.

use chrono_tz::Tz;

use super::*;
use crate::server::alert_told::{AlertSendFailed, AlertSent};
use crate::server::fleet::load::load;
use crate::server::folded::*;

fn channel(more: &str) -> Channel {
    let text = format!("[alerts.channels.hook]\nkind = \"webhook\"\nurl = \"https://h/x\"\n{more}");
    let (fleet, problems) = load(&[("server.toml".to_owned(), text)].into());
    assert!(problems.iter().all(|problem| problem.file != "server.toml"), "{problems:?}");
    fleet.settings.channels[0].clone()
}

fn alert(number: u8, kind: AlertKind) -> Alert {
    let (schedule_id, job_id, acknowledged_by) = (None, None, None);
    let (text, told) = (String::new(), std::collections::BTreeMap::new());
    Alert { id: id(number), kind, schedule_id, job_id, text, raised_at: noon(), acknowledged_by, told }
}

fn due(channel: &Channel, open: &[Alert], ended: &EndedAlerts) -> Vec<(Told, AlertId)> {
    let found = due_of(channel, Some(noon()), Some(&host()), open, ended, noon());
    found.into_iter().map(|(what, due)| (what, due.alert.id)).collect()
}

#[test]
fn an_alert_is_due_until_it_is_told_and_its_end_only_where_it_was_and_that_is_wanted() {
    let (plain, with_ends) = (channel(""), channel("send_resolved = true\n"));
    let mut one = alert(1, AlertKind::BackupFailed);
    let (none, mut ended) = (EndedAlerts::default(), EndedAlerts::default());
    assert_eq!(due(&plain, &[one.clone()], &none), [(Told::Raised, id(1))]);
    // It ended while the channel was out of order: it is told all the same, once.
    ended.extend([one.clone()], noon());
    assert_eq!(due(&plain, &[], &ended), [(Told::Raised, id(1))]);
    assert_eq!(due_of(&plain, None, None, [], &ended, noon()), [], "of a new channel it is history");
    let later = Some(noon() + TimeDelta::hours(1));
    assert_eq!(due_of(&plain, later, None, [], &ended, noon()), [], "also after its first message");
    assert_eq!(due_of(&plain, Some(noon()), None, [], &ended, noon() + TimeDelta::hours(25)), [], "and after a day");
    ended.tell(id(1), &plain.name, noon());
    assert_eq!(due(&plain, &[], &ended), []);
    assert_eq!(due(&with_ends, &[], &ended), [(Told::Resolved, id(1))]);
    ended.tell_end(id(1), &plain.name);
    assert_eq!(due(&with_ends, &[], &ended), []);
    one.told.insert(plain.name.clone(), noon());
    assert_eq!(due(&plain, &[one.clone()], &none), []);
    let seen = Alert { acknowledged_by: Some("alice".to_owned()), ..alert(2, AlertKind::CheckFailed) };
    assert_eq!(due(&plain, &[seen], &none), [], "somebody knows already");
}

#[test]
fn a_channel_hears_what_it_is_for() {
    let of = |more: &str, host: Option<&HostName>, kind| wants(&channel(more), host, kind);
    let (web, failed, offline) = (host(), AlertKind::BackupFailed, AlertKind::AgentOffline);
    assert!(of("", Some(&web), offline) && of("", None, AlertKind::ConfigRejected));
    assert!(of("hosts = [\"web-*\"]\n", Some(&web), failed) && !of("hosts = [\"db-*\"]\n", Some(&web), failed));
    assert!(!of("hosts = [\"*\"]\n", None, AlertKind::ConfigRejected), "the fleet's own is of no host");
    assert!(
        of("min_severity = \"error\"\n", Some(&web), failed) && !of("min_severity = \"error\"\n", Some(&web), offline)
    );
    let kinds = "kinds = [\"agent_offline\"]\n";
    assert!(of(kinds, Some(&web), offline) && !of(kinds, Some(&web), failed));
    assert!(AlertKind::ALL.iter().all(|kind| serde_json::json!(kind) == kind.as_str()));
}

#[test]
fn many_at_once_are_one_message_and_a_refused_one_keeps_back_nothing() {
    let of = |count: u8| -> Vec<(Told, Due)> {
        let due = |n| Due { host: Some(host()), alert: alert(n, AlertKind::AgentOffline), ended_at: None };
        (1..=count).map(|n| (Told::Raised, due(n))).collect()
    };
    let mut health = ChannelHealth::default();
    assert_eq!(next_message(of(0), &health), None);
    let first = next_message(of(3), &health).expect("one");
    assert_eq!((first.dues.len(), first.id.as_str()), (1, "00000000-0000-4000-8000-000000000001-raised"));
    assert_eq!(next_message(of(3), &health).expect("the same").id, first.id);
    health.failures = 1;
    assert_eq!(next_message(of(3), &health).expect("another").alerts_of(Some(&host())), [id(2)]);
    let all = next_message(of(11), &health).expect("all");
    assert_eq!((all.dues.len(), all.id.len()), (11, 32 + "-raised".len()));
    assert_eq!(next_message(of(200), &health).expect("many").dues.len(), MOST_TOGETHER);
}

#[test]
fn a_dead_channel_is_tried_ever_more_seldom_until_it_takes_something() {
    let mut health = ChannelHealth::default();
    assert_eq!(next_try(&health), None);
    let (channel, what) = (channel("").name, Told::Raised);
    let error = "x".repeat(9999);
    let failed = AlertSendFailed { channel: channel.clone(), what, alert_id: None, host: None, attempt: 1, error };
    let mut waits = Vec::new();
    for _ in 0..40 {
        health.failed(&failed, noon());
        waits.push((next_try(&health).expect("a time") - noon()).num_seconds());
    }
    assert_eq!((&waits[..10], waits[39]), (&[2, 4, 8, 16, 32, 64, 128, 256, 512, 600][..], 600));
    assert_eq!(health.last_error.as_ref().map(String::len), Some(500));
    health.sent(&AlertSent { channel, what, alerts: Vec::new(), count: None, attempt: 41 }, noon());
    assert_eq!((next_try(&health), health.last_sent_at), (None, Some(noon())));
}

#[test]
fn a_digest_is_due_once_a_day_by_the_wall_clock() {
    let digest = Digest { minute: 8 * 60, timezone: Tz::Europe__London };
    let mut health = ChannelHealth::default();
    let due = |health: &ChannelHealth, text: &str| due_digest(digest, health, at(text));
    assert_eq!(due(&health, "2026-07-01T06:59:00Z"), None, "summer time: it is 7:59 there");
    assert_eq!(due(&health, "2026-07-01T07:00:00Z"), Some(at("2026-07-01T07:00:00Z")));
    health.last_digest_at = Some(at("2026-07-01T07:00:01Z"));
    assert_eq!(due(&health, "2026-07-01T07:00:02Z"), None);
    assert_eq!(due(&health, "2026-07-02T09:00:00Z"), Some(at("2026-07-02T07:00:00Z")), "late");
    assert_eq!(due(&health, "2026-12-02T08:00:00Z"), Some(at("2026-12-02T08:00:00Z")));
    assert_eq!(due(&health, "2026-12-02T14:30:00Z"), None, "too late");
}

#[test]
fn a_digest_has_what_is_open_first_and_nothing_of_before_the_channel_was_there() {
    let mut health = ChannelHealth::default();
    let now = at("2026-07-02T07:00:00Z");
    assert_eq!(digest_since(&health, now), now, "a channel that nobody knows has no past");
    health.known_since = Some(at("2026-07-01T20:00:00Z"));
    assert_eq!(digest_since(&health, now), at("2026-07-01T20:00:00Z"));
    health.known_since = Some(at("2026-01-01T20:00:00Z"));
    assert_eq!(digest_since(&health, now), at("2026-07-01T07:00:00Z"), "a day at most");
    health.last_digest_at = Some(at("2026-06-30T07:00:00Z"));
    assert_eq!(digest_since(&health, now), at("2026-06-30T07:00:00Z"), "but all since the last one");

    let due = |number, kind, ended_at| Due { host: Some(host()), alert: alert(number, kind), ended_at };
    let mut dues = vec![
        due(1, AlertKind::BackupFailed, Some(noon())),
        due(2, AlertKind::AgentOffline, None),
        due(3, AlertKind::CheckFailed, None),
    ];
    sort_digest(&mut dues);
    let order: Vec<AlertId> = dues.iter().map(|due| due.alert.id).collect();
    assert_eq!(order, [id(3), id(2), id(1)]);
}
