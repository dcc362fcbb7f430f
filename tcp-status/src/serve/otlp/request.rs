//! One export request over a connection of its own, and what its response means.

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    client::conn::http1::handshake,
    header,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

use crate::printable::printable;

/// A request, with its connection and its response.
const LIMIT: Duration = Duration::from_secs(10);

/// The longest response that is read, in bytes.
const MAX_RESPONSE: usize = 64 << 10;

/// Where a collector takes metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    address: SocketAddr,
    path: String,
}

/// Not the URL of a collector.
#[derive(Debug, thiserror::Error)]
#[error(
    "not the address of a collector; use http://ADDRESS:PORT, as in http://127.0.0.1:4318, without a \
     query: a local collector has names, TLS and tokens"
)]
pub struct TargetError;

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let uri: Uri = text.parse().map_err(|_| TargetError)?;
        let address = uri.authority().map(|it| it.as_str().parse());
        match (uri.scheme_str(), address, uri.query()) {
            (Some("http"), Some(Ok(address)), None) => Ok(Self {
                address,
                path: match uri.path() {
                    "/" => "/v1/metrics".to_owned(),
                    path => path.to_owned(),
                },
            }),
            _ => Err(TargetError),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.address, self.path)
    }
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// The collector has it.
    Taken,
    /// It may take it later, and perhaps says when.
    Later {
        why: String,
        after: Option<Duration>,
    },
    /// It never will.
    Refused(String),
}

/// Sends one request.
pub(super) async fn post(target: &Target, body: Bytes) -> Delivery {
    let later = |why: String| Delivery::Later { why, after: None };
    match timeout(LIMIT, exchange(target, body)).await {
        Ok(Ok(delivery)) => delivery,
        Ok(Err(error)) => later(error.to_string()),
        Err(_) => later(format!("no response within {LIMIT:?}")),
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(target: &Target, body: Bytes) -> Result<Delivery, Error> {
    let stream = TcpStream::connect(target.address).await?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    // It ends with the sender; why it failed, the sender says.
    let connection = tokio::spawn(connection);
    let request = Request::post(&target.path)
        .header(header::HOST, target.address.to_string())
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))?;
    let response = sender.send_request(request).await;
    let delivery = match response {
        Ok(response) => delivery(response).await,
        Err(error) => Err(error.into()),
    };
    connection.abort();
    delivery
}

/// What a response means by the specification of OTLP/HTTP.
async fn delivery(response: Response<Incoming>) -> Result<Delivery, Error> {
    let (head, body) = response.into_parts();
    let status = head.status;
    if status.is_success() {
        let body = Limited::new(body, MAX_RESPONSE).collect().await?.to_bytes();
        return Ok(rejection(&body).map_or(Delivery::Taken, Delivery::Refused));
    }
    let why = format!("the collector answers {status}");
    let retryable = [
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ];
    if !retryable.contains(&status) {
        return Ok(Delivery::Refused(why));
    }
    let after = head.headers.get(header::RETRY_AFTER);
    let seconds = after.and_then(|value| value.to_str().ok()?.parse().ok());
    let after = seconds.map(Duration::from_secs);
    Ok(Delivery::Later { why, after })
}

/// Why the collector took a part only; none if it took all.
fn rejection(body: &[u8]) -> Option<String> {
    let response: Value = serde_json::from_slice(body).ok()?;
    let partial = response.get("partialSuccess")?;
    let message = partial["errorMessage"].as_str().unwrap_or_default();
    // A number or, as the encoding has it, a string.
    let rejected = partial["rejectedDataPoints"].to_string();
    let is_none = ["null", "0", "\"0\""].contains(&&*rejected);
    (!is_none).then(|| printable(&format!("{rejected} points rejected: {message}")))
}
