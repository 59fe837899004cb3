//! `mask = ["password", ..], patterns = ["card", "email", "regular expression"]`: hides what must not leave.
//!
//! A field of one of the names, at any depth and whatever its case, gets the value `***`; nested JSON and MessagePack is
//! rewritten. Patterns are searched in every text value, at any depth, and each match becomes `***`: `card` finds numbers
//! of payment cards (13 to 19 digits with a known beginning and a right check digit, in groups or not, in bare numbers
//! too), `email` finds addresses. Keys, the tag and what the input adds are not looked at.
//!
//! Limits: [`NAMES_MAX`] names, [`PATTERNS_MAX`] patterns, 1 MiB for each compiled pattern.

use regex::bytes::Regex;

use crate::batch::Batch;
use crate::codec::json;
use crate::record::{Form, Span, Value};

use super::nested::{self, Act, Edit};
use super::{Rows, Scratch, condition_text};

/// Names in one step, at most.
pub const NAMES_MAX: usize = 1024;
/// Patterns in one step, at most.
pub const PATTERNS_MAX: usize = 64;

const MASK: &str = "***";

/// The step.
#[derive(Debug, Default)]
pub struct Mask {
    names: Vec<String>,
    /// One bit for each length (63 for longer ones) that a name has.
    lengths: u64,
    patterns: Vec<Pattern>,
}

/// What is searched in values.
#[derive(Debug)]
pub enum Pattern {
    /// Numbers of payment cards.
    Card,
    /// A regular expression that never matches the empty text.
    Regex(Regex),
}

impl Pattern {
    /// Reads `card`, `email` or a regular expression.
    pub fn parse(text: &str) -> Result<Pattern, String> {
        let regex = match text {
            "card" => return Ok(Pattern::Card),
            "email" => r"(?-u)[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+",
            own => own,
        };
        let regex = condition_text::regex(regex)?;
        if regex.is_match(b"") {
            return Err("it matches the empty text, and so everywhere; demand one character".to_owned());
        }
        Ok(Pattern::Regex(regex))
    }

    /// Appends `text` with its matches masked, if there are any.
    fn mask(&self, text: &[u8], out: &mut Vec<u8>) -> bool {
        let mut from = 0;
        let mut hide = |start: usize, end: usize| {
            out.extend_from_slice(&text[from..start]);
            out.extend_from_slice(MASK.as_bytes());
            from = end;
        };
        match self {
            Pattern::Card => cards(text, &mut hide),
            Pattern::Regex(regex) => {
                for found in regex.find_iter(text).filter(|found| !found.is_empty()) {
                    hide(found.start(), found.end());
                }
            }
        }
        if from > 0 {
            out.extend_from_slice(&text[from..]);
        }
        from > 0
    }
}

impl Mask {
    /// A step for these names and patterns.
    pub fn new(names: Vec<String>, patterns: Vec<Pattern>) -> Mask {
        let lengths = names.iter().fold(0, |bits, name| bits | 1 << name.len().min(63));
        Mask { names, lengths, patterns }
    }

    fn hides(&self, key: &[u8]) -> bool {
        self.lengths >> key.len().min(63) & 1 == 1
            && self.names.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(key))
    }

    pub(super) fn run(&self, batch: &mut Batch, rows: &Rows<'_>, scratch: &mut Scratch) {
        let mut mask_span: Option<Span> = None;
        let mut walk = Walk { step: self, text: std::mem::take(&mut scratch.text), spare: Vec::new() };
        for at in 0..batch.len() {
            if !rows.has(batch, at) {
                continue;
            }
            for index in 0..batch.fields(at).len() {
                let field = batch.fields(at)[index];
                let key = batch.key(&field);
                let hidden = match key.form {
                    Form::JsonStr if key.bytes.contains(&b'\\') => json::text(key).is_some_and(|key| self.hides(&key)),
                    _ => self.hides(key.bytes),
                };
                let (value, form) = if hidden {
                    (*mask_span.get_or_insert_with(|| batch.push_bytes(MASK.as_bytes())), Form::Text)
                } else {
                    scratch.out.clear();
                    let Some(form) = walk.value(batch.value(&field), &mut scratch.out) else {
                        continue;
                    };
                    (batch.push_bytes(&scratch.out), form)
                };
                let field = &mut batch.fields_mut(at)[index];
                field.value = value;
                field.form = form;
            }
        }
        scratch.text = walk.text;
    }
}

/// One use of the step, with its buffers.
struct Walk<'s> {
    step: &'s Mask,
    text: Vec<u8>,
    spare: Vec<u8>,
}

impl Walk<'_> {
    /// Appends the new encoding of a top-level value and says its form, if it changes.
    fn value(&mut self, value: Value<'_>, out: &mut Vec<u8>) -> Option<Form> {
        match value.form {
            Form::Text | Form::JsonStr => {
                if self.step.patterns.is_empty() {
                    return None;
                }
                let text = json::text(value)?;
                out.extend_from_slice(self.text(&text)?);
                Some(Form::Text)
            }
            Form::Json if value.bytes.first().is_some_and(u8::is_ascii_digit) => {
                out.extend_from_slice(self.digits(value.bytes)?);
                Some(Form::Text)
            }
            Form::Json if !matches!(value.bytes.first(), Some(b'{' | b'[')) => None,
            // A bare integer or `bin` of MessagePack becomes a text, which as a field of its own is no `Msg`.
            Form::Msg if !matches!(value.bytes.first(), Some(0x80..=0x9f | 0xdc..=0xdf)) => {
                match crate::codec::msgpack::peek(value.bytes)? {
                    crate::codec::msgpack::Peek::UInt(number) => {
                        out.extend_from_slice(self.digits(itoa::Buffer::new().format(number).as_bytes())?);
                    }
                    crate::codec::msgpack::Peek::Bytes(text) => out.extend_from_slice(self.text(text)?),
                    _ => return None,
                }
                Some(Form::Text)
            }
            form => nested::edit(value, self, out).then_some(form),
        }
    }
}

impl Edit for Walk<'_> {
    fn member(&mut self, _: usize, key: &[u8]) -> Act {
        if self.step.hides(key) { Act::Replace(MASK) } else { Act::Enter }
    }

    fn enters_arrays(&self) -> bool {
        true
    }

    fn text(&mut self, text: &[u8]) -> Option<&[u8]> {
        let mut changed = false;
        for pattern in &self.step.patterns {
            self.spare.clear();
            if pattern.mask(if changed { &self.text } else { text }, &mut self.spare) {
                std::mem::swap(&mut self.text, &mut self.spare);
                changed = true;
            }
        }
        changed.then_some(&self.text)
    }

    fn digits(&mut self, digits: &[u8]) -> Option<&[u8]> {
        let cards = self.step.patterns.iter().any(|pattern| matches!(pattern, Pattern::Card));
        (cards && digits.iter().all(u8::is_ascii_digit) && is_card(digits)).then_some(MASK.as_bytes())
    }
}

/// Calls `hide` for each card number: one run of digits, or groups of 3 to 7 digits with one blank or dash between.
fn cards(text: &[u8], hide: &mut dyn FnMut(usize, usize)) {
    let mut at = 0;
    while let Some(step) = text[at..].iter().position(u8::is_ascii_digit) {
        let from = at + step;
        match card_at(text, from) {
            Some(end) => {
                hide(from, end);
                at = end;
            }
            // Go on behind this group of digits.
            None => at = from + digits_at(text, from),
        }
    }
}

fn digits_at(text: &[u8], at: usize) -> usize {
    text[at..].iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len() - at)
}

/// The end of a card number that starts at `from`, the longest there is.
fn card_at(text: &[u8], from: usize) -> Option<usize> {
    let (mut digits, mut count, mut at, mut found) = ([0u8; 19], 0, from, None);
    loop {
        let len = digits_at(text, at);
        let alone = count == 0 && len >= 13;
        if count + len > digits.len() || !(alone || (3..=7).contains(&len)) {
            return found;
        }
        digits[count..count + len].copy_from_slice(&text[at..at + len]);
        count += len;
        at += len;
        if is_card(&digits[..count]) {
            found = Some(at);
        }
        if alone || !matches!(text.get(at), Some(b' ' | b'-')) {
            return found;
        }
        at += 1;
    }
}

/// Whether digits are a card number: length and beginning of a known network, and the check digit (ISO/IEC 7812).
/// Without the beginnings a tenth of all times in milliseconds would be one.
fn is_card(digits: &[u8]) -> bool {
    let known = matches!(
        (digits, digits.len()),
        ([b'4', ..], 13 | 16 | 19)
            | ([b'6', ..], 16..=19)
            | ([b'5', b'0' | b'6'..=b'8', ..], 13..=19)
            | ([b'5', b'1'..=b'5', ..], 16)
            | ([b'2', b'2'..=b'7', ..], 16)
            | ([b'3', b'5', ..], 16..=19)
            | ([b'3', b'4' | b'7', ..], 15)
            | ([b'3', b'0' | b'6' | b'8' | b'9', ..], 14..=19)
    );
    let luhn = || {
        let sum: u32 = digits
            .iter()
            .rev()
            .enumerate()
            .map(|(at, digit)| match u32::from(digit - b'0') << (at % 2) {
                double @ 10.. => double - 9,
                single => single,
            })
            .sum();
        sum.is_multiple_of(10)
    };
    known && luhn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn card_numbers_are_found_in_groups_and_beside_other_numbers() {
        let cases = [
            ("pay 4111111111111111 now", "pay *** now"),
            ("pay 4111 1111 1111 1111, 3782-822463-10005", "pay ***, ***"),
            ("2024-11-24 5555555555554444", "2024-11-24 ***"),
            ("4111111111111112", "4111111111111112"),
            ("1700000000123 1700000000123456789", "1700000000123 1700000000123456789"),
            ("41111111111111111111111", "41111111111111111111111"),
            ("", ""),
        ];
        for (text, expected) in cases {
            let mut out = Vec::new();
            let changed = Pattern::Card.mask(text.as_bytes(), &mut out);
            let got = if changed { String::from_utf8(out).expect("UTF-8") } else { text.to_owned() };
            assert_eq!(got, expected);
        }
    }

    #[test]
    fn addresses_are_found_and_a_pattern_must_match_something() {
        let mut out = Vec::new();
        assert!(Pattern::parse("email").expect("built in").mask(b"<a.b+c@x-y.example.org> @ x@y", &mut out));
        assert_eq!(out, b"<***> @ x@y");
        assert!(Pattern::parse("a*").is_err() && Pattern::parse("(").is_err());
    }
}
