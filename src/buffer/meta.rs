//! `META`: the log's id, and which bit and number each name has. Text, so that a person can read it; the last line is
//! the CRC of those before.
//!
//! ```text
//! longshore log 1
//! id 00112233445566778899aabbccddeeff
//! reader 0 since 1 "central"
//! source 0 "apps"
//! crc 9ae0daaf
//! ```
//!
//! A reader's frames are those of its bit with an lsn of at least `since`, so a bit can be given to another name. When
//! `META` is lost it is made again: the id is in every segment and cursor, names are in the cursors. A version counts
//! under a whole CRC only.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::frame::LogId;
use super::{Lsn, VERSION};

/// The file.
pub const FILE: &str = "META";
/// Bytes that are read of it.
pub const BYTES_MAX: usize = 1 << 20;

/// One reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaderName {
    /// Its name.
    pub name: String,
    /// Its first frame.
    pub since: Lsn,
}

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The log's id.
    pub id: LogId,
    /// Readers by bit.
    pub readers: BTreeMap<u8, ReaderName>,
    /// Sources by number.
    pub sources: BTreeMap<u16, String>,
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// It is whole.
    Meta(Meta),
    /// Written by a newer version.
    Newer(u32),
    /// Damaged.
    Damaged,
}

impl Meta {
    /// The text.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = format!("longshore log {VERSION}\nid ");
        for byte in self.id {
            // Writing to a string does not fail.
            let _ = write!(out, "{byte:02x}");
        }
        out.push('\n');
        for (bit, reader) in &self.readers {
            let _ = writeln!(out, "reader {bit} since {} {}", reader.since, quoted(&reader.name));
        }
        for (number, name) in &self.sources {
            let _ = writeln!(out, "source {number} {}", quoted(name));
        }
        let crc = crc32c::crc32c(out.as_bytes());
        let _ = writeln!(out, "crc {crc:08x}");
        out.into_bytes()
    }

    /// Reads the text.
    pub fn decode(bytes: &[u8]) -> Found {
        let checked = || {
            let text = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
            let at = text.rfind('\n')? + 1;
            let crc = u32::from_str_radix(text[at..].strip_prefix("crc ")?, 16).ok()?;
            (crc == crc32c::crc32c(&bytes[..at])).then_some(&text[..at])
        };
        let Some(text) = checked() else { return Found::Damaged };
        let mut lines = text.lines();
        let version = lines.next().and_then(|line| line.strip_prefix("longshore log ")?.parse().ok());
        match version {
            Some(VERSION) => read_lines(lines).map_or(Found::Damaged, Found::Meta),
            Some(newer) if newer > VERSION => Found::Newer(newer),
            _ => Found::Damaged,
        }
    }
}

fn read_lines<'a>(lines: impl Iterator<Item = &'a str>) -> Option<Meta> {
    let mut meta = Meta::default();
    for line in lines {
        let (word, rest) = line.split_once(' ')?;
        match word {
            "id" if rest.len() == 32 => {
                for (at, byte) in meta.id.iter_mut().enumerate() {
                    *byte = u8::from_str_radix(rest.get(2 * at..2 * at + 2)?, 16).ok()?;
                }
            }
            "reader" => {
                let mut parts = rest.splitn(4, ' ');
                let bit: u8 = parts.next()?.parse().ok().filter(|bit| *bit < 64)?;
                let since = parts.nth(1)?.parse().ok()?;
                let name = serde_json::from_str(parts.next()?).ok()?;
                meta.readers.insert(bit, ReaderName { name, since });
            }
            "source" => {
                let (number, name) = rest.split_once(' ')?;
                meta.sources.insert(number.parse().ok()?, serde_json::from_str(name).ok()?);
            }
            _ => return None,
        }
    }
    Some(meta)
}

fn quoted(name: &str) -> String {
    serde_json::Value::from(name).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meta_reads_as_it_was_written_and_a_version_counts_under_a_whole_crc_only() {
        let mut meta = Meta { id: [0xab; 16], ..Meta::default() };
        meta.readers.insert(63, ReaderName { name: "a \"b\"\n c".to_owned(), since: 1 << 40 });
        meta.sources.insert(4, "containers".to_owned());
        let bytes = meta.encode();
        assert_eq!(Meta::decode(&bytes), Found::Meta(meta));
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert_eq!(Meta::decode(&bytes), Found::Damaged, "byte {at}");
        }
        let text = "longshore log 7\nid 0\nanything new\n";
        let newer = format!("{text}crc {:08x}\n", crc32c::crc32c(text.as_bytes()));
        assert_eq!(Meta::decode(newer.as_bytes()), Found::Newer(7));
        assert_eq!(Meta::decode(b""), Found::Damaged);
    }
}
