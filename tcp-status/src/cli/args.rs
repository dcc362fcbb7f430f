//! The one definition of the command line: help, man page and completions come from it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{
    Args, Parser, Subcommand, ValueEnum, ValueHint,
    builder::{OsStringValueParser, TypedValueParser as _},
};
use clap_complete::Shell;
use ipnet::IpNet;
use tcp_status_common::state::{Family, State};

use super::{complete, parse};
use crate::{kernel::plan::Backend, serve::DEFAULT_SOCKET};

const EXIT: &str = "\
Exit status: 0 success; 1 the answer is no (verify differs); 2 bad usage or argument; \
3 no tracker reachable; 4 refused by the kernel or by permission. \
An error is one line on standard error, and nothing on standard output. \
Without a command, this help goes to standard error, with status 2.

Times are a number and a unit, as in 500ms, 90s, 20m or 2h; without a unit, they are seconds.";

const LISTENERS: &str = "\
Columns: queue is what waits for accept(), limit how much may wait (the kernel takes one more), \
peak the most that waited within the window, syn the half-open connections. FULL: the kernel \
takes no more connections now; was full: it did not, within the window. Sockets that share an address by SO_REUSEPORT are summed up in \
one row, and listed beneath it; the sum of their peaks is the most that can have waited at once.";

const TOP: &str = "\
The key ? explains all keys. There are no colours where NO_COLOR is set, and only ASCII \
characters where the locale has no UTF-8. Not on a terminal, use show or listeners.";

const DISCOVER: &str = "\
One object for each port, whatever number of sockets listens there, with the macros {#PORT}, \
{#ADDRESSES} and {#FAMILIES} (separated by commas), {#LIMIT} (of all accept queues together) and \
{#NETNS} (inode number). For Zabbix 4.2 and later.";

/// Exact TCP state counts of this host, kept by eBPF and answered at once
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
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Count and serve until a signal ends it, in the foreground
    Run(RunOptions),
    /// Print one number: how many connections are in a state
    Get(GetOptions),
    /// Print all eleven states, as a table or as JSON
    Show(ShowOptions),
    /// Watch the states, rates, listeners and ports live
    Top(TopOptions),
    /// Print every listening socket with its queues, as a table or as JSON
    Listeners(ListenersOptions),
    /// Print the listening ports for Zabbix's low-level discovery, as JSON
    Discover(DiscoverOptions),
    /// Compare the tracker with one walk over the kernel's tables; exit 1 if they differ
    Verify(VerifyOptions),
    /// Say what this host offers and what follows from it: attaches, detaches, exits
    Check,
    /// Put the Zabbix agent's configuration in place, remove it, or see whether it works
    #[command(subcommand)]
    Zabbix(ZabbixCommand),
    /// Print shell completions
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

/// Where the tracker is.
#[derive(Args, Debug)]
pub struct SocketOption {
    /// Unix socket of the tracker
    #[arg(long, value_name = "PATH", env = "TCP_STATUS_SOCKET", default_value = DEFAULT_SOCKET)]
    #[arg(value_parser = OsStringValueParser::new().try_map(parse::socket))]
    #[arg(allow_hyphen_values = true, hide_env_values = true, add = complete::sockets())]
    pub socket: PathBuf,
}

/// Options of `run`.
#[derive(Args, Debug)]
pub struct RunOptions {
    /// Where to listen.
    #[command(flatten)]
    pub socket: SocketOption,
    /// Group that may connect
    #[arg(long, value_name = "NAME", value_parser = parse::group)]
    #[arg(add = complete::groups())]
    pub socket_group: Option<String>,
    /// Permissions of the socket
    #[arg(long, value_name = "OCTAL", default_value = "0660", value_parser = parse::mode)]
    pub socket_mode: u32,
    /// How the counts are come by
    #[arg(long, value_enum, default_value_t = BackendOption::Auto)]
    pub backend: BackendOption,
    /// Network namespaces to count
    #[arg(long, value_enum, default_value_t = NamespaceOption::Own)]
    pub netns: NamespaceOption,
    /// Shortest time between audits
    #[arg(long, value_name = "TIME", default_value = "1", value_parser = parse::interval)]
    #[arg(allow_hyphen_values = true)]
    pub audit_interval: Duration,
    /// Part of one core that audits may take, in per cent
    #[arg(long, value_name = "PERCENT", default_value = "0.5", value_parser = parse::share)]
    #[arg(allow_hyphen_values = true)]
    pub audit_share: f64,
    /// Shortest time between walks that tell timewait from finwait2, where events cannot
    #[arg(long, value_name = "TIME", default_value = "1", value_parser = parse::interval)]
    #[arg(allow_hyphen_values = true)]
    pub split_interval: Duration,
    /// Shortest time between the samples that peaks are made from
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = parse::interval)]
    #[arg(allow_hyphen_values = true)]
    pub sample_interval: Duration,
    /// Ports with a listener whose connections are counted apart; further ones are counted together
    #[arg(long, value_name = "COUNT", default_value = "256", value_parser = parse::max_ports)]
    #[arg(allow_hyphen_values = true)]
    pub max_ports: u32,
    /// Network namespaces that are counted with --netns all, beside the own one
    #[arg(long, value_name = "COUNT", default_value = "1024", value_parser = parse::max_namespaces)]
    #[arg(allow_hyphen_values = true)]
    pub max_namespaces: u32,
    /// Serve metrics for Prometheus and OpenMetrics over HTTP, without authentication, as in
    /// 127.0.0.1:9889
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse::address)]
    #[arg(allow_hyphen_values = true)]
    pub metrics: Option<SocketAddr>,
    /// Host names in requests for metrics, beside this host's name and IP addresses
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "metrics")]
    #[arg(value_parser = parse::host)]
    pub metrics_host: Vec<String>,
    /// Metrics under the names of another exporter as well
    #[arg(long, value_name = "EXPORTER", value_enum, requires = "metrics")]
    pub metrics_compat: Option<CompatOption>,
    /// Answer passive checks of Zabbix servers, as an agent would, as in 192.0.2.7:10060
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse::address)]
    #[arg(allow_hyphen_values = true)]
    pub zabbix: Option<SocketAddr>,
    /// Addresses and networks that passive checks are answered to [default: this host]
    #[arg(long, value_name = "CIDR", value_parser = parse::network, value_delimiter = ',')]
    #[arg(requires = "zabbix", allow_hyphen_values = true)]
    pub zabbix_allow: Vec<IpNet>,
}

/// Whose names metrics have as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompatOption {
    /// node_exporter: node_tcp_connection_states
    Node,
}

/// How the counts are come by, as it is said on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendOption {
    /// eBPF if it can be had, else a scan, with a warning
    Auto,
    /// eBPF or nothing
    Ebpf,
    /// A walk over all sockets per query
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

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FamilyOption {
    /// IPv4
    #[value(name = "4", aliases = ["ipv4", "v4", "inet", "inet4", "ip4"])]
    V4,
    /// IPv6
    #[value(name = "6", aliases = ["ipv6", "v6", "inet6", "ip6"])]
    V6,
}

impl From<FamilyOption> for Family {
    fn from(option: FamilyOption) -> Self {
        match option {
            FamilyOption::V4 => Self::V4,
            FamilyOption::V6 => Self::V6,
        }
    }
}

/// Which network namespaces are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NamespaceOption {
    /// The tracker's own
    #[value(name = "self")]
    Own,
    /// Every one, those that come later included
    All,
}

/// Options of `get`.
#[derive(Args, Debug)]
pub struct GetOptions {
    /// The state, in any usual spelling: established, TIME_WAIT, fin-wait-2, ...
    #[arg(value_parser = parse::StateParser)]
    pub state: State,
    /// Only connections with this local port
    #[arg(long, value_parser = parse::port, allow_hyphen_values = true)]
    #[arg(add = complete::ports())]
    pub port: Option<u16>,
    /// Only IPv4 or only IPv6
    #[arg(
        long,
        value_name = "4|6",
        value_enum,
        ignore_case = true,
        allow_hyphen_values = true
    )]
    pub family: Option<FamilyOption>,
    /// Another network namespace: a name, an inode number or a PID
    #[arg(long, value_name = "NS", value_parser = parse::netns, allow_hyphen_values = true)]
    #[arg(add = complete::namespaces())]
    pub netns: Option<String>,
    /// Where the tracker is.
    #[command(flatten)]
    pub socket: SocketOption,
}

/// Options of `show`.
#[derive(Args, Debug)]
pub struct ShowOptions {
    /// One line of JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Only connections with this local port
    #[arg(long, value_parser = parse::port, allow_hyphen_values = true)]
    #[arg(add = complete::ports())]
    pub port: Option<u16>,
    /// Another network namespace: a name, an inode number or a PID
    #[arg(long, value_name = "NS", value_parser = parse::netns, allow_hyphen_values = true)]
    #[arg(add = complete::namespaces())]
    pub netns: Option<String>,
    /// Every network namespace that is counted
    #[arg(long, conflicts_with = "netns")]
    pub all_netns: bool,
    /// How far back peaks and rates reach, up to 10m: the time between your polls [default: 1m]
    #[arg(long, value_name = "TIME", value_parser = parse::window, allow_hyphen_values = true)]
    pub window: Option<u32>,
    /// Where the tracker is.
    #[command(flatten)]
    pub socket: SocketOption,
}

/// Options of `top`.
#[derive(Args, Debug)]
#[command(after_help = TOP)]
pub struct TopOptions {
    /// Time between readings
    #[arg(long, value_name = "TIME", default_value = "1", value_parser = parse::refresh)]
    #[arg(allow_hyphen_values = true)]
    pub interval: Duration,
    /// Network namespace to begin with: a name, an inode number or a PID [default: the tracker's]
    #[arg(long, value_name = "NS", value_parser = parse::netns, allow_hyphen_values = true)]
    #[arg(add = complete::namespaces())]
    pub netns: Option<String>,
    /// Where the tracker is.
    #[command(flatten)]
    pub socket: SocketOption,
}

/// Options of `listeners`.
#[derive(Args, Debug)]
#[command(after_help = LISTENERS)]
pub struct ListenersOptions {
    /// One line of JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Only sockets with this port
    #[arg(long, value_parser = parse::port, allow_hyphen_values = true)]
    #[arg(add = complete::ports())]
    pub port: Option<u16>,
    /// Another network namespace: a name, an inode number or a PID
    #[arg(long, value_name = "NS", value_parser = parse::netns, allow_hyphen_values = true)]
    #[arg(add = complete::namespaces())]
    pub netns: Option<String>,
    /// How far back peaks reach, up to 10m: the time between your polls [default: 1m]
    #[arg(long, value_name = "TIME", value_parser = parse::window, allow_hyphen_values = true)]
    pub window: Option<u32>,
    /// Where the tracker is.
    #[command(flatten)]
    pub socket: SocketOption,
}

/// Options of `discover`.
#[derive(Args, Debug)]
#[command(after_help = DISCOVER)]
pub struct DiscoverOptions {
    /// Another network namespace: a name, an inode number or a PID
    #[arg(long, value_name = "NS", value_parser = parse::netns, allow_hyphen_values = true)]
    #[arg(add = complete::namespaces())]
    pub netns: Option<String>,
    /// Every network namespace that is counted
    #[arg(long, conflicts_with = "netns")]
    pub all_netns: bool,
    /// Where the tracker is.
    #[command(flatten)]
    pub socket: SocketOption,
}

/// What can be done about the Zabbix agents of this host.
#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true, arg_required_else_help = true)]
pub enum ZabbixCommand {
    /// Show what would change, ask, and put the configuration in place; exit 1 if it is not wanted
    Install(ZabbixFile),
    /// Show what would go, ask, and remove the configuration; exit 1 if it is not wanted
    Uninstall(ZabbixFile),
    /// Say whether file, socket and agent work together; exit 1 if they do not
    Check(ZabbixCheck),
}

/// Options of `zabbix install` and `zabbix uninstall`.
#[derive(Args, Debug)]
pub struct ZabbixFile {
    /// Change files without asking
    #[arg(long)]
    pub yes: bool,
    /// Directory to take for the root of the host
    #[arg(long, value_name = "DIR", default_value = "/", value_hint = ValueHint::DirPath)]
    pub root: PathBuf,
}

/// Options of `zabbix check`.
#[derive(Args, Debug)]
pub struct ZabbixCheck {
    /// Directory to take for the root of the host: only files are looked at
    #[arg(long, value_name = "DIR", default_value = "/", value_hint = ValueHint::DirPath)]
    pub root: PathBuf,
    /// Where the tracker is.
    #[command(flatten)]
    pub socket: SocketOption,
}

/// Options of `verify`.
#[derive(Args, Debug)]
pub struct VerifyOptions {
    /// One line of JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Where the tracker is.
    #[command(flatten)]
    pub socket: SocketOption,
}
