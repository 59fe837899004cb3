//! The signals that the node listens to, what they say, and the other reasons to stop.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that the node listens to. As PID 1 too: a handler makes the kernel deliver them.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    /// From now on none of them ends the process.
    pub(super) fn new() -> io::Result<Signals> {
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    /// The next one of all.
    pub(super) async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.term.recv() => Told::Stop("SIGTERM"),
            _ = self.int.recv() => Told::Stop("SIGINT"),
            _ = self.hup.recv() => Told::Reload,
        }
    }

    /// The next word to stop: another request to reload waits.
    pub(super) async fn stop(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}

/// What a signal says.
pub(super) enum Told {
    /// Stop.
    Stop(&'static str),
    /// Read the configuration again, and open files again.
    Reload,
}

/// Why the node stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It was told to.
    Signal(&'static str),
    /// All inputs are at their end, and everything is delivered.
    EndOfInput,
    /// A sink said that nobody reads its output any more.
    Closed,
    /// Another longshore has our sockets.
    HandedOver,
    /// A worker panicked.
    Panic,
    /// A reload left nothing that could run.
    Broken,
}

impl Why {
    /// For the log.
    pub(super) fn text(self) -> &'static str {
        match self {
            Why::Signal(name) => name,
            Why::EndOfInput => "the inputs are at their end",
            Why::Closed => "the output was closed",
            Why::HandedOver => "another longshore took over",
            Why::Panic => "a worker panicked",
            Why::Broken => "no configuration could be started",
        }
    }
}
