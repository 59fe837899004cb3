//! The validating scanner: one pass over the text of a JSON object that finds its top-level members.
//!
//! Grammar of RFC 8259, strictly: no trailing commas, no comments, no leading zeros, no raw control characters in
//! strings, no lone surrogates in escapes (most readers refuse them, so such a text is better kept as text). Nesting
//! is a stack of bits, not of calls: a million brackets cost a million steps at most, and end at the limit.
//!
//! Tried in `benches/codec.rs` and left out: finding the end of a number by blocks (index 5 % slower: short runs of digits
//! are predicted well enough), telling quote from backslash by a second mask (no difference).
//!
//! Limits: depth [`DEPTH_MAX`] whatever the caller says.

use wide::u8x16;

use super::JsonError;
use super::block::{BLOCK, load, specials};

/// Deepest nesting: one bit each in the stack of open brackets.
pub(crate) const DEPTH_MAX: usize = 128;

/// A run of the scanned text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) from: usize,
    pub(crate) to: usize,
}

/// One top-level member.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    /// Between the quotes of the key.
    pub(crate) key: Run,
    /// Whether the key holds escapes.
    pub(crate) key_escaped: bool,
    /// Between the quotes of a string, or all of another value.
    pub(crate) value: Run,
    /// Whether the value is a string.
    pub(crate) is_string: bool,
}

/// What was seen beside the members.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// Line breaks between tokens.
    pub(crate) breaks: bool,
    /// Bytes above 0x7f in strings (they can be nowhere else): the text's UTF-8 has to be checked.
    pub(crate) high: bool,
}

pub(crate) struct Scanner<'a> {
    text: &'a [u8],
    /// The same bytes and, if the caller has them, [`BLOCK`] more, so that a block read at the end stays inside.
    padded: &'a [u8],
    high: u8x16,
    breaks: bool,
}

impl<'a> Scanner<'a> {
    /// A scanner of the first `len` bytes of `padded`.
    pub(crate) fn new(padded: &'a [u8], len: usize) -> Scanner<'a> {
        Scanner { text: &padded[..len], padded, high: u8x16::splat(0), breaks: false }
    }

    #[inline(always)]
    fn byte(&self, at: usize) -> u8 {
        // NUL is no JSON, so the end of the text is an unexpected byte like any other.
        self.text.get(at).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn space(&mut self, at: usize) -> usize {
        self.token(at).0
    }

    /// The first byte that is no white space from `at` on: its place, and it.
    #[inline(always)]
    fn token(&mut self, at: usize) -> (usize, u8) {
        let byte = self.byte(at);
        if byte > b' ' {
            return (at, byte);
        }
        let at = self.space_run(at);
        (at, self.byte(at))
    }

    fn space_run(&mut self, mut at: usize) -> usize {
        loop {
            match self.byte(at) {
                b' ' | b'\t' => at += 1,
                b'\n' | b'\r' => {
                    self.breaks = true;
                    at += 1;
                }
                _ => return at,
            }
        }
    }

    /// Scans the whole text as one object; `member` gets each top-level member in order. UTF-8 is not checked (see
    /// [`Seen::high`]).
    #[inline(always)]
    pub(crate) fn object(mut self, depth_max: usize, member: impl FnMut(Member)) -> Result<Seen, JsonError> {
        let end = self.first_object(depth_max, member)?;
        let at = self.space(end);
        if at != self.text.len() {
            return Err(JsonError::Broken(at));
        }
        Ok(self.seen())
    }

    /// What was seen so far.
    pub(crate) fn seen(&self) -> Seen {
        Seen { breaks: self.breaks, high: self.high.to_bitmask() != 0 }
    }

    /// Scans the object that the text begins with, as [`object`](Self::object) does. Returns its end.
    #[inline(always)]
    pub(crate) fn first_object(
        &mut self,
        depth_max: usize,
        mut member: impl FnMut(Member),
    ) -> Result<usize, JsonError> {
        let depth_max = depth_max.clamp(1, DEPTH_MAX);
        let (mut at, mut byte) = self.token(0);
        if byte != b'{' {
            return Err(JsonError::NotAnObject);
        }
        (at, byte) = self.token(at + 1);
        if byte == b'}' {
            at += 1;
        } else {
            loop {
                let (key, key_escaped, after) = self.key(at)?;
                at = after;
                let (value, is_string) = match self.byte(at) {
                    b'"' => {
                        let (end, _) = self.string(at + 1)?;
                        (Run { from: at + 1, to: end }, true)
                    }
                    b'{' | b'[' => (Run { from: at, to: self.nested(at, depth_max - 1)? }, false),
                    _ => (Run { from: at, to: self.scalar(at)? }, false),
                };
                member(Member { key, key_escaped, value, is_string });
                (at, byte) = self.token(value.to + usize::from(is_string));
                match byte {
                    b',' => at = self.space(at + 1),
                    b'}' => {
                        at += 1;
                        break;
                    }
                    _ => return Err(JsonError::Broken(at)),
                }
            }
        }
        Ok(at)
    }

    /// A key and its colon. Returns what stands between its quotes, and where the value starts.
    #[inline(always)]
    fn key(&mut self, at: usize) -> Result<(Run, bool, usize), JsonError> {
        if self.byte(at) != b'"' {
            return Err(JsonError::Broken(at));
        }
        let (end, escaped) = self.string(at + 1)?;
        let (colon, byte) = self.token(end + 1);
        if byte != b':' {
            return Err(JsonError::Broken(colon));
        }
        Ok((Run { from: at + 1, to: end }, escaped, self.space(colon + 1)))
    }

    /// The end of the string that starts after its quote at `at`: the place of the closing quote, and whether there
    /// are escapes.
    #[inline(always)]
    fn string(&mut self, mut at: usize) -> Result<(usize, bool), JsonError> {
        let mut escaped = false;
        loop {
            let block = load(self.padded, at);
            // May see bytes after the string too: then UTF-8 is checked once more than needed.
            self.high |= block;
            let mask = specials(block);
            if mask == 0 {
                at += BLOCK;
                if at >= self.text.len() {
                    return Err(JsonError::Broken(self.text.len()));
                }
                continue;
            }
            at += mask.trailing_zeros() as usize;
            match self.byte(at) {
                b'"' => return Ok((at, escaped)),
                b'\\' => {
                    escaped = true;
                    at = self.escape(at)?;
                }
                // Perhaps found in what follows the text.
                _ => return Err(JsonError::Broken(at.min(self.text.len()))),
            }
        }
    }

    /// Checks the escape at `at` and returns the place after it.
    fn escape(&self, at: usize) -> Result<usize, JsonError> {
        match self.byte(at + 1) {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(at + 2),
            b'u' => match super::escape::hex4(self.text, at + 2) {
                Some(0xd800..=0xdbff) => match super::escape::low_surrogate(self.text, at + 6) {
                    Some(_) => Ok(at + 12),
                    None => Err(JsonError::Broken(at)),
                },
                Some(0xdc00..=0xdfff) | None => Err(JsonError::Broken(at)),
                Some(_) => Ok(at + 6),
            },
            _ => Err(JsonError::Broken(at + 1)),
        }
    }

    /// A number or a literal. Returns its end.
    #[inline(always)]
    fn scalar(&self, at: usize) -> Result<usize, JsonError> {
        let literal = |word: &[u8]| match self.text.get(at..at + word.len()) {
            Some(found) if found == word => Ok(at + word.len()),
            _ => Err(JsonError::Broken(at)),
        };
        match self.byte(at) {
            b'-' | b'0'..=b'9' => self.number(at),
            b't' => literal(b"true"),
            b'f' => literal(b"false"),
            b'n' => literal(b"null"),
            _ => Err(JsonError::Broken(at)),
        }
    }

    #[inline(always)]
    fn number(&self, mut at: usize) -> Result<usize, JsonError> {
        if self.byte(at) == b'-' {
            at += 1;
        }
        at = match self.byte(at) {
            b'0' => at + 1,
            b'1'..=b'9' => self.digits(at)?,
            _ => return Err(JsonError::Broken(at)),
        };
        if self.byte(at) == b'.' {
            at = self.digits(at + 1)?;
        }
        if self.byte(at) | 0x20 == b'e' {
            at += 1;
            if matches!(self.byte(at), b'+' | b'-') {
                at += 1;
            }
            at = self.digits(at)?;
        }
        Ok(at)
    }

    /// One digit or more.
    #[inline(always)]
    fn digits(&self, from: usize) -> Result<usize, JsonError> {
        let mut at = from;
        while self.byte(at).is_ascii_digit() {
            at += 1;
        }
        if at == from { Err(JsonError::Broken(at)) } else { Ok(at) }
    }

    /// An object or array with everything in it, at most `depth_max` levels with itself. Returns its end.
    fn nested(&mut self, mut at: usize, depth_max: usize) -> Result<usize, JsonError> {
        // One bit an open bracket, the innermost lowest: 1 for an object.
        let (mut open, mut depth) = (0u128, 0usize);
        loop {
            // A value starts at `at`.
            let byte = self.byte(at);
            at = match byte {
                b'{' | b'[' => {
                    if depth == depth_max {
                        return Err(JsonError::TooDeep);
                    }
                    depth += 1;
                    open = open << 1 | u128::from(byte == b'{');
                    at = self.space(at + 1);
                    // The closing bracket is two after the opening one, in ASCII, for both kinds.
                    if self.byte(at) != byte + 2 {
                        if byte == b'{' {
                            at = self.key(at)?.2;
                        }
                        continue;
                    }
                    open >>= 1;
                    depth -= 1;
                    at + 1
                }
                b'"' => self.string(at + 1)?.0 + 1,
                _ => self.scalar(at)?,
            };
            // A value has ended: close brackets up to the next comma.
            loop {
                if depth == 0 {
                    return Ok(at);
                }
                let byte;
                (at, byte) = self.token(at);
                match (byte, open & 1 == 1) {
                    (b',', true) => {
                        let next = self.space(at + 1);
                        at = self.key(next)?.2;
                        break;
                    }
                    (b',', false) => {
                        at = self.space(at + 1);
                        break;
                    }
                    (b'}', true) | (b']', false) => {
                        open >>= 1;
                        depth -= 1;
                        at += 1;
                    }
                    _ => return Err(JsonError::Broken(at)),
                }
            }
        }
    }
}
