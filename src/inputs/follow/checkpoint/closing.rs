//! Chains that nobody reads any more and that have batches under way: what is delivered of those counts, or it would come
//! again with whoever goes on with them. Their files are held until then.
//!
//! Limit: who wants to go on with one waits for [`WAIT_MAX`]; after that what is under way then comes twice. For so long one
//! also waits for a reader to leave its chain, which it does once its sinks take something, or to come to its end: what is
//! rotated away meanwhile is not held.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Checkpoints, Entry, Key, Saved, State, seconds_now};
use crate::inputs::follow::clock;
use crate::inputs::follow::progress::Progress;

/// For so long a chain is closing to those who ask.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// One of them.
pub(super) struct Closing {
    pub(super) key: Key,
    pub(super) progress: Arc<Progress>,
    since: Instant,
}

impl State {
    /// Nobody reads that chain any more.
    pub(super) fn close(&mut self, key: Key, progress: &Arc<Progress>, under_way: bool, saved: Option<Saved>) {
        self.live.remove(&key);
        self.wanted.remove(&key);
        if let Some(saved) = saved {
            self.news.insert(key.clone(), Entry { saved, seen: seconds_now() });
        }
        if under_way {
            self.closing.push(Closing { key, progress: Arc::clone(progress), since: clock::now() });
        }
        self.dirty = true;
    }

    /// The same key is another chain's, or nobody's for good.
    pub(super) fn forget_closing(&mut self, key: &Key) {
        self.closing.retain(|closing| closing.key != *key);
    }

    /// Whether the chain's news are to be saved.
    pub(super) fn is_known(&self, key: &Key, progress: &Arc<Progress>) -> bool {
        let is_it = |closing: &Closing| Arc::ptr_eq(&closing.progress, progress);
        self.is_live(key, progress) || self.closing.iter().any(is_it)
    }
}

impl Checkpoints {
    /// Whether batches of a chain that was closed are under way still: soon it is known how far it got. Or its reader has
    /// not left it yet. Asked by who wants to go on with it: its record stays, whatever becomes of it.
    pub fn is_closing(&self, input: &str, key: &str) -> bool {
        let (mut state, live) = (self.lock(), (input.to_owned(), key.to_owned()));
        if state.live.contains_key(&live) {
            return clock::since(*state.wanted.entry(live).or_insert_with(clock::now)) < WAIT_MAX;
        }
        let mut of_it = state.closing.iter().filter(|closing| closing.key.0 == input && closing.key.1 == key);
        of_it.any(|closing| clock::since(closing.since) < WAIT_MAX && closing.progress.is_under_way())
    }
}
