//! The forward sink and `longshore send`: longshore to longshore over a real connection, a receiver that goes away and
//! comes back, two receivers of which one is dead, every mode of `send`, its rate and its exit code.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::forward::{Client, ack_of, event_time, map, message, option};
use crate::harness::records::{line_count, records};
use crate::harness::{Node, PATIENCE, folder, free_port, node, run, told};

/// A node that takes forward records on this port and writes them to `out.ndjson`.
fn receiver(dir: &Path, port: u16) -> Node {
    fs::create_dir_all(dir).expect("a folder");
    node(dir, &crate::forward_input::config(dir, port)).start()
}

/// A node that takes forward records on one port and sends them on to others.
fn relay(dir: &Path, port: u16, servers: &str, more: &str) -> Node {
    fs::create_dir_all(dir).expect("a folder");
    let body = format!(
        "[inputs.apps]\ntype = \"forward\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\n\
         [sinks.up]\ntype = \"forward\"\nservers = {servers}\nbatch = {{ wait = \"20ms\" }}\n{more}\n"
    );
    node(dir, &body).start()
}

fn seqs(path: &Path) -> Vec<u64> {
    let mut seqs: Vec<u64> = records(path).iter().filter_map(|record| record["seq"].as_u64()).collect();
    seqs.sort_unstable();
    seqs
}

fn numbers(count: u64) -> Vec<u8> {
    (0..count).map(|seq| format!("{{\"seq\":{seq}}}\n")).collect::<String>().into_bytes()
}

#[test]
fn a_record_is_the_same_with_a_relay_in_between() {
    let dir = folder();
    let (direct, behind, front) = (free_port(), free_port(), free_port());
    let mut one = receiver(&dir.path().join("direct"), direct);
    let mut two = receiver(&dir.path().join("behind"), behind);
    let more = "compression = \"zstd\"";
    let mut relay = relay(&dir.path().join("relay"), front, &format!("[\"tcp://127.0.0.1:{behind}\"]"), more);
    let docker = map(&[
        ("container_id", "c0ffee".repeat(11)[..64].into()),
        ("container_name", "/web".into()),
        ("source", "stderr".into()),
        ("log", "a line \u{e9}".into()),
    ]);
    let odd = map(&[
        ("n", u64::MAX.into()),
        ("f", 0.1.into()),
        ("time", "own".into()),
        ("list", rmpv::Value::Array(vec![rmpv::Value::Nil, map(&[("k", (-5).into())])])),
        ("bin", rmpv::Value::Binary(vec![1, 0xff])),
    ]);
    let frames = [
        message("docker.web", event_time(1_700_000_000, 5), docker, Some(option("c1", &[]))),
        message("", event_time(1_700_000_001, 0), odd, Some(option("c2", &[]))),
    ];
    for port in [direct, front] {
        let mut client = Client::tcp(port);
        client.send(&frames.concat());
        client.expect_ack("c1");
        client.expect_ack("c2");
    }
    let out = |name: &str| dir.path().join(name).join("out.ndjson");
    // An ack says that the record is safe; on its way it may still be.
    one.wait_for("the records", |_| line_count(&out("direct")) >= 2);
    two.wait_for("the records", |_| line_count(&out("behind")) >= 2);
    let (direct, behind) = (records(&out("direct")), records(&out("behind")));
    assert_eq!(direct.len(), 2);
    let sorted = |records: &[Value]| {
        let mut texts: Vec<String> = records.iter().map(Value::to_string).collect();
        texts.sort();
        texts
    };
    assert_eq!(sorted(&direct), sorted(&behind));
    assert!(direct.iter().any(|record| record["container"]["name"] == "web" && record["stream"] == "stderr"));
    relay.assert_ledger_closes();
    [&mut relay, &mut two, &mut one].into_iter().for_each(Node::stop_well);
}

#[test]
fn a_receiver_that_is_killed_and_comes_back_costs_no_record() {
    let dir = folder();
    let (front, behind) = (free_port(), free_port());
    let mut first = receiver(&dir.path().join("behind"), behind);
    let servers = format!("\"tcp://127.0.0.1:{behind}\"");
    let mut relay = relay(&dir.path().join("relay"), front, &servers, "ack_timeout = \"5s\"");
    let to = format!("tcp://127.0.0.1:{front}");
    let folder = dir.path().to_owned();
    let sender = std::thread::spawn(move || {
        run(&folder, &["send", "--to", &to, "--rate", "5000", "--batch", "100", "--connections", "2"], &numbers(10_000))
    });
    let out = dir.path().join("behind").join("out.ndjson");
    first.wait_for("some records", |_| out.exists() && line_count(&out) > 500);
    first.kill();
    std::thread::sleep(Duration::from_millis(500));
    let mut second = receiver(&dir.path().join("behind"), behind);
    let sent = sender.join().expect("the sender does not panic");
    assert!(sent.status.success(), "{}\n{}", told(&sent), relay.log());
    let distinct = || {
        let mut seqs = seqs(&out);
        seqs.dedup();
        seqs
    };
    second.wait_for("every record that was acknowledged", |_| distinct().len() >= 10_000);
    assert_eq!(distinct(), (0..10_000).collect::<Vec<_>>());
    assert!(relay.log().contains("sink=up"), "the failure is told:\n{}", relay.log());
    relay.assert_ledger_closes();
    relay.stop_well();
    second.stop_well();
}

#[test]
fn of_two_receivers_a_dead_one_holds_up_nothing() {
    let dir = folder();
    let (front, behind, dead) = (free_port(), free_port(), free_port());
    let mut receiver = receiver(&dir.path().join("behind"), behind);
    let servers = format!(
        "[{{ address = \"tcp://127.0.0.1:{dead}\", weight = 10 }}, {{ address = \"tcp://127.0.0.1:{behind}\", standby = true }}]"
    );
    let mut relay = relay(&dir.path().join("relay"), front, &servers, "");
    let sent = run(dir.path(), &["send", "--to", &format!("127.0.0.1:{front}"), "--tag", "t"], &numbers(2_000));
    assert!(sent.status.success(), "{}", told(&sent));
    let out = dir.path().join("behind").join("out.ndjson");
    receiver.wait_for("the records", |_| out.exists() && line_count(&out) >= 2_000);
    assert_eq!(seqs(&out), (0..2_000).collect::<Vec<_>>());
    let log = relay.log();
    assert!(log.contains("a receiver fails") && log.contains(&dead.to_string()), "{log}");
    assert_eq!(relay.metric("longshore_sink_retries_total", &[("sink", "up")]), 0, "the other one is tried at once");
    relay.stop_well();
    receiver.stop_well();
}

#[test]
fn every_mode_of_send_delivers_every_record_and_says_so() {
    let dir = folder();
    let port = free_port();
    let mut receiver = receiver(dir.path(), port);
    let to = format!("tcp://127.0.0.1:{port}");
    let out = dir.path().join("out.ndjson");
    let mut expected = 0;
    for flags in [
        &["--mode", "message"][..],
        &["--mode", "message", "--no-ack"],
        &["--mode", "forward", "--batch", "7"],
        &["--mode", "packed", "--connections", "3", "--batch", "10"],
        &["--mode", "compressed"],
        &["--compress", "zstd", "--format", "text"],
        &["--no-ack"],
    ] {
        let mut args = vec!["send", "--to", &to, "--tag", "m"];
        args.extend(flags);
        let sent = run(dir.path(), &args, &numbers(200));
        assert!(sent.status.success(), "{flags:?}: {}", told(&sent));
        let said = String::from_utf8_lossy(&sent.stderr).into_owned();
        assert!(said.contains("sent 200 records in ") && said.contains(" records/s"), "{said}");
        assert_eq!(said.contains("all acknowledged"), !flags.contains(&"--no-ack"), "{said}");
        assert_eq!(said.contains("ack p50 "), !flags.contains(&"--no-ack"), "{said}");
        expected += 200;
        receiver.wait_for("the records", |_| out.exists() && line_count(&out) == expected);
    }
    let wrong = run(dir.path(), &["send", "--to", &to, "--mode", "message", "--compress", "gzip"], b"");
    assert_eq!(wrong.status.code(), Some(1), "{}", told(&wrong));
    receiver.assert_ledger_closes();
    receiver.stop_well();
}

#[test]
fn send_is_a_load_generator_with_a_rate() {
    let dir = folder();
    let port = free_port();
    let mut receiver = receiver(dir.path(), port);
    let to = format!("tcp://127.0.0.1:{port}");
    let start = Instant::now();
    let flags = ["send", "--to", &to, "--count", "1000", "--rate", "500", "--connections", "2"];
    let sent = run(dir.path(), &flags, &numbers(3));
    assert!(sent.status.success(), "{}", told(&sent));
    assert!(start.elapsed() > Duration::from_millis(1800), "1000 records at 500/s take two seconds");
    let out = dir.path().join("out.ndjson");
    receiver.wait_for("the records", |_| out.exists() && line_count(&out) >= 1_000);
    let seqs = seqs(&out);
    let of = |seq| seqs.iter().filter(|found| **found == seq).count();
    assert_eq!((of(0), of(1), of(2), seqs.len()), (334, 333, 333, 1000), "the three lines over and over");
    let sent = run(dir.path(), &["send", "--to", &to, "--count", "5000"], b"");
    assert!(sent.status.success(), "{}", told(&sent));
    receiver.wait_for("made-up records where there are none", |_| line_count(&out) >= 6_000);
    receiver.stop_well();
}

#[test]
fn what_nobody_takes_is_an_error_and_a_wrong_section_is_told() {
    let dir = folder();
    let port = free_port();
    let mut receiver = receiver(dir.path(), port);
    receiver.kill();
    let sent = run(dir.path(), &["send", "--to", &format!("127.0.0.1:{port}")], b"{}\n");
    let said = String::from_utf8_lossy(&sent.stderr).into_owned();
    assert_eq!(sent.status.code(), Some(1), "{said}");
    assert!(said.contains("refused") && said.contains("10 tries") && said.contains("sent 0 records"), "{said}");
    let config = dir.path().join("wrong.toml");
    let text = "[inputs.a]\ntype = \"stdin\"\n[sinks.up]\ntype = \"forward\"\nserver = \"x\"\n";
    fs::write(&config, text).expect("writable");
    let checked = run(dir.path(), &["check", config.to_str().expect("UTF-8")], b"");
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(checked.status.code(), Some(1));
    assert!(said.contains("did you mean `servers`?") && said.contains("`servers` is missing"), "{said}");
}

#[test]
fn longshore_to_longshore_through_tls_with_client_certificate_key_and_user() {
    let dir = folder();
    let (front, behind) = (free_port(), free_port());
    let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls");
    let file = |name: &str| tls.join(name).to_str().expect("UTF-8").to_owned();
    let (ca, cert, key) = (file("ca.pem"), file("server.pem"), file("server.key"));
    let out = dir.path().join("out.ndjson");
    let listen = format!(
        "[{{ address = \"tls://127.0.0.1:{behind}\", cert = {cert:?}, key = {key:?}, client_ca = {ca:?}, \
         shared_key = \"sekret\", users = [{{ name = \"alice\", password = \"pw\" }}] }}]"
    );
    let body =
        format!("[inputs.apps]\ntype = \"forward\"\nlisten = {listen}\n[sinks.out]\ntype = \"file\"\npath = {out:?}\n");
    let mut receiver = node(dir.path(), &body).start();
    let (client_cert, client_key) = (file("client.pem"), file("client.key"));
    let secured = |shared_key: &str, password: &str| {
        format!(
            "ca = {ca:?}\ncert = {client_cert:?}\nkey = {client_key:?}\nshared_key = {shared_key:?}\nuser = \"alice\"\n\
             password = {password:?}\ncompression = \"gzip\"\n"
        )
    };
    let servers = format!("\"tls://localhost:{behind}\"");
    let mut good = relay(&dir.path().join("good"), front, &servers, &secured("sekret", "pw"));
    let to = format!("tcp://127.0.0.1:{front}");
    let sent = run(dir.path(), &["send", "--to", &to, "--tag", "a.b", "--batch", "100"], &numbers(2_000));
    assert!(sent.status.success(), "{}\n{}", told(&sent), good.log());
    receiver.wait_for("the records", |_| out.exists() && line_count(&out) >= 2_000);
    assert_eq!(seqs(&out), (0..2_000).collect::<Vec<_>>());
    good.assert_ledger_closes();
    good.stop_well();
    // A wrong password or key is a fault that somebody has to put right: told with the way out, and nothing is lost.
    for (name, shared_key, password, expected) in
        [("user", "sekret", "no", "username/password mismatch"), ("key", "other", "pw", "shared_key mismatch")]
    {
        let mut wrong = relay(&dir.path().join(name), front, &servers, &secured(shared_key, password));
        let mut client = Client::tcp(front);
        client.send(&message("t", event_time(1_700_000_000, 0), map(&[("seq", 1.into())]), None));
        wrong.wait_for("the fault", |node| node.log().contains(expected));
        assert!(wrong.log().contains("paused until somebody puts this right"), "{}", wrong.log());
        assert!(!wrong.log().contains("sekret"), "{}", wrong.log());
        wrong.kill();
    }
    // And the same from the command line.
    fs::write(dir.path().join("shared"), "sekret\n").expect("writable");
    fs::write(dir.path().join("password"), "pw\n").expect("writable");
    let to = format!("tls://127.0.0.1:{behind}");
    let flags = [
        "send",
        "--to",
        &to,
        "--ca",
        &ca,
        "--cert",
        &client_cert,
        "--cert-key",
        &client_key,
        "--shared-key-file",
        "shared",
        "--user",
        "alice",
        "--password-file",
        "password",
        "--server-name",
        "localhost",
        "--connections",
        "2",
    ];
    let sent = run(dir.path(), &flags, &numbers(1_000));
    assert!(sent.status.success(), "{}", told(&sent));
    receiver.wait_for("the records", |_| line_count(&out) >= 3_000);
    receiver.stop_well();
}

#[test]
fn what_came_as_messagepack_goes_out_as_the_same_bytes_and_is_not_encoded_again() {
    let dir = folder();
    let front = free_port();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let servers = format!("[\"tcp://{}\"]", listener.local_addr().expect("an address"));
    let mut relay = relay(&dir.path().join("relay"), front, &servers, "");
    // Each value is written as no encoder would write it: wide heads where narrow ones do, a float of 32 bits, an ext in
    // its long form. Whoever decodes and encodes gives other bytes.
    let fields = [
        &b"\xa1n\xd3\0\0\0\0\0\0\0\x05"[..],
        b"\xa4list\xdd\0\0\0\x02\xdb\0\0\0\x01x\xcf\0\0\0\0\0\0\0\x07",
        b"\xa3map\xdf\0\0\0\x01\xd9\x01k\xca\x3f\x80\0\0",
        b"\xa4text\xa5plain",
        b"\xa3ext\xc9\0\0\0\x01\x2a\xff",
        b"\xa3bin\xc6\0\0\0\x02\x00\xff",
        b"\xa4true\xc3",
    ];
    let record = [&b"\xdf\0\0\0\x07"[..], &fields.concat()].concat();
    let mut client = Client::tcp(front);
    client.send(&[b"\x94\xa1t\xd7\0\x65\x53\xf1\0\0\0\0\x05", &record[..], b"\x81\xa5chunk\xa1c"].concat());
    client.expect_ack("c");
    let (mut peer, _) = listener.accept().expect("the relay connects");
    peer.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let frame = rmpv::decode::read_value(&mut peer).expect("a frame in time");
    let chunk = frame[2].as_map().and_then(|options| options.iter().find(|(key, _)| key.as_str() == Some("chunk")));
    let chunk = chunk.and_then(|(_, id)| id.as_str()).expect("a chunk id");
    peer.write_all(&ack_of(chunk)).expect("written");
    let entries = frame[1].as_slice().expect("entries as binary");
    let kept = fields.concat();
    let at = entries.windows(kept.len()).position(|part| part == kept).unwrap_or_else(|| panic!("{entries:02x?}"));
    assert_eq!(entries[..at], *b"\x92\xd7\0\x65\x53\xf1\0\0\0\0\x05\x87", "the time and the head of the map are ours");
    assert_eq!(entries.len(), at + kept.len());
    relay.wait_for("the ack to count", |node| node.delivered("up") == 1);
    relay.stop_well();
    assert_eq!(peer.read(&mut [0]).expect("the relay closes"), 0);
}
