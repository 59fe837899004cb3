//! Limits of the forward port over real sockets: connections in all and of a peer, descriptors, acks that nobody reads,
//! sinks that take nothing for a while, peers that vanish. The node lives on and a good client is served.
//!
//! | Case of the protocol's attacks and edge cases | Test |
//! |---|---|
//! | all containers back at once while nothing is accepted | `a_whole_backlog_of_connections_waits_until_it_is_accepted` |
//! | connection flood from one peer | `connections_of_one_peer_above_its_limit_are_closed_and_others_served` |
//! | descriptors used up | `used_up_descriptors_cost_no_spin_and_no_connection_that_waits` |
//! | the same, while sinks have to connect | `a_crowd_leaves_descriptors_for_sinks_that_have_to_connect` |
//! | client never reads its acks | `a_client_that_never_reads_its_acks_is_closed_and_blocks_nobody` |
//! | sink down, queues full: reads stop, sockets stay, nothing lost | `when_the_sink_is_back_what_was_held_back_goes_on_over_the_same_sockets` |
//! | reset with a pending ack | `a_reset_with_a_pending_ack_is_no_trouble` |
//! | connect and close without a byte, thousands of times | `thousands_of_connects_without_a_byte_leave_no_line_and_no_descriptor` |

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::forward_input::config;
use crate::harness::forward::{Client, entries, map, message, option, packed};
use crate::harness::http::{Answer, Server};
use crate::harness::{Node, PATIENCE, folder, free_port, node, required, run_command, skip};

fn one(chunk: &str) -> Vec<u8> {
    message("t", 1_700_000_000.into(), map(&[("a", 1.into())]), Some(option(chunk, &[])))
}

fn good(client: &mut Client) {
    client.send(&one("good"));
    client.expect_ack("good");
}

fn descriptors(node: &Node) -> usize {
    fs::read_dir(format!("/proc/{}/fd", node.pid())).expect("it runs").count()
}

/// Clock ticks of CPU that the node has used.
fn ticks(node: &Node) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", node.pid())).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

/// An HTTP sink that answers 503 until it is told that it is well.
fn ailing() -> (Server, Arc<AtomicBool>) {
    let well = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&well);
    (Server::start(move |_, _| Answer::status(if seen.load(Relaxed) { 200 } else { 503 })), well)
}

fn to_http(port: u16, server: &Server) -> String {
    format!(
        "[inputs.apps]\ntype = \"forward\"\nack = \"delivered\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\n\
         [sinks.out]\ntype = \"http\"\nurl = \"{}\"\nbatch = {{ size = \"1MiB\", wait = \"100ms\" }}\n",
        server.url()
    )
}

#[test]
fn connections_of_one_peer_above_its_limit_are_closed_and_others_served() {
    let dir = folder();
    let port = free_port();
    let body = config(dir.path(), port).replace("type = \"forward\"", "type = \"forward\"\npeer_connections_max = 3");
    let mut node = node(dir.path(), &body).start();
    let mut few: Vec<Client> = (0..3).map(|_| Client::tcp(port)).collect();
    few.iter_mut().for_each(good);
    for _ in 0..5 {
        assert!(Client::tcp(port).expect_close().is_empty());
    }
    let refused = [("kind", "connection_refused")];
    node.wait_for("the count", |node| node.metric("longshore_input_oddities_total", &refused) == 5);
    assert!(node.log().contains("peer_connections_max"), "{}", node.log());
    // A Unix socket is another peer, and a place that is free again is given again.
    good(&mut Client::unix(&dir.path().join("f.sock")));
    few.pop();
    node.wait_for("a free place", |_| {
        let mut client = Client::tcp(port);
        client.try_send(&one("again")).is_ok() && client.try_ack("again")
    });
    few.iter_mut().for_each(good);
    node.stop_well();
}

#[test]
fn used_up_descriptors_cost_no_spin_and_no_connection_that_waits() {
    let dir = folder();
    let port = free_port();
    let limited = ["sh", "-c", "ulimit -n 80 && exec \"$@\"", "sh"];
    let mut node = node(dir.path(), &config(dir.path(), port)).under(&limited).start();
    let mut first = Client::tcp(port);
    good(&mut first);
    let crowd: Vec<TcpStream> =
        (0..120).map(|_| TcpStream::connect(("127.0.0.1", port)).expect("the backlog takes it")).collect();
    node.wait_for("the line about it", |node| node.log().contains("refused: "));
    let before = ticks(&node);
    std::thread::sleep(Duration::from_secs(2));
    let used = ticks(&node) - before;
    assert!(used < 50, "{used} ticks of CPU in two seconds of waiting");
    good(&mut first);
    // Whoever comes when there are descriptors again is served.
    drop(crowd);
    node.wait_for("free descriptors", |node| node.metric("longshore_input_open", &[]) <= 2);
    let mut later = Client::tcp(port);
    later.send(&one("late"));
    later.expect_ack("late");
    node.stop_well();
}

#[test]
fn a_crowd_leaves_descriptors_for_sinks_that_have_to_connect() {
    let dir = folder();
    let (port, http, forward) = (free_port(), free_port(), free_port());
    let body = format!(
        "[inputs.apps]\ntype = \"forward\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\n\
         [sinks.web]\ntype = \"http\"\nurl = \"http://127.0.0.1:{http}/ingest\"\nbatch = {{ wait = \"20ms\" }}\n\
         [sinks.up]\ntype = \"forward\"\nservers = \"tcp://127.0.0.1:{forward}\"\nbatch = {{ wait = \"20ms\" }}\n"
    );
    let limited = ["sh", "-c", "ulimit -n 300 && exec \"$@\"", "sh"];
    let mut node = node(dir.path(), &body).under(&limited).start();
    let mut first = Client::tcp(port);
    good(&mut first);
    let crowd: Vec<TcpStream> =
        (0..400).map(|_| TcpStream::connect(("127.0.0.1", port)).expect("the backlog takes it")).collect();
    node.wait_for("the line about it", |node| {
        let log = node.log();
        log.contains("(`connections_max`)") || log.contains("can not accept")
    });
    // Now there is somebody to connect to.
    let server = Server::start_at(http, |_, _| Answer::status(200));
    let behind = dir.path().join("behind");
    fs::create_dir(&behind).expect("made");
    let mut receiver = crate::harness::node(&behind, &config(&behind, forward)).start();
    good(&mut first);
    node.wait_for("both sinks to connect", |node| node.delivered("web") >= 2 && node.delivered("up") >= 2);
    assert_eq!(server.accepted().len(), 2);
    drop(crowd);
    node.stop_well();
    receiver.stop_well();
}

#[test]
fn a_client_that_never_reads_its_acks_is_closed_and_blocks_nobody() {
    let dir = folder();
    let port = free_port();
    let mut node = node(dir.path(), &config(dir.path(), port)).start();
    let mut deaf = Client::tcp(port);
    let frame = one(&"c".repeat(10_000)).repeat(10);
    let writing = std::thread::spawn(move || {
        // Many times what the socket's buffers hold of acks.
        let closed = (0..2_000).any(|_| deaf.try_send(&frame).is_err());
        (deaf, closed)
    });
    let mut other = Client::tcp(port);
    good(&mut other);
    node.wait_for("the end of the deaf one", |node| node.log().contains("does not read its acks"));
    let (_deaf, closed) = writing.join().expect("a client does not panic");
    assert!(closed);
    good(&mut other);
    node.stop_well();
}

#[test]
fn when_the_sink_is_back_what_was_held_back_goes_on_over_the_same_sockets() {
    const FRAMES: usize = 25;
    let dir = folder();
    let port = free_port();
    let (server, well) = ailing();
    let socket = dir.path().join("f.sock");
    let more = format!("127.0.0.1:{port}\", \"unix://{}\"", socket.display());
    let body = to_http(port, &server).replace(&format!("127.0.0.1:{port}\""), &more);
    let mut node = node(dir.path(), &body).with_node("memory = \"16MiB\"").start();
    let entry = entries(&[(1_700_000_000.into(), map(&[("a", "x".repeat(1_000).into())]))]);
    let frame = packed("t", &entry.repeat(500), Some(option("c", &[])));
    // Over Unix sockets, whose buffers are small: what is written there was read, but for some hundred KiB.
    let written = Arc::new(AtomicUsize::new(0));
    let senders: Vec<_> = [Client::tcp(port), Client::tcp(port), Client::unix(&socket), Client::unix(&socket)]
        .into_iter()
        .map(|mut client| {
            let (frame, written) = (frame.clone(), Arc::clone(&written));
            client.set_patience(3 * PATIENCE);
            std::thread::spawn(move || {
                for _ in 0..FRAMES {
                    client.send(&frame);
                    written.fetch_add(usize::from(matches!(client, Client::Unix(_))), Relaxed);
                }
                (0..FRAMES).for_each(|_| client.expect_ack("c"));
            })
        })
        .collect();
    node.wait_for("the sink to be tried", |_| !server.requests().is_empty());
    let (mut last, mut since) = (0, Instant::now());
    node.wait_for("the writes to block", |_| {
        let now = written.load(Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_secs(3)
    });
    let sent = last * frame.len();
    assert!(sent < 18 << 20, "{sent} bytes were read beside a budget of 16 MiB that is full");
    assert!(last < 2 * FRAMES, "else this shows nothing");
    assert_eq!(node.delivered("out"), 0);
    assert!(senders.iter().all(|sender| !sender.is_finished()), "nobody was sent away");
    well.store(true, Relaxed);
    senders.into_iter().for_each(|sender| sender.join().expect("each ack over the socket that sent the frame"));
    assert_eq!(server.accepted().len(), 4 * FRAMES * 500);
    node.stop_well();
}

#[test]
fn a_reset_with_a_pending_ack_is_no_trouble() {
    let dir = folder();
    let port = free_port();
    let (server, well) = ailing();
    let mut node = node(dir.path(), &to_http(port, &server)).start();
    for _ in 0..50 {
        let mut client = Client::tcp(port);
        client.send(&one("gone"));
        if let Client::Tcp(socket) = &client {
            socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO)).expect("a TCP socket");
        }
    }
    node.wait_for("the sink to be tried", |_| !server.requests().is_empty());
    let before = ticks(&node);
    std::thread::sleep(Duration::from_secs(2));
    assert!(ticks(&node) - before < 50, "a connection that is gone takes no CPU");
    well.store(true, Relaxed);
    good(&mut Client::tcp(port));
    node.wait_for("the connections to be gone", |node| node.metric("longshore_input_open", &[]) <= 1);
    node.stop_well();
}

#[test]
fn thousands_of_connects_without_a_byte_leave_no_line_and_no_descriptor() {
    let dir = folder();
    let port = free_port();
    let mut node = node(dir.path(), &config(dir.path(), port)).start();
    good(&mut Client::tcp(port));
    let (lines, before) = (node.log().lines().count(), descriptors(&node));
    let rounds = if required() { 20_000 } else { 10_000 };
    for _ in 0..rounds {
        drop(TcpStream::connect(("127.0.0.1", port)).expect("it listens"));
    }
    good(&mut Client::tcp(port));
    node.wait_for("the descriptors", |node| descriptors(node) <= before + 2);
    assert!(node.log().lines().count() <= lines + 1, "a probe is no news:\n{}", node.log());
    node.stop_well();
}

/// Connections that wait to be accepted on a port, as the kernel says (`rx_queue` of a listening socket).
fn queued(port: u16) -> u64 {
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux");
    let local = format!("0100007F:{port:04X}");
    let row = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = row.into_iter().find(|row| row.get(1) == Some(&local.as_str()) && row.get(3) == Some(&"0A"));
    let (_, waiting) = row.as_ref().expect("it listens")[4].split_once(':').expect("two queues");
    u64::from_str_radix(waiting, 16).expect("hexadecimal")
}

#[test]
fn a_whole_backlog_of_connections_waits_until_it_is_accepted() {
    let dir = folder();
    let port = free_port();
    let limits = "type = \"forward\"\nconnections_max = 6000\npeer_connections_max = 6000";
    let body = config(dir.path(), port).replace("type = \"forward\"", limits);
    let mut node = node(dir.path(), &body).start();
    good(&mut Client::tcp(port));
    let allowed = fs::read_to_string("/proc/sys/net/core/somaxconn").expect("Linux");
    let allowed: usize = allowed.trim().parse().expect("a number");
    let backlog = 4096.min(allowed);
    let room = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    // With few descriptors for the test itself a part of it is asked for.
    let count = backlog.min((room as usize).saturating_sub(500) / 2);
    assert!(count >= 250, "too few descriptors for this test: {room}");
    node.signal(Signal::STOP);
    node.wait_for("each of its threads to stop", |node| {
        let tasks = fs::read_dir(format!("/proc/{}/task", node.pid())).expect("it is there").flatten();
        let state = |task: fs::DirEntry| fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        tasks.map(state).all(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T")))
    });
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let crowd: Vec<TcpStream> = (0..count)
        // One that finds the queue full is tried again by the kernel after a second, and in the end times out.
        .map(|_| TcpStream::connect_timeout(&address, Duration::from_secs(20)).expect("the backlog takes it"))
        .collect();
    let waiting = queued(port);
    node.signal(Signal::CONT);
    assert_eq!(waiting, count as u64, "all of them at once");
    let mut crowd: Vec<Client> = crowd
        .into_iter()
        .map(|stream| {
            stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
            Client::Tcp(stream)
        })
        .collect();
    crowd.iter_mut().for_each(|client| client.send(&one("back")));
    crowd.iter_mut().for_each(|client| client.expect_ack("back"));
    node.stop_well();
}

#[test]
fn a_backlog_that_the_system_cuts_is_said_at_the_start() {
    let dir = folder();
    // The limit belongs to the network namespace, so one of its own does not touch this machine's.
    let cut = "echo 128 >/proc/sys/net/core/somaxconn && exec \"$@\"";
    let words = ["unshare", "--net", "sh", "-c", cut, "sh"];
    let tried = run_command(Command::new(words[0]).args(&words[1..]).arg("true"), b"");
    if !tried.status.success() {
        return skip("no network namespace with a limit of its own: needs root and a writable /proc/sys");
    }
    let socket = dir.path().join("f.sock");
    let body = format!(
        "[inputs.apps]\ntype = \"forward\"\nlisten = [\"unix://{}\"]\n[sinks.out]\ntype = \"file\"\npath = \"/dev/null\"\n",
        socket.display()
    );
    let mut node = node(dir.path(), &body).under(&words).without_waiting().start();
    node.wait_for("the warning", |node| {
        let log = node.log();
        log.contains("raise net.core.somaxconn") && log.contains("most=128") && log.contains("wanted=4096")
    });
    good(&mut Client::unix(&socket));
    node.stop_well();
}
