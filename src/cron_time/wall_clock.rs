//! Pure. Between instants and what a zone's clock on the wall shows: gaps, repeats and their edges.
//! Knows nothing of schedules, and assumes no length of a change: zones have skipped half hours and whole days.

use chrono::{DateTime, MappedLocalTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Timelike, Utc};
use chrono_tz::Tz;

/// The instants at which the clock on the wall shows one local time.
pub(super) enum Passes {
    Once(DateTime<Utc>),
    Twice(DateTime<Utc>, DateTime<Utc>),
    /// Clocks skip it: they jump at `change`, from just past `last_before` to `local_after`.
    Never {
        change: DateTime<Utc>,
        last_before: NaiveDateTime,
        local_after: NaiveDateTime,
    },
}

/// What the clock shows at `instant`, in whole seconds.
pub(super) fn local(zone: Tz, instant: DateTime<Utc>) -> NaiveDateTime {
    let utc = instant.naive_utc();
    let local = utc + zone.offset_from_utc_datetime(&utc).fix();
    local.with_nanosecond(0).unwrap_or(local)
}

/// When the clock shows `local`.
pub(super) fn passes(zone: Tz, local: NaiveDateTime) -> Passes {
    match zone.from_local_datetime(&local) {
        MappedLocalTime::Single(instant) => Passes::Once(instant.to_utc()),
        MappedLocalTime::Ambiguous(first, second) => Passes::Twice(first.to_utc(), second.to_utc()),
        MappedLocalTime::None => {
            // No offset is near a day, so a day to either side the clock is surely before and past `local`.
            let day = TimeDelta::days(1);
            let change =
                first_instant_that(local.and_utc() - day, local.and_utc() + day, |t| self::local(zone, t) > local);
            Passes::Never {
                change,
                last_before: self::local(zone, change - TimeDelta::seconds(1)),
                local_after: self::local(zone, change),
            }
        }
    }
}

/// The one instant that a fixed local time stands for: the first pass of a repeat, the end of a gap.
pub(super) fn only_instant(zone: Tz, local: NaiveDateTime) -> DateTime<Utc> {
    match passes(zone, local) {
        Passes::Once(instant) | Passes::Twice(instant, _) | Passes::Never { change: instant, .. } => instant,
    }
}

/// A stretch of local time that the clock shows twice, because it's put back at `change`.
pub(super) struct Repeat {
    pub(super) change: DateTime<Utc>,
    /// The first repeated local time; the clock shows it at `change`.
    pub(super) begins: NaiveDateTime,
    /// The local time at which the clock is put back, the first that isn't repeated.
    pub(super) ends: NaiveDateTime,
}

impl Repeat {
    /// The repeat of which `instant` is in the first or second pass.
    pub(super) fn around(zone: Tz, instant: DateTime<Utc>) -> Option<Self> {
        let Passes::Twice(first, second) = passes(zone, local(zone, instant)) else { return None };
        let offset = |t: DateTime<Utc>| zone.offset_from_utc_datetime(&t.naive_utc()).fix();
        let before = offset(first);
        let change = first_instant_that(first, second, |t| offset(t) != before);
        Some(Self { change, begins: local(zone, change), ends: change.naive_utc() + before })
    }

    pub(super) fn first_pass(&self, local: NaiveDateTime) -> DateTime<Utc> {
        self.change - (self.ends - local)
    }

    pub(super) fn second_pass(&self, local: NaiveDateTime) -> DateTime<Utc> {
        self.change + (local - self.begins)
    }
}

/// The first second in (`low`, `high`] for which `is_past` holds, given that it holds from some point on.
fn first_instant_that(
    low: DateTime<Utc>,
    high: DateTime<Utc>,
    is_past: impl Fn(DateTime<Utc>) -> bool,
) -> DateTime<Utc> {
    let (mut low, mut high) = (low, high);
    while high - low > TimeDelta::seconds(1) {
        let middle = low + TimeDelta::seconds((high - low).num_seconds() / 2);
        if is_past(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}
