//! Makes of a JSON text with a valid grammar one that every reader takes: bytes that are no UTF-8, and escapes of half a
//! surrogate pair (as JavaScript writes a text that was cut in the middle of a character), become U+FFFD.
//!
//! Counters: `invalid_utf8`, one a replacement.

use crate::metrics::{Oddity, Tally};

use super::escape::{hex4, low_surrogate};

/// The mended text. Backslashes are expected in strings only, which is what a valid grammar means.
pub(crate) fn mend(text: &[u8], tally: &mut Tally) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        mend_escapes(chunk.valid().as_bytes(), &mut out, tally);
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
            tally.odd(Oddity::InvalidUtf8);
        }
    }
    out
}

fn mend_escapes(text: &[u8], out: &mut Vec<u8>, tally: &mut Tally) {
    let mut at = 0;
    while let Some(plain) = memchr::memchr(b'\\', &text[at..]) {
        out.extend_from_slice(&text[at..at + plain]);
        at += plain;
        let len = match hex4(text, at + 2).filter(|_| text.get(at + 1) == Some(&b'u')) {
            Some(0xd800..=0xdbff) if low_surrogate(text, at + 6).is_some() => 12,
            Some(0xd800..=0xdfff) => {
                out.extend_from_slice(b"\\ufffd");
                tally.odd(Oddity::InvalidUtf8);
                at += 6;
                continue;
            }
            Some(_) => 6,
            None => 2,
        };
        let end = (at + len).min(text.len());
        out.extend_from_slice(&text[at..end]);
        at = end;
    }
    out.extend_from_slice(&text[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_surrogates_and_broken_utf8_are_replaced_and_nothing_else() {
        let cases: &[(&[u8], &str, u32)] = &[
            (br#"{"a":"\ud83d\ude00 \\ud800 \n \u00e9"}"#, r#"{"a":"\ud83d\ude00 \\ud800 \n \u00e9"}"#, 0),
            (br#"{"a":"\ud83d"}"#, r#"{"a":"\ufffd"}"#, 1),
            (br#"{"a":"\ude00\ud83dx"}"#, r#"{"a":"\ufffd\ufffdx"}"#, 2),
            (br#"{"a":"\ud83d\ud83d\ude00"}"#, r#"{"a":"\ufffd\ud83d\ude00"}"#, 1),
            (b"{\"a\":\"x\xffy\"}", "{\"a\":\"x\u{fffd}y\"}", 1),
        ];
        for (text, expected, count) in cases {
            let mut tally = Tally::default();
            assert_eq!(String::from_utf8(mend(text, &mut tally)).expect("UTF-8"), *expected);
            assert_eq!(tally.oddities[Oddity::InvalidUtf8 as usize], *count, "{expected}");
        }
    }
}
