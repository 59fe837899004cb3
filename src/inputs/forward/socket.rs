//! The reading half of a connection, whatever it is made of: TCP, TLS or a Unix socket.
//!
//! [`Reader::readable`] waits without a buffer, so that an idle connection holds none; TLS has to decrypt to know, and
//! keeps the one byte it found for [`Reader::try_read`].

use std::io;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::BufMut;
use tokio::io::{AsyncReadExt, AsyncWrite, ReadHalf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};
use tokio_rustls::server::TlsStream;

/// The writing half.
pub(super) type Writer = Box<dyn AsyncWrite + Send + Sync + Unpin>;

/// The reading half.
pub(super) struct Reader {
    half: Half,
    /// What was read already and not given yet.
    ahead: Mutex<Ahead>,
}

enum Half {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
    Tls(Mutex<ReadHalf<TlsStream<TcpStream>>>),
}

#[derive(Default)]
struct Ahead {
    bytes: Vec<u8>,
    /// The sender's end was seen.
    ended: bool,
}

impl Reader {
    /// Halves of a TCP connection of which `ahead` was read already.
    pub(super) fn tcp(socket: TcpStream, ahead: Vec<u8>) -> (Reader, Writer) {
        let (read, write) = socket.into_split();
        (Reader::new(Half::Tcp(read), ahead), Box::new(write))
    }

    /// The same of a Unix socket.
    pub(super) fn unix(socket: UnixStream, ahead: Vec<u8>) -> (Reader, Writer) {
        let (read, write) = socket.into_split();
        (Reader::new(Half::Unix(read), ahead), Box::new(write))
    }

    /// The same of a TLS connection.
    pub(super) fn tls(socket: TlsStream<TcpStream>, ahead: Vec<u8>) -> (Reader, Writer) {
        let (read, write) = tokio::io::split(socket);
        (Reader::new(Half::Tls(Mutex::new(read)), ahead), Box::new(write))
    }

    fn new(half: Half, ahead: Vec<u8>) -> Reader {
        Reader { half, ahead: Mutex::new(Ahead { bytes: ahead, ended: false }) }
    }

    /// Whether the sender has ended, and nothing is left to be read.
    pub(super) fn is_at_end(&self) -> bool {
        let ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        ahead.ended && ahead.bytes.is_empty()
    }

    fn has_ahead(&self) -> bool {
        let ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        ahead.ended || !ahead.bytes.is_empty()
    }

    /// Waits until [`try_read`](Reader::try_read) has something to say.
    pub(super) async fn readable(&self) -> io::Result<()> {
        if self.has_ahead() {
            return Ok(());
        }
        match &self.half {
            Half::Tcp(socket) => socket.readable().await,
            Half::Unix(socket) => socket.readable().await,
            Half::Tls(socket) => {
                std::future::poll_fn(|context| {
                    let mut found = Vec::new();
                    match poll_tls(socket, context, &mut (&mut found).limit(1)) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(read) => read?,
                    };
                    self.keep(&found);
                    Poll::Ready(Ok(()))
                })
                .await
            }
        }
    }

    /// Whether there is a byte, the end or an error for [`try_read`](Reader::try_read). A poll, not a future: it is all that
    /// a silent connection waits with. Unlike [`readable`](Reader::readable) it is not content with a guess: the runtime
    /// takes each new socket for readable.
    pub(super) fn poll_first_byte(&self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut found = Vec::new();
            let ready = match &self.half {
                _ if self.has_ahead() => return Poll::Ready(()),
                Half::Tcp(socket) => socket.as_ref().poll_read_ready(context),
                Half::Unix(socket) => socket.as_ref().poll_read_ready(context),
                Half::Tls(socket) => {
                    poll_tls(socket, context, &mut (&mut found).limit(1)).map_ok(|_| self.keep(&found))
                }
            };
            match (ready, &self.half) {
                (Poll::Pending, _) => return Poll::Pending,
                (Poll::Ready(Ok(())), Half::Tcp(_) | Half::Unix(_)) => match self.try_read(1, &mut found) {
                    Ok(_) => self.keep(&found),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                    Err(_) => return Poll::Ready(()),
                },
                (Poll::Ready(Ok(())), Half::Tls(_)) => (),
                (Poll::Ready(Err(_)), _) => return Poll::Ready(()),
            }
        }
    }

    /// Keeps what was read ahead; nothing is the sender's end.
    fn keep(&self, read: &[u8]) {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        ahead.bytes.extend_from_slice(read);
        ahead.ended = read.is_empty();
    }

    /// Appends what is there, up to `room` bytes (not 0); says how many. 0 bytes at the sender's end.
    pub(super) fn try_read(&self, room: usize, into: &mut Vec<u8>) -> io::Result<usize> {
        let mut from_ahead = 0;
        {
            let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
            if !ahead.bytes.is_empty() {
                from_ahead = ahead.bytes.len().min(room);
                into.extend(ahead.bytes.drain(..from_ahead));
                if ahead.bytes.is_empty() {
                    ahead.bytes = Vec::new();
                }
            } else if ahead.ended {
                return Ok(0);
            }
        }
        let room = room - from_ahead;
        if room == 0 {
            return Ok(from_ahead);
        }
        into.reserve_exact(room);
        let read = match &self.half {
            Half::Tcp(socket) => socket.try_read_buf(&mut into.limit(room)),
            Half::Unix(socket) => socket.try_read_buf(&mut into.limit(room)),
            // The waker of `readable` is set again there.
            Half::Tls(socket) => {
                match poll_tls(socket, &mut Context::from_waker(Waker::noop()), &mut into.limit(room)) {
                    Poll::Ready(read) => read,
                    Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                }
            }
        };
        match read {
            Ok(0) => {
                self.ahead.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
                Ok(from_ahead)
            }
            Ok(read) => Ok(from_ahead + read),
            // What was there first is given first; an error comes again, or the end does.
            Err(_) if from_ahead > 0 => Ok(from_ahead),
            Err(error) => Err(error),
        }
    }
}

/// Reads from a TLS connection, of which it gives one record at a time. A peer that closes without TLS's own goodbye has
/// closed all the same: frames have lengths, so nothing can be cut off unseen.
fn poll_tls(
    socket: &Mutex<ReadHalf<TlsStream<TcpStream>>>,
    context: &mut Context<'_>,
    into: &mut impl BufMut,
) -> Poll<io::Result<usize>> {
    let mut socket = socket.lock().unwrap_or_else(PoisonError::into_inner);
    match pin!(socket.read_buf(into)).poll(context) {
        Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(0)),
        read => read,
    }
}
