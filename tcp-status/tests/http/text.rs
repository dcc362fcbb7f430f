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
                    let stem = name.trim_end_matches("_total").trim_end_matches("_info");
                    assert!([name, stem].contains(&family), "{line} in {family}");
                    let before = page.samples.insert(series.into(), value.parse().unwrap());
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
