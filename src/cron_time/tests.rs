use chrono::{Datelike, Timelike, Weekday};
use chrono_tz::America::New_York;
use chrono_tz::Australia::Lord_Howe;
use chrono_tz::Europe::London;
use chrono_tz::Pacific::{Apia, Kwajalein};
use proptest::prelude::*;

use super::*;

fn cron(text: &str) -> CronExpression {
    CronExpression::parse(text).expect(text)
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("an instant in RFC 3339")
}

/// What the message of the refused `text` must contain: what to write instead.
fn check_refused(text: &str, advice: &str) {
    let message = CronExpression::parse(text).expect_err(text).to_string();
    assert!(message.contains(advice), "{text:?} gives {message:?}, without {advice:?}");
}

/// The instants after `from` at which `text` is due, as many as are expected.
fn check_due(text: &str, zone: Tz, from: &str, expected: &[&str]) {
    let expression = cron(text);
    let mut due = vec![at(from)];
    for _ in expected {
        due.push(expression.next_after(zone, due[due.len() - 1]).expect("a next one"));
    }
    let expected: Vec<DateTime<Utc>> = expected.iter().map(|text| at(text)).collect();
    assert_eq!(due[1..], expected, "{text} in {zone}");
}

#[test]
fn two_o_clock_on_day_one_is_monday() {
    for (text, weekday) in [("0 2 * * 1", Weekday::Mon), ("0 2 * * mon", Weekday::Mon), ("0 2 * * 6", Weekday::Sat)] {
        let next = cron(text).next_after(Tz::UTC, at("2026-01-01T00:00:00Z")).expect("a next one");
        assert_eq!((next.weekday(), next.hour(), next.minute()), (weekday, 2, 0), "{text}");
    }
}

#[test]
fn zero_and_seven_and_every_way_to_write_them_are_sunday() {
    for text in ["0 2 * * 0", "0 2 * * 7", "0 2 * * Sun", "0 2 * * 0,7", "0 2 * * */7", "0 2 * * SUN-SUN"] {
        check_due(text, Tz::UTC, "2026-01-01T00:00:00Z", &["2026-01-04T02:00:00Z", "2026-01-11T02:00:00Z"]);
    }
    // Friday is the 2nd.
    for text in ["0 2 * * 5-7", "0 2 * * FRI-SUN", "0 2 * * 0,5,6"] {
        let weekend = ["2026-01-02T02:00:00Z", "2026-01-03T02:00:00Z", "2026-01-04T02:00:00Z", "2026-01-09T02:00:00Z"];
        check_due(text, Tz::UTC, "2026-01-01T12:00:00Z", &weekend);
    }
}

#[test]
fn words_mean_what_crontab_says() {
    for (word, fields) in [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 JAN *"),
    ] {
        let from = at("2026-03-28T23:59:30Z");
        assert_eq!(cron(word).next_after(London, from), cron(fields).next_after(London, from), "{word}");
        assert_eq!(cron(word).as_str(), word);
    }
}

#[test]
fn two_restricted_day_fields_mean_either() {
    // Friday the 13th of February, and every other 13th and Friday.
    let due = ["2026-02-13T00:00:00Z", "2026-02-20T00:00:00Z", "2026-02-27T00:00:00Z", "2026-03-06T00:00:00Z"];
    check_due("0 0 13 * 5", Tz::UTC, "2026-02-10T00:00:00Z", &due);
    check_due("0 0 12 * 5", Tz::UTC, "2026-02-10T00:00:00Z", &["2026-02-12T00:00:00Z", "2026-02-13T00:00:00Z"]);
}

#[test]
fn a_day_field_that_begins_with_a_star_is_not_restricted() {
    // Odd days that are Mondays, as Debian's cron has it, and not odd days and Mondays.
    let due = ["2026-01-05T00:00:00Z", "2026-01-19T00:00:00Z", "2026-02-09T00:00:00Z"];
    check_due("0 0 */2 * 1", Tz::UTC, "2026-01-01T00:00:00Z", &due);
    // A list that merely holds a star is restricted, so either will do.
    check_due("0 0 1,* * 1", Tz::UTC, "2026-01-01T00:00:00Z", &["2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"]);
}

#[test]
fn a_fixed_time_in_the_spring_gap_is_due_just_after_it() {
    // London skips 01:00 to 02:00 on 29 March 2026, New York 02:00 to 03:00 on 8 March.
    check_due("30 1 * * *", London, "2026-03-28T12:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
    check_due("30 2 * * *", New_York, "2026-03-07T12:00:00Z", &["2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"]);
    // Only half an hour is skipped in Lord Howe: 02:00 to 02:30 on 4 October.
    check_due("15 2 * * *", Lord_Howe, "2026-10-03T00:00:00Z", &["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"]);
    check_due("45 2 * * *", Lord_Howe, "2026-10-03T00:00:00Z", &["2026-10-03T15:45:00Z", "2026-10-04T15:45:00Z"]);
    // Several skipped times and the one at the gap's end are one due time.
    check_due("0,20,40 1,2 * * *", London, "2026-03-29T00:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-29T01:20:00Z"]);
}

#[test]
fn a_fixed_time_in_the_repeated_hour_is_due_once() {
    // London repeats 01:00 to 02:00 on 25 October 2026; 01:30 is first shown at 00:30 UTC.
    check_due("30 1 * * *", London, "2026-10-24T12:00:00Z", &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    // Asked in the second pass, before and after the second 01:30.
    check_due("30 1 * * *", London, "2026-10-25T01:10:00Z", &["2026-10-26T01:30:00Z"]);
    check_due("0-59 1 * * *", London, "2026-10-25T00:58:00Z", &["2026-10-25T00:59:00Z", "2026-10-26T01:00:00Z"]);
    let expression = cron("30 1 * * *");
    let latest = expression.latest_in(London, at("2026-10-20T00:00:00Z"), at("2026-10-25T01:10:00Z"));
    assert_eq!(latest, Some(at("2026-10-25T00:30:00Z")), "the whole first pass is over in the second");
}

#[test]
fn a_schedule_with_a_star_follows_the_wall_clock() {
    let twice = ["2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:00:00Z"];
    check_due("*/30 * * * *", London, "2026-10-25T00:00:00Z", &twice);
    let first_and_second = ["2026-10-25T00:15:00Z", "2026-10-25T01:15:00Z", "2026-10-25T03:15:00Z"];
    check_due("15 1-23/2 * * *", London, "2026-10-25T00:00:00Z", &["2026-10-25T00:15:00Z", "2026-10-25T03:15:00Z"]);
    check_due("15 */1 * * *", London, "2026-10-25T00:14:00Z", &first_and_second[..2]);
    check_due("*/45 1 * * *", London, "2026-10-25T00:40:00Z", &["2026-10-25T00:45:00Z", "2026-10-25T01:00:00Z"]);
    // In the gap nothing is due, and nothing is made up for.
    check_due("*/30 1 * * *", London, "2026-03-29T00:00:00Z", &["2026-03-30T00:00:00Z", "2026-03-30T00:30:00Z"]);
    check_due("30 * * * *", London, "2026-03-29T00:00:00Z", &["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z"]);
}

#[test]
fn a_skipped_day_is_due_at_its_end_and_only_for_fixed_times() {
    // Apia had no 30 December 2011: its 29th ended at 10:00 UTC on the 30th, where its 31st began.
    let due = ["2011-12-29T12:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T12:00:00Z"];
    check_due("0 2 * * *", Apia, "2011-12-29T00:00:00Z", &due);
    check_due("0 2 30 12 *", Apia, "2011-12-29T00:00:00Z", &["2011-12-30T10:00:00Z", "2012-12-29T12:00:00Z"]);
    check_due("* 2 * * *", Apia, "2011-12-29T12:59:00Z", &["2011-12-30T12:00:00Z"]);
    let minutely = cron("* * * * *");
    let latest = minutely.latest_in(Apia, at("2011-12-01T00:00:00Z"), at("2011-12-30T10:00:00Z"));
    assert_eq!(latest, Some(at("2011-12-30T10:00:00Z")));
    // Kwajalein had no 21 August 1993, between one minute and the next.
    check_due("59 23 * * *", Kwajalein, "1993-08-21T00:00:00Z", &["1993-08-21T11:59:00Z", "1993-08-21T12:00:00Z"]);
}

#[test]
fn what_never_fires_is_an_error() {
    check_refused("0 2 31 2 *", "never fires");
    check_refused("0 2 30-31 FEB *", "never fires");
    check_refused("0 2 31 4,6,9,11 *", "such as 1-28");
    // 29 February on a Sunday: 2004, 2032.
    check_refused("0 2 29 2 */7", "more than five years");
    check_due("0 2 29 2 *", Tz::UTC, "2026-01-01T00:00:00Z", &["2028-02-29T02:00:00Z", "2032-02-29T02:00:00Z"]);
    // Either day field will do, so the 31st that February lacks is no harm.
    check_due("0 2 31 2 0", Tz::UTC, "2026-01-01T00:00:00Z", &["2026-02-01T02:00:00Z"]);
}

#[test]
fn refusals_say_what_to_write() {
    check_refused("", "0 fields");
    check_refused("0 0 2**1", "3 fields: write five");
    check_refused("0 0 0 2 * * 1", "7 fields: write five");
    check_refused("0 0 2**1 * *", "numbers from 1 to 31");
    check_refused("@reboot", "@daily");
    check_refused("@daily 0", "2 fields");
    check_refused("5/15 * * * *", "write 5-59/15");
    check_refused("0 22-2 * * *", "write 22-23,0-2");
    check_refused("0 22-2/2 * * *", "write 22,0,2");
    check_refused("0 2 * * FRI-MON", "write 5-6,0-1");
    check_refused("0 2 * * 5-0", "write 5-6,0");
    check_refused("0 2 * * 7-2", "write 0-2");
    check_refused("0 2 * NOV-FEB *", "write 11-12,1-2");
    check_refused("*/60 * * * *", "from 1 to 59");
    check_refused("*/0 * * * *", "from 1 to 59");
    check_refused("60 * * * *", "numbers from 0 to 59");
    check_refused("0 24 * * *", "numbers from 0 to 23");
    check_refused("0 2 0 * *", "numbers from 1 to 31");
    check_refused("0 2 L * *", "numbers from 1 to 31");
    check_refused("0 2 ? * *", "numbers from 1 to 31");
    check_refused("0 2 * 13 *", "or JAN to DEC");
    check_refused("0 2 * * 8", "or SUN to SAT");
    check_refused("0 2 * * 1#2", "or SUN to SAT");
    check_refused("0 2 * * Monday", "or SUN to SAT");
    check_refused("+5 2 * * *", "numbers from 0 to 59");
    check_refused("0,,5 2 * * *", "numbers from 0 to 59");
    check_refused("0 2\u{a0}* * * *", "\\u{a0}");
    check_refused(&format!("0{} 2 * * *", ",0".repeat(200)), "at most 256");
}

#[test]
fn text_keeps_its_fields_and_loses_its_extra_spaces() {
    let expression = cron("  0\t2  * *   MON\n");
    assert_eq!(expression.to_string(), "0 2 * * MON");
    assert_eq!("0 2 * * MON".parse(), Ok(expression.clone()));
    assert_ne!(expression, cron("0 2 * * 1"), "equality is by text");
}

#[test]
fn the_ends_of_time_have_no_next_and_no_latest() {
    let minutely = cron("* * * * *");
    assert_eq!(minutely.next_after(London, DateTime::<Utc>::MAX_UTC), None);
    assert_eq!(minutely.next_after(London, DateTime::<Utc>::MIN_UTC), Some(at("1970-01-01T00:01:00Z")));
    assert_eq!(minutely.latest_in(London, DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC), None);
    assert_eq!(minutely.latest_in(London, at("2026-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z")), None);
}

#[test]
fn ten_thousand_hosts_cost_one_parse() {
    let memo = Memo::default();
    let first = memo.parse("7 3 * * 2").expect("an expression");
    for _ in 0..10_000 {
        assert!(Arc::ptr_eq(&first, &memo.parse("7 3 * * 2").expect("an expression")), "parsed again");
    }
}

#[test]
fn the_memo_stays_bounded_and_keeps_no_errors() {
    let memo = Memo::default();
    for minute_and_hour in 0..1440 {
        memo.parse(&format!("{} {} * * *", minute_and_hour % 60, minute_and_hour / 60)).expect("an expression");
        memo.parse(&format!("60 {minute_and_hour} * * *")).expect_err("no such minute");
    }
    assert_eq!(memo.0.lock().expect("no panic").len(), 1440 - MEMO_LIMIT);
}

/// A field with all that crontab allows.
fn field(min: u32, max: u32) -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just("*".to_owned()),
        1 => (1..=max).prop_map(|step| format!("*/{step}")),
        3 => prop::collection::vec(min..=max, 1..3).prop_map(|values| {
            values.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
        }),
        2 => (min..=max, 0..=max, 1..=max).prop_map(move |(a, length, step)| {
            format!("{a}-{}/{step}", (a + length).min(max))
        }),
    ]
}

fn expression() -> impl Strategy<Value = CronExpression> {
    (field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 7)).prop_filter_map("never fires", |fields| {
        let (minute, hour, day, month, weekday) = fields;
        match CronExpression::parse(&format!("{minute} {hour} {day} {month} {weekday}")) {
            Ok(expression) => Some(expression),
            Err(error) => {
                assert!(matches!(error, CronError::NeverFires { .. }), "{error}");
                None
            }
        }
    })
}

/// Zones with all sorts of changes, and instants within hours of one.
fn place() -> impl Strategy<Value = (Tz, DateTime<Utc>)> {
    let near = prop::sample::select(vec![
        (London, "2026-03-29T01:00:00Z"),
        (London, "2026-10-25T01:00:00Z"),
        (Lord_Howe, "2026-04-04T15:00:00Z"),
        (Lord_Howe, "2026-10-03T15:30:00Z"),
        (chrono_tz::America::Santiago, "2026-04-05T03:00:00Z"),
        (chrono_tz::America::Santiago, "2026-09-06T04:00:00Z"),
        (Apia, "2011-12-30T10:00:00Z"),
        (Kwajalein, "1993-08-21T12:00:00Z"),
    ]);
    (near, -400_000_i64..400_000).prop_map(|((zone, change), seconds)| (zone, at(change) + TimeDelta::seconds(seconds)))
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,300}") {
        let _ = CronExpression::parse(&text);
    }

    #[test]
    fn no_text_that_looks_like_crontab_makes_the_parser_panic(text in "[-0-9*/,@a-zA-Z#?+ \t\n]{0,260}") {
        let _ = CronExpression::parse(&text);
    }

    #[test]
    fn no_five_fields_make_the_parser_panic(text in "([-0-9*/,A-Z]{1,7} ){4}[-0-9*/,A-Z]{1,7}") {
        if let Ok(expression) = CronExpression::parse(&text) {
            let now = at("2026-03-29T00:59:59Z");
            prop_assert!(expression.next_after(London, now).is_some_and(|next| next > now));
        }
    }

    #[test]
    fn next_is_always_later_and_on_a_minute((zone, now) in place(), millis in 0_i64..1000, expression in expression()) {
        let now = now + TimeDelta::milliseconds(millis);
        let next = expression.next_after(zone, now);
        prop_assert!(next.is_some_and(|next| next > now && next.timestamp() % 60 == 0), "{next:?}");
    }

    #[test]
    fn latest_agrees_with_iterating_next((zone, after) in place(), span in 0_i64..300_000, expression in expression()) {
        let until = after + TimeDelta::seconds(span);
        let due = std::iter::successors(Some(after), |t| expression.next_after(zone, *t));
        let iterated = due.skip(1).take_while(|t| *t <= until).last();
        prop_assert_eq!(expression.latest_in(zone, after, until), iterated);
    }
}
