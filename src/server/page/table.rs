//! Pure. Tables: a caption, a heading for each column, and on a narrow screen each row as a card whose cells say which column they are of. What
//! they are is said to screen readers too, which such a layout would else take from them. Does not know what is in them.

use super::html::{Content, El, Html, all, el};

/// A table that is being filled.
pub struct Table {
    caption: String,
    columns: &'static [&'static str],
    rows: Vec<El>,
}

/// One row's cells.
pub struct Row {
    id: Option<String>,
    cells: Vec<Html>,
}

impl Row {
    pub fn new() -> Self {
        Self { id: None, cells: Vec::new() }
    }

    /// What tells it from the other rows when the page is brought up to date. Unique on the page.
    pub fn id(mut self, id: String) -> Self {
        self.id = Some(id);
        self
    }

    pub fn cell(mut self, content: impl Content) -> Self {
        self.cells.push(all([content]));
        self
    }
}

impl Default for Row {
    fn default() -> Self {
        Self::new()
    }
}

impl Table {
    pub fn new(caption: impl Into<String>, columns: &'static [&'static str]) -> Self {
        Self { caption: caption.into(), columns, rows: Vec::new() }
    }

    /// Its first cell is what the row is about.
    pub fn row(&mut self, row: Row) {
        debug_assert_eq!(row.cells.len(), self.columns.len());
        let mut line = el("tr").attr("role", "row");
        if let Some(id) = &row.id {
            line = line.attr("id", id);
        }
        let cells = row.cells.into_iter().zip(self.columns).enumerate().map(|(index, (cell, label))| {
            let start = match index {
                0 => el("th").attr("scope", "row").attr("role", "rowheader"),
                _ => el("td").attr("role", "cell"),
            };
            let start = if cell.is_empty() { start.class("empty") } else { start };
            // On a narrow screen the label stands beside all of it.
            let start = start.attr("data-label", label);
            if index > 0 && !cell.is_empty() { start.with(el("div").with(cell)) } else { start.with(cell) }
        });
        self.rows.push(line.with(cells.collect::<Vec<_>>()));
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table, or these words where it has no rows.
    pub fn or(self, nothing: &str) -> El {
        if self.rows.is_empty() {
            return el("p").class("nothing").with(nothing);
        }
        let headings =
            self.columns.iter().map(|label| el("th").attr("scope", "col").attr("role", "columnheader").with(*label));
        let head = el("tr").attr("role", "row").with(headings.collect::<Vec<_>>());
        let table = el("table")
            .attr("role", "table")
            .with(el("caption").with(self.caption))
            .with(el("thead").attr("role", "rowgroup").with(head))
            .with(el("tbody").attr("role", "rowgroup").with(self.rows));
        el("div").class("table").with(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cell_says_its_column_and_a_table_without_rows_says_so() {
        let mut table = Table::new("Hosts", &["Host", "Status"]);
        table.row(Row::new().id("host-a".to_owned()).cell("a").cell("<b>"));
        table.row(Row::new().cell("b").cell(()));
        let markup = all([table.or("None.")]).to_string();
        assert!(markup.contains("<caption>Hosts</caption>"), "{markup}");
        assert!(markup.contains(
            "<tr role=\"row\" id=\"host-a\"><th scope=\"row\" role=\"rowheader\" data-label=\"Host\">a</th>"
        ));
        assert!(
            markup.contains("data-label=\"Status\"><div>&lt;b&gt;</div></td>") && markup.contains("class=\"empty\""),
            "{markup}"
        );
        let none = Table::new("Hosts", &["Host"]).or("No hosts.");
        assert_eq!(all([none]).to_string(), "<p class=\"nothing\">No hosts.</p>");
    }
}
