//! Following files: how fast lines are found, how soon a new container's first line is out, and what ten thousand idle
//! containers cost.
//!
//! `newline`: 64 MiB of lines of 150 bytes. `memchr`: the search alone, in memory. `file`: the same search over what
//! `Source`, the reader of followed files, reads from a file in the page cache, with its look at what was there before.
//!
//! The other two run the program and print their figures (`cargo bench --bench tail -- idle first`):
//! `first_line` makes containers while it tails their folder, and measures from the creation of the log to the line on its
//! standard output. `idle` has 10,000 idle containers and one that is written to at 20 MB/s for a while; CPU time is
//! user + system of the program. The hot one's 200 MB are also written at once, in turn with one that is alone; that takes 3 GB of
//! the folder for temporary files.
//!
//! What is promised of these is looked at, and the bench fails where it is not so.
//!
//! Only ratios travel; figures with their conditions are in ARCHITECTURE.md.

use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group};
use longshore::inputs::follow::generations::{self, Held};
use longshore::inputs::follow::source::{Found, Source};
use memchr::memchr_iter;

const BYTES: usize = 64 << 20;
const LINE: usize = 150;
const IDLE: usize = 10_000;
const NEW: usize = 300;
/// Blocks of 2 MB that the hot container writes.
const BLOCKS: usize = 100;
/// So often the hot one's speed is measured.
const ROUNDS: usize = 7;
/// For so long CPU time of what is idle is measured.
const QUIET: Duration = Duration::from_secs(60);

/// Some promise does not hold.
static FAILED: AtomicBool = AtomicBool::new(false);

fn newline(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temp dir");
    let path = dir.path().join("a.log");
    let mut line = [b'x'; LINE];
    line[LINE - 1] = b'\n';
    let text: Vec<u8> = line.iter().copied().cycle().take(BYTES).collect();
    fs::write(&path, &text).expect("written");
    let mut group = c.benchmark_group("newline");
    group.throughput(Throughput::Bytes(BYTES as u64)).sample_size(20);
    group.bench_function("memchr", |b| b.iter(|| memchr_iter(b'\n', black_box(&text)).count()));
    let held = generations::open(&path).expect("opens");
    let mut buf = Vec::new();
    group.bench_function("file", |b| b.iter(|| scan(&held, &mut buf)));
    group.finish();
    let began = Instant::now();
    let all = scan(&held, &mut buf);
    let speed = BYTES as f64 / began.elapsed().as_secs_f64() / 1e9;
    assert_eq!(all, BYTES / LINE);
    promise(&format!("newlines are found at 1 GB/s or more ({speed:.1})"), speed >= 1.0);
}

/// The lines of a file, as the reader of followed files reads it.
fn scan(held: &Arc<Held>, buf: &mut Vec<u8>) -> usize {
    let mut source = Source::open(Arc::clone(held), 0).expect("opens");
    let mut lines = 0;
    while let Found::Bytes(n) = source.read(buf, 1 << 20).expect("reads") {
        let data = source.data(buf, n);
        lines += memchr_iter(b'\n', data).count();
        let whole = memchr::memrchr(b'\n', data).map_or(0, |at| at + 1);
        source.consume(buf, if whole == 0 { n } else { whole });
    }
    lines
}

criterion_group!(scanning, newline);

/// The program, tailing a folder of containers, and the lines that it prints with the time at which they came.
struct Tail {
    child: Child,
    lines: Receiver<(Instant, String)>,
}

impl Tail {
    fn start(root: &Path) -> Tail {
        let mut child = Command::new(env!("CARGO_BIN_EXE_longshore"))
            .args(["tail", "--format", "json"])
            .arg(root)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = sender.send((Instant::now(), line));
            }
        });
        Tail { child, lines }
    }

    /// When the line with that text came.
    fn wait_for(&self, text: &str) -> Instant {
        loop {
            let (at, line) = self.lines.recv_timeout(Duration::from_secs(60)).expect("the line comes");
            if line.contains(text) {
                return at;
            }
        }
    }

    /// User and system time so far, in ticks of 10 ms.
    fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
        Duration::from_millis((ticks(11) + ticks(12)) * 10)
    }

    /// The peak, in bytes.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
    }

    /// MB a second of a container's output that is written at once.
    fn at_once(&self, root: &Path, number: usize, end: &str) -> f64 {
        let (block, began) = (block(), Instant::now());
        let mut log = OpenOptions::new().create(true).append(true).open(log_of(root, number)).expect("opens");
        (0..BLOCKS).for_each(|_| log.write_all(block.as_bytes()).expect("written"));
        write(root, number, end);
        (block.len() * BLOCKS) as f64 / 1e6 / (self.wait_for(end) - began).as_secs_f64()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log_of(root: &Path, number: usize) -> PathBuf {
    let id = format!("{number:064x}");
    root.join(&id).join(format!("{id}-json.log"))
}

fn make(root: &Path, number: usize) {
    let log = log_of(root, number);
    let folder = log.parent().expect("it has one");
    fs::create_dir_all(folder).expect("made");
    let config = format!(r#"{{"ID":"{number:064x}","Name":"/c{number}","Config":{{"Image":"i","Labels":{{}}}}}}"#);
    fs::write(folder.join("config.v2.json"), config).expect("written");
}

fn write(root: &Path, number: usize, text: &str) {
    let mut log = OpenOptions::new().create(true).append(true).open(log_of(root, number)).expect("opens");
    let record = format!("{{\"log\":\"{text}\\n\",\"stream\":\"stdout\",\"time\":\"2026-11-24T10:00:00.1Z\"}}\n");
    log.write_all(record.as_bytes()).expect("written");
}

/// 2 MB of records.
fn block() -> String {
    let record =
        format!("{{\"log\":\"{}\\n\",\"stream\":\"stdout\",\"time\":\"2026-11-24T10:00:00.1Z\"}}\n", "h".repeat(100));
    record.repeat((2 << 20) / record.len())
}

/// Says whether a promise holds.
fn promise(what: &str, holds: bool) {
    println!("{}: {what}", if holds { "holds" } else { "DOES NOT HOLD" });
    FAILED.fetch_or(!holds, Ordering::Relaxed);
}

fn first_line() {
    let dir = tempfile::tempdir().expect("a temp dir");
    make(dir.path(), 0);
    write(dir.path(), 0, "ready");
    let tail = Tail::start(dir.path());
    tail.wait_for("ready");
    let mut times: Vec<Duration> = (1..=NEW)
        .map(|number| {
            make(dir.path(), number);
            let began = Instant::now();
            write(dir.path(), number, &format!("first of {number}."));
            tail.wait_for(&format!("first of {number}.")) - began
        })
        .collect();
    times.sort_unstable();
    println!(
        "first_line: {NEW} new containers, p50 {:?}, p99 {:?}, slowest {:?}",
        times[NEW / 2],
        times[NEW * 99 / 100],
        times[NEW - 1]
    );
    promise("p99 of a new container's first line is below 50 ms", times[NEW * 99 / 100] < Duration::from_millis(50));
}

/// Speed beside the idle ones, alone, and their ratio, each in the middle of some rounds in turn: one round may have half the
/// speed of the next on a shared machine. While one container is hot the program of the other is at rest.
fn speeds(beside: &Tail, dir: &Path) -> [f64; 3] {
    let other = tempfile::tempdir().expect("a temp dir");
    make(other.path(), 0);
    write(other.path(), 0, "old");
    let alone = Tail::start(other.path());
    alone.wait_for("old");
    let mut rounds: Vec<[f64; 3]> = Vec::new();
    for round in 0..ROUNDS {
        let end = format!("round {round}.");
        let (beside, alone) = (beside.at_once(dir, IDLE, &end), alone.at_once(other.path(), 0, &end));
        rounds.push([beside, alone, beside / alone]);
    }
    std::array::from_fn(|of| {
        rounds.sort_by(|one, other| one[of].total_cmp(&other[of]));
        rounds[ROUNDS / 2][of]
    })
}

fn idle() {
    let dir = tempfile::tempdir().expect("a temp dir");
    for number in 0..=IDLE {
        make(dir.path(), number);
        write(dir.path(), number, "old");
    }
    let tail = Tail::start(dir.path());
    for _ in 0..=IDLE {
        tail.wait_for("old");
    }
    std::thread::sleep(Duration::from_secs(15));
    let before = tail.cpu();
    std::thread::sleep(QUIET);
    let quiet = (tail.cpu() - before).as_secs_f64() / QUIET.as_secs_f64();
    let mut slowest = Duration::ZERO;
    let mut hot = File::options().append(true).open(log_of(dir.path(), IDLE)).expect("opens");
    let block = block();
    let (began, before) = (Instant::now(), tail.cpu());
    for round in 0..BLOCKS {
        hot.write_all(block.as_bytes()).expect("written");
        if round % 10 == 5 {
            let at = Instant::now();
            write(dir.path(), round * 97, &format!("idle {round}."));
            slowest = slowest.max(tail.wait_for(&format!("idle {round}.")) - at);
        }
        std::thread::sleep((Duration::from_millis(100) * (round as u32 + 1)).saturating_sub(began.elapsed()));
    }
    write(dir.path(), IDLE, "the end");
    let behind = tail.wait_for("the end") - began;
    println!(
        "idle: {IDLE} idle containers, CPU {:.2} % of a core; beside one at 20 MB/s: slowest idle line {slowest:?}, hot one done after {behind:?} of 10 s with {:?} CPU; peak memory {:.0} MB",
        quiet * 100.0,
        tail.cpu() - before,
        tail.memory() as f64 / 1e6
    );
    let [beside, alone, ratio] = speeds(&tail, dir.path());
    println!("hot: {beside:.0} MB/s beside them, {alone:.0} MB/s alone, {ratio:.2} times (medians of {ROUNDS} rounds)");
    promise("idle containers take less than 1 % of a core", quiet < 0.01);
    promise("an idle container's line comes within 1 s beside a hot one", slowest < Duration::from_secs(1));
    promise("the hot one has nine tenths of its speed alone", ratio > 0.9);
    promise("peak memory is below 256 MiB", tail.memory() < 256 << 20);
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let all = wanted.is_empty();
    if all || wanted.iter().any(|word| word == "newline") {
        scanning();
    }
    if all || wanted.iter().any(|word| word == "first") {
        first_line();
    }
    if all || wanted.iter().any(|word| word == "idle") {
        idle();
    }
    if FAILED.load(Ordering::Relaxed) {
        std::process::exit(1);
    }
}
