//! Pure. Prometheus' text format (version 0.0.4): families with their help and type, samples with their labels. Whatever a label's
//! value holds, it stays one label of one line, and nothing that a terminal or a browser obeys gets out. Does not know which
//! families there are.

use std::fmt::Write as _;

/// What an answer in this format is called.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Longer values are cut: agents choose some of them. In characters.
const VALUE_LIMIT: usize = 100;

/// Whether the figures may only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

/// The lines before a family's samples.
pub fn write_head(out: &mut String, name: &str, help: &str, kind: Kind) {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
    };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// The samples of one family.
pub struct Samples<'a> {
    out: &'a mut String,
    name: &'static str,
}

/// A figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Figure {
    Whole(i128),
    Real(f64),
}

impl From<u64> for Figure {
    fn from(number: u64) -> Self {
        Self::Whole(number.into())
    }
}

impl From<i64> for Figure {
    fn from(number: i64) -> Self {
        Self::Whole(number.into())
    }
}

impl From<usize> for Figure {
    fn from(number: usize) -> Self {
        // No system has more than 64 bits.
        Self::Whole(number as i128)
    }
}

impl From<bool> for Figure {
    fn from(is_so: bool) -> Self {
        Self::Whole(is_so.into())
    }
}

impl From<f64> for Figure {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

impl<'a> Samples<'a> {
    pub fn new(out: &'a mut String, name: &'static str) -> Self {
        Self { out, name }
    }

    /// One sample. The labels' names are ours, their values anybody's.
    pub fn add(&mut self, labels: &[(&str, &str)], figure: impl Into<Figure>) {
        self.out.push_str(self.name);
        for (number, (name, value)) in labels.iter().enumerate() {
            self.out.push(if number == 0 { '{' } else { ',' });
            self.out.push_str(name);
            self.out.push_str("=\"");
            push_value(self.out, value);
            self.out.push('"');
        }
        self.out.push_str(if labels.is_empty() { " " } else { "} " });
        // Writing to a String cannot fail. Rust writes infinities and NaN in words that Prometheus reads too.
        let _ = match figure.into() {
            Figure::Whole(number) => writeln!(self.out, "{number}"),
            Figure::Real(number) => writeln!(self.out, "{number}"),
        };
    }

    /// The same, unless the figure is unknown.
    pub fn add_known(&mut self, labels: &[(&str, &str)], figure: Option<impl Into<Figure>>) {
        if let Some(figure) = figure {
            self.add(labels, figure);
        }
    }
}

/// A label's value, escaped. Most are names, which need nothing of it.
fn push_value(out: &mut String, value: &str) {
    let is_plain = |byte: u8| (b' '..=b'~').contains(&byte) && !matches!(byte, b'"' | b'\\');
    if value.len() <= VALUE_LIMIT && value.bytes().all(is_plain) {
        out.push_str(value);
        return;
    }
    for character in value.chars().take(VALUE_LIMIT) {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            _ if is_obeyed(character) => out.push('\u{fffd}'),
            _ => out.push(character),
        }
    }
}

/// Control characters, those that turn the direction of text, and those that end a line for somebody.
fn is_obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(labels: &[(&str, &str)], figure: impl Into<Figure>) -> String {
        let mut out = String::new();
        Samples::new(&mut out, "a_b").add(labels, figure);
        out
    }

    #[test]
    fn samples_are_written_as_prometheus_reads_them() {
        assert_eq!(written(&[], 5_u64), "a_b 5\n");
        assert_eq!(written(&[("host", "web-1")], true), "a_b{host=\"web-1\"} 1\n");
        assert_eq!(written(&[("a", "x"), ("b", "")], -0.25), "a_b{a=\"x\",b=\"\"} -0.25\n");
        for (number, text) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf"), (f64::NEG_INFINITY, "-inf")] {
            assert_eq!(written(&[], number), format!("a_b {text}\n"));
        }
        assert_eq!(written(&[], u64::MAX), "a_b 18446744073709551615\n");
        let mut out = String::new();
        write_head(&mut out, "a_b", "What it is.", Kind::Counter);
        assert_eq!(out, "# HELP a_b What it is.\n# TYPE a_b counter\n");
    }

    #[test]
    fn no_value_leaves_its_label_or_its_line() {
        for (value, text) in [
            ("a\"} 1\nroot_metric 1", "a\\\"} 1\u{fffd}root_metric 1"),
            ("\\", "\\\\"),
            ("\\n\"", "\\\\n\\\""),
            ("\r\n\t\0\u{1b}[2J\u{9b}31m\u{7f}", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}[2J\u{fffd}31m\u{fffd}"),
            ("\u{202e}gnp.exe\u{2028}\u{feff}", "\u{fffd}gnp.exe\u{fffd}\u{fffd}"),
            ("</script><script>alert(1)", "</script><script>alert(1)"),
            ("größer", "größer"),
        ] {
            assert_eq!(written(&[("a", value), ("b", "c")], 1_u64), format!("a_b{{a=\"{text}\",b=\"c\"}} 1\n"));
        }
        let long = written(&[("a", &"\"".repeat(5000))], 1_u64);
        assert_eq!(long.matches("\\\"").count(), VALUE_LIMIT);
    }
}
