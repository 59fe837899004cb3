//! The shared-key handshake of the forward protocol, both sides of it: HELO, PING and PONG written and read, and the
//! digests that prove a key and a password without sending them.
//!
//! ```text
//! server -> client  ["HELO", {nonce, auth, keepalive}]
//! client -> server  ["PING", client host, salt, D1, user, D2]
//! server -> client  ["PONG", accepted?, reason, server host, D3]
//!
//! D1 = H(salt | client host | nonce | key)    D2 = H(auth | user | password), "" where auth is ""
//! D3 = H(salt | server host | nonce | key)    H  = SHA-512 as lower-case hex, `|` = bytes one after the other
//! ```
//!
//! Nonce, auth, salt and names are bytes: Fluentd writes the nonce as `bin`, Fluent Bit as a `str` that is no UTF-8;
//! both kinds are read everywhere. What is compared with a secret is compared in constant time. The caller brings the
//! random bytes ([`RANDOM`] of them) and the sockets.
//! Limits: a message of [`MESSAGE_MAX`] bytes, known from its heads before the bytes are there; what this side writes
//! is below 1,023 bytes for names up to [`HOST_MAX`], since Fluentd and Fluent Bit take it from one read of that size.
//! Format: <https://github.com/fluent/fluentd/wiki/Forward-Protocol-Specification-v1>, Handshake Messages.

use std::fmt;

use subtle::ConstantTimeEq;

use crate::codec::msgpack::{self, Fault as Broken, Head, Skip, write};

/// Bytes of one message, at most.
pub const MESSAGE_MAX: usize = 4 << 10;
/// Bytes of a host's name that this side gives itself, at most.
pub const HOST_MAX: usize = 255;
/// Random bytes of a nonce, an auth salt and a client's salt.
pub const RANDOM: usize = 16;
/// Bytes of a reason that is sent or shown, at most.
const REASON_MAX: usize = 256;
/// Options of a HELO that are looked at, at most.
const HELO_OPTIONS_MAX: usize = 32;

/// Why a message could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It goes on after the bytes that are there; at [`MESSAGE_MAX`] bytes it never does.
    Short,
    /// Longer than [`MESSAGE_MAX`].
    TooLong,
    /// It is another message than this one, or none at all. What comes instead of a PING is mostly an event.
    NotA(&'static str),
    /// This part of it is not what it has to be.
    Bad(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Short => f.write_str("the handshake message is not whole"),
            Fault::TooLong => write!(f, "a handshake message of more than {MESSAGE_MAX} bytes"),
            Fault::NotA(name) => write!(f, "expected a {name}, got something else"),
            Fault::Bad(part) => write!(f, "the handshake message has a bad {part}"),
        }
    }
}

/// The first message, from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Helo<'a> {
    /// Random bytes of this connection.
    pub nonce: &'a [u8],
    /// Random bytes for the user's digest; empty where no user is asked for.
    pub auth: &'a [u8],
    /// Whether the connection may be kept.
    pub keepalive: bool,
}

/// The client's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping<'a> {
    /// The client's name.
    pub host: &'a [u8],
    /// The client's random bytes.
    pub salt: &'a [u8],
    /// D1
    pub key_digest: &'a [u8],
    /// The user; empty without one.
    pub user: &'a [u8],
    /// D2; empty without a user.
    pub user_digest: &'a [u8],
}

/// The server's last word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pong<'a> {
    /// Whether the client is let in.
    pub accepted: bool,
    /// Why not.
    pub reason: &'a [u8],
    /// The server's name.
    pub host: &'a [u8],
    /// D3; empty when the client is not let in.
    pub key_digest: &'a [u8],
}

/// A SHA-512 as 128 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 128]);

impl Digest {
    /// Of these parts, one after the other.
    fn of(parts: [&[u8]; 4]) -> Digest {
        let mut hash = ring::digest::Context::new(&ring::digest::SHA512);
        parts.iter().for_each(|part| hash.update(part));
        let mut hex = [0; 128];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(hash.finish().as_ref()) {
            pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
            pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
        }
        Digest(hex)
    }

    /// D1 of a client's `host`, D3 of a server's.
    pub fn of_key(salt: &[u8], host: &[u8], nonce: &[u8], key: &[u8]) -> Digest {
        Digest::of([salt, host, nonce, key])
    }

    /// D2
    pub fn of_user(auth: &[u8], user: &[u8], password: &[u8]) -> Digest {
        Digest::of([auth, user, password, b""])
    }

    /// The digits.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether `given` is this digest, in a time that does not tell where it differs.
    pub fn is(&self, given: &[u8]) -> bool {
        self.0.ct_eq(given).into()
    }
}

/// What a server is on one connection.
#[derive(Clone, Copy, Debug)]
pub struct Server<'a> {
    /// Its name; Fluentd's and Node's clients refuse one that is their own.
    pub host: &'a [u8],
    /// [`RANDOM`] fresh bytes: with them a PING of another connection is worth nothing.
    pub nonce: &'a [u8],
    /// [`RANDOM`] fresh bytes if users are asked for, else empty (some clients refuse to go on without a user name
    /// otherwise).
    pub auth: &'a [u8],
}

/// Why a server does not let a client in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It has another key.
    Key,
    /// It has no user of that name with that password.
    User,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Denied::Key => "shared_key mismatch",
            Denied::User => "username/password mismatch",
        })
    }
}

impl Server<'_> {
    /// Appends the HELO.
    pub fn helo(&self, out: &mut Vec<u8>) {
        write::array(2, out);
        write::text(b"HELO", out);
        write::map(3, out);
        for (name, value) in [("nonce", self.nonce), ("auth", self.auth)] {
            write::text(name.as_bytes(), out);
            short_bin(value, out);
        }
        write::text(b"keepalive", out);
        out.push(0xc3);
    }

    /// Judges a PING by the key, and, where users are asked for, by the password of the user that it names (`None` for
    /// one who is not known).
    ///
    /// # Errors
    /// What does not fit; the key first.
    pub fn judge(&self, ping: &Ping<'_>, key: &[u8], password: Option<&[u8]>) -> Result<(), Denied> {
        if !Digest::of_key(ping.salt, ping.host, self.nonce, key).is(ping.key_digest) {
            return Err(Denied::Key);
        }
        if self.auth.is_empty() {
            return Ok(());
        }
        // The same work for a user who is not known, so that the time does not tell who is.
        let fits = Digest::of_user(self.auth, ping.user, password.unwrap_or_default()).is(ping.user_digest);
        if fits && password.is_some() { Ok(()) } else { Err(Denied::User) }
    }

    /// Appends the PONG that lets the client in.
    pub fn welcome(&self, ping: &Ping<'_>, key: &[u8], out: &mut Vec<u8>) {
        let digest = Digest::of_key(ping.salt, self.host, self.nonce, key);
        Pong { accepted: true, reason: b"", host: self.host, key_digest: digest.as_bytes() }.write(out);
    }

    /// Appends the PONG that does not, with a reason for people.
    pub fn refuse(reason: &str, out: &mut Vec<u8>) {
        let reason = &reason.as_bytes()[..reason.floor_char_boundary(REASON_MAX)];
        Pong { accepted: false, reason, host: b"", key_digest: b"" }.write(out);
    }
}

/// What a client is, on any connection.
#[derive(Clone, Copy)]
pub struct Client<'a> {
    /// Its name.
    pub host: &'a [u8],
    /// The shared key.
    pub key: &'a [u8],
    /// User and password, for servers that ask for them.
    pub user: Option<(&'a [u8], &'a [u8])>,
}

/// Why a client does not go on with a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The server did not let it in; its reason as it may be shown.
    Denied(String),
    /// The server has the client's own name: then D3 is D1, and proves nothing.
    SameHost(String),
    /// The server does not prove that it has the key.
    WrongDigest,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Denied(reason) => write!(f, "the server refused: {reason}"),
            Refusal::SameHost(host) => {
                write!(f, "the server calls itself \"{host}\" as this client does; set another `hostname` on one side")
            }
            Refusal::WrongDigest => f.write_str("the server does not have the same shared key"),
        }
    }
}

impl Client<'_> {
    /// Appends the PING that answers a HELO, with [`RANDOM`] fresh bytes in hexadecimal as `salt`. A server that asks for a user is told
    /// none where there is none: Fluent Bit 5.1 always asks, and looks at the answer only if it has users.
    pub fn ping(&self, helo: &Helo<'_>, salt: &[u8], out: &mut Vec<u8>) {
        let key_digest = Digest::of_key(salt, self.host, helo.nonce, self.key);
        let (key_digest, host) = (key_digest.as_bytes(), self.host);
        match self.user.filter(|_| !helo.auth.is_empty()) {
            None => Ping { host, salt, key_digest, user: b"", user_digest: b"" }.write(out),
            Some((user, password)) => {
                let digest = Digest::of_user(helo.auth, user, password);
                Ping { host, salt, key_digest, user, user_digest: digest.as_bytes() }.write(out);
            }
        }
    }

    /// Judges the PONG after a PING with this nonce (of the HELO) and salt.
    ///
    /// # Errors
    /// Why the connection must not be used.
    pub fn judge(&self, pong: &Pong<'_>, nonce: &[u8], salt: &[u8]) -> Result<(), Refusal> {
        if !pong.accepted {
            return Err(Refusal::Denied(shown(pong.reason)));
        }
        if pong.host == self.host {
            return Err(Refusal::SameHost(shown(pong.host)));
        }
        match Digest::of_key(salt, pong.host, nonce, self.key).is(pong.key_digest) {
            true => Ok(()),
            false => Err(Refusal::WrongDigest),
        }
    }
}

/// Bytes of a peer as they may stand in a log: escaped and not long.
pub fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(REASON_MAX)]);
    text.escape_debug().to_string()
}

/// A `bin` with the shortest head: [`write::bin`] is for blobs.
fn short_bin(bytes: &[u8], out: &mut Vec<u8>) {
    match u8::try_from(bytes.len()) {
        Ok(len) => {
            out.extend_from_slice(&[0xc4, len]);
            out.extend_from_slice(bytes);
        }
        Err(_) => write::bin(bytes, out),
    }
}

impl<'a> Helo<'a> {
    /// Reads a HELO that `bytes` begin with; says where it ends.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn read(bytes: &'a [u8]) -> Result<(Helo<'a>, usize), Fault> {
        let mut parts = Parts::open(bytes, "HELO", 2)?;
        let Head::Map(count) = parts.head()? else { return Err(Fault::Bad("options map")) };
        if count > HELO_OPTIONS_MAX {
            return Err(Fault::Bad("options map"));
        }
        let mut helo = Helo { nonce: b"", auth: b"", keepalive: true };
        for _ in 0..count {
            match parts.text("option name")? {
                b"nonce" => helo.nonce = parts.text("nonce")?,
                b"auth" => helo.auth = parts.text("auth")?,
                b"keepalive" => helo.keepalive = parts.flag("keepalive")?,
                _ => parts.pass()?,
            }
        }
        Ok((helo, parts.at))
    }
}

impl<'a> Ping<'a> {
    /// Appends it.
    pub fn write(&self, out: &mut Vec<u8>) {
        write::array(6, out);
        write::text(b"PING", out);
        write::text(self.host, out);
        // As text, the only form that Fluent Bit takes.
        write::text(self.salt, out);
        write::text(self.key_digest, out);
        write::text(self.user, out);
        write::text(self.user_digest, out);
    }

    /// Reads a PING that `bytes` begin with; says where it ends.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn read(bytes: &'a [u8]) -> Result<(Ping<'a>, usize), Fault> {
        let mut parts = Parts::open(bytes, "PING", 6)?;
        let ping = Ping {
            host: parts.text("host name")?,
            salt: parts.text("salt")?,
            key_digest: parts.text("digest")?,
            user: parts.text("user name")?,
            user_digest: parts.text("user digest")?,
        };
        Ok((ping, parts.at))
    }
}

impl<'a> Pong<'a> {
    /// Appends it.
    pub fn write(&self, out: &mut Vec<u8>) {
        write::array(5, out);
        write::text(b"PONG", out);
        out.push(if self.accepted { 0xc3 } else { 0xc2 });
        write::text(self.reason, out);
        write::text(self.host, out);
        write::text(self.key_digest, out);
    }

    /// Reads a PONG that `bytes` begin with; says where it ends.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn read(bytes: &'a [u8]) -> Result<(Pong<'a>, usize), Fault> {
        let mut parts = Parts::open(bytes, "PONG", 5)?;
        let pong = Pong {
            accepted: parts.flag("answer")?,
            reason: parts.text("reason")?,
            host: parts.text("host name")?,
            key_digest: parts.text("digest")?,
        };
        Ok((pong, parts.at))
    }
}

/// The elements of one message, in turn.
struct Parts<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Parts<'a> {
    /// Reads the head and the name. Anything else is known for what it is as early as its bytes allow.
    fn open(bytes: &'a [u8], name: &'static str, count: usize) -> Result<Parts<'a>, Fault> {
        let mut parts = Parts { bytes, at: 0 };
        match parts.head() {
            Ok(Head::Array(found)) if found == count => (),
            Err(Fault::Short) => return Err(Fault::Short),
            _ => return Err(Fault::NotA(name)),
        }
        match parts.head() {
            Ok(Head::Str(len) | Head::Bin(len)) if len == name.len() => (),
            Err(Fault::Short) => return Err(Fault::Short),
            _ => return Err(Fault::NotA(name)),
        }
        let got = &bytes[parts.at..bytes.len().min(parts.at + name.len())];
        if !name.as_bytes().starts_with(got) {
            return Err(Fault::NotA(name));
        }
        parts.take(name.len())?;
        Ok(parts)
    }

    fn head(&mut self) -> Result<Head, Fault> {
        let (head, len) = msgpack::head(&self.bytes[self.at..]).map_err(|broken| match broken {
            Broken::Short => self.short(),
            Broken::Reserved(_) | Broken::TooDeep => Fault::Bad("byte 0xc1"),
        })?;
        self.at += len;
        Ok(head)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let end = self.at.saturating_add(len);
        if end > MESSAGE_MAX {
            return Err(Fault::TooLong);
        }
        let taken = self.bytes.get(self.at..end).ok_or(Fault::Short)?;
        self.at = end;
        Ok(taken)
    }

    fn text(&mut self, part: &'static str) -> Result<&'a [u8], Fault> {
        match self.head()? {
            Head::Str(len) | Head::Bin(len) => self.take(len),
            _ => Err(Fault::Bad(part)),
        }
    }

    fn flag(&mut self, part: &'static str) -> Result<bool, Fault> {
        match self.head()? {
            Head::Bool(flag) => Ok(flag),
            _ => Err(Fault::Bad(part)),
        }
    }

    /// Passes over one value.
    fn pass(&mut self) -> Result<(), Fault> {
        let mut skip = Skip::values(1);
        let used = skip.advance(&self.bytes[self.at..]).map_err(|_| Fault::Bad("option"))?;
        let least = skip.owed();
        if (self.at + used) as u64 + least > MESSAGE_MAX as u64 {
            return Err(Fault::TooLong);
        }
        if !skip.is_done() {
            return Err(Fault::Short);
        }
        self.at += used;
        Ok(())
    }

    fn short(&self) -> Fault {
        if self.bytes.len() >= MESSAGE_MAX { Fault::TooLong } else { Fault::Short }
    }
}

/// One run of the fuzzer: any bytes to both sides. What is read is written and read again as the same; every cut of it
/// is short and never anything else; nobody is let in who does not have the key.
#[doc(hidden)]
pub fn fuzz_one(data: &[u8]) {
    fn cuts<'a, T: fmt::Debug>(data: &'a [u8], end: usize, read: fn(&'a [u8]) -> Result<(T, usize), Fault>) {
        assert!(end <= MESSAGE_MAX && end <= data.len());
        for cut in 0..end {
            assert!(matches!(read(&data[..cut]), Err(Fault::Short)), "a message cut at {cut} of {end}");
        }
    }
    let mut out = Vec::new();
    let server = Server { host: b"server", nonce: b"nonce", auth: b"auth" };
    let client = Client { host: b"client", key: b"key", user: Some((b"user", b"password")) };
    if let Ok((helo, end)) = Helo::read(data) {
        cuts(data, end, Helo::read);
        out.clear();
        client.ping(&helo, b"salt", &mut out);
        if helo.nonce.len() < 3_000 {
            let (ping, end) = Ping::read(&out).expect("what a client writes is a PING");
            assert_eq!((end, ping.host), (out.len(), client.host));
        }
    }
    if let Ok((ping, end)) = Ping::read(data) {
        cuts(data, end, Ping::read);
        out.clear();
        ping.write(&mut out);
        assert!(out.len() > MESSAGE_MAX || Ping::read(&out) == Ok((ping, out.len())));
        if server.judge(&ping, b"key", Some(b"password")).is_ok() {
            assert!(Digest::of_key(ping.salt, ping.host, server.nonce, b"key").as_bytes() == ping.key_digest);
        }
        assert!(server.judge(&ping, b"key", None).is_err(), "a user who is not known");
    }
    if let Ok((pong, end)) = Pong::read(data) {
        cuts(data, end, Pong::read);
        out.clear();
        pong.write(&mut out);
        assert!(out.len() > MESSAGE_MAX || Pong::read(&out) == Ok((pong, out.len())));
        let fine = client.judge(&pong, b"nonce", b"salt").is_ok();
        assert!(!fine || pong.key_digest == Digest::of_key(b"salt", pong.host, b"nonce", b"key").as_bytes());
    }
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
