//! Forward senders that behave as Fluent Bit and Fluentd do with acks on: one chunk after the other, each sent again,
//! with the same id, until its ack has come, over connections that end whenever the program does. They remember what was
//! acknowledged, which is what must never be missing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::forward::{ack_of, entries, event_time, map, option, packed};

/// Records of one chunk.
pub const CHUNK: u64 = 50;

/// Chunks that had to be sent again: the sender's name and the chunk's number.
pub type Resent = Arc<Mutex<BTreeSet<(String, u64)>>>;

/// Running senders.
pub struct Senders {
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    resent: Resent,
    threads: Vec<JoinHandle<(String, u64)>>,
}

impl Senders {
    /// So many senders to this port; each pauses between two chunks. Records are `{p, seq, pad}`.
    pub fn start(port: u16, count: usize, pause: Duration) -> Senders {
        let (stop, acked, resent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::default());
        let thread = |at: usize| {
            let name = format!("p{at}");
            let mut sender = Sender {
                name: name.clone(),
                port,
                stream: None,
                stop: Arc::clone(&stop),
                acked: Arc::clone(&acked),
                resent: Arc::clone(&resent),
            };
            thread::spawn(move || {
                let mut chunk = 0;
                while !sender.stop.load(Ordering::Relaxed) {
                    sender.send_until_acked(chunk);
                    chunk += 1;
                    thread::sleep(pause);
                }
                (name, chunk * CHUNK)
            })
        };
        let threads = (0..count).map(thread).collect();
        Senders { stop, acked, resent, threads }
    }

    /// Records that were acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// How many chunks had to be sent again.
    pub fn resent(&self) -> usize {
        self.resent.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Which they are, also after the end.
    pub fn resent_chunks(&self) -> Resent {
        Arc::clone(&self.resent)
    }

    /// Has each end with the chunk at hand acknowledged; how many records each has sent, all of them acknowledged.
    pub fn finish(self) -> BTreeMap<String, u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("a sender does not panic")).collect()
    }
}

struct Sender {
    name: String,
    port: u16,
    stream: Option<TcpStream>,
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    resent: Resent,
}

impl Sender {
    fn send_until_acked(&mut self, chunk: u64) {
        let record =
            |seq: u64| map(&[("p", self.name.as_str().into()), ("seq", seq.into()), ("pad", "x".repeat(100).into())]);
        let records: Vec<_> = (0..CHUNK).map(|at| (event_time(1_700_000_000, 0), record(chunk * CHUNK + at))).collect();
        let id = format!("{}-{chunk}", self.name);
        let frame = packed("t", &entries(&records), Some(option(&id, &[("size", CHUNK.into())])));
        let mut tries = 0;
        while !self.try_send(&frame, &ack_of(&id)) {
            // The port may be free while the program restarts.
            self.stream = None;
            tries += 1;
            thread::sleep(Duration::from_millis(20));
        }
        if tries > 0 {
            let chunk = (self.name.clone(), chunk);
            self.resent.lock().unwrap_or_else(PoisonError::into_inner).insert(chunk);
        }
        self.acked.fetch_add(CHUNK, Ordering::Relaxed);
    }

    fn try_send(&mut self, frame: &[u8], ack: &[u8]) -> bool {
        let stream = match self.stream.take().map_or_else(|| TcpStream::connect(("127.0.0.1", self.port)), Ok) {
            Ok(stream) => self.stream.insert(stream),
            Err(_) => return false,
        };
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
        let mut got = vec![0; ack.len()];
        if stream.write_all(frame).and_then(|()| stream.read_exact(&mut got)).is_err() {
            return false;
        }
        assert_eq!(got, ack, "the ack of another chunk");
        true
    }
}
