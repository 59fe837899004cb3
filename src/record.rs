//! What a record is made of: its tag, its time, and views into the batch that holds it.
//!
//! A record is a row of a [`Batch`](crate::batch::Batch): top-level fields in their order, duplicates included, each a
//! span of bytes that are still encoded as they came ([`Form`]). There is no owned record type, on purpose: nothing on
//! the data path is allocated for one record.

use std::fmt;
use std::sync::Arc;

/// A tag: dotted text that routes a record (`docker.web`, `api.access`). At most 4 KiB (the inputs see to it).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

impl Tag {
    /// The tag's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the same; of clones that is one comparison.
    #[inline(always)]
    pub(crate) fn is(&self, other: &Tag) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self == other
    }
}

impl From<&str> for Tag {
    fn from(text: &str) -> Tag {
        Tag(Arc::from(text))
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A tag pattern: `*` is one dotted part, `**` any number of parts (none too). Parts are otherwise literal, but for
/// `*` inside a part, which is any run of characters without a dot (`web-*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagGlob {
    parts: Vec<String>,
}

impl TagGlob {
    /// Reads a pattern. Every text is one; an empty one matches the empty tag only.
    pub fn new(pattern: &str) -> TagGlob {
        TagGlob { parts: pattern.split('.').map(str::to_owned).collect() }
    }

    /// Whether `tag` is matched. Linear in the tag but for `**`, where each `**` costs one more pass at most.
    pub fn matches(&self, tag: &str) -> bool {
        if self.parts.len() == 1 && self.parts[0] == "**" {
            return true;
        }
        let tag: Vec<&str> = tag.split('.').collect();
        wildcard(
            &self.parts,
            &tag,
            |pattern| pattern == "**",
            |pattern, part| {
                let pattern: Vec<char> = pattern.chars().collect();
                let part: Vec<char> = part.chars().collect();
                wildcard(&pattern, &part, |c| *c == '*', |a, b| a == b)
            },
        )
    }
}

/// Matches `text` against `pattern`, in which the items that `is_star` names stand for any run of items. Backtracks to
/// the last star only, so the work is at most pattern x text.
fn wildcard<P, T>(pattern: &[P], text: &[T], is_star: impl Fn(&P) -> bool, same: impl Fn(&P, &T) -> bool) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && is_star(&pattern[p]) {
            last_star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && same(&pattern[p], &text[t]) {
            p += 1;
            t += 1;
        } else if let Some((star, from)) = last_star {
            last_star = Some((star, from + 1));
            p = star + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(is_star)
}

/// Nanoseconds since 1970-01-01T00:00:00Z, without leap seconds: 1677 to 2262.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// "Not known yet": the row has its time as text, which is read when somebody asks.
    pub const UNREAD: Timestamp = Timestamp(i64::MIN);

    /// The clock's time now. The only clock read of the data path; callers take it once a batch.
    pub fn now() -> Timestamp {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(now.as_nanos()).unwrap_or(i64::MAX))
    }
}

/// A run of bytes in a batch's arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub at: u32,
    /// Bytes.
    pub len: u32,
}

/// How the bytes of a key or value are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The text of one JSON value that is no string: number, `true`, `false`, `null`, object or array. Valid JSON,
    /// valid UTF-8, without raw line breaks.
    Json,
    /// What stands between the quotes of a JSON string: valid escapes, valid UTF-8, still escaped.
    JsonStr,
    /// Plain bytes of a text, nothing escaped, perhaps not UTF-8.
    Text,
    /// One whole MessagePack value that is no `str`: anything else, `bin` and `ext` included. Structure is checked.
    Msg,
}

/// A value (or key) as it stands in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    /// How `bytes` are encoded.
    pub form: Form,
    /// The encoded bytes.
    pub bytes: &'a [u8],
}

/// One top-level field of a record. Keys are `JsonStr` or `Text`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The key's bytes.
    pub key: Span,
    /// The value's bytes.
    pub value: Span,
    /// How the key is encoded.
    pub key_form: Form,
    /// How the value is encoded.
    pub form: Form,
}

/// Which output stream a line came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stream {
    /// The input has no such thing.
    #[default]
    None,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// The name that Docker and CRI write, or nothing.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Stream::None => None,
            Stream::Stdout => Some("stdout"),
            Stream::Stderr => Some("stderr"),
        }
    }

    /// The stream of that name; `None` for any other.
    pub fn from_name(name: &[u8]) -> Stream {
        match name {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => Stream::None,
        }
    }
}

/// One container, as far as it is known. Shared by the batches of that container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// 64 hex digits.
    pub id: String,
    /// Name without the leading `/`; empty while unknown.
    pub name: String,
    /// Image as it was asked for (`nginx:1.27`); empty while unknown.
    pub image: String,
    /// Labels, in the order of the file.
    pub labels: Vec<(String, String)>,
}

impl Container {
    /// The name, or the first 12 digits of the id while there is none: `{container.name}` in a tag or path.
    pub fn name_or_id(&self) -> &str {
        if self.name.is_empty() { self.id.get(..12).unwrap_or(&self.id) } else { &self.name }
    }
}

/// Where the records of a batch came from: held once a batch, not once a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The container, where the input knows it.
    pub container: Option<Container>,
    /// The file, for plain files: the `file` of each record.
    pub file: Option<String>,
    /// The sender's address, for network inputs.
    pub peer: Option<String>,
}

// --- One record in a batch.

/// What is known of one record beside its fields.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// When it happened; [`Timestamp::UNREAD`] while only `time_text` is there.
    pub time: Timestamp,
    /// The time as the source wrote it; empty where the source wrote none.
    pub time_text: Span,
    /// First field in the field table.
    pub(crate) fields_at: u32,
    /// Number of fields.
    pub(crate) fields_len: u32,
    /// Where it started, in bytes after the batch's `base`: for restarts and record ids.
    pub pos: u32,
    /// Index of its tag in the batch's tags.
    pub tag: u8,
    /// Which output stream it came from.
    pub stream: Stream,
    pub(crate) flags: u16,
}

const _: () = assert!(size_of::<Row>() == 32 && size_of::<Field>() == 20);

/// The record's text goes on in a later one (a Docker or CRI piece): `log` is the piece.
pub const PARTIAL: u16 = 1;
/// The record has a field `time` of its own, so the added one moves aside (see [`Added`]).
pub const OWN_TIME: u16 = 1 << 1;
/// The same for `tag`.
pub const OWN_TAG: u16 = 1 << 2;
/// The same for `stream`.
pub const OWN_STREAM: u16 = 1 << 3;
/// The same for `container`.
pub const OWN_CONTAINER: u16 = 1 << 4;
/// The same for `file`.
pub const OWN_FILE: u16 = 1 << 5;
/// All of the five.
pub(crate) const OWN_ALL: u16 = OWN_TIME | OWN_TAG | OWN_STREAM | OWN_CONTAINER | OWN_FILE;
/// A step removed or renamed the added value: no `time` is added to this record. (For `stream`, the row's own
/// `stream` becomes `None`.)
pub const NO_TIME: u16 = 1 << 6;
/// The same for `tag`.
pub const NO_TAG: u16 = 1 << 7;
/// The same for `container`.
pub const NO_CONTAINER: u16 = 1 << 8;
/// The same for `file`.
pub const NO_FILE: u16 = 1 << 9;

/// The row's origin: an index into the batch's own table of origins plus one, 0 for the batch's origin.
const PLACE_SHIFT: u32 = 10;
/// Other origins than its own in one batch, at most: what six bits of a row's flags can say.
pub(crate) const PLACES_MAX: usize = 63;

/// Which values a sink adds to each record, after its own fields, in this order. A field that the record has itself
/// wins; the added value then goes under the key with `_` before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added {
    /// `stream`: `stdout` or `stderr`, where the input has it.
    pub stream: bool,
    /// `time`: the source's text, or RFC 3339 with nine digits, UTC.
    pub time: bool,
    /// `container`: `{id, name, image}` where the input knows it.
    pub container: bool,
    /// `file`: the path, for plain files.
    pub file: bool,
    /// `tag`.
    pub tag: bool,
    /// `longshore_id`: the record's stable id, for a store that tells repetitions by it.
    pub id: bool,
}

impl Added {
    /// Everything that is known about where a record came from: the default of each sink.
    pub const ALL: Added = Added { stream: true, time: true, container: true, file: true, tag: true, id: false };
    /// Nothing.
    pub const NONE: Added = Added { stream: false, time: false, container: false, file: false, tag: false, id: false };
}

impl Row {
    /// Whether a flag (such as [`PARTIAL`]) is set.
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Which of the batch's origins it has: for [`Batch::origin_at`](crate::batch::Batch::origin_at), and to tell rows of
    /// different ones apart.
    pub fn place(&self) -> u8 {
        (self.flags >> PLACE_SHIFT) as u8
    }

    /// Gives it the origin that [`Batch::place_of`](crate::batch::Batch::place_of) has named.
    pub fn set_place(&mut self, place: u8) {
        self.flags = self.flags & !(u16::MAX << PLACE_SHIFT) | u16::from(place) << PLACE_SHIFT;
    }

    /// Sets or clears a flag.
    pub fn mark(&mut self, flag: u16, on: bool) {
        if on {
            self.flags |= flag;
        } else {
            self.flags &= !flag;
        }
    }
}

/// What a codec knows of a record when it closes it.
#[derive(Clone, Copy, Debug)]
pub struct RowHead {
    /// Event time, or [`Timestamp::UNREAD`] when `time_text` has it.
    pub time: Timestamp,
    /// The source's own text of it, or an empty span.
    pub time_text: Span,
    /// Bytes after the batch's `base`.
    pub pos: u32,
    /// Index from [`Batch::tag_index`].
    pub tag: u8,
    /// Output stream.
    pub stream: Stream,
    /// The text goes on in a later record.
    pub partial: bool,
}

impl RowHead {
    /// A record of that time, nothing else known.
    pub fn at(time: Timestamp, tag: u8) -> RowHead {
        RowHead { time, time_text: Span::default(), pos: 0, tag, stream: Stream::None, partial: false }
    }
}

impl Field {
    /// A field whose key is plain bytes.
    pub fn new(key: Span, form: Form, value: Span) -> Field {
        Field { key, value, key_form: Form::Text, form }
    }

    /// Where the value ends in the arena, with the quote of one that stands there as a JSON string.
    #[inline(always)]
    pub fn end(&self) -> u32 {
        self.value.at + self.value.len + u32::from(self.form == Form::JsonStr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_one_part_and_two_are_any_number() {
        let cases = [
            ("**", "", true),
            ("**", "a.b", true),
            ("*", "a", true),
            ("*", "a.b", false),
            ("api.*", "api.web", true),
            ("api.*", "api.web.x", false),
            ("api.**", "api", true),
            ("api.**", "api.web.x", true),
            ("api.**", "apix", false),
            ("**.web", "a.b.web", true),
            ("a.**.z", "a.z", true),
            ("a.**.z", "a.b.c.z", true),
            ("a.**.z", "a.b.c", false),
            ("docker.web-*", "docker.web-1", true),
            ("docker.web-*", "docker.db-1", false),
            ("", "", true),
            ("a", "b", false),
        ];
        for (pattern, tag, expected) in cases {
            assert_eq!(TagGlob::new(pattern).matches(tag), expected, "{pattern} on {tag}");
        }
    }
}
