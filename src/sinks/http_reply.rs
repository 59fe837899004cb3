//! What the answer of an HTTP destination means.
//!
//! | Answer | Meaning |
//! |---|---|
//! | 2xx | taken |
//! | no connection, reset, time over; 408 409 423 424 425 429; 5xx but 501 | tried again without limit |
//! | 413 | halved |
//! | 400 422 | halved down to the record at fault |
//! | 3xx, 501, every other 4xx | somebody has to put it right: paused |
//!
//! 409, 423 and 424 speak of a state that passes (another try of the same request is still at work). Every other 4xx is
//! about the address, the key or the form of all requests, so no record is given up for it.

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{HeaderMap, LOCATION, RETRY_AFTER};

use super::SendError;
use crate::record::Timestamp;

/// Characters of an answer's body that go into a message.
const QUOTED_MAX: usize = 200;

/// What a status other than 2xx means. `place` names the destination, `body` is (the beginning of) its answer.
pub fn classify(place: &str, status: StatusCode, headers: &HeaderMap, body: &[u8], now: Timestamp) -> SendError {
    let said = quote(body);
    let colon = if said.is_empty() { "" } else { ": " };
    let cause = format!("{place} answered {status}{colon}{said}");
    match status.as_u16() {
        413 => SendError::TooLarge { cause },
        400 | 422 => SendError::Reject { cause },
        408 | 409 | 423 | 424 | 425 | 429 | 500 | 502..=599 => {
            SendError::Retry { cause, not_before: retry_after(headers, now) }
        }
        300..=399 => {
            let to = headers.get(LOCATION).map_or(String::new(), |to| format!(" to {}", quote(to.as_bytes())));
            SendError::Pause {
                cause: format!(
                    "{place} answered {status}: redirects{to} are not followed; set `url` to the final address"
                ),
            }
        }
        401 | 403 => SendError::Pause { cause: format!("{cause} (check `token`, or `user` and `password`)") },
        404 | 405 | 410 | 501 => SendError::Pause { cause: format!("{cause} (check `url`)") },
        407 => {
            SendError::Pause { cause: format!("{cause} (a proxy wants a login; longshore speaks to `url` directly)") }
        }
        415 => SendError::Pause { cause: format!("{cause} (check `format` and `compression`)") },
        _ => SendError::Pause { cause },
    }
}

/// The pause of a `Retry-After`: seconds or a date, as long as it says (delivery has its own limit). `None` where there is none or it is no such
/// thing.
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than a number holds are "very long" too.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    let wait = date.as_nanosecond() - i128::from(now.0);
    Some(Duration::from_nanos(u64::try_from(wait.max(0)).unwrap_or(u64::MAX)))
}

/// The beginning of foreign text, on one line, without control characters.
pub fn quote(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(4 * QUOTED_MAX)]);
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut line: String = words.join(" ").chars().filter(|c| !c.is_control()).take(QUOTED_MAX).collect();
    if line.chars().count() == QUOTED_MAX {
        line.push_str("...");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(status: u16) -> &'static str {
        let status = StatusCode::from_u16(status).expect("a status");
        match classify("http://x", status, &HeaderMap::new(), b"", Timestamp(0)) {
            SendError::Retry { .. } => "retry",
            SendError::Pause { .. } => "pause",
            SendError::TooLarge { .. } => "halve",
            SendError::Reject { .. } => "reject",
            SendError::Closed => "closed",
        }
    }

    #[test]
    fn every_status_has_its_class() {
        for (statuses, expected) in [
            (&[408, 409, 423, 424, 425, 429, 500, 502, 503, 504, 505, 507, 520, 599][..], "retry"),
            (&[401, 402, 403, 404, 405, 406, 407, 410, 411, 415, 418, 421, 426, 428, 431, 451, 501], "pause"),
            (&[300, 301, 302, 303, 304, 307, 308], "pause"),
            (&[413], "halve"),
            (&[400, 422], "reject"),
        ] {
            for status in statuses {
                assert_eq!(class(*status), expected, "{status}");
            }
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let asked = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().expect("a value"));
            retry_after(&headers, Timestamp(1_795_428_900_000_000_000)).map(|wait| wait.as_secs())
        };
        assert_eq!(asked("7"), Some(7));
        assert_eq!(asked("0"), Some(0));
        assert_eq!(asked("86400"), Some(86_400));
        assert_eq!(asked("99999999999999999999999"), Some(u64::MAX));
        assert_eq!(asked("Mon, 23 Nov 2026 10:15:30 GMT"), Some(30));
        assert_eq!(asked("Mon, 23 Nov 2026 09:00:00 GMT"), Some(0));
        assert!(asked("Mon, 23 Nov 2037 09:00:00 GMT").is_some_and(|wait| wait > 300_000_000));
        assert_eq!(asked("soon"), None);
        assert_eq!(asked("-5"), None);
    }

    #[test]
    fn foreign_text_is_cut_and_cleaned() {
        assert_eq!(quote(b"  {\"error\":\r\n \"no\x1b[31m\"}\xff"), "{\"error\": \"no[31m\"}\u{fffd}");
        assert!(quote(&[b'x'; 5000]).len() < 210);
    }
}
