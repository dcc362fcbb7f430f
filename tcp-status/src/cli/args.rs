//! The one definition of the command line: help, man page and completions come from it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{
    ArgGroup, Args, Parser, Subcommand, ValueEnum, ValueHint,
    builder::{OsStringValueParser, TypedValueParser as _},
};
use clap_complete::Shell;
use ipnet::IpNet;
use tcp_status_common::state::{Family, State};

use super::{
    complete,
    help::{CGROUPS, CHECK, DISCOVER, EXIT, GET, HISTORY, LISTENERS, PORTS, TOP, WAIT, WHO},
    parse,
    state_argument::StateArgument,
};
use crate::{
    kernel::plan::Backend, serve::DEFAULT_SOCKET, snapshot::who::GroupBy, view::ports::Sort,
};

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
    /// Print shell completions
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

/// The option that selects a tracker.
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
    /// The tracker's namespace
    #[value(name = "self")]
    Own,
    /// All, including later ones
    All,
}

/// Options of `get`.
#[derive(Args, Debug)]
#[command(after_help = GET)]
pub struct GetOptions {
    /// State, in any usual spelling: established, TIME_WAIT, fin-wait-2, ...; or all
    #[arg(value_parser = parse::StateArgumentParser)]
    pub state: StateArgument,
    /// Further states
    #[arg(value_name = "STATE", value_parser = parse::StateArgumentParser)]
    pub more: Vec<StateArgument>,
    /// The sockets that are counted.
    #[command(flatten)]
    pub scope: ScopeOptions,
}

/// Options that select sockets, and the tracker that counts them.
#[derive(Args, Debug)]
pub struct ScopeOptions {
    /// Local port
    #[arg(long, value_parser = parse::port, allow_hyphen_values = true, add = complete::ports())]
    pub port: Option<u16>,
    /// Address family
    #[arg(
        long,
        value_name = "4|6",
        value_enum,
        ignore_case = true,
        allow_hyphen_values = true
    )]
    pub family: Option<FamilyOption>,
    /// Network namespace: a name, an inode number or a PID
    #[arg(long, value_name = "NS", value_parser = parse::netns, allow_hyphen_values = true)]
    #[arg(add = complete::namespaces())]
    pub netns: Option<String>,
    /// systemd unit, or path of a cgroup and all below it
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    #[arg(conflicts_with_all = ["port", "family", "netns"], add = complete::cgroups())]
    pub cgroup: Option<String>,
    /// The tracker to query.
    #[command(flatten)]
    pub socket: SocketOption,
}

/// Options of `show`.
#[derive(Args, Debug)]
pub struct ShowOptions {
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
    /// Local port
    #[arg(long, value_parser = parse::port, allow_hyphen_values = true, add = complete::ports())]
    pub port: Option<u16>,
    /// Network namespace: a name, an inode number or a PID
    #[arg(long, value_name = "NS", value_parser = parse::netns, allow_hyphen_values = true)]
    #[arg(add = complete::namespaces())]
    pub netns: Option<String>,
    /// Every counted network namespace
    #[arg(long, conflicts_with = "netns")]
    pub all_netns: bool,
    /// Time that peaks and rates cover, up to 24h [default: 1m]
    #[arg(long, value_name = "TIME", value_parser = parse::window, allow_hyphen_values = true)]
    pub window: Option<u32>,
    /// Print rates, audits and totals since start too
    #[arg(long, short, conflicts_with = "json")]
    pub verbose: bool,
    /// The tracker to query.
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
    /// Network namespace shown first: a name, an inode number or a PID
    #[arg(long, value_name = "NS", value_parser = parse::netns, allow_hyphen_values = true)]
    #[arg(add = complete::namespaces())]
    pub netns: Option<String>,
    /// The tracker to query.
    #[command(flatten)]
    pub socket: SocketOption,
}

/// Options of `listeners`.
#[derive(Args, Debug)]
#[command(after_help = LISTENERS)]
pub struct ListenersOptions {
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
    /// Local port
    #[arg(long, value_parser = parse::port, allow_hyphen_values = true, add = complete::ports())]
    pub port: Option<u16>,
    /// Network namespace: a name, an inode number or a PID
    #[arg(long, value_name = "NS", value_parser = parse::netns, allow_hyphen_values = true)]
    #[arg(add = complete::namespaces())]
    pub netns: Option<String>,
    /// Time that peaks cover, up to 10m [default: 1m]
    #[arg(long, value_name = "TIME", value_parser = parse::fine_window, allow_hyphen_values = true)]
    pub window: Option<u32>,
    /// The tracker to query.
    #[command(flatten)]
    pub socket: SocketOption,
}

/// Options of `ports`.
#[derive(Args, Debug)]
#[command(after_help = PORTS)]
pub struct PortsOptions {
    /// Order of the rows: a state, total or port
    #[arg(long, value_name = "COLUMN", default_value = "total", value_parser = parse::SortParser { ports: true })]
    pub sort: Sort,
    /// Maximum number of rows
    #[arg(long, value_name = "COUNT", value_parser = parse::limit, allow_hyphen_values = true)]
    pub limit: Option<usize>,
    /// Include listening ports without connections
    #[arg(long)]
    pub all: bool,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
    /// Network namespace: a name, an inode number or a PID
    #[arg(long, value_name = "NS", value_parser = parse::netns, allow_hyphen_values = true)]
    #[arg(add = complete::namespaces())]
    pub netns: Option<String>,
    /// The tracker to query.
    #[command(flatten)]
    pub socket: SocketOption,
}

/// Options of `cgroups`.
#[derive(Args, Debug)]
#[command(after_help = CGROUPS)]
pub struct CgroupsOptions {
    /// Order of the rows: a state or total
    #[arg(long, value_name = "COLUMN", default_value = "total")]
    #[arg(value_parser = parse::SortParser { ports: false })]
    pub sort: Sort,
    /// Maximum number of rows
    #[arg(long, value_name = "COUNT", value_parser = parse::limit, allow_hyphen_values = true)]
    pub limit: Option<usize>,
    /// Include cgroups without connections
    #[arg(long)]
    pub all: bool,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
    /// The tracker to query.
    #[command(flatten)]
    pub socket: SocketOption,
}

/// Options of `wait`.
#[derive(Args, Debug)]
#[command(after_help = WAIT)]
#[command(group = ArgGroup::new("bound").required(true).args(["above", "below"]))]
pub struct WaitOptions {
    /// State, in any usual spelling: established, TIME_WAIT, fin-wait-2, ...
    #[arg(value_parser = parse::StateParser)]
    pub state: State,
    /// The sockets that are counted.
    #[command(flatten)]
    pub scope: ScopeOptions,
    /// Wait until there are more
    #[arg(long, value_name = "N", value_parser = parse::bound, allow_hyphen_values = true)]
    pub above: Option<u64>,
    /// Wait until there are fewer
    #[arg(long, value_name = "N", value_parser = parse::bound, allow_hyphen_values = true)]
    pub below: Option<u64>,
    /// Wait until that has lasted for so long
    #[arg(long = "for", value_name = "TIME", value_parser = parse::wait)]
    #[arg(allow_hyphen_values = true)]
    pub hold: Option<Duration>,
    /// Give up after so long, with exit status 1 [default: never]
    #[arg(long, value_name = "TIME", value_parser = parse::wait, allow_hyphen_values = true)]
    pub timeout: Option<Duration>,
}

/// Options of `history`.
#[derive(Args, Debug)]
#[command(after_help = HISTORY)]
pub struct HistoryOptions {
    /// State whose minutes are printed [default: a summary of all]
    #[arg(value_parser = parse::StateParser)]
    pub state: Option<State>,
    /// How far to reach back, up to 24h
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse::window)]
    #[arg(allow_hyphen_values = true)]
    pub since: u32,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
    /// The tracker to query.
    #[command(flatten)]
    pub socket: SocketOption,
}

/// What `who` groups by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GroupByOption {
    /// Address or network of the peer
    Remote,
    /// Local address, address and port of the peer, of outgoing connections
    Destination,
    /// Process that has the socket open
    Process,
    /// Cgroup that created the socket or its listener
    Cgroup,
    /// Local port
    Port,
}

impl From<GroupByOption> for GroupBy {
    fn from(option: GroupByOption) -> Self {
        match option {
            GroupByOption::Remote => Self::Remote,
            GroupByOption::Destination => Self::Destination,
            GroupByOption::Process => Self::Process,
            GroupByOption::Cgroup => Self::Cgroup,
            GroupByOption::Port => Self::Port,
        }
    }
}

/// Options of `who`.
#[derive(Args, Debug)]
#[command(after_help = WHO)]
pub struct WhoOptions {
    /// What to group by
    #[arg(long, value_enum, default_value_t = GroupByOption::Remote)]
    pub by: GroupByOption,
    /// Only sockets in these states
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = parse::StateParser)]
    pub state: Vec<State>,
    /// Local port
    #[arg(long, value_parser = parse::port, allow_hyphen_values = true, add = complete::ports())]
    pub port: Option<u16>,
    /// Bits of an IPv4 address that make up a remote
    #[arg(long, value_name = "BITS", default_value = "32", value_parser = parse::prefix4)]
    #[arg(allow_hyphen_values = true)]
    pub prefix4: u8,
    /// Bits of an IPv6 address that make up a remote
    #[arg(long, value_name = "BITS", default_value = "128", value_parser = parse::prefix6)]
    #[arg(allow_hyphen_values = true)]
    pub prefix6: u8,
    /// Maximum number of groups
    #[arg(long, value_name = "COUNT", default_value = "10", value_parser = parse::limit)]
    #[arg(allow_hyphen_values = true)]
    pub limit: usize,
    /// Network namespace: a name, an inode number or a PID
    #[arg(long, value_name = "NS", value_parser = parse::netns, allow_hyphen_values = true)]
    #[arg(add = complete::namespaces())]
    pub netns: Option<String>,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `discover`.
#[derive(Args, Debug)]
#[command(after_help = DISCOVER)]
pub struct DiscoverOptions {
    /// Network namespace: a name, an inode number or a PID
    #[arg(long, value_name = "NS", value_parser = parse::netns, allow_hyphen_values = true)]
    #[arg(add = complete::namespaces())]
    pub netns: Option<String>,
    /// Every counted network namespace
    #[arg(long, conflicts_with = "netns")]
    pub all_netns: bool,
    /// Cgroups with sockets instead of listening ports
    #[arg(long, conflicts_with_all = ["netns", "all_netns"])]
    pub cgroups: bool,
    /// The tracker to query.
    #[command(flatten)]
    pub socket: SocketOption,
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

/// Options of `verify`.
#[derive(Args, Debug)]
pub struct VerifyOptions {
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
    /// The tracker to query.
    #[command(flatten)]
    pub socket: SocketOption,
}
