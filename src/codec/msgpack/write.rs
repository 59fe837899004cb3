//! Writing MessagePack: heads, texts, EventTime, and JSON to MessagePack in one pass.
//!
//! Every head is as short as it can be. Integers that fit 64 bits stay exact; any other number is a float 64.
//! Limit: JSON nested deeper than [`DEPTH_MAX`](super::DEPTH_MAX) is refused.

use crate::codec::json;
use crate::record::{Form, Timestamp, Value};

use super::DEPTH_MAX;

/// Appends the head of a map or array (`fix` 0x80 or 0x90, `wide` 0xde or 0xdc) of `count` items.
fn group(fix: u8, wide: u8, count: usize) -> ([u8; 5], usize) {
    // Nothing in memory has more items than u32 counts: each is a byte at least of a batch below 4 GiB.
    let [b0, b1, b2, b3] = u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes();
    match count {
        0..=15 => ([fix | b3, 0, 0, 0, 0], 1),
        16..=0xffff => ([wide, b2, b3, 0, 0], 3),
        _ => ([wide + 1, b0, b1, b2, b3], 5),
    }
}

/// Appends the head of an array.
pub fn array(count: usize, out: &mut Vec<u8>) {
    let (head, len) = group(0x90, 0xdc, count);
    out.extend_from_slice(&head[..len]);
}

/// Appends the head of a map.
pub fn map(count: usize, out: &mut Vec<u8>) {
    let (head, len) = group(0x80, 0xde, count);
    out.extend_from_slice(&head[..len]);
}

/// Appends a `str`; the bytes need not be UTF-8.
pub fn text(bytes: &[u8], out: &mut Vec<u8>) {
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let [_, _, b2, b3] = len.to_be_bytes();
    match len {
        0..=31 => out.push(0xa0 | b3),
        32..=0xff => out.extend_from_slice(&[0xd9, b3]),
        0x100..=0xffff => out.extend_from_slice(&[0xda, b2, b3]),
        _ => {
            out.push(0xdb);
            out.extend_from_slice(&len.to_be_bytes());
        }
    }
    out.extend_from_slice(&bytes[..bytes.len().min(len as usize)]);
}

/// Appends a `bin`.
pub fn bin(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(0xc6);
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&bytes[..bytes.len().min(len as usize)]);
}

/// Appends a non-negative integer.
pub fn unsigned(number: u64, out: &mut Vec<u8>) {
    let bytes = number.to_be_bytes();
    match number {
        0..=0x7f => out.push(bytes[7]),
        0x80..=0xff => out.extend_from_slice(&[0xcc, bytes[7]]),
        0x100..=0xffff => out.extend_from_slice(&[0xcd, bytes[6], bytes[7]]),
        0x1_0000..=0xffff_ffff => {
            out.push(0xce);
            out.extend_from_slice(&bytes[4..]);
        }
        _ => {
            out.push(0xcf);
            out.extend_from_slice(&bytes);
        }
    }
}

/// Appends an EventTime (fixext 8, type 0). Times before 1970 and after 2106 can not be written and are clamped.
pub fn event_time(time: Timestamp, out: &mut Vec<u8>) {
    let seconds = u32::try_from(time.0.div_euclid(1_000_000_000).max(0)).unwrap_or(u32::MAX);
    let nanos = time.0.rem_euclid(1_000_000_000) as u32;
    out.extend_from_slice(&[0xd7, 0]);
    out.extend_from_slice(&seconds.to_be_bytes());
    out.extend_from_slice(&nanos.to_be_bytes());
}

/// Appends one JSON value as MessagePack. `false`, with nothing appended, where `json` is no valid JSON.
pub fn from_json(json: &[u8], out: &mut Vec<u8>) -> bool {
    let from = out.len();
    // serde_json checks the grammar (and 127 levels), so that the pass below only has to find its way.
    let checked = serde_json::from_slice::<&serde_json::value::RawValue>(json).is_ok();
    let whole = checked && {
        let mut pass = Pass { json, at: 0 };
        pass.value(out, 0).is_some()
    };
    if !whole {
        out.truncate(from);
    }
    whole
}

struct Pass<'j> {
    json: &'j [u8],
    at: usize,
}

impl Pass<'_> {
    fn skip_space(&mut self) -> Option<u8> {
        while matches!(self.json.get(self.at)?, b' ' | b'\t' | b'\r' | b'\n' | b',' | b':') {
            self.at += 1;
        }
        self.json.get(self.at).copied()
    }

    fn value(&mut self, out: &mut Vec<u8>, depth: usize) -> Option<()> {
        match self.skip_space()? {
            b'"' => self.string(out)?,
            open @ (b'{' | b'[') => {
                if depth >= DEPTH_MAX {
                    return None;
                }
                self.at += 1;
                let (is_map, close) = (open == b'{', open + 2);
                let (head_at, mut count) = (out.len(), 0);
                while self.skip_space()? != close {
                    if is_map {
                        self.string(out)?;
                    }
                    self.value(out, depth + 1)?;
                    count += 1;
                }
                self.at += 1;
                let (head, len) = if is_map { group(0x80, 0xde, count) } else { group(0x90, 0xdc, count) };
                out.splice(head_at..head_at, head[..len].iter().copied());
            }
            b't' => self.word(4, 0xc3, out),
            b'f' => self.word(5, 0xc2, out),
            b'n' => self.word(4, 0xc0, out),
            _ => {
                let rest = &self.json[self.at..];
                let is_number = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
                let len = rest.iter().take_while(|byte| is_number(byte)).count();
                let number = std::str::from_utf8(&rest[..len]).ok()?;
                self.at += len;
                if let Ok(number) = number.parse::<u64>() {
                    unsigned(number, out);
                } else if let (Ok(number), false) = (number.parse::<i64>(), number == "-0") {
                    out.push(0xd3);
                    out.extend_from_slice(&number.to_be_bytes());
                } else {
                    out.push(0xcb);
                    out.extend_from_slice(&number.parse::<f64>().ok()?.to_be_bytes());
                }
            }
        }
        Some(())
    }

    fn word(&mut self, len: usize, byte: u8, out: &mut Vec<u8>) {
        self.at += len;
        out.push(byte);
    }

    fn string(&mut self, out: &mut Vec<u8>) -> Option<()> {
        self.skip_space()?;
        let from = self.at + 1;
        let mut end = from;
        loop {
            end += memchr::memchr2(b'"', b'\\', self.json.get(end..)?)?;
            if self.json[end] == b'"' {
                break;
            }
            end += 2;
        }
        self.at = end + 1;
        let value = Value { form: Form::JsonStr, bytes: &self.json[from..end] };
        text(&json::text(value)?, out);
        Some(())
    }
}
