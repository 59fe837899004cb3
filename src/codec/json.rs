//! JSON: check, index, escape, unescape. No value is ever built: a record is the spans of its members.
//!
//! Source of the format: RFC 8259. Limits: depth 128 ([`DEPTH_MAX`](index::DEPTH_MAX)); texts below 4 GiB, as arenas are.
//! Counters: `invalid_utf8` where a text has to be made UTF-8.
//!
//! Figures are at the top of `benches/codec.rs`.

use std::borrow::Cow;

use crate::batch::Batch;
use crate::codec::msgpack;
use crate::metrics::{Oddity, Tally};
use crate::record::{Field, Form, Span, Value};

pub(crate) mod block;
pub(crate) mod digits; // numbers to text
mod escape;
pub(crate) mod index;
pub(crate) mod inner;
mod mend;
pub(crate) mod page;
#[cfg(test)]
pub(crate) mod texts; // objects as texts, and what serde_json says of them
pub(crate) mod walk; // where a value ends that comes in pieces

pub(crate) use escape::{Unescaped, quoted, unescape_block, unescape_room};
pub use escape::{escape, unescape};
use index::Scanner;
pub(crate) use mend::mend;

/// Why a text is not taken as a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// Valid or not, it is no object (array, string, number, empty).
    NotAnObject,
    /// Broken at this byte of the text.
    Broken(usize),
    /// Nested deeper than the limit.
    TooDeep,
    /// Not UTF-8 at or after this byte.
    NotUtf8(usize),
}

/// Checks the JSON object at `span` of the batch's arena, whole (nothing but white space around it, valid UTF-8, depth
/// at most `depth_max`), and pushes its top-level members as fields (`Json` and `JsonStr`; keys `JsonStr`, or `Text`
/// where they hold no escape). On an error nothing is pushed and nothing is changed. Line breaks between tokens become
/// spaces in place, so that every span fits on one line.
pub fn push_members(batch: &mut Batch, span: Span, depth_max: usize) -> Result<(), JsonError> {
    push_members_seen(batch, span, depth_max, |_| ())
}

/// The same; `see` is shown each key as it is written.
#[inline(always)]
pub(crate) fn push_members_seen(
    batch: &mut Batch,
    span: Span,
    depth_max: usize,
    mut see: impl FnMut(&[u8]),
) -> Result<(), JsonError> {
    let mark = batch.fields_mark();
    let (arena, fields) = batch.padded_arena_and_fields();
    let (from, len) = (span.at as usize, span.len as usize);
    let text = &arena[from..];
    let scanned = Scanner::new(text, len).object(depth_max, |member| {
        see(&text[member.key.from..member.key.to]);
        fields.push(field_of(&member, span.at));
    });
    let checked = scanned.and_then(|seen| {
        if seen.high
            && let Err(error) = simdutf8::compat::from_utf8(&arena[from..from + len])
        {
            return Err(JsonError::NotUtf8(error.valid_up_to()));
        }
        Ok(seen)
    });
    match checked {
        Ok(seen) => {
            if seen.breaks {
                // In strings they would have been refused, so all that are left stand between tokens.
                for byte in &mut batch.arena_mut()[from..from + len] {
                    if matches!(byte, b'\n' | b'\r') {
                        *byte = b' ';
                    }
                }
            }
            Ok(())
        }
        Err(error) => {
            batch.rewind_fields(mark);
            Err(error)
        }
    }
}

/// The same for the object that begins at byte `at` of the arena and has no line breaks; gives its bytes. On an error the
/// fields of the members before it are there.
pub(crate) fn push_first_object(batch: &mut Batch, at: u32) -> Result<u32, JsonError> {
    let used = batch.arena().len();
    let (arena, fields) = batch.padded_arena_and_fields();
    let from = (at as usize).min(used);
    let mut scanner = Scanner::new(&arena[from..], used - from);
    let len = scanner.first_object(index::DEPTH_MAX, |member| fields.push(field_of(&member, at)))?;
    let seen = scanner.seen();
    if seen.breaks {
        return Err(JsonError::Broken(len));
    }
    if seen.high
        && let Err(error) = simdutf8::compat::from_utf8(&arena[from..from + len])
    {
        return Err(JsonError::NotUtf8(error.valid_up_to()));
    }
    // An arena is below 4 GiB.
    Ok(len as u32)
}

/// A member of the object at byte `at` of an arena.
#[inline(always)]
fn field_of(member: &index::Member, at: u32) -> Field {
    // Both ends lie in the arena, which is below 4 GiB.
    let span_of = |run: index::Run| Span { at: at + run.from as u32, len: (run.to - run.from) as u32 };
    Field {
        key: span_of(member.key),
        value: span_of(member.value),
        key_form: if member.key_escaped { Form::JsonStr } else { Form::Text },
        form: if member.is_string { Form::JsonStr } else { Form::Json },
    }
}

/// Appends the unescaped text of a `JsonStr` span to the arena: for steps that read a text as something else. `None`
/// where it is broken (it was not checked then). Lone surrogates become U+FFFD, counted.
pub fn unescape_span(batch: &mut Batch, span: Span) -> Option<Span> {
    let (from, len) = (span.at as usize, span.len as usize);
    let (used, tail) = batch.split_tail(unescape_room(len));
    let done = unescape_block(&used[from..], len, tail).ok()?;
    batch.tally.odd_by(Oddity::InvalidUtf8, done.lone);
    Some(batch.commit(done.len))
}

/// The text of a string value: `Text` as it is, `JsonStr` unescaped. `None` for the other forms.
pub fn text<'a>(value: Value<'a>) -> Option<Cow<'a, [u8]>> {
    match value.form {
        Form::Text => Some(Cow::Borrowed(value.bytes)),
        Form::JsonStr if memchr::memchr(b'\\', value.bytes).is_none() => Some(Cow::Borrowed(value.bytes)),
        Form::JsonStr => {
            let mut out = Vec::new();
            unescape(value.bytes, &mut out)?;
            Some(Cow::Owned(out))
        }
        Form::Json | Form::Msg => None,
    }
}

/// Appends a field as `,"key":value`. `padded` is the arena of its spans, with what is readable behind them.
#[inline]
pub(crate) fn write_member(padded: &[u8], field: &Field, out: &mut Vec<u8>, tally: &mut Tally) {
    let (key, value) = (&padded[field.key.at as usize..], &padded[field.value.at as usize..]);
    if field.key_form == Form::Text {
        let replaced = escape::member_key(key, field.key.len as usize, out);
        tally.odd_by(Oddity::InvalidUtf8, replaced);
    } else {
        out.push(b',');
        write_padded(field.key_form, key, field.key.len as usize, out, tally);
        out.push(b':');
    }
    write_padded(field.form, value, field.value.len as usize, out, tally);
}

/// Appends any value as JSON, quotes included.
pub fn write(value: Value<'_>, out: &mut Vec<u8>, tally: &mut Tally) {
    write_padded(value.form, value.bytes, value.bytes.len(), out, tally);
}

/// The same of the first `len` bytes of `padded`.
#[inline(always)]
fn write_padded(form: Form, padded: &[u8], len: usize, out: &mut Vec<u8>, tally: &mut Tally) {
    match form {
        Form::Json => out.extend_from_slice(&padded[..len]),
        Form::JsonStr => {
            out.push(b'"');
            out.extend_from_slice(&padded[..len]);
            out.push(b'"');
        }
        Form::Text => {
            let replaced = quoted(padded, len, out);
            tally.odd_by(Oddity::InvalidUtf8, replaced);
        }
        Form::Msg => msgpack::write_json(padded, len, out, tally),
    }
}

/// Calls `found` with the key and value of each member of a JSON object text, in order. The text is checked on the
/// way (but for UTF-8); an error comes after the members before it.
pub fn each_member<'a>(object: &'a [u8], mut found: impl FnMut(Value<'a>, Value<'a>)) -> Result<(), JsonError> {
    let scanned = Scanner::new(object, object.len()).object(index::DEPTH_MAX, |member| {
        let key_form = if member.key_escaped { Form::JsonStr } else { Form::Text };
        let form = if member.is_string { Form::JsonStr } else { Form::Json };
        found(
            Value { form: key_form, bytes: &object[member.key.from..member.key.to] },
            Value { form, bytes: &object[member.value.from..member.value.to] },
        );
    });
    scanned.map(|_| ())
}

/// The last member `key` (unescaped) of a JSON object text that was checked before. `None` if it is no object.
pub fn get<'a>(object: &'a [u8], key: &[u8]) -> Option<Value<'a>> {
    let mut last = None;
    let scanned = each_member(object, |name, value| {
        let same = match name.form {
            // Escapes only shorten, so a shorter name can not be it.
            Form::JsonStr => name.bytes.len() > key.len() && text(name).is_some_and(|name| *name == *key),
            _ => name.bytes == key,
        };
        if same {
            last = Some(value);
        }
    });
    scanned.ok().and(last)
}

/// The value at a dotted path's parts below `value`. `None` where a part is missing or what holds it is no object.
pub fn get_path<'a, 'k>(value: Value<'a>, path: impl IntoIterator<Item = &'k [u8]>) -> Option<Value<'a>> {
    path.into_iter().try_fold(value, |at, key| if at.form == Form::Json { get(at.bytes, key) } else { None })
}

/// One round of the fuzz target: index the bytes as an object, escape and unescape them.
#[doc(hidden)]
pub fn fuzz_one(data: &[u8]) {
    let mut batch = Batch::new(crate::budget::Budget::new(1 << 20).empty_permit(), 0, std::sync::Arc::default());
    let span = batch.push_bytes(data);
    let taken = push_members(&mut batch, span, index::DEPTH_MAX);
    if taken.is_ok() {
        assert!(serde_json::from_slice::<&serde_json::value::RawValue>(data).is_ok(), "taken, but no JSON");
        assert!(!batch.arena().contains(&b'\n'));
    } else {
        assert_eq!(batch.arena(), data);
        assert_eq!(batch.fields_mark(), 0);
    }
    let mut walk = walk::Walk::new();
    let dead = data.chunks(3).any(|part| !walk.is_done() && walk.advance(part).is_err());
    assert!(taken.is_err() || walk.is_done() && !dead, "the walk finds no end of a valid object");
    let mut escaped = Vec::new();
    let replaced = escape(data, &mut escaped);
    let mut back = Vec::new();
    assert_eq!(unescape(&escaped, &mut back), Some(0));
    assert_eq!(String::from_utf8_lossy(data).as_bytes(), back);
    assert_eq!(replaced == 0, std::str::from_utf8(data).is_ok());
    back.clear();
    let _ = unescape(data, &mut back);
    let _ = get(data, b"a");
}

#[cfg(test)]
mod tests;
