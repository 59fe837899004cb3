//! Opening: a log of very many segments, and folders of arbitrary bytes.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use proptest::prelude::*;

use super::core::{Core, Fail, lock};
use super::crash_tests::{Promise, Terms, add, open, options};
use super::frame::{self, Header, Seed};
use super::group::Group;
use super::io::{Disk, Io};
use super::meta::{self, Meta, ReaderName};
use super::read::{Step, Walk};
use super::recover::recover;
use super::segment::{Name, SegmentHeader};
use super::sim::{Lie, SimFs, State};
use super::totals::Totals;

/// A folder that counts what is asked of it.
struct Counting<I> {
    io: I,
    opened: AtomicU64,
    reads: AtomicU64,
    bytes: AtomicU64,
    writes: AtomicU64,
}

impl<I: Io> Io for Counting<I> {
    type File = I::File;
    fn create(&self, name: &str) -> io::Result<I::File> {
        self.writes.fetch_add(1, Relaxed);
        self.io.create(name)
    }
    fn open(&self, name: &str) -> io::Result<I::File> {
        self.opened.fetch_add(1, Relaxed);
        self.io.open(name)
    }
    fn open_read(&self, name: &str) -> io::Result<I::File> {
        self.opened.fetch_add(1, Relaxed);
        self.io.open_read(name)
    }
    fn len(&self, file: &I::File) -> io::Result<u64> {
        self.io.len(file)
    }
    fn pread(&self, file: &I::File, into: &mut [u8], at: u64) -> io::Result<usize> {
        let got = self.io.pread(file, into, at)?;
        self.reads.fetch_add(1, Relaxed);
        self.bytes.fetch_add(got as u64, Relaxed);
        Ok(got)
    }
    fn pwrite(&self, file: &I::File, bytes: &[u8], at: u64) -> io::Result<usize> {
        self.writes.fetch_add(1, Relaxed);
        self.io.pwrite(file, bytes, at)
    }
    fn fdatasync(&self, file: &I::File) -> io::Result<()> {
        self.writes.fetch_add(1, Relaxed);
        self.io.fdatasync(file)
    }
    fn fallocate(&self, file: &I::File, len: u64) -> io::Result<()> {
        self.writes.fetch_add(1, Relaxed);
        self.io.fallocate(file, len)
    }
    fn truncate(&self, file: &I::File, len: u64) -> io::Result<()> {
        self.writes.fetch_add(1, Relaxed);
        self.io.truncate(file, len)
    }
    fn unlink(&self, name: &str) -> io::Result<()> {
        self.writes.fetch_add(1, Relaxed);
        self.io.unlink(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.writes.fetch_add(1, Relaxed);
        self.io.rename(from, to)
    }
    fn sync_folder(&self) -> io::Result<()> {
        self.writes.fetch_add(1, Relaxed);
        self.io.sync_folder()
    }
    fn folder(&self, name: &str) -> io::Result<()> {
        self.io.folder(name)
    }
    fn list(&self, name: &str) -> io::Result<Vec<(String, u64)>> {
        self.io.list(name)
    }
}

const SEGMENTS: u64 = 10_000;

/// Segments of one frame of 3 records each, for both readers, with numbers beyond 2^40.
fn many(dir: &std::path::Path) {
    let name = |name: &str| ReaderName { name: name.to_owned(), since: 1 };
    let sources = [(0, "x".to_owned()), (1, "y".to_owned())].into();
    let meta = Meta { id: [9; 16], readers: [(0, name("a")), (1, name("b"))].into(), sources };
    std::fs::write(dir.join(meta::FILE), meta.encode()).expect("written");
    let seed = Seed::new(&meta.id);
    let mut totals = Totals::default();
    for at in 0..SEGMENTS {
        let first = (1 << 40) + at;
        let header = SegmentHeader { id: meta.id, first, take: 0, created_ms: at, totals: totals.clone() };
        let mut bytes = header.encode();
        let head = Header { lsn: first, committed: first - 1, readers: 3, records: 3, ..Header::default() };
        frame::append(seed, head, 100, &mut bytes, |out| out.extend_from_slice(&first.to_le_bytes()));
        totals.add(3, 0, super::Count { records: 3, bytes: 8 });
        std::fs::write(dir.join(Name { first, take: 0 }.text()), bytes).expect("written");
    }
}

#[test]
fn ten_thousand_segments_beyond_2_to_the_40_are_opened_by_one_read_each() {
    let dir = tempfile::tempdir().expect("a temp dir");
    many(dir.path());
    let io = Disk::open(dir.path()).expect("the folder");
    let zero = || AtomicU64::new(0);
    let io = Arc::new(Counting { io, opened: zero(), reads: zero(), bytes: zero(), writes: zero() });
    let began = Instant::now();
    let recovery = recover(&*io).expect("recovered");
    assert_eq!(io.writes.load(Relaxed), 0, "recovery writes nothing");
    let strangers = recovery.strangers.clone();
    let core = Core::new(Arc::clone(&io), recovery, &options(Terms::BLOCK, 100)).expect("opened");
    assert!(strangers.is_empty());
    let mut walk = Walk::new(0, core.seed());
    let Step::Frame(head, bytes) = walk.next(&*io, core.shared(), 0) else { panic!("the oldest frame") };
    println!(
        "{SEGMENTS} segments: opened and the first frame read in {:?}, {} files opened, {} reads of {} bytes",
        began.elapsed(),
        io.opened.load(Relaxed),
        io.reads.load(Relaxed),
        io.bytes.load(Relaxed)
    );
    assert_eq!((head.lsn, bytes), (1 << 40, (1u64 << 40).to_le_bytes().to_vec()));
    let books = lock(core.shared());
    assert_eq!(books.readers[0].backlog(&books.totals, books.committed).sum().records, 3 * SEGMENTS);
    assert!(books.next > (1 << 40) + SEGMENTS);
    // A header each, and a few for the newest segment, names and the first frame.
    assert!(io.opened.load(Relaxed) <= SEGMENTS + 20, "{}", io.opened.load(Relaxed));
    assert!(io.reads.load(Relaxed) <= SEGMENTS + 60, "{}", io.reads.load(Relaxed));
    assert!(io.bytes.load(Relaxed) <= (SEGMENTS + 200) * 4096, "{}", io.bytes.load(Relaxed));
}

/// One change of a folder, by the number of its file.
#[derive(Clone, Debug)]
enum Harm {
    Flip(usize, usize, u8),
    Cut(usize, usize),
    Zeros(usize, usize, usize),
    Garbage(usize, Vec<u8>, usize),
    Remove(usize),
    Swap(usize, usize),
    Copy(usize, u64),
    New(u64, Vec<u8>),
}

fn harm() -> impl Strategy<Value = Harm> {
    let file = || 0..16usize;
    let at = || 0..30_000usize;
    let bytes = || prop::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        6 => (file(), at(), 0..8u8).prop_map(|(file, at, bit)| Harm::Flip(file, at, bit)),
        2 => (file(), at()).prop_map(|(file, len)| Harm::Cut(file, len)),
        2 => (file(), at(), 1..9_000usize).prop_map(|(file, at, len)| Harm::Zeros(file, at, len)),
        2 => (file(), bytes(), at()).prop_map(|(file, bytes, at)| Harm::Garbage(file, bytes, at)),
        1 => file().prop_map(Harm::Remove),
        1 => (file(), file()).prop_map(|(a, b)| Harm::Swap(a, b)),
        1 => (file(), 0..200u64).prop_map(|(file, first)| Harm::Copy(file, first)),
        1 => (0..200u64, bytes()).prop_map(|(first, bytes)| Harm::New(first, bytes)),
    ]
}

fn put(io: &SimFs, name: &str, bytes: &[u8]) {
    let _ = io.unlink(name);
    let file = io.create(name).expect("a good disk");
    io.write_at(&file, bytes, 0).expect("a good disk");
}

fn apply(io: &SimFs, harm: &Harm) {
    let names: Vec<String> = io.list(".").expect("listed").into_iter().map(|(name, _)| name).collect();
    if names.is_empty() {
        return;
    }
    let of = |at: usize| &names[at % names.len()];
    let read = |name: &str| io.read_all(name, usize::MAX).expect("readable");
    match harm {
        Harm::Flip(file, at, bit) => {
            let mut bytes = read(of(*file));
            if !bytes.is_empty() {
                let at = at % bytes.len();
                bytes[at] ^= 1 << bit;
                put(io, of(*file), &bytes);
            }
        }
        Harm::Cut(file, len) => {
            let bytes = read(of(*file));
            put(io, of(*file), &bytes[..(*len).min(bytes.len())]);
        }
        Harm::Zeros(file, at, len) => {
            let mut bytes = read(of(*file));
            let from = (*at).min(bytes.len());
            let to = (from + len).min(bytes.len());
            bytes[from..to].fill(0);
            put(io, of(*file), &bytes);
        }
        Harm::Garbage(file, with, at) => {
            let mut bytes = read(of(*file));
            let from = (*at).min(bytes.len());
            let to = (from + with.len()).min(bytes.len());
            bytes[from..to].copy_from_slice(&with[..to - from]);
            put(io, of(*file), &bytes);
        }
        Harm::Remove(file) => io.unlink(of(*file)).expect("there"),
        Harm::Swap(a, b) => {
            let (one, other) = (read(of(*a)), read(of(*b)));
            put(io, of(*a), &other);
            put(io, of(*b), &one);
        }
        Harm::Copy(file, first) => put(io, &Name { first: *first, take: 1 }.text(), &read(of(*file))),
        Harm::New(first, bytes) => put(io, &Name { first: *first, take: 2 }.text(), bytes),
    }
}

/// A log of some segments with a backlog for both readers.
fn good() -> (State, Promise) {
    let io = Arc::new(SimFs::new(State::default(), Lie::None));
    let mut core = open(&io, Terms::BLOCK, 100);
    let mut promise = Promise::default();
    for n in 0..30u8 {
        let mut group = Group::default();
        let lsn = add(&mut core, &mut group, 1 + u64::from(n % 3), vec![n; 2_000 + usize::from(n)], &mut promise);
        core.commit(&mut group, 0).expect("a good disk");
        if n < 5 {
            lock(core.shared()).settle(0, lsn);
        }
    }
    core.save_cursors().expect("a good disk");
    drop(core);
    let state = io.state().clone();
    (state, promise)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn a_folder_of_any_bytes_is_opened_and_read_to_its_end(harms in prop::collection::vec(harm(), 1..8)) {
        thread_local!(static GOOD: (State, Promise) = good());
        let (state, promise) = GOOD.with(|(state, promise)| (state.clone(), promise.clone()));
        let io = Arc::new(SimFs::new(state, Lie::None));
        harms.iter().for_each(|harm| apply(&io, harm));
        let Ok(recovery) = recover(&*io) else {
            // A newer version, which a flipped bit does not make.
            panic!("refused");
        };
        let strangers = recovery.strangers.clone();
        let mut core = Core::new(Arc::clone(&io), recovery, &options(Terms::BLOCK, 1 << 20)).expect("it opens");
        core.prepare(&strangers, 0).expect("a good disk");
        let mut told: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
        for reader in 0..2 {
            let backlog = {
                let books = lock(core.shared());
                books.readers[reader].backlog(&books.totals, books.committed).sum().records
            };
            let mut walk = Walk::new(reader, core.seed());
            let (mut after, mut got) = (0, 0);
            for step in 0.. {
                prop_assert!(step < 10_000, "it does not end");
                match walk.next(&*io, core.shared(), after) {
                    Step::Frame(head, bytes) => {
                        let (bits, records, payload) = promise.frames.get(&head.lsn).expect("only what was appended");
                        prop_assert!(bits >> reader & 1 == 1 && *records == head.records && *payload == bytes);
                        prop_assert!(head.lsn > after, "in order");
                        after = head.lsn;
                        got += u64::from(head.records);
                    }
                    Step::Lost { through, lost, .. } => {
                        after = after.max(through);
                        got += lost.sum().records;
                    }
                    Step::End => break,
                    other => panic!("{other:?}"),
                }
            }
            told.insert(reader, (backlog, got));
        }
        // What was told of the backlog has an end: read, or lost and counted.
        for (reader, (backlog, got)) in told {
            prop_assert_eq!(backlog, got, "reader {}", reader);
        }
        // It goes on.
        let mut group = Group::default();
        add(&mut core, &mut group, 3, vec![1], &mut Promise::default());
        prop_assert!(matches!(core.commit(&mut group, 0), Ok(()) | Err(Fail::Full)));
    }
}
