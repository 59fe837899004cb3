//! One connection of the forward input while it is open: silence and conversations in turn.
//!
//! Most connections are silent most of the time, and there may be thousands: a silent one costs its socket, its seat and a
//! task that waits. What it takes to read frames and write acks ([`Session`]) is made when the sender speaks.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

use crate::codec::forward::Place;
use crate::inputs::Outlet;
use crate::metrics::{Metrics, Oddity};

use super::listener::Peer;
use super::seats::Seat;
use super::session::Session;
use super::shared::Shared;
use super::socket::{Reader, Writer};

/// All that is kept of a connection that is silent.
pub(super) struct Connection {
    pub(super) reader: Reader,
    /// Lent to the task that writes acks during a conversation.
    pub(super) writer: Option<Writer>,
    pub(super) outlet: Arc<Outlet>,
    pub(super) shared: Arc<Shared>,
    /// Where in the stream of frames it is.
    pub(super) place: Place,
    pub(super) present: Present,
}

impl Connection {
    /// Reads until the end.
    pub(super) async fn live(self: Box<Self>) {
        let mut connection = self;
        loop {
            connection.until_called().await;
            // A probe: it needs no memory, for which others may wait, to be let go.
            if connection.reader.is_at_end() {
                return;
            }
            // Boxed, so that it is no part of what a silent connection takes.
            match Box::pin(Session::new(connection).hold()).await {
                Some(silent) => connection = silent,
                None => return,
            }
        }
    }
}

impl Connection {
    /// Waits for the sender or the word to stop; a conversation finds out what it was, and about errors. It is not made of
    /// the usual futures, which are larger than all the rest that a silent connection takes.
    async fn until_called(&self) {
        let mut closing = pin!(self.shared.closing.notified());
        // After `notified`, so that no word goes by in between.
        if self.outlet.stop.is_set() {
            return;
        }
        poll_fn(|context| match closing.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => self.reader.poll_first_byte(context),
        })
        .await;
    }
}

/// An open connection: counted while it is there, and not lost from sight if its task ends in a panic.
pub(super) struct Present {
    outlet: (Arc<Metrics>, u16),
    peer: Peer,
    _seat: Seat,
}

impl Present {
    pub(super) fn new(seat: Seat, peer: Peer, outlet: &Outlet) -> Present {
        let metrics = Arc::clone(&outlet.metrics);
        metrics.inputs[usize::from(outlet.input)].open.fetch_add(1, Relaxed);
        Present { outlet: (metrics, outlet.input), peer, _seat: seat }
    }

    /// Who it is, for the log and for records.
    pub(super) fn peer(&self) -> String {
        self.peer.to_string()
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let (metrics, input) = &self.outlet;
        metrics.inputs[usize::from(*input)].open.fetch_sub(1, Relaxed);
        if std::thread::panicking() {
            count(metrics, *input, Oddity::ConnectionPanicked);
            // Never left out for what was said of the peer before: it is a mistake of ours.
            tracing::error!(
                peer = self.peer(),
                "closed without an ack: the connection's task panicked, please report it with the lines before"
            );
        }
    }
}

pub(super) fn count(metrics: &Metrics, input: u16, oddity: Oddity) {
    metrics.inputs[usize::from(input)].oddities[oddity as usize].fetch_add(1, Relaxed);
}
