//! Who is next, and what is said of it; and with any order of asking and ending: the rules hold, and everybody gets it.

use proptest::prelude::*;

use super::*;
use crate::server::folded::id;
use crate::server::leases::tests::{Leases, claim, released};
use crate::server::leases::{LeaseFact, LeaseGranted};

const UNLIMITED: LeaseRules = LeaseRules { max_parallel: None };

fn at_most(max_parallel: u32) -> LeaseRules {
    LeaseRules { max_parallel: Some(max_parallel) }
}

/// Jobs 1, 2, ... in the order in which they asked: host, kind, target.
fn asked(jobs: &[(&str, JobKind, &str)]) -> Leases {
    let numbered = (1..).zip(jobs);
    Leases::of(numbered.map(|(number, (host, kind, target))| LeaseFact::Wanted(claim(number, host, *kind, target))))
}

/// Grants what can be and gives the jobs' numbers.
fn grant(leases: &mut Leases, rules: LeaseRules) -> Vec<u8> {
    let granted = grants(&leases.state, rules);
    leases.add(granted.iter().map(|job_id| LeaseFact::Granted(LeaseGranted { job_id: *job_id })));
    granted.iter().map(|job| job.0.as_bytes()[15]).collect()
}

fn waits(leases: &Leases, rules: LeaseRules, number: u8) -> String {
    waits_for(&leases.state, rules, id(number)).expect("it waits")
}

use JobKind::{Backup, Prune};

#[test]
fn a_prune_waits_for_what_runs_and_lets_nothing_later_pass() {
    let mut leases = asked(&[
        ("web-1", Backup, "main"),
        ("web-2", Backup, "main"),
        ("web-3", Prune, "main"),
        ("web-4", Backup, "main"),
        ("web-5", Backup, "main"),
    ]);
    assert_eq!(grant(&mut leases, UNLIMITED), [1, 2]);
    assert_eq!(waits(&leases, UNLIMITED, 3), "for the 2 jobs in repository main to end, to have that alone");
    let prune = "job 00000000-0000-4000-8000-000000000003 (prune on web-3)";
    assert_eq!(
        waits(&leases, UNLIMITED, 5),
        format!("2 jobs before it, and for {prune}, which is before it and will have repository main alone")
    );
    leases.add([released(1)]);
    assert_eq!(grant(&mut leases, UNLIMITED), [0; 0]);
    assert_eq!(waits(&leases, UNLIMITED, 3), "for the job in repository main to end, to have that alone");
    leases.add([released(2)]);
    assert_eq!(grant(&mut leases, UNLIMITED), [3]);
    assert_eq!(waits(&leases, UNLIMITED, 4), format!("for {prune}, which has repository main alone"));
    assert_eq!(grant(&mut leases, UNLIMITED), [0; 0]);
    leases.add([released(3)]);
    assert_eq!(grant(&mut leases, UNLIMITED), [4, 5]);
    assert_eq!(waits_for(&leases.state, UNLIMITED, id(4)), None);
}

#[test]
fn max_parallel_counts_all_targets_together_and_a_prune_of_one_is_beside_backups_of_others() {
    let mut leases = asked(&[
        ("web-1", Backup, "main/web-1"),
        ("web-2", Prune, "main/web-2"),
        ("web-3", Backup, "main/web-3"),
        ("web-4", Backup, "main/web-4"),
    ]);
    assert_eq!(grant(&mut leases, at_most(2)), [1, 2]);
    assert_eq!(waits(&leases, at_most(2), 3), "for repository main, which is at its max_parallel of 2");
    assert_eq!(
        waits(&leases, at_most(2), 4),
        "1 job before it, and for repository main, which is at its max_parallel of 2"
    );
    leases.add([released(2)]);
    assert_eq!(grant(&mut leases, at_most(2)), [3]);
    assert_eq!(grant(&mut leases, at_most(3)), [4], "the configuration allows more");
}

#[test]
fn a_host_has_one_lease_and_its_jobs_go_in_their_order() {
    let mut leases =
        asked(&[("web-1", Backup, "main/web-1"), ("web-1", Prune, "main/web-2"), ("web-1", Backup, "main/web-3")]);
    assert_eq!(grant(&mut leases, UNLIMITED), [1]);
    assert_eq!(
        waits(&leases, UNLIMITED, 2),
        "for job 00000000-0000-4000-8000-000000000001 (backup on web-1), which its own agent runs first"
    );
    leases.add([released(1)]);
    assert_eq!(grant(&mut leases, UNLIMITED), [2]);
    leases.add([released(2)]);
    assert_eq!(grant(&mut leases, UNLIMITED), [3]);
}

#[test]
fn what_runs_without_a_lease_is_in_the_way_of_others_until_it_ends() {
    let mut leases = Leases::of([
        LeaseFact::Taken(claim(1, "web-1", Backup, "main")),
        LeaseFact::Taken(claim(2, "web-2", Prune, "main")),
        LeaseFact::Wanted(claim(3, "web-3", Backup, "main")),
    ]);
    assert_eq!(grant(&mut leases, at_most(1)), [0; 0], "two are there, and one too many");
    leases.add([released(1)]);
    assert_eq!(grant(&mut leases, at_most(2)), [0; 0]);
    leases.add([released(2)]);
    assert_eq!(grant(&mut leases, at_most(1)), [3]);
}

/// One of few hosts asks for one of few targets, or one of those that run ends.
#[derive(Debug, Clone)]
enum Step {
    Want { host: u8, is_exclusive: bool, target: u8 },
    Take { host: u8, target: u8 },
    End { which: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6u8, prop::bool::weighted(0.2), 0..3u8)
            .prop_map(|(host, is_exclusive, target)| Step::Want { host, is_exclusive, target }),
        1 => (0..6u8, 0..3u8).prop_map(|(host, target)| Step::Take { host, target }),
        4 => (0..8usize).prop_map(|which| Step::End { which }),
    ]
}

/// What the rules say, in other words than the code's: whoever was granted just now beside all that run.
fn judge(leases: &LeaseState, granted: &[u8], rules: LeaseRules) -> Result<(), String> {
    let running: Vec<&Lease> = leases.leases().filter(|lease| lease.granted_at.is_some()).collect();
    if !granted.is_empty() && rules.max_parallel.is_some_and(|most| running.len() > most as usize) {
        return Err(format!("{} run at once", running.len()));
    }
    for new in running.iter().filter(|lease| granted.contains(&lease.claim.job_id.0.as_bytes()[15])) {
        for other in running.iter().filter(|other| other.claim.job_id != new.claim.job_id) {
            let is_same = other.claim.target == new.claim.target;
            if is_same && [other.claim.mode, new.claim.mode].contains(&LeaseMode::Exclusive) {
                return Err(format!("{} and {} collide", shown(new), shown(other)));
            }
            if other.claim.host == new.claim.host {
                return Err(format!("{} and {} are of one host", shown(new), shown(other)));
            }
        }
        let passed = leases.leases().filter(|lease| lease.granted_at.is_none() && lease.seq < new.seq);
        for passed in passed {
            let is_same = passed.claim.target == new.claim.target;
            if is_same && [passed.claim.mode, new.claim.mode].contains(&LeaseMode::Exclusive) {
                return Err(format!("{} passed {}, which it is in the way of", shown(new), shown(passed)));
            }
            if passed.claim.host == new.claim.host {
                return Err(format!("{} passed {} of its own host", shown(new), shown(passed)));
            }
        }
    }
    Ok(())
}

fn nth_running(leases: &LeaseState, which: usize) -> Option<u8> {
    let running: Vec<u8> = leases
        .leases()
        .filter(|lease| lease.granted_at.is_some())
        .map(|lease| lease.claim.job_id.0.as_bytes()[15])
        .collect();
    running.get(which % running.len().max(1)).copied()
}

/// Runs the steps, and then lets everything end while others go on asking: the first that waits must get it before as many have
/// ended as there are hosts.
fn run(steps: &[Step], rules: LeaseRules, grant: impl Fn(&mut Leases, LeaseRules) -> Vec<u8>) -> Result<(), String> {
    let mut leases = Leases::default();
    let mut number = 0_u8;
    let name = |host: u8| format!("web-{host}");
    let of_target = |target: u8| if target == 0 { "main".to_owned() } else { format!("main/part-{target}") };
    let mut stream = steps.iter().cycle();
    for round in 0..steps.len() * 4 {
        let Some(step) = stream.next().filter(|_| number < u8::MAX) else { break };
        match step {
            Step::Want { host, is_exclusive, target } => {
                number += 1;
                let kind = if *is_exclusive { Prune } else { Backup };
                leases.add([LeaseFact::Wanted(claim(number, &name(*host), kind, &of_target(*target)))]);
            }
            // An agent that ran by itself, in the first part only: those wait for nobody.
            Step::Take { host, target } if round < steps.len() => {
                number += 1;
                leases.add([LeaseFact::Taken(claim(number, &name(*host), Backup, &of_target(*target)))]);
            }
            Step::Take { .. } => {}
            Step::End { which } => leases.add(nth_running(&leases.state, *which).map(released)),
        }
        let granted = grant(&mut leases, rules);
        judge(&leases.state, &granted, rules)?;
        if grants(&leases.state, rules).is_empty() && leases.state.waiting() > 0 && leases.state.held() == 0 {
            return Err("somebody waits for nothing".to_owned());
        }
        for lease in leases.state.leases().filter(|lease| lease.granted_at.is_none()) {
            if waits_for(&leases.state, rules, lease.claim.job_id).is_none_or(|text| text.is_empty()) {
                return Err(format!("nothing is said of {}", shown(lease)));
            }
        }
    }
    let mut first: Option<(u8, usize)> = None;
    // From here on the one that has run longest ends, and a new backup comes for each that ends.
    while leases.state.waiting() > 0 {
        let head = leases.state.leases().find(|lease| lease.granted_at.is_none());
        let head = head.map(|lease| lease.claim.job_id.0.as_bytes()[15]).unwrap_or_default();
        let ends = first.filter(|(job, _)| *job == head).map_or(0, |(_, ends)| ends + 1);
        if ends > 60 {
            return Err(format!("job {head} starves"));
        }
        first = Some((head, ends));
        leases.add(nth_running(&leases.state, 0).map(released));
        if number < u8::MAX {
            number += 1;
            leases.add([LeaseFact::Wanted(claim(number, &name(number % 6), Backup, &of_target(number % 3)))]);
        }
        let granted = grant(&mut leases, rules);
        judge(&leases.state, &granted, rules)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_any_order_of_asking_and_ending_the_rules_hold_and_everybody_gets_it(
        steps in prop::collection::vec(step(), 1..40),
        most in prop::option::of(1..5u32),
    ) {
        if let Err(wrong) = run(&steps, LeaseRules { max_parallel: most }, grant) {
            return Err(TestCaseError::fail(wrong));
        }
    }
}

#[test]
fn one_who_grants_whatever_comes_is_found_out() {
    let everything = |leases: &mut Leases, _: LeaseRules| {
        let waiting = leases.state.leases().filter(|lease| lease.granted_at.is_none());
        let all: Vec<JobId> = waiting.map(|lease| lease.claim.job_id).collect();
        leases.add(all.iter().map(|job_id| LeaseFact::Granted(LeaseGranted { job_id: *job_id })));
        all.iter().map(|job| job.0.as_bytes()[15]).collect()
    };
    let want = |host, is_exclusive| Step::Want { host, is_exclusive, target: 0 };
    let collide = run(&[want(0, false), want(1, true)], UNLIMITED, everything);
    assert!(collide.as_ref().is_err_and(|wrong| wrong.contains("collide")), "{collide:?}");
    let too_many = run(&[want(0, false), want(1, false)], at_most(1), everything);
    assert!(too_many.as_ref().is_err_and(|wrong| wrong.contains("run at once")), "{too_many:?}");
}
