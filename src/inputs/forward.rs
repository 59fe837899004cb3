//! The forward input: Fluentd's forward protocol over TCP and Unix sockets, with acks. Docker's `fluentd` logging
//! driver, Fluent Bit and Fluentd send it.
//!
//! One thread accepts; each connection is a task ([`connection`]) with a second one that writes its acks ([`acks`]).
//! No handshake, TLS, UDP heartbeat or JSON mode yet: a sender that tries gets one helpful line in the log.
//! Limits, all settings: connections in all and for each peer, a stall within a frame, and those of the codec
//! ([`Limits`]). Log lines: one for each peer in ten seconds. Counters: `open`, `framing_lost`, `frame_stalled`,
//! `connection_refused`, and those of the codec.

mod acks;
mod connection;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::AsyncWrite;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::codec::forward::Limits;
use crate::codec::msgpack::DEPTH_MAX;
use crate::inputs::{Ack, Input, InputKind, Outlet};
use crate::metrics::Oddity;
use crate::settings::Section;
use crate::workers::Workers;

use acks::Acks;
use connection::{Connection, Held, Reader};

/// This input's row in the table.
pub const KIND: InputKind = InputKind { name: "forward", read };

/// Connections that the system holds for us until they are accepted: all containers come back at once.
const BACKLOG: i32 = 4096;
/// Idle time before the system asks whether the peer is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Time between two tries after `accept` failed (descriptors are used up).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Time between two log lines about one peer.
const SAY_AGAIN: Duration = Duration::from_secs(10);
/// Peers that are remembered for that.
const PEERS_SAID_MAX: usize = 1024;
const DEFAULT_PORT: u16 = 24224;

/// Where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    /// `host:port`
    Tcp(String),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "tcp://{address}"),
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// What the section says.
#[derive(Clone, Debug)]
struct Settings {
    listen: Vec<Address>,
    ack: Ack,
    docker: bool,
    limits: Limits,
    connections_max: usize,
    peer_connections_max: usize,
    stall: Duration,
}

fn read(section: &Section<'_, '_>, _name: &str) -> Box<dyn Input> {
    let listen = match section.texts("listen") {
        Some(texts) => texts.iter().filter_map(|(text, _)| read_address(section, text)).collect(),
        None => vec![Address::Tcp(format!("127.0.0.1:{DEFAULT_PORT}"))],
    };
    if section.has("listen") && listen.is_empty() && section.texts("listen").is_some_and(|texts| texts.is_empty()) {
        section.error("listen", "expected at least one address, such as \"tcp://127.0.0.1:24224\"");
    }
    let words = [("durable", Ack::Durable), ("delivered", Ack::Delivered), ("accepted", Ack::Accepted)];
    let ack = section.choice("ack", &words).unwrap_or(Ack::Durable);
    let usual = Limits::default();
    let size = |key, usual: u64, max: u64| section.size(key, 1..max + 1).unwrap_or(usual);
    let inflate = crate::codec::gzip::Limits {
        output_max: size("decompressed_max", usual.inflate.output_max, 4 << 30),
        ratio_max: section.count("ratio_max", 1..100_001).unwrap_or(usual.inflate.ratio_max),
        free: usual.inflate.free,
    };
    // All of these are far below usize on 64-bit systems; elsewhere the largest value is a limit as good.
    let usize_of = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let limits = Limits {
        frame_max: size("frame_max", usual.frame_max, 1 << 30),
        whole_max: usual.whole_max,
        entry_max: usize_of(size("record_max", usual.entry_max as u64, 64 << 20)),
        tag_max: usize_of(size("tag_max", usual.tag_max as u64, 64 << 10)),
        depth_max: usize_of(section.count("depth_max", 1..DEPTH_MAX as u64 + 1).unwrap_or(usual.depth_max as u64)),
        inflate,
    };
    Box::new(Forward {
        settings: Settings {
            listen,
            ack,
            docker: section.flag("docker").unwrap_or(true),
            limits,
            connections_max: usize_of(section.count("connections_max", 1..1_000_001).unwrap_or(4096)),
            peer_connections_max: usize_of(section.count("peer_connections_max", 1..1_000_001).unwrap_or(512)),
            stall: section
                .time("stall", Duration::from_millis(10)..Duration::from_secs(86_401))
                .unwrap_or(Duration::from_secs(30)),
        },
    })
}

fn read_address(section: &Section<'_, '_>, text: &str) -> Option<Address> {
    let wrong = |message: String| {
        section.error("listen", message);
        None
    };
    if let Some(rest) = text.strip_prefix("tcp://") {
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse::<u16>().ok()),
            _ => (rest, Some(DEFAULT_PORT)),
        };
        return match port {
            Some(port) if !host.is_empty() && !host.contains('/') => Some(Address::Tcp(format!("{host}:{port}"))),
            _ => wrong(format!("\"{text}\" is no address; write for example \"tcp://127.0.0.1:{DEFAULT_PORT}\"")),
        };
    }
    if let Some(path) = text.strip_prefix("unix://") {
        return match path.starts_with('/') {
            true => Some(Address::Unix(PathBuf::from(path))),
            false => {
                wrong(format!("\"{text}\" needs an absolute path; write for example \"unix:///run/longshore.sock\""))
            }
        };
    }
    if text.starts_with("tls://") {
        return wrong("TLS is not supported yet; write \"tcp://\" and keep it on loopback or a private network".into());
    }
    wrong(format!("\"{text}\" is no address; write \"tcp://{text}\" or \"unix:///path\""))
}

/// The configured input.
struct Forward {
    settings: Settings,
}

impl Input for Forward {
    fn tags(&self) -> Vec<String> {
        // The tag is the sender's.
        vec!["**".to_owned()]
    }

    fn is_durable(&self) -> bool {
        self.settings.ack == Ack::Durable
    }

    fn start(self: Box<Self>, outlet: Outlet, workers: &Arc<Workers>) -> io::Result<()> {
        let _runtime = outlet.runtime.enter();
        let mut listeners = Vec::new();
        for address in &self.settings.listen {
            let listener = Listener::bind(address)
                .map_err(|error| io::Error::new(error.kind(), format!("can not listen on {address}: {error}")))?;
            tracing::info!(address = %listener.address(), "forward input listens");
            listeners.push(listener);
        }
        let shared = Arc::new(Shared {
            held: Arc::new(Held::new(outlet.budget.total())),
            settings: Arc::new(self.settings),
            complaints: Arc::default(),
            open: Mutex::default(),
        });
        let name = format!("forward-{}", outlet.input);
        workers.spawn(&name, move || {
            let runtime = outlet.runtime.clone();
            runtime.block_on(accept_all(listeners, outlet, shared));
        })
    }
}

/// What the connections of one input share.
struct Shared {
    settings: Arc<Settings>,
    held: Arc<Held>,
    complaints: Arc<Complaints>,
    /// Open connections by peer.
    open: Mutex<HashMap<String, usize>>,
}

/// One open connection in [`Shared`]; given back when it is dropped.
struct Seat {
    shared: Arc<Shared>,
    peer: String,
}

impl Shared {
    /// A seat for one more connection of this peer, if the limits have one.
    fn seat(self: &Arc<Self>, peer: &str, is_local: bool) -> Result<Seat, String> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = open.values().sum();
        if all >= self.settings.connections_max {
            return Err(format!("refused: {all} connections are open (`connections_max`)"));
        }
        let of_peer = open.entry(peer.to_owned()).or_default();
        if !is_local && *of_peer >= self.settings.peer_connections_max {
            return Err(format!("refused: {of_peer} connections of this peer are open (`peer_connections_max`)"));
        }
        *of_peer += 1;
        Ok(Seat { shared: Arc::clone(self), peer: peer.to_owned() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.peer);
            }
        }
    }
}

/// Accepts on all listeners until the word to stop, then waits for the connections to end.
async fn accept_all(listeners: Vec<Listener>, outlet: Outlet, shared: Arc<Shared>) {
    let mut acceptors = JoinSet::new();
    for listener in listeners {
        acceptors.spawn(accept(listener, outlet.clone(), Arc::clone(&shared)));
    }
    drop(outlet);
    while acceptors.join_next().await.is_some() {}
}

async fn accept(listener: Listener, outlet: Outlet, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = outlet.stop.wait() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        let (reader, writer, peer, is_local) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most of all: the connection waits in the backlog, and so do we.
                shared.complaints.say("accept", format_args!("can not accept: {error}"));
                tokio::select! {
                    () = tokio::time::sleep(ACCEPT_PAUSE) => continue,
                    () = outlet.stop.wait() => break,
                }
            }
        };
        let host = peer.rsplit_once(':').map_or(peer.as_str(), |(host, _)| host);
        let seat = match shared.seat(host, is_local) {
            Ok(seat) => seat,
            Err(message) => {
                connection::count(&outlet.metrics, outlet.input, Oddity::ConnectionRefused);
                shared.complaints.say(host, format_args!("{message}"));
                continue;
            }
        };
        let acks = Arc::new(Acks::default());
        let connection = Connection {
            reader,
            peer,
            outlet: outlet.clone(),
            settings: Arc::clone(&shared.settings),
            acks: Arc::clone(&acks),
            held: Arc::clone(&shared.held),
            complaints: Arc::clone(&shared.complaints),
        };
        let metrics = Arc::clone(&outlet.metrics);
        let input = usize::from(outlet.input);
        connections.spawn_on(
            async move {
                metrics.inputs[input].open.fetch_add(1, Relaxed);
                let writer = tokio::spawn(acks.write(writer));
                connection.serve(writer).await;
                metrics.inputs[input].open.fetch_sub(1, Relaxed);
                drop(seat);
            },
            &outlet.runtime,
        );
    }
    listener.close();
    drop(outlet);
    while connections.join_next().await.is_some() {}
}

/// A bound socket.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

type Accepted = (Reader, Box<dyn AsyncWrite + Send + Unpin>, String, bool);

impl Listener {
    fn bind(address: &Address) -> io::Result<Listener> {
        match address {
            Address::Tcp(text) => {
                let addresses: Vec<SocketAddr> = text.to_socket_addrs()?.collect();
                let first = addresses.first().ok_or_else(|| io::Error::other("the name has no address"))?;
                let socket = Socket::new(Domain::for_address(*first), Type::STREAM, None)?;
                socket.set_reuse_address(true)?;
                socket.set_nonblocking(true)?;
                socket.bind(&SockAddr::from(*first))?;
                socket.listen(BACKLOG)?;
                Ok(Listener::Tcp(TcpListener::from_std(socket.into())?))
            }
            Address::Unix(path) => {
                remove_stale(path)?;
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                socket.set_nonblocking(true)?;
                socket.bind(&SockAddr::unix(path)?)?;
                socket.listen(BACKLOG)?;
                Ok(Listener::Unix(UnixListener::from_std(socket.into())?, path.clone()))
            }
        }
    }

    fn address(&self) -> String {
        match self {
            Listener::Tcp(listener) => listener.local_addr().map_or_else(|_| String::new(), |a| format!("tcp://{a}")),
            Listener::Unix(_, path) => format!("unix://{}", path.display()),
        }
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Listener::Tcp(listener) => {
                let (socket, peer) = listener.accept().await?;
                prepare(&socket);
                let (reader, writer) = socket.into_split();
                Ok((Reader::Tcp(reader), Box::new(writer), peer.to_string(), false))
            }
            Listener::Unix(listener, _) => {
                let (socket, _): (UnixStream, _) = listener.accept().await?;
                let (reader, writer) = socket.into_split();
                Ok((Reader::Unix(reader), Box::new(writer), "unix".to_owned(), true))
            }
        }
    }

    /// Ends listening; a socket's file goes too.
    fn close(self) {
        if let Listener::Unix(listener, path) = self {
            drop(listener);
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Acks go out at once, and a peer that vanished is found out. A socket that refuses is used as it is.
fn prepare(socket: &TcpStream) {
    let _ = socket.set_nodelay(true);
    let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(Duration::from_secs(15));
    let _ = SockRef::from(socket).set_tcp_keepalive(&keep_alive);
}

/// Removes the socket of a listener that is gone. One that somebody listens on stays, and `bind` says so.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_err() {
                std::fs::remove_file(path)?;
            }
            Ok(())
        }
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path is there and no socket; remove it")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Log lines about peers: one for each in ten seconds, with the number of those left out.
#[derive(Debug, Default)]
struct Complaints {
    said: Mutex<HashMap<String, (Instant, u64)>>,
}

impl Complaints {
    fn say(&self, peer: &str, message: fmt::Arguments<'_>) {
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
        let message = message.to_string();
        tracing::warn!(peer, left_out, "{}", message.escape_debug());
    }
}

#[cfg(test)]
mod tests;
