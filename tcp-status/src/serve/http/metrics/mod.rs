//! The page of metrics, made from readings. What is on it is in the files beside this one, by
//! topic; this one owns how families are written, and the label that tells namespaces apart.

mod bounded;
mod connections;
mod listeners;
mod process;
mod tracker;

pub(super) use process::StartTime;

use std::{fmt, iter::Peekable, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet,
        prometheus_text, text,
    },
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::negotiation::Format;
use crate::snapshot::{Snapshot, TOGETHER, netns_names};

/// Which labels and names there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Labels {
    /// The network namespace, even if there is only one.
    pub(super) netns: bool,
    /// What node_exporter calls the states, as well.
    pub(super) node: bool,
    /// Maximum number of namespaces beside the tracker's own that are listed individually.
    pub(super) namespaces: usize,
    /// Maximum number of ports of a namespace that are listed individually.
    pub(super) ports: usize,
    /// Maximum number of cgroups that are listed individually, of all namespaces together.
    pub(super) cgroups: usize,
}

/// What is counted about the page itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scrapes {
    /// Scrapes since start, this one included.
    pub(super) begun: u64,
    /// How many of them got no page.
    pub(super) failed: u64,
    /// How long the reading took that this page is made from.
    pub(super) took: Duration,
    /// When they began.
    pub(super) started: StartTime,
}

/// One namespace.
#[derive(Debug)]
struct NetnsSnapshot {
    /// The label that tells it apart, or none.
    netns: Vec<(&'static str, String)>,
    of: Snapshot,
}

/// Everything that is on the page.
#[derive(Debug)]
pub(super) struct Page {
    snapshots: Vec<NetnsSnapshot>,
    /// Namespaces that are not listed individually, with those of their cgroups that are.
    others: Vec<NetnsSnapshot>,
    /// What they have together; none where there is none of them.
    together: Option<NetnsSnapshot>,
    labels: Labels,
    scrapes: Scrapes,
}

impl Page {
    pub(super) fn new(mut snapshots: Vec<Snapshot>, labels: Labels, scrapes: Scrapes) -> Self {
        for snapshot in &mut snapshots {
            bounded::limit_ports(snapshot, labels.ports);
        }
        bounded::limit_cgroups(&mut snapshots, labels.cgroups);
        let names = if labels.netns || snapshots.len() > 1 {
            netns_names(&snapshots)
                .into_iter()
                .map(|name| vec![("netns", name)])
                .collect()
        } else {
            vec![Vec::new(); snapshots.len()]
        };
        let snapshots = names.into_iter().zip(snapshots);
        let mut snapshots: Vec<_> = snapshots
            .map(|(netns, of)| NetnsSnapshot { netns, of })
            .collect();
        let mut others = bounded::limit_namespaces(&mut snapshots, labels.namespaces);
        let together = bounded::together(&mut others).map(|of| NetnsSnapshot {
            netns: vec![("netns", TOGETHER.into())],
            of,
        });
        Self {
            snapshots,
            others,
            together,
            labels,
            scrapes,
        }
    }

    pub(super) fn render(self, format: Format) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _: fmt::Result = match format {
            Format::Text => prometheus_text::encode(&mut text, &registry),
            Format::OpenMetrics => text::encode(&mut text, &registry),
        };
        text
    }
}

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = MetricWriter(encoder);
        let all = || self.snapshots.iter().chain(&self.together);
        connections::write_by_state(&mut writer, all())?;
        if self.labels.node {
            connections::write_as_node_exporter(&mut writer, all())?;
        }
        connections::write(&mut writer, &self.snapshots)?;
        let with_cgroups: Vec<_> = all().chain(&self.others).collect();
        connections::write_cgroups(&mut writer, &with_cgroups)?;
        listeners::write(&mut writer, &self.snapshots)?;
        tracker::write(&mut writer, &self.snapshots)?;
        tracker::write_own(&mut writer, &self.scrapes)?;
        process::write(&mut writer, self.scrapes.started)
    }
}

/// Of what is of the process, not of a namespace.
const NO_NETNS: &[(&str, String)] = &[];

/// A label's name and value.
type Label<'a> = (&'static str, &'a str);

/// One sample of a family: of which namespace, its labels, and its value.
type Sample<'a, const N: usize, V> = (&'a [(&'static str, String)], [Label<'a>; N], V);

/// Writes family after family. One without samples is left out.
struct MetricWriter<'a>(DescriptorEncoder<'a>);

impl MetricWriter<'_> {
    fn gauges<'s, const N: usize, V: EncodeGaugeValue>(
        &mut self,
        (name, unit): (&str, Option<Unit>),
        help: &str,
        samples: impl IntoIterator<Item = Sample<'s, N, V>>,
    ) -> fmt::Result {
        self.family(
            (name, unit, help),
            MetricType::Gauge,
            samples,
            |mut sample, value| sample.encode_gauge(&value),
        )
    }

    /// `_total` is added to the name.
    fn counters<'s, const N: usize, V: EncodeCounterValue>(
        &mut self,
        (name, unit): (&str, Option<Unit>),
        help: &str,
        samples: impl IntoIterator<Item = Sample<'s, N, V>>,
    ) -> fmt::Result {
        self.family(
            (name, unit, help),
            MetricType::Counter,
            samples,
            |mut sample, value| sample.encode_counter::<NoLabelSet, _, f64>(&value, None),
        )
    }

    /// The value is the sum and the number of observations in each bucket, from bound to bound.
    fn histograms<'s, const N: usize>(
        &mut self,
        (name, unit): (&str, Option<Unit>),
        help: &str,
        samples: impl IntoIterator<Item = Sample<'s, N, (f64, Vec<(f64, u64)>)>>,
    ) -> fmt::Result {
        self.family(
            (name, unit, help),
            MetricType::Histogram,
            samples,
            |mut sample, (sum, buckets)| {
                let count = buckets.iter().map(|(_, count)| count).sum();
                sample.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
            },
        )
    }

    /// `_info` is added to the name; the value is always 1.
    fn infos<'s, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<'s, N, ()>>,
    ) -> fmt::Result {
        const NONE: [Label<'_>; 0] = [];
        self.family(
            (name, None, help),
            MetricType::Info,
            samples,
            |mut sample, ()| sample.encode_info(&NONE),
        )
    }

    fn family<'s, const N: usize, V>(
        &mut self,
        (name, unit, help): (&str, Option<Unit>, &str),
        kind: MetricType,
        samples: impl IntoIterator<Item = Sample<'s, N, V>>,
        write: impl Fn(MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        let mut samples: Peekable<_> = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (netns, labels, value) in samples {
            write(family.encode_family(&(netns, labels))?, value)?;
        }
        Ok(())
    }
}
