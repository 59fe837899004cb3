//! What of a chain was delivered: ordered ranges in flight, and the mark up to which all of them are settled. Pure.
//!
//! Ranges are opened in the order in which they were read and settled in any order. The mark moves over settled
//! ranges only, never past one that was not delivered. Each range says where an unfinished join began when it was cut
//! off ([`Mark::hold`]): a restart has to read from there again, though what ends before the mark was delivered.
//!
//! Limit: one entry a batch in flight, so the memory budget bounds it.

use std::collections::VecDeque;

use super::identity;

/// How far a chain was delivered, in positions of the chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Everything before it was delivered.
    pub done: u64,
    /// Mark of the content before `done`.
    pub tail: identity::Mark,
    /// Where the first piece of an unfinished line starts; before `done`.
    pub hold: Option<u64>,
    /// Time of the latest record before `done`, nanoseconds since 1970; 0 while none is known.
    pub time: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    InFlight,
    Settled,
    Failed,
}

#[derive(Debug)]
struct Range {
    after: Mark,
    state: State,
}

/// The ranges of one chain.
#[derive(Debug, Default)]
pub struct Tracker {
    mark: Mark,
    /// Number of the first range in `ranges`.
    first: u64,
    ranges: VecDeque<Range>,
    failed: bool,
}

impl Tracker {
    /// Nothing in flight, everything before `mark.done` delivered.
    pub fn new(mark: Mark) -> Tracker {
        Tracker { mark, ..Tracker::default() }
    }

    /// Opens the range that ends at `after.done`, and numbers it. Ranges follow one another without a gap.
    pub fn open(&mut self, after: Mark) -> u64 {
        let before = self.ranges.back().map_or(self.mark.done, |range| range.after.done);
        assert!(after.done >= before, "a range ends at {}, before the one ahead of it ({before})", after.done);
        let number = self.opened();
        self.ranges.push_back(Range { after, state: State::InFlight });
        number
    }

    /// How many ranges were opened: the number of the next one.
    pub fn opened(&self) -> u64 {
        self.first + self.ranges.len() as u64
    }

    /// Settles a range. Returns the bytes by which the mark moved. A number from before [`Tracker::reset`] is ignored.
    pub fn settle(&mut self, number: u64, delivered: bool) -> u64 {
        let at = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let Some(range) = at.and_then(|at| self.ranges.get_mut(at)) else { return 0 };
        range.state = if delivered { State::Settled } else { State::Failed };
        self.failed |= !delivered;
        let from = self.mark.done;
        while self.ranges.front().is_some_and(|range| range.state == State::Settled) {
            if let Some(range) = self.ranges.pop_front() {
                self.mark = range.after;
                self.first += 1;
            }
        }
        self.mark.done - from
    }

    /// Number of the first range that is not settled, or of the next one.
    pub fn front(&self) -> u64 {
        self.first
    }

    /// How far everything was delivered.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Everything before it was read.
    pub fn end(&self) -> u64 {
        self.ranges.back().map_or(self.mark.done, |range| range.after.done)
    }

    /// Nothing behind `done` was delivered, as it turns out, nor is it in flight.
    pub fn lower(&mut self, done: u64) {
        let marks = self.ranges.iter_mut().map(|range| &mut range.after).chain([&mut self.mark]);
        for mark in marks.filter(|mark| mark.done > done) {
            (mark.done, mark.tail) = (done, identity::Mark::default());
        }
    }

    /// Whether some range was not delivered: its bytes have to be read again.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Whether nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether something is in flight whose fate is not known yet.
    pub fn is_under_way(&self) -> bool {
        self.ranges.iter().any(|range| range.state == State::InFlight)
    }

    /// Forgets what is in flight: it will be read again from the mark.
    pub fn reset(&mut self) {
        self.first += self.ranges.len() as u64;
        self.ranges.clear();
        self.failed = false;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn to(done: u64, hold: Option<u64>) -> Mark {
        Mark { done, tail: identity::Mark::default(), hold, time: 0 }
    }

    #[test]
    fn the_mark_waits_for_the_first_range_in_flight() {
        let mut t = Tracker::default();
        let (a, b, c) = (t.open(to(10, None)), t.open(to(20, Some(15))), t.open(to(30, None)));
        assert_eq!(t.settle(b, true), 0);
        assert_eq!(t.mark().done, 0);
        assert_eq!(t.settle(a, true), 20);
        assert_eq!(t.mark(), to(20, Some(15)));
        assert_eq!(t.settle(c, true), 10);
        assert_eq!(t.mark(), to(30, None));
        assert!(t.is_idle());
    }

    #[test]
    fn the_mark_never_passes_what_was_not_delivered() {
        let mut t = Tracker::default();
        let (a, b) = (t.open(to(10, None)), t.open(to(20, None)));
        t.settle(a, false);
        t.settle(b, true);
        assert!(t.has_failed());
        assert_eq!(t.mark().done, 0);
        t.reset();
        assert_eq!(t.settle(a, true), 0, "a number from before the reset says nothing");
        let again = t.open(to(20, None));
        assert_eq!(t.settle(again, true), 20);
    }

    proptest! {
        #[test]
        fn the_mark_is_the_end_of_the_settled_run_whatever_the_order(
            lens in prop::collection::vec(1u64..100, 1..20),
            order in prop::collection::vec((0usize..20, prop::bool::weighted(0.9)), 0..40),
        ) {
            let mut t = Tracker::default();
            let mut ends = Vec::new();
            let mut end = 0;
            for len in &lens {
                end += len;
                ends.push((t.open(to(end, None)), end));
            }
            let mut state = vec![None; lens.len()];
            let mut moved = 0;
            for (at, delivered) in order {
                if at < lens.len() && state[at].is_none() {
                    state[at] = Some(delivered);
                    moved += t.settle(ends[at].0, delivered);
                }
            }
            let run = state.iter().take_while(|s| **s == Some(true)).count();
            let expected = if run == 0 { 0 } else { ends[run - 1].1 };
            prop_assert_eq!(t.mark().done, expected);
            prop_assert_eq!(moved, expected);
            prop_assert_eq!(t.has_failed(), state.contains(&Some(false)));
        }
    }
}
