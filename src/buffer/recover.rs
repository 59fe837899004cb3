//! What is found when a log is opened. Writes nothing, and takes any bytes: what is damaged is a value, not an error.
//! The only refusals are a folder that can not be listed, a log of a newer version, and a file that can not be read though its
//! disk says nothing of damage: one that belongs to another user holds what it holds, and to begin without it would give
//! everything again.
//!
//! Of old segments only the header is read; the newest one is read whole, to find its end. A segment without a good
//! header is one all the same if it has a good frame. What a committed frame's absence costs is found later, by the
//! reader that misses it (`read.rs`).
//!
//! A missing or damaged frame of the newest segment is damage if a later frame says that it was committed. Else it is
//! the torn end of a commit that was never acked, and does not count.
//!
//! Limits: 10,000 pieces of damage in one segment are told apart.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use rustix::io::Errno;

use super::books::{ANYBODY, Segment};
use super::cursor::{self, Cursor};
use super::frame::{BLOCK, Header, LogId, Seed};
use super::io::Io;
use super::meta::{self, Found, Meta, ReaderName};
use super::segment::{self, Name, Scan, SegmentHeader, Start};
use super::totals::{BySource, Totals};
use super::{Count, Damage, Lsn, VERSION};

const GAPS_MAX: usize = 10_000;

/// What was found.
#[derive(Debug, Default)]
pub struct Recovery {
    /// Names and id; of a new log the id is zero.
    pub meta: Meta,
    /// Whether there was nothing: no `META`, segment or cursor.
    pub is_new: bool,
    /// Whether `META` has to be written.
    pub meta_lost: bool,
    /// In their order.
    pub segments: VecDeque<Segment>,
    /// By bit; those of the name that has the bit.
    pub cursors: BTreeMap<u8, Cursor>,
    /// Generations of all cursors.
    pub generations: BTreeMap<u8, u64>,
    /// Sums of all frames.
    pub totals: Totals,
    /// No number up to here may be given again.
    pub last: Lsn,
    /// What was damaged.
    pub damage: Damage,
    /// Files that are no segment of this log.
    pub strangers: Vec<String>,
}

fn newer(what: &str, version: u32) -> io::Error {
    let text = format!(
        "{what}: this disk log was written by a newer version of longshore (format {version}, this one knows {VERSION}); start that version, or move the folder of the log away to begin a new one (its backlog then waits there)"
    );
    io::Error::new(io::ErrorKind::Unsupported, text)
}

/// A read that failed: the disk's damage, which counts as such, or an error that ends the start.
fn damage_of<T>(name: &str, read: io::Result<T>) -> io::Result<Option<T>> {
    let is_damage = |error: &io::Error| match error.raw_os_error() {
        Some(code) => [Errno::IO, Errno::UCLEAN, Errno::BADMSG].iter().any(|damage| damage.raw_os_error() == code),
        None => true,
    };
    match read {
        Ok(read) => Ok(Some(read)),
        // It may go while somebody looks at the log of a running node.
        Err(error) if error.kind() == io::ErrorKind::NotFound || is_damage(&error) => Ok(None),
        Err(error) => Err(io::Error::new(error.kind(), format!("{name}: {error}"))),
    }
}

/// A segment file as it was listed.
struct Listed {
    name: Name,
    bytes: u64,
    start: Start,
}

/// Looks at everything in the folder.
pub fn recover<I: Io>(io: &I) -> io::Result<Recovery> {
    let mut found = Recovery::default();
    let names = io.list(".")?;
    let meta = match io.read_all(meta::FILE, meta::BYTES_MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        read => Some(damage_of(meta::FILE, read)?.map_or(Found::Damaged, |bytes| Meta::decode(&bytes))),
    };
    let mut listed = Vec::new();
    for (text, bytes) in &names {
        let Some(name) = Name::parse(text) else { continue };
        let read = io.open_read(text).and_then(|file| segment::read_header(io, &file));
        listed.push(Listed { name, bytes: *bytes, start: damage_of(text, read)?.unwrap_or(Start::Damaged) });
    }
    let mut slots = BTreeMap::new();
    for bit in names.iter().filter_map(|(text, _)| cursor::parse_name(text)) {
        let name = cursor::file_name(bit);
        slots.insert(bit, damage_of(&name, io.read_all(&name, 2 * cursor::SLOT))?.unwrap_or_default());
    }
    found.is_new = meta.is_none() && listed.is_empty() && slots.is_empty();
    let known = match meta {
        Some(Found::Newer(version)) => return Err(newer(meta::FILE, version)),
        Some(Found::Meta(meta)) => Some(meta),
        Some(Found::Damaged) | None => None,
    };
    found.meta_lost = known.is_none();
    found.damage.meta = u64::from(found.meta_lost && !found.is_new);
    found.meta = known.unwrap_or_else(|| Meta { id: guess_id(&listed, &slots), ..Meta::default() });
    if let Some((name, version)) = listed.iter().find_map(|file| match file.start {
        Start::Newer(version, id) if id == found.meta.id => Some((file.name, version)),
        _ => None,
    }) {
        return Err(newer(&name.text(), version));
    }
    read_cursors(&mut found, slots);
    let headers = place_segments(io, &mut found, listed);
    count(io, &mut found, &headers);
    Ok(found)
}

/// The id that most of what is there has, when `META` does not say it.
fn guess_id(listed: &[Listed], slots: &BTreeMap<u8, Vec<u8>>) -> LogId {
    let mut votes: BTreeMap<LogId, usize> = BTreeMap::new();
    for file in listed {
        if let Start::Header(SegmentHeader { id, .. }, _) | Start::Newer(_, id) = file.start {
            *votes.entry(id).or_default() += 1;
        }
    }
    for slot in slots.values().flat_map(|file| file.chunks(cursor::SLOT)) {
        let id = slot.get(16..32).and_then(|id| LogId::try_from(id).ok());
        if let Some(id) = id.filter(|id| Cursor::decode(id, slot).is_some()) {
            *votes.entry(id).or_default() += 1;
        }
    }
    votes.into_iter().max_by_key(|(_, votes)| *votes).map_or([0; 16], |(id, _)| id)
}

fn read_cursors(found: &mut Recovery, slots: BTreeMap<u8, Vec<u8>>) {
    for (bit, file) in slots {
        match Cursor::latest(&found.meta.id, &file).filter(|cursor| cursor.bit == bit) {
            Some(cursor) => {
                found.last = found.last.max(cursor.settled);
                if found.meta_lost {
                    let name = ReaderName { name: cursor.name.clone(), since: 1 };
                    found.meta.readers.insert(bit, name);
                }
                found.generations.insert(bit, cursor.generation);
                // One of a name that had the bit before is of no use.
                let owner = found.meta.readers.get(&bit).map(|reader| cursor::short(&reader.name));
                if owner == Some(cursor.name.as_str()) {
                    found.cursors.insert(bit, cursor);
                }
            }
            // A bit that has no name any more has no use for its cursor.
            None => found.damage.cursors += u64::from(found.meta.readers.contains_key(&bit) || found.meta_lost),
        }
    }
    let since = found.meta.readers.values().map(|reader| reader.since.saturating_sub(1));
    found.last = since.fold(found.last, Lsn::max);
}

/// Orders the segments and tells strangers from them. Gives the header sums of each.
fn place_segments<I: Io>(io: &I, found: &mut Recovery, listed: Vec<Listed>) -> Vec<Option<Totals>> {
    let seed = Seed::new(&found.meta.id);
    let mut placed: Vec<(Lsn, u32, Segment, Option<Totals>)> = Vec::new();
    for file in listed {
        let segment = |first, created_ms, header_len| Segment {
            first,
            end: file.bytes,
            bytes: file.bytes,
            created_ms,
            name: file.name,
            header_len,
            readers: ANYBODY,
        };
        match file.start {
            Start::Header(header, len) if header.id == found.meta.id => {
                // At most HEADER_MAX.
                placed.push((
                    header.first,
                    header.take,
                    segment(header.first, header.created_ms, len as u32),
                    Some(header.totals),
                ));
            }
            Start::Header(..) | Start::Newer(..) => {
                found.damage.foreign_segments += 1;
                found.strangers.push(file.name.text());
            }
            Start::Damaged | Start::More(_) => {
                let first = io.open_read(&file.name.text()).and_then(|opened| {
                    let mut scan = Scan::new(Arc::new(opened), BLOCK as u64);
                    scan.next(io, seed, 1, Lsn::MAX, file.bytes)
                });
                if matches!(first, Ok(Some(_))) {
                    found.damage.segment_headers += 1;
                    placed.push((file.name.first, file.name.take, segment(file.name.first, 0, BLOCK as u32), None));
                } else {
                    found.damage.unreadable_segments += 1;
                    found.strangers.push(file.name.text());
                }
            }
        }
    }
    placed.sort_by_key(|(first, take, segment, _)| (*first, *take, segment.name));
    let mut headers = Vec::new();
    let mut before = None;
    for (first, take, segment, totals) in placed {
        if before == Some((first, take)) {
            // A copy under another name.
            found.damage.foreign_segments += 1;
            found.strangers.push(segment.name.text());
            continue;
        }
        before = Some((first, take));
        found.last = found.last.max(first.saturating_sub(1));
        found.segments.push_back(segment);
        headers.push(totals);
    }
    headers
}

/// Finds the sums and the last number: from the newest good header on, every frame is looked at.
fn count<I: Io>(io: &I, found: &mut Recovery, headers: &[Option<Totals>]) {
    let from = headers.iter().rposition(Option::is_some);
    match from.and_then(|at| headers[at].clone()) {
        Some(totals) => found.totals = totals,
        // Nothing says what was before: only what is beyond the cursors counts.
        None => found.totals = Totals(found.cursors.iter().map(|(bit, at)| (*bit, at.totals.clone())).collect()),
    }
    let floor: BTreeMap<u8, Lsn> = match from {
        Some(_) => BTreeMap::new(),
        None => found.cursors.iter().map(|(bit, cursor)| (*bit, cursor.settled)).collect(),
    };
    // By bit: what lies beyond its cursor.
    let mut beyond: BTreeMap<u8, BySource> = BTreeMap::new();
    for at in from.unwrap_or(0)..found.segments.len() {
        let below = found.segments.get(at + 1).map_or(Lsn::MAX, |next| next.first);
        let newest = at + 1 == found.segments.len();
        let segment = found.segments[at].clone();
        let mut add = |head: &Header| {
            let bits = (0..64).filter(|bit| floor.get(bit).is_some_and(|settled| head.lsn <= *settled));
            let bits = bits.fold(head.readers, |bits, bit| bits & !(1 << bit));
            let count = Count { records: u64::from(head.records), bytes: u64::from(head.len) };
            found.totals.add(bits, head.source, count);
            let cursors = found.cursors.iter().filter(|(bit, _)| head.readers >> **bit & 1 == 1);
            for (bit, _) in cursors.filter(|(_, cursor)| head.lsn > cursor.settled) {
                beyond.entry(*bit).or_default().add(head.source, count);
            }
        };
        let seen = look(io, Seed::new(&found.meta.id), &segment, below, &mut add);
        found.last = found.last.max(seen.last);
        if newest {
            found.damage.frames += seen.damaged;
            found.segments[at].end = seen.end;
        }
    }
    // There was what a reader has got, and what lies beyond. The header that counts may be older than both: removed
    // segments lay between when one that could not be removed is followed by one whose header was never written.
    for (bit, cursor) in &found.cursors {
        let mut least = cursor.totals.clone();
        beyond.get(bit).into_iter().flat_map(|sums| &sums.0).for_each(|(source, count)| least.add(*source, *count));
        if found.segments.is_empty() || cursor.settled >= found.last {
            found.totals.0.insert(*bit, least);
        } else {
            found.totals.0.entry(*bit).or_default().raise(&least);
        }
    }
}

/// What a segment holds.
#[derive(Default)]
struct Seen {
    last: Lsn,
    damaged: u64,
    end: u64,
}

/// Looks at every frame of a segment, and hands over those that count: whole, or damaged and committed.
fn look<I: Io>(io: &I, seed: Seed, segment: &Segment, below: Lsn, add: &mut dyn FnMut(&Header)) -> Seen {
    let mut seen = Seen { end: u64::from(segment.header_len), ..Seen::default() };
    let Ok(file) = io.open_read(&segment.name.text()) else { return seen };
    let mut scan = Scan::new(Arc::new(file), u64::from(segment.header_len));
    let mut next = segment.first;
    let mut committed = 0;
    // Missing numbers, and damaged frames.
    let mut gaps: Vec<(Lsn, Lsn)> = Vec::new();
    let mut damaged: Vec<Header> = Vec::new();
    // An unreadable rest is missing.
    while let Ok(Some((at, head))) = scan.next(io, seed, next, below, segment.end) {
        if head.lsn > next && gaps.len() < GAPS_MAX {
            gaps.push((next, head.lsn - 1));
        }
        next = head.lsn + 1;
        committed = committed.max(head.committed);
        seen.last = head.lsn;
        let whole = scan.payload(io, at, &head).is_ok_and(|payload| head.is_intact(seed, &payload));
        if whole {
            add(&head);
            seen.end = scan.at();
        } else if damaged.len() < GAPS_MAX {
            damaged.push(head);
        }
    }
    damaged.retain(|head| head.lsn <= committed);
    seen.damaged = damaged.len() as u64;
    seen.damaged +=
        gaps.iter().map(|(from, to)| (*to).min(committed).saturating_sub(from.saturating_sub(1))).sum::<u64>();
    damaged.iter().for_each(add);
    seen
}

impl Recovery {
    /// Where a reader begins, and what it had got by then.
    pub fn place_of<I: Io>(&self, io: &I, bit: u8) -> (Lsn, BySource) {
        if let Some(cursor) = self.cursors.get(&bit) {
            return (cursor.settled, cursor.totals.clone());
        }
        // Without a cursor: at the oldest frame that can be its own.
        let since = self.meta.readers.get(&bit).map_or(1, |reader| reader.since).max(1);
        match self.segments.iter().find(|segment| segment.first >= since) {
            Some(oldest) if oldest.first > since => {
                let header = io.open_read(&oldest.name.text()).and_then(|file| segment::read_header(io, &file));
                let totals = match header {
                    Ok(Start::Header(header, _)) => header.totals.of(bit),
                    _ => BySource::default(),
                };
                (oldest.first - 1, totals)
            }
            _ => (since - 1, BySource::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_read_is_no_damage() {
        let failed = |errno: Errno| damage_of::<()>("00.cursor", Err(errno.into()));
        assert!(matches!(failed(Errno::IO), Ok(None)) && matches!(failed(Errno::NOENT), Ok(None)));
        for errno in [Errno::ACCESS, Errno::MFILE] {
            let error = failed(errno).expect_err("it ends the start");
            assert!(error.to_string().starts_with("00.cursor: "), "{error}");
        }
    }
}
