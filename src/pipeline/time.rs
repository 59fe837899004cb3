//! `time = "ts", formats = [..]`: a field says when it happened.
//!
//! The event's time becomes that of the field, and the field goes, since the record's `time` says the same in one form
//! (RFC 3339, UTC, nine digits); `keep = true` leaves it. So `time = "time"` turns any own `time` into that form. A path
//! into nested values is read, never removed. The first format that fits is taken:
//!
//! - `rfc3339`;
//! - `epoch_s`, `epoch_ms`, `epoch_us`, `epoch_ns`: a number or a text of one, a fraction too;
//! - `epoch`: the same, the unit by size (below 1e11 seconds, 1e14 milliseconds, 1e17 microseconds);
//! - anything with a `%`: strptime; without an offset in it, in `zone` (default UTC; IANA names); without a year, the year
//!   that puts it nearest before now.
//!
//! What can not be read leaves the record as it is: counted `step_failed`.

use jiff::fmt::strtime;
use jiff::tz::TimeZone;

use crate::batch::{Batch, NO_TIME};
use crate::codec::msgpack::Peek;
use crate::codec::{json, msgpack, time};
use crate::metrics::Oddity;
use crate::record::{Form, Span, Timestamp, Value};

use super::path::{Found, Path};
use super::{Rows, Scratch};

/// The step.
#[derive(Debug)]
pub struct Time {
    /// The field.
    pub from: Path,
    /// Tried in order.
    pub formats: Vec<Format>,
    /// Whether the field stays.
    pub keeps: bool,
    /// For texts without an offset.
    pub zone: TimeZone,
}

/// How a time is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// RFC 3339.
    Rfc3339,
    /// Time since 1970 in a unit of so many nanoseconds.
    Epoch(i128),
    /// Time since 1970 in the unit that its size suggests.
    EpochBySize,
    /// `strptime`.
    Strptime(String),
}

impl Format {
    /// Reads a format's name or pattern.
    pub fn parse(text: &str) -> Result<Format, String> {
        Ok(match text {
            "rfc3339" => Format::Rfc3339,
            "epoch" => Format::EpochBySize,
            "epoch_s" => Format::Epoch(1_000_000_000),
            "epoch_ms" => Format::Epoch(1_000_000),
            "epoch_us" => Format::Epoch(1_000),
            "epoch_ns" => Format::Epoch(1),
            pattern if pattern.contains('%') => {
                // What a pattern writes it has to read.
                let known = jiff::Timestamp::UNIX_EPOCH.to_zoned_datetime(TimeZone::UTC);
                let read = strtime::format(pattern, &known).and_then(|text| strtime::parse(pattern, &text));
                if let Err(error) = read {
                    return Err(format!("\"{pattern}\" is no pattern for times: {error}"));
                }
                Format::Strptime(pattern.to_owned())
            }
            other => {
                let names = ["rfc3339", "epoch", "epoch_s", "epoch_ms", "epoch_us", "epoch_ns"];
                let hint = crate::settings::nearest(other, &names)
                    .map_or(String::new(), |near| format!("; did you mean \"{near}\"?"));
                return Err(format!(
                    "\"{other}\" is not one of \"{}\" or a pattern such as \"%d/%b/%Y:%H:%M:%S %z\"{hint}",
                    names.join("\", \"")
                ));
            }
        })
    }
}

impl Time {
    pub(super) fn run(&self, batch: &mut Batch, rows: &Rows<'_>, _: &mut Scratch, now: Timestamp) {
        for at in 0..batch.len() {
            if !rows.has(batch, at) {
                continue;
            }
            let (time, scaled) = match self.from.find(batch, at) {
                None => continue,
                Some(Found::Container(_)) => (None, false),
                Some(Found::Time(time)) => (Some(time), false),
                Some(Found::Value(value)) => self.read(value, now),
            };
            let Some(time) = time else {
                batch.tally.odd(Oddity::StepFailed);
                continue;
            };
            if scaled {
                batch.tally.odd(Oddity::TimeScaled);
            }
            let row = batch.row_mut(at);
            row.time = time;
            // Without a text of the source, the time is written in our own form.
            row.time_text = Span::default();
            row.mark(NO_TIME, false);
            if !self.keeps && self.from.parts().len() == 1 {
                super::remove_key(batch, at, self.from.as_str().as_bytes());
            }
        }
    }

    /// The time of a value, and whether its unit was guessed to be below a second.
    fn read(&self, value: Value<'_>, now: Timestamp) -> (Option<Timestamp>, bool) {
        let mut number = itoa::Buffer::new();
        let mut float = ryu::Buffer::new();
        let text = match value.form {
            Form::Text | Form::JsonStr => json::text(value).unwrap_or_default(),
            Form::Json => value.bytes.into(),
            Form::Msg => match msgpack::peek(value.bytes) {
                Some(Peek::UInt(value)) => number.format(value).as_bytes().into(),
                Some(Peek::Int(value)) => number.format(value).as_bytes().into(),
                Some(Peek::Float(value)) if value.is_finite() => float.format_finite(value).as_bytes().into(),
                Some(Peek::Bytes(text)) => text.into(),
                Some(Peek::Ext(0, data)) => return (event_time(data), false),
                _ => return (None, false),
            },
        };
        let text = text.trim_ascii();
        for format in &self.formats {
            let (time, scaled) = match format {
                Format::Rfc3339 => (time::parse_rfc3339(text), false),
                Format::Epoch(unit) => (epoch(text, *unit), false),
                Format::EpochBySize => {
                    let unit = unit_by_size(text);
                    (epoch(text, unit), unit < 1_000_000_000)
                }
                Format::Strptime(pattern) => (strptime(pattern, text, &self.zone, now), false),
            };
            if time.is_some() {
                return (time, scaled);
            }
        }
        (None, false)
    }
}

/// Fluentd's EventTime: seconds and nanoseconds, 32 bits each, big endian.
fn event_time(data: &[u8]) -> Option<Timestamp> {
    let (seconds, nanos) = (data.get(..4)?, data.get(4..8)?);
    let be = |bytes: &[u8]| bytes.iter().fold(0i64, |number, byte| number << 8 | i64::from(*byte));
    Some(Timestamp(be(seconds) * 1_000_000_000 + be(nanos)))
}

fn unit_by_size(text: &[u8]) -> i128 {
    let digits = text.strip_prefix(b"-").unwrap_or(text).iter().take_while(|byte| byte.is_ascii_digit()).count();
    match digits {
        0..=11 => 1_000_000_000,
        12..=14 => 1_000_000,
        15..=17 => 1_000,
        _ => 1,
    }
}

/// Reads a decimal number in units of `unit` nanoseconds exactly, and an exponent only by way of a float.
fn epoch(text: &[u8], unit: i128) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= 64 && text.is_ascii())?;
    let nanos = match text.split_once('.') {
        _ if text.contains(['e', 'E']) => {
            let number = text.parse::<f64>().ok()? * unit as f64;
            (number.abs() < 9.2e18).then_some(number as i128)?
        }
        None => whole(text)?.checked_mul(unit)?,
        Some((seconds, fraction)) => {
            let fraction = &fraction[..fraction.len().min(9)];
            let part = whole(fraction).filter(|_| !fraction.starts_with(['-', '+']))?;
            let scale = 10i128.pow(u32::try_from(fraction.len()).ok()?);
            let part = part * unit / scale;
            let base = whole(seconds)?.checked_mul(unit)?;
            if seconds.starts_with('-') { base - part } else { base + part }
        }
    };
    i64::try_from(nanos).ok().map(Timestamp).filter(|time| *time != Timestamp::UNREAD)
}

fn whole(text: &str) -> Option<i128> {
    text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-').then(|| text.parse().ok())?
}

/// Reads a text by a pattern.
fn strptime(pattern: &str, text: &[u8], zone: &TimeZone, now: Timestamp) -> Option<Timestamp> {
    let mut parsed = strtime::parse(pattern, text).ok()?;
    let at = |parsed: &strtime::BrokenDownTime| -> Option<i64> {
        if parsed.offset().is_some() || parsed.timestamp().is_some() {
            let nanos = parsed.to_timestamp().ok()?.as_nanosecond();
            return i64::try_from(nanos).ok();
        }
        let local = parsed.to_datetime().or_else(|_| parsed.to_date().map(|date| date.at(0, 0, 0, 0))).ok()?;
        i64::try_from(zone.to_timestamp(local).ok()?.as_nanosecond()).ok()
    };
    let has_year = parsed.year().is_some() || parsed.iso_week_year().is_some() || parsed.timestamp().is_some();
    if has_year {
        return at(&parsed).map(Timestamp);
    }
    let year = jiff::Timestamp::from_nanosecond(i128::from(now.0)).ok()?.to_zoned_datetime(zone.clone()).year();
    // A line of December that is read in January; and a clock that is a day ahead.
    let latest = now.0.saturating_add(86_400_000_000_000);
    for year in [year.checked_add(1)?, year, year.checked_sub(1)?] {
        parsed.set_year(Some(year)).ok()?;
        if let Some(time) = at(&parsed).filter(|time| *time <= latest) {
            return Some(Timestamp(time));
        }
    }
    None
}
