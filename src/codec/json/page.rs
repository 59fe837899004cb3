//! A page: where the short, plain members of a row are put together, to go out in one piece.
//!
//! Nearly all pieces of a record are a few bytes long, and a `Vec` looks at its room and writes its length down with each of
//! them. A page has a fixed size: one comparison with a constant is all that a piece costs beside its bytes, which are
//! written 16 at a time, wanted or not.
//!
//! Nothing here replaces or counts: where that is needed, what is rare, and what finds no room is `None`, and the caller
//! writes it the general way (`escape.rs`, `msgpack.rs`). What a `None` has left behind `used` is never looked at.
//! Tests compare both ways on any field. Figures: `plain_line` in `benches/codec.rs` and `longshore_as_it_came` in
//! `benches/forward.rs` write by it; what it brought to the whole program is in ARCHITECTURE.md, "with pages and whole objects".

use wide::u8x16;

use super::block::{BLOCK, load, special_bytes, specials};
use super::digits;
use super::escape::{SHORT, bits};
use crate::codec::msgpack::{self, Head};
use crate::record::{Field, Form};

/// Bytes of a page: what a row of some twenty fields comes to, and little of the nearest cache.
const PAGE: usize = 2048;
/// Bytes whose escapes are worked out at once.
const WORD: usize = 4 * BLOCK;
/// Levels of maps and arrays that are written here.
const LEVELS_MAX: usize = 8;

type Bytes = [u8; PAGE];

/// See the header. Empty between rows.
#[derive(Debug)]
pub(crate) struct Page {
    bytes: Box<Bytes>,
    used: usize,
}

impl Page {
    pub(crate) fn new() -> Page {
        Page { bytes: Box::new([0; PAGE]), used: 0 }
    }

    /// Puts `,"key":value` on the page. Says whether it did. `padded` is the arena of the field's spans, with what is
    /// readable behind them.
    #[inline(always)]
    pub(crate) fn member(&mut self, padded: &[u8], field: &Field) -> bool {
        match member(padded, field, &mut self.bytes, self.used) {
            Some(used) => {
                self.used = used;
                true
            }
            None => false,
        }
    }

    /// Moves what is on the page to `out`.
    #[inline(always)]
    pub(crate) fn turn(&mut self, out: &mut Vec<u8>) {
        if self.used > 0 {
            out.extend_from_slice(&self.bytes[..self.used]);
            self.used = 0;
        }
    }
}

#[inline(always)]
fn member(padded: &[u8], field: &Field, page: &mut Bytes, used: usize) -> Option<usize> {
    if field.key_form != Form::Text {
        return None;
    }
    let used = key(b',', padded.get(field.key.at as usize..)?, field.key.len as usize, page, used)?;
    let (value, len) = (padded.get(field.value.at as usize..)?, field.value.len as usize);
    match field.form {
        Form::Text => quoted(value, len, page, used),
        Form::Msg => {
            let (end, used) = value_of(value, page, used, 0)?;
            // A value that is not whole reads on in what lies behind it.
            (end == len).then_some(used)
        }
        Form::Json => raw(value.get(..len)?, page, used),
        Form::JsonStr => {
            let used = put(*b"\"", page, used)?;
            let used = raw(value.get(..len)?, page, used)?;
            put(*b"\"", page, used)
        }
    }
}

/// The next `N` bytes of the page.
#[inline(always)]
pub(crate) fn window<const N: usize, const P: usize>(page: &mut [u8; P], used: usize) -> Option<&mut [u8; N]> {
    if used > P - N {
        return None;
    }
    page[used..].first_chunk_mut::<N>()
}

/// Puts `piece` at `used`; where it ends.
#[inline(always)]
pub(crate) fn put<const N: usize, const P: usize>(piece: [u8; N], page: &mut [u8; P], used: usize) -> Option<usize> {
    *window(page, used)? = piece;
    Some(used + N)
}

/// A piece that is valid JSON as it stands.
#[inline(always)]
pub(crate) fn raw<const P: usize>(piece: &[u8], page: &mut [u8; P], used: usize) -> Option<usize> {
    let end = used + piece.len();
    page.get_mut(used..end)?.copy_from_slice(piece);
    Some(end)
}

/// Bits of the bytes that can not stand in a JSON string as they are, or are no ASCII.
#[inline(always)]
fn odd(block: u8x16) -> u32 {
    specials(block) | block.to_bitmask()
}

/// `,"key":`, with `before` in the place of the comma. Of a key shorter than a block every piece lies in one window.
#[inline(always)]
pub(crate) fn key<const P: usize>(
    before: u8,
    padded: &[u8],
    len: usize,
    page: &mut [u8; P],
    used: usize,
) -> Option<usize> {
    let block = load(padded, 0);
    if len >= BLOCK || odd(block) & ((1 << len) - 1) != 0 {
        let used = put([before, b'"'], page, used)?;
        let used = text(padded, len, page, used)?;
        return put(*b"\":", page, used);
    }
    let window = window::<{ 2 + BLOCK + 2 }, P>(page, used)?;
    (window[0], window[1]) = (before, b'"');
    window[2..2 + BLOCK].copy_from_slice(&block.to_array());
    (window[2 + len], window[3 + len]) = (b'"', b':');
    Some(used + len + 4)
}

/// A text with its quotes: up to a block all in one window.
#[inline(always)]
pub(crate) fn quoted<const P: usize>(padded: &[u8], len: usize, page: &mut [u8; P], used: usize) -> Option<usize> {
    let block = load(padded, 0);
    if len > BLOCK || odd(block) & ((1 << len) - 1) != 0 {
        let used = put(*b"\"", page, used)?;
        let used = text(padded, len, page, used)?;
        return put(*b"\"", page, used);
    }
    let window = window::<{ 1 + BLOCK + 1 }, P>(page, used)?;
    window[0] = b'"';
    window[1..1 + BLOCK].copy_from_slice(&block.to_array());
    window[1 + len] = b'"';
    Some(used + len + 2)
}

/// A text below a block with its quotes, if nothing in it is escaped. Both sides have room for a whole block.
#[inline(always)]
pub(crate) fn plain(padded: &[u8], len: usize, made: &mut [u8]) -> bool {
    let Some(block) = padded.first_chunk::<BLOCK>() else { return false };
    if odd(u8x16::from(*block)) & ((1 << len) - 1) != 0 {
        return false;
    }
    let Some(made) = made.first_chunk_mut::<{ 1 + BLOCK + 1 }>() else { return false };
    made[0] = b'"';
    made[1..1 + BLOCK].copy_from_slice(block);
    made[1 + (len & (BLOCK - 1))] = b'"';
    true
}

/// A number below [`EIGHT`](digits::EIGHT), where there is room for that many digits; its length.
#[inline(always)]
pub(crate) fn digits(number: u64, made: &mut [u8]) -> usize {
    let (text, len) = digits::short(number);
    made[..text.len()].copy_from_slice(&text);
    len
}

/// The first `len` bytes of `padded`, escaped, if they are UTF-8 and have no escapes but those of one letter.
///
/// A word of 64 bytes is written whole, and the places of its escapes are worked out at once; what stands between them is
/// written again. Block by block, each escape began a new block: a log line of 115 bytes with six quotes took 445
/// instructions, an access-log line of 541 bytes 1,208; 390 and 1,037 this way.
#[inline(never)]
fn text<const P: usize>(padded: &[u8], len: usize, page: &mut [u8; P], mut used: usize) -> Option<usize> {
    let (mut at, mut high, mut high_end) = (0, u8x16::splat(0), 0);
    while at < len {
        let end_of_padded;
        let word = match padded.get(at..)?.first_chunk::<{ WORD + BLOCK }>() {
            Some(word) => word,
            None => {
                end_of_padded = last_word(&padded[at..]);
                &end_of_padded
            }
        };
        let made = window::<{ 2 * WORD + BLOCK }, P>(page, used)?;
        made[..WORD].copy_from_slice(&word[..WORD]);
        let (parts, _) = word.as_chunks::<BLOCK>();
        let blocks = [0, 1, 2, 3].map(|nth| u8x16::from(parts[nth]));
        let found = blocks.map(special_bytes);
        let end = (len - at).min(WORD);
        at += end;
        let special = if end == WORD {
            high |= (blocks[0] | blocks[1]) | (blocks[2] | blocks[3]);
            if ((found[0] | found[1]) | (found[2] | found[3])).to_bitmask() == 0 {
                used += WORD;
                continue;
            }
            bits(found)
        } else {
            let valid = (1 << end) - 1;
            high_end |= bits(blocks) & valid;
            bits(found) & valid
        };
        used += escaped(word, end, special, made)?;
    }
    let plain = high.to_bitmask() == 0 && high_end == 0;
    (plain || simdutf8::basic::from_utf8(padded.get(..len)?).is_ok()).then_some(used)
}

/// What is left of a text that nothing can be read behind.
#[cold]
fn last_word(rest: &[u8]) -> [u8; WORD + BLOCK] {
    let mut word = [0; WORD + BLOCK];
    word[..rest.len()].copy_from_slice(rest);
    word
}

/// Escapes the bytes of `special` among the first `end` of a word, which is in `made` as it stands; how long it is then.
/// `%` is no work: it tells the compiler what is so anyway, of a word that becomes twice as long at most.
#[inline(always)]
fn escaped(
    word: &[u8; WORD + BLOCK],
    end: usize,
    mut special: u64,
    made: &mut [u8; 2 * WORD + BLOCK],
) -> Option<usize> {
    let place_of = |special: u64| if special == 0 { end } else { special.trailing_zeros() as usize };
    let mut next = place_of(special);
    let mut used = next;
    while special != 0 {
        let letter = SHORT[usize::from(word[next % WORD])];
        if letter == 0 {
            return None;
        }
        let at = used % (2 * WORD);
        (made[at], made[at + 1]) = (b'\\', letter);
        used += 2;
        let from = next + 1;
        special &= special - 1;
        next = place_of(special);
        // The run up to the next one, in blocks; what is too much is written over.
        let mut done = 0;
        while from + done < next {
            let block = &word[(from + done) % WORD..][..BLOCK];
            made[(used + done) % (2 * WORD)..][..BLOCK].copy_from_slice(block);
            done += BLOCK;
        }
        used += next - from;
    }
    Some(used)
}

/// A whole number.
#[inline(always)]
pub(crate) fn number<const P: usize>(number: u64, page: &mut [u8; P], used: usize) -> Option<usize> {
    if number < digits::EIGHT {
        let (text, len) = digits::short(number);
        return Some(put(text, page, used)? - 8 + len);
    }
    raw(itoa::Buffer::new().format(number).as_bytes(), page, used)
}

/// A negative number.
#[inline(always)]
pub(crate) fn negative<const P: usize>(negative: i64, page: &mut [u8; P], used: usize) -> Option<usize> {
    let used = put(*b"-", page, used)?;
    number(negative.unsigned_abs(), page, used)
}

/// A float of three decimals at most.
#[inline(always)]
pub(crate) fn thousandths<const P: usize>(float: f64, page: &mut [u8; P], used: usize) -> Option<usize> {
    let short = msgpack::Thousandths::of(float)?;
    let used = if short.negative { put(*b"-", page, used)? } else { used };
    let used = number(short.whole, page, used)?;
    Some(put(short.part, page, used)? - short.spare())
}

/// The MessagePack value that `padded` begins with: where it ends, and where its text does.
fn value_of(padded: &[u8], page: &mut Bytes, used: usize, level: usize) -> Option<(usize, usize)> {
    let (head, at) = msgpack::head(padded).ok()?;
    Some(match head {
        Head::Str(len) => (at + len, quoted(padded.get(at..)?, len, page, used)?),
        Head::UInt(unsigned) => (at, number(unsigned, page, used)?),
        Head::Int(signed) => (at, negative(signed, page, used)?),
        Head::F64(float) => (at, thousandths(float, page, used)?),
        Head::Nil => (at, put(*b"null", page, used)?),
        Head::Bool(true) => (at, put(*b"true", page, used)?),
        Head::Bool(false) => (at, put(*b"false", page, used)?),
        Head::Map(0) => (at, put(*b"{}", page, used)?),
        Head::Map(count) if level < LEVELS_MAX => {
            let (mut at, mut used, mut before) = (at, used, b'{');
            for _ in 0..count {
                let (Head::Str(len), start) = msgpack::head(padded.get(at..)?).ok()? else { return None };
                at += start;
                used = key(before, padded.get(at..)?, len, page, used)?;
                let (end, written) = value_of(padded.get(at + len..)?, page, used, level + 1)?;
                (at, used, before) = (at + len + end, written, b',');
            }
            (at, put(*b"}", page, used)?)
        }
        Head::Array(0) => (at, put(*b"[]", page, used)?),
        Head::Array(count) if level < LEVELS_MAX => {
            let (mut at, mut used, mut before) = (at, used, b'[');
            for _ in 0..count {
                used = put([before], page, used)?;
                let (end, written) = value_of(padded.get(at..)?, page, used, level + 1)?;
                (at, used, before) = (at + end, written, b',');
            }
            (at, put(*b"]", page, used)?)
        }
        _ => return None,
    })
}

/// What a page holds of one field, if it takes it: for tests and the fuzzer.
pub(crate) fn of_one(padded: &[u8], field: &Field) -> Option<Vec<u8>> {
    let (mut page, mut out) = (Page::new(), Vec::new());
    let taken = page.member(padded, field);
    page.turn(&mut out);
    taken.then_some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::json::{self, texts};
    use crate::metrics::Tally;
    use crate::record::Span;

    /// The arena of one field, with `tail` bytes behind it, and the field.
    fn field(key: &[u8], value: &[u8], form: Form, tail: usize) -> (Vec<u8>, Field) {
        let arena = [key, value, &vec![b'"'; tail]].concat();
        let span = |at: usize, len: usize| Span { at: at as u32, len: len as u32 };
        (arena, Field::new(span(0, key.len()), form, span(key.len(), value.len())))
    }

    fn written(arena: &[u8], field: &Field) -> (Vec<u8>, bool) {
        let (mut out, mut tally) = (Vec::new(), Tally::default());
        json::write_member(arena, field, &mut out, &mut tally);
        (out, tally.oddities.iter().any(|count| *count > 0))
    }

    #[test]
    fn plain_members_are_taken_and_others_are_not() {
        let packed = |value: rmpv::Value| {
            let mut out = Vec::new();
            rmpv::encode::write_value(&mut out, &value).expect("writing to memory");
            out
        };
        let nested = packed(rmpv::Value::Map(vec![
            ("id".into(), 7.into()),
            ("tags".into(), rmpv::Value::Array(vec!["a".into(), rmpv::Value::Nil, true.into(), (-1.25).into()])),
        ]));
        let long = "x".repeat(PAGE - 5);
        for (value, form, expected) in [
            (&b""[..], Form::Text, Some(r#","key":"""#)),
            (b"sixteen bytes___", Form::Text, Some(r#","key":"sixteen bytes___""#)),
            (b"seventeen bytes__", Form::Text, Some(r#","key":"seventeen bytes__""#)),
            (b"[1]", Form::Json, Some(r#","key":[1]"#)),
            (b"a\\n", Form::JsonStr, Some(r#","key":"a\n""#)),
            (&nested, Form::Msg, Some(r#","key":{"id":7,"tags":["a",null,true,-1.25]}"#)),
            (&[0xcd, 0xff, 0xff], Form::Msg, Some(r#","key":65535"#)),
            (b"a quote behind sixteen bytes: \"", Form::Text, Some(r#","key":"a quote behind sixteen bytes: \"""#)),
            (b"\\\t\"seventeen \"\n", Form::Text, Some(r#","key":"\\\t\"seventeen \"\n""#)),
            (b"one letter is not enough: \x07", Form::Text, None),
            ("é".as_bytes(), Form::Text, Some(r#","key":"é""#)),
            (b"\xc3", Form::Text, None),
            (&[0xa1, 0x07], Form::Msg, None),
            // A float of four decimals, one that is no number, a key that is no text, an ext value, what is not whole.
            (&packed(0.0625f64.into()), Form::Msg, None),
            (&packed(f64::NAN.into()), Form::Msg, None),
            (&[0x81, 1, 2], Form::Msg, None),
            (&[0xd4, 1, 2], Form::Msg, None),
            (&[0xcd, 0xff], Form::Msg, None),
            (&[&[0x91; LEVELS_MAX + 1][..], &[1]].concat(), Form::Msg, None),
            (long.as_bytes(), Form::Text, None),
            (long.as_bytes(), Form::Json, None),
        ] {
            let (arena, field) = field(b"key", value, form, 32);
            let taken = of_one(&arena, &field).map(|text| String::from_utf8(text).expect("UTF-8"));
            assert_eq!(taken.as_deref(), expected, "{form:?} {}", String::from_utf8_lossy(value));
        }
    }

    #[test]
    fn a_page_that_is_full_takes_no_more_and_keeps_what_it_has() {
        let (arena, field) = field(b"key", &[b'v'; 100], Form::Text, 32);
        let (mut page, mut out) = (Page::new(), Vec::new());
        let taken = (0..PAGE).take_while(|_| page.member(&arena, &field)).count();
        page.turn(&mut out);
        assert!(taken > 10 && out.len() > PAGE - 2 * arena.len(), "{taken}");
        assert_eq!(out, written(&arena, &field).0.repeat(taken));
        assert!(page.member(&arena, &field), "it is empty again");
    }

    fn keys() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof!["[a-z_.]{0,20}".prop_map(String::into_bytes), texts::lines()]
    }

    proptest! {
        #![proptest_config(texts::many())]
        #[test]
        fn what_is_taken_is_what_the_general_way_writes(
            key in keys(), value in texts::lines(), packed in msgpack::tests::values(), tail in 0usize..100,
        ) {
            let mut msg = Vec::new();
            rmpv::encode::write_value(&mut msg, &packed).expect("writing to memory");
            for (value, form) in [(&value, Form::Text), (&value, Form::Json), (&value, Form::JsonStr), (&msg, Form::Msg)] {
                let (arena, field) = field(&key, value, form, tail);
                if let Some(taken) = of_one(&arena, &field) {
                    prop_assert_eq!((taken, false), written(&arena, &field));
                } else if form == Form::Text {
                    // Two of 300 bytes have room, however much of them is escaped.
                    let rare = |byte: &u8| *byte < b' ' && SHORT[usize::from(*byte)] == 0;
                    let texts = [&key, value];
                    prop_assert!(texts.iter().any(|text| std::str::from_utf8(text).is_err() || text.iter().any(rare)));
                }
            }
        }
    }
}
