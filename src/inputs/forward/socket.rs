//! The reading half of a connection, whatever it is made of: TCP, TLS or a Unix socket.
//!
//! [`Reader::readable`] waits without a buffer, so that an idle connection holds none; TLS has to decrypt to know, and
//! keeps the one byte it found for [`Reader::try_read`].

use std::io;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};
use tokio_rustls::server::TlsStream;

/// The writing half.
pub(super) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

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
                    let mut byte = [0];
                    let read = match poll_tls(socket, context, &mut byte) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(read) => read?,
                    };
                    let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
                    ahead.bytes.extend_from_slice(&byte[..read]);
                    ahead.ended = read == 0;
                    Poll::Ready(Ok(()))
                })
                .await
            }
        }
    }

    /// Reads what is there; 0 bytes at the sender's end.
    pub(super) fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut from_ahead = 0;
        {
            let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
            if !ahead.bytes.is_empty() {
                from_ahead = ahead.bytes.len().min(into.len());
                into[..from_ahead].copy_from_slice(&ahead.bytes[..from_ahead]);
                ahead.bytes.drain(..from_ahead);
                if ahead.bytes.is_empty() {
                    ahead.bytes = Vec::new();
                }
            } else if ahead.ended {
                return Ok(0);
            }
        }
        match &self.half {
            _ if from_ahead == into.len() && from_ahead > 0 => Ok(from_ahead),
            Half::Tcp(_) | Half::Unix(_) if from_ahead > 0 => Ok(from_ahead),
            Half::Tcp(socket) => socket.try_read(into),
            Half::Unix(socket) => socket.try_read(into),
            Half::Tls(socket) => {
                // The waker of `readable` is set again there.
                let mut context = Context::from_waker(Waker::noop());
                match poll_tls(socket, &mut context, &mut into[from_ahead..]) {
                    Poll::Ready(Ok(0)) => {
                        self.ahead.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
                        Ok(from_ahead)
                    }
                    Poll::Ready(Ok(read)) => Ok(from_ahead + read),
                    Poll::Pending | Poll::Ready(Err(_)) if from_ahead > 0 => Ok(from_ahead),
                    Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                    Poll::Ready(Err(error)) => Err(error),
                }
            }
        }
    }
}

/// Reads from a TLS connection. A peer that closes without TLS's own goodbye has closed all the same: frames have
/// lengths, so nothing can be cut off unseen.
fn poll_tls(
    socket: &Mutex<ReadHalf<TlsStream<TcpStream>>>,
    context: &mut Context<'_>,
    into: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(into);
    let mut socket = socket.lock().unwrap_or_else(PoisonError::into_inner);
    match Pin::new(&mut *socket).poll_read(context, &mut buffer) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Ok(())) => Poll::Ready(Ok(buffer.filled().len())),
        Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(0)),
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
    }
}
