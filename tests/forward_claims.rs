//! Heads that claim more than there is: for a text, blob, array, map or ext of which only the head comes, nothing is
//! allocated. Claims above `frame_max` are closed at their head (`tests/forward_cases.rs`); these are below it.

use std::fs;
use std::time::Duration;

use crate::forward_input::config;
use crate::harness::forward::{Client, gzip, map, message, option, packed};
use crate::harness::{Node, folder, free_port, node};

/// Writable private memory of the node in bytes, touched or not (VmData).
fn writable(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmData:")).expect("Linux gives VmData");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number of kB");
    kib << 10
}

fn good(client: &mut Client) {
    client.send(&message("t", 1_700_000_000.into(), map(&[("a", 1.into())]), Some(option("good", &[]))));
    client.expect_ack("good");
}

/// Frames of which a head is the last that comes. It claims 60 MB, or as many values as take 60 MB at least, or as much as
/// an entry may have.
fn claims() -> Vec<Vec<u8>> {
    let (bytes, pairs, entry) = (60_000_000u32.to_be_bytes(), 30_000_000u32.to_be_bytes(), 4_000_000u32.to_be_bytes());
    let head = |start: &[u8], claim: &[u8]| [start, claim].concat();
    vec![
        head(b"\x93\xa1t\xc6", &bytes),
        head(b"\x93\xa1t\xdb", &bytes),
        head(b"\x93\xa1t\xdd", &bytes),
        // In an entry of an array, and in a message.
        [b"\x93\xa1t\xdd", &bytes[..], b"\x92\x01\x81\xa1a\xdb", &entry].concat(),
        [b"\x93\xa1t\xdd", &bytes[..], b"\x92\x01\x81\xa1a\xdd", &entry].concat(),
        head(b"\x93\xa1t\x01\x81\xa1a\xc6", &entry),
        head(b"\x93\xa1t\x01\x81\xa1a\xc9", &entry),
        head(b"\x93\xa1t\x01\x81\xdb", &entry),
        head(b"\x93\xa1t\x01\xdf", &2_000_000u32.to_be_bytes()),
        // Refused and passed over, in one of them with a claim inside.
        head(b"\x94\xc0\xdd", &bytes),
        [b"\x94\xc0\xdf", &pairs[..], b"\xa1a\xc6\x00\x10\x00\x00"].concat(),
        // In what a blob decodes to.
        packed("t", &gzip(&head(b"\x92\x01\x81\xa1a\xdb", &entry)), Some(option("c", &[]))),
    ]
}

#[test]
fn claimed_lengths_and_counts_allocate_nothing() {
    const EACH: usize = 12;
    let dir = folder();
    let port = free_port();
    let mut node = node(dir.path(), &config(dir.path(), port)).start();
    let claims = claims();
    let crowd = |bytes: &dyn Fn(usize) -> Vec<u8>| -> Vec<Client> {
        let mut clients: Vec<Client> = (0..EACH * claims.len()).map(|_| Client::tcp(port)).collect();
        for (at, client) in clients.iter_mut().enumerate() {
            client.send(&bytes(at));
        }
        clients
    };
    // As many connections that hold as little and claim no more: what they take is there already.
    let modest = crowd(&|_| b"\x93\xa1t\x01\x81\xa1a".to_vec());
    good(&mut Client::tcp(port));
    let open = modest.len() as u64;
    node.wait_for("them to be in", |node| node.metric("longshore_input_open", &[]) >= open);
    std::thread::sleep(Duration::from_millis(500));
    let before = writable(&node);
    drop(modest);
    node.wait_for("them to be gone", |node| node.metric("longshore_input_open", &[]) <= 1);
    let mut greedy = crowd(&|at| claims[at % claims.len()].clone());
    // Each is read once it is closed; until then some time, in which one of them would be enough to see.
    node.wait_for("them to be in", |node| node.metric("longshore_input_open", &[]) >= open);
    std::thread::sleep(Duration::from_millis(500));
    // Who came after them was answered, so they were read.
    good(&mut Client::tcp(port));
    let during = writable(&node);
    let claimed = 60_000_000 * EACH as u64;
    assert!(during < before + claimed / 16, "{} KiB before, {} KiB with claims", before >> 10, during >> 10);
    for client in &mut greedy {
        client.finish();
        client.expect_close();
    }
    let peak = node.peak_memory();
    assert!(peak < claimed / 4, "{} MiB at the peak", peak >> 20);
    good(&mut Client::tcp(port));
    node.stop_well();
}
