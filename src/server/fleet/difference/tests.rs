//! What is told of each difference, and that nothing else is.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::server::fleet::load::{Texts, has_errors, load, load_again};
use crate::server::fleet::remembered::Remembered;

const REPOSITORY: &str = "url = \"/srv/{host}\"\npassword = { file = \"/run/secrets/{host}\" }\nmax_parallel = 2\n\
                          env = { A = \"1\" }\n";
const GROUP: &str = "[[schedule]]\nid = \"x\"\nkind = \"backup\"\ncron = \"@daily\"\npaths = [\"/etc\", \"/home\"]\n\
                     retention = { keep_daily = 7 }\nmax_age = \"2d\"\n";
const HOST: &str = "repository = \"main\"\ngroups = [\"g\"]\n";

fn files(more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let base = [
        ("repositories/main.toml", REPOSITORY),
        ("groups/g.toml", GROUP),
        ("hosts/a.toml", HOST),
        ("hosts/b.toml", HOST),
    ];
    let all = base.iter().chain(more).filter(|(_, text)| *text != "gone");
    all.map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

fn fleet(more: &[(&str, &str)]) -> Fleet {
    let mut files = files(more);
    files.retain(|path, _| !more.iter().any(|(gone, text)| gone == path && *text == "gone"));
    let (fleet, problems) = load(&files);
    assert!(!has_errors(&problems), "{problems:?}");
    fleet
}

/// From the base to the base with these files, as "place field from to".
fn lines(more: &[(&str, &str)]) -> Vec<String> {
    let found = difference(&fleet(&[]), &fleet(more));
    let value = |value: &Option<Value>| value.as_ref().map_or("-".to_owned(), ToString::to_string);
    let told = |place: &str, changes: &[FieldChange]| -> Vec<String> {
        changes.iter().map(|c| format!("{place} {} {} {}", c.field, value(&c.from), value(&c.to))).collect()
    };
    let mut lines = told("server", &found.server);
    for item in &found.repositories {
        lines.push(format!("{} {:?}", item.name, item.what));
        lines.extend(told(&item.name, &item.fields));
    }
    for (host, change) in &found.hosts {
        lines.push(format!("{host} {:?}", change.what));
        lines.extend(told(host.as_str(), &change.settings));
        for schedule in &change.schedules {
            lines.push(format!("{host}/{} {:?}", schedule.name, schedule.what));
            lines.extend(told(&format!("{host}/{}", schedule.name), &schedule.fields));
        }
    }
    lines
}

#[test]
fn the_same_fleet_differs_in_nothing_wherever_its_lines_stand() {
    assert_eq!(lines(&[]), [""; 0]);
    let moved = format!("# A comment.\n\n{REPOSITORY}");
    assert_eq!(lines(&[("repositories/main.toml", &moved), ("server.toml", "state = \"../state\"\n")]), [""; 0]);
}

#[test]
fn a_schedules_fields_are_told_by_the_names_they_are_written_with() {
    let host = format!(
        "{HOST}[[schedule]]\nid = \"x\"\ncron = \"@hourly\"\npaths = [\"/etc\", \"/srv\"]\nretention = {{ keep_daily = 0, keep_last = 3 }}\n\
         retries = 2\nenabled = false\nmax_age = \"3d\"\noptions = {{ one_file_system = true }}\n"
    );
    let expected = [
        "a Changed",
        "a/x Changed",
        "a/x cron \"@daily\" \"@hourly\"",
        "a/x paths [\"/etc\",\"/home\"] [\"/etc\",\"/srv\"]",
        "a/x enabled true false",
        "a/x max_age \"2d\" \"3d\"",
        "a/x options.one_file_system - true",
        "a/x retention.keep_last - 3",
        "a/x retries - 2",
        "a/x retention.keep_daily 7 -",
    ];
    assert_eq!(lines(&[("hosts/a.toml", &host)]), expected);
}

#[test]
fn hosts_and_schedules_come_and_go() {
    let host = "repository = \"main\"\n[[schedule]]\nid = \"y\"\nkind = \"check\"\ncron = \"@weekly\"\n";
    let found = lines(&[("hosts/a.toml", host), ("hosts/b.toml", "gone"), ("hosts/c.toml", HOST)]);
    let wanted =
        ["a Changed", "a/x Removed", "a/y Added", "b Removed", "c Added", "c repository - \"main\"", "c/x Added"];
    let is_wanted = |line: &&String| !line.starts_with("a/y ") && !line.starts_with("c/x ") || line.ends_with("Added");
    assert_eq!(found.iter().filter(is_wanted).collect::<Vec<_>>(), wanted);
    assert!(found.contains(&"c/x paths - [\"/etc\",\"/home\"]".to_owned()), "{found:?}");
}

#[test]
fn a_repositorys_change_reaches_the_hosts_only_as_far_as_they_are_sent_it() {
    let with = |from: &str, to: &str| lines(&[("repositories/main.toml", &REPOSITORY.replace(from, to))]);
    assert_eq!(with("max_parallel = 2", "max_parallel = 3"), ["main Changed", "main max_parallel 2 3"]);
    let secret = "{\"file\":\"/run/secrets/{host}\"} {\"file\":\"/run/secrets/p\"}";
    let expected = [
        "main Changed",
        &format!("main password {secret}"),
        "a Changed",
        &format!("a password {secret}"),
        "b Changed",
        &format!("b password {secret}"),
    ];
    assert_eq!(with("secrets/{host}", "secrets/p"), expected);
    // The template names one host as before.
    let found = with("/srv/{host}", "/srv/a");
    assert!(!found.contains(&"a Changed".to_owned()) && found.contains(&"b Changed".to_owned()), "{found:?}");
}

#[test]
fn the_servers_settings_are_told_and_tokens_by_the_start_of_their_hashes() {
    let hash = "0123456789abcdef".repeat(4);
    let text = format!(
        "hook_shell = \"/bin/bash\"\ntrusted_proxies = [\"10.0.0.0/8\", \"::1\"]\n[[tokens]]\nname = \"ops\"\nrole = \"admin\"\nsha256 = \"{hash}\"\n"
    );
    let found = lines(&[("server.toml", &text)]);
    assert!(found.contains(&"server trusted_proxies - [\"10.0.0.0/8\",\"::1\"]".to_owned()), "{found:?}");
    assert!(found.contains(&"server tokens.ops.sha256 - \"01234567...\"".to_owned()), "{found:?}");
    assert!(!found.join("").contains("89abcdef"), "{found:?}");
    // It is sent to every host.
    assert!(found.contains(&"b hook_shell \"/bin/sh\" \"/bin/bash\"".to_owned()), "{found:?}");
}

#[test]
fn hosts_with_the_same_change_are_one_group() {
    let group = GROUP.replace("@daily", "@weekly");
    let hosts: Vec<(String, &str)> = (0..20).map(|n| (format!("hosts/h{n:02}.toml"), HOST)).collect();
    let base: Vec<(&str, &str)> = hosts.iter().map(|(path, text)| (path.as_str(), *text)).collect();
    let own = format!("{HOST}tags = [\"t\"]\n");
    let changed = [base.as_slice(), &[("groups/g.toml", &group), ("hosts/a.toml", &own)]].concat();
    let found = difference(&fleet(&base), &fleet(&changed));
    let groups = found.grouped();
    let sizes: Vec<(&str, usize)> = groups.iter().map(|(names, _)| (names[0].as_str(), names.len())).collect();
    assert_eq!(sizes, [("a", 1), ("b", 21)]);
    assert_eq!((found.count(What::Changed), found.unchanged_hosts), (22, 0));
}

#[test]
fn of_ten_thousand_hosts_one_change_is_one_host() {
    let text = |texts: &BTreeMap<String, String>| -> Texts {
        texts.iter().map(|(path, text)| (path.clone(), Arc::from(text.as_str()))).collect()
    };
    let mut all = files(&[]);
    all.extend((0..10_000).map(|n| (format!("hosts/h{n}.toml"), HOST.to_owned())));
    let mut memory = Remembered::default();
    let (old, _) = load_again(&text(&all), &mut memory);
    all.insert("hosts/h77.toml".to_owned(), format!("{HOST}timezone = \"Europe/London\"\n"));
    let (new, _) = load_again(&text(&all), &mut memory);
    let found = difference(&old, &new);
    assert_eq!((found.hosts.len(), found.unchanged_hosts), (1, 10_001));
    let change = found.hosts.values().next().expect("one");
    assert_eq!(change.schedules[0].fields[0].to, Some(json!("Europe/London")));
}
