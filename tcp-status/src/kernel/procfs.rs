//! temp
use crate::snapshot::Counts;
use tcp_status_common::state::*;
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);
#[derive(Default, Debug, Clone, Copy)]
pub struct Invariants {
    pub curr_estab: Option<u64>,
    pub inuse_v4: Option<u64>,
    pub inuse_v6: Option<u64>,
    pub timewait: Option<u64>,
}
#[derive(Default, Debug, Clone)]
pub struct Listing {
    pub ipv4: Counts,
    pub ipv6: Counts,
}
fn field(t: &str, line: &str, name: &str) -> Option<u64> {
    let l = t.lines().find(|l| l.starts_with(line))?;
    let mut w = l.split_whitespace();
    while let Some(x) = w.next() {
        if x == name {
            return w.next()?.parse().ok();
        }
    }
    None
}
pub fn invariants() -> Result<Invariants, Error> {
    let s = std::fs::read_to_string("/proc/thread-self/net/sockstat").unwrap();
    let s6 = std::fs::read_to_string("/proc/thread-self/net/sockstat6").unwrap_or_default();
    let snmp = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let t: Vec<&str> = snmp.lines().filter(|l| l.starts_with("Tcp:")).collect();
    let i = t[0]
        .split_whitespace()
        .position(|x| x == "CurrEstab")
        .unwrap();
    let c = t[1].split_whitespace().nth(i).unwrap().parse().ok();
    Ok(Invariants {
        curr_estab: c,
        inuse_v4: field(&s, "TCP:", "inuse"),
        inuse_v6: field(&s6, "TCP6:", "inuse"),
        timewait: field(&s, "TCP:", "tw"),
    })
}
pub fn listing(_: Option<u16>) -> Result<Listing, Error> {
    let mut l = Listing::default();
    for (f, c) in [("tcp", &mut l.ipv4), ("tcp6", &mut l.ipv6)] {
        for line in std::fs::read_to_string(format!("/proc/thread-self/net/{f}"))
            .unwrap_or_default()
            .lines()
            .skip(1)
        {
            let st = u8::from_str_radix(line.split_whitespace().nth(3).unwrap(), 16).unwrap();
            c[State::try_from(st).unwrap()] += 1;
        }
    }
    Ok(l)
}
impl Listing {
    pub fn of(&self, f: Family) -> &Counts {
        match f {
            Family::V4 => &self.ipv4,
            Family::V6 => &self.ipv6,
        }
    }
}
