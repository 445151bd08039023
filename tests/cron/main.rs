//! Our due instants against two independent programs, over clock changes, for random expressions.
//!
//! Whatever differs must be explained by one of our documented rules (src/cron_time.rs), by a predicate over the
//! expression's meaning and the one instant in question. The predicates use the model in `random.rs`, never the
//! code under test. Controls show that a wrong evaluator is caught.

#![allow(clippy::disallowed_methods, reason = "tests set their files and times up by hand, and start programs")]

mod explain;
mod oracles;
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use explain::{Change, ExplainedBy, explain, must_equal_croner};
use oracles::Oracle;
use random::Expression;

/// The bar is a thousand; more may be asked for.
const CASES_VARIABLE: &str = "RESTIC_MANAGER_CRON_CASES";

/// Both changes of a year in four zones, one of which changes by half an hour and one at midnight.
const CHANGES: [(Tz, &str); 8] = [
    (chrono_tz::Europe::London, "2026-03-29T01:00:00Z"),
    (chrono_tz::Europe::London, "2026-10-25T01:00:00Z"),
    (chrono_tz::America::New_York, "2026-03-08T07:00:00Z"),
    (chrono_tz::America::New_York, "2026-11-01T06:00:00Z"),
    (chrono_tz::Australia::Lord_Howe, "2026-04-04T15:00:00Z"),
    (chrono_tz::Australia::Lord_Howe, "2026-10-03T15:30:00Z"),
    (chrono_tz::America::Santiago, "2026-04-05T03:00:00Z"),
    (chrono_tz::America::Santiago, "2026-09-06T04:00:00Z"),
];

/// One expression at one change: everything due in (`after`, `until`] is compared, and `MORE` instants beyond.
struct Case {
    expression: Expression,
    change: Change,
    after: DateTime<Utc>,
    until: DateTime<Utc>,
}

/// Due instants beyond the window, so that sparse expressions are compared as well.
const MORE: usize = 3;

/// All due instants in the window and `MORE` beyond, by repeated asking for the next.
fn collect(case: &Case, mut next: impl FnMut(DateTime<Utc>) -> Option<DateTime<Utc>>) -> Option<Vec<DateTime<Utc>>> {
    let mut found = Vec::new();
    let mut now = case.after;
    let mut beyond = 0;
    while beyond < MORE {
        let due = next(now)?;
        if due <= now {
            return None;
        }
        found.push(due);
        beyond += usize::from(due > case.until);
        now = due;
    }
    Some(found)
}

fn count() -> usize {
    match std::env::var(CASES_VARIABLE) {
        Ok(text) => text.parse().expect("RESTIC_MANAGER_CRON_CASES is a number"),
        Err(_) if std::env::var("RESTIC_MANAGER_BARS").is_ok_and(|bars| bars == "full") => 10_000,
        Err(_) => 1000,
    }
}

fn cases() -> Vec<Case> {
    // Every test needs them, and to go through 28 years for each is slow.
    static EXPRESSIONS: LazyLock<Vec<Expression>> =
        LazyLock::new(|| random::expressions().filter(Expression::fires_every_five_years).take(count()).collect());

    let mut cases = Vec::new();
    for expression in EXPRESSIONS.iter() {
        for (zone, at) in CHANGES {
            let change = Change::at(zone, at.parse().expect("an instant")).expect("a change");
            let (after, until) = (change.at - TimeDelta::hours(3), change.at + TimeDelta::hours(3));
            cases.push(Case { expression: expression.clone(), change, after, until });
        }
    }
    cases
}

fn ours(case: &Case) -> Option<Vec<DateTime<Utc>>> {
    let parsed = restic_manager::cron_time::CronExpression::parse(&case.expression.text).ok()?;
    collect(case, |now| parsed.next_after(case.change.zone, now))
}

/// What a comparison over all cases came to.
#[derive(Debug, Default)]
struct Tally {
    /// Expressions without a difference at any change.
    equal: usize,
    /// Expressions whose every difference has an explanation.
    explained: usize,
    /// Instants by explanation.
    by: BTreeMap<ExplainedBy, usize>,
    /// The first few differences without one, and how many there are.
    unexplained: usize,
    examples: Vec<String>,
}

impl Tally {
    fn add_unexplained(&mut self, example: String) {
        self.unexplained += 1;
        if self.examples.len() < 10 {
            self.examples.push(example);
        }
    }
}

/// Compares what `left` and `right` found for each case. All cases of one expression stand together.
fn compare(
    cases: &[Case],
    left: &[Option<Vec<DateTime<Utc>>>],
    right: &[Option<Vec<DateTime<Utc>>>],
    oracle: Oracle,
) -> Tally {
    assert!(cases.len() == left.len() && cases.len() == right.len(), "an answer for every case");
    let mut tally = Tally::default();
    for (at, chunk) in cases.chunks(CHANGES.len()).enumerate() {
        let (mut differences, unexplained_before) = (0, tally.unexplained);
        for (offset, case) in chunk.iter().enumerate() {
            let index = at * CHANGES.len() + offset;
            let what = format!("{} in {} at {}", case.expression.text, case.change.zone, case.change.at);
            let (Some(left), Some(right)) = (&left[index], &right[index]) else {
                differences += 1;
                tally.add_unexplained(format!("{what}: ours {:?}, theirs {:?}", left[index], right[index]));
                continue;
            };
            // Where one side has more in the window, its last ones have no counterpart to be compared with.
            let end = (*left.last().expect("some")).min(*right.last().expect("some"));
            let left: BTreeSet<_> = left.iter().filter(|t| **t <= end).copied().collect();
            let right: BTreeSet<_> = right.iter().filter(|t| **t <= end).copied().collect();
            for instant in left.symmetric_difference(&right) {
                differences += 1;
                match explain(&case.expression, case.change.zone, oracle, *instant, left.contains(instant)) {
                    Some(rule) => *tally.by.entry(rule).or_default() += 1,
                    None => {
                        let whose = if left.contains(instant) { "ours" } else { "theirs" };
                        tally.add_unexplained(format!("{what}: only {whose} has {instant}"));
                    }
                }
            }
        }
        if differences == 0 {
            tally.equal += 1;
        } else if tally.unexplained == unexplained_before {
            tally.explained += 1;
        }
    }
    tally
}

/// Fails on an unexplained difference, and if explanations have taken over from agreement.
fn check_agreement(name: &str, tally: &Tally, expressions: usize) {
    println!(
        "{name}: of {expressions} expressions {} equal, {} explained: {:?}",
        tally.equal, tally.explained, tally.by
    );
    assert!(tally.unexplained == 0, "{name}: {} unexplained: {:#?}", tally.unexplained, tally.examples);
    assert!(tally.equal * 4 >= expressions * 3, "{name}: only {} are equal", tally.equal);
}

#[test]
fn agrees_with_croner_except_by_rule() {
    let cases = cases();
    let ours: Vec<_> = cases.iter().map(ours).collect();
    let theirs: Vec<_> = cases.iter().map(oracles::croner).collect();
    check_agreement("croner", &compare(&cases, &ours, &theirs, Oracle::Croner), cases.len() / CHANGES.len());

    let mut equal = 0;
    for ((case, ours), theirs) in cases.iter().zip(&ours).zip(&theirs) {
        if must_equal_croner(&case.expression) {
            assert_eq!(ours, theirs, "no rule is concerned by {}", case.expression.text);
            equal += 1;
        }
    }
    println!("croner: no rule is concerned in {equal} of {} cases, and all of these are equal", cases.len());
    assert!(equal * 3 >= cases.len(), "too few expressions test croner's and our common meaning");
}

#[test]
fn agrees_with_croniter_except_by_rule() {
    let cases = cases();
    let Some((version, theirs)) = oracles::croniter(&cases) else { return };
    let ours: Vec<_> = cases.iter().map(ours).collect();
    let tally = compare(&cases, &ours, &theirs, Oracle::Croniter);
    check_agreement(&format!("croniter {version}"), &tally, cases.len() / CHANGES.len());
}

#[test]
fn agrees_with_the_rules_read_minute_by_minute() {
    for case in cases() {
        let ours = ours(&case).expect("a due time");
        let minutes = (1..).map(|minute| case.after + TimeDelta::minutes(minute)).take_while(|t| *t <= case.until);
        let by_the_rules: Vec<_> = minutes.filter(|t| case.change.is_due_by_the_rules(&case.expression, *t)).collect();
        assert_eq!(ours[..ours.len() - MORE], by_the_rules, "{} at {}", case.expression.text, case.change.at);
    }
}

#[test]
fn refuses_exactly_what_stays_silent_for_more_than_five_years() {
    let mut refused = 0;
    for expression in random::rare_expressions().take(count()) {
        let fires = expression.fires_every_five_years();
        refused += usize::from(!fires);
        let parsed = restic_manager::cron_time::CronExpression::parse(&expression.text);
        assert_eq!(parsed.is_ok(), fires, "{}: {parsed:?}", expression.text);
    }
    println!("{refused} of {} rare expressions stay silent for more than five years, and are refused", count());
    assert!(refused > 0, "no expression tests the refusal");
}

/// The control: answers made wrong must stand out against croner. Returns the number of unexplained differences.
fn unexplained_with(make_wrong: impl Fn(&Case, &mut Vec<DateTime<Utc>>)) -> usize {
    let cases = cases();
    let mut ours: Vec<_> = cases.iter().map(ours).collect();
    for (case, ours) in cases.iter().zip(&mut ours) {
        make_wrong(case, ours.as_mut().expect("a due time"));
    }
    let theirs: Vec<_> = cases.iter().map(oracles::croner).collect();
    compare(&cases, &ours, &theirs, Oracle::Croner).unexplained
}

#[test]
fn a_wrong_evaluator_has_unexplained_differences() {
    let late = unexplained_with(|_, due| due.iter_mut().for_each(|t| *t += TimeDelta::minutes(1)));
    let gap_skipped = unexplained_with(|case, due| {
        due.retain(|t| *t != case.change.at || !case.expression.has_fixed_times());
    });
    let second_pass_lost = unexplained_with(|case, due| {
        due.retain(|t| case.expression.has_fixed_times() || !case.change.is_in_second_pass(*t));
    });
    let second_pass_taken = unexplained_with(|case, due| {
        let fixed = case.expression.has_fixed_times();
        due.iter_mut().filter(|t| fixed && case.change.is_in_first_pass(**t)).for_each(|t| *t -= case.change.forward);
    });
    println!(
        "unexplained when wrong: {late} late, {gap_skipped} gap skipped, {second_pass_lost} second pass lost, \
         {second_pass_taken} second pass taken for the first"
    );
    assert!(late > 0 && gap_skipped > 0 && second_pass_lost > 0 && second_pass_taken > 0);
}

#[test]
fn the_cron_crate_without_the_facade_has_unexplained_differences() {
    // Only what it parses: it has no Sunday 0, and that would be too easy.
    let (cases, bare): (Vec<_>, Vec<_>) =
        cases().into_iter().filter_map(|case| oracles::bare_cron_crate(&case).map(|due| (case, due))).unzip();
    let theirs: Vec<_> = cases.iter().map(oracles::croner).collect();
    let tally = compare(&cases, &bare, &theirs, Oracle::Croner);
    let expressions = cases.len() / CHANGES.len();
    let wrong = expressions - tally.equal - tally.explained;
    println!("the bare cron crate: {wrong} of the {expressions} expressions it parses differ without explanation");
    assert!(wrong * 5 > expressions, "the comparison no longer tells the bare crate from crontab");
}
