//! Paths: how steps name a value of a record. `level`, `http.status`, `container.labels."com.example.app"`.
//!
//! The first part is a top-level field; where duplicates exist, the last one. Further parts look into nested JSON and
//! MessagePack in place. A dotted path that leads nowhere is tried once more as one top-level key with dots in it, as
//! Docker's labels are. What the record does not have itself may be a value that is added to it: `tag`, `stream`,
//! `time`, `file`, `container.name`, `container.id`, `container.image`, `container.labels.x`, unless a step removed it.
//!
//! Limits: [`PARTS_MAX`] parts.

use std::fmt;

use crate::batch::{Batch, NO_CONTAINER, NO_FILE, NO_TAG, NO_TIME};
use crate::codec::{json, msgpack, time};
use crate::record::{Container, Form, Timestamp, Value};

/// Parts of one path, at most.
pub const PARTS_MAX: usize = 32;

/// A path that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    parts: Vec<String>,
    /// All parts with dots between them.
    whole: String,
}

/// What a path leads to.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// A value of the record, or an added one as text.
    Value(Value<'a>),
    /// The added `time`, where the source wrote none.
    Time(Timestamp),
    /// The added `container`.
    Container(&'a Container),
}

impl Path {
    /// A path of parts, of which there must be one at least.
    pub fn of(parts: Vec<String>) -> Path {
        assert!(!parts.is_empty(), "a path has a part");
        let whole = parts.join(".");
        Path { parts, whole }
    }

    /// Reads dotted text in which a part may be quoted with `"` or `'`. The error says what is wrong, and at which
    /// byte.
    pub fn parse(text: &str) -> Result<Path, (usize, String)> {
        let (mut parts, mut at) = (Vec::new(), 0);
        loop {
            let rest = &text[at..];
            let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''));
            let (part, len) = match quote {
                Some(quote) => match rest[1..].find(quote) {
                    Some(end) => (&rest[1..=end], end + 2),
                    None => return Err((at, format!("{quote} without its end"))),
                },
                None => {
                    let len = rest.find('.').unwrap_or(rest.len());
                    (&rest[..len], len)
                }
            };
            if part.is_empty() {
                return Err((at, "a name is missing; write for example container.name".to_owned()));
            }
            if quote.is_none()
                && let Some((bad, c)) = part.char_indices().find(|(_, c)| !is_name_char(*c))
            {
                return Err((at + bad, format!("`{c}` in a name; quote the part that holds it")));
            }
            parts.push(part.to_owned());
            at += len;
            match text[at..].chars().next() {
                None => break,
                Some('.') => at += 1,
                Some(c) => return Err((at, format!("expected a dot, got `{c}`"))),
            }
        }
        if parts.len() > PARTS_MAX {
            return Err((0, format!("more than {PARTS_MAX} parts")));
        }
        Ok(Path::of(parts))
    }

    /// All of it, with dots.
    pub fn as_str(&self) -> &str {
        &self.whole
    }

    /// Its parts, one at least.
    pub fn parts(&self) -> &[String] {
        &self.parts
    }

    /// What it leads to in row `at`.
    pub fn find<'b>(&self, batch: &'b Batch, at: usize) -> Option<Found<'b>> {
        let own = batch.find(at, self.parts[0].as_bytes()).map(|field| batch.value(field));
        if let Some(value) = own {
            match self.parts[1..].iter().try_fold(value, |value, part| member(value, part.as_bytes())) {
                Some(value) => return Some(Found::Value(value)),
                None if self.parts.len() == 1 => return None,
                None => {}
            }
        }
        if self.parts.len() > 1
            && let Some(field) = batch.find(at, self.whole.as_bytes())
        {
            return Some(Found::Value(batch.value(field)));
        }
        if own.is_some() { None } else { self.find_added(batch, at) }
    }

    /// What it leads to among the values that are added to the record.
    fn find_added<'b>(&self, batch: &'b Batch, at: usize) -> Option<Found<'b>> {
        let row = batch.row(at);
        let text = |text: &'b str| Some(Found::Value(Value { form: Form::Text, bytes: text.as_bytes() }));
        let rest = &self.parts[1..];
        match (self.parts[0].as_str(), rest) {
            ("tag", []) if !row.has(NO_TAG) => text(batch.tag_of(at).as_str()),
            ("stream", []) => text(row.stream.name()?),
            ("file", []) if !row.has(NO_FILE) => text(batch.origin.file.as_deref()?),
            ("time", []) if !row.has(NO_TIME) => {
                if row.time_text.len > 0 {
                    Some(Found::Value(Value { form: Form::Text, bytes: batch.bytes(row.time_text) }))
                } else {
                    (row.time != Timestamp::UNREAD).then_some(Found::Time(row.time))
                }
            }
            ("container", rest) if !row.has(NO_CONTAINER) => {
                let container = batch.origin_at(at).container.as_ref()?;
                if rest.is_empty() { Some(Found::Container(container)) } else { text(of_container(container, rest)?) }
            }
            _ => None,
        }
    }
}

/// A value of a container by the path behind `container.`; the name is the first 12 digits of the id while unknown.
pub fn of_container<'a>(container: &'a Container, rest: &[String]) -> Option<&'a str> {
    let text = match rest {
        [name] if name == "name" => container.name_or_id(),
        [name] if name == "id" => &container.id,
        [name] if name == "image" => &container.image,
        [labels, parts @ ..] if labels == "labels" && !parts.is_empty() => {
            let key = parts.join(".");
            return container.labels.iter().rfind(|(label, _)| *label == key).map(|(_, value)| value.as_str());
        }
        _ => return None,
    };
    Some(text).filter(|text| !text.is_empty())
}

/// The member `key` of a nested value.
fn member<'a>(value: Value<'a>, key: &[u8]) -> Option<Value<'a>> {
    match value.form {
        Form::Json if value.bytes.first() == Some(&b'{') => json::get(value.bytes, key),
        Form::Msg if matches!(value.bytes.first(), Some(0x80..=0x8f | 0xde | 0xdf)) => {
            msgpack::get(value.bytes, key).map(of_msgpack)
        }
        _ => None,
    }
}

/// One encoded MessagePack value as a value: a `str` is text.
pub fn of_msgpack(encoded: &[u8]) -> Value<'_> {
    let is_str = matches!(encoded.first(), Some(0xa0..=0xbf | 0xd9..=0xdb));
    match msgpack::peek(encoded) {
        Some(msgpack::Peek::Bytes(text)) if is_str => Value { form: Form::Text, bytes: text },
        _ => Value { form: Form::Msg, bytes: encoded },
    }
}

impl Found<'_> {
    /// Appends it as plain text: what a template shows. Nested values as JSON.
    pub fn write_text(self, out: &mut Vec<u8>) {
        match self {
            Found::Value(value) => match json::text(value) {
                Some(text) => out.extend_from_slice(&text),
                None => json::write(value, out, &mut crate::metrics::Tally::default()),
            },
            Found::Time(at) => time::write_rfc3339(at, out),
            Found::Container(container) => write_container(container, out),
        }
    }
}

/// Appends a container as the JSON object that sinks add: `{"id":..,"name":..,"image":..}`, unknown parts left out.
pub fn write_container(container: &Container, out: &mut Vec<u8>) {
    let mut before: &[u8] = b"{\"";
    for (key, text) in [("id", &container.id), ("name", &container.name), ("image", &container.image)] {
        if !text.is_empty() {
            out.extend_from_slice(before);
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(b"\":\"");
            json::escape(text.as_bytes(), out);
            before = b"\",\"";
        }
    }
    out.extend_from_slice(if before[0] == b'{' { b"{}" } else { b"\"}" });
}

/// Whether a character may stand in an unquoted part of a path.
pub fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '@' | '$' | '/' | ':')
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.whole)
    }
}
