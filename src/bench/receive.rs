//! The other end: an HTTP endpoint that keeps every body, and the watch over what has arrived.
//!
//! The endpoint appends bodies to the file that a file sink would have written, so that all works are checked in one
//! way, when the run is over. Limits: [`CONNECTIONS_MAX`] connections, [`BODY_MAX`] bytes a body.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::verify;
use crate::workers::{Stop, Workers};

const CONNECTIONS_MAX: usize = 64;
const BODY_MAX: usize = 64 << 20;
const HEAD_MAX: u64 = 16 << 10;
/// How often a silent connection looks whether it is over.
const LOOK: Duration = Duration::from_millis(200);

/// A running endpoint; ends when dropped.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    stop: Stop,
}

impl Endpoint {
    /// Starts one that appends the bodies sent to `/0`, `/1`, ... to these files.
    pub fn start(outputs: &[PathBuf], workers: &Arc<Workers>) -> io::Result<Endpoint> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let files = outputs.iter().map(File::create).collect::<io::Result<Vec<_>>>()?;
        let files: Arc<Vec<Mutex<File>>> = Arc::new(files.into_iter().map(Mutex::new).collect());
        let stop = Stop::default();
        let (told, pool, open) = (stop.clone(), Arc::clone(workers), Arc::new(AtomicUsize::new(0)));
        listener.set_nonblocking(true)?;
        let accept = move || {
            while !told.is_set() {
                let Ok((stream, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(2));
                    continue;
                };
                if open.load(Ordering::Acquire) >= CONNECTIONS_MAX {
                    continue;
                }
                open.fetch_add(1, Ordering::AcqRel);
                let (files, told, open) = (Arc::clone(&files), told.clone(), Arc::clone(&open));
                let serve = move || {
                    // A connection that breaks is the client's to make again.
                    let _ = serve(stream, &files, &told);
                    open.fetch_sub(1, Ordering::AcqRel);
                };
                let _ = pool.spawn("bench-http", serve);
            }
        };
        workers.spawn("bench-accept", accept)?;
        Ok(Endpoint { port, stop })
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stop.set();
    }
}

fn serve(stream: TcpStream, files: &[Mutex<File>], stop: &Stop) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LOOK))?;
    stream.set_nodelay(true)?;
    let mut answer = stream.try_clone()?;
    let mut reader = BufReader::with_capacity(64 << 10, stream);
    let mut body = Vec::new();
    loop {
        // Silence between requests.
        match reader.fill_buf() {
            Ok([]) => return Ok(()),
            Ok(_) => (),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) && !stop.is_set() => {
                continue;
            }
            Err(error) => return Err(error),
        }
        reader.get_ref().set_read_timeout(Some(Duration::from_secs(30)))?;
        let (target, length) = head(&mut reader)?;
        let (Some(length), Some(file)) = (length.filter(|length| *length <= BODY_MAX), files.get(target)) else {
            answer.write_all(b"HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
            return Ok(());
        };
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
        if body.last().is_some_and(|last| *last != b'\n') {
            body.push(b'\n');
        }
        file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&body)?;
        answer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        reader.get_ref().set_read_timeout(Some(LOOK))?;
    }
}

/// A request's head: the number in its path, and the length of its body.
fn head(reader: &mut BufReader<TcpStream>) -> io::Result<(usize, Option<usize>)> {
    let mut reader = reader.take(HEAD_MAX);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default();
    let target = path.trim_start_matches('/').parse().unwrap_or(usize::MAX);
    let mut length = None;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::Error::other("the head of a request is too long"));
        }
        let Some((name, value)) = line.trim_end().split_once(':') else {
            return Ok((target, length));
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok();
        }
    }
}

/// Which of the records `0..count` have arrived, a bit each.
#[derive(Debug)]
struct Arrivals {
    count: u64,
    /// As far as records were seen.
    bits: Vec<u64>,
}

impl Arrivals {
    /// Notes one. Whether it is awaited, and was not there before.
    fn is_first(&mut self, seq: u64) -> bool {
        if seq >= self.count {
            return false;
        }
        let at = (seq / 64) as usize;
        if at >= self.bits.len() {
            self.bits.resize(at + 1, 0);
        }
        let bit = 1_u64 << (seq % 64);
        let first = self.bits[at] & bit == 0;
        self.bits[at] |= bit;
        first
    }
}

/// What has arrived in one output so far.
///
/// While a shipper works its lines are only counted: to find the number in each would take from it what it is measured by, on the
/// same cores. Which records they are is looked at when they are enough, or no more of them come.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    file: Option<File>,
    buffer: Vec<u8>,
    /// Bytes whose lines were counted.
    counted: u64,
    /// When how many bytes had been counted, for the records among them that were not looked at.
    times: Vec<(u64, Instant)>,
    /// Bytes whose records were looked at.
    looked: u64,
    /// The line there that is not whole yet.
    rest: Vec<u8>,
    arrivals: Arrivals,
    /// Whole lines counted.
    pub lines: u64,
    /// Records that were found, each of which counts once.
    pub arrived: u64,
    /// When the last of them was there.
    pub latest: Option<Instant>,
}

impl Watch {
    /// A watch over an output that need not be there yet, and is to get the records `0..records`.
    pub fn new(path: &Path, records: u64) -> Watch {
        Watch {
            path: path.to_owned(),
            file: None,
            buffer: vec![0; 1 << 20],
            counted: 0,
            times: Vec::new(),
            looked: 0,
            rest: Vec::new(),
            arrivals: Arrivals { count: records, bits: Vec::new() },
            lines: 0,
            arrived: 0,
            latest: None,
        }
    }

    /// Counts the lines that are new, whatever is in them.
    pub fn count(&mut self) -> io::Result<u64> {
        let (before, start) = (self.lines, self.counted);
        while let Some(read) = self.read(self.counted)? {
            self.counted += read as u64;
            self.lines += memchr::memchr_iter(b'\n', &self.buffer[..read]).count() as u64;
        }
        if self.counted > start {
            self.times.push((self.counted, Instant::now()));
        }
        Ok(self.lines - before)
    }

    /// Finds the records that are new, from where it last ended on, and hands out the number of each. How many there are:
    /// what was there already is none.
    pub fn look(&mut self, mut first: impl FnMut(u64)) -> io::Result<u64> {
        let (before, mut last) = (self.arrived, 0);
        while let Some(read) = self.read(self.looked)? {
            let mut from = 0;
            for end in memchr::memchr_iter(b'\n', &self.buffer[..read]) {
                let seq = if self.rest.is_empty() {
                    verify::number_in(&self.buffer[from..end])
                } else {
                    self.rest.extend_from_slice(&self.buffer[from..end]);
                    let seq = verify::number_in(&self.rest);
                    self.rest.clear();
                    seq
                };
                from = end + 1;
                if let Some(seq) = seq
                    && self.arrivals.is_first(seq)
                {
                    self.arrived += 1;
                    last = self.looked + from as u64;
                    first(seq);
                }
            }
            self.rest.extend_from_slice(&self.buffer[from..read]);
            self.looked += read as u64;
        }
        if self.arrived > before {
            // What was counted has its time; what came since then is there now.
            let at = self.times.partition_point(|(bytes, _)| *bytes < last);
            self.latest = Some(self.times.get(at).map_or_else(Instant::now, |(_, when)| *when));
        }
        self.times.clear();
        Ok(self.arrived - before)
    }

    /// Reads what is there from `offset` on into the buffer.
    fn read(&mut self, offset: u64) -> io::Result<Option<usize>> {
        if self.file.is_none() {
            self.file = match File::open(&self.path) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
        }
        let Some(file) = &self.file else { return Ok(None) };
        let read = file.read_at(&mut self.buffer, offset)?;
        Ok(Some(read).filter(|read| *read > 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_of_one_connection_become_lines_of_a_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let output = dir.path().join("out");
        let workers = Arc::new(Workers::default());
        let endpoint = Endpoint::start(std::slice::from_ref(&output), &workers).expect("it listens");
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, endpoint.port)).expect("it accepts");
        let mut watch = Watch::new(&output, 4);
        for body in ["{\"seq\":1}\n{\"seq\":2}\n", "{\"seq\":3}"] {
            write!(client, "POST /0 HTTP/1.1\r\ncontent-length: {}\r\n\r\n{body}", body.len()).expect("sent");
            let mut answer = [0; 15];
            client.read_exact(&mut answer).expect("an answer");
            assert_eq!(&answer, b"HTTP/1.1 200 OK");
            let mut rest = [0; 23];
            client.read_exact(&mut rest).expect("the rest of it");
        }
        let mut seen = Vec::new();
        watch.look(|seq| seen.push(seq)).expect("read");
        assert_eq!((watch.count().expect("read"), seen), (3, vec![1, 2, 3]));
        write!(client, "POST /7 HTTP/1.1\r\ncontent-length: 0\r\n\r\n").expect("sent");
        let mut answer = [0; 12];
        client.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 411");
    }

    #[test]
    fn lines_are_counted_and_records_are_found_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let output = dir.path().join("out");
        let mut watch = Watch::new(&output, 100);
        assert_eq!((watch.count().expect("not there yet"), watch.look(|_| ()).expect("nor for a look")), (0, 0));
        let mut file = File::create(&output).expect("made");
        file.write_all(b"{\"seq\":70}\n{\"seq\":7}\n{\"seq\":70}\n{\"se").expect("written");
        assert_eq!((watch.count().expect("read"), watch.arrived), (3, 0), "which ones they are is not looked at");
        let counted = Instant::now();
        // A repeated one, one that nobody awaits, and a line without a number behind the only news.
        file.write_all(b"q\":8}\n{\"seq\":7}\n{\"seq\":100}\nlost\n").expect("written");
        let mut seen = Vec::new();
        assert_eq!(watch.look(|seq| seen.push(seq)).expect("read"), 3);
        assert_eq!((seen, watch.arrived), (vec![70, 7, 8], 3));
        assert!(watch.latest.is_some_and(|latest| latest >= counted), "8 came after the count");
        assert_eq!((watch.look(|_| ()).expect("read"), watch.count().expect("read")), (0, 4));
    }

    #[test]
    fn a_record_has_the_time_of_the_count_that_saw_it_first_and_a_repeated_one_has_none() {
        let dir = tempfile::tempdir().expect("a folder");
        let output = dir.path().join("out");
        let mut file = File::create(&output).expect("made");
        let mut watch = Watch::new(&output, 100);
        file.write_all(b"{\"seq\":0}\n{\"seq\":1}\n").expect("written");
        watch.count().expect("read");
        let between = Instant::now();
        file.write_all(b"{\"seq\":1}\n").expect("written");
        watch.count().expect("read");
        assert_eq!((watch.look(|_| ()).expect("read"), watch.lines), (2, 3));
        assert!(watch.latest.is_some_and(|latest| latest <= between), "the repeated one came behind it");
        let latest = watch.latest;
        file.write_all(b"{\"seq\":0}\n").expect("written");
        assert_eq!((watch.look(|_| ()).expect("read"), watch.latest == latest), (0, true));
    }
}
