//! Changes inside nested values, which stay encoded: one walk over checked JSON or MessagePack that copies only when
//! something changes. For `mask` and for `remove` of a path.
//!
//! Limits: deeper than [`DEPTH_MAX`] nothing is looked at (codecs let at most 128 levels in). Bytes that are not well
//! formed end the walk early; nothing panics on them.

use std::borrow::Cow;

use crate::codec::json;
use crate::record::{Form, Value};

/// Levels that are walked, at most.
pub const DEPTH_MAX: usize = 130;

/// What becomes of a member of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It stays as it is.
    Keep,
    /// Look inside.
    Enter,
    /// Its value becomes a text.
    Replace(&'static str),
    /// It goes.
    Remove,
}

/// Who decides during a walk. Texts are unescaped.
pub trait Edit {
    /// About a member; `depth` counts from 0 for the members of the outermost map.
    fn member(&mut self, depth: usize, key: &[u8]) -> Act;
    /// Whether to look into arrays.
    fn enters_arrays(&self) -> bool;
    /// The new text of a text that was entered, if it changes.
    fn text(&mut self, text: &[u8]) -> Option<&[u8]>;
    /// The new text of a whole number without a sign that was entered, if it becomes one.
    fn digits(&mut self, digits: &[u8]) -> Option<&[u8]>;
}

/// Copies `src` to `out` with some ranges replaced, in order.
struct Cutter<'a> {
    src: &'a [u8],
    out: &'a mut Vec<u8>,
    /// First byte that is not copied yet.
    from: usize,
    changed: bool,
}

impl Cutter<'_> {
    fn replace(&mut self, from: usize, to: usize, with: impl FnOnce(&mut Vec<u8>)) {
        self.out.extend_from_slice(self.src.get(self.from..from).unwrap_or_default());
        with(self.out);
        self.from = to;
        self.changed = true;
    }

    fn end(self) -> bool {
        if self.changed {
            self.out.extend_from_slice(self.src.get(self.from..).unwrap_or_default());
        }
        self.changed
    }
}

/// Walks a value of form `Json` or `Msg`. Appends the new encoding and says `true` if anything changed.
pub fn edit(value: Value<'_>, edit: &mut dyn Edit, out: &mut Vec<u8>) -> bool {
    let mut cutter = Cutter { src: value.bytes, out, from: 0, changed: false };
    match value.form {
        Form::Json => _ = json_value(&mut cutter, 0, 0, edit),
        Form::Msg => _ = msg_value(&mut cutter, 0, 0, edit),
        Form::Text | Form::JsonStr => return false,
    }
    cutter.end()
}

// --- JSON.

fn skip_space(src: &[u8], mut at: usize) -> usize {
    while matches!(src.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The byte after a string that starts with its quote at `at`.
fn skip_string(src: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(step) = src.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += step;
        if src[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    src.len()
}

/// The byte after any value.
fn skip_json(src: &[u8], mut at: usize) -> usize {
    let mut open = 0usize;
    loop {
        match src.get(at) {
            None => return src.len(),
            Some(b'"') => at = skip_string(src, at),
            Some(b'{' | b'[') => {
                open += 1;
                at += 1;
            }
            Some(b'}' | b']') => {
                open = open.saturating_sub(1);
                at += 1;
            }
            Some(_) if open > 0 => {
                at += 1;
                continue;
            }
            Some(_) => {
                let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r');
                let len = src[at..].iter().position(is_end).unwrap_or(src.len() - at);
                return at + len.max(1);
            }
        }
        if open == 0 {
            return at;
        }
    }
}

fn unescaped(inner: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'\\', inner).is_none() {
        return Cow::Borrowed(inner);
    }
    json::text(Value { form: Form::JsonStr, bytes: inner }).unwrap_or(Cow::Borrowed(inner))
}

fn quote(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    json::escape(text, out);
    out.push(b'"');
}

/// Walks the value at `at`, returns the byte after it.
fn json_value(cutter: &mut Cutter<'_>, at: usize, depth: usize, edit: &mut dyn Edit) -> usize {
    let src = cutter.src;
    let at = skip_space(src, at);
    match src.get(at) {
        Some(b'{') if depth < DEPTH_MAX => json_object(cutter, at, depth, edit),
        Some(b'[') if depth < DEPTH_MAX && edit.enters_arrays() => {
            let mut at = skip_space(src, at + 1);
            while let Some(byte) = src.get(at) {
                match byte {
                    b']' => return at + 1,
                    b',' => at = skip_space(src, at + 1),
                    _ => at = skip_space(src, json_value(cutter, at, depth + 1, edit)),
                }
            }
            src.len()
        }
        Some(b'"') => {
            let end = skip_string(src, at);
            let text = unescaped(src.get(at + 1..end - 1).unwrap_or_default());
            if let Some(new) = edit.text(&text) {
                cutter.replace(at, end, |out| quote(new, out));
            }
            end
        }
        Some(b'0'..=b'9') => {
            let end = skip_json(src, at);
            if src[at..end].iter().all(u8::is_ascii_digit)
                && let Some(new) = edit.digits(&src[at..end])
            {
                cutter.replace(at, end, |out| quote(new, out));
            }
            end
        }
        _ => skip_json(src, at),
    }
}

fn json_object(cutter: &mut Cutter<'_>, at: usize, depth: usize, edit: &mut dyn Edit) -> usize {
    let src = cutter.src;
    let mut at = skip_space(src, at + 1);
    let (mut kept, mut last_end) = (false, at);
    loop {
        match src.get(at) {
            None => return src.len(),
            Some(b'}') => return at + 1,
            Some(b',') => {
                at = skip_space(src, at + 1);
                continue;
            }
            Some(b'"') => {}
            // Not well formed.
            Some(_) => return src.len(),
        }
        let key_at = at;
        let key_end = skip_string(src, at);
        let value_at = skip_space(src, skip_space(src, key_end) + 1).min(src.len());
        let act = edit.member(depth, &unescaped(src.get(key_at + 1..key_end - 1).unwrap_or_default()));
        let end = match act {
            Act::Enter => json_value(cutter, value_at, depth + 1, edit),
            _ => skip_json(src, value_at),
        };
        at = skip_space(src, end);
        match act {
            Act::Replace(text) => cutter.replace(value_at, end, |out| quote(text.as_bytes(), out)),
            // With the comma before it, or, as long as nothing stays before it, with the one behind.
            Act::Remove if kept => cutter.replace(last_end, end, |_| ()),
            Act::Remove => {
                let to = if src.get(at) == Some(&b',') { skip_space(src, at + 1) } else { end };
                cutter.replace(key_at, to, |_| ());
                at = to.max(at);
            }
            Act::Keep | Act::Enter => {}
        }
        kept |= act != Act::Remove;
        last_end = end;
    }
}

// --- MessagePack.

#[derive(Clone, Copy)]
enum Kind {
    Str,
    Bin,
    Map(usize),
    Array(usize),
    /// A non-negative integer.
    UInt(u64),
    Other,
}

/// One value's head: what it is, bytes of its head, bytes of its payload (without children).
struct Head {
    kind: Kind,
    head: usize,
    payload: usize,
}

fn head(src: &[u8], at: usize) -> Option<Head> {
    let number = |from: usize, len: usize| -> Option<u64> {
        Some(src.get(from..from + len)?.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte)))
    };
    let size = |len: usize| number(at + 1, len).map(|number| number as usize);
    let byte = *src.get(at)?;
    let (kind, head, payload) = match byte {
        0x00..=0x7f => (Kind::UInt(u64::from(byte)), 1, 0),
        0x80..=0x8f => (Kind::Map(usize::from(byte & 15)), 1, 0),
        0x90..=0x9f => (Kind::Array(usize::from(byte & 15)), 1, 0),
        0xa0..=0xbf => (Kind::Str, 1, usize::from(byte & 31)),
        0xc0..=0xc3 | 0xe0..=0xff => (Kind::Other, 1, 0),
        0xc4..=0xc6 => (Kind::Bin, 1 + (1 << (byte - 0xc4)), size(1 << (byte - 0xc4))?),
        0xc7..=0xc9 => (Kind::Other, 2 + (1 << (byte - 0xc7)), size(1 << (byte - 0xc7))?),
        0xca => (Kind::Other, 5, 0),
        0xcb => (Kind::Other, 9, 0),
        0xcc..=0xcf => (Kind::UInt(number(at + 1, 1 << (byte - 0xcc))?), 1 + (1 << (byte - 0xcc)), 0),
        0xd0..=0xd3 => (Kind::Other, 1 + (1 << (byte - 0xd0)), 0),
        0xd4..=0xd8 => (Kind::Other, 2 + (1 << (byte - 0xd4)), 0),
        0xd9..=0xdb => (Kind::Str, 1 + (1 << (byte - 0xd9)), size(1 << (byte - 0xd9))?),
        0xdc..=0xdd => (Kind::Array(size(2 << (byte - 0xdc))?), 1 + (2 << (byte - 0xdc)), 0),
        0xde..=0xdf => (Kind::Map(size(2 << (byte - 0xde))?), 1 + (2 << (byte - 0xde)), 0),
    };
    Some(Head { kind, head, payload })
}

/// The byte after any value.
fn skip_msg(src: &[u8], mut at: usize) -> usize {
    let mut left = 1usize;
    while left > 0 {
        let Some(found) = head(src, at) else {
            return src.len();
        };
        left = match found.kind {
            Kind::Map(entries) => left.saturating_add(entries.saturating_mul(2)),
            Kind::Array(items) => left.saturating_add(items),
            _ => left,
        } - 1;
        at = at.saturating_add(found.head).saturating_add(found.payload);
    }
    at.min(src.len())
}

fn write_str(text: &[u8], out: &mut Vec<u8>) {
    match text.len() {
        len @ 0..=31 => out.push(0xa0 | len as u8),
        len @ 32..=0xff => out.extend([0xd9, len as u8]),
        len @ 0x100..=0xffff => {
            out.push(0xda);
            out.extend((len as u16).to_be_bytes());
        }
        // Values are parts of an arena, which is below 4 GiB.
        len => {
            out.push(0xdb);
            out.extend((len as u32).to_be_bytes());
        }
    }
    out.extend_from_slice(text);
}

fn write_map_head(entries: usize, out: &mut Vec<u8>) {
    match entries {
        0..=15 => out.push(0x80 | entries as u8),
        16..=0xffff => {
            out.push(0xde);
            out.extend((entries as u16).to_be_bytes());
        }
        _ => {
            out.push(0xdf);
            out.extend((entries as u32).to_be_bytes());
        }
    }
}

fn msg_value(cutter: &mut Cutter<'_>, at: usize, depth: usize, edit: &mut dyn Edit) -> usize {
    let src = cutter.src;
    let Some(Head { kind, head, payload }) = head(src, at) else {
        return src.len();
    };
    let inside = at + head;
    match kind {
        Kind::Map(entries) if depth < DEPTH_MAX => msg_map(cutter, (at, inside), entries, depth, edit),
        Kind::Array(items) if depth < DEPTH_MAX && edit.enters_arrays() => {
            let mut at = inside;
            for _ in 0..items {
                if at >= src.len() {
                    break;
                }
                at = msg_value(cutter, at, depth + 1, edit);
            }
            at
        }
        Kind::Str | Kind::Bin => {
            let end = inside.saturating_add(payload).min(src.len());
            if let Some(new) = edit.text(src.get(inside..end).unwrap_or_default()) {
                cutter.replace(at, end, |out| write_str(new, out));
            }
            end
        }
        Kind::UInt(number) => {
            if let Some(new) = edit.digits(itoa::Buffer::new().format(number).as_bytes()) {
                cutter.replace(at, inside, |out| write_str(new, out));
            }
            inside
        }
        _ => skip_msg(src, at),
    }
}

fn msg_map(
    cutter: &mut Cutter<'_>,
    (at, inside): (usize, usize),
    entries: usize,
    depth: usize,
    edit: &mut dyn Edit,
) -> usize {
    let src = cutter.src;
    let key_at = |at: usize| match head(src, at) {
        Some(Head { kind: Kind::Str | Kind::Bin, head, payload }) => {
            src.get(at + head..(at + head).saturating_add(payload)).unwrap_or_default()
        }
        _ => b"",
    };
    let (mut removed, mut end) = (0, inside);
    for _ in 0..entries {
        if end >= src.len() {
            return src.len();
        }
        removed += usize::from(edit.member(depth, key_at(end)) == Act::Remove);
        end = skip_msg(src, skip_msg(src, end));
    }
    if removed > 0 {
        cutter.replace(at, inside, |out| write_map_head(entries - removed, out));
    }
    let mut at = inside;
    for _ in 0..entries {
        let value_at = skip_msg(src, at);
        let act = edit.member(depth, key_at(at));
        let end = match act {
            Act::Enter => msg_value(cutter, value_at, depth + 1, edit),
            _ => skip_msg(src, value_at),
        };
        match act {
            Act::Replace(text) => cutter.replace(value_at, end, |out| write_str(text.as_bytes(), out)),
            Act::Remove => cutter.replace(at, end, |_| ()),
            Act::Keep | Act::Enter => {}
        }
        at = end;
    }
    at
}
