//! The one definition of the command line: help, man page and completions come from it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use ipnet::IpNet;

use super::{
    complete,
    help::{CHECK, EXIT},
    parse,
    query_args::{
        CgroupsOptions, DiscoverOptions, GetOptions, HistoryOptions, ListenersOptions,
        PortsOptions, ShowOptions, SocketOption, TopOptions, VerifyOptions, WaitOptions,
        WhoOptions,
    },
    template::Template,
};
use crate::kernel::plan::Backend;

/// Exact TCP connection counts by state, in constant time
#[derive(Debug, Parser)]
#[command(
    name = "tcp-status",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
#[command(after_help = EXIT)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Count and serve in the foreground until a signal
    Run(RunOptions),
    /// Print the number of connections in one state
    Get(GetOptions),
    /// Print all eleven states, as a table or JSON
    Show(ShowOptions),
    /// Watch problems, states, ports, units and remotes live
    Top(TopOptions),
    /// Print listening sockets and their queues
    Listeners(ListenersOptions),
    /// Print connections by listening port
    Ports(PortsOptions),
    /// Print connections by systemd unit, container or pod
    Cgroups(CgroupsOptions),
    /// Wait until a count is above or below a number
    Wait(WaitOptions),
    /// Print minimum, mean and maximum by minute, and when each peak was
    History(HistoryOptions),
    /// Walk all sockets and print who holds them
    Who(WhoOptions),
    /// Print listening ports for Zabbix low-level discovery
    Discover(DiscoverOptions),
    /// Compare the counts with the kernel's listing
    Verify(VerifyOptions),
    /// Report kernel support and the resulting tier
    Check(CheckOptions),
    /// Install, remove or check the Zabbix agent's configuration
    #[command(subcommand)]
    Zabbix(ZabbixCommand),
    /// Print a file for Zabbix, Prometheus, Grafana or systemd
    Template {
        /// The file
        name: Template,
    },
    /// Print shell completions
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

/// Options of `run`.
#[derive(Args, Debug)]
pub struct RunOptions {
    /// The socket to listen on.
    #[command(flatten)]
    pub socket: SocketOption,
    /// Group of the socket
    #[arg(long, value_name = "NAME", value_parser = parse::group, add = complete::groups())]
    pub socket_group: Option<String>,
    /// Permissions of the socket
    #[arg(long, value_name = "OCTAL", default_value = "0660", value_parser = parse::mode)]
    pub socket_mode: u32,
    /// Counting backend
    #[arg(long, value_enum, default_value_t = BackendOption::Auto)]
    pub backend: BackendOption,
    /// Network namespaces to count
    #[arg(long, value_enum, default_value_t = NamespaceOption::Own)]
    pub netns: NamespaceOption,
    /// Minimum time between audits
    #[arg(long, value_name = "TIME", default_value = "1", value_parser = parse::interval)]
    #[arg(allow_hyphen_values = true)]
    pub audit_interval: Duration,
    /// Share of one core for audits, in percent
    #[arg(long, value_name = "PERCENT", default_value = "0.5", value_parser = parse::share)]
    #[arg(allow_hyphen_values = true)]
    pub audit_share: f64,
    /// Minimum time between walks that separate timewait from finwait2
    #[arg(long, value_name = "TIME", default_value = "1", value_parser = parse::interval)]
    #[arg(allow_hyphen_values = true)]
    pub split_interval: Duration,
    /// Minimum time between samples for peaks
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = parse::interval)]
    #[arg(allow_hyphen_values = true)]
    pub sample_interval: Duration,
    /// Maximum number of listening ports counted individually; the rest are aggregated
    #[arg(long, value_name = "COUNT", default_value = "256", value_parser = parse::max_ports)]
    #[arg(allow_hyphen_values = true)]
    pub max_ports: u32,
    /// Maximum number of cgroups counted individually; 0 counts none
    #[arg(long, value_name = "COUNT", default_value = "256", value_parser = parse::max_cgroups)]
    #[arg(allow_hyphen_values = true)]
    pub max_cgroups: u32,
    /// Measure the time that connections wait for accept()
    #[arg(long)]
    pub accept_latency: bool,
    /// Maximum number of other network namespaces with --netns all
    #[arg(long, value_name = "COUNT", default_value = "1024", value_parser = parse::max_namespaces)]
    #[arg(allow_hyphen_values = true)]
    pub max_namespaces: u32,
    /// Serve Prometheus metrics over HTTP without authentication, as in 127.0.0.1:9889
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse::address, allow_hyphen_values = true)]
    pub metrics: Option<SocketAddr>,
    /// Further host names accepted in HTTP requests
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "metrics")]
    #[arg(value_parser = parse::host)]
    pub metrics_host: Vec<String>,
    /// Maximum number of ports with series of their own, or off; the rest are aggregated
    #[arg(long, value_name = "N|off", default_value = "256", value_parser = parse::metrics_rows)]
    #[arg(allow_hyphen_values = true)]
    pub metrics_ports: usize,
    /// The same for cgroups
    #[arg(long, value_name = "N|off", default_value = "256", value_parser = parse::metrics_rows)]
    #[arg(allow_hyphen_values = true)]
    pub metrics_cgroups: usize,
    /// The same for network namespaces with --netns all
    #[arg(long, value_name = "N|off", default_value = "256", value_parser = parse::metrics_rows)]
    #[arg(allow_hyphen_values = true)]
    pub metrics_namespaces: usize,
    /// Add metrics under the names of another exporter
    #[arg(long, value_name = "EXPORTER", value_enum, requires = "metrics")]
    pub metrics_compat: Option<CompatOption>,
    /// Where metrics are pushed.
    #[command(flatten)]
    pub push: super::push::PushOptions,
    /// Answer Zabbix passive checks, as in 192.0.2.7:10060
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse::address, allow_hyphen_values = true)]
    pub zabbix: Option<SocketAddr>,
    /// Peers whose passive checks are answered [default: this host]
    #[arg(long, value_name = "CIDR", value_parser = parse::network, value_delimiter = ',')]
    #[arg(requires = "zabbix", allow_hyphen_values = true)]
    pub zabbix_allow: Vec<IpNet>,
}

/// Exporters whose metric names can be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompatOption {
    /// node_exporter: node_tcp_connection_states
    Node,
}

/// The counting backends, as options name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendOption {
    /// eBPF if possible, else scans, with a warning
    Auto,
    /// eBPF; fail without it
    Ebpf,
    /// One walk over all sockets per query
    Scan,
}

impl From<BackendOption> for Backend {
    fn from(option: BackendOption) -> Self {
        match option {
            BackendOption::Auto => Self::Auto,
            BackendOption::Ebpf => Self::Ebpf,
            BackendOption::Scan => Self::Scan,
        }
    }
}

/// Which network namespaces are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NamespaceOption {
    /// The tracker's namespace
    #[value(name = "self")]
    Own,
    /// All, including later ones
    All,
}

/// The commands of `zabbix`.
#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true, arg_required_else_help = true)]
pub enum ZabbixCommand {
    /// Show the change, ask, and install the configuration
    Install(ZabbixFile),
    /// Show the change, ask, and remove the configuration
    Uninstall(ZabbixFile),
    /// Check configuration, socket and agent; exit 1 on a failure
    Check(ZabbixCheck),
}

/// Options of `zabbix install` and `zabbix uninstall`.
#[derive(Args, Debug)]
pub struct ZabbixFile {
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Root directory of the host
    #[arg(long, value_name = "DIR", default_value = "/", value_hint = ValueHint::DirPath)]
    pub root: PathBuf,
}

/// Options of `zabbix check`.
#[derive(Args, Debug)]
pub struct ZabbixCheck {
    /// Root directory of the host; other than /, only files are checked
    #[arg(long, value_name = "DIR", default_value = "/", value_hint = ValueHint::DirPath)]
    pub root: PathBuf,
    /// The tracker to query.
    #[command(flatten)]
    pub socket: SocketOption,
}

/// Options of `check`.
#[derive(Args, Debug)]
#[command(after_help = CHECK)]
pub struct CheckOptions {
    /// Open sockets in every state and compare their counts; exit 1 on a difference
    #[arg(long)]
    pub self_test: bool,
}
