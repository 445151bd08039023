//! Pure. From the text of an expression to calendar fields, and what to write instead where it has none.
//! Knows nothing of zones and instants.

use std::fmt;

use chrono::{Datelike, NaiveDate, TimeDelta};
use cron::Schedule;

/// Bytes of the longest expression. Lists of every value stay below it; what's longer is a mistake or an attack.
const MAX_LEN: usize = 256;

/// An expression that may stay silent for longer than this many days (five years) is refused.
const MAX_SILENCE_DAYS: i64 = 5 * 366;

/// Why a text is not a crontab expression. `Display` says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CronError {
    /// The text has more bytes than any sensible expression.
    TooLong { found: usize },
    /// The text does not have five fields.
    FieldCount { text: String, found: usize },
    /// The text begins with `@` and is none of the known words.
    UnknownWord { word: String },
    /// One part of one field means nothing, or not what it seems to mean.
    Field { field: &'static str, part: String, advice: String },
    /// No day fits, or none for more than five years.
    NeverFires { text: String },
}

impl fmt::Display for CronError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { found } => {
                write!(f, "the cron expression has {found} bytes: use at most {MAX_LEN}, with ranges instead of lists")
            }
            Self::FieldCount { text, found } => write!(
                f,
                "{text:?} has {found} fields: write five separated by spaces (minute, hour, day of month, month, \
                 day of week), such as \"0 2 * * 1\" for Mondays at 02:00"
            ),
            Self::UnknownWord { word } => write!(
                f,
                "{word:?} is not known: write @hourly, @daily, @midnight, @weekly, @monthly, @yearly or @annually, \
                 or five fields such as \"0 2 * * 1\""
            ),
            Self::Field { field, part, advice } => write!(f, "{part:?} in the {field} field: {advice}"),
            Self::NeverFires { text } => write!(
                f,
                "{text:?} never fires, or not for more than five years at a time: write days that its months have \
                 every year, such as 1-28"
            ),
        }
    }
}

impl std::error::Error for CronError {}

/// What an expression means, before zones.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) text: String,
    /// A local time is due if any of these names it: two if both day fields are restricted.
    pub(super) days: Vec<Schedule>,
    /// Minute or hour begins with `*`.
    pub(super) follows_wall_clock: bool,
}

/// One of the five fields: its name in messages, its values, and their names if it has any.
struct Field {
    name: &'static str,
    min: u32,
    max: u32,
    /// The value of the first name is `min`.
    names: &'static [&'static str],
}

const MINUTE: Field = Field { name: "minute", min: 0, max: 59, names: &[] };
const HOUR: Field = Field { name: "hour", min: 0, max: 23, names: &[] };
const DAY_OF_MONTH: Field = Field { name: "day-of-month", min: 1, max: 31, names: &[] };
const MONTH: Field = Field {
    name: "month",
    min: 1,
    max: 12,
    names: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
};
const DAY_OF_WEEK: Field =
    Field { name: "day-of-week", min: 0, max: 7, names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"] };

/// The values a field names, bit by value.
#[derive(Clone, Copy)]
struct Values {
    bits: u64,
    /// The field begins with `*`, which is more than naming every value (rules 3 to 5).
    is_star: bool,
}

pub(super) fn parse(text: &str) -> Result<Parsed, CronError> {
    if text.len() > MAX_LEN {
        return Err(CronError::TooLong { found: text.len() });
    }
    // Only ASCII: a no-break space that a web page smuggled in is named in the error, not passed over.
    let typed: Vec<&str> = text.split_ascii_whitespace().collect();
    let text = typed.join(" ");
    let meant = match typed.as_slice() {
        [word] if word.starts_with('@') => expand_word(word)?.split(' ').collect(),
        _ => typed,
    };
    let &[minute, hour, day, month, weekday] = meant.as_slice() else {
        return Err(CronError::FieldCount { text, found: meant.len() });
    };
    let minute = MINUTE.parse(minute)?;
    let hour = HOUR.parse(hour)?;
    let day = DAY_OF_MONTH.parse(day)?;
    let month = MONTH.parse(month)?;
    let mut weekday = DAY_OF_WEEK.parse(weekday)?;
    // The crate counts 1 (Sunday) to 7; we have 0 to 7 with Sunday at both ends.
    weekday.bits = (weekday.bits << 1 | weekday.bits >> 6) & 0b1111_1110;

    let every = Values { bits: u64::MAX, is_star: true };
    let day_pairs =
        if day.is_star || weekday.is_star { vec![(day, weekday)] } else { vec![(day, every), (every, weekday)] };
    let days = day_pairs
        .into_iter()
        .map(|(day, weekday)| {
            let [minute, hour] = [minute.list(0, 59), hour.list(0, 23)];
            let [day, month, weekday] = [day.list(1, 31), month.list(1, 12), weekday.list(1, 7)];
            format!("0 {minute} {hour} {day} {month} {weekday}").parse::<Schedule>()
        })
        .collect::<Result<Vec<_>, _>>()
        // The crate gets plain numbers in range, so this is its failure to say; the text is to blame for nothing.
        .map_err(|error| CronError::Field { field: "whole", part: text.clone(), advice: error.to_string() })?;

    let parsed = Parsed { text, days, follows_wall_clock: minute.is_star || hour.is_star };
    if parsed.fires_every_five_years() { Ok(parsed) } else { Err(CronError::NeverFires { text: parsed.text }) }
}

fn expand_word(word: &str) -> Result<&'static str, CronError> {
    match word {
        "@hourly" => Ok("0 * * * *"),
        "@daily" | "@midnight" => Ok("0 0 * * *"),
        "@weekly" => Ok("0 0 * * 0"),
        "@monthly" => Ok("0 0 1 * *"),
        "@yearly" | "@annually" => Ok("0 0 1 1 *"),
        _ => Err(CronError::UnknownWord { word: word.to_owned() }),
    }
}

impl Field {
    fn parse(&self, text: &str) -> Result<Values, CronError> {
        let mut bits = 0;
        for part in text.split(',') {
            bits |= self.part(part)?;
        }
        Ok(Values { bits, is_star: text.starts_with('*') })
    }

    fn part(&self, part: &str) -> Result<u64, CronError> {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(self.step(part, step)?)),
            None => (part, None),
        };
        let (first, last) = if range == "*" {
            (self.min, self.max)
        } else if let Some((first, last)) = range.split_once('-') {
            let first = self.value(part, first)?;
            let last = match self.value(part, last)? {
                // Sunday ends the week as well as it begins it.
                0 if last.eq_ignore_ascii_case("SUN") && first > 0 => 7,
                last => last,
            };
            if first > last {
                return Err(self.wrong(part, self.instead_of_wrap(first, last, step)));
            }
            (first, last)
        } else {
            let value = self.value(part, range)?;
            if let Some(step) = step {
                return Err(self.wrong(part, format!("a step needs a range; write {value}-{}/{step}", self.max)));
            }
            (value, value)
        };
        Ok((first..=last).step_by(step.unwrap_or(1) as usize).fold(0, |bits, value| bits | 1 << value))
    }

    fn value(&self, part: &str, text: &str) -> Result<u32, CronError> {
        if let Some(at) = self.names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
            return Ok(self.min + at as u32);
        }
        let number = number(text).filter(|value| (self.min..=self.max).contains(value));
        number.ok_or_else(|| {
            let Self { min, max, names, .. } = self;
            let or_names = match (names.first(), names.last()) {
                (Some(first), Some(last)) => format!(", or {first} to {last}"),
                _ => String::new(),
            };
            self.wrong(part, format!("write *, or numbers from {min} to {max}{or_names}, such as {min}-{max}/2"))
        })
    }

    fn step(&self, part: &str, text: &str) -> Result<u32, CronError> {
        let max = self.max;
        number(text)
            .filter(|step| (1..=max).contains(step))
            .ok_or_else(|| self.wrong(part, format!("the step after / must be a number from 1 to {max}")))
    }

    /// The values that a wrapping range would have, written without one.
    fn instead_of_wrap(&self, first: u32, last: u32, step: Option<u32>) -> String {
        // A week wraps at Saturday: its 7 is the 0 that the second half begins with.
        let end = if self.max == 7 { 6 } else { self.max };
        let said = match step {
            None => {
                let half = |a, b| if a == b { format!("{a}") } else { format!("{a}-{b}") };
                // 7-2 begins at the Sunday that 0-2 has.
                let head = if first > end { String::new() } else { half(first, end) + "," };
                head + &half(self.min, last)
            }
            Some(step) => {
                let length = end - self.min + 1;
                let values = (first..=last + length).step_by(step as usize);
                let values: Vec<String> = values.map(|v| ((v - self.min) % length + self.min).to_string()).collect();
                values.join(",")
            }
        };
        format!("a range cannot wrap round; write {said}")
    }

    fn wrong(&self, part: &str, advice: String) -> CronError {
        CronError::Field { field: self.name, part: part.to_owned(), advice }
    }
}

/// One or two digits. `u32::from_str` alone would take `+5`.
fn number(text: &str) -> Option<u32> {
    let is_number = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

impl Values {
    /// The list the crate reads. It treats `*` faster than a list of everything.
    fn list(self, min: u32, max: u32) -> String {
        let values: Vec<String> = (min..=max).filter(|v| self.bits >> v & 1 == 1).map(|v| v.to_string()).collect();
        if values.len() == (max - min + 1) as usize { "*".to_owned() } else { values.join(",") }
    }
}

impl Parsed {
    /// Whether no five years pass without a due time. Which weekday a 29 February is repeats after 28 years, so
    /// one such cycle answers for all, and the answer doesn't depend on when it's asked. (2100 has no such day.)
    fn fires_every_five_years(&self) -> bool {
        let Some(mut seen) = NaiveDate::from_ymd_opt(2000, 1, 1).and_then(|day| day.and_hms_opt(0, 0, 0)) else {
            return false;
        };
        while seen.year() < 2029 {
            match self.latest_local(seen + TimeDelta::days(MAX_SILENCE_DAYS)) {
                Some(latest) if latest > seen => seen = latest,
                _ => return false,
            }
        }
        true
    }
}
