//! Tables: as markdown for readers, as CSV for programs.

use std::fmt::Write as _;

/// Columns and rows, all text.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) title: String,
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, columns: &[&'static str]) -> Self {
        Self {
            title: title.into(),
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// A row with a cell for each column; what is missing stays empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<_> = cells.into_iter().collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n", self.title);
        let line = |cells: &mut dyn Iterator<Item = String>| {
            format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
        };
        text += &line(&mut self.columns.iter().map(ToString::to_string));
        // Names to the left, figures to the right.
        let rule = |index| if index == 0 { "---" } else { "---:" };
        text += &line(&mut (0..self.columns.len()).map(|index| rule(index).to_owned()));
        for row in &self.rows {
            text += &line(&mut row.iter().map(|cell| cell.replace('|', "\\|")));
        }
        text
    }

    pub(crate) fn csv(&self) -> String {
        let mut text = String::new();
        let header = self.columns.iter().map(ToString::to_string).collect();
        for row in std::iter::once(&header).chain(&self.rows) {
            let cells: Vec<_> = row.iter().map(|cell| quoted(cell)).collect();
            let _ = writeln!(text, "{}", cells.join(","));
        }
        text
    }
}

fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

/// Three significant digits.
pub(crate) fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_escape_what_they_must() {
        let mut table = Table::new("T", &["a", "b", "c"]);
        table.row(["x|y".to_owned(), "1,5".to_owned()]);
        assert_eq!(
            table.markdown(),
            "## T\n\n| a | b | c |\n| --- | ---: | ---: |\n| x\\|y | 1,5 |  |\n"
        );
        assert_eq!(table.csv(), "a,b,c\nx|y,\"1,5\",\n");
    }

    #[test]
    fn numbers_keep_three_digits() {
        let texts = [0.0, 0.01234, 1.234, 12.34, 1234.5].map(number);
        assert_eq!(texts, ["0", "0.012", "1.23", "12.3", "1234"]);
    }
}
