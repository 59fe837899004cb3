//! Who has which bit and number: sinks and inputs by name, over restarts and changes of the configuration.

use std::io;

use super::core::Options;
use super::cursor;
use super::meta::{Meta, ReaderName};
use super::recover::Recovery;
use super::totals::Totals;
use super::{Lsn, READERS_MAX, SOURCES_MAX};

/// The bits of the configured readers, in their order. Readers that are gone keep theirs while they have a backlog and
/// nobody needs the bit.
pub fn assign_readers(
    meta: &mut Meta,
    recovery: &Recovery,
    totals: &mut Totals,
    options: &Options,
    next: Lsn,
    dirty: &mut bool,
) -> io::Result<Vec<u8>> {
    if options.readers.len() > READERS_MAX {
        let text = format!("{} sinks: the disk log serves {READERS_MAX} at most", options.readers.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let wanted = |name: &str| options.readers.iter().any(|reader| cursor::short(reader) == cursor::short(name));
    let before = meta.readers.len();
    meta.readers.retain(|bit, reader| {
        let got = recovery.cursors.get(bit);
        let behind = recovery.totals.of(*bit).above(&got.map(|cursor| cursor.totals.clone()).unwrap_or_default());
        wanted(&reader.name) || behind.sum().records > 0
    });
    *dirty |= before != meta.readers.len();
    let mut bits = Vec::new();
    for name in &options.readers {
        let known = meta.readers.iter().find(|(_, reader)| cursor::short(&reader.name) == cursor::short(name));
        if let Some((bit, _)) = known {
            bits.push(*bit);
            continue;
        }
        let free = (0..64).find(|bit| !meta.readers.contains_key(bit));
        let unwanted = || meta.readers.iter().find(|(_, reader)| !wanted(&reader.name)).map(|(bit, _)| *bit);
        let bit = free.or_else(unwanted).expect("64 readers at most are wanted");
        meta.readers.insert(bit, ReaderName { name: name.clone(), since: next });
        totals.0.remove(&bit);
        bits.push(bit);
        *dirty = true;
    }
    totals.0.retain(|bit, _| meta.readers.contains_key(bit));
    Ok(bits)
}

/// Gives every source a number. Names that are gone keep theirs while something counts under it.
pub fn assign_sources(meta: &mut Meta, totals: &Totals, sources: &[String], dirty: &mut bool) {
    let sources = &sources[..sources.len().min(SOURCES_MAX)];
    let counted = |number: &u16| totals.0.values().any(|sums| sums.0.contains_key(number));
    let before = meta.sources.len();
    meta.sources.retain(|number, name| sources.contains(name) || counted(number));
    *dirty |= before != meta.sources.len();
    for name in sources {
        if !meta.sources.values().any(|known| known == name) {
            let free = (0..u16::MAX).find(|number| !meta.sources.contains_key(number) && !counted(number));
            meta.sources.insert(free.unwrap_or(u16::MAX), name.clone());
            *dirty = true;
        }
    }
}
