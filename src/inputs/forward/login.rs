//! The shared-key handshake of one connection, from the server's side.
//!
//! HELO goes out in one write, PONG in one write, since Fluentd and Fluent Bit take each from one read. A peer that is
//! refused is told why before the end, and what it still sends is read and thrown away for a moment, so that no reset
//! eats the reason.
//! Limits: [`handshake::MESSAGE_MAX`] bytes before the peer is known; [`LINGER`] and [`LINGER_BYTES`] afterwards.

use std::io;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use crate::codec::forward::handshake::{self, Fault, Helo, Ping, Server};
use crate::settings::Secret;

use super::hint;
use super::rules::Terms;

/// A refused peer's bytes are read for so long.
const LINGER: Duration = Duration::from_millis(500);
/// And so many of them.
const LINGER_BYTES: usize = 1 << 20;

/// Why a connection ends before its first frame.
#[derive(Debug)]
pub(super) enum Refused {
    /// It was closed without a byte, as probes and heartbeats do: nobody needs to know.
    Left,
    /// For the log.
    Because(String),
}

/// Lets the peer in, or says why not; `None` when that took longer than `until`. Gives what it sent after its PING.
pub(super) async fn login<S>(
    socket: &mut S,
    host: &str,
    terms: Terms<'_>,
    until: Instant,
) -> Option<Result<Vec<u8>, Refused>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Some(key) = terms.key else { return Some(Ok(Vec::new())) };
    let met = tokio::time::timeout_at(until, meet(socket, host, terms, key)).await.ok()?;
    if let Err(Refused::Because(_)) = met {
        linger(socket).await;
    }
    Some(met)
}

async fn meet<S>(socket: &mut S, host: &str, terms: Terms<'_>, key: &Secret) -> Result<Vec<u8>, Refused>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let key = key.expose().as_bytes();
    let mut random = [0; 2 * handshake::RANDOM];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| Refused::Because("the system has no random bytes for a nonce".to_owned()))?;
    let (nonce, auth) = random.split_at(handshake::RANDOM);
    let server = Server { host: host.as_bytes(), nonce, auth: if terms.asks_user() { auth } else { b"" } };
    let mut out = Vec::with_capacity(128);
    server.helo(&mut out);
    send(socket, &out).await.map_err(|_| Refused::Left)?;

    let mut bytes = vec![0; handshake::MESSAGE_MAX];
    let mut len = 0;
    loop {
        match socket.read(&mut bytes[len..]).await {
            Ok(0) | Err(_) if len == 0 => return Err(Refused::Left),
            Ok(0) | Err(_) => return Err(Refused::Because("it closed within its PING".to_owned())),
            Ok(read) => len += read,
        }
        let (ping, end) = match Ping::read(&bytes[..len]) {
            Ok(read) => read,
            Err(Fault::Short) if len < bytes.len() => continue,
            Err(fault) => {
                let (told, why) = no_ping(&bytes[..len], fault);
                return Err(refuse(socket, &told, why).await);
            }
        };
        if let Err(denied) = server.judge(&ping, key, terms.password(ping.user)) {
            let why = format!("{denied}; it calls itself \"{}\"", handshake::shown(ping.host));
            return Err(refuse(socket, &denied.to_string(), why).await);
        }
        out.clear();
        server.welcome(&ping, key, &mut out);
        send(socket, &out).await.map_err(|_| Refused::Because("it closed before its PONG".to_owned()))?;
        return Ok(bytes[end..len].to_vec());
    }
}

/// What a peer that sent no PING is told, and the log.
fn no_ping(bytes: &[u8], fault: Fault) -> (String, String) {
    let says = match fault {
        Fault::NotA(_) => match hint::of(bytes) {
            Some(hint) => hint.to_owned(),
            None if matches!(Helo::read(bytes), Ok(_) | Err(Fault::Short)) => {
                "a HELO: the other side is a receiver too; connect a sender here".to_owned()
            }
            None => "it does not speak shared_key: Docker's driver and most logger libraries can not; give them a \
                     listener of their own without `shared_key` (on loopback or a Unix socket)"
                .to_owned(),
        },
        fault => fault.to_string(),
    };
    ("expected a PING: this listener asks for a shared key".to_owned(), says)
}

/// Says no.
async fn refuse<S: AsyncWrite + Unpin>(socket: &mut S, told: &str, why: String) -> Refused {
    let mut out = Vec::new();
    Server::refuse(told, &mut out);
    // Whoever is gone needs no reason.
    let _ = send(socket, &out).await;
    let _ = socket.shutdown().await;
    Refused::Because(why)
}

/// Reads what a refused peer still sends.
async fn linger<S: AsyncRead + Unpin>(socket: &mut S) {
    let mut nowhere = vec![0; 4 << 10];
    let mut read = 0;
    let rest = async {
        while read < LINGER_BYTES {
            match socket.read(&mut nowhere).await {
                Ok(0) | Err(_) => return,
                Ok(more) => read += more,
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, rest).await;
}

async fn send<S: AsyncWrite + Unpin>(socket: &mut S, bytes: &[u8]) -> io::Result<()> {
    socket.write_all(bytes).await?;
    socket.flush().await
}
