//! Log lines about peers: one for each in ten seconds, with the number of those left out.
//!
//! Limits: [`PEERS_SAID_MAX`] peers are remembered; while all of these were spoken of in the last ten seconds, others
//! are not.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time between two log lines about one peer.
const SAY_AGAIN: Duration = Duration::from_secs(10);
/// Peers that are remembered for that.
const PEERS_SAID_MAX: usize = 1024;

/// What was said of whom, and when.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    said: Mutex<HashMap<String, (Instant, u64)>>,
}

impl Complaints {
    pub(super) fn say(&self, peer: &str, message: fmt::Arguments<'_>) {
        // Ports change with every connection; the host is who we talk about.
        let host = peer.rsplit_once(':').map_or(peer, |(host, _)| host).to_owned();
        let now = Instant::now();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() >= PEERS_SAID_MAX && !said.contains_key(&host) {
            said.retain(|_, (at, _)| now.duration_since(*at) < SAY_AGAIN);
            if said.len() >= PEERS_SAID_MAX {
                return;
            }
        }
        let left_out = match said.get_mut(&host) {
            Some((at, left_out)) if now.duration_since(*at) < SAY_AGAIN => {
                *left_out += 1;
                return;
            }
            Some((at, left_out)) => {
                *at = now;
                std::mem::take(left_out)
            }
            None => {
                said.insert(host, (now, 0));
                0
            }
        };
        drop(said);
        tracing::warn!(peer, left_out, "{message}");
    }
}
