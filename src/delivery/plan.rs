//! The decisions of one sink's delivery: what is sent next, when, and what an outcome means. Pure: it takes `now`, does
//! no I/O and settles nothing; `mod.rs` asks it and acts.
//!
//! ```text
//! shipments -> gather -> (size or wait) -> request -> in flight -> ended
//!                                   ^                     |  halves: `ready`, sent before anything new
//!                                   |                     |  retry:  `waiting`, until its time
//! ```
//!
//! How many requests are in flight is `pace.rs`'s to say: fewer after failures, one while the destination is dead.
//! Limits: no more is gathered than one request holds (then the queue is left to fill, which is the back-pressure);
//! requests in flight and waiting are `at_once` together; halves of a request are at most log2 of its records.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::backoff::{ASKED_MAX, Backoff, DISK, FAULT, NETWORK};
use crate::batch::{Outcome, Receipts, Shipment};
use crate::metrics::RejectReason;
use crate::sinks::request::{Part, Request};
use crate::sinks::{Limits, Reach, Reply, SendError};

use super::pace::Pace;

/// A destination that says "too large" is believed down to this size.
const LEARNED_BYTES_MIN: usize = 16 << 10;
/// The longest wait between tries once no more records come and the node wants to stop.
const CLOSING_WAIT_MAX: Duration = Duration::from_secs(1);

/// What to do next.
#[derive(Debug)]
pub enum Next {
    /// Send this.
    Send(Request),
    /// Nothing before this time, or before something else happens.
    Wait(Option<Instant>),
}

/// How some records ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The destination has them.
    Delivered,
    /// They were refused for good.
    Rejected(RejectReason),
}

impl End {
    /// What their origin hears.
    pub fn outcome(self) -> Outcome {
        match self {
            End::Delivered => Outcome::Delivered,
            End::Rejected(_) => Outcome::Rejected,
        }
    }
}

/// What the destination's answer says about its health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It took something.
    Works,
    /// It answered, and refused what was sent; nothing is known beyond that.
    Refused(String),
    /// It failed; the next try is at that time.
    Fails {
        /// What happened.
        cause: String,
        /// Somebody has to put something right.
        fault: bool,
        /// The next try.
        again: Instant,
    },
    /// It is gone, and that is the end.
    Closed,
}

impl State {
    /// What the destination said, if it did not take everything.
    pub fn cause(&self) -> &str {
        match self {
            State::Refused(cause) | State::Fails { cause, .. } => cause,
            State::Works | State::Closed => "",
        }
    }
}

/// The meaning of one outcome.
#[derive(Debug)]
pub struct Meaning {
    /// Records that ended: to be settled and counted.
    pub ended: Vec<(Part, End)>,
    /// Health.
    pub state: State,
    /// The destination's limit was learned: this many bytes a request from now on.
    pub shrunk: Option<usize>,
}

/// The state of one sink's delivery.
#[derive(Debug)]
pub struct Plan {
    limits: Limits,
    /// Bytes of a request; shrinks when the destination says that requests are too large.
    bytes_max: usize,
    gathered: VecDeque<Part>,
    gathered_cost: usize,
    gathered_since: Option<Instant>,
    ready: VecDeque<Request>,
    waiting: Vec<(Instant, Request)>,
    in_flight: usize,
    /// Nothing is sent before this time: the destination asked for it.
    asked_until: Option<Instant>,
    /// Nor before this one: a fault has to be put right, or the destination is dead. An answer ends it.
    paused_until: Option<Instant>,
    /// Faults in a row. While there are any, one request at a time finds out whether it works again.
    faults: u32,
    pace: Pace,
    closing: bool,
    rng: fastrand::Rng,
}

impl Plan {
    /// A plan for a sink with these limits; `seed` decides jitter and keys.
    pub fn new(limits: Limits, seed: u64) -> Plan {
        assert!(limits.at_once > 0 && limits.bytes > 0, "a sink takes something: {limits:?}");
        Plan {
            limits,
            bytes_max: limits.bytes,
            gathered: VecDeque::new(),
            gathered_cost: 0,
            gathered_since: None,
            ready: VecDeque::new(),
            waiting: Vec::new(),
            in_flight: 0,
            asked_until: None,
            paused_until: None,
            faults: 0,
            pace: Pace::new(limits.at_once),
            closing: false,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Whether more shipments may be taken from the queue.
    pub fn has_room(&self) -> bool {
        self.gathered_cost < self.bytes_max
    }

    /// Whether nothing is left to send or to wait for.
    pub fn is_empty(&self) -> bool {
        self.gathered.is_empty() && self.ready.is_empty() && self.waiting.is_empty() && self.in_flight == 0
    }

    /// Bytes that a request may hold now.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Takes a shipment. One without records for this sink is given back to be settled.
    pub fn take(&mut self, shipment: Shipment, now: Instant) -> Result<(), Receipts> {
        let part = Part::of(shipment)?;
        self.gathered_cost += part.cost();
        self.gathered_since.get_or_insert(now);
        self.gathered.push_back(part);
        Ok(())
    }

    /// Takes back records that did not fit into the request that is sent instead of `request`: they come next, in the order
    /// that they had.
    pub fn take_back(&mut self, parts: Vec<Part>, request: &Request, now: Instant) {
        if !request.is_first {
            // The other half of what it was part of waits in `ready`, and comes after them.
            let key = self.key();
            let mut rest = Request::new(parts, key);
            rest.tallied = request.tallied;
            return self.ready.push_front(rest);
        }
        for part in parts.into_iter().rev() {
            self.gathered_cost += part.cost();
            self.gathered.push_front(part);
        }
        // They have waited once; they do not wait again.
        self.gathered_since = now.checked_sub(self.limits.wait).or(Some(now));
    }

    /// Nobody ships any more, and the node wants to stop: what is gathered goes out at once, everything that waits is tried
    /// once more at once, and further waits are short.
    pub fn close(&mut self, now: Instant) {
        if self.closing {
            return;
        }
        self.closing = true;
        for (due, _) in &mut self.waiting {
            *due = (*due).min(now);
        }
        (self.asked_until, self.paused_until) = (None, None);
    }

    /// What to send now, or until when there is nothing to send.
    pub fn next(&mut self, now: Instant) -> Next {
        // Later than none is any.
        if let Some(until) = self.asked_until.max(self.paused_until).filter(|until| now < *until) {
            return Next::Wait(Some(until));
        }
        (self.asked_until, self.paused_until) = (None, None);
        let at_once = if self.faults > 0 { 1 } else { self.pace.at_once() };
        if self.in_flight >= at_once {
            return Next::Wait(None);
        }
        let next = self.waiting.iter().enumerate().min_by_key(|(_, (due, _))| *due).map(|(at, (due, _))| (at, *due));
        // What finds out whether a fault is put right waits for no other one.
        let probe = if self.faults > 0 { self.ready.pop_front() } else { None };
        let mut request = match (probe, next) {
            (Some(request), _) => request,
            (None, Some((at, due))) if due <= now => self.waiting.swap_remove(at).1,
            (None, next) => {
                let due = next.map(|(_, due)| due);
                // Halves, too: with one at a time what is not tried again yet goes before what was behind it.
                if self.in_flight + self.waiting.len() >= at_once {
                    return Next::Wait(due);
                }
                if let Some(request) = self.ready.pop_front() {
                    request
                } else {
                    let Some(since) = self.gathered_since else { return Next::Wait(due) };
                    let flush = since + self.limits.wait;
                    if self.has_room() && now < flush && !self.closing {
                        return Next::Wait(Some(due.map_or(flush, |due| due.min(flush))));
                    }
                    self.gather()
                }
            }
        };
        self.in_flight += 1;
        request.number = self.pace.sends();
        Next::Send(request)
    }

    fn gather(&mut self) -> Request {
        let parts = std::mem::take(&mut self.gathered).into();
        self.gathered_cost = 0;
        self.gathered_since = None;
        let key = self.key();
        let mut request = Request::new(parts, key);
        request.is_first = true;
        request
    }

    fn key(&mut self) -> u128 {
        self.rng.u128(..)
    }

    /// What an outcome means for the request that had it.
    pub fn finish(&mut self, mut request: Request, outcome: Result<Reply, SendError>, now: Instant) -> Meaning {
        assert!(self.in_flight > 0, "an outcome without a request in flight");
        self.in_flight -= 1;
        let mut meaning = Meaning { ended: Vec::new(), state: State::Works, shrunk: None };
        match outcome {
            Ok(reply) => {
                self.answers(now);
                if reply.marks.is_empty() {
                    meaning.ended = request.parts.into_iter().map(|part| (part, End::Delivered)).collect();
                } else {
                    self.divide(request, &reply, now, &mut meaning);
                }
            }
            Err(SendError::Retry { cause, not_before }) => {
                request.tries = request.tries.saturating_add(1);
                self.pace.fails(request.number);
                let mut again = now + self.wait(backoff(self.limits.reach), request.tries, true);
                if self.pace.is_open() {
                    // The destination is dead, not this request: nobody else has to find that out.
                    again = now + self.wait(backoff(self.limits.reach), self.pace.rounds(), true);
                    self.paused_until = self.paused_until.max(Some(again));
                }
                if let Some(asked) = not_before {
                    let until = now + self.shorten(asked.min(ASKED_MAX));
                    self.asked_until = self.asked_until.max(Some(until));
                    // "Retry-After: 0" is no invitation to a busy loop.
                    again = again.max(until);
                }
                self.waiting.push((again, request));
                meaning.state = State::Fails { cause, fault: false, again };
            }
            Err(SendError::Pause { cause }) => {
                request.tries = request.tries.saturating_add(1);
                // Requests that were under way together tell of one fault, not of several.
                let again = match self.paused_until.filter(|until| *until > now && self.faults > 0) {
                    Some(until) => until,
                    None => {
                        self.faults = self.faults.saturating_add(1);
                        now + self.wait(FAULT, self.faults, false)
                    }
                };
                self.paused_until = Some(again);
                self.ready.push_front(request);
                meaning.state = State::Fails { cause, fault: true, again };
            }
            Err(SendError::TooLarge { cause }) => {
                self.answers(now);
                let sent = if request.body().is_some() { request.plain() } else { self.bytes_max };
                self.split(request, RejectReason::TooLarge, cause, &mut meaning);
                if meaning.ended.is_empty() && sent / 2 < self.bytes_max {
                    let learned = (sent / 2).max(LEARNED_BYTES_MIN);
                    if learned < self.bytes_max {
                        self.bytes_max = learned;
                        meaning.shrunk = Some(learned);
                    }
                }
            }
            Err(SendError::Reject { cause }) => {
                self.answers(now);
                self.split(request, RejectReason::Refused, cause, &mut meaning);
            }
            Err(SendError::Closed) => meaning.state = State::Closed,
        }
        meaning
    }

    /// The destination is there. What waits because it was dead, or because of a fault that is none any more, goes out, as
    /// fast as the pace allows; not what it asked to wait itself.
    fn answers(&mut self, now: Instant) {
        self.faults = 0;
        self.paused_until = None;
        if self.pace.answers() {
            self.waiting.iter_mut().for_each(|(due, _)| *due = (*due).min(now));
        }
    }

    /// Halves a refused request, or ends its only record.
    fn split(&mut self, request: Request, reason: RejectReason, cause: String, meaning: &mut Meaning) {
        let keys = (self.key(), self.key());
        let (first, second) = request.halve(keys);
        match second {
            Some(second) => {
                self.ready.push_front(second);
                self.ready.push_front(first);
            }
            None => meaning.ended = first.parts.into_iter().map(|part| (part, End::Rejected(reason))).collect(),
        }
        meaning.state = State::Refused(cause);
    }

    /// Ends the records of a request that was taken in part, and keeps the others for another try.
    fn divide(&mut self, request: Request, reply: &Reply, now: Instant, meaning: &mut Meaning) {
        assert_eq!(reply.marks.len(), request.len(), "one mark a record");
        let tries = request.tries.saturating_add(1);
        let key = if reply.keeps_key { request.key } else { self.key() };
        let mut again = Vec::new();
        let mut marks = reply.marks.iter();
        let mut never = false;
        for part in request.parts {
            let mut by_mark = [Vec::new(), Vec::new(), Vec::new()];
            for (row, mark) in part.rows.iter().zip(&mut marks) {
                by_mark[*mark as usize].push(*row);
            }
            let [taken, refused, left] = by_mark;
            let mut end = |rows: Vec<u32>, end| {
                if !rows.is_empty() {
                    meaning.ended.push((part.with(rows), end));
                }
            };
            never |= !refused.is_empty();
            end(taken, End::Delivered);
            end(refused, End::Rejected(RejectReason::Unencodable));
            if !left.is_empty() {
                again.push(part.with(left));
            }
            // The part's own handle: its rows have their own clones now.
            part.receipts.settle(Outcome::Delivered);
        }
        if !again.is_empty() {
            let at = now + self.wait(backoff(self.limits.reach), tries, true);
            let mut rest = Request::new(again, key);
            (rest.tries, rest.tallied, rest.keeps_key) = (tries, true, reply.keeps_key);
            self.waiting.push((at, rest));
            meaning.state = State::Fails { cause: reply.cause.clone(), fault: false, again: at };
        } else if never {
            meaning.state = State::Refused(reply.cause.clone());
        }
    }

    fn wait(&mut self, backoff: Backoff, tries: u32, jitter: bool) -> Duration {
        let wait = if jitter { backoff.jittered(tries, &mut self.rng) } else { backoff.ceiling(tries) };
        self.shorten(wait)
    }

    fn shorten(&self, wait: Duration) -> Duration {
        if self.closing { wait.min(CLOSING_WAIT_MAX) } else { wait }
    }
}

fn backoff(reach: Reach) -> Backoff {
    match reach {
        Reach::Local => DISK,
        Reach::Network => NETWORK,
        #[cfg(test)]
        Reach::Quick => Backoff { first: Duration::from_millis(20), max: Duration::from_millis(40) },
    }
}

#[cfg(test)]
mod tests;
