//! The forward input's ways in: shared keys, users, networks, TLS and mutual TLS, Unix sockets with an owner, UDP
//! heartbeats, and what a sender that speaks something else is told. The client half is written by hand from the
//! protocol's text and shares nothing with the program's codec.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rmpv::Value as Msg;

use crate::harness::certificates::{Authority, client_config, secure, secure_as};
use crate::harness::forward::{Client, ack_of, encode, forward, map, message, option};
use crate::harness::records::{line_count, records};
use crate::harness::{Node, PATIENCE, folder, free_port, node, run_command, told, wait_for};

/// What must never be seen anywhere.
pub const KEY: &str = "canary-key-5c2a";
const OTHER_KEY: &str = "canary-key-77b1";
const PASSWORD: &str = "canary-password-90ee";

/// A forward input with these listeners, and one output file.
pub fn config(dir: &Path, listen: &str, more: &str) -> String {
    let out = dir.join("out.ndjson");
    format!(
        "[inputs.apps]\ntype = \"forward\"\nlisten = {listen}\n{more}\n[sinks.out]\ntype = \"file\"\npath = {out:?}\n"
    )
}

fn hex_sha512(parts: &[&[u8]]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA512, &parts.concat());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One MessagePack value from a stream.
fn read_value(stream: &mut impl Read) -> Vec<Msg> {
    match rmpv::decode::read_value(stream).expect("a message in time") {
        Msg::Array(items) => items,
        other => panic!("expected an array, got {other}"),
    }
}

fn bytes_of(value: &Msg) -> &[u8] {
    value.as_slice().or_else(|| value.as_str().map(str::as_bytes)).expect("text or bytes")
}

/// Nonce and auth of a HELO.
fn read_helo(stream: &mut impl Read) -> (Vec<u8>, Vec<u8>) {
    let helo = read_value(stream);
    assert_eq!((helo.len(), helo[0].as_str()), (2, Some("HELO")));
    let options = helo[1].as_map().expect("a map");
    let option = |name| options.iter().find(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| value.clone());
    assert_eq!(option("keepalive"), Some(Msg::Boolean(true)));
    let bytes = |name| bytes_of(&option(name).expect("it is there")).to_vec();
    (bytes("nonce"), bytes("auth"))
}

const HOST: &str = "client.example";

fn ping(nonce: &[u8], auth: &[u8], salt: Msg, key: &str, user: &str, password: &str) -> Vec<u8> {
    let digest = hex_sha512(&[bytes_of(&salt), HOST.as_bytes(), nonce, key.as_bytes()]);
    let of_user = hex_sha512(&[auth, user.as_bytes(), password.as_bytes()]);
    let of_user = if auth.is_empty() { String::new() } else { of_user };
    encode(&Msg::Array(vec!["PING".into(), HOST.into(), salt, digest.into(), user.into(), of_user.into()]))
}

/// The whole handshake; the PONG's reason if the answer is no.
pub fn log_in<S: Read + Write>(stream: &mut S, key: &str, user: &str, password: &str) -> Result<(), String> {
    let (nonce, auth) = read_helo(stream);
    assert_eq!(nonce.len(), 16);
    let salt = b"0123456789abcdef";
    stream.write_all(&ping(&nonce, &auth, Msg::Binary(salt.to_vec()), key, user, password)).expect("written");
    let pong = read_value(stream);
    assert_eq!((pong.len(), pong[0].as_str()), (5, Some("PONG")));
    if pong[1] != Msg::Boolean(true) {
        assert_eq!((bytes_of(&pong[3]), bytes_of(&pong[4])), (&b""[..], &b""[..]), "nothing is proved to a stranger");
        return Err(pong[2].as_str().expect("a reason").to_owned());
    }
    let host = pong[3].as_str().expect("a name");
    assert!(host.contains("longshore") && host != HOST, "{host}");
    assert_eq!(pong[4].as_str().expect("a digest"), hex_sha512(&[salt, host.as_bytes(), &nonce, key.as_bytes()]));
    Ok(())
}

pub fn connect(port: u16) -> TcpStream {
    let Client::Tcp(stream) = Client::tcp(port) else { panic!("it is TCP") };
    stream
}

/// One record with an ack.
pub fn deliver<S: Read + Write>(stream: &mut S, seq: u64) {
    let chunk = format!("c{seq}");
    stream.write_all(&message("t", 1.into(), map(&[("seq", seq.into())]), Some(option(&chunk, &[])))).expect("written");
    let expected = ack_of(&chunk);
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).expect("an ack in time");
    assert_eq!(got, expected);
}

/// What the other side sends until it closes plainly; a reset fails.
fn rest(stream: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("a plain end and no reset");
    bytes
}

fn log_line(node: &mut Node, text: &str) {
    node.wait_for(text, |node| node.log().contains(text));
}

#[test]
fn a_shared_key_lets_in_who_has_it_and_tells_others_why_not() {
    let dir = folder();
    let port = free_port();
    let listen = format!("[{{ address = \"tcp://127.0.0.1:{port}\", shared_key = \"{KEY}\" }}]");
    let mut node = node(dir.path(), &config(dir.path(), &listen, "")).start();
    let mut stream = connect(port);
    log_in(&mut stream, KEY, "", "").expect("the key is right");
    deliver(&mut stream, 1);

    // Fluent Bit's salt is raw bytes in a `str`.
    let mut stream = connect(port);
    let (nonce, auth) = read_helo(&mut stream);
    assert_eq!(auth, b"", "no user is asked for");
    let salt = [0xff, 0xfe, 0x80];
    let digest = hex_sha512(&[&salt, HOST.as_bytes(), &nonce, KEY.as_bytes()]);
    let start = [b"\x96\xa4PING\xae".as_slice(), HOST.as_bytes(), b"\xa3", &salt, b"\xd9\x80", digest.as_bytes()];
    // With the user name that some clients send all the same, and a frame right after it.
    let frame = message("t", 1.into(), map(&[("seq", 2.into())]), Some(option("early", &[])));
    stream.write_all(&[&start.concat()[..], b"\xa3bob\xa0", &frame].concat()).expect("written");
    assert_eq!(read_value(&mut stream)[1], Msg::Boolean(true));
    let mut ack = vec![0; ack_of("early").len()];
    stream.read_exact(&mut ack).expect("the frame behind the PING counts");

    // A wrong key: the PONG can be read although more was sent after the PING.
    for key in ["wrong", "", OTHER_KEY] {
        let mut stream = connect(port);
        assert_eq!(log_in(&mut stream, key, "", "").expect_err("refused"), "shared_key mismatch");
        assert_eq!(rest(&mut stream), b"");
    }
    let mut stream = connect(port);
    let (nonce, _) = read_helo(&mut stream);
    let wrong = ping(&nonce, b"", "salt".into(), "wrong", "", "");
    stream.write_all(&[&wrong[..], &[0xc0; 200_000]].concat()).expect("written");
    std::thread::sleep(Duration::from_millis(100));
    assert!(rest(&mut stream).starts_with(b"\x95\xa4PONG\xc2\xb3shared_key mismatch\xa0\xa0"));

    // A PING that was recorded on another connection.
    let mut recorded = connect(port);
    let (nonce, _) = read_helo(&mut recorded);
    let old = ping(&nonce, b"", "salt".into(), KEY, "", "");
    let mut stream = connect(port);
    read_helo(&mut stream);
    stream.write_all(&old).expect("written");
    assert_eq!(read_value(&mut stream)[1], Msg::Boolean(false));
    recorded.write_all(&old).expect("written");
    assert_eq!(read_value(&mut recorded)[1], Msg::Boolean(true), "it was good where it belongs");

    log_line(&mut node, "shared_key mismatch; it calls itself \"client.example\"");
    drop(stream);
    node.wait_for("five refusals", |node| {
        node.metric("longshore_input_oddities_total", &[("kind", "handshake_failed")]) == 5
    });
    let out = dir.path().join("out.ndjson");
    node.wait_for("two records", |_| line_count(&out) >= 2);
    assert_no_secret(&mut node, dir.path());
    node.stop_well();
    assert_eq!(records(&out).len(), 2);
}

/// The keys are in no log, answer or explanation.
fn assert_no_secret(node: &mut Node, dir: &Path) {
    let explain = run_command(
        std::process::Command::new(env!("CARGO_BIN_EXE_longshore"))
            .args(["check", "--explain"])
            .arg(dir.join("longshore.toml")),
        b"",
    );
    assert!(explain.status.success(), "{}", told(&explain));
    let health = node.get("/health").expect("an answer").1;
    let metrics = node.get("/metrics").expect("an answer").1;
    for (place, text) in [("log", node.log()), ("explain", told(&explain)), ("health", health), ("metrics", metrics)] {
        assert!(!text.contains("canary-"), "a secret in the {place}:\n{text}");
    }
}

#[test]
fn users_are_asked_for_their_password_and_networks_choose_key_and_users() {
    let dir = folder();
    let port = free_port();
    fs::write(dir.path().join("alice"), format!("{PASSWORD}\n")).expect("written");
    let listen = format!(
        "[{{ address = \"tcp://[::]:{port}\", shared_key = \"{KEY}\", \
         users = [{{ name = \"alice\", password = \"secret:alice\" }}, {{ name = \"bob\", password = \"{PASSWORD}b\" }}], \
         allow = [{{ network = \"127.0.0.1\", users = [\"alice\"] }}, {{ network = \"127.0.0.2/32\", shared_key = \"{OTHER_KEY}\" }}, \
         \"::1\"] }}]"
    );
    let body = config(dir.path(), &listen, "");
    let secrets = format!("secrets = {:?}", dir.path());
    let mut node = node(dir.path(), &body).with_node(&secrets).start();
    // It listens on IPv6, so 127.0.0.1 is ::ffff:127.0.0.1 to it.
    let mismatch = Err("username/password mismatch".to_owned());
    let try_in = |from: &str, key: &str, user: &str, password: &str| {
        let to = if from.contains("::") { format!("[::1]:{port}") } else { format!("127.0.0.1:{port}") };
        let socket =
            socket2::Socket::new(socket2::Domain::for_address(to.parse().expect("one")), socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        let from: std::net::SocketAddr = format!("{from}:0").parse().expect("an address");
        socket.bind(&from.into()).expect("loopback addresses are ours");
        socket.connect(&to.parse::<std::net::SocketAddr>().expect("one").into()).expect("it listens");
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        log_in(&mut stream, key, user, password)
    };
    assert_eq!(try_in("127.0.0.1", KEY, "alice", PASSWORD), Ok(()));
    assert_eq!(try_in("127.0.0.1", KEY, "alice", "wrong"), mismatch);
    assert_eq!(try_in("127.0.0.1", KEY, "bob", &format!("{PASSWORD}b")), mismatch, "not from there");
    assert_eq!(try_in("127.0.0.1", KEY, "eve", ""), mismatch);
    assert_eq!(try_in("127.0.0.1", OTHER_KEY, "alice", PASSWORD), Err("shared_key mismatch".to_owned()));
    assert_eq!(try_in("127.0.0.2", OTHER_KEY, "bob", &format!("{PASSWORD}b")), Ok(()));
    assert_eq!(try_in("[::1]", KEY, "bob", &format!("{PASSWORD}b")), Ok(()));
    // A peer in no network is closed without a HELO.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 3], 0)).into()).expect("loopback is ours");
    socket.connect(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into()).expect("it listens");
    assert_eq!(rest(&mut TcpStream::from(socket)), b"");
    node.wait_for("it is counted", |node| {
        node.metric("longshore_input_oddities_total", &[("kind", "not_allowed")]) == 1
    });
    log_line(&mut node, "in no network of `allow`");

    // The password's file changes: the new one counts within a moment, the old one no more.
    fs::write(dir.path().join("alice"), format!("{PASSWORD}-new")).expect("written");
    wait_for("the new password", PATIENCE, || try_in("127.0.0.1", KEY, "alice", &format!("{PASSWORD}-new")).is_ok());
    assert_eq!(try_in("127.0.0.1", KEY, "alice", PASSWORD), mismatch);
    fs::write(dir.path().join("alice"), "\n").expect("written");
    let degraded = |node: &Node| node.get("/health").is_some_and(|(_, text)| text.contains("it is empty"));
    node.wait_for("a warning of the empty file", degraded);
    assert_eq!(try_in("127.0.0.1", KEY, "alice", &format!("{PASSWORD}-new")), Ok(()), "what was read before stays");
    fs::write(dir.path().join("alice"), PASSWORD).expect("written");
    assert_no_secret(&mut node, dir.path());
    node.stop_well();
}

#[test]
fn what_is_no_ping_on_a_listener_with_a_key_gets_a_pong_and_a_hint() {
    let dir = folder();
    let port = free_port();
    let listen = format!("[{{ address = \"tcp://127.0.0.1:{port}\", shared_key = \"{KEY}\" }}]");
    let body = config(dir.path(), &listen, "handshake = \"400ms\"");
    let docker = message("docker.web", 1.into(), map(&[("log", "x".into())]), Some(map(&[])));
    let oversized = [&b"\x96\xa4PING\xdb\x00\x10\x00\x00"[..], &[b'x'; 20_000]].concat();
    let cases: [(&[u8], &str); 6] = [
        (&docker, "it does not speak shared_key: Docker's driver"),
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP on the forward port"),
        (b"\x16\x03\x01\x02\x00\x01\x00", "a TLS hello on a port without TLS"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH on the forward port"),
        (b"\x92\xa4HELO\x80", "a HELO: the other side is a receiver too"),
        (&oversized, "a handshake message of more than 4096 bytes"),
    ];
    for (bytes, hint) in cases {
        // A node each, since one peer is spoken of once in ten seconds.
        let mut node = node(dir.path(), &body).start();
        let mut stream = connect(port);
        read_helo(&mut stream);
        // The oversized one is cut off by the end.
        let _ = stream.write_all(bytes);
        let pong = read_value(&mut stream);
        assert_eq!(pong[1], Msg::Boolean(false), "{hint}");
        assert!(pong[2].as_str().expect("a reason").contains("asks for a shared key"), "{hint}");
        assert_eq!(rest(&mut stream), b"");
        log_line(&mut node, hint);
        node.stop_well();
    }
    // A PING that does not come to its end, and one that never begins.
    let mut node = node(dir.path(), &body).start();
    for start in [&b""[..], b"\x96\xa4PING\xae"] {
        let mut stream = connect(port);
        read_helo(&mut stream);
        stream.write_all(start).expect("written");
        assert_eq!(rest(&mut stream), b"");
    }
    log_line(&mut node, "its handshake took longer than 400ms");
    assert_eq!(node.metric("longshore_input_oddities_total", &[("kind", "handshake_failed")]), 2);
    // A heartbeat of Fluentd: the handshake and no byte more; and a probe: not even that.
    let mut stream = connect(port);
    log_in(&mut stream, KEY, "", "").expect("the key is right");
    drop(stream);
    drop(connect(port));
    wait_for("both are gone", PATIENCE, || node.metric("longshore_input_open", &[]) == 0);
    assert_eq!(node.metric("longshore_input_oddities_total", &[("kind", "handshake_failed")]), 2);
    node.stop_well();
}

#[test]
fn what_is_not_forward_on_a_plain_port_gets_one_helpful_line() {
    let dir = folder();
    let port = free_port();
    let body = config(dir.path(), &format!("\"tcp://127.0.0.1:{port}\""), "");
    let cases: [(&[u8], &str); 5] = [
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP on the forward port"),
        (b"\x16\x03\x01\x02\x00\x01\x00", "a TLS hello on a port without TLS; listen on tls://"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH on the forward port"),
        (b"\x92\xa4HELO\x81\xa5nonce\xa1x", "a HELO: the other side is a receiver too"),
        (b"\x96\xa4PING\xa1h\xa1s\xa1d\xa0\xa0", "a PING on a listener without a shared key; set `shared_key`"),
    ];
    for (bytes, hint) in cases {
        let mut node = node(dir.path(), &body).start();
        for _ in 0..3 {
            let mut stream = connect(port);
            stream.write_all(bytes).expect("written");
            assert_eq!(rest(&mut stream), b"");
        }
        log_line(&mut node, hint);
        let lines = node.log().lines().filter(|line| line.contains(hint)).count();
        assert_eq!(lines, 1, "one line a peer:\n{}", node.log());
        node.stop_well();
    }
}

#[test]
fn tls_with_and_without_client_certificates_and_a_key_on_top() {
    let dir = folder();
    let (port, mutual, plain) = (free_port(), free_port(), free_port());
    let authority = Authority::new("ours");
    authority.write_server(dir.path(), "server", 3_650);
    fs::write(dir.path().join("ca.pem"), authority.pem()).expect("written");
    let (cert, key, ca) = (dir.path().join("server.pem"), dir.path().join("server.key"), dir.path().join("ca.pem"));
    let listen = format!(
        "[{{ address = \"tls://127.0.0.1:{port}\", cert = {cert:?}, key = {key:?}, shared_key = \"{KEY}\" }}, \
         {{ address = \"tls://127.0.0.1:{mutual}\", cert = {cert:?}, key = {key:?}, client_ca = {ca:?} }}, \
         \"tcp://127.0.0.1:{plain}\"]"
    );
    let mut node = node(dir.path(), &config(dir.path(), &listen, "")).start();
    let mut stream = secure(connect(port), &client_config(&authority));
    log_in(&mut stream, KEY, "", "").expect("the key is right");
    for seq in 0..50 {
        deliver(&mut stream, seq);
    }
    // A frame that is much larger than what TLS carries at once.
    let many: Vec<(Msg, Msg)> =
        (0..2_000).map(|n| (1.into(), map(&[("n", n.into()), ("x", "y".repeat(200).into())]))).collect();
    stream.write_all(&forward("t", &many, Some(option("large", &[])))).expect("written");
    let mut got = vec![0; ack_of("large").len()];
    stream.read_exact(&mut got).expect("an ack");
    assert_eq!(got, ack_of("large"));
    stream.conn.send_close_notify();
    stream.flush().expect("written");
    assert_eq!(rest(&mut stream), b"");
    // The plain listener beside it asks for nothing.
    deliver(&mut connect(plain), 100);

    // Mutual: with a certificate of ours, without one, with one of somebody else.
    let mut stream = secure_as(connect(mutual), &authority, &authority);
    deliver(&mut stream, 101);
    let stranger = Authority::new("strangers");
    for mut stream in
        [secure(connect(mutual), &client_config(&authority)), secure_as(connect(mutual), &authority, &stranger)]
    {
        let _ = stream.write_all(&message("t", 1.into(), map(&[("seq", 666.into())]), None));
        let refused = stream.read(&mut [0; 100]);
        assert!(refused.as_ref().map_or(true, |read| *read == 0), "{refused:?}");
    }
    // Bytes that are no TLS, one of which could be.
    for (bytes, count) in [(&b"\x94\xa1t"[..], 3), (b"\x16\x03\x01\xff\xff garbage", 4)] {
        let mut stream = connect(port);
        stream.write_all(bytes).expect("written");
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
        node.wait_for("it is counted", |node| {
            node.metric("longshore_input_oddities_total", &[("kind", "handshake_failed")]) == count
        });
    }
    // A client that does not trust the certificate.
    let mut stream = secure(connect(port), &client_config(&stranger));
    assert!(stream.write_all(b"x").is_err());
    let out = dir.path().join("out.ndjson");
    node.wait_for("all records", |_| line_count(&out) >= 2_052);
    assert_no_secret(&mut node, dir.path());
    node.stop_well();
    assert!(records(&out).iter().all(|record| record["seq"] != 666), "nothing came in without a certificate");
}

#[test]
fn certificates_are_read_again_when_they_change_and_their_end_is_seen() {
    let dir = folder();
    let port = free_port();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    old.write_server(dir.path(), "server", 3);
    let (cert, key) = (dir.path().join("server.pem"), dir.path().join("server.key"));
    let listen = format!("[{{ address = \"tls://127.0.0.1:{port}\", cert = {cert:?}, key = {key:?} }}]");
    let mut node = node(dir.path(), &config(dir.path(), &listen, "")).start();
    let warned = |node: &Node, text: &str| {
        node.get("/health").is_some_and(|(code, body)| code == 200 && body.contains("degraded") && body.contains(text))
    };
    node.wait_for("the warning of its end", |node| warned(node, "ends in 2 days"));
    log_line(&mut node, "ends in 2 days");
    let ends = node.metric("longshore_certificate_expiry_timestamp_seconds", &[]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    assert!((now + 2 * 86_400..now + 4 * 86_400).contains(&ends), "{ends}");
    let mut kept = secure(connect(port), &client_config(&old));
    deliver(&mut kept, 1);

    // The certificate without its key: the old pair stays.
    new.write_server(dir.path(), "other", 3_650);
    fs::copy(dir.path().join("other.pem"), &cert).expect("copied");
    node.wait_for("a warning of the half", |node| warned(node, "stays in use"));
    deliver(&mut secure(connect(port), &client_config(&old)), 2);
    fs::rename(dir.path().join("other.key"), &key).expect("moved");
    node.wait_for("the new certificate", |node| {
        node.get("/health").is_some_and(|(_, body)| body.contains("\"healthy\""))
    });
    deliver(&mut secure(connect(port), &client_config(&new)), 3);
    assert!(secure(connect(port), &client_config(&old)).write_all(b"x").is_err(), "the old one is not shown any more");
    deliver(&mut kept, 4);

    // One that has ended: said, and clients refuse it, while the node lives.
    new.write_server(dir.path(), "server", -3);
    node.wait_for("a warning", |node| warned(node, "ago; clients refuse it"));
    assert!(secure(connect(port), &client_config(&new)).write_all(b"x").is_err());
    node.stop_well();
    assert_eq!(records(&dir.path().join("out.ndjson")).len(), 4);
}

#[test]
fn a_unix_socket_has_its_mode_and_owner_and_its_own_rules() {
    let dir = folder();
    let (open, keyed) = (dir.path().join("open.sock"), dir.path().join("keyed.sock"));
    let body = format!(
        "[inputs.apps]\ntype = \"forward\"\n[[inputs.apps.listen]]\naddress = \"unix://{}\"\nmode = \"0620\"\nowner = \"12:34\"\n\
         [[inputs.apps.listen]]\naddress = \"unix://{}\"\nshared_key = \"{KEY}\"\nhostname = \"the-longshore-of-this-test\"\n\
         [sinks.out]\ntype = \"file\"\npath = {:?}\n",
        open.display(),
        keyed.display(),
        dir.path().join("out.ndjson")
    );
    let mut node = node(dir.path(), &body).start();
    let found = fs::metadata(&open).expect("the socket");
    assert_eq!(found.permissions().mode() & 0o7777, 0o620);
    assert_eq!((found.uid(), found.gid()), (12, 34));
    let Client::Unix(mut stream) = Client::unix(&open) else { panic!("it is one") };
    deliver(&mut stream, 1);
    let Client::Unix(mut stream) = Client::unix(&keyed) else { panic!("it is one") };
    log_in(&mut stream, KEY, "", "").expect("the key is right");
    deliver(&mut stream, 2);
    node.stop_well();
    assert!(!open.exists() && !keyed.exists());
}

#[test]
fn udp_heartbeats_are_answered_and_nothing_else_is() {
    let dir = folder();
    let port = free_port();
    let mut node = node(dir.path(), &config(dir.path(), &format!("\"tcp://127.0.0.1:{port}\""), "")).start();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    for heartbeat in [&b"\0"[..], b""] {
        socket.send_to(heartbeat, ("127.0.0.1", port)).expect("sent");
        let mut got = [9; 4];
        assert_eq!(socket.recv(&mut got).expect("an answer"), 1);
        assert_eq!(got[0], 0);
    }
    let same_port = UdpSocket::bind(("127.0.0.2", port)).expect("another address");
    same_port.send_to(b"\0", ("127.0.0.1", port)).expect("sent");
    socket.send_to(&[0; 100], ("127.0.0.1", port)).expect("sent");
    for silent in [&same_port, &socket] {
        silent.set_read_timeout(Some(Duration::from_millis(300))).expect("a socket");
        let got = silent.recv(&mut [0; 4]).map_err(|error| error.kind());
        assert!(matches!(got, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)), "{got:?}");
    }
    node.stop_well();
}

#[test]
fn of_a_flood_of_udp_heartbeats_a_few_hundred_a_second_are_answered() {
    const A_SECOND: u64 = 200;
    let dir = folder();
    let port = free_port();
    let mut node = node(dir.path(), &config(dir.path(), &format!("\"tcp://127.0.0.1:{port}\""), "")).start();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.connect(("127.0.0.1", port)).expect("a port");
    socket.set_nonblocking(true).expect("a socket");
    let (began, mut answers) = (Instant::now(), 0u64);
    // Some thousands within a moment, in such pieces that no queue of the system drops them.
    while began.elapsed() < Duration::from_millis(1_500) {
        for _ in 0..50 {
            let _ = socket.send(b"\0");
        }
        std::thread::sleep(Duration::from_millis(2));
        while socket.recv(&mut [0; 4]).is_ok() {
            answers += 1;
        }
    }
    // What is still under way.
    std::thread::sleep(Duration::from_millis(500));
    while socket.recv(&mut [0; 4]).is_ok() {
        answers += 1;
    }
    // A window begins with the first datagram after the last one.
    let windows = began.elapsed().as_secs() + 1;
    assert!(answers <= A_SECOND * windows, "{answers} answers in {windows} windows of a second");
    assert!(answers >= A_SECOND, "{answers} answers: one window's worth at least");
    // Afterwards there are answers again.
    wait_for("an answer", PATIENCE, || {
        let _ = socket.send(b"");
        std::thread::sleep(Duration::from_millis(20));
        socket.recv(&mut [0; 4]).is_ok()
    });
    node.stop_well();
}

#[test]
fn a_thousand_connections_that_come_back_at_once_are_all_accepted() {
    const EACH: u64 = 50;
    let dir = folder();
    let port = free_port();
    let more = "peer_connections_max = 2000";
    let mut node = node(dir.path(), &config(dir.path(), &format!("\"tcp://127.0.0.1:{port}\""), more)).start();
    let started = Instant::now();
    let clients: Vec<_> = (0..20u64)
        .map(|number| {
            std::thread::spawn(move || {
                let mut all: Vec<TcpStream> = (0..EACH).map(|_| connect(port)).collect();
                for (at, stream) in all.iter_mut().enumerate() {
                    deliver(stream, number * EACH + at as u64);
                }
                all
            })
        })
        .collect();
    let open: Vec<_> = clients.into_iter().flat_map(|client| client.join().expect("no panic")).collect();
    assert_eq!(open.len(), 1_000);
    assert_eq!(node.metric("longshore_input_open", &[]), 1_000);
    assert_eq!(node.metric("longshore_input_oddities_total", &[("kind", "connection_refused")]), 0);
    println!("a thousand connections in {:?}", started.elapsed());
    drop(open);
    node.stop_well();
    assert_eq!(records(&dir.path().join("out.ndjson")).len(), 1_000);
}

#[test]
fn connects_and_closes_without_bytes_leave_no_line_and_no_descriptor() {
    let dir = folder();
    let port = free_port();
    // All of one peer: on a busy machine none of a round may have been accepted yet when the next one begins.
    let more = "connections_max = 12000\npeer_connections_max = 12000";
    let mut node = node(dir.path(), &config(dir.path(), &format!("\"tcp://127.0.0.1:{port}\""), more)).start();
    let descriptors = |node: &Node| fs::read_dir(format!("/proc/{}/fd", node.pid())).expect("ours").count();
    drop(connect(port));
    wait_for("the first is gone", PATIENCE, || node.metric("longshore_input_open", &[]) == 0);
    let before = descriptors(&node);
    for _ in 0..25 {
        for _ in 0..400 {
            drop(TcpStream::connect(("127.0.0.1", port)).expect("it listens"));
        }
        node.wait_for("all are gone", |node| node.metric("longshore_input_open", &[]) == 0);
    }
    wait_for("the descriptors are back", PATIENCE, || descriptors(&node) <= before + 2);
    let log = node.log();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings, [""; 0]);
    node.stop_well();
}
