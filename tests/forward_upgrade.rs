//! Listening sockets that outlive a process: socket activation, and a hand-over to the next longshore.

use std::fs;
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::harness::forward::{Client, map, message, option};
use crate::harness::records::{line_count, records};
use crate::harness::{folder, free_port, node, wait_for};

fn config(dir: &Path, port: u16) -> String {
    let (out, socket) = (dir.join("out.ndjson"), format!("unix://{}", dir.join("f.sock").display()));
    format!(
        "[inputs.apps]\ntype = \"forward\"\nlisten = [\"tcp://127.0.0.1:{port}\", {socket:?}]\n\
         [sinks.out]\ntype = \"file\"\npath = {out:?}\n"
    )
}

fn deliver(client: &mut Client, seq: u64) {
    let chunk = seq.to_string();
    client.send(&message("t", 1.into(), map(&[("seq", seq.into())]), Some(option(&chunk, &[]))));
    client.expect_ack(&chunk);
}

/// Opens sockets and starts the program with them, as systemd does.
const ACTIVATOR: &str = r#"
import os, socket, sys
tcp = socket.socket()
tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
tcp.bind(("127.0.0.1", int(sys.argv[1])))
tcp.listen(16)
unix = socket.socket(socket.AF_UNIX)
unix.bind(sys.argv[2])
unix.listen(16)
rest = socket.socket()
rest.bind(("127.0.0.1", 0))
rest.listen(1)
high = [os.dup2(s.fileno(), 60 + i) for i, s in enumerate([tcp, unix, rest])]
for number, fd in enumerate(high):
    os.dup2(fd, 3 + number)
    os.close(fd)
os.environ.update(LISTEN_FDS="3", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[3], sys.argv[3:])
"#;

#[test]
fn sockets_of_systemd_are_used_and_left_in_their_place() {
    let dir = folder();
    let (port, socket) = (free_port(), dir.path().join("f.sock"));
    let (port_text, socket_text) = (port.to_string(), socket.display().to_string());
    let words = ["python3", "-c", ACTIVATOR, &port_text, &socket_text];
    let mut node = node(dir.path(), &config(dir.path(), port)).under(&words).start();
    deliver(&mut Client::tcp(port), 1);
    deliver(&mut Client::unix(&socket), 2);
    assert!(node.log().contains("a listening socket that was given to us is in no `listen`"), "{}", node.log());
    node.stop_well();
    assert!(socket.exists(), "it is systemd's to remove");
    assert_eq!(records(&dir.path().join("out.ndjson")).len(), 2);
}

#[test]
fn a_second_longshore_takes_over_and_no_connection_is_refused_in_between() {
    let dir = folder();
    let port = free_port();
    let socket = dir.path().join("f.sock");
    let mut before = node(dir.path(), &config(dir.path(), port)).start();
    // Connections that come and go all the time; one that stays.
    let (over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let sender = {
        let (over, sent, socket) = (Arc::clone(&over), Arc::clone(&sent), socket.clone());
        std::thread::spawn(move || {
            while !over.load(Relaxed) {
                drop(TcpStream::connect(("127.0.0.1", port)).expect("never refused"));
                drop(std::os::unix::net::UnixStream::connect(&socket).expect("never refused"));
                // A receiver that stops acknowledges what it read or closes without an ack; then it is sent again.
                let frame = message("t", 1.into(), map(&[("seq", sent.load(Relaxed).into())]), Some(option("c", &[])));
                loop {
                    let mut client = Client::tcp(port);
                    client.send(&frame);
                    client.finish();
                    if client.expect_close() == crate::harness::forward::ack_of("c") {
                        break;
                    }
                }
                sent.fetch_add(1, Relaxed);
            }
        })
    };
    let mut stays = Client::tcp(port);
    deliver(&mut stays, 1_000_000);
    wait_for("some records", Duration::from_secs(60), || sent.load(Relaxed) > 20);
    let mut after = node(dir.path(), &config(dir.path(), port)).with_flag("--take-over").start();
    assert_eq!(before.wait_exit(Duration::from_secs(40)), 0, "{}", before.log());
    assert!(before.log().contains("another longshore took our listening sockets"), "{}", before.log());
    assert!(after.log().contains("took over listening sockets"), "{}", after.log());
    stays.expect_close();
    let so_far = sent.load(Relaxed);
    wait_for("records at the next one", Duration::from_secs(60), || sent.load(Relaxed) > so_far + 20);
    over.store(true, Relaxed);
    sender.join().expect("no connection was refused");
    deliver(&mut Client::unix(&socket), 1_000_001);
    // And once more: what was taken over can be taken over.
    let mut last = node(dir.path(), &config(dir.path(), port)).with_flag("--take-over").start();
    assert_eq!(after.wait_exit(Duration::from_secs(40)), 0, "{}", after.log());
    deliver(&mut Client::tcp(port), 1_000_002);
    // The UDP socket is none of those that are handed over: it is opened anew.
    let heartbeat = UdpSocket::bind("127.0.0.1:0").expect("a port");
    heartbeat.set_read_timeout(Some(Duration::from_secs(1))).expect("a socket");
    wait_for("an answer to a heartbeat", Duration::from_secs(60), || {
        let _ = heartbeat.send_to(b"\0", ("127.0.0.1", port));
        heartbeat.recv(&mut [0; 4]).is_ok_and(|len| len == 1)
    });
    assert!(!last.log().contains("UDP heartbeats are not answered"), "{}", last.log());
    last.stop_well();
    assert!(!socket.exists());
    let out = dir.path().join("out.ndjson");
    let mut seqs: Vec<u64> = records(&out).iter().filter_map(|record| record["seq"].as_u64()).collect();
    assert_eq!(line_count(&out), seqs.len());
    seqs.sort_unstable();
    seqs.dedup();
    let expected: Vec<u64> = (0..sent.load(Relaxed)).chain(1_000_000..1_000_003).collect();
    assert_eq!(seqs, expected, "every acknowledged record is there");
}

#[test]
fn without_a_longshore_to_take_over_from_it_just_starts() {
    let dir = folder();
    let port = free_port();
    let mut node = node(dir.path(), &config(dir.path(), port)).with_flag("--take-over").start();
    assert!(node.log().contains("nothing to take"), "{}", node.log());
    deliver(&mut Client::tcp(port), 1);
    // Somebody who asks and does not say that he took them changes nothing.
    drop(std::os::unix::net::UnixStream::connect(dir.path().join("data/handover.sock")).expect("it offers"));
    node.wait_for("the line", |node| node.log().contains("this longshore goes on"));
    deliver(&mut Client::tcp(port), 2);
    let mode = fs::metadata(dir.path().join("data/handover.sock")).expect("the socket").permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
    node.stop_well();
}
