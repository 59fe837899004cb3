//! Times as text: RFC 3339 in both directions, and Unix times whose unit is told by their size.
//!
//! Source: RFC 3339 section 5.6. A [`Timestamp`] holds the years 1677 to 2262; a valid time outside them is clamped to
//! the nearest one (and [`Clamp`] says so), since a wrong year must not cost a record.

use crate::batch::Batch;
use crate::codec::json::digits;
use crate::record::Timestamp;

const NS: i64 = 1_000_000_000;
/// Bytes of a time as it is written here.
pub(crate) const LEN: usize = 30;
/// The first time there is: [`Timestamp::UNREAD`] is before it.
const FIRST: i64 = i64::MIN + 1;

/// Whether a time had to be moved into the range that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clamp {
    /// It is exact (digits beyond nanoseconds are cut).
    Exact,
    /// It lies outside 1677-2262.
    Clamped,
}

/// Reads RFC 3339 with 0 to 9 (or more, cut) digits, `Z` or an offset. A time outside 1677-2262 is clamped.
pub fn parse_rfc3339(text: &[u8]) -> Option<Timestamp> {
    parse_rfc3339_or_clamp(text).map(|(time, _)| time)
}

/// The same, and says whether the time was clamped.
pub fn parse_rfc3339_or_clamp(text: &[u8]) -> Option<(Timestamp, Clamp)> {
    let fixed = text.first_chunk::<19>()?;
    let two = |at: usize| digit2(fixed[at], fixed[at + 1]);
    let marks = [fixed[4], fixed[7], fixed[13], fixed[16]];
    if marks != [b'-', b'-', b':', b':'] || !matches!(fixed[10], b'T' | b't' | b' ') {
        return None;
    }
    let year = two(0)? * 100 + two(2)?;
    let (month, day, hour, minute, second) = (two(5)?, two(8)?, two(11)?, two(14)?, two(17)?);
    // Second 60 is a leap second; Unix time has none, so it is the first of the next minute.
    if !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut rest = &text[19..];
    let mut ns = 0;
    if let [b'.', after @ ..] = rest {
        let digits = after.iter().position(|byte| !byte.is_ascii_digit())?;
        if digits == 0 {
            return None;
        }
        ns = fraction(&after[..digits]);
        rest = &after[digits..];
    }
    let offset = match rest {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (digit2(*h1, *h2)?, digit2(*m1, *m2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -60 } else { 60 }
        }
        _ => return None,
    };
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    Some(clamp(i128::from(seconds) * i128::from(NS) + i128::from(ns)))
}

/// Two ASCII digits.
#[inline(always)]
fn digit2(tens: u8, ones: u8) -> Option<i64> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens <= 9 && ones <= 9).then(|| i64::from(tens) * 10 + i64::from(ones))
}

/// Digits after a point as nanoseconds; those beyond nine are cut.
fn fraction(digits: &[u8]) -> i64 {
    let mut ns = 0;
    for nth in 0..9 {
        ns = ns * 10 + digits.get(nth).map_or(0, |digit| i64::from(digit - b'0'));
    }
    ns
}

fn clamp(ns: i128) -> (Timestamp, Clamp) {
    match i64::try_from(ns) {
        Ok(ns) if ns >= FIRST => (Timestamp(ns), Clamp::Exact),
        _ if ns < 0 => (Timestamp(FIRST), Clamp::Clamped),
        _ => (Timestamp(i64::MAX), Clamp::Clamped),
    }
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a Gregorian date (Howard Hinnant, `days_from_civil`).
pub(super) fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The reverse: year, month, day.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

/// Writes `value` as decimal digits, filling `out`.
#[inline(always)]
fn put(out: &mut [u8], mut value: i64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// `2026-11-23T10:15:00.` of a second since 1970.
fn second_text(second: i64) -> [u8; 20] {
    let mut out = *b"0000-00-00T00:00:00.";
    let (days, of_day) = (second.div_euclid(86_400), second.rem_euclid(86_400));
    let (year, month, day) = civil_from_days(days);
    put(&mut out[0..4], year);
    put(&mut out[5..7], month);
    put(&mut out[8..10], day);
    put(&mut out[11..13], of_day / 3600);
    put(&mut out[14..16], of_day / 60 % 60);
    put(&mut out[17..19], of_day % 60);
    out
}

/// Appends RFC 3339, UTC, nine digits, `Z`: 30 bytes for the years 0 to 9999, which all of [`Timestamp`] is.
pub fn write_rfc3339(time: Timestamp, out: &mut Vec<u8>) {
    Writer::default().write(time, out);
}

/// The same for many times that follow each other: the text of the last second is kept. In the forward bench four
/// times of five hit it.
#[derive(Clone, Debug)]
pub struct Writer {
    second: i64,
    text: [u8; 20],
}

impl Default for Writer {
    fn default() -> Writer {
        // No second of a `Timestamp` is that far.
        Writer { second: i64::MAX, text: [0; 20] }
    }
}

impl Writer {
    /// Appends [`LEN`] bytes (see [`write_rfc3339`]).
    #[inline]
    pub fn write(&mut self, time: Timestamp, out: &mut Vec<u8>) {
        let mut text = [0; LEN];
        self.put(time, &mut text);
        out.extend_from_slice(&text);
    }

    /// The same in a place of that length.
    #[inline]
    pub(crate) fn put(&mut self, time: Timestamp, text: &mut [u8; LEN]) {
        let second = time.0.div_euclid(NS);
        if second != self.second {
            *self = Writer { second, text: second_text(second) };
        }
        // A time a line of every work: 122 -> 60 instructions against a division a digit.
        let nanos = time.0.rem_euclid(NS) as u64;
        text[..20].copy_from_slice(&self.text);
        text[20] = b'0' + (nanos / digits::EIGHT) as u8;
        text[21..29].copy_from_slice(&digits::eight(nanos % digits::EIGHT));
        text[29] = b'Z';
    }
}

/// The time of row `at`: its own, or read from its text; `None` where the text is no RFC 3339.
pub fn of(batch: &Batch, at: usize) -> Option<Timestamp> {
    let row = batch.row(at);
    if row.time == Timestamp::UNREAD { parse_rfc3339(batch.bytes(row.time_text)) } else { Some(row.time) }
}

/// The unit of a Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Second,
    /// Milliseconds.
    Milli,
    /// Microseconds.
    Micro,
    /// Nanoseconds.
    Nano,
}

impl Unit {
    fn ns(self) -> i64 {
        match self {
            Unit::Second => NS,
            Unit::Milli => 1_000_000,
            Unit::Micro => 1000,
            Unit::Nano => 1,
        }
    }

    /// The unit that puts a bare number nearest to our days: seconds up to 1e11 (the year 5138), then a thousand times
    /// more for each finer unit, so that milliseconds since March 1973 and so on are told apart.
    pub fn by_size(value: i128) -> Unit {
        match value.unsigned_abs() {
            0..100_000_000_000 => Unit::Second,
            100_000_000_000..100_000_000_000_000 => Unit::Milli,
            100_000_000_000_000..100_000_000_000_000_000 => Unit::Micro,
            _ => Unit::Nano,
        }
    }

    /// The time of `value` in this unit.
    pub fn time(self, value: i128) -> (Timestamp, Clamp) {
        clamp(value.saturating_mul(i128::from(self.ns())))
    }
}

/// Reads a decimal number (`1795428900`, `1795428900.123`, `1795428900123`) as a Unix time in `unit`, or in the unit
/// that its size tells. Exact to the nanosecond; further digits are cut. An exponent goes through a float. `None` for
/// anything else, and for no number at all.
pub fn parse_epoch(text: &[u8], unit: Option<Unit>) -> Option<(Timestamp, Clamp, Unit)> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let whole_len = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    let (whole, rest) = digits.split_at(whole_len);
    if whole.is_empty() {
        return None;
    }
    let part = match rest {
        [] => &[][..],
        [b'.', part @ ..] if !part.is_empty() && part.iter().all(u8::is_ascii_digit) => part,
        _ => {
            // `1.7e9`: rare enough to be read the slow way, by the standard library.
            let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
            return if rest.iter().any(|byte| byte | 0x20 == b'e') { from_float(value, unit) } else { None };
        }
    };
    // Saturates at the far end of the range, which clamps.
    let value = whole.iter().fold(0i128, |value, digit| (value * 10 + i128::from(digit - b'0')).min(1 << 80));
    let unit = unit.unwrap_or_else(|| Unit::by_size(value));
    let ns = value * i128::from(unit.ns()) + i128::from(fraction(part) / (NS / unit.ns()));
    let (time, clamped) = clamp(if negative { -ns } else { ns });
    Some((time, clamped, unit))
}

/// The same for a float (a MessagePack `float64`). `None` for NaN and the infinities.
pub fn from_float(value: f64, unit: Option<Unit>) -> Option<(Timestamp, Clamp, Unit)> {
    if !value.is_finite() {
        return None;
    }
    // Casts saturate, and what saturates is clamped. The whole part apart, so that a float of our days keeps its
    // quarter of a microsecond.
    let unit = unit.unwrap_or_else(|| Unit::by_size(value as i128));
    let whole = value.trunc();
    let ns = (whole as i128).saturating_mul(unit.ns().into()) + ((value - whole) * unit.ns() as f64).round() as i128;
    let (time, clamped) = clamp(ns);
    Some((time, clamped, unit))
}

/// One round of the fuzz target: whatever is read is written as the same time.
#[doc(hidden)]
pub fn fuzz_one(data: &[u8]) {
    for read in [parse_rfc3339(data), parse_epoch(data, None).map(|(time, ..)| time)].into_iter().flatten() {
        let mut text = Vec::new();
        write_rfc3339(read, &mut text);
        assert_eq!((text.len(), parse_rfc3339(&text)), (30, Some(read)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(ns: i64) -> String {
        let mut out = Vec::new();
        write_rfc3339(Timestamp(ns), &mut out);
        String::from_utf8(out).expect("digits")
    }

    #[test]
    fn rfc_3339_is_read_with_any_fraction_and_offset() {
        let cases: [(&str, i64); 14] = [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T00:00:00.000000001Z", 1),
            ("1970-01-01T00:00:00.1Z", 100_000_000),
            ("1970-01-01T00:00:00.1234567891Z", 123_456_789),
            ("1970-01-01t00:00:01z", NS),
            ("1970-01-01 00:00:01Z", NS),
            ("1970-01-01T01:00:00+01:00", 0),
            ("1969-12-31T23:30:00-00:30", 0),
            ("1969-12-31T23:59:59.999999999Z", -1),
            ("2016-12-31T23:59:60Z", 1_483_228_800 * NS),
            ("2024-02-29T12:34:56.789Z", 1_709_210_096_789_000_000),
            ("2262-04-11T23:47:16.854775807Z", i64::MAX),
            ("1677-09-21T00:12:43.145224193Z", FIRST),
            ("2026-11-23T10:15:00Z", 1_795_428_900 * NS),
        ];
        for (text, ns) in cases {
            assert_eq!(parse_rfc3339_or_clamp(text.as_bytes()), Some((Timestamp(ns), Clamp::Exact)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "2026-11-23",
            "2026-11-23T10:15:00",
            "2026-11-23T10:15:00.Z",
            "2026-11-23T10:15:00.1",
            "2026-13-23T10:15:00Z",
            "2026-02-29T10:15:00Z",
            "1900-02-29T10:15:00Z",
            "2026-11-00T10:15:00Z",
            "2026-11-23T24:15:00Z",
            "2026-11-23T10:60:00Z",
            "2026-11-23T10:15:61Z",
            "2026-11-23T10:15:00+0100",
            "2026-11-23T10:15:00+24:00",
            "2026-11-23T10:15:00ZZ",
            "2026/11/23T10:15:00Z",
            "+026-11-23T10:15:00Z",
        ] {
            assert_eq!(parse_rfc3339(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_year_out_of_range_is_clamped_and_said() {
        let zero = parse_rfc3339_or_clamp(b"0001-01-01T00:00:00Z");
        assert_eq!(zero, Some((Timestamp(FIRST), Clamp::Clamped)));
        let far = parse_rfc3339_or_clamp(b"9999-12-31T23:59:59Z");
        assert_eq!(far, Some((Timestamp(i64::MAX), Clamp::Clamped)));
        assert_eq!(parse_epoch(b"99999999999999999999999999999", None).map(|found| found.1), Some(Clamp::Clamped));
    }

    #[test]
    fn a_bare_number_is_in_the_unit_that_its_size_tells() {
        let ns = 1_795_428_900_123_456_789;
        let cases: [(&str, i64, Unit); 9] = [
            ("1795428900", 1_795_428_900 * NS, Unit::Second),
            ("1795428900.123456789", ns, Unit::Second),
            ("1795428900.1234567899", ns, Unit::Second),
            ("1795428900123.456789", ns, Unit::Milli),
            ("1795428900123456.789", ns, Unit::Micro),
            ("1795428900123456789", ns, Unit::Nano),
            ("-1.5", -1_500_000_000, Unit::Second),
            ("0", 0, Unit::Second),
            ("1.5e9", 1_500_000_000 * NS, Unit::Second),
        ];
        for (text, ns, unit) in cases {
            assert_eq!(parse_epoch(text.as_bytes(), None), Some((Timestamp(ns), Clamp::Exact, unit)), "{text}");
        }
        assert_eq!(parse_epoch(b"5", Some(Unit::Milli)).map(|found| found.0), Some(Timestamp(5_000_000)));
        for text in ["", "-", "x", "1x", "1.", ".5", "1.5.5", "infinity", "NaN", "1e", "0x10", " 1", "+1"] {
            assert_eq!(parse_epoch(text.as_bytes(), None), None, "{text}");
        }
        assert_eq!(from_float(f64::NAN, None), None);
    }

    proptest! {
        #[test]
        fn any_time_is_read_back_as_it_was_written(ns in FIRST..=i64::MAX) {
            prop_assert_eq!(parse_rfc3339(written(ns).as_bytes()), Some(Timestamp(ns)));
        }

        #[test]
        fn a_writer_that_remembers_writes_the_same(times in proptest::collection::vec(-3 * NS..3 * NS, 1..20)) {
            let mut writer = Writer::default();
            for ns in times {
                let mut out = Vec::new();
                writer.write(Timestamp(ns), &mut out);
                prop_assert_eq!(String::from_utf8_lossy(&out), written(ns));
            }
        }

        #[test]
        fn arbitrary_text_is_no_trouble(text in "[-0-9TZ:. +e]{0,40}") {
            fuzz_one(text.as_bytes());
        }
    }
}
