//! Options and start of pushes to an OpenTelemetry collector.

use std::{sync::Arc, time::Duration};

use clap::Args;

use super::parse;
use crate::serve::{
    Source,
    otlp::{self, Target},
};

/// Where metrics are pushed.
#[derive(Args, Debug)]
pub struct PushOptions {
    /// Push metrics to an OpenTelemetry collector, as in http://127.0.0.1:4318
    #[arg(long, value_name = "URL", allow_hyphen_values = true)]
    pub otlp: Option<Target>,
    /// Time between pushes
    #[arg(long, value_name = "TIME", default_value = "60", value_parser = parse::interval)]
    #[arg(requires = "otlp", allow_hyphen_values = true)]
    pub otlp_interval: Duration,
}

/// Pushes until `shutdown` completes; does nothing where no collector is named.
pub(super) async fn push(
    options: &PushOptions,
    source: &Arc<dyn Source>,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    if let Some(target) = &options.otlp {
        otlp::push(target, options.otlp_interval, Arc::clone(source), shutdown).await;
    }
    Ok(())
}
