//! JSON within a JSON string, as Docker wraps what a program logs: `{\"level\":\"info\",...}\n`: unescaped, checked and
//! indexed with each byte looked at once.
//!
//! The plain way stays beside it and takes whatever this one leaves: `escape.rs`, then `index.rs`. Its second pass has to
//! find each quote again that the first one has just written. Here the first pass, which works out the places of all
//! escapes of 64 bytes at once, keeps them: each `\"` *is* an inner quote, each `\\` begins an inner escape, and nothing
//! else in a string can end it or needs a look. So the second pass knows where a string ends before it begins, and reads
//! only what stands between strings. Blocks are arrays of fixed size and places are masked to it, so that no copy needs a
//! check of its bounds.
//!
//! The two ways are side by side in `benches/codec.rs`: `members` and `decode_index` of `docker_line`. What this one brought to the
//! whole program: docker-file 7,818 -> 6,892 instructions a record, with the words of `escape.rs`, which came in the same change.
//!
//! What is rare is left to the plain way, so that it has no second rule here: white space other than one space after a
//! comma or colon, an empty object, `\/` of Docker's, surrogate pairs, escapes that stand for quotes or control characters, members called `log`, more than
//! about [`MARKS_MAX`] quotes, and everything that is broken. Nothing is appended then.

use wide::u8x16;

use super::block::{BLOCK, controls, equal};
use super::escape::hex4;
use super::index::DEPTH_MAX;
use crate::batch::own_flag_of;
use crate::record::{Field, Form, Span};

/// Bytes whose escapes are worked out at once.
const WORD: usize = 64;
/// A word and what a block read at its last byte needs.
const SOURCE: usize = WORD + BLOCK;
/// Room behind the text that [`object`] needs in `out`.
pub(crate) const ROOM: usize = WORD + 2 * BLOCK;
/// Inner quotes and escapes of one object, at most.
const MARKS_MAX: usize = 1024;
/// In a mark: a backslash; else a quote.
const IS_ESCAPE: u32 = 1 << 31;

/// Places of inner quotes and backslashes in the unescaped text: a buffer that is used again for each line.
pub(crate) type Marks = Vec<u32>;

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Inner {
    /// Bytes written: the object.
    pub(crate) len: usize,
    /// Escaped U+FFFD: where Docker replaced a byte.
    pub(crate) replaced: u32,
    /// Which added values the members stand in the way of.
    pub(crate) own: u16,
}

/// Takes the object in the first `len` bytes of `padded`, the inside of a string, if it ends in a line break; writes it to
/// `out`, which lies at `base` in an arena and is [`ROOM`] longer than the text, and its members to `fields`. `None` (with
/// `fields` as they were, and `out` arbitrary) where it is left to the plain way.
#[inline]
pub(crate) fn object(
    padded: &[u8],
    len: usize,
    out: &mut [u8],
    base: u32,
    fields: &mut Vec<Field>,
    marks: &mut Marks,
) -> Option<Inner> {
    if marks.len() < MARKS_MAX + WORD {
        marks.resize(MARKS_MAX + WORD, 0);
    }
    let text = unescape(padded, len, out, marks)?;
    if text.high && simdutf8::basic::from_utf8(&out[..text.len]).is_err() {
        return None;
    }
    let first = fields.len();
    let walk = Walk { text: &out[..text.len], marks: &marks[..text.marks], next: 0, at: 0 };
    match walk.object(base, fields) {
        Some(own) => Some(Inner { len: text.len, replaced: text.replaced, own }),
        None => {
            fields.truncate(first);
            None
        }
    }
}

/// What the first pass found.
struct Text {
    len: usize,
    marks: usize,
    replaced: u32,
    high: bool,
}

/// The first pass: unescapes up to the line break at the end, and notes quotes and backslashes.
#[inline(always)]
fn unescape(padded: &[u8], len: usize, out: &mut [u8], marks: &mut [u32]) -> Option<Text> {
    const ODD: u64 = 0xaaaa_aaaa_aaaa_aaaa;
    let (mut at, mut to, mut count, mut replaced) = (0, 0, 0, 0);
    let mut high = u8x16::splat(0);
    let mut carry = 0u64;
    // Where the run begins that is not copied yet, counted from the word.
    let mut from = 0;
    while at < len {
        let left = len - at;
        let mut end = [0; SOURCE];
        let source = match padded[at..].first_chunk::<SOURCE>() {
            Some(source) => source,
            None => {
                let rest = &padded[at..];
                end[..rest.len()].copy_from_slice(rest);
                &end
            }
        };
        let target = out.get_mut(to..)?.first_chunk_mut::<ROOM>()?;
        let slots = marks.get_mut(count..)?.first_chunk_mut::<WORD>()?;
        let (mut backslash, mut quote, mut control) = (0u64, 0u64, 0u64);
        for (nth, block) in source[..WORD].as_chunks::<BLOCK>().0.iter().enumerate() {
            let block = u8x16::from(*block);
            high |= block;
            backslash |= u64::from(equal(block, b'\\').to_bitmask()) << (nth * BLOCK);
            quote |= u64::from(equal(block, b'"').to_bitmask()) << (nth * BLOCK);
            control |= u64::from(controls(block).to_bitmask()) << (nth * BLOCK);
        }
        let valid = if left >= WORD { u64::MAX } else { (1 << left) - 1 };
        let backslash = backslash & valid;
        let potential = backslash & !carry;
        let codes = (potential << 1 | ODD).wrapping_sub(potential) ^ ODD;
        let escaped = codes ^ (backslash | carry);
        let mut escapes = codes & backslash;
        carry = escapes >> 63;
        if (quote & !escaped | control) & valid != 0 {
            return None;
        }
        let (mut used, mut found) = (0, 0);
        if escapes << 1 & !quote == 0 && carry == 0 {
            // Nothing but quotes: 1,450 -> 890 instructions a line of 39 of them.
            found = escapes.count_ones() as usize;
            for slot in slots.iter_mut() {
                if escapes == 0 {
                    break;
                }
                let place = escapes.trailing_zeros() as usize % WORD;
                escapes &= escapes - 1;
                copy(source, from, place, target, &mut used);
                *slot = (to + used) as u32;
                from = place + 1;
            }
        }
        while escapes != 0 {
            let place = escapes.trailing_zeros() as usize % WORD;
            escapes &= escapes - 1;
            copy(source, from, place, target, &mut used);
            let code = source[place + 1];
            if matches!(code, b'"' | b'\\') {
                // Below 2^31: a line is 64 MiB at most (`line_max`).
                slots[found % WORD] = (to + used) as u32 | u32::from(code == b'\\') << 31;
                found += 1;
                from = place + 1;
            } else if code == b'u' {
                let (utf8, size) = character(padded, at + place, &mut replaced)?;
                if let Some(target) = target[used % WORD..].first_chunk_mut::<4>() {
                    *target = utf8;
                }
                used += size;
                from = place + 6;
            } else if matches!(padded.get(at + place..len)?, b"\\n" | b"\\r\\n") {
                let high = high.to_bitmask() != 0;
                return Some(Text { len: to + used, marks: count + found, replaced, high });
            } else {
                return None;
            }
        }
        let end = left.min(WORD);
        if from < end {
            copy(source, from, end, target, &mut used);
            from = end;
        }
        from = from.saturating_sub(WORD);
        (at, to, count) = (at + WORD, to + used, count + found);
    }
    None
}

/// Copies a run of the word in whole blocks, whether or not that much is wanted: the next run overwrites the rest.
#[inline(always)]
fn copy(source: &[u8; SOURCE], from: usize, to: usize, target: &mut [u8; ROOM], used: &mut usize) {
    let mut done = 0;
    loop {
        // Escapes only shorten, so both are within the word.
        let (source, target) = (&source[(from + done) % WORD..], &mut target[(*used + done) % WORD..]);
        if let (Some(source), Some(target)) = (source.first_chunk::<BLOCK>(), target.first_chunk_mut::<BLOCK>()) {
            *target = *source;
        }
        done += BLOCK;
        if from + done >= to {
            break;
        }
    }
    *used += to - from;
}

/// The character of the `\u` escape at `place`, as Docker writes `<`, `>` and `&`, and its length in UTF-8.
#[cold]
#[inline(never)]
fn character(padded: &[u8], place: usize, replaced: &mut u32) -> Option<([u8; 4], usize)> {
    let character = char::from_u32(hex4(padded, place + 2)?)?;
    if character < ' ' || matches!(character, '"' | '\\') {
        return None;
    }
    *replaced += u32::from(character == char::REPLACEMENT_CHARACTER);
    let mut utf8 = [0; 4];
    let size = character.encode_utf8(&mut utf8).len();
    Some((utf8, size))
}

/// The second pass: the grammar of the unescaped text.
struct Walk<'a> {
    text: &'a [u8],
    marks: &'a [u32],
    /// The next mark, and the next byte.
    next: usize,
    at: usize,
}

impl Walk<'_> {
    #[inline(always)]
    fn byte(&self) -> u8 {
        // NUL is no JSON.
        self.text.get(self.at).copied().unwrap_or(0)
    }

    /// A comma or colon, and the one space that some writers put behind it.
    #[inline(always)]
    fn pass(&mut self, byte: u8) -> Option<()> {
        if self.byte() != byte {
            return None;
        }
        self.at += 1;
        self.at += usize::from(self.byte() == b' ');
        Some(())
    }

    /// Pushes the members of the one object. Says which added values they stand in the way of.
    #[inline(always)]
    fn object(mut self, base: u32, fields: &mut Vec<Field>) -> Option<u16> {
        let mut own = 0;
        if self.byte() != b'{' {
            return None;
        }
        self.at = 1;
        loop {
            let (key_at, key_len, key_escaped) = self.string()?;
            let key = self.text.get(key_at..key_at + key_len)?;
            if key == b"log" {
                // A step that looks for `log` must not find it.
                return None;
            }
            own |= own_flag_of(key);
            self.pass(b':')?;
            let byte = self.byte();
            let (value_at, value_len, form) = if byte == b'"' {
                let (at, len, _) = self.string()?;
                (at, len, Form::JsonStr)
            } else {
                let at = self.at;
                if matches!(byte, b'{' | b'[') {
                    self.nested()?
                } else {
                    self.scalar()?
                }
                (at, self.at - at, Form::Json)
            };
            // All within an arena, which is below 4 GiB.
            let span = |at: usize, len: usize| Span { at: base + at as u32, len: len as u32 };
            fields.push(Field {
                key: span(key_at, key_len),
                value: span(value_at, value_len),
                key_form: if key_escaped { Form::JsonStr } else { Form::Text },
                form,
            });
            if self.byte() != b',' {
                return (self.byte() == b'}' && self.at + 1 == self.text.len()).then_some(own);
            }
            self.pass(b',')?;
        }
    }

    /// A string with its quotes: where its inside begins, its length, and whether it holds escapes.
    #[inline(always)]
    fn string(&mut self) -> Option<(usize, usize, bool)> {
        if *self.marks.get(self.next)? as usize != self.at {
            return None;
        }
        self.next += 1;
        let start = self.at + 1;
        let mut escaped = false;
        loop {
            let mark = *self.marks.get(self.next)?;
            self.next += 1;
            if mark & IS_ESCAPE == 0 {
                self.at = mark as usize + 1;
                return Some((start, mark as usize - start, escaped));
            }
            escaped = true;
            self.escape((mark & !IS_ESCAPE) as usize)?;
        }
    }

    /// An escape of the inner text, which has a mark of its own if it is one of a quote or backslash.
    #[inline(never)]
    fn escape(&mut self, place: usize) -> Option<()> {
        let mark = match *self.text.get(place + 1)? {
            b'"' => place + 1,
            b'\\' => (place + 1) | IS_ESCAPE as usize,
            b'b' | b'f' | b'n' | b'r' | b't' | b'/' => return Some(()),
            b'u' => {
                let unit = hex4(self.text, place + 2)?;
                return (!(0xd800..0xe000).contains(&unit)).then_some(());
            }
            _ => return None,
        };
        if *self.marks.get(self.next)? as usize != mark {
            return None;
        }
        self.next += 1;
        Some(())
    }

    /// Passes over a number or a literal.
    #[inline(always)]
    fn scalar(&mut self) -> Option<()> {
        let rest = self.text.get(self.at..)?;
        self.at += match rest.first()? {
            b'-' | b'0'..=b'9' => number(rest)?,
            b't' if rest.starts_with(b"true") => 4,
            b'f' if rest.starts_with(b"false") => 5,
            b'n' if rest.starts_with(b"null") => 4,
            _ => return None,
        };
        Some(())
    }

    /// Passes over an object or array with everything in it.
    fn nested(&mut self) -> Option<()> {
        // One bit an open bracket, the innermost lowest: 1 for an object. The outer object is one level.
        let (mut open, mut depth) = (0u128, 1usize);
        loop {
            // A value starts here.
            let byte = self.byte();
            match byte {
                b'{' | b'[' => {
                    if depth == DEPTH_MAX {
                        return None;
                    }
                    depth += 1;
                    open = open << 1 | u128::from(byte == b'{');
                    self.at += 1;
                    // The closing bracket is two after the opening one, in ASCII, for both kinds.
                    if self.byte() != byte + 2 {
                        if byte == b'{' {
                            self.string()?;
                            self.pass(b':')?;
                        }
                        continue;
                    }
                }
                b'"' => {
                    self.string()?;
                }
                _ => self.scalar()?,
            }
            // A value has ended: close brackets up to the next comma.
            loop {
                match (self.byte(), open & 1 == 1) {
                    (b',', is_object) => {
                        self.pass(b',')?;
                        if is_object {
                            self.string()?;
                            self.pass(b':')?;
                        }
                        break;
                    }
                    (b'}', true) | (b']', false) => {
                        self.at += 1;
                        open >>= 1;
                        depth -= 1;
                        if depth == 1 {
                            return Some(());
                        }
                    }
                    _ => return None,
                }
            }
        }
    }
}

/// How long the number is that `text` begins with.
#[inline(always)]
fn number(text: &[u8]) -> Option<usize> {
    let byte = |at: usize| text.get(at).copied().unwrap_or(0);
    let digits = |from: usize| {
        let mut at = from;
        while byte(at).is_ascii_digit() {
            at += 1;
        }
        (at > from).then_some(at)
    };
    let mut at = usize::from(byte(0) == b'-');
    at = if byte(at) == b'0' { at + 1 } else { digits(at)? };
    if byte(at) == b'.' {
        at = digits(at + 1)?;
    }
    if byte(at) | 0x20 == b'e' {
        at += 1 + usize::from(matches!(byte(at + 1), b'+' | b'-'));
        at = digits(at)?;
    }
    Some(at)
}
