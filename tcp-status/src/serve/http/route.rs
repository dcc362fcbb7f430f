//! Parses the head of a request into a route, or an error.

use hyper::{Method, Request, StatusCode, body::Body, header};

use super::negotiation::Format;
use crate::snapshot::{DEFAULT_WINDOW, MAX_WINDOW};

/// The resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `/`: the list of resources.
    Index,
    /// `/metrics`.
    Metrics {
        /// The text format.
        format: Format,
        /// The window of peaks, in seconds.
        window: u32,
    },
    /// `/healthz`: whether the tracker answers.
    Healthz,
    /// `/readyz`: whether every count is exact as well.
    Readyz,
}

/// An error response with one line of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RouteError {
    pub(super) status: StatusCode,
    pub(super) why: &'static str,
}

const NOT_FOUND: RouteError = RouteError {
    status: StatusCode::NOT_FOUND,
    why: "not found; there are /metrics, /healthz and /readyz",
};
const METHOD: RouteError = RouteError {
    status: StatusCode::METHOD_NOT_ALLOWED,
    why: "not allowed; use GET or HEAD",
};
const BODY: RouteError = RouteError {
    status: StatusCode::PAYLOAD_TOO_LARGE,
    why: "a request here has no body; leave it out",
};
const WINDOW: RouteError = RouteError {
    status: StatusCode::BAD_REQUEST,
    why: "not a window; use window=1 to window=86400, in seconds, once",
};

/// Parses a request.
pub(super) fn route<B: Body>(request: &Request<B>) -> Result<Route, RouteError> {
    let path = request.uri().path();
    if !matches!(path, "/" | "/metrics" | "/healthz" | "/readyz") {
        return Err(NOT_FOUND);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(METHOD);
    }
    if !request.body().is_end_stream() {
        return Err(BODY);
    }
    Ok(match path {
        "/metrics" => Route::Metrics {
            format: format(request),
            window: window(request.uri().query())?,
        },
        "/healthz" => Route::Healthz,
        "/readyz" => Route::Readyz,
        _ => Route::Index,
    })
}

fn format<B>(request: &Request<B>) -> Format {
    let accepted = request.headers().get_all(header::ACCEPT).iter();
    Format::negotiate(accepted.filter_map(|value| value.to_str().ok()))
}

/// The value of `window=SECONDS`. Ignores other parameters, which some clients add.
fn window(query: Option<&str>) -> Result<u32, RouteError> {
    let parameters = query.unwrap_or_default().split('&');
    let mut given = parameters.filter_map(|parameter| match parameter.split_once('=') {
        Some(("window", value)) => Some(value),
        _ => (parameter == "window").then_some(""),
    });
    match (given.next(), given.next()) {
        (None, _) => Ok(DEFAULT_WINDOW),
        (Some(text), None) if text.bytes().all(|byte| byte.is_ascii_digit()) => text
            .parse()
            .ok()
            .filter(|seconds| (1..=MAX_WINDOW).contains(seconds))
            .ok_or(WINDOW),
        _ => Err(WINDOW),
    }
}

/// What a client sends: a line with a method and a target, then a line for each `Accept`.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut words = lines
        .next()
        .unwrap_or_default()
        .splitn(2, |byte| *byte == b' ');
    let mut request = Request::builder().method(words.next().unwrap_or_default());
    request = request.uri(words.next().unwrap_or_default());
    for accepted in lines {
        request = request.header(header::ACCEPT, accepted);
    }
    let Ok(request) = request.body(http_body_util::Empty::<hyper::body::Bytes>::new()) else {
        return;
    };
    match route(&request) {
        Ok(Route::Metrics { format, window }) => {
            assert!((1..=MAX_WINDOW).contains(&window) && !format.content_type().is_empty());
        }
        Ok(_) => {}
        Err(refused) => assert!(refused.status.is_client_error()),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, Full};
    use hyper::{Request, StatusCode, body::Bytes};

    use super::{Format, Route, route};

    fn ask(method: &str, uri: &str) -> Result<Route, StatusCode> {
        let request = Request::builder().method(method).uri(uri);
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        route(&request).map_err(|refused| refused.status)
    }

    #[test]
    fn paths_and_methods() {
        assert_eq!(ask("GET", "/"), Ok(Route::Index));
        assert_eq!(ask("HEAD", "/healthz"), Ok(Route::Healthz));
        assert_eq!(
            ask("GET", "http://[::1]:1/readyz?verbose"),
            Ok(Route::Readyz)
        );
        for path in [
            "/metrics/",
            "//metrics",
            "/Metrics",
            "/metrics%00",
            "/..",
            "*",
        ] {
            assert_eq!(ask("GET", path), Err(StatusCode::NOT_FOUND), "{path}");
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get", "PRI"] {
            assert_eq!(
                ask(method, "/metrics"),
                Err(StatusCode::METHOD_NOT_ALLOWED),
                "{method}"
            );
        }
        let with_body = Request::new(Full::new(Bytes::from_static(b"x")));
        assert_eq!(
            route(&with_body).unwrap_err().status,
            StatusCode::PAYLOAD_TOO_LARGE
        );
    }

    #[test]
    fn windows_are_whole_seconds_given_once() {
        let window = |query: &str| match ask("GET", &format!("/metrics{query}")) {
            Ok(Route::Metrics {
                format: Format::Text,
                window,
            }) => Ok(window),
            Ok(other) => panic!("{other:?}"),
            Err(status) => Err(status),
        };
        for (query, seconds) in [
            ("", 60),
            ("?", 60),
            ("?window=1", 1),
            ("?a&window=600&b=c", 600),
            ("?windows=9", 60),
        ] {
            assert_eq!(window(query), Ok(seconds), "{query}");
        }
        for query in [
            "?window",
            "?window=",
            "?window=0",
            "?window=86401",
            "?window=-1",
            "?window=+1",
            "?window=1.5",
            "?window=1m",
            "?window=1&window=1",
            "?window=99999999999",
            "?window=%31",
        ] {
            assert_eq!(window(query), Err(StatusCode::BAD_REQUEST), "{query}");
        }
    }
}
