//! How many requests a destination is given at once. Pure.
//!
//! Additive increase, multiplicative decrease, as TCP does it: each answer widens the window by a part of one request, a
//! failure halves it, once for all requests that were under way together. After [`OPEN_AFTER`] such failures without an
//! answer in between the circuit is open: the whole sink waits between tries, and one request at a time finds out
//! whether the destination is back. The first answer closes it.
//!
//! Limits: one request at least, the sink's `concurrency` at most.

/// Rounds of failures in a row that open the circuit.
const OPEN_AFTER: u32 = 5;

/// The pace of one sink.
#[derive(Debug)]
pub struct Pace {
    max: usize,
    window: f64,
    /// Requests sent so far: the number of the last one.
    sent: u64,
    /// The last request that was under way when the window was halved.
    cut_at: u64,
    rounds: u32,
}

impl Pace {
    /// A destination that takes so many requests at once, as far as is known.
    pub fn new(max: usize) -> Pace {
        Pace { max, window: max as f64, sent: 0, cut_at: 0, rounds: 0 }
    }

    /// Requests that may be under way now.
    pub fn at_once(&self) -> usize {
        if self.is_open() { 1 } else { (self.window as usize).clamp(1, self.max) }
    }

    /// Whether the destination is taken for dead.
    pub fn is_open(&self) -> bool {
        self.rounds >= OPEN_AFTER
    }

    /// Rounds of failures in a row.
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    /// One more is sent: its number.
    pub fn sends(&mut self) -> u64 {
        self.sent += 1;
        self.sent
    }

    /// The destination answered. Says whether the circuit was open.
    pub fn answers(&mut self) -> bool {
        let was_open = self.is_open();
        self.rounds = 0;
        self.window = (self.window + 1.0 / self.window).min(self.max as f64);
        was_open
    }

    /// The request of that number failed.
    pub fn fails(&mut self, number: u64) {
        if number > self.cut_at {
            self.cut_at = self.sent;
            self.rounds = self.rounds.saturating_add(1);
            self.window = (self.window / 2.0).max(1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_one_moment_halve_once_and_answers_widen_slowly() {
        let mut pace = Pace::new(8);
        let numbers: Vec<u64> = (0..8).map(|_| pace.sends()).collect();
        numbers.iter().for_each(|number| pace.fails(*number));
        assert_eq!((pace.at_once(), pace.rounds()), (4, 1));
        let number = pace.sends();
        pace.fails(number);
        assert_eq!(pace.at_once(), 2);
        let mut answers = 0;
        while pace.at_once() < 8 {
            pace.answers();
            answers += 1;
        }
        assert!((20..40).contains(&answers), "{answers}");
        (0..100).for_each(|_| assert!(!pace.answers()));
        assert_eq!(pace.at_once(), 8);
    }

    #[test]
    fn the_circuit_opens_after_rounds_of_failures_and_closes_at_an_answer() {
        let mut pace = Pace::new(3);
        for round in 1..=OPEN_AFTER {
            assert!(!pace.is_open());
            let number = pace.sends();
            pace.fails(number);
            assert_eq!(pace.rounds(), round);
        }
        assert!(pace.is_open());
        assert_eq!(pace.at_once(), 1);
        assert!(pace.answers());
        assert!(!pace.is_open());
    }
}
