//! The options of the commands that query a tracker, or walk the sockets themselves.

use std::{path::PathBuf, time::Duration};

use clap::{
    ArgGroup, Args, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser as _},
};
use tcp_status_common::state::{Family, State};

use super::{
    complete,
    help::{CGROUPS, DISCOVER, GET, HISTORY, LISTENERS, PORTS, TOP, WAIT, WHO},
    parse,
    state_argument::StateArgument,
};
use crate::{serve::DEFAULT_SOCKET, snapshot::who::GroupBy, view::ports::Sort};

/// The option that selects a tracker.
#[derive(Args, Debug)]
pub struct SocketOption {
    /// Unix socket of the tracker
    #[arg(long, value_name = "PATH", env = "TCP_STATUS_SOCKET", default_value = DEFAULT_SOCKET)]
    #[arg(value_parser = OsStringValueParser::new().try_map(parse::socket))]
    #[arg(allow_hyphen_values = true, hide_env_values = true, add = complete::sockets())]
    pub socket: PathBuf,
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
    /// Network namespace: a name, an inode number or a PID [default: all that are counted]
    #[arg(long, value_name = "NS", value_parser = parse::netns, allow_hyphen_values = true)]
    #[arg(add = complete::namespaces())]
    pub netns: Option<String>,
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
    /// Cgroups with sockets instead of listening ports; of every counted network namespace
    #[arg(long)]
    pub cgroups: bool,
    /// The tracker to query.
    #[command(flatten)]
    pub socket: SocketOption,
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
