//! Writing MessagePack: heads, texts, numbers, EventTime. Every head is as short as it can be.

use crate::record::Timestamp;

/// The head of a map or array (`fix` 0x80 or 0x90, `wide` 0xde or 0xdc) of `count` items.
fn group(fix: u8, wide: u8, count: usize) -> ([u8; 5], usize) {
    // Nothing in memory has more items than u32 counts: each is a byte at least of a batch below 4 GiB.
    let [b0, b1, b2, b3] = u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes();
    match count {
        0..=15 => ([fix | b3, 0, 0, 0, 0], 1),
        16..=0xffff => ([wide, b2, b3, 0, 0], 3),
        _ => ([wide + 1, b0, b1, b2, b3], 5),
    }
}

/// The head of an array, and its length.
pub fn array_head(count: usize) -> ([u8; 5], usize) {
    group(0x90, 0xdc, count)
}

/// The head of a map, and its length.
pub fn map_head(count: usize) -> ([u8; 5], usize) {
    group(0x80, 0xde, count)
}

/// The head of a `str` of so many bytes, and its length.
#[inline]
pub fn text_head(len: usize) -> ([u8; 5], usize) {
    // Texts lie in batches, which stay below 4 GiB.
    let [b0, b1, b2, b3] = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    match len {
        0..=31 => ([0xa0 | b3, 0, 0, 0, 0], 1),
        32..=0xff => ([0xd9, b3, 0, 0, 0], 2),
        0x100..=0xffff => ([0xda, b2, b3, 0, 0], 3),
        _ => ([0xdb, b0, b1, b2, b3], 5),
    }
}

/// Appends the head of an array.
pub fn array(count: usize, out: &mut Vec<u8>) {
    let (head, len) = array_head(count);
    out.extend_from_slice(&head[..len]);
}

/// Appends the head of a map.
#[inline]
pub fn map(count: usize, out: &mut Vec<u8>) {
    let (head, len) = map_head(count);
    out.extend_from_slice(&head[..len]);
}

/// Appends a `str`; the bytes need not be UTF-8.
#[inline]
pub fn text(bytes: &[u8], out: &mut Vec<u8>) {
    let (head, len) = text_head(bytes.len());
    out.extend_from_slice(&head[..len]);
    out.extend_from_slice(&bytes[..bytes.len().min(u32::MAX as usize)]);
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

/// Appends an integer.
pub fn signed(number: i64, out: &mut Vec<u8>) {
    let bytes = number.to_be_bytes();
    match number {
        0.. => unsigned(number as u64, out),
        -32..=-1 => out.push(bytes[7]),
        -0x80..-32 => out.extend_from_slice(&[0xd0, bytes[7]]),
        -0x8000..-0x80 => out.extend_from_slice(&[0xd1, bytes[6], bytes[7]]),
        -0x8000_0000..-0x8000 => {
            out.push(0xd2);
            out.extend_from_slice(&bytes[4..]);
        }
        _ => {
            out.push(0xd3);
            out.extend_from_slice(&bytes);
        }
    }
}

/// Appends a float 64.
pub fn float(number: f64, out: &mut Vec<u8>) {
    out.push(0xcb);
    out.extend_from_slice(&number.to_be_bytes());
}

/// Appends an EventTime (fixext 8, type 0). Times before 1970 and after 2106 can not be written and are clamped.
pub fn event_time(time: Timestamp, out: &mut Vec<u8>) {
    let seconds = u32::try_from(time.0.div_euclid(1_000_000_000).max(0)).unwrap_or(u32::MAX);
    let nanos = time.0.rem_euclid(1_000_000_000) as u32;
    out.extend_from_slice(&[0xd7, 0]);
    out.extend_from_slice(&seconds.to_be_bytes());
    out.extend_from_slice(&nanos.to_be_bytes());
}
