//! The disk log against the disk: what it takes in, how long a frame waits for its commit, how fast a start reads what is
//! there.
//!
//! Three parts, on a folder below the current one (or the one that `LONGSHORE_BENCH_DIR` names: the disk
//! decides, and a tmpfs would say nothing):
//!
//! - `ingest`: four threads append frames of 64 KiB, 64 of them under way each, and settle them when they are committed.
//!   Beside it, in turn, the plain way to be sure: one file, `write` of 1 MiB with `O_DSYNC`, as `dd oflag=dsync bs=1M`.
//! - `ack`: frames at half that rate; time from `append`, with its wait for room, to the commit. Beside it, in turn, the same
//!   frames at the same rate with the disk alone: what has come is written in one piece of 1 MiB at most, past the page cache
//!   into space that is kept, and synced, and nothing else. What a frame waits for there, a log can not save.
//! - `backlog`: the same frames as a backlog of 1 GiB, closed and opened again. An opening reads a segment's head and the
//!   frames of the last segment alone; then the reader takes all of it, each frame read and its checksum computed. Beside
//!   it CRC-32C alone over as many bytes in memory.
//!
//! `cargo bench --bench disk_log`; figures with their conditions are in ARCHITECTURE.md. Only ratios travel.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use longshore::buffer::{Committed, Log, Lost, Lsn, Payload, Read, Settings};
use rustix::fs::{FallocateFlags, Mode, OFlags};

const FRAME: usize = 64 << 10;
const WRITERS: usize = 4;
/// Frames of one writer that are not committed yet.
const WINDOW: usize = 64;
const INGEST: usize = 1 << 30;
const BACKLOG: usize = 1 << 30;
const ROUNDS: usize = 3;
/// Seconds of one round of `ack`.
const ACK: f64 = 4.0;
/// Frames that the disk alone gets at once, at most: 1 MiB, as the log.
const AT_ONCE: usize = (1 << 20) / FRAME;
/// Of memory and places in a file that is written past the page cache.
const BLOCK: usize = 4096;
/// `O_DSYNC` of Linux on x86-64 and arm64.
const O_DSYNC: i32 = 0o10000;

struct Frame(Vec<u8>);

impl Payload for Frame {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
    fn size_hint(&self) -> usize {
        self.0.len()
    }
}

/// When it was appended, and who is told.
struct Told(Instant, Sender<(Lsn, Duration)>);

impl Committed for Told {
    fn committed(self: Box<Self>, outcome: Result<Lsn, Lost>) {
        // The bench is over when nobody listens.
        let _ = self.1.send((outcome.expect("committed"), self.0.elapsed()));
    }
}

/// Bytes that compress to nothing less: on a file system that finds repeated blocks this would flatter.
fn frame() -> Arc<Frame> {
    let mut bytes = vec![0; FRAME];
    fastrand::Rng::with_seed(1).fill(&mut bytes);
    Arc::new(Frame(bytes))
}

fn open(dir: &Path, size: u64) -> Arc<Log> {
    Log::open(Settings::new(dir, size), &["sink"]).expect("the log opens").0
}

/// Who is told of a frame.
type Done = Box<dyn Committed>;

/// Gives `frames` from each of the writers to `put`, at most `rate` bytes a second in all; the waits for the commits, of each
/// of which `then` hears.
fn send(frames: usize, rate: Option<f64>, put: impl Fn(Done) + Sync, then: impl Fn(Lsn) + Sync) -> Vec<Duration> {
    let began = Instant::now();
    let writer = || {
        let (told, hears) = channel();
        let mut waits = Vec::with_capacity(frames);
        let mut take = |(lsn, wait): (Lsn, Duration)| {
            then(lsn);
            waits.push(wait);
        };
        for nth in 0..frames {
            if let Some(rate) = rate {
                let due = began + Duration::from_secs_f64((nth * FRAME * WRITERS) as f64 / rate);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            if nth >= WINDOW {
                take(hears.recv().expect("told"));
            }
            put(Box::new(Told(Instant::now(), told.clone())));
        }
        for _ in 0..frames.min(WINDOW) {
            take(hears.recv().expect("told"));
        }
        waits
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(writer)).collect();
        writers.into_iter().flat_map(|writer| writer.join().expect("a writer")).collect()
    })
}

/// Sends to a log.
fn append(log: &Log, frames: usize, rate: Option<f64>, settles: bool) -> Vec<Duration> {
    let payload = frame();
    let put = |mut done: Done| {
        while let Err(full) = log.append(1, 1, Arc::clone(&payload) as Arc<dyn Payload>, done) {
            done = full.done;
            log.room_blocking(0, &longshore::workers::Stop::default());
        }
    };
    send(frames, rate, put, |lsn| {
        if settles {
            log.settle(0, lsn)
        }
    })
}

/// Sends to the disk alone: the waits, and how long each write with its sync took.
fn bare(dir: &Path, frames: usize, rate: f64) -> (Vec<Duration>, Vec<Duration>) {
    let path = dir.join("bare");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::DIRECT | OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).expect("opens");
    let space = (frames * WRITERS * FRAME) as u64;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, space).expect("there is space");
    rustix::fs::fsync(&file).expect("synced");
    let mut bytes = vec![0; AT_ONCE * FRAME + BLOCK];
    fastrand::Rng::with_seed(3).fill(&mut bytes);
    let block = &bytes[bytes.as_ptr().align_offset(BLOCK)..];
    let (queue, news) = (Mutex::new((Vec::<Done>::new(), false)), Condvar::new());
    let commit = || {
        let (mut at, mut took) = (0, Vec::new());
        loop {
            let queue = queue.lock().expect("whole");
            let mut queue = news.wait_while(queue, |(waiting, ends)| waiting.is_empty() && !*ends).expect("whole");
            let (waiting, _) = &mut *queue;
            if waiting.is_empty() {
                return took;
            }
            let some = waiting.len().min(AT_ONCE);
            let waiting: Vec<Done> = waiting.drain(..some).collect();
            drop(queue);
            let began = Instant::now();
            let len = waiting.len() * FRAME;
            assert_eq!(rustix::io::pwrite(&file, &block[..len], at).expect("written"), len);
            rustix::fs::fdatasync(&file).expect("synced");
            took.push(began.elapsed());
            at += len as u64;
            waiting.into_iter().for_each(|done| done.committed(Ok(0)));
        }
    };
    let both = std::thread::scope(|scope| {
        let committer = scope.spawn(commit);
        let put = |done: Done| {
            queue.lock().expect("whole").0.push(done);
            news.notify_one();
        };
        let waits = send(frames, Some(rate), put, |_| ());
        queue.lock().expect("whole").1 = true;
        news.notify_one();
        (waits, committer.join().expect("no panic"))
    });
    fs::remove_file(&path).expect("removed");
    both
}

/// The middle, the slowest of the best 99 % and the slowest, in words.
fn spread(mut waits: Vec<Duration>) -> String {
    waits.sort();
    let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    format!("p50 {:.1} ms, p99 {:.1} ms, slowest {:.1} ms", at(0.5), at(0.99), at(1.0))
}

fn mib_per_s(bytes: usize, took: Duration) -> f64 {
    bytes as f64 / f64::from(1 << 20) / took.as_secs_f64()
}

fn close(log: Arc<Log>) {
    log.close(Instant::now() + Duration::from_secs(60)).expect("closed");
}

/// One file, a megabyte at a time, each on the disk before the next.
fn dsync(dir: &Path) -> f64 {
    let path = dir.join("dsync");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).custom_flags(O_DSYNC).open(&path).expect("opens");
    let mut block = vec![0; 1 << 20];
    fastrand::Rng::with_seed(2).fill(&mut block);
    let began = Instant::now();
    for _ in 0..INGEST >> 22 {
        file.write_all(&block).expect("written");
    }
    let took = began.elapsed();
    fs::remove_file(&path).expect("removed");
    mib_per_s(INGEST >> 2, took)
}

fn main() {
    let base = std::env::var_os("LONGSHORE_BENCH_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let dir = tempfile::Builder::new().prefix("disk-log-bench").tempdir_in(base).expect("a folder");
    let folder = dir.path().join("log");

    let mut best: f64 = 0.0;
    for round in 1..=ROUNDS {
        let plain = dsync(dir.path());
        let log = open(&folder, 4 << 30);
        let began = Instant::now();
        append(&log, INGEST / FRAME / WRITERS, None, true);
        let ours = mib_per_s(INGEST, began.elapsed());
        close(log);
        best = best.max(ours);
        println!(
            "ingest {round}/{ROUNDS}: {ours:.0} MiB/s committed, dsync of 1 MiB {plain:.0} MiB/s: {:.2}x",
            ours / plain
        );
    }

    let half = best / 2.0;
    let rate = half * f64::from(1 << 20);
    let frames = (rate * ACK) as usize / FRAME / WRITERS;
    for round in 1..=ROUNDS {
        let log = open(&folder, 4 << 30);
        let before = log.status().commits;
        let ours = append(&log, frames, Some(rate), true);
        let commits = log.status().commits - before;
        close(log);
        let (alone, took) = bare(dir.path(), frames, rate);
        println!("ack {round}/{ROUNDS} at {half:.0} MiB/s: {}; {commits} commits", spread(ours));
        let count = took.len();
        println!("    the disk alone: {}; {count} commits, each {}", spread(alone), spread(took));
    }

    let log = open(&folder, 4 << 30);
    append(&log, BACKLOG / FRAME / WRITERS, None, false);
    close(log);
    let block = frame();
    for round in 1..=ROUNDS {
        let began = Instant::now();
        let log = open(&folder, 4 << 30);
        let opened = began.elapsed();
        assert!(log.status().readers[0].total.bytes >= BACKLOG as u64, "the whole backlog is there");
        let began = Instant::now();
        let (mut after, mut bytes) = (0, 0);
        while let Read::Frame { lsn, bytes: frame, .. } = log.read(0, after) {
            after = lsn;
            bytes += frame.len();
        }
        let took = began.elapsed();
        assert!(bytes >= BACKLOG, "all of it is read: {bytes}");
        close(log);
        let began = Instant::now();
        let mut sum = 0;
        for _ in 0..BACKLOG / FRAME {
            sum ^= crc32c::crc32c(std::hint::black_box(&block.0));
        }
        std::hint::black_box(sum);
        let (ours, bare) = (mib_per_s(BACKLOG, took), mib_per_s(BACKLOG, began.elapsed()));
        println!(
            "backlog {round}/{ROUNDS}: opened in {:.1} ms, read at {ours:.0} MiB/s, CRC-32C alone {bare:.0} MiB/s: {:.2}x",
            opened.as_secs_f64() * 1e3,
            ours / bare
        );
    }
}
