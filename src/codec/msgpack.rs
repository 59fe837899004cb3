//! MessagePack: a bounded reader, and MessagePack to JSON in one pass.
//!
//! Nothing is allocated from a declared count or length: each is compared with the bytes that are there first.
//! [`check`] walks one value in one pass without recursion, to [`DEPTH_MAX`] levels; [`Skip`] finds the end of a value
//! of any depth with two counters, over input that arrives in any pieces. No tree is built: a frame of Fluent Bit's becomes
//! NDJSON 5.1 times as fast as through rmpv's and serde_json's (`longshore_as_it_came` in `benches/forward.rs`).
//!
//! In JSON: `str` and `bin` are text, integers and floats are exact (f32 by its own shortest text), NaN and infinities
//! are `null`, ext 0 (Fluentd's EventTime) and ext -1 (timestamp) are RFC 3339 text, other ext types are
//! `{"type":n,"data":"base64"}`, keys that are no text become text.
//! Counters: `invalid_utf8`, `not_finite`, `key_not_text`, `time_clamped`, `ext_unknown`.
//! Format: <https://github.com/msgpack/msgpack/blob/master/spec.md>.

mod float;
pub mod from_json;
pub mod write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::codec::{json, time};
use crate::metrics::{Oddity, Tally};
use crate::record::{Field, Form, Span, Timestamp};
pub(crate) use float::Thousandths;
use float::{write_float, write_thousandths};

/// Levels of maps and arrays within one record, the record's own map included.
pub const DEPTH_MAX: usize = 128;

/// Why a value could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It goes on after the bytes that are there.
    Short,
    /// The byte 0xc1, which means nothing, at this offset.
    Reserved(usize),
    /// Nested deeper than the limit.
    TooDeep,
}

/// The first bytes of a value: for scalars all of it, else what follows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Head {
    /// nil
    Nil,
    /// true or false
    Bool(bool),
    /// A non-negative integer.
    UInt(u64),
    /// A negative integer.
    Int(i64),
    /// float 32
    F32(f32),
    /// float 64
    F64(f64),
    /// A text of so many bytes follows.
    Str(usize),
    /// So many bytes follow.
    Bin(usize),
    /// So many values follow.
    Array(usize),
    /// So many pairs follow.
    Map(usize),
    /// A type, and so many bytes follow.
    Ext(i8, usize),
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Fault> {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).ok_or(Fault::Short)
}

fn signed(value: i64) -> Head {
    u64::try_from(value).map_or(Head::Int(value), Head::UInt)
}

/// Reads the head of the value that `bytes` begin with; says how many bytes it is long (9 at most).
///
/// Texts of up to 255 bytes, small numbers and small maps are nearly all that there is: they are told apart where `head`
/// is called, the rest in a function of its own.
#[inline(always)]
pub fn head(bytes: &[u8]) -> Result<(Head, usize), Fault> {
    #[cfg(test)]
    tests::STEPS.with(|steps| steps.set(steps.get() + 1));
    match *bytes {
        [byte @ 0xa0..=0xbf, ..] => Ok((Head::Str(usize::from(byte & 31)), 1)),
        [0xd9, len, ..] => Ok((Head::Str(usize::from(len)), 2)),
        [byte @ 0x00..=0x7f, ..] => Ok((Head::UInt(u64::from(byte)), 1)),
        [byte @ 0x80..=0x8f, ..] => Ok((Head::Map(usize::from(byte & 15)), 1)),
        _ => other_head(bytes),
    }
}

/// A head of any kind.
fn other_head(bytes: &[u8]) -> Result<(Head, usize), Fault> {
    let Some(first) = bytes.first() else { return Err(Fault::Short) };
    let u8_at = |at| take::<1>(bytes, at).map(|b| usize::from(b[0]));
    let u16_at = |at| take(bytes, at).map(|b| usize::from(u16::from_be_bytes(b)));
    let u32_at = |at| take(bytes, at).map(|b| u32::from_be_bytes(b) as usize);
    let kind = |at: usize| take::<1>(bytes, at).map(i8::from_be_bytes);
    Ok(match *first {
        byte @ 0x00..=0x7f => (Head::UInt(u64::from(byte)), 1),
        byte @ 0x80..=0x8f => (Head::Map(usize::from(byte & 15)), 1),
        byte @ 0x90..=0x9f => (Head::Array(usize::from(byte & 15)), 1),
        byte @ 0xa0..=0xbf => (Head::Str(usize::from(byte & 31)), 1),
        0xc0 => (Head::Nil, 1),
        0xc1 => return Err(Fault::Reserved(0)),
        0xc2 => (Head::Bool(false), 1),
        0xc3 => (Head::Bool(true), 1),
        0xc4 => (Head::Bin(u8_at(1)?), 2),
        0xc5 => (Head::Bin(u16_at(1)?), 3),
        0xc6 => (Head::Bin(u32_at(1)?), 5),
        0xc7 => (Head::Ext(kind(2)?, u8_at(1)?), 3),
        0xc8 => (Head::Ext(kind(3)?, u16_at(1)?), 4),
        0xc9 => (Head::Ext(kind(5)?, u32_at(1)?), 6),
        0xca => (Head::F32(f32::from_be_bytes(take(bytes, 1)?)), 5),
        0xcb => (Head::F64(f64::from_be_bytes(take(bytes, 1)?)), 9),
        0xcc => (Head::UInt(u8_at(1)? as u64), 2),
        0xcd => (Head::UInt(u16_at(1)? as u64), 3),
        0xce => (Head::UInt(u32_at(1)? as u64), 5),
        0xcf => (Head::UInt(u64::from_be_bytes(take(bytes, 1)?)), 9),
        0xd0 => (signed(i64::from(i8::from_be_bytes(take(bytes, 1)?))), 2),
        0xd1 => (signed(i64::from(i16::from_be_bytes(take(bytes, 1)?))), 3),
        0xd2 => (signed(i64::from(i32::from_be_bytes(take(bytes, 1)?))), 5),
        0xd3 => (signed(i64::from_be_bytes(take(bytes, 1)?)), 9),
        byte @ 0xd4..=0xd8 => (Head::Ext(kind(1)?, 1 << (byte - 0xd4)), 2),
        0xd9 => (Head::Str(u8_at(1)?), 2),
        0xda => (Head::Str(u16_at(1)?), 3),
        0xdb => (Head::Str(u32_at(1)?), 5),
        0xdc => (Head::Array(u16_at(1)?), 3),
        0xdd => (Head::Array(u32_at(1)?), 5),
        0xde => (Head::Map(u16_at(1)?), 3),
        0xdf => (Head::Map(u32_at(1)?), 5),
        byte @ 0xe0..=0xff => (Head::Int(i64::from(byte as i8)), 1),
    })
}

/// Bytes of a scalar, by its first byte; 0 for what goes on by a length or a count, and for 0xc1.
const SCALARS: [u8; 256] = {
    let mut lens = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        lens[byte] = match byte {
            0x00..=0x7f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => 1,
            0xcc | 0xd0 => 2,
            0xcd | 0xd1 => 3,
            0xca | 0xce | 0xd2 => 5,
            0xcb | 0xcf | 0xd3 => 9,
            _ => 0,
        };
        byte += 1;
    }
    lens
};

/// The length of the number, boolean or nil that `bytes` begin with. `None` for other values, and for one that is not whole.
#[inline(always)]
pub(crate) fn scalar(bytes: &[u8]) -> Option<usize> {
    let len = usize::from(SCALARS[usize::from(*bytes.first()?)]);
    (len != 0 && len <= bytes.len()).then_some(len)
}

/// The end of the value that `bytes` begin with, its structure checked to `depth_max` levels ([`DEPTH_MAX`] at most).
pub fn check(bytes: &[u8], depth_max: usize) -> Result<usize, Fault> {
    // Few values are nested deeper than that, and clearing a stack for all levels costs more than walking those.
    const SHALLOW: usize = 8;
    match check_levels::<SHALLOW>(bytes, depth_max) {
        Err(Fault::TooDeep) if depth_max > SHALLOW => check_levels::<DEPTH_MAX>(bytes, depth_max),
        checked => checked,
    }
}

fn check_levels<const LEVELS: usize>(bytes: &[u8], depth_max: usize) -> Result<usize, Fault> {
    let depth_max = depth_max.min(LEVELS);
    // Values left at each open level. A count above the bytes that are left is refused, so u32 is enough for any
    // input below 4 GiB.
    let mut open = [0u32; LEVELS];
    let (mut depth, mut left, mut at) = (0, 1u32, 0);
    loop {
        let (head, len) = head(&bytes[at..]).map_err(|fault| match fault {
            Fault::Reserved(_) => Fault::Reserved(at),
            other => other,
        })?;
        at += len;
        let inner = match head {
            Head::Str(len) | Head::Bin(len) | Head::Ext(_, len) => {
                if len > bytes.len() - at {
                    return Err(Fault::Short);
                }
                at += len;
                None
            }
            Head::Array(count) => Some(count),
            Head::Map(count) => Some(count.saturating_mul(2)),
            _ => None,
        };
        left -= 1;
        if let Some(count) = inner {
            if depth == depth_max {
                return Err(Fault::TooDeep);
            }
            if count > bytes.len() - at {
                return Err(Fault::Short);
            }
            open[depth] = left;
            depth += 1;
            left = u32::try_from(count).map_err(|_| Fault::Short)?;
        }
        while left == 0 {
            if depth == 0 {
                return Ok(at);
            }
            depth -= 1;
            left = open[depth];
        }
    }
}

/// Finds the end of some values, of any depth, in input that comes in pieces. Two counters are all it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skip {
    values: u64,
    bytes: u64,
}

impl Skip {
    /// Over so many values.
    pub fn values(count: u64) -> Skip {
        Skip { values: count, bytes: 0 }
    }

    /// Over so many bytes.
    pub fn bytes(count: u64) -> Skip {
        Skip { values: 0, bytes: count }
    }

    /// Goes on with `input`; says how many of its bytes it passed. The rest (a head that is not whole, or what follows
    /// the last value) is to be given again.
    pub fn advance(&mut self, input: &[u8]) -> Result<usize, Fault> {
        let mut at = 0;
        loop {
            let pass = usize::try_from(self.bytes).unwrap_or(usize::MAX).min(input.len() - at);
            at += pass;
            self.bytes -= pass as u64;
            if self.bytes > 0 || self.values == 0 {
                return Ok(at);
            }
            let (head, len) = match head(&input[at..]) {
                Ok(head) => head,
                Err(Fault::Reserved(_)) => return Err(Fault::Reserved(at)),
                Err(_) => return Ok(at),
            };
            at += len;
            self.values -= 1;
            match head {
                Head::Str(len) | Head::Bin(len) | Head::Ext(_, len) => self.bytes = len as u64,
                Head::Array(count) => self.values = self.values.saturating_add(count as u64),
                Head::Map(count) => self.values = self.values.saturating_add(count as u64 * 2),
                _ => (),
            }
        }
    }

    /// Whether the end was reached.
    pub fn is_done(&self) -> bool {
        self.values == 0 && self.bytes == 0
    }

    /// The fewest bytes that must still come.
    pub fn owed(&self) -> u64 {
        self.values.saturating_add(self.bytes)
    }
}

/// The end of the value that `bytes` begin with, at any depth.
pub fn end_of(bytes: &[u8]) -> Result<usize, Fault> {
    let mut skip = Skip::values(1);
    let at = skip.advance(bytes)?;
    if skip.is_done() { Ok(at) } else { Err(Fault::Short) }
}

/// Appends one MessagePack value (checked before), the first `len` bytes of `padded`, as JSON. What turns out not to be
/// whole is `null`. (More bytes may follow: `codec/json/escape.rs` reads them with a text's last block.)
pub fn write_json(padded: &[u8], len: usize, out: &mut Vec<u8>, tally: &mut Tally) {
    write_json_in(false, padded, len, out, tally);
}

/// `in_key`: what is written is part of the text of a key.
fn write_json_in(in_key: bool, padded: &[u8], len: usize, out: &mut Vec<u8>, tally: &mut Tally) {
    if write_value(Within { padded, len, in_key }, out, tally, 0).is_none() {
        // Only for a caller that did not check: the text may be half an object, but nothing panics.
        out.extend_from_slice(b"null");
    }
}

/// What is left of a value, and behind it.
#[derive(Clone, Copy)]
struct Within<'a> {
    padded: &'a [u8],
    /// Not above its length.
    len: usize,
    /// It is part of the text of a key.
    in_key: bool,
}

impl<'a> Within<'a> {
    fn bytes(self) -> &'a [u8] {
        &self.padded[..self.len]
    }

    /// From `at` on.
    fn from(self, at: usize) -> Option<Within<'a>> {
        let len = self.len.checked_sub(at)?;
        Some(Within { padded: &self.padded[at..], len, ..self })
    }
}

/// Writes the value that `value` begins with; its end.
fn write_value(value: Within<'_>, out: &mut Vec<u8>, tally: &mut Tally, depth: usize) -> Option<usize> {
    let bytes = value.bytes();
    let (head, mut at) = head(bytes).ok()?;
    match head {
        Head::Nil => out.extend_from_slice(b"null"),
        Head::Bool(true) => out.extend_from_slice(b"true"),
        Head::Bool(false) => out.extend_from_slice(b"false"),
        Head::UInt(number) => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
        Head::Int(number) => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
        Head::F32(number) => write_float(number, number.is_finite(), out, tally),
        Head::F64(number) if write_thousandths(number, out) => (),
        Head::F64(number) => write_float(number, number.is_finite(), out, tally),
        Head::Str(len) | Head::Bin(len) => {
            write_text(value.from(at)?, len, out, tally)?;
            at += len;
        }
        Head::Ext(kind, len) => {
            write_ext(kind, bytes.get(at..at + len)?, out, tally);
            at += len;
        }
        Head::Array(_) | Head::Map(_) if depth >= DEPTH_MAX => return None,
        Head::Array(count) => {
            out.push(b'[');
            for index in 0..count {
                if index > 0 {
                    out.push(b',');
                }
                at += write_value(value.from(at)?, out, tally, depth + 1)?;
            }
            out.push(b']');
        }
        Head::Map(count) => {
            out.push(b'{');
            for index in 0..count {
                if index > 0 {
                    out.push(b',');
                }
                at += write_key(value.from(at)?, out, tally)?;
                out.push(b':');
                at += write_value(value.from(at)?, out, tally, depth + 1)?;
            }
            out.push(b'}');
        }
    }
    Some(at)
}

/// Writes the text of `len` bytes that `rest` begins with.
#[inline]
fn write_text(rest: Within<'_>, len: usize, out: &mut Vec<u8>, tally: &mut Tally) -> Option<()> {
    if len > rest.len {
        return None;
    }
    let replaced = json::quoted(rest.padded, len, out);
    if replaced > 0 {
        tally.odd_by(Oddity::InvalidUtf8, replaced);
    }
    Some(())
}

fn write_ext(kind: i8, data: &[u8], out: &mut Vec<u8>, tally: &mut Tally) {
    if let Some((time, exact)) = ext_time(kind, data) {
        if !exact {
            tally.odd(Oddity::TimeClamped);
        }
        out.push(b'"');
        time::write_rfc3339(time, out);
        out.push(b'"');
    } else {
        tally.odd(Oddity::ExtUnknown);
        out.extend_from_slice(b"{\"type\":");
        out.extend_from_slice(itoa::Buffer::new().format(kind).as_bytes());
        out.extend_from_slice(b",\"data\":\"");
        out.extend_from_slice(STANDARD.encode(data).as_bytes());
        out.extend_from_slice(b"\"}");
    }
}

/// Writes the key that `key` begins with as a JSON string; its end.
fn write_key(key: Within<'_>, out: &mut Vec<u8>, tally: &mut Tally) -> Option<usize> {
    if let (Head::Str(len), at) = head(key.bytes()).ok()? {
        write_text(key.from(at)?, len, out, tally)?;
        return Some(at + len);
    }
    let end = end_of(key.bytes()).ok()?;
    let bytes = &key.bytes()[..end];
    // Rare enough for a buffer of its own.
    let mut text = Vec::new();
    tally.odd(Oddity::KeyNotText);
    if key.in_key && matches!(head(bytes), Ok((Head::Map(_) | Head::Array(_), _))) {
        // As JSON within JSON, a key of a key of a key would double its quotes at each level.
        text.extend_from_slice(STANDARD.encode(bytes).as_bytes());
    } else {
        key_text(bytes, &mut text, tally);
    }
    write_text(Within { padded: &text, len: text.len(), in_key: key.in_key }, text.len(), out, tally)?;
    Some(end)
}

/// The text that stands for a key that is no `str`: the bytes of a `bin`, else its JSON (without quotes), in which a map or
/// array that is a key itself is the base64 of its bytes.
pub fn key_text(key: &[u8], out: &mut Vec<u8>, tally: &mut Tally) {
    match peek(key) {
        Some(Peek::Bytes(bytes)) => out.extend_from_slice(bytes),
        _ => {
            let from = out.len();
            write_json_in(true, key, key.len(), out, tally);
            if out[from..].starts_with(b"\"") {
                // A time: its quotes are no part of the key.
                out.remove(from);
                out.pop();
            }
        }
    }
}

/// The time in an ext value of type 0 (EventTime: u32 seconds, u32 nanoseconds, big endian; 8 bytes) or -1 (the
/// MessagePack timestamp; 4, 8 or 12 bytes), and whether it is exact: times outside [`Timestamp`] are clamped.
/// Nanoseconds from 1e9 up carry over into seconds.
pub fn ext_time(kind: i8, data: &[u8]) -> Option<(Timestamp, bool)> {
    let (seconds, nanos) = ext_parts(kind, data)?;
    Some(clamp(i128::from(seconds) * 1_000_000_000 + i128::from(nanos)))
}

/// The nanoseconds of the same, as they stand there.
pub fn ext_nanos(kind: i8, data: &[u8]) -> Option<u32> {
    ext_parts(kind, data).map(|(_, nanos)| nanos)
}

/// Seconds and nanoseconds.
fn ext_parts(kind: i8, data: &[u8]) -> Option<(i64, u32)> {
    Some(match (kind, data.len()) {
        (0, 8) => (i64::from(u32::from_be_bytes(take(data, 0).ok()?)), u32::from_be_bytes(take(data, 4).ok()?)),
        (-1, 4) => (i64::from(u32::from_be_bytes(take(data, 0).ok()?)), 0),
        (-1, 8) => {
            let both = u64::from_be_bytes(take(data, 0).ok()?);
            ((both & ((1 << 34) - 1)) as i64, (both >> 34) as u32)
        }
        (-1, 12) => (i64::from_be_bytes(take(data, 4).ok()?), u32::from_be_bytes(take(data, 0).ok()?)),
        _ => return None,
    })
}

/// A time of so many nanoseconds, and whether it is within [`Timestamp`]'s range.
pub fn clamp(nanos: i128) -> (Timestamp, bool) {
    // i64::MIN is taken: it says that the time was not read.
    match i64::try_from(nanos) {
        Ok(nanos) if nanos > i64::MIN => (Timestamp(nanos), true),
        _ => (Timestamp(if nanos < 0 { i64::MIN + 1 } else { i64::MAX }), false),
    }
}

/// A MessagePack value of a record, as pipeline steps see it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Peek<'a> {
    /// nil
    Nil,
    /// true or false
    Bool(bool),
    /// A negative integer.
    Int(i64),
    /// A non-negative integer.
    UInt(u64),
    /// f32 or f64.
    Float(f64),
    /// str or bin.
    Bytes(&'a [u8]),
    /// A map: its whole encoding.
    Map(&'a [u8]),
    /// An array: its whole encoding.
    Array(&'a [u8]),
    /// An ext type: its type and data.
    Ext(i8, &'a [u8]),
}

/// What a checked MessagePack value is. `None` where it is not whole.
pub fn peek(value: &[u8]) -> Option<Peek<'_>> {
    let (head, at) = head(value).ok()?;
    Some(match head {
        Head::Nil => Peek::Nil,
        Head::Bool(flag) => Peek::Bool(flag),
        Head::UInt(number) => Peek::UInt(number),
        Head::Int(number) => Peek::Int(number),
        Head::F32(number) => Peek::Float(f64::from(number)),
        Head::F64(number) => Peek::Float(number),
        Head::Str(len) | Head::Bin(len) => Peek::Bytes(value.get(at..at + len)?),
        Head::Ext(kind, len) => Peek::Ext(kind, value.get(at..at + len)?),
        Head::Array(_) => Peek::Array(value),
        Head::Map(_) => Peek::Map(value),
    })
}

/// The last entry `key` of a checked map: the whole encoding of its value.
pub fn get<'a>(map: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let mut found = None;
    for (name, value) in pairs(map)? {
        if matches!(peek(name), Some(Peek::Bytes(text)) if text == key) {
            found = Some(value);
        }
    }
    found
}

/// The pairs of a checked map, each as the whole encodings of key and value. `None` for any other value. Ends early
/// where the map is not whole.
pub fn pairs(map: &[u8]) -> Option<impl Iterator<Item = (&[u8], &[u8])>> {
    let Ok((Head::Map(count), mut at)) = head(map) else { return None };
    let mut next = move || {
        let rest = map.get(at..)?;
        let end = end_of(rest).ok()?;
        at += end;
        Some(&rest[..end])
    };
    Some((0..count).map_while(move |_| next().zip(next())))
}

/// One run of the fuzzer: the readers agree with each other on any bytes.
#[doc(hidden)]
pub fn fuzz_one(data: &[u8]) {
    let mut tally = Tally::default();
    let end = end_of(data);
    match check(data, DEPTH_MAX) {
        Ok(at) => {
            assert_eq!(end, Ok(at), "check and skip find the same end");
            let value = &data[..at];
            let mut out = Vec::new();
            write_json(value, value.len(), &mut out, &mut tally);
            let read = serde_json::from_slice::<Box<serde_json::value::RawValue>>(&out);
            // serde_json refuses more than 127 levels.
            assert!(read.is_ok() || out.iter().filter(|byte| matches!(byte, b'[' | b'{')).count() > 120);
            assert!(peek(value).is_some());
            get(value, b"a");
            let field = Field::new(Span::default(), Form::Msg, Span { at: 0, len: at as u32 });
            if let Some(taken) = json::page::of_one(data, &field) {
                assert_eq!(taken, [b",\"\":", &out[..]].concat(), "the short way and the general one write the same");
            }
        }
        Err(Fault::TooDeep) => (),
        // Which of the two is seen first may differ: `check` refuses a count before it looks at what is counted.
        Err(_) => assert!(end.is_err(), "{end:?}"),
    }
    let mut skip = Skip::values(1);
    let mut at = 0;
    for upto in 1..=data.len().min(512) {
        match skip.advance(&data[at..upto]) {
            Ok(passed) => at += passed,
            Err(_) => return,
        }
    }
    if data.len() <= 512 && skip.is_done() {
        assert_eq!(end, Ok(at), "one byte at a time");
    }
}

/// Runs `one` on every file of `tests/corpus/<folder>/`.
#[cfg(test)]
pub(crate) fn replay(folder: &str, one: fn(&[u8])) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(folder);
    let mut seeds = 0;
    for entry in std::fs::read_dir(&path).expect("the corpus is part of the repository") {
        let data = std::fs::read(entry.expect("a readable folder").path()).expect("a readable seed");
        one(&data);
        seeds += 1;
    }
    assert!(seeds > 0, "no seeds in {}", path.display());
}

#[cfg(test)]
pub(crate) mod tests;
