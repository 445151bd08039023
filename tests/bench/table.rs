//! What was measured, as a table for people and as JSON: ours, the reference of the same run, the ratio, the goal.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// What a goal compares.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// Our figure itself.
    AtMost(f64),
    /// Our figure through the reference's.
    RatioAtMost(f64),
    RatioAtLeast(f64),
    /// Only to look at.
    None,
}

/// The other side of a line.
#[derive(Debug, Clone)]
pub(crate) enum Reference {
    /// Its name, and a figure for each run.
    Runs(String, Vec<f64>),
    /// What it lacks to run here, and how to get it.
    Missing(String),
    Nothing,
}

/// One line of the table.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) row: &'static str,
    pub(crate) work: String,
    pub(crate) unit: &'static str,
    /// A figure for each run.
    pub(crate) ours: Vec<f64>,
    pub(crate) reference: Reference,
    pub(crate) goal: Goal,
}

/// The middle one; of an even number the mean of the two in the middle. NaN of nothing.
pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// The value below which this share lies, between 0 and 1.
pub(crate) fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    #[allow(clippy::cast_precision_loss, reason = "a count of samples")]
    let at = share * last as f64;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the count")]
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * at.fract()
}

impl Line {
    /// Medians' ratio, ours through the reference's.
    fn ratio(&self) -> Option<f64> {
        match &self.reference {
            Reference::Runs(_, runs) if !runs.is_empty() && !self.ours.is_empty() => {
                Some(median(&self.ours) / median(runs))
            }
            _ => None,
        }
    }

    /// `None`: there is no goal, or nothing to compare with.
    pub(crate) fn is_met(&self) -> Option<bool> {
        match self.goal {
            Goal::AtMost(limit) if !self.ours.is_empty() => Some(median(&self.ours) <= limit),
            Goal::RatioAtMost(limit) => self.ratio().map(|ratio| ratio <= limit),
            Goal::RatioAtLeast(limit) => self.ratio().map(|ratio| ratio >= limit),
            Goal::AtMost(_) | Goal::None => None,
        }
    }

    fn goal_text(&self) -> String {
        match self.goal {
            Goal::AtMost(limit) => format!("<= {} {}", figure(limit), self.unit),
            Goal::RatioAtMost(limit) => format!("<= {limit} x"),
            Goal::RatioAtLeast(limit) => format!(">= {limit} x"),
            Goal::None => String::new(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        let (name, runs, missing) = match &self.reference {
            Reference::Runs(name, runs) => (Some(name), Some(runs), None),
            Reference::Missing(text) => (None, None, Some(text)),
            Reference::Nothing => (None, None, None),
        };
        json!({
            "row": self.row, "work": self.work, "unit": self.unit, "ours": median(&self.ours), "ours_runs": self.ours,
            "reference": name, "reference_median": runs.map(|runs| median(runs)), "reference_runs": runs,
            "missing": missing, "ratio": self.ratio(), "goal": self.goal_text(), "met": self.is_met(),
        })
    }

    fn cells(&self) -> [String; 6] {
        let reference = match &self.reference {
            Reference::Runs(name, runs) => format!("{} {name}", figure(median(runs))),
            Reference::Missing(text) => text.clone(),
            Reference::Nothing => String::new(),
        };
        let ours =
            if self.ours.is_empty() { String::new() } else { format!("{} {}", figure(median(&self.ours)), self.unit) };
        let ratio = self.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        let met = match self.is_met() {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        };
        [self.work.clone(), ours, reference, ratio, self.goal_text(), met.to_owned()]
    }
}

/// A count, its thousands set apart.
pub(crate) fn whole(count: u64) -> String {
    let mut digits = count.to_string();
    let mut at = digits.len();
    while at > 3 {
        at -= 3;
        digits.insert(at, ',');
    }
    digits
}

/// Three digits that count.
pub(crate) fn figure(value: f64) -> String {
    let magnitude = value.abs();
    if value >= 1000.0 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a large positive figure")]
        whole(value.round() as u64)
    } else if magnitude >= 100.0 {
        format!("{value:.0}")
    } else if magnitude >= 10.0 {
        format!("{value:.1}")
    } else if magnitude >= 1.0 || magnitude == 0.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

/// The lines, aligned; a work that is the line's above is not repeated.
pub(crate) fn table(lines: &[Line], colored: bool) -> String {
    let mut rows: Vec<[String; 6]> = vec![["work", "ours", "reference", "ratio", "goal", "met"].map(str::to_owned)];
    let mut before = String::new();
    for line in lines {
        let mut cells = line.cells();
        if cells[0] == before {
            cells[0].clear();
        } else {
            before.clone_from(&cells[0]);
        }
        rows.push(cells);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..6).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let mut shown = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(shown, "{cell:width$}  ");
        }
        let shown = shown.trim_end();
        let color = match row[5].as_str() {
            _ if !colored => "",
            _ if number == 0 => "1",
            "yes" => "32",
            "NO" => "31",
            _ => "",
        };
        let _ = if color.is_empty() {
            writeln!(text, "{shown}")
        } else {
            writeln!(text, "\u{1b}[{color}m{shown}\u{1b}[0m")
        };
    }
    text
}
