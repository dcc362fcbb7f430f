//! `run --zabbix`: from options to an address where passive checks are answered.

use std::sync::Arc;

use anyhow::Context as _;

use super::args::RunOptions;
use crate::serve::{
    Source,
    bind::BindError,
    zabbix::passive::{AllowedNetworks, LIMITS, PassiveServer},
};

/// Listens, if that is asked for.
pub(super) fn bind(options: &RunOptions) -> Result<Option<PassiveServer>, BindError> {
    let allowed = if options.zabbix_allow.is_empty() {
        AllowedNetworks::default()
    } else {
        AllowedNetworks::new(options.zabbix_allow.clone())
    };
    options
        .zabbix
        .map(|address| PassiveServer::bind(address, allowed, LIMITS))
        .transpose()
}

/// Answers until `shutdown`.
pub(super) async fn serve(
    passive: Option<PassiveServer>,
    source: &Arc<dyn Source>,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let Some(passive) = passive else {
        return Ok(());
    };
    let address = passive.address();
    log::info!(address:%, allowed:% = passive.allowed(); "answering zabbix passive checks");
    let served = passive.run(Arc::clone(source), shutdown).await;
    served.with_context(|| format!("cannot listen on --zabbix {address}"))
}
