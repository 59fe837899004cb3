//! Accepting connections of one listener, and their way in: the limits, the rules, TLS, the shared key.
//!
//! All that wait are accepted at once, since after an outage every container comes back in the same second; each is a
//! task of its own from then on, so that a slow handshake keeps nobody waiting. TLS and shared key together have
//! [`Settings::handshake`]; a connection that does not ask for either may be silent for ever.
//! A connection's task that panics takes nobody else with it: what it held is not delivered and not acknowledged, its
//! seat is free, its socket is closed, and it is counted and said ([`Present`]).
//! Limits: [`Seats`]. Counters: `open`, `connection_refused`, `not_allowed`, `handshake_failed`, `connection_panicked`.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::codec::forward::Place;
use crate::inputs::Outlet;
use crate::metrics::Oddity;

use super::connection::{self, Connection, Present};
use super::door::Door;
use super::hint;
use super::listener::{Accepted, Listener};
use super::login::{Refused, login};
use super::seats::Seat;
use super::settings::Settings;
use super::shared::Shared;
use super::socket::{Reader, Writer};

/// Time between two tries after `accept` failed (descriptors are used up).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Connections that are accepted before others' work is looked after.
const ACCEPT_MANY: usize = 256;

/// One listener.
pub(super) struct Entrance {
    pub(super) listener: Listener,
    pub(super) door: Arc<Door>,
    /// Where UDP heartbeats are answered, if they are.
    pub(super) heartbeat: Option<UdpSocket>,
    /// The name that it gives itself in the handshake.
    pub(super) hostname: Arc<str>,
}

/// Accepts until the word to stop, then waits for the connections to end.
pub(super) async fn accept(entrance: Entrance, outlet: Arc<Outlet>, shared: Arc<Shared>) {
    let Entrance { listener, door, hostname, .. } = entrance;
    let mut connections = JoinSet::new();
    'all: loop {
        let mut accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = outlet.stop.wait() => break,
            // How each ended, `Present` has told.
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        for in_turn in 1.. {
            match accepted {
                Ok(accepted) => {
                    if let Some(seat) = seat(&accepted, &outlet, &shared) {
                        let (door, hostname) = (Arc::clone(&door), Arc::clone(&hostname));
                        let (outlet, shared) = (Arc::clone(&outlet), Arc::clone(&shared));
                        let runtime = outlet.runtime.clone();
                        let came = Came { accepted, seat, door, hostname, outlet, shared };
                        connections.spawn_on(Box::new(came).serve(), &runtime);
                    }
                }
                Err(error) => {
                    // Out of descriptors, most of all: the connection waits in the backlog, and so do we.
                    shared.complaints.say("accept", format_args!("can not accept: {error}"));
                    tokio::select! {
                        () = tokio::time::sleep(ACCEPT_PAUSE) => (),
                        () = outlet.stop.wait() => break 'all,
                    }
                }
            }
            if in_turn == ACCEPT_MANY {
                tokio::task::yield_now().await;
                break;
            }
            match at_once(listener.accept()) {
                Some(more) => accepted = more,
                None => break,
            }
        }
    }
    shared.closing.notify_waiters();
    listener.close();
    drop(outlet);
    while connections.join_next().await.is_some() {}
}

/// What the future gives without waiting.
fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn seat(accepted: &Accepted, outlet: &Outlet, shared: &Shared) -> Option<Seat> {
    match shared.seats.take(accepted.ip()) {
        Ok(seat) => Some(seat),
        Err(message) => {
            connection::count(&outlet.metrics, outlet.input, Oddity::ConnectionRefused);
            shared.complaints.say(&accepted.peer().to_string(), format_args!("{message}"));
            None
        }
    }
}

/// A connection that was accepted and is not in yet.
struct Came {
    accepted: Accepted,
    seat: Seat,
    door: Arc<Door>,
    hostname: Arc<str>,
    outlet: Arc<Outlet>,
    shared: Arc<Shared>,
}

/// Why it does not come in.
struct Out(Oddity, Refused);

impl Came {
    async fn serve(self: Box<Self>) {
        // Boxed, since a handshake needs much more than the connection that comes of it and then is silent.
        if let Some(connection) = Box::pin(self.enter()).await {
            connection.live().await;
        }
    }

    async fn enter(self: Box<Self>) -> Option<Box<Connection>> {
        let Came { accepted, seat, door, hostname, outlet, shared } = *self;
        let present = Present::new(seat, accepted.peer(), &outlet);
        let entered = tokio::select! {
            entered = enter(accepted, &door, &hostname, &shared.settings) => entered,
            () = outlet.stop.wait() => return None,
        };
        match entered {
            Ok((reader, writer)) => {
                let place = Place::default();
                Some(Box::new(Connection { reader, writer: Some(writer), outlet, shared, place, present }))
            }
            Err(Out(_, Refused::Left)) => None,
            Err(Out(oddity, Refused::Because(why))) => {
                connection::count(&outlet.metrics, outlet.input, oddity);
                shared.complaints.say(&present.peer(), format_args!("refused: {why}"));
                None
            }
        }
    }
}

async fn enter(accepted: Accepted, door: &Door, hostname: &str, settings: &Settings) -> Result<(Reader, Writer), Out> {
    let failed = |refused| Out(Oddity::HandshakeFailed, refused);
    let rules = door.rules();
    let Some(terms) = rules.terms(accepted.ip()) else {
        return Err(Out(Oddity::NotAllowed, Refused::Because("its address is in no network of `allow`".to_owned())));
    };
    let until = tokio::time::Instant::now() + settings.handshake;
    let late =
        || failed(Refused::Because(format!("its handshake took longer than {:?} (`handshake`)", settings.handshake)));
    match accepted {
        Accepted::Unix(mut socket) => {
            let ahead = login(&mut socket, hostname, terms, until).await.ok_or_else(late)?.map_err(failed)?;
            Ok(Reader::unix(socket, ahead))
        }
        Accepted::Tcp(mut socket, _) => match door.tls() {
            None => {
                let ahead = login(&mut socket, hostname, terms, until).await.ok_or_else(late)?.map_err(failed)?;
                Ok(Reader::tcp(socket, ahead))
            }
            Some(config) => {
                let secured = tokio::time::timeout_at(until, secure(socket, TlsAcceptor::from(config))).await;
                let mut socket = secured.map_err(|_| late())?.map_err(failed)?;
                let ahead = login(&mut socket, hostname, terms, until).await.ok_or_else(late)?.map_err(failed)?;
                Ok(Reader::tls(socket, ahead))
            }
        },
    }
}

/// TLS, or what came instead of it.
async fn secure(socket: TcpStream, acceptor: TlsAcceptor) -> Result<TlsStream<TcpStream>, Refused> {
    let mut first = [0; 8];
    match socket.peek(&mut first).await {
        Ok(0) | Err(_) => return Err(Refused::Left),
        Ok(len) => {
            if let Some(hint) = hint::on_tls(&first[..len]) {
                return Err(Refused::Because(hint.to_owned()));
            }
        }
    }
    match acceptor.accept(socket).await {
        Ok(socket) => Ok(socket),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(Refused::Because("it closed within the TLS handshake; does it trust this certificate?".to_owned()))
        }
        Err(error) => Err(Refused::Because(format!("TLS: {error}"))),
    }
}
