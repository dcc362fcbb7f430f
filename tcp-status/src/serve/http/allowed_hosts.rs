//! Which host names are served. A web page whose name is made to resolve to this host (DNS
//! rebinding) could read the counts through its visitor's browser: the browser then sends that name.

use std::net::{IpAddr, SocketAddr};

use hyper::{
    HeaderMap, Request,
    header::{self, HeaderName},
    http::uri::Authority,
};
use nix::sys::utsname::uname;

/// Headers that every browser sends and no scraper does.
const BROWSER: [HeaderName; 4] = [
    header::ACCEPT_LANGUAGE,
    header::ORIGIN,
    header::REFERER,
    HeaderName::from_static("sec-fetch-site"),
];

/// Host names that requests may carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AllowedHosts {
    names: Vec<String>,
    /// The address is loopback: unknown names are refused to everybody.
    loopback: bool,
}

impl AllowedHosts {
    /// Of a server at `address`, which has the names `more` as well.
    pub(super) fn new(address: SocketAddr, more: &[String]) -> Self {
        let own = uname().ok();
        let own = own.and_then(|names| names.nodename().to_str().map(str::to_owned));
        Self {
            names: ["localhost".into()]
                .into_iter()
                .chain(own)
                .chain(more.iter().cloned())
                .collect(),
            loopback: address.ip().to_canonical().is_loopback(),
        }
    }

    /// Whether the request may be served: it names this host, or no browser sends it.
    ///
    /// Scrapers use any name that resolves to this host, which only the name server knows, so a
    /// name alone is no reason to refuse them.
    pub(super) fn may_serve<B>(&self, request: &Request<B>) -> bool {
        let headers = request.headers();
        // A request without one is older than HTTP/1.1, or no browser's.
        let mut hosts = headers.get_all(header::HOST).iter();
        let known = match (request.uri().authority(), hosts.next(), hosts.next()) {
            (Some(authority), ..) => self.is_known(authority.host()),
            (None, Some(host), None) => Authority::try_from(host.as_bytes())
                .is_ok_and(|authority| self.is_known(authority.host())),
            (None, None, _) => true,
            (None, Some(_), Some(_)) => false,
        };
        known || !self.loopback && !from_browser(headers)
    }

    fn is_known(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        literal.parse::<IpAddr>().is_ok()
            || self
                .names
                .iter()
                .any(|name| name.eq_ignore_ascii_case(host))
    }
}

fn from_browser(headers: &HeaderMap) -> bool {
    BROWSER.iter().any(|name| headers.contains_key(name))
}

#[cfg(test)]
mod tests {
    use hyper::{Request, header};

    use super::AllowedHosts;

    fn hosts(address: &str) -> AllowedHosts {
        AllowedHosts::new(address.parse().unwrap(), &["db1.example".into()])
    }

    fn may_serve(hosts: &AllowedHosts, host: &str, browser: bool) -> bool {
        let mut request = Request::builder()
            .uri("/metrics")
            .header(header::HOST, host);
        if browser {
            request = request.header(header::ACCEPT_LANGUAGE, "en");
        }
        hosts.may_serve(&request.body(()).unwrap())
    }

    #[test]
    fn names_of_this_host_are_served_to_everybody() {
        let own = nix::sys::utsname::uname().unwrap();
        let own = own.nodename().to_str().unwrap();
        for address in [
            "127.0.0.1:9889",
            "[::1]:9889",
            "0.0.0.0:9889",
            "192.0.2.7:9889",
        ] {
            let hosts = hosts(address);
            for host in [
                "127.0.0.1:9889",
                "192.0.2.7",
                "[::1]:9889",
                "localhost",
                "LOCALHOST.:9889",
                "db1.example:9889",
                own,
            ] {
                for browser in [false, true] {
                    assert!(
                        may_serve(&hosts, host, browser),
                        "{address} {host} {browser}"
                    );
                }
            }
        }
    }

    #[test]
    fn other_names_are_served_to_scrapers_from_elsewhere_only() {
        for host in [
            "evil.example:9889",
            "127.0.0.1.evil.example",
            "db1.example.evil",
            "",
            "a b",
        ] {
            for (address, browser, served) in [
                ("127.0.0.1:9889", false, false),
                ("127.0.0.1:9889", true, false),
                ("[::1]:9889", false, false),
                ("0.0.0.0:9889", false, true),
                ("192.0.2.7:9889", false, true),
                ("192.0.2.7:9889", true, false),
                ("[::]:9889", true, false),
            ] {
                let may = may_serve(&hosts(address), host, browser);
                assert_eq!(may, served, "{address} {host:?} {browser}");
            }
        }
    }

    #[test]
    fn the_target_counts_more_than_the_header_and_two_headers_count_nothing() {
        let hosts = hosts("127.0.0.1:9889");
        let ask = |uri: &str, names: &[&str]| {
            let request = names
                .iter()
                .fold(Request::builder().uri(uri), |request, name| {
                    request.header(header::HOST, *name)
                });
            hosts.may_serve(&request.body(()).unwrap())
        };
        assert!(ask("/metrics", &[]));
        assert!(ask("http://[::1]:1/metrics", &["evil.example"]));
        assert!(!ask("http://evil.example/metrics", &["localhost"]));
        assert!(!ask("/metrics", &["localhost", "localhost"]));
    }
}
