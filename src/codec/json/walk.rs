//! Finds the end of one JSON value that arrives in pieces, or the first byte that makes it none.
//!
//! Every byte is looked at once, however the bytes come: all it holds between two pieces is where it is in the grammar
//! and one bit for each open bracket. Grammar of RFC 8259, strictly; whether the texts are UTF-8 and the surrogates come
//! in pairs is left to who reads the value.
//! Limits: [`LEVELS_MAX`].

use super::block::{BLOCK, load, specials};

/// Deepest nesting that is followed. What a record may have is less, and the business of who reads it.
pub(crate) const LEVELS_MAX: usize = 1024;

/// Why a value has no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dead {
    /// The byte at this place can not stand there.
    Byte(usize),
    /// The bracket at this place is one too many.
    TooDeep(usize),
}

/// Where in the grammar the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Value,
    /// A value, or the end of the array.
    FirstItem,
    Key,
    /// A key, or the end of the object.
    FirstKey,
    Colon,
    /// A comma, or the end of what is open.
    After,
    /// In a text; whether it is a key.
    Text(bool),
    Escape(bool),
    /// So many hex digits of an escape are to come.
    Hex(bool, u8),
    /// So much of a literal is to come.
    Literal(&'static [u8]),
    Number(Number),
    Done,
}

/// Where in a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Sign,
    Zero,
    Whole,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

impl Number {
    /// After one more byte; `None` if the byte is no part of a number here.
    fn next(self, byte: u8) -> Option<Number> {
        match (self, byte) {
            (Number::Sign, b'0') => Some(Number::Zero),
            (Number::Sign, b'1'..=b'9') | (Number::Whole, b'0'..=b'9') => Some(Number::Whole),
            (Number::Zero | Number::Whole, b'.') => Some(Number::Point),
            (Number::Point | Number::Fraction, b'0'..=b'9') => Some(Number::Fraction),
            (Number::Zero | Number::Whole | Number::Fraction, b'e' | b'E') => Some(Number::Exponent),
            (Number::Exponent, b'+' | b'-') => Some(Number::ExponentSign),
            (Number::Exponent | Number::ExponentSign | Number::ExponentDigits, b'0'..=b'9') => {
                Some(Number::ExponentDigits)
            }
            _ => None,
        }
    }

    fn may_end(self) -> bool {
        matches!(self, Number::Zero | Number::Whole | Number::Fraction | Number::ExponentDigits)
    }
}

/// The walk over one value.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    /// One bit an open bracket: 1 for an object.
    open: [u64; LEVELS_MAX / 64],
    depth: usize,
    at: At,
    /// Bytes that were looked at, for the test that this is all the work.
    #[cfg(test)]
    pub(crate) steps: u64,
}

impl Walk {
    /// Before the value; white space may come first.
    pub(crate) fn new() -> Walk {
        Walk {
            open: [0; LEVELS_MAX / 64],
            depth: 0,
            at: At::Value,
            #[cfg(test)]
            steps: 0,
        }
    }

    /// Whether the end was found.
    pub(crate) fn is_done(&self) -> bool {
        self.at == At::Done
    }

    /// Goes on with `bytes`, all of which it passes unless the value ends before. A number or literal that is a value
    /// by itself ends before the byte that shows it.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> Result<usize, Dead> {
        let mut pos = 0;
        while self.at != At::Done
            && let Some(&byte) = bytes.get(pos)
        {
            if let At::Text(key) = self.at {
                let run = plain_run(&bytes[pos..]);
                self.count(run);
                pos += run;
                let Some(&byte) = bytes.get(pos) else { break };
                match byte {
                    b'"' if key => self.at = At::Colon,
                    b'"' => self.ended(),
                    b'\\' => self.at = At::Escape(key),
                    _ => return Err(Dead::Byte(pos)),
                }
                pos += 1;
                continue;
            }
            self.count(1);
            if self.step(byte).map_err(|too_deep| if too_deep { Dead::TooDeep(pos) } else { Dead::Byte(pos) })? {
                pos += 1;
            }
        }
        Ok(pos)
    }

    /// One byte outside of a text. Whether it was used; a number ends before the byte that is no part of it. An error
    /// says whether it is one of depth.
    fn step(&mut self, byte: u8) -> Result<bool, bool> {
        let is_space = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        match self.at {
            At::Number(number) => match number.next(byte) {
                Some(next) => self.at = At::Number(next),
                None if number.may_end() => {
                    self.ended();
                    return Ok(false);
                }
                None => return Err(false),
            },
            At::Literal(rest) => match rest.split_first() {
                Some((first, rest)) if *first == byte => match rest.is_empty() {
                    true => self.ended(),
                    false => self.at = At::Literal(rest),
                },
                _ => return Err(false),
            },
            At::Escape(key) => {
                self.at = match byte {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => At::Text(key),
                    b'u' => At::Hex(key, 4),
                    _ => return Err(false),
                }
            }
            At::Hex(key, left) => match (byte.is_ascii_hexdigit(), left) {
                (true, 1) => self.at = At::Text(key),
                (true, _) => self.at = At::Hex(key, left - 1),
                (false, _) => return Err(false),
            },
            _ if is_space => (),
            At::FirstItem if byte == b']' => self.close(),
            At::Value | At::FirstItem => self.value(byte)?,
            At::FirstKey if byte == b'}' => self.close(),
            At::Key | At::FirstKey if byte == b'"' => self.at = At::Text(true),
            At::Colon if byte == b':' => self.at = At::Value,
            At::After => match (byte, self.in_object()) {
                (b',', true) => self.at = At::Key,
                (b',', false) => self.at = At::Value,
                (b'}', true) | (b']', false) => self.close(),
                _ => return Err(false),
            },
            _ => return Err(false),
        }
        Ok(true)
    }

    /// The first byte of a value.
    fn value(&mut self, byte: u8) -> Result<(), bool> {
        self.at = match byte {
            b'{' | b'[' => {
                if self.depth == LEVELS_MAX {
                    return Err(true);
                }
                let bit = 1 << (self.depth % 64);
                match byte == b'{' {
                    true => self.open[self.depth / 64] |= bit,
                    false => self.open[self.depth / 64] &= !bit,
                }
                self.depth += 1;
                if byte == b'{' { At::FirstKey } else { At::FirstItem }
            }
            b'"' => At::Text(false),
            b'-' => At::Number(Number::Sign),
            b'0' => At::Number(Number::Zero),
            b'1'..=b'9' => At::Number(Number::Whole),
            b't' => At::Literal(b"rue"),
            b'f' => At::Literal(b"alse"),
            b'n' => At::Literal(b"ull"),
            _ => return Err(false),
        };
        Ok(())
    }

    fn in_object(&self) -> bool {
        let innermost = self.depth.saturating_sub(1);
        self.open[innermost / 64] >> (innermost % 64) & 1 == 1
    }

    fn close(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        self.ended();
    }

    /// A value has ended.
    fn ended(&mut self) {
        self.at = if self.depth == 0 { At::Done } else { At::After };
    }

    #[cfg(test)]
    fn count(&mut self, bytes: usize) {
        self.steps += bytes as u64;
    }

    #[cfg(not(test))]
    #[inline(always)]
    fn count(&mut self, _bytes: usize) {}
}

/// Bytes up to the first one that ends a run of plain characters in a text, or all.
fn plain_run(bytes: &[u8]) -> usize {
    let mut at = 0;
    while at < bytes.len() {
        let mask = specials(load(bytes, at));
        if mask != 0 {
            // Beyond the end there are zeros, which stop the run too.
            return (at + mask.trailing_zeros() as usize).min(bytes.len());
        }
        at += BLOCK;
    }
    bytes.len()
}

/// The next item of a checked array: `from` is after its bracket, or after the item before. `None` at its end.
pub(crate) fn item(array: &[u8], from: usize) -> Option<std::ops::Range<usize>> {
    let between = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b',');
    let from = from + array.get(from..)?.iter().take_while(|byte| between(byte)).count();
    if array.get(from)? == &b']' {
        return None;
    }
    let len = Walk::new().advance(&array[from..]).ok()?;
    Some(from..from + len)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The end of the value, in pieces of so many bytes.
    fn walk(text: &[u8], piece: usize) -> Result<Option<usize>, Dead> {
        let (mut walk, mut at) = (Walk::new(), 0);
        for part in text.chunks(piece) {
            at += walk.advance(part).map_err(|dead| match dead {
                Dead::Byte(place) => Dead::Byte(at + place),
                Dead::TooDeep(place) => Dead::TooDeep(at + place),
            })?;
            if walk.is_done() {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    #[test]
    fn the_end_of_a_value_is_found_wherever_it_is_cut() {
        let whole: &[(&str, usize)] = &[
            ("[]", 2),
            (" {} ", 3),
            (r#"[1,-0.5e+7,true,false,null,"a\"\\\u00e9",[{}],{"a":{"b":[]}}] ["#, 61),
            ("[[[[\n]]]]rest", 9),
            (r#""text" "#, 6),
            ("17,", 2),
            ("-1.5]", 4),
            ("null ", 4),
            (r#"{"a" : [ 1 , 2 ] , "b" : "\ud800" }"#, 35),
        ];
        for (text, end) in whole {
            for piece in 1..=text.len() {
                assert_eq!(walk(text.as_bytes(), piece), Ok(Some(*end)), "{text} in pieces of {piece}");
            }
        }
        let cut = r#"[1,-0.5e+7,true,"a\"\u00e9",{"a":[null]}"#.as_bytes();
        for len in 0..=cut.len() {
            assert_eq!(walk(&cut[..len], 1), Ok(None), "cut at {len}");
        }
    }

    #[test]
    fn the_first_byte_that_can_not_stand_there_is_told() {
        let cases: &[(&str, usize)] = &[
            ("nope", 1),
            ("[1,]", 3),
            ("[1 2]", 3),
            ("{a:1}", 1),
            (r#"{"a" 1}"#, 5),
            (r#"{"a":1,}"#, 7),
            ("[}", 1),
            ("{]", 1),
            ("[01]", 2),
            ("[1.]", 3),
            ("[-]", 2),
            ("[1e]", 3),
            (r#"["\x"]"#, 3),
            (r#"["\u12g4"]"#, 6),
            ("[\"a\nb\"]", 3),
            ("]", 0),
            ("[tru]", 4),
        ];
        for (text, place) in cases {
            for piece in 1..=text.len() {
                assert_eq!(walk(text.as_bytes(), piece), Err(Dead::Byte(*place)), "{text} in pieces of {piece}");
            }
        }
        let deep = "[".repeat(LEVELS_MAX + 1);
        assert_eq!(walk(deep.as_bytes(), 7), Err(Dead::TooDeep(LEVELS_MAX)));
        let deepest = "[".repeat(LEVELS_MAX) + &"]".repeat(LEVELS_MAX);
        assert_eq!(walk(deepest.as_bytes(), 7), Ok(Some(2 * LEVELS_MAX)));
    }

    #[test]
    fn items_of_an_array_come_one_by_one() {
        let array = br#"[ 1 ,"a", [2,3],{"b":4} ]"#;
        let (mut from, mut items) = (1, Vec::new());
        while let Some(range) = item(array, from) {
            from = range.end;
            items.push(std::str::from_utf8(&array[range]).expect("ASCII"));
        }
        assert_eq!(items, ["1", "\"a\"", "[2,3]", "{\"b\":4}"]);
        assert_eq!(item(b"[]", 1), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "hours")]
    fn five_mebibytes_in_single_bytes_are_looked_at_once_each() {
        let text = format!("[{}{}]", r#"{"log":"some text \" and more","n":[1,2.5,null]},"#.repeat(100_000), "{}");
        for piece in [1, 3, 4096, text.len()] {
            let mut walk = Walk::new();
            let mut passed = 0;
            for part in text.as_bytes().chunks(piece) {
                passed += walk.advance(part).expect("valid");
            }
            assert!(walk.is_done());
            assert_eq!(passed, text.len());
            // A number is seen once more by what comes after it.
            assert!(walk.steps <= text.len() as u64 * 5 / 4, "{} steps for {} bytes", walk.steps, text.len());
        }
    }
}
