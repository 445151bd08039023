//! Retention: over a shared repository with two hosts, three schedules and paths that are renamed midway, what remains after the
//! elected host's forgets is what `keep_rules` predicts, which shares no code with the project or restic. Previews, too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::time::Duration;

use chrono::{DateTime, FixedOffset, TimeDelta};
use serde_json::{Map, Value, json};

use crate::elected;
use crate::harness::{Fleet, PASSWORD, eventually, text};
use crate::keep_rules::{Made, Random, kept};
use crate::troubles::oldest_and_newest;

const HOSTS: [&str; 2] = ["web-1", "web-2"];
const SCHEDULES: [&str; 3] = ["data", "db", "home"];

/// Every rule there is, each in some policy. `None` for a host: the same for both.
const POLICIES: [(&str, Option<&str>, &str); 4] = [
    ("data", None, r#"{"keep_last": 2, "keep_daily": 3, "keep_within_weekly": "2m", "keep_tags": ["keep"]}"#),
    ("db", None, r#"{"keep_weekly": 2, "keep_within_hourly": "2d", "keep_within_monthly": "9m"}"#),
    ("home", Some("web-1"), r#"{"keep_hourly": 2, "keep_monthly": 2, "keep_within_yearly": "4y"}"#),
    ("home", Some("web-2"), r#"{"keep_yearly": 3, "keep_within": "1d12h", "keep_within_daily": "20d"}"#),
];

fn is_full() -> bool {
    std::env::var("RESTIC_MANAGER_BARS").is_ok_and(|bars| bars == "full")
}

/// Which rule this restic does not know: that the oldest one stays is of later versions (in the manual from 0.17 on).
fn left_out_by(program: &str) -> &'static [&'static str] {
    let said = Command::new(program).arg("version").output().expect("restic runs");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    if said.starts_with("restic 0.14.") || said.starts_with("restic 0.15.") { &["oldest"] } else { &[] }
}

fn policy_of(host: &str, schedule: &str) -> Map<String, Value> {
    let found = POLICIES.iter().find(|(of, whose, _)| *of == schedule && whose.is_none_or(|whose| whose == host));
    serde_json::from_str(found.expect("a policy").2).expect("JSON")
}

fn restic(fleet: &Fleet, arguments: &[&str]) -> Command {
    let mut command = Command::new("restic");
    command.args(arguments).env("RESTIC_REPOSITORY", fleet.path("repo")).env("RESTIC_PASSWORD", PASSWORD);
    // As the agent's restic has it: periods are those of the machine's own zone.
    command.env("RESTIC_CACHE_DIR", fleet.path("cache")).env_remove("TZ");
    command
}

/// The repository's snapshots by host and schedule, newest first.
fn snapshots(fleet: &Fleet) -> BTreeMap<(String, String), Vec<Made>> {
    let output = restic(fleet, &["snapshots", "--json", "--no-lock"]).output().expect("restic runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let list: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut found: BTreeMap<(String, String), Vec<Made>> = BTreeMap::new();
    for snapshot in list {
        let tags: Vec<String> = serde_json::from_value(snapshot["tags"].clone()).expect("tags");
        let schedule = tags.iter().find_map(|tag| tag.strip_prefix("schedule:")).unwrap_or("none").to_owned();
        let time: DateTime<FixedOffset> = snapshot["time"].as_str().expect("a time").parse().expect("RFC 3339");
        let id = snapshot["short_id"].as_str().expect("an id").to_owned();
        let host = snapshot["hostname"].as_str().expect("a host").to_owned();
        found.entry((host, schedule)).or_default().push(Made { id, time, tags });
    }
    found.values_mut().for_each(|list| list.sort_by_key(|made| std::cmp::Reverse(made.time)));
    found
}

/// Times of backups, newest first: by the minute and hour lately, by the month and year long ago.
fn times(random: &mut Random, count: usize) -> Vec<String> {
    const DAY: u64 = 1440;
    let gaps = [5..50, 50..300, 300..720, DAY..DAY + 90, 2 * DAY..5 * DAY, 7 * DAY..20 * DAY, 25 * DAY..60 * DAY];
    let gaps = [&gaps[..], &[200 * DAY..400 * DAY, 20 * DAY..60 * DAY]].concat();
    let mut at: DateTime<FixedOffset> = "2026-03-31T23:10:00+00:00".parse().expect("a time");
    let mut times = Vec::new();
    for n in 0..count {
        times.push(at.format("%Y-%m-%d %H:%M:%S").to_string());
        let gap = &gaps[(n * gaps.len() / (count - 1).max(1)).min(gaps.len() - 1)];
        let minutes = gap.start + random.below(gap.end - gap.start);
        at -= TimeDelta::minutes(i64::try_from(minutes).expect("small"));
    }
    times
}

/// A backup to be made.
#[derive(Clone)]
struct Planned {
    host: &'static str,
    schedule: &'static str,
    time: String,
    renamed: bool,
    keep: bool,
}

/// A past of many years, of random times.
fn plan(seed: u64) -> Vec<Planned> {
    let mut random = Random(seed);
    let mut planned = Vec::new();
    for host in HOSTS.into_iter().chain(["stranger"]) {
        for schedule in SCHEDULES {
            let count = match host {
                "stranger" => 1,
                _ if is_full() => 40,
                _ => 10,
            };
            for (n, time) in times(&mut random, count).into_iter().enumerate() {
                planned.push(Planned { host, schedule, time, renamed: n < count / 2, keep: random.below(5) == 0 });
            }
        }
    }
    planned
}

/// The first such past from this seed on in which every rule counts: without it something else would remain, whether a restic
/// keeps the oldest or not.
fn telling_plan(seed: u64) -> (u64, Vec<Planned>) {
    let made = |plan: &[Planned]| {
        let mut made: BTreeMap<(String, String), Vec<Made>> = BTreeMap::new();
        for (n, planned) in plan.iter().enumerate() {
            let tags = if planned.keep { vec!["keep".to_owned()] } else { Vec::new() };
            let time = format!("{}+00:00", planned.time).parse().expect("a time");
            let key = (planned.host.to_owned(), planned.schedule.to_owned());
            made.entry(key).or_default().push(Made { id: n.to_string(), time, tags });
        }
        made
    };
    let tells = |plan: &[Planned]| {
        let made = made(plan);
        let differs = |always: &[&'static str], rule: &str| {
            predicted(&made, always) != predicted(&made, &[always, &[rule]].concat())
        };
        let all = rules();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        all.iter().all(|rule| differs(&["oldest"], rule) && differs(&[], rule)) && differs(&[], "oldest")
    };
    (seed..seed + 2_000).map(|seed| (seed, plan(seed))).find(|(_, plan)| tells(plan)).expect("a telling one")
}

/// The rules of all policies.
fn rules() -> BTreeSet<String> {
    let all = HOSTS.iter().flat_map(|host| SCHEDULES.map(|schedule| policy_of(host, schedule)));
    all.flatten().map(|(rule, _)| rule).collect()
}

/// What remains of all snapshots, strangers' too.
fn predicted(all: &BTreeMap<(String, String), Vec<Made>>, left_out: &[&str]) -> BTreeSet<String> {
    let of_one = |((host, schedule), made): (&(String, String), &Vec<Made>)| {
        if HOSTS.contains(&host.as_str()) {
            kept(made, &policy_of(host, schedule), left_out)
        } else {
            made.iter().map(|made| made.id.clone()).collect()
        }
    };
    all.iter().flat_map(of_one).collect()
}

fn make(fleet: &Fleet, plan: &[Planned]) {
    assert!(restic(fleet, &["init", "-q"]).status().expect("restic runs").success());
    for (n, paths) in ["before", "after"].iter().enumerate() {
        fs::create_dir(fleet.path(paths)).expect("a directory");
        fleet.write(&format!("{paths}/file"), &n.to_string());
    }
    let (mut running, mut waiting): (Vec<std::process::Child>, _) = (Vec::new(), plan.iter());
    eventually("the past is made", Duration::from_secs(300), || {
        running.retain_mut(|child| {
            let ended = child.try_wait().expect("wait");
            assert!(ended.is_none_or(|status| status.success()), "a backup failed");
            ended.is_none()
        });
        while running.len() < 4
            && let Some(Planned { host, schedule, time, renamed, keep }) = waiting.next()
        {
            let tag = format!("schedule:{schedule}{}", if *keep { ",keep" } else { "" });
            let path = fleet.path(if *renamed { "after" } else { "before" });
            let arguments = ["backup", "-q", "--force", "--host", host, "--tag", &tag, "--time", time, text(&path)];
            running.push(restic(fleet, &arguments).spawn().expect("restic runs"));
        }
        running.is_empty().then_some(())
    });
    assert_eq!(snapshots(fleet).values().flatten().count(), plan.len());
}

/// The two hosts share a repository that backup-1 maintains.
fn configured() -> Fleet {
    let fleet = Fleet::new();
    let repository = format!(
        "url = {:?}\npassword = {{ file = \"../secrets/web-1\" }}\n[maintenance]\nhost = \"backup-1\"\nforget = \"0 4 1 1 *\"\nprune = \"0 5 1 1 *\"\n",
        fleet.path("repo")
    );
    fleet.write("config/repositories/main.toml", &repository);
    fleet.write("config/hosts/backup-1.toml", "timezone = \"UTC\"\n");
    for host in HOSTS {
        let mut file = "repository = \"main\"\n".to_owned();
        for schedule in SCHEDULES {
            let policy = policy_of(host, schedule);
            let rules: Vec<String> = policy.iter().map(|(rule, value)| format!("{rule} = {value}")).collect();
            file += &format!(
                "[[schedule]]\nid = \"{schedule}\"\nkind = \"backup\"\ncron = \"0 3 1 1 *\"\npaths = [{:?}]\nretention = {{ {} }}\n",
                fleet.path("after"),
                rules.join(", ")
            );
        }
        fleet.write(&format!("config/hosts/{host}.toml"), &file);
    }
    fleet
}

/// The ids in a list of a preview.
fn named(job: &Value, list: &str) -> BTreeSet<String> {
    let list = job["stats"][list].as_array().map_or(&[][..], Vec::as_slice);
    list.iter().map(|named| named["snapshot"].as_str().expect("an id").to_owned()).collect()
}

fn copy_tree(from: &std::path::Path, to: &std::path::Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().expect("cp runs").success());
}

/// Random policies are told as predicted before they are done.
fn try_previews(fleet: &Fleet, all: &BTreeMap<(String, String), Vec<Made>>, random: &mut Random) {
    for round in 0..if is_full() { 100 } else { 2 } {
        let (host, schedule) = (HOSTS[round % 2], SCHEDULES[round % 3]);
        let policy = random.policy();
        let made = &all[&(host.to_owned(), schedule.to_owned())];
        let expected = kept(made, &policy, left_out_by("restic"));
        let options = json!({"schedule": schedule, "repository": "main", "hosts": [host], "retention_policy": policy, "dry_run": true});
        let body = json!({"kind": "forget", "options": options}).to_string();
        let job = fleet.post("/v1/hosts/backup-1/jobs?wait=120", &body);
        assert_eq!(job["status"], "succeeded", "{job}");
        assert_eq!(named(&job, "kept"), expected, "{policy:?}: {job}\n{made:?}");
        assert_eq!(named(&job, "removed").len(), made.len() - expected.len(), "{policy:?}: {job}");
    }
    // The configured ones, all at once.
    let previews = elected::maintain(fleet, "forget", true);
    let named = |list: &str| previews.iter().flat_map(|job| named(job, list)).collect::<BTreeSet<_>>();
    let expected = predicted(all, left_out_by("restic"));
    assert!(named("kept").is_subset(&expected) && named("removed").is_disjoint(&expected), "{previews:?}");
    let of_hosts = all.values().flatten().count() - SCHEDULES.len();
    assert_eq!(named("kept").len() + named("removed").len(), of_hosts, "{previews:?}");
    let reasons = previews.iter().all(|job| job["stats"]["kept"][0]["reasons"][0].is_string());
    assert!(reasons && previews.iter().all(|job| job["schedule_id"].is_null()), "{previews:?}");
    assert_eq!(&snapshots(fleet), all, "previews change nothing");
}

#[test]
fn what_remains_is_what_an_independent_implementation_of_the_policies_predicts() {
    assert_eq!(rules().len(), 13, "every rule is in some policy");
    let mut seed = 0;
    for _ in 0..if is_full() { 5 } else { 1 } {
        let (found, plan) = telling_plan(seed);
        seed = found + 1;
        let mut fleet = configured();
        make(&fleet, &plan);
        let before = snapshots(&fleet);
        fleet.start_server();
        elected::enroll(&fleet);
        copy_tree(&fleet.path("repo"), &fleet.path("repo-as-it-was"));
        for program in oldest_and_newest() {
            fs::remove_dir_all(fleet.path("repo")).expect("removed");
            copy_tree(&fleet.path("repo-as-it-was"), &fleet.path("repo"));
            let always = left_out_by(&program);
            let _elected = elected::start(&fleet, &program);
            if program == "restic" {
                try_previews(&fleet, &before, &mut Random(seed));
            }
            let jobs = elected::maintain(&fleet, "forget", false);
            assert_eq!(jobs.len(), POLICIES.len(), "one for each policy of a schedule");
            assert!(jobs.iter().all(|job| job["stats"].get("kept").is_none()), "{jobs:?}");
            let remaining: BTreeSet<String> = snapshots(&fleet).into_values().flatten().map(|made| made.id).collect();
            assert_eq!(remaining, predicted(&before, always), "{program}, seed {found}");

            // The control: an implementation with any one rule altered is found out.
            let oldest = always.is_empty().then_some("oldest");
            for altered in rules().iter().map(String::as_str).chain(oldest) {
                let wrong = predicted(&before, &[always, &[altered]].concat());
                assert_ne!(remaining, wrong, "{program}, seed {found}: {altered} makes no difference");
            }
        }
    }
}

#[test]
fn what_a_job_would_do_is_told_before_it_is_done() {
    let fleet = Fleet::new().start("restic");
    let run = |body: &str| {
        let job = fleet.run_job(body);
        assert_eq!(job["status"], "succeeded", "{body}: {job}");
        job
    };
    run(r#"{"kind":"init"}"#);
    let job = run(r#"{"schedule_id":"data","options":{"dry_run":true}}"#);
    assert_eq!(job["stats"]["files_new"], 20, "{job}");
    assert!(job["stats"].get("snapshot_id").is_none() && job["schedule_id"].is_null(), "{job}");
    let job = run(r#"{"kind":"forget","schedule_id":"data","options":{"dry_run":true}}"#);
    assert_eq!(job["stats"]["snapshots_kept"], 0, "{job}");
    run(r#"{"schedule_id":"data"}"#);
    let job = run(r#"{"kind":"forget","schedule_id":"data","options":{"dry_run":true}}"#);
    assert_eq!((&job["stats"]["snapshots_kept"], &job["stats"]["snapshots_removed"]), (&json!(1), &json!(0)), "{job}");
    assert_eq!(job["stats"]["kept"][0]["reasons"], json!(["last snapshot"]), "{job}");
    let job = run(r#"{"kind":"prune","options":{"dry_run":true}}"#);
    assert!(job["stats"]["total_prune"].as_str().is_some_and(|said| said.contains("blobs")), "{job}");
}
