//! The log against a model: for each reader a queue of the frames that it has not settled. Whatever the order of appends,
//! commits, reads, settlements, saves and restarts, the log gives what the queue has.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use proptest::prelude::*;

use super::core::{Core, Fail, lock};
use super::crash_tests::{Promise, Terms, add, open, read_all};
use super::group::Group;
use super::read::{Step, Walk};
use super::sim::{Lie, SimFs, State};

const READERS: usize = 2;

#[derive(Clone, Debug)]
enum Op {
    /// Frames of one commit: readers (bits) and bytes of payload.
    Commit(Vec<(u64, usize)>),
    Read(usize),
    /// Settles one of those in hand.
    Settle(usize, prop::sample::Index),
    /// One that was never read from the log: its reader got it from memory.
    SettleUnread(usize, prop::sample::Index),
    Save,
    Collect,
    /// In order (cursors saved) or not.
    Restart(bool),
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![6 => 0..300usize, 1 => 3_000..9_000usize];
    prop_oneof![
        4 => prop::collection::vec((1..4u64, len), 1..4).prop_map(Op::Commit),
        4 => (0..READERS).prop_map(Op::Read),
        3 => (0..READERS, any::<prop::sample::Index>()).prop_map(|(reader, at)| Op::Settle(reader, at)),
        1 => (0..READERS, any::<prop::sample::Index>()).prop_map(|(reader, at)| Op::SettleUnread(reader, at)),
        1 => Just(Op::Save),
        1 => Just(Op::Collect),
        1 => any::<bool>().prop_map(Op::Restart),
    ]
}

/// What one reader is owed.
#[derive(Default)]
struct Queue {
    /// Not settled, oldest first: number, records, payload.
    owed: VecDeque<(u64, u32, Vec<u8>)>,
    /// Read and not settled.
    in_hand: Vec<u64>,
    /// The last one that was read since the start.
    after: u64,
    /// Settled since the cursors were saved last, with all that is not contiguous: may come again after a restart.
    unsaved: BTreeSet<u64>,
}

struct Run {
    io: Arc<SimFs>,
    core: Core<SimFs>,
    walks: Vec<Walk<usize>>,
    queues: Vec<Queue>,
    all: Promise,
    made: usize,
}

impl Run {
    fn new() -> Run {
        let io = Arc::new(SimFs::new(State::default(), Lie::None));
        let core = open(&io, Terms::BLOCK, 100);
        let walks = (0..READERS).map(|reader| Walk::new(reader, core.seed())).collect();
        let queues = (0..READERS).map(|_| Queue::default()).collect();
        Run { io, core, walks, queues, all: Promise::default(), made: 0 }
    }

    fn commit(&mut self, frames: &[(u64, usize)]) {
        let mut group = Group::default();
        let mut lsns = Vec::new();
        for (bits, len) in frames {
            self.made += 1;
            let payload = vec![self.made as u8; *len];
            lsns.push(add(&mut self.core, &mut group, *bits, payload, &mut self.all));
        }
        while let Err(fail) = self.core.commit(&mut group, 0) {
            assert!(matches!(fail, Fail::Full), "{fail:?}");
            // Somebody has to take something.
            for reader in 0..READERS {
                for (lsn, ..) in std::mem::take(&mut self.queues[reader].owed) {
                    self.settle(reader, lsn);
                }
                self.queues[reader].in_hand.clear();
                // It learns of frames that it has not met by reading on.
                while matches!(self.walks[reader].next(&*self.io, self.core.shared(), 0), Step::Frame(..)) {}
            }
        }
        for lsn in lsns {
            let (bits, records, payload) = self.all.frames[&lsn].clone();
            for (reader, queue) in self.queues.iter_mut().enumerate().filter(|(reader, _)| bits >> reader & 1 == 1) {
                let _ = reader;
                queue.owed.push_back((lsn, records, payload.clone()));
            }
        }
    }

    fn settle(&mut self, reader: usize, lsn: u64) {
        let queue = &mut self.queues[reader];
        queue.owed.retain(|(other, ..)| *other != lsn);
        queue.in_hand.retain(|other| *other != lsn);
        queue.unsaved.insert(lsn);
        lock(self.core.shared()).settle(reader, lsn);
    }

    fn read(&mut self, reader: usize) {
        let queue = &mut self.queues[reader];
        let expected = queue.owed.iter().find(|(lsn, ..)| *lsn > queue.after);
        match (self.walks[reader].next(&*self.io, self.core.shared(), queue.after), expected) {
            (Step::Frame(head, bytes), Some((lsn, records, payload))) => {
                assert_eq!((head.lsn, head.records, &bytes), (*lsn, *records, payload), "reader {reader}");
                queue.after = head.lsn;
                queue.in_hand.push(head.lsn);
            }
            (Step::End, None) => {}
            (got, expected) => panic!("reader {reader}: {got:?} where the queue has {expected:?}"),
        }
    }

    fn restart(&mut self, in_order: bool) {
        if in_order {
            self.core.save_cursors().expect("a good disk");
            self.core.seal();
        }
        self.core = open(&self.io, Terms::BLOCK, 100);
        for reader in 0..READERS {
            self.walks[reader] = Walk::new(reader, self.core.seed());
            let settled = lock(self.core.shared()).readers[reader].settled;
            let queue = &mut self.queues[reader];
            (queue.after, queue.in_hand) = (0, Vec::new());
            // What was settled beyond the cursor comes again, and nothing below it does.
            assert!(queue.owed.iter().all(|(lsn, ..)| *lsn > settled), "reader {reader} skips what it is owed");
            let again = std::mem::take(&mut queue.unsaved).into_iter().filter(|lsn| *lsn > settled);
            for lsn in again {
                let (_, records, payload) = self.all.frames[&lsn].clone();
                queue.owed.push_back((lsn, records, payload));
            }
            queue.owed.make_contiguous().sort_unstable_by_key(|(lsn, ..)| *lsn);
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Commit(frames) => self.commit(frames),
            Op::Read(reader) => self.read(*reader),
            Op::Settle(reader, at) if !self.queues[*reader].in_hand.is_empty() => {
                let lsn = *at.get(&self.queues[*reader].in_hand);
                self.settle(*reader, lsn);
            }
            Op::SettleUnread(reader, at) if !self.queues[*reader].owed.is_empty() => {
                let owed: Vec<u64> = self.queues[*reader].owed.iter().map(|(lsn, ..)| *lsn).collect();
                self.settle(*reader, *at.get(&owed));
            }
            Op::Settle(..) | Op::SettleUnread(..) => {}
            Op::Save => self.core.save_cursors().expect("a good disk"),
            Op::Collect => assert!(self.core.collect(0).is_ok()),
            Op::Restart(in_order) => self.restart(*in_order),
        }
        self.check();
    }

    /// What is told of the backlog is what the queue has.
    fn check(&self) {
        let books = lock(self.core.shared());
        for (reader, queue) in self.queues.iter().enumerate() {
            let told = books.readers[reader].backlog(&books.totals, books.committed).sum();
            let records: u64 = queue.owed.iter().map(|(_, records, _)| u64::from(*records)).sum();
            let early: u64 = self.early(&books, reader);
            assert_eq!(told.records, records + early, "the backlog of reader {reader}");
        }
    }

    /// Records that were settled before their reader met them in the log: they count until it does.
    fn early(&self, books: &super::books::Books, reader: usize) -> u64 {
        let of = &books.readers[reader];
        let unmet = self.queues[reader].unsaved.iter().filter(|lsn| **lsn >= of.horizon());
        unmet.map(|lsn| u64::from(self.all.frames[lsn].1)).sum()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, max_shrink_iters: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn the_log_gives_each_reader_what_a_queue_would(ops in prop::collection::vec(op(), 1..24)) {
        let mut run = Run::new();
        ops.iter().for_each(|op| run.apply(op));
        for reader in 0..READERS {
            let left: Vec<_> = read_all(&run.io, &run.core, reader);
            let owed: Vec<_> = run.queues[reader].owed.iter().cloned().collect();
            prop_assert_eq!(left, owed, "the end of reader {}", reader);
        }
    }
}
