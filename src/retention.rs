//! Pure. Retention policies: restic's own `keep-*` rules, typed. Does not apply them: restic does.

use serde::{Deserialize, Serialize};

use crate::protocol::text::is_default;

/// Which snapshots `forget` keeps. Counts of 0 and spans of no length keep nothing by that rule; "-1 = all" is not offered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionPolicy {
    #[serde(skip_serializing_if = "is_default")]
    pub keep_last: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub keep_hourly: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub keep_daily: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub keep_weekly: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub keep_monthly: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub keep_yearly: u32,
    /// restic's own form of a span: "1y5m7d2h".
    #[serde(skip_serializing_if = "is_default")]
    pub keep_within: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub keep_within_hourly: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub keep_within_daily: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub keep_within_weekly: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub keep_within_monthly: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub keep_within_yearly: Option<String>,
    /// Snapshots with any of these tags stay.
    #[serde(skip_serializing_if = "is_default")]
    pub keep_tags: Vec<String>,
}

impl RetentionPolicy {
    /// A policy that keeps nothing; forget with it is refused.
    pub fn is_empty(&self) -> bool {
        self.arguments().is_empty()
    }

    /// Whether every snapshot without one of the tags goes, however new it is.
    pub fn is_by_tags_alone(&self) -> bool {
        !self.keep_tags.is_empty() && Self { keep_tags: Vec::new(), ..self.clone() }.is_empty()
    }

    /// The rules as restic's flags and values, in a fixed order.
    pub fn arguments(&self) -> Vec<(&'static str, String)> {
        let counts = [
            ("--keep-last", self.keep_last),
            ("--keep-hourly", self.keep_hourly),
            ("--keep-daily", self.keep_daily),
            ("--keep-weekly", self.keep_weekly),
            ("--keep-monthly", self.keep_monthly),
            ("--keep-yearly", self.keep_yearly),
        ];
        let spans = [
            ("--keep-within", &self.keep_within),
            ("--keep-within-hourly", &self.keep_within_hourly),
            ("--keep-within-daily", &self.keep_within_daily),
            ("--keep-within-weekly", &self.keep_within_weekly),
            ("--keep-within-monthly", &self.keep_within_monthly),
            ("--keep-within-yearly", &self.keep_within_yearly),
        ];
        let mut arguments = Vec::new();
        arguments.extend(counts.iter().filter(|(_, n)| *n > 0).map(|(flag, n)| (*flag, n.to_string())));
        // restic 0.14 takes "0d" for a rule that keeps nothing; later ones refuse it.
        let told = spans.iter().filter_map(|(flag, span)| Some((*flag, (*span).clone()?)));
        arguments.extend(told.filter(|(_, span)| !is_no_time(span)));
        arguments.extend(self.keep_tags.iter().map(|tag| ("--keep-tag", tag.clone())));
        arguments
    }

    /// What is wrong with the policy, one sentence per rule; empty when restic will take it.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (flag, value) in self.arguments() {
            if flag.starts_with("--keep-within") && !is_restic_span(&value) {
                let key = flag.trim_start_matches("--").replace('-', "_");
                problems.push(format!(
                    "{key} = {value:?} is not a span of restic's: write for example \"14d\" or \"1y6m\" (y, m, d, h)"
                ));
            }
            if flag == "--keep-tag" && value.is_empty() {
                problems.push("keep_tags has an empty tag".to_owned());
            }
        }
        problems
    }
}

/// restic's duration: numbers each followed by one of y, m, d, h, in that order, each at most once.
fn is_restic_span(text: &str) -> bool {
    let mut allowed = "ymdh";
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let Some(unit) = rest[digits..].chars().next() else { return false };
        let Some(at) = allowed.find(unit) else { return false };
        if digits == 0 || digits > 6 {
            return false;
        }
        allowed = &allowed[at + 1..];
        rest = &rest[digits + 1..];
    }
    !text.is_empty()
}

/// A span of no length, which is no rule as a count of 0 is none.
fn is_no_time(span: &str) -> bool {
    is_restic_span(span) && !span.bytes().any(|byte| matches!(byte, b'1'..=b'9'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_without_rules_is_empty_also_with_zeros() {
        assert!(RetentionPolicy::default().is_empty());
        assert!(RetentionPolicy { keep_last: 0, ..Default::default() }.is_empty());
        for span in ["0d", "0y00m0h"] {
            assert!(RetentionPolicy { keep_within: Some(span.into()), ..Default::default() }.is_empty(), "{span}");
        }
        let tags = RetentionPolicy { keep_tags: vec!["x".into()], ..Default::default() };
        assert!(!tags.is_empty() && tags.is_by_tags_alone());
        assert!(!RetentionPolicy { keep_last: 1, ..tags }.is_by_tags_alone());
        assert!(!RetentionPolicy::default().is_by_tags_alone());
    }

    #[test]
    fn every_rule_becomes_its_flag() {
        let one = |policy: RetentionPolicy| {
            policy.arguments().into_iter().map(|(f, v)| format!("{f}={v}")).collect::<Vec<_>>().join(" ")
        };
        let d = RetentionPolicy::default;
        let rows = [
            (RetentionPolicy { keep_last: 1, ..d() }, "--keep-last=1"),
            (RetentionPolicy { keep_hourly: 2, ..d() }, "--keep-hourly=2"),
            (RetentionPolicy { keep_daily: 3, ..d() }, "--keep-daily=3"),
            (RetentionPolicy { keep_weekly: 4, ..d() }, "--keep-weekly=4"),
            (RetentionPolicy { keep_monthly: 5, ..d() }, "--keep-monthly=5"),
            (RetentionPolicy { keep_yearly: 6, ..d() }, "--keep-yearly=6"),
            (RetentionPolicy { keep_within: Some("1d".into()), ..d() }, "--keep-within=1d"),
            (RetentionPolicy { keep_within_hourly: Some("2d".into()), ..d() }, "--keep-within-hourly=2d"),
            (RetentionPolicy { keep_within_daily: Some("3d".into()), ..d() }, "--keep-within-daily=3d"),
            (RetentionPolicy { keep_within_weekly: Some("4d".into()), ..d() }, "--keep-within-weekly=4d"),
            (RetentionPolicy { keep_within_monthly: Some("5d".into()), ..d() }, "--keep-within-monthly=5d"),
            (RetentionPolicy { keep_within_yearly: Some("6d".into()), ..d() }, "--keep-within-yearly=6d"),
            (RetentionPolicy { keep_tags: vec!["a".into(), "b".into()], ..d() }, "--keep-tag=a --keep-tag=b"),
        ];
        for (policy, expected) in rows {
            assert_eq!(one(policy), expected);
        }
    }

    #[test]
    fn spans_are_restics() {
        for good in ["1d", "1y5m7d2h", "14d"] {
            assert!(is_restic_span(good), "{good}");
        }
        for bad in ["", "d", "1", "1w", "1d1y", "1d1d", "-1d", "1é"] {
            assert!(!is_restic_span(bad), "{bad}");
        }
    }
}
