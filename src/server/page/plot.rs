//! Pure. A curve over time as SVG, with its text alternative: what it shows in one sentence, and every value in a table. Only attributes,
//! no style within, so that the page's policy holds for it. Does not know what is measured.

use chrono::{DateTime, TimeDelta, Utc};

use super::html::{El, all, el};
use super::shown;
use super::table::{Row, Table};

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 150.0;
/// Room for the words at the left, the right and below.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BELOW: f64 = 22.0;
/// Values in the table.
const LISTED: usize = 100;

/// What is drawn.
pub struct Plot<'a> {
    /// Unique on the page.
    pub id: String,
    pub title: String,
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    /// Oldest first.
    pub points: Vec<(DateTime<Utc>, u64)>,
    /// When it was tried and failed.
    pub failures: Vec<DateTime<Utc>>,
    pub format: &'a dyn Fn(u64) -> String,
}

impl Plot<'_> {
    pub fn figure(&self) -> El {
        let caption = el("figcaption").attr("id", format!("{}-caption", self.id)).with(&self.title);
        let figure = el("figure").with(caption);
        if self.points.is_empty() {
            return figure.with(el("p").class("nothing").with("Nothing to show yet."));
        }
        figure.with(self.svg()).with(self.table())
    }

    fn largest(&self) -> u64 {
        self.points.iter().map(|(_, value)| *value).max().unwrap_or(0).max(1)
    }

    fn sentence(&self) -> String {
        let values = self.points.iter().map(|(_, value)| *value);
        let show = |value: Option<u64>| value.map(self.format).unwrap_or_default();
        let newest = show(self.points.last().map(|(_, value)| *value));
        let failures = match self.failures.len() {
            0 => String::new(),
            1 => "; failed once".to_owned(),
            count => format!("; failed {count} times"),
        };
        format!(
            "{} values from {} to {}: the newest {newest}, the smallest {}, the largest {}{failures}",
            self.points.len(),
            self.from.date_naive(),
            self.to.date_naive(),
            show(values.clone().min()),
            show(values.max()),
        )
    }

    #[allow(clippy::cast_precision_loss, reason = "places on a screen")]
    fn x(&self, at: DateTime<Utc>) -> f64 {
        let whole = (self.to - self.from).num_seconds().max(1) as f64;
        LEFT + (WIDTH - LEFT - RIGHT) * ((at - self.from).num_seconds() as f64 / whole).clamp(0.0, 1.0)
    }

    #[allow(clippy::cast_precision_loss, reason = "places on a screen")]
    fn y(value: u64, largest: u64) -> f64 {
        HEIGHT - BELOW - (HEIGHT - TOP - BELOW) * (value as f64 / largest as f64)
    }

    fn svg(&self) -> El {
        let largest = self.largest();
        let mut parts = Vec::new();
        for value in [0, largest / 2, largest] {
            let y = Self::y(value, largest);
            parts.push(line(LEFT, y, WIDTH - RIGHT, y).class("grid"));
            parts.push(text(LEFT - 6.0, y + 4.0, "end").with((self.format)(value)));
        }
        let days = (self.to - self.from).num_days().max(1);
        for third in 0..=3 {
            let at = self.from + TimeDelta::days(days * third / 3);
            let anchor = ["start", "middle", "middle", "end"][usize::try_from(third).unwrap_or_default()];
            parts.push(text(self.x(at), HEIGHT - 6.0, anchor).with(at.format("%-d %b").to_string()));
        }
        let places: Vec<(f64, f64)> =
            self.points.iter().map(|(at, value)| (self.x(*at), Self::y(*value, largest))).collect();
        let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        parts.push(el("polyline").class("curve").attr("points", path.join(" ")));
        // The newest is the one that counts; points on a dense curve are only in its way.
        let dense = places.len() > 40;
        let dots = places.iter().skip(if dense { places.len() - 1 } else { 0 });
        parts.extend(dots.map(|(x, y)| circle(*x, *y, if dense { 3.0 } else { 2.0 }).class("point")));
        parts.extend(self.failures.iter().map(|at| {
            let (x, y) = (self.x(*at), HEIGHT - BELOW);
            el("path").class("point-bad").attr("d", format!("M{:.1} {:.1}l6 6m0 -6l-6 6", x - 3.0, y - 3.0))
        }));
        el("svg")
            .class("plot")
            .attr("viewBox", format!("0 0 {WIDTH} {HEIGHT}"))
            .attr("role", "img")
            .attr("aria-labelledby", format!("{}-caption {}-text", self.id, self.id))
            .with(el("desc").attr("id", format!("{}-text", self.id)).with(self.sentence()))
            .with(all(parts))
    }

    fn table(&self) -> El {
        let mut table = Table::new(format!("{}, newest first", self.title), &["When", "Value"]);
        for (at, value) in self.points.iter().rev().take(LISTED) {
            table.row(Row::new().cell(shown::second(*at)).cell((self.format)(*value)));
        }
        el("details").attr("id", format!("{}-values", self.id)).with(el("summary").with("Values")).with(table.or(""))
    }
}

fn line(x1: f64, y1: f64, x2: f64, y2: f64) -> El {
    el("line")
        .attr("x1", format!("{x1:.1}"))
        .attr("y1", format!("{y1:.1}"))
        .attr("x2", format!("{x2:.1}"))
        .attr("y2", format!("{y2:.1}"))
}

fn circle(x: f64, y: f64, radius: f64) -> El {
    el("circle").attr("cx", format!("{x:.1}")).attr("cy", format!("{y:.1}")).attr("r", radius)
}

fn text(x: f64, y: f64, anchor: &str) -> El {
    el("text").attr("x", format!("{x:.1}")).attr("y", format!("{y:.1}")).attr("text-anchor", anchor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::folded::at;

    fn plot(values: &[(&str, u64)], failures: &[&str]) -> String {
        let plot = Plot {
            id: "p".to_owned(),
            title: "Size of data".to_owned(),
            from: at("2026-11-01T00:00:00Z"),
            to: at("2026-11-11T00:00:00Z"),
            points: values.iter().map(|(time, value)| (at(time), *value)).collect(),
            failures: failures.iter().map(|time| at(time)).collect(),
            format: &shown::bytes,
        };
        all([plot.figure()]).to_string()
    }

    #[test]
    fn a_curve_is_within_its_frame_and_said_in_words() {
        let shown = plot(
            &[("2026-11-01T00:00:00Z", 0), ("2026-11-11T00:00:00Z", 2048), ("2027-01-01T00:00:00Z", 1024)],
            &["2026-11-06T00:00:00Z"],
        );
        assert!(shown.contains("points=\"64.0,128.0 468.0,12.0 468.0,70.0\""), "{shown}");
        assert!(shown.contains("3 values from 2026-11-01 to 2026-11-11: the newest 1.0 KiB, the smallest 0 B, the largest 2.0 KiB; failed once"), "{shown}");
        assert!(shown.contains("class=\"point-bad\" d=\"M263.0 125.0") && !shown.contains("style="), "{shown}");
        assert!(shown.contains("<details") && shown.contains("2026-11-11 00:00:00"), "{shown}");
    }

    #[test]
    fn nothing_and_nothing_but_zeros_are_drawn_too() {
        assert!(plot(&[], &[]).contains("Nothing to show yet."));
        assert!(plot(&[("2026-11-02T00:00:00Z", 0)], &[]).contains("largest 0 B"));
    }
}
