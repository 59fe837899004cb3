//! Attacks on the forward port whose damage would be memory, a spin, a place that others need, or a lie in the own log.
//! Each goes against a node with a budget of 48 MiB, which stays below 64 MiB and serves a good client all the while and
//! afterwards. `docs/forward-cases.md` has the whole list and where the others are tested.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::forward_input;
use crate::harness::certificates::{Authority, client_config, secure};
use crate::harness::forward::{Client, ack_of, entries, event_time, gzip, map, message, option, packed, zstd};
use crate::harness::{Node, folder, free_port, node, required};

const PEAK_MAX: u64 = 64 << 20;

/// A node with a small budget whose output goes nowhere.
fn start(dir: &Path, port: u16) -> Node {
    start_with(dir, port, "")
}

/// The same with more keys of the input.
fn start_with(dir: &Path, port: u16, keys: &str) -> Node {
    let body = forward_input::config(dir, port);
    let body = body.replace(dir.join("out.ndjson").to_str().expect("UTF-8"), "/dev/null");
    let body = body.replace("[sinks.out]", &format!("{keys}\n[sinks.out]"));
    node(dir, &body).with_node("memory = \"48MiB\"").start()
}

fn good(port: u16) {
    let mut client = Client::tcp(port);
    client.send(&message("good", 1_700_000_000.into(), map(&[("a", 1.into())]), Some(option("good", &[]))));
    client.expect_ack("good");
}

fn survived(mut node: Node, port: u16, what: &str) {
    let before = node.delivered("out");
    good(port);
    node.wait_for("the record of another client", |node| node.delivered("out") > before);
    let peak = node.peak_memory();
    let _ = writeln!(std::io::stderr(), "memory: {what}: {} MiB at the peak", peak >> 20);
    assert!(peak < PEAK_MAX, "{what}: {} KiB at the peak; figures:\n{}", peak >> 10, node.figures());
    node.assert_ledger_closes();
    node.stop_well();
}

#[test]
fn millions_of_entries_of_three_bytes_are_charged_for_what_they_cost() {
    let dir = folder();
    let port = free_port();
    let node = start(dir.path(), port);
    let count: u32 = if required() { 2_000_000 } else { 500_000 };
    let blob = [0x92, 1, 0x80].repeat(count as usize);
    let array = [b"\x93\xa1t\xdd", &count.to_be_bytes()[..], &blob, b"\x81\xa5chunk\xa1c"].concat();
    let frames = [
        packed("t", &blob, Some(option("c", &[]))),
        packed("t", &gzip(&blob), Some(option("c", &[("compressed", "gzip".into())]))),
        array,
        format!("[\"t\",[{}[1,{{}}]],{{\"chunk\":\"c\"}}]", "[1,{}],".repeat(count as usize - 1)).into_bytes(),
    ];
    std::thread::scope(|scope| {
        for (at, frame) in frames.iter().enumerate() {
            scope.spawn(move || {
                let mut client = Client::tcp(port);
                client.send(frame);
                client.expect_bytes(if at == 3 { br#"{"ack":"c"}"# } else { b"\x81\xa3ack\xa1c" });
            });
        }
    });
    survived(node, port, "millions of tiny entries");
}

#[test]
fn a_hundred_thousand_tags_are_remembered_nowhere() {
    let dir = folder();
    let port = free_port();
    let node = start(dir.path(), port);
    let mut client = Client::tcp(port);
    for round in 0..100 {
        let frame = |n: u32| {
            let tag = format!("{}.{round}.{n}", "tag".repeat(100));
            message(&tag, event_time(1_700_000_000, 0), map(&[("n", n.into())]), None)
        };
        client.send(&(0..1_000).flat_map(frame).collect::<Vec<_>>());
    }
    client.send(&packed("t", b"", Some(option("c", &[]))));
    client.expect_ack("c");
    survived(node, port, "a hundred thousand tags");
}

#[test]
fn bombs_of_every_kind_are_cut_and_acked() {
    let dir = folder();
    let port = free_port();
    let node = start(dir.path(), port);
    let zeros = vec![0u8; 64 << 20];
    let gz = gzip(&zeros);
    let zst = zstd(&zeros);
    // 1 GiB each: many members, one after another; and members within members, which are opened once.
    let bombs = [
        ("gzip", gz.repeat(16)),
        ("zstd", zst.repeat(16)),
        ("gzip", gzip(&gz.repeat(16))),
        ("zstd", zstd(&entries(&[(1.into(), map(&[("a", "x".repeat(64 << 20).into())]))]))),
    ];
    for (codec, bomb) in bombs {
        let mut client = Client::tcp(port);
        client.send(&packed("t", &bomb, Some(option("bomb", &[("compressed", codec.into())]))));
        client.expect_ack("bomb");
        good(port);
    }
    drop(zeros);
    survived(node, port, "bombs");
}

#[test]
fn json_that_never_ends_is_held_within_limits() {
    let dir = folder();
    let port = free_port();
    let node = start(dir.path(), port);
    let bytes = 2 << 20;
    let starts: [(&[u8], u8); 7] = [
        (b"[\"", b'x'),
        (b"[\"t\",1,{\"a\":\"", b'x'),
        (b"[\"t\",", b'1'),
        (b"[\"t\",[[1,{\"a\":\"", b'x'),
        (b"[", b' '),
        (b" ", b' '),
        (b"{\"a\":\"", b'x'),
    ];
    let clients: Vec<Client> = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..42)
            .map(|at| {
                let (start, filler) = starts[at % starts.len()];
                scope.spawn(move || {
                    let mut client = Client::tcp(port);
                    client.set_write_timeout(Duration::from_secs(5));
                    // It may be made to wait.
                    let _ = client.try_send(&[start, &vec![filler; bytes]].concat());
                    client
                })
            })
            .collect();
        senders.into_iter().map(|sender| sender.join().expect("a client does not panic")).collect()
    });
    good(port);
    // Brackets end at their limit, at once.
    let mut deep = Client::tcp(port);
    let _ = deep.try_send(&[b'['; 5_000]);
    assert_eq!(deep.expect_close(), b"");
    drop(clients);
    survived(node, port, "JSON that never ends");
}

#[test]
fn what_a_sender_says_can_not_write_into_the_own_log() {
    let dir = folder();
    let port = free_port();
    let node = start(dir.path(), port);
    let evil = "\u{1b}[2J\r\n2026-01-01 ERROR all is lost\u{7}";
    let mut client = Client::tcp(port);
    client.send(&message(evil, 5.into(), map(&[(evil, evil.into())]), Some(option(evil, &[]))));
    client.expect_ack(evil);
    client.send(evil.as_bytes());
    client.finish();
    client.expect_close();
    let mut json = Client::tcp(port);
    json.send(format!("[\"{evil}").as_bytes());
    json.finish();
    json.expect_close();
    let log = node.log();
    assert!(log.contains("closed: "), "{log}");
    assert!(!log.contains("all is lost") && !log.chars().any(|c| c.is_control() && c != '\n'), "{log:?}");
    survived(node, port, "lies for the log");
}

/// A client at another address of this machine, whose receive buffer is as small as the system makes it.
fn connect_from(host: u8, port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(1).expect("a socket");
    let at = |host, port| SocketAddr::from((IpAddr::V4(Ipv4Addr::new(127, 0, 0, host)), port));
    socket.bind(&at(host, 0).into()).expect("loopback addresses are ours");
    socket.connect(&at(1, port).into()).expect("it listens");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(crate::harness::PATIENCE)).expect("a socket");
    stream
}

#[test]
fn claims_of_four_gib_cost_nothing_wherever_they_stand() {
    let dir = folder();
    let port = free_port();
    let node = start(dir.path(), port);
    let claims: [(&str, &[u8]); 5] = [
        ("array32", b"\xdd\xff\xff\xff\xff"),
        ("map32", b"\xdf\xff\xff\xff\xff"),
        ("str32", b"\xdb\xff\xff\xff\xff"),
        ("bin32", b"\xc6\xff\xff\xff\xff"),
        ("ext32", b"\xc9\xff\xff\xff\xff\x05"),
    ];
    let places: [(&str, &[u8]); 9] = [
        ("the frame", b""),
        ("the tag", b"\x93"),
        ("the time or entries", b"\x93\xa1t"),
        ("the record", b"\x94\xa1t\x01"),
        ("a key", b"\x94\xa1t\x01\x81"),
        ("a value", b"\x94\xa1t\x01\x81\xa1a"),
        ("an entry's time", b"\x93\xa1t\x91\x92"),
        ("an entry's record", b"\x93\xa1t\x91\x92\x01"),
        ("the options", b"\x94\xa1t\x01\x80"),
    ];
    for (claim, head) in claims {
        let mut crowd = Vec::new();
        for (place, before) in places {
            for _ in 0..4 {
                let mut client = Client::tcp(port);
                let _ = client.try_send(&[before, head, b"\x01\x02\x03"].concat());
                crowd.push((place, client));
            }
        }
        good(port);
        for (place, mut client) in crowd {
            client.finish();
            assert_eq!(client.expect_close(), b"", "{claim} as {place} is answered by the end alone");
        }
    }
    // Within a blob the frame still ends: the entry is rejected, the frame acknowledged.
    let mut client = Client::tcp(port);
    for (_, head) in claims {
        for before in [&b""[..], b"\x92", b"\x92\x01", b"\x92\x01\x81", b"\x92\x01\x81\xa1a"] {
            let blob = [before, head].concat();
            for (blob, codec) in [(gzip(&blob), "gzip"), (zstd(&blob), "zstd"), (blob.clone(), "text")] {
                client.send(&packed("t", &blob, Some(option("claim", &[("compressed", codec.into())]))));
                client.expect_ack("claim");
            }
        }
    }
    survived(node, port, "claims of 4 GiB");
}

#[test]
fn a_million_levels_cost_no_more_than_their_bytes() {
    const LEVELS: usize = 1_000_000;
    let dir = folder();
    let port = free_port();
    let node = start(dir.path(), port);
    let arrays = [&vec![0x91; LEVELS][..], b"\xc0"].concat();
    let maps = [&b"\x81\xa1a".repeat(LEVELS)[..], b"\xc0"].concat();
    let keys = [&vec![0x81; LEVELS][..], b"\xc0", &vec![0xc0; LEVELS]].concat();
    let frames: Vec<Vec<u8>> = [&arrays, &maps, &keys]
        .into_iter()
        .flat_map(|deep| {
            let record = [b"\x81\xa1a", &deep[..]].concat();
            let entry = [b"\x92\x01", &record[..]].concat();
            [
                [b"\x94\xa1t\x01", &record[..], b"\x81\xa5chunk\xa1c"].concat(),
                [b"\x93\xa1t\x91", &entry[..], b"\x81\xa5chunk\xa1c"].concat(),
                packed("t", &entry, Some(option("c", &[]))),
                packed("t", &gzip(&entry), Some(option("c", &[("compressed", "gzip".into())]))),
                packed("t", &zstd(&entry), Some(option("c", &[("compressed", "zstd".into())]))),
            ]
        })
        .collect();
    std::thread::scope(|scope| {
        for frame in &frames {
            scope.spawn(move || {
                let mut client = Client::tcp(port);
                client.send(frame);
                client.expect_ack("c");
            });
        }
        scope.spawn(move || (0..20).for_each(|_| good(port)));
    });
    // As the frame itself, and in JSON: the end, at a limit.
    for start in [&arrays[..], &maps, &[b'['; LEVELS], &b"{\"a\":".repeat(LEVELS)] {
        let mut client = Client::tcp(port);
        let _ = client.try_send(start);
        client.finish();
        assert_eq!(client.expect_close(), b"");
    }
    assert_eq!(node.metric("longshore_input_rejected_total", &[("reason", "too_deep")]), frames.len() as u64);
    survived(node, port, "a million levels");
}

#[test]
fn much_before_the_login_is_refused_at_once_and_held_nowhere() {
    let dir = folder();
    let (port, keyed, tls) = (free_port(), free_port(), free_port());
    let authority = Authority::new("ours");
    authority.write_server(dir.path(), "server", 30);
    let (cert, key) = (dir.path().join("server.pem"), dir.path().join("server.key"));
    let out = dir.path().join("out.ndjson");
    let body = format!(
        "[inputs.apps]\ntype = \"forward\"\nlisten = [\"tcp://127.0.0.1:{port}\", \
         {{ address = \"tcp://127.0.0.1:{keyed}\", shared_key = \"sekret\" }}, \
         {{ address = \"tls://127.0.0.1:{tls}\", cert = {cert:?}, key = {key:?}, shared_key = \"sekret\" }}]\n\
         [sinks.out]\ntype = \"file\"\npath = {out:?}\n"
    );
    let node = node(dir.path(), &body).with_node("memory = \"48MiB\"").start();
    let bulk = vec![b'x'; 1 << 20];
    // It lacks its last byte: whoever waited for that would hold a MiB for each of them.
    let long_ping = [b"\x96\xa4PING\xdb\x00\x10\x00\x01", &bulk[..]].concat();
    let no_ping = packed("t", &bulk, Some(option("c", &[])));
    // A record of TLS that claims a hello of 16 MiB, and more of it.
    let hello = [b"\x16\x03\x01\x40\x00\x01\xff\xff\xff", &vec![0; (16 << 10) - 4][..]].concat();
    let more = [b"\x16\x03\x01\x40\x00", &vec![0; 16 << 10][..]].concat();
    let hello = [&hello[..], &more.repeat(63)].concat();
    std::thread::scope(|scope| {
        for at in 0..160 {
            let (port, bytes) = [(keyed, &long_ping), (keyed, &no_ping), (tls, &hello), (tls, &long_ping)][at % 4];
            let config = client_config(&authority);
            scope.spawn(move || {
                let mut client = Client::tcp(port);
                client.set_patience(Duration::from_secs(20));
                if at % 4 == 3 {
                    // Inside of TLS.
                    let Client::Tcp(stream) = client else { panic!("it is TCP") };
                    let mut stream = secure(stream, &config);
                    let _ = stream.write_all(bytes).and_then(|()| stream.flush());
                    let mut answer = Vec::new();
                    let _ = stream.read_to_end(&mut answer);
                    assert!(!answer.windows(4).any(|part| part == b"\xa3ack"));
                    return;
                }
                let _ = client.try_send(bytes);
                let answer = client.expect_close();
                assert!(!answer.windows(4).any(|part| part == b"\xa3ack"));
            });
        }
        scope.spawn(move || (0..20).for_each(|_| good(port)));
    });
    assert!(node.metric("longshore_input_oddities_total", &[("kind", "handshake_failed")]) >= 120);
    assert_eq!(node.metric("longshore_input_rejected_total", &[]), 0, "nothing of it was taken for a frame");
    survived(node, port, "bulk before the login");
}

#[test]
fn half_a_tls_hello_gives_its_seat_back_when_the_time_is_up() {
    const SEATS: usize = 60;
    let dir = folder();
    let (port, tls) = (free_port(), free_port());
    let authority = Authority::new("ours");
    authority.write_server(dir.path(), "server", 30);
    let (cert, key) = (dir.path().join("server.pem"), dir.path().join("server.key"));
    let out = dir.path().join("out.ndjson");
    let body = format!(
        "[inputs.apps]\ntype = \"forward\"\nhandshake = \"2s\"\npeer_connections_max = {SEATS}\n\
         listen = [\"tcp://127.0.0.1:{port}\", {{ address = \"tls://127.0.0.1:{tls}\", cert = {cert:?}, key = {key:?} }}]\n\
         [sinks.out]\ntype = \"file\"\npath = {out:?}\n"
    );
    let mut node = node(dir.path(), &body).with_node("memory = \"48MiB\"").start();
    // What a real client says first, up to the middle of it; less than a header; and nothing at all.
    let mut hello = Vec::new();
    let mut connection =
        rustls::ClientConnection::new(client_config(&authority), "localhost".try_into().expect("a name")).expect("one");
    connection.write_tls(&mut hello).expect("memory");
    let parts = [&hello[..hello.len() / 2], &hello[..3], b""];
    let crowd: Vec<Client> = (0..SEATS)
        .map(|at| {
            let mut client = Client::tcp(tls);
            client.send(parts[at % parts.len()]);
            client
        })
        .collect();
    node.wait_for("all seats of this peer to be taken", |node| {
        // The others that come meanwhile are refused; so is this one, or it comes late enough to be served.
        node.metric("longshore_input_open", &[]) >= SEATS as u64
            || node.metric("longshore_input_oddities_total", &[("kind", "handshake_failed")]) > 0
    });
    for mut client in crowd {
        assert_eq!(client.expect_close(), b"", "closed by the timer");
    }
    let failed = [("kind", "handshake_failed")];
    node.wait_for("the count", |node| node.metric("longshore_input_oddities_total", &failed) == SEATS as u64);
    node.wait_for("the seats", |node| node.metric("longshore_input_open", &[]) == 0);
    assert!(node.log().contains("its handshake took longer than 2s"), "{}", node.log());
    // And the whole of a hello is served on the same port.
    let Client::Tcp(stream) = Client::tcp(tls) else { panic!("it is TCP") };
    let mut stream = secure(stream, &client_config(&authority));
    stream.write_all(&message("t", 1.into(), map(&[]), Some(option("tls", &[])))).expect("written");
    let mut got = vec![0; ack_of("tls").len()];
    stream.read_exact(&mut got).expect("an ack");
    assert_eq!(got, ack_of("tls"));
    survived(node, port, "half a TLS hello");
}

#[test]
fn a_crowd_that_never_reads_its_acks_is_closed_within_the_budget() {
    const CROWD: usize = 200;
    let dir = folder();
    let port = free_port();
    let mut node = start(dir.path(), port);
    // Ids nearly as long as are taken: by the limit of one connection alone 800 MiB would be kept for acks.
    let frame = message("t", 1.into(), map(&[]), Some(option(&"c".repeat(16_000), &[])));
    let frames = frame.repeat(50);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..CROWD)
            .map(|at| {
                let (frames, over) = (&frames, &over);
                scope.spawn(move || {
                    let mut stream = connect_from(2 + (at % 4) as u8, port);
                    stream.set_write_timeout(Some(Duration::from_secs(1))).expect("a socket");
                    // Until it is sent away, or held up for good.
                    let (mut closed, mut at) = (false, 0);
                    while !closed && !over.load(Relaxed) {
                        match stream.write(&frames[at..]) {
                            Ok(written) => at = (at + written) % frames.len(),
                            Err(error) => closed = error.kind() != std::io::ErrorKind::WouldBlock,
                        }
                    }
                    closed
                })
            })
            .collect();
        // Others are served meanwhile.
        for _ in 0..20 {
            good(port);
        }
        node.wait_within(Duration::from_secs(120), "the end of most of them", &mut |node| {
            node.metric("longshore_input_open", &[]) < (CROWD / 10) as u64
        });
        over.store(true, Relaxed);
        let closed = senders.into_iter().map(|sender| sender.join().expect("no panic"));
        assert!(closed.filter(|closed| *closed).count() > CROWD / 2);
    });
    assert!(node.log().contains("does not read its acks"), "{}", node.log());
    let lost = [("kind", "framing_lost")];
    assert_eq!(node.metric("longshore_input_oddities_total", &lost), 0, "all of them speak well");
    survived(node, port, "a crowd that never reads its acks");
}

#[test]
fn a_flood_of_connections_meets_limits_and_takes_no_more_than_its_share() {
    const EACH: usize = 500;
    const PEERS: usize = 4;
    let dir = folder();
    let port = free_port();
    let mut node = start_with(dir.path(), port, "connections_max = 1850\npeer_connections_max = 450\nstall = \"10m\"");
    // Each with the beginning of a frame, so that it is more than a silent one; from four addresses at once.
    let crowd: Vec<TcpStream> = std::thread::scope(|scope| {
        let floods: Vec<_> = (0..PEERS)
            .map(|peer| {
                scope.spawn(move || {
                    (0..EACH)
                        .map(|_| {
                            let mut stream = connect_from(2 + peer as u8, port);
                            let _ = stream.write_all(b"\x93\xa1t\xc6\x00\x10\x00\x00\x92\x01\x81\xa1a");
                            stream
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        floods.into_iter().flat_map(|flood| flood.join().expect("no panic")).collect()
    });
    let refused = [("kind", "connection_refused")];
    node.wait_for("those above the limits to be refused", |node| {
        node.metric("longshore_input_oddities_total", &refused) == (PEERS * (EACH - 450)) as u64
    });
    node.wait_for("the others to be in", |node| node.metric("longshore_input_open", &[]) == 1_800);
    // Others find room until all seats are taken, and again when there are seats.
    let others: Vec<Client> = (0..50).map(|_| Client::tcp(port)).collect();
    node.wait_for("the last seats to be taken", |node| node.metric("longshore_input_open", &[]) == 1_850);
    assert_eq!(Client::tcp(port).expect_close(), b"");
    drop((crowd, others));
    node.wait_for("the crowd to be gone", |node| node.metric("longshore_input_open", &[]) == 0);
    survived(node, port, "a flood of connections");
}
