//! Random expressions with their meaning as plain sets, made together: nothing here is read back from text.

use chrono::{Datelike, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Timelike};

/// One field: how it's written, what it names.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) text: String,
    pub(crate) values: Vec<u32>,
}

impl Field {
    /// Rule 3's "not restricted".
    pub(crate) fn is_star(&self) -> bool {
        self.text.starts_with('*')
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Expression {
    pub(crate) text: String,
    pub(crate) minute: Field,
    pub(crate) hour: Field,
    pub(crate) day: Field,
    pub(crate) month: Field,
    pub(crate) weekday: Field,
}

impl Expression {
    fn new([minute, hour, day, month, weekday]: [Field; 5]) -> Self {
        let text = [&minute, &hour, &day, &month, &weekday].map(|field| field.text.as_str()).join(" ");
        Self { text, minute, hour, day, month, weekday }
    }

    pub(crate) fn has_fixed_times(&self) -> bool {
        !self.minute.is_star() && !self.hour.is_star()
    }

    pub(crate) fn time_fits(&self, local: NaiveDateTime) -> bool {
        self.minute.values.contains(&local.minute()) && self.hour.values.contains(&local.hour()) && local.second() == 0
    }

    /// Whether day of month and day of week fit, each for itself.
    fn days_fit(&self, local: NaiveDateTime) -> (bool, bool) {
        let weekday = local.weekday().num_days_from_sunday();
        let weekdays = &self.weekday.values;
        let weekday_fits = weekdays.contains(&weekday) || weekday == 0 && weekdays.contains(&7);
        (self.day.values.contains(&local.day()), weekday_fits)
    }

    /// Rule 3, and the month.
    pub(crate) fn date_fits(&self, local: NaiveDateTime) -> bool {
        let (day, weekday) = self.days_fit(local);
        let either = !self.day.is_star() && !self.weekday.is_star();
        self.month.values.contains(&local.month()) && if either { day || weekday } else { day && weekday }
    }

    /// Whether the day would be due if and only if both day fields counted as restricted.
    pub(crate) fn only_one_day_field_fits(&self, local: NaiveDateTime) -> bool {
        let (day, weekday) = self.days_fit(local);
        self.month.values.contains(&local.month()) && day != weekday
    }

    /// Rule 7, day by day through a cycle of 28 years and what follows it.
    pub(crate) fn fires_every_five_years(&self) -> bool {
        // Any restricted weekday does in this case, and these expressions are most: don't go through the days.
        if !self.day.is_star() && !self.weekday.is_star() {
            return true;
        }
        let start = NaiveDate::from_ymd_opt(2000, 1, 1).expect("a date").and_time(NaiveTime::MIN);
        let mut silent_since = start;
        for day in (1..).map(|days| start + TimeDelta::days(days)) {
            if self.date_fits(day) {
                silent_since = day;
            }
            if silent_since.year() >= 2029 {
                return true;
            }
            if day - silent_since >= TimeDelta::days(5 * 366) {
                return false;
            }
        }
        unreachable!("days go on until one of the two has been returned")
    }
}

/// SplitMix64: the same expressions on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((mixed ^ mixed >> 31) % u64::from(limit)).expect("below a u32")
    }

    /// A value as a number, or by its name if it has one and chance will have it.
    fn written(&mut self, value: u32, min: u32, names: &[&str]) -> String {
        match names.get((value - min) as usize) {
            Some(name) if self.below(3) == 0 => (*name).to_owned(),
            _ => value.to_string(),
        }
    }

    /// Of every hundred fields `stars` are `*`; the others are of any kind. `near` is where points like to be.
    fn field(&mut self, (min, max): (u32, u32), stars: u32, near: u32, names: &[&str]) -> Field {
        if self.below(100) < stars {
            return Field { text: "*".to_owned(), values: (min..=max).collect() };
        }
        let span = max - min + 1;
        match self.below(10) {
            0..=4 => {
                let mut values = Vec::new();
                let mut texts = Vec::new();
                for _ in 0..=self.below(3) {
                    let value = if self.below(2) == 0 { near.min(max) } else { min + self.below(span) };
                    values.push(value);
                    texts.push(self.written(value, min, names));
                }
                Field { text: texts.join(","), values }
            }
            5..=6 => {
                let step = 1 + self.below(span / 2);
                Field { text: format!("*/{step}"), values: (min..=max).step_by(step as usize).collect() }
            }
            kind => {
                // Two different ends: croniter takes `3-3` for every value.
                let first = min + self.below(span - 1);
                let last = first + 1 + self.below(max - first);
                let ends = [self.written(first, min, names), self.written(last, min, names)].join("-");
                let step = if kind == 7 { 1 } else { 1 + self.below(span / 2) };
                let text = if kind == 7 { ends } else { format!("{ends}/{step}") };
                Field { text, values: (first..=last).step_by(step as usize).collect() }
            }
        }
    }
}

/// Endless expressions that like the hours around midnight to three, where clocks change, and days that are not too
/// rare. Few of them don't fire every five years.
pub(crate) fn expressions() -> impl Iterator<Item = Expression> {
    with_stars([8, 15, 60, 75, 60], 29)
}

/// Endless expressions of which many stay silent for years: late days of few months, on few weekdays.
pub(crate) fn rare_expressions() -> impl Iterator<Item = Expression> {
    with_stars([0, 0, 0, 0, 30], 31).filter(|rare| rare.day.is_star() || rare.weekday.is_star())
}

fn with_stars(stars: [u32; 5], near_day: u32) -> impl Iterator<Item = Expression> {
    const MONTHS: [&str; 12] = ["JAN", "feb", "Mar", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
    const WEEKDAYS: [&str; 7] = ["SUN", "mon", "Tue", "WED", "THU", "FRI", "SAT"];
    let mut random = Random(20_260_329);
    std::iter::repeat_with(move || {
        let near_hour = random.below(4);
        let near_month = [3, 4, 9, 10, 11][random.below(5) as usize];
        Expression::new([
            random.field((0, 59), stars[0], 30, &[]),
            random.field((0, 23), stars[1], near_hour, &[]),
            random.field((1, 31), stars[2], near_day, &[]),
            random.field((1, 12), stars[3], near_month, &MONTHS),
            random.field((0, 7), stars[4], 0, &WEEKDAYS),
        ])
    })
}
