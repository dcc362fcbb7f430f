//! From one argument to one value. Errors say why, and what to use instead; the argument itself
//! is named by [`super::usage`].

use std::{
    ffi::{OsStr, OsString},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use clap::{
    Arg, Command, Error,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
    error::{ContextKind, ContextValue},
};
use ipnet::IpNet;
use tcp_status_common::state::State;

use super::state_argument::StateArgument;
use crate::{
    serve::socket_path::{self, BadPath},
    snapshot::{FINE_WINDOW, MAX_WINDOW},
    view::ports::Sort,
};

/// The longest name of a namespace: a file name.
const MAX_NETNS: usize = 255;

const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(86_400);

/// Faster than a reader can follow, `top` would only be load.
const REFRESHES: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

pub(super) fn port(text: &str) -> Result<u16, &'static str> {
    digits(text)
        .and_then(|text| text.parse().ok())
        .filter(|port| *port != 0)
        .ok_or("not a tcp port; use 1 to 65535")
}

pub(super) fn window(text: &str) -> Result<u32, &'static str> {
    whole_seconds(text, MAX_WINDOW)
        .ok_or("not a window; use whole seconds up to 24 hours, such as 30s or 2h")
}

pub(super) fn fine_window(text: &str) -> Result<u32, &'static str> {
    whole_seconds(text, FINE_WINDOW)
        .ok_or("not a window; use whole seconds up to 10 minutes, such as 30s or 5m")
}

fn whole_seconds(text: &str, max: u32) -> Option<u32> {
    time(text)
        .filter(|time| time.subsec_nanos() == 0)
        .and_then(|time| time.as_secs().try_into().ok())
        .filter(|seconds| (1..=max).contains(seconds))
}

pub(super) fn max_ports(text: &str) -> Result<u32, &'static str> {
    count(text, 16..=32_768).ok_or("not a number of ports; use 16 to 32768")
}

pub(super) fn metrics_rows(text: &str) -> Result<usize, &'static str> {
    let number = match text {
        "off" => Some(0),
        text => count(text, 0..=65_535),
    };
    let number = number.and_then(|number| usize::try_from(number).ok());
    number.ok_or("not a number of series; use 0 to 65535, or off")
}

pub(super) fn max_cgroups(text: &str) -> Result<u32, &'static str> {
    count(text, 0..=16_384)
        .filter(|&count| count == 0 || count >= 16)
        .ok_or("not a number of cgroups; use 0, or 16 to 16384")
}

pub(super) fn prefix4(text: &str) -> Result<u8, &'static str> {
    let bits = count(text, 0..=32).and_then(|bits| bits.try_into().ok());
    bits.ok_or("not a prefix length; use 0 to 32")
}

pub(super) fn prefix6(text: &str) -> Result<u8, &'static str> {
    let bits = count(text, 0..=128).and_then(|bits| bits.try_into().ok());
    bits.ok_or("not a prefix length; use 0 to 128")
}

pub(super) fn limit(text: &str) -> Result<usize, &'static str> {
    let rows = count(text, 1..=1_000_000);
    rows.and_then(|rows| usize::try_from(rows).ok())
        .ok_or("not a number of rows; use 1 to 1000000")
}

pub(super) fn max_namespaces(text: &str) -> Result<u32, &'static str> {
    count(text, 1..=100_000).ok_or("not a number of namespaces; use 1 to 100000")
}

/// A host name as it stands in a request, without a port.
pub(super) fn host(text: &str) -> Result<String, &'static str> {
    let part = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let is_name = (1..=253).contains(&text.len()) && text.chars().all(part);
    is_name
        .then(|| text.to_owned())
        .ok_or("not a host name; use a name without a port, such as server1.example")
}

fn count(text: &str, allowed: RangeInclusive<u32>) -> Option<u32> {
    digits(text)?
        .parse()
        .ok()
        .filter(|count| allowed.contains(count))
}

pub(super) fn netns(text: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        Err("empty; use a name, an inode number or a PID")
    } else if text.len() > MAX_NETNS || text.chars().any(char::is_control) {
        Err("not a network namespace; use a name, an inode number or a PID")
    } else {
        Ok(text.into())
    }
}

pub(super) fn group(text: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        Err("empty; use the name of a group")
    } else {
        Ok(text.into())
    }
}

pub(super) fn mode(text: &str) -> Result<u32, &'static str> {
    digits(text)
        .and_then(|text| u32::from_str_radix(text, 8).ok())
        .filter(|mode| *mode <= 0o777)
        .ok_or("not a mode; use an octal number up to 0777, such as 0660")
}

pub(super) fn interval(text: &str) -> Result<Duration, &'static str> {
    time(text)
        .filter(|time| INTERVALS.contains(time))
        .ok_or("not a time; use 10ms to 1day, such as 500ms, 90s or 20m")
}

pub(super) fn wait(text: &str) -> Result<Duration, &'static str> {
    /// Longer than anybody waits.
    const MAX: Duration = Duration::from_hours(30 * 24);
    time(text)
        .filter(|time| *time <= MAX)
        .ok_or("not a time; use up to 30days, such as 500ms, 90s or 20m")
}

pub(super) fn bound(text: &str) -> Result<u64, &'static str> {
    let number = digits(text).and_then(|text| text.parse().ok());
    number.ok_or("not a number of connections; use 0 or more")
}

pub(super) fn refresh(text: &str) -> Result<Duration, &'static str> {
    time(text)
        .filter(|time| REFRESHES.contains(time))
        .ok_or("not a time; use 100ms to 1h, such as 500ms, 2s or 1m")
}

/// Seconds, or a number with a unit.
fn time(text: &str) -> Option<Duration> {
    let seconds = || Duration::try_from_secs_f64(text.parse().ok()?).ok();
    seconds().or_else(|| humantime::parse_duration(text).ok())
}

/// Brackets may stand around either kind, for those who do not know which they have.
pub(super) fn address(text: &str) -> Result<SocketAddr, &'static str> {
    let bracketed = || {
        let (address, port) = text.strip_prefix('[')?.split_once("]:")?;
        let address: Ipv4Addr = address.parse().ok()?;
        Some((address, port.parse().ok()?).into())
    };
    text.parse()
        .or_else(|error| bracketed().ok_or(error))
        .map_err(|_| "not an address and port; use numbers, such as 127.0.0.1:9889 or [::1]:9889")
}

/// An address alone is a network of one.
pub(super) fn network(text: &str) -> Result<IpNet, &'static str> {
    text.parse()
        .or_else(|_| text.parse().map(|address: IpAddr| address.into()))
        .map_err(|_| "not an address or network; use numbers, such as 192.0.2.7 or 10.0.0.0/8")
}

pub(super) fn share(text: &str) -> Result<f64, &'static str> {
    let text = text.strip_suffix('%').unwrap_or(text);
    text.parse()
        .ok()
        .filter(|share| *share >= 0.001 && *share <= 100.0)
        .ok_or("not a share of a core; use 0.001 to 100, in per cent")
}

/// Rust's own parsers take a sign as well.
fn digits(text: &str) -> Option<&str> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(text)
}

pub(super) fn socket(path: OsString) -> Result<PathBuf, BadPath> {
    let path = PathBuf::from(path);
    socket_path::check(&path).map(|()| path)
}

/// Parser of a state in any usual spelling; the eleven names are suggested and completed.
#[derive(Clone, Copy, Debug)]
pub(super) struct StateParser;

impl TypedValueParser for StateParser {
    type Value = State;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<State, Error> {
        let text = value.to_string_lossy();
        if let Ok(state) = text.parse() {
            return Ok(state);
        }
        // As names are spelled, so that the nearest one is found.
        let plain = text.to_lowercase().replace(['-', '_'], "");
        PossibleValuesParser::new(State::ALL.map(State::name))
            .try_map(|name| name.parse::<State>())
            .parse_ref(command, argument, OsStr::new(&plain))
            .map_err(|mut error| {
                let value = ContextValue::String(text.into_owned());
                error.insert(ContextKind::InvalidValue, value);
                error
            })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let names = State::ALL.map(State::name).into_iter();
        Some(Box::new(names.map(PossibleValue::new)))
    }
}

/// A state, or `all`.
#[derive(Clone, Copy, Debug)]
pub(super) struct StateArgumentParser;

impl TypedValueParser for StateArgumentParser {
    type Value = StateArgument;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<StateArgument, Error> {
        if value.eq_ignore_ascii_case("all") {
            return Ok(StateArgument::All);
        }
        let state = StateParser.parse_ref(command, argument, value);
        state.map(StateArgument::One)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let names = State::ALL.map(State::name).into_iter().chain(["all"]);
        Some(Box::new(names.map(PossibleValue::new)))
    }
}

/// What rows are sorted by: a state in any usual spelling, `total` or, with ports, `port`.
#[derive(Clone)]
pub(super) struct SortParser {
    /// Whether the rows are ports.
    pub(super) ports: bool,
}

impl TypedValueParser for SortParser {
    type Value = Sort;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Sort, Error> {
        match value.to_str() {
            Some("total") => Ok(Sort::Total),
            Some("port") if self.ports => Ok(Sort::Port),
            _ => StateParser
                .parse_ref(command, argument, value)
                .map(Sort::State),
        }
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let names = ["total"].into_iter().chain(self.ports.then_some("port"));
        let states = State::ALL.map(State::name);
        Some(Box::new(names.chain(states).map(PossibleValue::new)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        address, fine_window, interval, max_cgroups, max_namespaces, max_ports, mode, netns, port,
        refresh, share, window,
    };

    #[test]
    fn ports_are_plain_numbers() {
        assert_eq!((port("1"), port("65535")), (Ok(1), Ok(65535)));
        for text in [
            "",
            "0",
            "65536",
            "70000",
            "abc",
            "-1",
            "+80",
            "8 0",
            "٣",
            "99999999999",
        ] {
            assert!(port(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn modes_are_octal_and_have_no_special_bits() {
        assert_eq!(
            (mode("0660"), mode("600"), mode("0")),
            (Ok(0o660), Ok(0o600), Ok(0))
        );
        for text in ["", "0o660", "+660", "668", "1777", "rw", "77777777777777"] {
            assert!(mode(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn intervals_are_seconds_or_have_a_unit() {
        for (text, milliseconds) in [
            ("1", 1000),
            ("0.25", 250),
            ("500ms", 500),
            ("2s", 2000),
            ("1m", 60_000),
            ("1h 1s", 3_601_000),
        ] {
            assert_eq!(
                interval(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for text in [
            "", "0", "-1", "1ms", "2days", "NaN", "inf", "1e400", "1 parsec", "s",
        ] {
            assert!(interval(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn refreshes_can_be_followed() {
        assert_eq!(refresh("0.1"), Ok(Duration::from_millis(100)));
        assert_eq!(refresh("1h"), Ok(Duration::from_secs(3600)));
        for text in ["", "0", "0.09", "99ms", "3601", "-1", "soon"] {
            assert!(refresh(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn shares_are_per_cent() {
        assert_eq!(
            (share("0.5"), share("5%"), share("100")),
            (Ok(0.5), Ok(5.0), Ok(100.0))
        );
        for text in ["", "0", "-1", "101", "NaN", "inf", "half", "%"] {
            assert!(share(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_kept_apart_is_bounded() {
        assert_eq!((max_ports("16"), max_ports("32768")), (Ok(16), Ok(32_768)));
        assert_eq!((max_cgroups("0"), max_cgroups("16")), (Ok(0), Ok(16)));
        assert!(max_cgroups("15").is_err() && max_cgroups("16385").is_err());
        assert_eq!(max_namespaces("1"), Ok(1));
        for text in ["", "0", "15", "32769", "-1", "1e3"] {
            assert!(max_ports(text).is_err(), "{text:?}");
        }
        assert!(max_namespaces("0").is_err() && max_namespaces("100001").is_err());
    }

    #[test]
    fn addresses_are_numbers_with_a_port() {
        for text in ["127.0.0.1:9889", "[::1]:9889", "0.0.0.0:0", "[fe80::1%2]:1"] {
            assert_eq!(address(text).unwrap().to_string(), text);
        }
        let bracketed = address("[192.0.2.7]:9889").unwrap();
        assert_eq!(bracketed.to_string(), "192.0.2.7:9889");
        for text in [
            "",
            ":9889",
            "9889",
            "127.0.0.1",
            "::1:9889",
            "localhost:9889",
            "*:1",
            "1.2.3.4:65536",
        ] {
            assert!(address(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn networks_are_numbers() {
        for (text, network) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("::1", "::1/128"),
            ("2001:db8::/32", "2001:db8::/32"),
        ] {
            assert_eq!(super::network(text).unwrap().to_string(), network);
        }
        for text in ["", "localhost", "10.0.0.0/33", "10.0.0", "10.0.0.1:5", "/8"] {
            assert!(super::network(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn windows_are_whole_seconds() {
        for (text, seconds) in [
            ("1", 1),
            ("86400", 86_400),
            ("90s", 90),
            ("10m", 600),
            ("1m 1s", 61),
        ] {
            assert_eq!(window(text), Ok(seconds), "{text}");
        }
        for text in ["", "0", "86401", "-1", "1.5", "1500ms", "25h", "soon"] {
            assert!(window(text).is_err(), "{text:?}");
        }
        assert_eq!(
            (fine_window("10m"), fine_window("601").is_err()),
            (Ok(600), true)
        );
    }

    #[test]
    fn namespaces_are_short_and_printable() {
        for text in ["blue", "4026531833", "1", "/proc/1/ns/net"] {
            assert_eq!(netns(text).as_deref(), Ok(text));
        }
        for text in ["", "a\nb", &"x".repeat(256)] {
            assert!(netns(text).is_err(), "{text:?}");
        }
    }
}
