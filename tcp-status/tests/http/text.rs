//! The text of a page, read by rules of its own: the server's library does not judge itself.

use std::collections::{BTreeMap, BTreeSet};

/// A page, taken apart.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// Values by series, written as on the page.
    pub(crate) samples: BTreeMap<String, f64>,
    /// Kinds by the name in the `TYPE` line.
    pub(crate) kinds: BTreeMap<String, String>,
}

impl Page {
    /// Takes a page apart: each family in one piece and described once, no series twice.
    pub(crate) fn parse(text: &str) -> Self {
        let mut page = Self::default();
        let mut helped = BTreeSet::new();
        let mut family = "";
        for line in text.lines() {
            assert_ne!(line, "");
            match line.split_once(' ').unwrap() {
                ("#", "EOF") => {
                    assert!(text.ends_with("# EOF\n"), "after its end: {text}");
                }
                ("#", comment) => {
                    let (word, rest) = comment.split_once(' ').unwrap();
                    let (name, value) = rest.split_once(' ').unwrap();
                    match word {
                        "HELP" => assert!(helped.insert(name), "again: {line}"),
                        "TYPE" => {
                            let before = page.kinds.insert(name.into(), value.into());
                            assert_eq!(before, None, "again: {line}");
                            family = name;
                        }
                        "UNIT" => assert!(name.ends_with(&format!("_{value}")), "{line}"),
                        _ => panic!("{line}"),
                    }
                }
                _ => {
                    let (series, value) = line.rsplit_once(' ').unwrap();
                    let name = series.split('{').next().unwrap();
                    let suffixes = match &*page.kinds[family] {
                        "histogram" => ["_bucket", "_sum", "_count"],
                        _ => ["", "_total", "_info"],
                    };
                    let suffix = name.strip_prefix(family);
                    let is_of = suffix.is_some_and(|suffix| suffixes.contains(&suffix));
                    assert!(is_of, "{line} in {family}");
                    let series = match name.ends_with("_bucket") {
                        true => bucket(series),
                        false => series.into(),
                    };
                    let before = page.samples.insert(series, value.parse().unwrap());
                    assert_eq!(before, None, "again: {line}");
                }
            }
        }
        let described: BTreeSet<_> = page.kinds.keys().map(String::as_str).collect();
        assert_eq!(described, helped);
        page
    }

    pub(crate) fn value(&self, series: &str) -> f64 {
        *self
            .samples
            .get(series)
            .unwrap_or_else(|| panic!("no {series} among {:#?}", self.samples))
    }

    /// How many series a metric has.
    pub(crate) fn series(&self, metric: &str) -> usize {
        self.samples
            .keys()
            .filter(|series| series.split('{').next() == Some(metric))
            .count()
    }
}

/// A bucket as the text format writes it: in OpenMetrics its bound comes first, and is always a fraction.
fn bucket(series: &str) -> String {
    let (name, labels) = series.split_once('{').unwrap();
    let labels = labels.trim_end_matches('}').split(',');
    let (bounds, mut labels): (Vec<_>, Vec<_>) = labels.partition(|label| label.starts_with("le="));
    let bound = bounds[0].replace(".0\"", "\"");
    labels.push(&bound);
    format!("{name}{{{}}}", labels.join(","))
}
