//! A list that grows while others read it: what is in it keeps its number and its place, and is found without a lock.
//!
//! Inputs, sinks and their pairs are numbered for as long as the process runs: batches and receipts carry the numbers, so
//! a reload of the configuration may add some and must never give one to another name.
//! Limit: the capacity that the list was made with.

use std::ops::Index;
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// See the header.
#[derive(Debug)]
pub struct Slots<T> {
    places: Box<[OnceLock<Box<T>>]>,
    len: AtomicUsize,
    growing: Mutex<()>,
}

impl<T> Slots<T> {
    /// An empty list for so many.
    pub fn new(capacity: usize) -> Slots<T> {
        let places = (0..capacity).map(|_| OnceLock::new()).collect();
        Slots { places, len: AtomicUsize::new(0), growing: Mutex::default() }
    }

    /// The same, with these in it.
    pub fn of(capacity: usize, things: impl IntoIterator<Item = T>) -> Slots<T> {
        let slots = Slots::new(capacity);
        for thing in things {
            assert!(slots.push(thing).is_some(), "more than {capacity}");
        }
        slots
    }

    /// Adds one at the end; its number, or `None` where there is no room.
    pub fn push(&self, thing: T) -> Option<usize> {
        let _one = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let at = self.len.load(Ordering::Acquire);
        self.places.get(at)?.set(Box::new(thing)).ok()?;
        // After it is in its place: whoever sees the length sees the thing.
        self.len.store(at + 1, Ordering::Release);
        Some(at)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether one more has room.
    pub fn has_room(&self) -> bool {
        self.len() < self.places.len()
    }

    /// The one of that number.
    pub fn get(&self, at: usize) -> Option<&T> {
        self.places.get(at)?.get().map(Box::as_ref)
    }

    /// All, by number.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter(self.places[..self.len()].iter())
    }
}

impl<T> Index<usize> for Slots<T> {
    type Output = T;

    fn index(&self, at: usize) -> &T {
        match self.get(at) {
            Some(thing) => thing,
            None => panic!("number {at} of {}", self.len()),
        }
    }
}

/// All of a list.
#[derive(Debug)]
pub struct Iter<'a, T>(slice::Iter<'a, OnceLock<Box<T>>>);

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        self.0.next()?.get().map(Box::as_ref)
    }
}

impl<'a, T> IntoIterator for &'a Slots<T> {
    type Item = &'a T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_places_stay_while_it_grows_under_readers() {
        let slots = Slots::of(100, [0usize]);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while slots.len() < 100 {
                        // Each has the number that it was given, whenever it is looked at.
                        assert!(slots.iter().enumerate().all(|(at, thing)| *thing == at));
                        let last = slots.len() - 1;
                        assert_eq!(slots[last], last);
                    }
                });
            }
            for at in 1..100 {
                assert_eq!(slots.push(at), Some(at));
            }
        });
        assert_eq!((slots.push(7), slots.has_room(), slots.get(100)), (None, false, None));
    }
}
