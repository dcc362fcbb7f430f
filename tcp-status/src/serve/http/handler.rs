//! Handles HTTP requests: calls the source within its limits and builds responses.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Bytes},
    header::{self, HeaderValue},
};

use super::{
    allowed_hosts::AllowedHosts,
    metrics::{Labels, Page, Scrapes, StartTime},
    negotiation::Format,
    route::{Route, RouteError, route},
};
use crate::{
    printable::printable,
    serve::{
        calls::Calls,
        connections::Peer,
        protocol::{ApiError, Show},
    },
    snapshot::Snapshot,
};

const PLAIN: &str = "text/plain; charset=utf-8";

const INDEX: &str = concat!(
    "tcp-status ",
    env!("CARGO_PKG_VERSION"),
    ": /metrics for Prometheus and OpenMetrics, /healthz for liveness, /readyz for readiness\n"
);

const FOREIGN_HOST: RouteError = RouteError {
    status: StatusCode::MISDIRECTED_REQUEST,
    why: "not a name of this host; use its IP address, or add the name with --metrics-host",
};

/// State shared by all connections.
pub(super) struct MetricsHandler {
    calls: Calls,
    hosts: AllowedHosts,
    labels: Labels,
    scrapes: AtomicU64,
    errors: AtomicU64,
    started: StartTime,
}

impl MetricsHandler {
    pub(super) fn new(calls: Calls, hosts: AllowedHosts, labels: Labels) -> Self {
        Self {
            calls,
            hosts,
            labels,
            scrapes: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            started: StartTime::now(),
        }
    }

    /// Responds to any request.
    pub(super) async fn answer<B: Body>(
        &self,
        request: &Request<B>,
        peer: Peer,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        if !self.hosts.may_serve(request) {
            return Ok(refuse(FOREIGN_HOST));
        }
        Ok(match route(request) {
            Ok(Route::Index) => plain(StatusCode::OK, INDEX.into()),
            Ok(Route::Metrics { format, window }) => self.metrics(format, window, peer).await,
            Ok(Route::Healthz) => self.health(false, peer).await,
            Ok(Route::Readyz) => self.health(true, peer).await,
            Err(refused) => refuse(refused),
        })
    }

    async fn metrics(&self, format: Format, window: u32, peer: Peer) -> Response<Full<Bytes>> {
        self.scrapes.fetch_add(1, Relaxed);
        let (labels, scrapes) = (self.labels, self.scrapes());
        let page = self.read(window, peer, move |snapshots, took| {
            Page::new(snapshots, labels, Scrapes { took, ..scrapes }).render(format)
        });
        match page.await {
            Ok(text) => with(StatusCode::OK, format.content_type(), text.into()),
            Err(refusal) => {
                self.errors.fetch_add(1, Relaxed);
                unavailable(&refusal.message)
            }
        }
    }

    fn scrapes(&self) -> Scrapes {
        Scrapes {
            begun: self.scrapes.load(Relaxed),
            failed: self.errors.load(Relaxed),
            took: Duration::ZERO,
            started: self.started,
        }
    }

    /// Answers `/healthz`, or `/readyz` if `exact`. A degraded tracker is alive: its next audit corrects the
    /// counts, a restart does not.
    async fn health(&self, exact: bool, peer: Peer) -> Response<Full<Bytes>> {
        let degraded = self.calls.call(peer, |source| source.degraded());
        match degraded.await.flatten() {
            Ok(None) => plain(StatusCode::OK, "ok\n".into()),
            Ok(Some(degraded)) if exact => unavailable(&format!("degraded: {degraded}")),
            Ok(Some(degraded)) => plain(StatusCode::OK, line(&format!("ok, degraded: {degraded}"))),
            Err(error) => unavailable(&error.message),
        }
    }

    /// Reads all namespaces in a blocking thread, and passes them with the time taken to `make`.
    async fn read<T: Send + 'static>(
        &self,
        window: u32,
        peer: Peer,
        make: impl FnOnce(Vec<Snapshot>, Duration) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let query = Show {
            all_netns: true,
            window: Some(window),
            ..Show::default()
        };
        let call = self.calls.call(peer, move |source| {
            let began = Instant::now();
            source
                .show(&query)
                .map(|snapshots| make(snapshots, began.elapsed()))
        });
        call.await.flatten()
    }
}

fn refuse(refused: RouteError) -> Response<Full<Bytes>> {
    let mut response = plain(refused.status, line(refused.why));
    let headers = response.headers_mut();
    if refused.status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    // A body that may follow is not waited for.
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn unavailable(why: &str) -> Response<Full<Bytes>> {
    plain(StatusCode::SERVICE_UNAVAILABLE, line(why))
}

/// Reduces a text to one printable line.
fn line(text: &str) -> Bytes {
    let mut line = printable(&text.replace(['\r', '\n', '\t'], " "));
    line.push('\n');
    line.into()
}

fn plain(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    with(status, PLAIN, body)
}

fn with(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}
