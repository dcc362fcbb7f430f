//! The bytes of a passive check, in every form that a server sends: pure, whatever the bytes are.
//!
//! Up to 6.4 a request is a key in a frame, and the answer is the value in a frame; from 7.0 on
//! both are JSON in a frame; servers of old send a key and a newline without a frame.
//! <https://www.zabbix.com/documentation/7.0/en/manual/appendix/protocols/header_datalen>

use serde::{Deserialize, Serialize};

#[cfg(any(test, fuzzing))]
use super::key::ItemKey;
use super::key::KeyError;
use crate::{printable::printable, serve::protocol::excerpt};

/// The longest request, its header included: many times the longest key.
pub const MAX_REQUEST: usize = 16 * 1024;

/// The most keys in one request; servers ask for one.
pub const MAX_KEYS: usize = 32;

const MAGIC: &[u8] = b"ZBXD";
/// A frame of this protocol.
const PROTOCOL: u8 = 0x01;
/// Its lengths have eight bytes instead of four.
const LARGE: u8 = 0x04;
/// Between the text and why there is no value.
const NOT_SUPPORTED: &[u8] = b"ZBX_NOTSUPPORTED\0";

/// What came so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParsedRequest {
    /// Not all of it.
    Incomplete,
    /// A request.
    Complete(Request),
}

/// What a server asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// One key.
    Plain(String),
    /// Keys in JSON.
    Json(Vec<String>),
}

/// Why bytes are no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// More than [`MAX_REQUEST`].
    #[error("longer than {MAX_REQUEST} bytes")]
    TooLong,
    /// Compressed, or of a later protocol: an agent is never sent one.
    #[error("a frame with flags {0:#04x}")]
    Flags(u8),
    /// The key is no text.
    #[error("not UTF-8")]
    NotText,
    /// JSON that asks for nothing that an agent answers.
    #[error("not a passive check: {0}")]
    NotACheck(String),
}

/// What an agent answers to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The value.
    Value(String),
    /// Why there is none.
    NotSupported(String),
    /// Nothing that is an answer.
    Nothing,
}

/// A question for one key, as servers up to 6.4 ask it; every agent answers it.
#[must_use]
pub fn encode_request(key: &str) -> Vec<u8> {
    encode_frame(key.as_bytes())
}

/// The answer to [`item`], when nothing more comes.
#[must_use]
pub fn decode_reply(bytes: &[u8]) -> Reply {
    let Ok(Some(payload)) = decode_frame(bytes) else {
        return Reply::Nothing;
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    match payload.strip_prefix(NOT_SUPPORTED) {
        Some(why) => Reply::NotSupported(text(why)),
        None => Reply::Value(text(payload)),
    }
}

#[derive(Deserialize)]
struct Checks {
    request: String,
    data: Vec<Check>,
}

#[derive(Deserialize)]
struct Check {
    key: String,
}

#[derive(Serialize)]
struct Values {
    /// Of the protocol: the first version that has this form.
    version: &'static str,
    /// As agent 2 says it.
    variant: u8,
    data: Vec<Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Value {
    Value(String),
    Error(String),
}

impl Request {
    /// Reads what has come so far; `ended` when nothing more will.
    ///
    /// # Errors
    /// A [`WireError`] when it can never become a request.
    pub fn read(bytes: &[u8], ended: bool) -> Result<ParsedRequest, WireError> {
        let start = &bytes[..bytes.len().min(MAGIC.len())];
        if MAGIC.starts_with(start) && !(ended && start.len() < MAGIC.len()) {
            return frame(bytes);
        }
        // Without a frame, a line.
        match bytes.iter().position(|byte| *byte == b'\n') {
            Some(end) => key_request(&bytes[..end]).map(ParsedRequest::Complete),
            None if bytes.len() >= MAX_REQUEST => Err(WireError::TooLong),
            None if ended => key_request(bytes).map(ParsedRequest::Complete),
            None => Ok(ParsedRequest::Incomplete),
        }
    }

    /// The keys, in order.
    #[must_use]
    pub fn keys(&self) -> &[String] {
        match self {
            Self::Plain(key) => std::slice::from_ref(key),
            Self::Json(keys) => keys,
        }
    }

    /// The answer as a frame, in the form of the request; one value for each key.
    ///
    /// # Errors
    /// Never for strings.
    pub fn answer(&self, values: Vec<Result<String, KeyError>>) -> serde_json::Result<Vec<u8>> {
        let payload = match self {
            Self::Plain(_) => match values.into_iter().next() {
                Some(Ok(value)) => value.into_bytes(),
                Some(Err(error)) => [NOT_SUPPORTED, error.to_string().as_bytes()].concat(),
                None => NOT_SUPPORTED.to_vec(),
            },
            Self::Json(_) => serde_json::to_vec(&Values {
                version: "7.0.0",
                variant: 2,
                data: values
                    .into_iter()
                    .map(|value| match value {
                        Ok(value) => Value::Value(value),
                        Err(error) => Value::Error(error.to_string()),
                    })
                    .collect(),
            })?,
        };
        Ok(encode_frame(&payload))
    }
}

fn frame(bytes: &[u8]) -> Result<ParsedRequest, WireError> {
    match decode_frame(bytes)? {
        Some(payload) if payload.first() == Some(&b'{') => {
            json_request(payload).map(ParsedRequest::Complete)
        }
        Some(payload) => key_request(payload).map(ParsedRequest::Complete),
        None => Ok(ParsedRequest::Incomplete),
    }
}

/// What is in a frame; nothing while it is not whole.
fn decode_frame(bytes: &[u8]) -> Result<Option<&[u8]>, WireError> {
    let Some(rest) = bytes.strip_prefix(MAGIC) else {
        return Ok(None);
    };
    let Some((&flags, rest)) = rest.split_first() else {
        return Ok(None);
    };
    if flags & !LARGE != PROTOCOL {
        return Err(WireError::Flags(flags));
    }
    // The second number is the length before compression: none here.
    let header = if flags & LARGE == 0 {
        rest.split_first_chunk::<8>().map(|(header, payload)| {
            let [a, b, c, d, ..] = *header;
            (u64::from(u32::from_le_bytes([a, b, c, d])), payload)
        })
    } else {
        rest.split_first_chunk::<16>().map(|(header, payload)| {
            let [a, b, c, d, e, f, g, h, ..] = *header;
            (u64::from_le_bytes([a, b, c, d, e, f, g, h]), payload)
        })
    };
    let Some((length, payload)) = header else {
        return Ok(None);
    };
    let length = usize::try_from(length)
        .ok()
        .filter(|length| *length <= MAX_REQUEST)
        .ok_or(WireError::TooLong)?;
    Ok(payload.get(..length))
}

fn key_request(bytes: &[u8]) -> Result<Request, WireError> {
    let key = std::str::from_utf8(bytes).map_err(|_| WireError::NotText)?;
    Ok(Request::Plain(
        key.trim_end_matches(['\r', '\n']).to_owned(),
    ))
}

fn json_request(payload: &[u8]) -> Result<Request, WireError> {
    let not = |why: String| WireError::NotACheck(why);
    let checks: Checks =
        serde_json::from_slice(payload).map_err(|error| not(printable(&error.to_string())))?;
    if checks.request != "passive checks" {
        return Err(not(format!("request \"{}\"", excerpt(&checks.request))));
    }
    if checks.data.len() > MAX_KEYS {
        return Err(not(format!("more than {MAX_KEYS} keys")));
    }
    Ok(Request::Json(
        checks.data.into_iter().map(|check| check.key).collect(),
    ))
}

/// A payload with its header. Answers are far below the size that needs a large one.
fn encode_frame(payload: &[u8]) -> Vec<u8> {
    let (flags, mut length) = match u32::try_from(payload.len()) {
        Ok(length) => (PROTOCOL, length.to_le_bytes().to_vec()),
        Err(_) => (
            PROTOCOL | LARGE,
            (payload.len() as u64).to_le_bytes().to_vec(),
        ),
    };
    length.resize(length.len() * 2, 0);
    [MAGIC, &[flags], &length, payload].concat()
}

/// Any bytes are read to an end, and once they say something, more bytes change nothing. Every key
/// has a question or a reason of one line, and every answer is a frame.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let parsed = Request::read(bytes, false);
    let part = Request::read(&bytes[..bytes.len() / 2], false);
    if !matches!(
        part,
        Ok(ParsedRequest::Incomplete) | Err(WireError::TooLong)
    ) {
        assert_eq!(part, parsed);
    }
    let ended = Request::read(bytes, true);
    for request in [parsed, ended].into_iter().flatten() {
        let ParsedRequest::Complete(request) = request else {
            continue;
        };
        let values = request.keys().iter().map(|key| {
            let item = ItemKey::parse(key);
            if let Err(error) = &item {
                let error = error.to_string();
                assert!(!error.contains(char::is_control), "{error}");
                assert!(error.len() < 2000, "{} bytes", error.len());
            }
            item.map(|item| format!("{item:?}"))
        });
        let values: Vec<_> = values.collect();
        let count = values.len();
        let answer = request.answer(values).expect("strings are JSON");
        assert_ne!(decode_reply(&answer), Reply::Nothing);
        let payload = decode_frame(&answer).ok().flatten().expect("a frame");
        if matches!(request, Request::Json(_)) {
            let values: serde_json::Value = serde_json::from_slice(payload).expect("JSON");
            assert_eq!(values["data"].as_array().map(Vec::len), Some(count));
        }
    }
    let _: Reply = decode_reply(bytes);
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

    use super::{
        ItemKey, KeyError, MAX_REQUEST, ParsedRequest, Reply, Request, WireError, decode_reply,
        encode_frame, encode_request,
    };

    fn key_request(key: &str) -> ParsedRequest {
        ParsedRequest::Complete(Request::Plain(key.into()))
    }

    fn read(bytes: &[u8]) -> Result<ParsedRequest, WireError> {
        Request::read(bytes, false)
    }

    fn no_such_key() -> KeyError {
        ItemKey::parse("x").unwrap_err()
    }

    #[test]
    fn a_frame_is_read_when_it_is_whole() {
        let bytes = b"ZBXD\x01\x0e\0\0\0\0\0\0\0tcp.status.all";
        assert_eq!(read(bytes), Ok(key_request("tcp.status.all")));
        for end in 0..bytes.len() {
            assert_eq!(read(&bytes[..end]), Ok(ParsedRequest::Incomplete), "{end}");
        }
        let large = b"ZBXD\x05\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0k";
        assert_eq!(read(large), Ok(key_request("k")));
        assert_eq!(read(&large[..20]), Ok(ParsedRequest::Incomplete));
    }

    #[test]
    fn json_as_a_7_0_server_sends_it() {
        let request =
            br#"{"request":"passive checks","data":[{"key":"tcp.status[listen]","timeout":3}]}"#;
        let keys = Request::Json(vec!["tcp.status[listen]".into()]);
        assert_eq!(
            read(&encode_frame(request)),
            Ok(ParsedRequest::Complete(keys))
        );
        for other in [
            "{}",
            r#"{"request":"active checks","data":[]}"#,
            r#"{"request":"passive checks"}"#,
            "{",
        ] {
            let error = read(&encode_frame(other.as_bytes()));
            assert!(matches!(error, Err(WireError::NotACheck(_))), "{other}");
        }
    }

    #[test]
    fn a_line_without_a_frame() {
        assert_eq!(read(b"agent.ping\r\nrest"), Ok(key_request("agent.ping")));
        assert_eq!(read(b"agent.ping"), Ok(ParsedRequest::Incomplete));
        assert_eq!(
            Request::read(b"agent.ping", true),
            Ok(key_request("agent.ping"))
        );
        assert_eq!(Request::read(b"ZB", true), Ok(key_request("ZB")));
        assert_eq!(read(b"ZB"), Ok(ParsedRequest::Incomplete));
    }

    #[test]
    fn what_cannot_become_a_request_ends_at_once() {
        let too_long = [b"ZBXD\x01".as_slice(), &[0xff; 8]].concat();
        assert_eq!(read(&too_long), Err(WireError::TooLong));
        let too_long = [b"ZBXD\x05".as_slice(), &[0xff; 16]].concat();
        assert_eq!(read(&too_long), Err(WireError::TooLong));
        assert_eq!(read(b"ZBXD\x03"), Err(WireError::Flags(3)));
        assert_eq!(read(&[b'a'; MAX_REQUEST]), Err(WireError::TooLong));
        assert_eq!(read(b"\xff\n"), Err(WireError::NotText));
    }

    #[test]
    fn answers_have_the_form_of_their_request() {
        let plain = Request::Plain("k".into());
        let answer = plain.answer(vec![Ok("7".into())]).unwrap();
        assert_eq!(answer, b"ZBXD\x01\x01\0\0\0\0\0\0\x007");
        let answer = plain.answer(vec![Err(no_such_key())]).unwrap();
        assert!(answer[13..].starts_with(b"ZBX_NOTSUPPORTED\0tcp-status: cannot parse key"));
        let json = Request::Json(vec!["k".into(), "x".into()]);
        let answer = json
            .answer(vec![Ok("7".into()), Err(no_such_key())])
            .unwrap();
        let text = std::str::from_utf8(&answer[13..]).unwrap();
        let start =
            r#"{"version":"7.0.0","variant":2,"data":[{"value":"7"},{"error":"tcp-status: "#;
        assert!(text.starts_with(start), "{text}");
    }

    #[test]
    fn an_agents_answer_is_a_value_or_a_reason() {
        assert_eq!(decode_reply(&encode_request("7")), Reply::Value("7".into()));
        let refused = encode_frame(b"ZBX_NOTSUPPORTED\0no such key");
        assert_eq!(
            decode_reply(&refused),
            Reply::NotSupported("no such key".into())
        );
        assert_eq!(decode_reply(b""), Reply::Nothing);
        assert_eq!(decode_reply(b"HTTP/1.1 400"), Reply::Nothing);
    }

    /// Any bytes, and any damage to good ones, come to an end without a panic.
    #[test]
    fn no_bytes_are_too_bad() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let good =
            encode_frame(br#"{"request":"passive checks","data":[{"key":"tcp.status[x]"}]}"#);
        for _ in 0..20_000 {
            let mut bytes = if rng.random() {
                good.clone()
            } else {
                (0..rng.random_range(0..64)).map(|_| rng.random()).collect()
            };
            for _ in 0..rng.random_range(0..4) {
                if !bytes.is_empty() {
                    let at = rng.random_range(0..bytes.len());
                    bytes[at] = rng.random();
                }
            }
            let _: Reply = decode_reply(&bytes);
            let ended = rng.random();
            if let Ok(ParsedRequest::Complete(request)) = Request::read(&bytes, ended) {
                for key in request.keys() {
                    let _: Result<_, _> = ItemKey::parse(key);
                }
            }
        }
    }
}
