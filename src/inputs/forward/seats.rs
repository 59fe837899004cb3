//! Open connections: how many in all and of each peer, and how many the system lets us have.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::rules::masked;

/// Descriptors that connections leave to files, sinks and the admin server.
const RESERVE: u64 = 256;

/// The seats of one input.
#[derive(Debug)]
pub(super) struct Seats {
    max: usize,
    peer_max: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_peer: HashMap<IpAddr, usize>,
}

/// One open connection; given back when it is dropped.
pub(super) struct Seat {
    seats: Arc<Seats>,
    peer: Option<IpAddr>,
}

impl Seats {
    /// So many seats in all and for each peer.
    pub(super) fn new(max: usize, peer_max: usize) -> Arc<Seats> {
        Arc::new(Seats { max, peer_max, open: Mutex::default() })
    }

    /// A seat for one more connection of this peer (`None`: of a Unix socket), if the limits have one.
    pub(super) fn take(self: &Arc<Self>, peer: Option<IpAddr>) -> Result<Seat, String> {
        let peer = peer.map(whole);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.all >= self.max {
            return Err(format!("refused: {} connections are open (`connections_max`)", open.all));
        }
        if let Some(peer) = peer {
            let of_peer = open.by_peer.entry(peer).or_default();
            if *of_peer >= self.peer_max {
                return Err(format!("refused: {of_peer} connections of this peer are open (`peer_connections_max`)"));
            }
            *of_peer += 1;
        }
        open.all += 1;
        Ok(Seat { seats: Arc::clone(self), peer })
    }
}

/// Who counts as one peer: an IPv4 address, or the 64 bits of an IPv6 network that one host may be given.
fn whole(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        v6 @ IpAddr::V6(_) => masked(v6, 64),
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.seats.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.all -= 1;
        if let Some(peer) = self.peer
            && let Some(count) = open.by_peer.get_mut(&peer)
        {
            *count -= 1;
            if *count == 0 {
                open.by_peer.remove(&peer);
            }
        }
    }
}

/// Raises the process's own limit of open descriptors as far as `wanted` connections need and the system allows; says
/// for how many there is room. Then a flood of connections meets `connections_max` and not a failing `accept`, and
/// sinks can still open their files.
pub(super) fn room_for(wanted: usize) -> usize {
    let needed = (wanted as u64).saturating_add(RESERVE);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let mut room = current.unwrap_or(u64::MAX);
    if room < needed {
        let raised = needed.min(maximum.unwrap_or(u64::MAX));
        if setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum }).is_ok() {
            room = raised;
        }
    }
    wanted.min(usize::try_from(room.saturating_sub(RESERVE)).unwrap_or(usize::MAX).max(16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_counted_in_all_and_by_peer_and_given_back() {
        let seats = Seats::new(4, 2);
        let ip = |text: &str| Some(text.parse::<IpAddr>().expect("an address"));
        let first = seats.take(ip("10.0.0.1")).expect("free");
        let _second = seats.take(ip("::ffff:10.0.0.1")).expect("free");
        let refused = seats.take(ip("10.0.0.1")).err().expect("the same peer");
        assert!(refused.contains("peer_connections_max"), "{refused}");
        let _sixth = [seats.take(ip("fd00::1")).expect("free"), seats.take(ip("fd00::2")).expect("free")];
        let refused = seats.take(None).err().expect("all are taken");
        assert!(refused.contains("`connections_max`"), "{refused}");
        drop(first);
        assert!(seats.take(ip("fd00::3")).is_err(), "one network of 64 bits is one peer");
        let _again = seats.take(ip("10.0.0.1")).expect("one was given back");
        assert!(seats.take(None).is_err());
    }

    #[test]
    fn there_is_room_for_what_the_system_allows() {
        assert_eq!(room_for(20), 20);
        let hard = getrlimit(Resource::Nofile).maximum;
        let room = room_for(usize::MAX / 2);
        assert!(hard.is_none_or(|hard| room as u64 <= hard), "{room}");
    }
}
