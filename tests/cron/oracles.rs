//! The other programs: each answers for a case as `ours` does, or not at all.

use std::io::Write;
use std::process::{Command, Stdio};
use std::str::FromStr;

use chrono::{DateTime, Utc};

use crate::{Case, MORE, collect};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Oracle {
    Croner,
    Croniter,
}

type Due = Option<Vec<DateTime<Utc>>>;

pub(crate) fn croner(case: &Case) -> Due {
    let cron = croner::Cron::from_str(&case.expression.text).ok()?;
    collect(case, |now| {
        let now = now.with_timezone(&case.change.zone);
        cron.find_next_occurrence(&now, false).ok().map(|due| due.to_utc())
    })
}

/// The `cron` crate as if its fields were crontab's: what the facade protects us from. Outer `None` if it can't
/// read the expression.
pub(crate) fn bare_cron_crate(case: &Case) -> Option<Due> {
    let schedule = cron::Schedule::from_str(&format!("0 {}", case.expression.text)).ok()?;
    Some(collect(case, |now| schedule.after(&now.with_timezone(&case.change.zone)).next().map(|due| due.to_utc())))
}

/// croniter's version and answers. `None` if this machine hasn't got it, which CI must have.
pub(crate) fn croniter(cases: &[Case]) -> Option<(String, Vec<Due>)> {
    let has_croniter = Command::new("python3")
        .args(["-c", "import croniter, zoneinfo"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !has_croniter {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI compares with croniter: pip install croniter");
        println!("skipped: the comparison with croniter needs python3 and its croniter package (pip install croniter)");
        return None;
    }
    let questions: Vec<_> = cases
        .iter()
        .map(|case| {
            serde_json::json!({
                "expression": case.expression.text,
                "zone": case.change.zone.name(),
                "after": case.after.timestamp(),
                "until": case.until.timestamp(),
                "more": MORE,
            })
        })
        .collect();
    let mut child = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cron/croniter_oracle.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 ran a moment ago");
    let question = serde_json::json!({ "cases": questions }).to_string();
    // It reads everything before it writes anything, so neither side can wait for the other.
    child.stdin.take().expect("piped").write_all(question.as_bytes()).expect("croniter_oracle.py reads its cases");
    let output = child.wait_with_output().expect("croniter_oracle.py ends");
    assert!(output.status.success(), "croniter_oracle.py failed; its error is above");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("croniter_oracle.py answers JSON");
    let instant = |seconds: &serde_json::Value| {
        DateTime::from_timestamp(seconds.as_i64().expect("seconds"), 0).expect("an instant")
    };
    let due = answer["due"].as_array().expect("a list of answers").iter();
    let due = due.map(|answer| answer.as_array().map(|list| list.iter().map(instant).collect())).collect();
    Some((answer["version"].to_string(), due))
}
