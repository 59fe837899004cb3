//! The first message of an input: what it starts with, and how much of it was delivered before.

use std::sync::Mutex;

use super::chain::Opening;
use crate::settings::show_size;

/// Counts the chains of the first listing until all have found their place.
#[derive(Debug)]
pub struct Startup {
    input: String,
    what: &'static str,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    wanted: Option<usize>,
    chains: usize,
    bytes: u64,
    done: u64,
    said: bool,
}

impl Startup {
    /// For the input of that name; `what` its chains are, in the plural.
    pub fn new(input: &str, what: &'static str) -> Startup {
        Startup { input: input.to_owned(), what, state: Mutex::default() }
    }

    /// One more chain has its place.
    pub fn add(&self, opening: Opening) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.chains += 1;
        state.bytes += opening.bytes;
        state.done += opening.done;
        self.say(&mut state);
    }

    /// The listing is complete: so many chains were sent.
    pub fn listed(&self, chains: usize) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.wanted = Some(chains);
        self.say(&mut state);
    }

    fn say(&self, state: &mut State) {
        if state.wanted.is_none_or(|wanted| state.chains < wanted) || std::mem::replace(&mut state.said, true) {
            return;
        }
        let (new, all) = (state.bytes - state.done, state.bytes);
        tracing::info!(
            input = self.input,
            chains = state.chains,
            bytes = all,
            delivered_before = state.done,
            "{}",
            text(state.chains, self.what, new, all)
        );
    }
}

fn text(chains: usize, what: &str, new: u64, all: u64) -> String {
    let (new_text, all_text) = (show_size(new), show_size(all));
    if all > 0 && new == 0 {
        format!("following {chains} {what}, nothing new: all {all_text} were delivered before")
    } else if new < all {
        format!("following {chains} {what}, {new_text} of {all_text} new: the rest was delivered before")
    } else {
        format!("following {chains} {what}, {all_text} to read")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_says_what_is_new() {
        assert_eq!(
            text(3, "containers", 0, 12 << 10),
            "following 3 containers, nothing new: all 12KiB were delivered before"
        );
        assert_eq!(text(1, "files", 5, 12), "following 1 files, 5B of 12B new: the rest was delivered before");
        assert_eq!(text(0, "files", 0, 0), "following 0 files, 0B to read");
    }
}
