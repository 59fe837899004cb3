//! A record for a person's eye: time, where from, level, message, and the rest as `key=value`, on one line.
//!
//! Control characters are shown escaped, so that a log line can not take over the terminal.

use std::borrow::Cow;

use crate::batch::Batch;
use crate::codec::{json, time};
use crate::metrics::Tally;
use crate::record::{Field, Form, Stream, Timestamp, Value};

const MESSAGE: [&[u8]; 4] = [b"message", b"msg", b"log", b"event"];
const LEVEL: [&[u8]; 4] = [b"level", b"severity", b"lvl", b"loglevel"];

/// Appends row `at` as one line, without a line break.
pub fn write(batch: &Batch, at: usize, colour: bool, out: &mut Vec<u8>) {
    let row = batch.row(at);
    let paint = |code: &str, text: &[u8], out: &mut Vec<u8>| {
        if colour {
            out.extend_from_slice(format!("\x1b[{code}m").as_bytes());
        }
        show(text, out);
        if colour {
            out.extend_from_slice(b"\x1b[0m");
        }
        out.push(b' ');
    };
    let mut when = Vec::new();
    match time::of(batch, at) {
        Some(read) if read != Timestamp::UNREAD => time::write_rfc3339(read, &mut when),
        _ => when.extend_from_slice(batch.bytes(row.time_text)),
    }
    // Milliseconds are enough to read: 2026-11-23T10:15:00.123Z.
    if when.len() == 30 && when.ends_with(b"Z") {
        when.truncate(23);
        when.push(b'Z');
    }
    paint("2", &when, out);
    let name = batch.origin_at(at).container.as_ref().map(|container| container.name_or_id());
    paint(
        if row.stream == Stream::Stderr { "35" } else { "36" },
        name.unwrap_or(batch.tag_of(at).as_str()).as_bytes(),
        out,
    );
    let level = find(batch, at, &LEVEL);
    if let Some(level) = level {
        let text = text(batch, level);
        paint(level_colour(&text), &text.to_ascii_uppercase(), out);
    }
    let message = find(batch, at, &MESSAGE);
    if let Some(message) = message {
        let text = text(batch, message);
        show(text.trim_ascii_end(), out);
        out.push(b' ');
    }
    for field in batch.fields(at) {
        let named = |other: Option<&Field>| other.is_some_and(|other| other == field);
        if named(level) || named(message) {
            continue;
        }
        let key = json::text(batch.key(field)).unwrap_or(Cow::Borrowed(b"?"));
        if colour {
            out.extend_from_slice(b"\x1b[2m");
        }
        show(&key, out);
        out.push(b'=');
        if colour {
            out.extend_from_slice(b"\x1b[0m");
        }
        let value = text(batch, field);
        let quoted =
            is_text(batch.value(field)) && (value.is_empty() || value.iter().any(|b| *b <= b' ' || *b == b'"'));
        if quoted {
            out.push(b'"');
        }
        show(&value, out);
        if quoted {
            out.push(b'"');
        }
        out.push(b' ');
    }
    if out.last() == Some(&b' ') {
        out.pop();
    }
}

fn find<'b>(batch: &'b Batch, at: usize, names: &[&[u8]]) -> Option<&'b Field> {
    names.iter().find_map(|name| batch.find(at, name))
}

fn is_text(value: Value<'_>) -> bool {
    matches!(value.form, Form::Text | Form::JsonStr)
}

/// The text of a string, or any other value as JSON.
fn text<'b>(batch: &'b Batch, field: &Field) -> Cow<'b, [u8]> {
    let value = batch.value(field);
    json::text(value).unwrap_or_else(|| {
        let mut out = Vec::new();
        json::write(value, &mut out, &mut Tally::default());
        Cow::Owned(out)
    })
}

fn level_colour(level: &[u8]) -> &'static str {
    match level.first().map(u8::to_ascii_lowercase) {
        Some(b'e' | b'f' | b'c' | b'a' | b'p') => "1;31",
        Some(b'w') => "33",
        Some(b'i' | b'n') => "32",
        _ => "34",
    }
}

/// Appends text for a terminal: UTF-8, control characters escaped.
fn show(text: &[u8], out: &mut Vec<u8>) {
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\t' || !c.is_control() {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                out.extend(c.escape_default().map(|c| c as u8));
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;
    use crate::sinks::request::tests::batch;

    fn with_fields(fields: &[(&str, &str)]) -> Batch {
        let mut batch = batch(&Budget::new(1 << 20), &[("docker.web", "1")]);
        batch.remove_field(0, 0);
        for (key, value) in fields {
            let (key, value) = (batch.push_bytes(key.as_bytes()), batch.push_bytes(value.as_bytes()));
            batch.add_field(0, Field::new(key, Form::Text, value));
        }
        batch
    }

    fn line(fields: &[(&str, &str)], colour: bool) -> String {
        let mut out = Vec::new();
        write(&with_fields(fields), 0, colour, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn time_origin_level_message_come_first_and_the_rest_as_pairs() {
        let line = line(&[("path", "/a b"), ("level", "warn"), ("msg", "slow\n"), ("n", "7")], false);
        assert_eq!(line, "2026-11-23T10:15:00.000Z web WARN slow path=\"/a b\" n=7");
    }

    #[test]
    fn a_line_can_not_take_over_the_terminal() {
        let line = line(&[("log", "\u{1b}]0;owned\u{7}\u{9b}31m")], true);
        assert!(!line.contains("\u{1b}]") && !line.contains('\u{7}') && !line.contains('\u{9b}'), "{line:?}");
        assert!(line.contains("\\u{1b}]0;owned"), "{line:?}");
    }
}
