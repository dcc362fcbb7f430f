//! What a part measured: tables, notes and plots, written as Markdown and SVG.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result, anyhow};
use plotters::prelude::{
    ChartBuilder, Circle, Color as _, IntoDrawingArea as _, IntoLogRange as _, LineSeries, Palette,
    Palette99, PathElement, SVGBackend, SeriesLabelPosition, WHITE,
};

use super::cost::Spread;
use crate::files;

/// The result of one part.
#[derive(Debug)]
pub(super) struct Report {
    /// As on the command line, and of its files.
    part: &'static str,
    title: &'static str,
    pub(super) tables: Vec<Table>,
    /// How to read the tables; what was skipped, and why.
    notes: Vec<String>,
    pub(super) plots: Vec<Plot>,
}

/// Columns and rows, all text.
#[derive(Debug)]
pub(super) struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

/// One picture. Both axes are logarithmic, since what is compared differs by orders of magnitude.
#[derive(Debug)]
pub(super) struct Plot {
    /// Appended to the name of the part.
    name: &'static str,
    title: &'static str,
    x: &'static str,
    y: &'static str,
    /// By name: (x, y), all above zero.
    lines: BTreeMap<String, Vec<(f64, f64)>>,
}

/// What a row is made of: one cell, several, or none.
pub(super) trait Cells {
    fn append_to(&self, row: &mut Vec<String>);
}

macro_rules! plain_cell {
    ($($kind:ty)+) => {$(impl Cells for $kind {
        fn append_to(&self, row: &mut Vec<String>) {
            row.push(self.to_string());
        }
    })+};
}
plain_cell!(&str String u64);

/// Three significant digits.
impl Cells for f64 {
    fn append_to(&self, row: &mut Vec<String>) {
        let digits = match self.abs() {
            size if size >= 100.0 || size == 0.0 => 0,
            size if size >= 10.0 => 1,
            size if size >= 1.0 => 2,
            _ => 3,
        };
        row.push(format!("{self:.digits$}"));
    }
}

/// An empty cell for none.
impl<T: Cells> Cells for Option<T> {
    fn append_to(&self, row: &mut Vec<String>) {
        match self {
            Some(cell) => cell.append_to(row),
            None => row.push(String::new()),
        }
    }
}

impl<T: Cells> Cells for &[T] {
    fn append_to(&self, row: &mut Vec<String>) {
        self.iter().for_each(|cell| cell.append_to(row));
    }
}

/// Three cells: median, lowest, highest.
impl Cells for Spread {
    fn append_to(&self, row: &mut Vec<String>) {
        (&[self.median, self.low, self.high][..]).append_to(row);
    }
}

impl Report {
    pub(super) fn new(part: &'static str, title: &'static str) -> Self {
        Self {
            part,
            title,
            tables: Vec::new(),
            notes: Vec::new(),
            plots: Vec::new(),
        }
    }

    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Something was not measured.
    pub(super) fn skipped(&mut self, what: &str, why: &str) {
        eprintln!("SKIPPED: {what}: {why}");
        self.note(format!("Skipped: {what}: {why}."));
    }

    /// Writes `PART.md`, and `PART-NAME.svg` for each plot.
    pub(super) fn write(&self, folder: &Path, machine: &str) -> Result<()> {
        files::create_folder(folder)?;
        let mut text = format!("# {}\n\n{machine}\n", self.title);
        for table in &self.tables {
            text += &format!("\n{}", table.markdown());
        }
        for plot in &self.plots {
            let name = format!("{}-{}.svg", self.part, plot.name);
            // There is nothing to see without a line.
            if plot.lines.values().any(|line| line.len() > 1) {
                plot.draw(&folder.join(&name))
                    .map_err(|error| anyhow!("{error}"))
                    .with_context(|| format!("cannot draw {name}"))?;
                text += &format!("\n![{}]({name})\n", plot.title);
            }
        }
        if !self.notes.is_empty() {
            text += &format!("\n- {}\n", self.notes.join("\n- "));
        }
        println!("{text}");
        files::write(folder.join(format!("{}.md", self.part)), &text)
    }
}

impl Table {
    /// The columns are separated by `|`.
    pub(super) fn new(title: impl Into<String>, columns: &str) -> Self {
        let columns = columns.split('|').map(|name| name.trim().to_owned());
        Self {
            title: title.into(),
            rows: vec![columns.collect()],
        }
    }

    /// Adds a row; what is missing at its end stays empty.
    pub(super) fn row(&mut self, cells: &[&dyn Cells]) {
        let mut row = Vec::new();
        cells.iter().for_each(|cell| cell.append_to(&mut row));
        row.resize(self.rows[0].len(), String::new());
        self.rows.push(row);
    }

    fn markdown(&self) -> String {
        let line = |cells: &Vec<String>| {
            let cells: Vec<_> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let mut lines: Vec<_> = self.rows.iter().map(line).collect();
        // Names to the left, figures to the right.
        let rule = vec!["---:".to_owned(); self.rows[0].len()];
        lines.insert(1, line(&rule).replacen("---:", "---", 1));
        format!("## {}\n\n{}", self.title, lines.concat())
    }
}

impl Plot {
    pub(super) fn new(
        name: &'static str,
        title: &'static str,
        x: &'static str,
        y: &'static str,
    ) -> Self {
        let lines = BTreeMap::new();
        Self {
            name,
            title,
            x,
            y,
            lines,
        }
    }

    /// Adds a point to the line of this name.
    pub(super) fn add(&mut self, line: &str, x: u64, y: f64) {
        let line = self.lines.entry(line.to_owned()).or_default();
        line.push((float(x), y));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    fn draw(&self, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let ends = |axis: fn(&(f64, f64)) -> f64| {
            let values = self.lines.values().flatten().map(axis);
            let (low, high) = values.fold((f64::MAX, f64::MIN_POSITIVE), |(low, high), value| {
                (value.min(low), value.max(high))
            });
            // Space around, so that a flat line can be seen to be flat.
            (low / 2.0..high * 2.0).log_scale()
        };
        let area = SVGBackend::new(path, (960, 600)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(self.title, ("sans-serif", 20))
            .margin(16)
            .x_label_area_size(48)
            .y_label_area_size(80)
            .build_cartesian_2d(ends(|point| point.0), ends(|point| point.1))?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc(self.x)
            .y_desc(self.y)
            .x_label_formatter(&f64::to_string)
            .y_label_formatter(&f64::to_string)
            .draw()?;
        for (index, (name, line)) in self.lines.iter().enumerate() {
            let colour = Palette99::pick(index).to_rgba();
            let stroke = colour.stroke_width(2);
            chart
                .draw_series(LineSeries::new(line.iter().copied(), stroke))?
                // Names are those of the tables, where commands stand in backticks.
                .label(name.replace('`', ""))
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], stroke));
            let points = line
                .iter()
                .map(|&point| Circle::new(point, 3, colour.filled()));
            chart.draw_series(points)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .draw()?;
        area.present()?;
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures of a measurement")]
pub(super) const fn float(figure: u64) -> f64 {
    figure as f64
}

/// What each of `count` took; 0 without any.
pub(super) const fn ratio(sum: u64, count: u64) -> f64 {
    float(sum) / float(if count == 0 { 1 } else { count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_its_tables_and_its_lines() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = Report::new("query", "Cost");
        let mut table = Table::new("By sockets", "method | CPU, us");
        table.row(&[&"`ss | awk`", &12.345]);
        report.tables.push(table);
        let mut plot = Plot::new("cpu", "CPU", "sockets", "us");
        plot.add("get", 100, 1.0);
        plot.add("get", 1_000_000, 1.0);
        report.plots.push(plot);
        report.write(folder.path(), "machine").unwrap();
        let text = files::read_text(folder.path().join("query.md")).unwrap();
        let table = "| method | CPU, us |\n| --- | ---: |\n| `ss \\| awk` | 12.3 |\n";
        assert!(text.contains(table), "{text}");
        assert!(text.contains("![CPU](query-cpu.svg)"), "{text}");
        let picture = files::read_text(folder.path().join("query-cpu.svg")).unwrap();
        assert!(picture.contains("sockets") && picture.contains("get"));
    }
}
