//! A bound socket of a listener: made here, or given to us ([`inherited`](crate::inputs::inherited)).
//!
//! A Unix socket has its mode and owner before anybody can connect. A stale one is replaced, one that somebody listens
//! on is not.

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream};

use crate::inputs::inherited;

use super::listen::{Address, Listen};

/// Connections that the system holds for us until they are accepted: all containers come back at once.
const BACKLOG: i32 = 4096;
/// What the system makes of that.
const SOMAXCONN: &str = "/proc/sys/net/core/somaxconn";
/// Idle time before the system asks whether the peer is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// A bound socket.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// Says so if the system makes the queue of connections that wait to be accepted shorter.
pub(super) fn warn_of_a_short_backlog() {
    let cut = fs::read_to_string(SOMAXCONN).ok().and_then(|text| text.trim().parse::<i32>().ok());
    if let Some(most) = cut.filter(|most| *most < BACKLOG) {
        tracing::warn!(
            most,
            wanted = BACKLOG,
            "the system lets fewer connections wait than may come back at once after an outage, and the others try again \
             seconds later; raise net.core.somaxconn"
        );
    }
}

/// What came in.
pub(super) enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Listener {
    /// Binds, or takes the socket that was given to the process for this address.
    pub(super) fn bind(listen: &Listen) -> io::Result<Listener> {
        match &listen.address {
            Address::Tcp(text) | Address::Tls(text) => {
                let address = resolve(text)?;
                let socket = match inherited::take(&SockAddr::from(address)) {
                    Some(socket) => socket,
                    None => {
                        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
                        socket.set_reuse_address(true)?;
                        socket.bind(&SockAddr::from(address))?;
                        socket
                    }
                };
                socket.set_nonblocking(true)?;
                // Again for one that was given to us, whose backlog may be small.
                socket.listen(BACKLOG)?;
                inherited::offer(&socket);
                Ok(Listener::Tcp(TcpListener::from_std(socket.into())?))
            }
            Address::Unix(path) => {
                let socket = match inherited::take(&SockAddr::unix(path)?) {
                    Some(socket) => {
                        if !inherited::is_from_outside(path) {
                            dress(path, listen)?;
                        }
                        socket
                    }
                    None => bind_unix(path, listen)?,
                };
                socket.set_nonblocking(true)?;
                socket.listen(BACKLOG)?;
                inherited::offer(&socket);
                Ok(Listener::Unix(UnixListener::from_std(socket.into())?, path.clone()))
            }
        }
    }

    /// Where it listens, as a sender has to write it but for the scheme.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(..) => None,
        }
    }

    /// The heartbeat's socket on the same port.
    pub(super) fn bind_udp(&self) -> Option<io::Result<UdpSocket>> {
        let address = self.local()?;
        let bind = || {
            let socket = std::net::UdpSocket::bind(address)?;
            socket.set_nonblocking(true)?;
            UdpSocket::from_std(socket)
        };
        Some(bind())
    }

    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Listener::Tcp(listener) => {
                let (socket, peer) = listener.accept().await?;
                prepare(&socket);
                Ok(Accepted::Tcp(socket, SocketAddr::new(peer.ip().to_canonical(), peer.port())))
            }
            Listener::Unix(listener, _) => Ok(Accepted::Unix(listener.accept().await?.0)),
        }
    }

    /// Ends listening. A socket's file goes too, unless another process or listener has it from now on.
    pub(super) fn close(self) {
        let address = match &self {
            Listener::Tcp(listener) => SockRef::from(listener).local_addr(),
            Listener::Unix(listener, _) => SockRef::from(listener).local_addr(),
        };
        let kept = address.is_ok_and(|address| inherited::withdraw(&address));
        if let Listener::Unix(listener, path) = self {
            drop(listener);
            if !kept && !inherited::is_handed_over() && !inherited::is_from_outside(&path) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Who is at the other end, as log lines and records say it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(Option<SocketAddr>);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("unix"),
        }
    }
}

impl Accepted {
    /// The address of a peer that has one.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        self.peer().0.map(|address| address.ip())
    }

    /// The peer.
    pub(super) fn peer(&self) -> Peer {
        match self {
            Accepted::Tcp(_, peer) => Peer(Some(*peer)),
            Accepted::Unix(_) => Peer(None),
        }
    }
}

fn resolve(text: &str) -> io::Result<SocketAddr> {
    text.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("the name has no address"))
}

/// Acks go out at once, and a peer that vanished is found out. A socket that refuses is used as it is.
fn prepare(socket: &TcpStream) {
    let _ = socket.set_nodelay(true);
    let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(Duration::from_secs(15));
    let _ = SockRef::from(socket).set_tcp_keepalive(&keep_alive);
}

/// Nobody can connect to what is bound but does not listen: mode and owner are right before anybody does.
fn bind_unix(path: &Path, listen: &Listen) -> io::Result<Socket> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let prepared = dress(path, listen);
    if prepared.is_err() {
        let _ = fs::remove_file(path);
    }
    prepared.map(|()| socket)
}

/// Gives a Unix socket its owner and mode.
fn dress(path: &Path, listen: &Listen) -> io::Result<()> {
    if let Some(owner) = &listen.owner {
        let (user, group) = owner.split_once(':').unwrap_or((owner, ""));
        let (user, group) = (id_of("/etc/passwd", user)?, id_of("/etc/group", group)?);
        std::os::unix::fs::chown(path, user, group)
            .map_err(|error| io::Error::new(error.kind(), format!("`owner`: {error}")))?;
    }
    listen.mode.map_or(Ok(()), |mode| fs::set_permissions(path, Permissions::from_mode(mode)))
}

/// The number of a user or group, which stands in the third field of these files. `None` for none.
fn id_of(file: &str, name: &str) -> io::Result<Option<u32>> {
    if name.is_empty() {
        return Ok(None);
    }
    if let Ok(number) = name.parse() {
        return Ok(Some(number));
    }
    let text = fs::read_to_string(file).map_err(|error| io::Error::new(error.kind(), format!("{file}: {error}")))?;
    let number = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    });
    number.map(Some).ok_or_else(|| io::Error::other(format!("`owner`: {file} has no \"{name}\"; a number works too")))
}

/// Removes the socket of a listener that is gone. One that somebody listens on stays, and `bind` says so.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody listens there already"));
            }
            fs::remove_file(path)
        }
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path is there and no socket; remove it")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
