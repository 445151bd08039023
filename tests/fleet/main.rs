//! Fleets, good and bad, as data: what people may write, and what they are told when it is wrong.
//!
//! A case is a file of sections: `=== base` takes in base.case, `=== hosts/web-1.toml` holds that file's text (over the
//! base's), `=== expected` what must come out: the problems, and for good fleets what hosts are sent.
//! After a wanted change `RESTIC_MANAGER_FLEET_BLESS=1 cargo test --test fleet` rewrites what is expected; read the diff.

#![allow(clippy::disallowed_methods, reason = "tests set their files and times up by hand, and start programs")]

mod again;
mod damage;
mod mutate;
mod schemas;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use restic_manager::problem::{Problem, Severity};
use restic_manager::server::fleet::Fleet;
use restic_manager::server::fleet::load::{has_errors, load};
use restic_manager::server::fleet::read_tree::load_directory;
use restic_manager::server::fleet::schedule_set::{HostSecrets, config_update_of, schedules_of};

/// A configuration directory in memory.
type Files = BTreeMap<String, String>;

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fleet").join(name)
}

/// The sections of a case, and what it expects.
fn parse_case(text: &str) -> (Files, String) {
    let mut files = Files::new();
    let mut expected = String::new();
    for section in text.split("=== ").skip(1) {
        let (name, content) = section.split_once('\n').expect("a section has a line of its own");
        match name {
            "base" => {
                let base = fs::read_to_string(directory("base.case")).expect("the base");
                files.extend(parse_case(&base).0);
            }
            "expected" => content.clone_into(&mut expected),
            file => {
                files.insert(file.to_owned(), content.to_owned());
            }
        }
    }
    (files, expected)
}

fn cases(kind: &str) -> Vec<(PathBuf, Files, String)> {
    let mut cases: Vec<_> = fs::read_dir(directory(kind))
        .expect("cases")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let (files, expected) = parse_case(&fs::read_to_string(&path).expect("a case"));
            (path, files, expected)
        })
        .collect();
    cases.sort();
    cases
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

/// What hosts are sent, one line per schedule.
fn sent(fleet: &Fleet) -> String {
    let mut text = String::new();
    for host in fleet.hosts.values() {
        let update = config_update_of(fleet, host, &HostSecrets::default());
        let _ = writeln!(text, "{}: {}", host.name, update.repo_url.unwrap_or_default());
        let names = [update.repo_password_secret, update.repo_credential_secret].map(Option::unwrap_or_default);
        if names.iter().any(|name| !name.is_empty()) {
            let _ = writeln!(text, "  the agent's secrets: {names:?}");
        }
        for schedule in schedules_of(host) {
            let _ = writeln!(text, "  {}", serde_json::to_string(&schedule).expect("JSON"));
        }
    }
    text
}

/// Compares every case of a kind, or rewrites what it expects.
fn check(kind: &str, outcome: impl Fn(&Fleet, &[Problem]) -> String) {
    let bless = std::env::var_os("RESTIC_MANAGER_FLEET_BLESS").is_some();
    let mut wrong = String::new();
    for (path, files, expected) in cases(kind) {
        let (fleet, problems) = load(&files);
        let found = outcome(&fleet, &problems);
        if bless {
            let text = fs::read_to_string(&path).expect("a case");
            let (before, _) = text.split_once("=== expected\n").expect("an expectation");
            fs::write(&path, format!("{before}=== expected\n{found}")).expect("written");
        } else if found != expected {
            let _ = writeln!(wrong, "{}\n--- expected\n{expected}--- found\n{found}", path.display());
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn bad_fleets_are_refused_with_every_problem_and_its_place() {
    check("bad", |_, problems| {
        assert!(has_errors(problems), "no error: {}", lines(problems));
        lines(problems)
    });
    assert!(cases("bad").len() >= 40);
}

#[test]
fn doubtful_fleets_are_accepted_with_warnings() {
    check("doubtful", |_, problems| {
        assert!(!problems.is_empty() && !has_errors(problems), "{}", lines(problems));
        lines(problems)
    });
}

#[test]
fn good_fleets_become_what_their_hosts_are_sent() {
    check("good", |fleet, problems| {
        assert_eq!(lines(problems), "");
        sent(fleet)
    });
}

#[test]
fn no_problem_repeats_a_secret() {
    for (path, files, _) in cases("bad") {
        assert!(!lines(&load(&files).1).contains("hunter2"), "{}", path.display());
    }
}

#[test]
fn the_sample_fleet_has_no_problem() {
    let (fleet, problems) = load_directory(&Path::new(env!("CARGO_MANIFEST_DIR")).join("config"));
    assert_eq!(lines(&problems), "");
    assert_eq!((fleet.hosts.len(), fleet.groups.len(), fleet.repositories.len()), (3, 2, 1));
}

#[test]
fn a_large_fleet_loads_without_quadratic_work() {
    // Ten times the hosts may take ten times as long, not a hundred; 40 leaves room for a busy machine.
    let time = |hosts: usize| {
        let mut files = Files::new();
        for (name, text) in parse_case(&fs::read_to_string(directory("base.case")).expect("the base")).0 {
            files.insert(name, text);
        }
        let host = files["hosts/web-1.toml"].replace("repository", "groups = [\"gone\", \"everyone\"]\nrepository");
        files.insert("groups/everyone.toml".into(), "tags = [\"t\"]\n".into());
        files.extend((0..hosts).map(|n| (format!("hosts/h{n}.toml"), host.replace("gone", &format!("gone{n}")))));
        let start = std::time::Instant::now();
        let (fleet, problems) = load(&files);
        assert_eq!(fleet.hosts.len(), hosts + 1);
        assert_eq!(problems.iter().filter(|problem| problem.severity == Severity::Error).count(), hosts);
        start.elapsed()
    };
    // Other tests run beside this one: one try of three in peace is enough, and work that is quadratic fails in all.
    let tries: Vec<_> = (0..3).map(|_| (time(300).max(std::time::Duration::from_millis(10)), time(3_000))).collect();
    assert!(tries.iter().any(|(small, large)| *large < *small * 40), "for 300 and for 3000: {tries:?}");
}
