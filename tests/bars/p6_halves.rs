//! P6: a tree that is deployed by link swap or by git in a work tree is never served half way. Two very different fleets take turns,
//! while agents poll and somebody asks for a reload without a pause, so that the directory is read at any moment whatever: each
//! set that is served is one of the two fleets' for that host, and none of the edits that were waited for is missed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use restic_manager::server::fleet::load::has_errors;
use restic_manager::server::fleet::read_tree::load_directory;
use restic_manager::server::fleet::schedule_set::{schedule_hash, schedules_of};

use crate::count;
use crate::damage::Rng;
use crate::harness::{Fleet, eventually};
use crate::p6::{Asker, sh, write_repository};
use crate::poster::{Connection, ask};

/// Hosts of both fleets together; each has two thirds of them.
const HOSTS: usize = 90;
/// Of which so many are asked.
const ASKED: usize = 18;

fn host(number: usize) -> String {
    format!("h-{number:03}")
}

fn has(fleet: usize, number: usize) -> bool {
    if fleet == 0 { number < HOSTS * 2 / 3 } else { number >= HOSTS / 3 }
}

/// Writes a fleet: every host's set comes from its own file and from those of three groups, whose parts of the two fleets differ.
fn write_fleet(directory: &Path, fleet: usize) {
    for sub in ["hosts", "groups"] {
        fs::create_dir_all(directory.join(sub)).expect("made");
    }
    let schedule = |id: &str, hour: usize, path: &str| {
        format!(
            "[[schedule]]\nid = {id:?}\nkind = \"backup\"\ncron = \"{fleet} {hour} * * *\"\npaths = [\"/{path}-of-{fleet}\"]\n"
        )
    };
    let write = |name: String, text: String| fs::write(directory.join(name), text).expect("written");
    // One is read early and one late.
    for (hour, group) in ["a", "m", "z"].iter().enumerate() {
        write(format!("groups/{group}.toml"), schedule(group, hour, group));
    }
    for number in (0..HOSTS).filter(|number| has(fleet, *number)) {
        let text = format!(
            "groups = [\"a\", \"m\", \"z\"]\nrepository = \"main\"\n{}",
            schedule("own", number % 24, &host(number))
        );
        write(format!("hosts/{}.toml", host(number)), text);
    }
}

/// What each host should be served by a fleet, by an independent reading of its files at rest: the hashes of the sets.
fn sets_of(directory: &Path) -> BTreeMap<String, String> {
    let (fleet, problems) = load_directory(directory);
    assert!(!has_errors(&problems), "{problems:?}");
    let none = schedule_hash(&[]);
    (0..HOSTS)
        .map(|number| {
            let of = fleet.hosts.iter().find(|(name, _)| name.as_str() == host(number));
            (host(number), of.map_or_else(|| none.clone(), |(_, of)| schedule_hash(&schedules_of(of))))
        })
        .collect()
}

/// What was seen.
#[derive(Debug)]
struct Seen {
    /// Sets that are of neither fleet.
    mixed: BTreeSet<String>,
    /// Edits that were waited for, and did not come within their time.
    missed: Vec<usize>,
    polls: usize,
    reloads: usize,
}

/// Makes so many changes by `change`, which deploys fleet 0 or 1, one after the other after a random moment.
fn changes(mut fleet: Fleet, changes: usize, change: impl Fn(&Fleet, usize)) -> Seen {
    let sets = [sets_of(&fleet.path("fleets/0")), sets_of(&fleet.path("fleets/1"))];
    fleet.start_server_with(&[("RUST_LOG", "error")]);
    let (fleet, admin) = (&fleet, fleet.token());
    // Each is let in while it is in the fleet that runs.
    let enroll = |wanted: &dyn Fn(usize) -> bool| -> Vec<Asker> {
        let numbers = (0..ASKED).map(|n| n * HOSTS / ASKED).filter(|number| wanted(*number));
        numbers.map(|number| Asker::enroll(fleet.port, &admin, &host(number))).collect()
    };
    let mut askers = enroll(&|number| has(0, number));
    change(fleet, 1);
    let last = format!("/v1/hosts/{}", host(HOSTS - 1));
    eventually("the other fleet", Duration::from_secs(10), || {
        ask(fleet.port, "GET", &last, &admin, "").ok().filter(|reply| reply.status == 200)
    });
    askers.extend(enroll(&|number| !has(0, number)));
    let (stop, polls, reloads, mixed) =
        (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(BTreeSet::new()));
    let served_now: Vec<Mutex<String>> = askers.iter().map(|_| Mutex::default()).collect();
    let mut missed = Vec::new();
    std::thread::scope(|scope| {
        for (askers, served_now) in askers.chunks_mut(ASKED / 3).zip(served_now.chunks(ASKED / 3)) {
            let (stop, polls, mixed, sets) = (&stop, &polls, &mixed, &sets);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    for (asker, now) in askers.iter_mut().zip(served_now) {
                        let set = asker.served();
                        let hash = set["hash"].as_str().unwrap_or_default().to_owned();
                        polls.fetch_add(1, Ordering::SeqCst);
                        // Between two versions an agent is told neither, and keeps what it has.
                        if set.is_null() {
                            continue;
                        }
                        if sets.iter().all(|sets| sets[&asker.host] != hash) {
                            mixed.lock().expect("no panic").insert(format!("{}: {set}", asker.host));
                        }
                        *now.lock().expect("no panic") = hash;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        }
        scope.spawn(|| {
            let mut connection = Connection::new(fleet.port).expect("a connection");
            while !stop.load(Ordering::SeqCst) {
                let reply = connection.ask("POST", "/v1/config/reload", &admin, "").expect("an answer");
                assert_eq!(reply.status, 200, "{}", reply.body);
                reloads.fetch_add(1, Ordering::SeqCst);
            }
        });
        let mut rng = Rng::new(0x0D1F_FE2E);
        for number in 1..=changes {
            let to = (number + 1) % 2;
            change(fleet, to);
            let waits_for_it = number % 5 == 0 || number == changes;
            if !waits_for_it {
                std::thread::sleep(Duration::from_millis(rng.below(250) as u64));
                continue;
            }
            let until = Instant::now() + Duration::from_secs(4);
            let is_served = || {
                (0..ASKED).all(|n| {
                    let (name, now) = (host(n * HOSTS / ASKED), served_now[n].lock().expect("no panic"));
                    *now == sets[to][&name]
                })
            };
            while !is_served() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(10));
            }
            if !is_served() {
                missed.push(number);
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
    let mixed = mixed.into_inner().expect("no panic");
    Seen { mixed, missed, polls: polls.into_inner(), reloads: reloads.into_inner() }
}

fn two_fleets() -> Fleet {
    let fleet = Fleet::new();
    fs::remove_dir_all(fleet.path("config")).expect("removed");
    for number in [0, 1] {
        let directory = fleet.path(&format!("fleets/{number}"));
        write_repository(&fleet, &directory);
        write_fleet(&directory, number);
    }
    fleet
}

fn told(what: &str, changes: usize, seen: &Seen, begun: Instant) {
    eprintln!(
        "P6: {changes} changes {what}: {} polls, {} reloads in between, {} mixed sets, {:?} missed, {:?}",
        seen.polls,
        seen.reloads,
        seen.mixed.len(),
        seen.missed,
        begun.elapsed()
    );
}

#[test]
fn p6_a_tree_swapped_by_a_link_is_never_served_half_way() {
    let fleet = two_fleets();
    symlink("fleets/0", fleet.path("config")).expect("linked");
    let (number, begun) = (count(30, 500), Instant::now());
    let seen = changes(fleet, number, |fleet, to| {
        symlink(format!("fleets/{to}"), fleet.path("new")).expect("linked");
        fs::rename(fleet.path("new"), fleet.path("config")).expect("renamed");
    });
    told("by link swap", number, &seen, begun);
    assert!(seen.mixed.is_empty() && seen.missed.is_empty(), "{seen:#?}");
    assert!(seen.polls > number && seen.reloads > 5, "{seen:?}");
}

#[test]
fn p6_a_work_tree_is_never_served_half_way() {
    let fleet = two_fleets();
    sh(
        &fleet,
        "git init -q -b zero config; cd config; git config user.name t; git config user.email t@t; git config gc.auto 0
        cp -r ../fleets/0/. .; git add -A; git commit -qm 0; git checkout -q -b one
        git rm -rq .; cp -r ../fleets/1/. .; git add -A; git commit -qm 1; git checkout -q zero",
    );
    let (number, begun) = (count(30, 500), Instant::now());
    let seen = changes(fleet, number, |fleet, to| {
        sh(fleet, &format!("git -C config checkout -q {}", ["zero", "one"][to]));
    });
    told("by git checkout", number, &seen, begun);
    assert!(seen.mixed.is_empty() && seen.missed.is_empty(), "{seen:#?}");
    assert!(seen.polls > number && seen.reloads > 5, "{seen:?}");
}

/// The control: where git's index is hidden, the same checkouts are read at any moment, and the check sees it.
#[test]
fn p6_without_git_in_sight_the_same_changes_are_served_half_way() {
    let fleet = two_fleets();
    sh(
        &fleet,
        "mkdir config; export GIT_DIR=$PWD/elsewhere.git GIT_WORK_TREE=$PWD/config; git init -q -b zero
        git config user.name t; git config user.email t@t; git config gc.auto 0
        cp -r fleets/0/. config; git add -A; git commit -qm 0; git checkout -q -b one
        git rm -rq .; mkdir -p config; cp -r fleets/1/. config; git add -A; git commit -qm 1; git checkout -q zero",
    );
    let begun = Instant::now();
    let seen = changes(fleet, 30, |fleet, to| {
        let branch = ["zero", "one"][to];
        sh(fleet, &format!("GIT_DIR=elsewhere.git GIT_WORK_TREE=config git checkout -q {branch}"));
    });
    told("by a git that nobody sees", 30, &seen, begun);
    assert!(!seen.mixed.is_empty(), "the check finds nothing: {seen:?}");
    assert!(seen.missed.is_empty(), "it converges all the same: {seen:?}");
}
