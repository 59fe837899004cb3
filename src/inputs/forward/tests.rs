use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::*;
use crate::batch::{Outcome, Shipment};
use crate::budget::Budget;
use crate::inputs::gate::Gate;
use crate::metrics::{Metrics, Oddity};
use crate::pipeline::Pipeline;
use crate::pipeline::route::{Port, Router};
use crate::record::TagGlob;
use crate::settings::Doc;
use crate::workers::Stop;

const FRAME: &[u8] = b"\x93\xa1t\x91\x92\x01\x81\xa1a\x01\x81\xa5chunk\xa1c";
const ACK: &[u8] = b"\x81\xa3ack\xa1c";

/// What makes the task of a connection panic, where only a test can send it.
const PANIC: &[u8] = b"\x93\xa6panic!";

pub(super) fn panic_if_asked(bytes: &[u8]) {
    assert!(!bytes.starts_with(PANIC), "a planted mistake");
}

fn read_config(text: &str) -> (Box<dyn Input>, Vec<String>) {
    let doc = Doc::new("c.toml", text, |_| None);
    let table = toml::de::DeTable::parse(text).expect("valid TOML");
    let section = Section::new(&doc, table.get_ref(), "inputs.f", table.span());
    let input = (KIND.read)(&section, "f");
    section.finish();
    (input, doc.findings().iter().map(|finding| doc.render(finding)).collect())
}

/// A running input on a Unix socket whose sink is the test.
struct Node {
    runtime: tokio::runtime::Runtime,
    workers: Arc<Workers>,
    stop: Stop,
    metrics: Arc<Metrics>,
    budget: Arc<Budget>,
    sink: mpsc::Receiver<Shipment>,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Node {
    fn start(more: &str) -> Node {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("f.sock");
        let (input, found) = read_config(&format!("listen = [\"unix://{}\"]\n{more}", path.display()));
        assert!(found.is_empty(), "{found:?}");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("one");
        let metrics = Arc::new(Metrics::new(&[("f", "forward")], &[("s", "stdout")]));
        let (queue, sink) = mpsc::channel(1);
        let port = Port { sink: 0, globs: vec![TagGlob::new("**")], queue };
        let (budget, stop, workers) = (Budget::new(32 << 20), Stop::default(), Arc::<Workers>::default());
        let outlet = Outlet {
            input: 0,
            metrics: Arc::clone(&metrics),
            budget: Arc::clone(&budget),
            gate: Gate::new(Pipeline::default(), Router::new(vec![port], Arc::clone(&metrics))),
            stop: stop.clone(),
            runtime: runtime.handle().clone(),
            checkpoints: None,
            once: false,
        };
        input.start(outlet, &workers).expect("a free path");
        Node { runtime, workers, stop, metrics, budget, sink, path, _folder: folder }
    }

    fn connect(&self) -> UnixStream {
        let socket = UnixStream::connect(&self.path).expect("it listens");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        socket
    }

    fn take(&mut self) -> Shipment {
        self.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(20), self.sink.recv()).await.expect("in time").expect("a batch")
        })
    }

    fn odd(&self, what: Oddity) -> u64 {
        self.metrics.inputs[0].oddities[what as usize].load(Relaxed)
    }

    fn ends(&self) -> bool {
        self.workers.join(Instant::now() + Duration::from_secs(20))
    }
}

fn read_exact(socket: &mut UnixStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    socket.read_exact(&mut bytes).expect("an answer");
    bytes
}

#[test]
fn after_a_silence_a_connection_goes_on_as_it_was() {
    let mut node = Node::start("");
    let json = br#"["t",1700000000,{"a":1},{"chunk":"c"}]"#;
    for (frame, ack) in [(FRAME, ACK), (json, br#"{"ack":"c"}"#)] {
        let mut socket = node.connect();
        for _ in 0..3 {
            // The first byte ends the silence; the rest comes later.
            socket.write_all(&frame[..1]).expect("written");
            std::thread::sleep(Duration::from_millis(20));
            socket.write_all(&frame[1..]).expect("written");
            let shipment = node.take();
            assert_eq!(shipment.batch.len(), 1);
            shipment.receipts.settle(Outcome::Delivered);
            assert_eq!(read_exact(&mut socket, ack.len()), ack);
            std::thread::sleep(2 * session::SILENCE);
        }
        assert_eq!(node.metrics.inputs[0].open.load(Relaxed), 1);
        // A connection that began as MessagePack can not go on as JSON, and the other way round.
        socket.write_all(if frame == FRAME { json } else { FRAME }).expect("written");
        assert_eq!(socket.read(&mut [0; 9]).expect("closed without an ack"), 0);
    }
    assert_eq!(node.odd(Oddity::FramingLost), 2);
    // A silent one holds up no end.
    let mut silent = node.connect();
    std::thread::sleep(2 * session::SILENCE);
    node.stop.set();
    assert!(node.ends());
    assert_eq!(silent.read(&mut [0; 9]).expect("closed"), 0);
}

#[test]
fn an_ack_comes_when_the_sink_has_taken_the_records_and_not_before() {
    let mut node = Node::start("");
    let mut socket = node.connect();
    socket.write_all(&FRAME[..5]).expect("written");
    std::thread::sleep(Duration::from_millis(30));
    socket.write_all(&FRAME[5..]).expect("written");
    let shipment = node.take();
    assert_eq!(shipment.batch.len(), 1);
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    assert!(socket.read(&mut [0; 9]).is_err(), "nothing yet");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    shipment.receipts.settle(Outcome::Delivered);
    drop(shipment.batch);
    assert_eq!(read_exact(&mut socket, ACK.len()), ACK);
    // An idle connection holds no memory.
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(10));
        if node.budget.used() == 0 {
            break;
        }
    }
    assert_eq!(node.budget.used(), 0);
    assert_eq!(node.metrics.inputs[0].open.load(Relaxed), 1);
}

#[test]
fn what_was_read_is_acknowledged_after_the_word_to_stop_and_then_the_connection_ends() {
    let mut node = Node::start("");
    let mut socket = node.connect();
    socket.write_all(FRAME).expect("written");
    let shipment = node.take();
    node.stop.set();
    // The queue ends although the ack is still due.
    assert!(node.runtime.block_on(node.sink.recv()).is_none());
    shipment.receipts.settle(Outcome::Delivered);
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).expect("a plain end");
    assert_eq!(answer, ACK);
    drop(socket);
    assert!(node.ends());
    assert!(!node.path.exists());
}

#[test]
fn what_nobody_took_closes_the_connection_without_an_ack() {
    let mut node = Node::start("");
    let mut socket = node.connect();
    socket.write_all(FRAME).expect("written");
    drop(node.take());
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    assert_eq!(answer, b"");
}

#[test]
fn accepted_acks_at_once_and_an_empty_frame_is_acked_too() {
    let node = Node::start("ack = \"accepted\"");
    let mut socket = node.connect();
    socket.write_all(FRAME).expect("written");
    assert_eq!(read_exact(&mut socket, ACK.len()), ACK);
    let node = Node::start("");
    let mut socket = node.connect();
    socket.write_all(b"\x93\xa1t\x90\x81\xa5chunk\xa1c").expect("written");
    assert_eq!(read_exact(&mut socket, ACK.len()), ACK);
}

#[test]
fn a_stall_within_a_frame_and_lost_framing_end_the_connection_and_are_counted() {
    let node = Node::start("stall = \"50ms\"");
    for (bytes, counter) in [(&FRAME[..9], Oddity::FrameStalled), (b"GET / HTTP/1.1\r\n", Oddity::FramingLost)] {
        let mut socket = node.connect();
        socket.write_all(bytes).expect("written");
        let _ = socket.read_to_end(&mut Vec::new());
        assert_eq!(node.odd(counter), 1, "{}", counter.name());
    }
    let mut idle = node.connect();
    std::thread::sleep(Duration::from_millis(200));
    idle.set_nonblocking(true).expect("set");
    assert_eq!(idle.read(&mut [0]).map_err(|error| error.kind()), Err(io::ErrorKind::WouldBlock), "no idle timeout");
}

#[test]
fn between_two_frames_no_time_runs_whatever_the_limit_within_a_frame() {
    let mut node = Node::start("stall = \"50ms\"");
    let mut socket = node.connect();
    for _ in 0..3 {
        socket.write_all(FRAME).expect("written");
        let shipment = node.take();
        // With an ack that is due, and then with none.
        std::thread::sleep(Duration::from_millis(200));
        shipment.receipts.settle(Outcome::Delivered);
        assert_eq!(read_exact(&mut socket, ACK.len()), ACK);
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!((node.odd(Oddity::FrameStalled), node.metrics.inputs[0].open.load(Relaxed)), (0, 1));
}

#[test]
fn whole_entries_of_a_blob_that_goes_on_no_more_are_taken_at_the_end_and_at_a_stall() {
    for (more, closes) in [("", true), ("stall = \"3s\"", false)] {
        let mut node = Node::start(more);
        let mut socket = node.connect();
        socket.write_all(b"\x93\xa1t\xc6\x00\x20\x00\x00").expect("written");
        for _ in 0..300 {
            // In pieces that are no reason to look at what is there.
            socket.write_all(b"\x92\x01\x80").expect("written");
            std::thread::sleep(Duration::from_millis(1));
        }
        if closes {
            socket.shutdown(std::net::Shutdown::Write).expect("a socket");
        }
        let mut rows = 0;
        while rows < 300 {
            let shipment = node.take();
            rows += shipment.batch.len();
            shipment.receipts.settle(Outcome::Delivered);
        }
        assert_eq!(rows, 300);
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).expect("a plain end");
        assert_eq!((&answer[..], node.odd(Oddity::FrameStalled)), (&b""[..], u64::from(!closes)), "no ack of a part");
    }
}

#[test]
fn connections_above_the_limit_are_closed_and_counted() {
    let node = Node::start("connections_max = 1");
    let _first = node.connect();
    std::thread::sleep(Duration::from_millis(100));
    let mut second = node.connect();
    assert_eq!(second.read(&mut [0]).expect("closed"), 0);
    assert_eq!(node.odd(Oddity::ConnectionRefused), 1);
}

#[test]
fn the_send_client_and_the_input_understand_each_other() {
    let mut node = Node::start("");
    let to = format!("unix://{}", node.path.display());
    let words = ["longshore", "send", "--to", &to, "--batch", "100"];
    let cli = <crate::cli::Cli as clap::Parser>::try_parse_from(words).expect("good usage");
    let crate::cli::Command::Send(args) = cli.command else { panic!("{:?}", cli.command) };
    let options = crate::send::options(&args).expect("good flags");
    let text: String = (0..1000).map(|n| format!("{{\"n\":{n},\"a\":[1,-2,\"\\u00e9\"]}}\n")).collect();
    let text = text + "no json";
    let sending = node.runtime.spawn(async move { crate::send::send(&options, text.as_bytes()).await });
    let mut rows = 0;
    while rows < 1001 {
        let shipment = node.take();
        rows += shipment.batch.len();
        shipment.receipts.settle(Outcome::Delivered);
    }
    let told = node.runtime.block_on(sending).expect("no panic").expect("sent");
    assert!(told.starts_with("sent 1001 records in 11 frames, all acknowledged; "), "{told}");
    assert!(told.ends_with("; 1 lines were no JSON object and went as text") && !told.contains("again"), "{told}");
}

#[test]
fn more_than_the_budget_flows_through_and_stays_within_it() {
    let mut node = Node::start("");
    let mut entry = b"\x92\x01\x81\xa1a\xda\x03\xe8".to_vec();
    entry.extend([b'x'; 1000]);
    let blob = entry.repeat(64 << 10);
    let mut frame = vec![0x93, 0xa1, b't', 0xc6];
    frame.extend((blob.len() as u32).to_be_bytes());
    frame.extend(&blob[..]);
    frame.extend(b"\x81\xa5chunk\xa1c");
    let small = node.budget.total();
    assert!(frame.len() > small);
    // Above `frame_max` in one frame it would be refused: 66 MB do fit it.
    let mut socket = node.connect();
    let sender = std::thread::spawn(move || {
        let _ = socket.write_all(&frame);
        read_exact(&mut socket, ACK.len())
    });
    let mut rows = 0;
    while rows < 64 << 10 {
        let shipment = node.take();
        rows += shipment.batch.len();
        shipment.receipts.settle(Outcome::Delivered);
    }
    assert_eq!(sender.join().expect("no panic"), ACK);
    assert!(node.budget.used_peak() <= small, "{} of {small}", node.budget.used_peak());
}

#[test]
fn more_senders_than_the_budget_has_read_buffers_do_not_wait_for_each_other() {
    const SENDERS: usize = 400;
    const FRAMES: usize = 8;
    let mut node = Node::start("");
    let mut entry = b"\x92\x01\x81\xa1a\xda\x03\xe8".to_vec();
    entry.extend([b'x'; 1000]);
    let blob = entry.repeat(90);
    let mut frame = vec![0x93, 0xa1, b't', 0xc6];
    frame.extend((blob.len() as u32).to_be_bytes());
    frame.extend(&blob[..]);
    frame.push(0x80);
    let bytes = Arc::new(frame.repeat(FRAMES));
    // Every one of them has more to say than a batch holds, and all of them say it at once.
    let senders: Vec<_> = (0..SENDERS)
        .map(|_| {
            let (mut socket, bytes) = (node.connect(), Arc::clone(&bytes));
            std::thread::spawn(move || socket.write_all(&bytes).is_ok())
        })
        .collect();
    let mut rows = 0;
    while rows < SENDERS * FRAMES * 90 {
        let shipment = node.take();
        rows += shipment.batch.len();
        shipment.receipts.settle(Outcome::Delivered);
    }
    assert!(senders.into_iter().all(|sender| sender.join().expect("no panic")));
    let (peak, total) = (node.budget.used_peak(), node.budget.total());
    assert!(peak <= total + total / 8, "{peak} of {total}");
}

#[test]
fn every_limit_is_a_setting_with_a_range() {
    for (key, good, bad, message) in [
        ("frame_max", "\"1GiB\"", "\"2GiB\"", "\"2GiB\" is not within 1B to 1GiB"),
        ("frame_whole_max", "\"1KiB\"", "\"32MiB\"", "\"32MiB\" is not within 1KiB to 16MiB"),
        ("record_max", "\"64MiB\"", "\"65MiB\"", "is not within 1B to 64MiB"),
        ("tag_max", "\"64KiB\"", "\"65KiB\"", "is not within 1B to 64KiB"),
        ("depth_max", "128", "129", "129 is not within 1 to 128"),
        ("decompressed_max", "\"4GiB\"", "\"5GiB\"", "is not within 1B to 4GiB"),
        ("ratio_max", "100000", "0", "0 is not within 1 to 100000"),
        ("ratio_free", "\"1GiB\"", "\"0B\"", "\"0B\" is not within 1B to 1GiB"),
        ("connections_max", "1000000", "0", "0 is not within 1 to 1000000"),
        ("peer_connections_max", "1000000", "0", "0 is not within 1 to 1000000"),
        ("handshake", "\"10m\"", "\"11m\"", "\"11m\" is not within 10ms to 60"),
        ("stall", "\"1d\"", "\"1ms\"", "\"1ms\" is not within 10ms to"),
        ("acks_max", "\"4KiB\"", "\"1KiB\"", "\"1KiB\" is not within 4KiB to 1GiB"),
        ("acks_unread_max", "\"4MiB\"", "\"5MiB\"", "`acks_unread_max` is above `acks_max`"),
        ("acks_stall", "\"1s\"", "30", "30 has no unit; write \"30s\""),
        ("acks_unread_stall", "\"30s\"", "\"31s\"", "`acks_unread_stall` is above `acks_stall`"),
        ("acks_last_wait", "\"1h\"", "\"2h\"", "\"2h\" is not within 10ms to 360"),
    ] {
        assert_eq!(read_config(&format!("{key} = {good}")).1, Vec::<String>::new(), "{key}");
        let found = read_config(&format!("{key} = {bad}")).1;
        assert!(found.len() == 1 && found[0].contains(message), "{key}: {found:?}");
    }
}

#[test]
fn an_empty_section_has_the_limits_that_are_documented() {
    let read = |text: &str| {
        let doc = Doc::new("c.toml", text, |_| None);
        let table = toml::de::DeTable::parse(text).expect("valid TOML");
        let section = Section::new(&doc, table.get_ref(), "inputs.f", table.span());
        let read = settings::read(&section);
        section.finish();
        assert_eq!(doc.findings().len(), 0, "{text}");
        read
    };
    // All fields, so that a new one is a question here.
    let Settings { listen, ack, docker, limits, acks, connections_max, peer_connections_max, handshake, stall } =
        read("");
    assert_eq!(listen.iter().map(|one| one.address.to_string()).collect::<Vec<_>>(), ["tcp://127.0.0.1:24224"]);
    assert!(listen.iter().all(|one| one.tls.is_none() && one.heartbeat && one.mode.is_none() && one.owner.is_none()));
    assert_eq!((ack, docker), (Ack::Durable, true));
    let crate::codec::forward::Limits { frame_max, whole_max, entry_max, tag_max, depth_max, inflate } = limits;
    assert_eq!((frame_max, whole_max, entry_max, tag_max, depth_max), (64 << 20, 1 << 20, 4 << 20, 4 << 10, 128));
    let crate::codec::gzip::Limits { output_max, ratio_max, free } = inflate;
    assert_eq!((output_max, ratio_max, free), (256 << 20, 200, 1 << 20));
    let acks::AckLimits { max, unread_max, stall: unread, unread_stall, last_wait } = acks;
    assert_eq!((max, unread_max), (4 << 20, 1 << 20));
    assert_eq!((unread, unread_stall, last_wait), [30, 5, 60].map(Duration::from_secs).into());
    assert_eq!((connections_max, peer_connections_max), (4096, 512));
    assert_eq!((handshake, stall), [10, 30].map(Duration::from_secs).into());
    // And the example says the same of each.
    let example = include_str!("../../../config.example.toml");
    let (_, section) = example.split_once("[inputs.apps]\n").expect("it is there");
    let (section, _) = section.split_once("\n\n").expect("more sections");
    let keys: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("# ")).collect();
    assert_eq!(keys.len(), 19, "a line for each key but `type` and `listen`: {keys:#?}");
    assert_eq!(format!("{:?}", read(&keys.join("\n"))), format!("{:?}", read("")));
}

#[test]
fn limits_of_acks_and_of_ratios_are_those_of_the_settings() {
    let mut node = Node::start("acks_last_wait = \"100ms\"\nratio_max = 2\nratio_free = \"1KiB\"");
    // The sinks take nothing: the sender's end is answered after the wait.
    let mut socket = node.connect();
    socket.write_all(FRAME).expect("written");
    let shipment = node.take();
    socket.shutdown(std::net::Shutdown::Write).expect("a socket");
    assert_eq!(socket.read_to_end(&mut Vec::new()).expect("a plain end"), 0);
    drop(shipment);
    // Of 10 KB that pack well, as much as is free comes out.
    let mut socket = node.connect();
    let blob = [&b"\x92\x01\x81\xa1a\xda\x03\xe8"[..], &[b'x'; 1000]].concat().repeat(10);
    let packed = zstd::encode_all(&blob[..], 1).expect("memory");
    let head = [b"\x93\xa1t\xc5", &(packed.len() as u16).to_be_bytes()[..]].concat();
    socket.write_all(&[&head, &packed[..], b"\x81\xa5chunk\xa1c"].concat()).expect("written");
    let shipment = node.take();
    assert_eq!(shipment.batch.len(), 1);
}

#[test]
fn mistakes_in_a_listener_have_their_place_and_a_way_out() {
    let secrets = "users = [{ name = \"alice\", password = \"pw\" }]";
    let cases = [
        ("{ adress = \"tcp://x\" }".to_owned(), "c.toml:1:13: error: unknown key `adress`", "did you mean `address`?"),
        ("{ adress = \"tcp://x\" }".to_owned(), "c.toml:1:11: error: inputs.f.listen[0]: `address` is missing", ""),
        ("\"tcp://a\", { address = \"tls://b\", key = \"k\" }".to_owned(), "listen[1].address: `cert` is missing", ""),
        ("{ address = \"tcp://a\", cert = \"c\" }".to_owned(), "`cert` is for tls://", "write `address` with tls://"),
        ("{ address = \"tcp://a\", mode = \"0600\" }".to_owned(), "`mode` is for unix://", "remove it"),
        ("{ address = \"unix:///a\", mode = \"rw\" }".to_owned(), "no mode", "\"0660\""),
        ("{ address = \"unix:///a\", allow = [\"10.0.0.0/8\"] }".to_owned(), "`allow` is for tcp://", ""),
        (
            "{ address = \"tcp://a\", allow = [\"10.0.0.1/8\"] }".to_owned(),
            "c.toml:1:43: error",
            "write \"10.0.0.0/8\"",
        ),
        ("{ address = \"tcp://a\", allow = [] }".to_owned(), "lets nobody in", "remove it"),
        ("{ address = \"tcp://a\", anonymous = true }".to_owned(), "without `allow`", "set `allow`"),
        (format!("{{ address = \"tcp://a\", {secrets} }}"), "users without a shared key", "set `shared_key`"),
        (
            format!(
                "{{ address = \"tcp://a\", shared_key = \"k\", {secrets}, allow = [{{ network = \"::/0\", users = [\"alise\"] }}] }}"
            ),
            "`users` have no \"alise\"",
            "did you mean \"alice\"?",
        ),
        ("{ address = \"tcp://a\", shared_key = \"\" }".to_owned(), "it is empty", "put the secret into the file"),
        ("{ address = \"tcp://a\", hostname = \"x\" }".to_owned(), "in the handshake only", "set `shared_key`"),
        ("\"tcp://a:1\", { address = \"tcp://a:1\" }".to_owned(), "stands there twice", ""),
        ("5".to_owned(), "expected an address or a table", "the number 5"),
    ];
    for (items, what, way_out) in cases {
        let (_, found) = read_config(&format!("listen = [{items}]"));
        assert!(found.iter().any(|one| one.contains(what) && one.contains(way_out)), "{items}: {found:#?}");
        assert!(found.iter().all(|one| !one.contains("pw")), "{found:?}");
    }
    let tables = "[[listen]]\naddress = \"tcp://127.0.0.1\"\n[[listen]]\naddress = \"unix:///x\"\nmode = \"0660\"\n";
    assert!(read_config(tables).1.is_empty(), "a list of tables: {:?}", read_config(tables).1);
}

#[test]
fn mistakes_in_the_section_say_the_way_out() {
    let cases = [
        ("listen = \"127.0.0.1:24224\"", "write \"tcp://127.0.0.1:24224\""),
        ("listen = \"tls://0.0.0.0:24224\"", "TLS needs a certificate; write { address = "),
        ("listen = \"unix://f.sock\"", "absolute path"),
        ("listen = []", "at least one address"),
        ("ack = \"deliverd\"", "did you mean \"delivered\"?"),
        ("frame_max = 5", "has no unit"),
        ("frame_mx = \"5MiB\"", "did you mean `frame_max`?"),
    ];
    for (text, message) in cases {
        let (_, found) = read_config(text);
        assert!(found.len() == 1 && found[0].contains(message), "{text}: {found:?}");
    }
    assert!(read_config("").1.is_empty());
}

#[test]
fn a_panic_in_one_connection_is_counted_closes_its_socket_frees_its_seat_and_touches_no_other() {
    let mut node = Node::start("connections_max = 2");
    let mut other = node.connect();
    for round in 1..=3 {
        let mut socket = node.connect();
        socket.write_all(FRAME).expect("written");
        let shipment = node.take();
        socket.write_all(PANIC).expect("written");
        let mut answer = Vec::new();
        // Closed, with or without a reset: not a socket that stays open and is silent.
        let closed = socket.read_to_end(&mut answer).or_else(|error| match error.kind() {
            io::ErrorKind::ConnectionReset => Ok(0),
            kind => Err(kind),
        });
        assert_eq!((closed, &answer[..]), (Ok(0), &b""[..]), "no ack of what was not settled");
        shipment.receipts.settle(Outcome::Delivered);
        let counted = || (node.odd(Oddity::ConnectionPanicked), node.metrics.inputs[0].open.load(Relaxed));
        let until = Instant::now() + Duration::from_secs(20);
        while counted() != (round, 1) {
            assert!(Instant::now() < until, "{:?}", counted());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    other.write_all(FRAME).expect("written");
    node.take().receipts.settle(Outcome::Delivered);
    assert_eq!(read_exact(&mut other, ACK.len()), ACK);
    assert_eq!(node.odd(Oddity::ConnectionRefused), 0, "each seat was given back");
    for _ in 0..200 {
        if node.budget.used() == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(node.budget.used(), 0, "and its memory");
}

#[test]
fn a_connection_that_begins_as_json_is_answered_in_json() {
    let mut node = Node::start("");
    let mut socket = node.connect();
    for part in [&b"["[..], br#""t",1700000000,{"a":1},{"chunk":"x"}]"#, b"\n[\"t\",[[1,{}]],{\"chunk\":\"y\"}] "] {
        socket.write_all(part).expect("written");
        std::thread::sleep(Duration::from_millis(30));
    }
    let mut rows = 0;
    while rows < 2 {
        let shipment = node.take();
        rows += shipment.batch.len();
        shipment.receipts.settle(Outcome::Delivered);
    }
    let expected = br#"{"ack":"x"}{"ack":"y"}"#;
    assert_eq!(read_exact(&mut socket, expected.len()), expected);
    assert_eq!(node.odd(Oddity::FramingLost), 0);
    socket.write_all(b"nope").expect("written");
    assert_eq!(socket.read(&mut [0]).expect("a plain end"), 0);
    assert_eq!(node.odd(Oddity::FramingLost), 1);
}
