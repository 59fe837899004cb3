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
use std::time::Duration;

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

/// What has arrived in one output so far.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    file: Option<File>,
    offset: u64,
    /// The line that is not whole yet.
    rest: Vec<u8>,
    buffer: Vec<u8>,
    /// Whole lines seen.
    pub lines: u64,
}

impl Watch {
    /// A watch over an output that need not be there yet.
    pub fn new(path: &Path) -> Watch {
        Watch { path: path.to_owned(), file: None, offset: 0, rest: Vec::new(), buffer: vec![0; 1 << 20], lines: 0 }
    }

    /// Counts the lines that are new.
    pub fn count(&mut self) -> io::Result<u64> {
        let before = self.lines;
        while let Some(read) = self.read()? {
            self.lines += memchr::memchr_iter(b'\n', &self.buffer[..read]).count() as u64;
        }
        Ok(self.lines - before)
    }

    /// The same, and hands out each line. What [`count`](Self::count) saw of an unfinished one is missing there.
    pub fn each(&mut self, mut line: impl FnMut(&[u8])) -> io::Result<u64> {
        let before = self.lines;
        while let Some(read) = self.read()? {
            let mut from = 0;
            for end in memchr::memchr_iter(b'\n', &self.buffer[..read]) {
                self.rest.extend_from_slice(&self.buffer[from..end]);
                line(&self.rest);
                self.rest.clear();
                self.lines += 1;
                from = end + 1;
            }
            self.rest.extend_from_slice(&self.buffer[from..read]);
        }
        Ok(self.lines - before)
    }

    fn read(&mut self) -> io::Result<Option<usize>> {
        if self.file.is_none() {
            self.file = match File::open(&self.path) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
        }
        let Some(file) = &self.file else { return Ok(None) };
        let read = file.read_at(&mut self.buffer, self.offset)?;
        self.offset += read as u64;
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
        let mut watch = Watch::new(&output);
        for body in ["{\"a\":1}\n{\"a\":2}\n", "{\"a\":3}"] {
            write!(client, "POST /0 HTTP/1.1\r\ncontent-length: {}\r\n\r\n{body}", body.len()).expect("sent");
            let mut answer = [0; 15];
            client.read_exact(&mut answer).expect("an answer");
            assert_eq!(&answer, b"HTTP/1.1 200 OK");
            let mut rest = [0; 23];
            client.read_exact(&mut rest).expect("the rest of it");
        }
        let mut seen = Vec::new();
        watch.each(|line| seen.push(String::from_utf8_lossy(line).into_owned())).expect("read");
        assert_eq!(seen, ["{\"a\":1}", "{\"a\":2}", "{\"a\":3}"]);
        write!(client, "POST /7 HTTP/1.1\r\ncontent-length: 0\r\n\r\n").expect("sent");
        let mut answer = [0; 12];
        client.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 411");
    }
}
