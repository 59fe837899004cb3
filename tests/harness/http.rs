//! A small HTTP/1.1 server with scripted answers: every request is kept, with its body unpacked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// `POST /path`.
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, unpacked.
    pub body: Vec<u8>,
    /// The length of the body as it came.
    pub wire_len: usize,
    /// When it had come.
    pub at: Instant,
}

impl Request {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The records of an NDJSON body.
    pub fn records(&self) -> Vec<Value> {
        let text = std::str::from_utf8(&self.body).expect("bodies are UTF-8");
        text.lines().map(super::records::parse).collect()
    }
}

/// An answer: status, extra headers (whole lines), body.
pub struct Answer(pub u16, pub Vec<String>, pub &'static str);

impl Answer {
    /// A bare status.
    pub fn status(status: u16) -> Answer {
        Answer(status, Vec::new(), "")
    }
}

/// A server that answers by a function of the request and its number.
pub struct Server {
    /// Its port on 127.0.0.1.
    pub port: u16,
    taken: Arc<Mutex<Vec<(Request, u16)>>>,
    stop: Arc<AtomicBool>,
}

impl Server {
    /// Starts it.
    pub fn start(answer: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static) -> Server {
        // Somebody else may take a port between the look at it and this.
        let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, super::free_port())).ok();
        Server::on((0..100).find_map(bind).expect("a port to listen on"), true, answer)
    }

    /// The same on a port that was named before.
    pub fn start_at(port: u16, answer: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a port to listen on");
        Server::on(listener, true, answer)
    }

    /// The same on a socket that listens already; `keep`: whether bodies are kept for [`Server::requests`].
    pub fn on(
        listener: TcpListener,
        keep: bool,
        answer: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static,
    ) -> Server {
        let port = listener.local_addr().expect("it is bound").port();
        let server = Server { port, taken: Arc::default(), stop: Arc::default() };
        let (taken, stop) = (Arc::clone(&server.taken), Arc::clone(&server.stop));
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (taken, answer) = (Arc::clone(&taken), Arc::clone(&answer));
                let Ok(stream) = stream else { continue };
                thread::spawn(move || serve(stream, &taken, keep, &*answer));
            }
        });
        server
    }

    /// Where to send to.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/ingest", self.port)
    }

    /// All requests so far, with the status that each got.
    pub fn requests(&self) -> Vec<(Request, u16)> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The records of all NDJSON bodies that were answered with 200.
    pub fn accepted(&self) -> Vec<Value> {
        let requests = self.requests();
        requests.iter().filter(|(_, status)| *status == 200).flat_map(|(request, _)| request.records()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn serve(
    stream: TcpStream,
    taken: &Mutex<Vec<(Request, u16)>>,
    keep: bool,
    answer: &dyn Fn(&Request, usize) -> Answer,
) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(120)));
    let Ok(mut writer) = stream.try_clone() else { return };
    let mut reader = BufReader::new(stream);
    while let Some(mut request) = read_request(&mut reader) {
        let Answer(status, headers, body) = {
            let number = taken.lock().unwrap_or_else(PoisonError::into_inner).len();
            let made = answer(&request, number);
            if !keep {
                request.body = Vec::new();
            }
            taken.lock().unwrap_or_else(PoisonError::into_inner).push((request, made.0));
            made
        };
        let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let head = format!("HTTP/1.1 {status} scripted\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len());
        if writer.write_all(head.as_bytes()).is_err() {
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let of = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let mut raw = Vec::new();
    if of("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut piece = vec![0; size + 2];
            reader.read_exact(&mut piece).ok()?;
            if size == 0 {
                break;
            }
            raw.extend_from_slice(&piece[..size]);
        }
    } else {
        raw = vec![0; of("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)];
        reader.read_exact(&mut raw).ok()?;
    }
    let wire_len = raw.len();
    let mut body = Vec::new();
    match of("content-encoding") {
        Some("gzip") => {
            flate2::read::MultiGzDecoder::new(raw.as_slice()).read_to_end(&mut body).ok()?;
        }
        Some("zstd") => body = zstd::decode_all(raw.as_slice()).ok()?,
        _ => body = raw,
    }
    let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    Some(Request { line, headers, body, wire_len, at: Instant::now() })
}

/// Puts a chunked body together.
pub fn unchunk(body: &str) -> String {
    let mut whole = String::new();
    let mut rest = body;
    while let Some((size, after)) = rest.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else { break };
        if size == 0 || after.len() < size {
            break;
        }
        whole.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    whole
}
