//! What a part found: tables, notes and at most one plot, written as files.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::{
    plot::{self, Frame, Lines},
    table::Table,
};

/// The result of one part.
#[derive(Debug)]
pub(crate) struct Report {
    /// As on the command line, and of its files.
    pub(crate) part: &'static str,
    title: &'static str,
    pub(crate) tables: Vec<Table>,
    /// How to read the tables; what was skipped, and why.
    pub(crate) notes: Vec<String>,
    pub(crate) plots: Vec<Plot>,
}

/// One picture.
#[derive(Debug)]
pub(crate) struct Plot {
    /// Appended to the name of the part.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
    pub(crate) lines: Lines,
}

impl Report {
    pub(crate) fn new(part: &'static str, title: &'static str) -> Self {
        Self {
            part,
            title,
            tables: Vec::new(),
            notes: Vec::new(),
            plots: Vec::new(),
        }
    }

    /// Something was not measured.
    pub(crate) fn skipped(&mut self, what: &str, why: &str) {
        eprintln!("SKIPPED: {what}: {why}");
        self.notes.push(format!("Skipped: {what}: {why}."));
    }

    /// Writes `PART.md`, a `PART-N.csv` for each table, and `PART-NAME.svg` for each plot.
    pub(crate) fn write(&self, folder: &Path, machine: &str) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut text = format!("# {}\n\n{machine}\n", self.title);
        for (index, table) in self.tables.iter().enumerate() {
            text += &format!("\n{}", table.markdown());
            let name = format!("{}-{}.csv", self.part, index + 1);
            write(&folder.join(name), &table.csv())?;
        }
        for plot in &self.plots {
            let name = format!("{}-{}.svg", self.part, plot.name);
            let frame = Frame {
                title: plot.title,
                x: plot.x,
                y: plot.y,
            };
            if plot::draw(&folder.join(&name), &frame, &plot.lines)? {
                text += &format!("\n![{}]({name})\n", plot.title);
            }
        }
        if !self.notes.is_empty() {
            text += "\n";
        }
        for note in &self.notes {
            text += &format!("- {note}\n");
        }
        println!("{text}");
        write(&folder.join(format!("{}.md", self.part)), &text)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
