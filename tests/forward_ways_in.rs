//! Who is in stays in: certificates of clients that are trusted from now on or no more, and the time of a handshake that does
//! not run on.

use std::fs;
use std::io::{Read as _, Write as _};
use std::time::Duration;

use crate::forward_security::{KEY, config, connect, deliver, log_in};
use crate::harness::certificates::{Authority, Secure, client_config, secure, secure_as};
use crate::harness::forward::{ack_of, map, message, option};
use crate::harness::records::records;
use crate::harness::{PATIENCE, folder, free_port, node, wait_for};

/// Whether a record is taken and acknowledged.
fn gets_in(mut stream: Secure, seq: u64) -> bool {
    let expected = ack_of("in");
    let mut got = vec![0; expected.len()];
    let frame = message("t", 1.into(), map(&[("seq", seq.into())]), Some(option("in", &[])));
    stream.write_all(&frame).is_ok() && stream.read_exact(&mut got).is_ok() && got == expected
}

#[test]
fn another_client_ca_lets_in_its_clients_and_no_more_those_of_the_one_before() {
    let dir = folder();
    let port = free_port();
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    ours.write_server(dir.path(), "server", 3_650);
    let (cert, key, ca) = (dir.path().join("server.pem"), dir.path().join("server.key"), dir.path().join("ca.pem"));
    fs::write(&ca, ours.pem()).expect("written");
    let listen =
        format!("[{{ address = \"tls://127.0.0.1:{port}\", cert = {cert:?}, key = {key:?}, client_ca = {ca:?} }}]");
    let mut node = node(dir.path(), &config(dir.path(), &listen, "")).start();
    let mut kept = secure_as(connect(port), &ours, &ours);
    deliver(&mut kept, 1);
    assert!(!gets_in(secure_as(connect(port), &ours, &others), 666));
    fs::write(dir.path().join("new.pem"), others.pem()).expect("written");
    fs::rename(dir.path().join("new.pem"), &ca).expect("moved");
    wait_for("the clients of the new one", PATIENCE, || gets_in(secure_as(connect(port), &ours, &others), 2));
    assert!(!gets_in(secure_as(connect(port), &ours, &ours), 666), "the old one is trusted no more");
    deliver(&mut kept, 3);
    node.stop_well();
    let mut seqs: Vec<u64> =
        records(&dir.path().join("out.ndjson")).iter().filter_map(|record| record["seq"].as_u64()).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, [1, 2, 3]);
}

#[test]
fn the_time_for_a_handshake_ends_nobody_who_is_in() {
    let dir = folder();
    let (keyed, tls, plain) = (free_port(), free_port(), free_port());
    let authority = Authority::new("ours");
    authority.write_server(dir.path(), "server", 3_650);
    let (cert, key) = (dir.path().join("server.pem"), dir.path().join("server.key"));
    let listen = format!(
        "[{{ address = \"tcp://127.0.0.1:{keyed}\", shared_key = \"{KEY}\" }}, \
         {{ address = \"tls://127.0.0.1:{tls}\", cert = {cert:?}, key = {key:?} }}, \"tcp://127.0.0.1:{plain}\"]"
    );
    // Long enough for a handshake on a busy machine.
    let mut node = node(dir.path(), &config(dir.path(), &listen, "handshake = \"2s\"")).start();
    let mut keyed = connect(keyed);
    log_in(&mut keyed, KEY, "", "").expect("the key is right");
    let mut tls = secure(connect(tls), &client_config(&authority));
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock).expect("a handshake");
    }
    let mut plain = connect(plain);
    std::thread::sleep(Duration::from_secs(4));
    deliver(&mut keyed, 1);
    deliver(&mut tls, 2);
    deliver(&mut plain, 3);
    assert_eq!(node.metric("longshore_input_oddities_total", &[("kind", "handshake_failed")]), 0);
    node.stop_well();
}
