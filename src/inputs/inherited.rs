//! Listening sockets that another process opened: systemd's (socket activation), or a longshore's that hands over.
//!
//! A socket belongs to the configured address that it is bound to, so the same configuration works with and without
//! them. While nobody accepts, connections wait in the socket's own queue, which lives as long as any process has it:
//! that is why a hand-over loses none, where a second socket on the same port (`SO_REUSEPORT`) would reset what waits
//! in the first one's queue when that is closed. A listener that a reload ends leaves its socket here ([`keep`]) for the
//! one that comes after it.
//! Limits: [`SOCKETS_MAX`] sockets. Format: `sd_listen_fds(3)`.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use listenfd::ListenFd;
use socket2::{SockAddr, Socket};

/// Sockets that are taken or given, at most: the kernel passes 253 in one message.
pub const SOCKETS_MAX: usize = 253;

/// There is one process, and its descriptors are one.
static ALL: Mutex<All> =
    Mutex::new(All { given: Vec::new(), outside: Vec::new(), own: Vec::new(), handed: false, keeping: false });

struct All {
    /// Given to us and not taken yet.
    given: Vec<Socket>,
    /// Addresses whose files somebody else looks after.
    outside: Vec<SockAddr>,
    /// What we listen on, for the next one.
    own: Vec<Socket>,
    handed: bool,
    /// Listeners that end leave their sockets.
    keeping: bool,
}

fn all() -> MutexGuard<'static, All> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes note of the sockets that the environment names (`LISTEN_FDS`, `LISTEN_PID`). Called once, at the start.
pub fn read_environment() {
    let mut given = ListenFd::from_env();
    let mut all = all();
    for at in 0..given.len().min(SOCKETS_MAX) {
        let tcp = given.take_tcp_listener(at).ok().flatten().map(Socket::from);
        let socket = tcp.or_else(|| given.take_unix_listener(at).ok().flatten().map(Socket::from));
        match socket {
            Some(socket) => {
                all.outside.extend(socket.local_addr());
                all.given.push(socket);
            }
            None => tracing::warn!(number = at + 3, "a descriptor of LISTEN_FDS is no listening stream socket"),
        }
    }
}

/// Takes note of sockets that another longshore gave.
pub fn receive(sockets: Vec<OwnedFd>) {
    all().given.extend(sockets.into_iter().map(Socket::from));
}

/// The socket that was given for this address, if one was.
pub fn take(address: &SockAddr) -> Option<Socket> {
    let mut all = all();
    let at = all.given.iter().position(|socket| socket.local_addr().is_ok_and(|own| own == *address))?;
    Some(all.given.swap_remove(at))
}

/// Notes a socket that we listen on, to be handed over later.
pub fn offer(socket: &Socket) {
    let mut all = all();
    if all.own.len() < SOCKETS_MAX
        && let Ok(copy) = socket.try_clone()
    {
        all.own.push(copy);
    }
}

/// Copies of what we listen on, for another process.
pub fn copies() -> Vec<OwnedFd> {
    all().own.iter().filter_map(|socket| socket.try_clone().ok()).map(OwnedFd::from).collect()
}

/// From now on another process accepts on our sockets.
pub fn handed_over() {
    all().handed = true;
}

/// Lets go of the socket for this address, which nobody took: it ends when its listener does. Between [`keep`] and
/// [`close_rest`] it stays open for the next listener of the address: then this says so.
pub fn withdraw(address: &SockAddr) -> bool {
    let mut all = all();
    let is_it = |socket: &Socket| socket.local_addr().is_ok_and(|own| own == *address);
    let Some(at) = all.own.iter().position(is_it) else { return false };
    let socket = all.own.swap_remove(at);
    if all.keeping {
        all.given.push(socket);
    }
    all.keeping
}

/// From now on a listener that ends leaves its socket open, until [`close_rest`].
pub fn keep() {
    all().keeping = true;
}

/// Whether another process accepts on our sockets.
pub fn is_handed_over() -> bool {
    all().handed
}

/// Whether the file of this Unix socket is somebody else's to remove.
pub fn is_from_outside(path: &Path) -> bool {
    SockAddr::unix(path).is_ok_and(|address| all().outside.contains(&address))
}

/// Closes what was given and is in no configuration, and says where it was. Removes the files of Unix sockets that are
/// ours.
pub fn close_rest() -> Vec<String> {
    let (rest, outside) = {
        let mut all = all();
        all.keeping = false;
        (std::mem::take(&mut all.given), all.outside.clone())
    };
    for address in rest.iter().filter_map(|socket| socket.local_addr().ok()).filter(|own| !outside.contains(own)) {
        if let Some(path) = address.as_pathname() {
            let _ = std::fs::remove_file(path);
        }
    }
    let shown = |socket: &Socket| match socket.local_addr() {
        Ok(address) => match (address.as_socket(), address.as_pathname()) {
            (Some(address), _) => address.to_string(),
            (_, Some(path)) => path.display().to_string(),
            _ => "an address of another kind".to_owned(),
        },
        Err(error) => error.to_string(),
    };
    rest.iter().map(shown).collect()
}
