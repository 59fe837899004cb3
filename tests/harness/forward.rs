//! A forward client in test code: frames are built with rmpv or by hand, bytes are written as the test says, acks are
//! read as bytes. It shares nothing with the program's own codec.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use rmpv::Value;

use super::PATIENCE;

/// A connection to a forward input.
pub enum Client {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

impl Client {
    /// Connects, and tries again until the listener is there.
    pub fn tcp(port: u16) -> Client {
        let stream = retry(|| TcpStream::connect(("127.0.0.1", port)));
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a TCP socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("a TCP socket");
        Client::Tcp(stream)
    }

    /// The same over a Unix socket.
    pub fn unix(path: &Path) -> Client {
        let stream = retry(|| UnixStream::connect(path));
        stream.set_read_timeout(Some(PATIENCE)).expect("a Unix socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("a Unix socket");
        Client::Unix(stream)
    }

    fn stream(&mut self) -> (&mut dyn Read, Option<&mut dyn Write>) {
        match self {
            Client::Tcp(stream) => (stream, None),
            Client::Unix(stream) => (stream, None),
        }
    }

    /// Writes all of it.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the receiver takes the bytes");
    }

    /// Writes, and lets the caller judge an error.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Client::Tcp(stream) => stream.write_all(bytes),
            Client::Unix(stream) => stream.write_all(bytes),
        }
    }

    /// Reads exactly as many bytes as expected and compares them.
    pub fn expect_bytes(&mut self, expected: &[u8]) {
        let mut got = vec![0; expected.len()];
        self.stream().0.read_exact(&mut got).expect("the answer comes in time");
        assert_eq!(got, expected, "the answer byte for byte");
    }

    /// Reads the ack of a chunk: `{"ack": chunk}`, with `chunk` as a msgpack `str`.
    pub fn expect_ack(&mut self, chunk: &str) {
        self.expect_bytes(&ack_of(chunk));
    }

    /// Whether the ack of a chunk comes before the other side closes.
    pub fn try_ack(&mut self, chunk: &str) -> bool {
        let expected = ack_of(chunk);
        let mut got = vec![0; expected.len()];
        self.stream().0.read_exact(&mut got).is_ok() && got == expected
    }

    /// Checks that nothing is answered for a while.
    pub fn expect_silence(&mut self, time: Duration) {
        self.set_read_timeout(time);
        let mut byte = [0];
        let read = self.stream().0.read(&mut byte);
        self.set_read_timeout(PATIENCE);
        match read {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            other => panic!("expected no answer and an open connection, got {other:?} {byte:?}"),
        }
    }

    /// Waits until the other side closes; what it sent before is returned. A reset counts as closed.
    pub fn expect_close(&mut self) -> Vec<u8> {
        let mut got = Vec::new();
        match self.stream().0.read_to_end(&mut got) {
            Ok(_) => got,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => got,
            Err(error) => panic!("the connection was not closed: {error}"),
        }
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) {
        let _ = match self {
            Client::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Client::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }

    /// A write that takes longer fails.
    pub fn set_write_timeout(&self, time: Duration) {
        match self {
            Client::Tcp(stream) => stream.set_write_timeout(Some(time)),
            Client::Unix(stream) => stream.set_write_timeout(Some(time)),
        }
        .expect("a socket");
    }

    /// Waits longer for writes and answers: for a receiver that has a hundred such clients.
    pub fn set_patience(&self, time: Duration) {
        self.set_write_timeout(time);
        self.set_read_timeout(time);
    }

    fn set_read_timeout(&self, time: Duration) {
        match self {
            Client::Tcp(stream) => stream.set_read_timeout(Some(time)),
            Client::Unix(stream) => stream.set_read_timeout(Some(time)),
        }
        .expect("a socket");
    }
}

fn retry<T>(connect: impl Fn() -> io::Result<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match connect() {
            Ok(stream) => return stream,
            Err(error) if Instant::now() > deadline => panic!("no forward listener: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// The bytes of an ack.
pub fn ack_of(chunk: &str) -> Vec<u8> {
    encode(&map(&[("ack", chunk.into())]))
}

/// One value's bytes.
pub fn encode(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).expect("writing to memory works");
    bytes
}

/// A map with text keys.
pub fn map(pairs: &[(&str, Value)]) -> Value {
    Value::Map(pairs.iter().map(|(key, value)| (Value::from(*key), value.clone())).collect())
}

/// An EventTime.
pub fn event_time(seconds: u32, nanoseconds: u32) -> Value {
    let mut bytes = seconds.to_be_bytes().to_vec();
    bytes.extend(nanoseconds.to_be_bytes());
    Value::Ext(0, bytes)
}

/// An option map with a chunk id, and more.
pub fn option(chunk: &str, more: &[(&str, Value)]) -> Value {
    let mut pairs = vec![("chunk", Value::from(chunk))];
    pairs.extend(more.iter().cloned());
    map(&pairs)
}

/// Message mode: `[tag, time, record, option?]`.
pub fn message(tag: &str, time: Value, record: Value, option: Option<Value>) -> Vec<u8> {
    let mut items = vec![tag.into(), time, record];
    items.extend(option);
    encode(&Value::Array(items))
}

/// Forward mode: `[tag, [[time, record], ...], option?]`.
pub fn forward(tag: &str, entries: &[(Value, Value)], option: Option<Value>) -> Vec<u8> {
    let entries = entries.iter().map(|(time, record)| Value::Array(vec![time.clone(), record.clone()])).collect();
    let mut items = vec![tag.into(), Value::Array(entries)];
    items.extend(option);
    encode(&Value::Array(items))
}

/// The entries of the packed modes, back to back.
pub fn entries(entries: &[(Value, Value)]) -> Vec<u8> {
    entries.iter().flat_map(|(time, record)| encode(&Value::Array(vec![time.clone(), record.clone()]))).collect()
}

/// PackedForward and CompressedPackedForward: `[tag, blob, option?]`, the blob as `bin`.
pub fn packed(tag: &str, blob: &[u8], option: Option<Value>) -> Vec<u8> {
    let mut items = vec![tag.into(), Value::Binary(blob.to_vec())];
    items.extend(option);
    encode(&Value::Array(items))
}

/// The same with the blob as `str32`, as Fluentd writes it.
pub fn packed_as_str32(tag: &str, blob: &[u8], option: &Value) -> Vec<u8> {
    let mut bytes = vec![0x93];
    bytes.extend(encode(&tag.into()));
    bytes.push(0xdb);
    bytes.extend(u32::try_from(blob.len()).expect("small").to_be_bytes());
    bytes.extend_from_slice(blob);
    bytes.extend(encode(option));
    bytes
}

/// One gzip member.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("writing to memory works");
    encoder.finish().expect("writing to memory works")
}

/// One zstd frame.
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("writing to memory works")
}
