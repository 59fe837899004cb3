//! The works of `longshore bench` by one thread that does nothing else: what the whole program could cost at best.
//!
//! Each work three times over, a block of 256 KiB (of senders: their frames, some as many bytes) after the other:
//!
//! - `copies`: a block is read from the page cache, and as many bytes as come out for it are written, or sent in requests of
//!   1 MiB to the endpoint of `longshore bench`, on one connection, the next one after the answer. What senders send is in memory
//!   already: the price of the socket that it would come from is in none of the three.
//! - `decode`: and its records are decoded, checked and put through the steps, by the codecs and the pipeline of the program. Was
//!   the arena of a batch the output, this would be all: the ideal pass.
//! - `whole`: and encoded; these bytes are what is written, and what comes out is checked as `longshore bench` checks it.
//!
//! What the program needs beside `whole` is sockets, threads that wake each other, queues, receipts, cursors, checkpoints and
//! metrics. CPU time of the thread, microseconds a record, the least of [`ROUNDS`] rounds: nothing here is ever faster than it
//! is, and other work on the machine makes all of it slower. `cargo bench --bench one_thread`; figures beside the program's and a
//! peer's of the same hour are in ARCHITECTURE.md. The folder is below the current one, or in the one that `LONGSHORE_BENCH_DIR`
//! names.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use criterion::measurement::Measurement as _;
use longshore::batch::{Added, Batch};
use longshore::bench::ballast::Ballast;
use longshore::bench::generate::{Recipe, Shape};
use longshore::bench::measure::{Load, Task};
use longshore::bench::receive::Endpoint;
use longshore::bench::shipper::{self, Kind, Plan};
use longshore::bench::verify;
use longshore::bench::work::{From, Work};
use longshore::budget::Budget;
use longshore::codec::docker_json::{self, LineHead, LogForm};
use longshore::codec::forward::{Decoder, Limits, Step};
use longshore::codec::ndjson::Encoder;
use longshore::codec::text;
use longshore::config::{self, Overrides};
use longshore::pipeline::{JoinRule, Lane, Pipeline};
use longshore::record::{Container, Origin, Timestamp};
use longshore::workers::Workers;
use memchr::memchr;

mod cpu_time;

use cpu_time::CpuTime;

const RECORDS: u64 = 500_000;
const ROUNDS: usize = 7;
/// Bytes of a read, and about those of a batch.
const BLOCK: usize = 256 << 10;
/// Bytes of input that a block may begin with: the line that its last one ended in.
const LINE_MAX: usize = 64 << 10;

/// Bytes of a request, as `longshore bench` configures them.
const BODY: usize = 1 << 20;
/// What the endpoint answers.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// Where bytes go.
enum Output {
    File(File),
    /// The endpoint ends with it.
    Http {
        stream: TcpStream,
        _endpoint: Endpoint,
    },
}

impl Output {
    /// A new one, which ends in the file at `path`.
    fn make(work: Work, path: &Path, workers: &Arc<Workers>) -> Output {
        let _ = fs::remove_file(path);
        if !work.to_http() {
            return Output::File(File::create(path).expect("a file"));
        }
        let endpoint = Endpoint::start(&[path.to_owned()], workers).expect("it listens");
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, endpoint.port)).expect("it accepts");
        stream.set_nodelay(true).expect("a socket");
        Output::Http { stream, _endpoint: endpoint }
    }

    /// Takes `out`, once it is enough for a write or is the last.
    fn send(&mut self, out: &mut Vec<u8>, is_last: bool) {
        match self {
            Output::File(file) => file.write_all(out).expect("room on the disk"),
            Output::Http { .. } if out.len() < BODY && !is_last => return,
            Output::Http { stream, .. } => {
                let head = format!("POST /0 HTTP/1.1\r\ncontent-length: {}\r\n\r\n", out.len());
                stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(out)).expect("it is read");
                let mut answer = [0; ANSWER.len()];
                stream.read_exact(&mut answer).expect("an answer");
                assert_eq!(answer, ANSWER);
            }
        }
        out.clear();
    }
}

/// How much is done.
#[derive(Clone, Copy, PartialEq)]
enum Pass {
    Copies,
    Decode,
    Whole,
}

/// What the passes have in common.
struct Bench {
    task: Task,
    pipeline: Pipeline,
    budget: Arc<Budget>,
    origin: Arc<Origin>,
    lane: Lane,
    decoder: Decoder,
    encoder: Encoder,
    /// The endpoints' threads.
    workers: Arc<Workers>,
    /// Bytes that come out for one that comes in.
    out_for_in: f64,
}

impl Bench {
    fn new(task: Task) -> Bench {
        let work = task.work;
        // The configuration that `longshore bench` gives the program, for its steps.
        let input = task.dir.join("input");
        let plan = Plan { work, dir: task.dir.clone(), input, port: 24224, http_port: 9000, sinks: 1, readers: None };
        let setup = shipper::setup(Kind::Longshore, &plan);
        let (name, text) = &setup.files[0];
        let config = config::load_text(name, text, &Overrides::default()).expect("a valid configuration");
        let pipeline = config.pipeline;
        let container = (work.from() == From::Docker).then(|| Container {
            id: "0123456789abcdef".repeat(4),
            name: "bench-0".into(),
            image: "bench:1".into(),
            labels: vec![],
        });
        let file = (work.from() == From::Lines).then(|| "/var/log/input.log".into());
        let mut decoder = Decoder::new(Limits::default(), true);
        decoder.set_as_json(pipeline.is_only_for_json());
        decoder.set_takes_apart(pipeline.takes_log_apart());
        let lane = pipeline.lane(JoinRule::None);
        Bench {
            task,
            pipeline,
            budget: Budget::new(64 << 20),
            origin: Arc::new(Origin { container, file, peer: None }),
            lane,
            decoder,
            encoder: Encoder::new(Added::ALL),
            workers: Arc::default(),
            out_for_in: 1.0,
        }
    }

    fn batch(&self) -> Batch {
        let mut permit = self.budget.empty_permit();
        permit.grow(4 * BLOCK);
        Batch::new(permit, 0, Arc::clone(&self.origin))
    }

    /// A batch of the whole lines of `data`, and how many bytes they are.
    fn lines(&mut self, data: &[u8]) -> (Batch, usize) {
        let mut batch = self.batch();
        let tag = batch.tag_index("bench").expect("room for a tag");
        let (docker, escaped) = (self.task.work.from() == From::Docker, self.pipeline.is_only_for_json());
        let form = if self.pipeline.takes_log_apart() { LogForm::Members } else { LogForm::Text };
        let mut at = 0;
        while let Some(len) = memchr(b'\n', &data[at..]) {
            let head = LineHead { tag, pos: at as u32, now: Timestamp(1) };
            let line = &data[at..at + len];
            match docker {
                true => docker_json::decode(line, head, &mut batch, form),
                false if escaped => text::push_escaped(&data[at..], len, head, &mut batch),
                false => text::push(line, head, &mut batch),
            }
            at += len + 1;
        }
        self.pipeline.apply(&mut self.lane, &mut batch, Timestamp(1));
        (batch, at)
    }

    /// A batch of the frames of `data`, which are whole.
    fn frames(&mut self, data: &[u8]) -> Batch {
        let mut batch = self.batch();
        let mut from = 0;
        while from < data.len() {
            let (used, step) = self.decoder.decode(&data[from..], &mut batch, Timestamp(1));
            from += used;
            match step {
                Step::FrameEnd => (),
                Step::NeedMore => break,
                other => panic!("good frames, but {other:?}"),
            }
        }
        assert_eq!(from, data.len(), "the frames are whole");
        self.pipeline.apply(&mut self.lane, &mut batch, Timestamp(1));
        batch
    }

    /// Writes what belongs to a block of `bytes`.
    fn put(&mut self, batch: Option<&Batch>, bytes: usize, pass: Pass, output: &mut Output, out: &mut Vec<u8>) {
        match batch {
            Some(batch) if pass == Pass::Whole => {
                for at in 0..batch.len() {
                    self.encoder.row(batch, at, out);
                    out.push(b'\n');
                }
            }
            _ => out.resize(out.len() + (bytes as f64 * self.out_for_in) as usize, b'x'),
        }
        output.send(out, false);
    }

    /// One round of one pass: its CPU time.
    fn round(&mut self, load: &Load, pass: Pass, path: &Path) -> Duration {
        let mut output = Output::make(self.task.work, path, &self.workers);
        let mut out = Vec::with_capacity(2 * BODY);
        match load {
            Load::Files(files, input) => {
                files.read_all().expect("it can be read");
                let docker = self.task.work.from() == From::Docker;
                let input = if docker { container_log(input) } else { input.clone() };
                let mut input = File::open(input).expect("made before");
                let mut data = vec![0; LINE_MAX + BLOCK];
                let mut rest = 0;
                let began = CpuTime.start();
                loop {
                    let read = input.read(&mut data[rest..rest + BLOCK]).expect("it can be read");
                    if read == 0 {
                        assert_eq!(rest, 0, "the last line has an end");
                        output.send(&mut out, true);
                        return CpuTime.end(began);
                    }
                    let end = rest + read;
                    let done = if pass == Pass::Copies {
                        self.put(None, read, pass, &mut output, &mut out);
                        end
                    } else {
                        let (batch, done) = self.lines(&data[..end]);
                        self.put(Some(&batch), done, pass, &mut output, &mut out);
                        done
                    };
                    data.copy_within(done..end, 0);
                    rest = end - done;
                }
            }
            Load::Parcels(parcels) => {
                // As many frames as one read of a busy socket brings.
                let mut blocks: Vec<Vec<u8>> = vec![Vec::new()];
                for parcel in parcels.iter() {
                    if blocks.last().is_some_and(|block| block.len() + parcel.bytes.len() > BLOCK) {
                        blocks.push(Vec::new());
                    }
                    blocks.last_mut().expect("one at least").extend_from_slice(&parcel.bytes);
                }
                let began = CpuTime.start();
                for block in &blocks {
                    let batch = (pass != Pass::Copies).then(|| self.frames(block));
                    self.put(batch.as_ref(), block.len(), pass, &mut output, &mut out);
                }
                output.send(&mut out, true);
                CpuTime.end(began)
            }
            Load::Rotating => unreachable!("not among the works"),
        }
    }
}

/// The log of the only container.
fn container_log(folder: &Path) -> PathBuf {
    let container = fs::read_dir(folder).expect("a folder").next().expect("one container").expect("readable").path();
    let id = container.file_name().expect("an id").to_string_lossy().into_owned();
    container.join(format!("{id}-json.log"))
}

fn main() {
    // `cargo test --benches` and `cargo bench -- --test` want to see that it runs; cargo says `--bench` to the second, too.
    let given = |word: &str| std::env::args().any(|arg| arg == word);
    let records = if given("--bench") && !given("--test") { RECORDS } else { 2_000 };
    let rounds = if records == RECORDS { ROUNDS } else { 1 };
    let parent = std::env::var_os("LONGSHORE_BENCH_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let folder = tempfile::Builder::new().prefix("one-thread-").tempdir_in(parent).expect("a folder");
    println!(
        "{records} records each, least of {rounds}: CPU us a record (of them the kernel's copies and sending; decoding; encoding)"
    );
    let works = [Work::DockerFile, Work::DockerHttp, Work::MessageFile, Work::ForwardFile, Work::RegexFile];
    for work in works.into_iter().chain([Work::LineFile, Work::LineHttp]) {
        let recipe = Recipe { shape: Shape::Normal, line_size: None };
        let dir = folder.path().join(work.name());
        fs::create_dir(&dir).expect("a folder");
        let task = Task {
            work,
            recipe,
            records,
            containers: 1,
            connections: 4,
            sinks: 1,
            readers: None,
            cores: None,
            rate: 0.0,
            trickle: 0,
            dir: dir.clone(),
        };
        let load = Load::make(&task).expect("a load");
        let bytes_in = task.input_bytes();
        let mut bench = Bench::new(task);
        let path = dir.join("out.ndjson");
        let mut least = [Duration::MAX; 3];
        // Memory for the output that the machine has already, as `longshore bench` gives it.
        drop(Ballast::make(&dir.join("ballast"), 2 * bytes_in).expect("room on the disk"));
        for _ in 0..=rounds {
            bench.round(&load, Pass::Whole, &path);
            bench.out_for_in = path.metadata().expect("written").len() as f64 / bytes_in as f64;
            for (pass, least) in [Pass::Copies, Pass::Decode, Pass::Whole].into_iter().zip(&mut least) {
                *least = bench.round(&load, pass, &path).min(*least);
            }
        }
        let verify::Found { verdict, example, .. } =
            verify::verify(&path, &bench.task, records).expect("it can be read");
        let wrong = (verdict.missing, verdict.twice, verdict.wrong);
        assert_eq!(wrong, (0, 0, 0), "missing, twice, wrong: {example:?}");
        let us = |time: Duration| time.as_secs_f64() * 1e6 / records as f64;
        let [copies, decode, whole] = least.map(us);
        println!(
            "{:<13} ideal {decode:.3}, {:.2} M a second; whole {whole:.3}, {:.2} M ({copies:.3}; {:.3}; {:.3})",
            work.name(),
            1.0 / decode,
            1.0 / whole,
            decode - copies,
            whole - decode,
        );
        fs::remove_dir_all(&dir).expect("ours");
    }
}
