//! `longshore send`: records from standard input to a forward receiver, with acks; with `--count`, `--rate` and
//! `--connections` a load generator. It speaks through the same connections as the `forward` sink.
//!
//! ```text
//! lines -> records -> frames (full, or the input pauses) -> a short queue -> one worker a connection
//! ```
//!
//! With acks each connection has one frame under way, which is sent again, with the same chunk id, over a new
//! connection until it is acknowledged: the receiver may see it twice, never not at all.
//! Limits: [`LINE_MAX`](lines::LINE_MAX) bytes a line, [`SendOptions::records_max`] records and [`FRAME_BYTES`] bytes a
//! frame, [`SendOptions::tries_max`] tries; [`REPEATED_MAX`] bytes of records that `--count` sends over and over.

mod figures;
mod lines;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_rustls::TlsConnector;

use crate::cli::{SendCompression, SendFormat, SendMode};
use crate::codec::forward::encode::{Mode, Options, TimeForm, chunk_id, entry_head, frame};
use crate::codec::msgpack::{from_json, write};
use crate::log;
use crate::metrics::{Oddity, Tally};
use crate::record::Timestamp;
use crate::settings::Secret;
use crate::sinks::forward_link::{Address, Identities, Identity, Link, Target, Trouble};
use crate::sinks::http_body::Compression;
use crate::sinks::tls;

use figures::Figures;
use lines::{Lines, Next};

/// A frame is closed when its entries are this large.
const FRAME_BYTES: usize = 512 << 10;
/// The input is silent: what there is goes out.
const PAUSE: Duration = Duration::from_millis(50);
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// Bytes of records that are sent over and over.
const REPEATED_MAX: usize = 64 << 20;
/// Time between two words about the progress: on a terminal, and elsewhere.
const PROGRESS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// What to send, and where.
#[derive(Clone)]
pub struct SendOptions {
    /// The receiver.
    target: Target,
    /// The tag of all records.
    tag: String,
    /// Lines are JSON objects; one that is none goes as text.
    json: bool,
    /// How frames look.
    mode: Mode,
    compression: Compression,
    /// How long to wait for one ack before the frame is sent again.
    ack_wait: Duration,
    /// Records in one frame, at most.
    records_max: usize,
    /// Tries for one frame before giving up.
    tries_max: u32,
    /// Records a second, at most.
    rate: Option<u64>,
    /// Records in all.
    count: Option<u64>,
    connections: usize,
}

/// Reads the flags. An error says what is wrong with them, or with the files that they name.
pub fn options(args: &crate::cli::Send) -> Result<SendOptions, String> {
    let address = Address::parse(&args.to).map_err(|message| format!("--to: {message}"))?;
    let tls = match &address {
        Address::Tls(_) => {
            let files = tls::Files { ca: args.ca.clone(), cert: args.cert.clone(), key: args.cert_key.clone() };
            let config = tls::config(&files, true).map_err(|error| error.to_string())?;
            let name = args.server_name.as_deref().unwrap_or(address.host()).to_owned();
            let name = ServerName::try_from(name.clone()).map_err(|error| format!("\"{name}\": {error}"))?;
            Some((TlsConnector::from(Arc::new(config)), name))
        }
        _ if args.ca.is_some() || args.cert.is_some() || args.server_name.is_some() => {
            return Err("--ca, --cert and --server-name are for TLS; write --to tls://HOST:PORT".to_owned());
        }
        _ => None,
    };
    let secret = |file: &PathBuf| match std::fs::read_to_string(file) {
        Ok(text) => Ok(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned())),
        Err(error) => Err(format!("{}: {error}", file.display())),
    };
    let password = args.password_file.as_ref().map(secret).transpose()?;
    let identity = match &args.shared_key_file {
        Some(file) => {
            let node = rustix::system::uname();
            let host = format!("{}.send.{}", node.nodename().to_string_lossy(), std::process::id());
            Some(Identities::new(Identity { host, key: secret(file)?, user: args.user.clone().zip(password) }))
        }
        None => None,
    };
    let compression = match (args.mode, args.compress) {
        (SendMode::Compressed, None | Some(SendCompression::Gzip)) => Compression::Gzip(4),
        (SendMode::Packed | SendMode::Compressed, Some(SendCompression::Zstd)) => Compression::Zstd(3),
        (SendMode::Packed, Some(SendCompression::Gzip)) => Compression::Gzip(4),
        (SendMode::Message | SendMode::Forward, Some(_)) => {
            return Err("--compress: only packed entries can be compressed; leave out --mode".to_owned());
        }
        (_, None) => Compression::None,
    };
    Ok(SendOptions {
        target: Target { address, tls, identity, acks: !args.no_ack },
        tag: args.tag.clone(),
        json: args.format == SendFormat::Json,
        mode: match args.mode {
            SendMode::Message => Mode::Message,
            SendMode::Forward => Mode::Forward,
            SendMode::Packed | SendMode::Compressed => Mode::Packed,
        },
        compression,
        ack_wait: Duration::from_secs(args.ack_timeout),
        records_max: args.batch,
        tries_max: 10,
        rate: args.rate,
        count: args.count,
        connections: usize::from(args.connections),
    })
}

/// Sends standard input. Returns the figures to be told; an error has them in its text.
pub fn run(options: &SendOptions) -> Result<String, String> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().map_err(|error| error.to_string())?;
    let sent = runtime.block_on(send(options, tokio::io::stdin()));
    // A read of standard input that is still waiting must not hold up the end.
    runtime.shutdown_background();
    sent
}

/// One write, and what it waits for.
struct Job {
    bytes: Vec<u8>,
    chunks: Vec<Vec<u8>>,
    frames: u64,
    records: u64,
}

type Shared = Arc<Mutex<Figures>>;

fn lock(figures: &Shared) -> std::sync::MutexGuard<'_, Figures> {
    figures.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends every line of `input` (or `--count` records); returns when all is acknowledged.
pub(crate) async fn send(options: &SendOptions, input: impl AsyncRead + Unpin) -> Result<String, String> {
    let started = Instant::now();
    let figures = Shared::default();
    let (jobs, queue) = mpsc::channel(options.connections);
    let queue = Arc::new(tokio::sync::Mutex::new(queue));
    let mut workers = JoinSet::new();
    for _ in 0..options.connections {
        workers.spawn(work(options.clone(), Arc::clone(&queue), Arc::clone(&figures)));
    }
    let progress = tokio::spawn(tell_progress(Arc::clone(&figures), started));
    let packer = Packer {
        options,
        jobs,
        entries: Vec::new(),
        frames: Vec::new(),
        chunks: Vec::new(),
        count: 0,
        made: 0,
        key: fastrand::u128(..),
        started,
        tally: Tally::default(),
    };
    let read = feed(packer, Lines::new(input), &figures).await;
    let mut failed = read.err();
    while let Some(worked) = workers.join_next().await {
        // A worker that panicked is a bug, and its frames are not acknowledged.
        if let Err(cause) = worked.unwrap_or_else(|error| Err(error.to_string())) {
            failed.get_or_insert(cause);
        }
    }
    progress.abort();
    let figures = lock(&figures);
    let acked = options.target.acks && failed.is_none();
    let told = figures.summary(started.elapsed(), acked);
    match failed {
        None => Ok(told),
        Some(cause) => Err(format!("{cause} ({told})")),
    }
}

/// Reads to the end, or as many records as asked for. An error is one of reading; the workers tell their own.
async fn feed(
    mut packer: Packer<'_>,
    mut lines: Lines<impl AsyncRead + Unpin>,
    figures: &Shared,
) -> Result<(), String> {
    let count = packer.options.count.unwrap_or(u64::MAX);
    // Records as they were encoded, for `--count`.
    let (mut repeated, mut ends) = (Vec::new(), Vec::new());
    while packer.made < count {
        let pause = (packer.count > 0).then_some(PAUSE);
        let mut record = Vec::new();
        match lines.next(pause).await.map_err(|error| format!("standard input: {error}"))? {
            Next::Line(line, cut) => {
                let text = packer.record(line, &mut record);
                let mut figures = lock(figures);
                figures.cut += u64::from(cut);
                figures.not_json += u64::from(text);
            }
            Next::Pause => {
                if !packer.flush().await {
                    return Ok(());
                }
                continue;
            }
            Next::End if packer.options.count.is_none() => break,
            Next::End => {
                // From the start again; an empty input is some record of the usual size.
                if ends.is_empty() {
                    packer.record(MADE_UP, &mut record);
                    repeated.append(&mut record);
                    ends.push(repeated.len());
                }
                let mut from = 0;
                for end in &ends {
                    if packer.made >= count || !packer.push(&repeated[from..*end]).await {
                        break;
                    }
                    from = *end;
                }
                if packer.jobs.is_closed() {
                    return Ok(());
                }
                continue;
            }
        }
        if packer.options.count.is_some() && repeated.len() < REPEATED_MAX {
            repeated.extend_from_slice(&record);
            ends.push(repeated.len());
        }
        if !packer.push(&record).await {
            return Ok(());
        }
    }
    packer.flush().await;
    lock(figures).numbers_as_text = u64::from(packer.tally.oddities[Oddity::NumberAsText as usize]);
    Ok(())
}

/// The record that is sent where there is none.
const MADE_UP: &[u8] = br#"{"level":"info","msg":"a record made up by longshore send","status":200,"took_ms":1.25,"path":"/api/items","user":{"id":4711,"name":"nobody"}}"#;

/// Makes frames of records.
struct Packer<'o> {
    options: &'o SendOptions,
    jobs: mpsc::Sender<Job>,
    entries: Vec<u8>,
    /// Frames that go out in the next write.
    frames: Vec<u8>,
    chunks: Vec<Vec<u8>>,
    count: u64,
    made: u64,
    key: u128,
    started: Instant,
    tally: Tally,
}

impl Packer<'_> {
    /// Encodes a line as a record. Says whether it is text although it should be JSON.
    fn record(&mut self, line: &[u8], out: &mut Vec<u8>) -> bool {
        let object = self.options.json && line.trim_ascii_start().starts_with(b"{");
        if object && from_json::unchecked(line, out, &mut self.tally) {
            return false;
        }
        write::map(1, out);
        write::text(b"log", out);
        write::text(line, out);
        self.options.json
    }

    /// Adds an encoded record. `false` when nobody sends any more.
    async fn push(&mut self, record: &[u8]) -> bool {
        entry_head(Timestamp::now(), TimeForm::Event, &mut self.entries, &mut self.tally);
        self.entries.extend_from_slice(record);
        self.count += 1;
        self.made += 1;
        if self.options.mode == Mode::Message {
            self.close_frame(1);
        }
        // Message mode with acks is as loggers do it: one record, one ack.
        let single = self.options.mode == Mode::Message && self.options.target.acks;
        let bytes = self.entries.len() + self.frames.len();
        if (single || self.count >= self.options.records_max as u64 || bytes >= FRAME_BYTES) && !self.flush().await {
            return false;
        }
        if let Some(rate) = self.options.rate {
            let due = self.started + Duration::from_secs_f64(self.made as f64 / rate as f64);
            // Short waits add up to one that the timer can keep.
            if due > Instant::now() + PAUSE {
                if !self.flush().await {
                    return false;
                }
                sleep_until(due).await;
            }
        }
        true
    }

    fn close_frame(&mut self, count: u64) {
        let id = self.options.target.acks.then(|| {
            self.key = self.key.wrapping_add(1);
            chunk_id(self.key, &self.options.tag)
        });
        let options = Options { chunk: id.as_deref(), compressed: self.options.compression.name() };
        let entries = match self.options.compression {
            Compression::None => std::mem::take(&mut self.entries),
            // Writing to memory fails only when the compressor was set up wrongly.
            zip => zip.apply(&std::mem::take(&mut self.entries)).expect("compressing into memory does not fail"),
        };
        // A frame's number of records is far below what memory holds.
        frame(self.options.mode, &self.options.tag, &entries, count as usize, options, &mut self.frames);
        self.chunks.extend(id.map(String::into_bytes));
    }

    /// Hands what there is to a worker.
    async fn flush(&mut self) -> bool {
        if self.count == 0 {
            return !self.jobs.is_closed();
        }
        let messages = self.options.mode == Mode::Message;
        if !messages {
            self.close_frame(self.count);
        }
        let records = std::mem::take(&mut self.count);
        let bytes = std::mem::take(&mut self.frames);
        let frames = if messages { records } else { 1 };
        let job = Job { bytes, chunks: std::mem::take(&mut self.chunks), frames, records };
        self.jobs.send(job).await.is_ok()
    }
}

/// One connection: takes writes until there are no more. An error closes the queue for all.
async fn work(
    options: SendOptions,
    queue: Arc<tokio::sync::Mutex<mpsc::Receiver<Job>>>,
    figures: Shared,
) -> Result<(), String> {
    let mut link = None;
    loop {
        let job = queue.lock().await.recv().await;
        let Some(job) = job else { break };
        if let Err(trouble) = deliver(&options, &mut link, &job, &figures).await {
            queue.lock().await.close();
            return Err(trouble);
        }
        let mut figures = lock(&figures);
        figures.records += job.records;
        figures.frames += job.frames;
        figures.bytes += job.bytes.len() as u64;
    }
    if let Some(link) = link {
        link.close().await;
    }
    Ok(())
}

/// Sends one write until it is acknowledged.
async fn deliver(options: &SendOptions, link: &mut Option<Link>, job: &Job, figures: &Shared) -> Result<(), String> {
    let mut acked = vec![false; job.chunks.len()];
    let mut tried = 0;
    loop {
        let from = Instant::now();
        let sent = match usable(options, link).await {
            Ok(link) => link.exchange(&job.bytes, &job.chunks, options.ack_wait, &mut acked).await,
            Err(trouble) => Err(trouble),
        };
        match sent {
            Ok(()) => {
                if !job.chunks.is_empty() {
                    lock(figures).ack(from.elapsed());
                }
                return Ok(());
            }
            Err(Trouble::Fault(cause)) => return Err(cause),
            Err(Trouble::Fails(cause)) => {
                *link = None;
                acked.fill(false);
                tried += 1;
                if tried >= options.tries_max {
                    return Err(format!("{cause}, {tried} tries"));
                }
                lock(figures).again += 1;
                sleep(TRY_AGAIN).await;
            }
        }
    }
}

/// The connection that there is, if nothing is to be read from it, else a new one.
async fn usable<'l>(options: &SendOptions, link: &'l mut Option<Link>) -> Result<&'l mut Link, Trouble> {
    if let Some(kept) = link
        && (!kept.is_kept() || kept.check().is_err())
    {
        *link = None;
    }
    match link {
        Some(link) => Ok(link),
        none => Ok(none.insert(Link::open(&options.target).await?)),
    }
}

async fn tell_progress(figures: Shared, started: Instant) {
    let terminal = std::io::stderr().is_terminal();
    let every = if terminal { PROGRESS.0 } else { PROGRESS.1 };
    loop {
        sleep(every).await;
        let line = lock(&figures).progress(started.elapsed());
        // On a terminal the line is written over by the next one.
        log::tell(&if terminal { format!("\r{line} \x1b[K\r") } else { format!("longshore: {line}\n") });
    }
}
