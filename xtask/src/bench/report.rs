//! What a part measured: tables, notes and plots, written as Markdown and SVG.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result, anyhow};
use plotters::prelude::{
    ChartBuilder, Circle, Color as _, IntoDrawingArea as _, IntoLogRange as _, LineSeries, Palette,
    Palette99, PathElement, SVGBackend, SeriesLabelPosition, WHITE,
};

use crate::files;

/// The result of one part.
#[derive(Debug)]
pub(super) struct Report {
    /// As on the command line, and of its files.
    part: &'static str,
    title: &'static str,
    pub(super) tables: Vec<Table>,
    /// How to read the tables; what was skipped, and why.
    pub(super) notes: Vec<String>,
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
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) x: &'static str,
    pub(super) y: &'static str,
    pub(super) lines: Lines,
}

/// Lines of one plot: by name, (x, y), all above zero.
pub(super) type Lines = BTreeMap<String, Vec<(f64, f64)>>;

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

    /// Something was not measured.
    pub(super) fn skipped(&mut self, what: &str, why: &str) {
        eprintln!("SKIPPED: {what}: {why}");
        self.notes.push(format!("Skipped: {what}: {why}."));
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
            text.push('\n');
        }
        for note in &self.notes {
            text += &format!("- {note}\n");
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

    /// A row with a cell for each column; what is missing stays empty.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<_> = cells.into_iter().collect();
        cells.resize(self.rows[0].len(), String::new());
        self.rows.push(cells);
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

/// Three significant digits.
pub(super) fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

impl Plot {
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
pub(super) fn ratio(sum: u64, count: u64) -> f64 {
    sum as f64 / count.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_its_tables_and_its_lines() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = Report::new("query", "Cost");
        let mut table = Table::new("By sockets", "method | CPU, us");
        table.row(["`ss | awk`".to_owned(), number(12.345)]);
        report.tables.push(table);
        report.plots.push(Plot {
            name: "cpu",
            title: "CPU",
            x: "sockets",
            y: "us",
            lines: [("get".to_owned(), vec![(100.0, 1.0), (1e6, 1.0)])].into(),
        });
        report.write(folder.path(), "machine").unwrap();
        let text = files::read_text(folder.path().join("query.md")).unwrap();
        let table = "| method | CPU, us |\n| --- | ---: |\n| `ss \\| awk` | 12.3 |\n";
        assert!(text.contains(table), "{text}");
        assert!(text.contains("![CPU](query-cpu.svg)"), "{text}");
        let picture = files::read_text(folder.path().join("query-cpu.svg")).unwrap();
        assert!(picture.contains("sockets") && picture.contains("get"));
    }
}
