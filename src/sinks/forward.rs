//! `forward` sink: records to other longshores, Fluentd and Fluent Bit, over Fluentd's forward protocol, with acks.
//!
//! A request is one PackedForward frame for each tag, written at once over a connection of its own (`concurrency` of
//! them at most), and taken when every frame is acknowledged. A frame keeps its chunk id through all tries, so that a
//! receiver can tell a repetition; of a request that was acknowledged in part only the other frames are sent again.
//!
//! Of several receivers each request goes to one, by weight ([`forward_servers`](super::forward_servers)); one that
//! can not be reached costs the request nothing but the try. A receiver that failed is connected to in the background
//! until it is there again. Connections are kept, and renewed after `reconnect`, at random up to a fifth earlier, so
//! that what is behind a load balancer gets its share. One connection is in [`forward_link`](super::forward_link).
//!
//! Limits: those of a connection; kept connections: `concurrency` for each receiver, looked after every 10 s.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::ServerName;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;

use super::forward_body::{self, Shape};
use super::forward_link::{Address, Identities, Link, Target, Trouble};
use super::forward_servers::{Server, Servers};
use super::request::{Part, Request};
use super::{Limits, Mark, Reply, SendError, Sending, Sink, forward_settings, tls};
use crate::batch::Added;
use crate::codec::forward::encode::{Encoder, TimeForm};
use crate::settings::Section;

/// How often kept connections are looked after.
const UPKEEP: Duration = Duration::from_secs(10);

/// The settings of one `forward` sink.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The receivers.
    pub servers: Vec<(Address, Server)>,
    /// How this node proves who it is.
    pub identity: Option<Arc<Identities>>,
    /// PEM files, for `tls://`.
    pub tls: tls::Files,
    /// The name that certificates have to have, where it is not the address's host.
    pub server_name: Option<String>,
    /// How long to wait for an ack.
    pub ack_timeout: Duration,
    /// How old a connection becomes; zero: each request has its own.
    pub reconnect: Duration,
    /// What frames look like.
    pub shape: Shape,
    /// How times are written.
    pub time: TimeForm,
    /// Requests at once, batch size and wait.
    pub limits: Limits,
    /// Values added to each record.
    pub added: Added,
}

/// The sink.
pub struct Forward {
    settings: Settings,
    encoder: Encoder,
    pool: Arc<Pool>,
}

/// Reads the section of a `forward` sink.
pub fn read(section: &Section<'_, '_>, name: &str) -> Box<dyn Sink> {
    Box::new(Forward::new(forward_settings::read(section, name)))
}

impl Forward {
    /// A sink with these settings.
    pub fn new(settings: Settings) -> Forward {
        let encoder = Encoder::new(settings.added, settings.time);
        Forward { settings, encoder, pool: Arc::default() }
    }
}

impl Sink for Forward {
    fn writes_json(&self) -> bool {
        false
    }

    fn limits(&self) -> Limits {
        self.settings.limits
    }

    fn start(&mut self) -> io::Result<()> {
        let settings = &self.settings;
        let targets = targets(settings)?;
        let servers = settings.servers.iter().map(|(_, server)| server.clone()).collect();
        self.pool = Arc::new(Pool {
            idle: targets.iter().map(|_| Mutex::default()).collect(),
            targets,
            servers: Mutex::new(Servers::new(servers, fastrand::u64(..))),
            ack_timeout: settings.ack_timeout,
            reconnect: settings.reconnect,
            kept_max: settings.limits.at_once,
        });
        Ok(())
    }

    fn prepare(&mut self, request: &mut Request, bytes_max: usize) -> Vec<Part> {
        forward_body::prepare(request, self.settings.shape, &mut self.encoder, bytes_max)
    }

    fn send(&mut self, request: &mut Request) -> Sending {
        // Delivery calls `prepare` first.
        let frames = request.body().cloned().unwrap_or_default();
        let chunks = if self.settings.shape.acks { forward_body::chunks(&frames) } else { Vec::new() };
        let of_records = if chunks.len() > 1 { forward_body::frame_of_records(request, &frames) } else { Vec::new() };
        let pool = Arc::clone(&self.pool);
        Box::pin(async move {
            let mut acked = vec![false; chunks.len()];
            let bytes = frames.len() as u64;
            match pool.deliver(frames, &chunks, &mut acked).await {
                Ok(()) => Ok(Reply { bytes, ..Reply::default() }),
                Err(trouble) if acked.contains(&true) => {
                    let mark = |frame: &usize| if acked[*frame] { Mark::Taken } else { Mark::Again };
                    let marks = of_records.iter().map(mark).collect();
                    // The frames that are left are named by the key and their tag, and stay the same.
                    Ok(Reply { bytes, marks, cause: trouble.to_string(), keeps_key: true })
                }
                Err(Trouble::Fails(cause)) => Err(SendError::Retry { cause, not_before: None }),
                Err(Trouble::Fault(cause)) => Err(SendError::Pause { cause }),
            }
        })
    }

    fn tick(&mut self) -> Option<Duration> {
        let mut kept = false;
        for idle in &self.pool.idle {
            let mut idle = lock(idle);
            idle.retain_mut(|kept| kept.until > Instant::now() && kept.link.check().is_ok());
            kept |= !idle.is_empty();
        }
        kept.then_some(UPKEEP)
    }

    fn reopen(&mut self) {
        self.pool.idle.iter().for_each(|idle| lock(idle).clear());
    }
}

/// What the settings' addresses come to.
fn targets(settings: &Settings) -> io::Result<Vec<Target>> {
    let any_tls = settings.servers.iter().any(|(address, _)| matches!(address, Address::Tls(_)));
    let config = Arc::new(tls::config(&settings.tls, any_tls)?);
    let mut targets = Vec::new();
    for (address, _) in &settings.servers {
        let tls = match address {
            Address::Tls(_) => {
                let name = settings.server_name.as_deref().unwrap_or(address.host()).to_owned();
                let wrong = |error| io::Error::other(format!("{address}: \"{name}\": {error}"));
                let server_name = ServerName::try_from(name.clone()).map_err(wrong)?;
                Some((TlsConnector::from(Arc::clone(&config)), server_name))
            }
            _ => None,
        };
        let identity = settings.identity.clone();
        targets.push(Target { address: address.clone(), tls, identity, acks: settings.shape.acks });
    }
    Ok(targets)
}

/// A connection that nobody uses just now.
struct Kept {
    link: Link,
    until: Instant,
}

/// The connections of one sink.
#[derive(Default)]
struct Pool {
    targets: Vec<Target>,
    servers: Mutex<Servers>,
    idle: Vec<Mutex<Vec<Kept>>>,
    ack_timeout: Duration,
    reconnect: Duration,
    kept_max: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// Sends frames to the first receiver that can be reached.
    async fn deliver(self: &Arc<Self>, frames: Bytes, chunks: &[Vec<u8>], acked: &mut [bool]) -> Result<(), Trouble> {
        let order = lock(&self.servers).order();
        let (mut causes, mut all_faults) = (Vec::new(), true);
        for at in order {
            let (mut link, until) = match self.link(at).await {
                Ok(open) => open,
                Err(trouble) => {
                    self.failed(at, &trouble);
                    all_faults &= matches!(trouble, Trouble::Fault(_));
                    causes.push(trouble.to_string());
                    continue;
                }
            };
            return match link.exchange(&frames, chunks, self.ack_timeout, acked).await {
                Ok(()) => {
                    self.works(at);
                    self.keep(at, link, until);
                    Ok(())
                }
                Err(trouble) => {
                    self.failed(at, &trouble);
                    Err(match trouble {
                        // Another receiver may have no such fault.
                        Trouble::Fault(cause) if self.targets.len() > 1 => Trouble::Fails(cause),
                        trouble => trouble,
                    })
                }
            };
        }
        let cause = causes.join("; ");
        Err(if all_faults { Trouble::Fault(cause) } else { Trouble::Fails(cause) })
    }

    /// A kept connection to that receiver if one is good, else a new one.
    async fn link(&self, at: usize) -> Result<(Link, Instant), Trouble> {
        // Lets the runtime look at its sockets, so that an end that is there is seen.
        tokio::task::yield_now().await;
        loop {
            let Some(Kept { mut link, until }) = lock(&self.idle[at]).pop() else { break };
            if until <= Instant::now() {
                continue;
            }
            match link.check() {
                Ok(()) => return Ok((link, until)),
                Err(fault @ Trouble::Fault(_)) => return Err(fault),
                // Closed by the other side: nothing was lost, and a new one is as good.
                Err(Trouble::Fails(cause)) => tracing::debug!(cause, "a kept connection is gone"),
            }
        }
        let link = Link::open(&self.targets[at]).await?;
        let until = link.opened() + self.reconnect.mul_f64(1.0 - 0.2 * fastrand::f64());
        Ok((link, until))
    }

    fn keep(&self, at: usize, link: Link, until: Instant) {
        let mut idle = lock(&self.idle[at]);
        if link.is_kept() && until > Instant::now() && idle.len() < self.kept_max {
            idle.push(Kept { link, until });
        }
    }

    fn works(&self, at: usize) {
        if let Some(down) = lock(&self.servers).works(at, Instant::now().into()) {
            let server = self.targets[at].address.to_string();
            tracing::info!(server, seconds = down.as_secs(), "a receiver works again");
        }
    }

    fn failed(self: &Arc<Self>, at: usize, trouble: &Trouble) {
        // Whatever else is open to it is not better.
        lock(&self.idle[at]).clear();
        let first = lock(&self.servers).failed(at, Instant::now().into());
        if let Some(wait) = first
            && self.targets.len() > 1
        {
            tracing::warn!(cause = %trouble, "a receiver fails; the others get its share until it works again");
            tokio::spawn(probe(Arc::downgrade(self), at, wait));
        }
    }
}

/// Connects to a receiver that failed until it is there again.
async fn probe(pool: Weak<Pool>, at: usize, mut wait: Duration) {
    loop {
        sleep(wait).await;
        let Some(pool) = pool.upgrade() else { return };
        if !lock(&pool.servers).is_down(at) {
            return;
        }
        match pool.link(at).await {
            Ok((link, until)) => {
                pool.works(at);
                pool.keep(at, link, until);
                return;
            }
            Err(trouble) => {
                tracing::debug!(cause = %trouble, "a receiver still fails");
                wait = lock(&pool.servers).wait(at);
            }
        }
    }
}

impl Default for Servers {
    fn default() -> Servers {
        Servers::new(Vec::new(), 0)
    }
}

#[cfg(test)]
mod tests;
