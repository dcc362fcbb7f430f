//! Content negotiation: from `Accept` headers to the format of the page. By hand: what a client
//! accepts has to be matched by version, among parameters that mean nothing here (`escaping`).

use prometheus_client::encoding::prometheus_text;

/// How the page may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus text 0.0.4: for everybody who asks for nothing else, people with curl included.
    Text,
    /// OpenMetrics text 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The value of the `Content-Type` header.
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Text => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The format that a client likes best. One that accepts neither gets text, as from
    /// Prometheus' own libraries.
    pub(super) fn negotiate<'a>(headers: impl Iterator<Item = &'a str>) -> Self {
        let (mut open_metrics, mut text) = (0, (0, 0));
        for range in headers
            .flat_map(|header| header.split(','))
            .filter_map(Range::parse)
        {
            match (range.media_type.as_str(), range.version) {
                ("application/openmetrics-text", None | Some("1.0.0")) => {
                    open_metrics = open_metrics.max(range.quality);
                }
                // The more a range says of a type, the more its quality counts.
                ("text/plain", Some("0.0.4")) => text = text.max((4, range.quality)),
                ("text/plain", None) => text = text.max((3, range.quality)),
                ("text/*", _) => text = text.max((2, range.quality)),
                ("*/*", _) => text = text.max((1, range.quality)),
                _ => {}
            }
        }
        if open_metrics > 0 && open_metrics >= text.1 {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }
}

/// One element of an `Accept` header.
struct Range<'a> {
    media_type: String,
    version: Option<&'a str>,
    /// In thousandths: RFC 9110 allows three digits.
    quality: u32,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media_type = parts.next()?.to_ascii_lowercase();
        let (mut version, mut quality) = (None, 1000);
        for parameter in parts {
            let (name, value) = parameter.split_once('=')?;
            if name.trim_end().eq_ignore_ascii_case("version") {
                version = Some(value.trim().trim_matches('"'));
            } else if name.trim_end().eq_ignore_ascii_case("q") {
                quality = thousandths(value.trim())?;
            }
        }
        Some(Self {
            media_type,
            version,
            quality,
        })
    }
}

fn thousandths(quality: &str) -> Option<u32> {
    let (whole, fraction) = quality.split_once('.').unwrap_or((quality, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if fraction.len() > 3 || !digits(whole) || !digits(fraction) {
        return None;
    }
    let sum = whole.parse::<u32>().ok()?.checked_mul(1000)?
        + format!("{fraction:0<3}").parse::<u32>().ok()?;
    (sum <= 1000).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::Format::{self, OpenMetrics, Text};

    #[test]
    fn clients_get_what_they_like_best() {
        for (header, format) in [
            ("", Text),
            ("*/*", Text),
            ("application/json", Text),
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                Text,
            ),
            ("text/plain", Text),
            ("application/openmetrics-text", OpenMetrics),
            (
                "Application/OpenMetrics-Text ; Version=\"1.0.0\"",
                OpenMetrics,
            ),
            ("application/openmetrics-text;version=0.0.1", Text),
            ("application/openmetrics-text;version=2.0.0, */*", Text),
            ("application/openmetrics-text;q=0", Text),
            ("application/openmetrics-text;q=0, text/plain;q=0", Text),
            (
                "application/openmetrics-text;q=0.5, text/plain;q=0.500",
                OpenMetrics,
            ),
            (
                "application/openmetrics-text;q=0.499, text/plain;q=0.5",
                Text,
            ),
            ("application/openmetrics-text;q=0.5, text/*;q=0.6", Text),
            (
                "text/plain;q=0.1, */*, application/openmetrics-text;q=0.2",
                OpenMetrics,
            ),
            // Garbage is passed over.
            ("application/openmetrics-text;q=2", Text),
            ("application/openmetrics-text;q=-1", Text),
            ("application/openmetrics-text;q=0.0001", Text),
            ("application/openmetrics-text;q=99999999999", Text),
            (";;;,,,=, application/openmetrics-text;q=", Text),
            // Prometheus 2.4, 2.42 and 3.
            (
                "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Text,
            ),
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                OpenMetrics,
            ),
        ] {
            assert_eq!(Format::negotiate([header].into_iter()), format, "{header}");
        }
        let apart = ["text/plain;q=0.3", "application/openmetrics-text;q=0.4"];
        assert_eq!(Format::negotiate(apart.into_iter()), OpenMetrics);
        assert_eq!(Format::negotiate([].into_iter()), Text);
    }
}
