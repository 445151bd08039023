use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn schedule_of(cron: &str, zone: &str, splay: &str, catch_up: bool) -> CompiledSchedule {
    let options = json!({"catch_up": catch_up});
    let schedule = json!({"id": "system", "kind": "backup", "cron_expr": cron, "timezone": zone, "splay": splay,
        "options": options, "enabled": true});
    let schedule = serde_json::from_value(schedule).expect("a schedule");
    compile(&schedule, &host("web-1"), Tz::UTC).expect("it compiles")
}

fn host(name: &str) -> HostName {
    name.parse().expect("a host name")
}

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().expect("an instant")
}

/// Looks at these instants, the first of which is when the schedule is first seen; each with the due instant expected to
/// fire then ("" for none).
fn check(schedule: &CompiledSchedule, looks: &[(&str, &str)]) {
    let mut memory = ScheduleMemory::new(schedule, utc(looks[0].0));
    for (now, expected) in looks {
        let wake = next_wake(schedule, &memory, utc(now));
        let fire = decide(schedule, &mut memory, utc(now));
        let fired = fire.map(|fire| fire.scheduled_at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true));
        assert_eq!(fired.unwrap_or_default(), *expected, "at {now}");
        assert_eq!(wake == Some(utc(now)), !expected.is_empty(), "wakes at {now}");
        // The agent may be restarted at any time.
        let saved = serde_json::to_string(&memory).expect("json");
        memory = serde_json::from_str(&saved).expect("the same");
    }
}

#[test]
fn a_due_time_fires_once_and_not_before_it_is_first_seen() {
    check(
        &schedule_of("0 2 * * *", "UTC", "0s", true),
        &[
            ("2026-11-23T02:00:00Z", ""),
            ("2026-11-24T01:59:59Z", ""),
            ("2026-11-24T02:00:00.2Z", "2026-11-24T02:00:00Z"),
            ("2026-11-24T02:00:01Z", ""),
            ("2026-11-24T12:00:00Z", ""),
            ("2026-11-25T02:00:30Z", "2026-11-25T02:00:00Z"),
        ],
    );
}

#[test]
fn what_was_missed_fires_once_as_the_latest_one() {
    check(
        &schedule_of("0 2 * * *", "UTC", "0s", true),
        &[
            ("2026-11-20T12:00:00Z", ""),
            ("2026-11-24T09:00:00Z", "2026-11-24T02:00:00Z"),
            ("2026-11-24T09:00:01Z", ""),
            ("2026-11-25T02:00:01Z", "2026-11-25T02:00:00Z"),
        ],
    );
}

#[test]
fn without_catch_up_only_what_is_at_most_a_minute_late_fires() {
    check(
        &schedule_of("0 2 * * *", "UTC", "0s", false),
        &[
            ("2026-11-20T12:00:00Z", ""),
            ("2026-11-21T02:01:01Z", ""),
            ("2026-11-22T02:01:00Z", "2026-11-22T02:00:00Z"),
            ("2026-11-23T09:00:00Z", ""),
            ("2026-11-24T02:00:00Z", "2026-11-24T02:00:00Z"),
        ],
    );
}

#[test]
fn a_clock_that_jumps_ahead_and_back_mutes_only_what_fired() {
    for catch_up in [true, false] {
        check(
            &schedule_of("0 2 * * *", "UTC", "0s", catch_up),
            &[
                ("2026-11-20T12:00:00Z", ""),
                ("2026-11-23T02:00:10Z", "2026-11-23T02:00:00Z"),
                ("2026-11-20T12:01:00Z", ""),
                ("2026-11-21T02:00:00Z", "2026-11-21T02:00:00Z"),
                ("2026-11-22T02:00:00Z", "2026-11-22T02:00:00Z"),
                ("2026-11-23T02:00:00Z", ""),
                ("2026-11-24T02:00:00Z", "2026-11-24T02:00:00Z"),
            ],
        );
    }
}

#[test]
fn a_small_correction_right_after_a_late_fire_does_not_fire_the_one_before() {
    check(
        &schedule_of("0 2 * * *", "UTC", "0s", true),
        &[
            ("2026-11-20T12:00:00Z", ""),
            ("2026-11-24T02:00:10Z", "2026-11-24T02:00:00Z"),
            ("2026-11-24T01:59:30Z", ""),
            ("2026-11-24T02:00:00Z", ""),
        ],
    );
}

#[test]
fn a_schedule_first_seen_by_a_clock_in_the_future_is_not_muted_until_then() {
    check(
        &schedule_of("0 2 * * *", "UTC", "0s", true),
        &[("2036-11-20T12:00:00Z", ""), ("2026-11-20T12:00:00Z", ""), ("2026-11-21T02:00:00Z", "2026-11-21T02:00:00Z")],
    );
}

#[test]
fn splay_delays_the_firing_and_not_the_due_instant() {
    let mut schedule = schedule_of("0 2 * * *", "UTC", "0s", true);
    schedule.delay = Span::from_secs(1800);
    let looks = [
        ("2026-11-23T12:00:00Z", ""),
        ("2026-11-24T02:29:59Z", ""),
        ("2026-11-24T02:30:30Z", "2026-11-24T02:00:00Z"),
        ("2026-11-24T03:00:00Z", ""),
    ];
    check(&schedule, &looks);
    let memory = ScheduleMemory::new(&schedule, utc(looks[0].0));
    assert_eq!(next_wake(&schedule, &memory, utc(looks[0].0)), Some(utc("2026-11-24T02:30:00Z")));
    let fire = |now| due_now(&schedule, &memory, utc(now)).expect("due");
    assert!(!fire("2026-11-24T02:31:00Z").late);
    assert!(fire("2026-11-24T02:31:01Z").late);
    // Seen between its due time and its firing: that due time was before.
    check(&schedule, &[("2026-11-24T02:10:00Z", ""), ("2026-11-24T02:30:00Z", ""), ("2026-11-24T05:00:00Z", "")]);
}

#[test]
fn splay_is_stable_within_bounds_and_spreads_hosts() {
    let splay = Span::from_secs(1800);
    let of = |name: &str| splay_of(&host(name), &"system".parse().expect("an id"), splay).as_secs();
    // printf web-1/system | sha256sum: the first 16 digits, modulo 1800. It must never change.
    assert_eq!(of("web-1"), 1212);
    let all: Vec<u64> = (0..1000).map(|n| of(&format!("host-{n}"))).collect();
    assert!(all.iter().all(|delay| *delay < 1800));
    for third in 0..3 {
        let count = all.iter().filter(|delay| **delay / 600 == third).count();
        assert!((250..420).contains(&count), "{count}");
    }
    assert!(splay_of(&host("web-1"), &"system".parse().expect("an id"), Span::default()).is_zero());
}

#[test]
fn a_disabled_schedule_never_fires_and_owes_nothing_when_it_is_enabled() {
    let mut schedule = schedule_of("0 2 * * *", "UTC", "0s", true);
    let mut memory = ScheduleMemory::new(&schedule, utc("2026-11-20T12:00:00Z"));
    schedule.enabled = false;
    assert_eq!(decide(&schedule, &mut memory, utc("2026-11-21T02:00:00Z")), None);
    assert_eq!(next_wake(&schedule, &memory, utc("2026-11-21T02:00:00Z")), None);
    schedule.enabled = true;
    assert_eq!(decide(&schedule, &mut memory, utc("2026-11-21T03:00:00Z")), None);
    assert!(decide(&schedule, &mut memory, utc("2026-11-22T02:00:00Z")).is_some());
}

#[test]
fn another_cron_expression_or_zone_starts_anew() {
    let first = schedule_of("0 2 * * *", "UTC", "0s", true);
    for changed in [schedule_of("0 1 * * *", "UTC", "0s", true), schedule_of("0 2 * * *", "Europe/Berlin", "0s", true)]
    {
        let mut memory = ScheduleMemory::new(&first, utc("2026-11-20T12:00:00Z"));
        let now = utc("2026-11-21T01:30:00Z");
        assert_eq!(next_wake(&changed, &memory, now), changed.cron.next_after(changed.zone, now));
        assert_eq!(decide(&changed, &mut memory, now), None);
        assert!(decide(&changed, &mut memory, utc("2026-11-22T12:00:00Z")).is_some());
    }
}

#[test]
fn clock_changes_fire_fixed_times_once() {
    for (cron, start, expected) in [
        ("30 2 * * *", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z"),
        ("30 2 * * *", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"),
    ] {
        let schedule = schedule_of(cron, "Europe/Berlin", "0s", true);
        let start = utc(start);
        let mut memory = ScheduleMemory::new(&schedule, start);
        let minutes = (1..24 * 60).map(|minute| start + TimeDelta::minutes(minute));
        let fired: Vec<_> = minutes.filter_map(|now| decide(&schedule, &mut memory, now)).collect();
        assert_eq!(fired, [Fire { scheduled_at: utc(expected), late: false }]);
    }
}

#[test]
fn what_cannot_be_compiled_says_what_to_write() {
    let with = |cron: &str, zone: &str| {
        let schedule = json!({"id": "s", "kind": "backup", "cron_expr": cron, "timezone": zone, "enabled": true});
        compile(&serde_json::from_value(schedule).expect("a schedule"), &host("h"), Tz::UTC).expect_err("wrong")
    };
    assert_eq!(with("@daily", "Berlin"), "\"Berlin\" is not an IANA time zone such as \"Europe/Berlin\"");
    assert!(!with("61 * * * *", "UTC").is_empty());
}

#[test]
fn the_memory_keeps_its_form_on_disk_and_its_size() {
    let schedule = schedule_of("@daily", "UTC", "0s", true);
    let mut memory = ScheduleMemory::new(&schedule, at(1000));
    memory.settle(10, 20);
    memory.settle(30, 40);
    memory.settle(20, 25);
    assert_eq!(
        serde_json::to_value(&memory).expect("json"),
        json!({"rule": "@daily UTC", "since": 1000, "looked": 1000, "settled": [[10, 25], [30, 40]]})
    );
    for n in 0..1000 {
        memory.settle(n * 100, n * 100 + 50);
    }
    assert_eq!(memory.settled.len(), RANGE_LIMIT);
    assert!(memory.is_settled(1010), "the nearest stay");
}

/// Moves of the clock, in seconds: small steps, suspends, and jumps either way.
fn moves() -> impl Strategy<Value = Vec<i64>> {
    prop::collection::vec(
        prop_oneof![4 => 0..120_i64, 2 => 0..10_000_i64, 1 => 0..400_000_i64, 2 => -10_000..0_i64, 1 => -400_000..0_i64],
        1..50,
    )
}

fn schedules() -> impl Strategy<Value = CompiledSchedule> {
    let cron =
        prop::sample::select(vec!["* * * * *", "*/7 * * * *", "30 2 * * *", "0 */6 * * 1-5", "@daily", "@weekly"]);
    let zone = prop::sample::select(vec!["UTC", "Europe/Berlin", "Australia/Lord_Howe"]);
    (cron, zone, prop::sample::select(vec!["0s", "10m", "3h"]), any::<bool>())
        .prop_map(|(cron, zone, splay, catch_up)| schedule_of(cron, zone, splay, catch_up))
}

/// Around both clock changes of 2026 in Berlin, and one quiet week.
fn starts() -> impl Strategy<Value = DateTime<Utc>> {
    let around = vec!["2026-03-28T20:00:00Z", "2026-10-24T20:00:00Z", "2026-06-15T00:00:00Z"];
    (prop::sample::select(around), 0..30_000_i64).prop_map(|(start, more)| utc(start) + TimeDelta::seconds(more))
}

proptest! {
    #[test]
    fn no_instant_fires_twice_and_none_fires_early(schedule in schedules(), start in starts(), moves in moves()) {
        let mut memory = ScheduleMemory::new(&schedule, start);
        let mut now = start;
        let mut fired = BTreeSet::new();
        for step in moves {
            now += TimeDelta::seconds(step);
            if let Some(fire) = decide(&schedule, &mut memory, now) {
                prop_assert!(fire.scheduled_at + schedule.delay_delta() <= now);
                prop_assert!(schedule.catch_up || !fire.late);
                prop_assert!(fired.insert(fire.scheduled_at), "{} twice", fire.scheduled_at);
            }
            prop_assert!(decide(&schedule, &mut memory, now).is_none(), "a second look fires again");
        }
    }

    #[test]
    fn with_catch_up_the_latest_due_instant_or_a_later_one_has_fired(
        mut schedule in schedules(), start in starts(), moves in moves()
    ) {
        schedule.catch_up = true;
        let mut memory = ScheduleMemory::new(&schedule, start);
        let mut now = start;
        let mut last_fired = None;
        for step in moves {
            now += TimeDelta::seconds(step);
            let fire = decide(&schedule, &mut memory, now);
            last_fired = last_fired.max(fire.map(|fire| fire.scheduled_at));
            let due = schedule.cron.latest_in(schedule.zone, start, now - schedule.delay_delta());
            prop_assert!(due <= last_fired, "{due:?} is due at {now}, but {last_fired:?} fired last");
        }
    }

    #[test]
    fn whatever_the_clock_did_before_every_instant_reached_in_steady_time_fires(
        schedule in schedules(), start in starts(), moves in moves()
    ) {
        let mut memory = ScheduleMemory::new(&schedule, start);
        let mut now = start;
        let mut fired = BTreeSet::new();
        for step in moves {
            now += TimeDelta::seconds(step);
            fired.extend(decide(&schedule, &mut memory, now).map(|fire| fire.scheduled_at));
        }
        let steady_from = now.max(start + schedule.delay_delta());
        let mut due = steady_from - schedule.delay_delta();
        for _ in 0..12 * 60 {
            now += TimeDelta::minutes(1);
            fired.extend(decide(&schedule, &mut memory, now).map(|fire| fire.scheduled_at));
        }
        while let Some(next) = schedule.cron.next_after(schedule.zone, due).filter(|next| *next + schedule.delay_delta() <= now) {
            prop_assert!(fired.contains(&next), "{next} never fired");
            due = next;
        }
    }
}
