//! Plots: SVG, both axes logarithmic, since what is compared differs by orders of magnitude.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result, anyhow};
use plotters::prelude::{
    ChartBuilder, Circle, Color as _, IntoDrawingArea as _, IntoLogRange as _, LineSeries, Palette,
    Palette99, PathElement, SVGBackend, SeriesLabelPosition, WHITE,
};

/// Lines of one plot: by name, (x, y), all above zero.
pub(crate) type Lines = BTreeMap<String, Vec<(f64, f64)>>;

/// What stands around the lines.
pub(crate) struct Frame<'a> {
    pub(crate) title: &'a str,
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
}

const SIZE: (u32, u32) = (960, 600);

/// Draws; nothing if there is no line of at least two points.
pub(crate) fn draw(path: &Path, frame: &Frame<'_>, lines: &Lines) -> Result<bool> {
    if !lines.values().any(|line| line.len() > 1) {
        return Ok(false);
    }
    try_draw(path, frame, lines)
        .map_err(|error| anyhow!("{error}"))
        .with_context(|| format!("cannot draw {}", path.display()))?;
    Ok(true)
}

fn try_draw(
    path: &Path,
    frame: &Frame<'_>,
    lines: &Lines,
) -> Result<(), Box<dyn std::error::Error>> {
    let ends = |axis: fn(&(f64, f64)) -> f64| {
        let values = lines.values().flatten().map(axis);
        let (low, high) = values.fold((f64::MAX, f64::MIN_POSITIVE), |(low, high), value| {
            (value.min(low), value.max(high))
        });
        // Room around, so that a flat line can be seen to be flat.
        (low / 2.0..high * 2.0).log_scale()
    };
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(frame.title, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(80)
        .build_cartesian_2d(ends(|point| point.0), ends(|point| point.1))?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(frame.x)
        .y_desc(frame.y)
        .x_label_formatter(&|value| grouped(*value))
        .y_label_formatter(&|value| grouped(*value))
        .draw()?;
    for (index, (name, line)) in lines.iter().enumerate() {
        let colour = Palette99::pick(index).to_rgba();
        chart
            .draw_series(LineSeries::new(
                line.iter().copied(),
                colour.stroke_width(2),
            ))?
            // Names are those of the tables, where what is typed stands in backticks.
            .label(name.replace('`', ""))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(
            line.iter()
                .map(|&point| Circle::new(point, 3, colour.filled())),
        )?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    area.present()?;
    Ok(())
}

/// A tick of an axis, which is a power of ten: digits in groups of three.
fn grouped(value: f64) -> String {
    if value < 1.0 {
        return format!("{value}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_can_be_read() {
        let ticks = [0.1, 1.0, 100.0, 1_000.0, 1_000_000.0].map(grouped);
        assert_eq!(ticks, ["0.1", "1", "100", "1,000", "1,000,000"]);
    }

    #[test]
    fn every_line_is_named_in_the_picture() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.svg");
        let frame = Frame {
            title: "cost",
            x: "sockets",
            y: "us",
        };
        let mut lines = Lines::new();
        assert!(!draw(&path, &frame, &lines).unwrap());
        lines.insert("get".into(), vec![(100.0, 1.0), (1e6, 1.0)]);
        lines.insert("netstat".into(), vec![(100.0, 9e2), (1e6, 5e6)]);
        assert!(draw(&path, &frame, &lines).unwrap());
        let text = std::fs::read_to_string(path).unwrap();
        for word in ["cost", "sockets", "get", "netstat"] {
            assert!(text.contains(word), "{word}");
        }
    }
}
