//! The text of the checkpoints' files: one JSON object a line, each behind the CRC32C of its bytes, so that a damaged line
//! costs one record and a person can read the rest.
//!
//! ```text
//! 9a3c01f2 {"longshore":"checkpoints","version":1,"seq":17,"records":2}
//! 0b51e77d {"input":"containers","key":"<id>","seen":1764000000,"done":{...},"hold":{...},"ahead":4096}
//! ```
//!
//! What changed with later saves is such a text for each of them, behind one another, of which what is not whole says nothing:
//!
//! ```text
//! 51d0a3be {"longshore":"changes","version":1,"base":17,"seq":18,"records":1,"gone":[["containers","<id>"]]}
//! ```
//!
//! Pure. A version field counts only under a valid CRC: elsewhere it is damage.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write as _};

use serde_json::{Value, json};

use super::identity::{FileId, Mark};

/// The version that this build writes and reads.
pub const VERSION: u64 = 1;

/// A place in a file, and how to recognise the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Who it was.
    pub id: FileId,
    /// The name that it had when it was opened.
    pub name: String,
    /// Its head.
    pub head: Mark,
    /// The content before `offset`; unknown at 0 and, sometimes, within compressed files.
    pub tail: Mark,
    /// Bytes of content before the place.
    pub offset: u64,
    /// Bytes of the file when this was saved.
    pub size: u64,
    /// The place is the file's end, and a newer generation follows, of which nothing is known but who it is.
    pub next: Option<FileId>,
    /// Its records are named after another file: it is the copy of that.
    pub named: Option<FileId>,
    /// What was known of copies.
    pub copies: CopiesKnown,
}

impl Place {
    /// Whether nothing but NULs stands before it, as far as the marks tell.
    pub fn is_in_hole(&self) -> bool {
        let is_hole = |mark: Mark| mark.is_known() && !mark.tells();
        is_hole(self.tail) && is_hole(self.head)
    }
}

/// What was known, when a file was begun, of the copies that were made of the one that is written to before that was truncated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopiesKnown {
    /// Those that were changed last before this are accounted for, nanoseconds since 1970. In a copy: its own last change. Else
    /// just after that of the newest one that is known, or when a file was begun that followed a renamed one. 0 in what was
    /// stored before copies were known of.
    pub until: i64,
    /// There may be copies of the file that nobody saw: it was truncated, or is the first that is known.
    pub emptied: bool,
    /// The place is in a copy of this file.
    pub of: Option<FileId>,
}

/// How far one chain was delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Everything before it was delivered.
    pub done: Place,
    /// Where an unfinished line starts, and how many bytes of content lie between that and `done`.
    pub hold: Option<(Place, u64)>,
    /// Time of the latest record before `done`, nanoseconds since 1970; 0 where none is known.
    pub last: i64,
    /// The file was found to be gone, and counts as lost: it is not counted again by who meets this place next.
    pub lost: bool,
}

/// An input's name and the chain's key within it (container id or path).
pub type Key = (String, String);

/// A stored record: the chain, and the second since 1970 when it was last followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How far.
    pub saved: Saved,
    /// Seconds since 1970.
    pub seen: i64,
}

/// What a text held.
#[derive(Debug, Default)]
pub struct Parsed {
    /// Number of the save; `None` where the header is damaged.
    pub seq: Option<u64>,
    /// The records that are whole.
    pub entries: HashMap<Key, Entry>,
    /// Lines (or missing records) that are damaged.
    pub damaged: u64,
    /// A version that this build does not know.
    pub newer: Option<u64>,
    /// What the header carries beside: the ledger as it was at that save.
    pub ledger: Option<Value>,
}

/// Writes everything.
pub fn write(seq: u64, entries: &HashMap<Key, Entry>, ledger: Option<Value>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512 * (entries.len() + 1));
    let mut header = json!({"longshore": "checkpoints", "version": VERSION, "seq": seq, "records": entries.len()});
    if let Some(ledger) = ledger {
        header["ledger"] = ledger;
    }
    line(&mut out, |out| write!(out, "{header}"));
    entries.iter().for_each(|(key, entry)| record(&mut out, key, entry));
    out
}

/// Writes what changed with a save since the whole one with the number `base`; nothing is kept of those that are `gone`.
pub fn write_changes<'a>(
    base: u64,
    seq: u64,
    changed: impl Iterator<Item = (&'a Key, &'a Entry)>,
    gone: &[Key],
    ledger: Option<&Value>,
) -> Vec<u8> {
    let (mut records, mut count) = (Vec::new(), 0);
    for (key, entry) in changed {
        record(&mut records, key, entry);
        count += 1;
    }
    let mut header = json!({"longshore": "changes", "version": VERSION, "base": base, "seq": seq, "records": count});
    if !gone.is_empty() {
        header["gone"] = json!(gone);
    }
    if let Some(ledger) = ledger {
        header["ledger"] = ledger.clone();
    }
    let mut out = Vec::with_capacity(records.len() + (4 << 10));
    line(&mut out, |out| write!(out, "{header}"));
    out.extend_from_slice(&records);
    out
}

fn record(out: &mut Vec<u8>, (input, key): &Key, Entry { saved, seen }: &Entry) {
    line(out, |out| {
        write!(out, "{{\"input\":{},\"key\":{},\"seen\":{seen},\"last\":{}", Text(input), Text(key), saved.last)?;
        put_place(out, "done", &saved.done)?;
        if let Some((hold, ahead)) = &saved.hold {
            put_place(out, "hold", hold)?;
            write!(out, ",\"ahead\":{ahead}")?;
        }
        if saved.lost {
            write!(out, ",\"lost\":true")?;
        }
        write!(out, "}}")
    });
}

/// One line behind its checksum. Written in place: with ten thousand containers it is done ten thousand times a save.
fn line(out: &mut Vec<u8>, text: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) {
    let at = out.len();
    out.extend_from_slice(b"00000000 ");
    // Memory takes everything.
    let _ = text(out);
    let crc = format!("{:08x}", crc32c::crc32c(&out[at + 9..]));
    out[at..at + 8].copy_from_slice(crc.as_bytes());
    out.push(b'\n');
}

/// A text as JSON has it.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
        if self.0.bytes().all(plain) { write!(f, "\"{}\"", self.0) } else { write!(f, "{}", Value::from(self.0)) }
    }
}

fn put_place(out: &mut Vec<u8>, name: &str, place: &Place) -> io::Result<()> {
    let Place { id, head, tail, offset, size, .. } = place;
    write!(
        out,
        ",\"{name}\":{{\"name\":{},\"dev\":{},\"ino\":{},\"btime\":{},\"head\":[{},{}],\"tail\":[{},{}],\"offset\":{offset},\"size\":{size},\"next\":",
        Text(&place.name),
        id.dev,
        id.ino,
        id.btime,
        head.len,
        head.hash,
        tail.len,
        tail.hash,
    )?;
    match place.next {
        Some(next) => put_id(out, next)?,
        None => write!(out, "null")?,
    }
    if let Some(named) = place.named {
        write!(out, ",\"named\":")?;
        put_id(out, named)?;
    }
    if place.copies.until != 0 {
        write!(out, ",\"copies\":{}", place.copies.until)?;
    }
    if place.copies.emptied {
        write!(out, ",\"emptied\":true")?;
    }
    if let Some(of) = place.copies.of {
        write!(out, ",\"copy_of\":")?;
        put_id(out, of)?;
    }
    write!(out, "}}")
}

fn put_id(out: &mut Vec<u8>, id: FileId) -> io::Result<()> {
    write!(out, "{{\"dev\":{},\"ino\":{},\"btime\":{}}}", id.dev, id.ino, id.btime)
}

/// Reads what is whole.
pub fn read(bytes: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    let mut promised = 0;
    for (number, line) in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).enumerate() {
        let Some(value) = checked(line) else {
            parsed.damaged += 1;
            continue;
        };
        if number == 0 && value["longshore"] == "checkpoints" {
            match value["version"].as_u64() {
                Some(VERSION) => {}
                other => {
                    parsed.newer = Some(other.unwrap_or(0));
                    return parsed;
                }
            }
            parsed.seq = value["seq"].as_u64();
            parsed.ledger = value.get("ledger").cloned();
            promised = value["records"].as_u64().unwrap_or(0);
            continue;
        }
        match entry(&value) {
            Some((key, entry)) => {
                parsed.entries.insert(key, entry);
            }
            None => parsed.damaged += 1,
        }
    }
    // Lines that are gone altogether are damage too.
    let missing = promised.saturating_sub(parsed.entries.len() as u64);
    parsed.damaged = parsed.damaged.max(missing);
    parsed
}

/// What changed with one save.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Number of the save.
    pub seq: u64,
    /// The records that changed.
    pub entries: Vec<(Key, Entry)>,
    /// The records that went.
    pub gone: Vec<Key>,
    /// The ledger as it was at that save.
    pub ledger: Option<Value>,
}

/// What changed since a whole save, as far as it could be read.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    /// One for each save, oldest first.
    pub all: Vec<Change>,
    /// Places that are damaged. What is torn at the end is none: it is of a save that did not come to its own.
    pub damaged: u64,
    /// The version of changes that are of a newer program; nothing behind them was read.
    pub newer: Option<u64>,
}

/// Reads the changes of a whole save with such a number. One of them counts if all of it is whole.
pub fn read_changes(bytes: &[u8], is_base: impl Fn(u64) -> bool) -> Changes {
    let mut changes = Changes::default();
    // Behind the last header: something is not whole, and it is no save that was cut short, which ends without a line's end.
    let (mut is_torn, mut is_damaged) = (false, false);
    // What is being read, and how many of its records are still to come.
    let mut open: Option<(Change, u64)> = None;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let value = line.strip_suffix(b"\n").and_then(checked);
        if let Some(header) = value.as_ref().filter(|value| value["longshore"] == "changes") {
            changes.damaged += u64::from(open.is_some() || is_torn);
            (is_torn, is_damaged, open) = (false, false, None);
            if header["base"].as_u64().is_some_and(&is_base) {
                if header["version"] != VERSION {
                    changes.newer = Some(header["version"].as_u64().unwrap_or(0));
                    return changes;
                }
                open = change(header);
            }
        } else if let Some((change, left)) = &mut open
            && *left > 0
            && let Some(entry) = value.as_ref().and_then(entry)
        {
            change.entries.push(entry);
            *left -= 1;
        } else {
            let is_bad = open.take().is_some() || value.is_none();
            is_torn |= is_bad;
            is_damaged |= is_bad && line.ends_with(b"\n");
        }
        changes.all.extend(open.take_if(|(_, left)| *left == 0).map(|(change, _)| change));
    }
    changes.damaged += u64::from(is_damaged);
    changes
}

/// What the header of a change says, and how many records follow it.
fn change(header: &Value) -> Option<(Change, u64)> {
    let gone = match header.get("gone") {
        Some(gone) => serde_json::from_value(gone.clone()).ok()?,
        None => Vec::new(),
    };
    let (seq, ledger) = (header["seq"].as_u64()?, header.get("ledger").cloned());
    Some((Change { seq, entries: Vec::new(), gone, ledger }, header["records"].as_u64()?))
}

fn checked(line: &[u8]) -> Option<Value> {
    let (crc, text) = line.split_at_checked(9)?;
    let crc = u32::from_str_radix(std::str::from_utf8(crc.strip_suffix(b" ")?).ok()?, 16).ok()?;
    if crc != crc32c::crc32c(text) {
        return None;
    }
    serde_json::from_slice(text).ok()
}

fn entry(value: &Value) -> Option<(Key, Entry)> {
    let key = (value["input"].as_str()?.to_owned(), value["key"].as_str()?.to_owned());
    let hold = match value.get("hold") {
        Some(hold) => Some((place(hold)?, value["ahead"].as_u64()?)),
        None => None,
    };
    // A place that was set by hand knows of no record.
    let last = value["last"].as_i64().unwrap_or(0);
    let lost = value["lost"].as_bool().unwrap_or(false);
    let saved = Saved { done: place(&value["done"])?, hold, last, lost };
    Some((key, Entry { saved, seen: value["seen"].as_i64()? }))
}

fn place(value: &Value) -> Option<Place> {
    let mark = |value: &Value| Some(Mark { len: u32::try_from(value[0].as_u64()?).ok()?, hash: value[1].as_u64()? });
    let id = |value: &Value| {
        Some(FileId { dev: value["dev"].as_u64()?, ino: value["ino"].as_u64()?, btime: value["btime"].as_i64()? })
    };
    let some_id = |value: &Value| match value {
        Value::Null => Some(None),
        value => Some(Some(id(value)?)),
    };
    Some(Place {
        id: id(value)?,
        name: value["name"].as_str()?.to_owned(),
        head: mark(&value["head"])?,
        tail: mark(&value["tail"])?,
        offset: value["offset"].as_u64()?,
        size: value["size"].as_u64()?,
        next: some_id(&value["next"])?,
        named: some_id(&value["named"])?,
        copies: CopiesKnown {
            until: value["copies"].as_i64().unwrap_or(0),
            emptied: value["emptied"].as_bool().unwrap_or(false),
            of: some_id(&value["copy_of"])?,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use proptest::prelude::*;

    use super::*;

    fn some(key: &str, offset: u64) -> (Key, Entry) {
        let done = Place {
            id: FileId { dev: 1 << 32 | 7, ino: u64::MAX, btime: -5 },
            name: "a\"\n".to_owned(),
            head: Mark::of(b"head"),
            tail: Mark::of(b"tail"),
            offset,
            size: offset + 9,
            next: offset.is_multiple_of(2).then_some(FileId { dev: 1, ino: offset, btime: -1 }),
            named: offset.is_multiple_of(3).then_some(FileId { dev: 2, ino: offset, btime: 7 }),
            copies: CopiesKnown {
                until: i64::try_from(offset).unwrap_or(0),
                emptied: offset.is_multiple_of(5),
                of: offset.is_multiple_of(4).then_some(FileId { dev: 3, ino: offset, btime: 8 }),
            },
        };
        let hold = (offset > 5).then(|| (Place { offset: 5, ..done.clone() }, offset - 5));
        let saved = Saved { done, hold, last: -7, lost: offset.is_multiple_of(3) };
        (("in".to_owned(), key.to_owned()), Entry { saved, seen: 1_764_000_000 })
    }

    #[test]
    fn what_was_written_is_read_back() {
        let entries: HashMap<Key, Entry> = (0..9).map(|n| some(&format!("k{n}"), n)).collect();
        let parsed = read(&write(17, &entries, None));
        assert_eq!((parsed.seq, parsed.damaged, parsed.newer), (Some(17), 0, None));
        assert_eq!(parsed.entries, entries);
    }

    #[test]
    fn a_newer_version_counts_only_under_a_valid_checksum() {
        let mut text = Vec::new();
        line(&mut text, |text| write!(text, r#"{{"longshore":"checkpoints","version":9,"seq":1,"records":0}}"#));
        assert_eq!(read(&text).newer, Some(9));
        text[0] ^= 1;
        let parsed = read(&text);
        assert_eq!((parsed.newer, parsed.seq, parsed.damaged), (None, None, 1));
    }

    #[test]
    fn a_change_counts_if_it_is_whole_and_what_is_torn_at_the_end_is_no_damage() {
        let some: Vec<(Key, Entry)> = (0..6).map(|n| some(&format!("k{n}"), n)).collect();
        let gone = [("in".to_owned(), "old\n".to_owned())];
        let changed = |range: std::ops::Range<usize>| some[range].iter().map(|(key, entry)| (key, entry));
        let first = write_changes(17, 18, changed(0..2), &[], Some(&json!({"a": 1})));
        let second = write_changes(17, 19, changed(2..6), &gone, None);
        let all = [&first[..], &second].concat();
        let whole = [
            Change { seq: 18, entries: some[..2].to_vec(), gone: Vec::new(), ledger: Some(json!({"a": 1})) },
            Change { seq: 19, entries: some[2..].to_vec(), gone: gone.to_vec(), ledger: None },
        ];
        let read = |bytes: &[u8]| {
            let changes = read_changes(bytes, |base| base == 17);
            assert_eq!(changes.newer, None);
            (changes.all, changes.damaged)
        };
        assert_eq!(read(&all), (whole.to_vec(), 0));
        assert_eq!(read_changes(&all, |base| base == 16), Changes::default(), "of another whole save");
        for end in 0..all.len() {
            let count = usize::from(end >= first.len());
            assert_eq!(read(&all[..end]), (whole[..count].to_vec(), 0), "torn after {end}");
            let mut flipped = all.clone();
            flipped[end] ^= 1;
            // Behind the damage is a save that came to its end, if its header is not on the same line.
            let left = match end.cmp(&(first.len() - 1)) {
                Ordering::Less => (whole[1..].to_vec(), 1),
                Ordering::Equal => (Vec::new(), 1),
                // Without its last line's end it looks as if it had been cut short.
                Ordering::Greater => (whole[..1].to_vec(), u64::from(end + 1 < all.len())),
            };
            assert_eq!(read(&flipped), left, "flipped at {end}");
        }
        let beside = [&b"junk\n"[..], &write_changes(16, 17, changed(0..6), &[], None), &all].concat();
        assert_eq!(read(&beside), (whole.to_vec(), 1));
        let mut newer = first.clone();
        line(&mut newer, |text| {
            write!(text, r#"{{"longshore":"changes","version":9,"base":17,"seq":19,"records":0}}"#)
        });
        assert_eq!(read_changes(&newer, |base| base == 17).newer, Some(9));
        assert_eq!(read_changes(&newer, |base| base == 16), Changes::default());
    }

    proptest! {
        #[test]
        fn a_flipped_bit_costs_one_line_and_no_record_is_ever_wrong(at in 0usize..10_000, bit in 0u8..8) {
            let entries: HashMap<Key, Entry> = (0..5).map(|n| some(&format!("k{n}"), n * 3)).collect();
            let mut text = write(1, &entries, None);
            let at = at % text.len();
            text[at] ^= 1 << bit;
            let parsed = read(&text);
            prop_assert!(parsed.damaged >= 1 || parsed.entries == entries);
            // A flip that makes a line break cuts one line in two; a flip of one joins two.
            prop_assert!(parsed.entries.len() >= 3);
            for (key, entry) in &parsed.entries {
                prop_assert_eq!(Some(entry), entries.get(key));
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            read(&bytes);
            read_changes(&bytes, |_| true);
        }
    }
}
