//! restic's retention rules once more, written from its documentation alone ("Removing snapshots according to a policy"), for tests
//! to judge what the real ones did. Shares no code with the project.

use std::collections::BTreeSet;

use chrono::{DateTime, Datelike, FixedOffset, NaiveDate, TimeDelta};
use serde_json::{Map, Value, json};

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) id: String,
    /// In the zone in which restic tells days and weeks apart.
    pub(crate) time: DateTime<FixedOffset>,
    pub(crate) tags: Vec<String>,
}

/// The calendar's periods by the end of a rule's name.
fn period(name: &str, time: &DateTime<FixedOffset>) -> String {
    let form = match name {
        "hourly" => "%Y-%m-%d %H",
        "daily" => "%Y-%m-%d",
        // From Monday to Sunday.
        "weekly" => "%G week %V",
        "monthly" => "%Y-%m",
        "yearly" => "%Y",
        _ => unreachable!("{name}"),
    };
    time.format(form).to_string()
}

/// Which of one host's snapshots of one schedule, newest first, a policy keeps. `left_out`: rules that do not count, or "oldest":
/// that the oldest one stays while a rule still wants more.
pub(crate) fn kept(made: &[Made], policy: &Map<String, Value>, left_out: &[&str]) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let (Some(newest), Some(oldest)) = (made.first(), made.last()) else { return ids };
    for (rule, value) in policy.iter().filter(|(rule, _)| !left_out.contains(&rule.as_str())) {
        let name = rule.strip_prefix("keep_").expect("a rule");
        if name == "tags" {
            let wanted: Vec<String> = serde_json::from_value(value.clone()).expect("tags");
            ids.extend(
                made.iter().filter(|made| made.tags.iter().any(|tag| wanted.contains(tag))).map(|made| made.id.clone()),
            );
        } else if name == "last" {
            let count = usize::try_from(value.as_u64().expect("a count")).expect("small");
            ids.extend(made.iter().take(count).map(|made| made.id.clone()));
        } else if let Some(by) = name.strip_prefix("within") {
            // Counted from the newest snapshot, not from today.
            let since = before(newest.time, value.as_str().expect("a span"));
            let within: Vec<&Made> = made.iter().filter(|made| made.time > since).collect();
            match by.strip_prefix('_') {
                None => ids.extend(within.iter().map(|made| made.id.clone())),
                Some(by) => {
                    ids.extend(newest_of_each(&within, by).into_iter().map(|made| made.id.clone()));
                    if oldest.time > since && !left_out.contains(&"oldest") {
                        ids.insert(oldest.id.clone());
                    }
                }
            }
        } else {
            let count = usize::try_from(value.as_u64().expect("a count")).expect("small");
            let all: Vec<&Made> = made.iter().collect();
            let of_each = newest_of_each(&all, name);
            ids.extend(of_each.iter().take(count).map(|made| made.id.clone()));
            if count > of_each.len() && !left_out.contains(&"oldest") {
                ids.insert(oldest.id.clone());
            }
        }
    }
    ids
}

fn newest_of_each<'a>(made: &[&'a Made], name: &str) -> Vec<&'a Made> {
    let mut seen = BTreeSet::new();
    made.iter().copied().filter(|made| seen.insert(period(name, &made.time))).collect()
}

/// So long before: years, months and days by the calendar (the 31st of a shorter month is a day of the next), then hours.
fn before(time: DateTime<FixedOffset>, span: &str) -> DateTime<FixedOffset> {
    let mut amounts = [0_i64; 4];
    let mut digits = String::new();
    for letter in span.chars() {
        match "ymdh".find(letter) {
            Some(unit) => amounts[unit] = std::mem::take(&mut digits).parse().expect("a number"),
            None => digits.push(letter),
        }
    }
    let [years, months, days, hours] = amounts;
    let local = time.naive_local();
    let month = i64::from(local.year()) * 12 + i64::from(local.month0()) - years * 12 - months;
    let year = i32::try_from(month.div_euclid(12)).expect("a year");
    let first = NaiveDate::from_ymd_opt(year, u32::try_from(month.rem_euclid(12)).expect("a month") + 1, 1);
    let day = first.expect("a day") + TimeDelta::days(i64::from(local.day0()) - days);
    let local = day.and_time(local.time()) - TimeDelta::hours(hours);
    local.and_local_timezone(*time.offset()).single().expect("fixed")
}

/// Numbers that are the same for the same seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    /// One to four rules.
    pub(crate) fn policy(&mut self) -> Map<String, Value> {
        let mut policy = Map::new();
        for _ in 0..1 + self.below(4) {
            let by = ["hourly", "daily", "weekly", "monthly", "yearly"][usize::try_from(self.below(5)).expect("small")];
            let span = format!(
                "{}{}",
                1 + self.below(9),
                ["h", "d", "m", "y"][usize::try_from(self.below(4)).expect("small")]
            );
            let (rule, value) = match self.below(5) {
                0 => ("keep_last".to_owned(), json!(1 + self.below(4))),
                1 => ("keep_tags".to_owned(), json!(["keep", "none"])),
                2 => ("keep_within".to_owned(), json!(span)),
                3 => (format!("keep_within_{by}"), json!(span)),
                _ => (format!("keep_{by}"), json!(1 + self.below(6))),
            };
            policy.insert(rule, value);
        }
        policy
    }
}
