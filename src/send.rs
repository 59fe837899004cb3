//! The `longshore send` client: records from standard input to a forward receiver, with acks.
//!
//! Lines are texts (`{"log": line}`) or JSON objects; they go out as PackedForward frames, when one is full or the
//! input pauses. With acks one frame is under way at a time and is sent again, with the same chunk id, over a new
//! connection until it is acknowledged: the receiver may see it twice, never not at all.
//! Limits: [`LINE_MAX`] bytes a line (a longer one is cut and counted), [`SendOptions::records_max`] records and
//! [`FRAME_BYTES`] bytes a frame, [`SendOptions::tries_max`] tries.

use std::fmt;
use std::io;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};

use crate::codec::msgpack::{self, write};
use crate::record::Timestamp;

/// Bytes of one line, at most.
pub const LINE_MAX: usize = 1 << 20;
/// A frame is closed when its entries are this large.
const FRAME_BYTES: usize = 512 << 10;
/// The input is silent: what there is goes out.
const PAUSE: Duration = Duration::from_millis(50);
const TRY_AGAIN: Duration = Duration::from_millis(500);
const CONNECT_WAIT: Duration = Duration::from_secs(10);
const ACK_BYTES_MAX: usize = 4096;

/// What to send, and where.
#[derive(Clone, Debug)]
pub struct SendOptions {
    /// `host:port`, `tcp://host:port` or `unix:///path`.
    pub to: String,
    /// The tag of all records.
    pub tag: String,
    /// Lines are JSON objects; one that is none goes as text.
    pub json: bool,
    /// Ask for acks and wait for them.
    pub ack: bool,
    /// How long to wait for one ack before the frame is sent again.
    pub ack_wait: Duration,
    /// Records in one frame, at most.
    pub records_max: usize,
    /// Tries for one frame before giving up.
    pub tries_max: u32,
    /// Records a second, at most.
    pub rate: Option<u64>,
}

impl Default for SendOptions {
    fn default() -> SendOptions {
        SendOptions {
            to: "tcp://127.0.0.1:24224".to_owned(),
            tag: "send".to_owned(),
            json: false,
            ack: true,
            ack_wait: Duration::from_secs(60),
            records_max: 1000,
            tries_max: 10,
            rate: None,
        }
    }
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Records sent (and acknowledged, with acks).
    pub records: u64,
    /// Frames.
    pub frames: u64,
    /// Bytes of frames, without those sent again.
    pub bytes: u64,
    /// Frames that were sent again.
    pub again: u64,
    /// Lines that were no JSON object and went as text.
    pub not_json: u64,
    /// Lines that were cut.
    pub cut: u64,
}

/// Why sending ended early.
#[derive(Debug)]
pub struct SendError {
    /// What was safe before.
    pub sent: Summary,
    /// Why.
    pub cause: io::Error,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (after {} records)", self.cause, self.sent.records)
    }
}

impl std::error::Error for SendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// Sends every line of `input`; returns at its end, when all is acknowledged.
pub async fn send(options: &SendOptions, mut input: impl AsyncRead + Unpin) -> Result<Summary, SendError> {
    let mut client = Client {
        options,
        socket: None,
        summary: Summary::default(),
        entries: Vec::new(),
        count: 0,
        started: Instant::now(),
    };
    let (mut held, mut from, mut ended) = (Vec::<u8>::new(), 0, false);
    let failed = |client: &Client<'_>, cause| SendError { sent: client.summary, cause };
    while !ended {
        let mut piece = vec![0; 64 << 10];
        let read = match timeout(PAUSE, input.read(&mut piece)).await {
            Ok(read) => read,
            Err(_) => {
                client.flush().await.map_err(|cause| failed(&client, cause))?;
                input.read(&mut piece).await
            }
        };
        let read = read.map_err(|cause| failed(&client, cause))?;
        ended = read == 0;
        held.extend_from_slice(&piece[..read]);
        // Only what is new is searched for line breaks.
        let mut seen = held.len() - read;
        let mut start = from;
        while let Some(at) = memchr::memchr(b'\n', &held[seen..]) {
            let line = held[start..seen + at].to_vec();
            (start, seen) = (seen + at + 1, seen + at + 1);
            client.line(&line).await.map_err(|cause| failed(&client, cause))?;
        }
        held.drain(..start);
        from = 0;
        while held.len() > LINE_MAX || (ended && !held.is_empty()) {
            let rest = held.split_off(held.len().min(LINE_MAX));
            client.summary.cut += u64::from(!rest.is_empty() || !ended);
            client.line(&held).await.map_err(|cause| failed(&client, cause))?;
            held = rest;
        }
    }
    client.flush().await.map_err(|cause| failed(&client, cause))?;
    if let Some(socket) = &mut client.socket {
        let _ = socket.shutdown().await;
    }
    Ok(client.summary)
}

struct Client<'o> {
    options: &'o SendOptions,
    socket: Option<Box<dyn Socket>>,
    summary: Summary,
    entries: Vec<u8>,
    count: u64,
    started: Instant,
}

impl Client<'_> {
    async fn line(&mut self, line: &[u8]) -> io::Result<()> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        write::array(2, &mut self.entries);
        write::event_time(Timestamp::now(), &mut self.entries);
        let object = self.options.json && line.trim_ascii_start().starts_with(b"{");
        if !(object && msgpack::from_json::unchecked(line, &mut self.entries, &mut crate::metrics::Tally::default())) {
            self.summary.not_json += u64::from(self.options.json);
            write::map(1, &mut self.entries);
            write::text(b"log", &mut self.entries);
            write::text(line, &mut self.entries);
        }
        self.count += 1;
        if self.count >= self.options.records_max as u64 || self.entries.len() >= FRAME_BYTES {
            self.flush().await?;
        }
        if let Some(rate) = self.options.rate {
            let seconds = (self.summary.records + self.count) as f64 / rate as f64;
            let due = self.started + Duration::from_secs_f64(seconds);
            // Short waits add up to one that the timer can keep.
            if due > Instant::now() + PAUSE {
                self.flush().await?;
                tokio::time::sleep_until(due).await;
            }
        }
        Ok(())
    }

    /// Sends the entries at hand as one frame, until it is acknowledged.
    async fn flush(&mut self) -> io::Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        let mut chunk = Vec::new();
        let mut frame = Vec::with_capacity(self.entries.len() + 128);
        write::array(3, &mut frame);
        write::text(self.options.tag.as_bytes(), &mut frame);
        write::bin(&self.entries, &mut frame);
        write::map(if self.options.ack { 2 } else { 1 }, &mut frame);
        write::text(b"size", &mut frame);
        write::unsigned(self.count, &mut frame);
        if self.options.ack {
            write::text(STANDARD.encode(fastrand::u128(..).to_be_bytes()).as_bytes(), &mut chunk);
            write::text(b"chunk", &mut frame);
            frame.extend_from_slice(&chunk);
        }
        let mut tried = 0;
        while let Err(error) = self.try_frame(&frame, &chunk).await {
            self.socket = None;
            tried += 1;
            if tried >= self.options.tries_max {
                let message = format!("{}: {error}, {tried} tries", self.options.to);
                return Err(io::Error::new(error.kind(), message));
            }
            self.summary.again += 1;
            tokio::time::sleep(TRY_AGAIN).await;
        }
        self.summary.records += self.count;
        self.summary.frames += 1;
        self.summary.bytes += frame.len() as u64;
        self.entries.clear();
        self.count = 0;
        Ok(())
    }

    async fn try_frame(&mut self, frame: &[u8], chunk: &[u8]) -> io::Result<()> {
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => none.insert(connect(&self.options.to).await?),
        };
        socket.write_all(frame).await?;
        socket.flush().await?;
        if chunk.is_empty() {
            return Ok(());
        }
        let deadline = Instant::now() + self.options.ack_wait;
        let mut answer = Vec::new();
        loop {
            let mut piece = [0; 512];
            let read = timeout_at(deadline, socket.read(&mut piece)).await.map_err(|_| {
                io::Error::new(io::ErrorKind::TimedOut, format!("no ack within {:?}", self.options.ack_wait))
            })??;
            if read == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed without an ack"));
            }
            answer.extend_from_slice(&piece[..read]);
            match msgpack::end_of(&answer) {
                Ok(_) if msgpack::get(&answer, b"ack") == Some(chunk) => return Ok(()),
                Err(msgpack::Fault::Short) if answer.len() < ACK_BYTES_MAX => (),
                _ => return Err(io::Error::new(io::ErrorKind::InvalidData, hint(&answer))),
            }
        }
    }
}

fn hint(answer: &[u8]) -> &'static str {
    match answer {
        [0x93, 0xa4, b'H', b'E', b'L', b'O', ..] => {
            "the receiver wants the shared-key handshake, which is not supported yet"
        }
        _ => "the answer is not the ack of this frame",
    }
}

async fn connect(to: &str) -> io::Result<Box<dyn Socket>> {
    let connecting = async {
        if let Some(path) = to.strip_prefix("unix://") {
            return Ok(Box::new(UnixStream::connect(path).await?) as Box<dyn Socket>);
        }
        let socket = TcpStream::connect(to.strip_prefix("tcp://").unwrap_or(to)).await?;
        socket.set_nodelay(true)?;
        Ok(Box::new(socket) as Box<dyn Socket>)
    };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {CONNECT_WAIT:?}"));
    timeout(CONNECT_WAIT, connecting).await.map_err(late)?
}
