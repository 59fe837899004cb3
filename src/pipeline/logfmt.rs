//! logfmt: `level=info msg="user said \"hi\"" took=3ms`.
//!
//! Strict, so that prose is not taken for it: every word is `key=value`; a key is anything without blanks, `"` and `=`; a
//! value is the same (`=` allowed), or stands in `"` with `\"`, `\\`, `\n`, `\r`, `\t` and `\uXXXX` (go-kit's `logfmt`
//! writes these). Blanks and tabs part the words; one line break at the end is left out. All values are texts.
//!
//! Limit: [`FIELDS_MAX`] words.

use crate::batch::Batch;
use crate::codec::json;
use crate::record::{Field, Form, Span, Value};

/// Words in one line, at most: what has more is not taken for logfmt.
pub const FIELDS_MAX: usize = 4096;

/// Pushes the words of the text at `span` as fields; `false` (with some pushed perhaps) if it is no logfmt.
pub fn push_fields(batch: &mut Batch, span: Span) -> bool {
    let (mut at, end) = (span.at as usize, (span.at + span.len) as usize);
    let mut count = 0;
    loop {
        while at < end && batch.arena()[at].is_ascii_whitespace() {
            at += 1;
        }
        if at == end {
            return count > 0;
        }
        let Some((key, value, form, next)) = word(&batch.arena()[..end], at) else {
            return false;
        };
        let value = match form {
            Form::Text => value,
            // Escapes are those of JSON.
            _ => match json::text(Value { form: Form::JsonStr, bytes: batch.bytes(value) }) {
                Some(text) => {
                    let text = text.into_owned();
                    batch.push_bytes(&text)
                }
                None => return false,
            },
        };
        batch.push_field(Field::new(key, Form::Text, value));
        at = next;
        count += 1;
        if count > FIELDS_MAX {
            return false;
        }
    }
}

/// The word at `at`: key, value as it stands (`JsonStr` if it holds escapes), and the byte after it.
fn word(text: &[u8], at: usize) -> Option<(Span, Span, Form, usize)> {
    let span = |from: usize, to: usize| Span { at: from as u32, len: (to - from) as u32 };
    let is_end = |byte: u8| byte.is_ascii_whitespace();
    let key_len = text[at..].iter().position(|byte| *byte == b'=' || *byte == b'"' || is_end(*byte))?;
    let from = at + key_len + 1;
    if key_len == 0 || text[from - 1] != b'=' {
        return None;
    }
    let key = span(at, from - 1);
    if text.get(from) != Some(&b'"') {
        let len = text[from..].iter().position(|byte| is_end(*byte) || *byte == b'"').unwrap_or(text.len() - from);
        let to = from + len;
        return (text.get(to) != Some(&b'"')).then_some((key, span(from, to), Form::Text, to));
    }
    let (mut to, mut form) = (from + 1, Form::Text);
    loop {
        match *text.get(to)? {
            b'"' => break,
            b'\\' => {
                form = Form::JsonStr;
                match *text.get(to + 1)? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => to += 2,
                    b'u' if text.get(to + 2..to + 6)?.iter().all(u8::is_ascii_hexdigit) => to += 6,
                    _ => return None,
                }
            }
            _ => to += 1,
        }
    }
    // Two words without a blank between them are none.
    text.get(to + 1).is_none_or(|byte| is_end(*byte)).then_some((key, span(from + 1, to), form, to + 1))
}
