//! JSON to MessagePack in one pass: what a record has as JSON, for receivers that speak MessagePack.
//!
//! Numbers stay what they are, or say that they can not: integers of 64 bits are exact; other numbers become the
//! nearest float 64, counted where the text had more digits than that float has; an integer beyond 64 bits, and a
//! number beyond the range of floats, becomes a text of the same characters, counted. Nothing becomes null or infinite.
//! Strings are unescaped; a lone surrogate becomes U+FFFD, counted.
//!
//! The heads of maps and arrays stand before their items are counted: one byte is kept free, and the few groups of more
//! than fifteen items move their content by two or four bytes.
//! Limits: [`DEPTH_MAX`] levels. Counters: `number_as_text`, `number_rounded`, `invalid_utf8`.

use crate::codec::json;
use crate::metrics::{Oddity, Tally};

use super::{DEPTH_MAX, write};

/// Appends one JSON value that was checked before ([`Form::Json`](crate::record::Form::Json)). `false`, with nothing
/// appended, where it turns out to be none.
pub fn value(json: &[u8], out: &mut Vec<u8>, tally: &mut Tally) -> bool {
    let (from, before) = (out.len(), tally.oddities);
    let mut pass = Pass { json, at: 0, tally };
    if pass.value(out, 0).is_some() && pass.skip_space().is_none() {
        return true;
    }
    out.truncate(from);
    tally.oddities = before;
    false
}

/// The same for JSON that nobody has checked: the grammar is checked first.
pub fn unchecked(json: &[u8], out: &mut Vec<u8>, tally: &mut Tally) -> bool {
    // serde_json takes 127 levels.
    serde_json::from_slice::<&serde_json::value::RawValue>(json).is_ok() && value(json, out, tally)
}

/// Appends the inside of a JSON string ([`Form::JsonStr`](crate::record::Form::JsonStr)) as a `str`. `None`, with
/// nothing appended, where an escape is broken.
#[inline]
pub fn text(inside: &[u8], out: &mut Vec<u8>, tally: &mut Tally) -> Option<()> {
    if memchr::memchr(b'\\', inside).is_none() {
        write::text(inside, out);
        return Some(());
    }
    let from = out.len();
    // Escapes only shorten: the head for this length has room for that of the text.
    let (_, room) = write::text_head(inside.len());
    out.resize(from + room, 0);
    match json::unescape(inside, out) {
        Some(lone) => tally.odd_by(Oddity::InvalidUtf8, lone),
        None => {
            out.truncate(from);
            return None;
        }
    }
    let (head, len) = write::text_head(out.len() - from - room);
    out[from + room - len..from + room].copy_from_slice(&head[..len]);
    if len < room {
        out.drain(from..from + room - len);
    }
    Some(())
}

/// Appends the text of a JSON number.
pub fn number(text: &[u8], out: &mut Vec<u8>, tally: &mut Tally) -> Option<()> {
    let text = std::str::from_utf8(text).ok()?;
    if !text.ends_with(|last: char| last.is_ascii_digit()) {
        return None;
    }
    let whole = !text.contains(['.', 'e', 'E']);
    if whole && text != "-0" {
        if let Ok(number) = text.parse::<u64>() {
            write::unsigned(number, out);
        } else if let Ok(number) = text.parse::<i64>() {
            write::signed(number, out);
        } else {
            tally.odd(Oddity::NumberAsText);
            write::text(text.as_bytes(), out);
        }
        return Some(());
    }
    let float = text.parse::<f64>().ok()?;
    let digits = digits(text.as_bytes());
    if float.is_infinite() || (float == 0.0 && digits.len() > 0) {
        tally.odd(Oddity::NumberAsText);
        write::text(text.as_bytes(), out);
        return Some(());
    }
    // Fifteen digits always survive a float 64.
    if digits.len() > 15 && !digits.eq(self::digits(ryu::Buffer::new().format_finite(float).as_bytes())) {
        tally.odd(Oddity::NumberRounded);
    }
    write::float(float, out);
    Some(())
}

/// The digits that make a number what it is: those of the mantissa, without zeros at its ends.
fn digits(number: &[u8]) -> Digits<'_> {
    let end = number.iter().position(|byte| matches!(byte, b'e' | b'E')).unwrap_or(number.len());
    let mantissa = &number[..end];
    let means = |byte: &u8| matches!(byte, b'1'..=b'9');
    match (mantissa.iter().position(means), mantissa.iter().rposition(means)) {
        (Some(from), Some(last)) => Digits(&mantissa[from..=last]),
        _ => Digits(&[]),
    }
}

struct Digits<'t>(&'t [u8]);

impl Digits<'_> {
    fn len(&self) -> usize {
        self.0.iter().filter(|byte| byte.is_ascii_digit()).count()
    }

    fn eq(&self, other: Digits<'_>) -> bool {
        self.0.iter().filter(|byte| byte.is_ascii_digit()).eq(other.0.iter().filter(|byte| byte.is_ascii_digit()))
    }
}

struct Pass<'j, 't> {
    json: &'j [u8],
    at: usize,
    tally: &'t mut Tally,
}

impl<'j> Pass<'j, '_> {
    /// The next byte that is no space and no separator, which the check before has seen to.
    #[inline]
    fn skip_space(&mut self) -> Option<u8> {
        while matches!(self.json.get(self.at)?, b' ' | b'\t' | b'\r' | b'\n' | b',' | b':') {
            self.at += 1;
        }
        self.json.get(self.at).copied()
    }

    fn value(&mut self, out: &mut Vec<u8>, depth: usize) -> Option<()> {
        match self.skip_space()? {
            b'"' => self.string(out)?,
            b'{' | b'[' if depth >= DEPTH_MAX => return None,
            b'{' => {
                let head_at = self.open(out);
                let mut count = 0;
                while self.skip_space()? != b'}' {
                    self.string(out)?;
                    self.value(out, depth + 1)?;
                    count += 1;
                }
                self.close(head_at, write::map_head(count), out);
            }
            b'[' => {
                let head_at = self.open(out);
                let mut count = 0;
                while self.skip_space()? != b']' {
                    self.value(out, depth + 1)?;
                    count += 1;
                }
                self.close(head_at, write::array_head(count), out);
            }
            b't' => self.word(b"true", 0xc3, out)?,
            b'f' => self.word(b"false", 0xc2, out)?,
            b'n' => self.word(b"null", 0xc0, out)?,
            _ => {
                let rest = &self.json[self.at..];
                let is_number = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
                let len = rest.iter().take_while(|byte| is_number(byte)).count();
                self.at += len;
                number(&rest[..len], out, self.tally)?;
            }
        }
        Some(())
    }

    /// Passes the bracket, and keeps a byte for the head.
    fn open(&mut self, out: &mut Vec<u8>) -> usize {
        self.at += 1;
        out.push(0);
        out.len() - 1
    }

    fn close(&mut self, head_at: usize, (head, len): ([u8; 5], usize), out: &mut Vec<u8>) {
        self.at += 1;
        if len == 1 {
            out[head_at] = head[0];
        } else {
            out.splice(head_at..=head_at, head[..len].iter().copied());
        }
    }

    fn word(&mut self, word: &[u8], byte: u8, out: &mut Vec<u8>) -> Option<()> {
        self.json[self.at..].starts_with(word).then(|| {
            self.at += word.len();
            out.push(byte);
        })
    }

    fn string(&mut self, out: &mut Vec<u8>) -> Option<()> {
        if self.skip_space()? != b'"' {
            return None;
        }
        let from = self.at + 1;
        let mut end = from;
        loop {
            end += memchr::memchr2(b'"', b'\\', self.json.get(end..)?)?;
            if self.json[end] == b'"' {
                break;
            }
            end += 2;
        }
        self.at = end + 1;
        text(&self.json[from..end], out, self.tally)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::msgpack::{check, write_json};

    /// The value's JSON after the way there and back, and what was counted.
    fn back(json: &str) -> (String, Vec<&'static str>) {
        let mut tally = Tally::default();
        let mut packed = b"before".to_vec();
        assert!(value(json.as_bytes(), &mut packed, &mut tally), "{json}");
        let packed = packed.split_off(6);
        assert_eq!(check(&packed, DEPTH_MAX), Ok(packed.len()), "{json}");
        let mut text = Vec::new();
        write_json(&packed, packed.len(), &mut text, &mut Tally::default());
        let counted = Oddity::NAMES.iter().zip(tally.oddities).filter(|(_, count)| *count > 0).map(|(name, _)| *name);
        (String::from_utf8(text).expect("text"), counted.collect())
    }

    #[test]
    fn numbers_are_exact_or_say_that_they_are_not() {
        let none: &[&str] = &[];
        for (json, expected, counted) in [
            ("18446744073709551615", "18446744073709551615", none),
            ("-9223372036854775808", "-9223372036854775808", none),
            ("9007199254740993", "9007199254740993", none),
            ("0", "0", none),
            ("-1", "-1", none),
            ("-0", "-0.0", none),
            ("-0.0", "-0.0", none),
            ("0.1", "0.1", none),
            ("1.0", "1.0", none),
            ("1e2", "100.0", none),
            ("0.30000000000000004", "0.30000000000000004", none),
            ("1.7976931348623157e308", "1.7976931348623157e308", none),
            ("0.000000000000000000001", "1e-21", none),
            ("18446744073709551616", "\"18446744073709551616\"", &["number_as_text"]),
            ("-9223372036854775809", "\"-9223372036854775809\"", &["number_as_text"]),
            ("1e400", "\"1e400\"", &["number_as_text"]),
            ("1e-400", "\"1e-400\"", &["number_as_text"]),
            ("3.14159265358979323846", "3.141592653589793", &["number_rounded"]),
            ("100000000000000000000.5", "1e20", &["number_rounded"]),
        ] {
            assert_eq!(back(json), (expected.to_owned(), counted.to_vec()), "{json}");
        }
    }

    #[test]
    fn groups_of_any_size_and_spaces_anywhere() {
        let json = " { \"a\" : [ 1 , {} , [ ] , true,false , null ] ,\n\"b\\u00e9\\\"\" : \"\\ud83d\\ude00\" } ";
        assert_eq!(back(json).0, "{\"a\":[1,{},[],true,false,null],\"bé\\\"\":\"😀\"}");
        for count in [15, 16, 300, 70_000] {
            let inner = vec!["7"; count].join(",");
            let json = format!("[{{\"x\":[{inner}]}},1]");
            assert_eq!(back(&json).0, json);
        }
        assert_eq!(back("\"\\ud800\""), ("\"\u{fffd}\"".to_owned(), vec!["invalid_utf8"]));
    }

    #[test]
    fn heads_of_texts_are_short_whatever_the_escapes_took() {
        for len in [31, 32, 255, 256, 65_535, 65_536] {
            let json = format!("\"{}\"", "\\n".repeat(len));
            let (mut packed, mut plain) = (Vec::new(), Vec::new());
            assert!(value(json.as_bytes(), &mut packed, &mut Tally::default()));
            write::text(&vec![b'\n'; len], &mut plain);
            assert!(packed == plain, "{len}");
        }
    }

    #[test]
    fn what_is_no_json_leaves_nothing_behind() {
        for json in ["", " ", "{", "[1", "\"a", "{1:2}", "nul", "-", "1 2", "\"\\x\"", "[\"\\", "{\"a\"}", "]"] {
            let mut out = vec![7];
            let mut tally = Tally::default();
            let taken = value(json.as_bytes(), &mut out, &mut tally);
            assert!(!taken && out == [7], "{json}: {out:?}");
            assert!(!unchecked(json.as_bytes(), &mut out, &mut tally) && out == [7]);
        }
        let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(value(deep(DEPTH_MAX).as_bytes(), &mut Vec::new(), &mut Tally::default()));
        assert!(!value(deep(DEPTH_MAX + 1).as_bytes(), &mut Vec::new(), &mut Tally::default()));
    }
}
