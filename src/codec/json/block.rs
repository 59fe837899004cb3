//! Text in blocks of 16 bytes: what the JSON scanner, the escaper and the unescaper have in common.
//!
//! `wide::u8x16` is plain SSE2 or NEON, present in every build; run-time dispatch to AVX2 gains 1.6 times on a bare mask
//! loop, which is a small part of what happens here.

use wide::u8x16;

/// Bytes of a block.
pub(crate) const BLOCK: usize = 16;

/// The block at `at`. Beyond the end of `bytes` it holds zeros, which stop every scan here (NUL is a control
/// character). Callers that have readable bytes after their text pass them too: the slow way is then never taken.
#[inline(always)]
pub(crate) fn load(bytes: &[u8], at: usize) -> u8x16 {
    match bytes.get(at..).and_then(|rest| rest.first_chunk::<BLOCK>()) {
        Some(chunk) => u8x16::from(*chunk),
        None => load_end(bytes, at),
    }
}

#[cold]
#[inline(never)]
fn load_end(bytes: &[u8], at: usize) -> u8x16 {
    let mut chunk = [0; BLOCK];
    let rest = bytes.get(at..).unwrap_or_default();
    let len = rest.len().min(BLOCK);
    chunk[..len].copy_from_slice(&rest[..len]);
    u8x16::from(chunk)
}

/// `0xff` at each byte that equals `byte`.
#[inline(always)]
pub(crate) fn equal(block: u8x16, byte: u8) -> u8x16 {
    block.simd_eq(u8x16::splat(byte))
}

/// `0xff` at each control character (below 0x20).
#[inline(always)]
pub(crate) fn controls(block: u8x16) -> u8x16 {
    block.min(u8x16::splat(0x1f)).simd_eq(block)
}

/// One bit a byte that ends a run of plain characters in a JSON string: quote, backslash, control character.
#[inline(always)]
pub(crate) fn specials(block: u8x16) -> u32 {
    special_bytes(block).to_bitmask()
}

/// The same as `0xff` a byte.
///
/// Quote and space change places when their second bit is turned over, and control characters stay among themselves: so one
/// comparison finds the quote with them: two instructions a block less, too few to be seen in docker-file.
#[inline(always)]
pub(crate) fn special_bytes(block: u8x16) -> u8x16 {
    let turned = block ^ u8x16::splat(b'"' ^ b' ');
    turned.min(u8x16::splat(b' ')).simd_eq(turned) | equal(block, b'\\')
}

/// Whether `text` can stand between the quotes of a JSON string as it is and is ASCII.
pub(crate) fn is_plain(text: &[u8]) -> bool {
    // Times, which are nearly all that is asked about.
    if let (Some(first), Some(last)) = (text.first_chunk::<BLOCK>(), text.last_chunk::<BLOCK>())
        && text.len() <= 2 * BLOCK
    {
        let (first, last) = (u8x16::from(*first), u8x16::from(*last));
        return (special_bytes(first) | special_bytes(last) | first | last).to_bitmask() == 0;
    }
    let (chunks, rest) = text.as_chunks::<BLOCK>();
    let odd = chunks.iter().map(|chunk| u8x16::from(*chunk)).fold(0, |odd, b| odd | specials(b) | b.to_bitmask());
    odd == 0 && rest.iter().all(|byte| (0x20..0x80).contains(byte) && !matches!(byte, b'"' | b'\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_backslashes_and_control_characters_are_special_and_nothing_else_is() {
        for byte in 0..=u8::MAX {
            let special = byte < 0x20 || matches!(byte, b'"' | b'\\');
            assert_eq!(specials(u8x16::splat(byte)), if special { 0xffff } else { 0 }, "{byte:#x}");
        }
    }
}
