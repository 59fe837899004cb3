//! What connections cost that do nothing: resident memory and CPU of a crowd that is connected and silent, and memory of
//! twenty thousand that came and went.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::harness::forward::{Client, map, message, option};
use crate::harness::{Node, folder, free_port, node, required, skip};

/// Resident KiB of the node (VmRSS).
fn resident(node: &Node) -> i64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux gives VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of kB")
}

fn descriptors(node: &Node) -> usize {
    fs::read_dir(format!("/proc/{}/fd", node.pid())).expect("it runs").count()
}

fn good(client: &mut Client) {
    client.send(&message("t", 1_700_000_000.into(), map(&[("a", 1.into())]), Some(option("good", &[]))));
    client.expect_ack("good");
}

fn start(dir: &std::path::Path, port: u16, limits: &str) -> Node {
    let mut body = String::new();
    let _ = write!(
        body,
        "[inputs.apps]\ntype = \"forward\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\n{limits}\n\
         [sinks.out]\ntype = \"file\"\npath = {:?}\n",
        dir.join("out.ndjson")
    );
    node(dir, &body).start()
}

/// Clock ticks of CPU that the node has used.
fn ticks(node: &Node) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", node.pid())).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

/// Clock ticks, hundredths of a second, that a node may use within [`QUIET`] for all that it does without being asked: it
/// looks at folders, files and health once a second or so. A crowd that cost something would cost it for each.
const TICKS_MAX: u64 = 25;
/// How long it is watched doing nothing.
const QUIET: Duration = Duration::from_secs(5);

/// The CPU that a silent crowd takes.
fn assert_no_cpu(node: &Node, what: &str) {
    let before = ticks(node);
    std::thread::sleep(QUIET);
    let used = ticks(node) - before;
    let _ = writeln!(std::io::stderr(), "cpu: {what}: {used} ticks in {QUIET:?}");
    assert!(used <= TICKS_MAX, "{what}: {used} ticks of CPU in {QUIET:?}");
}

/// Bytes of resident memory that each of `count` connections takes while it is silent, and when it is again after a frame,
/// beside as many others that have spoken already. What the process has once for all is there by then: arenas of the
/// allocator, buffers of the disk log, room for as many conversations as a crowd has at a time.
fn idle(count: usize) -> (i64, i64) {
    let dir = folder();
    let port = free_port();
    let limits = format!("connections_max = {0}\npeer_connections_max = {0}", 2 * count + 10);
    let mut node = start(dir.path(), port, &limits);
    let mut others: Vec<Client> = (0..count).map(|_| Client::tcp(port)).collect();
    others.iter_mut().for_each(good);
    std::thread::sleep(SILENT);
    let before = resident(&node);
    let mut crowd: Vec<Client> = (0..count).map(|_| Client::tcp(port)).collect();
    node.wait_for("the crowd to be in", |node| node.metric("longshore_input_open", &[]) >= 2 * count as u64);
    let silent = (resident(&node) - before) * 1024 / count as i64;
    assert_no_cpu(&node, "a silent crowd");
    crowd.iter_mut().for_each(good);
    std::thread::sleep(SILENT);
    assert_no_cpu(&node, "a crowd that has spoken");
    let used = (resident(&node) - before) * 1024 / count as i64;
    let _ = writeln!(
        std::io::stderr(),
        "memory: {count} idle connections more: {silent} bytes each, {used} bytes each once all have sent a frame"
    );
    others.iter_mut().for_each(good);
    node.stop_well();
    (silent, used)
}

/// What a conversation takes goes after a tenth of a second without one.
const SILENT: Duration = Duration::from_secs(1);
/// Bytes that an idle connection may take of five thousand before its first frame. Some 830 are asked for: 256 each for the
/// runtime's task and for its handle of the socket, the rest is ours.
const IDLE_MAX: i64 = 1024;
/// After its first frame, where what a conversation had left holes in the allocator's pages: 930 to 1,140 were seen.
const USED_MAX: i64 = 1280;
/// The same of a thousand, by whom what everything else in the process takes or gives back meanwhile is divided.
const IDLE_MAX_OF_FEW: i64 = 1280;
const USED_MAX_OF_FEW: i64 = 2560;

/// Whether this process may have so many sockets, and the node too.
fn has_room_for(sockets: u64) -> bool {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = sockets + 1_000;
    current.is_none_or(|current| current >= wanted)
        || setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).is_ok()
}

#[test]
fn a_thousand_idle_connections_take_little_memory_each() {
    let (silent, used) = idle(1_000);
    assert!(silent < IDLE_MAX_OF_FEW, "{silent} bytes each");
    assert!(used < USED_MAX_OF_FEW, "{used} bytes each after a frame");
}

#[test]
fn ten_thousand_idle_connections_take_little_memory_each() {
    if !has_room_for(10_000) {
        return skip("the system's limit of open files has no room for ten thousand sockets (ulimit -n)");
    }
    let (silent, used) = idle(5_000);
    assert!(silent < IDLE_MAX, "{silent} bytes each");
    assert!(used < USED_MAX, "{used} bytes each after a frame");
}

#[test]
fn twenty_thousand_connects_and_closes_leave_neither_descriptors_nor_memory() {
    let dir = folder();
    let port = free_port();
    let mut node = start(dir.path(), port, "");
    let round = |times: usize| {
        for at in 0..times {
            let mut client = Client::tcp(port);
            match at % 4 {
                // A probe, a stump, a frame without an ack, a frame with one.
                0 => (),
                1 => client.send(b"\x93\xa1t"),
                2 => client.send(b"\x93\xa1t\x01\x80"),
                _ => good(&mut client),
            }
        }
    };
    round(2_000);
    node.wait_for("the first ones to be gone", |node| node.metric("longshore_input_open", &[]) == 0);
    let (memory, open) = (resident(&node), descriptors(&node));
    // The campaign asks for a million.
    let asked = std::env::var("LONGSHORE_CONNECTS").ok().and_then(|count| count.parse().ok());
    round(asked.unwrap_or(if required() { 18_000 } else { 6_000 }));
    node.wait_for("all to be gone", |node| node.metric("longshore_input_open", &[]) == 0);
    node.wait_for("the descriptors", |node| descriptors(node) <= open + 2);
    let grown = resident(&node) - memory;
    let _ = writeln!(std::io::stderr(), "memory: {grown} KiB more after the churn than before");
    assert!(grown < 4 << 10, "{grown} KiB");
    node.stop_well();
}
