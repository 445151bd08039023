//! Pure. When a schedule is due: crontab expressions, time zones and what happens when clocks change.
//! Does not read a clock, wait, catch up what was missed or decide whether a job runs: it answers which
//! instants are due, and two askers with the same arguments get the same answer.
//!
//! The rules are those of Debian's cron(8) and crontab(5). Where other programs differ, these hold:
//!
//! 1. Five fields: minute, hour, day of month, month, day of week; or one of `@hourly @daily @midnight
//!    @weekly @monthly @yearly @annually`. A field is a list of `*`, `*/step`, `a`, `a-b` and `a-b/step`.
//! 2. Sunday is 0 and 7. Months and weekdays have names of three letters, in any case; a range may end in
//!    `SUN`. Ranges do not wrap, a step needs a range, and Quartz's `? L W #` mean nothing here.
//! 3. A field that begins with `*` (so `*/2` also) is not restricted. If both day fields are restricted, a day
//!    that fits either is due; otherwise a day must fit both.
//! 4. If neither minute nor hour begins with `*`, the schedule has fixed times. A time that clocks skip in
//!    spring is due just after the gap, once however many times were skipped; a time that clocks repeat in
//!    autumn is due in the first pass only.
//! 5. If minute or hour begins with `*`, the schedule follows the wall clock: what clocks skip is not due, what
//!    they repeat is due in both passes.
//! 6. Rules 4 and 5 hold for every change of a zone's offset: half an hour, an hour, or a whole day. (Debian's
//!    cron takes changes of three hours and more for corrections of a wrong clock. Ours knows the zone.)
//! 7. An expression that stays silent for more than five years is an error. Years from 1970 to 2099 are known.
//!
//! The `cron` crate is only the calendar search: it gets lists of plain numbers and naive local times (as if
//! they were UTC), never a time zone and never what somebody typed.

mod parse;
mod wall_clock;

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use chrono::{DateTime, Datelike, NaiveDateTime, TimeDelta, Utc};
use chrono_tz::Tz;

pub use parse::CronError;
use parse::Parsed;
use wall_clock::{Passes, Repeat};

/// Expressions in the memo. Fleets share a handful; someone who sends many different ones only makes it start afresh.
const MEMO_LIMIT: usize = 1024;

/// The calendar search's whole range, in years.
const YEARS: std::ops::RangeInclusive<i32> = 1970..=2099;

/// A checked crontab expression. Cheap to clone, and equal to another if their texts are.
#[derive(Debug, Clone)]
pub struct CronExpression(Arc<Parsed>);

impl CronExpression {
    /// Reads an expression by the rules above.
    ///
    /// Parsing is remembered by text for the whole process, because ten thousand hosts share a few expressions.
    /// The memo is no state that anyone can observe: the same text always parses to the same value.
    pub fn parse(text: &str) -> Result<Self, CronError> {
        static MEMO: LazyLock<Memo> = LazyLock::new(Memo::default);
        MEMO.parse(text).map(Self)
    }

    /// The expression as it was written, its fields separated by single spaces.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// The first due instant strictly after `after`, with `zone`'s clock on the wall.
    /// `None` only at the end of the known years.
    pub fn next_after(&self, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if after.year() > *YEARS.end() {
            return None;
        }
        let after = after.max(DateTime::UNIX_EPOCH);
        let next =
            if self.0.follows_wall_clock { self.next_on_the_wall(zone, after) } else { self.next_fixed(zone, after) };
        // A due time that isn't later would make a caller's loop fire for ever.
        next.filter(|next| *next > after)
    }

    /// The latest due instant in (`after`, `until`]. Looks back from `until`, so the distance costs nothing.
    pub fn latest_in(&self, zone: Tz, after: DateTime<Utc>, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if until <= after || !YEARS.contains(&until.year()) {
            return None;
        }
        let latest = if self.0.follows_wall_clock {
            self.latest_on_the_wall(zone, until)
        } else {
            self.latest_fixed(zone, until)
        };
        latest.filter(|latest| *latest > after && *latest <= until)
    }

    /// Each local time stands for one instant, and later times for later or equal instants. So the search may
    /// start at the local time of `after`: every earlier one stands for an instant that isn't after it.
    fn next_fixed(&self, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut local = wall_clock::local(zone, after);
        // More than one round only in the second pass of a repeat, whose times have had their turn.
        loop {
            local = self.0.next_local(local)?;
            let instant = wall_clock::only_instant(zone, local);
            if instant > after {
                return Some(instant);
            }
        }
    }

    fn latest_fixed(&self, zone: Tz, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // In the second pass the whole first pass is already over, not just what `until` shows on the wall.
        let local = match Repeat::around(zone, until) {
            Some(repeat) if until >= repeat.change => repeat.ends - TimeDelta::seconds(1),
            _ => wall_clock::local(zone, until),
        };
        self.0.latest_local(local).map(|local| wall_clock::only_instant(zone, local))
    }

    fn next_on_the_wall(&self, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut local = self.0.next_local(wall_clock::local(zone, after))?;
        // With nothing left of the first pass, the second one comes before whatever follows both.
        if let Some(repeat) = Repeat::around(zone, after).filter(|repeat| after < repeat.change && local >= repeat.ends)
        {
            let again = self.0.next_local(repeat.begins - TimeDelta::seconds(1))?;
            if again < repeat.ends {
                return Some(repeat.second_pass(again));
            }
        }
        loop {
            match wall_clock::passes(zone, local) {
                Passes::Once(instant) => return Some(instant),
                Passes::Twice(first, second) => return Some(if first > after { first } else { second }),
                Passes::Never { local_after, .. } => local = self.0.next_local(local_after - TimeDelta::seconds(1))?,
            }
        }
    }

    fn latest_on_the_wall(&self, zone: Tz, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut local = self.0.latest_local(wall_clock::local(zone, until))?;
        // With nothing yet in the second pass, the first pass comes before whatever precedes both.
        if let Some(repeat) =
            Repeat::around(zone, until).filter(|repeat| until >= repeat.change && local < repeat.begins)
        {
            let first = self.0.latest_local(repeat.ends - TimeDelta::seconds(1))?;
            if first >= repeat.begins {
                return Some(repeat.first_pass(first));
            }
        }
        loop {
            match wall_clock::passes(zone, local) {
                Passes::Once(instant) => return Some(instant),
                Passes::Twice(first, second) => return Some(if second <= until { second } else { first }),
                Passes::Never { last_before, .. } => local = self.0.latest_local(last_before)?,
            }
        }
    }
}

/// What has been parsed, by text as typed.
#[derive(Default)]
struct Memo(Mutex<HashMap<String, Arc<Parsed>>>);

impl Memo {
    fn parse(&self, text: &str) -> Result<Arc<Parsed>, CronError> {
        // Every state of the map is a good one, so a panic elsewhere while it was locked is no reason for another.
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(text) {
            return Ok(Arc::clone(known));
        }
        // Parsed without the lock: two threads may both do the work, none waits for it.
        let parsed = Arc::new(parse::parse(text)?);
        let mut memo = lock();
        if memo.len() >= MEMO_LIMIT {
            memo.clear();
        }
        memo.insert(text.to_owned(), Arc::clone(&parsed));
        Ok(parsed)
    }
}

impl PartialEq for CronExpression {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for CronExpression {}

impl fmt::Display for CronExpression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for CronExpression {
    type Err = CronError;
    fn from_str(text: &str) -> Result<Self, CronError> {
        Self::parse(text)
    }
}

impl Parsed {
    /// The first local time strictly after `local` that the fields name, whether clocks show it or not.
    fn next_local(&self, local: NaiveDateTime) -> Option<NaiveDateTime> {
        let from = local.and_utc();
        self.days.iter().filter_map(|fields| fields.after(&from).next()).min().map(|due| due.naive_utc())
    }

    /// The latest local time at or before `local` that the fields name, whether clocks show it or not.
    fn latest_local(&self, local: NaiveDateTime) -> Option<NaiveDateTime> {
        let from = (local + TimeDelta::seconds(1)).and_utc();
        self.days.iter().filter_map(|fields| fields.after(&from).next_back()).max().map(|due| due.naive_utc())
    }
}

#[cfg(test)]
mod tests;
