//! Why an instant may be due for us and not for another program, or the other way round. A closed list: what none
//! of these predicates covers is a bug, theirs or ours, and fails the test.

use chrono::{DateTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Timelike, Utc};
use chrono_tz::Tz;

use crate::oracles::Oracle;
use crate::random::Expression;

/// The documented rule (src/cron_time.rs) that the other program doesn't share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ExplainedBy {
    /// Rule 3: croner takes `*/2` for a restriction, so it's due on days that fit only one of the day fields.
    StarStepCountsAsStar,
    /// Rule 4: a fixed time in the gap is due at its end. croner drops it unless minute and hour are single values.
    GapRunsJustAfter,
    /// Rule 5: what a star names in the gap isn't due. croniter runs it once at the gap's end, unless the hour is `*`.
    GapSkipsStars,
    /// Rule 4: a fixed time is due in the first pass. croniter repeats it; croner does so too unless minute and hour
    /// are single values.
    RepeatedHourOnce,
    /// Rule 5: what a star names is due in both passes. croniter loses the second where the repeat begins within an
    /// hour, as Lord Howe's half hour does. Its error: elsewhere it follows the rule.
    CroniterLosesHalfHourRepeats,
}

/// A change of a zone's offset.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    pub(crate) zone: Tz,
    pub(crate) at: DateTime<Utc>,
    /// By how much clocks are put forward; negative if back.
    pub(crate) forward: TimeDelta,
    offset_before: TimeDelta,
}

impl Change {
    /// The zone's change at `at`, if it has one there.
    pub(crate) fn at(zone: Tz, at: DateTime<Utc>) -> Option<Self> {
        let offset_before = offset(zone, at - TimeDelta::seconds(1));
        let forward = offset(zone, at) - offset_before;
        (!forward.is_zero()).then_some(Self { zone, at, forward, offset_before })
    }

    /// The change in the last two hours up to `instant`: no zone of ours repeats or skips more than one.
    /// Found minute by minute, as plainly as can be.
    fn before(zone: Tz, instant: DateTime<Utc>) -> Option<Self> {
        if offset(zone, instant - TimeDelta::hours(2)) == offset(zone, instant) {
            return None;
        }
        (0..120).find_map(|minutes| Self::at(zone, instant - TimeDelta::minutes(minutes)))
    }

    /// The local times that clocks skip, minute by minute; none if they're put back.
    fn skipped(&self) -> impl Iterator<Item = NaiveDateTime> {
        let begins = self.at.naive_utc() + self.offset_before;
        (0..self.forward.num_minutes().max(0)).map(move |minute| begins + TimeDelta::minutes(minute))
    }

    /// Our rules, read as plainly as can be, for an instant on a minute within hours of this change.
    pub(crate) fn is_due_by_the_rules(&self, expression: &Expression, instant: DateTime<Utc>) -> bool {
        let due = |local| expression.date_fits(local) && expression.time_fits(local);
        let shown = due(instant.naive_utc() + offset(self.zone, instant));
        if expression.has_fixed_times() {
            shown && !self.is_in_second_pass(instant) || instant == self.at && self.skipped().any(due)
        } else {
            shown
        }
    }

    pub(crate) fn is_in_first_pass(&self, instant: DateTime<Utc>) -> bool {
        instant < self.at && instant >= self.at + self.forward
    }

    pub(crate) fn is_in_second_pass(&self, instant: DateTime<Utc>) -> bool {
        instant >= self.at && instant < self.at - self.forward
    }
}

fn offset(zone: Tz, instant: DateTime<Utc>) -> TimeDelta {
    TimeDelta::seconds(zone.offset_from_utc_datetime(&instant.naive_utc()).fix().local_minus_utc().into())
}

/// The rule by which `instant` is due for only one of us and `oracle`. Each predicate is about this one instant.
pub(crate) fn explain(
    expression: &Expression,
    zone: Tz,
    oracle: Oracle,
    instant: DateTime<Utc>,
    is_ours: bool,
) -> Option<ExplainedBy> {
    let local = instant.naive_utc() + offset(zone, instant);
    let change = Change::before(zone, instant);
    let due = |local| expression.date_fits(local) && expression.time_fits(local);
    let in_second_pass = change.is_some_and(|change| change.is_in_second_pass(instant));
    // The skipped times of the gap that ends at this instant.
    let skipped = || {
        change.filter(|change| change.at == instant).into_iter().flat_map(|change| change.skipped().collect::<Vec<_>>())
    };
    let repeats_fixed = expression.has_fixed_times() && in_second_pass && due(local);

    match (oracle, is_ours) {
        (Oracle::Croner, true) => {
            let ends_gap = !due(local) && skipped().any(due);
            let rule = expression.has_fixed_times() && !is_one_time_for_croner(expression);
            (rule && ends_gap).then_some(ExplainedBy::GapRunsJustAfter)
        }
        (Oracle::Croner, false) => {
            let restricts_both = expression.day.text != "*" && expression.weekday.text != "*";
            let has_star_step = expression.day.is_star() || expression.weekday.is_star();
            let runs_at = |local| expression.time_fits(local) && expression.only_one_day_field_fits(local);
            // croner runs its one fixed time at the gap's end as well.
            let runs_skipped = is_one_time_for_croner(expression) && skipped().any(runs_at);
            if restricts_both && has_star_step && (runs_at(local) || runs_skipped) {
                Some(ExplainedBy::StarStepCountsAsStar)
            } else if repeats_fixed && !is_one_time_for_croner(expression) {
                Some(ExplainedBy::RepeatedHourOnce)
            } else {
                None
            }
        }
        (Oracle::Croniter, false) => {
            if repeats_fixed {
                Some(ExplainedBy::RepeatedHourOnce)
            } else if !expression.has_fixed_times() && expression.hour.text != "*" && skipped().any(due) {
                Some(ExplainedBy::GapSkipsStars)
            } else {
                None
            }
        }
        (Oracle::Croniter, true) => {
            let within_hour =
                change.is_some_and(|change| (change.at.naive_utc() + offset(zone, change.at)).minute() != 0);
            let rule = !expression.has_fixed_times() && within_hour;
            (rule && in_second_pass && due(local)).then_some(ExplainedBy::CroniterLosesHalfHourRepeats)
        }
    }
}

/// Whether the expression alone rules out every difference that a rule could explain: the answers must be equal.
pub(crate) fn must_equal_croner(expression: &Expression) -> bool {
    let [day, weekday] = [&expression.day, &expression.weekday];
    let star_step = [day, weekday].iter().all(|field| field.text != "*") && (day.is_star() || weekday.is_star());
    !star_step && (!expression.has_fixed_times() || is_one_time_for_croner(expression))
}

/// croner's "fixed time" is narrower than Debian's: one minute and one hour, neither by a step.
fn is_one_time_for_croner(expression: &Expression) -> bool {
    [&expression.minute, &expression.hour].iter().all(|field| {
        let first = field.values[0];
        field.values.iter().all(|value| *value == first) && !field.text.contains('/') && !field.is_star()
    })
}
