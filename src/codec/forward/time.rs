//! Event times of the forward protocol.
//!
//! EventTime (ext 0, in fixext8 or ext8), the MessagePack timestamp, integers and floats in seconds. A bare number
//! above 1e11 (the year 5138 in seconds) is milli-, micro- or nanoseconds by its size. nil, zero and what is no time
//! at all become the time of receipt, as Fluentd does. Nothing overflows: what is out of range is clamped.
//! In JSON mode a number, exact to the nanosecond.
//! Counters: `time_from_receipt`, `time_scaled`, `time_clamped`, `nanoseconds_carried`.

use crate::codec::msgpack::{self, Fault, Head};
use crate::metrics::{Oddity, Tally};
use crate::record::Timestamp;

/// Nanoseconds of a second.
const SECOND: u32 = 1_000_000_000;
/// Seconds of the two EventTimes by which Fluent Bit brackets groups; such entries are no records.
const GROUP_MARKERS: [u32; 2] = [0xffff_ffff, 0xffff_fffe];

/// What stands in the place of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// A time.
    At(Timestamp),
    /// A group marker of Fluent Bit.
    Marker,
}

/// Bytes of an EventTime as nearly every sender writes it.
pub(super) const PLAIN: usize = 10;

/// Such an EventTime, if nothing about it is to be counted.
#[inline(always)]
pub(super) fn plain(bytes: &[u8; PLAIN]) -> Option<Timestamp> {
    let [0xd7, 0, s0, s1, s2, s3, n0, n1, n2, n3] = *bytes else { return None };
    let (seconds, nanos) = (u32::from_be_bytes([s0, s1, s2, s3]), u32::from_be_bytes([n0, n1, n2, n3]));
    let plain = seconds != 0 && nanos < SECOND && !GROUP_MARKERS.contains(&seconds);
    plain.then(|| Timestamp(i64::from(seconds) * i64::from(SECOND) + i64::from(nanos)))
}

/// Reads the time that `bytes` begin with; its end. Any other value is taken as no time.
#[inline]
pub(super) fn read(bytes: &[u8], now: Timestamp, tally: &mut Tally) -> Result<(When, usize), Fault> {
    // Nearly every sender: fixext8 of type 0.
    if let [0xd7, 0, s0, s1, s2, s3, n0, n1, n2, n3, ..] = *bytes {
        let (seconds, nanos) = (u32::from_be_bytes([s0, s1, s2, s3]), u32::from_be_bytes([n0, n1, n2, n3]));
        return Ok((event_time(seconds, nanos, now, tally), 10));
    }
    let (head, at) = msgpack::head(bytes)?;
    let time = match head {
        Head::Ext(kind, len) => {
            let data = bytes.get(at..at.saturating_add(len)).ok_or(Fault::Short)?;
            let when = match (kind, data) {
                (0, &[s0, s1, s2, s3, n0, n1, n2, n3]) => {
                    let seconds = u32::from_be_bytes([s0, s1, s2, s3]);
                    event_time(seconds, u32::from_be_bytes([n0, n1, n2, n3]), now, tally)
                }
                _ => match msgpack::ext_time(kind, data) {
                    Some((time, exact)) => {
                        carried(msgpack::ext_nanos(kind, data).unwrap_or_default(), tally);
                        At(time, exact).count(tally)
                    }
                    None => receipt(now, tally),
                },
            };
            return Ok((when, at + len));
        }
        Head::UInt(0) => None,
        Head::UInt(number) => Some(scaled(i128::from(number), tally)),
        Head::Int(number) => Some(scaled(i128::from(number), tally)),
        Head::F32(number) => float(f64::from(number), tally),
        Head::F64(number) => float(number, tally),
        // Its end first: of a value that is not whole nothing is counted.
        _ => return msgpack::end_of(bytes).map(|end| (receipt(now, tally), end)),
    };
    Ok((settled(time, now, tally), at))
}

/// The same for the time of `[[time, metadata], record]`, which only Fluent Bit sends: -1 and -2 are its group markers as
/// well. Anywhere else they are the last seconds of 1969.
pub(super) fn read_nested(bytes: &[u8], now: Timestamp, tally: &mut Tally) -> Result<(When, usize), Fault> {
    match msgpack::head(bytes)? {
        (Head::Int(-2 | -1), at) => Ok((When::Marker, at)),
        _ => read(bytes, now, tally),
    }
}

/// Clamps what was found, or takes the time of receipt.
fn settled(time: Option<i128>, now: Timestamp, tally: &mut Tally) -> When {
    match time {
        Some(nanos) => {
            let (time, exact) = msgpack::clamp(nanos);
            At(time, exact).count(tally)
        }
        None => receipt(now, tally),
    }
}

/// The time that a checked JSON value is: a number in seconds, exact to the nanosecond as it is written. Any other value
/// is taken as no time.
pub(super) fn from_json(value: &[u8], now: Timestamp, tally: &mut Tally) -> Timestamp {
    let text = std::str::from_utf8(value).unwrap_or_default();
    let time = match text.parse::<i128>() {
        Ok(0) => None,
        Ok(number) => Some(scaled(number, tally)),
        Err(_) => match decimal(text) {
            Some(nanos) => (nanos != 0).then_some(nanos),
            // JSON's numbers are Rust's; its literals are not those of a float ("nan"), but for texts nothing parses.
            None => text.parse::<f64>().ok().and_then(|number| float(number, tally)),
        },
    };
    match settled(time, now, tally) {
        When::At(time) => time,
        When::Marker => now,
    }
}

/// Nanoseconds of a plain decimal number of seconds up to 1e11; digits beyond the ninth are cut off.
fn decimal(text: &str) -> Option<i128> {
    let (whole, fraction) = text.split_once('.')?;
    let whole_seconds = whole.parse::<i64>().ok().filter(|seconds| seconds.unsigned_abs() <= 100_000_000_000)?;
    if fraction.is_empty() || !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let nanos = format!("{:0<9.9}", fraction).parse::<i128>().ok()?;
    let sign = if whole.starts_with('-') { -1 } else { 1 };
    Some(i128::from(whole_seconds) * 1_000_000_000 + sign * nanos)
}

struct At(Timestamp, bool);

impl At {
    fn count(self, tally: &mut Tally) -> When {
        if !self.1 {
            tally.odd(Oddity::TimeClamped);
        }
        When::At(self.0)
    }
}

fn receipt(now: Timestamp, tally: &mut Tally) -> When {
    tally.odd(Oddity::TimeFromReceipt);
    When::At(now)
}

/// Seconds are unsigned (Docker's library squeezes them through an i32, the bits stay right until 2106); nanoseconds
/// from 1e9 up carry over.
fn event_time(seconds: u32, nanos: u32, now: Timestamp, tally: &mut Tally) -> When {
    if seconds == 0 {
        return receipt(now, tally);
    }
    if nanos == 0 && GROUP_MARKERS.contains(&seconds) {
        return When::Marker;
    }
    carried(nanos, tally);
    // At most 2^32 s + 5 s, which is far within i64 nanoseconds.
    When::At(Timestamp(i64::from(seconds) * 1_000_000_000 + i64::from(nanos)))
}

#[inline(always)]
fn carried(nanos: u32, tally: &mut Tally) {
    if nanos >= SECOND {
        tally.odd(Oddity::NanosecondsCarried);
    }
}

/// Nanoseconds of one unit of a number of this size.
fn unit(size: f64) -> i128 {
    match size {
        size if size <= 1e11 => 1_000_000_000,
        size if size <= 1e14 => 1_000_000,
        size if size <= 1e17 => 1_000,
        _ => 1,
    }
}

fn scaled(number: i128, tally: &mut Tally) -> i128 {
    let unit = unit((number as f64).abs());
    if unit != 1_000_000_000 {
        tally.odd(Oddity::TimeScaled);
    }
    number.saturating_mul(unit)
}

fn float(number: f64, tally: &mut Tally) -> Option<i128> {
    if !number.is_finite() || number == 0.0 {
        return None;
    }
    let unit = unit(number.abs());
    if unit != 1_000_000_000 {
        tally.odd(Oddity::TimeScaled);
    }
    // The whole part and the fraction apart, so that the fraction is as exact as the float was. Float to integer
    // conversion saturates.
    let whole = number.trunc();
    Some((whole as i128).saturating_mul(unit).saturating_add(((number - whole) * unit as f64).round() as i128))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_plain_time_is_what_is_read_and_counts_nothing(
            seconds in prop_oneof![any::<u32>(), 0u32..2, u32::MAX - 2..=u32::MAX],
            nanos in prop_oneof![any::<u32>(), 0u32..2, SECOND - 1..=SECOND],
        ) {
            let bytes = [&[0xd7, 0][..], &seconds.to_be_bytes(), &nanos.to_be_bytes()].concat();
            let mut tally = Tally::default();
            let (when, end) = read(&bytes, Timestamp(7), &mut tally).expect("a whole value");
            let odd = tally.oddities.iter().any(|count| *count > 0) || when == When::Marker;
            match plain(bytes.first_chunk().expect("ten bytes")) {
                Some(time) => prop_assert_eq!((When::At(time), end, false), (when, PLAIN, odd)),
                // The last two seconds mean something only with zero nanoseconds; they are left to the other way.
                None => prop_assert!(odd || seconds >= u32::MAX - 1),
            }
        }
    }

    fn at(bytes: &[u8]) -> (i64, Vec<&'static str>) {
        let mut tally = Tally::default();
        let (when, end) = read(bytes, Timestamp(7), &mut tally).expect("a whole value");
        assert_eq!(end, bytes.len());
        let odd = Oddity::NAMES.iter().zip(tally.oddities).filter(|(_, count)| *count > 0).map(|(name, _)| *name);
        match when {
            When::At(Timestamp(time)) => (time, odd.collect()),
            When::Marker => (-7, vec!["marker"]),
        }
    }

    #[test]
    fn times_in_json_are_exact_to_the_nanosecond() {
        const S: i64 = 1_700_000_000_000_000_000;
        let cases: &[(&str, i64, &[&str])] = &[
            ("1700000000", S, &[]),
            ("1700000000.5", S + 500_000_000, &[]),
            ("1700000000.123456789", S + 123_456_789, &[]),
            ("1700000000.1234567899", S + 123_456_789, &[]),
            ("-0.25", -250_000_000, &[]),
            ("-1", -1_000_000_000, &[]),
            ("1.7e9", S, &[]),
            ("1700000000000", S, &["time_scaled"]),
            ("1700000000000.5", S + 500_000, &["time_scaled"]),
            ("1e300", i64::MAX, &["time_scaled", "time_clamped"]),
            ("18446744073709551615", i64::MAX, &["time_scaled", "time_clamped"]),
            ("99999999999999999999999999999999999999999", i64::MAX, &["time_scaled", "time_clamped"]),
            ("0", 7, &["time_from_receipt"]),
            ("0.0", 7, &["time_from_receipt"]),
            ("null", 7, &["time_from_receipt"]),
            ("\"2023-11-14T22:13:20Z\"", 7, &["time_from_receipt"]),
        ];
        for (text, time, odd) in cases {
            let mut tally = Tally::default();
            assert_eq!(from_json(text.as_bytes(), Timestamp(7), &mut tally).0, *time, "{text}");
            let found = Oddity::NAMES.iter().zip(tally.oddities).filter(|(_, count)| *count > 0).map(|(name, _)| *name);
            assert_eq!(found.collect::<Vec<_>>(), *odd, "{text}");
        }
    }

    #[test]
    fn every_form_of_time_is_read() {
        const S: i64 = 1_700_000_000;
        let event = |head: &[u8], s: u32, n: u32| [head, &s.to_be_bytes(), &n.to_be_bytes()].concat();
        let f64_bytes = |number: f64| [&[0xcb][..], &number.to_be_bytes()].concat();
        let carried = || vec!["nanoseconds_carried"];
        let u64_bytes = |number: u64| [&[0xcf][..], &number.to_be_bytes()].concat();
        let cases: Vec<(&str, Vec<u8>, i64, Vec<&str>)> = vec![
            ("fixext8", event(&[0xd7, 0], S as u32, 1), S * 1_000_000_000 + 1, vec![]),
            ("ext8", event(&[0xc7, 8, 0], S as u32, 1), S * 1_000_000_000 + 1, vec![]),
            ("ext16", event(&[0xc8, 0, 8, 0], S as u32, 1), S * 1_000_000_000 + 1, vec![]),
            ("signed int32, as Docker", vec![0xd2, 0x65, 0x53, 0xf1, 0], S * 1_000_000_000, vec![]),
            ("signed int64", vec![0xd3, 0, 0, 0, 0, 0x65, 0x53, 0xf1, 0], S * 1_000_000_000, vec![]),
            ("uint32", vec![0xce, 0x65, 0x53, 0xf1, 0], S * 1_000_000_000, vec![]),
            ("-1", vec![0xff], -1_000_000_000, vec![]),
            ("half a second", f64_bytes(S as f64 + 0.5), S * 1_000_000_000 + 500_000_000, vec![]),
            ("milliseconds", f64_bytes(S as f64 * 1e3), S * 1_000_000_000, vec!["time_scaled"]),
            ("microseconds", u64_bytes(S as u64 * 1_000_000), S * 1_000_000_000, vec!["time_scaled"]),
            ("nanoseconds", u64_bytes(S as u64 * 1_000_000_000), S * 1_000_000_000, vec!["time_scaled"]),
            ("u64::MAX", u64_bytes(u64::MAX), i64::MAX, vec!["time_scaled", "time_clamped"]),
            ("zero seconds", event(&[0xd7, 0], 0, 5), 7, vec!["time_from_receipt"]),
            ("zero", vec![0], 7, vec!["time_from_receipt"]),
            ("nil", vec![0xc0], 7, vec!["time_from_receipt"]),
            ("NaN", f64_bytes(f64::NAN), 7, vec!["time_from_receipt"]),
            ("a map", vec![0x81, 1, 2], 7, vec!["time_from_receipt"]),
            (
                "nanoseconds carry",
                event(&[0xd7, 0], S as u32, 1_500_000_000),
                (S + 1) * 1_000_000_000 + 500_000_000,
                vec!["nanoseconds_carried"],
            ),
            (
                "as many as a second has",
                event(&[0xd7, 0], S as u32, 999_999_999),
                S * 1_000_000_000 + 999_999_999,
                vec![],
            ),
            ("a second of them", event(&[0xc7, 8, 0], S as u32, 1_000_000_000), (S + 1) * 1_000_000_000, carried()),
            (
                "a second of them in a timestamp 96",
                [&[0xc7, 12, 0xff][..], &1_000_000_000u32.to_be_bytes(), &S.to_be_bytes()].concat(),
                (S + 1) * 1_000_000_000,
                carried(),
            ),
            (
                "a second of them in a timestamp 64",
                [&[0xd7, 0xff][..], &(1_000_000_000u64 << 34 | S as u64).to_be_bytes()].concat(),
                (S + 1) * 1_000_000_000,
                carried(),
            ),
            ("timestamp 32", vec![0xd6, 0xff, 0x65, 0x53, 0xf1, 0], S * 1_000_000_000, vec![]),
            ("a group's start", event(&[0xd7, 0], u32::MAX, 0), -7, vec!["marker"]),
            ("1e300", f64_bytes(1e300), i64::MAX, vec!["time_scaled", "time_clamped"]),
        ];
        for (name, bytes, time, odd) in cases {
            assert_eq!(at(&bytes), (time, odd), "{name}");
        }
    }

    #[test]
    fn small_negative_numbers_are_group_markers_in_nested_times_only() {
        let markers: [&[u8]; 6] = [
            b"\xff",
            b"\xfe",
            b"\xd0\xff",
            b"\xd1\xff\xfe",
            b"\xd2\xff\xff\xff\xff",
            b"\xd3\xff\xff\xff\xff\xff\xff\xff\xfe",
        ];
        for bytes in markers {
            let nested = read_nested(bytes, Timestamp(7), &mut Tally::default());
            assert_eq!(nested, Ok((When::Marker, bytes.len())), "{bytes:?}");
            let (time, _) = at(bytes);
            assert!(matches!(time, -2_000_000_000 | -1_000_000_000), "{bytes:?}: {time}");
        }
        let three = read_nested(b"\xfd", Timestamp(7), &mut Tally::default());
        assert_eq!(three, Ok((When::At(Timestamp(-3_000_000_000)), 1)));
    }
}
