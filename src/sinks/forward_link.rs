//! One connection of a forward client: opened, secured, used for one exchange at a time.
//!
//! ```text
//! connect -> TLS -> HELO, PING, PONG -> { nothing to read? -> write frames, read their acks } ...
//! ```
//!
//! Acks are matched strictly: within one exchange each frame waits for one ack with its own chunk id, and whatever else
//! the other side says ends the connection. Before each exchange the connection is looked at: one that was closed, or
//! that has said something unasked, is not written to, so that nothing goes into the void.
//!
//! Limits: connecting 5 s, TLS 10 s, the handshake 10 s, a write without progress 30 s, waiting for an ack as
//! long as the settings say; its bytes as `codec/forward/ack.rs` says. Causes name the address and never hold a secret.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use crate::codec::forward::ack::{Answers, Unasked};
use crate::codec::forward::handshake::{self, Client, Helo, Pong, RANDOM, Refusal};
use crate::settings::Secret;

const DEFAULT_PORT: u16 = 24224;
const CONNECT_WAIT: Duration = Duration::from_secs(5);
const TLS_WAIT: Duration = Duration::from_secs(10);
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// The other side takes nothing of a frame.
const STALL: Duration = Duration::from_secs(30);
/// How long a new connection is listened to before the first write where no acks are asked for: a HELO says that all
/// that would be written is lost.
const LISTEN_FIRST: Duration = Duration::from_millis(100);
/// Idle time before the system asks whether the other side is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Where a receiver listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `host:port`
    Tcp(String),
    /// The same with TLS.
    Tls(String),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Reads `tcp://host:port`, `tls://host:port`, `unix:///path` or `host:port`; the port may be left out.
    pub fn parse(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix://") {
            return match path.starts_with('/') {
                true => Ok(Address::Unix(PathBuf::from(path))),
                false => Err(format!("\"{text}\" needs an absolute path; write for example \"unix:///run/x.sock\"")),
            };
        }
        let (make, rest): (fn(String) -> Address, &str) = match text.split_once("://") {
            Some(("tls", rest)) => (Address::Tls, rest),
            Some(("tcp", rest)) => (Address::Tcp, rest),
            None => (Address::Tcp, text),
            Some(_) => return Err(format!("\"{text}\" is no address; write tcp://, tls:// or unix://")),
        };
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse::<u16>().ok().filter(|port| *port > 0)),
            _ => (rest, Some(DEFAULT_PORT)),
        };
        let bare = host.strip_prefix('[').map_or(!host.contains(':'), |host| host.ends_with(']'));
        match port {
            Some(port) if !host.is_empty() && bare && !host.contains(['/', '@', ' ']) => {
                Ok(make(format!("{host}:{port}")))
            }
            _ => Err(format!("\"{text}\" is no address; write for example \"tcp://10.0.0.5:{DEFAULT_PORT}\"")),
        }
    }

    /// The host without its port, for the certificate to name.
    pub fn host(&self) -> &str {
        match self {
            Address::Tcp(text) | Address::Tls(text) => {
                text.rsplit_once(':').map_or("", |(host, _)| host).trim_matches(['[', ']'])
            }
            Address::Unix(_) => "",
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "tcp://{address}"),
            Address::Tls(address) => write!(f, "tls://{address}"),
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// How this side proves who it is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name; not that of the server.
    pub host: String,
    /// The shared key.
    pub key: Secret,
    /// User and password.
    pub user: Option<(String, Secret)>,
}

/// An identity whose secrets are read again for each connection. While a file can not be read, what it said last stays in
/// use: one that is just being replaced must not bring back a key from before the last change.
#[derive(Debug)]
pub struct Identities(Mutex<Identity>);

impl Identities {
    /// Begins with what was read at the start.
    pub fn new(first: Identity) -> Arc<Identities> {
        Arc::new(Identities(Mutex::new(first)))
    }

    /// With what the files of its secrets say now: keys can be replaced without a restart.
    pub(super) fn now(&self, place: &str) -> Identity {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let read = || -> io::Result<Identity> {
            let user = match &last.user {
                Some((name, password)) => Some((name.clone(), password.read_again()?)),
                None => None,
            };
            Ok(Identity { host: last.host.clone(), key: last.key.read_again()?, user })
        };
        match read() {
            Ok(now) => *last = now,
            Err(error) => tracing::warn!(to = place, "{error}; what was read before stays in use"),
        }
        last.clone()
    }
}

/// One receiver.
#[derive(Clone)]
pub struct Target {
    /// Where.
    pub address: Address,
    /// For `tls://`: trust, and the name that the certificate has to have.
    pub tls: Option<(TlsConnector, ServerName<'static>)>,
    /// For receivers that ask for a shared key.
    pub identity: Option<Arc<Identities>>,
    /// Whether frames ask for acks.
    pub acks: bool,
}

/// Why a connection is of no use, or no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It may work later.
    Fails(String),
    /// Somebody has to put something right.
    Fault(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Trouble::Fails(cause) | Trouble::Fault(cause)) = self;
        f.write_str(cause)
    }
}

/// Anything that bytes go through.
trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// An open connection.
pub struct Link {
    socket: Box<dyn Socket>,
    place: String,
    /// The handshake was done, so a HELO is no news.
    secured: bool,
    /// The other side keeps connections.
    kept: bool,
    opened: Instant,
}

impl Link {
    /// Connects, and does what the settings of the target ask for.
    pub async fn open(target: &Target) -> Result<Link, Trouble> {
        let place = target.address.to_string();
        let fails = |what: fmt::Arguments<'_>| Trouble::Fails(format!("{place}: {what}"));
        let connected = timeout(CONNECT_WAIT, connect(&target.address)).await;
        let socket = connected
            .map_err(|_| fails(format_args!("no connection within {CONNECT_WAIT:?}")))?
            .map_err(|error| fails(format_args!("can not connect: {error}")))?;
        let socket: Box<dyn Socket> = match &target.tls {
            None => socket,
            Some((connector, name)) => {
                let secured = timeout(TLS_WAIT, connector.connect(name.clone(), socket)).await;
                let secured = secured
                    .map_err(|_| fails(format_args!("no TLS within {TLS_WAIT:?}; is it a TLS listener?")))?
                    .map_err(|error| fails(format_args!("TLS: {error}")))?;
                Box::new(secured)
            }
        };
        let mut link = Link { socket, place, secured: false, kept: true, opened: Instant::now() };
        if let Some(identity) = &target.identity {
            link.introduce(&identity.now(&link.place)).await?;
        } else if !target.acks {
            let mut answer = Vec::new();
            if let Ok(read) = timeout(LISTEN_FIRST, link.read(&mut answer)).await {
                return Err(match read {
                    Ok(0) => link.fails("closed at once"),
                    Ok(_) => link.unasked(&answer),
                    Err(error) => link.fails(error),
                });
            }
        }
        Ok(link)
    }

    /// When it was opened.
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// Says that nothing more will come.
    pub async fn close(mut self) {
        // Everything that was asked for is acknowledged: an error here changes nothing.
        let _ = timeout(CONNECT_WAIT, self.socket.shutdown()).await;
    }

    /// Whether it may be used for another exchange.
    pub fn is_kept(&self) -> bool {
        self.kept
    }

    fn fails(&self, what: impl fmt::Display) -> Trouble {
        Trouble::Fails(format!("{}: {what}", self.place))
    }

    fn fault(&self, what: impl fmt::Display) -> Trouble {
        Trouble::Fault(format!("{}: {what}", self.place))
    }

    /// HELO, PING, PONG.
    async fn introduce(&mut self, identity: &Identity) -> Result<(), Trouble> {
        let user = identity.user.as_ref();
        let client = Client {
            host: identity.host.as_bytes(),
            key: identity.key.expose().as_bytes(),
            user: user.map(|(name, password)| (name.as_bytes(), password.expose().as_bytes())),
        };
        let mut salt = [0; RANDOM];
        SystemRandom::new().fill(&mut salt).map_err(|_| self.fails("the system has no random bytes"))?;
        let salt: String = salt.iter().map(|byte| format!("{byte:02x}")).collect();
        let salt = salt.as_bytes();
        let deadline = Instant::now() + HANDSHAKE_WAIT;
        let bytes = self.message(deadline, "HELO", |bytes| Helo::read(bytes).map(|(_, end)| end)).await?;
        let (helo, _) = Helo::read(&bytes).map_err(|fault| self.fails(fault))?;
        self.kept = helo.keepalive;
        let mut ping = Vec::new();
        client.ping(&helo, salt, &mut ping);
        let written = async {
            self.socket.write_all(&ping).await?;
            self.socket.flush().await
        };
        match timeout_at(deadline, written).await {
            Ok(Ok(())) => (),
            Ok(Err(error)) => return Err(self.fails(error)),
            Err(_) => return Err(self.fails("the receiver does not take the PING")),
        }
        let answer = self.message(deadline, "PONG", |bytes| Pong::read(bytes).map(|(_, end)| end)).await?;
        let (pong, _) = Pong::read(&answer).map_err(|fault| self.fails(fault))?;
        let nobody = client.user.is_none() && !helo.auth.is_empty();
        client.judge(&pong, helo.nonce, salt).map_err(|refusal| match refusal {
            Refusal::Denied(_) if nobody => {
                self.fault(format_args!("{refusal}; it asks for a user: set `user` and `password`"))
            }
            refusal => self.fault(refusal),
        })?;
        self.secured = true;
        Ok(())
    }

    /// Reads one handshake message, and nothing behind it.
    async fn message(
        &mut self,
        deadline: Instant,
        name: &str,
        end: impl Fn(&[u8]) -> Result<usize, handshake::Fault>,
    ) -> Result<Vec<u8>, Trouble> {
        let mut bytes = Vec::new();
        loop {
            let read = timeout_at(deadline, self.read(&mut bytes)).await;
            match read {
                Err(_) if name == "HELO" => {
                    let hint = "leave out `shared_key` if the receiver asks for none";
                    return Err(self.fails(format_args!("no HELO within {HANDSHAKE_WAIT:?}; {hint}")));
                }
                Err(_) => return Err(self.fails(format_args!("no {name} within {HANDSHAKE_WAIT:?}"))),
                Ok(Err(error)) => return Err(self.fails(error)),
                // Fluent Bit has no word for a wrong key.
                Ok(Ok(0)) if name == "PONG" => {
                    return Err(self.fault("closed instead of a PONG; is the shared key the right one?"));
                }
                Ok(Ok(0)) => return Err(self.fails(format_args!("closed before the {name}"))),
                Ok(Ok(_)) => (),
            }
            match end(&bytes) {
                Ok(end) if end == bytes.len() => return Ok(bytes),
                Ok(_) => return Err(self.fails("more than one message at once within the handshake")),
                Err(handshake::Fault::Short) => (),
                Err(fault) => return Err(self.fails(fault)),
            }
        }
    }

    async fn read(&mut self, into: &mut Vec<u8>) -> io::Result<usize> {
        poll_fn(|cx| poll_read(&mut self.socket, into, cx)).await
    }

    /// Whether there is nothing to read: neither an end nor a word that nobody asked for.
    pub fn check(&mut self) -> Result<(), Trouble> {
        let mut answer = Vec::new();
        match poll_read(&mut self.socket, &mut answer, &mut Context::from_waker(Waker::noop())) {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(0)) => Err(self.fails("closed while it was idle")),
            Poll::Ready(Ok(_)) => Err(self.unasked(&answer)),
            Poll::Ready(Err(error)) => Err(self.fails(error)),
        }
    }

    /// Writes frames, and waits for an ack of each chunk in `chunks`. Marks in `acked` those that came. After an error
    /// the connection is of no use any more.
    pub async fn exchange(
        &mut self,
        frames: &[u8],
        chunks: &[Vec<u8>],
        ack_wait: Duration,
        acked: &mut [bool],
    ) -> Result<(), Trouble> {
        let (mut written, mut flushed) = (0, false);
        let mut answers = Answers::default();
        let mut deadline = Instant::now() + STALL;
        while !flushed || acked.contains(&false) {
            let socket = &mut self.socket;
            let step = timeout_at(
                deadline,
                poll_fn(|cx| {
                    if written < frames.len() {
                        if let Poll::Ready(wrote) = Pin::new(&mut *socket).poll_write(cx, &frames[written..]) {
                            return Poll::Ready(wrote.map(Step::Wrote));
                        }
                    } else if !flushed && let Poll::Ready(done) = Pin::new(&mut *socket).poll_flush(cx) {
                        return Poll::Ready(done.map(|()| Step::Flushed));
                    }
                    poll_read(socket, answers.buffer(), cx).map_ok(Step::Read)
                }),
            );
            match step.await {
                Ok(Ok(Step::Wrote(0))) => return Err(self.fails("takes no more bytes")),
                Ok(Ok(Step::Wrote(bytes))) => {
                    written += bytes;
                    deadline = Instant::now() + STALL;
                }
                Ok(Ok(Step::Flushed)) => {
                    flushed = true;
                    deadline = Instant::now() + ack_wait;
                }
                Ok(Ok(Step::Read(0))) => return Err(self.fails("closed without an ack")),
                Ok(Ok(Step::Read(_))) => {
                    answers.settle(chunks, acked).map_err(|Unasked| self.unasked(answers.rest()))?;
                }
                Ok(Err(error)) => return Err(self.fails(error)),
                Err(_) if !flushed => return Err(self.fails(format_args!("took no bytes for {STALL:?}"))),
                Err(_) => return Err(self.fails(format_args!("no ack within {ack_wait:?}"))),
            }
        }
        if !answers.rest().is_empty() {
            // All is acknowledged, and the connection is at an unknown place.
            self.kept = false;
        }
        Ok(())
    }

    /// What something that nobody waits for means.
    fn unasked(&self, answer: &[u8]) -> Trouble {
        if !self.secured && answer.get(1..6) == Some(b"\xa4HELO") {
            return self.fault("the receiver asks for a shared key (it said HELO); set `shared_key`");
        }
        if answer.starts_with(b"HTTP/") {
            return self.fault("this is an HTTP server; the forward protocol has a port of its own");
        }
        if answer.first() == Some(&0x15) {
            return self.fault("this seems to be a TLS listener; write tls://");
        }
        let shown = handshake::shown(&answer[..answer.len().min(32)]);
        self.fails(format_args!("answered something that nobody waits for: \"{shown}\""))
    }
}

enum Step {
    Wrote(usize),
    Flushed,
    Read(usize),
}

/// Reads what there is, up to 512 bytes, behind what is in `into`.
fn poll_read(socket: &mut Box<dyn Socket>, into: &mut Vec<u8>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut piece = [0; 512];
    let mut read = ReadBuf::new(&mut piece);
    match Pin::new(socket).poll_read(cx, &mut read) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Ready(Ok(())) => {
            into.extend_from_slice(read.filled());
            Poll::Ready(Ok(read.filled().len()))
        }
    }
}

async fn connect(address: &Address) -> io::Result<Box<dyn Socket>> {
    Ok(match address {
        Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
        Address::Tcp(text) | Address::Tls(text) => {
            let socket = TcpStream::connect(text).await?;
            socket.set_nodelay(true)?;
            SockRef::from(&socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE))?;
            Box::new(socket)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Doc, Secret};

    #[test]
    fn a_key_that_can_not_be_read_now_is_the_last_one_and_not_the_first() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let file = dir.path().join("key");
        std::fs::write(&file, "first\n").expect("written");
        let doc = Doc::new("c.toml", "", |_| None);
        doc.set_secrets(dir.path());
        let key = doc.secret("secret:key".to_owned(), 0..0).expect("it is there");
        let identities = Identities::new(Identity { host: "h".to_owned(), key, user: None });
        let shown = |identity: Identity| identity.key.expose().to_owned();
        assert_eq!(shown(identities.now("x")), "first");
        std::fs::write(&file, "second\n").expect("written");
        assert_eq!(shown(identities.now("x")), "second");
        std::fs::remove_file(&file).expect("it is there");
        assert_eq!(shown(identities.now("x")), "second");
        std::fs::write(&file, "third\n").expect("written");
        assert_eq!(shown(identities.now("x")), "third");
        let fixed = Identities::new(Identity { host: "h".to_owned(), key: Secret::new("k".into()), user: None });
        assert_eq!(shown(fixed.now("x")), "k");
    }
}
