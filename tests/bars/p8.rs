//! P8: clock jumps, suspend and DST never duplicate a due time; a missed window fires once. Agent and server run with a clock
//! that jumps (the monotonic one does not); DST is run through in process, with suspends at random. Controls: the checks find a
//! due time that fired twice, and a schedule that forgets what it has fired.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use restic_manager::schedule::{CompiledSchedule, ScheduleMemory, compile, decide};
use serde_json::{Value, json};

use crate::checker::check_history;
use crate::count;
use crate::harness::{AGENT, Fleet, Process, eventually, text};
use crate::p5::write_restic;

/// Debian's package `faketime`.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// A fleet whose programs see the clock that `set_clock` sets.
pub(crate) struct Clocked {
    pub(crate) fleet: Fleet,
    file: String,
    offset: TimeDelta,
}

impl Clocked {
    pub(crate) fn new() -> Self {
        assert!(std::path::Path::new(LIBRARY).exists(), "{LIBRARY} is not there: install the package faketime");
        let fleet = Fleet::new();
        let file = text(&fleet.path("clock")).to_owned();
        let mut clocked = Self { fleet, file, offset: TimeDelta::zero() };
        clocked.set_clock(TimeDelta::zero());
        clocked
    }

    /// From now on the programs' clocks are so far from the machine's.
    pub(crate) fn set_clock(&mut self, offset: TimeDelta) {
        self.offset = offset;
        let seconds = offset.num_seconds();
        // In one piece, so that nobody reads half of it.
        self.fleet.write("clock.next", &format!("{}{seconds}\n", if seconds < 0 { "" } else { "+" }));
        std::fs::rename(self.fleet.path("clock.next"), self.fleet.path("clock")).expect("renamed");
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        Utc::now() + self.offset
    }

    fn environment(&self) -> Vec<(&str, &str)> {
        vec![
            ("LD_PRELOAD", LIBRARY),
            ("FAKETIME_TIMESTAMP_FILE", &self.file),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("RUST_LOG", "info"),
        ]
    }

    pub(crate) fn start_server(&mut self) {
        let environment: Vec<(String, String)> =
            self.environment().iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let environment: Vec<(&str, &str)> = environment.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        self.fleet.start_server_with(&environment);
    }

    pub(crate) fn start_agent(&mut self) {
        let dir = self.fleet.path("agent");
        let log = self.fleet.path("agent.log");
        let agent = Process::start(AGENT, &["run", "--dir", text(&dir)], &log, &self.environment());
        self.fleet.agent = Some(agent);
    }

    /// Backups `hourly` and `daily` (at 02:30), UTC, and an agent that has them.
    pub(crate) fn start(&mut self) {
        let restic = write_restic(&self.fleet);
        let data = self.fleet.path("data");
        let schedule = |id: &str, cron: &str| {
            format!("[[schedule]]\nid = {id:?}\nkind = \"backup\"\ncron = {cron:?}\npaths = [{data:?}]\n")
        };
        let schedules = schedule("hourly", "0 * * * *") + &schedule("daily", "30 2 * * *");
        self.fleet.write("config/hosts/web-1.toml", &format!("repository = \"main\"\ntimezone = \"UTC\"\n{schedules}"));
        self.start_server();
        self.fleet.enroll("agent");
        self.fleet.permit_everything("agent", &restic);
        self.start_agent();
        eventually("the agent has its schedules", Duration::from_secs(30), || {
            (self.fleet.get("/v1/hosts/web-1")["schedule"]["applied"] == 1).then_some(())
        });
    }
}

/// (schedule, due time) of every fire that the server's journal has, in its order.
pub(crate) fn fires(journal: &[Value]) -> Vec<(String, String)> {
    let fires = journal.iter().filter(|line| line["type"] == "schedule.fire").map(|line| &line["payload"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    fires.map(|fire| (text(&fire["schedule_id"]), text(&fire["scheduled_at"]))).collect()
}

/// Due times that made more than one job.
fn doubled(journal: &[Value]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let queued = journal.iter().filter(|line| line["type"] == "job.queued").map(|line| &line["payload"]);
    let due = queued.map(|job| format!("{}@{}", job["schedule_id"], job["scheduled_at"]));
    due.filter(|due| !seen.insert(due.clone())).collect()
}

pub(crate) fn shown(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// The latest due times of `hourly` and `daily`, by arithmetic alone.
pub(crate) fn latest_due(at: DateTime<Utc>) -> [(String, String); 2] {
    let hour = at.timestamp().div_euclid(3600) * 3600;
    let half_past_two = 2 * 3600 + 1800;
    let day = (at.timestamp() - half_past_two).div_euclid(86_400) * 86_400 + half_past_two;
    let at = |seconds: i64| shown(DateTime::from_timestamp(seconds, 0).expect("an instant"));
    [("daily".to_owned(), at(day)), ("hourly".to_owned(), at(hour))]
}

#[test]
fn p8_jumps_of_the_clock_and_a_suspend_fire_each_missed_window_once() {
    let mut clocked = Clocked::new();
    // Not within minutes of an hour, which would be due in any case.
    let until_half_past = 1800 - Utc::now().timestamp().rem_euclid(3600);
    let base = TimeDelta::seconds(until_half_past);
    clocked.set_clock(base);
    clocked.start();
    let mut expected: Vec<(String, String)> = Vec::new();
    for (jump, suspended) in [
        (TimeDelta::hours(3), false),
        (TimeDelta::hours(5), true),
        (-TimeDelta::days(2), false),
        (TimeDelta::days(30), false),
        (TimeDelta::days(30) + TimeDelta::hours(1), true),
    ] {
        let agent = clocked.fleet.agent.as_ref().expect("an agent");
        if suspended {
            agent.signal("STOP");
        }
        clocked.set_clock(base + jump);
        if suspended {
            std::thread::sleep(Duration::from_millis(500));
            clocked.fleet.agent.as_ref().expect("an agent").signal("CONT");
        }
        let before = expected.len();
        if jump > TimeDelta::zero() {
            let mut due = latest_due(clocked.now()).to_vec();
            due.retain(|due| !expected.contains(due) && due.1 > shown(Utc::now() + base));
            expected.extend(due);
            assert!(expected.len() > before, "something was missed");
        }
        eventually("what was missed has fired", Duration::from_secs(45), || {
            (fires(&clocked.fleet.journal()).len() >= expected.len()).then_some(())
        });
        // A second look, and a step back in which nothing may fire.
        std::thread::sleep(Duration::from_secs(if jump < TimeDelta::zero() { 33 } else { 1 }));
        let mut fired = fires(&clocked.fleet.journal());
        fired.sort();
        let mut wanted = expected.clone();
        wanted.sort();
        assert_eq!(fired, wanted, "after {jump}");
    }
    eventually("every job ends", Duration::from_secs(30), || {
        let jobs = clocked.fleet.get("/v1/hosts/web-1/jobs?limit=1000");
        jobs["jobs"].as_array()?.iter().all(|job| job["status"] == "succeeded").then_some(())
    });
    std::thread::sleep(Duration::from_secs(1));
    let mut journal = clocked.fleet.journal();
    check_history(&clocked.fleet.path("state/hosts/web-1/journal"));
    assert_eq!(doubled(&journal), [""; 0]);
    // The control: a due time that made two jobs is found.
    let again = journal.iter().find(|line| line["type"] == "job.queued").expect("a job").clone();
    journal.push(again);
    assert_eq!(doubled(&journal).len(), 1);
}

const ZONES: [&str; 4] = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Auckland"];

fn schedule(cron: &str, zone: &str) -> CompiledSchedule {
    let schedule = serde_json::from_value(
        json!({"id": "s", "kind": "backup", "cron_expr": cron, "timezone": zone, "paths": ["/etc"], "enabled": true}),
    );
    let host = "web-1".parse().expect("a host name");
    compile(&schedule.expect("a schedule"), &host, chrono_tz::UTC).expect("compiles")
}

/// The instants in a year at which a zone's offset changes.
fn changes(zone: chrono_tz::Tz, year: i32) -> Vec<DateTime<Utc>> {
    use chrono::Offset;
    let start = format!("{year}-01-01T00:00:00Z").parse::<DateTime<Utc>>().expect("an instant");
    let offset = |at: DateTime<Utc>| at.with_timezone(&zone).offset().fix().local_minus_utc();
    let hours = (0..8784).map(|hour| start + TimeDelta::hours(hour));
    hours.filter(|at| offset(*at) != offset(*at - TimeDelta::minutes(60))).collect()
}

/// Looks at a schedule every half minute for three days round `change`, but for suspends at random; a look after a suspend
/// happens twice, as after a resume. Returns what fired, and the local dates and hours that passed.
fn run_through(schedule: &CompiledSchedule, change: DateTime<Utc>, seed: u64, forgetful: bool) -> Vec<DateTime<Utc>> {
    let (mut now, end) = (change - TimeDelta::hours(36), change + TimeDelta::hours(36));
    let first = now;
    let mut memory = ScheduleMemory::new(schedule, now);
    let (mut fired, mut random) = (Vec::new(), seed);
    while now < end {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let suspends = (random >> 33) % 100 == 0;
        now += TimeDelta::seconds(if suspends { i64::try_from((random >> 40) % 2_400).unwrap_or(0) } else { 30 });
        if suspends && forgetful {
            memory = ScheduleMemory::new(schedule, first);
        }
        for _ in 0..if suspends { 2 } else { 1 } {
            fired.extend(decide(schedule, &mut memory, now).map(|fire| fire.scheduled_at));
        }
    }
    fired
}

#[test]
fn p8_both_changes_of_dst_in_four_zones_fire_each_due_time_once_also_across_suspends() {
    let (mut runs, mut fires) = (0, 0);
    for name in ZONES {
        let zone: chrono_tz::Tz = name.parse().expect("a zone");
        let changes = changes(zone, 2027);
        assert_eq!(changes.len(), 2, "{name}");
        for change in changes {
            for seed in 0..count(5, 100) as u64 {
                // At a fixed time that is skipped or comes twice: once a local day.
                for cron in ["30 2 * * *", "15 2 * * *", "30 1 * * *"] {
                    let fired = run_through(&schedule(cron, name), change, seed, false);
                    let unique: BTreeSet<_> = fired.iter().collect();
                    assert_eq!(unique.len(), fired.len(), "{name} {cron}: {fired:?}");
                    let mut days: BTreeMap<chrono::NaiveDate, usize> = BTreeMap::new();
                    fired.iter().for_each(|at| *days.entry(at.with_timezone(&zone).date_naive()).or_default() += 1);
                    assert!(days.values().all(|times| *times == 1), "{name} {cron}: once a day: {fired:?}");
                    assert!((3..=4).contains(&fired.len()), "{name} {cron}: every day: {fired:?}");
                    fires += fired.len();
                }
                // Every ten minutes: by the wall clock, so in a repeated hour twice as often, each its own instant.
                let fired = run_through(&schedule("*/10 * * * *", name), change, seed, false);
                let unique: BTreeSet<_> = fired.iter().collect();
                assert_eq!(unique.len(), fired.len(), "{name}: {fired:?}");
                assert!(fired.windows(2).all(|pair| pair[0] < pair[1]), "{name}: in order");
                runs += 4;
                fires += fired.len();
            }
        }
    }
    eprintln!("{runs} runs through a change of DST, {fires} fires, each once");
    // The control: one that forgets what it has fired fires again.
    let change = "2027-03-28T01:00:00Z".parse().expect("an instant");
    let fired = run_through(&schedule("30 2 * * *", "Europe/Berlin"), change, 1, true);
    let unique: BTreeSet<_> = fired.iter().collect();
    assert!(unique.len() < fired.len(), "the check sees a due time that fires twice: {fired:?}");
}
