//! Rows to JSON lines: `{` the record's own fields, then the added values `}`.
//!
//! ```text
//! {"a":1,"b":"x"  ,"stream":"stdout","time":"..."  ,"container":{...},"tag":"..."  }
//!  one copy         one or two copies                one copy
//! ```
//!
//! Fields that still lie beside each other in the arena, as the members of one parsed object do, are copied as one run,
//! separators included. What follows the time is the same for all records of a container and tag: it is made once and
//! remembered, for [`TAGS_MAX`] tags of each of the last [`ORIGINS_MAX`] origins. What a row costs is `whole` less
//! `decode_index` of `docker_line` in `benches/codec.rs`: 0.06 us.
//!
//! The output is always one line of valid UTF-8 JSON: JSON forms were checked when they came in, text is escaped and
//! made UTF-8 here. Counters: `invalid_utf8`, and those of MessagePack.

use std::sync::Arc;

use crate::batch::{
    Added, Batch, NO_CONTAINER, NO_FILE, NO_TAG, NO_TIME, OWN_CONTAINER, OWN_FILE, OWN_STREAM, OWN_TAG, OWN_TIME, Row,
    TAGS_MAX,
};
use crate::codec::json::index::{DEPTH_MAX, Run, Scanner};
use crate::codec::json::page::Page;
use crate::codec::json::{self, block};
use crate::codec::time;
use crate::metrics::{Oddity, Tally};
use crate::record::{Field, Form, Origin, Stream, Tag, Timestamp};

/// Origins remembered by one encoder.
const ORIGINS_MAX: usize = 16;

/// `,"container":{...},"file":"...","tag":"..."` of one origin, by the tag's index in the batch.
type Shared = Vec<Option<(Tag, Vec<u8>)>>;

/// Added values that are the same for all records of an origin and tag.
const SHARED: u16 = OWN_CONTAINER | NO_CONTAINER | OWN_FILE | NO_FILE | OWN_TAG | NO_TAG;

/// Writes rows as JSON objects. One for each sink: it remembers the text of the last second and of the last container.
#[derive(Debug)]
pub struct Encoder {
    added: Added,
    /// Bytes replaced because they were not UTF-8 and the like, since the last time somebody took it.
    pub tally: Tally,
    page: Page,
    time: time::Writer,
    /// Held, so that its address stays its own.
    origin: Arc<Origin>,
    shared: Shared,
    /// The same of other origins, the one used last at the end.
    others: Vec<(Arc<Origin>, Shared)>,
    /// How the last row of the origin ended that had this tag, a time, and nothing else of its own.
    ending: Option<(Tag, Vec<u8>)>,
}

impl Encoder {
    /// An encoder that adds these values.
    pub fn new(added: Added) -> Encoder {
        Encoder {
            added,
            tally: Tally::default(),
            page: Page::new(),
            time: time::Writer::default(),
            origin: Arc::default(),
            shared: Vec::new(),
            others: Vec::new(),
            ending: None,
        }
    }

    /// Appends row `at` as one JSON object, without a line break.
    pub fn row(&mut self, batch: &Batch, at: usize, out: &mut Vec<u8>) {
        let start = out.len();
        self.own_fields(batch, at, out);
        let row = batch.row(at);
        if self.ends_like_others(row) {
            out.extend_from_slice(self.ending(batch, row));
            bracket(start, out);
            return;
        }
        if let Some(stream) = row.stream.name()
            && self.added.stream
        {
            added_key(batch, at, "stream", row.has(OWN_STREAM), out);
            out.push(b'"');
            out.extend_from_slice(stream.as_bytes());
            out.push(b'"');
        }
        if self.added.time && !row.has(NO_TIME) {
            self.time(batch, at, row, out);
        }
        if row.has(SHARED) {
            self.shared_by_one(batch, at, row, out);
        } else {
            out.extend_from_slice(self.shared(batch, row));
        }
        if self.added.id {
            out.extend_from_slice(b",\"longshore_id\":\"");
            batch.id_of(at).write(out);
            out.push(b'"');
        }
        bracket(start, out);
        out.push(b'}');
    }

    /// Whether nothing but the time of what is added to the row is its own.
    #[inline(always)]
    fn ends_like_others(&self, row: &Row) -> bool {
        let timed = self.added.time && row.time_text.len == 0 && row.time != Timestamp::UNREAD;
        timed && !self.added.id && row.stream == Stream::None && !row.has(OWN_TIME | NO_TIME | SHARED)
    }

    /// `,"time":"...","tag":"..."}` and so on: made for the first of such rows, of which the next ones change the time
    /// (302 -> 227 instructions a row of a whole batch: six pieces less).
    #[inline(always)]
    fn ending(&mut self, batch: &Batch, row: &Row) -> &[u8] {
        const KEY: &[u8] = b",\"time\":\"";
        let (origin, tag) = (batch.origin_in(row.place()), &batch.tags()[usize::from(row.tag)]);
        let known = matches!(&self.ending, Some((known, _)) if known.is(tag)) && Arc::ptr_eq(&self.origin, origin);
        if !known {
            let time = [b' '; time::LEN];
            let text = [KEY, &time, b"\"", self.shared(batch, row), b"}"].concat();
            self.ending = Some((tag.clone(), text));
        }
        let Some((_, text)) = &mut self.ending else { return &[] };
        if let Some(time) = text[KEY.len()..].first_chunk_mut() {
            self.time.put(row.time, time);
        }
        text
    }

    /// The fields, each with a comma before it.
    #[inline(always)]
    fn own_fields(&mut self, batch: &Batch, at: usize, out: &mut Vec<u8>) {
        let arena = batch.padded_arena();
        if batch.is_whole() {
            // docker-file: 6,180 -> 5,668 instructions a record, against a look at where each field stands.
            let fields = batch.fields(at);
            debug_assert!(is_one_run(arena, fields), "row {at} is no object that stands in the arena");
            out.push(b',');
            out.extend_from_slice(members(arena, fields));
            return;
        }
        // The run that is not yet copied: from the quote of its first key to after its last value.
        let mut run = (0, 0);
        for field in batch.fields(at) {
            if let Some((from, to)) = as_written(arena, field) {
                if run.1 != 0 && follows(arena, run.1, from) {
                    run.1 = to;
                    continue;
                }
                flush(arena, &mut run, out);
                self.page.turn(out);
                run = (from, to);
                continue;
            }
            flush(arena, &mut run, out);
            if !self.page.member(arena, field) {
                self.page.turn(out);
                json::write_member(arena, field, out, &mut self.tally);
            }
        }
        flush(arena, &mut run, out);
        self.page.turn(out);
    }

    fn time(&mut self, batch: &Batch, at: usize, row: &Row, out: &mut Vec<u8>) {
        let text = batch.bytes(row.time_text);
        if text.is_empty() && row.time == Timestamp::UNREAD {
            return;
        }
        added_key(batch, at, "time", row.has(OWN_TIME), out);
        out.push(b'"');
        if text.is_empty() {
            self.time.write(row.time, out);
        } else if block::is_plain(text) {
            out.extend_from_slice(text);
        } else {
            let replaced = json::escape(text, out);
            self.tally.odd_by(Oddity::InvalidUtf8, replaced);
        }
        out.push(b'"');
    }

    /// What is added to every record of this origin and tag.
    #[inline(always)]
    fn shared(&mut self, batch: &Batch, row: &Row) -> &[u8] {
        let origin = batch.origin_in(row.place());
        if !Arc::ptr_eq(&self.origin, origin) {
            self.turn_to(origin);
        }
        let (index, tag) = (usize::from(row.tag), &batch.tags()[usize::from(row.tag)]);
        let known = matches!(self.shared.get(index), Some(Some((known, _))) if known == tag);
        if !known {
            self.make_shared(index, tag);
        }
        self.shared[index].as_ref().map_or(&[], |(_, text)| text)
    }

    /// Puts what is remembered of the last origin aside, and takes up that of another one.
    fn turn_to(&mut self, origin: &Arc<Origin>) {
        self.ending = None;
        let found = self.others.iter().rposition(|(known, _)| Arc::ptr_eq(known, origin));
        let next = match found {
            Some(at) => self.others.remove(at),
            None => (Arc::clone(origin), Shared::new()),
        };
        if self.others.len() >= ORIGINS_MAX {
            self.others.remove(0);
        }
        let last = (std::mem::replace(&mut self.origin, next.0), std::mem::replace(&mut self.shared, next.1));
        self.others.push(last);
    }

    #[cold]
    fn make_shared(&mut self, index: usize, tag: &Tag) {
        debug_assert!(index < TAGS_MAX, "a batch has {TAGS_MAX} tags at most");
        let mut text = Vec::new();
        if self.added.container && self.origin.container.is_some() {
            text.extend_from_slice(b",\"container\":");
            self.container(&mut text);
        }
        if self.added.file
            && let Some(file) = &self.origin.file
        {
            text.extend_from_slice(b",\"file\":");
            quoted(file, &mut text);
        }
        if self.added.tag {
            text.extend_from_slice(b",\"tag\":");
            quoted(tag.as_str(), &mut text);
        }
        if self.shared.len() <= index {
            self.shared.resize(index + 1, None);
        }
        self.shared[index] = Some((tag.clone(), text));
    }

    /// The same for a record that stands in the way of one of them.
    #[cold]
    fn shared_by_one(&mut self, batch: &Batch, at: usize, row: &Row, out: &mut Vec<u8>) {
        // Makes `self.origin` the row's.
        self.shared(batch, row);
        if self.added.container && self.origin.container.is_some() && !row.has(NO_CONTAINER) {
            added_key(batch, at, "container", row.has(OWN_CONTAINER), out);
            self.container(out);
        }
        if let Some(file) = &self.origin.file
            && self.added.file
            && !row.has(NO_FILE)
        {
            added_key(batch, at, "file", row.has(OWN_FILE), out);
            quoted(file, out);
        }
        if self.added.tag && !row.has(NO_TAG) {
            added_key(batch, at, "tag", row.has(OWN_TAG), out);
            quoted(batch.tags()[usize::from(row.tag)].as_str(), out);
        }
    }

    /// `{"id":"...","name":"...","image":"..."}`, without what is not known.
    fn container(&self, out: &mut Vec<u8>) {
        let Some(container) = &self.origin.container else {
            return;
        };
        out.push(b'{');
        for (key, value) in [("id", &container.id), ("name", &container.name), ("image", &container.image)] {
            if !value.is_empty() {
                if out.last() != Some(&b'{') {
                    out.push(b',');
                }
                quoted(key, out);
                out.push(b':');
                quoted(value, out);
            }
        }
        out.push(b'}');
    }
}

/// Every piece of a row begins with a comma: the first one is the place of the bracket.
#[inline(always)]
fn bracket(start: usize, out: &mut Vec<u8>) {
    match out.get_mut(start) {
        Some(comma) => *comma = b'{',
        None => out.push(b'{'),
    }
}

/// Where a field stands in the arena as `"key":value`, ready to be copied. So it is for members of an object that was
/// indexed in place (Python's `": "` too), until a step moves one of their spans.
#[inline(always)]
fn as_written(arena: &[u8], field: &Field) -> Option<(usize, usize)> {
    let quote = match field.form {
        Form::Json => 0,
        Form::JsonStr => 1,
        Form::Text | Form::Msg => return None,
    };
    let from = (field.key.at as usize).checked_sub(1)?;
    let colon = (field.key.at + field.key.len) as usize + 1;
    let value = (field.value.at as usize).checked_sub(quote)?;
    let to = (field.value.at + field.value.len) as usize + quote;
    let between = arena.get(colon - 1..value)?;
    let whole = arena.get(from)? == &b'"' && (between == b"\":" || between == b"\": ");
    let quoted = quote == 0 || arena[value] == b'"' && arena.get(to - 1) == Some(&b'"');
    (whole && quoted).then_some((from, to))
}

/// From the quote of the first key to the end of the last value, of fields that are one run.
#[inline(always)]
fn members<'a>(arena: &'a [u8], fields: &[Field]) -> &'a [u8] {
    let (Some(first), Some(last)) = (fields.first(), fields.last()) else { return &[] };
    &arena[first.key.at as usize - 1..last.end() as usize]
}

/// Whether the run of the fields, read as an object, has these members and is on one line.
fn is_one_run(arena: &[u8], fields: &[Field]) -> bool {
    let text = [b"{", members(arena, fields), b"}"].concat();
    let from = fields.first().map_or(0, |first| first.key.at.wrapping_sub(2));
    let mut left = fields.iter();
    let mut same = true;
    let seen = Scanner::new(&text, text.len()).object(DEPTH_MAX, |member| {
        let at = |run: Run| from.wrapping_add(run.from as u32);
        same &= left.next().is_some_and(|field| (field.key.at, field.value.at) == (at(member.key), at(member.value)));
    });
    same && left.next().is_none() && seen.is_ok_and(|seen| !seen.breaks)
}

/// Whether nothing but a comma, or a comma and a space, is between two fields.
#[inline(always)]
fn follows(arena: &[u8], end: usize, from: usize) -> bool {
    matches!(arena.get(end..from), Some(b"," | b", "))
}

#[inline(always)]
fn flush(arena: &[u8], run: &mut (usize, usize), out: &mut Vec<u8>) {
    if run.1 != 0 {
        out.push(b',');
        out.extend_from_slice(&arena[run.0..run.1]);
        *run = (0, 0);
    }
}

/// Appends `,"key":`, with as many `_` before the key as it takes to be no key of the record's own.
#[inline(always)]
fn added_key(batch: &Batch, at: usize, key: &str, own: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    if own {
        moved_aside(batch, at, key, out);
    }
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

#[cold]
fn moved_aside(batch: &Batch, at: usize, key: &str, out: &mut Vec<u8>) {
    out.resize(out.len() + underscores(batch, at, key), b'_');
}

/// How many `_` before an added key it takes, one at least, to be no key of the record's own.
pub(crate) fn underscores(batch: &Batch, at: usize, key: &str) -> usize {
    let mut moved = format!("_{key}");
    // Ends: the record has a finite number of keys.
    while batch.find(at, moved.as_bytes()).is_some() {
        moved.insert(0, '_');
    }
    moved.len() - key.len()
}

fn quoted(text: &str, out: &mut Vec<u8>) {
    json::quoted(text.as_bytes(), text.len(), out);
}

/// One round of the fuzz target: the bytes are fields of every form that may hold arbitrary bytes.
#[doc(hidden)]
pub fn fuzz_one(data: &[u8]) {
    use crate::batch::RowHead;
    use crate::record::Span;
    let (origin, rest) = data.split_at(data.len().min(16));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let container = crate::record::Container { id: text(origin), name: text(rest), ..Default::default() };
    let origin = Origin { container: Some(container), file: Some(text(origin)), peer: None };
    let mut batch = Batch::new(crate::budget::Budget::new(1 << 20).empty_permit(), 0, Arc::new(origin));
    let tag = batch.tag_index(&text(rest)).unwrap_or(0);
    let mark = batch.fields_mark();
    let mut fields = 0;
    for pair in rest.split(|byte| *byte == 0) {
        let (key, value) = pair.split_at(pair.len() / 2);
        let (key, value) = (batch.push_bytes(key), batch.push_bytes(value));
        batch.push_field(Field::new(key, Form::Text, value));
        fields += 1;
    }
    let object = batch.push_bytes(rest);
    if json::push_members(&mut batch, object, DEPTH_MAX).is_ok() {
        fields = 0;
    }
    let time_text = if data.len().is_multiple_of(2) { batch.push_bytes(rest) } else { Span::default() };
    batch.push_row(mark, RowHead { time_text, ..RowHead::at(Timestamp(data.len() as i64), tag) });
    let mut out = Vec::new();
    Encoder::new(Added::ALL).row(&batch, 0, &mut out);
    assert!(!out.contains(&b'\n'));
    assert!(serde_json::from_slice::<&serde_json::value::RawValue>(&out).is_ok());
    if fields > 0 {
        let read: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&out).unwrap_or_default();
        assert!(read.len() <= fields + 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::RowHead;
    use crate::budget::Budget;
    use crate::record::{Container, Stream};

    fn batch_of(origin: Origin) -> Batch {
        Batch::new(Budget::new(1 << 20).empty_permit(), 0, Arc::new(origin))
    }

    fn known() -> Origin {
        let container =
            Container { id: "ab".repeat(32), name: "web\"1".into(), image: "nginx:1.27".into(), labels: vec![] };
        Origin { container: Some(container), file: None, peer: None }
    }

    /// Pushes an object's members as a record.
    fn push(batch: &mut Batch, object: &str, stream: Stream) {
        let tag = batch.tag_index("docker.web").expect("room for a tag");
        let span = batch.push_bytes(object.as_bytes());
        let mark = batch.fields_mark();
        json::push_members(batch, span, 128).expect("an object");
        let time_text = batch.push_bytes(b"2026-11-23T10:15:00.5Z");
        let head = RowHead { time: Timestamp::UNREAD, time_text, stream, ..RowHead::at(Timestamp(0), tag) };
        batch.push_row(mark, head);
    }

    fn encoded(encoder: &mut Encoder, batch: &Batch, at: usize) -> String {
        let mut out = b"before".to_vec();
        encoder.row(batch, at, &mut out);
        assert!(
            serde_json::from_slice::<&serde_json::value::RawValue>(&out[6..]).is_ok(),
            "{}",
            String::from_utf8_lossy(&out)
        );
        String::from_utf8(out.split_off(6)).expect("valid UTF-8")
    }

    #[test]
    fn own_fields_come_first_then_the_added_ones_in_their_order() {
        let mut batch = batch_of(known());
        push(&mut batch, r#"{"a":1,"b":"x\n","c":{"d":[1e400]}}"#, Stream::Stderr);
        let id = "ab".repeat(32);
        let expected = format!(
            r#"{{"a":1,"b":"x\n","c":{{"d":[1e400]}},"stream":"stderr","time":"2026-11-23T10:15:00.5Z","container":{{"id":"{id}","name":"web\"1","image":"nginx:1.27"}},"tag":"docker.web"}}"#
        );
        assert_eq!(encoded(&mut Encoder::new(Added::ALL), &batch, 0), expected);
    }

    #[test]
    fn an_own_field_wins_and_the_added_value_moves_aside() {
        let mut batch = batch_of(known());
        push(&mut batch, r#"{"time":1,"_time":2,"tag":3,"stream":4,"container":5,"file":6}"#, Stream::Stdout);
        let text = encoded(&mut Encoder::new(Added::ALL), &batch, 0);
        let id = "ab".repeat(32);
        let added = format!(
            r#","_stream":"stdout","__time":"2026-11-23T10:15:00.5Z","_container":{{"id":"{id}","name":"web\"1","image":"nginx:1.27"}},"_tag":"docker.web"}}"#
        );
        assert!(text.ends_with(&added), "{text}");
    }

    #[test]
    fn nothing_is_added_where_a_step_or_the_sink_says_so() {
        let mut batch = batch_of(Origin { file: Some("/var/log/a".into()), ..known() });
        push(&mut batch, r#"{"a":1}"#, Stream::None);
        push(&mut batch, "{}", Stream::Stdout);
        for flag in [NO_TIME, NO_TAG, NO_CONTAINER, NO_FILE] {
            batch.row_mut(0).mark(flag, true);
        }
        let mut all = Encoder::new(Added::ALL);
        assert_eq!(encoded(&mut all, &batch, 0), r#"{"a":1}"#);
        let none = Added::NONE;
        assert_eq!(encoded(&mut Encoder::new(none), &batch, 1), "{}");
        let file = Encoder::new(Added { file: true, ..none });
        assert_eq!(encoded(&mut { file }, &batch, 1), r#"{"file":"/var/log/a"}"#);
        assert!(encoded(&mut all, &batch, 1).starts_with(r#"{"stream":"stdout","time":"#));
    }

    #[test]
    fn what_is_not_known_of_a_container_is_left_out() {
        let container = Container { id: "ab".into(), ..Container::default() };
        let mut batch = batch_of(Origin { container: Some(container), ..Origin::default() });
        push(&mut batch, "{}", Stream::None);
        let only = Added { container: true, ..Added::NONE };
        assert_eq!(encoded(&mut Encoder::new(only), &batch, 0), r#"{"container":{"id":"ab"}}"#);
    }

    #[test]
    fn fields_that_were_moved_removed_or_changed_come_out_as_they_are_now() {
        let mut batch = batch_of(Origin::default());
        push(&mut batch, "{ \"a\" : 1, \"b\": \"x\",\n \"c\" :[1,\r\n2], \"d\":\"y\" , \"e\":null}", Stream::None);
        let none = Added::NONE;
        let mut encoder = Encoder::new(none);
        let whole = encoded(&mut encoder, &batch, 0);
        assert_eq!(whole.replace(' ', ""), r#"{"a":1,"b":"x","c":[1,2],"d":"y","e":null}"#);
        batch.remove_field(0, 2);
        let value = batch.push_bytes(b"z\"\xff");
        batch.fields_mut(0)[1].value = value;
        batch.fields_mut(0)[1].form = Form::Text;
        assert_eq!(encoded(&mut encoder, &batch, 0), "{\"a\":1,\"b\":\"z\\\"\u{fffd}\",\"d\":\"y\",\"e\":null}");
        assert_eq!(encoder.tally.oddities[Oddity::InvalidUtf8 as usize], 1);
        batch.fields_mut(0).swap(0, 2);
        assert_eq!(encoded(&mut encoder, &batch, 0), "{\"d\":\"y\",\"b\":\"z\\\"\u{fffd}\",\"a\":1,\"e\":null}");
    }

    #[test]
    fn the_remembered_part_follows_origin_and_tag() {
        let mut encoder = Encoder::new(Added { container: true, file: true, tag: true, ..Added::NONE });
        for name in ["one", "two"] {
            let container = Container { id: name.into(), ..Container::default() };
            let mut batch = batch_of(Origin { container: Some(container), ..Origin::default() });
            for tag in ["x", "y"] {
                let tag = batch.tag_index(tag).expect("room for a tag");
                let mark = batch.fields_mark();
                batch.push_row(mark, RowHead::at(Timestamp(0), tag));
            }
            for (at, tag) in [(0, "x"), (1, "y"), (0, "x")] {
                let expected = format!(r#"{{"container":{{"id":"{name}"}},"tag":"{tag}"}}"#);
                assert_eq!(encoded(&mut encoder, &batch, at), expected);
            }
        }
    }

    #[test]
    fn a_time_without_text_is_written_with_nine_digits() {
        let mut batch = batch_of(Origin::default());
        let tag = batch.tag_index("t").expect("room for a tag");
        let mark = batch.fields_mark();
        batch.push_row(mark, RowHead::at(Timestamp(1), tag));
        let expected = r#"{"time":"1970-01-01T00:00:00.000000001Z","tag":"t"}"#;
        assert_eq!(encoded(&mut Encoder::new(Added::ALL), &batch, 0), expected);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_come_out_as_one_line_of_valid_json(data in proptest::collection::vec(0u8..255, 0..80)) {
            fuzz_one(&data);
        }
    }
}
