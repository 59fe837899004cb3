//! For tests: JSON objects as texts, and what serde_json says of them.
//!
//! Made as texts, not as trees: so keys come twice, numbers have any size, escapes are written in every way, and blanks are
//! anywhere. Now and then something in them is no JSON.

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::value::RawValue;

use super::index::DEPTH_MAX;
use crate::batch::Batch;
use crate::record::{Form, Value};

/// The cases of a property that is quick to try: many, but under Miri, which takes a thousand times as long, two.
pub(crate) fn many() -> ProptestConfig {
    ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 2000 })
}

/// Where blanks stand between tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blanks {
    /// None, or one space behind a comma or colon: as programs write what they log.
    Few,
    /// Any, line breaks too.
    Any,
}

/// A member as it is written: the key between its quotes, the value with them.
pub(crate) type Written = (String, String);

/// An object as serde_json reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    /// In order, with those that come twice.
    pub(crate) members: Vec<Written>,
    /// How deep it is nested, itself included.
    pub(crate) levels: usize,
    /// Whether an escape is half of a surrogate pair: the grammar allows it, and whoever reads the string refuses it.
    pub(crate) lone: bool,
}

/// The object that the text is by the grammar, if it is one: each token ends where serde_json ends it. Numbers are not read,
/// so one may be out of any range.
pub(crate) fn by_serde(text: &[u8]) -> Option<Object> {
    let whole = serde_json::from_slice::<&RawValue>(text).ok()?.get();
    let mut rest = whole.strip_prefix('{')?.trim_start_matches(BLANKS);
    let mut members = Vec::new();
    while !rest.starts_with('}') {
        let (key, after) = token(rest);
        let (value, after) = token(after.trim_start_matches(BLANKS).strip_prefix(':').expect("checked"));
        members.push((key[1..key.len() - 1].to_owned(), value.to_owned()));
        rest = after.trim_start_matches(BLANKS);
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start_matches(BLANKS);
    }
    let (mut rest, mut open, mut levels, mut lone) = (whole, 0usize, 0, false);
    while let Some(at) = rest.find(['"', '{', '[', '}', ']']) {
        rest = &rest[at..];
        if rest.starts_with('"') {
            let (string, after) = token(rest);
            lone |= serde_json::from_str::<String>(string).is_err();
            rest = after;
            continue;
        }
        open = if rest.starts_with(['{', '[']) { open + 1 } else { open - 1 };
        levels = levels.max(open);
        rest = &rest[1..];
    }
    Some(Object { members, levels, lone })
}

/// Its members, unless our reader refuses it on purpose: for half a surrogate pair, and for more than 128 levels. (What
/// serde_json refuses where it builds numbers, those out of a float's range, is taken on purpose, as it is written.)
pub(crate) fn taken(text: &[u8]) -> Option<Vec<Written>> {
    let object = by_serde(text)?;
    (!object.lone && object.levels <= DEPTH_MAX).then_some(object.members)
}

const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];

/// The value that a checked text begins with, and what follows it.
fn token(text: &str) -> (&str, &str) {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    let value = values.next().expect("a value").expect("checked").get();
    (value, &text[values.byte_offset()..])
}

/// The text with its line breaks as spaces, as records have it. Of a valid text: there they stand between tokens only.
pub(crate) fn on_one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// Whether the text begins with a value, whatever follows it.
pub(crate) fn begins_with_a_value(text: &str) -> bool {
    serde_json::Deserializer::from_str(text).into_iter::<&RawValue>().next().is_some_and(|value| value.is_ok())
}

/// The fields of row `at` as members.
pub(crate) fn members(batch: &Batch, at: usize) -> Vec<Written> {
    let fields = batch.fields(at).iter();
    fields.map(|field| (written(batch.key(field), ""), written(batch.value(field), "\""))).collect()
}

/// A value as it is written, with `quote` around the inside of a string.
pub(crate) fn written(value: Value<'_>, quote: &str) -> String {
    let text = String::from_utf8_lossy(value.bytes);
    if value.form == Form::JsonStr { format!("{quote}{text}{quote}") } else { text.into_owned() }
}

/// Texts of an object, valid or nearly so, and UTF-8.
pub(crate) fn objects(blanks: Blanks) -> impl Strategy<Value = String> {
    let deep = (120usize..132, any::<bool>()).prop_map(|(levels, objects)| match objects {
        true => format!("{}1{}", r#"{"d":"#.repeat(levels), "}".repeat(levels)),
        false => format!("{}{}", "[".repeat(levels), "]".repeat(levels)),
    });
    let leaf = prop_oneof![
        30 => numbers(),
        30 => strings().prop_map(quoted),
        15 => select(&["true", "false", "null", "{}", "[]"][..]).prop_map(str::to_owned),
        1 => deep,
        1 => select(&["-", "+1", "01", "1.", ".5", "1e", "NaN", "tru", "nulll", "'a'", "", "[1,]", "{\"a\"}", "{,}"][..])
            .prop_map(str::to_owned),
    ];
    let value = leaf.prop_recursive(4, 24, 5, move |inner| {
        let items = proptest::collection::vec((gap(blanks, false), inner.clone(), gap(blanks, false)), 0..5);
        let array = (items, gap(blanks, true)).prop_map(|(items, behind_comma)| {
            let items: Vec<_> =
                items.into_iter().map(|(before, item, after)| format!("{before}{item}{after}")).collect();
            format!("[{}]", items.join(&format!(",{behind_comma}")))
        });
        prop_oneof![array, object(blanks, inner.boxed())]
    });
    (gap(blanks, false), object(blanks, value.boxed()), gap(blanks, false))
        .prop_map(|(before, object, after)| format!("{before}{object}{after}"))
}

/// The same with a few bytes of it replaced, now and then: what is left may be no UTF-8.
pub(crate) fn harmed(blanks: Blanks) -> impl Strategy<Value = Vec<u8>> {
    (objects(blanks), prop_oneof![3 => Just(None), 1 => harm().prop_map(Some)]).prop_map(|(text, harm)| {
        let mut text = text.into_bytes();
        if let Some(harm) = harm {
            do_harm(&mut text, &harm);
        }
        text
    })
}

/// A place, and what stands there from then on.
pub(crate) type Harm = (Index, Vec<u8>);

pub(crate) fn harm() -> impl Strategy<Value = Harm> {
    (any::<Index>(), proptest::collection::vec(any::<u8>(), 0..3))
}

pub(crate) fn do_harm(text: &mut Vec<u8>, (at, bytes): &Harm) {
    let at = at.index(text.len());
    text.splice(at..text.len().min(at + bytes.len()), bytes.iter().copied());
}

/// Lines of up to 300 bytes: any bytes, and texts with what has to be escaped, now and then harmed.
pub(crate) fn lines() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop_oneof![
        8 => "[ -~]{1,40}".prop_map(String::into_bytes),
        3 => "[\"\\\\\n\r\t\u{8}\u{c}]{1,4}".prop_map(String::into_bytes),
        3 => "[é東😀\u{7f}\u{2028}\u{fffd}]{1,3}".prop_map(String::into_bytes),
        1 => prop_oneof![
            // A control character without a letter of its own, and what is no UTF-8.
            (0u8..0x20).prop_map(|byte| vec![byte]),
            (0x80u8..=0xff).prop_map(|byte| vec![byte]),
        ],
    ];
    let text = proptest::collection::vec(pieces, 0..12).prop_map(|pieces| {
        let mut text = pieces.concat();
        text.truncate(300);
        text
    });
    prop_oneof![
        4 => "[ -~]{0,300}".prop_map(String::into_bytes),
        4 => "([ -~]{0,17}[é東😀\"\\\\\n]){0,17}".prop_map(String::into_bytes),
        8 => text,
        1 => proptest::collection::vec(any::<u8>(), 0..300),
    ]
}

fn gap(blanks: Blanks, is_behind: bool) -> BoxedStrategy<String> {
    match (blanks, is_behind) {
        (Blanks::Few, false) => Just(String::new()).boxed(),
        (Blanks::Few, true) => select(&["", " "][..]).prop_map(str::to_owned).boxed(),
        (Blanks::Any, _) => {
            prop_oneof![4 => Just(String::new()), 2 => Just(" ".to_owned()), 1 => "[ \t\r\n]{1,4}"].boxed()
        }
    }
}

/// An object of a few members, of which some have the same key.
fn object(blanks: Blanks, value: BoxedStrategy<String>) -> impl Strategy<Value = String> {
    let (before, behind) = (move || gap(blanks, false), move || gap(blanks, true));
    let pair = (before(), keys(), before(), behind(), value, before())
        .prop_map(|(a, key, b, c, value, d)| format!("{a}{}{b}:{c}{value}{d}", quoted(key)));
    (proptest::collection::vec(pair, 0..6), behind())
        .prop_map(|(pairs, behind_comma)| format!("{{{}}}", pairs.join(&format!(",{behind_comma}"))))
}

fn quoted(inside: String) -> String {
    format!("\"{inside}\"")
}

fn keys() -> impl Strategy<Value = String> {
    // Few, so that they come twice, and written in two ways; those that a step or an added value looks for among them.
    const KEYS: [&str; 14] = [
        "a",
        r"\u0061",
        "b",
        "",
        "log",
        r"lo\u0067",
        "time",
        r"tim\u0065",
        "tag",
        "stream",
        "container",
        "partial_id",
        "a\\\"b",
        "é",
    ];
    prop_oneof![3 => select(&KEYS[..]).prop_map(str::to_owned), 2 => strings()]
}

/// Numbers as the grammar has them, up to forty digits on either side and an exponent of four; a leading zero now and then,
/// which it has not.
fn numbers() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => "-?(0|[1-9][0-9]{0,2})",
        30 => "-?(0|[1-9][0-9]{0,39})(\\.[0-9]{1,40})?([eE][+-]?[0-9]{1,4})?",
        1 => "-?[0-9]{1,40}(\\.[0-9]{1,40})?([eE][+-]?[0-9]{1,4})?",
    ]
}

/// The inside of a string.
fn strings() -> impl Strategy<Value = String> {
    let valid = prop_oneof![
        8 => "[ !#-\\[\\]-~]{0,6}",
        4 => "[ !#-\\[\\]-~]{7,40}",
        6 => r#"\\["\\/bfnrt]"#,
        3 => r"\\u00[0-9a-fA-F]{2}",
        2 => r"\\u[0-9a-cA-CefEF][0-9a-fA-F]{3}",
        1 => r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}",
        4 => "[é東😀<>&\u{7f}\u{2028}\u{feff}\u{fffd}]",
    ];
    const ODD: [&str; 10] =
        [r"\x", r"\u12g4", r"\u12", "\u{1}", "\t", "\n", "\"", r"\ud83d", r"\ude00", r"\ude00\ud83d"];
    let piece = prop_oneof![200 => valid, 1 => select(&ODD[..]).prop_map(str::to_owned)];
    proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}
