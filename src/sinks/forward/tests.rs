//! Tests of the `forward` sink against scripted receivers on loopback: threads and sockets, so that a test can answer
//! with any bytes at any time. Frames are read with rmpv.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};

use rmpv::Value as V;

use super::*;
use crate::budget::Budget;
use crate::codec::forward::handshake;
use crate::settings::Doc;
use crate::sinks::request::tests::{request, shipment};

/// How long anything may take that takes a moment.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads a section; returns the settings and the findings as they are printed.
fn settings(text: &str) -> (Settings, Vec<String>) {
    let table = toml::de::DeTable::parse(text).expect("toml");
    let doc = Doc::new("t.toml", text, |_| None);
    let section = Section::new(&doc, table.get_ref(), "sinks.x", 0..0);
    let settings = forward_settings::read(&section, "x");
    section.finish();
    (settings, doc.findings().iter().map(|finding| doc.render(finding)).collect())
}

fn good(text: &str) -> Settings {
    let (settings, findings) = settings(text);
    assert!(findings.is_empty(), "{findings:?}");
    settings
}

/// One connection at the receiver's side.
struct Peer {
    stream: TcpStream,
    seen: Sender<V>,
    held: Vec<u8>,
}

impl Peer {
    /// The next MessagePack value; `None` at the end.
    fn value(&mut self) -> Option<V> {
        loop {
            let mut rest = &self.held[..];
            if let Ok(value) = rmpv::decode::read_value(&mut rest) {
                self.held = rest.to_vec();
                return Some(value);
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.held.extend_from_slice(&piece[..read]),
            }
        }
    }

    /// The chunk id of the next frame, which the test sees.
    fn frame(&mut self) -> Option<String> {
        let frame = self.value()?;
        let chunk = chunk_of(&frame);
        self.seen.send(frame).ok()?;
        Some(chunk)
    }

    fn say(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    fn ack(&mut self, chunk: &str) {
        self.say(&ack(chunk));
    }

    /// Takes and acknowledges everything.
    fn serve(mut self) {
        while let Some(chunk) = self.frame() {
            self.ack(&chunk);
        }
    }
}

fn bytes_of(value: &V) -> Vec<u8> {
    let mut out = Vec::new();
    rmpv::encode::write_value(&mut out, value).expect("writing to memory");
    out
}

fn ack(chunk: &str) -> Vec<u8> {
    bytes_of(&V::Map(vec![("ack".into(), chunk.into())]))
}

fn chunk_of(frame: &V) -> String {
    let options = frame.as_array().and_then(|items| items.last()).and_then(V::as_map);
    let chunk = options.and_then(|pairs| pairs.iter().find(|(key, _)| key.as_str() == Some("chunk")));
    chunk.and_then(|(_, id)| id.as_str()).unwrap_or_default().to_owned()
}

fn tag_of(frame: &V) -> String {
    frame[0].as_str().expect("a tag").to_owned()
}

/// A receiver that does with its connections, by number, what the script says. Returns its address and the frames.
fn receiver(script: impl Fn(usize, Peer) + Send + Sync + 'static) -> (String, Receiver<V>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let (seen, frames) = channel();
    let script = Arc::new(script);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            let (script, seen) = (Arc::clone(&script), seen.clone());
            std::thread::spawn(move || script(number, Peer { stream, seen, held: Vec::new() }));
        }
    });
    (address, frames)
}

/// An address where nobody listens.
fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").to_string()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A started sink and the runtime that it lives in.
struct Rig {
    sink: Forward,
    runtime: tokio::runtime::Runtime,
}

impl Rig {
    fn new(text: &str) -> Rig {
        let mut sink = Forward::new(good(text));
        sink.start().expect("started");
        Rig { sink, runtime: runtime() }
    }

    /// One try.
    fn send(&mut self, request: &mut Request) -> Result<Reply, SendError> {
        if request.body().is_none() {
            assert!(self.sink.prepare(request, 1 << 20).is_empty());
        }
        let sending = self.sink.send(request);
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, sending).await.expect("an end") })
    }
}

fn at(address: &str) -> String {
    format!("servers = \"tcp://{address}\"\nack_timeout = \"2s\"\nadd = []\n")
}

fn cause(outcome: Result<Reply, SendError>) -> String {
    match outcome {
        Err(SendError::Retry { cause, not_before: None }) => cause,
        other => panic!("{other:?}"),
    }
}

fn fault(outcome: Result<Reply, SendError>) -> String {
    match outcome {
        Err(SendError::Pause { cause }) => cause,
        other => panic!("{other:?}"),
    }
}

#[test]
fn records_go_out_as_one_frame_a_tag_over_a_kept_connection() {
    let (address, frames) = receiver(|_, peer| peer.serve());
    let mut rig = Rig::new(&(at(&address) + "compression = \"gzip\"\n"));
    let budget = Budget::new(1 << 20);
    let (shipped, _) = shipment(&budget, &[("a", "1"), ("b", "2"), ("a", "3")]);
    let mut first = Request::new(vec![Part::of(shipped).expect("rows")], 1);
    let reply = rig.send(&mut first).expect("taken");
    assert!(reply.marks.is_empty() && reply.bytes == first.body().expect("a body").len() as u64);
    rig.send(&mut request(&budget, &["4"])).expect("taken");
    let frames: Vec<V> = (0..3).map(|_| frames.recv().expect("a frame")).collect();
    assert_eq!(frames.iter().map(tag_of).collect::<Vec<_>>(), ["a", "b", "t"]);
    let V::Binary(blob) = &frames[0][1] else { panic!("{}", frames[0]) };
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&blob[..]).read_to_end(&mut plain).expect("gzip");
    let mut rest = &plain[..];
    let entry = rmpv::decode::read_value(&mut rest).expect("an entry");
    assert_eq!(entry[1], V::Map(vec![("n".into(), "1".into())]));
    assert!(frames.iter().all(|frame| frame[2]["compressed"] == V::from("gzip")), "{frames:?}");
    // Both requests went over the same connection: the receiver saw them on number 0, which it still serves.
    assert_eq!(rig.sink.pool.idle[0].lock().expect("not poisoned").len(), 1);
    assert_eq!(rig.sink.tick(), Some(UPKEEP));
}

#[test]
fn what_the_section_says_of_compression_times_and_blobs_is_what_goes_out() {
    let budget = Budget::new(1 << 20);
    let wire = |more: &str| {
        let (address, frames) = receiver(|_, peer| peer.serve());
        Rig::new(&(at(&address) + more)).send(&mut request(&budget, &["1"])).expect("taken");
        frames.recv().expect("a frame")
    };
    let entry = |blob: &[u8]| {
        let mut rest = blob;
        let entry = rmpv::decode::read_value(&mut rest).expect("an entry");
        assert!(rest.is_empty());
        assert_eq!(entry[1], V::Map(vec![("n".into(), "1".into())]));
        entry
    };
    let frame = wire("compression = \"none\"\n");
    let V::Binary(plain) = &frame[1] else { panic!("{frame}") };
    assert!(matches!(entry(plain)[0], V::Ext(0, _)), "an EventTime");
    assert_eq!(frame[2]["compressed"], V::Nil, "{frame}");
    let frame = wire("compression = \"zstd\"\n");
    let V::Binary(packed) = &frame[1] else { panic!("{frame}") };
    assert_eq!(entry(&zstd::decode_all(&packed[..]).expect("zstd")), entry(plain));
    assert_eq!(frame[2]["compressed"], V::from("zstd"), "{frame}");
    let frame = wire("compression = \"none\"\ntime = \"seconds\"\nblob = \"str\"\n");
    let V::String(text) = &frame[1] else { panic!("{frame}") };
    let V::Ext(_, time) = &entry(plain)[0] else { panic!("an EventTime") };
    let seconds = u32::from_be_bytes(time[..4].try_into().expect("four bytes"));
    assert_eq!(entry(text.as_bytes())[0], V::from(seconds));
}

#[test]
fn an_ack_cut_in_two_is_one_and_a_late_one_is_sent_for_again_with_the_same_id() {
    let (address, frames) = receiver(|number, mut peer| {
        while let Some(chunk) = peer.frame() {
            let bytes = ack(&chunk);
            if number == 0 {
                // Too late: the deadline is two seconds.
                std::thread::sleep(Duration::from_secs(4));
                peer.say(&bytes);
                continue;
            }
            peer.say(&bytes[..7]);
            std::thread::sleep(Duration::from_millis(100));
            peer.say(&bytes[7..]);
        }
    });
    let mut rig = Rig::new(&at(&address));
    let mut request = request(&Budget::new(1 << 20), &["1"]);
    let late = cause(rig.send(&mut request));
    assert_eq!(late, format!("tcp://{address}: no ack within 2s"));
    rig.send(&mut request).expect("taken over a new connection");
    let ids: Vec<String> = (0..2).map(|_| chunk_of(&frames.recv().expect("a frame"))).collect();
    assert!(!ids[0].is_empty() && ids[0] == ids[1], "{ids:?}");
}

#[test]
fn an_ack_of_another_chunk_and_stray_bytes_end_the_connection() {
    let (address, _frames) = receiver(|number, mut peer| {
        let chunk = peer.frame().unwrap_or_default();
        match number {
            0 => peer.ack("another"),
            1 => peer.say(b"\x81\xa3nak\xa1x"),
            2 => peer.say(&bytes_of(&V::Map(vec![("ack".into(), V::Nil)]))),
            3 => peer.say(&[0x81, 0xc1]),
            4 => {
                // The right one, and then the same again: the connection is not used any more.
                peer.say(&[ack(&chunk), ack(&chunk)].concat());
            }
            _ => {
                peer.ack(&chunk);
                return peer.serve();
            }
        }
        assert_eq!(peer.value(), None, "connection {number} is closed by the sink");
    });
    let mut rig = Rig::new(&at(&address));
    let budget = Budget::new(1 << 20);
    let mut request_one = request(&budget, &["1"]);
    for _ in 0..4 {
        let cause = cause(rig.send(&mut request_one));
        assert!(cause.contains("answered something that nobody waits for"), "{cause}");
    }
    // What comes with the ack or right after it is seen at the next exchange, if not at once.
    let twice = rig.send(&mut request_one);
    assert!(twice.is_ok() || cause(twice).contains("nobody waits for"));
    std::thread::sleep(Duration::from_millis(50));
    rig.send(&mut request(&budget, &["2"])).expect("taken over a good connection");
}

#[test]
fn a_connection_that_was_closed_is_not_written_to() {
    let (closed, closes) = channel();
    let (address, frames) = receiver(move |number, mut peer| {
        let chunk = peer.frame().unwrap_or_default();
        peer.ack(&chunk);
        if number == 1 {
            return peer.serve();
        }
        drop(peer);
        let _ = closed.send(());
    });
    let mut rig = Rig::new(&at(&address));
    let budget = Budget::new(1 << 20);
    rig.send(&mut request(&budget, &["1"])).expect("taken");
    closes.recv_timeout(PATIENCE).expect("the receiver closes");
    // The sink sees it before it writes, so this is no failure at all.
    rig.send(&mut request(&budget, &["2"])).expect("taken");
    assert_eq!(frames.iter().take(2).count(), 2);
    // And upkeep sees it where nothing is sent: number 2 is a connection of a new sink.
    let mut rig = Rig::new(&at(&address));
    rig.send(&mut request(&budget, &["3"])).expect("taken");
    closes.recv_timeout(PATIENCE).expect("the receiver closes");
    let upkeep = async {
        // Lets the runtime look at its sockets, as delivery's loop does.
        tokio::task::yield_now().await;
        rig.sink.tick()
    };
    assert_eq!(rig.runtime.block_on(upkeep), None, "upkeep lets it go");
}

#[test]
fn a_reset_is_tried_again() {
    let (address, _frames) = receiver(|number, mut peer| {
        if number == 0 {
            peer.frame();
            let now = Some(Duration::ZERO);
            socket2::SockRef::from(&peer.stream).set_linger(now).expect("a socket");
            return;
        }
        peer.serve();
    });
    let mut rig = Rig::new(&at(&address));
    let mut request = request(&Budget::new(1 << 20), &["1"]);
    let reset = cause(rig.send(&mut request));
    assert!(reset.contains("reset") || reset.contains("closed"), "{reset}");
    rig.send(&mut request).expect("taken");
}

#[test]
fn of_a_request_that_was_acknowledged_in_part_only_the_rest_is_sent_again() {
    let (address, frames) = receiver(|number, mut peer| {
        if number == 0 {
            peer.frame();
            let second = peer.frame().unwrap_or_default();
            peer.ack(&second);
            return;
        }
        peer.serve();
    });
    let mut rig = Rig::new(&at(&address));
    let budget = Budget::new(1 << 20);
    let (shipped, _) = shipment(&budget, &[("a", "1"), ("b", "2"), ("a", "3")]);
    let mut whole = Request::new(vec![Part::of(shipped).expect("rows")], 5);
    let reply = rig.send(&mut whole).expect("taken in part");
    assert_eq!(reply.marks, [Mark::Again, Mark::Taken, Mark::Again]);
    assert!(reply.keeps_key && reply.cause.contains("closed without an ack"), "{reply:?}");
    // What delivery makes of it.
    let left = whole.parts[0].with(vec![0, 2]);
    rig.send(&mut Request::new(vec![left], whole.key)).expect("taken");
    let seen: Vec<V> = (0..3).map(|_| frames.recv().expect("a frame")).collect();
    assert_eq!(seen.iter().map(tag_of).collect::<Vec<_>>(), ["a", "b", "a"]);
    assert_eq!(seen[0], seen[2], "the same frame with the same id");
}

#[test]
fn a_receiver_that_asks_for_a_key_is_reported_with_the_way_out() {
    let helo = || {
        let mut helo = Vec::new();
        handshake::Server { host: b"server", nonce: b"0123456789abcdef", auth: b"" }.helo(&mut helo);
        helo
    };
    let (address, _frames) = receiver(move |_, mut peer| {
        peer.say(&helo());
        while peer.value().is_some() {}
    });
    for acks in ["", "ack = false\n"] {
        let text = if acks.is_empty() { at(&address) } else { format!("servers = \"{address}\"\n{acks}") };
        let cause = fault(Rig::new(&text).send(&mut request(&Budget::new(1 << 20), &["1"])));
        assert!(cause.contains("it said HELO") && cause.contains("`shared_key`"), "{cause}");
    }
}

/// A receiver with a key, as scripted as `wrong` says.
fn secured(wrong: &'static str) -> (String, Receiver<V>) {
    receiver(move |_, mut peer| {
        let auth = if wrong == "user" { &b"salt"[..] } else { b"" };
        let server = handshake::Server { host: b"server", nonce: b"0123456789abcdef", auth };
        let mut said = Vec::new();
        server.helo(&mut said);
        peer.say(&said);
        let Some(ping) = peer.value() else { return };
        let ping = bytes_of(&ping);
        let (ping, _) = handshake::Ping::read(&ping).expect("a PING");
        let judged = server.judge(&ping, b"sekret", Some(b"pw"));
        said.clear();
        match judged {
            Ok(()) if wrong == "digest" => server.welcome(&ping, b"not the key", &mut said),
            Ok(()) => server.welcome(&ping, b"sekret", &mut said),
            Err(_) if wrong == "close" => return,
            Err(denied) => handshake::Server::refuse(&denied.to_string(), &mut said),
        }
        peer.say(&said);
        peer.serve();
    })
}

#[test]
fn key_and_user_are_proved_and_so_is_the_receiver() {
    let send =
        |address: &str, more: &str| Rig::new(&(at(address) + more)).send(&mut request(&Budget::new(1 << 20), &["1"]));
    let key = "shared_key = \"sekret\"\n";
    let login = "user = \"alice\"\npassword = \"pw\"\n";
    send(&secured("nothing").0, key).expect("taken");
    send(&secured("user").0, &format!("{key}{login}")).expect("taken");
    let cause = fault(send(&secured("user").0, key));
    assert!(cause.contains("asks for a user"), "{cause}");
    let cause = fault(send(&secured("nothing").0, "shared_key = \"other\"\n"));
    assert!(cause.contains("shared_key mismatch"), "{cause}");
    let cause = fault(send(&secured("close").0, "shared_key = \"other\"\n"));
    assert!(cause.contains("is the shared key the right one?"), "{cause}");
    let cause = fault(send(&secured("digest").0, key));
    assert!(cause.contains("does not have the same shared key"), "{cause}");
    let cause = fault(send(&secured("nothing").0, &format!("{key}hostname = \"server\"\n")));
    assert!(cause.contains("calls itself \"server\""), "{cause}");
    assert!(!cause.contains("sekret"));
}

#[test]
fn a_receiver_without_helo_is_given_up_with_a_hint() {
    let (address, frames) = receiver(|_, peer| peer.serve());
    let mut rig = Rig::new(&(at(&address) + "shared_key = \"sekret\"\n"));
    let cause = cause(rig.send(&mut request(&Budget::new(1 << 20), &["1"])));
    assert!(cause.contains("no HELO within 10s") && cause.contains("leave out `shared_key`"), "{cause}");
    assert!(frames.try_recv().is_err(), "nothing was written");
}

#[test]
fn of_two_receivers_the_one_that_is_there_takes_everything_until_the_other_is_back() {
    let (good_one, frames) = receiver(|_, peer| peer.serve());
    let dead = nobody();
    let servers = format!(
        "servers = [{{ address = \"{dead}\", weight = 1000 }}, \"{good_one}\"]\nadd = []\nack_timeout = \"5s\"\n"
    );
    let mut rig = Rig::new(&servers);
    let budget = Budget::new(1 << 20);
    for n in 0..5 {
        rig.send(&mut request(&budget, &[&n.to_string()])).expect("the other one takes it");
    }
    assert_eq!(frames.iter().take(5).count(), 5);
    assert!(rig.sink.pool.servers.lock().expect("not poisoned").is_down(0));
    // Back again on the same port: a probe finds it, and the weight gives it the requests.
    let listener = TcpListener::bind(&dead).expect("the port is free");
    let server = std::thread::spawn(move || {
        let (seen, frames) = channel();
        let (stream, _) = listener.accept().expect("the probe");
        std::thread::spawn(move || Peer { stream, seen, held: Vec::new() }.serve());
        frames.recv_timeout(PATIENCE).expect("a frame at the one that came back");
        // Who drops it ends the connection.
        frames
    });
    let deadline = std::time::Instant::now() + PATIENCE;
    while rig.sink.pool.servers.lock().expect("not poisoned").is_down(0) {
        assert!(std::time::Instant::now() < deadline, "no probe found it");
        rig.runtime.block_on(async { sleep(Duration::from_millis(50)).await });
    }
    for n in 0..3 {
        rig.send(&mut request(&budget, &[&n.to_string()])).expect("taken");
    }
    drop(server.join().expect("it got a request"));
}

#[test]
fn nobody_at_all_is_a_failure_that_names_all() {
    let (one, two) = (nobody(), nobody());
    let text = format!("servers = [\"{one}\", {{ address = \"{two}\", standby = true }}]\n");
    let cause = cause(Rig::new(&text).send(&mut request(&Budget::new(1 << 20), &["1"])));
    assert!(cause.contains(&one) && cause.contains(&two) && cause.contains("refused"), "{cause}");
}

#[test]
fn connections_are_renewed() {
    let (connections, count) = channel();
    let (address, _frames) = receiver(move |number, peer| {
        let _ = connections.send(number);
        peer.serve();
    });
    let mut rig = Rig::new(&(at(&address) + "reconnect = \"0s\"\n"));
    let budget = Budget::new(1 << 20);
    for _ in 0..3 {
        rig.send(&mut request(&budget, &["1"])).expect("taken");
    }
    assert_eq!(count.iter().take(3).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn a_connection_that_has_its_age_is_renewed_and_none_before() {
    const AGE: Duration = Duration::from_secs(2);
    let (connections, opened) = channel();
    let (address, frames) = receiver(move |number, peer| {
        let _ = connections.send((number, Instant::now()));
        peer.serve();
    });
    let mut rig = Rig::new(&(at(&address) + "reconnect = \"2s\"\n"));
    let budget = Budget::new(1 << 20);
    let mut seen = Vec::new();
    let mut sent = 0;
    let began = Instant::now();
    while seen.len() < 3 {
        assert!(began.elapsed() < PATIENCE, "{seen:?}");
        rig.send(&mut request(&budget, &["1"])).expect("taken");
        sent += 1;
        seen.extend(opened.try_iter());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(seen.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1, 2]);
    for pair in seen.windows(2) {
        let age = pair[1].1 - pair[0].1;
        // Up to a fifth earlier, and what lies between the two clocks on a busy machine.
        assert!(age > AGE.mul_f64(0.4), "{age:?}");
    }
    assert!(sent > 6, "{sent} requests shared the connections");
    assert_eq!(frames.try_iter().count(), sent, "each came once");
}

#[test]
fn other_protocols_on_the_port_are_named() {
    for (said, hint) in
        [(&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "HTTP server"), (b"\x15\x03\x03\x00\x02\x02\x32", "tls://")]
    {
        let (address, _frames) = receiver(move |_, mut peer| {
            peer.frame();
            peer.say(said);
            while peer.value().is_some() {}
        });
        let cause = fault(Rig::new(&at(&address)).send(&mut request(&Budget::new(1 << 20), &["1"])));
        assert!(cause.contains(hint), "{cause}");
    }
}

#[test]
fn mistakes_of_the_section_are_reported_with_the_way_out() {
    let (_, found) = settings(
        "servers = [\"udp://x\", \"10.0.0.5:99999\", \"a\", \"tcp://a:24224\", { adress = \"b\" }, 7]\n\
         ack = false\nack_timeout = \"5s\"\nuser = \"u\"\nca = \"x.pem\"\nlevel = 3\nblob = \"bim\"\nserver_name = \"a b\"\n",
    );
    for expected in [
        "t.toml:1:12: error: sinks.x.servers[0]: \"udp://x\" is no address; write tcp://, tls:// or unix://",
        "servers[1]: \"10.0.0.5:99999\" is no address; write for example \"tcp://10.0.0.5:24224\"",
        "servers[3]: tcp://a:24224 is there twice; set its `weight` instead",
        "servers[4]: `address` is missing",
        "unknown key `adress` in [sinks.x.servers[4]]; did you mean `address`?",
        "servers[5]: expected an address or { address = \"...\", weight = 1 }, got the number 7",
        "ack_timeout: there are no acks to wait for",
        "user: `password` is missing",
        "user: the protocol has it only with a `shared_key`",
        "servers: `ca`, `cert` and `key` are for TLS; write tls://",
        "level: there is no compression",
        "blob: \"bim\" is not one of \"bin\", \"str\"; did you mean \"bin\"?",
        "server_name: \"a b\" is no host name",
    ] {
        assert!(found.iter().any(|found| found.contains(expected)), "{expected}\n{found:#?}");
    }
    let (_, found) = settings("ack = true\n");
    assert!(found[0].contains("`servers` is missing; for example"), "{found:?}");
}
