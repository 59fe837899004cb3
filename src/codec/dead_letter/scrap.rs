//! A dead letter of data that an input refused: the bytes, and what is known of them.
//!
//! ```text
//! magic "LSS", version | input | reason | peer | what | has tag (u8) | tag | from (u64) | whole (u64) | the bytes, to the end
//! ```
//!
//! Texts and damage are those of [`dead_letter`](super).

use super::{Damage, push_text, text};

/// Three letters and the version.
const MAGIC: [u8; 4] = *b"LSS\x01";

/// What an input refused, as its letter has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrapLetter<'t> {
    /// The input that refused it.
    pub input: &'t str,
    /// The reason, as it is counted.
    pub reason: &'t str,
    /// Who sent it; empty where nobody is known.
    pub peer: &'t str,
    /// What the bytes are: `frame` or `entry`.
    pub what: &'t str,
    /// The tag, if it is known.
    pub tag: Option<&'t str>,
    /// Bytes before `bytes` that were not there any more.
    pub from: u64,
    /// How long it was in all.
    pub whole: u64,
    /// What is kept of it.
    pub bytes: &'t [u8],
}

impl<'t> ScrapLetter<'t> {
    /// Bytes that [`encode`](Self::encode) writes.
    pub fn size(&self) -> usize {
        let texts = [self.input, self.reason, self.peer, self.what, self.tag.unwrap_or_default()];
        texts.iter().map(|text| text.len() + 4).sum::<usize>() + MAGIC.len() + 17 + self.bytes.len()
    }

    /// Appends the letter.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC);
        for text in [self.input, self.reason, self.peer, self.what] {
            push_text(text, out);
        }
        out.push(u8::from(self.tag.is_some()));
        push_text(self.tag.unwrap_or_default(), out);
        out.extend_from_slice(&self.from.to_le_bytes());
        out.extend_from_slice(&self.whole.to_le_bytes());
        out.extend_from_slice(self.bytes);
    }

    /// Whether `bytes` are such a letter, of whatever version.
    pub fn is(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC[..3])
    }

    /// Reads a letter.
    ///
    /// # Errors
    /// The bytes are damaged, or of another version.
    pub fn decode(bytes: &'t [u8]) -> Result<ScrapLetter<'t>, Damage> {
        let Some(mut rest) = bytes.strip_prefix(&MAGIC) else {
            return Err(super::other(bytes));
        };
        let cut = || Damage("a letter of an input is cut short or no UTF-8".to_owned());
        let mut next = || text(&mut rest).ok_or_else(cut);
        let (input, reason, peer, what) = (next()?, next()?, next()?, next()?);
        let (has_tag, after) = rest.split_first().ok_or_else(cut)?;
        rest = after;
        let tag = text(&mut rest).ok_or_else(cut)?;
        let (from, rest) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
        let (whole, bytes) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
        let tag = match has_tag {
            0 => None,
            1 => Some(tag),
            other => return Err(Damage(format!("a letter of an input says {other} tags, expected 0 or 1"))),
        };
        let (from, whole) = (u64::from_le_bytes(*from), u64::from_le_bytes(*whole));
        Ok(ScrapLetter { input, reason, peer, what, tag, from, whole, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_of_an_input_reads_as_it_was_written_and_damage_is_said() {
        let letter = ScrapLetter {
            input: "apps",
            reason: "bad_tag",
            peer: "10.0.0.1:4000",
            what: "frame",
            tag: Some("t\u{e9}"),
            from: 7,
            whole: 1 << 40,
            bytes: b"\x93\x05\xff",
        };
        for letter in [letter, ScrapLetter { tag: None, bytes: b"", ..letter }] {
            let mut bytes = Vec::new();
            letter.encode(&mut bytes);
            assert_eq!(bytes.len(), letter.size());
            assert!(ScrapLetter::is(&bytes));
            assert_eq!(ScrapLetter::decode(&bytes).expect("whole"), letter);
            for cut in 0..bytes.len() - letter.bytes.len() {
                assert!(ScrapLetter::decode(&bytes[..cut]).is_err(), "{cut}");
            }
            bytes[3] = 9;
            let error = ScrapLetter::decode(&bytes).expect_err("another version").to_string();
            assert_eq!(error, "version 9 of a dead letter, this longshore knows 1");
        }
    }
}
