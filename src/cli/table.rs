//! Pure. Aligned tables for people: columns as wide as their widest cell, the least important one cut where the terminal is too
//! narrow, colors only where wanted. Every cell is made printable here, so that no caller can forget it.

use std::iter::zip;

use crate::printable::printable;

/// One column, the same for all rows of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    title: &'static str,
    is_right: bool,
    /// Columns with the highest rank are cut and left out first, those of rank 0 never.
    rank: u8,
    /// Half a time would be none.
    is_cut: bool,
}

/// A column of text that is never cut.
pub(super) const fn whole(title: &'static str) -> Column {
    Column { title, is_right: false, rank: 0, is_cut: false }
}

/// A column of text that may be cut; those with the highest rank first.
pub(super) const fn cut(title: &'static str, rank: u8) -> Column {
    Column { title, is_right: false, rank, is_cut: true }
}

/// A column that is shown whole or left out.
pub(super) const fn whole_or_none(title: &'static str, rank: u8) -> Column {
    Column { title, is_right: false, rank, is_cut: false }
}

/// A column of numbers.
pub(super) const fn number(title: &'static str) -> Column {
    Column { title, is_right: true, rank: 0, is_cut: false }
}

/// How something is set off on a terminal with colors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Style {
    #[default]
    Plain,
    Good,
    Doubtful,
    Bad,
    /// Of less interest.
    Faint,
    Heading,
}

impl Style {
    /// The text, set off. It must be printable already.
    pub(super) fn paint(self, text: &str, has_color: bool) -> String {
        let code = match self {
            Self::Plain => "",
            Self::Good => "32",
            Self::Doubtful => "33",
            Self::Bad => "1;31",
            Self::Faint => "2",
            Self::Heading => "1",
        };
        if code.is_empty() || !has_color || text.is_empty() {
            return text.to_owned();
        }
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// One cell: printable text and its style.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cell {
    text: String,
    style: Style,
}

/// A cell of anybody's text.
pub(super) fn cell(text: impl AsRef<str>) -> Cell {
    styled(text, Style::Plain)
}

/// The same, set off.
pub(super) fn styled(text: impl AsRef<str>, style: Style) -> Cell {
    let text = printable(text.as_ref());
    let text = if text.is_empty() { "-".to_owned() } else { text };
    Cell { text, style }
}

/// Where a table is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Screen {
    /// Of a terminal, in columns. Elsewhere nothing is cut.
    pub(super) width: Option<usize>,
    pub(super) has_color: bool,
}

/// A table that may come in parts: the heading once, and each part at least as wide as the ones before.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<Column>,
    widths: Vec<usize>,
    is_begun: bool,
}

/// Between columns.
const GAP: usize = 2;
/// Narrower than this no column is cut.
const LEAST: usize = 8;

impl Table {
    pub(super) fn new(columns: &[Column]) -> Self {
        let widths = columns.iter().map(|column| width(column.title)).collect();
        Self { columns: columns.to_vec(), widths, is_begun: false }
    }

    /// These rows as lines, each with its end; the first part begins with the titles.
    pub(super) fn part(&mut self, rows: &[Vec<Cell>], screen: Screen) -> String {
        for row in rows {
            for (widest, cell) in zip(&mut self.widths, row) {
                *widest = (*widest).max(width(&cell.text));
            }
        }
        let widths = self.fitting(screen.width);
        let mut text = String::new();
        if !self.is_begun {
            self.is_begun = true;
            let titles: Vec<Cell> =
                self.columns.iter().map(|c| Cell { text: c.title.to_owned(), style: Style::Heading }).collect();
            text.push_str(&self.line(&titles, &widths, screen));
        }
        text.extend(rows.iter().map(|row| self.line(row, &widths, screen)));
        text
    }

    /// The columns' widths on such a screen; `None`: there is no room for the column at all.
    fn fitting(&self, screen: Option<usize>) -> Vec<Option<usize>> {
        let mut is_shown = vec![true; self.widths.len()];
        let Some(screen) = screen else { return self.widths.iter().copied().map(Some).collect() };
        let mut ranked: Vec<usize> = (0..self.widths.len()).filter(|index| self.columns[*index].rank > 0).collect();
        ranked.sort_by_key(|index| std::cmp::Reverse(self.columns[*index].rank));
        let mut left_out = ranked.iter();
        loop {
            let mut widths: Vec<Option<usize>> =
                zip(&self.widths, &is_shown).map(|(width, is_shown)| is_shown.then_some(*width)).collect();
            let excess = |widths: &[Option<usize>]| {
                let shown = widths.iter().flatten();
                (shown.clone().sum::<usize>() + GAP * shown.count().saturating_sub(1)).saturating_sub(screen)
            };
            for index in ranked.iter().filter(|index| self.columns[**index].is_cut) {
                let too_much = excess(&widths);
                let least = width(self.columns[*index].title).max(LEAST);
                widths[*index] = widths[*index].map(|width| width.saturating_sub(too_much).max(least.min(width)));
            }
            match left_out.next() {
                Some(index) if excess(&widths) > 0 => is_shown[*index] = false,
                _ => return widths,
            }
        }
    }

    fn line(&self, cells: &[Cell], widths: &[Option<usize>], screen: Screen) -> String {
        let shown = zip(zip(cells, &self.columns), widths).filter_map(|(both, width)| Some((both, (*width)?)));
        let parts = shown.map(|((cell, column), wanted)| {
            let text = if column.is_cut { shortened(&cell.text, wanted) } else { cell.text.clone() };
            let room = " ".repeat(wanted.saturating_sub(width(&text)));
            let painted = cell.style.paint(&text, screen.has_color);
            if column.is_right { room + &painted } else { painted + &room }
        });
        let line = parts.collect::<Vec<_>>().join(&" ".repeat(GAP));
        format!("{}\n", line.trim_end())
    }
}

/// Names and values below each other, the values aligned. What is not known is left out by the caller.
pub(super) fn facts(facts: &[(&str, Cell)], screen: Screen) -> String {
    let widest = facts.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
    let line = |(name, cell): &(&str, Cell)| {
        let room = " ".repeat(widest - width(name) + GAP);
        format!(
            "{}{room}{}\n",
            Style::Heading.paint(name, screen.has_color),
            cell.style.paint(&cell.text, screen.has_color)
        )
    };
    facts.iter().map(line).collect()
}

/// In columns of a terminal.
fn width(text: &str) -> usize {
    console::measure_text_width(text)
}

/// The text in at most so many columns; what was cut ends with an ellipsis.
pub(super) fn shortened(text: &str, columns: usize) -> String {
    console::truncate_str(text, columns, "…").into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [whole("NAME"), number("SIZE"), cut("PATHS", 2), cut("WHY", 1)];

    fn rows(rows: &[[&str; 4]]) -> Vec<Vec<Cell>> {
        rows.iter().map(|row| row.iter().map(cell).collect()).collect()
    }

    fn shown(parts: &[Vec<Vec<Cell>>], width: Option<usize>) -> String {
        let mut table = Table::new(&COLUMNS);
        parts.iter().map(|rows| table.part(rows, Screen { width, has_color: false })).collect()
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_in_what_a_terminal_shows() {
        let text = shown(&[rows(&[["a", "5 B", "/etc", ""], ["日本語", "10.5 KiB", "a\u{301}\u{302}", "x"]])], None);
        let expected = "NAME        SIZE  PATHS  WHY\n\
                        a            5 B  /etc   -\n\
                        日本語  10.5 KiB  a\u{301}\u{302}      x\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_least_important_column_is_cut_first_and_then_left_out() {
        let row = ["web-1", "5 B", "/srv/a-long-path/in/it", "a reason of some length"];
        let lines = |width| shown(&[rows(&[row])], Some(width)).lines().nth(1).expect("a row").to_owned();
        assert_eq!(lines(80), "web-1   5 B  /srv/a-long-path/in/it  a reason of some length");
        assert_eq!(lines(50), "web-1   5 B  /srv/a-long…  a reason of some length");
        assert_eq!(lines(40), "web-1   5 B  /srv/a-…  a reason of some…");
        assert_eq!(lines(31), "web-1   5 B  /srv/a-…  a reaso…");
        assert_eq!(lines(30), "web-1   5 B  a reason of some…", "the column is left out");
        assert_eq!(lines(10), "web-1   5 B", "what matters most is there whole");
        assert_eq!(shown(&[rows(&[row])], None).lines().nth(1), Some(lines(80).as_str()), "elsewhere nothing is cut");
        let wide = ["web-1", "5 B", "日本語日本語日本語", "x"];
        assert_eq!(shown(&[rows(&[wide])], Some(26)).lines().nth(1), Some("web-1   5 B  日本語…   x"));
    }

    #[test]
    fn a_time_is_never_half_there() {
        let mut table = Table::new(&[whole("A"), whole_or_none("SEEN", 2), cut("WHY", 1)]);
        let rows = [vec![cell("a"), cell("37 min ago"), cell("a reason of some length")]];
        let mut shown = |width| {
            table
                .part(&rows, Screen { width: Some(width), has_color: false })
                .lines()
                .last()
                .unwrap_or_default()
                .to_owned()
        };
        assert_eq!(shown(23), "a  37 min ago  a reaso…");
        assert_eq!(shown(22), "a  a reason of some l…");
    }

    #[test]
    fn parts_have_one_heading_and_do_not_get_narrower() {
        let parts = [rows(&[["a-long-name", "1 B", "p", "w"]]), rows(&[["b", "2 B", "p", "w"]])];
        let text = shown(&parts, None);
        assert_eq!(text.matches("NAME").count(), 1);
        assert!(text.ends_with("b             2 B  p      w\n"), "{text}");
        assert_eq!(shown(&[rows(&[])], None), "NAME  SIZE  PATHS  WHY\n");
    }

    #[test]
    fn colors_change_no_alignment_and_nothing_hostile_is_in_a_cell() {
        let mut table = Table::new(&[whole("A"), whole("B")]);
        let row = vec![styled("ok", Style::Good), cell("\u{1b}[2J\u{202e}\n")];
        let text = table.part(&[row], Screen { width: None, has_color: true });
        assert_eq!(
            text,
            "\u{1b}[1mA\u{1b}[0m   \u{1b}[1mB\u{1b}[0m\n\u{1b}[32mok\u{1b}[0m  \\u{1b}[2J\\u{202e}\\u{a}\n"
        );
    }

    #[test]
    fn facts_are_aligned() {
        let text = facts(&[("host", cell("web-1")), ("last seen", cell("now"))], Screen::default());
        assert_eq!(text, "host       web-1\nlast seen  now\n");
    }
}
