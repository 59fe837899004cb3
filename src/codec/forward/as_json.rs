//! A record as JSON, written while its MessagePack is walked: for connections whose records go to nobody but encoders of JSON.
//!
//! What the general way (`entry.rs`) copies into the arena, the sink's encoder walks, checks and escapes once more. Here the
//! record is looked at once, its object is written into the arena's tail, and its fields are spans of that, so that an encoder
//! copies all members in one piece ([`Batch::is_whole`]). forward-file: 4,060 -> 2,843 instructions a record; both ways are in
//! `benches/forward.rs`.
//!
//! Senders write the same keys in the same order again and again. A key of up to 14 bytes that stands where it stood in the record
//! before is told by one comparison of 16 bytes, and its `,"key":` is there already, with what it means to values that sinks
//! add, and to Docker.
//!
//! Taken is only what means the same in JSON and is in no way odd: texts that are UTF-8, numbers, booleans, nil, maps and arrays
//! of a few levels. For the rest, for what is not whole, for Docker's driver and for what is larger than [`ROOM`], the answer is
//! `None`, the batch is as before, and the general way decides and counts. Tests compare what comes out of both.
//! Limits: [`ROOM`], [`LEVELS_MAX`], [`KEYS_MAX`] remembered keys of each of two levels a connection.

use wide::u8x16;

use crate::batch::{Batch, own_flag_of};
use crate::codec::json::block::{BLOCK, load};
use crate::codec::json::{digits, page};
use crate::codec::msgpack::{self, Head};
use crate::record::{Field, Form, Span};

use super::entry::{KEYS_COMPARED, key_hash};

/// Bytes of the text of a record, at most.
const ROOM: usize = 8192;
/// Levels of maps and arrays below the record's own map.
const LEVELS_MAX: usize = 8;
/// Keys of the record before that are remembered, on the top level and below it.
const KEYS_MAX: usize = 32;
/// Bytes of a key with its head that are remembered, at most; and `,"` and `":` around it.
const KEY_RAW: usize = BLOCK - 1;
const KEY_TEXT: usize = KEY_RAW - 1 + 4;
/// What is looked at of a member at once, and room for what is written: a remembered key, and a value of up to [`BLOCK`] bytes
/// with what is around it. Within them nothing more is compared with an end.
const SEEN: usize = 3 * BLOCK;
const MADE: usize = 4 * BLOCK;
/// Records that go the general way at once when one was not taken, at most: a connection that sends others is not tried all
/// the time.
const PAUSE_MAX: u32 = 64;

/// Marks of keys above those of [`own_flag_of`]: `container_id`, `container_name`, `source` and `log`.
const DOCKER: u16 = 0xf << 12;

type Text = [u8; ROOM];

/// A key of the record before.
#[derive(Clone, Copy, Debug)]
struct Key {
    /// Its head and bytes, and the bits of what follows them in a block; a length of zero if they are longer.
    raw: u8x16,
    rest: u32,
    raw_len: u8,
    text_len: u8,
    /// `,"key":`
    text: [u8; KEY_TEXT],
    /// Of the top level: those of all keys up to this one.
    marks: u16,
}

impl Key {
    /// Whether it is longer than what is remembered.
    fn is_long(&self) -> bool {
        usize::from(self.raw_len) == 0
    }
}

/// What is remembered between two records of a connection.
#[derive(Debug, Default)]
pub(super) struct AsJson {
    /// Keys of the top level: all that begin the record before, so none of them is there twice.
    top: Vec<Key>,
    /// Keys below it, in the order in which they come.
    below: Vec<Key>,
    /// Records that are still to go the general way, how many went the last time, and whether the last one was tried.
    pause: u32,
    paused: u32,
    tried: bool,
}

/// A record that is written, and is the arena's last run now.
#[derive(Debug)]
pub(super) struct Written {
    /// Where it ended in the MessagePack, and where the values after it did.
    pub(super) end: usize,
    pub(super) passed: usize,
    /// Which added values its keys stand in the way of.
    pub(super) own: u16,
}

/// Where a walk is: in the record, and in its text.
#[derive(Clone, Copy, Debug)]
struct At {
    from: usize,
    to: usize,
}

impl AsJson {
    /// Writes the record that `record` begins with into the arena, and pushes its fields; `extras` values come after it.
    pub(super) fn write(&mut self, record: &[u8], extras: usize, limits: Limits, batch: &mut Batch) -> Option<Written> {
        self.tried = self.pause == 0;
        if !self.tried {
            self.pause -= 1;
            return None;
        }
        let mark = batch.fields_mark();
        let (base, tail, fields, _) = batch.tail_and_tables(ROOM);
        let text = tail.first_chunk_mut::<ROOM>()?;
        let written = self.object(record, text, base, fields, limits).and_then(|(at, own)| {
            let passed = match extras {
                0 => at.from,
                _ => {
                    let mut skip = msgpack::Skip::values(extras as u64);
                    let passed = skip.advance(record.get(at.from..)?).ok()?;
                    skip.is_done().then_some(at.from + passed)?
                }
            };
            (passed <= limits.entry_max).then_some((Written { end: at.from, passed, own }, at.to))
        });
        match written {
            Some((written, len)) => {
                batch.commit(len);
                self.paused = 0;
                Some(written)
            }
            None => {
                batch.rewind_fields(mark);
                None
            }
        }
    }

    /// The general way has made a row of what was not taken: the next ones are probably alike.
    #[cold]
    pub(super) fn refuse(&mut self) {
        if self.tried {
            self.paused = (self.paused * 2 + 1).min(PAUSE_MAX);
            self.pause = self.paused;
        }
    }

    /// The record's own map.
    #[inline(never)]
    fn object(
        &mut self,
        record: &[u8],
        text: &mut Text,
        base: u32,
        fields: &mut Vec<Field>,
        limits: Limits,
    ) -> Option<(At, u16)> {
        let (count, from) = match *record {
            [head @ 0x81..=0x8f, ..] => (usize::from(head & 15), 1),
            _ => match msgpack::head(record) {
                // An empty object has no members that could be copied.
                Ok((Head::Map(count), from)) if count > 0 => (count, from),
                _ => return None,
            },
        };
        let mark = fields.len();
        let (mut at, mut came, mut below, mut marks) = (At { from, to: 0 }, Came::default(), 0, 0);
        loop {
            let keys = self.top.get(fields.len() - mark..count.min(self.top.len())).unwrap_or_default();
            let after_key;
            (at, after_key) = known(keys, record, at, text, |key_at, value_at, end, is_text| {
                fields.push(field(base, key_at, value_at, end, is_text));
            });
            let index = fields.len() - mark;
            if index == count {
                break;
            }
            let key_at = at.to;
            match after_key.or_else(|| same(self.top.get(index)?, record, at, text)) {
                Some(end) => at = end,
                None => {
                    let mut key;
                    (key, at) = other(record, at, text)?;
                    let name = &text[key_at + 2..at.to - 2];
                    if index < KEYS_COMPARED && came.has(name, &fields[mark..], text, base) {
                        return None;
                    }
                    if limits.docker {
                        key.marks |= docker_mark(name);
                    }
                    marks |= key.marks;
                    // A long key is none of the short ones after it, and is compared itself each time: those stay.
                    if !(key.is_long() && self.top.get(index).is_some_and(Key::is_long)) {
                        self.top.truncate(index);
                        if self.top.len() == index && index < KEYS_MAX {
                            key.marks |= self.top.last().map_or(0, |last| last.marks);
                            self.top.push(key);
                        }
                    }
                }
            }
            let value_at = at.to;
            let is_text;
            (at, is_text) = value(record, at, text, limits.levels, &mut self.below, &mut below)?;
            fields.push(field(base, key_at, value_at, at.to, is_text));
        }
        let last = count.min(self.top.len()).checked_sub(1);
        marks |= last.map_or(0, |last| self.top[last].marks);
        if marks & DOCKER == DOCKER {
            return None;
        }
        // The place of the first comma.
        text[0] = b'{';
        let to = page::put(*b"}", text, at.to)?;
        Some((At { to, ..at }, marks & !DOCKER))
    }
}

/// What an entry may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Levels below the record's own map.
    pub(super) levels: usize,
    pub(super) entry_max: usize,
    /// Records of Docker's driver get another shape.
    pub(super) docker: bool,
}

impl Limits {
    pub(super) fn new(depth_max: usize, entry_max: usize, docker: bool) -> Limits {
        Limits { levels: depth_max.saturating_sub(1).min(LEVELS_MAX), entry_max, docker }
    }
}

/// The member `,"key":value` that is written from `at` on, with its value from `value_at` to `end`.
#[inline(always)]
fn field(base: u32, at: usize, value_at: usize, end: usize, is_text: bool) -> Field {
    let key = Span { at: base + at as u32 + 2, len: (value_at - at) as u32 - 4 };
    let quote = u32::from(is_text);
    let value = Span { at: base + value_at as u32 + quote, len: (end - value_at) as u32 - 2 * quote };
    Field { key, value, key_form: Form::Text, form: if is_text { Form::JsonStr } else { Form::Json } }
}

/// Where a value ends, and whether it is a text.
type Ended = (At, bool);

/// Writes the next key if it is the one that is remembered.
#[inline(always)]
fn same(key: &Key, record: &[u8], at: At, text: &mut Text) -> Option<At> {
    if load(record, at.from).simd_eq(key.raw).to_bitmask() | key.rest != 0xffff {
        return None;
    }
    *page::window::<KEY_TEXT, ROOM>(text, at.to)? = key.text;
    Some(At { from: at.from + usize::from(key.raw_len), to: at.to + usize::from(key.text_len) })
}

/// Writes members as long as their keys are those that are remembered and their values short texts or numbers. If the next
/// one's key is such, but its value is not, then the key is written too: where that ends. (Nothing but this loop, since what
/// else is alive would lie on the stack: 50 of 110 instructions a member.)
#[inline(never)]
fn known(
    keys: &[Key],
    record: &[u8],
    mut at: At,
    text: &mut Text,
    mut each: impl FnMut(usize, usize, usize, bool),
) -> (At, Option<At>) {
    for key in keys {
        match quick(key, record, at, text) {
            Quick::Member { end, value_at, is_text } => {
                each(at.to, value_at, end.to, is_text);
                at = end;
            }
            Quick::Key(end) => return (at, Some(end)),
            Quick::Other => break,
        }
    }
    (at, None)
}

/// What of a member was written.
enum Quick {
    /// All.
    Member { end: At, value_at: usize, is_text: bool },
    /// The key.
    Key(At),
    /// Nothing: it has another key, or there is little left of the record or the room.
    Other,
}

#[inline(always)]
fn quick(key: &Key, record: &[u8], at: At, text: &mut Text) -> Quick {
    let Some(seen) = record.get(at.from..).and_then(|rest| rest.first_chunk::<SEEN>()) else { return Quick::Other };
    let Some(made) = page::window::<MADE, ROOM>(text, at.to) else { return Quick::Other };
    let (blocks, _) = seen.as_chunks::<BLOCK>();
    if u8x16::from(blocks[0]).simd_eq(key.raw).to_bitmask() | key.rest != 0xffff {
        return Quick::Other;
    }
    made[..KEY_TEXT].copy_from_slice(&key.text);
    // Both are less; the masks tell the compiler so.
    let (raw, used) = (usize::from(key.raw_len) & KEY_RAW, usize::from(key.text_len) & 31);
    let value = At { from: at.from + raw, to: at.to + used };
    let (head, seen, made) = (seen[raw], &seen[raw + 1..], &mut made[used..]);
    let (len, written, is_text) = match head {
        0xa0..=0xaf => {
            let len = usize::from(head & 15);
            if !page::plain(seen, len, made) {
                return Quick::Key(value);
            }
            (len, len + 2, true)
        }
        0..=0x7f => (0, page::digits(u64::from(head), made), false),
        0xcc => (1, page::digits(u64::from(seen[0]), made), false),
        0xcd => (2, page::digits(u64::from(u16::from_be_bytes([seen[0], seen[1]])), made), false),
        0xce => {
            let number = u64::from(u32::from_be_bytes([seen[0], seen[1], seen[2], seen[3]]));
            if number >= digits::EIGHT {
                return Quick::Key(value);
            }
            (4, page::digits(number, made), false)
        }
        _ => return Quick::Key(value),
    };
    let end = At { from: value.from + 1 + len, to: value.to + written };
    Quick::Member { end, value_at: value.to, is_text }
}

/// Writes any other key that can stand in JSON as it is.
#[inline(never)]
fn other(record: &[u8], at: At, text: &mut Text) -> Option<(Key, At)> {
    let (Head::Str(len), start) = msgpack::head(record.get(at.from..)?).ok()? else { return None };
    let start = at.from + start;
    let name = record.get(start..start + len)?;
    let to = page::key(b',', record.get(start..)?, len, text, at.to)?;
    if to - at.to != len + 4 {
        // It holds an escape.
        return None;
    }
    let (mut raw, mut raw_len) = ([0; BLOCK], 0);
    let mut key_text = [0; KEY_TEXT];
    if start + len - at.from > KEY_RAW && len < KEY_RAW {
        // So wide a head would make it a long key, which no short one is compared with.
        return None;
    }
    if start + len - at.from <= KEY_RAW {
        raw_len = start + len - at.from;
        raw[..raw_len].copy_from_slice(&record[at.from..start + len]);
        key_text[..len + 4].copy_from_slice(&text[at.to..to]);
    }
    let key = Key {
        raw: u8x16::from(raw),
        // Of a long key a bit is asked for that no comparison has.
        rest: if raw_len == 0 { 1 << BLOCK } else { 0xffff & !((1 << raw_len) - 1) },
        raw_len: raw_len as u8,
        text_len: (len + 4).min(KEY_TEXT) as u8,
        text: key_text,
        marks: own_flag_of(name),
    };
    Some((key, At { from: start + len, to }))
}

/// Which of the keys of Docker's driver it is.
fn docker_mark(key: &[u8]) -> u16 {
    match key {
        b"container_id" => 1 << 12,
        b"container_name" => 1 << 13,
        b"source" => 1 << 14,
        b"log" => 1 << 15,
        _ => 0,
    }
}

/// The keys of a record that have come, by a hash of six bits: only of those that share it with another one is it worth to
/// look. Asked of keys that are not those of the record before.
#[derive(Debug, Default)]
struct Came {
    hashes: u64,
    /// Of so many fields.
    fields: usize,
}

impl Came {
    /// Whether the key is that of one of the fields, all of which are in `text`.
    fn has(&mut self, key: &[u8], fields: &[Field], text: &Text, base: u32) -> bool {
        let key_of = |field: &Field| &text[(field.key.at - base) as usize..][..field.key.len as usize];
        for field in &fields[self.fields..] {
            self.hashes |= 1 << (key_hash(key_of(field)) & 63);
        }
        self.fields = fields.len();
        self.hashes & 1 << (key_hash(key) & 63) != 0 && fields.iter().any(|field| key_of(field) == key)
    }
}

/// Writes a value; says whether it is a text.
#[inline(never)]
fn value(record: &[u8], at: At, text: &mut Text, levels: usize, keys: &mut Vec<Key>, nth: &mut usize) -> Option<Ended> {
    let (from, to) = match *record.get(at.from..)? {
        [head @ 0xa0..=0xbf, ..] => return words(record, at.from + 1, usize::from(head & 31), at.to, text),
        [0xd9, len, ..] => return words(record, at.from + 2, usize::from(len), at.to, text),
        [small @ 0..=0x7f, ..] => (1, page::number(u64::from(small), text, at.to)?),
        [0xcc, a, ..] => (2, page::number(u64::from(a), text, at.to)?),
        [0xcd, a, b, ..] => (3, page::number(u64::from(u16::from_be_bytes([a, b])), text, at.to)?),
        [0xce, a, b, c, d, ..] => (5, page::number(u64::from(u32::from_be_bytes([a, b, c, d])), text, at.to)?),
        [0xc2, ..] => (1, page::put(*b"false", text, at.to)?),
        [0xc3, ..] => (1, page::put(*b"true", text, at.to)?),
        _ => return rest(record, at, text, levels, keys, nth),
    };
    Some((At { from: at.from + from, to }, false))
}

/// The text of `len` bytes at `start`.
#[inline(always)]
fn words(record: &[u8], start: usize, len: usize, to: usize, text: &mut Text) -> Option<Ended> {
    let from = start + len;
    if from > record.len() {
        return None;
    }
    Some((At { from, to: page::quoted(record.get(start..)?, len, text, to)? }, true))
}

/// Values that are rarer, and those that hold others.
fn rest(record: &[u8], at: At, text: &mut Text, levels: usize, keys: &mut Vec<Key>, nth: &mut usize) -> Option<Ended> {
    let (head, len) = msgpack::head(record.get(at.from..)?).ok()?;
    let (from, mut to) = (at.from + len, at.to);
    to = match head {
        Head::Str(len) => return words(record, from, len, to, text),
        Head::F64(float) => match page::thousandths(float, text, to) {
            Some(to) => to,
            None if float.is_finite() => page::raw(ryu::Buffer::new().format_finite(float).as_bytes(), text, to)?,
            None => return None,
        },
        Head::F32(float) if float.is_finite() => {
            page::raw(ryu::Buffer::new().format_finite(float).as_bytes(), text, to)?
        }
        Head::UInt(number) => page::number(number, text, to)?,
        Head::Int(number) => page::negative(number, text, to)?,
        Head::Nil => page::put(*b"null", text, to)?,
        Head::Map(_) | Head::Array(_) if levels == 0 => return None,
        Head::Map(0) => page::put(*b"{}", text, to)?,
        Head::Array(0) => page::put(*b"[]", text, to)?,
        Head::Map(count) => {
            let (mut inner, mut left) = (At { from, to }, count);
            loop {
                let keys_end = nth.saturating_add(left).min(keys.len());
                let mut quick = 0;
                let after_key;
                (inner, after_key) =
                    known(keys.get(*nth..keys_end).unwrap_or_default(), record, inner, text, |_, _, _, _| quick += 1);
                (*nth, left) = (*nth + quick, left - quick);
                if left == 0 {
                    break;
                }
                match after_key.or_else(|| same(keys.get(*nth)?, record, inner, text)) {
                    Some(end) => inner = end,
                    None => {
                        let key;
                        (key, inner) = other(record, inner, text)?;
                        if let Some(known) = keys.get_mut(*nth) {
                            *known = key;
                        } else if *nth < KEYS_MAX {
                            keys.push(key);
                        }
                    }
                }
                (*nth, left) = (*nth + 1, left - 1);
                (inner, _) = value(record, inner, text, levels - 1, keys, nth)?;
            }
            // The place of the first comma.
            text[to] = b'{';
            return Some((At { to: page::put(*b"}", text, inner.to)?, ..inner }, false));
        }
        Head::Array(count) => {
            let mut inner = At { from, to };
            for _ in 0..count {
                inner.to = page::put(*b",", text, inner.to)?;
                (inner, _) = value(record, inner, text, levels - 1, keys, nth)?;
            }
            text[to] = b'[';
            return Some((At { to: page::put(*b"]", text, inner.to)?, ..inner }, false));
        }
        _ => return None,
    };
    Some((At { from, to }, false))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rmpv::Value as V;

    use super::super::{Decoder, Limits, Step, tests as frames};
    use super::*;
    use crate::batch::Added;
    use crate::budget::Budget;
    use crate::codec::ndjson::Encoder;
    use crate::metrics::{Oddity, RejectReason};

    /// What comes of a connection.
    #[derive(Debug, PartialEq)]
    struct Out {
        lines: Vec<String>,
        oddities: Vec<(&'static str, u32)>,
        rejected: Vec<(&'static str, u32)>,
    }

    /// Decodes `bytes`, of which `piece` more are there at each call; and how many rows were written as JSON.
    fn decoded(bytes: &[u8], piece: usize, limits: Limits, docker: bool, as_json: bool) -> (Out, usize, Batch) {
        let mut permit = Budget::new(1 << 30).empty_permit();
        permit.grow(64 << 20);
        let mut batch = Batch::new(permit, 0, Arc::default());
        let mut decoder = Decoder::new(limits, docker);
        decoder.set_as_json(as_json);
        let (mut from, mut to) = (0, 0);
        loop {
            let (used, step) = decoder.decode(&bytes[from..to], &mut batch, frames::NOW);
            from += used;
            match step {
                Step::NeedMore if to == bytes.len() => break,
                Step::NeedMore => to = (to + piece).min(bytes.len()),
                Step::FrameEnd => (),
                other => panic!("{other:?}"),
            }
        }
        let mut encoder = Encoder::new(Added::ALL);
        let lines = (0..batch.len()).map(|at| {
            let mut line = Vec::new();
            encoder.row(&batch, at, &mut line);
            String::from_utf8(line).expect("UTF-8")
        });
        let lines: Vec<_> = lines.collect();
        let is_json = |field: &Field| matches!(field.form, Form::Json | Form::JsonStr);
        let is_one = |at: &usize| !batch.fields(*at).is_empty() && batch.fields(*at).iter().all(is_json);
        let written = (0..batch.len()).filter(is_one).count();
        let odd = Oddity::NAMES.iter().zip(batch.tally.oddities.iter().zip(encoder.tally.oddities));
        let odd = odd.map(|(name, (a, b))| (*name, a + b)).filter(|(_, count)| *count > 0).collect();
        let rejected = RejectReason::NAMES.iter().copied().zip(batch.tally.rejected).filter(|(_, count)| *count > 0);
        (Out { lines, oddities: odd, rejected: rejected.collect() }, written, batch)
    }

    /// The same both ways; how many rows were written as JSON.
    fn both(bytes: &[u8], piece: usize, limits: Limits, docker: bool) -> (usize, Batch) {
        let (general, none, _) = decoded(bytes, piece, limits, docker, false);
        let (ours, written, batch) = decoded(bytes, piece, limits, docker, true);
        assert_eq!(ours, general);
        assert!(none <= written);
        (written, batch)
    }

    fn entry(record: &V) -> Vec<u8> {
        frames::encode(&V::Array(vec![V::from(1_700_000_000), record.clone()]))
    }

    fn packed(records: &[V]) -> Vec<u8> {
        frames::packed(records.iter().flat_map(entry).collect(), frames::map(&[]))
    }

    /// How many of these are written as JSON, each alone on its connection.
    fn taken(record: V) -> usize {
        both(&packed(&[record]), 1 << 20, Limits::default(), true).0
    }

    fn text(text: &str) -> V {
        V::from(text)
    }

    #[test]
    fn what_means_the_same_in_json_is_written_and_the_batch_is_whole() {
        let deep = |levels| (0..levels).fold(V::from(1), |inner, _| frames::map(&[("in", inner)]));
        let long = "long key: ".repeat(3);
        let records = [
            frames::map(&[("seq", V::from(7)), ("log", text("GET \"/a\" 200\n")), ("stream", text("stdout"))]),
            frames::map(&[("time", V::from(-3)), ("took", V::from(0.125)), ("big", V::from(u64::MAX)), ("x", V::Nil)]),
            frames::map(&[
                ("tag", V::from(true)),
                ("f", V::from(0.062_5)),
                ("f32", V::F32(0.1)),
                ("e", V::from(1e300)),
            ]),
            frames::map(&[
                ("a", V::Array(vec![1.into(), "b".into(), V::Array(vec![]), V::Map(vec![])])),
                ("", 1.into()),
            ]),
            frames::map(&[
                ("ключ", text("значение")),
                (&long, text(&"é".repeat(200))),
                ("a key of 16 char", 99_999_999.into()),
            ]),
            frames::map(&[("deep", deep(LEVELS_MAX)), ("n", V::from(100_000_000)), ("m", V::from(i64::MIN))]),
            frames::map(&[(
                "kubernetes",
                frames::map(&[("pod", text("web-1")), ("labels", frames::map(&[("a", 1.into())]))]),
            )]),
        ];
        for record in &records {
            assert_eq!(taken(record.clone()), 1, "{record}");
        }
        // One after another, and each of them twice: the second time its keys are known.
        let twice: Vec<V> = records.iter().flat_map(|record| [record.clone(), record.clone()]).collect();
        let thrice: Vec<V> = (0..3).flat_map(|_| records.clone()).collect();
        for (records, count) in [(thrice, 3 * records.len()), (twice, 2 * records.len())] {
            let (written, batch) = both(&packed(&records), 1 << 20, Limits::default(), true);
            assert_eq!((written, batch.is_whole()), (count, true));
        }
    }

    #[test]
    fn what_is_odd_is_left_to_the_general_way() {
        let pairs = |pairs: &[(V, V)]| V::Map(pairs.to_vec());
        let deep = (0..LEVELS_MAX + 1).fold(V::from(1), |inner, _| frames::map(&[("in", inner)]));
        for record in [
            V::Map(vec![]),
            frames::map(&[("a", 1.into()), ("b", 2.into()), ("a", 3.into())]),
            frames::map(&[("a\"quote", 1.into())]),
            frames::map(&[("log", text("\u{7}"))]),
            frames::map(&[("log", V::Binary(b"bin".to_vec()))]),
            frames::map(&[("log", V::Ext(7, vec![1]))]),
            frames::map(&[("log", V::from(f64::NAN))]),
            frames::map(&[("log", V::F32(f32::INFINITY))]),
            frames::map(&[("log", deep)]),
            frames::map(&[("log", text(&"x".repeat(ROOM)))]),
            frames::map(&[("log", V::Array(vec![V::Nil; ROOM / 4]))]),
            pairs(&[(V::from(1), V::from(2))]),
            frames::map(&[("in", pairs(&[(V::from(1), V::from(2))]))]),
            frames::map(&[
                ("log", text("x")),
                ("source", text("stdout")),
                ("container_id", text("4f")),
                ("container_name", text("/a")),
            ]),
        ] {
            assert_eq!(taken(record.clone()), 0, "{record}");
        }
        // Not UTF-8, which no `str` of a test's tree can be.
        let blob = b"\x92\x01\x82\xa1a\xa2x\xff\xa1\xffb".to_vec();
        let (written, batch) = both(&frames::packed(blob, frames::map(&[])), 1 << 20, Limits::default(), true);
        assert_eq!((written, batch.len()), (0, 1));
        // Without Docker's shape its keys are keys like others.
        let docker = frames::map(&[
            ("log", 1.into()),
            ("source", 2.into()),
            ("container_id", 3.into()),
            ("container_name", 4.into()),
        ]);
        assert_eq!(both(&packed(&[docker]), 1 << 20, Limits::default(), false).0, 1);
    }

    #[test]
    fn keys_that_come_twice_are_found_whatever_the_records_before_were() {
        let keys = |keys: &[&str]| frames::map(&keys.iter().map(|key| (*key, V::from(1))).collect::<Vec<_>>());
        let inner = |key: &str| frames::map(&[(key, V::from(1))]);
        let (long, other) = ("a key above fifteen bytes", "another key above fifteen bytes");
        for (before, last) in [
            // What is remembered of two records together is no record.
            (vec![keys(&["a", "b", "c"]), keys(&["c"])], keys(&["c", "b", "c"])),
            (vec![frames::map(&[("a", inner("a"))])], keys(&["a", "a"])),
            (vec![frames::map(&[("x", inner("b")), ("c", 1.into())])], keys(&["x", "b", "b"])),
            (vec![keys(&[long, "a", other])], keys(&[long, "a", long])),
            (vec![keys(&["b", long, "a"]), keys(&["b", other, "a"])], keys(&["b", long, "a", "b"])),
            (vec![keys(&["a", "b"])], keys(&["a", "b", "a"])),
        ] {
            let mut records = before.clone();
            records.push(last.clone());
            let (written, batch) = both(&packed(&records), 1 << 20, Limits::default(), true);
            assert_eq!(written, before.len(), "{last}");
            assert_eq!(batch.tally.oddities[Oddity::DuplicateKey as usize], 1, "{last}");
        }
        // Below the top level nobody looks.
        let nested = frames::map(&[("in", keys(&["a", "a"]))]);
        assert_eq!(taken(nested), 1);
    }

    #[test]
    fn a_connection_of_odd_records_is_tried_now_and_then() {
        let odd = frames::map(&[("log", V::Binary(b"bin".to_vec()))]);
        let plain = frames::map(&[("log", text("x"))]);
        let count = PAUSE_MAX as usize;
        let (written, _) =
            both(&packed(&[vec![odd; 20 * count], vec![plain; 3 * count]].concat()), 1 << 20, Limits::default(), true);
        assert!((2 * count..=3 * count).contains(&written), "{written}");
    }

    #[test]
    fn limits_are_those_of_the_general_way() {
        let deep = |levels| (1..levels).fold(V::from(1), |inner, _| frames::map(&[("in", inner)]));
        for levels in 1..6 {
            let limits = Limits { depth_max: 3, ..Limits::default() };
            let (written, batch) =
                both(&packed(&[deep(levels + 1), frames::map(&[("a", 1.into())])]), 1 << 20, limits, true);
            assert_eq!(batch.len(), 1 + usize::from(levels <= 3), "{levels}");
            assert_eq!(written, batch.len(), "{levels}");
        }
        for entry_max in 8..64 {
            let records = [frames::map(&[("log", text(&"x".repeat(20)))]), frames::map(&[("a", 1.into())])];
            both(&packed(&records), 1 << 20, Limits { entry_max, ..Limits::default() }, true);
        }
    }

    #[test]
    fn entries_may_be_cut_anywhere() {
        let record = |n: u64| {
            let inner = frames::map(&[("pod", text("web-1")), ("n", n.into())]);
            frames::map(&[
                ("seq", n.into()),
                ("log", text("a \"quoted\" text of more than thirty-two bytes")),
                ("k", inner),
            ])
        };
        let records: Vec<V> = (0..4).map(record).collect();
        let messages: Vec<u8> = records
            .iter()
            .flat_map(|record| {
                frames::encode(&V::Array(vec!["t".into(), 1_700_000_000.into(), record.clone(), V::Nil]))
            })
            .collect();
        for bytes in [packed(&records), messages] {
            // Miri has not the time for all of them.
            for piece in (1..=bytes.len()).step_by(if cfg!(miri) { 61 } else { 1 }) {
                for whole_max in [1, 1 << 20] {
                    let (written, _) = both(&bytes, piece, Limits { whole_max, ..Limits::default() }, true);
                    assert_eq!(written, records.len(), "pieces of {piece}");
                }
            }
        }
    }

    /// What is odd or rare, as MessagePack: not a tree of rmpv's, whose texts are UTF-8 and whose heads are the shortest.
    fn odd_values() -> impl Strategy<Value = Vec<u8>> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
        let leaf = prop_oneof![
            bytes().prop_map(|bytes| packed_text(&bytes)),
            bytes().prop_map(|bytes| frames::encode(&V::Binary(bytes))),
            // Numbers of any width, 0xca to 0xd3.
            (0xcau8..=0xd3, any::<[u8; 8]>()).prop_map(|(head, bytes)| {
                let width = [4, 8, 1, 2, 4, 8, 1, 2, 4, 8][usize::from(head - 0xca)];
                [&[head], &bytes[..width]].concat()
            }),
            prop::num::f64::ANY.prop_map(|number| frames::encode(&V::F64(number))),
            prop::num::f32::ANY.prop_map(|number| frames::encode(&V::F32(number))),
            prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY])
                .prop_flat_map(|number| prop_oneof![Just(V::F64(number)), Just(V::F32(number as f32))])
                .prop_map(|number| frames::encode(&number)),
            (prop_oneof![Just(0), Just(-1), any::<i8>()], bytes())
                .prop_map(|(of, bytes)| frames::encode(&V::Ext(of, bytes))),
        ];
        leaf.prop_recursive(2, 4, 2, |inner| {
            prop_oneof![
                (inner.clone(), plain_values()).prop_map(|items| [vec![0x92], items.0, items.1].concat()),
                (keys(), inner).prop_map(|pair| packed_map(&[pair])),
            ]
        })
    }

    fn plain_values() -> impl Strategy<Value = Vec<u8>> {
        msgpack::tests::values().prop_map(|value| frames::encode(&value))
    }

    /// Few of them, so that many come twice.
    fn keys() -> impl Strategy<Value = Vec<u8>> {
        "[abé\"]{0,2}|stream|log|[a-c]{14,17}".prop_map(|key| packed_text(key.as_bytes()))
    }

    /// A record of plain members with an odd one among them or not: more of them, and none would be written as JSON.
    fn records() -> impl Strategy<Value = Vec<u8>> {
        let odd_keys = prop_oneof![odd_values(), plain_values()];
        let odd = prop_oneof![4 => (keys(), odd_values()), 1 => (odd_keys, plain_values())];
        let plain = proptest::collection::vec((keys(), plain_values()), 0..6);
        (plain, proptest::option::of((odd, any::<prop::sample::Index>()))).prop_map(|(mut pairs, odd)| {
            if let Some((pair, at)) = odd {
                pairs.insert(at.index(pairs.len() + 1), pair);
            }
            packed_map(&pairs)
        })
    }

    fn packed_text(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        msgpack::write::text(bytes, &mut out);
        out
    }

    fn packed_map(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let mut out = Vec::new();
        msgpack::write::map(pairs.len(), &mut out);
        pairs.iter().for_each(|(key, value)| out.extend([&key[..], value].concat()));
        out
    }

    proptest! {
        #[test]
        fn both_ways_give_the_same_lines(
            records in proptest::collection::vec(records(), 1..4),
            order in proptest::collection::vec(0usize..4, 1..12),
            piece in 1usize..400,
        ) {
            let entries = order.iter().map(|at| {
                let time = frames::encode(&V::from(1_700_000_000));
                [vec![0x92], time, records[at % records.len()].clone()].concat()
            });
            let bytes = frames::packed(entries.collect::<Vec<_>>().concat(), frames::map(&[]));
            both(&bytes, piece, Limits::default(), true);
        }
    }
}
