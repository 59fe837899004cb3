//! The address of health and metrics, at the start and when a reload changes it.
//!
//! One that is taken is waited for: what is shipped is worth more than its figures, and whoever has the port may be the
//! longshore of before, on its way out.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::{Node, said};
use crate::{admin, handover};

/// An address that is to be answered at.
pub(super) enum Bound {
    Off,
    Same,
    New(SocketAddr, tokio::net::TcpListener),
    /// Somebody else has it.
    Taken(SocketAddr),
}

impl Node {
    /// Opens the address, if it is another one than before.
    pub(super) fn bind(&self, address: Option<SocketAddr>) -> io::Result<Bound> {
        let Some(address) = address else { return Ok(Bound::Off) };
        if self.admin.as_ref().is_some_and(|(old, _)| *old == address) {
            return Ok(Bound::Same);
        }
        let listener = handover::bind(address, self.options.take_over).and_then(|listener| {
            listener.set_nonblocking(true)?;
            let _inside = self.runtime.enter();
            tokio::net::TcpListener::from_std(listener)
        });
        match listener {
            Ok(listener) => Ok(Bound::New(address, listener)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                tracing::error!(
                    "[telemetry] listen = \"{address}\" is taken by another process: health and metrics are answered \
                     when it is free; set another port, or \"off\""
                );
                Ok(Bound::Taken(address))
            }
            Err(error) => {
                Err(said(&format!("[telemetry] listen = \"{address}\" (another address, or \"off\")"), error))
            }
        }
    }

    /// Answers there, and nowhere else any more. Who is answered finds inputs that listen.
    pub(super) fn serve(&mut self, bound: Bound) {
        let state = Arc::clone(&self.state);
        let server = match bound {
            Bound::Same => return,
            Bound::Off => None,
            Bound::New(address, listener) => Some((address, self.runtime.spawn(admin::serve(listener, state)))),
            Bound::Taken(address) => Some((address, self.runtime.spawn(admin::serve_when_free(address, state)))),
        };
        let server = server.map(|(address, task)| (address, task.abort_handle()));
        if let Some((_, old)) = std::mem::replace(&mut self.admin, server) {
            old.abort();
        }
    }
}
