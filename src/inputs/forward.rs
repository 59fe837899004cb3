//! The forward input: Fluentd's forward protocol over TCP, TLS and Unix sockets, with acks, shared keys and users.
//! Docker's `fluentd` logging driver, Fluent Bit and Fluentd send it.
//!
//! Each listener ([`listen`], [`listener`]) is a task that accepts ([`accept`]); each connection is a task that comes in
//! by the rules of its listener ([`door`]: [`rules`], [`tls`], [`login`]), then reads ([`connection`]), with a second
//! one that writes its acks ([`acks`]). UDP heartbeats are answered on the same port ([`udp`]).
//! Limits, all settings: connections in all and for each peer, the handshake's time, a stall within a frame, those of
//! acks that nobody takes, and those of the codec ([`Limits`](crate::codec::forward::Limits)). Log lines: one for each peer in ten seconds. Counters:
//! `open`, `framing_lost`, `frame_stalled`, `connection_refused`, `not_allowed`, `handshake_failed`,
//! `connection_panicked`, and those of the codec.

mod accept;
mod acks;
mod buffer;
mod codec_memory;
mod complaints;
mod connection;
mod door;
mod held;
mod hint;
mod listen;
mod listener;
mod login;
mod rules;
mod seats;
mod session;
mod settings;
mod shared;
mod socket;
mod tls;
mod udp;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::backoff::Backoff;
use crate::codec::forward::handshake::HOST_MAX;
use crate::inputs::{Ack, Input, InputKind, Outlet};
use crate::metrics::{Health, LISTEN_CHECK};
use crate::settings::Section;
use crate::workers::Workers;

use accept::Entrance;
use complaints::Complaints;
use door::Door;
use held::Held;
use listen::Listen;
use listener::Listener;
use seats::Seats;
use settings::Settings;
use shared::Shared;

/// Between two tries to listen on an address that is taken.
const LISTEN_AGAIN: Backoff = Backoff { first: Duration::from_millis(500), max: Duration::from_secs(15) };

/// This input's row in the table.
pub const KIND: InputKind = InputKind { name: "forward", read };

fn read(section: &Section<'_, '_>, _name: &str) -> Box<dyn Input> {
    Box::new(Forward { settings: settings::read(section) })
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

    fn record_max(&self) -> Option<usize> {
        self.is_durable().then_some(self.settings.limits.entry_max)
    }

    fn start(self: Box<Self>, outlet: Outlet, workers: &Arc<Workers>) -> io::Result<()> {
        let _runtime = outlet.runtime.enter();
        let wanted = self.settings.connections_max;
        let room = seats::room_for(wanted);
        if room < wanted {
            tracing::warn!(
                room,
                wanted,
                "the system's limit of open files has room for fewer connections than `connections_max`; raise \
                 LimitNOFILE (systemd) or --ulimit nofile (Docker)"
            );
        }
        listener::warn_of_a_short_backlog();
        let mut ways: Vec<Bound> = Vec::new();
        for listen in &self.settings.listen {
            ways.push(match open(listen) {
                Ok(entrance) => Bound::Open(entrance),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    say_taken(listen, &outlet, &error);
                    Bound::Taken(listen.clone())
                }
                Err(error) => {
                    ways.into_iter().for_each(|way| way.close(&outlet));
                    return Err(error);
                }
            });
        }
        let shared = Arc::new(Shared {
            held: Held::new(&outlet.budget),
            seats: Seats::new(room, self.settings.peer_connections_max),
            settings: self.settings,
            complaints: Complaints::default(),
            refusals: Complaints::default(),
            closing: Notify::new(),
        });
        let name = format!("forward-{}", outlet.input);
        workers.spawn(&name, move || {
            let runtime = outlet.runtime.clone();
            runtime.block_on(serve_all(ways, outlet, shared));
        })
    }
}

/// A listener at the start.
enum Bound {
    Open(Entrance),
    /// Another process has its address.
    Taken(Listen),
}

impl Bound {
    /// It will not be served after all.
    fn close(self, outlet: &Outlet) {
        match self {
            Bound::Open(entrance) => entrance.listener.close(),
            Bound::Taken(listen) => outlet.metrics.uncheck(&check_of(&listen)),
        }
    }

    /// The listener, once its address is free; `None` after the word to stop.
    async fn entrance(self, outlet: &Outlet) -> Option<Entrance> {
        let listen = match self {
            Bound::Open(entrance) => return Some(entrance),
            Bound::Taken(listen) => listen,
        };
        for tries in 1.. {
            tokio::select! {
                () = tokio::time::sleep(LISTEN_AGAIN.ceiling(tries)) => (),
                () = outlet.stop.wait() => break,
            }
            match open(&listen) {
                Ok(entrance) => {
                    outlet.metrics.uncheck(&check_of(&listen));
                    return Some(entrance);
                }
                Err(error) => outlet.metrics.check(&check_of(&listen), Health::Fail, error.to_string()),
            }
        }
        outlet.metrics.uncheck(&check_of(&listen));
        None
    }
}

fn check_of(listen: &Listen) -> String {
    format!("{LISTEN_CHECK}{}", listen.address)
}

/// The fault may pass, and the rest of the node has work to do: `/ready` says that this address is not served.
fn say_taken(listen: &Listen, outlet: &Outlet, error: &io::Error) {
    outlet.metrics.check(&check_of(listen), Health::Fail, error.to_string());
    tracing::error!(input = outlet.counters().name, "{error}; it is tried again until the address is free");
}

/// Opens one listener and what goes with it.
fn open(listen: &Listen) -> io::Result<Entrance> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("can not listen on {}: {error}", listen.address));
    let door = Arc::new(Door::open(listen).map_err(named)?);
    let listener = Listener::bind(listen).map_err(named)?;
    let local = listener.local().map_or_else(|| listen.address.to_string(), |local| local.to_string());
    tracing::info!(address = local, tls = listen.tls.is_some(), "forward input listens");
    let heartbeat = match listen.heartbeat.then(|| listener.bind_udp()).flatten() {
        Some(Ok(socket)) => Some(socket),
        Some(Err(error)) => {
            tracing::warn!(
                address = local,
                %error,
                "UDP heartbeats are not answered: the port can not be opened for UDP; `heartbeat = false` silences this"
            );
            None
        }
        None => None,
    };
    Ok(Entrance { listener, door, heartbeat, hostname: hostname(listen).into() })
}

/// The name in the handshake. It is none that a sender on the same machine gives itself, since Fluentd's and Node's
/// clients refuse a receiver of their own name.
fn hostname(listen: &Listen) -> String {
    let machine = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut name = listen.hostname.clone().unwrap_or_else(|| format!("longshore-receiver.{}", machine()));
    name.truncate(name.floor_char_boundary(HOST_MAX));
    name
}

/// Serves all listeners until the word to stop, then waits for the connections to end.
async fn serve_all(ways: Vec<Bound>, outlet: Outlet, shared: Arc<Shared>) {
    let outlet = Arc::new(outlet);
    let mut tasks = JoinSet::new();
    for way in ways {
        tasks.spawn(serve(way, Arc::clone(&outlet), Arc::clone(&shared)));
    }
    drop(outlet);
    join(tasks).await;
}

/// One listener, and what goes with it.
async fn serve(way: Bound, outlet: Arc<Outlet>, shared: Arc<Shared>) {
    let Some(mut entrance) = way.entrance(&outlet).await else { return };
    let mut tasks = JoinSet::new();
    if let Some(socket) = entrance.heartbeat.take() {
        tasks.spawn(udp::serve(socket, outlet.stop.clone()));
    }
    tasks.spawn(Arc::clone(&entrance.door).watch(Outlet::clone(&outlet)));
    tasks.spawn(accept::accept(entrance, outlet, shared));
    join(tasks).await;
}

/// Waits for all; a panic of one is the caller's. A listener that nobody serves any more, heartbeats that are not
/// answered, certificates that nobody looks after: a reason to stop, as for any other worker.
async fn join(mut tasks: JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

#[cfg(test)]
mod tests;
