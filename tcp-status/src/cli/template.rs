//! `template`: prints a file of `templates/`. A package installs these files, `cargo install` does not.

use clap::ValueEnum;

use crate::zabbix_agent::CONFIGURATION;

/// The files, as the command line names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Template {
    /// Zabbix server 6.0 and later: items, discovery, triggers, dashboard
    #[value(name = "zabbix-6.0")]
    Zabbix60,
    /// The same in the format of 7.4
    #[value(name = "zabbix-7.4")]
    Zabbix74,
    /// The same in the format of 8.0, with items of type JSON
    #[value(name = "zabbix-8.0")]
    Zabbix80,
    /// Zabbix server 3.0 and later: eleven items, graphs, triggers
    #[value(name = "zabbix-3.0")]
    Zabbix30,
    /// Zabbix agent: the keys, as zabbix install writes them
    ZabbixAgent,
    /// Prometheus: scrape configuration
    Prometheus,
    /// Prometheus: alerting and recording rules
    PrometheusRules,
    /// Grafana: dashboard of one host
    Grafana,
    /// Grafana: dashboard of all hosts
    GrafanaFleet,
    /// systemd: the unit
    SystemdUnit,
    /// systemd: user and group of the unit, for sysusers.d
    SystemdSysusers,
    /// systemd: folder of the socket, for tmpfiles.d
    SystemdTmpfiles,
}

impl Template {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Zabbix60 => {
                include_str!("../../templates/zabbix/template_tcp_status_6.0.yaml")
            }
            Self::Zabbix74 => {
                include_str!("../../templates/zabbix/template_tcp_status_7.4.yaml")
            }
            Self::Zabbix80 => {
                include_str!("../../templates/zabbix/template_tcp_status_8.0.yaml")
            }
            Self::Zabbix30 => {
                include_str!("../../templates/zabbix/template_tcp_status_3.0.xml")
            }
            Self::ZabbixAgent => CONFIGURATION,
            Self::Prometheus => include_str!("../../templates/prometheus/prometheus.yml"),
            Self::PrometheusRules => {
                include_str!("../../templates/prometheus/tcp-status.rules.yml")
            }
            Self::Grafana => include_str!("../../templates/grafana/tcp-status.json"),
            Self::GrafanaFleet => include_str!("../../templates/grafana/tcp-status-fleet.json"),
            Self::SystemdUnit => include_str!("../../templates/systemd/tcp-status.service"),
            Self::SystemdSysusers => {
                include_str!("../../templates/systemd/tcp-status.sysusers")
            }
            Self::SystemdTmpfiles => {
                include_str!("../../templates/systemd/tcp-status.tmpfiles")
            }
        }
    }
}
