//! HTTP by hand, so that a test can say and see every byte.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// Far more than any answer takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// By name in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn content_type(&self) -> &str {
        &self.headers["content-type"]
    }

    /// The one line that every answer but a page is.
    pub(crate) fn line(&self) -> &str {
        let line = self.body.strip_suffix('\n').unwrap();
        assert!(
            !line.is_empty() && !line.contains(char::is_control),
            "{line:?}"
        );
        line
    }
}

/// A connection that stays open between requests.
pub(crate) struct Connection(pub(crate) BufReader<TcpStream>);

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) fn send(&mut self, text: &str) -> io::Result<()> {
        self.0.get_mut().write_all(text.as_bytes())
    }

    pub(crate) fn ask(&mut self, method: &str, target: &str, headers: &str) -> io::Result<Reply> {
        self.send(&format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"
        ))?;
        self.reply(method != "HEAD")
    }

    pub(crate) fn reply(&mut self, with_body: bool) -> io::Result<Reply> {
        let mut line = String::new();
        let mut next = |reader: &mut BufReader<TcpStream>| {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            Ok(line.trim_end().to_owned())
        };
        let first = next(&mut self.0)?;
        let status = first
            .split(' ')
            .nth(1)
            .unwrap_or_else(|| panic!("{first:?}"));
        let status = status.parse().unwrap();
        let mut headers = BTreeMap::new();
        loop {
            let line = next(&mut self.0)?;
            let Some((name, value)) = line.split_once(": ") else {
                assert_eq!(line, "");
                break;
            };
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        let length = headers
            .get("content-length")
            .map_or(0, |text| text.parse().unwrap());
        let mut body = vec![0; if with_body { length } else { 0 }];
        self.0.read_exact(&mut body)?;
        Ok(Reply {
            status,
            headers,
            body: String::from_utf8(body).unwrap(),
        })
    }

    /// Whether the server closes without another byte, in good time.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(0) => true,
            Ok(_) => panic!("{:?}", String::from_utf8_lossy(&rest)),
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

/// One request on a connection of its own.
pub(crate) fn ask(address: SocketAddr, method: &str, target: &str, headers: &str) -> Reply {
    Connection::open(address)
        .ask(method, target, headers)
        .unwrap()
}

pub(crate) fn get(address: SocketAddr, target: &str) -> Reply {
    ask(address, "GET", target, "")
}

/// What makes the page OpenMetrics.
pub(crate) const OPEN_METRICS: &str = "Accept: application/openmetrics-text; version=1.0.0\r\n";
