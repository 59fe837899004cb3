//! The disk log against the disk: what it takes in, how long a frame waits for its commit, how fast a start reads what is
//! there.
//!
//! Three parts, on a folder below the current one (or the one that `LONGSHORE_BENCH_DIR` names: the disk
//! decides, and a tmpfs would say nothing):
//!
//! - `ingest`: four threads append frames of 64 KiB, 64 of them under way each, and settle them when they are committed.
//!   Beside it, in turn, the plain way to be sure: one file, `write` of 1 MiB with `O_DSYNC`, as `dd oflag=dsync bs=1M`.
//! - `ack`: frames at half that rate; time from `append`, with its wait for room, to the commit.
//! - `backlog`: the same frames as a backlog of 1 GiB, closed and opened again. An opening reads a segment's head and the
//!   frames of the last segment alone; then the reader takes all of it, each frame read and its checksum computed. Beside
//!   it CRC-32C alone over as many bytes in memory.
//!
//! `cargo bench --bench disk_log`; figures with their conditions are in ARCHITECTURE.md. Only ratios travel.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use longshore::buffer::{Committed, Log, Lost, Lsn, Payload, Read, Settings};

const FRAME: usize = 64 << 10;
const WRITERS: usize = 4;
/// Frames of one writer that are not committed yet.
const WINDOW: usize = 64;
const INGEST: usize = 1 << 30;
const BACKLOG: usize = 1 << 30;
const ROUNDS: usize = 3;
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

/// Appends `frames` from each of the writers, at most `rate` bytes a second in all; the waits for the commits.
fn append(log: &Arc<Log>, frames: usize, rate: Option<f64>, settles: bool) -> Vec<Duration> {
    let payload = frame();
    let began = Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (log, payload) = (Arc::clone(log), Arc::clone(&payload));
            std::thread::spawn(move || {
                let (told, hears) = channel();
                let mut waits = Vec::with_capacity(frames);
                let mut take = |(lsn, wait): (Lsn, Duration)| {
                    if settles {
                        log.settle(0, lsn);
                    }
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
                    let mut done: Box<dyn Committed> = Box::new(Told(Instant::now(), told.clone()));
                    while let Err(full) = log.append(1, 1, Arc::clone(&payload) as Arc<dyn Payload>, done) {
                        done = full.done;
                        log.room_blocking(0, &longshore::workers::Stop::default());
                    }
                }
                for _ in 0..frames.min(WINDOW) {
                    take(hears.recv().expect("told"));
                }
                waits
            })
        })
        .collect();
    writers.into_iter().flat_map(|writer| writer.join().expect("a writer")).collect()
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

    let log = open(&folder, 4 << 30);
    let rate = best / 2.0 * f64::from(1 << 20);
    let frames = (rate * 5.0) as usize / FRAME / WRITERS;
    let mut waits = append(&log, frames, Some(rate), true);
    close(log);
    waits.sort();
    let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    let (half, count) = (best / 2.0, waits.len());
    println!(
        "ack at {half:.0} MiB/s, {count} frames: p50 {:.1} ms, p99 {:.1} ms, slowest {:.1} ms",
        at(0.5),
        at(0.99),
        at(1.0)
    );

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
