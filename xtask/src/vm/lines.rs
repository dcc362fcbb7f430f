//! Lines out of bytes that arrive in pieces. Knows nothing of what they say.

/// Collects bytes of one serial port.
#[derive(Debug, Default)]
pub(super) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes a piece, and gives the lines that it completes, without line ends and the carriage
    /// returns of a terminal.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        self.rest.extend_from_slice(bytes);
        let Some(end) = self.rest.iter().rposition(|&byte| byte == b'\n') else {
            return Vec::new();
        };
        let rest = self.rest.split_off(end + 1);
        let complete = std::mem::replace(&mut self.rest, rest);
        complete[..end]
            .split(|&byte| byte == b'\n')
            .map(text)
            .collect()
    }

    /// What has arrived of the next line.
    pub(super) fn rest(&self) -> String {
        text(&self.rest)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .trim_end_matches('\r')
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_their_bytes_arrive() {
        let bytes = "one\r\ntwo \u{e9}\n\r\nthr".as_bytes();
        for size in 1..=bytes.len() {
            let mut lines = Lines::default();
            let found: Vec<_> = bytes
                .chunks(size)
                .flat_map(|piece| lines.take(piece))
                .collect();
            assert_eq!(found, ["one", "two \u{e9}", ""], "in pieces of {size}");
            assert_eq!(lines.rest(), "thr");
        }
    }

    #[test]
    fn what_is_no_text_is_still_a_line() {
        assert_eq!(Lines::default().take(b"a\xffb\n"), ["a\u{fffd}b"]);
    }
}
