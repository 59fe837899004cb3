//! How old the oldest record is that has no end yet, by counting: a mark says how many had come by then, and is passed when
//! as many have ended. No record carries a time for it. What is tried again while later ones are delivered counts as
//! one of the last, so the age is a lower bound.
//!
//! Limit: [`MARKS_MAX`] marks; when there are more, every second one goes, so the oldest is always exact.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Marks of one sink, at most.
const MARKS_MAX: usize = 128;

/// See the header. One for each sink.
#[derive(Debug, Default)]
pub(super) struct Age {
    marks: VecDeque<(Instant, u64)>,
}

impl Age {
    /// By now so many have come, and so many have ended.
    pub(super) fn look(&mut self, came: u64, ended: u64, now: Instant) {
        while self.marks.front().is_some_and(|(_, came)| ended >= *came) {
            self.marks.pop_front();
        }
        if came <= ended || self.marks.back().is_some_and(|(_, last)| came <= *last) {
            return;
        }
        if self.marks.len() == MARKS_MAX {
            let mut nth = 0;
            self.marks.retain(|_| {
                nth += 1;
                nth % 2 == 1
            });
        }
        self.marks.push_back((now, came));
    }

    /// How old it is; zero if there is none.
    pub(super) fn of(&self, now: Instant) -> Duration {
        self.marks.front().map_or(Duration::ZERO, |(at, _)| now.saturating_duration_since(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_is_that_of_the_first_mark_that_is_not_passed() {
        let from = Instant::now();
        let at = |secs| from + Duration::from_secs(secs);
        let mut age = Age::default();
        age.look(0, 0, at(0));
        assert_eq!(age.of(at(5)), Duration::ZERO);
        age.look(10, 0, at(5));
        age.look(20, 5, at(6));
        age.look(20, 9, at(7));
        assert_eq!(age.of(at(8)), Duration::from_secs(3), "one of the first ten");
        age.look(25, 10, at(8));
        assert_eq!(age.of(at(9)), Duration::from_secs(3), "of those that came at six");
        age.look(25, 25, at(9));
        assert_eq!(age.of(at(99)), Duration::ZERO);
    }

    #[test]
    fn a_dead_sink_costs_few_marks_and_the_oldest_stays() {
        let from = Instant::now();
        let mut age = Age::default();
        for n in 1..=10_000 {
            age.look(n, 0, from + Duration::from_secs(n));
        }
        assert!(age.marks.len() <= MARKS_MAX, "{}", age.marks.len());
        assert_eq!(age.of(from + Duration::from_secs(10_001)), Duration::from_secs(10_000));
        age.look(10_000, 9_999, from + Duration::from_secs(10_002));
        assert!(age.of(from + Duration::from_secs(10_002)) < Duration::from_secs(200), "near enough");
    }
}
